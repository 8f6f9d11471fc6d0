//! The OpenZiti bouncer.

pub mod plan;

#[cfg(test)]
mod tests;
