//! All scenarios of a rule set.
//!
//! Files are added one by one; a broken one is reported and nothing of it is taken, the others are not touched by it.

use std::path::Path;

use expr::Compiler;
use expr::files::Files;
use model::yaml::Fault;

use crate::config;
use crate::context::AlertContext;
use crate::dispatch::Dispatch;
use crate::scenario::{self, Needs, Scenario, all_within};
use crate::simulation::Simulation;

/// Most scenarios of a rule set: a bucket keeps the number of its scenario in 16 bits.
const MOST: usize = u16::MAX as usize;

/// One scenario file.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Its path, for messages.
    pub path: &'a Path,
    /// Its text.
    pub text: &'a str,
    /// Version of the installed item; empty for a local file, `?` for a changed one.
    pub version: &'a str,
    /// SHA-256 of the installed item in hexadecimal; empty for a local file.
    pub hash: &'a str,
}

/// Scenarios while they load.
#[derive(Debug, Default)]
pub struct Loader {
    scenarios: Vec<Scenario>,
    simulation: Simulation,
}

impl Loader {
    /// No scenarios yet.
    pub fn new(simulation: Simulation) -> Self {
        Self { scenarios: Vec::new(), simulation }
    }

    /// Adds the documents of a file, in order: what is odd about it but allowed, or everything that is wrong with it.
    pub fn add(&mut self, item: Item<'_>, compiler: &mut Compiler<'_>) -> Result<Vec<Fault>, Vec<Fault>> {
        let file = config::parse(item.text).map_err(|faults| all_within(faults, item.path))?;
        let mut scenarios = Vec::new();
        let mut faults = Vec::new();
        for config in file.scenarios {
            match scenario::compile(config, compiler) {
                Ok(scenario) => scenarios.push(Scenario {
                    version: item.version.to_owned(),
                    hash: item.hash.to_owned(),
                    simulated: self.simulation.covers(&scenario.name),
                    ..scenario
                }),
                Err(fault) => faults.push(fault),
            }
        }
        if self.scenarios.len() + scenarios.len() > MOST {
            faults.push(Fault::new(1, format!("there are more than {MOST} scenarios")).hint("install fewer of them"));
        }
        if !faults.is_empty() {
            return Err(all_within(faults, item.path));
        }
        self.scenarios.extend(scenarios);
        Ok(all_within(file.notes, item.path))
    }

    /// Freezes the set.
    pub fn finish(mut self, context: AlertContext) -> Scenarios {
        for scenario in &mut self.scenarios {
            scenario.keep.merge(&context.keep);
        }
        let needs: Vec<&Needs> = self.scenarios.iter().map(|scenario| &scenario.needs).collect();
        let dispatch = Dispatch::new(&needs, &Files::default());
        Scenarios { dispatch, list: self.scenarios, context }
    }
}

/// The scenarios of a rule set, in file order. Immutable, shared by all workers.
#[derive(Debug, Default)]
pub struct Scenarios {
    pub(crate) list: Vec<Scenario>,
    pub(crate) context: AlertContext,
    pub(crate) dispatch: Dispatch,
}

impl Scenarios {
    /// The scenarios, in file order; [`crate::Pour`]s and metrics name them by index.
    pub fn all(&self) -> &[Scenario] {
        &self.list
    }

    /// Takes the content of data files into account where it is decided which scenarios could want an event.
    pub fn index(&mut self, files: &Files) {
        let needs: Vec<&Needs> = self.list.iter().map(|scenario| &scenario.needs).collect();
        self.dispatch = Dispatch::new(&needs, files);
    }

    /// What all of them and the alert context read, write and require together.
    pub fn needs(&self) -> Needs {
        let mut needs = self.context.needs.clone();
        for scenario in &self.list {
            needs.merge(&scenario.needs);
        }
        needs
    }
}
