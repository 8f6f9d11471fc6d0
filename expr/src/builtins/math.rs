//! Numbers.

use std::borrow::Cow;

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

/// A float in Go's spelling: decimal, hexadecimal with a power of two (`0x1.8p-2`), both with `_` between digits or
/// after the `0x`; `inf`, `infinity` and `nan` in any case. What is too large is infinite.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if ["inf", "infinity"].iter().any(|name| unsigned.eq_ignore_ascii_case(name)) || text.eq_ignore_ascii_case("nan") {
        return text.parse().ok();
    }
    let hexadecimal = unsigned.get(..2).is_some_and(|prefix| prefix.eq_ignore_ascii_case("0x"));
    let plain: Cow<'_, str> = match unsigned.contains('_') {
        true if !separates_digits(unsigned, hexadecimal) => return None,
        true => Cow::Owned(unsigned.replace('_', "")),
        false => Cow::Borrowed(unsigned),
    };
    let size = if hexadecimal {
        hexadecimal_float(&plain[2..])?
    } else {
        let decimal = |byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
        // a second sign would be taken for that of the number
        if plain.starts_with(['+', '-']) || !plain.bytes().all(decimal) {
            return None;
        }
        plain.parse().ok()?
    };
    Some(if text.starts_with('-') { -size } else { size })
}

/// Whether every `_` stands between two digits, or between `0x` and one.
fn separates_digits(text: &str, hexadecimal: bool) -> bool {
    let bytes = text.as_bytes();
    let digit = |at: usize| {
        bytes.get(at).is_some_and(|byte| if hexadecimal { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() })
    };
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'_').all(|(at, _)| {
        let before = at.checked_sub(1).is_some_and(|before| digit(before) || hexadecimal && before == 1);
        before && digit(at + 1)
    })
}

/// What follows `0x`: hexadecimal digits with at most one point, `p`, and a power of two in decimal.
fn hexadecimal_float(text: &str) -> Option<f64> {
    let (digits, power) = text.split_once(['p', 'P'])?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let power_digits = power.strip_prefix(['+', '-']).unwrap_or(power);
    let whole_number = !power_digits.is_empty() && power_digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !whole_number {
        return None;
    }
    // beyond any float that a text can bring back, and far from overflow
    let power = power_digits.parse().unwrap_or(i64::MAX).min(1 << 40) * if power.starts_with('-') { -1 } else { 1 };
    let (mut mantissa, mut scale, mut inexact) = (0_u128, 0_i64, false);
    for (text, step) in [(whole, 0), (fraction, -4)] {
        for byte in text.bytes() {
            let digit = char::from(byte).to_digit(16)?;
            scale += step;
            // a hundred bits are more than rounding looks at: of the rest counts only whether it is nothing
            if mantissa >> 100 == 0 {
                mantissa = mantissa << 4 | u128::from(digit);
            } else {
                inexact |= digit != 0;
                scale += 4;
            }
        }
    }
    Some(scaled(mantissa << 1 | u128::from(inexact), scale + power - 1))
}

/// `mantissa` times two to the `power`, rounded once, halves to even.
fn scaled(mantissa: u128, power: i64) -> f64 {
    const BITS: i64 = 53;
    const LEAST: i64 = -1074;
    if mantissa == 0 {
        return 0.0;
    }
    let width = 128 - i64::from(mantissa.leading_zeros());
    // below the normal numbers fewer bits are left
    let drop = (width - BITS).max(LEAST - power).max(0);
    if drop > width {
        return 0.0;
    }
    // at most 106 bits of mantissa, so the shifts stay below 128
    let (kept, rest) = (mantissa >> drop, mantissa & ((1 << drop) - 1));
    let half = if drop == 0 { u128::MAX } else { 1 << (drop - 1) };
    let up = rest > half || rest == half && kept & 1 == 1;
    let kept = kept + u128::from(up);
    let power = power + drop;
    if power > 1023 {
        return f64::INFINITY;
    }
    // `kept` is exact in a float and so is each factor; the product is exact or infinite
    let (first, second) = if power < -1022 { (power + 100, -100) } else { (power, 0) };
    kept as f64 * two_to(first) * two_to(second)
}

/// Two to a power between -1022 and 1023.
fn two_to(power: i64) -> f64 {
    f64::from_bits(((power + 1023) as u64) << 52)
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
