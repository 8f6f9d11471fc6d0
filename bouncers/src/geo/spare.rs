//! Whom decisions spare because of where they are: countries and systems that are never banned.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;
use model::Scope;
use model::scope::parse_net;
use serde::Serialize;
use tokio::sync::watch;
use tracing::warn;

use crate::geo::atlas::Databases;
use crate::geo::database::{DatabaseError, Record};
use crate::geo::load::Knowledge;
use crate::geo::ranges::Ranges;
use crate::geo::region::Region;

/// How many networks of a range are looked at. A range with more of them is spared if any region is: nobody knows all of it.
const LOOKED_AT: usize = 4096;

/// Regions that are not banned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spare {
    /// What is in one of these is never banned.
    pub never_ban: BTreeSet<Region>,
    /// Only what is known to be outside all of these is banned; empty asks nothing.
    pub ban_only_outside: BTreeSet<Region>,
}

/// Why an address or range is spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spared {
    /// It is, or has addresses, in a region that is never banned.
    Never(Region),
    /// It is, or has addresses, in a region outside of which bans are made.
    Inside(Region),
    /// Nobody knows where it is, and only what is known to be outside is banned.
    Unknown,
    /// It is too large to be looked at.
    TooLarge,
}

impl Spare {
    /// Whether nobody is spared.
    pub fn is_empty(&self) -> bool {
        self.never_ban.is_empty() && self.ban_only_outside.is_empty()
    }

    /// All regions that are named.
    pub fn regions(&self) -> impl Iterator<Item = Region> {
        self.never_ban.iter().chain(&self.ban_only_outside).copied()
    }

    /// Why `region` as a whole must not be banned, if it must not.
    fn spares_region(&self, region: Region) -> Option<Spared> {
        let named = |set: &BTreeSet<Region>| set.contains(&region);
        let never = named(&self.never_ban).then_some(Spared::Never(region));
        never.or_else(|| named(&self.ban_only_outside).then_some(Spared::Inside(region)))
    }

    /// Why `net` must not be banned, if it must not: any part of it is enough. Reserved space is nobody's, so nothing
    /// spares it.
    pub fn spares(&self, net: IpNet, databases: &Databases) -> Result<Option<Spared>, DatabaseError> {
        if self.is_empty() || Ranges::of([net]).without(Ranges::reserved()).is_empty() {
            return Ok(None);
        }
        let countries = databases.countries.within(net, LOOKED_AT)?;
        let systems = match &databases.systems {
            Some(systems) => systems.within(net, LOOKED_AT)?,
            None => Some(Vec::new()),
        };
        let (Some(countries), Some(systems)) = (countries, systems) else { return Ok(Some(Spared::TooLarge)) };
        let regions = |record: &Record| {
            let country = record.country.map(Region::Country);
            country.into_iter().chain(record.system.map(Region::System))
        };
        let all: BTreeSet<Region> = countries.iter().chain(&systems).flat_map(regions).collect();
        if let Some(&region) = all.iter().find(|region| self.never_ban.contains(region)) {
            return Ok(Some(Spared::Never(region)));
        }
        if let Some(&region) = all.iter().find(|region| self.ban_only_outside.contains(region)) {
            return Ok(Some(Spared::Inside(region)));
        }
        let named_country = self.ban_only_outside.iter().any(|region| matches!(region, Region::Country(_)));
        let has_country = all.iter().any(|region| matches!(region, Region::Country(_)));
        Ok((named_country && !has_country).then_some(Spared::Unknown))
    }
}

/// The local API asks it about everything that is to be banned.
#[derive(Debug)]
pub struct Homes {
    /// Who is spared.
    pub spare: Spare,
    /// The databases, as they are at the moment.
    pub knowledge: watch::Receiver<Knowledge>,
}

impl api::Places for Homes {
    fn spares(&self, scope: &Scope, value: &str) -> Option<String> {
        let loaded = self.knowledge.borrow().loaded.clone();
        let spared = match scope {
            Scope::Country | Scope::As => self.spare.spares_region(Region::of_decision(scope, value)?),
            Scope::Ip | Scope::Range => {
                let net = parse_net(value).ok()?;
                // whoever cannot be found is not punished by mistake
                let Some(loaded) = loaded else { return Some("`geo` (its databases cannot be read)".to_owned()) };
                match self.spare.spares(net, &loaded.databases) {
                    Ok(spared) => spared,
                    Err(error) => {
                        warn!(%error, value, "a geo database is damaged, so nobody is banned who is found there");
                        return Some("`geo` (its database is damaged)".to_owned());
                    }
                }
            }
            Scope::Custom(_) => None,
        };
        spared.map(|spared| spared.to_string())
    }
}

impl fmt::Display for Spared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spared::Never(region) => write!(f, "`geo.never_ban` ({region} is never banned)"),
            Spared::Inside(region) => write!(f, "`geo.ban_only_outside` (it is in {region})"),
            Spared::Unknown => f.write_str("`geo.ban_only_outside` (nobody knows its country)"),
            Spared::TooLarge => f.write_str("`geo` (it has too many networks to look at each)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geo::database::{Database, Fields};
    use crate::geo::mmdb::Mmdb;

    #[test]
    fn who_is_spared() {
        let read = |mmdb: Mmdb| Database::read(mmdb.bytes(), Fields::default()).expect("a sound database");
        let databases = Databases {
            countries: read(Mmdb::countries(&[("5.0.0.0/16", "DE"), ("5.1.0.0/16", "FR"), ("2a00::/32", "DE")])),
            systems: Some(read(Mmdb::systems(&[("5.1.7.0/24", 64500)]))),
        };
        let spare = |never: &[&str], outside: &[&str]| {
            let set = |texts: &[&str]| texts.iter().map(|text| Region::parse(text).expect("a test region")).collect();
            Spare { never_ban: set(never), ban_only_outside: set(outside) }
        };
        let nobody = None;
        let never = |region: &str| Some(format!("`geo.never_ban` ({region} is never banned)"));
        let inside = |region: &str| Some(format!("`geo.ban_only_outside` (it is in {region})"));
        let unknown = Some(Spared::Unknown.to_string());
        // (never, only outside, network, why)
        let cases = [
            (spare(&[], &[]), "5.0.0.1", &nobody),
            (spare(&["DE"], &[]), "5.0.0.1", &never("DE")),
            (spare(&["DE"], &[]), "2a00::7", &never("DE")),
            (spare(&["DE"], &[]), "5.1.0.1", &nobody),
            (spare(&["DE"], &[]), "9.9.9.9", &nobody),
            (spare(&["DE"], &[]), "5.0.0.0/15", &never("DE")),
            (spare(&["AS64500"], &[]), "5.1.7.9", &never("AS64500")),
            (spare(&["AS64500"], &[]), "5.1.0.0/16", &never("AS64500")),
            (spare(&["AS64500"], &[]), "5.1.8.9", &nobody),
            (spare(&[], &["FR"]), "5.1.0.1", &inside("FR")),
            (spare(&[], &["FR"]), "5.0.0.1", &nobody),
            (spare(&[], &["FR"]), "9.9.9.9", &unknown),
            (spare(&[], &["FR"]), "10.0.0.9", &nobody),
            (spare(&[], &["AS64500"]), "9.9.9.9", &nobody),
        ];
        for (spare, net, expected) in cases {
            let net = parse_net(net).expect("a valid test prefix");
            let found = spare.spares(net, &databases).expect("a sound database");
            assert_eq!(found.map(|spared| spared.to_string()), *expected, "{net} under {spare:?}");
        }
    }
}
