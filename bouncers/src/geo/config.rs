//! The section `geo` of the configuration, checked once.

use std::collections::BTreeSet;
use std::path::PathBuf;

use jiff::SignedDuration;
use model::duration;
use model::scope::parse_net;
use model::yaml::{Fault, Keys, Text, Yaml};
use serde::{Serialize, Serializer};

use crate::geo::atlas::Wanted;
use crate::geo::database::{FieldPath, Fields};
use crate::geo::policy::{Kind, MAX_POLICIES, Policy, Ports, Unknown};
use crate::geo::region::Region;
use crate::geo::spare::Spare;

/// Names of ports in one policy, and of interfaces.
const MAX_PLACES: usize = 64;
/// Longest name of an interface that the kernel knows.
const MAX_INTERFACE: usize = 15;
/// Longest name of a policy: it is part of the names of counters in the kernel.
const MAX_NAME: usize = 24;

/// Geoblocking on this host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// The database of countries.
    pub country_db: Option<PathBuf>,
    /// The database of autonomous systems, if that is another one.
    pub as_db: Option<PathBuf>,
    /// Where records name country and system.
    #[serde(skip)]
    pub fields: Fields,
    /// How long policies hold in the kernel without being renewed; `None` holds them until they are removed.
    #[serde(serialize_with = "as_text")]
    pub lease: Option<SignedDuration>,
    /// How long changed policies hold unless a person confirms them; `None` asks for no confirmation.
    #[serde(serialize_with = "as_text")]
    pub confirm: Option<SignedDuration>,
    /// How many networks a database must have for each region that is named.
    pub min_networks: usize,
    /// How much of what is named may be gone from a new database, in percent.
    pub max_shrink: u8,
    /// How many ranges all decisions about countries and systems may have together.
    pub max_country_ranges: usize,
    /// The policies.
    pub policies: Vec<Policy>,
    /// Whom decisions spare.
    #[serde(flatten)]
    pub spare: Spare,
}

#[allow(clippy::ref_option, reason = "serde hands the field over like this")]
fn as_text<S: Serializer>(duration: &Option<SignedDuration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_str(&duration::format(*duration)),
        None => serializer.serialize_str("none"),
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            country_db: None,
            as_db: None,
            fields: Fields::default(),
            lease: Some(SignedDuration::from_secs(90)),
            confirm: None,
            min_networks: 1,
            max_shrink: 30,
            max_country_ranges: 200_000,
            policies: Vec::new(),
            spare: Spare::default(),
        }
    }
}

impl Config {
    /// The section `geo`. Errors lack the path.
    pub fn read(section: &Yaml) -> Result<Self, Fault> {
        let keys = section.keys("`geo`")?;
        let mut config = Self::default();
        let path = |key: &'static str| {
            Ok::<_, Fault>(keys.text(key)?.filter(|text| !text.is_empty()).map(|text| PathBuf::from(text.text)))
        };
        config.country_db = path("country_db")?;
        config.as_db = path("as_db")?;
        if let Some(country) = field_paths(&keys, "country_fields")? {
            config.fields.country = country;
        }
        if let Some(system) = field_paths(&keys, "as_fields")? {
            config.fields.system = system;
        }
        config.lease = time(&keys, "lease", config.lease)?;
        config.confirm = time(&keys, "confirm", config.confirm)?;
        if let Some(number) = number(&keys, "min_networks", 1, 1_000_000)? {
            config.min_networks = number;
        }
        if let Some(percent) = number(&keys, "max_shrink", 0, 100)? {
            config.max_shrink = percent as u8;
        }
        if let Some(number) = number(&keys, "max_country_ranges", 0, 500_000)? {
            config.max_country_ranges = number;
        }
        config.spare = Spare {
            never_ban: regions(&keys, "never_ban")?.unwrap_or_default(),
            ban_only_outside: regions(&keys, "ban_only_outside")?.unwrap_or_default(),
        };
        let policies = keys.list("policies")?;
        if policies.len() > MAX_POLICIES {
            return Err(Fault::new(keys.line(), format!("more than {MAX_POLICIES} policies")));
        }
        for (index, item) in policies.iter().enumerate() {
            let policy = read_policy(item, index)?;
            if config.policies.iter().any(|known| known.name == policy.name) {
                return Err(Fault::new(item.line, format!("there is another policy called `{}`", policy.name)));
            }
            config.policies.push(policy);
        }
        let line = keys.line();
        keys.finish()?;
        config.needs_databases(line)?;
        Ok(config)
    }

    fn needs_databases(&self, line: u32) -> Result<(), Fault> {
        let mut named: Vec<Region> = self.policies.iter().flat_map(|policy| &policy.regions).copied().collect();
        named.extend(self.spare.regions());
        let countries = named.iter().any(|region| matches!(region, Region::Country(_)));
        let hint = "npm has one in the public domain: `@ip-location-db/geo-whois-asn-country-mmdb`";
        match (&self.country_db, &self.as_db) {
            (None, _) if countries => {
                Err(Fault::new(line, "countries are named, but there is no `country_db`").hint(hint))
            }
            (None, None) if !named.is_empty() => {
                Err(Fault::new(line, "autonomous systems are named, but there is no `as_db`"))
            }
            _ => Ok(()),
        }
    }

    /// What policies need of the databases. What decisions need comes on top.
    pub fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        self.policies.iter().for_each(|policy| policy.want(&mut wanted));
        wanted
    }

    /// Whether anything at all is asked of databases.
    pub fn is_used(&self) -> bool {
        self.country_db.is_some() || self.as_db.is_some()
    }
}

fn read_policy(item: &Yaml, index: usize) -> Result<Policy, Fault> {
    let keys = item.keys("a policy")?;
    let line = keys.line();
    let name = match keys.text("name")? {
        None => format!("policy{}", index + 1),
        Some(text) => {
            let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if text.is_empty() || text.len() > MAX_NAME || !text.chars().all(good) {
                let what = format!("`{}` is no name for a policy", &*text);
                let hint = format!("up to {MAX_NAME} letters, digits and `_`");
                return Err(Fault::new(text.line, what).hint(hint));
            }
            text.text
        }
    };
    let (kind, regions) = match (regions(&keys, "allow")?, regions(&keys, "deny")?) {
        (Some(regions), None) => (Kind::Allow, regions),
        (None, Some(regions)) => (Kind::Deny, regions),
        (None, None) => {
            let fault = Fault::new(line, format!("policy `{name}` says neither `allow` nor `deny`"));
            return Err(fault.hint("`allow: [DE, AT]` lets only these countries in, `deny: [KP]` all but these"));
        }
        (Some(_), Some(_)) => {
            let fault = Fault::new(line, format!("policy `{name}` says both `allow` and `deny`"));
            return Err(fault.hint("make two policies of it: an address must pass each of them"));
        }
    };
    if regions.is_empty() {
        let what = match kind {
            Kind::Allow => format!("policy `{name}` allows nobody: everybody would be locked out"),
            Kind::Deny => format!("policy `{name}` denies nobody"),
        };
        return Err(Fault::new(line, what).hint("name at least one country or autonomous system"));
    }
    let unknown = match keys.text("unknown")? {
        None if kind == Kind::Allow => Unknown::Drop,
        None => Unknown::Pass,
        Some(text) => match text.text.as_str() {
            "pass" => Unknown::Pass,
            "drop" => Unknown::Drop,
            _ => return Err(Fault::unknown(text.line, "value of `unknown`", &text, ["pass", "drop"])),
        },
    };
    let observe = match keys.text("mode")? {
        None => false,
        Some(text) => match text.text.as_str() {
            "enforce" => false,
            "observe" => true,
            _ => return Err(Fault::unknown(text.line, "value of `mode`", &text, ["enforce", "observe"])),
        },
    };
    let mut except = Vec::new();
    for text in keys.texts("except")? {
        except.push(parse_net(&text).map_err(|error| Fault::new(text.line, error.to_string()))?);
    }
    let interfaces = places(&keys, "interfaces", |text| interface(text).then(|| text.to_owned()), "`eno1` or `vmbr*`")?;
    let mut ports = places(&keys, "ports", Ports::parse, "`22`, `8000-8099`, `tcp/443` or `udp/51820`")?;
    ports.sort_unstable();
    ports.dedup();
    for pair in ports.windows(2) {
        if let [low, high] = pair
            && low.transport == high.transport
            && high.first <= low.last
        {
            return Err(Fault::new(line, format!("ports `{low}` and `{high}` overlap")));
        }
    }
    keys.finish()?;
    Ok(Policy { name, kind, regions, except, unknown, interfaces, ports, observe })
}

fn interface(text: &str) -> bool {
    let name = text.strip_suffix('*').unwrap_or(text);
    let good = |c: char| c.is_ascii_alphanumeric() || "._-:@".contains(c);
    !name.is_empty() && text.len() <= MAX_INTERFACE && name.chars().all(good)
}

fn places<T>(
    keys: &Keys<'_>,
    key: &'static str,
    parse: impl Fn(&str) -> Option<T>,
    forms: &str,
) -> Result<Vec<T>, Fault> {
    let Some(value) = keys.get(key) else { return Ok(Vec::new()) };
    let texts = keys.texts(key)?;
    if texts.is_empty() || texts.len() > MAX_PLACES {
        let fault =
            Fault::new(value.line, format!("`{key}` names {} of them, expected 1 to {MAX_PLACES}", texts.len()));
        return Err(fault.hint(format!("without `{key}` a policy holds for all of them")));
    }
    let parse = |text: &Text| {
        parse(text).ok_or_else(|| {
            Fault::new(text.line, format!("`{}` does not belong into `{key}`", &**text))
                .hint(format!("a form like {forms}"))
        })
    };
    texts.iter().map(parse).collect()
}

fn regions(keys: &Keys<'_>, key: &'static str) -> Result<Option<BTreeSet<Region>>, Fault> {
    if keys.get(key).is_none() {
        return Ok(None);
    }
    let mut regions = BTreeSet::new();
    for text in keys.texts(key)? {
        let region = Region::parse(&text).map_err(|error| {
            let fault = Fault::new(text.line, format!("`{}` is no country and no autonomous system", error.found));
            match error.hint {
                Some(hint) => fault.hint(hint),
                None => fault,
            }
        })?;
        regions.insert(region);
    }
    Ok(Some(regions))
}

fn field_paths(keys: &Keys<'_>, key: &'static str) -> Result<Option<Vec<FieldPath>>, Fault> {
    if keys.get(key).is_none() {
        return Ok(None);
    }
    let parse = |text: &Text| {
        FieldPath::parse(text).ok_or_else(|| {
            Fault::new(text.line, format!("`{}` leads to no field", &**text)).hint("a form like `country.iso_code`")
        })
    };
    keys.texts(key)?.iter().map(parse).collect::<Result<_, _>>().map(Some)
}

/// A time from ten seconds to an hour, or `none`.
fn time(keys: &Keys<'_>, key: &'static str, default: Option<SignedDuration>) -> Result<Option<SignedDuration>, Fault> {
    let range = SignedDuration::from_secs(10)..=SignedDuration::from_hours(1);
    let Some(text) = keys.text(key)? else { return Ok(default) };
    if text.text == "none" {
        return Ok(None);
    }
    match duration::parse_with_days(&text) {
        Ok(time) if range.contains(&time) => Ok(Some(time)),
        _ => {
            Err(Fault::new(text.line, format!("`{key}` is `{}`", &*text)).hint("a time from `10s` to `1h`, or `none`"))
        }
    }
}

fn number(keys: &Keys<'_>, key: &'static str, least: usize, most: usize) -> Result<Option<usize>, Fault> {
    let Some(found) = keys.integer(key)? else { return Ok(None) };
    match usize::try_from(found) {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(Fault::new(
            keys.get(key).map_or(keys.line(), |value| value.line),
            format!("`{key}` is `{found}`, expected a number from {least} to {most}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let documents = model::yaml::documents(text).map_err(|fault| fault.to_string())?;
        Config::read(documents.first().expect("a document")).map_err(|fault| {
            let hint = fault.hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            format!("{}: {}{hint}", fault.line, fault.message)
        })
    }

    #[test]
    fn every_key_can_be_set() {
        let config = read(
            "country_db: /srv/c.mmdb\nas_db: /srv/a.mmdb\ncountry_fields: [country_code]\nas_fields: [asn]\n\
             lease: none\nconfirm: 2m\nmin_networks: 5\nmax_shrink: 10\nmax_country_ranges: 9\n\
             never_ban: [AT]\nban_only_outside: [CH, AS64500]\n\
             policies:\n\
             - name: office\n  allow: [DE, at, AS64501]\n  unknown: pass\n  interfaces: [eno1, 'vmbr*']\n  \
               ports: [tcp/443, 22, 22, 8000-8099]\n  except: [192.0.2.0/24]\n  mode: observe\n\
             - deny: [KP]\n",
        )
        .expect("a valid section");
        insta::assert_snapshot!(serde_json::to_string_pretty(&config).expect("plain data"), @r#"
        {
          "country_db": "/srv/c.mmdb",
          "as_db": "/srv/a.mmdb",
          "lease": "none",
          "confirm": "2m0s",
          "min_networks": 5,
          "max_shrink": 10,
          "max_country_ranges": 9,
          "policies": [
            {
              "name": "office",
              "kind": "allow",
              "regions": [
                "AT",
                "DE",
                "AS64501"
              ],
              "except": [
                "192.0.2.0/24"
              ],
              "unknown": "pass",
              "interfaces": [
                "eno1",
                "vmbr*"
              ],
              "ports": [
                "22",
                "8000-8099",
                "tcp/443"
              ],
              "observe": true
            },
            {
              "name": "policy2",
              "kind": "deny",
              "regions": [
                "KP"
              ],
              "except": [],
              "unknown": "pass",
              "interfaces": [],
              "ports": [],
              "observe": false
            }
          ],
          "never_ban": [
            "AT"
          ],
          "ban_only_outside": [
            "CH",
            "AS64500"
          ]
        }
        "#);
        assert_eq!(config.fields.country.iter().map(ToString::to_string).collect::<Vec<_>>(), ["country_code"]);
        assert_eq!(config.policies[0].place(), "on eno1, vmbr* to ports 22, 8000-8099, tcp/443");
        assert_eq!(config.policies[1].place(), "on every interface");
    }

    #[test]
    fn a_mistake_is_named_with_the_way_out() {
        // (text, message)
        let cases = [
            (
                "country_db: c\npolicies:\n- allow: [DE, UK]",
                "3: `UK` is no country and no autonomous system\nhint: did you mean `GB` (United Kingdom)?",
            ),
            (
                "country_db: c\nnever_ban:\n- Austria",
                "3: `Austria` is no country and no autonomous system\nhint: did you mean `AT` (Austria)?",
            ),
            (
                "policies:\n- deny: [KP]",
                "1: countries are named, but there is no `country_db`\n\
                 hint: npm has one in the public domain: `@ip-location-db/geo-whois-asn-country-mmdb`",
            ),
            ("policies:\n- deny: [AS7]", "1: autonomous systems are named, but there is no `as_db`"),
            (
                "country_db: c\npolicies:\n- name: a",
                "3: policy `a` says neither `allow` nor `deny`\n\
                 hint: `allow: [DE, AT]` lets only these countries in, `deny: [KP]` all but these",
            ),
            (
                "country_db: c\npolicies:\n- {allow: [DE], deny: [FR]}",
                "3: policy `policy1` says both `allow` and `deny`\n\
                 hint: make two policies of it: an address must pass each of them",
            ),
            (
                "country_db: c\npolicies:\n- allow: []",
                "3: policy `policy1` allows nobody: everybody would be locked out\n\
                 hint: name at least one country or autonomous system",
            ),
            (
                "country_db: c\npolicies:\n- deny: [FR]\n  ports: [ssh]",
                "4: `ssh` does not belong into `ports`\nhint: a form like `22`, `8000-8099`, `tcp/443` or `udp/51820`",
            ),
            ("country_db: c\npolicies:\n- deny: [FR]\n  ports: [80-90, 85]", "3: ports `80-90` and `85` overlap"),
            (
                "country_db: c\npolicies:\n- deny: [FR]\n  interfaces: ['eth0; drop']",
                "4: `eth0; drop` does not belong into `interfaces`\nhint: a form like `eno1` or `vmbr*`",
            ),
            (
                "country_db: c\npolicies:\n- deny: [FR]\n  interfaces: []",
                "4: `interfaces` names 0 of them, expected 1 to 64\nhint: without `interfaces` a policy holds for all of them",
            ),
            (
                "country_db: c\npolicies:\n- name: a b\n  deny: [FR]",
                "3: `a b` is no name for a policy\nhint: up to 24 letters, digits and `_`",
            ),
            (
                "country_db: c\npolicies:\n- {name: a, deny: [FR]}\n- {name: a, deny: [DE]}",
                "4: there is another policy called `a`",
            ),
            ("lease: 2s", "1: `lease` is `2s`\nhint: a time from `10s` to `1h`, or `none`"),
            ("max_shrink: 101", "1: `max_shrink` is `101`, expected a number from 0 to 100"),
            ("country_fields: [a..b]", "1: `a..b` leads to no field\nhint: a form like `country.iso_code`"),
            ("polices: []", "1: unknown key in `geo`: `polices`\nhint: did you mean `policies`?"),
        ];
        for (text, message) in cases {
            assert_eq!(read(text), Err(message.to_owned()), "{text}");
        }
    }
}
