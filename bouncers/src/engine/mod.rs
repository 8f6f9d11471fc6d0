//! The engine all bouncers share: what should be, what to change, what must never be, and the loop.

pub mod desired;
pub mod plan;
pub mod rails;
pub mod span;
