//! What somebody reads who is refused: that he is, and a reference. Never why.

use hyper::body::Bytes;
use hyper::http::HeaderMap;
use hyper::http::header::ACCEPT;

use super::reference::Reference;

/// What stands in a page of one's own where the reference belongs.
const PLACE: &str = "{{reference}}";

/// Our page.
const PAGE: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Access refused</title>\n\
    <style>body{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:12vh auto;padding:0 1em}</style>\n\
    <h1>Access refused</h1>\n<p>This request was not let through. If you think that this is a mistake, tell the people who run this \
    site the reference below.</p>\n<p><code>{{reference}}</code></p>\n</html>\n";

/// A body and its type.
pub(super) struct Body {
    /// The type, as HTTP names it.
    pub(super) kind: &'static str,
    /// What is sent.
    pub(super) bytes: Bytes,
}

/// What is sent to somebody who prefers what `headers` say.
pub(super) fn body(page: Option<&str>, headers: &HeaderMap, reference: &Reference) -> Body {
    if wants_json(headers) {
        let text = format!("{{\"error\":\"access refused\",\"reference\":\"{reference}\"}}\n");
        return Body { kind: "application/json", bytes: text.into() };
    }
    let text = page.unwrap_or(PAGE).replace(PLACE, &reference.to_string());
    Body { kind: "text/html; charset=utf-8", bytes: text.into() }
}

/// Whether JSON is asked for, and pages are not asked for more.
fn wants_json(headers: &HeaderMap) -> bool {
    let (mut json, mut html) = (0.0, 0.0);
    for value in headers.get_all(ACCEPT) {
        for part in value.to_str().unwrap_or_default().split(',') {
            let mut words = part.split(';').map(str::trim);
            let kind = words.next().unwrap_or_default().to_ascii_lowercase();
            let weight = words.find_map(|word| word.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
            match kind.as_str() {
                "text/html" | "application/xhtml+xml" | "text/*" => html = weight.max(html),
                kind if kind == "application/json" || kind.ends_with("+json") => json = weight.max(json),
                _ => {}
            }
        }
    }
    json > 0.0 && json >= html
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn the_reader_chooses_the_form() {
        let reference = Reference::new("203.0.113.9".parse().expect("a valid test address"), Timestamp::UNIX_EPOCH, 7);
        // (accept, type)
        let cases = [
            ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
            ("application/json", "application/json"),
            ("application/problem+json", "application/json"),
            ("text/html;q=0.5, application/json", "application/json"),
            ("text/html, application/json;q=0.9", "text/html; charset=utf-8"),
            ("application/json;q=0", "text/html; charset=utf-8"),
            ("*/*", "text/html; charset=utf-8"),
            ("", "text/html; charset=utf-8"),
        ];
        for (accept, kind) in cases {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().expect("a valid test header"))]);
            let body = body(None, &headers, &reference);
            assert_eq!(body.kind, kind, "{accept}");
            let text = String::from_utf8(body.bytes.to_vec()).expect("text");
            assert!(text.contains(&reference.to_string()) && !text.contains("203.0.113.9"), "{text}");
        }
        let own = body(Some("<p>{{reference}}</p>"), &HeaderMap::new(), &reference);
        assert_eq!(own.bytes, format!("<p>{reference}</p>"));
    }
}
