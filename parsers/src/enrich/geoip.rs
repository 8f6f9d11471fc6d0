//! Where an address is: country, place, autonomous system, network.
//!
//! Databases come as bytes; who reads and refreshes them is not known here.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use maxminddb::{MaxMindDbError, Reader};
use model::{Event, fields};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde_json::{Value, json};

use crate::enrich::Method;

/// The geo databases.
pub struct GeoIp {
    city: Reader<Vec<u8>>,
    asn: Option<Reader<Vec<u8>>>,
}

impl GeoIp {
    /// Reads the city database, and the one of autonomous systems if there is one. Without the former the latter is
    /// of no use, as in the reference.
    pub fn new(city: Vec<u8>, asn: Option<Vec<u8>>) -> Result<Self, MaxMindDbError> {
        Ok(Self { city: Reader::from_source(city)?, asn: asn.map(Reader::from_source).transpose()? })
    }

    /// Whether addresses have autonomous systems.
    pub fn has_asn(&self) -> bool {
        self.asn.is_some()
    }

    fn place(&self, ip: IpAddr) -> Place<'_> {
        self.city.lookup(ip).ok().and_then(|found| found.decode().ok().flatten()).unwrap_or_default()
    }

    fn system(&self, ip: IpAddr) -> Option<(u32, &str)> {
        let found = self.asn.as_ref()?.lookup(ip).ok();
        let record: Option<System<'_>> = found.and_then(|found| found.decode().ok().flatten());
        Some(record.map_or((0, ""), |record| (record.number.0 as u32, record.organization)))
    }

    /// The network of the record for `ip` among the autonomous systems, `192.0.2.0/24`.
    pub fn range(&self, ip: IpAddr) -> Option<String> {
        let found = self.asn.as_ref()?.lookup(ip).ok()?;
        if !found.has_data() {
            return None;
        }
        let network = found.network().ok()?;
        let network = ipnet::IpNet::new(network.ip(), network.prefix()).ok()?;
        Some(network.trunc().to_string())
    }

    /// Code of the country and whether it belongs to the European Union.
    pub fn country(&self, ip: IpAddr) -> (String, bool) {
        let (code, in_eu) = country(&self.place(ip));
        (code.to_owned(), in_eu)
    }

    /// What the methods write about `ip`.
    pub(super) fn locate(&self, ip: IpAddr) -> Located {
        let place = self.place(ip);
        let (code, in_eu) = country(&place);
        let in_eu = if in_eu { "true" } else { "false" };
        let (number, name) = self.system(ip).map_or((String::new(), ""), |(number, name)| (number.to_string(), name));
        let degrees = [place.location.latitude, place.location.longitude].map(|degrees| format!("{degrees:.6}"));
        let [latitude, longitude] = &degrees;
        let range = self.range(ip).unwrap_or_default();
        Located::of([code, in_eu, latitude, longitude, &number, name, &range])
    }

    /// The record that expressions see (`GeoIPEnrich` and its like), members named as the reference names them.
    pub fn record(&self, kind: expr::Geo, ip: IpAddr) -> Option<Value> {
        match kind {
            expr::Geo::City => {
                let place = self.place(ip);
                let names = |names: &Names<'_>| json!({ "en": names.en });
                let country = |country: &Country<'_>| {
                    json!({
                        "IsoCode": country.iso_code,
                        "IsInEuropeanUnion": country.in_eu(),
                        "GeoNameID": country.geoname_id.0,
                        "Names": names(&country.names),
                    })
                };
                Some(json!({
                    "City": { "GeoNameID": place.city.geoname_id.0, "Names": names(&place.city.names) },
                    "Continent": {
                        "Code": place.continent.code,
                        "GeoNameID": place.continent.geoname_id.0,
                        "Names": names(&place.continent.names),
                    },
                    "Country": country(&place.country),
                    "RegisteredCountry": country(&place.registered_country),
                    "RepresentedCountry": { "IsoCode": place.represented_country.iso_code },
                    "Location": {
                        "Latitude": place.location.latitude,
                        "Longitude": place.location.longitude,
                        "TimeZone": place.location.time_zone,
                        "AccuracyRadius": place.location.accuracy_radius.0,
                    },
                    "Postal": { "Code": place.postal.code },
                }))
            }
            expr::Geo::Asn => self.system(ip).map(
                |(number, name)| json!({ "AutonomousSystemNumber": number, "AutonomousSystemOrganization": name }),
            ),
            expr::Geo::Range => self.range(ip).map(Value::String),
        }
    }
}

/// What the methods write about one address: in one text, since nearly all of it is kept together and yields together.
#[derive(Debug)]
pub(crate) struct Located {
    text: Arc<str>,
    /// Where in the text these end: code of the country, whether it is in the European Union, latitude, longitude, number and
    /// name of the autonomous system, its network. Number and network are empty where they are not known.
    ends: [usize; 7],
}

impl Located {
    fn of(parts: [&str; 7]) -> Self {
        let mut end = 0;
        let ends = parts.map(|part| {
            end += part.len();
            end
        });
        Self { text: parts.concat().into(), ends }
    }

    pub(super) fn write(&self, method: Method, event: &Event) {
        let [code, in_eu, latitude, longitude, number, name, range] = self.ends;
        let text = event.keep_shared(&self.text);
        let set = |field, from: usize, to: usize| event.set_span(field, text.slice(from..to));
        match method {
            Method::GeoIpCity => {
                set(fields::ISO_CODE, 0, code);
                set(fields::IS_IN_EU, code, in_eu);
                set(fields::LATITUDE, in_eu, latitude);
                set(fields::LONGITUDE, latitude, longitude);
            }
            Method::GeoIpAsn if number > longitude => {
                set(fields::ASN_NUMBER, longitude, number);
                set(fields::AS_NUMBER, longitude, number);
                set(fields::ASN_ORG, number, name);
            }
            Method::IpToRange if range > name => set(fields::ENRICHED_SOURCE_RANGE, name, range),
            _ => {}
        }
    }
}

/// The first of country, registered and represented country that has a code.
fn country<'p>(place: &Place<'p>) -> (&'p str, bool) {
    [&place.country, &place.registered_country, &place.represented_country]
        .into_iter()
        .find(|country| !country.iso_code.is_empty())
        .map_or(("", false), |country| (country.iso_code, country.in_eu()))
}

/// What is read of a record of the city database. Databases differ in how wide they write numbers, and some write truth
/// as a number, so nothing here insists on a width.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Place<'r> {
    #[serde(borrow)]
    city: City<'r>,
    #[serde(borrow)]
    continent: Continent<'r>,
    #[serde(borrow)]
    country: Country<'r>,
    #[serde(borrow)]
    registered_country: Country<'r>,
    #[serde(borrow)]
    represented_country: Country<'r>,
    #[serde(borrow)]
    location: Location<'r>,
    #[serde(borrow)]
    postal: Postal<'r>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct City<'r> {
    geoname_id: Number,
    #[serde(borrow)]
    names: Names<'r>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Continent<'r> {
    code: &'r str,
    geoname_id: Number,
    #[serde(borrow)]
    names: Names<'r>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Country<'r> {
    iso_code: &'r str,
    is_in_european_union: Number,
    geoname_id: Number,
    #[serde(borrow)]
    names: Names<'r>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Location<'r> {
    latitude: f64,
    longitude: f64,
    time_zone: &'r str,
    accuracy_radius: Number,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Postal<'r> {
    code: &'r str,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Names<'r> {
    en: &'r str,
}

/// What is read of a record of the database of autonomous systems.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct System<'r> {
    #[serde(rename = "autonomous_system_number")]
    number: Number,
    #[serde(rename = "autonomous_system_organization")]
    organization: &'r str,
}

impl Country<'_> {
    fn in_eu(&self) -> bool {
        self.is_in_european_union.0 != 0
    }
}

/// A whole number of any width, or a truth value.
#[derive(Clone, Copy, Default)]
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyWidth;

        impl Visitor<'_> for AnyWidth {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or a truth value")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Number, E> {
                Ok(Number(value.into()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(u64::try_from(value).unwrap_or(0)))
            }
        }

        deserializer.deserialize_any(AnyWidth)
    }
}

impl fmt::Debug for GeoIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeoIp").field("asn", &self.has_asn()).finish_non_exhaustive()
    }
}
