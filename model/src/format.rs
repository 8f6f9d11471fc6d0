//! The `format` key of rule files: which versions of the field's shapes are read.

use crate::yaml::{Fault, Keys};

/// Checks `format` of a document. The outer error is for what is no version at all; the inner one is for a version that
/// is not supported, whose document is left out.
pub fn check(keys: &Keys<'_>) -> Result<Result<(), Fault>, Fault> {
    let Some(format) = keys.text("format")?.filter(|format| !format.is_empty()) else { return Ok(Ok(())) };
    let version = version(&format).ok_or_else(|| {
        Fault::new(format.line, format!("`format` must be a version such as `2.0`, found `{}`", &*format))
    })?;
    let within = ([1, 0, 0]..=[3, 0, 0]).contains(&version) && !format.contains('-');
    Ok(if within {
        Ok(())
    } else {
        Err(Fault::new(
            format.line,
            format!("format version `{}` is not supported, the document is left out", &*format),
        )
        .hint("versions from `1.0` to `3.0` are"))
    })
}

fn version(text: &str) -> Option<[u64; 3]> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let core = text.split_once(['-', '+']).map_or(text, |(core, _)| core);
    let mut numbers = [0; 3];
    for (index, part) in core.split('.').enumerate() {
        *numbers.get_mut(index)? = part.parse().ok()?;
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::documents;

    #[test]
    fn versions() {
        // (format, read, or why not)
        let cases = [
            ("", "read"),
            ("1", "read"),
            ("2.0", "read"),
            ("v3.0.0", "read"),
            ("3.1", "left out"),
            ("0.9", "left out"),
            ("2.0-beta", "left out"),
            ("two", "refused"),
            ("1.2.3.4", "refused"),
        ];
        for (format, expected) in cases {
            let yaml = documents(&format!("format: {format}\n")).expect("valid YAML").remove(0);
            let found = match check(&yaml.keys("the test").expect("a map")) {
                Ok(Ok(())) => "read",
                Ok(Err(_)) => "left out",
                Err(_) => "refused",
            };
            assert_eq!(found, expected, "{format}");
        }
    }
}
