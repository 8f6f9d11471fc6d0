//! Who came from which address, as the controller's own events tell: the way from a banned address to sessions of
//! the newer kind and to circuits, neither of which the management API can be asked for by address.
//!
//! Lines are those of the controller's events file. What they say comes from outside, so the index is bounded, forgets
//! after a day, keeps no token, and anything that it does not understand is passed over.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// How long an event counts.
const MEMORY: SignedDuration = SignedDuration::from_hours(24);
/// Events that are remembered.
const MOST: usize = 50_000;
/// Longest line that is read.
pub const MAX_LINE: usize = 64 << 10;

/// What was opened from an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Opened {
    /// A circuit, by its id.
    Circuit(String),
    /// A session of the newer kind, by its id, and whose it is.
    Session {
        /// The session.
        id: String,
        /// The identity.
        identity: String,
    },
}

impl Opened {
    fn id(&self) -> &str {
        match self {
            Self::Circuit(id) | Self::Session { id, .. } => id,
        }
    }
}

/// What is remembered, oldest first.
#[derive(Debug)]
pub struct Index {
    most: usize,
    order: VecDeque<(Timestamp, String)>,
    entries: HashMap<String, (Timestamp, IpAddr, Opened)>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    namespace: String,
    #[serde(default, rename = "event_type")]
    what: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    identity_id: String,
    #[serde(default)]
    ip_address: String,
    #[serde(default)]
    circuit_id: String,
    path: Option<Path>,
    timestamp: Option<String>,
}

#[derive(Deserialize)]
struct Path {
    #[serde(default)]
    initiator_remote_addr: String,
}

impl Default for Index {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl Index {
    /// Nothing yet; `most` events are remembered.
    pub fn new(most: usize) -> Self {
        Self { most, order: VecDeque::new(), entries: HashMap::new() }
    }

    /// Takes one line of an events file.
    pub fn take(&mut self, line: &[u8], now: Timestamp) {
        if line.len() > MAX_LINE {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event>(line) else { return };
        let told = event.timestamp.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
        // A time that is not in the last day is nobody's to choose.
        let at = told.filter(|&at| at <= now).unwrap_or(now);
        if now.duration_since(at) > MEMORY {
            return;
        }
        let (from, opened) = match event.namespace.as_str() {
            "circuit" | "fabric.circuits" => {
                let from = event.path.map(|path| path.initiator_remote_addr).unwrap_or_default();
                (from, Opened::Circuit(event.circuit_id))
            }
            "apiSession" | "edge.apiSessions" if event.kind == "jwt" || event.what == "deleted" => {
                (event.ip_address, Opened::Session { id: event.id, identity: event.identity_id })
            }
            _ => return,
        };
        if super::name::id(opened.id()).is_err() {
            return;
        }
        match event.what.as_str() {
            "deleted" | "failed" => drop(self.entries.remove(opened.id())),
            _ => {
                if let Some(address) = address(&from) {
                    self.insert(at, address, opened);
                }
            }
        }
        self.forget(now);
    }

    /// What was opened from the addresses that `wanted` picks, and has not ended.
    pub fn opened(&self, now: Timestamp, wanted: impl Fn(IpAddr) -> bool) -> Vec<Opened> {
        let young = self.entries.values().filter(|(at, ..)| now.duration_since(*at) <= MEMORY);
        let mut found: Vec<Opened> =
            young.filter(|(_, address, _)| wanted(*address)).map(|(_, _, opened)| opened.clone()).collect();
        found.sort_by(|a, b| a.id().cmp(b.id()));
        found
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn insert(&mut self, at: Timestamp, address: IpAddr, opened: Opened) {
        let id = opened.id().to_owned();
        if self.entries.insert(id.clone(), (at, address, opened)).is_none() {
            self.order.push_back((at, id));
        }
    }

    fn forget(&mut self, now: Timestamp) {
        while let Some((at, id)) = self.order.front() {
            if self.order.len() <= self.most && now.duration_since(*at) <= MEMORY {
                break;
            }
            self.entries.remove(id);
            self.order.pop_front();
        }
    }
}

/// The address in `text`: bare, with a port, in brackets, behind `tls:` or `tcp:`.
pub fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = |text: &str| {
        let one = text.parse::<IpAddr>().ok();
        one.or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
            .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
    };
    let found = bare(text).or_else(|| {
        let (scheme, rest) = text.split_once(':')?;
        let known = ["tls", "tcp", "udp", "dtls", "ws", "wss", "transport"].contains(&scheme);
        known.then(|| bare(rest.trim_start_matches('/'))).flatten()
    })?;
    Some(found.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().expect("a time")
    }

    fn opened(index: &Index, from: &str) -> Vec<String> {
        let from: IpAddr = from.parse().expect("an address");
        index.opened(now(), |address| address == from).iter().map(|opened| opened.id().to_owned()).collect()
    }

    #[test]
    fn addresses_come_in_many_forms() {
        // (text, address)
        let cases = [
            ("203.0.113.9", Some("203.0.113.9")),
            ("203.0.113.9:52004", Some("203.0.113.9")),
            ("tls:203.0.113.9:52004", Some("203.0.113.9")),
            ("tcp:[2001:db8::9]:52004", Some("2001:db8::9")),
            ("[2001:db8::9]:1", Some("2001:db8::9")),
            ("[2001:db8::9]", Some("2001:db8::9")),
            ("2001:db8::9", Some("2001:db8::9")),
            ("::ffff:203.0.113.9", Some("203.0.113.9")),
            ("dead:203.0.113.9:1", None),
            ("203.0.113.9, 192.0.2.1", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(address(text).map(|address| address.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_was_opened_is_found_until_it_ends() {
        let mut index = Index::default();
        let lines = [
            r#"{"namespace":"apiSession","event_type":"created","type":"jwt","id":"s1","identity_id":"i1","ip_address":"203.0.113.9","timestamp":"2026-11-23T11:00:00Z"}"#,
            r#"{"namespace":"apiSession","event_type":"created","type":"legacy","id":"s2","identity_id":"i1","ip_address":"203.0.113.9"}"#,
            r#"{"namespace":"circuit","event_type":"created","circuit_id":"c1","path":{"initiator_remote_addr":"tls:203.0.113.9:4"}}"#,
            r#"{"namespace":"fabric.circuits","event_type":"created","circuit_id":"c2","path":{"initiator_remote_addr":"203.0.113.9:5"}}"#,
            r#"{"namespace":"circuit","event_type":"created","circuit_id":"c3","path":{"initiator_remote_addr":"203.0.113.10:5"}}"#,
            r#"{"namespace":"circuit","event_type":"created","circuit_id":"../x","path":{"initiator_remote_addr":"203.0.113.9:5"}}"#,
            r#"{"namespace":"circuit","event_type":"created","circuit_id":"old","timestamp":"2026-11-21T11:00:00Z","path":{"initiator_remote_addr":"203.0.113.9:5"}}"#,
            r#"{"namespace":"circuit","event_type":"deleted","circuit_id":"c2"}"#,
            r#"{"namespace":"circuit","circuit_id":7}"#,
            "{",
            "",
        ];
        for line in lines {
            index.take(line.as_bytes(), now());
        }
        assert_eq!(opened(&index, "203.0.113.9"), ["c1", "s1"]);
        assert_eq!(opened(&index, "203.0.113.10"), ["c3"]);
        let tomorrow = now() + SignedDuration::from_hours(25);
        assert!(index.opened(tomorrow, |_| true).is_empty());
    }

    #[test]
    fn a_flood_is_bounded() {
        let most = 500;
        let mut index = Index::new(most);
        for number in 0..=most {
            let line = format!(
                r#"{{"namespace":"circuit","event_type":"created","circuit_id":"c{number}","path":{{"initiator_remote_addr":"203.0.113.9:5"}}}}"#
            );
            index.take(line.as_bytes(), now());
        }
        assert_eq!((index.len(), index.order.len()), (most, most));
        // Deleted and made again for ever: the order must not grow either.
        for number in 0..3 * most {
            let id = number % 7;
            for kind in ["created", "deleted"] {
                let line = format!(
                    r#"{{"namespace":"circuit","event_type":"{kind}","circuit_id":"d{id}","path":{{"initiator_remote_addr":"203.0.113.9:5"}}}}"#
                );
                index.take(line.as_bytes(), now());
            }
        }
        assert!(index.order.len() <= most);
    }
}
