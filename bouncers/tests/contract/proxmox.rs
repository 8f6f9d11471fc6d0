//! A Proxmox VE cluster: one file behind one lock, and addresses in its own spelling.

use serde_json::{Value, json};

use crate::server::{Api, Reply, Request, decode};

/// One entry of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) cidr: String,
    pub(crate) comment: String,
    pub(crate) nomatch: bool,
}

/// The cluster.
pub(crate) struct Proxmox {
    pub(crate) token: String,
    pub(crate) sets: Vec<(String, Vec<Entry>)>,
    /// Type, action, source, and whether it counts, from the first on.
    pub(crate) rules: Vec<(String, String, String, bool)>,
    /// The file must not become longer.
    pub(crate) most_bytes: usize,
}

impl Proxmox {
    pub(crate) fn new(token: &str) -> Self {
        let entry = |cidr: &str| Entry { cidr: cidr.to_owned(), comment: "by hand".to_owned(), nomatch: false };
        Self {
            token: token.to_owned(),
            sets: vec![
                ("management".to_owned(), vec![entry("192.0.2.10")]),
                ("blacklist".to_owned(), vec![entry("198.51.100.66")]),
            ],
            rules: vec![("in".to_owned(), "ACCEPT".to_owned(), "+dc/management".to_owned(), true)],
            most_bytes: 1 << 20,
        }
    }

    pub(crate) fn set(&mut self, name: &str) -> Option<&mut Vec<Entry>> {
        self.sets.iter_mut().find(|(known, _)| known == name).map(|(_, entries)| entries)
    }

    fn bytes(&self) -> usize {
        self.sets.iter().flat_map(|(_, entries)| entries).map(|entry| entry.cidr.len() + entry.comment.len() + 4).sum()
    }
}

/// As the cluster writes it: single addresses without their length.
fn spelled(cidr: &str) -> Option<String> {
    let net = model::scope::parse_net(cidr).ok()?;
    (net.prefix_len() > 0).then(|| model::allowlist::display_net(net))
}

fn done() -> Reply {
    Reply::json(200, &json!({ "data": null }))
}

fn wrong(parameter: &str, why: &str) -> Reply {
    Reply::json(
        400,
        &json!({ "data": null, "message": "Parameter verification failed.", "errors": { parameter: why } }),
    )
}

impl Api for Proxmox {
    fn answer(&mut self, request: &Request) -> Reply {
        if request.header("authorization") != Some(&format!("PVEAPIToken={}", self.token)) {
            return self.expired();
        }
        let path = request.path.strip_prefix("/api2/json/cluster/firewall/").unwrap_or_default().to_owned();
        let parts: Vec<String> = path.split('/').map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let field = |name: &str| request.field(name).unwrap_or_default();
        match (request.method.as_str(), &parts[..]) {
            ("GET", ["ipset"]) => {
                let sets: Vec<Value> =
                    self.sets.iter().map(|(name, _)| json!({ "name": name, "digest": "d" })).collect();
                Reply::json(200, &json!({ "data": sets }))
            }
            ("POST", ["ipset"]) => {
                if self.set(&field("name")).is_some() {
                    return wrong("name", "IPSet already exists");
                }
                self.sets.push((field("name"), Vec::new()));
                done()
            }
            ("GET", ["ipset", name]) => match self.set(name) {
                Some(entries) => {
                    let shown = |entry: &Entry| {
                        let mut value = json!({ "cidr": entry.cidr, "digest": "d" });
                        if !entry.comment.is_empty() {
                            value["comment"] = json!(entry.comment);
                        }
                        if entry.nomatch {
                            value["nomatch"] = json!(1);
                        }
                        value
                    };
                    Reply::json(200, &json!({ "data": entries.iter().map(shown).collect::<Vec<_>>() }))
                }
                None => wrong("name", "no such IPSet"),
            },
            ("POST", ["ipset", name]) => {
                let Some(cidr) = spelled(&field("cidr")) else { return wrong("cidr", "invalid format") };
                let (bytes, most) = (self.bytes(), self.most_bytes);
                let Some(entries) = self.set(name) else { return wrong("name", "no such IPSet") };
                if entries.iter().any(|entry| entry.cidr == cidr) {
                    return wrong("cidr", &format!("address '{cidr}' already exists"));
                }
                let comment = field("comment");
                if bytes + cidr.len() + comment.len() + 4 > most {
                    return Reply::json(500, &json!({ "data": null, "message": "file too large" }));
                }
                entries.push(Entry { cidr, comment, nomatch: false });
                done()
            }
            ("DELETE", ["ipset", name, cidr]) => {
                let cidr = spelled(cidr).unwrap_or_default();
                if let Some(entries) = self.set(name) {
                    entries.retain(|entry| entry.cidr != cidr);
                }
                done()
            }
            ("GET", ["rules"]) => {
                let shown = self.rules.iter().enumerate().map(|(pos, (kind, action, source, enable))| {
                    json!({ "pos": pos, "type": kind, "action": action, "source": source, "enable": i32::from(*enable) })
                });
                Reply::json(200, &json!({ "data": shown.collect::<Vec<_>>() }))
            }
            ("POST", ["rules"]) => {
                let rule = (field("type"), field("action"), field("source"), field("enable") == "1");
                let at = field("pos").parse::<usize>().unwrap_or(0).min(self.rules.len());
                self.rules.insert(at, rule);
                done()
            }
            _ => Reply::json(501, &json!({ "data": null, "message": "Method not implemented" })),
        }
    }
}
