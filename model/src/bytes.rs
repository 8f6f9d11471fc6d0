//! A small binary encoding for what is kept on disk: numbers by size, texts with their length.
//!
//! Whoever writes says in which order; nothing here names fields, so each format carries a version of its own.

/// Bytes that grow.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// The bytes so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all bytes and keeps the room.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// A number from 0, seven bits a byte.
    pub fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A number that may be negative.
    pub fn signed(&mut self, value: i64) {
        self.number((value << 1 ^ value >> 63) as u64);
    }

    /// Yes or no.
    pub fn flag(&mut self, value: bool) {
        self.0.push(value.into());
    }

    /// Eight bytes.
    pub fn fixed64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Sixteen bytes.
    pub fn fixed128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes alone: whoever reads them must know how many.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes with their length in front.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A text with its length in front.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// What `write` writes, with its length in front.
    pub fn part(&mut self, write: impl FnOnce(&mut Self)) {
        let mut part = Self::default();
        write(&mut part);
        self.bytes(&part.0);
    }
}

/// What was written is not what is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not what was written")]
pub struct Garbled;

/// Bytes that are read from the front.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All bytes that are left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Garbled> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Garbled)?;
        self.0 = rest;
        Ok(taken)
    }

    /// What [`Writer::raw`] wrote.
    pub fn raw(&mut self, count: usize) -> Result<&'a [u8], Garbled> {
        self.take(count)
    }

    /// What [`Writer::number`] wrote.
    pub fn number(&mut self) -> Result<u64, Garbled> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Garbled)
    }

    /// The same, where it counts things that follow: each of them takes at least a byte, so that a false number asks
    /// for no memory.
    pub fn count(&mut self) -> Result<usize, Garbled> {
        usize::try_from(self.number()?).ok().filter(|count| *count <= self.0.len()).ok_or(Garbled)
    }

    /// The same in 32 bits.
    pub fn number32(&mut self) -> Result<u32, Garbled> {
        u32::try_from(self.number()?).map_err(|_| Garbled)
    }

    /// What [`Writer::signed`] wrote.
    pub fn signed(&mut self) -> Result<i64, Garbled> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// What [`Writer::flag`] wrote.
    pub fn flag(&mut self) -> Result<bool, Garbled> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Garbled),
        }
    }

    /// What [`Writer::fixed64`] wrote.
    pub fn fixed64(&mut self) -> Result<u64, Garbled> {
        let bytes = self.take(8)?.try_into().map_err(|_| Garbled)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// What [`Writer::fixed128`] wrote.
    pub fn fixed128(&mut self) -> Result<u128, Garbled> {
        let bytes = self.take(16)?.try_into().map_err(|_| Garbled)?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// What [`Writer::bytes`] or [`Writer::part`] wrote.
    pub fn bytes(&mut self) -> Result<&'a [u8], Garbled> {
        let count = self.count()?;
        self.take(count)
    }

    /// What [`Writer::text`] wrote.
    pub fn text(&mut self) -> Result<&'a str, Garbled> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Garbled)
    }
}

/// Whether both are the same, for texts that are mostly so short that a call would take longer than comparing them here.
#[inline]
pub fn alike(one: &[u8], other: &[u8]) -> bool {
    let ((words, rest), (others, tail)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let number = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    one.len() == other.len()
        && words.iter().zip(others).all(|(one, other)| number(one) == number(other))
        && rest.iter().zip(tail).all(|(one, other)| one == other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn what_was_written_reads_back(number: u64, signed: i64, flag: bool, big: u128, text in ".{0,300}") {
            let mut writer = Writer::default();
            writer.number(number);
            writer.signed(signed);
            writer.flag(flag);
            writer.fixed64(number);
            writer.fixed128(big);
            writer.part(|part| part.text(&text));
            let bytes = writer.into_bytes();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.number(), Ok(number));
            prop_assert_eq!(reader.signed(), Ok(signed));
            prop_assert_eq!(reader.flag(), Ok(flag));
            prop_assert_eq!(reader.fixed64(), Ok(number));
            prop_assert_eq!(reader.fixed128(), Ok(big));
            let part = reader.bytes();
            prop_assert_eq!(part.and_then(|part| Reader::new(part).text().map(str::to_owned)), Ok(text));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn alike_is_equal(one in "[ab]{0,20}", other in "[ab]{0,20}") {
            prop_assert_eq!(alike(one.as_bytes(), other.as_bytes()), one == other);
            prop_assert!(alike(one.as_bytes(), one.clone().as_bytes()));
            let [left, right] = ["a", "b"].map(|end| [&*one, end].concat());
            prop_assert!(!alike(left.as_bytes(), right.as_bytes()));
        }

        #[test]
        fn no_bytes_panic_or_ask_for_memory(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut reader = Reader::new(&bytes);
            while reader.count().is_ok_and(|count| count <= bytes.len()) {}
            let _ = (reader.text(), reader.fixed128());
        }
    }
}
