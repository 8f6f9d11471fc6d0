//! Numbers.

use super::text;
use crate::error::EvalError;
use crate::library::{Function, Nature, P, R};
use crate::program::{Cx, Outcome, order};
use crate::types::Type;
use crate::value::Value;

pub(crate) const ROWS: &[Function] = &[
    Function::new("abs", &[P::Any], R::From(same_number), abs).fails().nature(Nature::Cheap),
    Function::new("ceil", &[P::Any], R::From(float_of_number), |_, args| rounded(args, f64::ceil))
        .fails()
        .nature(Nature::Cheap),
    Function::new("floor", &[P::Any], R::From(float_of_number), |_, args| rounded(args, f64::floor))
        .fails()
        .nature(Nature::Cheap),
    // ties go away from zero
    Function::new("round", &[P::Any], R::From(float_of_number), |_, args| rounded(args, f64::round))
        .fails()
        .nature(Nature::Cheap),
    Function::new("max", &[P::Any], R::From(numbers), |cx, args| extreme(cx, args, true)).rest().fails(),
    Function::new("min", &[P::Any], R::From(numbers), |cx, args| extreme(cx, args, false)).rest().fails(),
    Function::new("mean", &[P::Any], R::From(numbers_to_float), mean).rest().fails(),
    Function::new("median", &[P::Any], R::From(numbers_to_float), median).rest().fails(),
    Function::new("Atof", &[P::Str], R::Float, atof),
    Function::new("FloatApproxEqual", &[P::Float, P::Float], R::Bool, float_approx_equal).nature(Nature::Cheap),
    Function::new("Distance", &[P::Str, P::Str, P::Str, P::Str], R::Float, distance).fails(),
];

fn is_number(ty: &Type) -> bool {
    matches!(ty, Type::Int | Type::Float | Type::Any) || matches!(ty, Type::Sized(kind) if !kind.named())
}

fn same_number(args: &[Type]) -> Result<Type, String> {
    match args {
        [ty] if is_number(ty) => Ok(ty.clone()),
        [ty, ..] => Err(format!("a number is wanted, found {ty}")),
        [] => Ok(Type::Any),
    }
}

fn float_of_number(args: &[Type]) -> Result<Type, String> {
    same_number(args).map(|_| Type::Float)
}

fn numbers(args: &[Type]) -> Result<Type, String> {
    if args.is_empty() {
        return Err("at least one number is wanted".to_owned());
    }
    let fits = |ty: &Type| match ty {
        Type::List(element) | Type::Generic(element) => {
            is_number(element) || matches!(**element, Type::List(_) | Type::Generic(_))
        }
        ty => is_number(ty),
    };
    match args.iter().find(|ty| !fits(ty)) {
        Some(ty) => Err(format!("numbers are wanted, found {ty}")),
        None => Ok(match args {
            [Type::Int] => Type::Int,
            [Type::Float] => Type::Float,
            _ => Type::Any,
        }),
    }
}

fn numbers_to_float(args: &[Type]) -> Result<Type, String> {
    numbers(args).map(|_| Type::Float)
}

fn not_a_number(value: Option<&Value<'_>>) -> EvalError {
    EvalError::new(format!("{} is not a number", value.map_or("nothing", Value::kind)))
}

fn abs<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    match args.first() {
        Some(Value::Int(value)) => Ok(Value::Int(value.wrapping_abs())),
        Some(Value::Sized(value, kind)) if !kind.named() => Ok(Value::Sized(value.wrapping_abs(), *kind)),
        Some(Value::Float(value)) => Ok(Value::Float(value.abs())),
        other => Err(not_a_number(other)),
    }
}

fn rounded<'a>(args: &[Value<'a>], how: fn(f64) -> f64) -> Outcome<Value<'a>> {
    let value = args.first();
    value.and_then(Value::as_number).map(|value| Value::Float(how(value))).ok_or_else(|| not_a_number(value))
}

/// All numbers among the arguments, lists opened.
fn gather<'a>(args: &[Value<'a>], into: &mut Vec<Value<'a>>, cx: &mut Cx<'a>, depth: u32) -> Outcome<()> {
    for value in args {
        match value {
            Value::List(list) if depth < 100 => {
                cx.spend(list.len())?;
                let inner: Vec<Value<'a>> = list.iter().collect();
                gather(&inner, into, cx, depth + 1)?;
            }
            value if value.as_number().is_some() => into.push(value.clone()),
            other => return Err(not_a_number(Some(other))),
        }
    }
    Ok(())
}

fn extreme<'a>(cx: &mut Cx<'a>, args: &[Value<'a>], largest: bool) -> Outcome<Value<'a>> {
    let mut numbers = Vec::new();
    gather(args, &mut numbers, cx, 0)?;
    let mut best: Option<Value<'a>> = None;
    for number in numbers {
        let better = match &best {
            None => true,
            Some(best) => order(&number, best).is_some_and(|order| if largest { order.is_gt() } else { order.is_lt() }),
        };
        if better {
            best = Some(number);
        }
    }
    Ok(best.unwrap_or(Value::Nil))
}

fn mean<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let mut numbers = Vec::new();
    gather(args, &mut numbers, cx, 0)?;
    if numbers.is_empty() {
        return Ok(Value::Float(0.0));
    }
    let sum: f64 = numbers.iter().filter_map(Value::as_number).sum();
    Ok(Value::Float(sum / numbers.len() as f64))
}

fn median<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let mut numbers = Vec::new();
    gather(args, &mut numbers, cx, 0)?;
    let mut sorted: Vec<f64> = numbers.iter().filter_map(Value::as_number).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    Ok(Value::Float(match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }))
}

/// A float in Go's spelling: decimal or hexadecimal-free exponent form, `inf` and `nan` included.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let plain = text.trim_start_matches(['+', '-']);
    let known = plain.eq_ignore_ascii_case("inf")
        || plain.eq_ignore_ascii_case("infinity")
        || plain.eq_ignore_ascii_case("nan");
    if !known && plain.bytes().any(|byte| !matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
        return None;
    }
    text.parse().ok()
}

fn atof<'a>(cx: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    let text = text(args, 0)?;
    Ok(Value::Float(parse_float(text).unwrap_or_else(|| {
        cx.env.host.log(&format!("cannot read {text:?} as a number"));
        0.0
    })))
}

fn float_approx_equal<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    match args {
        [Value::Float(a), Value::Float(b)] => Ok(Value::Bool((a - b).abs() < 1e-6)),
        _ => Err(not_a_number(None)),
    }
}

fn distance<'a>(_: &mut Cx<'a>, args: &[Value<'a>]) -> Outcome<Value<'a>> {
    const EARTH_RADIUS_KM: f64 = 6371.0;
    let mut places = [0.0; 4];
    for (at, place) in places.iter_mut().enumerate() {
        let text = text(args, at)?;
        *place = parse_float(text).ok_or_else(|| EvalError::new(format!("{text:?} is not a coordinate")))?;
    }
    let [lat1, lon1, lat2, lon2] = places;
    if (lat1 == 0.0 && lon1 == 0.0) || (lat2 == 0.0 && lon2 == 0.0) {
        return Ok(Value::Float(0.0));
    }
    let (a, b) = (lat1.to_radians(), lat2.to_radians());
    let (dlat, dlon) = (b - a, (lon2 - lon1).to_radians());
    let h = (dlat / 2.0).sin().powi(2) + a.cos() * b.cos() * (dlon / 2.0).sin().powi(2);
    Ok(Value::Float(2.0 * EARTH_RADIUS_KM * h.sqrt().atan2((1.0 - h).sqrt())))
}
