//! The reference on a page of refusal: who was refused, when, and by which decision.
//!
//! It carries what it says, so nothing has to be remembered and any host of the site can read it. It does not say why:
//! that is told by the API to whoever may ask it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use jiff::Timestamp;

/// Letters and digits that nobody takes for another one: no I, L, O and U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters between two dashes.
const GROUP: usize = 5;
/// Longest reference in characters, dashes and spaces included.
const LONGEST: usize = 80;

/// Who was refused, when, and by which decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The address that asked.
    pub address: IpAddr,
    /// When, to the minute.
    pub at: Timestamp,
    /// Number of the decision; 0 when a rule of the profile refused it.
    pub decision: i64,
}

/// A text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither an address nor a reference\nhint: a reference looks like `00T8C-RSK81-...`, as the page shows it"
)]
pub struct NoReference(pub String);

impl Reference {
    /// The reference of a refusal of `address` at `now` by `decision`.
    pub fn new(address: IpAddr, now: Timestamp, decision: i64) -> Self {
        let minute = now.as_second().div_euclid(60) * 60;
        Self { address, at: Timestamp::from_second(minute).unwrap_or(now), decision }
    }

    fn bytes(self) -> Vec<u8> {
        let minutes = (self.at.as_second() / 60) as u32;
        let mut bytes = minutes.to_be_bytes().to_vec();
        let decision = self.decision.to_be_bytes();
        let zeros = decision.iter().take_while(|&&byte| byte == 0).count();
        bytes.push((8 - zeros) as u8 | if self.address.is_ipv6() { 0x80 } else { 0 });
        bytes.extend(decision.iter().skip(zeros));
        match self.address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
        let sum = crc32c::crc32c(&bytes).to_be_bytes();
        bytes.extend([sum[0], sum[1]]);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (said, sum) = bytes.split_last_chunk::<2>()?;
        if crc32c::crc32c(said).to_be_bytes().first_chunk::<2>() != Some(sum) {
            return None;
        }
        let (minutes, rest) = said.split_first_chunk::<4>()?;
        let (&shape, rest) = rest.split_first()?;
        let (decision, address) = rest.split_at_checked(usize::from(shape & 0x7f))?;
        let mut number = [0; 8];
        number.get_mut(8_usize.checked_sub(decision.len())?..)?.copy_from_slice(decision);
        let address = match shape & 0x80 {
            0 => Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?).into(),
            _ => Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).into(),
        };
        let at = Timestamp::from_second(i64::from(u32::from_be_bytes(*minutes)) * 60).ok()?;
        Some(Self { address, at, decision: i64::from_be_bytes(number) })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes();
        let mut text = String::with_capacity(bytes.len() * 2);
        for at in 0..(bytes.len() * 8).div_ceil(5) {
            // two bytes hold the five bits, wherever they begin
            let pair = [at * 5 / 8, at * 5 / 8 + 1].map(|place| bytes.get(place).copied().unwrap_or(0));
            let five = u16::from_be_bytes(pair) >> (11 - at * 5 % 8) & 31;
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(ALPHABET[usize::from(five)]));
        }
        f.write_str(&text)
    }
}

impl FromStr for Reference {
    type Err = NoReference;

    /// Upper and lower case, dashes and spaces do not matter; letters that look like digits are read as these.
    fn from_str(text: &str) -> Result<Self, NoReference> {
        let wrong = || NoReference(text.chars().take(LONGEST).collect());
        if text.len() > LONGEST {
            return Err(wrong());
        }
        let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
        for byte in text.bytes().filter(|byte| !matches!(byte, b'-' | b' ')) {
            let byte = match byte.to_ascii_uppercase() {
                b'O' => b'0',
                b'I' | b'L' => b'1',
                other => other,
            };
            let five = ALPHABET.iter().position(|&known| known == byte).ok_or_else(wrong)?;
            bits = (bits << 5 | five as u32) & 0xfff;
            count += 5;
            if count >= 8 {
                count -= 8;
                bytes.push((bits >> count) as u8);
            }
        }
        Self::read(&bytes).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reference_can_be_read_out_over_the_telephone() {
        let at: Timestamp = "2026-11-23T04:12:31Z".parse().expect("a valid test time");
        let reference = Reference::new("203.0.113.9".parse().expect("a valid test address"), at, 4711);
        let text = reference.to_string();
        insta::assert_snapshot!(text);
        let spoken = text.replace('-', " ").to_lowercase().replace('0', "o").replace('1', "l");
        assert_eq!(spoken.parse(), Ok(reference));
        assert_eq!(reference.at.to_string(), "2026-11-23T04:12:00Z");
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let at = Timestamp::UNIX_EPOCH;
        let text = Reference::new("203.0.113.9".parse().expect("a valid test address"), at, 1).to_string();
        let typo = format!("Z{}", &text[1..]);
        let cases = ["", "203.0.113.9", "00000", "ÄÖÜ", &"0".repeat(500), &typo, &text[..12]];
        for case in cases {
            assert!(case.parse::<Reference>().is_err(), "{case}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_is_written_can_be_read(
            address in any::<IpAddr>(),
            minute in 0..4_000_000_000_u32,
            decision in prop_oneof![0..1_000_000i64, any::<i64>()],
        ) {
            let at = Timestamp::from_second(i64::from(minute) * 60).expect("within the years that there are");
            let reference = Reference { address, at, decision };
            prop_assert_eq!(reference.to_string().parse(), Ok(reference));
        }
    }
}
