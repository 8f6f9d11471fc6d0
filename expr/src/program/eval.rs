//! Evaluation: one method per kind of node, nothing looked up by name that load could know.

use std::borrow::Cow;
use std::ops::Deref;
use std::rc::Rc;

use smallvec::SmallVec;

use super::closures;
use super::node::{Args, BoolNode, Const, LineOp, Node, TextNode};
use super::operators::{self, compare, equal};
use crate::ast::BinaryOp;
use crate::env::{Env, Object};
use crate::error::EvalError;
use crate::library;
use crate::memo::Cached;
use crate::regex_dialect;
use crate::types::At;
use crate::value::{List, Map, Value};

/// Most elements that one evaluation may make (ranges, lists, maps, repeated text).
const ELEMENTS: u64 = 1_000_000;
/// Most times that predicates may run in one evaluation.
const STEPS: u64 = 1_000_000;
/// Bytes that a search looks through in the time of one step.
const SEARCHED: u64 = 512;
/// Bytes that a regex or a function looks through in the time of one step.
const SCANNED: u64 = 64;
/// What building a regex at run time costs, in bytes scanned.
const BUILD: usize = 200 * SCANNED as usize;
/// Longest text that one evaluation may make, in bytes, in sum.
const BYTES: u64 = 64 << 20;

pub(crate) type Outcome<T> = Result<T, EvalError>;

/// The state of one evaluation.
pub(crate) struct Cx<'a> {
    pub(crate) env: &'a Env<'a>,
    pub(crate) locals: SmallVec<[Value<'a>; 4]>,
    /// A guard (`?.`) has found nil: the rest of its chain is skipped.
    skip: bool,
    compiler: u64,
    elements: u64,
    steps: u64,
    bytes: u64,
}

impl<'a> Cx<'a> {
    /// `compiler` is the one that made the program.
    pub(crate) fn new(env: &'a Env<'a>, locals: usize, compiler: u64) -> Self {
        Self {
            env,
            locals: if locals == 0 { SmallVec::new() } else { SmallVec::from_elem(Value::Nil, locals) },
            skip: false,
            compiler,
            elements: ELEMENTS,
            steps: STEPS,
            bytes: BYTES,
        }
    }

    /// Takes `count` elements from the budget.
    pub(crate) fn spend(&mut self, count: usize) -> Outcome<()> {
        self.elements =
            self.elements.checked_sub(count as u64).ok_or_else(|| EvalError::new("memory budget exceeded"))?;
        Ok(())
    }

    /// Takes `count` bytes of text from the budget.
    pub(crate) fn spend_bytes(&mut self, count: usize) -> Outcome<()> {
        self.bytes = self.bytes.checked_sub(count as u64).ok_or_else(|| EvalError::new("memory budget exceeded"))?;
        Ok(())
    }

    /// Takes one run of a predicate from the budget.
    pub(crate) fn step(&mut self) -> Outcome<()> {
        self.steps = self.steps.checked_sub(1).ok_or_else(|| EvalError::new("step budget exceeded"))?;
        Ok(())
    }

    /// Takes the price of looking through `bytes` at `per_step` bytes a step: within nested
    /// predicates long texts would add up.
    pub(crate) fn charge(&mut self, bytes: usize, per_step: u64) -> Outcome<()> {
        self.steps =
            self.steps.checked_sub(bytes as u64 / per_step).ok_or_else(|| EvalError::new("step budget exceeded"))?;
        Ok(())
    }

    fn memo_get(&self, slot: usize) -> Option<Cached> {
        self.env.memo?.get(self.compiler, slot)
    }

    fn memo_set(&self, slot: usize, cached: impl FnOnce() -> Option<Cached>) {
        if let Some(memo) = self.env.memo
            && let Some(cached) = cached()
        {
            memo.set(self.compiler, slot, cached);
        }
    }

    /// Something changed the event: what was remembered may no longer hold.
    pub(crate) fn changed(&self) {
        if let Some(memo) = self.env.memo {
            memo.next();
        }
    }
}

/// Text that borrows, owns, or is shared with the memo.
pub(crate) enum Text<'a> {
    Borrowed(&'a str),
    Owned(String),
    Shared(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Owned(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl<'a> Text<'a> {
    fn into_value(self) -> Value<'a> {
        Value::Str(match self {
            Text::Borrowed(text) => Cow::Borrowed(text),
            Text::Owned(text) => Cow::Owned(text),
            Text::Shared(text) => Cow::Owned((*text).to_owned()),
        })
    }
}

impl Const {
    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Const::Nil => Value::Nil,
            Const::Bool(value) => Value::Bool(*value),
            Const::Int(value) => Value::Int(*value),
            Const::Float(value) => Value::Float(*value),
            Const::Text(text) => Value::text(text),
            Const::Bytes(bytes) => Value::Bytes((**bytes).into()),
            Const::Duration(nanos) => Value::Duration(*nanos),
        }
    }
}

/// An object, by reference or made on the way.
pub(crate) enum Handle<'a> {
    Borrowed(&'a dyn Object),
    Made(Rc<dyn Object>),
}

impl<'a> Handle<'a> {
    pub(crate) fn of(value: &Value<'a>) -> Option<Self> {
        match value {
            Value::Object(object) => Some(Handle::Borrowed(*object)),
            Value::Made(object) => Some(Handle::Made(Rc::clone(object))),
            _ => None,
        }
    }

    fn slot(&self, field: crate::FieldId) -> Text<'a> {
        match self {
            Handle::Borrowed(object) => Text::Borrowed(object.slot(field).unwrap_or("")),
            Handle::Made(object) => Text::Owned(object.slot(field).unwrap_or("").to_owned()),
        }
    }

    fn slot_map(&self, map: crate::MapId) -> Value<'a> {
        match self {
            Handle::Borrowed(object) => Value::Map(Map::Slots(*object, map)),
            Handle::Made(object) => Value::Map(Map::Text(
                object
                    .slots(map)
                    .into_iter()
                    .map(|(key, value)| (Cow::Owned(key.to_owned()), Cow::Owned(value.to_owned())))
                    .collect(),
            )),
        }
    }

    fn member(&self, member: crate::MemberId) -> Outcome<Value<'a>> {
        match self {
            Handle::Borrowed(object) => Ok(object.member(member)),
            Handle::Made(object) => {
                object.member(member).detach().ok_or_else(|| EvalError::new("this member cannot be read from here"))
            }
        }
    }

    fn class(&self) -> &'static crate::Class {
        match self {
            Handle::Borrowed(object) => object.class(),
            Handle::Made(object) => object.class(),
        }
    }

    fn call(&self, method: crate::MethodId, args: &[Value<'a>]) -> Outcome<Value<'a>> {
        match self {
            Handle::Borrowed(object) => object.call(method, args),
            Handle::Made(object) => {
                let args: Option<Vec<Value<'_>>> = args.iter().map(Value::detach).collect();
                let args = args.ok_or_else(|| EvalError::new("this argument cannot be given here"))?;
                let result = object.call(method, &args)?;
                result.detach().ok_or_else(|| EvalError::new("this result cannot be used here"))
            }
        }
    }
}

fn no_member(name: &str, base: &Value<'_>) -> EvalError {
    match base {
        Value::Nil => EvalError::new(format!("cannot fetch {name} from <nil>")),
        other => EvalError::new(format!("cannot fetch {name} from {}", other.kind())),
    }
}

impl Node {
    pub(crate) fn eval<'a>(&'a self, cx: &mut Cx<'a>) -> Outcome<Value<'a>> {
        match self {
            Node::Const(constant) => Ok(constant.value()),
            Node::Bool(test) => test.eval(cx).map(Value::Bool),
            Node::Text(text) => Ok(text.eval(cx)?.map_or(Value::Nil, Text::into_value)),
            Node::Var(index) => Ok(cx.env.vars.get(*index).cloned().unwrap_or(Value::Nil)),
            Node::Local(index) => Ok(cx.locals.get(*index).cloned().unwrap_or(Value::Nil)),
            Node::Variables(names) => Ok(Value::Map(Map::Any(
                names.iter().zip(cx.env.vars).map(|(name, value)| (Cow::Borrowed(*name), value.clone())).collect(),
            ))),
            Node::Member { base, member, .. } if let Some(object) = held(base, cx) => Ok(object.member(*member)),
            Node::Member { base, member, name, optional } => {
                let Some(base) = base_of(base, *optional, cx)? else {
                    return Ok(Value::Nil);
                };
                Handle::of(&base).ok_or_else(|| no_member(name, &base))?.member(*member)
            }
            Node::SlotMap { base, map, optional } => {
                let Some(base) = base_of(base, *optional, cx)? else {
                    return Ok(Value::Nil);
                };
                Ok(Handle::of(&base).ok_or_else(|| no_member("member", &base))?.slot_map(*map))
            }
            Node::Field { base, name, optional } => {
                let Some(base) = base_of(base, *optional, cx)? else {
                    return Ok(Value::Nil);
                };
                field(&base, name)
            }
            Node::Index { base, key, optional } => {
                let base = base.eval(cx)?;
                if cx.skip || (*optional && base.is_nil()) {
                    cx.skip = true;
                    return Ok(Value::Nil);
                }
                let key = key.eval(cx)?;
                index(&base, &key)
            }
            Node::Slice { base, from, to } => {
                let base = base.eval(cx)?;
                let mut bound = |node: &'a Option<Box<Node>>| -> Outcome<Option<i64>> {
                    let Some(node) = node else { return Ok(None) };
                    let value = node.eval(cx)?;
                    operators::integer(&value).map(Some)
                };
                let (from, to) = (bound(from)?, bound(to)?);
                operators::slice(&base, from, to)
            }
            Node::Chain(inner) => {
                let outer = std::mem::replace(&mut cx.skip, false);
                let result = inner.eval(cx);
                cx.skip = outer;
                result
            }
            Node::Method { base, method, name, effect, args } => {
                let base = base.eval(cx)?;
                if cx.skip {
                    return Ok(Value::Nil);
                }
                let object = Handle::of(&base).ok_or_else(|| no_member(name, &base))?;
                let args = args.eval(name, cx)?;
                let result = object.call(*method, &args);
                if *effect {
                    cx.changed();
                }
                result
            }
            Node::DynamicMethod { base, name, optional, args } => {
                let Some(base) = base_of(base, *optional, cx)? else {
                    return Ok(Value::Nil);
                };
                let mut values: SmallVec<[Value<'a>; 4]> = SmallVec::new();
                for arg in args {
                    values.push(arg.eval(cx)?);
                }
                dynamic_method(cx, &base, name, &values)
            }
            Node::Call { function, args } => {
                let args = args.eval(function.name, cx)?;
                let bytes = args.iter().map(|arg| arg.as_str().map_or(0, str::len)).sum();
                cx.charge(bytes, SCANNED)?;
                let result = (function.run)(cx, &args);
                if function.writes() {
                    cx.changed();
                }
                result
            }
            Node::Address(inner) => {
                let value = inner.eval(cx)?;
                Ok(if value.is_nil() { Value::Nil } else { library::address(&value) })
            }
            Node::Memo { slot, node } => {
                match cx.memo_get(*slot) {
                    Some(Cached::Int(value)) => return Ok(Value::Int(value)),
                    Some(Cached::Failed(message)) => return Err(EvalError::new(&*message)),
                    _ => {}
                }
                let result = node.eval(cx);
                cx.memo_set(*slot, || match &result {
                    Ok(Value::Int(value)) => Some(Cached::Int(*value)),
                    Err(error) => Some(Cached::Failed(error.to_string().into())),
                    Ok(_) => None,
                });
                result
            }
            Node::Negate(operand) => operators::negate(&operand.eval(cx)?),
            Node::Plus(operand) => {
                let value = operand.eval(cx)?;
                match value {
                    Value::Int(_) | Value::Float(_) | Value::Sized(..) => Ok(value),
                    other => Err(EvalError::new(format!("invalid operation: + {}", other.kind()))),
                }
            }
            Node::Arithmetic { op, left, right } => {
                let left = left.eval(cx)?;
                let right = right.eval(cx)?;
                if let (Value::Str(a), Value::Str(b)) = (&left, &right) {
                    cx.spend_bytes(a.len() + b.len())?;
                }
                operators::arithmetic(*op, &left, &right)
            }
            Node::Range { from, to } => {
                let from = operators::integer(&from.eval(cx)?)?;
                let to = operators::integer(&to.eval(cx)?)?;
                if from > to {
                    return Ok(Value::List(List::Typed(Rc::from([]))));
                }
                cx.spend(usize::try_from(to.abs_diff(from)).unwrap_or(usize::MAX).saturating_add(1))?;
                Ok(Value::List(List::Typed((from..=to).map(Value::Int).collect())))
            }
            Node::Array(items) => {
                cx.spend(items.len())?;
                let values = items.iter().map(|item| item.eval(cx)).collect::<Outcome<Rc<[_]>>>()?;
                Ok(Value::List(List::Any(values)))
            }
            Node::Map(pairs) => {
                cx.spend(pairs.len())?;
                let mut made: Vec<(Cow<'a, str>, Value<'a>)> = Vec::with_capacity(pairs.len());
                for (key, value) in pairs {
                    let Value::Str(key) = key.eval(cx)? else {
                        return Err(EvalError::new("a map key must be a string"));
                    };
                    let value = value.eval(cx)?;
                    match made.iter_mut().find(|(known, _)| *known == key) {
                        Some(pair) => pair.1 = value,
                        None => made.push((key, value)),
                    }
                }
                Ok(Value::Map(Map::Any(made.into())))
            }
            Node::Conditional { condition, then, otherwise } => {
                if condition.eval(cx)? {
                    then.eval(cx)
                } else {
                    otherwise.eval(cx)
                }
            }
            Node::Coalesce { left, right } => {
                let value = left.eval(cx)?;
                if value.is_nil() { right.eval(cx) } else { Ok(value) }
            }
            Node::Logic { and, first, last } => {
                if first.eval(cx)? == *and {
                    last.eval(cx)
                } else {
                    Ok(Value::Bool(!and))
                }
            }
            Node::Let { local, value, body } => {
                let value = value.eval(cx)?;
                cx.locals[*local] = value;
                body.eval(cx)
            }
            Node::Sequence(items) => {
                let mut last = Value::Nil;
                for item in items {
                    last = item.eval(cx)?;
                }
                Ok(last)
            }
            Node::Closure(closure) => closures::eval(closure, cx),
        }
    }
}

/// The value before a dot; `None` when the rest of the chain is skipped.
fn base_of<'a>(base: &'a Node, optional: bool, cx: &mut Cx<'a>) -> Outcome<Option<Value<'a>>> {
    let value = base.eval(cx)?;
    if cx.skip {
        return Ok(None);
    }
    if optional && value.is_nil() {
        cx.skip = true;
        return Ok(None);
    }
    Ok(Some(value))
}

/// The structure that a variable or a local is: looking into it takes no copy of the value.
fn held<'a>(base: &Node, cx: &Cx<'a>) -> Option<&'a dyn Object> {
    let value = match base {
        Node::Var(index) => cx.env.vars.get(*index),
        Node::Local(index) => cx.locals.get(*index),
        _ => None,
    };
    match value {
        Some(Value::Object(object)) => Some(*object),
        _ => None,
    }
}

impl Args {
    fn eval<'a>(&'a self, name: &str, cx: &mut Cx<'a>) -> Outcome<SmallVec<[Value<'a>; 4]>> {
        let mut values = SmallVec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            values.push(node.eval(cx)?);
        }
        for (index, ty) in &self.check {
            let value: &Value<'_> = &values[*index];
            if !library::accepts(value, ty) {
                let found = value.kind();
                return Err(EvalError::new(format!("cannot use {found} as argument (type {ty}) to call {name}")));
            }
        }
        Ok(values)
    }
}

/// `base.name` for a base whose type only run time knows.
pub(crate) fn field<'a>(base: &Value<'a>, name: &str) -> Outcome<Value<'a>> {
    match base {
        Value::Map(map) => Ok(map.get(name).unwrap_or_else(|| map.missing())),
        Value::Object(_) | Value::Made(_) => {
            let object = Handle::of(base).ok_or_else(|| no_member(name, base))?;
            let member = object.class().member(name).ok_or_else(|| no_member(name, base))?;
            match member.at {
                At::Slot(field) => Ok(object.slot(field).into_value()),
                At::Slots(map) => Ok(object.slot_map(map)),
                At::Same => Ok(base.clone()),
                At::Member(member) => object.member(member),
            }
        }
        _ => Err(no_member(name, base)),
    }
}

/// `base[key]`.
pub(crate) fn index<'a>(base: &Value<'a>, key: &Value<'a>) -> Outcome<Value<'a>> {
    match (base, key) {
        (Value::Map(Map::Keyed(pairs)), _) => {
            Ok(pairs.iter().find(|(known, _)| equal(known, key)).map_or(Value::Nil, |(_, value)| value.clone()))
        }
        (Value::Map(_) | Value::Object(_) | Value::Made(_), Value::Str(name)) => field(base, name),
        (Value::List(list), _) => {
            let at = operators::position(operators::integer(key)?, list.len());
            at.and_then(|at| list.get(at)).ok_or_else(|| EvalError::new("index out of range"))
        }
        (Value::Bytes(bytes), _) => byte(bytes, key),
        (Value::Str(text), _) => byte(text.as_bytes(), key),
        (Value::Nil, _) => Err(EvalError::new("cannot fetch an element from <nil>")),
        _ => Err(EvalError::new(format!("cannot use {} to get an element from {}", key.kind(), base.kind()))),
    }
}

fn byte<'a>(bytes: &[u8], key: &Value<'_>) -> Outcome<Value<'a>> {
    operators::position(operators::integer(key)?, bytes.len())
        .and_then(|at| bytes.get(at))
        .map(|byte| Value::Sized(i64::from(*byte), crate::IntKind::U8))
        .ok_or_else(|| EvalError::new("index out of range"))
}

fn dynamic_method<'a>(cx: &mut Cx<'a>, base: &Value<'a>, name: &str, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    if let Some(object) = Handle::of(base)
        && let Some(method) = object.class().method(name)
    {
        let params = (method.params)();
        if params.len() != args.len() || !params.iter().zip(args).all(|(ty, value)| library::accepts(value, ty)) {
            return Err(EvalError::new(format!("arguments do not fit method {name}")));
        }
        let result = object.call(method.id, args);
        if method.effect {
            cx.changed();
        }
        return result;
    }
    let Some(function) = library::method(&library::type_of(base), name) else {
        return Err(no_member(name, base));
    };
    let mut all: SmallVec<[Value<'a>; 4]> = SmallVec::new();
    all.push(base.clone());
    all.extend(args.iter().cloned());
    function.check_values(&all)?;
    (function.run)(cx, &all)
}

impl TextNode {
    /// The text, or nothing where the value is nil; any other value is an error.
    pub(crate) fn eval<'a>(&'a self, cx: &mut Cx<'a>) -> Outcome<Option<Text<'a>>> {
        Ok(Some(match self {
            TextNode::Const(text) => Text::Borrowed(text),
            TextNode::Field { var, field } => match cx.env.vars.get(*var) {
                Some(Value::Object(object)) => Text::Borrowed(object.slot(*field).unwrap_or("")),
                Some(other) => Handle::of(other).ok_or_else(|| no_member("member", other))?.slot(*field),
                None => return Err(no_member("member", &Value::Nil)),
            },
            TextNode::Slot { base, field, .. } if let Some(object) = held(base, cx) => {
                Text::Borrowed(object.slot(*field).unwrap_or(""))
            }
            TextNode::Slot { base, field, optional } => {
                let base = base.eval(cx)?;
                if cx.skip {
                    return Ok(None);
                }
                if *optional && base.is_nil() {
                    cx.skip = true;
                    return Ok(None);
                }
                Handle::of(&base).ok_or_else(|| no_member("member", &base))?.slot(*field)
            }
            TextNode::Concat(parts) => {
                let mut whole = String::new();
                for part in parts {
                    let part = part.needed("+", cx)?;
                    cx.spend_bytes(part.len())?;
                    whole.push_str(&part);
                }
                Text::Owned(whole)
            }
            TextNode::Memo { slot, text } => {
                match cx.memo_get(*slot) {
                    Some(Cached::Text(text)) => return Ok(Some(Text::Shared(text))),
                    Some(Cached::Failed(message)) => return Err(EvalError::new(&*message)),
                    _ => {}
                }
                if cx.env.memo.is_none() {
                    return text.eval(cx);
                }
                match text.eval(cx) {
                    // what borrows is as cheap as the memo
                    Ok(Some(Text::Owned(text))) => {
                        let shared: Rc<str> = text.into();
                        cx.memo_set(*slot, || Some(Cached::Text(Rc::clone(&shared))));
                        Text::Shared(shared)
                    }
                    Ok(other) => {
                        if let Some(text) = &other {
                            cx.memo_set(*slot, || Some(Cached::Text((**text).into())));
                        }
                        return Ok(other);
                    }
                    Err(error) => {
                        cx.memo_set(*slot, || Some(Cached::Failed(error.to_string().into())));
                        return Err(error);
                    }
                }
            }
            TextNode::Dynamic(node) => match node.eval(cx)? {
                Value::Nil => return Ok(None),
                Value::Str(Cow::Borrowed(text)) => Text::Borrowed(text),
                Value::Str(Cow::Owned(text)) => Text::Owned(text),
                other => return Err(EvalError::new(format!("{} is not a string", other.kind()))),
            },
        }))
    }

    fn needed<'a>(&'a self, op: &str, cx: &mut Cx<'a>) -> Outcome<Text<'a>> {
        self.eval(cx)?.ok_or_else(|| EvalError::new(format!("invalid operation: <nil> {op} string")))
    }
}

impl BoolNode {
    pub(crate) fn eval<'a>(&'a self, cx: &mut Cx<'a>) -> Outcome<bool> {
        Ok(match self {
            BoolNode::Const(value) => *value,
            BoolNode::Not(test) => !test.eval(cx)?,
            BoolNode::And(tests) => {
                for test in tests {
                    if !test.eval(cx)? {
                        return Ok(false);
                    }
                }
                true
            }
            BoolNode::Or(tests) => {
                for test in tests {
                    if test.eval(cx)? {
                        return Ok(true);
                    }
                }
                false
            }
            BoolNode::EqualConst { text, to } => *text.needed("==", cx)? == **to,
            BoolNode::EqualTexts(left, right) => {
                let left = left.needed("==", cx)?;
                *left == *right.needed("==", cx)?
            }
            BoolNode::InTexts { text, set } => match text.eval(cx)? {
                Some(text) => set.contains(&text),
                None => set.contains(""),
            },
            BoolNode::InInts { node, set } => match node.eval(cx)? {
                Value::Int(value) => set.contains(&value),
                other => {
                    return Err(EvalError::new(format!("{} is not an integer", other.kind())));
                }
            },
            BoolNode::Contains { text, needle } => {
                let Some(text) = text.eval(cx)? else { return Ok(false) };
                cx.charge(text.len(), SEARCHED)?;
                needle.find(text.as_bytes()).is_some()
            }
            BoolNode::StartsWith { text, prefix } => text.eval(cx)?.is_some_and(|text| text.starts_with(&**prefix)),
            BoolNode::EndsWith { text, suffix } => text.eval(cx)?.is_some_and(|text| text.ends_with(&**suffix)),
            BoolNode::Find { op, text, needle } => {
                let text = text.eval(cx)?;
                let needle = needle.eval(cx)?;
                let (Some(text), Some(needle)) = (text, needle) else {
                    return Ok(false);
                };
                cx.charge(text.len(), SEARCHED)?;
                match op {
                    BinaryOp::StartsWith => text.starts_with(&*needle),
                    BinaryOp::EndsWith => text.ends_with(&*needle),
                    _ => text.contains(&*needle),
                }
            }
            BoolNode::Matches { text, regex } => {
                let regex = regex.get().map_err(EvalError::new)?;
                match text {
                    Node::Text(text) => {
                        let Some(text) = text.eval(cx)? else { return Ok(false) };
                        cx.charge(text.len(), SCANNED)?;
                        regex.is_match(text.as_bytes())
                    }
                    other => match other.eval(cx)? {
                        Value::Nil => false,
                        Value::Str(text) => {
                            cx.charge(text.len(), SCANNED)?;
                            regex.is_match(text.as_bytes())
                        }
                        Value::Bytes(bytes) => regex.is_match(String::from_utf8_lossy(&bytes).as_bytes()),
                        other => {
                            return Err(EvalError::new(format!("{} cannot be matched", other.kind())));
                        }
                    },
                }
            }
            BoolNode::MatchesComputed { text, pattern } => {
                let text = text.eval(cx)?;
                let pattern = pattern.eval(cx)?;
                let Some(pattern) = pattern else {
                    return Ok(false);
                };
                cx.charge(BUILD + text.as_str().map_or(0, str::len), SCANNED)?;
                let regex = |pattern: &str| {
                    regex_dialect::compile_small(pattern).map_err(|error| EvalError::new(error.to_string()))
                };
                match text {
                    Value::Nil => false,
                    Value::Str(text) => regex(&pattern)?.is_match(text.as_bytes()),
                    Value::Bytes(bytes) => regex(&pattern)?.is_match(String::from_utf8_lossy(&bytes).as_bytes()),
                    other => {
                        return Err(EvalError::new(format!("{} cannot be matched", other.kind())));
                    }
                }
            }
            BoolNode::Present { base, field } => {
                let base = base.eval(cx)?;
                match &base {
                    Value::Object(object) => object.slot(*field).is_some(),
                    Value::Made(object) => object.slot(*field).is_some(),
                    other => return Err(no_member("member", other)),
                }
            }
            BoolNode::Equal(left, right) => {
                let left = left.eval(cx)?;
                equal(&left, &right.eval(cx)?)
            }
            BoolNode::EqualInts(left, right) => {
                let left = left.eval(cx)?;
                let right = right.eval(cx)?;
                if left.is_nil() || right.is_nil() {
                    return Err(EvalError::new("invalid operation: <nil> == int"));
                }
                equal(&left, &right)
            }
            BoolNode::Compare { op, left, right } => {
                let left = left.eval(cx)?;
                compare(*op, &left, &right.eval(cx)?)?
            }
            BoolNode::In(left, right) => {
                let left = left.eval(cx)?;
                let right = right.eval(cx)?;
                if let Value::List(list) = &right {
                    cx.charge(list.len(), 8)?;
                }
                operators::is_in(&left, &right)?
            }
            BoolNode::InArray(left, items) => {
                let left = left.eval(cx)?;
                let mut found = false;
                // every element is evaluated, as it is when the list is made
                for item in items {
                    found |= equal(&left, &item.eval(cx)?);
                }
                found
            }
            BoolNode::Conditional { condition, then, otherwise } => {
                if condition.eval(cx)? {
                    then.eval(cx)?
                } else {
                    otherwise.eval(cx)?
                }
            }
            BoolNode::Let { local, value, body } => {
                let value = value.eval(cx)?;
                cx.locals[*local] = value;
                body.eval(cx)?
            }
            BoolNode::Closure(closure) => closures::test(closure, cx)?,
            BoolNode::AnyLine { file, text, test } => {
                let files = cx.env.host.files();
                if files.lines(file).is_none() {
                    cx.env.host.log(&format!("file `{file}` is not loaded"));
                    return Ok(false);
                }
                // an empty file does not look at the text
                if files.lines(file).is_some_and(<[_]>::is_empty) {
                    return Ok(false);
                }
                match (text.eval(cx)?, test.op) {
                    (Some(text), _) => files.any_line(file, *test, &text, cx.env.memo),
                    (None, LineOp::Contains | LineOp::StartsWith | LineOp::EndsWith) => false,
                    (None, LineOp::Range) => return Err(EvalError::new("nil is not a string")),
                    (None, LineOp::Equals) => {
                        return Err(EvalError::new("invalid operation: <nil> == string"));
                    }
                }
            }
            BoolNode::Memo { slot, test } => {
                match cx.memo_get(*slot) {
                    Some(Cached::Bool(value)) => return Ok(value),
                    Some(Cached::Failed(message)) => return Err(EvalError::new(&*message)),
                    _ => {}
                }
                let result = test.eval(cx);
                cx.memo_set(*slot, || {
                    Some(match &result {
                        Ok(value) => Cached::Bool(*value),
                        Err(error) => Cached::Failed(error.to_string().into()),
                    })
                });
                result?
            }
            BoolNode::Dynamic(node) => match node.eval(cx)? {
                Value::Bool(value) => value,
                other => return Err(EvalError::new(format!("{} is not a bool", other.kind()))),
            },
        })
    }
}
