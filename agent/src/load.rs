//! Reads the files of rules: those in the binary, and those in folders.
//!
//! Folders have the hub's layout: `patterns/`, `parsers/<stage>/`, `postoverflows/<stage>/`, `scenarios/`,
//! `contexts/`, `data/`. A file in a folder replaces a shipped one at the same place. Nothing is understood here but where a
//! file belongs; its text goes to the crate that does.
//!
//! CrowdSec's own configuration folder is such a folder as well. Its `config.yaml` names the data folder, its patterns may define
//! again what the binary has, and a link to `/dev/null` takes a rule out.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use model::yaml::Fault;
use parsers::config::StaticConfig;

use crate::crowdsec::{self, Configuration, Item, Links};
use crate::status::{Kind, Problem};

mod shipped {
    //! Made by the build script.
    include!(concat!(env!("OUT_DIR"), "/shipped.rs"));
}

/// Longest rule file, and longest data file, in bytes.
const MAX_RULE: u64 = 4 * 1024 * 1024;
const MAX_DATA: u64 = 512 * 1024 * 1024;

/// How deep folders may nest below `parsers` and the others.
const MAX_DEPTH: usize = 8;

/// What stands before the path of a shipped file.
pub const SHIPPED: &str = "shipped:";

/// Where rules come from.
#[derive(Clone, Debug, Default)]
pub struct Folders {
    /// Whether the rules in the binary are loaded.
    pub shipped: bool,
    /// Folders of further rules; a later one replaces files of an earlier one.
    pub folders: Vec<PathBuf>,
}

/// The text of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFile {
    /// Where it is; `shipped:...` when it is in the binary.
    pub path: PathBuf,
    /// The stage it belongs to; empty where there are no stages.
    pub stage: String,
    /// Its content.
    pub text: Cow<'static, str>,
    /// Version and hash of an item of a hub; a file of the owner's has none.
    pub version: Option<(String, String)>,
}

impl RuleFile {
    /// A file of the owner's.
    pub fn local(path: impl Into<PathBuf>, stage: impl Into<String>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { path: path.into(), stage: stage.into(), text: text.into(), version: None }
    }
}

/// All rule files, each list in the order of the paths below their folders.
#[derive(Debug, Default)]
pub struct RuleFiles {
    /// Pattern libraries.
    pub patterns: Vec<RuleFile>,
    /// Parsers of lines.
    pub parsers: Vec<RuleFile>,
    /// Parsers of overflows.
    pub postoverflows: Vec<RuleFile>,
    /// Scenarios.
    pub scenarios: Vec<RuleFile>,
    /// Alert contexts.
    pub contexts: Vec<RuleFile>,
    /// The console's own file of alert context, if there is one.
    pub console: Option<RuleFile>,
    /// Longest text of alert context in bytes; 0 is the default.
    pub context_length: usize,
    /// Which scenarios only pretend: what a later file says holds instead.
    pub simulation: Vec<RuleFile>,
    /// What every line is given before the first parser (`override_statics` of a hub test).
    pub overrides: Vec<StaticConfig>,
    /// What could not be read.
    pub problems: Vec<Problem>,
    /// What is not used, and what stands in place of something else.
    pub notes: Vec<Fault>,
    /// Folders of data files, the most important last; with `shipped` also the binary.
    data: Folders,
    /// Whether patterns may define again what others have: those of CrowdSec's own folder do.
    repeats: bool,
}

/// A file of CrowdSec's own folder that counts.
struct Installed {
    path: PathBuf,
    name: Option<String>,
    version: Option<(String, String)>,
}

/// Which list a file belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Patterns,
    Parsers,
    Postoverflows,
    Scenarios,
    Contexts,
}

const LISTS: [(&str, List); 5] = [
    ("patterns", List::Patterns),
    ("parsers", List::Parsers),
    ("postoverflows", List::Postoverflows),
    ("scenarios", List::Scenarios),
    ("contexts", List::Contexts),
];

impl RuleFiles {
    /// No rules yet; data files are looked for in the `data` of `folders`, the most important last, and in the binary.
    pub fn with_data(folders: Vec<PathBuf>) -> Self {
        let folders = folders.into_iter().map(|folder| folder.join("data")).collect();
        Self { data: Folders { shipped: true, folders }, ..Self::default() }
    }

    /// Reads everything below `from`. What cannot be read is a problem, and the rest is there.
    pub fn read(from: &Folders) -> Self {
        let mut files = Self { data: Folders { shipped: from.shipped, folders: Vec::new() }, ..Self::default() };
        // By place below its folder, so that a later one replaces an earlier one.
        let mut found: BTreeMap<(&str, String), (PathBuf, Source)> = BTreeMap::new();
        let mut items: HashMap<PathBuf, Option<(String, String)>> = HashMap::new();
        if from.shipped {
            for (name, bytes) in shipped::FILES {
                for (folder, _) in LISTS {
                    if let Some(below) = name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')) {
                        let path = PathBuf::from(format!("{SHIPPED}{name}"));
                        found.insert((folder, below.to_owned()), (path, Source::Shipped(bytes)));
                    }
                }
            }
        }
        for folder in &from.folders {
            if !folder.is_dir() {
                // There may be whitelists in it.
                files.problems.push(problem(Kind::Whitelist, folder, "is not a folder that can be read".into()));
            }
            files.data.folders.push(folder.join("data"));
            let configuration = Configuration::read(folder, &crowdsec::environment);
            if let Some(configuration) = &configuration {
                files.configure(configuration);
            }
            let links = configuration.as_ref().map(Links::read);
            for (name, list) in LISTS {
                let root = match &configuration {
                    Some(configuration) if list == List::Patterns => configuration.patterns.clone(),
                    _ => folder.join(name),
                };
                let mut paths = Vec::new();
                if let Err((path, error)) = collect(&root, list, MAX_DEPTH, &mut paths) {
                    files.problems.push(problem(kind(list, ""), &path, format!("cannot be read: {error}")));
                }
                if let Some(links) = links.as_ref().filter(|_| list != List::Patterns) {
                    let installed = files.installed(name, paths, links);
                    paths = installed.iter().map(|(path, _)| path.clone()).collect();
                    items.extend(installed);
                }
                for path in paths {
                    let Ok(below) = path.strip_prefix(&root) else { continue };
                    found.insert((name, below.to_string_lossy().into_owned()), (path.clone(), Source::Disk));
                }
            }
            let simulation = configuration.map_or_else(
                || [folder.join("simulation.yaml"), folder.join("simulation.yaml.local")],
                |configuration| configuration.simulation,
            );
            for path in simulation.into_iter().filter(|path| path.exists()) {
                match read_text(&path, Source::Disk) {
                    Ok(text) => files.simulation.push(RuleFile::local(path, "", text)),
                    Err(message) => files.problems.push(problem(Kind::Scenario, &path, message)),
                }
            }
        }
        for (name, list) in LISTS {
            for ((_, below), (path, source)) in
                found.range((name, String::new())..).take_while(|((of, _), _)| *of == name)
            {
                let staged = matches!(list, List::Parsers | List::Postoverflows);
                let stage = below.split_once('/').filter(|_| staged).map_or("", |(stage, _)| stage);
                match read_text(path, *source) {
                    _ if staged && stage.is_empty() => files.problems.push(Problem {
                        remedy: "move it into the folder of a stage, such as `s01-parse`".into(),
                        ..problem(kind(list, ""), path, "does not stand in a stage".into())
                    }),
                    Ok(text) => {
                        let version = items.remove(path).flatten();
                        files.list(list).push(RuleFile { version, ..RuleFile::local(path.clone(), stage, text) });
                    }
                    Err(message) => files.problems.push(problem(kind(list, ""), path, message)),
                }
            }
        }
        files.order_patterns();
        files
    }

    /// Takes over what CrowdSec's configuration says beside the rules.
    fn configure(&mut self, configuration: &Configuration) {
        self.data.folders.extend(configuration.data.clone());
        self.repeats = true;
        self.notes.extend(configuration.notes.iter().cloned());
        self.problems.extend(configuration.problems.iter().cloned());
        self.context_length = configuration.context_length;
        if let Some(path) = &configuration.context {
            match read_text(path, Source::Disk) {
                Ok(text) => self.console = Some(RuleFile::local(path.clone(), "", text)),
                Err(message) => self.problems.push(problem(Kind::Context, path, message)),
            }
        }
    }

    /// Those of `paths` in CrowdSec's own folder that count, with version and hash of the hub's items: of two with one name the
    /// owner's, and of two of the owner's the later one.
    fn installed(
        &mut self,
        kind: &str,
        paths: Vec<PathBuf>,
        links: &Links,
    ) -> Vec<(PathBuf, Option<(String, String)>)> {
        let mut kept: Vec<Installed> = Vec::new();
        for path in paths {
            if !path.exists() {
                self.notes.push(Fault::new(0, "is left out: this link leads nowhere").within(&path));
                continue;
            }
            let text = read_text(&path, Source::Disk).unwrap_or_default();
            let (name, version) = match links.item(kind, &path, &text) {
                Item::Hub { name, version, hash } => (Some(name), Some((version, hash))),
                Item::Local => (crowdsec::local_name(&text), None),
                Item::Unknown(target) => {
                    let message = format!("is left out: the index of the hub does not know `{}`", target.display());
                    self.notes.push(Fault::new(0, message).within(&path));
                    continue;
                }
            };
            if version.as_ref().is_some_and(|(version, _)| version == "?") {
                self.notes.push(Fault::new(0, "was changed: no version of the hub's item is like it").within(&path));
            }
            let same = kept.iter().position(|known| name.is_some() && known.name == name);
            let Some(same) = same else {
                kept.push(Installed { path, name, version });
                continue;
            };
            // The hub's item gives way wherever it stands.
            let gives_way = version.is_some();
            let (loser, winner) = if gives_way { (&path, &kept[same].path) } else { (&kept[same].path, &path) };
            let message = format!("is left out: `{}` has the same name", winner.display());
            self.notes.push(Fault::new(0, message).within(loser));
            if !gives_way {
                kept.remove(same);
                kept.push(Installed { path, name, version });
            }
        }
        kept.into_iter().map(|one| (one.path, one.version)).collect()
    }

    /// Adds the patterns in the binary that no file stands for: rules that come without patterns are written for these.
    pub fn with_shipped_patterns(mut self) -> Self {
        for (name, bytes) in shipped::FILES {
            let Some(below) = name.strip_prefix("patterns/") else { continue };
            if !self.patterns.iter().any(|known| known.path.ends_with(below)) {
                self.patterns.push(RuleFile::local(format!("{SHIPPED}{name}"), "", String::from_utf8_lossy(bytes)));
            }
        }
        self.order_patterns();
        self
    }

    /// Ours first, since a pattern can only refer to what is known before it. What CrowdSec's own folder defines again is left out.
    fn order_patterns(&mut self) {
        // Ours are `00-base` and others that stand on it; a file in the place of one keeps that one's rank.
        self.patterns.sort_by_cached_key(|file| {
            let name = file.path.file_name().map(ToOwned::to_owned).unwrap_or_default();
            let ours = shipped::FILES.iter().any(|(known, _)| {
                known.strip_prefix("patterns/").is_some_and(|known| Path::new(known) == Path::new(&name))
            });
            (!ours, name, file.path.clone())
        });
        if !self.repeats {
            return;
        }
        let mut known: HashSet<String> = HashSet::new();
        for file in &mut self.patterns {
            let mut is_new = |line: &str| known.insert(line.split_whitespace().next().unwrap_or("").to_owned());
            // An empty line keeps the numbers of the others.
            let lines: Vec<&str> = file.text.lines().map(|line| if is_new(line) { line } else { "" }).collect();
            file.text = Cow::Owned(lines.join("\n"));
        }
    }

    fn list(&mut self, list: List) -> &mut Vec<RuleFile> {
        match list {
            List::Patterns => &mut self.patterns,
            List::Parsers => &mut self.parsers,
            List::Postoverflows => &mut self.postoverflows,
            List::Scenarios => &mut self.scenarios,
            List::Contexts => &mut self.contexts,
        }
    }

    /// The content of a data file, from the `data` folder of the last folder that has it, else from the binary. `Err` says why
    /// there is none.
    pub fn data(&self, name: &str) -> Result<Cow<'static, [u8]>, String> {
        let plain = Path::new(name).components().all(|component| matches!(component, Component::Normal(_)));
        if name.is_empty() || !plain {
            return Err(format!("`{name}` is not a name below the data folder"));
        }
        for folder in self.data.folders.iter().rev() {
            let path = folder.join(name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.len() > MAX_DATA => {
                    return Err(format!("`{}` is larger than {MAX_DATA} bytes", path.display()));
                }
                Ok(_) => {
                    let bytes =
                        fs::read(&path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
                    return Ok(bytes.into());
                }
                Err(_) => {}
            }
        }
        let shipped = shipped::FILES.iter().filter(|_| self.data.shipped);
        let found = shipped.clone().find(|(path, _)| path.strip_prefix("data/") == Some(name));
        match found {
            Some((_, bytes)) => Ok((*bytes).into()),
            None => Err(format!("data file `{name}` is in no folder of rules")),
        }
    }
}

/// What a parser is if it does not load: one that mentions whitelists may protect somebody, also where its YAML cannot
/// be read at all.
pub fn parser_kind(text: &str) -> Kind {
    if text.contains("whitelist") { Kind::Whitelist } else { Kind::Parser }
}

fn kind(list: List, text: &str) -> Kind {
    match list {
        List::Patterns => Kind::Pattern,
        // What cannot be read may be a whitelist.
        List::Parsers | List::Postoverflows if text.is_empty() => Kind::Whitelist,
        List::Parsers | List::Postoverflows => parser_kind(text),
        List::Scenarios => Kind::Scenario,
        List::Contexts => Kind::Context,
    }
}

fn problem(kind: Kind, path: &Path, message: String) -> Problem {
    let remedy = "let the user that cordon runs as read it, or take it out of the configuration".into();
    Problem { kind, path: path.to_path_buf(), line: 0, message, remedy }
}

#[derive(Clone, Copy)]
enum Source {
    Shipped(&'static [u8]),
    Disk,
}

fn read_text(path: &Path, source: Source) -> Result<Cow<'static, str>, String> {
    match source {
        Source::Shipped(bytes) => Ok(String::from_utf8_lossy(bytes)),
        Source::Disk => {
            let read = || {
                if fs::metadata(path)?.len() > MAX_RULE {
                    return Err(io::Error::other(format!("larger than {MAX_RULE} bytes")));
                }
                fs::read_to_string(path)
            };
            read().map(Cow::Owned).map_err(|error| format!("cannot be read: {error}"))
        }
    }
}

/// The files of a list below `folder`, whose absence is no mistake.
fn collect(folder: &Path, list: List, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), (PathBuf, io::Error)> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err((folder.to_path_buf(), error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| (folder.to_path_buf(), error))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        // So a distribution's rule is taken out without deleting it.
        let masked = fs::read_link(&path).is_ok_and(|target| target == Path::new("/dev/null"));
        if hidden || masked {
            continue;
        }
        if path.is_dir() {
            if depth > 0 {
                collect(&path, list, depth - 1, paths)?;
            }
        } else if yaml || list == List::Patterns {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_we_ship_is_in_the_binary() {
        let files = RuleFiles::read(&Folders { shipped: true, folders: Vec::new() });
        assert_eq!(files.problems, []);
        for list in [&files.patterns, &files.parsers, &files.scenarios] {
            assert!(!list.is_empty());
        }
        assert!(files.parsers.iter().all(|file| file.stage.starts_with("s0")), "each parser has a stage");
        assert!(files.parsers.iter().any(|file| file.path == Path::new("shipped:parsers/s00-raw/syslog-logs.yaml")));
    }

    #[test]
    fn a_folder_adds_and_replaces() {
        let folder = TempDir::new().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
            fs::write(path, text).expect("room on the disk");
        };
        write("parsers/s00-raw/syslog-logs.yaml", "name: mine");
        write("parsers/s01-parse/author/new.yaml", "name: new");
        write("parsers/s01-parse/notes.txt", "not a rule");
        write("parsers/lost.yaml", "name: lost");
        write("scenarios/.hidden.yaml", "name: hidden");
        write("scenarios/bad.yaml", "");
        fs::write(folder.path().join("scenarios/bad.yaml"), b"\xff").expect("room on the disk");
        write("patterns/mine", "WORD x");
        write("data/list.txt", "one");
        let missing = folder.path().join("missing");
        let shipped = RuleFiles::read(&Folders { shipped: true, folders: Vec::new() });
        let files = RuleFiles::read(&Folders { shipped: true, folders: vec![folder.path().to_path_buf(), missing] });
        let prefix = folder.path().to_string_lossy().into_owned();
        let problems: Vec<String> =
            files.problems.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect();
        insta::assert_snapshot!(problems.join("\n"), @r"
        /missing: is not a folder that can be read
        hint: let the user that cordon runs as read it, or take it out of the configuration
        /parsers/lost.yaml: does not stand in a stage
        hint: move it into the folder of a stage, such as `s01-parse`
        /scenarios/bad.yaml: cannot be read: stream did not contain valid UTF-8
        hint: let the user that cordon runs as read it, or take it out of the configuration
        ");
        assert_eq!(files.parsers.len(), shipped.parsers.len() + 1);
        let mine: Vec<(&str, &str)> = files
            .parsers
            .iter()
            .filter(|file| file.path.starts_with(folder.path()))
            .map(|file| (&*file.stage, &*file.text))
            .collect();
        assert_eq!(mine, [("s00-raw", "name: mine"), ("s01-parse", "name: new")]);
        assert_eq!(files.scenarios.len(), shipped.scenarios.len());
        assert_eq!(files.patterns.len(), shipped.patterns.len() + 1);
        assert_eq!(files.data("list.txt").as_deref(), Ok(b"one".as_slice()));
        for name in ["", "../list.txt", "/etc/passwd", "a/../../b", "none.txt"] {
            assert!(files.data(name).is_err(), "{name}");
        }
    }

    #[test]
    fn crowdsecs_own_folder_is_used_as_it_is() {
        let folder = TempDir::new().expect("a temporary folder");
        let (root, data) = (folder.path().join("etc"), folder.path().join("var"));
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
            fs::write(path, text).expect("room on the disk");
        };
        write(root.join("config.yaml"), &format!("config_paths:\n  data_dir: {}\n", data.display()));
        write(data.join("list.txt"), "one");
        write(root.join("patterns/aaa-mine"), "WORD again\nMINE %{WORD}\n");
        let one =
            "name: one\ngrok:\n  pattern: '%{MINE:word}'\n  apply_on: Line.Raw\nstatics:\n  - meta: a\n    value: b\n";
        write(root.join("hub/parsers/s01-parse/author/one.yaml"), one);
        fs::create_dir_all(root.join("parsers/s01-parse")).expect("room on the disk");
        for (target, link) in [("../../hub/parsers/s01-parse/author/one.yaml", "one"), ("/dev/null", "two")] {
            let link = root.join(format!("parsers/s01-parse/{link}.yaml"));
            std::os::unix::fs::symlink(target, link).expect("links can be made");
        }
        let files = RuleFiles::read(&Folders { shipped: false, folders: vec![root] }).with_shipped_patterns();
        let parsers: Vec<&str> = files.parsers.iter().map(|file| &*file.text).collect();
        assert_eq!((parsers, files.problems.len()), (vec![one], 0));
        assert_eq!(files.data("list.txt").as_deref(), Ok(b"one".as_slice()));
        assert_eq!(files.patterns.last().map(|file| &*file.text), Some("\nMINE %{WORD}"));
        assert_eq!(crate::ruleset::RuleSet::build(&files).problems, []);
    }

    #[test]
    fn a_parser_that_speaks_of_whitelists_protects() {
        assert!(parser_kind("name: x\nwhitelist:\n  ip: [").protects());
        assert!(!parser_kind("name: x\nfilter: '").protects());
    }
}
