//! Which scenarios only pretend (spec: scenarios 16).

use std::path::Path;

use model::yaml::{Fault, documents};

/// The simulation file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Simulation {
    /// Whether all scenarios but the exclusions are simulated.
    pub all: bool,
    /// Scenarios for which the opposite holds.
    pub exclusions: Vec<String>,
}

impl Simulation {
    /// Reads the file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Fault> {
        Self::default().overlaid(path, text)
    }

    /// The same with what another file says over it, key by key.
    pub fn overlaid(mut self, path: &Path, text: &str) -> Result<Self, Fault> {
        let mut read = || {
            for document in documents(text)?.iter().filter(|document| !document.is_null()) {
                let keys = document.keys("the simulation file")?;
                self.all = keys.flag("simulation")?.unwrap_or(self.all);
                let exclusions = keys.texts("exclusions")?;
                if keys.get("exclusions").is_some() {
                    self.exclusions = exclusions.into_iter().map(|name| name.text).collect();
                }
                keys.finish()?;
            }
            Ok(())
        };
        read().map_err(|fault: Fault| fault.within(path))?;
        Ok(self)
    }

    /// Whether alerts of a scenario are recorded and shown, but never enforced.
    pub fn covers(&self, scenario: &str) -> bool {
        self.all != self.exclusions.iter().any(|name| name == scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusions_turn_the_switch_round() {
        // (file, acme/a simulated, acme/b simulated)
        let cases = [
            ("", false, false),
            ("simulation: on\n", true, true),
            ("simulation: off\nexclusions: [acme/a]\n", true, false),
            ("simulation: true\nexclusions:\n- acme/a\n", false, true),
        ];
        for (text, a, b) in cases {
            let simulation = Simulation::parse(Path::new("simulation.yaml"), text).expect(text);
            assert_eq!((simulation.covers("acme/a"), simulation.covers("acme/b")), (a, b), "{text}");
        }
        let under = Simulation::parse(Path::new("a"), "simulation: on\nexclusions: [acme/a]\n").expect("a good file");
        let both = under.clone().overlaid(Path::new("a.local"), "simulation: off\n").expect("a good file");
        assert_eq!((both.covers("acme/a"), both.covers("acme/b")), (true, false), "what is not said again stays");
        let both = under.overlaid(Path::new("a.local"), "exclusions: []\n").expect("a good file");
        assert_eq!((both.covers("acme/a"), both.covers("acme/b")), (true, true), "an empty list is a list");
        let fault = Simulation::parse(Path::new("simulation.yaml"), "simulate: on\n").expect_err("an unknown key");
        assert_eq!(
            fault.to_string(),
            "simulation.yaml:1: unknown key in the simulation file: `simulate`\nhint: did you mean `simulation`?"
        );
    }
}
