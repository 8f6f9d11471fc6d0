//! The language seen from outside: tables, facts, properties.

mod facts;
mod properties;
mod support;
mod tables;
