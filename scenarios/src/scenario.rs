//! A scenario, compiled: everything that can be known at load.

use std::path::Path;

use expr::{Compiler, Condition, Facts, FieldId, MapId, MemberId, Mention, Program, Vars};
use model::classes;
use model::data::DataFile;
use model::fields::{self, FieldTable};
use model::yaml::{Fault, Text};
use sha2::{Digest as _, Sha256};

use crate::bucket::Kind;
use crate::bucket::bayesian::{Bayes, Evidence};
use crate::bucket::counter::Lifetime;
use crate::bucket::leaky::Limiter;
use crate::config::ScenarioConfig;
use crate::key;
use crate::view;

/// What a bucket without a size of its own holds at most; what is older is forgotten, and still counted.
const UNSIZED: usize = 1024;

/// One scenario, ready to be asked.
#[derive(Debug)]
pub struct Scenario {
    /// Its name, as alerts show it.
    pub name: String,
    /// What it finds, for people.
    pub description: String,
    /// How its buckets fill.
    pub kind: Kind,
    /// Its labels, as written.
    pub labels: serde_json::Value,
    /// Version of the installed item; empty for a local file.
    pub version: String,
    /// SHA-256 of the installed item; empty for a local file.
    pub hash: String,
    /// Whether its alerts are recorded and shown, but never enforced.
    pub simulated: bool,
    /// Whether its overflows are offered to all scenarios.
    pub reprocess: bool,
    /// Data files that its expressions use.
    pub data: Vec<DataFile>,
    /// What it reads and requires.
    pub needs: Needs,
    /// What it means, in one number: buckets carry over to a scenario with the same.
    pub identity: Identity,
    pub(crate) filter: Program,
    pub(crate) group_by: Option<Program>,
    pub(crate) distinct: Option<Program>,
    pub(crate) cancel_on: Option<Program>,
    pub(crate) condition: Option<Program>,
    pub(crate) overflow_filter: Option<Program>,
    pub(crate) bayes: Option<Bayes>,
    pub(crate) limiter: Limiter,
    pub(crate) lifetime: Option<Lifetime>,
    /// Most events that a bucket holds.
    pub(crate) hold: usize,
    /// What expressions are told about `hold` (`queue.L`).
    pub(crate) queue_size: i32,
    pub(crate) blackhole: i64,
    pub(crate) scope: String,
    pub(crate) scope_expression: Option<Program>,
    pub(crate) remediation: bool,
    pub(crate) tag: u128,
    pub(crate) keep: Keep,
}

impl Scenario {
    /// Whether its buckets remember more than most.
    pub(crate) fn needs_extra(&self) -> bool {
        self.distinct.is_some() || self.needs_rare()
    }

    /// Whether they must overflow without a pour or remember what a condition said.
    pub(crate) fn needs_rare(&self) -> bool {
        self.bayes.is_some() || self.lifetime.is_some_and(|lifetime| lifetime.timed)
    }
}

/// SHA-256 over everything that gives a scenario's buckets their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(pub(crate) [u8; 32]);

impl Identity {
    /// In hexadecimal.
    pub fn hex(&self) -> String {
        key::hex(&self.0)
    }
}

/// What scenarios read, write and require of events: what must be computed for them.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Text fields read by constant name.
    pub reads: Vec<FieldId>,
    /// String maps read by computed name, or whole.
    pub reads_all: Vec<MapId>,
    /// Members that are not text.
    pub members: Vec<MemberId>,
    /// Text fields that filters write.
    pub writes: Vec<FieldId>,
    /// String maps that filters write by computed name.
    pub writes_all: Vec<MapId>,
    /// Stashes read (`None` inside: the name is computed).
    pub stashes: Vec<Option<String>>,
    /// Data files named by constant.
    pub files: Vec<String>,
    /// Whether anything is asked of the host that changes with time.
    pub volatile: bool,
    /// What must hold for the filter to be true. Of several scenarios together: nothing.
    pub requires: Vec<Condition>,
    /// Whether the filter is true whenever all of `requires` hold. Of several scenarios together: never.
    pub decided: bool,
    /// Lists of mentions, of each of which one must be found for the filter to be true. Of several scenarios together: nothing.
    pub mentions: Vec<Vec<Mention>>,
}

impl Needs {
    /// What a program reads and writes, `requires` aside.
    pub(crate) fn add(&mut self, facts: &Facts) {
        union(&mut self.reads, &facts.reads);
        union(&mut self.reads, &facts.queued);
        union(&mut self.reads_all, &facts.reads_all);
        union(&mut self.reads_all, &facts.queued_all);
        union(&mut self.members, &facts.members);
        union(&mut self.members, &facts.queued_members);
        if facts.opaque {
            union(&mut self.reads_all, &EVERY_MAP);
        }
        union(&mut self.writes, &facts.writes);
        union(&mut self.writes_all, &facts.writes_all);
        union(&mut self.stashes, &facts.stashes);
        union(&mut self.files, &facts.files);
        self.volatile |= facts.volatile;
    }

    /// The needs of both together.
    pub(crate) fn merge(&mut self, other: &Needs) {
        union(&mut self.reads, &other.reads);
        union(&mut self.reads_all, &other.reads_all);
        union(&mut self.members, &other.members);
        union(&mut self.writes, &other.writes);
        union(&mut self.writes_all, &other.writes_all);
        union(&mut self.stashes, &other.stashes);
        union(&mut self.files, &other.files);
        self.volatile |= other.volatile;
    }
}

fn union<T: Clone + PartialEq>(all: &mut Vec<T>, more: &[T]) {
    for one in more {
        if !all.contains(one) {
            all.push(one.clone());
        }
    }
}

/// What a record must keep of an event beside `Meta`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keep {
    fields: Vec<u64>,
    maps: u16,
}

impl Keep {
    pub(crate) fn field(&mut self, field: FieldId) {
        let (word, bit) = (field.0 as usize / 64, field.0 % 64);
        if self.fields.len() <= word {
            self.fields.resize(word + 1, 0);
        }
        self.fields[word] |= 1 << bit;
    }

    pub(crate) fn map(&mut self, map: MapId) {
        self.maps |= 1 << map.0.min(15);
    }

    pub(crate) fn add(&mut self, facts: &Facts) {
        for field in facts.reads.iter().chain(&facts.queued) {
            self.field(*field);
        }
        let opaque = if facts.opaque { &EVERY_MAP[..] } else { &[] };
        for map in facts.reads_all.iter().chain(&facts.queued_all).chain(opaque) {
            self.map(*map);
        }
        if facts.members.iter().chain(&facts.queued_members).any(|member| *member == classes::UNMARSHALED_MEMBER) {
            self.map(fields::UNMARSHALED);
        }
    }

    pub(crate) fn merge(&mut self, other: &Keep) {
        if self.fields.len() < other.fields.len() {
            self.fields.resize(other.fields.len(), 0);
        }
        self.fields.iter_mut().zip(&other.fields).for_each(|(mine, theirs)| *mine |= theirs);
        self.maps |= other.maps;
    }

    pub(crate) fn clear(&mut self) {
        self.fields.fill(0);
        self.maps = 0;
    }

    pub(crate) fn has(&self, table: &FieldTable, field: FieldId) -> bool {
        let word = self.fields.get(field.0 as usize / 64).copied().unwrap_or(0);
        word >> (field.0 % 64) & 1 == 1 || self.has_map(table.name(field).0)
    }

    pub(crate) fn has_map(&self, map: MapId) -> bool {
        self.maps >> map.0.min(15) & 1 == 1
    }
}

/// What may be read where nothing is known.
const EVERY_MAP: [MapId; 8] = [
    fields::PARSED,
    fields::META,
    fields::ENRICHED,
    fields::LABELS,
    fields::TEXT,
    fields::APPSEC_VARS,
    fields::APPSEC_HOOK_VARS,
    fields::UNMARSHALED,
];

/// Fields that every alert shows beside `Meta`.
pub(crate) const ALERT_FIELDS: [FieldId; 8] = [
    fields::SOURCE_IP,
    fields::MARSHALED_TIME,
    fields::AS_NUMBER,
    fields::ASN_NUMBER,
    fields::ASN_ORG,
    fields::ISO_CODE,
    fields::LATITUDE,
    fields::LONGITUDE,
];

/// Compiles a checked document. The fault lacks the path.
pub(crate) fn compile(config: ScenarioConfig, compiler: &mut Compiler<'_>) -> Result<Scenario, Fault> {
    let identity = identity(&config);
    let event = classes::event_vars();
    let queue = view::queue_vars();
    let mut needs = Needs::default();
    let mut keep = Keep::default();
    for field in ALERT_FIELDS {
        keep.field(field);
    }
    needs.reads.extend(ALERT_FIELDS);
    needs.reads_all.push(fields::META);

    let mut program = |key: &str, text: &Text, vars: &Vars, kept: bool| {
        let program = compile_text(compiler, key, text, vars)?;
        needs.add(program.facts());
        if kept {
            keep.add(program.facts());
        }
        Ok::<_, Fault>(program)
    };
    let mut optional = |key: &str, text: &Option<Text>, vars: &Vars, kept: bool| {
        text.as_ref().map(|text| program(key, text, vars, kept)).transpose()
    };
    let group_by = optional("groupby", &config.group_by, &event, false)?;
    let distinct = optional("distinct", &config.distinct, &event, false)?;
    let cancel_on = optional("cancel_on", &config.cancel_on, &event, false)?;
    let condition = optional("condition", &config.condition, &queue, true)?;
    let overflow_filter = optional("overflow_filter", &config.overflow_filter, &view::overflow_vars(), true)?;
    let scope_expression = optional("scope", &config.scope.expression, &event, true)?;
    let filter = program("filter", &config.filter, &event, false)?;
    let bayes = match &config.bayes {
        Some(bayes) if bayes.threshold != 0.0 => {
            let evidence = |evidence: &crate::config::EvidenceConfig| {
                Ok::<_, Fault>(Evidence {
                    condition: program("condition", &evidence.condition, &queue, true)?,
                    given_evil: evidence.given_evil,
                    given_benign: evidence.given_benign,
                    guillotine: evidence.guillotine,
                })
            };
            let conditions = bayes.conditions.iter().map(evidence).collect::<Result<_, _>>()?;
            Some(Bayes { prior: bayes.prior, threshold: bayes.threshold, conditions })
        }
        _ => None,
    };
    needs.requires.clone_from(&filter.facts().requires);
    needs.decided = filter.facts().decided;
    needs.mentions.clone_from(&filter.facts().mentions);

    let queue_size = queue_size(&config);
    let hold = usize::try_from(queue_size).map_or(config.hold.unwrap_or(UNSIZED), |size| size + 1);
    Ok(Scenario {
        tag: key::tag(&config.filter, &config.name),
        remediation: config.labels.get("remediation") == Some(&serde_json::Value::Bool(true)),
        limiter: Limiter { capacity: config.capacity, leakspeed: config.leakspeed },
        lifetime: lifetime(&config),
        name: config.name,
        description: config.description,
        kind: config.kind,
        labels: config.labels,
        version: String::new(),
        hash: String::new(),
        simulated: false,
        reprocess: config.reprocess,
        data: config.data,
        needs,
        identity,
        filter,
        group_by,
        distinct,
        cancel_on,
        condition,
        overflow_filter,
        bayes,
        hold,
        queue_size,
        blackhole: config.blackhole.unwrap_or(0),
        scope: config.scope.name,
        scope_expression,
        keep,
    })
}

/// Compiles one expression of a rule file; the fault names the line inside a block of several.
pub(crate) fn compile_text(compiler: &mut Compiler<'_>, key: &str, text: &Text, vars: &Vars) -> Result<Program, Fault> {
    compiler.compile(text, vars).map_err(|error| Fault::in_expression(&format!("bad `{key}`"), text, &error))
}

/// The same with the path of the file.
pub(crate) fn all_within(faults: Vec<Fault>, path: &Path) -> Vec<Fault> {
    faults.into_iter().map(|fault| fault.within(path)).collect()
}

/// `Qsize` (spec: scenarios 5.1); -1 is without limit.
fn queue_size(config: &ScenarioConfig) -> i32 {
    let cached = config.cache_size > 0 && (config.cache_size <= config.capacity || config.capacity == -1);
    if cached { config.cache_size } else { config.capacity }
}

/// How long a bucket lives (spec: scenarios 5.3); later rules win.
fn lifetime(config: &ScenarioConfig) -> Option<Lifetime> {
    let timed = config.duration != 0;
    let span = match config.kind {
        Kind::Conditional | Kind::Bayesian => config.leakspeed,
        _ if timed => config.duration,
        _ => config.leakspeed.saturating_mul(i64::from(config.capacity.max(0)) + 1),
    };
    (span > 0).then_some(Lifetime { span, timed })
}

fn identity(config: &ScenarioConfig) -> Identity {
    let text = |text: &Option<Text>| text.as_ref().map_or(String::new(), |text| text.text.clone());
    let mut parts = vec![
        config.name.clone(),
        config.kind.name().to_owned(),
        config.filter.text.clone(),
        text(&config.group_by),
        text(&config.distinct),
        text(&config.cancel_on),
        text(&config.condition),
        text(&config.overflow_filter),
        config.scope.name.clone(),
        text(&config.scope.expression),
        format!("{} {} {} {}", config.capacity, config.leakspeed, config.duration, config.cache_size),
    ];
    if let Some(bayes) = &config.bayes {
        parts.push(format!("{} {}", bayes.prior, bayes.threshold));
        for evidence in &bayes.conditions {
            parts.push(evidence.condition.text.clone());
            parts.push(format!("{} {} {}", evidence.given_evil, evidence.given_benign, evidence.guillotine));
        }
    }
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    Identity(digest.finalize().into())
}
