//! Step one: which scenarios want an event, and what their buckets need of it.
//!
//! Runs where lines are parsed. Filters are asked in file order, since they may write to the event; when all have been
//! asked, one record is taken that serves every bucket. What fails is counted by scenario and skips that scenario only.

use std::net::IpAddr;
use std::sync::Arc;

use expr::{Env, EvalError, Host, Program, Value, memo::Memo};
use ipnet::IpNet;
use jiff::Timestamp;
use model::{AllowSet, Event, EventTime, Packer, Part, Probe, Record, fields};

use crate::bucket::{Kind, Moment};
use crate::dispatch::Candidates;
use crate::key::{BucketKey, GroupHash, HashKey, Network};
use crate::metrics::{ScenarioSelect, SelectMetrics};
use crate::scenario::{Keep, Scenario};
use crate::set::Scenarios;

/// One event on its way into one bucket.
#[derive(Clone, Debug)]
pub struct Pour {
    /// Index into [`Scenarios::all`].
    pub scenario: usize,
    /// The bucket.
    pub key: BucketKey,
    /// What the bucket is keyed by, as the log says it.
    pub group: Arc<str>,
    /// Which partition holds the bucket.
    pub partition: u8,
    /// What is kept of the event; shared by its pours.
    pub record: Arc<Record>,
    /// The time that the log tells, if it tells one.
    pub(crate) time: Option<Moment>,
    pub(crate) distinct: Option<u64>,
    pub(crate) cancel: bool,
    pub(crate) network: Network,
    /// Whether an allowlist was asked and did not cover the source.
    pub(crate) checked: bool,
}

impl Pour {
    /// The time that the log tells, if it tells one.
    pub fn time(&self) -> Option<Timestamp> {
        self.time.map(|time| time.event_time().instant)
    }
}

/// What a selection looks at beside the event.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The world of expressions.
    pub host: &'a dyn Host,
    /// Shared results of the worker; `None` computes everything anew.
    pub memo: Option<&'a Memo>,
    /// Who is never punished; `None` asks nobody.
    pub allow: Option<&'a AllowSet>,
    /// The present, for allowlist entries that expire.
    pub now: Timestamp,
    /// The parsers that succeeded on the event, in order.
    pub parsers: &'a Arc<[Arc<str>]>,
    /// What notes how long each scenario takes.
    pub probe: Option<&'a Probe>,
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("now", &self.now).finish_non_exhaustive()
    }
}

/// The selecting half of one worker.
#[derive(Debug)]
pub struct Selector {
    key: HashKey,
    /// Counts since the worker began.
    pub metrics: SelectMetrics,
    candidates: Candidates,
    chosen: Vec<Chosen>,
    keep: Keep,
    packer: Packer,
    exhaustive: bool,
}

#[derive(Debug)]
struct Chosen {
    scenario: usize,
    group: Arc<str>,
    hash: GroupHash,
    distinct: Option<u64>,
    cancel: bool,
}

impl Selector {
    /// A selector whose bucket names are made with `key`.
    pub fn new(key: HashKey) -> Self {
        Self {
            key,
            metrics: SelectMetrics::default(),
            candidates: Candidates::default(),
            chosen: Vec::new(),
            keep: Keep::default(),
            packer: Packer::default(),
            exhaustive: false,
        }
    }

    /// The same, asking every scenario about every event: what `explain` and tests compare with.
    pub fn exhaustive(self) -> Self {
        Self { exhaustive: true, ..self }
    }

    /// Begins a batch: what its records have in common is found anew, so that what they take, and who has to yield to them,
    /// depends on the batch and not on what this worker did before.
    pub fn begin(&mut self) {
        self.packer.begin();
    }

    /// Appends the pours of `event`, in file order.
    pub fn select(&mut self, scenarios: &Scenarios, event: &Event, around: &Surroundings<'_>, pours: &mut Vec<Pour>) {
        self.metrics.events += 1;
        if self.metrics.scenarios.len() < scenarios.list.len() {
            self.metrics.scenarios.resize(scenarios.list.len(), ScenarioSelect::default());
        }
        let address = address(event);
        if let Some(allow) = around.allow
            && allowed(event, address, allow, around.now)
        {
            self.metrics.allowed += 1;
            return;
        }
        if self.exhaustive {
            scenarios.dispatch.all(&mut self.candidates);
        } else {
            scenarios.dispatch.candidates(event, &mut self.candidates);
        }
        self.chosen.clear();
        for index in self.candidates.iter() {
            let counts = &mut self.metrics.scenarios[index];
            counts.asked += 1;
            let before = self.chosen.last();
            let wanted = !self.exhaustive && scenarios.dispatch.decides(index);
            let chosen = Probe::time(around.probe, Part::Ask(index), || {
                let scenario = &scenarios.list[index];
                choose(index, scenario, wanted, event, around, &self.key, before, &mut counts.errors)
            });
            match chosen {
                Ok(Some(chosen)) => {
                    counts.poured += 1;
                    self.chosen.push(chosen);
                }
                Ok(None) => {}
                Err(Failed) => counts.errors += 1,
            }
        }
        if self.chosen.is_empty() {
            return;
        }
        self.metrics.poured += 1;
        self.keep.clear();
        for chosen in &self.chosen {
            self.keep.merge(&scenarios.list[chosen.scenario].keep);
        }
        // Alerts show all of it.
        self.keep.map(fields::META);
        let keep = &self.keep;
        let table = event.table();
        let unmarshaled = keep.has_map(fields::UNMARSHALED);
        let live = |field| keep.has(table, field);
        let record = Arc::new(Record::new(event, live, unmarshaled, around.parsers, &mut self.packer));
        let time = event.get(fields::MARSHALED_TIME).and_then(EventTime::parse_rfc3339).map(Moment::from);
        let network = self.key.network(address);
        // What anybody can write in anybody's name has buckets of its own, so that it cannot tip over those of others.
        let spoofable = event.spoofable();
        pours.extend(self.chosen.drain(..).map(|chosen| Pour {
            scenario: chosen.scenario,
            key: chosen.hash.bucket(own_tag(scenarios.list[chosen.scenario].tag, spoofable)),
            partition: chosen.hash.partition(),
            group: chosen.group,
            record: Arc::clone(&record),
            time,
            distinct: chosen.distinct,
            cancel: chosen.cancel,
            network,
            checked: around.allow.is_some(),
        }));
    }
}

/// The tag of the buckets that an event goes to.
fn own_tag(tag: u128, spoofable: bool) -> u128 {
    if spoofable { !tag } else { tag }
}

/// An expression that must give something failed, or gave something else.
struct Failed;

/// What one scenario makes of an event; `wanted` says that its filter is known to be true.
#[expect(clippy::too_many_arguments, reason = "all of them are fields of the selector or what it was given")]
fn choose(
    index: usize,
    scenario: &Scenario,
    wanted: bool,
    event: &Event,
    around: &Surroundings<'_>,
    key: &HashKey,
    before: Option<&Chosen>,
    errors: &mut u64,
) -> Result<Option<Chosen>, Failed> {
    let vars = [Value::Object(event)];
    let env = Env { vars: &vars, host: around.host, memo: around.memo };
    // What an expression wrote may be what another has computed already.
    let wrote = |program: &Program| {
        if let Some(memo) = around.memo.filter(|_| program.facts().effect) {
            memo.next();
        }
    };
    if !wanted {
        let answer = scenario.filter.eval_bool(&env);
        wrote(&scenario.filter);
        match answer {
            Ok(Some(true)) => {}
            Ok(Some(false)) => return Ok(None),
            Ok(None) | Err(_) => return Err(Failed),
        }
    }
    let value = match &scenario.group_by {
        None => Value::text(""),
        Some(program) => {
            let value = value_of(program, event, &env);
            wrote(program);
            value.map_err(|_| Failed)?
        }
    };
    let group = value.as_str().ok_or(Failed)?;
    // Most scenarios group by the same address.
    let (group, hash) = match before {
        Some(before) if *before.group == *group => (Arc::clone(&before.group), before.hash),
        _ => (Arc::from(group), key.group(group)),
    };
    let (mut distinct, mut cancel) = (None, false);
    // A trigger consumes the event before either is looked at.
    if scenario.kind != Kind::Trigger {
        if let Some(program) = &scenario.distinct {
            match value_of(program, event, &env) {
                Ok(value) => distinct = Some(key.text(value.as_str().unwrap_or(""))),
                Err(_) => *errors += 1,
            }
            wrote(program);
        }
        if let Some(program) = &scenario.cancel_on {
            match program.eval_bool(&env) {
                Ok(Some(answer)) => cancel = answer,
                Ok(None) | Err(_) => *errors += 1,
            }
            wrote(program);
        }
    }
    Ok(Some(Chosen { scenario: index, group, hash, distinct, cancel }))
}

/// What `program` says of `event`; mostly it is one field.
fn value_of<'a>(program: &'a Program, event: &'a Event, env: &'a Env<'a>) -> Result<Value<'a>, EvalError> {
    match program.field() {
        Some(field) => Ok(Value::text(event.get(field).unwrap_or(""))),
        None => program.eval(env),
    }
}

/// The address whose neighbourhood shares a quota.
fn address(event: &Event) -> Option<IpAddr> {
    match event.overflow() {
        None => event.get(fields::SOURCE_IP)?.parse().ok(),
        Some(overflow) => overflow.alert.source.ip.parse().ok(),
    }
}

/// Whether all sources of the event are allowed; an event without an address is not.
fn allowed(event: &Event, address: Option<IpAddr>, allow: &AllowSet, now: Timestamp) -> bool {
    match event.overflow() {
        None => address.is_some_and(|address| allow.covers_ip(address, now).is_some()),
        Some(overflow) => {
            let covered = |source: &str| {
                let net = source.parse::<IpNet>().or_else(|_| source.parse::<IpAddr>().map(IpNet::from));
                net.is_ok_and(|net| allow.covers(net, now).is_some())
            };
            !overflow.sources.is_empty() && overflow.sources.keys().all(|source| covered(source))
        }
    }
}
