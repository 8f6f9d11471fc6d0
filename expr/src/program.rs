//! The typed program and its evaluation.

use crate::env::Env;
use crate::error::{CompileError, EvalError};
use crate::types::{FieldId, Fields, MapId, MemberId, Type};
use crate::value::Value;

/// The variables an expression may name (`evt`, `queue`, `Alert`), in the order of [`Env::vars`].
#[derive(Clone, Debug, Default)]
pub struct Vars {
    /// Name and type.
    pub names: Vec<(&'static str, Type)>,
}

/// Compiles expressions of one rule set: fields are numbered and pure subexpressions shared
/// across everything that one compiler compiled.
pub struct Compiler<'f> {
    fields: &'f mut dyn Fields,
}

impl std::fmt::Debug for Compiler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiler").finish_non_exhaustive()
    }
}

impl<'f> Compiler<'f> {
    /// A compiler that numbers fields with `fields`.
    pub fn new(fields: &'f mut dyn Fields) -> Self {
        Self { fields }
    }

    /// The field numbering, for whoever compiles beside expressions (captures, statics).
    pub fn fields(&mut self) -> &mut dyn Fields {
        self.fields
    }

    /// Checks and compiles `source` for an environment with `vars`.
    pub fn compile(&mut self, source: &str, vars: &Vars) -> Result<Program, CompileError> {
        let _ = (source, vars);
        Err(CompileError { message: "the compiler is not there yet".into(), span: 0..0, hint: None })
    }
}

/// A compiled expression. Immutable, shared between threads.
#[derive(Clone, Debug)]
pub struct Program {
    source: Box<str>,
}

impl Program {
    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of the result as far as it is known.
    pub fn result(&self) -> Type {
        Type::Any
    }

    /// Evaluates.
    pub fn eval<'a>(&'a self, env: &'a Env<'a>) -> Result<Value<'a>, EvalError> {
        let _ = env;
        Err(EvalError::new("the evaluator is not there yet"))
    }

    /// Evaluates where a truth value is wanted: `Ok(None)` when the result is something else.
    pub fn eval_bool(&self, env: &Env<'_>) -> Result<Option<bool>, EvalError> {
        let _ = env;
        Err(EvalError::new("the evaluator is not there yet"))
    }

    /// What it reads and writes, and what must hold for it to be true.
    pub fn facts(&self) -> &Facts {
        static NONE: Facts = Facts::NONE;
        &NONE
    }
}

/// What is known of a program without running it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Text fields of variable 0 that it reads by constant name.
    pub reads: Vec<FieldId>,
    /// String maps of variable 0 that it reads by computed name, or whole.
    pub reads_all: Vec<MapId>,
    /// Members of variable 0 that are not text.
    pub members: Vec<MemberId>,
    /// Text fields it writes by constant name.
    pub writes: Vec<FieldId>,
    /// String maps it writes by computed name.
    pub writes_all: Vec<MapId>,
    /// Whether evaluating it changes anything (`SetMeta`, `UnmarshalJSON`, logging).
    pub effect: bool,
    /// Whether it asks the host for something that changes with time (`now`, decisions, stash, DNS).
    pub volatile: bool,
    /// Stashes it reads (`None` inside: the name is computed).
    pub stashes: Vec<Option<String>>,
    /// Data files it names.
    pub files: Vec<String>,
    /// Conditions each of which must hold for the result to be `true`; only such as come before
    /// anything that can fail or write.
    pub requires: Vec<Condition>,
}

impl Facts {
    const NONE: Facts = Facts {
        reads: Vec::new(),
        reads_all: Vec::new(),
        members: Vec::new(),
        writes: Vec::new(),
        writes_all: Vec::new(),
        effect: false,
        volatile: false,
        stashes: Vec::new(),
        files: Vec::new(),
        requires: Vec::new(),
    };
}

/// A necessary condition on one text field of variable 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The field equals one of these.
    In(FieldId, Vec<String>),
    /// The field starts with one of these.
    StartsWith(FieldId, Vec<String>),
    /// The field is not empty.
    NotEmpty(FieldId),
}
