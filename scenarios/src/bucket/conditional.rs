//! Conditional buckets.
//!
//! Every event is held and then the condition is asked; an error or an answer that is neither true nor false is
//! counted and means no (spec: scenarios 6.4). Any kind but a trigger may carry a condition.

use expr::{Env, Program};

/// Whether `condition` holds; `errors` counts what could not be answered.
pub(crate) fn holds(condition: &Program, env: &Env<'_>, errors: &mut u64) -> bool {
    answer(condition, env, errors).unwrap_or(false)
}

/// What `condition` says, if it says anything.
pub(crate) fn answer(condition: &Program, env: &Env<'_>, errors: &mut u64) -> Option<bool> {
    let answer = condition.eval_bool(env).ok().flatten();
    if answer.is_none() {
        *errors += 1;
    }
    answer
}
