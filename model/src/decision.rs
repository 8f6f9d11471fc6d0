//! What to do, to whom, until when.

use compact_str::CompactString;
use jiff::Timestamp;

use crate::scope::{NetError, Scope, parse_net};

/// One decision. Its end is an instant; durations exist only on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Number given by the store; 0 before it is stored.
    pub id: i64,
    /// Identity across servers.
    pub uuid: String,
    /// Who decided: `crowdsec`, `cscli`, `lists`, ...
    pub origin: CompactString,
    /// What is done: `ban`, `captcha`, ...; on the wire the field is called `type`.
    pub remediation: CompactString,
    /// What kind of thing `value` names.
    pub scope: Scope,
    /// The address, prefix, name; verbatim as it was given.
    pub value: CompactString,
    /// The scenario, or the reason of a manual decision.
    pub scenario: CompactString,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// Recorded and shown, but never enforced.
    pub simulated: bool,
    /// The alert it belongs to; 0 when there is none.
    pub alert_id: i64,
}

impl Decision {
    /// The prefix it covers, when its scope is an address or a range.
    pub fn net(&self) -> Option<Result<ipnet::IpNet, NetError>> {
        match self.scope {
            Scope::Ip | Scope::Range => Some(parse_net(&self.value)),
            _ => None,
        }
    }

    /// Whether it holds at `now`.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.until > now
    }
}

/// What a bouncer receives: what holds from now on, and what no longer does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Decisions that begin or are prolonged.
    pub add: Vec<Decision>,
    /// Decisions that are over or lifted.
    pub remove: Vec<Decision>,
}
