//! Bits of integers.

use super::int;
use crate::error::EvalError;
use crate::library::{Function, Nature, P, R};
use crate::program::Outcome;
use crate::value::Value;

pub(crate) const ROWS: &[Function] = &[
    Function::new("bitand", &[P::Int, P::Int], R::Int, |_, args| both(args, |a, b| a & b)).nature(Nature::Cheap),
    Function::new("bitor", &[P::Int, P::Int], R::Int, |_, args| both(args, |a, b| a | b)).nature(Nature::Cheap),
    Function::new("bitxor", &[P::Int, P::Int], R::Int, |_, args| both(args, |a, b| a ^ b)).nature(Nature::Cheap),
    Function::new("bitnand", &[P::Int, P::Int], R::Int, |_, args| both(args, |a, b| a & !b)).nature(Nature::Cheap),
    Function::new("bitshl", &[P::Int, P::Int], R::Int, |_, args| {
        shift(args, |a, by| if by > 63 { 0 } else { a << by })
    })
    .fails()
    .nature(Nature::Cheap),
    Function::new("bitshr", &[P::Int, P::Int], R::Int, |_, args| shift(args, |a, by| a >> by.min(63)))
        .fails()
        .nature(Nature::Cheap),
    Function::new("bitushr", &[P::Int, P::Int], R::Int, |_, args| {
        shift(args, |a, by| if by > 63 { 0 } else { ((a as u64) >> by) as i64 })
    })
    .fails()
    .nature(Nature::Cheap),
    Function::new("bitnot", &[P::Int], R::Int, |_, args| Ok(Value::Int(!int(args, 0)?))).nature(Nature::Cheap),
];

fn both<'a>(args: &[Value<'a>], of: fn(i64, i64) -> i64) -> Outcome<Value<'a>> {
    Ok(Value::Int(of(int(args, 0)?, int(args, 1)?)))
}

fn shift<'a>(args: &[Value<'a>], of: fn(i64, u32) -> i64) -> Outcome<Value<'a>> {
    let by = int(args, 1)?;
    if by < 0 {
        return Err(EvalError::new(format!("cannot shift by {by}")));
    }
    Ok(Value::Int(of(int(args, 0)?, u32::try_from(by).unwrap_or(u32::MAX))))
}
