//! Answers that were found lately, by the text that they answer for.
//!
//! Logs repeat themselves: addresses, times, programs. Every text has one place, and a newcomer takes it, so that the memory is bounded
//! and a look never takes longer than one comparison, whatever an attacker writes.

use std::hash::BuildHasher as _;

use hashbrown::DefaultHashBuilder;
use model::bytes::alike;

/// Some answers, for texts of at most `LONGEST` bytes.
#[derive(Debug)]
pub(crate) struct Recent<T, const PLACES: usize = 1024, const LONGEST: usize = 128> {
    places: Vec<Option<Known<T>>>,
    hasher: DefaultHashBuilder,
}

/// A text and its answer. The hash lies with them, the text elsewhere: for most other texts the near one says no.
#[derive(Debug)]
struct Known<T> {
    hash: u64,
    text: String,
    answer: T,
}

impl<T> Known<T> {
    fn is(&self, hash: u64, text: &str) -> bool {
        self.hash == hash && alike(self.text.as_bytes(), text.as_bytes())
    }
}

impl<T, const PLACES: usize, const LONGEST: usize> Default for Recent<T, PLACES, LONGEST> {
    fn default() -> Self {
        Self { places: Vec::new(), hasher: DefaultHashBuilder::default() }
    }
}

impl<T, const PLACES: usize, const LONGEST: usize> Recent<T, PLACES, LONGEST> {
    /// Shows `look` the answer for `text`: the remembered one if it is still `good`, or else the one that `find` gives.
    pub(crate) fn get_or<R>(
        &mut self,
        text: &str,
        good: impl FnOnce(&T) -> bool,
        find: impl FnOnce() -> T,
        look: impl FnOnce(&T) -> R,
    ) -> R {
        if text.len() > LONGEST {
            return look(&find());
        }
        let (place, hash) = self.place(text);
        match place {
            Some(known) if known.is(hash, text) && good(&known.answer) => look(&known.answer),
            _ => look(Self::fill(place, hash, text, find())),
        }
    }

    /// The answer for `text`, if it is remembered.
    pub(crate) fn get(&mut self, text: &str) -> Option<&T> {
        let (place, hash) = self.place(text);
        place.as_ref().filter(|known| known.is(hash, text)).map(|known| &known.answer)
    }

    /// Remembers the answer for `text`.
    pub(crate) fn put(&mut self, text: &str, answer: T) {
        if text.len() <= LONGEST {
            let (place, hash) = self.place(text);
            Self::fill(place, hash, text, answer);
        }
    }

    /// Puts a newcomer into the room that another text leaves.
    fn fill<'p>(place: &'p mut Option<Known<T>>, hash: u64, text: &str, answer: T) -> &'p T {
        let mut room = place.take().map(|known| known.text).unwrap_or_default();
        text.clone_into(&mut room);
        &place.insert(Known { hash, text: room, answer }).answer
    }

    fn place(&mut self, text: &str) -> (&mut Option<Known<T>>, u64) {
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        let hash = self.hasher.hash_one(text);
        (&mut self.places[hash as usize % PLACES], hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_right_however_many_there_are() {
        let mut recent: Recent<usize, 4> = Recent::default();
        let mut found = 0;
        for round in 0..3 {
            for length in 0..138 {
                let text = "x".repeat(length);
                let find = || {
                    found += 1;
                    length
                };
                assert_eq!(recent.get_or(&text, |_| true, find, |answer| *answer), length, "round {round}");
            }
        }
        assert_eq!(recent.places.len(), 4);
    }

    #[test]
    fn what_is_remembered_is_not_found_again() {
        let mut recent: Recent<()> = Recent::default();
        let mut found = 0;
        for _ in 0..9 {
            recent.get_or("x", |()| true, || found += 1, |()| ());
        }
        assert_eq!(found, 1);
        recent.get_or("x", |()| false, || found += 1, |()| ());
        assert_eq!(found, 2);
    }
}
