//! pfSense: an alias through its REST API, or a table through ssh. Nothing is installed on the firewall for the latter.

pub mod rest;
pub mod ssh;

pub use rest::{Rest, RestOptions};
pub use ssh::{Ssh, SshOptions};

/// The longest name that pfSense gives an alias, and so a table.
const LONGEST_NAME: usize = 31;

/// Whether `name` can be that of an alias.
pub(crate) fn is_alias(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
