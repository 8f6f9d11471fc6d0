//! What survives a restart.

pub mod checkpoint;

pub use checkpoint::{Checkpoint, CheckpointError};
