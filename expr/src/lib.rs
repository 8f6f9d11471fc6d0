//! The expression language of filters, groupby, statics and profiles.
//!
//! Source becomes tokens, a tree, a checked and typed program. Everything that can be refused
//! is refused at load; at run time an error is a value. The crate knows no clock, no file and no
//! event: variables are [`Object`]s described by [`Class`]es, and the world is a [`Host`].
//!
//! Behaviour follows the field's language (Go's expr v1.17 with CrowdSec's helpers).
//!
//! Public types: [`Compiler`], [`Program`], [`Value`], [`Env`], [`Object`], [`Host`], [`Class`].

mod analyze;
mod ast;
mod builtins;
mod check;
pub mod duration;
mod env;
mod error;
pub mod files;
pub mod golayout;
pub mod json;
mod lexer;
mod library;
pub mod memo;
mod needles;
mod parser;
mod program;
pub mod regex_dialect;
mod types;
mod value;

pub use analyze::{Condition, Facts};
pub use env::{DecisionQuery, Env, Geo, Host, HttpAnswer, Object, Stored};
pub use error::{CompileError, EvalError, Place};
pub use needles::{Mention, Needle};
pub use program::{Compiler, Program, Vars};
pub use types::{At, Class, FieldId, Fields, IntKind, MapId, Member, MemberId, Method, MethodId, Type};
pub use value::{List, Map, Texts, Value};
