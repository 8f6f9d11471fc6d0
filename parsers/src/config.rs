//! The YAML shape of a parser file, checked once (spec: parsers 4).
//!
//! One document is one top-level node. What comes out cannot be wrong in shape; names that expressions, patterns and
//! addresses hold are checked when the node is compiled.

use std::cmp::Ordering;

use model::data::DataFile;
use model::yaml::{Fault, Keys, Text, Yaml, documents};

/// A node as written.
#[derive(Debug)]
pub struct NodeConfig {
    /// Line on which it starts.
    pub line: u32,
    /// Its name; empty if it has none.
    pub name: String,
    /// What it does, for people.
    pub description: String,
    /// Whether success moves the event to the next stage.
    pub next_stage: bool,
    /// Condition for the node to look at the event at all.
    pub filter: Option<Text>,
    /// Patterns that it adds to the library, in order.
    pub pattern_syntax: Vec<(Text, Text)>,
    /// What it extracts.
    pub grok: Option<GrokConfig>,
    /// What it remembers for later lines.
    pub stash: Vec<StashConfig>,
    /// Its children.
    pub nodes: Vec<NodeConfig>,
    /// What it assigns.
    pub statics: Vec<StaticConfig>,
    /// Whom it trusts.
    pub whitelist: Option<WhitelistConfig>,
    /// Data files that its expressions use.
    pub data: Vec<DataFile>,
}

/// `grok:` as written.
#[derive(Debug)]
pub struct GrokConfig {
    /// The pattern: a name from the library wins over a text.
    pub pattern: PatternConfig,
    /// The text it looks at: a field wins over an expression.
    pub input: InputConfig,
    /// What it assigns on a match.
    pub statics: Vec<StaticConfig>,
}

/// Which pattern a grok uses.
#[derive(Debug)]
pub enum PatternConfig {
    /// One of the library.
    Named(Text),
    /// Written out.
    Inline(Text),
}

/// Which text a grok looks at.
#[derive(Debug)]
pub enum InputConfig {
    /// `Line.Raw` or a key of `Parsed`.
    ApplyOn(Text),
    /// What an expression yields.
    Expression(Text),
}

/// One entry of `stash:` as written.
#[derive(Debug)]
pub struct StashConfig {
    /// Line of the entry.
    pub line: u32,
    /// Name of the cache.
    pub name: Text,
    /// Expression that gives the key.
    pub key: Text,
    /// Expression that gives the value.
    pub value: Text,
    /// Nanoseconds for which an entry lives.
    pub ttl: i64,
    /// Most entries that the cache holds.
    pub size: usize,
    /// Which entry makes room.
    pub strategy: Strategy,
}

/// Which entry of a full stash makes room for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The one used longest ago.
    Lru,
    /// The one used least often.
    Lfu,
    /// A balance of both that adapts itself.
    Arc,
}

/// One static as written.
#[derive(Clone, Debug)]
pub struct StaticConfig {
    /// Line of the entry.
    pub line: u32,
    /// Where the value goes.
    pub dest: DestConfig,
    /// The value.
    pub value: ValueConfig,
}

/// Where the value of a static goes; the first that is set, in this order.
#[derive(Clone, Debug)]
pub enum DestConfig {
    /// Argument of an enrichment method.
    Method(Text),
    /// A key of `evt.Parsed`.
    Parsed(Text),
    /// A key of `evt.Meta`.
    Meta(Text),
    /// A key of `evt.Enriched`.
    Enriched(Text),
    /// A path from the event.
    Target(Text),
}

/// The value of a static.
#[derive(Clone, Debug)]
pub enum ValueConfig {
    /// A text as it stands.
    Text(Text),
    /// What an expression yields.
    Expression(Text),
    /// Nothing: the static does nothing.
    Nothing,
}

/// `whitelist:` as written.
#[derive(Debug)]
pub struct WhitelistConfig {
    /// Why, for people.
    pub reason: String,
    /// Addresses.
    pub ip: Vec<Text>,
    /// Prefixes.
    pub cidr: Vec<Text>,
    /// Expressions.
    pub expression: Vec<Text>,
}

/// What a parser file holds.
#[derive(Debug, Default)]
pub struct FileConfig {
    /// Its top-level nodes, in order.
    pub nodes: Vec<NodeConfig>,
    /// Documents that were left out, and why.
    pub skipped: Vec<Fault>,
}

const STAGE_WORDS: [&str; 2] = ["next_stage", "continue"];
/// Entries of a stash whose file gives no size.
const STASH_SIZE: usize = 100;
/// More entries than this a stash never holds.
const MAX_STASH_SIZE: usize = 1_000_000;

/// Reads the documents of a parser file. Errors lack the path.
pub fn parse(text: &str) -> Result<FileConfig, Fault> {
    let mut file = FileConfig::default();
    for document in documents(text)? {
        if document.is_null() {
            continue;
        }
        let keys = document.keys("a parser")?;
        let supported = model::format::check(&keys)?;
        let documented = ["name", "description", "author"].into_iter().any(|key| keys.get(key).is_some());
        if let Err(fault) = supported {
            file.skipped.push(fault);
            continue;
        }
        let node = node(keys)?;
        if documented {
            node.check_top()?;
            file.nodes.push(node);
        }
    }
    Ok(file)
}

/// Reads a list of statics that belongs to no file of its own (`override_statics` of a hub test).
pub fn statics(yaml: &Yaml) -> Result<Vec<StaticConfig>, Fault> {
    yaml.list("override_statics")?.iter().map(|entry| static_of(entry, Place::Node)).collect()
}

impl NodeConfig {
    /// A node that succeeds on every event and assigns `statics`.
    pub fn of_statics(name: &str, statics: Vec<StaticConfig>) -> Self {
        Self {
            line: 0,
            name: name.into(),
            description: String::new(),
            next_stage: false,
            filter: None,
            pattern_syntax: Vec::new(),
            grok: None,
            stash: Vec::new(),
            nodes: Vec::new(),
            statics,
            whitelist: None,
            data: Vec::new(),
        }
    }

    fn check_top(&self) -> Result<(), Fault> {
        let whitelists = self.whitelist.as_ref().is_some_and(|list| !list.is_empty());
        if self.grok.is_none() && self.nodes.is_empty() && self.statics.is_empty() && !whitelists {
            return Err(Fault::new(self.line, "this node does nothing")
                .hint("give it at least one of `grok`, `nodes`, `statics` or a `whitelist` with entries"));
        }
        self.nodes.iter().try_for_each(Self::check_top)
    }
}

impl WhitelistConfig {
    /// Whether it trusts nobody.
    pub fn is_empty(&self) -> bool {
        self.ip.is_empty() && self.cidr.is_empty() && self.expression.is_empty()
    }
}

fn node(keys: Keys<'_>) -> Result<NodeConfig, Fault> {
    let text = |key| Ok::<_, Fault>(keys.text(key)?.map_or(String::new(), |text| text.text));
    for key in ["format", "author", "stage"] {
        keys.text(key)?;
    }
    keys.texts("references")?;
    for key in ["debug", "profiling"] {
        keys.flag(key)?;
    }
    let next_stage = match keys.text("onsuccess")? {
        None => false,
        Some(word) => match &*word {
            "next_stage" => true,
            "" | "continue" => false,
            other => return Err(Fault::unknown(word.line, "value of `onsuccess`:", other, STAGE_WORDS)),
        },
    };
    let pattern_syntax = keys.get("pattern_syntax").map_or(Ok(&[][..]), |yaml| yaml.pairs("pattern_syntax"))?;
    let node = NodeConfig {
        line: keys.line(),
        name: text("name")?,
        description: text("description")?,
        next_stage,
        filter: keys.text("filter")?.filter(|filter| !filter.is_empty()),
        pattern_syntax: pattern_syntax
            .iter()
            .map(|(name, pattern)| Ok((name.clone(), pattern.text(name)?)))
            .collect::<Result<_, Fault>>()?,
        grok: keys.get("grok").map_or(Ok(None), grok)?,
        stash: keys.list("stash")?.iter().map(stash).collect::<Result<_, _>>()?,
        nodes: keys
            .list("nodes")?
            .iter()
            .map(|child| node(child.keys("an entry of `nodes`")?))
            .collect::<Result<_, _>>()?,
        statics: keys.list("statics")?.iter().map(|entry| static_of(entry, Place::Node)).collect::<Result<_, _>>()?,
        whitelist: keys.get("whitelist").map(whitelist).transpose()?,
        data: keys.list("data")?.iter().map(DataFile::parse).collect::<Result<_, _>>()?,
    };
    keys.finish()?;
    Ok(node)
}

fn filled(text: Option<Text>) -> Option<Text> {
    text.filter(|text| !text.is_empty())
}

fn grok(yaml: &Yaml) -> Result<Option<GrokConfig>, Fault> {
    let keys = yaml.keys("`grok`")?;
    let name = filled(keys.text("name")?);
    let pattern = filled(keys.text("pattern")?);
    let apply_on = filled(keys.text("apply_on")?);
    let expression = filled(keys.text("expression")?);
    let statics =
        keys.list("statics")?.iter().map(|entry| static_of(entry, Place::Grok)).collect::<Result<Vec<_>, _>>()?;
    let line = keys.line();
    keys.finish()?;
    let missing = |what: &str, hint: &str| Fault::new(line, format!("`grok` has no {what}")).hint(hint);
    let pattern = match (name, pattern) {
        (Some(name), _) => PatternConfig::Named(name),
        (None, Some(pattern)) => PatternConfig::Inline(pattern),
        // the reference takes an expression without a pattern for no grok at all
        (None, None) if apply_on.is_none() => return Ok(None),
        (None, None) => return Err(missing("pattern", "set `pattern`, or `name` for a pattern of the library")),
    };
    let input = match (apply_on, expression) {
        (Some(key), _) => InputConfig::ApplyOn(key),
        (None, Some(expression)) => InputConfig::Expression(expression),
        (None, None) => return Err(missing("text to look at", "set `apply_on` (mostly `message`) or `expression`")),
    };
    Ok(Some(GrokConfig { pattern, input, statics }))
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Node,
    Grok,
}

fn static_of(yaml: &Yaml, place: Place) -> Result<StaticConfig, Fault> {
    let keys = yaml.keys("an entry of `statics`")?;
    let line = keys.line();
    let [method, parsed, meta, enriched, target] =
        ["method", "parsed", "meta", "enriched", "target"].map(|key| keys.text(key));
    let (value, expression) = (filled(keys.text("value")?), filled(keys.text("expression")?));
    let (method, parsed, meta) = (filled(method?), filled(parsed?), filled(meta?));
    let (enriched, target) = (filled(enriched?), filled(target?));
    keys.finish()?;
    if place == Place::Node && [&method, &parsed, &meta, &target].into_iter().all(Option::is_none) && enriched.is_some()
    {
        return Err(Fault::new(line, "`enriched` alone is not a destination here")
            .hint("only statics inside `grok` take it; use `meta` or `parsed`, or `target: evt.Enriched.<key>`"));
    }
    let named = method.map(DestConfig::Method).or(parsed.map(DestConfig::Parsed)).or(meta.map(DestConfig::Meta));
    let dest = named.or(enriched.map(DestConfig::Enriched)).or(target.map(DestConfig::Target));
    let dest = dest.ok_or_else(|| {
        Fault::new(line, "this static has no destination").hint("set one of `meta`, `parsed`, `target` or `method`")
    })?;
    let value = match (value, expression) {
        (Some(value), _) => ValueConfig::Text(value),
        (None, Some(expression)) => ValueConfig::Expression(expression),
        (None, None) if place == Place::Grok => ValueConfig::Nothing,
        (None, None) => {
            return Err(Fault::new(line, "this static has no value").hint("set `value` or `expression`"));
        }
    };
    Ok(StaticConfig { line, dest, value })
}

fn stash(yaml: &Yaml) -> Result<StashConfig, Fault> {
    let keys = yaml.keys("an entry of `stash`")?;
    let ttl = keys.required_text("ttl")?;
    let size = match keys.integer("size")? {
        None => STASH_SIZE,
        Some(size) if size.cmp(&0) == Ordering::Greater => (size as usize).min(MAX_STASH_SIZE),
        Some(size) => {
            return Err(Fault::new(keys.line(), format!("`size` of a stash must be positive, found `{size}`")));
        }
    };
    let stash = StashConfig {
        line: keys.line(),
        name: keys.required_text("name")?,
        key: keys.required_text("key")?,
        value: keys.required_text("value")?,
        ttl: expr::duration::parse(&ttl).map_err(|error| Fault::new(ttl.line, format!("bad `ttl`: {error}")))?,
        size,
        strategy: match keys.text("strategy")?.as_deref() {
            Some("LFU") => Strategy::Lfu,
            Some("ARC") => Strategy::Arc,
            _ => Strategy::Lru,
        },
    };
    keys.finish()?;
    Ok(stash)
}

fn whitelist(yaml: &Yaml) -> Result<WhitelistConfig, Fault> {
    let keys = yaml.keys("`whitelist`")?;
    let whitelist = WhitelistConfig {
        reason: keys.text("reason")?.map_or(String::new(), |reason| reason.text),
        ip: keys.texts("ip")?,
        cidr: keys.texts("cidr")?,
        expression: keys.texts("expression")?,
    };
    keys.finish()?;
    Ok(whitelist)
}
