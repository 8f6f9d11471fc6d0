//! The YAML shape of enforcement on this host, read loosely and checked once.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use crate::engine::rails::Limits;
use crate::nftables::Options;

/// What the bouncer is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Packets are dropped.
    Enforce,
    /// The table is filled, but packets are only counted.
    Observe,
    /// Nothing is changed; what would be is logged.
    DryRun,
    /// Decisions are not looked at.
    Off,
}

impl Mode {
    /// The names in the file.
    pub const NAMES: [(&'static str, Mode); 4] =
        [("enforce", Mode::Enforce), ("observe", Mode::Observe), ("dry-run", Mode::DryRun), ("off", Mode::Off)];
}

/// What becomes of the table when the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStop {
    /// It stays, and its entries end by themselves.
    Keep,
    /// It is removed.
    Remove,
}

/// Enforcement on this host, checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// What the bouncer is told to do.
    pub mode: Mode,
    /// Name of the table.
    pub table: String,
    /// What becomes of the table when the process stops.
    pub on_stop: OnStop,
    /// Whether private addresses (RFC 1918, unique local) are never blocked.
    pub spare_private: bool,
    /// Length of the networks that lone IPv6 addresses widen to.
    pub ipv6_prefix: u8,
    /// IPv4 prefixes shorter than this are refused.
    pub min_prefix4: u8,
    /// IPv6 prefixes shorter than this are refused.
    pub min_prefix6: u8,
    /// More entries than this are refused.
    pub max_entries: usize,
    /// A snapshot that takes away more than this share of the entries, in percent, must be confirmed by a second.
    pub max_shrink: u8,
    /// Where the last known good state is kept; `None` keeps none.
    pub snapshot: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            mode: Mode::Enforce,
            table: "cordon".to_owned(),
            on_stop: OnStop::Keep,
            spare_private: limits.spare_private,
            ipv6_prefix: 64,
            min_prefix4: limits.min_prefix4,
            min_prefix6: limits.min_prefix6,
            max_entries: 1_000_000,
            max_shrink: 50,
            snapshot: None,
        }
    }
}

impl Config {
    /// What the rails need of it.
    pub fn limits(&self) -> Limits {
        Limits {
            min_prefix4: self.min_prefix4,
            min_prefix6: self.min_prefix6,
            spare_private: self.spare_private,
            ..Limits::default()
        }
    }

    /// What the nftables bouncer needs of it.
    pub fn nftables(&self) -> Options {
        Options {
            table: self.table.clone(),
            ipv6_prefix: self.ipv6_prefix,
            observe: self.mode == Mode::Observe,
            ..Options::default()
        }
    }
}

/// The section of the file as written; every value as loose as YAML allows.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    mode: Option<Spanned<String>>,
    table: Option<Spanned<String>>,
    on_stop: Option<Spanned<String>>,
    private_ranges: Option<Spanned<String>>,
    ipv6_prefix: Option<Spanned<i64>>,
    min_prefix4: Option<Spanned<i64>>,
    min_prefix6: Option<Spanned<i64>>,
    max_entries: Option<Spanned<i64>>,
    max_shrink: Option<Spanned<i64>>,
    snapshot: Option<PathBuf>,
}

/// What is wrong with one value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct Fault {
    /// Line in the file, from 1.
    pub line: u64,
    /// What was found and what would be right.
    pub message: String,
}

impl RawConfig {
    /// The checked section on top of `defaults`, or everything that is wrong with it.
    pub fn check(self, defaults: Config) -> Result<Config, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut config = defaults;
        choose(self.mode, "mode", &Mode::NAMES, &mut config.mode, &mut faults);
        let stops = [("keep", OnStop::Keep), ("remove", OnStop::Remove)];
        choose(self.on_stop, "on_stop", &stops, &mut config.on_stop, &mut faults);
        let spares = [("never", true), ("allow", false)];
        choose(self.private_ranges, "private_ranges", &spares, &mut config.spare_private, &mut faults);
        if let Some(table) = self.table {
            let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let first = table.value.starts_with(|c: char| c.is_ascii_alphabetic());
            if first && table.value.len() <= 32 && table.value.chars().all(good) {
                config.table = table.value;
            } else {
                let message = format!(
                    "`{}` is no table name, expected up to 32 letters, digits and `_`, a letter first",
                    table.value
                );
                faults.push(Fault { line: table.referenced.line(), message });
            }
        }
        limit(self.ipv6_prefix, "ipv6_prefix", 32..=128, &mut config.ipv6_prefix, &mut faults);
        limit(self.min_prefix4, "min_prefix4", 1..=32, &mut config.min_prefix4, &mut faults);
        limit(self.min_prefix6, "min_prefix6", 1..=128, &mut config.min_prefix6, &mut faults);
        limit(self.max_entries, "max_entries", 1..=1_000_000, &mut config.max_entries, &mut faults);
        limit(self.max_shrink, "max_shrink", 0..=100, &mut config.max_shrink, &mut faults);
        config.snapshot = self.snapshot.or(config.snapshot);
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }
}

fn choose<T: Copy>(
    found: Option<Spanned<String>>,
    key: &str,
    names: &[(&str, T)],
    into: &mut T,
    faults: &mut Vec<Fault>,
) {
    let Some(found) = found else { return };
    if let Some((_, value)) = names.iter().find(|(name, _)| *name == found.value) {
        *into = *value;
        return;
    }
    let names: Vec<String> = names.iter().map(|(name, _)| format!("`{name}`")).collect();
    let message = format!("`{}` is no value for `{key}`, expected {}", found.value, names.join(" or "));
    faults.push(Fault { line: found.referenced.line(), message });
}

fn limit<T: TryFrom<i64>>(
    found: Option<Spanned<i64>>,
    key: &str,
    range: std::ops::RangeInclusive<i64>,
    into: &mut T,
    faults: &mut Vec<Fault>,
) {
    let Some(found) = found else { return };
    match T::try_from(found.value) {
        Ok(value) if range.contains(&found.value) => *into = value,
        _ => {
            let message =
                format!("`{key}` is `{}`, expected a number from {} to {}", found.value, range.start(), range.end());
            faults.push(Fault { line: found.referenced.line(), message });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let raw: Option<RawConfig> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        raw.unwrap_or_default()
            .check(Config::default())
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn an_empty_section_is_the_defaults() {
        assert_eq!(parse(""), Ok(Config::default()));
    }

    #[test]
    fn every_key_can_be_set() {
        let text = "mode: observe\ntable: guard\non_stop: remove\nprivate_ranges: allow\nipv6_prefix: 56\n\
                    min_prefix4: 16\nmin_prefix6: 32\nmax_entries: 500\nmax_shrink: 20\nsnapshot: /srv/guard";
        let expected = Config {
            mode: Mode::Observe,
            table: "guard".into(),
            on_stop: OnStop::Remove,
            spare_private: false,
            ipv6_prefix: 56,
            min_prefix4: 16,
            min_prefix6: 32,
            max_entries: 500,
            max_shrink: 20,
            snapshot: Some("/srv/guard".into()),
        };
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let text = "mode: on\ntable: 'a b'\nipv6_prefix: 7\nmax_shrink: 300\nprivate_ranges: yes";
        insta::assert_snapshot!(parse(text).expect_err("five mistakes"), @r"
        line 1: `on` is no value for `mode`, expected `enforce` or `observe` or `dry-run` or `off`
        line 5: `yes` is no value for `private_ranges`, expected `never` or `allow`
        line 2: `a b` is no table name, expected up to 32 letters, digits and `_`, a letter first
        line 3: `ipv6_prefix` is `7`, expected a number from 32 to 128
        line 4: `max_shrink` is `300`, expected a number from 0 to 100
        ");
    }
}
