//! A hub on disk: what its index says of its items, and the rules of some of them or of all.
//!
//! Rules run in the order of the paths where they would be installed, which lack the author's folder.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use expr::{FieldId, MapId};
use model::yaml::did_you_mean;
use model::{FieldTable, fields};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::load::{Folders, RuleFiles};
use crate::ruleset::{Built, RuleSet};
use crate::status::Problem;

/// Kinds of items that Cordon runs, as the index and the folders of a hub call them.
pub const KINDS: [&str; 5] = ["collections", "parsers", "postoverflows", "scenarios", "contexts"];

/// Why a hub, or something in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A file or folder cannot be read.
    #[error("cannot read `{path}`: {error}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The index is not what it should be.
    #[error("`{path}` is no index of a hub: {error}", path = path.display())]
    Index {
        /// Where it is.
        path: PathBuf,
        /// Why.
        error: serde_json::Error,
    },
    /// There is no index.
    #[error("there is no `.index.json` in `{}`\nhint: name the top folder of a hub", .0.display())]
    NoIndex(PathBuf),
    /// There are no rules.
    #[error("there are no rules in `{}`\nhint: name the folder in which `parsers`, `scenarios` and others lie", .0.display())]
    Empty(PathBuf),
    /// The index has no such item.
    #[error("there is no {what} `{name}` in the index of the hub\nhint: {hint}")]
    Unknown {
        /// `collection` or `item`.
        what: &'static str,
        /// As it was asked for.
        name: String,
        /// What may have been meant.
        hint: String,
    },
    /// A file that the index names is not there, or not where rules stand.
    #[error("the index names `{}`, which is no file of this hub\nhint: fetch the hub again", .0.display())]
    Missing(PathBuf),
}

/// Items by kind and name.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Index {
    kinds: BTreeMap<String, BTreeMap<String, Item>>,
}

/// What the index says of an item.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Item {
    /// Its file, below the hub.
    pub path: PathBuf,
    /// Its stage; empty where there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// Its newest version.
    #[serde(default)]
    pub version: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Who wrote it.
    #[serde(default)]
    pub author: String,
    #[serde(default, skip_serializing)]
    versions: BTreeMap<String, Version>,
    #[serde(default, skip_serializing)]
    collections: Option<Vec<String>>,
    #[serde(default, skip_serializing)]
    parsers: Option<Vec<String>>,
    #[serde(default, skip_serializing)]
    postoverflows: Option<Vec<String>>,
    #[serde(default, skip_serializing)]
    scenarios: Option<Vec<String>>,
    #[serde(default, skip_serializing)]
    contexts: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Version {
    #[serde(default)]
    digest: String,
}

impl Item {
    /// Version and hash of a file with this content: the newest version that has it, `?` when none has.
    pub fn identify(&self, content: &[u8]) -> (String, String) {
        let hash = hex_sha256(content);
        let same = self.versions.iter().filter(|(_, version)| version.digest == hash).map(|(version, _)| version);
        let newest = same.max_by_key(|version| numbers(version));
        (newest.map_or_else(|| "?".to_owned(), Clone::clone), hash)
    }

    /// The items that it consists of, by kind; only collections have any.
    fn parts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let lists = [&self.collections, &self.parsers, &self.postoverflows, &self.scenarios, &self.contexts];
        let named = KINDS.into_iter().zip(lists);
        named.flat_map(|(kind, names)| names.iter().flatten().map(move |name| (kind, name.as_str())))
    }
}

impl Index {
    /// The index of the hub at `root`; `None` when it has none.
    pub fn read(root: &Path) -> Result<Option<Self>, HubError> {
        Self::read_file(&root.join(".index.json"))
    }

    /// The index in the file at `path`; `None` when there is none.
    pub fn read_file(path: &Path) -> Result<Option<Self>, HubError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(HubError::Io { path: path.to_path_buf(), error }),
        };
        let read = serde_json::from_str(&text).map(Some);
        read.map_err(|error| HubError::Index { path: path.to_path_buf(), error })
    }

    /// An item of a kind.
    pub fn get(&self, kind: &str, name: &str) -> Option<&Item> {
        self.kinds.get(kind)?.get(name)
    }

    /// Names of all items of a kind, in order.
    pub fn names(&self, kind: &str) -> Vec<&str> {
        self.kinds.get(kind).into_iter().flat_map(BTreeMap::keys).map(String::as_str).collect()
    }

    /// All items of the kinds that Cordon runs, with kind and name.
    pub fn items(&self) -> impl Iterator<Item = (&'static str, &str, &Item)> {
        let of = |kind| self.kinds.get(kind).into_iter().flatten().map(move |(name, item)| (kind, name.as_str(), item));
        KINDS.into_iter().flat_map(of)
    }

    /// The items called `name`, with or without their author, of any of `kinds`.
    pub fn find(
        &self,
        kinds: &[&str],
        what: &'static str,
        name: &str,
    ) -> Result<Vec<(&'static str, &str, &Item)>, HubError> {
        let all: Vec<_> = self.items().filter(|(kind, ..)| kinds.contains(kind)).collect();
        let short = |full: &str| full.rsplit('/').next() == Some(name);
        let mut found: Vec<_> = all.iter().copied().filter(|(_, full, _)| *full == name).collect();
        if found.is_empty() {
            found = all.iter().copied().filter(|(_, full, _)| short(full)).collect();
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let names = || all.iter().map(|(_, full, _)| *full);
        let authored = name.contains('/');
        let near = did_you_mean(
            name,
            names().map(|full| if authored { full } else { full.rsplit('/').next().unwrap_or(full) }),
        );
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`cordon hub list` names what there is".to_owned(),
        };
        Err(HubError::Unknown { what, name: name.to_owned(), hint })
    }

    /// The items that `kind` and `name` consists of, those of collections in it included, and itself.
    pub fn closure<'a>(
        &'a self,
        kind: &'static str,
        name: &'a str,
    ) -> Result<BTreeSet<(&'static str, &'a str)>, HubError> {
        let mut seen = BTreeSet::new();
        let mut left = vec![(kind, name)];
        while let Some((kind, name)) = left.pop() {
            let Some(item) = self.get(kind, name) else {
                let hint = "the collection that needs it is newer than the index; fetch the hub again".to_owned();
                return Err(HubError::Unknown { what: "item", name: format!("{kind}:{name}"), hint });
            };
            if seen.insert((kind, name)) {
                left.extend(item.parts());
            }
        }
        Ok(seen)
    }
}

/// Whether an item is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Installed {
    /// No folder of rules has it.
    No,
    /// As the index has it.
    Yes,
    /// In an older version.
    Outdated,
    /// With changes that no version has.
    Tainted,
}

impl Installed {
    /// As lists show it.
    pub fn text(self) -> &'static str {
        match self {
            Self::No => "available",
            Self::Yes => "installed",
            Self::Outdated => "installed, outdated",
            Self::Tainted => "installed, tainted",
        }
    }
}

impl From<Installed> for &'static str {
    fn from(status: Installed) -> Self {
        status.text()
    }
}

/// Which items are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All.
    All,
    /// What these collections consist of, named with or without their authors.
    Collections(Vec<String>),
}

/// A hub on disk.
#[derive(Debug)]
pub struct Hub {
    root: PathBuf,
    index: Index,
}

/// What of an item the rules of its file say.
#[derive(Debug, Default, Serialize)]
pub struct Facts {
    /// Fields that it reads.
    pub reads: BTreeSet<String>,
    /// Fields that it writes.
    pub writes: BTreeSet<String>,
    /// What must hold for it to do anything.
    pub requires: Vec<String>,
    /// Data files.
    pub data: BTreeSet<String>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// The collection that the field's installer puts on every machine: other collections count on its parsers.
pub const BASE: &str = "crowdsecurity/linux";

impl Hub {
    /// The hub at `root`, which must have an index.
    pub fn open(root: &Path) -> Result<Self, HubError> {
        let index = Index::read(root)?.ok_or_else(|| HubError::NoIndex(root.to_path_buf()))?;
        Ok(Self { root: root.to_path_buf(), index })
    }

    /// What it has.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Compiles what was chosen of the hub at `root`, over the patterns in the binary. Data files and databases of places come
    /// from `data` in it. All is what lies there, with an index or without. Collections without a parser of the first stage
    /// ([`Hub::lacks`]) get the parsers of [`BASE`].
    pub fn build(root: &Path, choice: &Choice) -> Result<Built, HubError> {
        let Choice::Collections(names) = choice else {
            return Ok(compile(layout(root)?, root, &Index::read(root)?.unwrap_or_default(), None));
        };
        let hub = Self::open(root)?;
        let mut wanted = BTreeSet::new();
        for name in names {
            for (kind, name, _) in hub.index.find(&["collections"], "collection", name)? {
                wanted.extend(hub.index.closure(kind, name)?);
            }
        }
        if hub.lacks(names).contains(&BASE) {
            let parts = hub.index.get("collections", BASE).into_iter().flat_map(Item::parts);
            wanted.extend(parts.filter(|(kind, _)| *kind == "parsers"));
        }
        hub.compile(&wanted)
    }

    /// Collections that bring a parser of the first stage, when `names` alone do not: without one, lines have neither a program
    /// nor a message, and the parsers after it take none on.
    pub fn lacks(&self, names: &[String]) -> Vec<&str> {
        let first =
            |kind: &str, name: &str| self.index.get(kind, name).is_some_and(|item| item.stage.starts_with("s00"));
        let brings = |name: &str| {
            let parts = self.index.closure("collections", name).unwrap_or_default();
            parts.into_iter().any(|(kind, name)| kind == "parsers" && first(kind, name))
        };
        let chosen =
            names.iter().filter_map(|name| self.index.find(&["collections"], "collection", name).ok()).flatten();
        if chosen.into_iter().any(|(_, name, _)| brings(name)) {
            return Vec::new();
        }
        self.index.names("collections").into_iter().filter(|name| brings(name)).collect()
    }

    fn compile(&self, wanted: &BTreeSet<(&str, &str)>) -> Result<Built, HubError> {
        let items = wanted.iter().filter(|(kind, _)| *kind != "collections");
        let mut paths = BTreeSet::new();
        for item in items.filter_map(|(kind, name)| self.index.get(kind, name)) {
            let path = self.root.join(&item.path);
            if !path.is_file() || !item.path.is_relative() {
                return Err(HubError::Missing(item.path.clone()));
            }
            paths.insert(path);
        }
        Ok(compile(layout(&self.root)?, &self.root, &self.index, Some(&paths)))
    }

    /// Whether one of `folders` has an item: at the place where CrowdSec installs it, or where it stands in the hub.
    pub fn installed(&self, kind: &str, item: &Item, folders: &[PathBuf]) -> Installed {
        let places = [installed(kind, &item.stage, &item.path), item.path.clone()];
        let mut found = folders.iter().rev().flat_map(|folder| places.iter().map(move |place| folder.join(place)));
        let Some(bytes) = found.find_map(|path| fs::read(path).ok()) else { return Installed::No };
        let digest = hex_sha256(&bytes);
        // A new version may have the content of an old one.
        let same = item.versions.iter().filter(|(_, version)| version.digest == digest);
        let same: Vec<&String> = same.map(|(version, _)| version).collect();
        match same.as_slice() {
            [] => Installed::Tainted,
            versions if versions.contains(&&item.version) => Installed::Yes,
            _ => Installed::Outdated,
        }
    }

    /// What the rules of an item read and need; nothing for a collection.
    pub fn facts(&self, kind: &'static str, name: &str) -> Result<Facts, HubError> {
        if kind == "collections" {
            return Ok(Facts::default());
        }
        let Built { rules, problems, .. } = self.compile(&BTreeSet::from([(kind, name)]))?;
        let table = &*rules.table;
        let mut facts = Facts { problems: problems.iter().map(ToString::to_string).collect(), ..Facts::default() };
        let named = |fields: &mut dyn Iterator<Item = FieldId>| fields.map(|field| field_name(table, field)).collect();
        let whole = |maps: &mut dyn Iterator<Item = MapId>| maps.map(|map| format!("{}*", map_name(map))).collect();
        let add = |to: &mut BTreeSet<String>, more: Vec<String>| to.extend(more);
        for report in rules.parsers.reports().chain(rules.postoverflows.reports()) {
            add(&mut facts.reads, named(&mut report.reads.iter().copied()));
            add(&mut facts.reads, whole(&mut report.reads_all.iter().copied()));
            add(&mut facts.writes, named(&mut report.writes.iter().copied()));
            add(&mut facts.writes, whole(&mut report.writes_all.iter().copied()));
            facts.data.extend(report.files.iter().cloned());
            facts.requires.extend(report.requires.iter().map(|condition| condition_text(table, condition)));
        }
        for scenario in rules.scenarios.all() {
            let needs = &scenario.needs;
            add(&mut facts.reads, named(&mut needs.reads.iter().copied()));
            add(&mut facts.reads, whole(&mut needs.reads_all.iter().copied()));
            add(&mut facts.writes, named(&mut needs.writes.iter().copied()));
            add(&mut facts.writes, whole(&mut needs.writes_all.iter().copied()));
            facts.data.extend(needs.files.iter().cloned());
            facts.requires.extend(needs.requires.iter().map(|condition| condition_text(table, condition)));
        }
        facts.requires.sort();
        facts.requires.dedup();
        Ok(facts)
    }

    /// Names of the tests below `.tests` that name an item.
    pub fn tests(&self, name: &str, item: &Item) -> Vec<String> {
        let path = item.path.to_string_lossy();
        let mut tests = Vec::new();
        for entry in fs::read_dir(self.root.join(".tests")).into_iter().flatten().flatten() {
            let Ok(text) = fs::read_to_string(entry.path().join("config.yaml")) else { continue };
            let documents = model::yaml::documents(&text).unwrap_or_default();
            let keys = documents.iter().filter_map(|document| document.pairs("").ok()).flatten();
            let lists =
                keys.filter(|(key, _)| KINDS.contains(&&*key.text)).filter_map(|(key, list)| list.texts(key).ok());
            let mut named = lists.flatten();
            if named.any(|text| text.text == name || text.text.trim_start_matches("./") == path) {
                tests.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        tests.sort();
        tests
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn hex_sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// What versions are ordered by: `0.10` comes after `0.9`.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// Fails when `root` is not a folder of rules.
pub fn has_rules(root: &Path) -> Result<(), HubError> {
    fs::read_dir(root).map_err(|error| HubError::Io { path: root.to_path_buf(), error })?;
    let some = KINDS.iter().any(|kind| root.join(kind).is_dir());
    if some { Ok(()) } else { Err(HubError::Empty(root.to_path_buf())) }
}

/// All rules that lie at `root`.
fn layout(root: &Path) -> Result<RuleFiles, HubError> {
    has_rules(root)?;
    Ok(RuleFiles::read(&Folders { shipped: false, folders: vec![root.to_path_buf()] }).with_shipped_patterns())
}

/// Compiles those of `files` that stand in `wanted`, as if they were installed.
fn compile(mut files: RuleFiles, root: &Path, index: &Index, wanted: Option<&BTreeSet<PathBuf>>) -> Built {
    let items: HashMap<&Path, &Item> = index.items().map(|(_, _, item)| (item.path.as_path(), item)).collect();
    let is_wanted = |path: &PathBuf| wanted.is_none_or(|wanted| wanted.contains(path));
    files.problems.retain(|problem| is_wanted(&problem.path));
    let mut found: Vec<(PathBuf, PathBuf)> = Vec::new();
    let lists = [
        ("parsers", &mut files.parsers),
        ("postoverflows", &mut files.postoverflows),
        ("scenarios", &mut files.scenarios),
        ("contexts", &mut files.contexts),
    ];
    for (kind, list) in lists {
        list.retain(|file| is_wanted(&file.path));
        for file in list.iter_mut() {
            let item = file.path.strip_prefix(root).ok().and_then(|below| items.get(below));
            file.version = item.map(|item| item.identify(file.text.as_bytes()));
            let mut place = installed(kind, &file.stage, &file.path);
            if found.iter().any(|(taken, _)| *taken == place) {
                // Two authors may have chosen the same name; both rules are there.
                place = file.path.strip_prefix(root).unwrap_or(&file.path).to_path_buf();
            }
            found.push((place.clone(), std::mem::replace(&mut file.path, place)));
        }
        list.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    }
    let mut built = RuleSet::build(&files);
    built.problems = located(built.problems, &found);
    built
}

/// Where an item stands when it is installed.
pub(crate) fn installed(kind: &str, stage: &str, path: &Path) -> PathBuf {
    let mut installed = PathBuf::from(kind);
    installed.extend((!stage.is_empty()).then_some(stage));
    installed.extend(path.file_name());
    installed
}

/// Says of problems where the files were found, not where they would be installed.
pub(crate) fn located(problems: Vec<Problem>, found: &[(PathBuf, PathBuf)]) -> Vec<Problem> {
    let locate = |problem: Problem| match found.iter().find(|(installed, _)| *installed == problem.path) {
        Some((_, found)) => Problem { path: found.clone(), ..problem },
        None => problem,
    };
    problems.into_iter().map(locate).collect()
}

fn map_name(map: MapId) -> &'static str {
    match map {
        fields::PARSED => "evt.Parsed.",
        fields::META => "evt.Meta.",
        fields::ENRICHED => "evt.Enriched.",
        fields::LABELS => "evt.Line.Labels.",
        fields::UNMARSHALED => "evt.Unmarshaled.",
        fields::SOURCES => "evt.Overflow.Sources.",
        fields::APPSEC_VARS => "evt.Appsec.Vars.",
        fields::APPSEC_HOOK_VARS => "evt.Appsec.HookVars.",
        _ => "evt.",
    }
}

fn field_name(table: &FieldTable, field: FieldId) -> String {
    let (map, key) = table.name(field);
    format!("{}{key}", map_name(map))
}

fn condition_text(table: &FieldTable, condition: &expr::Condition) -> String {
    let field = field_name(table, condition.field());
    match condition {
        expr::Condition::In(_, values) => format!("{field} is one of {}", values.join(", ")),
        expr::Condition::StartsWith(_, values) => format!("{field} starts with one of {}", values.join(", ")),
        expr::Condition::NotEmpty(_) => format!("{field} is there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_item_is_known_by_its_content() {
        let digest =
            |text: &str| Sha256::digest(text).iter().fold(String::new(), |all, byte| format!("{all}{byte:02x}"));
        let versions = [("0.1", "old"), ("0.2", "new"), ("0.3", "new")];
        let versions = versions.map(|(version, text)| (version.to_owned(), Version { digest: digest(text) }));
        let item = Item {
            path: "parsers/s01-parse/us/doors.yaml".into(),
            stage: "s01-parse".into(),
            version: "0.3".into(),
            versions: versions.into(),
            ..Item::default()
        };
        // (where the file is, what is in it, the status)
        for (place, text, status) in [
            ("parsers/s01-parse/doors.yaml", "new", Installed::Yes),
            ("parsers/s01-parse/us/doors.yaml", "new", Installed::Yes),
            ("parsers/s01-parse/doors.yaml", "old", Installed::Outdated),
            ("parsers/s01-parse/doors.yaml", "mine", Installed::Tainted),
            ("parsers/s02-enrich/doors.yaml", "new", Installed::No),
        ] {
            let folder = tempfile::TempDir::new().expect("a temporary folder");
            let path = folder.path().join(place);
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
            fs::write(path, text).expect("room on the disk");
            let hub = Hub { root: PathBuf::new(), index: Index::default() };
            let found = hub.installed("parsers", &item, &[folder.path().to_path_buf()]);
            assert_eq!(found, status, "{place} {text}");
        }
    }

    /// The hub that lies beside the project when its compatibility is worked on. It is no part of it.
    #[test]
    fn the_reference_hub_loads_without_a_problem() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/hub");
        if !root.is_dir() {
            eprintln!("SKIPPED, NOT PASSED: there is no hub at `{}`", root.display());
            return;
        }
        let shown = |built: &Built| built.problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let built = Hub::build(&root, &Choice::All).expect("a hub");
        assert_eq!(shown(&built), Vec::<String>::new());
        assert!(built.rules.scenarios.all().len() > 100);
        assert!(built.rules.geo.is_some());
        let hub = Hub::open(&root).expect("a hub");
        assert_eq!(hub.lacks(&["nginx".into()]), ["crowdsecurity/linux"]);
        assert_eq!(hub.lacks(&["nginx".into(), "linux".into()]), Vec::<&str>::new());
        let some = Choice::Collections(vec!["nginx".into(), "crowdsecurity/sshd".into()]);
        let built = Hub::build(&root, &some).expect("collections of the hub");
        assert_eq!(shown(&built), Vec::<String>::new());
        let stages: Vec<&str> = built.rules.parsers.stages().map(|stage| &**stage).collect();
        assert_eq!(stages.first(), Some(&"s00-raw"), "lines get a program though nobody asked for `{BASE}`");
        let names: Vec<&str> = built.rules.scenarios.all().iter().map(|scenario| &*scenario.name).collect();
        for name in ["crowdsecurity/ssh-bf", "crowdsecurity/http-probing", "crowdsecurity/CVE-2017-9841"] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
    }
}
