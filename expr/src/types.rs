//! What the checker knows about a value before it exists.
//!
//! A [`Class`] describes a structure (the event, an alert, a source) once, as a
//! table; the checker resolves every name against it at load, so that nothing is
//! looked up by name while lines flow.

use std::fmt;

/// Number of one text field of an event, given out by [`Fields`] at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldId(pub u32);

/// Which of an object's string maps a key belongs to (`Parsed`, `Meta`, ...);
/// the numbers are chosen by the owner of the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MapId(pub u8);

/// Number of a member that is not text, chosen by the owner of the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u16);

/// Number of a method, chosen by the owner of the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MethodId(pub u16);

/// Gives every `(map, key)` that a rule mentions its number.
pub trait Fields {
    /// The number of `key` in `map`, the same for every call with the same pair.
    fn intern(&mut self, map: MapId, key: &str) -> FieldId;
}

/// The type of an expression as far as it is known at load (spec: expressions 3).
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Not known before run time.
    Any,
    /// Only the literal `nil`.
    Nil,
    /// `true` or `false`.
    Bool,
    /// The native integer.
    Int,
    /// An integer of another width, or a named one (`Weekday`, `Severity`): arithmetic
    /// accepts it, comparison with a plain integer does not when `named`.
    Sized(IntKind),
    /// 64-bit float.
    Float,
    /// Text.
    String,
    /// Bytes (`b"..."`).
    Bytes,
    /// A list whose elements share a type (`[]string`); of `Any`, a generic list (`[]any`).
    List(Box<Type>),
    /// A generic list whose elements happen to be known (a list literal, the result of `map`):
    /// it does not fit where a typed list is wanted.
    Generic(Box<Type>),
    /// A map from text to values of one type.
    Map(Box<Type>),
    /// A structure by value.
    Class(&'static Class),
    /// A structure behind a pointer that may be nil.
    Pointer(Box<Type>),
    /// An instant.
    Time,
    /// A duration in nanoseconds.
    Duration,
    /// A time zone.
    Zone,
    /// A function used as a value.
    Func,
}

/// Integer types other than the native one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IntKind {
    /// `int64`, as `Time.Unix()` gives it.
    I64,
    /// `int32`, as alert counters are.
    I32,
    /// `uint8` and its like.
    U8,
    /// `time.Weekday`.
    Weekday,
    /// `time.Month`.
    Month,
    /// The severity of a WAF rule.
    Severity,
}

/// A structure: its name, members and methods.
pub struct Class {
    /// The name as error messages show it.
    pub name: &'static str,
    /// What can follow a dot.
    pub members: &'static [Member],
    /// What can be called after a dot.
    pub methods: &'static [Method],
}

/// One member of a [`Class`].
pub struct Member {
    /// The exact, case-sensitive name.
    pub name: &'static str,
    /// Its type; a function because types own boxes.
    pub ty: fn() -> Type,
    /// Where its value is found.
    pub at: At,
}

/// Where the value of a member is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// A text slot of the object, read with [`crate::Object::slot`]; absent reads as `""`.
    Slot(FieldId),
    /// A string map of the object: `.key` and `["key"]` become slots.
    Slots(MapId),
    /// The same object seen through the member's class (`evt.Line`).
    Same,
    /// Read with [`crate::Object::member`].
    Member(MemberId),
}

/// One method of a [`Class`].
pub struct Method {
    /// The exact, case-sensitive name.
    pub name: &'static str,
    /// Parameter types, in order.
    pub params: fn() -> Vec<Type>,
    /// Result type.
    pub result: fn() -> Type,
    /// The number given to [`crate::Object::call`].
    pub id: MethodId,
    /// Whether it changes the object: such a call is never shared, folded or deferred.
    pub effect: bool,
}

impl IntKind {
    /// Whether it is a named type, which compares only with itself.
    pub fn named(self) -> bool {
        matches!(self, IntKind::Weekday | IntKind::Month | IntKind::Severity)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            IntKind::I64 => "int64",
            IntKind::I32 => "int32",
            IntKind::U8 => "uint8",
            IntKind::Weekday => "time.Weekday",
            IntKind::Month => "time.Month",
            IntKind::Severity => "severity",
        }
    }
}

impl Type {
    /// The type behind pointers.
    #[must_use]
    pub fn behind(&self) -> &Type {
        match self {
            Type::Pointer(inner) => inner.behind(),
            _ => self,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Any => f.write_str("unknown"),
            Type::Nil => f.write_str("nil"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Sized(kind) => f.write_str(kind.name()),
            Type::Float => f.write_str("float64"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("[]byte"),
            Type::List(inner) if **inner == Type::Any => f.write_str("[]any"),
            Type::List(inner) => write!(f, "[]{inner}"),
            Type::Generic(_) => f.write_str("[]any"),
            Type::Map(inner) if **inner == Type::Any => f.write_str("map[string]any"),
            Type::Map(inner) => write!(f, "map[string]{inner}"),
            Type::Class(class) => f.write_str(class.name),
            Type::Pointer(inner) => write!(f, "*{inner}"),
            Type::Time => f.write_str("time.Time"),
            Type::Duration => f.write_str("time.Duration"),
            Type::Zone => f.write_str("*time.Location"),
            Type::Func => f.write_str("func"),
        }
    }
}

impl Class {
    /// The member called `name`.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// The method called `name`.
    pub fn method(&self, name: &str) -> Option<&Method> {
        self.methods.iter().find(|method| method.name == name)
    }
}

impl PartialEq for Class {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
