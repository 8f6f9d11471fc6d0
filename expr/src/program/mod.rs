//! The typed program and its evaluation.

mod closures;
mod eval;
mod node;
mod operators;

use std::sync::Arc;

use crate::analyze::{self, Facts};
use crate::check::{Checker, Shared};
use crate::env::Env;
use crate::error::{CompileError, EvalError};
use crate::needles;
use crate::parser;
use crate::types::{FieldId, Fields, Type};
use crate::value::Value;

pub(crate) use closures::{Key, descending, sort};
pub(crate) use eval::{Cx, Outcome, field, index};
pub(crate) use node::{
    Args, Body, BoolNode, Closure, Const, Fold, LazyRegex, LineOp, LineTest, Node, TextNode, TextSet,
};
pub(crate) use operators::{arithmetic, equal, order};

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
    shared: Shared,
}

impl std::fmt::Debug for Compiler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiler").finish_non_exhaustive()
    }
}

impl<'f> Compiler<'f> {
    /// A compiler that numbers fields with `fields`.
    pub fn new(fields: &'f mut dyn Fields) -> Self {
        Self { fields, shared: Shared::new() }
    }

    /// The field numbering, for whoever compiles beside expressions (captures, statics).
    pub fn fields(&mut self) -> &mut dyn Fields {
        self.fields
    }

    /// Checks and compiles `source` for an environment with `vars`.
    pub fn compile(&mut self, source: &str, vars: &Vars) -> Result<Program, CompileError> {
        let tree = parser::parse(source)?;
        let mut checker = Checker::new(self.fields, &mut self.shared, vars);
        let (node, ty) = checker.visit(&tree)?;
        let locals = checker.locals;
        let mut facts = checker.facts;
        facts.requires = analyze::requires(&node);
        facts.decided = analyze::decided(&node);
        facts.quick = analyze::quick(&node);
        facts.mentions = needles::mentions(&node);
        facts.files.sort_unstable();
        facts.files.dedup();
        Ok(Program {
            inner: Arc::new(Inner { source: source.into(), node, ty, locals, compiler: self.shared.id(), facts }),
        })
    }
}

/// A compiled expression. Immutable, shared between threads; clones are cheap.
#[derive(Clone, Debug)]
pub struct Program {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    source: Box<str>,
    node: Node,
    ty: Type,
    locals: usize,
    /// Whose slots it uses.
    compiler: u64,
    facts: Facts,
}

impl Program {
    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// The type of the result as far as it is known.
    pub fn result(&self) -> Type {
        self.inner.ty.clone()
    }

    /// Evaluates.
    pub fn eval<'a>(&'a self, env: &'a Env<'a>) -> Result<Value<'a>, EvalError> {
        self.inner.node.eval(&mut Cx::new(env, self.inner.locals, self.inner.compiler))
    }

    /// Evaluates where a truth value is wanted: `Ok(None)` when the result is something else.
    pub fn eval_bool(&self, env: &Env<'_>) -> Result<Option<bool>, EvalError> {
        match &self.inner.node {
            Node::Bool(test) => test.eval(&mut Cx::new(env, self.inner.locals, self.inner.compiler)).map(Some),
            node => Ok(node.eval(&mut Cx::new(env, self.inner.locals, self.inner.compiler))?.as_bool()),
        }
    }

    /// The text field of variable 0 that it names, if it does no more: its text is the result, the empty text where it is
    /// absent.
    pub fn field(&self) -> Option<FieldId> {
        analyze::field_of(&self.inner.node)
    }

    /// What it reads and writes, and what must hold for it to be true.
    pub fn facts(&self) -> &Facts {
        &self.inner.facts
    }
}
