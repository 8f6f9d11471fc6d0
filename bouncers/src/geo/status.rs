//! What geoblocking knows about itself, for people, the command line and metrics.

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::Traffic;
use crate::geo::load::FileStatus;
use crate::geo::policy::Policy;
use crate::geo::ranges::{Ranges, Size};

/// One policy and what it comes to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyStatus {
    /// What is wanted.
    #[serde(flatten)]
    pub policy: Policy,
    /// Spans that are dropped.
    pub ranges: usize,
    /// The space that they cover.
    pub size: Size,
    /// What was dropped, or only counted, so far.
    pub dropped: Traffic,
}

impl PolicyStatus {
    /// A policy that drops `dropped`.
    pub fn new(policy: &Policy, dropped: &Ranges) -> Self {
        Self { policy: policy.clone(), ranges: dropped.len(), size: dropped.size(), dropped: Traffic::default() }
    }
}

/// Whether policies are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "until")]
pub enum Force {
    /// They are not, and why is told elsewhere.
    #[default]
    Absent,
    /// They are, as long as nobody removes them.
    Lasting,
    /// They are, until then if nobody renews them.
    Leased(Timestamp),
    /// They are until then, and longer only if a person confirms it.
    Unconfirmed(Timestamp),
    /// Nobody confirmed them in time: they are not in force until somebody does.
    Lapsed,
}

/// A decision about a country or an autonomous system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegionStatus {
    /// The region.
    pub region: String,
    /// When it ends.
    pub until: Timestamp,
    /// Spans that it comes to.
    pub ranges: usize,
    /// Why it is not enforced, if it is not.
    pub refused: Option<String>,
}

/// The state of geoblocking on this host.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// Whether policies are in force.
    pub force: Force,
    /// Why they are not, or why the kernel holds others than those wanted.
    pub error: Option<String>,
    /// Why the databases on disk are not those in use.
    pub database_error: Option<String>,
    /// The databases in use.
    pub databases: Vec<FileStatus>,
    /// The policies.
    pub policies: Vec<PolicyStatus>,
    /// Decisions about countries and systems.
    pub decisions: Vec<RegionStatus>,
    /// How often the kernel was given new policies or ranges.
    pub swaps: u64,
}

impl Status {
    /// All of it, and in `trouble` what is wrong.
    pub fn json(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.insert("trouble".to_owned(), self.trouble().into());
        }
        value
    }

    /// What is wrong with it, if anything is.
    pub fn trouble(&self) -> Option<String> {
        let lapsed = (self.force == Force::Lapsed).then(|| "geo policies were not confirmed in time".to_owned());
        let refused = self.decisions.iter().find_map(|decision| {
            decision
                .refused
                .as_ref()
                .map(|reason| format!("the decision about {} is not enforced: {reason}", decision.region))
        });
        self.error.clone().or_else(|| self.database_error.clone()).or(lapsed).or(refused)
    }
}

/// A network, as `plan` says where somebody is. Read back by nobody, so only what people need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// Its country's code.
    pub country: Option<String>,
    /// Its country's English name.
    pub country_name: Option<String>,
    /// The network that the country's record is about.
    pub network: Option<IpNet>,
    /// Its autonomous system, `AS64500`.
    pub system: Option<String>,
    /// The network that the system's record is about.
    pub system_network: Option<IpNet>,
    /// Whether it belongs to nobody in particular.
    pub reserved: bool,
}

impl From<crate::geo::Location> for Whereabouts {
    fn from(at: crate::geo::Location) -> Self {
        Self {
            country: at.record.country.map(|code| code.to_string()),
            country_name: at.record.country.and_then(crate::geo::Code::name).map(ToOwned::to_owned),
            network: at.network,
            system: at.record.system.map(|number| format!("AS{number}")),
            system_network: at.system_network,
            reserved: at.reserved,
        }
    }
}
