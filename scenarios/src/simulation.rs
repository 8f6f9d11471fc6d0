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
        let read = || {
            let mut simulation = Self::default();
            for document in documents(text)?.iter().filter(|document| !document.is_null()) {
                let keys = document.keys("the simulation file")?;
                simulation.all = keys.flag("simulation")?.unwrap_or(false);
                simulation.exclusions = keys.texts("exclusions")?.into_iter().map(|name| name.text).collect();
                keys.finish()?;
            }
            Ok(simulation)
        };
        read().map_err(|fault: Fault| fault.within(path))
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
        let fault = Simulation::parse(Path::new("simulation.yaml"), "simulate: on\n").expect_err("an unknown key");
        assert_eq!(
            fault.to_string(),
            "simulation.yaml:1: unknown key in the simulation file: `simulate`\nhint: did you mean `simulation`?"
        );
    }
}
