//! From one kind of value to another.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::math::parse_float;
use super::text;
use crate::error::EvalError;
use crate::library::{Function, Nature, P, R};
use crate::program::{Cx, Outcome};
use crate::types::Type;
use crate::value::{Map, Value};

pub(crate) const ROWS: &[Function] = &[
    Function::new("int", &[P::Any], R::From(int_type), to_int).fails().nature(Nature::Cheap),
    Function::new("float", &[P::Any], R::From(float_type), to_float).fails().nature(Nature::Cheap),
    Function::new("type", &[P::Any], R::Str, type_of).nature(Nature::Cheap),
    Function::new("len", &[P::Any], R::From(len_type), len).fails().nature(Nature::Cheap),
    Function::new("toBase64", &[P::Str], R::Str, |cx, args| {
        let text = text(args, 0)?;
        cx.spend_bytes(text.len() * 2)?;
        Ok(Value::owned(STANDARD.encode(text)))
    })
    .fails(),
    Function::new("fromBase64", &[P::Str], R::Str, |_, args| decode(text(args, 0)?)).fails(),
    Function::new("B64Decode", &[P::Str], R::Str, |_, args| decode(text(args, 0)?)).fails(),
];

fn decode<'a>(text: &str) -> Outcome<Value<'a>> {
    let kept: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    let bytes = STANDARD.decode(kept).map_err(|error| EvalError::new(format!("illegal base64 data: {error}")))?;
    Ok(Value::owned(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }))
}

fn int_type(args: &[Type]) -> Result<Type, String> {
    match args {
        [Type::Any | Type::Int | Type::Float | Type::String | Type::Sized(_) | Type::Duration] => Ok(Type::Int),
        [other] => Err(format!("cannot use {other} as argument of `int`")),
        _ => Ok(Type::Int),
    }
}

fn float_type(args: &[Type]) -> Result<Type, String> {
    match args {
        [Type::Any | Type::Int | Type::Float | Type::String | Type::Sized(_)] => Ok(Type::Float),
        [other] => Err(format!("cannot use {other} as argument of `float`")),
        _ => Ok(Type::Float),
    }
}

fn len_type(args: &[Type]) -> Result<Type, String> {
    match args {
        [Type::Any | Type::String | Type::List(_) | Type::Generic(_) | Type::Map(_) | Type::Bytes] => Ok(Type::Int),
        [other] => Err(format!("{other} has no length")),
        _ => Ok(Type::Int),
    }
}

fn to_int<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    match args.first() {
        Some(Value::Int(value) | Value::Sized(value, _) | Value::Duration(value)) => Ok(Value::Int(*value)),
        Some(Value::Float(value)) => Ok(Value::Int(*value as i64)),
        Some(Value::Str(text)) => {
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let value = if plain { text.parse().ok() } else { None };
            value.map(Value::Int).ok_or_else(|| EvalError::new(format!("{text:?} is not an integer")))
        }
        other => Err(EvalError::new(format!("invalid operation: int({})", other.map_or("nothing", Value::kind)))),
    }
}

fn to_float<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    match args.first() {
        Some(value @ (Value::Int(_) | Value::Sized(..) | Value::Float(_))) => {
            value.as_number().or_else(|| value.as_int().map(|value| value as f64)).map(Value::Float)
        }
        Some(Value::Str(text)) => {
            parse_float(text).filter(|value| value.is_finite() || is_word(text)).map(Value::Float)
        }
        _ => None,
    }
    .ok_or_else(|| EvalError::new(format!("invalid operation: float({})", args.first().map_or("nothing", Value::kind))))
}

/// Whether an infinite value was spelt out rather than the result of overflow.
fn is_word(text: &str) -> bool {
    text.bytes().any(|byte| matches!(byte, b'n' | b'N'))
}

fn type_of<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    Ok(Value::text(match args.first() {
        None | Some(Value::Nil) => "nil",
        Some(Value::Bool(_)) => "bool",
        Some(Value::Int(_)) => "int",
        Some(Value::Sized(_, kind)) if kind.named() => kind.name(),
        Some(Value::Sized(_, crate::IntKind::U8)) => "uint",
        Some(Value::Sized(..)) => "int",
        Some(Value::Float(_)) => "float",
        Some(Value::Str(_)) => "string",
        Some(Value::Bytes(_) | Value::List(_)) => "array",
        Some(Value::Map(Map::Texts(_))) => "url.Values",
        Some(Value::Map(_)) => "map",
        Some(value @ (Value::Object(_) | Value::Made(_) | Value::Time(..) | Value::Duration(_) | Value::Zone(_))) => {
            value.kind()
        }
    }))
}

fn len<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let length = match args.first() {
        Some(Value::Str(text)) => text.chars().count(),
        Some(Value::Bytes(bytes)) => bytes.len(),
        Some(Value::List(list)) => list.len(),
        Some(Value::Map(map)) => map.len(),
        other => {
            return Err(EvalError::new(format!("invalid argument for len: {}", other.map_or("nothing", Value::kind))));
        }
    };
    Ok(Value::Int(length as i64))
}
