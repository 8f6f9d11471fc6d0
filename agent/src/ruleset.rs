//! All rules, compiled together into one immutable set.
//!
//! Parsers, postoverflow parsers, scenarios and contexts number their fields in one table and share subexpressions. What does
//! not load is reported and left out; what its absence means is decided by [`Problem`]'s kind.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use expr::Compiler;
use expr::files::{FileError, Files};
use model::FieldTable;
use model::data::DataFile;
use model::yaml::Fault;
use parsers::stash::StashSpec;
use parsers::{GeoIp, Library, ParserFile, ParserSet, Stashes};
use scenarios::{AlertContext, Item, Loader, Scenarios, Simulation};

use crate::hub;
use crate::load::{RuleFile, RuleFiles, SHIPPED, parser_kind};
use crate::status::{Kind, Problem};

/// Databases of places and networks, where a rule folder's `data` has them.
const CITY: &str = "GeoLite2-City.mmdb";
const ASN: &str = "GeoLite2-ASN.mmdb";

/// The rules in force.
#[derive(Debug)]
pub struct RuleSet {
    /// Numbers of all text fields.
    pub table: Arc<FieldTable>,
    /// Parsers of lines.
    pub parsers: ParserSet,
    /// Parsers of overflows.
    pub postoverflows: ParserSet,
    /// Scenarios.
    pub scenarios: Arc<Scenarios>,
    /// Data files.
    pub files: Files,
    /// Databases of places and networks.
    pub geo: Option<GeoIp>,
    stashes: Vec<StashSpec>,
    /// Whether any rule wants to know names of addresses, or addresses of names.
    pub asks_names: bool,
    /// Where rules ask for pages or reputations: what fails unless the configuration names whom to ask.
    pub asks_pages: Vec<Fault>,
    /// Whether any rule wants to know how many decisions there were.
    pub asks_history: bool,
    /// Which lines depend on the lines before them.
    pub in_order: InOrder,
}

/// Which lines depend on the lines before them, because they read or write a stash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InOrder {
    /// None.
    None,
    /// Those that some parsers want; which these are shows when they are parsed.
    Some,
    /// Any, since scenarios ask as well.
    All,
}

/// What building gave.
#[derive(Debug)]
pub struct Built {
    /// The rules that are whole.
    pub rules: RuleSet,
    /// What is wrong with the others.
    pub problems: Vec<Problem>,
    /// What is probably not meant, but does no harm.
    pub warnings: Vec<Fault>,
}

impl Built {
    /// Whether enforcing without what did not load could punish somebody whom it protects.
    pub fn must_not_enforce(&self) -> bool {
        self.problems.iter().any(|problem| problem.kind.protects())
    }
}

impl RuleSet {
    /// Compiles `files`.
    pub fn build(files: &RuleFiles) -> Built {
        let mut problems = Vec::new();
        let library = library(&files.patterns, &mut problems);
        let mut built = Self::build_over(files, &library);
        built.problems.splice(0..0, problems);
        built
    }

    /// Compiles `files` over patterns that are there already; those of `files` are not looked at.
    pub fn build_over(files: &RuleFiles, library: &Library) -> Built {
        let mut problems = files.problems.clone();
        let mut warnings = files.notes.clone();
        let mut table = FieldTable::default();
        let mut compiler = Compiler::new(&mut table);

        let mut data: Vec<(PathBuf, DataFile)> = Vec::new();
        let mut load = |list: &[RuleFile]| {
            let parsers: Vec<ParserFile<'_>> =
                list.iter().map(|file| ParserFile { path: &file.path, stage: &file.stage, text: &file.text }).collect();
            let mut loaded = parsers::load(&parsers, library, &mut compiler);
            for fault in loaded.problems.drain(..) {
                let text = list.iter().find(|file| file.path == fault.path).map_or("whitelist", |file| &file.text);
                problems.push(Problem::new(parser_kind(text), fault));
            }
            warnings.append(&mut loaded.warnings);
            data.append(&mut loaded.data);
            loaded
        };
        let mut parsers = load(&files.parsers);
        let postoverflows = load(&files.postoverflows);
        if !files.overrides.is_empty()
            && let Err(fault) = parsers.add_overrides("s00-raw", files.overrides.clone(), &mut compiler)
        {
            problems.push(Problem::new(Kind::Parser, fault));
        }

        let simulation = files
            .simulation
            .iter()
            .try_fold(Simulation::default(), |simulation, file| simulation.overlaid(&file.path, &file.text));
        let simulation = simulation.unwrap_or_else(|fault| {
            // Nobody knows which scenarios should only pretend.
            problems.push(Problem::new(Kind::Profile, fault));
            Simulation { all: true, exclusions: Vec::new() }
        });
        let mut loader = Loader::new(simulation);
        for file in &files.scenarios {
            let (version, hash) = identity(file);
            let item = Item { path: &file.path, text: &file.text, version: &version, hash: &hash };
            match loader.add(item, &mut compiler) {
                Ok(mut notes) => warnings.append(&mut notes),
                Err(faults) => {
                    problems.extend(faults.into_iter().map(|fault| Problem::new(Kind::Scenario, fault)));
                }
            }
        }
        let mut context = AlertContext::new(files.context_length);
        for file in &files.contexts {
            if let Err(fault) = context.add_item(&file.path, &file.text, &mut compiler) {
                problems.push(Problem::new(Kind::Context, fault));
            }
        }
        if let Some(file) = &files.console
            && let Err(fault) = context.add_console(&file.path, &file.text, &mut compiler)
        {
            problems.push(Problem::new(Kind::Context, fault));
        }
        let mut scenarios = loader.finish(context);
        for scenario in scenarios.all() {
            data.extend(scenario.data.iter().map(|file| (PathBuf::from(&scenario.name), file.clone())));
        }

        let mut stashes = parsers.stashes.clone();
        stashes.extend(postoverflows.stashes.iter().cloned());
        let loaded_files = load_data(files, &data, &mut problems);
        scenarios.index(&loaded_files);
        let geo = load_geo(files, &mut problems);
        let any_scenario = !scenarios.needs().stashes.is_empty();
        let parsers = parsers.finish(&mut table);
        let postoverflows = postoverflows.finish(&mut table);
        let any_parser = !stashes.is_empty() || parsers.reports().any(|report| !report.stashes_read.is_empty());
        let in_order = match (any_scenario, any_parser) {
            (true, _) => InOrder::All,
            (false, true) => InOrder::Some,
            (false, false) => InOrder::None,
        };
        let rules = Self {
            table: Arc::new(table),
            parsers,
            postoverflows,
            scenarios: Arc::new(scenarios),
            files: loaded_files,
            geo,
            stashes,
            asks_names: mentioned(files, &["reverse_dns", "LookupHost", "MatchKnownBot"]),
            asks_pages: pages(files),
            asks_history: mentioned(files, &["GetDecisionsCount", "GetDecisionsSinceCount"]),
            in_order,
        };
        Built { rules, problems, warnings }
    }

    /// Empty stashes as the rules declare them.
    pub fn stashes(&self) -> Stashes {
        Stashes::new(&self.stashes)
    }
}

/// The patterns of `files`.
pub(crate) fn library(files: &[RuleFile], problems: &mut Vec<Problem>) -> Library {
    let mut library = Library::default();
    for file in files {
        if let Err(fault) = library.add_file(&file.text) {
            problems.push(Problem::new(Kind::Pattern, fault.within(&file.path)));
        }
    }
    library
}

/// Whether any rule mentions one of `words`: helpers are called by their names, so no mention is no call.
fn mentioned(files: &RuleFiles, words: &[&str]) -> bool {
    let lists = [&files.parsers, &files.postoverflows, &files.scenarios, &files.contexts];
    lists.into_iter().flatten().any(|file| words.iter().any(|word| file.text.contains(word)))
}

/// Where rules call helpers that need the network.
fn pages(files: &RuleFiles) -> Vec<Fault> {
    const CALLS: [(&str, &str); 5] = [
        ("CrowdsecCTI(", "reputation"),
        ("HTTPGet(", "endpoints"),
        ("HTTPHead(", "endpoints"),
        ("HTTPPost(", "endpoints"),
        ("HTTPRequest(", "endpoints"),
    ];
    let lists = [&files.parsers, &files.postoverflows, &files.scenarios, &files.contexts];
    let mut found = Vec::new();
    for file in lists.into_iter().flatten() {
        let lines = file.text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
        for (number, line) in lines {
            for (call, key) in CALLS.iter().filter(|(call, _)| line.contains(call)) {
                let fault = Fault::new(number as u32 + 1, format!("`{}` asks the network", call.trim_end_matches('(')));
                let hint =
                    format!("it fails unless `requests: {{{key}: ...}}` in the configuration names whom it may ask");
                found.push(fault.hint(hint).within(&file.path));
            }
        }
    }
    found
}

/// Version and hash of a scenario that we ship or that a hub has; a local one has neither.
fn identity(file: &RuleFile) -> (String, String) {
    if file.path.to_string_lossy().starts_with(SHIPPED) {
        return (env!("CARGO_PKG_VERSION").to_owned(), hub::hex_sha256(file.text.as_bytes()));
    }
    file.version.clone().unwrap_or_default()
}

/// Loads each data file once. `named` says which rule names it.
fn load_data(files: &RuleFiles, named: &[(PathBuf, DataFile)], problems: &mut Vec<Problem>) -> Files {
    let mut loaded = Files::default();
    let mut tried = HashSet::new();
    for (path, file) in named {
        let Some(kind) = file.kind else { continue };
        if !tried.insert((file.name.clone(), kind)) {
            continue;
        }
        let mut problem = |message: String, remedy: &str| problems.push(data_problem(path, file, message, remedy));
        match files.data(&file.name) {
            Err(message) => problem(message, "put it into the folder `data` of a folder of rules"),
            Ok(content) => match loaded.add(&file.name, kind, &content) {
                // A list that happens to be empty says that nothing is on it.
                Ok(()) | Err(FileError::Empty) => {}
                Err(error) => {
                    problem(format!("data file `{}`: {error}", file.name), "correct or remove that line of the file");
                }
            },
        }
    }
    loaded
}

fn data_problem(path: &Path, file: &DataFile, message: String, remedy: &str) -> Problem {
    Problem { kind: Kind::Data, path: path.to_path_buf(), line: file.line.into(), message, remedy: remedy.into() }
}

/// The databases of places, if a folder has them.
fn load_geo(files: &RuleFiles, problems: &mut Vec<Problem>) -> Option<GeoIp> {
    let city = files.data(CITY).ok()?;
    let asn = files.data(ASN).ok().map(std::borrow::Cow::into_owned);
    match GeoIp::new(city.into_owned(), asn) {
        Ok(geo) => Some(geo),
        Err(error) => {
            problems.push(Problem {
                kind: Kind::Data,
                path: CITY.into(),
                line: 0,
                message: format!("cannot be read as a database of places: {error}"),
                remedy: "fetch the database again".into(),
            });
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::load::Folders;

    #[test]
    fn what_we_ship_loads_without_a_problem() {
        let built = RuleSet::build(&RuleFiles::read(&Folders { shipped: true, folders: Vec::new() }));
        let shown: Vec<String> = built.problems.iter().map(ToString::to_string).collect();
        assert_eq!(shown, Vec::<String>::new());
        assert!(!built.must_not_enforce());
        assert!(built.rules.parsers.reports().count() > 5);
        assert!(built.rules.scenarios.all().len() > 3);
        assert!(built.rules.scenarios.all().iter().all(|scenario| scenario.hash.len() == 64));
    }

    /// What starts without what did not load, and what does not.
    #[test]
    fn a_broken_file_is_left_out_and_a_broken_whitelist_forbids_to_enforce() {
        // (name, file, text, problem, whether enforcing is refused)
        let cases = [
            (
                "a scenario",
                "scenarios/a.yaml",
                "type: trigger\nname: a\ndescription: d\nfilter: evt.Foo == 1\n",
                "a.yaml:4",
                false,
            ),
            ("a parser", "parsers/s01-parse/a.yaml", "name: a\nfiltr: x\n", "a.yaml:2", false),
            ("a whitelist", "parsers/s02-enrich/a.yaml", "name: a\nwhitelist:\n  ip: [x]\n", "a.yaml:3", true),
            ("a whitelist that is no YAML", "parsers/s02-enrich/a.yaml", "name: a\nwhitelist: [\n", "a.yaml:", true),
            ("a postoverflow whitelist", "postoverflows/s01/a.yaml", "name: a\nwhitelist: 7\n", "a.yaml:2", true),
            ("a pattern", "patterns/a", "NAME (", "a:1", false),
            ("a context", "contexts/a.yaml", "context:\n  x: [nonsense(]\n", "a.yaml:2", false),
            ("the simulation file", "simulation.yaml", "simulatoin: true\n", "simulation.yaml:1", true),
            (
                "a data file that is missing",
                "scenarios/a.yaml",
                "type: trigger\nname: mine\ndescription: d\nfilter: 'true'\nlabels: {}\ndata:\n  - dest_file: none.txt\n    type: string\n",
                "mine:7",
                false,
            ),
        ];
        for (name, file, text, place, refused) in cases {
            let folder = TempDir::new().expect("a temporary folder");
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
            fs::write(&path, text).expect("room on the disk");
            let files = RuleFiles::read(&Folders { shipped: true, folders: vec![folder.path().to_path_buf()] });
            let shipped = files.scenarios.len();
            let built = RuleSet::build(&files);
            let shown: Vec<String> = built.problems.iter().map(ToString::to_string).collect();
            assert_eq!(built.problems.len(), 1, "{name}: {shown:?}");
            assert!(shown[0].contains(place), "{name}: {shown:?}");
            assert_eq!(built.must_not_enforce(), refused, "{name}");
            assert!(built.rules.scenarios.all().len() + 1 >= shipped, "{name}: the others are there");
        }
    }
}
