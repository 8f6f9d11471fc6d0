//! Masking what should never have been written into a log.
//!
//! People type their password where the user name belongs, and programs put tokens into addresses of pages. An alert takes
//! both along as evidence. They are masked before it is stored, wherever they stand in it; what it is about (its source, its
//! decisions) stays, since otherwise nobody could be kept out.

use model::Alert;
use model::alert::AlertEvent;

use super::replaced;

/// What stands where something was masked.
pub const MASKED: &str = "(masked)";

/// The keys under which parsers put user names.
const USER_KEYS: &[&str] =
    &["account", "login", "source_user", "target_user", "target_username", "user", "user_name", "username"];
/// The keys under which they put the query of a page alone.
const QUERY_KEYS: &[&str] = &["http_args", "query", "query_string", "uri_query"];
/// Shorter ones are taken for user names.
const MIN_PASSWORD: usize = 6;
/// How many texts are looked for in one event, and in what is said about all of them.
const MAX_PASSWORDS: usize = 64;
/// How many parameters of a query keep their names.
const MAX_PARAMETERS: usize = 16;
/// Longest name of a parameter that is shown, in bytes.
const MAX_PARAMETER: usize = 64;

/// What is masked in alerts before they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masks {
    /// What looks like a password and stands where a user name belongs.
    pub passwords: bool,
    /// The values in the queries of pages.
    pub queries: bool,
}

impl Default for Masks {
    fn default() -> Self {
        Self { passwords: true, queries: true }
    }
}

impl Masks {
    /// Masks what is to be masked in `alert`.
    pub fn apply(self, alert: &mut Alert) {
        let target = alert.source.value.clone();
        let mut known = Passwords::default();
        for event in &mut alert.events {
            let mut own = Passwords::default();
            if self.passwords {
                let names = event.meta.iter().filter(|meta| is_user(&meta.key)).map(|meta| meta.value.as_str());
                names.filter(|name| *name != target).for_each(|name| own.take(name));
            }
            if own.too_many {
                // Nobody has so many user names; what is left of it must not cost more than it is worth.
                strip_event(event);
                continue;
            }
            for meta in &mut event.meta {
                self.mask(&mut meta.value, &own);
                if self.queries && QUERY_KEYS.contains(&meta.key.as_str()) {
                    meta.value = parameters(meta.value.trim_start_matches('?'));
                }
            }
            if let Some(evidence) = &mut event.cordon {
                self.mask(&mut evidence.raw, &own);
            }
            own.texts.iter().for_each(|text| known.add(text));
        }
        self.mask(&mut alert.message, &known);
        if let Some(evidence) = &mut alert.cordon {
            self.mask(&mut evidence.key, &known);
        }
        for meta in &mut alert.meta {
            let is_password =
                |text: &str| self.passwords && is_user(&meta.key) && text != target && looks_like_password(text);
            let mask = |text: &mut String| match text {
                text if is_password(text) => MASKED.clone_into(text),
                text => self.mask(text, &known),
            };
            // Agents write lists here. In their JSON a password may be written in another way.
            match serde_json::from_str::<Vec<String>>(&meta.value) {
                Ok(mut texts) => {
                    texts.iter_mut().for_each(mask);
                    meta.value = serde_json::Value::from(texts).to_string();
                }
                Err(_) => mask(&mut meta.value),
            }
        }
    }

    fn mask(self, text: &mut String, passwords: &Passwords) {
        for password in &passwords.texts {
            if let Some(left) = replaced(text, password, MASKED) {
                *text = left;
            }
        }
        if self.queries
            && let Some(left) = without_queries(text)
        {
            *text = left;
        }
    }
}

/// Takes lines, user names and all else that is evidence out of `alert`; what happened, when and where, and how often, stays.
pub fn strip(alert: &mut Alert) {
    alert.meta.clear();
    alert.events.iter_mut().for_each(strip_event);
}

fn strip_event(event: &mut AlertEvent) {
    event.meta.clear();
    if let Some(evidence) = &mut event.cordon {
        evidence.raw.clear();
    }
}

fn is_user(key: &str) -> bool {
    USER_KEYS.contains(&key)
}

/// User names that look like passwords, as they are and as JSON has them.
#[derive(Default)]
struct Passwords {
    texts: Vec<String>,
    too_many: bool,
}

impl Passwords {
    /// Takes `name` if it looks like a password.
    fn take(&mut self, name: &str) {
        if looks_like_password(name) {
            let json = serde_json::Value::from(name).to_string();
            self.add(name);
            self.add(json.get(1..json.len().saturating_sub(1)).unwrap_or_default());
        }
    }

    fn add(&mut self, text: &str) {
        if self.texts.len() == MAX_PASSWORDS {
            self.too_many = true;
        } else if !self.texts.iter().any(|known| known == text) {
            self.texts.push(text.to_owned());
        }
    }
}

/// Whether a user name looks like a password: characters that names do not have, or small letters, capitals and digits
/// together. In doubt it does.
fn looks_like_password(name: &str) -> bool {
    if name.chars().count() < MIN_PASSWORD || model::scope::parse_net(name).is_ok() {
        return false;
    }
    // `name@host.example`, `DOMAIN\name`, `HOST$`
    let name = match name.rsplit_once('@') {
        Some((local, domain)) if is_domain(domain) => local,
        _ => name,
    };
    let name = name.rsplit_once('\\').map_or(name, |(_, name)| name);
    let name = name.strip_suffix('$').unwrap_or(name);
    let has = |wanted: fn(char) -> bool| name.chars().any(wanted);
    let unusual = |one: char| !one.is_alphanumeric() && !"._-@/+: ".contains(one);
    let alphanumeric = has(char::is_alphanumeric);
    alphanumeric && has(unusual)
        || has(char::is_lowercase) && has(char::is_uppercase) && has(|one| one.is_ascii_digit())
}

fn is_domain(text: &str) -> bool {
    text.contains('.') && text.chars().all(|one| one.is_ascii_alphanumeric() || ".-".contains(one))
}

/// `text` with the queries of pages masked, if there are any: what follows the first `?` of a word with a `/` before it.
fn without_queries(text: &str) -> Option<String> {
    if !text.contains('?') {
        return None;
    }
    let ends = |one: char| one.is_whitespace() || one == '"';
    let mut left = String::with_capacity(text.len());
    let mut found = false;
    for word in text.split_inclusive(ends) {
        let (word, end) = word.strip_suffix(ends).map_or((word, ""), |bare| (bare, &word[bare.len()..]));
        match word.split_once('?') {
            Some((page, query)) if page.contains('/') && !query.is_empty() => {
                found = true;
                left.push_str(page);
                left.push('?');
                left.push_str(&parameters(query));
            }
            _ => left.push_str(word),
        }
        left.push_str(end);
    }
    found.then_some(left)
}

/// A query with its values masked.
fn parameters(query: &str) -> String {
    if query.is_empty() || query.split('&').nth(MAX_PARAMETERS).is_some() {
        return if query.is_empty() { String::new() } else { MASKED.to_owned() };
    }
    let plain = |name: &str| {
        let known = |one: char| one.is_ascii_alphanumeric() || "_-.[]".contains(one);
        !name.is_empty() && name.len() <= MAX_PARAMETER && name.chars().all(known)
    };
    let masked = |parameter: &str| match parameter.split_once('=') {
        Some((name, "")) if plain(name) => format!("{name}="),
        Some((name, _)) if plain(name) => format!("{name}={MASKED}"),
        _ => MASKED.to_owned(),
    };
    query.split('&').map(masked).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use model::alert::{EventEvidence, Meta, Source};

    use super::*;

    #[test]
    fn passwords_are_told_from_names() {
        let names = [
            "root",
            "admin",
            "www-data",
            "john.doe",
            "John Smith",
            "jdoe1987",
            "ADMINISTRATOR",
            "john@example.com",
            "ACME\\jdoe",
            "WEB01$",
            "systemd-network",
            "192.0.2.1",
            "2001:db8::1",
            "2001:db8::/32",
            "a!b",
            "",
            "host/web.example@REALM.EXAMPLE",
            "+4915112345",
            "JohnDoe",
            "émile.zola",
        ];
        for name in names {
            assert!(!looks_like_password(name), "{name}");
        }
        for password in
            ["hunter2!", "Tr0ub4dor&3", "Summer2024", "pa$$word", "correct#horse", "P@ssw0rd", "ACME\\S3cretPw"]
        {
            assert!(looks_like_password(password), "{password}");
        }
    }

    #[test]
    fn queries_lose_their_values_and_keep_their_names() {
        // (text, what is left; `None` if nothing is masked)
        let cases = [
            ("GET /login?user=eve&pw=secret HTTP/1.1", Some("GET /login?user=(masked)&pw=(masked) HTTP/1.1")),
            (
                "\"GET /a?b=c HTTP/1.1\" 200 \"https://x.example/?t=1\"",
                Some("\"GET /a?b=(masked) HTTP/1.1\" 200 \"https://x.example/?t=(masked)\""),
            ),
            ("/?id=1'/**/or/**/1=1", Some("/?id=(masked)")),
            ("/a?secret", Some("/a?(masked)")),
            ("/a?b=&<c>=d", Some("/a?b=&(masked)")),
            ("/a?b=c?d=e", Some("/a?b=(masked)")),
            ("/a?b[]=c\t/d?e=f", Some("/a?b[]=(masked)\t/d?e=(masked)")),
            ("/a?", None),
            ("what? nothing/here", None),
            ("really?yes", None),
            ("", None),
        ];
        for (text, left) in cases {
            assert_eq!(without_queries(text).as_deref(), left, "{text}");
        }
        assert_eq!(parameters(&["a=b"; 40].join("&")), MASKED);
    }

    fn alert(user: &str, raw: &str) -> Alert {
        let meta = |key: &str, value: &str| Meta { key: key.into(), value: value.into() };
        let evidence =
            EventEvidence { source: "/var/log/auth.log".into(), raw: raw.into(), ..EventEvidence::default() };
        Alert {
            message: format!("user {user}"),
            source: Source { scope: "Ip".into(), value: "192.0.2.1".into(), ..Source::default() },
            meta: vec![meta("target_user", &serde_json::json!([user, "root"]).to_string())],
            events: vec![AlertEvent {
                meta: vec![meta("target_user", user), meta("http_path", "/a?b=c"), meta("http_args", "token=x")],
                timestamp: "2031-04-05T08:59:30Z".into(),
                cordon: Some(evidence),
            }],
            ..Alert::default()
        }
    }

    #[test]
    fn what_is_masked_is_gone_everywhere_and_what_is_not_stays() {
        let secret = r#"Tr0ub"4dor&3"#;
        let raw = format!("Invalid user {secret} from 192.0.2.1 port 22");
        let (passwords, queries) = (true, true);
        // (what is masked, whether password and query are left)
        for (masks, left) in [
            (Masks { passwords, queries }, (false, false)),
            (Masks { passwords, queries: false }, (false, true)),
            (Masks { passwords: false, queries }, (true, false)),
            (Masks { passwords: false, queries: false }, (true, true)),
        ] {
            let mut alert = alert(secret, &raw);
            masks.apply(&mut alert);
            let text = serde_json::to_string(&alert).expect("JSON");
            assert_eq!((text.contains("dor&3"), text.contains("token=x") || text.contains("?b=c")), left, "{masks:?}");
            assert!(text.contains("from 192.0.2.1 port 22") && text.contains("root"), "{text}");
        }
        let mut plain = alert("root", "Invalid user root from 192.0.2.1");
        Masks { passwords, queries: false }.apply(&mut plain);
        assert_eq!(plain, alert("root", "Invalid user root from 192.0.2.1"));
    }

    #[test]
    fn a_stripped_alert_keeps_what_happened() {
        let mut alert = alert("root", "Invalid user root from 192.0.2.1");
        strip(&mut alert);
        let text =
            serde_json::to_string(&alert.events).expect("JSON") + &serde_json::to_string(&alert.meta).expect("JSON");
        assert!(!text.contains("root") && text.contains("2031-04-05T08:59:30Z") && text.contains("auth.log"), "{text}");
    }
}
