//! The nouns: line, event, alert, decision, scope, allowlist, durations.
//!
//! Pure data and the rules that belong to it; no clock, no file, no socket.
//!
//! Public types: [`Line`], [`Alert`], [`Decision`], [`Delta`], [`Scope`], [`AllowSet`].

pub mod alert;
pub mod allowlist;
pub mod decision;
pub mod duration;
pub mod line;
pub mod scope;

pub use alert::{Alert, RuntimeAlert, Source};
pub use allowlist::{AllowEntry, AllowSet};
pub use decision::{Decision, Delta};
pub use line::{Line, Origin};
pub use scope::Scope;
