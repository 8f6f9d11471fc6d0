//! What a test consists of: its configuration, and the files it names.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use model::yaml::{Fault, Yaml, documents};
use parsers::config::StaticConfig;

use super::{HubTestError, Options, read};
use crate::hub::{self, Index};
use crate::load::{RuleFile, RuleFiles};
use crate::status::Problem;

/// A hub on disk, and the rules we ship beside it.
#[derive(Debug)]
pub(super) struct Hub<'a> {
    pub(super) root: PathBuf,
    /// Where the folders of its tests lie.
    pub(super) tests: PathBuf,
    pub(super) shipped: &'a RuleFiles,
    index: Index,
}

impl<'a> Hub<'a> {
    /// Reads the index; a hub without one has items by path only, and those of `shipped` by name.
    pub(super) fn open(options: &Options, shipped: &'a RuleFiles) -> Result<Self, HubTestError> {
        let root = &options.hub;
        let index = Index::read(root)?.unwrap_or_default();
        let tests = options.tests.clone().unwrap_or_else(|| root.join(".tests"));
        Ok(Self { root: root.clone(), tests, shipped, index })
    }

    /// Names of the tests to run, in order.
    pub(super) fn tests(&self, names: &[String]) -> Result<Vec<String>, HubTestError> {
        let folder = &self.tests;
        if let Some(name) = names.iter().find(|name| !folder.join(name).is_dir()) {
            return Err(HubTestError::Unknown { name: name.clone(), folder: folder.clone() });
        }
        if !names.is_empty() {
            return Ok(names.to_vec());
        }
        let unreadable = |error| HubTestError::File { what: "read", path: folder.clone(), error };
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            // A folder without it holds what other tests share.
            if entry.path().join("config.yaml").is_file() {
                all.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        all.sort();
        Ok(all)
    }
}

/// One test.
#[derive(Debug)]
pub(super) struct Test {
    pub(super) folder: PathBuf,
    /// Its rules, at the paths where they would be installed, which is what decides the order.
    pub(super) rules: RuleFiles,
    pub(super) log: PathBuf,
    /// Labels of every line, `type` among them.
    pub(super) labels: Vec<(String, String)>,
    /// Where its rules were found, by the paths where they would be installed.
    found: Vec<(PathBuf, PathBuf)>,
    ignore_parsers: bool,
}

impl Test {
    /// Reads `config.yaml` of a test and the files that it names.
    pub(super) fn read(hub: &Hub<'_>, name: &str) -> Result<Self, HubTestError> {
        let folder = hub.tests.join(name);
        let path = folder.join("config.yaml");
        let text = read(&path)?;
        let faulty = |fault: Fault| HubTestError::Config(fault.within(&path));
        let config = Config::parse(&text).map_err(faulty)?;
        if config.log_file.is_empty() {
            return Err(faulty(Fault::new(1, "`log_file` is missing")));
        }
        let mut found = Vec::new();
        let mut rules = |kind, names: &[String]| hub.rules(&folder, kind, names, &mut found);
        let mut files = RuleFiles::with_data(vec![hub.root.clone(), folder.clone()]);
        files.parsers = rules("parsers", &config.parsers)?;
        files.scenarios = rules("scenarios", &config.scenarios)?;
        files.postoverflows = rules("postoverflows", &config.postoverflows)?;
        files.overrides = config.overrides;
        let mut labels = config.labels;
        labels.push(("type".into(), config.log_type));
        let log = folder.join(&config.log_file);
        Ok(Self { folder, rules: files, log, labels, found, ignore_parsers: config.ignore_parsers })
    }

    /// Whether its `parser.assert` counts.
    pub(super) fn checks_parsers(&self) -> bool {
        !self.ignore_parsers
    }

    /// Whether its `scenario.assert` counts.
    pub(super) fn checks_scenarios(&self) -> bool {
        !self.rules.scenarios.is_empty()
    }

    /// Says of problems where the files were found, not where they would be installed.
    pub(super) fn located(&self, problems: Vec<Problem>) -> Vec<Problem> {
        hub::located(problems, &self.found)
    }
}

/// `config.yaml` as written; keys that are not known are ignored.
#[derive(Debug, Default)]
struct Config {
    parsers: Vec<String>,
    scenarios: Vec<String>,
    postoverflows: Vec<String>,
    log_file: String,
    log_type: String,
    labels: Vec<(String, String)>,
    ignore_parsers: bool,
    overrides: Vec<StaticConfig>,
}

impl Config {
    fn parse(text: &str) -> Result<Self, Fault> {
        let mut config = Self::default();
        let documents = documents(text)?;
        let Some(document) = documents.first() else { return Ok(config) };
        let names = |yaml: &Yaml, key: &str| -> Result<Vec<String>, Fault> {
            let all = yaml.texts(key)?.into_iter().map(|name| name.text);
            Ok(all.filter(|name| !name.is_empty()).collect())
        };
        for (key, value) in document.pairs("config.yaml")? {
            match &**key {
                "parsers" => config.parsers = names(value, key)?,
                "scenarios" => config.scenarios = names(value, key)?,
                "postoverflows" => config.postoverflows = names(value, key)?,
                "log_file" => config.log_file = value.text(key)?.text,
                "log_type" => config.log_type = value.text(key)?.text,
                "ignore_parsers" if !value.is_null() => config.ignore_parsers = value.flag(key)?,
                "override_statics" => config.overrides = parsers::config::statics(value)?,
                "labels" => {
                    let label =
                        |(key, value): &(model::yaml::Text, Yaml)| Ok((key.text.clone(), value.text(key)?.text));
                    config.labels = value.pairs(key)?.iter().map(label).collect::<Result<_, Fault>>()?;
                }
                _ => {}
            }
        }
        Ok(config)
    }
}

impl Hub<'_> {
    /// The files that a test names, in the order of their installed paths.
    fn rules(
        &self,
        folder: &Path,
        kind: &'static str,
        names: &[String],
        found: &mut Vec<(PathBuf, PathBuf)>,
    ) -> Result<Vec<RuleFile>, HubTestError> {
        let mut rules = Vec::new();
        for name in names {
            let file = self.rule(folder, kind, name)?;
            let installed = hub::installed(kind, &file.stage, &file.path);
            found.push((installed.clone(), file.path.clone()));
            rules.push(RuleFile { path: installed, ..file });
        }
        rules.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        rules.dedup_by(|a, b| a.path == b.path);
        Ok(rules)
    }

    /// All items of a kind: the names in the index, without one of those that we ship, and the paths of files that have no
    /// name there yet.
    pub(super) fn names(&self, kind: &str) -> Vec<String> {
        let mut names: Vec<String> = self.index.names(kind).into_iter().map(str::to_owned).collect();
        if names.is_empty() {
            let stems = self.shipped(kind).iter().filter_map(|file| file.path.file_stem());
            names.extend(stems.map(|stem| format!("cordon/{}", stem.to_string_lossy())));
        }
        names.extend(self.unlisted(kind));
        names
    }

    /// Paths below the hub of files that its index does not know: `scenarios/AUTHOR/FILE`, `parsers/STAGE/AUTHOR/FILE`.
    fn unlisted(&self, kind: &str) -> Vec<String> {
        let listed: HashSet<&Path> = self.index.items().map(|(_, _, item)| item.path.as_path()).collect();
        let mut found = vec![PathBuf::from(kind)];
        for _ in 0..if kind == "scenarios" { 2 } else { 3 } {
            let below = |folder: PathBuf| {
                let entries = fs::read_dir(self.root.join(&folder)).into_iter().flatten().flatten();
                entries.map(move |entry| folder.join(entry.file_name()))
            };
            found = found.into_iter().flat_map(below).collect();
        }
        found.sort();
        let yaml = |path: &Path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        let shipped = |path: &Path| {
            let text = read(&self.root.join(path)).unwrap_or_default();
            self.shipped(kind).iter().any(|file| file.text == text)
        };
        found.retain(|path| yaml(path) && !listed.contains(path.as_path()) && !shipped(path));
        found.into_iter().map(|path| path.to_string_lossy().into_owned()).collect()
    }

    fn shipped(&self, kind: &str) -> &[RuleFile] {
        match kind {
            "parsers" => &self.shipped.parsers,
            "scenarios" => &self.shipped.scenarios,
            _ => &self.shipped.postoverflows,
        }
    }

    /// Whether an item holds a document with one of these names.
    pub(super) fn holds(&self, kind: &'static str, item: &str, names: &[&str]) -> bool {
        let Ok(rule) = self.rule(Path::new(""), kind, item) else { return false };
        let documents = documents(&rule.text).unwrap_or_default();
        documents.iter().any(|document| {
            let name = document.pairs("").ok().and_then(|keys| keys.iter().find(|(key, _)| &**key == "name"));
            name.and_then(|(_, name)| name.text("name").ok()).is_some_and(|name| names.contains(&&*name))
        })
    }

    /// An item by its name in the index, by its path below the hub or the test, or `cordon/...` as we ship it.
    fn rule(&self, folder: &Path, kind: &'static str, name: &str) -> Result<RuleFile, HubTestError> {
        if let Some(item) = self.index.get(kind, name) {
            let path = self.root.join(&item.path);
            let text = read(&path)?;
            let version = Some(item.identify(text.as_bytes()));
            return Ok(RuleFile { version, ..RuleFile::local(path, item.stage.clone(), text) });
        }
        let mut places = [self.root.join(name), folder.join(name)].into_iter();
        if let Some(path) = places.find(|path| path.is_file()) {
            let stage = path.ancestors().nth(2).and_then(Path::file_name).filter(|_| kind != "scenarios");
            let stage = stage.map_or(String::new(), |stage| stage.to_string_lossy().into_owned());
            let text = read(&path)?;
            return Ok(RuleFile::local(path, stage, text));
        }
        let stem = name.strip_prefix("cordon/");
        let known = self
            .shipped(kind)
            .iter()
            .find(|file| file.path.file_stem().is_some_and(|file| Some(file) == stem.map(AsRef::as_ref)));
        known.cloned().ok_or_else(|| HubTestError::Item { kind, name: name.to_owned() })
    }
}
