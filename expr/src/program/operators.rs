//! Operators on values.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;

use jiff::SignedDuration;

use super::eval::Outcome;
use crate::ast::BinaryOp;
use crate::error::EvalError;
use crate::value::{List, Map, Value};

#[expect(clippy::float_cmp, reason = "the language compares floats exactly")]
/// `==`: numbers across their widths, lists and maps by their elements; different kinds differ.
pub(crate) fn equal(left: &Value<'_>, right: &Value<'_>) -> bool {
    match (left, right) {
        (Value::Nil, other) | (other, Value::Nil) => other.is_nil(),
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Str(a), Value::Str(b)) => a == b,
        (Value::Sized(a, kind), Value::Sized(b, other)) if kind.named() || other.named() => kind == other && a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Int(a) | Value::Sized(a, _), Value::Sized(b, kind)) if !kind.named() => a == b,
        (Value::Sized(a, kind), Value::Int(b)) if !kind.named() => a == b,
        (Value::Float(a), Value::Float(b)) => a == b,
        (Value::Float(a), other) | (other, Value::Float(a)) => other.as_number().is_some_and(|b| *a == b),
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| equal(&a, &b)),
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len()
                && a.entries().iter().all(|(key, value)| match key {
                    Value::Str(key) => b.get(key).is_some_and(|other| equal(value, &other)),
                    key => b.entries().iter().any(|(known, other)| equal(known, key) && equal(value, other)),
                })
        }
        (Value::Object(a), Value::Object(b)) => std::ptr::addr_eq(*a, *b),
        (Value::Made(a), Value::Made(b)) => Rc::ptr_eq(a, b),
        (Value::Time(a, _), Value::Time(b, _)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Zone(a), Value::Zone(b)) => a == b,
        _ => false,
    }
}

fn mismatch(op: BinaryOp, left: &Value<'_>, right: &Value<'_>) -> EvalError {
    EvalError::new(format!("invalid operation: {} {} {}", left.kind(), op.text(), right.kind()))
}

/// The order of two values of one kind; `None` for different kinds and for NaN.
pub(crate) fn order(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    match (left, right) {
        (Value::Str(a), Value::Str(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        (Value::Time(a, _), Value::Time(b, _)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        (Value::Int(_) | Value::Sized(..), Value::Int(_) | Value::Sized(..)) => {
            if left.as_number().is_none() || right.as_number().is_none() {
                return None;
            }
            Some(left.as_int()?.cmp(&right.as_int()?))
        }
        _ => left.as_number()?.partial_cmp(&right.as_number()?),
    }
}

/// `<`, `<=`, `>`, `>=`.
pub(crate) fn compare(op: BinaryOp, left: &Value<'_>, right: &Value<'_>) -> Outcome<bool> {
    let Some(ordering) = order(left, right) else {
        return if left.as_number().is_some() && right.as_number().is_some() {
            Ok(false)
        } else {
            Err(mismatch(op, left, right))
        };
    };
    Ok(match op {
        BinaryOp::Less => ordering.is_lt(),
        BinaryOp::LessEqual => ordering.is_le(),
        BinaryOp::Greater => ordering.is_gt(),
        _ => ordering.is_ge(),
    })
}

/// An index or bound: integers, and floats cut off.
pub(crate) fn integer(value: &Value<'_>) -> Outcome<i64> {
    match value {
        Value::Int(value) | Value::Sized(value, _) => Ok(*value),
        Value::Float(value) => Ok(*value as i64),
        other => Err(EvalError::new(format!("{} is not an integer", other.kind()))),
    }
}

/// `-x`.
pub(crate) fn negate<'a>(value: &Value<'a>) -> Outcome<Value<'a>> {
    match value {
        Value::Int(value) => Ok(Value::Int(value.wrapping_neg())),
        Value::Sized(value, kind) if !kind.named() => Ok(Value::Sized(value.wrapping_neg(), *kind)),
        Value::Float(value) => Ok(Value::Float(-value)),
        other => Err(EvalError::new(format!("invalid operation: - {}", other.kind()))),
    }
}

/// `+ - * / % **`.
pub(crate) fn arithmetic<'a>(op: BinaryOp, left: &Value<'a>, right: &Value<'a>) -> Outcome<Value<'a>> {
    let bad = || mismatch(op, left, right);
    let ints = match (left, right) {
        (Value::Int(a) | Value::Sized(a, _), Value::Int(b) | Value::Sized(b, _))
            if left.as_number().is_some() && right.as_number().is_some() =>
        {
            Some((*a, *b))
        }
        _ => None,
    };
    if let Some((a, b)) = ints {
        return Ok(match op {
            BinaryOp::Add => Value::Int(a.wrapping_add(b)),
            BinaryOp::Subtract => Value::Int(a.wrapping_sub(b)),
            BinaryOp::Multiply => Value::Int(a.wrapping_mul(b)),
            BinaryOp::Divide => Value::Float(a as f64 / b as f64),
            BinaryOp::Modulo if b == 0 => return Err(EvalError::new("integer divide by zero")),
            BinaryOp::Modulo => Value::Int(a.wrapping_rem(b)),
            _ => Value::Float((a as f64).powf(b as f64)),
        });
    }
    if let (Some(a), Some(b)) = (left.as_number(), right.as_number()) {
        return Ok(Value::Float(match op {
            BinaryOp::Add => a + b,
            BinaryOp::Subtract => a - b,
            BinaryOp::Multiply => a * b,
            BinaryOp::Divide => a / b,
            BinaryOp::Modulo => return Err(bad()),
            _ => a.powf(b),
        }));
    }
    Ok(match (op, left, right) {
        (BinaryOp::Add, Value::Str(a), Value::Str(b)) => {
            let mut whole = String::with_capacity(a.len() + b.len());
            whole.push_str(a);
            whole.push_str(b);
            Value::Str(Cow::Owned(whole))
        }
        (BinaryOp::Add, Value::Duration(a), Value::Duration(b)) => Value::Duration(a.wrapping_add(*b)),
        (BinaryOp::Subtract, Value::Duration(a), Value::Duration(b)) => Value::Duration(a.wrapping_sub(*b)),
        (BinaryOp::Multiply, Value::Duration(a), Value::Duration(b)) => Value::Duration(a.wrapping_mul(*b)),
        (BinaryOp::Multiply, Value::Duration(duration), Value::Float(factor))
        | (BinaryOp::Multiply, Value::Float(factor), Value::Duration(duration)) => {
            Value::Float(*duration as f64 * factor)
        }
        (BinaryOp::Multiply, Value::Duration(duration), factor)
        | (BinaryOp::Multiply, factor, Value::Duration(duration))
            if factor.as_number().is_some() =>
        {
            Value::Duration(duration.wrapping_mul(factor.as_int().ok_or_else(bad)?))
        }
        (BinaryOp::Add, Value::Time(time, zone), Value::Duration(duration))
        | (BinaryOp::Add, Value::Duration(duration), Value::Time(time, zone)) => {
            Value::Time(time.saturating_add(SignedDuration::from_nanos(*duration)).map_err(|_| bad())?, zone.clone())
        }
        (BinaryOp::Subtract, Value::Time(time, zone), Value::Duration(duration)) => {
            Value::Time(time.saturating_sub(SignedDuration::from_nanos(*duration)).map_err(|_| bad())?, zone.clone())
        }
        (BinaryOp::Subtract, Value::Time(a, _), Value::Time(b, _)) => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            Value::Duration(i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX }))
        }
        _ => return Err(bad()),
    })
}

/// `in`.
pub(crate) fn is_in(left: &Value<'_>, right: &Value<'_>) -> Outcome<bool> {
    match right {
        Value::Nil => Ok(false),
        Value::List(list) => Ok(list.iter().any(|item| equal(left, &item))),
        Value::Bytes(bytes) => {
            Ok(left.as_int().is_some_and(|value| bytes.iter().any(|byte| i64::from(*byte) == value)))
        }
        Value::Map(Map::Keyed(pairs)) => Ok(pairs.iter().any(|(key, _)| equal(left, key))),
        Value::Map(map) => match left {
            Value::Str(key) => Ok(map.has(key)),
            Value::Nil => Ok(map.has("")),
            other => Err(EvalError::new(format!("cannot use {} as type string in map key", other.kind()))),
        },
        Value::Object(_) | Value::Made(_) => {
            let class = match right {
                Value::Object(object) => object.class(),
                Value::Made(object) => object.class(),
                _ => return Ok(false),
            };
            match left {
                Value::Str(name) => Ok(class.member(name).is_some()),
                _ => Err(EvalError::new(format!("cannot use {} as a field name", left.kind()))),
            }
        }
        other => Err(EvalError::new(format!("operator \"in\" not defined on {}", other.kind()))),
    }
}

/// Where `index` points in a sequence of `length`, counted from the end when negative.
pub(crate) fn position(index: i64, length: usize) -> Option<usize> {
    let at = if index < 0 { index.checked_add(i64::try_from(length).ok()?)? } else { index };
    usize::try_from(at).ok().filter(|at| *at < length)
}

/// `base[from:to]`.
pub(crate) fn slice<'a>(base: &Value<'a>, from: Option<i64>, to: Option<i64>) -> Outcome<Value<'a>> {
    let bounds = |length: usize| {
        let bound = |value: i64| {
            let value = if value < 0 { value.saturating_add(length as i64) } else { value };
            usize::try_from(value.max(0)).unwrap_or(length).min(length)
        };
        let to = to.map_or(length, bound);
        (from.map_or(0, bound).min(to), to)
    };
    Ok(match base {
        Value::Str(text) => {
            let (from, to) = bounds(text.len());
            match (text, text.is_char_boundary(from) && text.is_char_boundary(to)) {
                (Cow::Borrowed(text), true) => Value::text(&text[from..to]),
                (Cow::Owned(text), true) => Value::owned(&text[from..to]),
                // half a character: text here is always valid, so it becomes U+FFFD
                (text, false) => Value::owned(String::from_utf8_lossy(&text.as_bytes()[from..to])),
            }
        }
        Value::Bytes(bytes) => {
            let (from, to) = bounds(bytes.len());
            Value::Bytes(bytes[from..to].into())
        }
        Value::List(list) => {
            let (from, to) = bounds(list.len());
            if to - from == list.len() {
                return Ok(base.clone());
            }
            Value::List(match list {
                List::Any(values) => List::Any(values[from..to].into()),
                List::Typed(values) => List::Typed(values[from..to].into()),
                List::Text(texts) => List::Text(texts[from..to].into()),
                List::Lines(lines) => List::Lines(&lines[from..to]),
                List::Json(values) => List::Json(&values[from..to]),
                List::Nil => List::Nil,
                List::Object(..) => List::Typed((from..to).filter_map(|at| list.get(at)).collect()),
            })
        }
        other => return Err(EvalError::new(format!("cannot slice {}", other.kind()))),
    })
}
