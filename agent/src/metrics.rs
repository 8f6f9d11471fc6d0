//! The counters of this crate, as Prometheus reads them: one family for each thing that is counted, one series for each datasource.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::status::{SourceReport, Status};

/// How many datasources have series of their own; the others share one.
const MOST: usize = 1000;
/// Longest label in bytes.
const LONGEST: usize = 200;

/// Which datasource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: String,
    datasource_type: String,
}

/// What is told of a datasource: name, what it is, and where it stands in its report.
type Told = (&'static str, &'static str, fn(&SourceReport) -> u64);

/// What only grows.
const COUNTERS: &[Told] = &[
    ("cordon_source_lines", "Lines read", |source| source.lines),
    ("cordon_source_bytes", "Bytes read", |source| source.bytes),
    ("cordon_source_parsed", "Lines that a parser understood", |source| source.parsed),
    ("cordon_source_unparsed", "Lines that no parser understood", |source| source.unparsed),
    ("cordon_source_dropped", "Lines or records that could not be taken", |source| source.dropped),
    ("cordon_source_cut", "Lines longer than allowed, cut", |source| source.cut),
    ("cordon_source_untransformed", "Lines that transform could make nothing of", |source| source.unchanged),
    ("cordon_source_restarts", "How often it was started again after a failure", |source| source.retries),
];

/// What goes up and down.
const GAUGES: &[Told] = &[
    ("cordon_source_lag_bytes", "Bytes written but not read yet", |source| source.lag),
    ("cordon_source_lag_seconds", "For how long there has been something not worked on yet", |source| {
        source.lag_seconds
    }),
    ("cordon_source_size_bytes", "Bytes there are to read, where the input has an end", |source| source.total),
    ("cordon_source_troubles", "Things that do not work", |source| source.trouble.len() as u64),
];

/// Adds what `status` says at this moment.
pub fn register(status: &Status, registry: &mut Registry) {
    let sources = status.sources();
    for (name, help, value) in COUNTERS {
        let family = Family::<SourceLabels, Counter>::default();
        for (number, source) in sources.iter().enumerate() {
            family.get_or_create(&labels(number, source)).inc_by(value(source));
        }
        registry.register(*name, *help, family);
    }
    for (name, help, value) in GAUGES {
        let family = Family::<SourceLabels, Gauge>::default();
        for (number, source) in sources.iter().enumerate() {
            family.get_or_create(&labels(number, source)).inc_by(value(source) as i64);
        }
        registry.register(*name, *help, family);
    }
    let Some(spool) = status.spool() else { return };
    for (name, help, value) in [
        ("cordon_spool_delivered", "Alerts that the API elsewhere took", spool.counts.delivered),
        ("cordon_spool_refused", "Alerts that it will never take, set aside", spool.counts.refused),
        ("cordon_spool_dropped", "Alerts for which there was no room", spool.counts.dropped),
    ] {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    for (name, help, value) in [
        ("cordon_spool_waiting", "Alerts that wait for the API elsewhere", spool.waiting),
        ("cordon_spool_bytes", "Bytes that they take on disk", spool.bytes),
        ("cordon_spool_limit_bytes", "Bytes that they may take", spool.limit),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(value as i64);
        registry.register(name, help, gauge);
    }
}

fn labels(number: usize, source: &SourceReport) -> SourceLabels {
    if number >= MOST {
        return SourceLabels { source: "(others)".into(), datasource_type: String::new() };
    }
    let mut name = source.name.clone();
    name.truncate(name.floor_char_boundary(LONGEST));
    SourceLabels { source: name, datasource_type: source.module.clone() }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode_registry;

    use super::*;
    use crate::spool::{Counts, SpoolReport};

    fn text(status: &Status) -> String {
        let mut registry = Registry::default();
        register(status, &mut registry);
        let mut text = String::new();
        encode_registry(&mut text, &registry).expect("text takes everything");
        text.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn each_field_is_a_family_and_each_datasource_a_series() {
        let status = Status::default();
        let source = status.add_source("file:/var/log/auth.log", "file");
        source.lines.add(7);
        source.parsed.add(4);
        source.unparsed.add(2);
        source.dropped.add(1);
        source.lag.set(300);
        source.red("", "permission denied", "allow reading");
        let counts = Counts { delivered: 5, refused: 1, dropped: 2 };
        status.set_spool(Some(SpoolReport { waiting: 3, counts, ..SpoolReport::default() }));
        let text = text(&status);
        for (name, value) in [
            ("lines_total", 7),
            ("bytes_total", 0),
            ("parsed_total", 4),
            ("unparsed_total", 2),
            ("dropped_total", 1),
            ("cut_total", 0),
            ("untransformed_total", 0),
            ("restarts_total", 0),
            ("lag_bytes", 300),
            ("lag_seconds", 0),
            ("size_bytes", 0),
            ("troubles", 1),
        ] {
            let line =
                format!("cordon_source_{name}{{source=\"file:/var/log/auth.log\",datasource_type=\"file\"}} {value}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        for line in ["spool_waiting 3", "spool_delivered_total 5", "spool_refused_total 1", "spool_dropped_total 2"] {
            assert!(text.contains(&format!("cordon_{line}\n")), "{text}");
        }
    }

    #[test]
    fn there_are_never_too_many_series_nor_too_long_labels() {
        let status = Status::default();
        for number in 0..MOST + 5 {
            status.add_source(&format!("{number}{}", "é".repeat(500)), "file").lines.add(1);
        }
        let text = text(&status);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("cordon_source_lines_total")).collect();
        assert_eq!(lines.len(), MOST + 1);
        assert!(lines.iter().all(|line| line.len() < LONGEST + 100));
        assert!(lines.iter().any(|line| line.contains("(others)") && line.ends_with(" 5")));
    }
}
