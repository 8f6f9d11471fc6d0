//! Which addresses belong to which region: the databases, walked once and merged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::geo::database::{Database, DatabaseError, Record};
use crate::geo::ranges::{Ranges, Size};
use crate::geo::region::Region;

/// The databases of this host. One file may know both countries and systems.
#[derive(Debug)]
pub struct Databases {
    /// Who knows countries.
    pub countries: Database,
    /// Who knows autonomous systems, unless the other one does.
    pub systems: Option<Database>,
}

impl Databases {
    /// Who knows autonomous systems.
    pub fn systems(&self) -> &Database {
        self.systems.as_ref().unwrap_or(&self.countries)
    }

    /// What is known about `address`. Nothing is known of reserved space.
    pub fn locate(&self, address: IpAddr) -> Result<Location, DatabaseError> {
        if Ranges::reserved().contains(address) {
            return Ok(Location { reserved: true, ..Location::default() });
        }
        let country = self.countries.lookup(address)?;
        let system = self.systems().lookup(address)?;
        Ok(Location {
            reserved: false,
            record: Record { country: country.record.country, system: system.record.system },
            network: country.network.filter(|_| country.record.country.is_some()),
            system_network: system.network.filter(|_| system.record.system.is_some()),
        })
    }
}

/// Where an address is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Whether it belongs to nobody in particular.
    pub reserved: bool,
    /// Its country and its autonomous system.
    pub record: Record,
    /// The network that the country's record is about.
    pub network: Option<IpNet>,
    /// The network that the system's record is about.
    pub system_network: Option<IpNet>,
}

impl Location {
    /// The regions it is in.
    pub fn regions(&self) -> impl Iterator<Item = Region> {
        let country = self.record.country.map(Region::Country);
        country.into_iter().chain(self.record.system.map(Region::System))
    }
}

/// What an atlas is made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The regions that somebody names.
    pub regions: BTreeSet<Region>,
    /// Whether everything with a country must be known as well.
    pub known: bool,
}

/// The addresses of the wanted regions, without reserved space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Atlas {
    regions: BTreeMap<Region, Charted>,
    known: Ranges,
    ipv6: bool,
}

/// The addresses of one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Charted {
    /// The addresses, merged.
    pub ranges: Ranges,
    /// How many networks the database has for it.
    pub networks: usize,
}

impl Atlas {
    /// Walks each database at most once for everything in `wanted`.
    pub fn survey(databases: &Databases, wanted: &Wanted) -> Result<Self, DatabaseError> {
        let mut regions: BTreeMap<Region, Charted> =
            wanted.regions.iter().map(|&region| (region, Charted::default())).collect();
        let mut known = Ranges::default();
        let is_country = |region: &Region| matches!(region, Region::Country(_));
        let systems_wanted = !wanted.regions.iter().all(is_country);
        let apart = databases.systems.is_some();
        if wanted.known || wanted.regions.iter().any(is_country) || (systems_wanted && !apart) {
            databases.countries.walk(|family, span, record| {
                let system = record.system.filter(|_| !apart).map(Region::System);
                for region in record.country.map(Region::Country).into_iter().chain(system) {
                    if let Some(charted) = regions.get_mut(&region) {
                        charted.ranges.append(family, span);
                        charted.networks += 1;
                    }
                }
                if wanted.known && record.country.is_some() {
                    known.append(family, span);
                }
            })?;
        }
        if let Some(systems) = databases.systems.as_ref().filter(|_| systems_wanted) {
            systems.walk(|family, span, record| {
                if let Some(charted) = record.system.and_then(|number| regions.get_mut(&Region::System(number))) {
                    charted.ranges.append(family, span);
                    charted.networks += 1;
                }
            })?;
        }
        let reserved = Ranges::reserved();
        for charted in regions.values_mut() {
            charted.ranges = charted.ranges.without(reserved);
        }
        Ok(Self { regions, known: known.without(reserved), ipv6: databases.countries.about().ipv6 })
    }

    /// The addresses of `region`; `None` if it was not wanted.
    pub fn region(&self, region: Region) -> Option<&Charted> {
        self.regions.get(&region)
    }

    /// All regions.
    pub fn regions(&self) -> impl Iterator<Item = (Region, &Charted)> {
        self.regions.iter().map(|(&region, charted)| (region, charted))
    }

    /// Everything that has a country; empty unless that was wanted.
    pub fn known(&self) -> &Ranges {
        &self.known
    }

    /// Whether countries of IPv6 addresses are known.
    pub fn ipv6(&self) -> bool {
        self.ipv6
    }

    /// How much there is of what is wanted.
    pub fn tally(&self) -> Tally {
        let all = self.regions.values();
        let sizes = all.clone().map(|charted| charted.ranges.size());
        let size = sizes.fold(Size::default(), |sum, size| Size {
            addresses4: sum.addresses4.saturating_add(size.addresses4),
            networks6: sum.networks6.saturating_add(size.networks6),
        });
        Tally { networks: all.map(|charted| charted.networks).sum(), size }
    }

    /// Whether it may replace what is in force: each region has `min_networks`, and not more than `max_shrink` percent is
    /// gone since `before`.
    pub fn validate(&self, min_networks: usize, before: Option<Tally>, max_shrink: u8) -> Result<(), Implausible> {
        for (&region, charted) in &self.regions {
            if charted.networks < min_networks {
                return Err(Implausible::TooFew { region, networks: charted.networks, least: min_networks });
            }
        }
        let Some(before) = before else { return Ok(()) };
        let now = self.tally();
        let measures = [
            ("networks", before.networks as u64, now.networks as u64),
            ("IPv4 addresses", before.size.addresses4, now.size.addresses4),
            ("IPv6 networks", before.size.networks6, now.size.networks6),
        ];
        for (what, before, now) in measures {
            let lost = before.saturating_sub(now);
            if u128::from(lost) * 100 > u128::from(before) * u128::from(max_shrink) {
                return Err(Implausible::Shrunk { what, before, now, most: max_shrink });
            }
        }
        Ok(())
    }
}

/// How much there is of some regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Networks in the databases.
    pub networks: usize,
    /// The space they cover.
    pub size: Size,
}

/// Why databases that can be read are not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Implausible {
    /// A region has (nearly) no networks.
    #[error(
        "the database has {networks} networks for {region}, at least {least} are expected\nhint: is it a database of \
         countries (for AS numbers: of autonomous systems)? `geo.country_fields` and `geo.as_fields` say where its records \
         name them, `geo.min_networks` how many networks are enough"
    )]
    TooFew {
        /// The region.
        region: Region,
        /// How many it has.
        networks: usize,
        /// How many it should have.
        least: usize,
    },
    /// Too much is gone at once.
    #[error(
        "the database lost too much: {now} {what}, before {before} (more than {most} percent)\nhint: if that is right, \
         restart, or raise `geo.max_shrink`"
    )]
    Shrunk {
        /// What is counted.
        what: &'static str,
        /// How many there were.
        before: u64,
        /// How many there are.
        now: u64,
        /// How much may go, in percent.
        most: u8,
    },
}
