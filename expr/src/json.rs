//! JSON as Go reads it: half of a character that takes two escapes stands for U+FFFD, and a value may be nested ten
//! thousand levels deep.
//!
//! A visitor chooses what a log quotes; a text that some programs write and that cannot be read would hide his line.
//! What is nested deeper than any rule asks is held as null, so that no reader, writer or end of a value needs more
//! than a little of the stack.

use std::borrow::Cow;

use serde::de::{DeserializeOwned, IgnoredAny};

/// How many levels of objects and lists are kept: as many as `serde_json` reads.
const KEPT_LEVELS: usize = 127;
/// How many there may be.
const MOST_LEVELS: usize = 10_000;

/// Reads one value, of which what lies deeper than 127 levels is null; the error is that of `serde_json`.
pub fn read<T: DeserializeOwned>(source: &str) -> serde_json::Result<T> {
    serde_json::from_str(source).or_else(|error| {
        let flat = flattened(source);
        match (whole_characters(&flat), &flat) {
            (Cow::Borrowed(_), Cow::Borrowed(_)) => Err(error),
            (mended, _) => serde_json::from_str(&mended),
        }
    })
}

/// The text with `null` for every object and list that opens a level too deep to be kept; as it is if it is not JSON.
fn flattened(source: &str) -> Cow<'_, str> {
    let mut flat = String::new();
    let (mut kept, mut level, mut deepest) = (0, 0_usize, 0);
    let mut in_text = false;
    let mut bytes = source.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => in_text = !in_text,
            b'\\' if in_text => {
                bytes.next();
            }
            b'{' | b'[' if !in_text => {
                if level == KEPT_LEVELS {
                    flat.push_str(&source[kept..at]);
                }
                level += 1;
                deepest = deepest.max(level);
            }
            b'}' | b']' if !in_text => {
                level = level.saturating_sub(1);
                if level == KEPT_LEVELS {
                    flat.push_str("null");
                    kept = at + 1;
                }
            }
            _ => {}
        }
    }
    // skipping a value takes no stack, and shows that the brackets counted above belong together
    let fits = (KEPT_LEVELS + 1..=MOST_LEVELS).contains(&deepest);
    if !fits || serde_json::from_str::<IgnoredAny>(source).is_err() {
        return Cow::Borrowed(source);
    }
    flat.push_str(&source[kept..]);
    Cow::Owned(flat)
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

    #[test]
    fn ten_thousand_levels_are_read_and_the_deepest_are_null() {
        let lists = |levels: usize, inside: &str| format!("{}{inside}{}", "[".repeat(levels), "]".repeat(levels));
        let objects = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        let shown = |source: &str| read::<serde_json::Value>(source).map(|value| value.to_string()).ok();
        let cases = [
            (lists(127, "1"), Some(lists(127, "1"))),
            (lists(128, "1"), Some(lists(127, "null"))),
            (lists(127, "[1], \"]\\\"[\", {\"a\": [2]}, 3"), Some(lists(127, "null,\"]\\\"[\",null,3"))),
            (lists(10_000, ""), Some(lists(127, "null"))),
            (lists(10_001, ""), None),
            (lists(1_000_000, ""), None),
            (objects(10_000), Some(objects(127).replace('1', "null"))),
            (
                format!("{{\"a\":{},\"b\":\"\\ud83d\"}}", lists(9_999, "")),
                Some(format!("{{\"a\":{},\"b\":\"\u{FFFD}\"}}", lists(126, "null"))),
            ),
            ("[".repeat(10_000), None),
            (format!("{}{}", "[".repeat(200), "}".repeat(200)), None),
            (lists(200, "[1,]"), None),
            (lists(200, "nul"), None),
            (format!("{}]", lists(200, "")), None),
            (format!("{} x", lists(200, "")), None),
        ];
        for (source, want) in cases {
            assert_eq!(shown(&source), want, "{}", &source[..source.len().min(300)]);
        }
    }
}
