//! Functions that run a predicate over a list.

use std::rc::Rc;

use super::eval::{Cx, Outcome};
use super::node::{Body, Closure};
use super::operators::{arithmetic, order};
use crate::ast::{BinaryOp, ClosureFn};
use crate::error::EvalError;
use crate::value::{List, Map, Value};

/// Those that yield a truth value: `all`, `any`, `none`, `one`.
pub(crate) fn test<'a>(closure: &'a Closure, cx: &mut Cx<'a>) -> Outcome<bool> {
    let list = elements(closure, cx)?;
    let mut hits = 0;
    for index in 0..list.len() {
        let hit = holds(closure, cx, &list, index)?;
        match closure.function {
            ClosureFn::All if !hit => return Ok(false),
            ClosureFn::Any if hit => return Ok(true),
            ClosureFn::None if hit => return Ok(false),
            _ => hits += usize::from(hit),
        }
    }
    Ok(match closure.function {
        ClosureFn::All | ClosureFn::None => true,
        ClosureFn::Any => false,
        _ => hits == 1,
    })
}

/// All the others.
pub(crate) fn eval<'a>(closure: &'a Closure, cx: &mut Cx<'a>) -> Outcome<Value<'a>> {
    let list = elements(closure, cx)?;
    match closure.function {
        ClosureFn::All | ClosureFn::Any | ClosureFn::None | ClosureFn::One => test(closure, cx).map(Value::Bool),
        ClosureFn::Filter if closure.enough.is_some() => {
            let mut kept = Vec::new();
            for index in (0..list.len()).rev() {
                if closure.enough == Some(kept.len()) {
                    break;
                }
                if holds(closure, cx, &list, index)? {
                    kept.push(cx.locals[closure.item].clone());
                }
            }
            kept.reverse();
            Ok(Value::list(kept))
        }
        ClosureFn::Filter => {
            let mut kept = Vec::new();
            for index in 0..list.len() {
                if holds(closure, cx, &list, index)? {
                    cx.spend(1)?;
                    kept.push(cx.locals[closure.item].clone());
                }
            }
            Ok(Value::list(kept))
        }
        ClosureFn::Map => {
            cx.spend(list.len())?;
            let mut made = Vec::with_capacity(list.len());
            for index in 0..list.len() {
                made.push(value(closure, cx, &list, index)?);
            }
            Ok(Value::list(made))
        }
        ClosureFn::Find | ClosureFn::FindIndex => find(closure, cx, &list, 0..list.len()),
        ClosureFn::FindLast | ClosureFn::FindLastIndex => find(closure, cx, &list, (0..list.len()).rev()),
        ClosureFn::Count => {
            let mut count = 0;
            for index in 0..list.len() {
                count += i64::from(holds(closure, cx, &list, index)?);
            }
            Ok(Value::Int(count))
        }
        ClosureFn::Sum => {
            let mut sum = Value::Int(0);
            for index in 0..list.len() {
                let next = value(closure, cx, &list, index)?;
                sum = if index == 0 && matches!(next, Value::Duration(_)) {
                    next
                } else {
                    arithmetic(BinaryOp::Add, &sum, &next)?
                };
            }
            Ok(sum)
        }
        ClosureFn::GroupBy => group_by(closure, cx, &list),
        ClosureFn::SortBy => sort_by(closure, cx, &list),
        ClosureFn::Reduce => reduce(closure, cx, &list),
    }
}

fn elements<'a>(closure: &'a Closure, cx: &mut Cx<'a>) -> Outcome<List<'a>> {
    match closure.list.eval(cx)? {
        Value::List(list) => Ok(list),
        Value::Bytes(bytes) => {
            Ok(List::Typed(bytes.iter().map(|byte| Value::Sized(i64::from(*byte), crate::IntKind::U8)).collect()))
        }
        // a map has a length but no element
        Value::Map(map) if map.is_empty() => Ok(List::Any(Rc::from([]))),
        Value::Map(map) if !closure.uses_item => Ok(List::Any(vec![Value::Nil; map.len()].into())),
        other => Err(EvalError::new(format!("{} takes a list, found {}", closure.function.name(), other.kind()))),
    }
}

fn enter<'a>(closure: &Closure, cx: &mut Cx<'a>, list: &List<'a>, index: usize) -> Outcome<()> {
    cx.step()?;
    cx.locals[closure.item] = list.get(index).unwrap_or(Value::Nil);
    if closure.index != closure.item {
        cx.locals[closure.index] = Value::Int(index as i64);
    }
    Ok(())
}

fn value<'a>(closure: &'a Closure, cx: &mut Cx<'a>, list: &List<'a>, index: usize) -> Outcome<Value<'a>> {
    enter(closure, cx, list, index)?;
    match &closure.body {
        None => Ok(cx.locals[closure.item].clone()),
        Some(Body::Value(body)) => body.eval(cx),
        Some(Body::Test(body)) => body.eval(cx).map(Value::Bool),
    }
}

fn holds<'a>(closure: &'a Closure, cx: &mut Cx<'a>, list: &List<'a>, index: usize) -> Outcome<bool> {
    if let Some(Body::Test(body)) = &closure.body {
        enter(closure, cx, list, index)?;
        return body.eval(cx);
    }
    match value(closure, cx, list, index)? {
        Value::Bool(value) => Ok(value),
        other => {
            Err(EvalError::new(format!("predicate of {} gave {}, not bool", closure.function.name(), other.kind())))
        }
    }
}

fn find<'a>(
    closure: &'a Closure,
    cx: &mut Cx<'a>,
    list: &List<'a>,
    order: impl Iterator<Item = usize>,
) -> Outcome<Value<'a>> {
    for index in order {
        if holds(closure, cx, list, index)? {
            return Ok(match closure.function {
                ClosureFn::FindIndex | ClosureFn::FindLastIndex => Value::Int(index as i64),
                _ => list.get(index).unwrap_or(Value::Nil),
            });
        }
    }
    Ok(Value::Nil)
}

fn group_by<'a>(closure: &'a Closure, cx: &mut Cx<'a>, list: &List<'a>) -> Outcome<Value<'a>> {
    cx.spend(list.len())?;
    let mut groups = Groups::default();
    for index in 0..list.len() {
        let key = value(closure, cx, list, index)?;
        let at = groups.of(key)?;
        groups.members[at].1.extend(list.get(index));
    }
    Ok(groups.into_value())
}

/// Values gathered under keys, in order of first appearance.
#[derive(Default)]
pub(crate) struct Groups<'a> {
    index: std::collections::HashMap<Key, usize>,
    pub(crate) members: Vec<(Value<'a>, Vec<Value<'a>>)>,
}

/// A comparable value as a hash key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Nil,
    Bool(bool),
    Int(i64),
    Sized(i64, crate::IntKind),
    Float(u64),
    Text(String),
    Time(jiff::Timestamp),
    Duration(i64),
    Object(usize),
}

impl Key {
    /// The key of `value`; lists and maps have none.
    pub(crate) fn of(value: &Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Nil => Key::Nil,
            Value::Bool(value) => Key::Bool(*value),
            Value::Int(value) => Key::Int(*value),
            Value::Sized(value, kind) => Key::Sized(*value, *kind),
            Value::Float(value) => Key::Float(if *value == 0.0 { 0 } else { value.to_bits() }),
            Value::Str(text) => Key::Text(text.clone().into_owned()),
            Value::Time(time, _) => Key::Time(*time),
            Value::Duration(value) => Key::Duration(*value),
            Value::Object(object) => Key::Object(std::ptr::from_ref(*object).cast::<()>() as usize),
            Value::Made(object) => Key::Object(Rc::as_ptr(object).cast::<()>() as usize),
            Value::List(_) | Value::Map(_) | Value::Bytes(_) | Value::Zone(_) => return None,
        })
    }
}

impl<'a> Groups<'a> {
    /// Where the group of `key` is.
    pub(crate) fn of(&mut self, key: Value<'a>) -> Outcome<usize> {
        let hashed = Key::of(&key).ok_or_else(|| EvalError::new(format!("{} cannot be a key", key.kind())))?;
        let next = self.members.len();
        let at = *self.index.entry(hashed).or_insert(next);
        if at == next {
            self.members.push((key, Vec::new()));
        }
        Ok(at)
    }

    fn into_value(self) -> Value<'a> {
        Value::Map(Map::Keyed(self.members.into_iter().map(|(key, members)| (key, Value::list(members))).collect()))
    }
}

/// Whether an order word asks for descending order.
pub(crate) fn descending(word: Option<&Value<'_>>) -> Outcome<bool> {
    match word.map(|word| word.as_str().unwrap_or("")) {
        None | Some("asc") => Ok(false),
        Some("desc") => Ok(true),
        Some(other) => Err(EvalError::new(format!("invalid order {other}, expected asc or desc"))),
    }
}

/// Sorts `items` by their keys, which must be of one ordered kind.
pub(crate) fn sort<'a>(items: &mut [(Value<'a>, Value<'a>)], descending: bool) -> Outcome<()> {
    if let Some((first, _)) = items.first() {
        for (key, _) in items.iter() {
            let nan = |value: &Value<'_>| matches!(value, Value::Float(value) if value.is_nan());
            if order(first, key).is_none() && !nan(first) && !nan(key) {
                return Err(EvalError::new(format!("cannot order {} and {}", first.kind(), key.kind())));
            }
        }
    }
    items.sort_by(|(a, _), (b, _)| {
        let ordering = order(a, b).unwrap_or(std::cmp::Ordering::Equal);
        if descending { ordering.reverse() } else { ordering }
    });
    Ok(())
}

fn sort_by<'a>(closure: &'a Closure, cx: &mut Cx<'a>, list: &List<'a>) -> Outcome<Value<'a>> {
    cx.spend(list.len())?;
    let mut items = Vec::with_capacity(list.len());
    for index in 0..list.len() {
        items.push((value(closure, cx, list, index)?, list.get(index).unwrap_or(Value::Nil)));
    }
    let word = closure.extra.as_ref().map(|extra| extra.eval(cx)).transpose()?;
    sort(&mut items, descending(word.as_ref())?)?;
    Ok(Value::list(items.into_iter().map(|(_, item)| item)))
}

fn reduce<'a>(closure: &'a Closure, cx: &mut Cx<'a>, list: &List<'a>) -> Outcome<Value<'a>> {
    let (mut acc, start) = match (&closure.extra, list.get(0)) {
        (Some(extra), _) => (extra.eval(cx)?, 0),
        (None, Some(first)) => (first, 1),
        (None, None) => return Err(EvalError::new("reduce of empty list with no initial value")),
    };
    for index in start..list.len() {
        cx.locals[closure.acc] = acc;
        acc = value(closure, cx, list, index)?;
    }
    Ok(acc)
}
