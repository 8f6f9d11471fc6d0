//! Bayesian buckets.
//!
//! After each pour the belief starts from the prior and every condition moves it, up when it holds and down when it does
//! not; above the threshold the bucket overflows. 32-bit floats throughout, as the field computes (spec: scenarios 6.5).

use expr::Program;

/// What a scenario says about belief.
#[derive(Clone, Debug)]
pub(crate) struct Bayes {
    pub(crate) prior: f32,
    pub(crate) threshold: f32,
    pub(crate) conditions: Vec<Evidence>,
}

/// One condition and what it says about good and evil.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    pub(crate) condition: Program,
    pub(crate) given_evil: f32,
    pub(crate) given_benign: f32,
    /// Once true in a bucket, true for the rest of its life without being asked.
    pub(crate) guillotine: bool,
}

impl Bayes {
    /// Whether belief passes the threshold. `ask` answers a condition, `None` when it cannot; `fallen` remembers the
    /// guillotines of one bucket, one entry a condition.
    pub(crate) fn convinced(&self, fallen: &mut [bool], mut ask: impl FnMut(&Program) -> Option<bool>) -> bool {
        let mut belief = self.prior;
        for (evidence, fallen) in self.conditions.iter().zip(fallen) {
            let answer = if *fallen { Some(true) } else { ask(&evidence.condition) };
            belief = match answer {
                None => belief,
                Some(true) => {
                    *fallen = evidence.guillotine;
                    update(belief, evidence.given_evil, evidence.given_benign)
                }
                Some(false) => update(belief, 1.0 - evidence.given_evil, 1.0 - evidence.given_benign),
            };
        }
        belief > self.threshold
    }
}

fn update(belief: f32, evil: f32, benign: f32) -> f32 {
    evil * belief / (evil * belief + benign * (1.0 - belief))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn belief_moves_with_evidence() {
        // (prior, given evil, given benign, belief)
        let cases = [(0.5, 0.8, 0.2, 0.8), (0.5, 0.2, 0.8, 0.2), (0.5, 0.5, 0.5, 0.5), (0.1, 0.9, 0.1, 0.5)];
        for (prior, evil, benign, belief) in cases {
            let found = update(prior, evil, benign);
            assert!((found - belief).abs() < 1e-6, "{prior} {evil} {benign}: {found}");
        }
    }
}
