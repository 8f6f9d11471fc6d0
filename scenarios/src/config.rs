//! The YAML shape of a scenario file, checked once (spec: scenarios 2 and 3).
//!
//! One document is one scenario. What comes out cannot be wrong in shape; expressions are checked when it is compiled.
//! Keys of our own live under `cordon:`; a file without them means what it means elsewhere.

use model::data::DataFile;
use model::format;
use model::yaml::{Fault, Keys, Text, Yaml, documents};

use crate::bucket::Kind;

/// A scenario as written.
#[derive(Debug)]
pub(crate) struct ScenarioConfig {
    /// Line on which it starts.
    pub(crate) line: u32,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) kind: Kind,
    pub(crate) filter: Text,
    pub(crate) group_by: Option<Text>,
    pub(crate) distinct: Option<Text>,
    pub(crate) cancel_on: Option<Text>,
    pub(crate) condition: Option<Text>,
    pub(crate) overflow_filter: Option<Text>,
    pub(crate) capacity: i32,
    /// Nanoseconds; 0 when absent.
    pub(crate) leakspeed: i64,
    /// Nanoseconds; 0 when absent.
    pub(crate) duration: i64,
    /// Nanoseconds; `None` when absent.
    pub(crate) blackhole: Option<i64>,
    pub(crate) cache_size: i32,
    pub(crate) bayes: Option<BayesConfig>,
    pub(crate) scope: ScopeConfig,
    pub(crate) labels: serde_json::Value,
    pub(crate) reprocess: bool,
    pub(crate) data: Vec<DataFile>,
    /// Most events a bucket without a size of its own holds (`cordon: {hold: ...}`).
    pub(crate) hold: Option<usize>,
}

/// The bayesian keys as written.
#[derive(Debug)]
pub(crate) struct BayesConfig {
    pub(crate) prior: f32,
    pub(crate) threshold: f32,
    pub(crate) conditions: Vec<EvidenceConfig>,
}

/// One entry of `bayesian_conditions` as written.
#[derive(Debug)]
pub(crate) struct EvidenceConfig {
    pub(crate) condition: Text,
    pub(crate) given_evil: f32,
    pub(crate) given_benign: f32,
    pub(crate) guillotine: bool,
}

/// `scope` as written.
#[derive(Debug)]
pub(crate) struct ScopeConfig {
    pub(crate) name: String,
    pub(crate) expression: Option<Text>,
}

/// What a scenario file holds.
#[derive(Debug, Default)]
pub(crate) struct FileConfig {
    pub(crate) scenarios: Vec<ScenarioConfig>,
    /// What is odd but allowed, and documents that were left out.
    pub(crate) notes: Vec<Fault>,
}

/// Reads the documents of a scenario file: everything that is wrong with them, at most one mistake a document. Errors
/// lack the path.
pub(crate) fn parse(text: &str) -> Result<FileConfig, Vec<Fault>> {
    let mut file = FileConfig::default();
    let mut faults = Vec::new();
    let documents = documents(text).map_err(|fault| vec![fault])?;
    if documents.is_empty() {
        return Err(vec![nameless(1)]);
    }
    for document in documents {
        match scenario(&document, &mut file.notes) {
            Ok(scenario) => file.scenarios.extend(scenario),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(file) } else { Err(faults) }
}

fn nameless(line: u32) -> Fault {
    Fault::new(line, "a scenario has no `name`").hint("each document is one scenario, such as `name: author/word`")
}

fn scenario(document: &Yaml, notes: &mut Vec<Fault>) -> Result<Option<ScenarioConfig>, Fault> {
    if document.is_null() {
        return Err(nameless(document.line));
    }
    let keys = document.keys("a scenario")?;
    let scenario = read(&keys, notes);
    // A key that is misspelt is told before the one that is missing for it.
    for key in KEYS {
        keys.get(key);
    }
    keys.finish()?;
    scenario
}

const KEYS: [&str; 26] = [
    "name",
    "description",
    "type",
    "filter",
    "groupby",
    "distinct",
    "capacity",
    "leakspeed",
    "duration",
    "blackhole",
    "cache_size",
    "condition",
    "cancel_on",
    "overflow_filter",
    "bayesian_prior",
    "bayesian_threshold",
    "bayesian_conditions",
    "scope",
    "labels",
    "reprocess",
    "data",
    "references",
    "debug",
    "format",
    "version",
    "cordon",
];

fn read(keys: &Keys<'_>, notes: &mut Vec<Fault>) -> Result<Option<ScenarioConfig>, Fault> {
    let line = keys.line();
    let name = filled(keys, "name")?.ok_or_else(|| nameless(line))?.text;
    if let Err(note) = format::check(keys)? {
        notes.push(note);
        return Ok(None);
    }
    let kind = kind(keys)?;
    let capacity = small(keys, "capacity")?.unwrap_or(0);
    let scenario = ScenarioConfig {
        line,
        name,
        description: filled(keys, "description")?
            .ok_or_else(|| missing(keys, "description", "one sentence for people"))?
            .text,
        kind,
        filter: filled(keys, "filter")?
            .ok_or_else(|| missing(keys, "filter", "an expression that says which events count"))?,
        group_by: filled(keys, "groupby")?,
        distinct: filled(keys, "distinct")?,
        cancel_on: filled(keys, "cancel_on")?,
        condition: filled(keys, "condition")?,
        overflow_filter: filled(keys, "overflow_filter")?,
        capacity,
        leakspeed: duration(keys, "leakspeed")?.unwrap_or(0),
        duration: duration(keys, "duration")?.unwrap_or(0),
        blackhole: duration(keys, "blackhole")?,
        cache_size: small(keys, "cache_size")?.unwrap_or(0),
        bayes: bayes(keys)?,
        scope: scope(keys)?,
        labels: labels(keys)?,
        reprocess: keys.flag("reprocess")?.unwrap_or(false),
        data: keys.list("data")?.iter().map(DataFile::parse).collect::<Result<_, _>>()?,
        hold: ours(keys)?,
    };
    keys.texts("references")?;
    keys.flag("debug")?;
    keys.text("version")?;
    check(&scenario, keys, notes)?;
    Ok(Some(scenario))
}

/// What each kind demands.
fn check(scenario: &ScenarioConfig, keys: &Keys<'_>, notes: &mut Vec<Fault>) -> Result<(), Fault> {
    let line_of = |key| keys.get(key).map_or(scenario.line, |value| value.line);
    let kind = scenario.kind.name();
    let capacity = |expected: &str, hint: &str| {
        let message = format!("`capacity` of a {kind} bucket must be {expected}, found `{}`", scenario.capacity);
        Fault::new(line_of("capacity"), message).hint(hint)
    };
    let positive = |key: &'static str, nanos: i64, hint: &str| {
        if keys.get(key).is_none() {
            Err(missing(keys, key, hint))
        } else if nanos <= 0 {
            let found = expr::duration::format(nanos);
            Err(Fault::new(line_of(key), format!("`{key}` of a {kind} bucket must be longer than 0, found `{found}`"))
                .hint(hint))
        } else {
            Ok(())
        }
    };
    match scenario.kind {
        Kind::Leaky => {
            if scenario.capacity <= 0 {
                return Err(capacity("1 or more", "it overflows with the event after so many"));
            }
            positive("leakspeed", scenario.leakspeed, "the time after which one event is forgotten, such as `10s`")?;
        }
        Kind::Trigger => {
            if scenario.capacity != 0 {
                return Err(capacity("0 or absent", "a trigger overflows on every event; use `type: leaky` to count"));
            }
        }
        Kind::Counter => {
            if scenario.capacity != -1 {
                return Err(capacity("-1", "a counter overflows when its `duration` is over, whatever it holds"));
            }
            positive("duration", scenario.duration, "the time for which it counts, such as `1h`")?;
        }
        Kind::Conditional => {
            if scenario.condition.is_none() {
                return Err(missing(keys, "condition", "an expression over `queue`, `leaky` and `evt`"));
            }
            positive("leakspeed", scenario.leakspeed, "the time after which an idle bucket is forgotten")?;
            if scenario.capacity != -1 {
                notes.push(capacity("-1 to hold every event", "with another value it limits how many are held"));
            }
        }
        Kind::Bayesian => {
            let Some(bayes) = scenario.bayes.as_ref().filter(|bayes| !bayes.conditions.is_empty()) else {
                return Err(missing(keys, "bayesian_conditions", "a list of `condition` with two probabilities"));
            };
            let probability = |key, value: f32| {
                Fault::new(line_of(key), format!("`{key}` must be more than 0 and at most 1, found `{value}`"))
                    .hint("it is a probability, such as `0.5`")
            };
            if !(bayes.prior > 0.0 && bayes.prior <= 1.0) {
                return Err(probability("bayesian_prior", bayes.prior));
            }
            if bayes.threshold == 0.0 || bayes.threshold.is_nan() || bayes.threshold > 1.0 {
                return Err(probability("bayesian_threshold", bayes.threshold));
            }
            if scenario.capacity != -1 {
                return Err(capacity("-1", "it overflows when belief passes `bayesian_threshold`"));
            }
            positive("leakspeed", scenario.leakspeed, "the time after which an idle bucket is forgotten")?;
        }
    }
    if scenario.leakspeed < 0 || scenario.duration < 0 {
        let key = if scenario.leakspeed < 0 { "leakspeed" } else { "duration" };
        return Err(Fault::new(line_of(key), format!("`{key}` cannot be negative")));
    }
    Ok(())
}

fn missing(keys: &Keys<'_>, key: &str, hint: &str) -> Fault {
    Fault::new(keys.line(), format!("`{key}` is missing in a scenario")).hint(format!("add `{key}`: {hint}"))
}

/// A text that is there and not empty.
fn filled(keys: &Keys<'_>, key: &'static str) -> Result<Option<Text>, Fault> {
    Ok(keys.text(key)?.filter(|text| !text.trim().is_empty()))
}

fn small(keys: &Keys<'_>, key: &'static str) -> Result<Option<i32>, Fault> {
    let Some(number) = keys.integer(key)? else { return Ok(None) };
    let line = keys.get(key).map_or(keys.line(), |value| value.line);
    i32::try_from(number).map(Some).map_err(|_| Fault::new(line, format!("`{key}` is too large: `{number}`")))
}

fn duration(keys: &Keys<'_>, key: &'static str) -> Result<Option<i64>, Fault> {
    let Some(text) = filled(keys, key)? else { return Ok(None) };
    let bad = |error| {
        Fault::new(text.line, format!("bad `{key}`: {error}"))
            .hint("write it like `10s`, `5m` or `1h30m`; a day is `24h`")
    };
    expr::duration::parse(&text).map(Some).map_err(bad)
}

fn kind(keys: &Keys<'_>) -> Result<Kind, Fault> {
    let names = Kind::NAMES.map(|(name, _)| name);
    let Some(found) = filled(keys, "type")? else {
        return Err(missing(keys, "type", &format!("one of `{}`", names.join("`, `"))));
    };
    let known = Kind::NAMES.into_iter().find(|(name, _)| *name == &*found);
    known.map(|(_, kind)| kind).ok_or_else(|| Fault::unknown(found.line, "bucket type", &found, names))
}

fn bayes(keys: &Keys<'_>) -> Result<Option<BayesConfig>, Fault> {
    let prior = keys.float("bayesian_prior")?;
    let threshold = keys.float("bayesian_threshold")?;
    let conditions = keys.list("bayesian_conditions")?.iter().map(evidence).collect::<Result<Vec<_>, _>>()?;
    if prior.is_none() && threshold.is_none() && conditions.is_empty() {
        return Ok(None);
    }
    let (prior, threshold) = (prior.unwrap_or(0.0) as f32, threshold.unwrap_or(0.0) as f32);
    Ok(Some(BayesConfig { prior, threshold, conditions }))
}

fn evidence(yaml: &Yaml) -> Result<EvidenceConfig, Fault> {
    let keys = yaml.keys("an entry of `bayesian_conditions`")?;
    let evidence = EvidenceConfig {
        condition: keys.required_text("condition")?,
        given_evil: keys.float("prob_given_evil")?.unwrap_or(0.0) as f32,
        given_benign: keys.float("prob_given_benign")?.unwrap_or(0.0) as f32,
        guillotine: keys.flag("guillotine")?.unwrap_or(false),
    };
    keys.finish()?;
    Ok(evidence)
}

fn scope(keys: &Keys<'_>) -> Result<ScopeConfig, Fault> {
    let Some(yaml) = keys.get("scope") else { return Ok(ScopeConfig { name: "Ip".into(), expression: None }) };
    let keys = yaml.keys("`scope`")?;
    let name = filled(&keys, "type")?.map_or_else(|| "Ip".into(), |name| name.text);
    let expression = filled(&keys, "expression")?;
    // Read by nothing, but files carry it.
    keys.text("runtimefilter")?;
    let line = keys.line();
    keys.finish()?;
    match (&*name, &expression) {
        ("Ip", Some(expression)) => Err(Fault::new(expression.line, "scope `Ip` takes no `expression`")
            .hint("the address is `evt.Meta.source_ip`; name another `type` to use something else")),
        ("Ip" | "Range", _) => Ok(ScopeConfig { name, expression }),
        (_, None) => {
            let fault = Fault::new(line, format!("scope `{name}` has no `expression`"));
            Err(match ["Ip", "Range"].into_iter().find(|known| known.eq_ignore_ascii_case(&name)) {
                Some(known) => fault.hint(format!("did you mean `{known}`? capitals count")),
                None => fault.hint("add one that yields the value, such as `evt.Meta.target_user`"),
            })
        }
        (_, Some(_)) => Ok(ScopeConfig { name, expression }),
    }
}

fn labels(keys: &Keys<'_>) -> Result<serde_json::Value, Fault> {
    let Some(yaml) = keys.get("labels") else { return Ok(serde_json::Value::Null) };
    yaml.entries("labels")?;
    Ok(yaml.to_json())
}

fn ours(keys: &Keys<'_>) -> Result<Option<usize>, Fault> {
    let Some(yaml) = keys.get("cordon") else { return Ok(None) };
    let keys = yaml.keys("`cordon`")?;
    let hold = match keys.integer("hold")? {
        None => None,
        Some(number @ 1..=10_000) => Some(number as usize),
        Some(number) => {
            return Err(Fault::new(keys.line(), format!("`hold` must lie between 1 and 10000, found `{number}`")));
        }
    };
    keys.finish()?;
    Ok(hold)
}
