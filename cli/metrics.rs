//! `cordon metrics`: the counters of the running process, as people read them.
//!
//! They are those of `/metrics`, put together by what they are about. Nothing is counted here.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::args::{Format, Global, Metrics};
use crate::config::Config;
use crate::output::{self, Rows, printable};

/// The longest answer that is taken, in bytes.
const MAX_ANSWER: u64 = 4 << 20;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Counters about one thing.
struct Section {
    name: &'static str,
    title: &'static str,
    about: &'static str,
    columns: &'static [&'static str],
    /// The labels that name a row.
    labels: &'static [&'static str],
    /// The counters of a row, each under the name that programs know.
    counters: &'static [(&'static str, &'static str)],
}

/// All of them, in the order in which they are shown.
const SECTIONS: &[Section] = &[
    Section {
        name: "acquisition",
        title: "Acquisition Metrics",
        about: "Lines read from each datasource, understood and not",
        columns: &["Source", "Lines read", "Lines parsed", "Lines unparsed"],
        labels: &["source"],
        counters: &[
            ("reads", "cordon_source_lines_total"),
            ("parsed", "cordon_source_parsed_total"),
            ("unparsed", "cordon_source_unparsed_total"),
        ],
    },
    Section {
        name: "alerts",
        title: "Local API Alerts",
        about: "Alerts that are stored, by scenario",
        columns: &["Reason", "Count"],
        labels: &["reason"],
        counters: &[("", "cs_alerts")],
    },
    Section {
        name: "decisions",
        title: "Local API Decisions",
        about: "Decisions in force",
        columns: &["Reason", "Origin", "Action", "Count"],
        labels: &["reason", "origin", "action"],
        counters: &[("", "cs_active_decisions")],
    },
    Section {
        name: "lapi",
        title: "Local API Metrics",
        about: "Requests by route",
        columns: &["Route", "Method", "Hits"],
        labels: &["route", "method"],
        counters: &[("", "cs_lapi_route_requests_total")],
    },
    Section {
        name: "lapi-bouncer",
        title: "Local API Bouncers Metrics",
        about: "Requests by bouncer and route",
        columns: &["Bouncer", "Route", "Method", "Hits"],
        labels: &["bouncer", "route", "method"],
        counters: &[("", "cs_lapi_bouncer_requests_total")],
    },
    Section {
        name: "lapi-decisions",
        title: "Local API Bouncers Decisions",
        about: "Questions about one address, by whether there was a decision",
        columns: &["Bouncer", "Empty answers", "Non-empty answers"],
        labels: &["bouncer"],
        counters: &[("Empty", "cs_lapi_decisions_ko_total"), ("NonEmpty", "cs_lapi_decisions_ok_total")],
    },
    Section {
        name: "lapi-machine",
        title: "Local API Machines Metrics",
        about: "Requests by machine and route",
        columns: &["Machine", "Route", "Method", "Hits"],
        labels: &["machine", "route", "method"],
        counters: &[("", "cs_lapi_machine_requests_total")],
    },
];

/// Sections that go together under one name.
const GROUPS: &[(&str, &[&str])] = &[
    ("engine", &["acquisition"]),
    ("lapi", &["alerts", "decisions", "lapi", "lapi-bouncer", "lapi-decisions", "lapi-machine"]),
];

pub(crate) fn run(global: &Global, command: Option<&Metrics>, no_unit: bool) -> anyhow::Result<()> {
    let wanted = match command {
        Some(Metrics::List) => return list(global),
        Some(Metrics::Show { kinds }) => kinds.as_slice(),
        None => &[],
    };
    let sections = choose(wanted)?;
    let text = scrape(&Config::load(global)?.socket())?;
    let samples: Vec<Sample> = text.lines().filter_map(Sample::parse).collect();
    let shown = sections.iter().map(|section| (*section, section.rows(&samples)));
    // what nobody asked for by its name is not worth an empty table
    let shown: Vec<_> = shown.filter(|(_, rows)| !wanted.is_empty() || !rows.is_empty()).collect();
    if global.output != Format::Human {
        let all = shown.iter().map(|(section, rows)| (section.name.to_owned(), section.json(rows)));
        return output::json(&Value::Object(all.collect()));
    }
    if shown.is_empty() {
        return output::line("nothing was counted yet");
    }
    for (place, (section, rows)) in shown.iter().enumerate() {
        let gap = if place == 0 { "" } else { "\n" };
        output::line(&format!("{gap}{}:", section.title))?;
        let cells = rows.iter().map(|(labels, values)| {
            let values = values.iter().map(|value| value.map_or("-".to_owned(), |value| number(value, no_unit)));
            labels.iter().map(|label| printable(label)).chain(values).collect()
        });
        Rows { columns: section.columns, rows: cells.collect() }.human("nothing was counted yet")?;
    }
    Ok(())
}

fn list(global: &Global) -> anyhow::Result<()> {
    if global.output == Format::Json {
        let all = SECTIONS.iter().map(|one| json!({ "type": one.name, "title": one.title, "description": one.about }));
        return output::json(&all.collect::<Vec<_>>());
    }
    let rows = SECTIONS.iter().map(|one| vec![one.name.to_owned(), one.title.to_owned(), one.about.to_owned()]);
    let rows = Rows { columns: &["Type", "Title", "Description"], rows: rows.collect() };
    if global.output == Format::Raw { rows.raw() } else { rows.human("") }
}

/// The sections that are asked for by their names or those of groups; all if none is.
fn choose(wanted: &[String]) -> anyhow::Result<Vec<&'static Section>> {
    let mut names: Vec<&str> = Vec::new();
    for kind in wanted {
        if let Some((_, group)) = GROUPS.iter().find(|(name, _)| name == kind) {
            names.extend(*group);
        } else if SECTIONS.iter().any(|section| section.name == kind) {
            names.push(kind);
        } else {
            bail!("unknown metrics type: {kind}\nhint: `cordon metrics list` names them all");
        }
    }
    Ok(SECTIONS.iter().filter(|section| names.is_empty() || names.contains(&section.name)).collect())
}

/// The counters of the process that listens on `socket`, as Prometheus reads them.
pub(crate) fn scrape(socket: &Path) -> anyhow::Result<String> {
    let connected = UnixStream::connect(socket);
    let mut stream = connected.with_context(|| {
        format!("cordon is not running: nobody answers at `{}`\nhint: start it with `cordon run`", socket.display())
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).context("no answer")?;
    let answer = String::from_utf8_lossy(&answer);
    let (_, body) = answer.split_once("\r\n\r\n").context("the answer makes no sense")?;
    Ok(body.to_owned())
}

/// One counter with its labels.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Sample {
    /// What a line says; nothing if it is a comment.
    fn parse(line: &str) -> Option<Self> {
        let end = line.find(['{', ' ']).filter(|_| !line.starts_with('#'))?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            while let Some((label, after)) = rest.split_once("=\"") {
                let mut value = String::new();
                let mut letters = after.chars();
                loop {
                    match letters.next()? {
                        '"' => break,
                        '\\' => value.push(match letters.next()? {
                            'n' => '\n',
                            other => other,
                        }),
                        other => value.push(other),
                    }
                }
                labels.insert(label.trim_start_matches(',').to_owned(), value);
                rest = letters.as_str();
                if let Some(after) = rest.strip_prefix('}') {
                    rest = after;
                    break;
                }
            }
        }
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some(Self { name: name.to_owned(), labels, value })
    }
}

type Row = (Vec<String>, Vec<Option<f64>>);

impl Section {
    /// What was counted, by labels, sorted.
    fn rows(&self, samples: &[Sample]) -> Vec<Row> {
        let mut rows: BTreeMap<Vec<String>, Vec<Option<f64>>> = BTreeMap::new();
        for sample in samples {
            let Some(place) = self.counters.iter().position(|(_, counter)| *counter == sample.name) else { continue };
            let label = |name: &&str| sample.labels.get(*name).cloned().unwrap_or_default();
            let row = rows.entry(self.labels.iter().map(label).collect()).or_insert(vec![None; self.counters.len()]);
            if let Some(value) = row.get_mut(place) {
                *value = Some(value.unwrap_or(0.0) + sample.value);
            }
        }
        rows.into_iter().collect()
    }

    /// The same, nested label by label.
    fn json(&self, rows: &[Row]) -> Value {
        let mut all = json!({});
        for (labels, values) in rows {
            let mut at = &mut all;
            for label in labels {
                at = &mut at[label.as_str()];
            }
            *at = match self.counters {
                [("", _)] => json!(values.first().copied().flatten().unwrap_or(0.0) as i64),
                named => named
                    .iter()
                    .zip(values)
                    .filter_map(|((name, _), value)| Some(((*name).to_owned(), json!((*value)? as i64))))
                    .collect(),
            };
        }
        all
    }
}

/// A number as people read it: `1.03k`, `2.50M`.
fn number(value: f64, plain: bool) -> String {
    for (unit, name) in [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")] {
        if value >= unit && !plain {
            return format!("{:.2}{name}", value / unit);
        }
    }
    format!("{value:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_their_labels() {
        type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], f64);
        let labels =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        // (line, name, labels, value)
        let cases: &[Case] = &[
            ("a_total 3", "a_total", &[], 3.0),
            ("a{b=\"c\"} 1.5", "a", &[("b", "c")], 1.5),
            ("a{b=\"c\",d=\"e f\"} 7", "a", &[("b", "c"), ("d", "e f")], 7.0),
            (r#"a{b="say \"}\" \\ \n"} 7"#, "a", &[("b", "say \"}\" \\ \n")], 7.0),
        ];
        for (line, name, pairs, value) in cases {
            let expected = Sample { name: (*name).into(), labels: labels(pairs), value: *value };
            assert_eq!(Sample::parse(line), Some(expected), "{line}");
        }
        for line in ["# HELP a b", "", "a", "a{b=\"c", "a{b=\"c\"} d"] {
            assert_eq!(Sample::parse(line), None, "{line}");
        }
    }

    #[test]
    fn sections_are_found_by_name_and_group() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            choose(&wanted).map(|found| found.iter().map(|one| one.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).expect("all").len(), SECTIONS.len());
        assert_eq!(names(&["alerts", "engine"]).expect("two"), ["acquisition", "alerts"]);
        let error = names(&["foobar"]).expect_err("there is no such thing").to_string();
        assert!(error.starts_with("unknown metrics type: foobar\n"), "{error}");
    }

    #[test]
    fn rows_are_put_together_and_nested() {
        let text = "cs_lapi_decisions_ok_total{bouncer=\"fw\"} 1030\ncs_lapi_decisions_ko_total{bouncer=\"fw\"} 2\n\
                    cs_lapi_decisions_ok_total{bouncer=\"a\"} 4\ncs_active_decisions{reason=\"r\",origin=\"o\",action=\"ban\"} 5\n";
        let samples: Vec<Sample> = text.lines().filter_map(Sample::parse).collect();
        let json = |name: &str| {
            let section = SECTIONS.iter().find(|section| section.name == name).expect("it is known");
            section.json(&section.rows(&samples))
        };
        assert_eq!(json("lapi-decisions"), json!({ "a": { "NonEmpty": 4 }, "fw": { "Empty": 2, "NonEmpty": 1030 } }));
        assert_eq!(json("decisions"), json!({ "r": { "o": { "ban": 5 } } }));
        for (value, plain, text) in
            [(999.0, false, "999"), (1030.0, false, "1.03k"), (2.5e6, false, "2.50M"), (2.5e6, true, "2500000")]
        {
            assert_eq!(number(value, plain), text);
        }
    }
}
