//! Names, types, arity, constant regexes: every refusal happens here, at load.
//!
//! One walk over the tree checks it and makes the typed program. Unknown types postpone their
//! checks to run time; everything else is decided, folded and numbered now.

mod calls;
mod closures;
mod members;
mod operators;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::analyze::Facts;
use crate::ast::{ClosureFn, Expr, Kind};
use crate::error::CompileError;
use crate::library;
use crate::program::{Body, BoolNode, Const, Node, TextNode, Vars};
use crate::types::{FieldId, Fields, MapId, Type};

/// A checked subtree: what to run, and what it will yield.
pub(crate) type Typed = (Node, Type);

pub(crate) type Checked<T = Typed> = Result<T, CompileError>;

/// Subexpressions that programs of one compiler share, by their key.
#[derive(Debug)]
pub(crate) struct Shared {
    id: u64,
    slots: HashMap<String, usize>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), slots: HashMap::new() }
    }

    /// A number that no other compiler of this process has.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    fn slot(&mut self, key: String) -> usize {
        let next = self.slots.len();
        *self.slots.entry(key).or_insert(next)
    }
}

/// What a subtree depends on; decides whether its result can be shared.
#[derive(Clone, Copy, Debug)]
struct Flow {
    /// It changes something, or asks for something that changes.
    impure: bool,
    /// It reads variables other than the first.
    foreign: bool,
    /// It reads anything at all that is no constant.
    reads: bool,
    /// The lowest local it reads.
    lowest: usize,
}

impl Flow {
    const NOTHING: Flow = Flow { impure: false, foreign: false, reads: false, lowest: usize::MAX };

    fn join(self, other: Flow) -> Flow {
        Flow {
            impure: self.impure || other.impure,
            foreign: self.foreign || other.foreign,
            reads: self.reads || other.reads,
            lowest: self.lowest.min(other.lowest),
        }
    }
}

/// A variable made by `let`.
struct Binding {
    name: String,
    ty: Type,
    local: usize,
}

/// The predicate around the current place.
struct Predicate {
    element: Type,
    item: usize,
    index: Option<usize>,
    acc: Option<usize>,
    used: bool,
}

pub(crate) struct Checker<'c> {
    fields: &'c mut dyn Fields,
    shared: &'c mut Shared,
    vars: &'c Vars,
    bindings: Vec<Binding>,
    predicates: Vec<Predicate>,
    /// Locals handed out so far.
    pub(crate) locals: usize,
    pub(crate) facts: Facts,
    flow: Flow,
    /// A structure has been given where its class is forgotten.
    leaks: bool,
}

pub(super) fn error<T>(span: &Range<usize>, message: impl Into<String>) -> Checked<T> {
    Err(CompileError::new(span.clone(), message))
}

/// The same with a suggestion out of `known`, when one is near.
pub(super) fn unknown<'n, T>(
    span: &Range<usize>,
    message: impl Into<String>,
    name: &str,
    known: impl Iterator<Item = &'n str>,
) -> Checked<T> {
    let mut error = CompileError::new(span.clone(), message);
    let lower = name.to_lowercase();
    error.hint = known
        .map(|known| (strsim::jaro_winkler(&lower, &known.to_lowercase()), known))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, known)| format!("did you mean `{known}`?"));
    Err(error)
}

impl<'c> Checker<'c> {
    pub(crate) fn new(fields: &'c mut dyn Fields, shared: &'c mut Shared, vars: &'c Vars) -> Self {
        Self {
            fields,
            shared,
            vars,
            bindings: Vec::new(),
            predicates: Vec::new(),
            locals: 0,
            facts: Facts::default(),
            flow: Flow::NOTHING,
            leaks: false,
        }
    }

    fn local(&mut self) -> usize {
        self.locals += 1;
        self.locals - 1
    }

    /// Checks `expr`; a string map that stays whole is noted as read whole.
    pub(crate) fn visit(&mut self, expr: &Expr) -> Checked {
        let (node, ty) = self.visit_place(expr)?;
        if let Node::SlotMap { base, map, .. } = &node {
            self.note_map(base, *map);
        }
        Ok((node, ty))
    }

    /// Checks `expr`, which something will be picked out of.
    fn visit_place(&mut self, expr: &Expr) -> Checked {
        match &expr.kind {
            Kind::Nil => Ok((Node::Const(Const::Nil), Type::Nil)),
            Kind::Bool(value) => Ok((Node::Const(Const::Bool(*value)), Type::Bool)),
            Kind::Int(value) => Ok((Node::Const(Const::Int(*value)), Type::Int)),
            Kind::Float(value) => Ok((Node::Const(Const::Float(*value)), Type::Float)),
            Kind::Str(text) => Ok((Node::Const(Const::Text(text.as_str().into())), Type::String)),
            Kind::Bytes(bytes) => Ok((Node::Const(Const::Bytes(bytes.as_slice().into())), Type::Bytes)),
            Kind::Name(name) => self.visit_name(expr, name),
            Kind::Pointer(name) => self.visit_pointer(expr, name),
            Kind::Member { base, property, optional } => self.visit_member(expr, base, property, *optional),
            Kind::Slice { base, from, to } => self.visit_slice(expr, base, from.as_deref(), to.as_deref()),
            Kind::Chain(inner) => {
                let (node, ty) = self.visit(inner)?;
                Ok((Node::Chain(Box::new(node)), ty))
            }
            Kind::Call { name, args } => self.visit_call(expr, name, args),
            Kind::Method { base, name, optional, args } => self.visit_method(expr, base, name, *optional, args),
            Kind::Closure { function, list, body, extra } => {
                self.visit_closure(expr, *function, list, body.as_deref(), extra.as_deref())
            }
            Kind::Not(operand) => self.visit_not(expr, operand),
            Kind::Sign { minus, operand } => self.visit_sign(expr, *minus, operand),
            Kind::Binary { op, left, right } => self.visit_binary(expr, *op, left, right),
            Kind::Logic { and, items } => self.visit_logic(expr, *and, items),
            Kind::Conditional { condition, then, otherwise } => self.visit_conditional(condition, then, otherwise),
            Kind::Let { name, value, body } => self.visit_let(expr, name, value, body),
            Kind::Sequence(items) => {
                let mut nodes = Vec::with_capacity(items.len());
                let mut last = Type::Nil;
                for item in items {
                    let (node, ty) = self.visit(item)?;
                    nodes.push(node);
                    last = ty;
                }
                Ok((Node::Sequence(nodes.into()), last))
            }
            Kind::Array(items) => self.visit_array(items),
            Kind::Map(pairs) => self.visit_map(pairs),
        }
    }

    fn visit_name(&mut self, expr: &Expr, name: &str) -> Checked {
        if let Some(binding) = self.bindings.iter().rev().find(|binding| binding.name == name) {
            self.flow.reads = true;
            self.flow.lowest = self.flow.lowest.min(binding.local);
            return Ok((Node::Local(binding.local), binding.ty.clone()));
        }
        if name == "$env" {
            self.flow.foreign = true;
            self.leaks = true;
            self.facts.opaque = true;
            return Ok((Node::Variables(self.vars.names.iter().map(|(name, _)| *name).collect()), Type::Any));
        }
        if let Some(index) = self.vars.names.iter().position(|(known, _)| *known == name) {
            self.flow.reads = true;
            self.flow.foreign |= index != 0;
            return Ok((Node::Var(index), self.vars.names[index].1.clone()));
        }
        if library::find(name).is_some() {
            return Ok((Node::Const(Const::Nil), Type::Func));
        }
        let bindings = self.bindings.iter().map(|binding| binding.name.clone());
        let vars = self.vars.names.iter().map(|(name, _)| (*name).to_owned());
        let known: Vec<String> = bindings.chain(vars).chain(library::names().map(str::to_owned)).collect();
        unknown(&expr.span, format!("unknown name `{name}`"), name, known.iter().map(String::as_str))
    }

    fn visit_pointer(&mut self, expr: &Expr, name: &str) -> Checked {
        let Some(predicate) = self.predicates.last_mut() else {
            return error(&expr.span, "`#` is known only inside a predicate");
        };
        let (local, ty) = match name {
            "" => {
                predicate.used = true;
                (Some(predicate.item), predicate.element.clone())
            }
            "index" => (predicate.index, Type::Int),
            "acc" => (predicate.acc, Type::Any),
            _ => (None, Type::Any),
        };
        let Some(local) = local else {
            return error(&expr.span, format!("unknown pointer `#{name}`"));
        };
        self.flow.reads = true;
        self.flow.lowest = self.flow.lowest.min(local);
        Ok((Node::Local(local), ty))
    }

    fn visit_let(&mut self, expr: &Expr, name: &str, value: &Expr, body: &Expr) -> Checked {
        let taken = if self.vars.names.iter().any(|(known, _)| *known == name) {
            Some("a variable of the environment")
        } else if library::find(name).is_some() || ClosureFn::named(name).is_some() {
            Some("a function")
        } else if self.bindings.iter().any(|binding| binding.name == name) {
            Some("a variable")
        } else {
            None
        };
        if let Some(taken) = taken {
            return error(&expr.span, format!("cannot redeclare `{name}`: it is {taken}"));
        }
        let enough = closures::enough(name, body);
        let (mut value, ty) = self.visit(value)?;
        if let Node::Closure(closure) = &mut value
            && closure.function == ClosureFn::Filter
            && matches!(&closure.body, Some(Body::Test(test)) if closures::only_reads(test, closure.item))
        {
            closure.enough = enough;
        }
        let local = self.local();
        self.bindings.push(Binding { name: name.to_owned(), ty, local });
        let body = self.visit(body);
        self.bindings.pop();
        let (body, ty) = body?;
        Ok(match body {
            Node::Bool(body) => (from_bool(BoolNode::Let { local, value, body }), ty),
            body => (Node::Let { local, value: Box::new(value), body: Box::new(body) }, ty),
        })
    }

    fn visit_array(&mut self, items: &[Expr]) -> Checked {
        let mut nodes = Vec::with_capacity(items.len());
        let mut element: Option<Type> = None;
        for item in items {
            let (node, ty) = self.visit(item)?;
            self.note_leak(&ty);
            element = Some(match element {
                None => ty,
                Some(before) if before == ty => before,
                Some(_) => Type::Any,
            });
            nodes.push(node);
        }
        let element = match element {
            None | Some(Type::Nil) => Type::Any,
            Some(ty) => ty,
        };
        Ok((Node::Array(nodes.into()), Type::Generic(Box::new(element))))
    }

    fn visit_map(&mut self, pairs: &[(Expr, Expr)]) -> Checked {
        let mut nodes = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let (key_node, ty) = self.visit(key)?;
            if !matches!(ty.behind(), Type::String | Type::Any) {
                return error(&key.span, format!("a map key must be a string, found {ty}"));
            }
            let (value_node, ty) = self.visit(value)?;
            self.note_leak(&ty);
            nodes.push((key_node, value_node));
        }
        Ok((Node::Map(nodes.into()), Type::Map(Box::new(Type::Any))))
    }

    /// Makes the result of `expr` a shared one when that is sound: it depends on the first
    /// variable alone. `flow` is what the subtree depends on, `outer` the locals around it.
    fn share(&mut self, expr: &Expr, node: Node, ty: &Type, flow: Flow, outer: usize) -> Node {
        if flow.impure || flow.foreign || !flow.reads || flow.lowest < outer {
            return node;
        }
        let Some((first, first_ty)) = self.vars.names.first() else {
            return node;
        };
        let mut key = format!("{first}:{first_ty}:");
        expr.write_key(&mut key);
        match (ty, node) {
            (Type::String, node) => {
                let slot = self.shared.slot(key);
                Node::Text(Box::new(TextNode::Memo { slot, text: Box::new(to_text(node)) }))
            }
            (Type::Bool, node) => {
                let slot = self.shared.slot(key);
                from_bool(BoolNode::Memo { slot, test: Box::new(to_bool(node)) })
            }
            (Type::Int, node) => Node::Memo { slot: self.shared.slot(key), node: Box::new(node) },
            (_, node) => node,
        }
    }

    /// Notes that a structure loses its class: later it may be looked into by name.
    fn note_leak(&mut self, ty: &Type) {
        let holds = |ty: &Type| match ty {
            Type::Class(_) => true,
            Type::List(inner) | Type::Generic(inner) | Type::Map(inner) => {
                matches!(inner.behind(), Type::Class(_))
            }
            _ => false,
        };
        self.leaks |= holds(ty.behind());
    }

    fn note_field(&mut self, base: &Node, field: FieldId) {
        let reads = if is_first(base) { &mut self.facts.reads } else { &mut self.facts.queued };
        if !reads.contains(&field) {
            reads.push(field);
        }
    }

    fn note_map(&mut self, base: &Node, map: MapId) {
        let reads = if is_first(base) { &mut self.facts.reads_all } else { &mut self.facts.queued_all };
        if !reads.contains(&map) {
            reads.push(map);
        }
    }
}

/// Whether `base` is the first variable.
fn is_first(base: &Node) -> bool {
    matches!(base, Node::Var(0))
}

/// The constant, if the node is one.
fn constant(node: &Node) -> Option<&Const> {
    match node {
        Node::Const(constant) => Some(constant),
        _ => None,
    }
}

/// The node as one that yields text.
pub(crate) fn to_text(node: Node) -> TextNode {
    match node {
        Node::Const(Const::Text(text)) => TextNode::Const(text),
        Node::Text(text) => *text,
        other => TextNode::Dynamic(other),
    }
}

/// The node as one that yields a truth value.
pub(crate) fn to_bool(node: Node) -> BoolNode {
    match node {
        Node::Const(Const::Bool(value)) => BoolNode::Const(value),
        Node::Bool(test) => *test,
        other => BoolNode::Dynamic(other),
    }
}

/// A truth value as a node.
fn from_bool(test: BoolNode) -> Node {
    match test {
        BoolNode::Const(value) => Node::Const(Const::Bool(value)),
        other => Node::Bool(Box::new(other)),
    }
}
