//! What a check reads: a folder in one of the known layouts, one file, or what the agent would load.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Input, Lookup, Report, check, subject};
use crate::acquisition::config as datasources;
use crate::crowdsec::{self, Configuration};
use crate::load::{Folders, RuleFile, RuleFiles};

/// Rule files with what they are judged by.
#[derive(Debug)]
pub struct Reading {
    files: RuleFiles,
    patterns: Vec<RuleFile>,
    acquisition: Vec<RuleFile>,
    profiles: Vec<RuleFile>,
    only: Vec<PathBuf>,
    data: Data,
}

#[derive(Debug)]
enum Data {
    /// Where the agent looks for them.
    OfRules,
    /// In this folder.
    Folder(PathBuf),
    /// Nowhere: there is no folder for them.
    Unknown,
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The path cannot be read.
    #[error("cannot read `{}`: {error}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// There are no rules in the folder.
    #[error("there are no rules in `{}`\nhint: expected one of the folders `parsers`, `scenarios`, `postoverflows`, `contexts` or `patterns` in it", .0.display())]
    Empty(PathBuf),
    /// The file is no rule.
    #[error("`{}` is neither a parser nor a scenario nor a context", .0.display())]
    Unknown(PathBuf),
}

/// Folders of the layout.
const LISTS: [&str; 5] = ["parsers", "postoverflows", "scenarios", "contexts", "patterns"];

impl Reading {
    /// The rules that the agent would load.
    pub fn configured(folders: &Folders) -> Self {
        let files = RuleFiles::read(folders);
        let patterns = if folders.shipped { Vec::new() } else { shipped_patterns() };
        Self { files, patterns, acquisition: Vec::new(), profiles: Vec::new(), only: Vec::new(), data: Data::OfRules }
    }

    /// A folder or a file.
    pub fn of(path: &Path) -> Result<Self, ReadError> {
        let metadata = fs::metadata(path).map_err(|error| ReadError::Io { path: path.to_path_buf(), error })?;
        if metadata.is_dir() {
            return Self::folder(path, Vec::new());
        }
        // A file in a layout is judged together with its neighbours.
        for root in path.ancestors().skip(1) {
            let first = path.strip_prefix(root).ok().and_then(|rest| rest.components().next());
            if first.is_some_and(|first| LISTS.iter().any(|list| first.as_os_str() == *list)) {
                return Self::folder(
                    if root == Path::new("") { Path::new(".") } else { root },
                    vec![path.to_path_buf()],
                );
            }
        }
        Self::lone(path)
    }

    fn folder(root: &Path, only: Vec<PathBuf>) -> Result<Self, ReadError> {
        if !LISTS.iter().any(|list| root.join(list).is_dir()) {
            return Err(ReadError::Empty(root.to_path_buf()));
        }
        // Whole rule sets stand alone; what has no parsers is written for those that we ship.
        let shipped = !root.join("parsers").is_dir();
        let files = RuleFiles::read(&Folders { shipped, folders: vec![root.to_path_buf()] });
        let only = if shipped && only.is_empty() { vec![root.to_path_buf()] } else { only };
        let configuration = Configuration::read(root, &crowdsec::environment);
        let data = match configuration.as_ref().and_then(|configuration| configuration.data.clone()) {
            Some(folder) => Data::Folder(folder),
            None if root.join("data").is_dir() => Data::OfRules,
            None => Data::Unknown,
        };
        let patterns = if shipped { Vec::new() } else { shipped_patterns() };
        let places = configuration.map_or_else(
            || vec![root.join("acquis.yaml"), root.join("acquis.d")],
            |configuration| configuration.acquisition,
        );
        let acquisition = places.iter().filter_map(|path| datasources::files_of(path).ok()).flatten();
        let acquisition = acquisition.filter_map(|path| plain_file(&path)).collect();
        let profiles = crowdsec::profiles(root).iter().filter_map(|path| plain_file(path)).collect();
        Ok(Self { files, patterns, acquisition, profiles, only, data })
    }

    /// A file in no layout: what it is, is told by its keys.
    fn lone(path: &Path) -> Result<Self, ReadError> {
        let io = |error| ReadError::Io { path: path.to_path_buf(), error };
        let text = fs::read_to_string(path).map_err(io)?;
        let mut files = RuleFiles::read(&Folders { shipped: true, folders: Vec::new() });
        let documents = model::yaml::documents(&text).unwrap_or_default();
        let has = |key: &str| documents.iter().any(|document| subject::entry(document, key).is_some());
        let (list, stage) = if has("context") {
            (&mut files.contexts, "")
        } else if has("type") || has("capacity") || has("leakspeed") {
            (&mut files.scenarios, "")
        } else if text.contains("evt.Overflow") && has("whitelist") {
            (&mut files.postoverflows, "s01-whitelist")
        } else if has("whitelist") {
            (&mut files.parsers, "s02-enrich")
        } else if ["nodes", "grok", "statics", "filter", "pattern_syntax"].into_iter().any(has) || documents.is_empty()
        {
            (&mut files.parsers, "s01-parse")
        } else {
            return Err(ReadError::Unknown(path.to_path_buf()));
        };
        list.push(RuleFile::local(path, stage, text));
        let (patterns, acquisition) = (Vec::new(), Vec::new());
        Ok(Self {
            files,
            patterns,
            acquisition,
            profiles: Vec::new(),
            only: vec![path.to_path_buf()],
            data: Data::Unknown,
        })
    }

    /// Checks what was read.
    pub fn check(&self) -> Report {
        let of_rules = |name: &str| self.files.data(name).map(|_| ());
        let in_folder = |name: &str| match &self.data {
            Data::Folder(folder) if !folder.join(name).is_file() => {
                Err(format!("data file `{name}` is not in `{}`", folder.display()))
            }
            _ => Ok(()),
        };
        let data: Option<Lookup<'_>> = match self.data {
            Data::OfRules => Some(&of_rules),
            Data::Folder(_) => Some(&in_folder),
            Data::Unknown => None,
        };
        check(Input {
            files: &self.files,
            patterns: &self.patterns,
            acquisition: &self.acquisition,
            profiles: &self.profiles,
            data,
            only: &self.only,
        })
    }
}

/// A file that may be missing.
fn plain_file(path: &Path) -> Option<RuleFile> {
    let text = fs::read_to_string(path).ok()?;
    Some(RuleFile::local(path, "", text))
}

fn shipped_patterns() -> Vec<RuleFile> {
    RuleFiles::read(&Folders { shipped: true, folders: Vec::new() }).patterns
}
