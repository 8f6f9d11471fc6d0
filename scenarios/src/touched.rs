//! What has changed since the last checkpoint.

/// Numbers that were touched, each once.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    bits: Vec<u64>,
    list: Vec<u32>,
}

impl Touched {
    /// Notes `number`.
    pub(crate) fn touch(&mut self, number: u32) {
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.list.push(number);
        }
    }

    /// Takes all numbers, in the order in which they were first touched.
    pub(crate) fn take(&mut self) -> Vec<u32> {
        for number in &self.list {
            self.bits[*number as usize / 64] = 0;
        }
        std::mem::take(&mut self.list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_noted_once_until_it_is_taken() {
        let mut touched = Touched::default();
        for number in [7, 200, 7, 64, 200] {
            touched.touch(number);
        }
        assert_eq!(touched.take(), [7, 200, 64]);
        assert!(touched.take().is_empty());
        touched.touch(64);
        assert_eq!(touched.take(), [64]);
    }
}
