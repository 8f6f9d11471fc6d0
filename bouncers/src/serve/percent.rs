//! Percent signs in addresses.

/// `text` with `%41` read as `A`, once. What is no such sequence stays as it is; what is no UTF-8 then is replaced.
pub fn decode(text: &str) -> String {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'%', [high, low, after @ ..]) if let (Some(high), Some(low)) = (hex(*high), hex(*low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = after;
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_sequences_are_read() {
        for (text, read) in [
            ("a%2fb", "a/b"),
            ("%252e", "%2e"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz", "%zz"),
            ("%ff", "\u{fffd}"),
            ("%C3%A4", "ä"),
        ] {
            assert_eq!(decode(text), read, "{text}");
        }
    }
}
