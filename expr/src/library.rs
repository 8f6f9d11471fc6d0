//! The function table: built-ins of the language and helpers of the rules.
//!
//! A function is a row: name, parameters, result, nature, and what to run. The checker reads the
//! row; the program holds a reference to it.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::OnceLock;

use crate::builtins;
use crate::env::Object;
use crate::error::EvalError;
use crate::program::{Cx, Outcome};
use crate::types::{Class, IntKind, MemberId, Method, MethodId, Type};
use crate::value::{List, Map, Value};

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum P {
    Any,
    Int,
    Float,
    Str,
    /// A typed list of text.
    Texts,
    /// A list of any kind.
    List,
    /// A map from text to anything.
    Map,
    Time,
    Duration,
    Zone,
    Month,
    Weekday,
    /// Text to lists of text.
    Query,
    /// A pointer that no expression can make.
    Unreachable,
}

/// What a function gives.
#[derive(Clone, Copy)]
pub(crate) enum R {
    Any,
    Bool,
    Int,
    Float,
    Str,
    Texts,
    /// A generic list.
    List,
    /// A map from text to anything.
    Map,
    Time,
    Duration,
    /// It depends on the arguments; an error says what does not fit.
    From(fn(&[Type]) -> Result<Type, String>),
}

/// What else a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// The same arguments give the same result.
    Pure,
    /// As pure, and cheaper than a look into the memo.
    Cheap,
    /// It asks for something that changes with time.
    Volatile,
    /// It writes into one of its arguments.
    Writes,
    /// It logs or sends something.
    Acts,
}

pub(crate) type Run = for<'a> fn(&mut Cx<'a>, &[Value<'a>]) -> Outcome<Value<'a>>;

/// One row of the table.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) params: &'static [P],
    /// How many of the last parameters may be left out.
    pub(crate) optional: usize,
    /// Whether the last parameter may be repeated, or left out.
    pub(crate) rest: bool,
    pub(crate) result: R,
    pub(crate) nature: Nature,
    /// Whether arguments of the right types can still make it fail.
    pub(crate) fails: bool,
    pub(crate) run: Run,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Function {
    /// A pure function that cannot fail when its arguments have the right types.
    pub(crate) const fn new(name: &'static str, params: &'static [P], result: R, run: Run) -> Self {
        Self { name, params, optional: 0, rest: false, result, nature: Nature::Pure, fails: false, run }
    }

    pub(crate) const fn optional(mut self, count: usize) -> Self {
        self.optional = count;
        self
    }

    pub(crate) const fn rest(mut self) -> Self {
        self.rest = true;
        self
    }

    pub(crate) const fn nature(mut self, nature: Nature) -> Self {
        self.nature = nature;
        self
    }

    pub(crate) const fn fails(mut self) -> Self {
        self.fails = true;
        self
    }

    /// The parameter that argument `index` goes to.
    pub(crate) fn param(&self, index: usize) -> Option<P> {
        match self.params.get(index) {
            Some(param) => Some(*param),
            None if self.rest => self.params.last().copied(),
            None => None,
        }
    }

    /// How many arguments it takes: at least, and at most if there is a most.
    pub(crate) fn arity(&self) -> (usize, Option<usize>) {
        let least = self.params.len() - self.optional - usize::from(self.rest);
        (least, if self.rest { None } else { Some(self.params.len()) })
    }

    pub(crate) fn writes(&self) -> bool {
        self.nature == Nature::Writes
    }

    /// Checks arguments whose types only run time knows.
    pub(crate) fn check_values(&self, args: &[Value<'_>]) -> Outcome<()> {
        let (least, most) = self.arity();
        if args.len() < least || most.is_some_and(|most| args.len() > most) {
            return Err(EvalError::new(format!("wrong number of arguments to call {}", self.name)));
        }
        for (index, value) in args.iter().enumerate() {
            let ty = self.param(index).map_or(Type::Any, P::ty);
            if !accepts(value, &ty) {
                let found = value.kind();
                return Err(EvalError::new(format!(
                    "cannot use {found} as argument (type {ty}) to call {}",
                    self.name
                )));
            }
        }
        Ok(())
    }
}

impl P {
    /// The type that a value must have.
    pub(crate) fn ty(self) -> Type {
        match self {
            P::Any => Type::Any,
            P::Int => Type::Int,
            P::Float => Type::Float,
            P::Str => Type::String,
            P::Texts => Type::List(Box::new(Type::String)),
            P::List => Type::Generic(Box::new(Type::Any)),
            P::Map => Type::Map(Box::new(Type::Any)),
            P::Time => Type::Time,
            P::Duration => Type::Duration,
            P::Zone => Type::Zone,
            P::Month => Type::Sized(IntKind::Month),
            P::Weekday => Type::Sized(IntKind::Weekday),
            P::Query => Type::Map(Box::new(Type::List(Box::new(Type::String)))),
            P::Unreachable => Type::Func,
        }
    }
}

impl R {
    /// The type of the result for arguments of these types.
    pub(crate) fn ty(self, args: &[Type]) -> Result<Type, String> {
        Ok(match self {
            R::Any => Type::Any,
            R::Bool => Type::Bool,
            R::Int => Type::Int,
            R::Float => Type::Float,
            R::Str => Type::String,
            R::Texts => Type::List(Box::new(Type::String)),
            R::List => Type::List(Box::new(Type::Any)),
            R::Map => Type::Map(Box::new(Type::Any)),
            R::Time => Type::Time,
            R::Duration => Type::Duration,
            R::From(check) => return check(args),
        })
    }
}

/// Whether an argument of type `arg` may be given where `param` is wanted (spec: expressions 3.1).
pub(crate) fn assignable(arg: &Type, param: &Type) -> bool {
    match (arg, param) {
        (_, Type::Any) | (Type::Any, _) => true,
        (Type::Nil, param) => matches!(param, Type::Pointer(_) | Type::Func),
        (Type::Int | Type::Sized(_), Type::Float) => true,
        (Type::Sized(kind), Type::Int) => !kind.named(),
        (Type::Int, Type::Sized(kind)) => !kind.named(),
        (Type::Pointer(inner), param) if !matches!(param, Type::Pointer(_)) => assignable(inner, param),
        (Type::List(_) | Type::Generic(_), Type::Generic(any)) => **any == Type::Any,
        (Type::Generic(_), Type::List(any)) => **any == Type::Any,
        (arg, param) => arg == param,
    }
}

/// Whether a value is exactly of type `ty`: nothing is converted at run time.
pub(crate) fn accepts(value: &Value<'_>, ty: &Type) -> bool {
    match (ty, value) {
        (Type::Any, _) => true,
        (Type::Func, _) => false,
        (Type::Nil, value) => value.is_nil(),
        (Type::Bool, Value::Bool(_))
        | (Type::Int, Value::Int(_))
        | (Type::Float, Value::Float(_))
        | (Type::String, Value::Str(_))
        | (Type::Bytes, Value::Bytes(_))
        | (Type::Time, Value::Time(..))
        | (Type::Duration, Value::Duration(_))
        | (Type::Zone, Value::Zone(_))
        | (Type::Generic(_), Value::List(_)) => true,
        (Type::Sized(wanted), Value::Sized(_, found)) => wanted == found,
        (Type::List(inner), Value::List(list)) => match (&**inner, list) {
            (Type::String, List::Text(_) | List::Lines(_)) => true,
            (Type::String, List::Typed(values)) => values.iter().all(|value| value.as_str().is_some()),
            (Type::String, _) => false,
            (Type::Any, List::Any(_) | List::Json(_) | List::Nil) => true,
            (Type::Any, _) => false,
            (inner, List::Typed(_) | List::Object(..)) => list.iter().all(|value| accepts(&value, inner)),
            _ => false,
        },
        (Type::Map(inner), Value::Map(map)) => matches!(
            (&**inner, map),
            (Type::Any, Map::Any(_) | Map::Json(_) | Map::Object(..) | Map::Nil)
                | (Type::String, Map::Text(_) | Map::Pairs(_) | Map::Slots(..))
                | (Type::List(_), Map::Texts(_))
        ),
        (Type::Class(class), Value::Object(object)) => object.class() == *class,
        (Type::Class(class), Value::Made(object)) => object.class() == *class,
        (Type::Pointer(inner), value) => value.is_nil() || accepts(value, inner),
        _ => false,
    }
}

/// The type of a value, as far as methods depend on it.
pub(crate) fn type_of(value: &Value<'_>) -> Type {
    match value {
        Value::Time(..) => Type::Time,
        Value::Duration(_) => Type::Duration,
        Value::Sized(_, kind) => Type::Sized(*kind),
        Value::Zone(_) => Type::Zone,
        Value::Map(Map::Texts(_)) => P::Query.ty(),
        _ => Type::Any,
    }
}

/// The method `name` of a type that is no class: its first parameter is the receiver.
pub(crate) fn method(ty: &Type, name: &str) -> Option<&'static Function> {
    let rows = match ty {
        Type::Time => builtins::time::TIME_METHODS,
        Type::Duration => builtins::time::DURATION_METHODS,
        Type::Sized(IntKind::Month) => builtins::time::MONTH_METHODS,
        Type::Sized(IntKind::Weekday) => builtins::time::WEEKDAY_METHODS,
        Type::Zone => builtins::time::ZONE_METHODS,
        Type::Map(inner) if matches!(&**inner, Type::List(_)) => builtins::url::QUERY_METHODS,
        _ => return None,
    };
    rows.iter().find(|row| row.name == name)
}

/// The function called `name`.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    table().get(name).copied()
}

/// All names, for suggestions.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    table().keys().copied().chain(crate::ast::ClosureFn::ALL.iter().map(|(name, _)| *name))
}

fn table() -> &'static HashMap<&'static str, &'static Function> {
    static TABLE: OnceLock<HashMap<&'static str, &'static Function>> = OnceLock::new();
    TABLE.get_or_init(|| builtins::ALL.iter().flat_map(|rows| rows.iter()).map(|row| (row.name, row)).collect())
}

/// A pointer that a parameter of any type receives: it is not followed, so all that can be seen
/// of it is that it is there.
#[derive(Debug)]
struct Address;

impl Object for Address {
    fn class(&self) -> &'static Class {
        static CLASS: Class = Class {
            name: "pointer",
            members: &[],
            methods: &[Method {
                name: "String",
                params: Vec::new,
                result: || Type::String,
                id: MethodId(0),
                effect: false,
            }],
        };
        &CLASS
    }

    /// What every address shows: the real one would say nothing to anybody.
    fn call<'a>(&'a self, _: MethodId, _: &[Value<'a>]) -> Outcome<Value<'a>> {
        Ok(Value::text("0xc000000000"))
    }

    fn member(&self, _: MemberId) -> Value<'_> {
        Value::Nil
    }
}

/// How a structure shows itself as text, if it does.
pub(crate) fn text_of(value: &Value<'_>) -> Option<String> {
    let object: &dyn Object = match value {
        Value::Object(object) => *object,
        Value::Made(object) => &**object,
        _ => return None,
    };
    let method = object.class().method("String").filter(|method| (method.params)().is_empty())?;
    object.call(method.id, &[]).ok()?.as_str().map(str::to_owned)
}

/// The address of a value behind a pointer; structures stay what they are.
pub(crate) fn address<'a>(value: &Value<'a>) -> Value<'a> {
    match value {
        Value::Object(_) | Value::Made(_) => value.clone(),
        _ => Value::Made(Rc::new(Address)),
    }
}
