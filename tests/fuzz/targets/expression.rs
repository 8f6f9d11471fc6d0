//! Sources of expressions, as authors of rules write them: one a line, compiled together and asked in order about one event.
//! What is shared between them must change no result.
#![no_main]

use std::sync::Arc;

use cordon_fuzz::{Nowhere, event, shown};
use expr::memo::Memo;
use expr::{Compiler, Env, Program, Value};
use libfuzzer_sys::fuzz_target;
use model::FieldTable;

const TEXTS: [&str; 3] = ["GET /a/../b?c=%2e HTTP/1.1", "192.0.2.7", "{\"k\": [1, 2.5, \"x\", null]}"];

fuzz_target!(|input: &str| {
    let vars = model::classes::event_vars();
    let mut table = FieldTable::default();
    let mut compiler = Compiler::new(&mut table);
    let mut together: Vec<Program> = Vec::new();
    for source in input.lines().take(8) {
        match compiler.compile(source, &vars) {
            Ok(program) => together.push(program),
            Err(error) => assert!(!error.render(source, Some("fuzz.yaml:1")).is_empty(), "an error says something"),
        }
    }
    let apart: Vec<Program> = together
        .iter()
        .map(|program| {
            let compiled = Compiler::new(&mut table).compile(program.source(), &vars);
            compiled.expect("what compiles among others compiles alone")
        })
        .collect();
    let table = Arc::new(table);
    let ask = |programs: &[Program], memo: Option<&Memo>| {
        let event = event(&table, TEXTS);
        let vars = [Value::Object(&event)];
        let world = Nowhere::default();
        let env = Env { vars: &vars, host: &world, memo };
        programs.iter().map(|program| shown(&program.eval(&env))).collect::<Vec<_>>()
    };
    let alone = ask(&apart, None);
    assert_eq!(ask(&together, Some(&Memo::default())), alone, "a shared result is the result");
});
