//! JSON as Go reads it: half of a character that takes two escapes stands for U+FFFD.
//!
//! A visitor chooses what a log quotes; a text that some programs write and that cannot be read would hide his line.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// Reads one value; the error is that of `serde_json`.
pub fn read<T: DeserializeOwned>(source: &str) -> serde_json::Result<T> {
    match serde_json::from_str(source) {
        Err(error) => match whole_characters(source) {
            Cow::Owned(mended) => serde_json::from_str(&mended),
            Cow::Borrowed(_) => Err(error),
        },
        read => read,
    }
}

/// The text with every escaped half of a pair that stands alone replaced by `\ufffd`.
fn whole_characters(source: &str) -> Cow<'_, str> {
    let mut mended = String::new();
    let mut kept = 0;
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', source.as_bytes().get(at..).unwrap_or_default()) {
        let start = at + found;
        match half(source, start) {
            Some(0xD800..=0xDBFF) if matches!(half(source, start + 6), Some(0xDC00..=0xDFFF)) => at = start + 12,
            Some(0xD800..=0xDFFF) => {
                mended.push_str(&source[kept..start]);
                mended.push_str("\\ufffd");
                at = start + 6;
                kept = at;
            }
            _ => at = start + 2,
        }
    }
    if kept == 0 {
        return Cow::Borrowed(source);
    }
    mended.push_str(&source[kept..]);
    Cow::Owned(mended)
}

/// The number of the `\uXXXX` at `start`.
fn half(source: &str, start: usize) -> Option<u32> {
    let escape = source.get(start..start.checked_add(6)?)?;
    let digits = escape.strip_prefix("\\u")?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_pair_is_one_replacement() {
        let cases = [
            (r#""\ud83d\ude00""#, "\u{1F600}"),
            (r#""a\ud83db""#, "a\u{FFFD}b"),
            (r#""\ude00\ud83d""#, "\u{FFFD}\u{FFFD}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{FFFD}\u{1F600}"),
            (r#""\\ud83d\uDBFF""#, "\\ud83d\u{FFFD}"),
            (r#""é\ud800é""#, "é\u{FFFD}é"),
        ];
        for (source, want) in cases {
            assert_eq!(read::<String>(source).expect(source), want, "{source}");
        }
        for broken in [r#""\ud8"#, r#""\ud83d\u12""#, r#""\ud83d"#, r#""\q\ud83d""#, "\"\\\\", "\"\\é\""] {
            assert!(read::<String>(broken).is_err(), "{broken}");
        }
    }
}
