//! Lists and maps.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{int, items};
use crate::error::EvalError;
use crate::library::{Function, Nature, P, R};
use crate::program::{Cx, Key, Outcome, descending, equal, index, sort};
use crate::types::Type;
use crate::value::{List, Map, Value};

pub(crate) const ROWS: &[Function] = &[
    Function::new("first", &[P::List], R::From(typed_element), |_, args| {
        Ok(items(args, 0)?.get(0).unwrap_or(Value::Nil))
    })
    .nature(Nature::Cheap),
    Function::new("last", &[P::List], R::Any, |_, args| {
        let list = items(args, 0)?;
        Ok(list.len().checked_sub(1).and_then(|at| list.get(at)).unwrap_or(Value::Nil))
    })
    .nature(Nature::Cheap),
    Function::new("get", &[P::Any, P::Any], R::From(get_type), |_, args| {
        Ok(match args {
            [Value::Map(map), Value::Str(key)] => map.get(key).unwrap_or(Value::Nil),
            [Value::List(_) | Value::Bytes(_) | Value::Map(_), _] => index(&args[0], &args[1]).unwrap_or(Value::Nil),
            [Value::Object(_) | Value::Made(_), Value::Str(_)] => index(&args[0], &args[1]).unwrap_or(Value::Nil),
            _ => Value::Nil,
        })
    })
    .nature(Nature::Cheap),
    Function::new("take", &[P::List, P::Int], R::From(generic), take).fails(),
    Function::new("keys", &[P::Any], R::From(of_map), keys).fails(),
    Function::new("values", &[P::Any], R::From(of_map), values).fails(),
    Function::new("toPairs", &[P::Any], R::From(of_map), to_pairs).fails(),
    Function::new("fromPairs", &[P::List], R::Any, from_pairs).fails(),
    Function::new("reverse", &[P::List], R::List, |cx, args| {
        let list = items(args, 0)?;
        cx.spend(list.len())?;
        Ok(Value::list(list.iter().rev()))
    })
    .fails(),
    Function::new("uniq", &[P::List], R::List, uniq).fails(),
    Function::new("concat", &[P::List], R::From(at_least_one), concat).rest().fails(),
    Function::new("flatten", &[P::List], R::List, |cx, args| {
        let mut flat = Vec::new();
        open(items(args, 0)?, &mut flat, cx, 0)?;
        Ok(Value::list(flat))
    })
    .fails(),
    Function::new("sort", &[P::List, P::Str], R::List, sorted).optional(1).fails(),
    Function::new("Flatten", &[P::Any], R::List, flatten).rest().fails(),
    Function::new("Distinct", &[P::Any], R::List, |cx, args| match args.first() {
        Some(Value::List(list)) => distinct(list, cx),
        _ => Ok(Value::Nil),
    })
    .fails(),
    Function::new("FlattenDistinct", &[P::Any], R::List, |cx, args| match flatten(cx, args)? {
        Value::List(list) => distinct(&list, cx),
        _ => Ok(Value::Nil),
    })
    .rest()
    .fails(),
];

/// Deepest nesting that is opened.
const MAX_DEPTH: u32 = 500;

fn typed_element(args: &[Type]) -> Result<Type, String> {
    Ok(match args {
        [Type::List(element)] => (**element).clone(),
        _ => Type::Any,
    })
}

fn at_least_one(args: &[Type]) -> Result<Type, String> {
    if args.is_empty() { Err("`concat` takes at least one list".to_owned()) } else { generic(args) }
}

fn generic(_: &[Type]) -> Result<Type, String> {
    Ok(Type::List(Box::new(Type::Any)))
}

fn get_type(args: &[Type]) -> Result<Type, String> {
    match args {
        [Type::Any, _] => Ok(Type::Any),
        [Type::Map(element), key] => match key {
            Type::String | Type::Any => Ok((**element).clone()),
            other => Err(format!("cannot use {other} as a key of a map from strings")),
        },
        [Type::List(element) | Type::Generic(element), key] => match key {
            Type::Int | Type::Sized(_) | Type::Any => Ok((**element).clone()),
            other => Err(format!("an index must be an integer, found {other}")),
        },
        [other, _] => Err(format!("{other} cannot be indexed")),
        _ => Ok(Type::Any),
    }
}

fn of_map(args: &[Type]) -> Result<Type, String> {
    match args {
        [Type::Map(_) | Type::Any] => Ok(Type::List(Box::new(Type::Any))),
        [other] => Err(format!("a map is wanted, found {other}")),
        _ => Ok(Type::Any),
    }
}

fn take<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let list = items(args, 0)?;
    let count = usize::try_from(int(args, 1)?).map_err(|_| EvalError::new("cannot take a negative number"))?;
    let count = count.min(list.len());
    cx.spend(count)?;
    Ok(Value::list(list.iter().take(count)))
}

fn map<'v, 'a>(args: &'v [Value<'a>]) -> Outcome<&'v Map<'a>> {
    match args.first() {
        Some(Value::Map(map)) => Ok(map),
        other => Err(EvalError::new(format!("{} is not a map", other.map_or("nothing", Value::kind)))),
    }
}

fn keys<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let entries = map(args)?.entries();
    cx.spend(entries.len())?;
    Ok(Value::list(entries.into_iter().map(|(key, _)| key)))
}

fn values<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let entries = map(args)?.entries();
    cx.spend(entries.len())?;
    Ok(Value::list(entries.into_iter().map(|(_, value)| value)))
}

fn to_pairs<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let entries = map(args)?.entries();
    cx.spend(entries.len() * 3)?;
    Ok(Value::list(entries.into_iter().map(|(key, value)| Value::list([key, value]))))
}

fn from_pairs<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let list = items(args, 0)?;
    cx.spend(list.len())?;
    let mut at: std::collections::HashMap<Key, usize> = std::collections::HashMap::new();
    let mut pairs: Vec<(Value<'a>, Value<'a>)> = Vec::new();
    for item in list.iter() {
        let Value::List(pair) = &item else {
            return Err(EvalError::new(format!("invalid pair: {}", item.kind())));
        };
        let (Some(key), Some(value), 2) = (pair.get(0), pair.get(1), pair.len()) else {
            return Err(EvalError::new("a pair has two elements"));
        };
        let hashed = Key::of(&key).ok_or_else(|| EvalError::new(format!("{} cannot be a key", key.kind())))?;
        if let Some(index) = at.get(&hashed) {
            pairs[*index].1 = value;
        } else {
            at.insert(hashed, pairs.len());
            pairs.push((key, value));
        }
    }
    if pairs.iter().all(|(key, _)| key.as_str().is_some()) {
        let text = |key: Value<'a>| match key {
            Value::Str(key) => key,
            _ => Cow::Borrowed(""),
        };
        return Ok(Value::Map(Map::Any(pairs.into_iter().map(|(key, value)| (text(key), value)).collect())));
    }
    Ok(Value::Map(Map::Keyed(pairs.into())))
}

/// The elements of `list` without repetitions; those that cannot be hashed are compared.
fn uniq<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let list = items(args, 0)?;
    let mut seen = HashSet::new();
    let mut odd: Vec<Value<'a>> = Vec::new();
    let mut kept = Vec::new();
    for item in list.iter() {
        cx.spend(1)?;
        let new = if let Some(key) = Key::of(&item) {
            seen.insert(key)
        } else {
            for _ in &odd {
                cx.step()?;
            }
            let new = !odd.iter().any(|known| equal(known, &item));
            if new {
                odd.push(item.clone());
            }
            new
        };
        if new {
            kept.push(item);
        }
    }
    Ok(Value::list(kept))
}

fn concat<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let mut all = Vec::new();
    for at in 0..args.len() {
        let list = items(args, at)?;
        cx.spend(list.len())?;
        all.extend(list.iter());
    }
    Ok(Value::list(all))
}

fn open<'a>(list: &List<'a>, into: &mut Vec<Value<'a>>, cx: &mut Cx<'a>, depth: u32) -> Outcome<()> {
    if depth > MAX_DEPTH {
        return Err(EvalError::new("list is nested too deeply"));
    }
    cx.spend(list.len())?;
    for item in list.iter() {
        match item {
            Value::List(inner) => open(&inner, into, cx, depth + 1)?,
            item => into.push(item),
        }
    }
    Ok(())
}

fn flatten<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let mut flat = Vec::new();
    for arg in args {
        match arg {
            Value::List(list) => open(list, &mut flat, cx, 0)?,
            other => flat.push(other.clone()),
        }
    }
    if flat.iter().any(Value::is_nil) {
        return Err(EvalError::new("cannot flatten nil"));
    }
    Ok(Value::list(flat))
}

fn distinct<'a>(list: &List<'a>, cx: &mut Cx<'a>) -> Outcome<Value<'a>> {
    cx.spend(list.len())?;
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for item in list.iter() {
        let key = Key::of(&item).ok_or_else(|| EvalError::new(format!("{} cannot be hashed", item.kind())))?;
        if seen.insert(key) {
            kept.push(item);
        }
    }
    Ok(Value::list(kept))
}

fn sorted<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let list = items(args, 0)?;
    cx.spend(list.len())?;
    let mut items: Vec<(Value<'a>, Value<'a>)> = list.iter().map(|item| (item, Value::Nil)).collect();
    sort(&mut items, descending(args.get(1))?)?;
    Ok(Value::list(items.into_iter().map(|(item, _)| item)))
}
