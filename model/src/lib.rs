//! The nouns: line, event, alert, decision, scope, allowlist, durations.
//!
//! Pure data and the rules that belong to it; no clock, no file, no socket.
//!
//! Public types: [`Line`], [`Event`], [`Alert`], [`Decision`], [`Delta`], [`Scope`], [`AllowSet`], [`Probe`], [`Yaml`].

pub mod alert;
pub mod allowlist;
pub mod bytes;
pub mod classes;
pub mod data;
pub mod decision;
pub mod duration;
pub mod event;
pub mod fields;
pub mod format;
pub mod line;
mod packed;
pub mod probe;
pub mod record;
pub mod scope;
pub mod shown;
pub mod time;
pub mod yaml;

pub use alert::{Alert, RuntimeAlert, Source};
pub use allowlist::{AllowEntry, AllowSet};
pub use data::DataFile;
pub use decision::{Decision, Delta};
pub use event::{Event, EventDump, EventKind};
pub use fields::FieldTable;
pub use line::{Line, LineRef, Origin};
pub use packed::Packer;
pub use probe::{Part, Probe};
pub use record::Record;
pub use scope::Scope;
pub use shown::Shown;
pub use time::EventTime;
pub use yaml::{Fault, Yaml};
