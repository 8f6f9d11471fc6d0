//! Taking somebody out of texts, and masking what nobody should have written.
//!
//! A value counts as mentioned where it stands on its own: `192.0.2.1` is not mentioned by `192.0.2.10`. In doubt too much is
//! taken out, not too little.

mod mask;

use serde_json::Value;

pub use mask::{MASKED, Masks, strip};

/// What stands where somebody was mentioned.
pub const FORGOTTEN: &str = "(forgotten)";

/// Whether `text` mentions `value`.
pub fn mentions(text: &str, value: &str) -> bool {
    places(text, value).next().is_some()
}

/// `text` without `value`, if it mentions it.
pub fn without(text: &str, value: &str) -> Option<String> {
    replaced(text, value, FORGOTTEN)
}

/// `text` with `other` wherever it mentions `value`, if it does.
fn replaced(text: &str, value: &str, other: &str) -> Option<String> {
    let mut left = String::with_capacity(text.len());
    let mut reached = 0;
    for at in places(text, value) {
        left.push_str(text.get(reached..at).unwrap_or_default());
        left.push_str(other);
        reached = at + value.len();
    }
    left.push_str(text.get(reached..).unwrap_or_default());
    (reached > 0).then_some(left)
}

/// Takes `value` out of all texts in `json`; answers whether there were any. Texts that are JSON themselves are texts.
pub fn redact(json: &mut Value, value: &str) -> bool {
    match json {
        Value::String(text) => match without(text, value) {
            Some(left) => {
                *text = left;
                true
            }
            None => false,
        },
        Value::Array(items) => items.iter_mut().map(|item| redact(item, value)).filter(|found| *found).count() > 0,
        Value::Object(fields) => {
            fields.values_mut().map(|field| redact(field, value)).filter(|found| *found).count() > 0
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Where `value` stands on its own in `text`.
fn places<'a>(text: &'a str, value: &'a str) -> impl Iterator<Item = usize> + 'a {
    let found = (!value.is_empty()).then(|| text.match_indices(value));
    found.into_iter().flatten().map(|(at, _)| at).filter(move |&at| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let after = text.get(at + value.len()..).and_then(|text| text.chars().next());
        let joined = |neighbour: Option<char>| neighbour.is_some_and(char::is_alphanumeric);
        !joined(before) && !joined(after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_is_taken_out_where_he_stands_on_his_own() {
        // (text, value, what is left; `None` if he is not mentioned)
        let cases = [
            ("from 192.0.2.1 port 22", "192.0.2.1", Some("from (forgotten) port 22")),
            ("192.0.2.1", "192.0.2.1", Some("(forgotten)")),
            ("Ip:192.0.2.1, 192.0.2.1.", "192.0.2.1", Some("Ip:(forgotten), (forgotten).")),
            ("192.0.2.10 and 1192.0.2.1", "192.0.2.1", None),
            ("user roberta", "robert", None),
            ("user=robert;", "robert", Some("user=(forgotten);")),
            ("[\"robert\"]", "robert", Some("[\"(forgotten)\"]")),
            ("é\u{a0}robert", "robert", Some("é\u{a0}(forgotten)")),
            ("anything", "", None),
        ];
        for (text, value, left) in cases {
            assert_eq!(without(text, value).as_deref(), left, "{value} in {text}");
            assert_eq!(mentions(text, value), left.is_some(), "{value} in {text}");
        }
    }

    #[test]
    fn all_texts_of_a_document_are_searched() {
        let mut json = serde_json::json!({ "a": ["x robert", { "b": "robert" }], "robert": 1, "c": null });
        assert!(redact(&mut json, "robert"));
        assert_eq!(json, serde_json::json!({ "a": ["x (forgotten)", { "b": "(forgotten)" }], "robert": 1, "c": null }));
        assert!(!redact(&mut json, "robert"));
    }
}
