//! From a bucket to an alert (spec: scenarios 10 to 12).

use std::collections::BTreeMap;
use std::net::IpAddr;

use expr::{Env, Host, Value};
use ipnet::IpNet;
use model::alert::{AlertEvent, AlertEvidence, Meta};
use model::{Alert, EventTime, Record, RuntimeAlert, Source, fields};
use uuid::Uuid;

use crate::bucket::{Moment, Tally};
use crate::context::AlertContext;
use crate::key;
use crate::scenario::Scenario;

/// A bucket at its end.
pub(crate) struct Overflow<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) group: &'a str,
    pub(crate) tally: Tally,
    /// The events it holds, oldest first.
    pub(crate) events: &'a [&'a Record],
    pub(crate) at: Moment,
    /// Whether its time was up; otherwise its last event made it overflow.
    pub(crate) timed: bool,
    /// Whether an allowlist was asked about its events.
    pub(crate) checked: bool,
}

/// No source, so no alert: an event without a usable address, sources of several kinds, an expression that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sourceless;

/// Name space of alert ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x6c9d_3f3e_5d0a_4b60_9b3c_c0bd_02a1_e7d1);

impl Overflow<'_> {
    /// The alert of this overflow; `errors` counts expressions that failed.
    pub(crate) fn alert(
        &self,
        context: &AlertContext,
        host: &dyn Host,
        errors: &mut u64,
    ) -> Result<RuntimeAlert, Sourceless> {
        let scenario = self.scenario;
        let sources = self.sources(host)?;
        let source = sources.values().next().cloned().ok_or(Sourceless)?;
        let count = i32::try_from(self.tally.count).unwrap_or(i32::MAX);
        let (first, last) = (self.tally.first().event_time(), self.tally.last().event_time());
        let span = expr::duration::format(self.at.nanos.saturating_sub(self.tally.first));
        let who = match sources.len() {
            1 => sources.keys().next().map_or(String::new(), Clone::clone),
            many => format!("{many} sources"),
        };
        let message = format!(
            "{} {who} performed '{}' ({count} events over {span}) at {}",
            scenario.scope,
            scenario.name,
            last.go_text()
        );
        let alert = Alert {
            uuid: self.id().to_string(),
            kind: "crowdsec".into(),
            scenario: scenario.name.clone(),
            scenario_hash: scenario.hash.clone(),
            scenario_version: scenario.version.clone(),
            message,
            events_count: count,
            start_at: first.rfc3339(),
            stop_at: self.at.event_time().rfc3339(),
            capacity: scenario.limiter.capacity,
            leakspeed: expr::duration::format(scenario.limiter.leakspeed),
            simulated: scenario.simulated,
            remediation: scenario.remediation && !self.spoofable(),
            source,
            meta: context.tell(self.events, host, errors),
            events: self.events.iter().map(|record| alert_event(record)).collect(),
            cordon: Some(self.evidence()),
            ..Alert::default()
        };
        Ok(RuntimeAlert {
            mapkey: key::mapkey(scenario.filter.source(), self.group, &scenario.name),
            whitelisted: false,
            whitelist_reason: String::new(),
            reprocess: scenario.reprocess,
            sources,
            alert,
        })
    }

    /// The same for the same scenario, key and place in the log, in every run.
    fn id(&self) -> Uuid {
        let mut name = self.scenario.identity.0.to_vec();
        let (src, generation, offset) = self.events.last().map_or(("", 0, 0), |record| record.place());
        for text in [self.group, src] {
            name.extend((text.len() as u64).to_le_bytes());
            name.extend(text.as_bytes());
        }
        name.extend(generation.to_le_bytes());
        name.extend(offset.to_le_bytes());
        name.push(self.timed.into());
        Uuid::new_v5(&NAMESPACE, &name)
    }

    fn evidence(&self) -> AlertEvidence {
        let checks = if self.checked { vec!["pour: no allowlist covers the source".to_owned()] } else { Vec::new() };
        AlertEvidence {
            key: self.group.into(),
            bucket: self.scenario.kind.name().into(),
            allow_checks: checks,
            spoofable: self.spoofable(),
        }
    }

    /// Whether the senders of its events can be invented; all of a bucket's events are of one kind.
    fn spoofable(&self) -> bool {
        self.events.iter().any(|record| record.spoofable())
    }

    fn sources(&self, host: &dyn Host) -> Result<BTreeMap<String, Source>, Sourceless> {
        let mut all = BTreeMap::new();
        for record in self.events {
            match record.overflow() {
                None => {
                    let source = self.source(record, host)?;
                    all.insert(source.value.clone(), source);
                }
                Some(overflow) => self.sources_of(record, overflow, host, &mut all)?,
            }
        }
        Ok(all)
    }

    /// Who stands behind a line.
    fn source(&self, record: &Record, host: &dyn Host) -> Result<Source, Sourceless> {
        let scope = self.scenario.scope.as_str();
        if scope != "Ip" && scope != "Range" {
            let value = self.scope_value(record, host)?.unwrap_or_default();
            return Ok(Source { scope: scope.into(), value, ..Source::default() });
        }
        let text = |field| record.get(field).unwrap_or("");
        let ip = text(fields::SOURCE_IP);
        ip.parse::<IpAddr>().map_err(|_| Sourceless)?;
        let range = match text(fields::SOURCE_RANGE) {
            "" => String::new(),
            range => range.parse::<IpNet>().map_err(|_| Sourceless)?.trunc().to_string(),
        };
        let value = match (scope, self.scope_value(record, host)?) {
            ("Ip", _) => ip.to_owned(),
            (_, Some(value)) => value,
            (_, None) => range.clone(),
        };
        let degrees = |field| text(field).parse().unwrap_or(0.0);
        Ok(Source {
            scope: scope.into(),
            value,
            ip: ip.into(),
            range,
            as_name: text(fields::ASN_ORG).into(),
            as_number: record.get(fields::AS_NUMBER).unwrap_or_else(|| text(fields::ASN_NUMBER)).into(),
            cn: text(fields::ISO_CODE).into(),
            latitude: degrees(fields::LATITUDE),
            longitude: degrees(fields::LONGITUDE),
        })
    }

    /// Who stands behind an overflow that was poured.
    fn sources_of(
        &self,
        record: &Record,
        overflow: &RuntimeAlert,
        host: &dyn Host,
        all: &mut BTreeMap<String, Source>,
    ) -> Result<(), Sourceless> {
        let scope = self.scenario.scope.as_str();
        for (key, source) in &overflow.sources {
            if source.scope == scope {
                all.insert(key.clone(), source.clone());
            } else if scope == "Range" && source.scope == "Ip" {
                let value = self.scope_value(record, host)?.unwrap_or_else(|| source.range.clone());
                if !value.is_empty() {
                    let source =
                        Source { scope: scope.into(), value: value.clone(), ip: String::new(), ..source.clone() };
                    all.insert(value, source);
                }
            }
        }
        Ok(())
    }

    /// What the scope's expression says of an event, if the scope has one; anything but a text is the empty text.
    fn scope_value(&self, record: &Record, host: &dyn Host) -> Result<Option<String>, Sourceless> {
        let Some(program) = &self.scenario.scope_expression else { return Ok(None) };
        let vars = [Value::Object(record)];
        let env = Env { vars: &vars, host, memo: None };
        let value = program.eval(&env).map_err(|_| Sourceless)?;
        Ok(Some(value.as_str().unwrap_or("").to_owned()))
    }
}

fn alert_event(record: &Record) -> AlertEvent {
    let meta = record.entries_of(fields::META).into_iter();
    let timestamp = match record.get(fields::MARSHALED_TIME) {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => record.time().map_or(String::new(), EventTime::rfc3339),
    };
    AlertEvent {
        meta: meta.map(|(key, value)| Meta { key: key.into(), value: value.into() }).collect(),
        timestamp,
        cordon: Some(record.evidence()),
    }
}
