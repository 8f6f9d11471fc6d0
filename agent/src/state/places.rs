//! Where reading stands in each datasource.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::acquisition::{Place, Step};
use crate::tail::checkpoint::FilePlace;
use crate::tail::rotate::FileId;

/// Places by datasource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Places {
    /// When they were last known to be these; `None` on the first day.
    pub at: Option<Timestamp>,
    sources: BTreeMap<String, BTreeMap<Key, Place>>,
    /// What is another place than when [`Places::take_changes`] was asked.
    changed: BTreeSet<(String, Key)>,
}

/// What there is one place of in a datasource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    File(FileId),
    Cursor,
}

impl Key {
    fn of(place: &Place) -> Self {
        match place {
            Place::File(file) => Key::File(file.id),
            Place::Cursor(_) => Key::Cursor,
        }
    }
}

impl Places {
    /// When they were last known to be these; `None` on the first day.
    pub fn written(&self) -> Option<Timestamp> {
        self.at
    }

    /// Whether anything is known about datasource `id`.
    pub fn knows(&self, id: &str) -> bool {
        self.sources.get(id).is_some_and(|places| !places.is_empty())
    }

    /// The files in which datasource `id` stood.
    pub fn files(&self, id: &str) -> Vec<FilePlace> {
        let places = self.sources.get(id).into_iter().flat_map(BTreeMap::values);
        places.filter_map(|place| if let Place::File(place) = place { Some(place.clone()) } else { None }).collect()
    }

    /// The cursor at which datasource `id` stood.
    pub fn cursor(&self, id: &str) -> Option<String> {
        match self.sources.get(id)?.get(&Key::Cursor)? {
            Place::Cursor(cursor) => Some(cursor.clone()),
            Place::File(_) => None,
        }
    }

    /// Forgets the datasources that are not among `ids`.
    pub fn retain(&mut self, ids: &[String]) {
        self.sources.retain(|id, _| ids.contains(id));
        self.changed.retain(|(id, _)| ids.contains(id));
    }

    /// Moves the places of datasource `id`: all lines before `steps` are dealt with.
    pub fn advance(&mut self, id: &str, steps: Vec<Step>) {
        if steps.is_empty() {
            return;
        }
        let places = match self.sources.get_mut(id) {
            Some(places) => places,
            None => self.sources.entry(id.to_owned()).or_default(),
        };
        for step in steps {
            let key = match step {
                Step::Gone(gone) => {
                    places.remove(&Key::File(gone));
                    Key::File(gone)
                }
                Step::At(place) => {
                    let key = Key::of(&place);
                    places.insert(key, place);
                    key
                }
            };
            self.changed.insert((id.to_owned(), key));
        }
    }

    /// What changed since the last call, or everything there is, by datasource.
    pub fn take_changes(&mut self, everything: bool) -> Vec<(String, Vec<Step>)> {
        let changed = std::mem::take(&mut self.changed);
        if everything {
            let steps = |places: &BTreeMap<Key, Place>| places.values().cloned().map(Step::At).collect();
            return self.sources.iter().map(|(id, places)| (id.clone(), steps(places))).collect();
        }
        let mut all = BTreeMap::<String, Vec<Step>>::new();
        for (id, key) in changed {
            let place = self.sources.get(&id).and_then(|places| places.get(&key));
            let step = match (place, key) {
                (Some(place), _) => Step::At(place.clone()),
                (None, Key::File(gone)) => Step::Gone(gone),
                (None, Key::Cursor) => continue,
            };
            all.entry(id).or_default().push(step);
        }
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tail::rotate::Print;

    fn place(inode: u64, offset: u64) -> FilePlace {
        FilePlace {
            path: Path::new("/var/log/a.log").into(),
            id: FileId { device: 1, inode },
            generation: u64::MAX,
            offset,
            seen: offset,
            head: Print::of(b"head"),
            recent: Print::of(b"recent"),
            born: None,
            since: None,
        }
    }

    fn at(inode: u64, offset: u64) -> Step {
        Step::At(Place::File(place(inode, offset)))
    }

    fn cursor(text: &str) -> Step {
        Step::At(Place::Cursor(text.into()))
    }

    #[test]
    fn places_move_and_are_forgotten_with_their_files() {
        let mut places = Places::default();
        assert!(places.written().is_none() && !places.knows("file:a"));
        places.advance("file:a", vec![at(1, 10), at(2, 20), at(1, 15)]);
        places.advance("file:b", vec![at(1, 7)]);
        places.advance("journal", vec![cursor("c1"), cursor("c2")]);
        let mut copy = Places::default();
        let mut follow = |places: &mut Places, everything| {
            for (id, steps) in places.take_changes(everything) {
                copy.advance(&id, steps);
            }
            copy.take_changes(false);
            copy.clone()
        };
        let copied = follow(&mut places, false);
        assert_eq!(copied, places);
        assert_eq!(copied.files("file:a"), [place(1, 15), place(2, 20)]);
        assert_eq!(copied.cursor("journal").as_deref(), Some("c2"));
        assert_eq!(copied.files("no such source"), []);

        places.advance("file:a", vec![Step::Gone(FileId { device: 1, inode: 1 }), at(3, 0)]);
        assert_eq!(follow(&mut places, false).files("file:a"), [place(2, 20), place(3, 0)]);
        assert!(places.take_changes(false).is_empty(), "nothing is told twice");
        places.retain(&["file:a".to_owned()]);
        assert_eq!(places.take_changes(true).len(), 1);
        assert_eq!((places.files("file:b"), places.cursor("journal")), (Vec::new(), None));
    }
}
