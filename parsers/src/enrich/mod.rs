//! Enrichment methods: what a static's `method` names (spec: parsers 9).
//!
//! Each takes a text and writes into `evt.Enriched`; none of them ever fails an event. What lies outside (databases,
//! names of addresses) comes with the [`Context`].

pub mod date;
mod dns;
pub mod geoip;
mod unmarshal;

use expr::FieldId;
use model::event::Span;
use model::{Event, fields};

use crate::Context;
use crate::enrich::geoip::Located;

/// An enrichment method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    GeoIpCity,
    GeoIpAsn,
    IpToRange,
    ReverseDns,
    ParseDate,
    UnmarshalJson,
}

impl Method {
    /// Names as rules write them.
    pub(crate) const NAMES: [&str; 6] =
        ["GeoIpCity", "GeoIpASN", "IpToRange", "reverse_dns", "ParseDate", "UnmarshalJSON"];

    /// The method called `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "GeoIpCity" => Self::GeoIpCity,
            "GeoIpASN" => Self::GeoIpAsn,
            "IpToRange" => Self::IpToRange,
            "reverse_dns" => Self::ReverseDns,
            "ParseDate" => Self::ParseDate,
            "UnmarshalJSON" => Self::UnmarshalJson,
            _ => return None,
        })
    }

    /// Fields that it may read beside its argument.
    pub(crate) fn reads(self) -> &'static [FieldId] {
        match self {
            Self::ParseDate => &[fields::STR_TIME_FORMAT],
            Self::UnmarshalJson => &[fields::LINE_RAW],
            _ => &[],
        }
    }

    /// Fields that it may write.
    pub(crate) fn writes(self) -> &'static [FieldId] {
        match self {
            Self::GeoIpCity => &[fields::ISO_CODE, fields::IS_IN_EU, fields::LATITUDE, fields::LONGITUDE],
            Self::GeoIpAsn => &[fields::ASN_NUMBER, fields::AS_NUMBER, fields::ASN_ORG],
            Self::IpToRange => &[fields::ENRICHED_SOURCE_RANGE],
            Self::ReverseDns => &[fields::REVERSE_DNS],
            Self::ParseDate => &[fields::ENRICHED_MARSHALED_TIME],
            Self::UnmarshalJson => &[],
        }
    }

    /// Runs it. `Err` says why nothing was added, for people; the event goes on.
    pub(crate) fn run(self, argument: Span, event: &mut Event, cx: &Context<'_>) -> Result<(), String> {
        match self {
            Self::ParseDate => date::enrich(argument, event, cx),
            Self::UnmarshalJson => unmarshal::enrich(event)?,
            Self::ReverseDns => dns::enrich(argument, event, cx),
            Self::GeoIpCity | Self::GeoIpAsn | Self::IpToRange => {
                let text = event.text(argument);
                let locate = || Some(cx.geo?.locate(text.parse().ok()?));
                let located = cx.scratch.answers.borrow_mut().places.get_or(
                    text,
                    |_| true,
                    locate,
                    |located: &Option<Located>| located.as_ref().map(|located| located.write(self, event)),
                );
                if located.is_none() {
                    let is_address = text.parse::<std::net::IpAddr>().is_ok();
                    return Err(if is_address {
                        "no geo database is loaded".into()
                    } else {
                        format!("`{text}` is not an address")
                    });
                }
            }
        }
        Ok(())
    }
}
