//! Entries as text, in the forms that firewalls and proxies read.
//!
//! Every body begins with a line that says what it is: a firewall that takes an empty body for an error would keep its
//! old list for ever. Nothing that is not to be blocked is covered by any line, however much neighbours are merged.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::Write;

use jiff::Timestamp;
use serde_json::json;

use super::cidr::{Prefix, prefixes};
use super::query::{Families, Format, Query};
use super::rows::{Item, Kind, Rows};
use crate::engine::select::importance;
use crate::engine::span::{Family, Span, TimedSpan, flatten, join};

/// Longest time that `ipset` takes, in seconds.
const IPSET_LONGEST: i64 = 2_147_483;
/// Longest time that we tell RouterOS, in seconds: 35 weeks.
const ROUTEROS_LONGEST: i64 = 35 * 7 * 86_400;
/// Attempts to fill the lines that `max` allows.
const ROUNDS: usize = 8;

/// What stands at the head of a body.
#[derive(Clone, Copy, Debug)]
pub struct Heading<'a> {
    /// Name of the feed: letters, digits and `_`.
    pub name: &'a str,
    /// Grows with each change.
    pub sequence: u64,
    /// When it is written; entries that are over then are left out.
    pub now: Timestamp,
}

/// A body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub body: Vec<u8>,
    /// How many addresses and prefixes are in it.
    pub count: usize,
    /// Whether some did not fit.
    pub truncated: bool,
}

/// Writes down what `query` asks of `rows`.
pub fn render(rows: &Rows, query: &Query, heading: &Heading<'_>) -> Rendered {
    let asked = || rows.items(heading.now).filter(|item| is_asked(query, item));
    match query.max {
        None => write(asked, query, heading, false),
        Some(max) => {
            let (chosen, truncated) = choose(asked().collect(), query, heading.now, max);
            write(|| chosen.iter().copied(), query, heading, truncated)
        }
    }
}

fn is_asked(query: &Query, item: &Item<'_>) -> bool {
    let family = match query.family {
        Families::Both => true,
        Families::Four => item.family() == Family::V4,
        Families::Six => item.family() == Family::V6,
    };
    family && query.takes(&item.kind.action, &item.kind.origin)
}

/// The most important of `items` that make at most `max` lines, in their order, and whether any had to go.
fn choose<'a>(mut items: Vec<Item<'a>>, query: &Query, now: Timestamp, max: usize) -> (Vec<Item<'a>>, bool) {
    let count = |items: &[Item<'_>]| {
        if query.is_detailed() {
            return items.iter().flat_map(lines_of).count();
        }
        let mut count = 0;
        each(items.iter().copied(), query, now, |_, _| count += 1);
        count
    };
    let in_order = |item: &Item<'_>| (item.family(), Span::of(item.net).first, item.net.prefix_len());
    if count(&items) <= max {
        return (items, false);
    }
    items.sort_by_key(|item| Reverse((importance(&item.kind.origin), item.until, item.decision)));
    let (mut fits, mut take) = (0, items.len().min(max));
    for _ in 0..ROUNDS {
        let mut part: Vec<Item<'_>> = items.iter().take(take).copied().collect();
        part.sort_by_key(in_order);
        // one more entry makes one more line at the most, unless it is in pieces
        match count(&part) {
            lines if lines <= max => {
                fits = fits.max(take);
                let next = (take + (max - lines)).min(items.len());
                if next == take {
                    break;
                }
                take = next;
            }
            lines => take = take.saturating_sub(lines - max).max(fits),
        }
    }
    items.truncate(fits);
    items.sort_by_key(in_order);
    (items, true)
}

/// The lines that `item` makes where each entry is told by itself.
fn lines_of<'a>(item: &'a Item<'_>) -> impl Iterator<Item = Prefix> + 'a {
    item.spans().flat_map(|span| prefixes(item.family(), span))
}

/// Calls `emit` for each line that `items`, which are in order, make: a prefix, and when it ends.
fn each<'a>(
    items: impl Iterator<Item = Item<'a>>,
    query: &Query,
    now: Timestamp,
    mut emit: impl FnMut(Prefix, Timestamp),
) {
    if query.format.is_timed() || matches!(query.format, Format::Json | Format::Csv) {
        let mut families: [Vec<TimedSpan>; 2] = [Vec::new(), Vec::new()];
        for item in items {
            let into = &mut families[usize::from(item.family() == Family::V6)];
            into.extend(item.spans().map(|span| (span, item.until)));
        }
        for (family, spans) in [Family::V4, Family::V6].into_iter().zip(families) {
            for (span, until) in flatten(spans) {
                prefixes(family, span).for_each(|prefix| emit(prefix, until));
            }
        }
        return;
    }
    let mut families: [Vec<Span>; 2] = [Vec::new(), Vec::new()];
    for item in items {
        families[usize::from(item.family() == Family::V6)].extend(item.spans());
    }
    for (family, mut spans) in [Family::V4, Family::V6].into_iter().zip(families) {
        if query.aggregate {
            spans = join(spans);
        } else {
            spans.dedup();
        }
        for span in spans {
            prefixes(family, span).for_each(|prefix| emit(prefix, now));
        }
    }
}

fn write<'a, I: Iterator<Item = Item<'a>>>(
    items: impl Fn() -> I,
    query: &Query,
    heading: &Heading<'_>,
    truncated: bool,
) -> Rendered {
    let mut lines = Lines { out: Vec::new(), count: 0, query, heading };
    if query.is_detailed() {
        let mut told = HashMap::new();
        for item in items() {
            let kind = told.entry(std::ptr::from_ref(item.kind)).or_insert_with(|| describe(query.format, item.kind));
            for prefix in lines_of(&item) {
                lines.detailed(prefix, item.until, item.decision, kind);
            }
        }
        lines.end();
    } else if query.format == Format::Nft {
        lines.nft(items());
    } else {
        lines.parts(items());
    }
    let Lines { out, count, .. } = lines;
    let head = head(query.format, heading, count, truncated);
    let mut body = Vec::with_capacity(head.len() + out.len());
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(&out);
    Rendered { body, count, truncated }
}

/// What stands before the lines.
fn head(format: Format, heading: &Heading<'_>, count: usize, truncated: bool) -> String {
    let Heading { name, sequence, now } = heading;
    if format == Format::Json {
        let head = json!({
            "name": name, "generated": now, "sequence": sequence, "count": count, "truncated": truncated,
        });
        let head = head.to_string();
        // the object goes on with its entries
        return format!("{},\"entries\":[", head.strip_suffix('}').unwrap_or(&head));
    }
    let truncated = if truncated { "yes" } else { "no" };
    let columns = if format == Format::Csv { "value,until,action,origin,scenario,id\n" } else { "" };
    format!("# {name}: {count} entries, sequence {sequence}, generated {now}, truncated {truncated}\n{columns}")
}

/// The part of a line that all entries of a kind share.
fn describe(format: Format, kind: &Kind) -> String {
    let Kind { action, origin, scenario } = kind;
    match format {
        Format::Json => {
            let [action, origin, scenario] = [action, origin, scenario].map(|text| json!(text.as_str()).to_string());
            format!("\"action\":{action},\"origin\":{origin},\"scenario\":{scenario}")
        }
        _ => [action, origin, scenario].map(|text| quoted(text)).join(","),
    }
}

/// A field of CSV. Line breaks would end it for simple readers, so they become spaces.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\"").replace(|letter: char| letter.is_control(), " "))
}

/// Lines under way.
struct Lines<'a> {
    out: Vec<u8>,
    count: usize,
    query: &'a Query,
    heading: &'a Heading<'a>,
}

impl Lines<'_> {
    /// An entry with all that is known about it.
    fn detailed(&mut self, prefix: Prefix, until: Timestamp, decision: i64, kind: &str) {
        let first = self.count == 0;
        self.count += 1;
        if self.query.format == Format::Json {
            self.out.extend_from_slice(if first { b"\n{\"value\":\"" } else { b",\n{\"value\":\"" });
            self.prefix(prefix);
            self.text(format_args!("\",\"until\":\"{until}\",{kind},\"id\":{decision}}}"));
        } else {
            self.prefix(prefix);
            self.text(format_args!(",{until},{kind},{decision}\n"));
        }
    }

    /// All entries of a format whose lines do not depend on each other, and what it needs around them.
    fn parts<'a>(&mut self, items: impl Iterator<Item = Item<'a>>) {
        let (query, now) = (self.query, self.heading.now);
        self.begin();
        let mut family = None;
        each(items, query, now, |prefix, until| {
            if family.replace(prefix.family) != Some(prefix.family) {
                self.enter(prefix.family);
            }
            self.line(prefix, until);
        });
        let placeholder = query.placeholder.filter(|_| self.count == 0);
        if let Some(address) = placeholder {
            let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
            self.enter(family);
            for prefix in prefixes(family, Span::of(address.into())) {
                self.line(prefix, now + jiff::SignedDuration::from_hours(24));
            }
        }
        self.end();
    }

    fn begin(&mut self) {
        let name = self.heading.name;
        if self.query.format == Format::IpsetRestore {
            for (version, family) in [("v4", "inet"), ("v6", "inet6")] {
                for set in [format!("{name}_{version}"), format!("{name}_{version}_new")] {
                    self.text(format_args!("create {set} hash:net family {family} maxelem 4194304 timeout 0 -exist\n"));
                }
                self.text(format_args!("flush {name}_{version}_new\n"));
            }
        }
    }

    /// What stands before the first entry of a family.
    fn enter(&mut self, family: Family) {
        if self.query.format == Format::Mikrotik {
            self.text(format_args!("/{} firewall address-list\n", ip(family)));
        }
    }

    fn line(&mut self, prefix: Prefix, until: Timestamp) {
        self.count += 1;
        let Heading { name, sequence, now } = *self.heading;
        // a second that has begun is not over, and none is for ever in some formats
        let left = (until.as_second() - now.as_second()).max(1);
        match self.query.format {
            Format::Text | Format::Pf => {
                self.prefix(prefix);
                self.out.push(b'\n');
            }
            Format::NginxGeo => {
                self.prefix(prefix);
                self.text(format_args!(" 1;\n"));
            }
            Format::NginxDeny => {
                self.text(format_args!("deny "));
                self.prefix(prefix);
                self.text(format_args!(";\n"));
            }
            Format::HaproxyMap => {
                self.prefix(prefix);
                self.text(format_args!(" {}\n", self.query.action.as_deref().unwrap_or("ban")));
            }
            Format::Mikrotik => {
                let left = left.min(ROUTEROS_LONGEST);
                // the router writes hosts of IPv4 without their length, and finds them only so
                let address = match prefix.family {
                    Family::V4 if prefix.is_host() => Family::V4.address(prefix.first).to_string(),
                    _ => prefix.to_string(),
                };
                let add = format!("add list={name} address={address} timeout={left}s comment=s{sequence}");
                self.text(format_args!(
                    ":do {{ {add} }} on-error={{ remove [find list={name} and address={address}]; {add} }}\n"
                ));
            }
            Format::IpsetRestore => {
                let version = if prefix.family == Family::V4 { "v4" } else { "v6" };
                let left = left.min(IPSET_LONGEST);
                self.text(format_args!("add {name}_{version}_new {prefix} timeout {left} -exist\n"));
            }
            Format::Nft => {
                self.text(format_args!("\t\t\t"));
                self.prefix(prefix);
                self.text(format_args!(" timeout {left}s,\n"));
            }
            Format::Json => {
                self.out.extend_from_slice(if self.count == 1 { b"\n{\"value\":\"" } else { b",\n{\"value\":\"" });
                self.prefix(prefix);
                self.text(format_args!("\",\"until\":\"{until}\"}}"));
            }
            Format::Csv => {
                self.prefix(prefix);
                self.text(format_args!(",{until},,,,\n"));
            }
        }
    }

    fn end(&mut self) {
        let Heading { name, sequence, .. } = *self.heading;
        match self.query.format {
            Format::Mikrotik => {
                // what this list has not named is over or lifted; until here nothing was let go
                for family in [Family::V4, Family::V6] {
                    let ip = ip(family);
                    self.text(format_args!(
                        "/{ip} firewall address-list remove [find list={name} and comment!=s{sequence}]\n"
                    ));
                }
            }
            Format::IpsetRestore => {
                for version in ["v4", "v6"] {
                    self.text(format_args!(
                        "swap {name}_{version}_new {name}_{version}\ndestroy {name}_{version}_new\n"
                    ));
                }
            }
            Format::Json => self.out.extend_from_slice(b"\n]}\n"),
            _ => {}
        }
    }

    /// A whole table that takes the place of the one before in one step.
    fn nft<'a>(&mut self, items: impl Iterator<Item = Item<'a>>) {
        let (query, heading) = (self.query, self.heading);
        let name = heading.name;
        let mut families: [Vec<(Prefix, Timestamp)>; 2] = [Vec::new(), Vec::new()];
        each(items, query, heading.now, |prefix, until| {
            families[usize::from(prefix.family == Family::V6)].push((prefix, until));
        });
        let table = format!("table inet cordon_feed_{name}");
        self.text(format_args!("add {table}\ndelete {table}\n{table} {{\n"));
        for ((set, kind), entries) in [("banned4", "ipv4_addr"), ("banned6", "ipv6_addr")].into_iter().zip(families) {
            self.text(format_args!("\tset {set} {{\n\t\ttype {kind}\n\t\tflags interval, timeout\n"));
            if !entries.is_empty() {
                self.text(format_args!("\t\telements = {{\n"));
                for (prefix, until) in entries {
                    self.line(prefix, until);
                }
                self.text(format_args!("\t\t}}\n"));
            }
            self.text(format_args!("\t}}\n"));
        }
        self.text(format_args!(
            "\tchain banned {{\n\t\ttype filter hook prerouting priority raw; policy accept;\n\
             \t\tip saddr @banned4 drop\n\t\tip6 saddr @banned6 drop\n\t}}\n}}\n"
        ));
    }

    fn prefix(&mut self, prefix: Prefix) {
        if prefix.is_host() && !self.query.cidr {
            self.text(format_args!("{}", prefix.family.address(prefix.first)));
        } else {
            self.text(format_args!("{prefix}"));
        }
    }

    fn text(&mut self, text: std::fmt::Arguments<'_>) {
        // writing to memory cannot fail
        let _ = self.out.write_fmt(text);
    }
}

/// How RouterOS calls a family.
fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ipv6",
    }
}
