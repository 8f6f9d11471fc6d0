//! Where somebody is, and whether that spares him.

use std::fmt::Debug;

use model::Scope;

/// Who knows where addresses are, and whom that spares.
pub trait Places: Debug + Send + Sync {
    /// Why nobody may ban `value` because of where it is, in a few words; `None` if that is no reason.
    fn spares(&self, scope: &Scope, value: &str) -> Option<String>;
}
