//! Verdicts on injected SQL and markup, by fingerprints of tokens as libinjection takes them.

use std::panic::catch_unwind;

use super::text;
use crate::error::EvalError;
use crate::library::{Function, P, R};
use crate::program::Outcome;
use crate::value::Value;

pub(crate) const ROWS: &[Function] = &[
    Function::new("LibInjectionIsSQLI", &[P::Str], R::Bool, |_, args| {
        verdict(text(args, 0)?, |text| libinjectionrs::detect_sqli(text).is_injection())
    })
    .fails(),
    Function::new("LibInjectionIsXSS", &[P::Str], R::Bool, |_, args| {
        verdict(text(args, 0)?, |text| libinjectionrs::detect_xss(text).is_injection())
    })
    .fails(),
];

fn verdict<'a>(text: &str, of: fn(&[u8]) -> bool) -> Outcome<Value<'a>> {
    // the library indexes slices: a slip there costs one verdict, not the process
    catch_unwind(|| of(text.as_bytes()))
        .map(Value::Bool)
        .map_err(|_| EvalError::new("libinjection failed on this text"))
}
