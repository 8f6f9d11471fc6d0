//! A database in the format `mmdb`, whoever made it: look-ups, and one walk through all of it.
//!
//! A file comes from outside and may be damaged or hostile. A tree has one more leaf than inner nodes; a walk that finds
//! more leaves than that is in a loop and ends with an error. Records are decoded once, whatever number of networks share
//! them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net, Ipv6Subnets};
use jiff::Timestamp;
use maxminddb::{MaxMindDbError, PathElement, Reader, WithinOptions};
use model::scope::parse_net;
use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::engine::span::{Family, Span, number, subtract};
use crate::geo::region::Code;

/// All IPv6 space that is given out.
const GIVEN_OUT6: &str = "2000::/3";
/// The tunnels in it (Teredo, 6to4): databases repeat all of IPv4 there.
const TUNNELS6: [&str; 2] = ["2001::/32", "2002::/16"];

/// Leaves beyond those of a sound tree: each area of a walk may begin inside one.
const SPARE_LEAVES: usize = 64;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// It cannot be read as what it should be.
    #[error("not a database in the format `mmdb`: {0}")]
    Format(#[from] MaxMindDbError),
    /// Its tree has more leaves than a tree of its size can have.
    #[error("damaged: its search tree runs in circles")]
    Circles,
}

/// Names of the fields that lead to a value, outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath(Vec<String>);

impl FieldPath {
    /// The path that people write as `country.iso_code`; `None` if a name in it is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let names: Vec<String> = text.split('.').map(str::to_owned).collect();
        names.iter().all(|name| !name.is_empty()).then_some(Self(names))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// Where records say what. Of several paths the first that leads anywhere counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// The country's code.
    pub country: Vec<FieldPath>,
    /// The autonomous system's number.
    pub system: Vec<FieldPath>,
}

impl Default for Fields {
    /// The paths of the databases in use: the country where an address is, else where it is registered. The country that
    /// somebody represents (an embassy, an army) is never asked.
    fn default() -> Self {
        let paths = |texts: &[&str]| texts.iter().filter_map(|text| FieldPath::parse(text)).collect();
        Self {
            country: paths(&["country.iso_code", "country_code", "registered_country.iso_code", "country"]),
            system: paths(&["autonomous_system_number", "asn"]),
        }
    }
}

/// What a database says about a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The country.
    pub country: Option<Code>,
    /// The autonomous system.
    pub system: Option<u32>,
}

/// What a look-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What is said.
    pub record: Record,
    /// Of which network; `None` where the database says nothing.
    pub network: Option<IpNet>,
}

/// What a database says about itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct About {
    /// What kind it is, in its own words.
    pub kind: String,
    /// When it was made; `None` if that is no time.
    pub built: Option<Timestamp>,
    /// Whether it knows IPv6.
    pub ipv6: bool,
    /// Inner nodes of its search tree.
    pub nodes: u32,
}

/// A database in memory.
pub struct Database {
    reader: Reader<Vec<u8>>,
    fields: Fields,
}

impl Database {
    /// Reads the database in `bytes`.
    pub fn read(bytes: Vec<u8>, fields: Fields) -> Result<Self, DatabaseError> {
        Ok(Self { reader: Reader::from_source(bytes)?, fields })
    }

    /// What it says about itself.
    pub fn about(&self) -> About {
        let metadata = self.reader.metadata();
        About {
            kind: metadata.database_type.clone(),
            built: i64::try_from(metadata.build_epoch).ok().and_then(|epoch| Timestamp::from_second(epoch).ok()),
            ipv6: metadata.ip_version == 6,
            nodes: metadata.node_count,
        }
    }

    /// What it says about `address`.
    pub fn lookup(&self, address: IpAddr) -> Result<Found, DatabaseError> {
        let address = address.to_canonical();
        if !self.covers(address) {
            return Ok(Found { record: Record::default(), network: None });
        }
        let found = self.reader.lookup(address)?;
        if !found.has_data() {
            return Ok(Found { record: Record::default(), network: None });
        }
        let network = found.network().ok().and_then(|network| parse_net(&network.to_string()).ok());
        Ok(Found { record: self.decode(&found)?, network })
    }

    /// Shows `visit` every network that has a record, IPv4 first, in order of addresses. Repeated copies of IPv4 inside IPv6
    /// are left out.
    pub fn walk(&self, mut visit: impl FnMut(Family, Span, Record)) -> Result<(), DatabaseError> {
        let mut leaves = self.reader.metadata().node_count as usize + SPARE_LEAVES;
        let mut known = HashMap::new();
        self.area(Ipv4Net::default().into(), &mut leaves, &mut known, &mut visit)?;
        if self.about().ipv6 {
            for area in areas6() {
                self.area(area.into(), &mut leaves, &mut known, &mut visit)?;
            }
        }
        Ok(())
    }

    /// What it says about the networks inside `net`, or around it: at most `limit` of them, `None` if there are more.
    pub fn within(&self, net: IpNet, limit: usize) -> Result<Option<Vec<Record>>, DatabaseError> {
        if !self.covers(net.addr()) {
            return Ok(Some(Vec::new()));
        }
        let (mut leaves, mut records) = (limit, Vec::new());
        match self.area(net, &mut leaves, &mut HashMap::new(), &mut |_, _, record| records.push(record)) {
            Ok(()) => Ok(Some(records)),
            Err(DatabaseError::Circles) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it can say anything about `address`.
    fn covers(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => self.about().ipv6 && areas6().any(|area| area.contains(&address)),
        }
    }

    fn area(
        &self,
        net: IpNet,
        leaves: &mut usize,
        known: &mut HashMap<usize, Record>,
        visit: &mut impl FnMut(Family, Span, Record),
    ) -> Result<(), DatabaseError> {
        let (family, bounds) = (Family::of(net), Span::of(net));
        // Every leaf is counted, also what is empty or a copy: that is what bounds a walk through a damaged tree.
        let options = WithinOptions::default().include_aliased_networks().include_networks_without_data();
        let area = net.trunc().to_string().parse().expect("one crate's prefix is the other's");
        for found in self.reader.within(area, options)? {
            *leaves = leaves.checked_sub(1).ok_or(DatabaseError::Circles)?;
            let found = found?;
            let Some(offset) = found.offset() else { continue };
            let network = found.network()?;
            let (first, last) = (number(network.network()), number(network.broadcast()));
            if (network.is_ipv4()) != (family == Family::V4) || last < bounds.first || bounds.last < first {
                continue;
            }
            let span = Span { first: first.max(bounds.first), last: last.min(bounds.last) };
            let record = match known.entry(offset) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(slot) => *slot.insert(self.decode(&found)?),
            };
            visit(family, span, record);
        }
        Ok(())
    }

    fn decode(&self, found: &maxminddb::LookupResult<'_, Vec<u8>>) -> Result<Record, DatabaseError> {
        let mut record = Record::default();
        for path in &self.fields.country {
            if let Some(Word::Text(text)) = value(found, path)?
                && let Some(code) = Code::parse(text)
            {
                record.country = Some(code);
                break;
            }
        }
        for path in &self.fields.system {
            let number = match value(found, path)? {
                Some(Word::Number(number)) => u32::try_from(number).ok(),
                Some(Word::Text(text)) => text.strip_prefix("AS").unwrap_or(text).parse().ok(),
                _ => None,
            };
            if let Some(number) = number.filter(|&number| number > 0) {
                record.system = Some(number);
                break;
            }
        }
        Ok(record)
    }
}

/// Where a walk looks for IPv6 networks, in order.
fn areas6() -> impl Iterator<Item = Ipv6Net> {
    let span = |net: &str| Span::of(net.parse().expect("a valid constant prefix"));
    let pieces = subtract(span(GIVEN_OUT6), &mut TUNNELS6.map(span));
    let address = |number| Ipv6Addr::from_bits(number);
    pieces.into_iter().flat_map(move |piece| Ipv6Subnets::new(address(piece.first), address(piece.last), 0))
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("about", &self.about()).finish_non_exhaustive()
    }
}

/// The value at `path`; a record that has something else there has none.
fn value<'r>(
    found: &maxminddb::LookupResult<'r, Vec<u8>>,
    path: &FieldPath,
) -> Result<Option<Word<'r>>, DatabaseError> {
    let elements: Vec<PathElement<'_>> = path.0.iter().map(|name| PathElement::Key(name)).collect();
    match found.decode_path::<Word<'r>>(&elements) {
        Ok(value) => Ok(value),
        Err(MaxMindDbError::Decoding { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A value of a record.
enum Word<'r> {
    Text(&'r str),
    Number(u64),
    /// A list, a map, anything that is of no use here.
    Other,
}

impl<'de> Deserialize<'de> for Word<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyWord;

        impl<'de> Visitor<'de> for AnyWord {
            type Value = Word<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a number")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Word<'de>, E> {
                Ok(Word::Text(text))
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Word<'de>, E> {
                Ok(Word::Other)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Word<'de>, E> {
                Ok(Word::Number(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Word<'de>, E> {
                Ok(u64::try_from(number).map_or(Word::Other, Word::Number))
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Word<'de>, E> {
                Ok(Word::Other)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Word<'de>, A::Error> {
                while map.next_entry::<de::IgnoredAny, de::IgnoredAny>()?.is_some() {}
                Ok(Word::Other)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Word<'de>, A::Error> {
                while list.next_element::<de::IgnoredAny>()?.is_some() {}
                Ok(Word::Other)
            }
        }

        deserializer.deserialize_any(AnyWord)
    }
}
