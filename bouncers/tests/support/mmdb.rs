//! Writes small databases in the format `mmdb`, sound ones and damaged ones.

use ipnet::IpNet;
use serde_json::{Value, json};

/// What a branch leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Branch {
    /// Nothing is known.
    Empty,
    /// An inner node.
    Node(usize),
    /// A record.
    Data(usize),
}

/// A database that is being written. Networks written later lie over earlier ones.
#[derive(Clone, Debug)]
pub(crate) struct Mmdb {
    pub(crate) nodes: Vec<[Branch; 2]>,
    records: Vec<Value>,
    ipv6: bool,
}

/// A record like those of the databases of countries in use.
pub(crate) fn country(code: &str) -> Value {
    json!({ "country": { "iso_code": code }, "registered_country": { "iso_code": "ZZ" } })
}

/// A record like those of the databases of autonomous systems in use.
pub(crate) fn system(number: u32) -> Value {
    json!({ "autonomous_system_number": number, "autonomous_system_organization": "Example" })
}

impl Mmdb {
    /// Knows both families; IPv4 lies under `::/96`, as everywhere.
    pub(crate) fn new() -> Self {
        Self { nodes: vec![[Branch::Empty; 2]], records: Vec::new(), ipv6: true }
    }

    /// Knows IPv4 only.
    pub(crate) fn ipv4() -> Self {
        Self { ipv6: false, ..Self::new() }
    }

    /// Countries by network.
    pub(crate) fn countries(entries: &[(&str, &str)]) -> Self {
        entries.iter().fold(Self::new(), |mmdb, (net, code)| mmdb.with(net, country(code)))
    }

    /// Systems by network.
    pub(crate) fn systems(entries: &[(&str, u32)]) -> Self {
        entries.iter().fold(Self::new(), |mmdb, (net, number)| mmdb.with(net, system(*number)))
    }

    /// Says `record` of `net`.
    pub(crate) fn with(mut self, net: &str, record: Value) -> Self {
        let known = self.records.iter().position(|known| *known == record);
        let data = known.unwrap_or(self.records.len());
        if known.is_none() {
            self.records.push(record);
        }
        self.put(net, Branch::Data(data));
        self
    }

    /// Repeats all of IPv4 where databases do it: as mapped addresses, in Teredo and in 6to4.
    pub(crate) fn with_aliases(mut self) -> Self {
        let mut node = 0;
        for _ in 0..96 {
            match self.nodes[node][0] {
                Branch::Node(next) => node = next,
                _ => return self,
            }
        }
        for net in ["::ffff:0:0/96", "2001::/32", "2002::/16"] {
            self.put(net, Branch::Node(node));
        }
        self
    }

    fn put(&mut self, net: &str, branch: Branch) {
        let net: IpNet = net.parse().expect("a valid test prefix");
        let (bits, length, width) = match net {
            IpNet::V4(net) if self.ipv6 => (u128::from(net.network().to_bits()), net.prefix_len() + 96, 128),
            IpNet::V4(net) => (u128::from(net.network().to_bits()), net.prefix_len(), 32),
            IpNet::V6(net) => (net.network().to_bits(), net.prefix_len(), 128),
        };
        let mut node = 0;
        for depth in 0..length {
            let side = usize::from(bits >> (width - 1 - depth) & 1 == 1);
            if depth + 1 == length {
                self.nodes[node][side] = branch;
                return;
            }
            node = match self.nodes[node][side] {
                Branch::Node(inner) => inner,
                other => {
                    self.nodes.push([other; 2]);
                    let inner = self.nodes.len() - 1;
                    self.nodes[node][side] = Branch::Node(inner);
                    inner
                }
            };
        }
    }

    /// The file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut data = Vec::new();
        let mut places = Vec::new();
        for record in &self.records {
            places.push(data.len());
            encode(&mut data, record);
        }
        let count = self.nodes.len();
        let mut file = Vec::new();
        for branch in self.nodes.iter().flatten() {
            let value = match *branch {
                Branch::Empty => count,
                Branch::Node(node) => node,
                Branch::Data(record) => count + 16 + places[record],
            };
            file.extend((value as u32).to_be_bytes());
        }
        file.extend([0; 16]);
        file.extend(data);
        file.extend(b"\xab\xcd\xefMaxMind.com");
        // Readers insist on the width of each number here.
        file.push(MAP + 9);
        for (key, width, number) in [
            ("binary_format_major_version", 2, 2),
            ("binary_format_minor_version", 2, 0),
            ("build_epoch", 8, 1_700_000_000),
            ("ip_version", 2, if self.ipv6 { 6 } else { 4 }),
            ("node_count", 4, count as u64),
            ("record_size", 2, 32),
        ] {
            encode(&mut file, &json!(key));
            match width {
                2 => file.push(NUMBER16 + 2),
                4 => file.push(NUMBER32 + 4),
                _ => file.extend([8, 9 - 7]),
            }
            file.extend(&number.to_be_bytes()[8 - width..]);
        }
        for (key, value) in [
            ("database_type", json!("Test")),
            ("description", json!({ "en": "made by a test" })),
            ("languages", json!(["en"])),
        ] {
            encode(&mut file, &json!(key));
            encode(&mut file, &value);
        }
        file
    }
}

/// Kinds of values, in the upper bits.
const TEXT: u8 = 2 << 5;
const NUMBER16: u8 = 5 << 5;
const NUMBER32: u8 = 6 << 5;
const MAP: u8 = 7 << 5;

fn encode(bytes: &mut Vec<u8>, value: &Value) {
    let size = |size: usize| u8::try_from(size).ok().filter(|&size| size < 29).expect("small enough for one byte");
    match value {
        Value::String(text) => {
            match text.len().checked_sub(29) {
                Some(more) => bytes.extend([TEXT + 29, u8::try_from(more).expect("a short text")]),
                None => bytes.push(TEXT + size(text.len())),
            }
            bytes.extend(text.as_bytes());
        }
        Value::Number(number) => {
            let number = number.as_u64().expect("a whole number");
            bytes.push(NUMBER32 + 4);
            bytes.extend(u32::try_from(number).expect("a number of 32 bits").to_be_bytes());
        }
        Value::Object(entries) => {
            bytes.push(MAP + size(entries.len()));
            for (key, value) in entries {
                encode(bytes, &Value::String(key.clone()));
                encode(bytes, value);
            }
        }
        Value::Array(items) => {
            bytes.extend([size(items.len()), 11 - 7]);
            for item in items {
                encode(bytes, item);
            }
        }
        other => panic!("no test needs {other}"),
    }
}
