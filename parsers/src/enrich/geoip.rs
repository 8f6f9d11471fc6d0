//! Where an address is: country, place, autonomous system, network.
//!
//! Databases come as bytes; who reads and refreshes them is not known here.

use std::fmt;
use std::net::IpAddr;

use maxminddb::geoip2::{Asn, City};
use maxminddb::{MaxMindDbError, Reader};
use model::{Event, fields};
use serde_json::{Value, json};

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

    fn place(&self, ip: IpAddr) -> City<'_> {
        self.city.lookup(ip).ok().and_then(|found| found.decode().ok().flatten()).unwrap_or_default()
    }

    fn system(&self, ip: IpAddr) -> Option<(u32, &str)> {
        let found = self.asn.as_ref()?.lookup(ip).ok();
        let record: Option<Asn<'_>> = found.and_then(|found| found.decode().ok().flatten());
        Some(record.map_or((0, ""), |record| {
            let number = record.autonomous_system_number.unwrap_or(0);
            (number, record.autonomous_system_organization.unwrap_or(""))
        }))
    }

    /// The network of the record for `ip` among the autonomous systems, `192.0.2.0/24`.
    pub fn range(&self, ip: IpAddr) -> Option<String> {
        let found = self.asn.as_ref()?.lookup(ip).ok()?;
        if !found.has_data() {
            return None;
        }
        let network: ipnet::IpNet = found.network().ok()?.to_string().parse().ok()?;
        Some(network.trunc().to_string())
    }

    /// Code of the country and whether it belongs to the European Union.
    pub fn country(&self, ip: IpAddr) -> (String, bool) {
        let (code, in_eu) = country(&self.place(ip));
        (code.to_owned(), in_eu)
    }

    pub(super) fn enrich_city(&self, ip: IpAddr, event: &Event) {
        let place = self.place(ip);
        let (code, in_eu) = country(&place);
        event.set_text(fields::ISO_CODE, code);
        event.set_text(fields::IS_IN_EU, if in_eu { "true" } else { "false" });
        event.set_text(fields::LATITUDE, format!("{:.6}", place.location.latitude.unwrap_or(0.0)));
        event.set_text(fields::LONGITUDE, format!("{:.6}", place.location.longitude.unwrap_or(0.0)));
    }

    pub(super) fn enrich_asn(&self, ip: IpAddr, event: &Event) {
        if let Some((number, name)) = self.system(ip) {
            let number = event.keep(number.to_string());
            event.set_span(fields::ASN_NUMBER, number);
            event.set_span(fields::AS_NUMBER, number);
            event.set_text(fields::ASN_ORG, name);
        }
    }

    pub(super) fn enrich_range(&self, ip: IpAddr, event: &Event) {
        if let Some(range) = self.range(ip) {
            event.set_text(fields::ENRICHED_SOURCE_RANGE, range);
        }
    }

    /// The record that expressions see (`GeoIPEnrich` and its like), members named as the reference names them.
    pub fn record(&self, kind: expr::Geo, ip: IpAddr) -> Option<Value> {
        match kind {
            expr::Geo::City => {
                let place = self.place(ip);
                let names = |names: &maxminddb::geoip2::Names<'_>| json!({ "en": names.english.unwrap_or("") });
                let country = |country: &maxminddb::geoip2::city::Country<'_>| {
                    json!({
                        "IsoCode": country.iso_code.unwrap_or(""),
                        "IsInEuropeanUnion": country.is_in_european_union.unwrap_or(false),
                        "GeoNameID": country.geoname_id.unwrap_or(0),
                        "Names": names(&country.names),
                    })
                };
                Some(json!({
                    "City": { "GeoNameID": place.city.geoname_id.unwrap_or(0), "Names": names(&place.city.names) },
                    "Continent": {
                        "Code": place.continent.code.unwrap_or(""),
                        "GeoNameID": place.continent.geoname_id.unwrap_or(0),
                        "Names": names(&place.continent.names),
                    },
                    "Country": country(&place.country),
                    "RegisteredCountry": country(&place.registered_country),
                    "RepresentedCountry": { "IsoCode": place.represented_country.iso_code.unwrap_or("") },
                    "Location": {
                        "Latitude": place.location.latitude.unwrap_or(0.0),
                        "Longitude": place.location.longitude.unwrap_or(0.0),
                        "TimeZone": place.location.time_zone.unwrap_or(""),
                        "AccuracyRadius": place.location.accuracy_radius.unwrap_or(0),
                    },
                    "Postal": { "Code": place.postal.code.unwrap_or("") },
                }))
            }
            expr::Geo::Asn => self.system(ip).map(
                |(number, name)| json!({ "AutonomousSystemNumber": number, "AutonomousSystemOrganization": name }),
            ),
            expr::Geo::Range => self.range(ip).map(Value::String),
        }
    }
}

/// The first of country, registered and represented country that has a code.
fn country<'p>(place: &City<'p>) -> (&'p str, bool) {
    let represented = &place.represented_country;
    [
        (place.country.iso_code, place.country.is_in_european_union),
        (place.registered_country.iso_code, place.registered_country.is_in_european_union),
        (represented.iso_code, represented.is_in_european_union),
    ]
    .into_iter()
    .find_map(|(code, in_eu)| Some((code.filter(|code| !code.is_empty())?, in_eu.unwrap_or(false))))
    .unwrap_or(("", false))
}

impl fmt::Debug for GeoIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeoIp").field("asn", &self.has_asn()).finish_non_exhaustive()
    }
}
