//! The records that buckets hold.
//!
//! A record is stored once however many buckets hold it; a queue is a chain of small links, or a lone record: that is what
//! most buckets of a flood hold. Bytes are counted as they come and go, so that [`crate::Buckets`] can keep to its
//! budget.

use std::cell::Cell;
use std::sync::Arc;

use model::Record;

use crate::arena::Arena;
use crate::touched::Touched;

/// The records of one partition.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    records: Arena<Held>,
    links: Vec<Link>,
    free_links: Vec<u32>,
    bytes: usize,
    /// Where the record of the last push lies: the pours of one event come together.
    newest: Option<u32>,
    /// Places that were filled since the last checkpoint, where checkpoints are made.
    pub(crate) filled: Option<Touched>,
}

#[derive(Debug)]
struct Held {
    record: Arc<Record>,
    holders: u32,
    bytes: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    record: u32,
    /// The next newer one; after the newest comes the oldest.
    next: u32,
    previous: u32,
}

/// The records of one bucket: a ring of links, of which the newest is known.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Where a lone record lies, else the link of the newest one. Meaningless in an empty queue.
    newest: u32,
    len: u32,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }
}

impl Slab {
    /// Bytes of all records and links.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts a record at the end of `queue`.
    pub(crate) fn push(&mut self, queue: &mut Queue, record: &Arc<Record>) {
        let place = self.hold(record);
        self.link(queue, place);
    }

    /// The same for a record that may lie at `place` already; afterwards it lies there.
    pub(crate) fn push_shared(&mut self, queue: &mut Queue, record: &Arc<Record>, place: &mut Option<u32>) {
        let held = place.and_then(|index| Some((index, self.records.get_mut(index)?)));
        let index = match held {
            Some((index, held)) => {
                held.holders += 1;
                index
            }
            None => self.hold(record),
        };
        *place = Some(index);
        self.link(queue, index);
    }

    fn link(&mut self, queue: &mut Queue, place: u32) {
        queue.len += 1;
        match queue.len {
            1 => queue.newest = place,
            2 => {
                let lone = self.insert(Link { record: queue.newest, next: 0, previous: 0 });
                queue.newest = self.insert(Link { record: place, next: lone, previous: lone });
                self.links[lone as usize].next = queue.newest;
                self.links[lone as usize].previous = queue.newest;
            }
            _ => {
                let newest = queue.newest;
                let oldest = self.links[newest as usize].next;
                queue.newest = self.insert(Link { record: place, next: oldest, previous: newest });
                self.links[newest as usize].next = queue.newest;
                self.links[oldest as usize].previous = queue.newest;
            }
        }
    }

    fn insert(&mut self, link: Link) -> u32 {
        self.bytes += size_of::<Link>();
        if let Some(index) = self.free_links.pop() {
            self.links[index as usize] = link;
            return index;
        }
        self.links.push(link);
        self.links.len() as u32 - 1
    }

    fn remove(&mut self, index: u32) -> Link {
        self.bytes -= size_of::<Link>();
        self.free_links.push(index);
        self.links[index as usize]
    }

    /// What the records of `queue` weigh in bytes, shared or not.
    pub(crate) fn weight(&self, queue: &Queue) -> usize {
        let links = if queue.len > 1 { queue.len() * size_of::<Link>() } else { 0 };
        links
            + self
                .places(queue)
                .filter_map(|place| self.records.get(place))
                .map(|held| held.bytes as usize)
                .sum::<usize>()
    }

    /// Takes the oldest record out of `queue`.
    pub(crate) fn pop(&mut self, queue: &mut Queue) {
        let gone = match queue.len {
            0 => return,
            1 => queue.newest,
            2 => {
                let newest = self.remove(queue.newest);
                queue.newest = newest.record;
                self.remove(newest.next).record
            }
            _ => {
                let oldest = self.remove(self.links[queue.newest as usize].next);
                self.links[queue.newest as usize].next = oldest.next;
                self.links[oldest.next as usize].previous = queue.newest;
                oldest.record
            }
        };
        queue.len -= 1;
        self.release(gone);
    }

    /// Takes everything out of `queue`.
    pub(crate) fn clear(&mut self, queue: &mut Queue) {
        while queue.len > 0 {
            self.pop(queue);
        }
    }

    /// The records of `queue`, oldest first.
    pub(crate) fn iter<'a>(&'a self, queue: &Queue) -> impl Iterator<Item = &'a Arc<Record>> {
        self.places(queue).filter_map(|place| self.record(place))
    }

    /// The same, to be looked at one by one.
    pub(crate) fn view(&self, queue: &Queue) -> View<'_> {
        View { slab: self, newest: queue.newest, len: queue.len, at: Cell::new((queue.len, queue.newest)) }
    }

    /// Where the records of `queue` lie, oldest first.
    pub(crate) fn places(&self, queue: &Queue) -> impl Iterator<Item = u32> {
        let (lone, mut at) = (queue.len == 1, queue.newest);
        (0..queue.len).map(move |_| {
            if lone {
                return at;
            }
            at = self.links[at as usize].next;
            self.links[at as usize].record
        })
    }

    /// The record at `place`, if one lies there.
    pub(crate) fn record(&self, place: u32) -> Option<&Arc<Record>> {
        self.records.get(place).map(|held| &held.record)
    }

    /// All places that hold a record.
    pub(crate) fn occupied(&self) -> Vec<u32> {
        self.records.iter().map(|(place, _)| place).collect()
    }

    fn hold(&mut self, record: &Arc<Record>) -> u32 {
        if let Some(index) = self.newest
            && let Some(held) = self.records.get_mut(index)
            && Arc::ptr_eq(&held.record, record)
        {
            held.holders += 1;
            return index;
        }
        let bytes = record.bytes().min(u32::MAX as usize) as u32;
        self.bytes += bytes as usize + size_of::<Held>();
        let index = self.records.insert(Held { record: Arc::clone(record), holders: 1, bytes });
        self.newest = Some(index);
        if let Some(filled) = &mut self.filled {
            filled.touch(index);
        }
        index
    }

    fn release(&mut self, index: u32) {
        let Some(held) = self.records.get_mut(index) else { return };
        held.holders -= 1;
        if held.holders == 0 {
            self.bytes -= held.bytes as usize + size_of::<Held>();
            self.records.take(index);
        }
    }
}

/// The records of a queue by their number: whoever reads on from where it was finds the next at once.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    slab: &'a Slab,
    newest: u32,
    len: u32,
    /// The number of the last one that was asked for, counted from one, and its link.
    at: Cell<(u32, u32)>,
}

impl<'a> View<'a> {
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// The record at `index`, of which 0 is the oldest.
    pub(crate) fn get(&self, index: usize) -> Option<&'a Record> {
        let wanted = u32::try_from(index).ok().filter(|index| *index < self.len)? + 1;
        if self.len == 1 {
            return self.slab.record(self.newest).map(|record| &**record);
        }
        let (mut number, mut link) = self.at.get();
        // Before the oldest stands the newest.
        if wanted < number.abs_diff(wanted) {
            (number, link) = (0, self.newest);
        } else if self.len - wanted < number.abs_diff(wanted) {
            (number, link) = (self.len, self.newest);
        }
        let links = &self.slab.links;
        for _ in number..wanted {
            link = links[link as usize].next;
        }
        for _ in wanted..number {
            link = links[link as usize].previous;
        }
        self.at.set((wanted, link));
        self.slab.record(links[link as usize].record).map(|record| &**record)
    }
}

#[cfg(test)]
mod tests {
    use model::{Event, FieldTable, Line};

    use super::*;

    fn record(text: &str) -> Arc<Record> {
        let mut event = Event::new(Arc::<FieldTable>::default());
        event.start_line(&Line {
            raw: text.into(),
            origin: Arc::default(),
            time: jiff::Timestamp::UNIX_EPOCH,
            offset: text.len() as u64,
        });
        Arc::new(Record::new(&event, |_| true, false, &Arc::default(), &mut model::Packer::default()))
    }

    #[test]
    fn queues_keep_order_and_share_records() {
        let mut slab = Slab::default();
        let (mut a, mut b) = (Queue::default(), Queue::default());
        let records: Vec<_> = ["one", "two", "three!"].map(record).into();
        for record in &records {
            slab.push(&mut a, record);
            slab.push(&mut b, record);
        }
        let once = slab.bytes();
        assert_eq!(slab.iter(&a).map(|record| record.place().2).collect::<Vec<_>>(), [3, 3, 6]);
        let view = slab.view(&a);
        let offset = |index: usize| view.get(index).map(|record| record.place().2);
        for (index, expected) in
            [(2, Some(6)), (1, Some(3)), (0, Some(3)), (2, Some(6)), (3, None), (0, Some(3)), (1, Some(3))]
        {
            assert_eq!(offset(index), expected, "{index}");
        }
        slab.pop(&mut a);
        assert_eq!(slab.bytes(), once - size_of::<Link>(), "the other bucket still holds the record");
        slab.pop(&mut b);
        assert!(slab.bytes() < once - 2 * size_of::<Link>(), "nobody holds it any more");
        assert_eq!(slab.iter(&b).map(|record| record.place().2).collect::<Vec<_>>(), [3, 6]);
        slab.pop(&mut a);
        assert_eq!(slab.iter(&a).map(|record| record.place().2).collect::<Vec<_>>(), [6]);
        assert_eq!((slab.view(&a).get(0).map(|record| record.place().2), slab.view(&a).len()), (Some(6), 1));
        slab.clear(&mut a);
        slab.clear(&mut b);
        slab.pop(&mut a);
        assert_eq!(slab.bytes(), 0);
    }

    #[test]
    fn places_are_used_again() {
        let mut slab = Slab::default();
        let mut queue = Queue::default();
        for round in 0..100 {
            slab.push(&mut queue, &record(&"x".repeat(round)));
            if queue.len() > 3 {
                slab.pop(&mut queue);
            }
        }
        assert_eq!((slab.occupied(), slab.links.len(), queue.len()), (vec![1, 2, 3], 4, 3));
    }
}
