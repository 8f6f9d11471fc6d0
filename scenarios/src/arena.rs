//! Numbered places for many small things.
//!
//! It grows by pieces of a few kilobytes that never move: no copy while it grows, and no more than one piece of slack.

/// Places in one piece.
const PIECE: usize = 64;

/// Things by number; the numbers of those taken out are given again.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    pieces: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Arena<T> {
    /// Keeps `thing`: its number.
    pub(crate) fn insert(&mut self, thing: T) -> u32 {
        self.len += 1;
        if let Some(number) = self.free.pop() {
            self.pieces[number as usize / PIECE][number as usize % PIECE] = Some(thing);
            return number;
        }
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let before = (self.pieces.len() - 1) * PIECE;
        let Some(last) = self.pieces.last_mut() else { return 0 };
        last.push(Some(thing));
        (before + last.len() - 1) as u32
    }

    /// The thing with this number.
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.pieces.get(number as usize / PIECE)?.get(number as usize % PIECE)?.as_ref()
    }

    /// The thing with this number, to be changed.
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.pieces.get_mut(number as usize / PIECE)?.get_mut(number as usize % PIECE)?.as_mut()
    }

    /// Takes the thing with this number out.
    pub(crate) fn take(&mut self, number: u32) -> Option<T> {
        let thing = self.pieces.get_mut(number as usize / PIECE)?.get_mut(number as usize % PIECE)?.take()?;
        self.free.push(number);
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        }
        Some(thing)
    }

    /// All things with their numbers, in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.pieces.iter().flatten().zip(0..).filter_map(|(thing, number)| Some((number, thing.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_again() {
        let mut arena = Arena::default();
        let numbers: Vec<u32> = (0..1000).map(|thing| arena.insert(thing)).collect();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
        assert_eq!((arena.take(70), arena.take(70), arena.get(70)), (Some(70), None, None));
        assert_eq!((arena.insert(7), arena.get(70)), (70, Some(&7)));
        assert_eq!((arena.get(1000), arena.iter().count()), (None, 1000));
        for number in 0..1000 {
            arena.take(number);
        }
        assert_eq!(arena.iter().count(), 0);
        assert_eq!(arena.insert(1), 0);
    }
}
