//! `cordon bouncers` and `cordon machines`: who may ask for decisions, and who may send alerts.

use anyhow::{Context, bail};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::{Bouncers, Format, Global, KeyRight, Machines};
use crate::output::{self, Rows, printable};
use crate::remote::{Query, Remote, encode};

/// A bouncer's account, as the API tells it.
#[derive(Debug, Serialize, Deserialize)]
struct Bouncer {
    created_at: Option<String>,
    updated_at: Option<String>,
    name: String,
    #[serde(default)]
    revoked: bool,
    #[serde(default)]
    ip_address: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    version: String,
    last_pull: Option<String>,
    #[serde(default)]
    auth_type: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    featureflags: Vec<String>,
    #[serde(default)]
    auto_created: bool,
    #[serde(default)]
    rights: Vec<String>,
    #[serde(default)]
    ranges: Vec<String>,
    previous_key_until: Option<String>,
}

/// A machine's account, as the API tells it.
#[derive(Debug, Serialize, Deserialize)]
struct Machine {
    created_at: Option<String>,
    updated_at: Option<String>,
    last_push: Option<String>,
    last_heartbeat: Option<String>,
    #[serde(rename = "machineId")]
    name: String,
    #[serde(rename = "ipAddress", default)]
    address: String,
    #[serde(default)]
    version: String,
    #[serde(rename = "isValidated", default)]
    validated: bool,
    #[serde(default)]
    auth_type: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    featureflags: Vec<String>,
    datasources: Option<serde_json::Value>,
}

pub(crate) fn bouncers(global: &Global, command: &Bouncers) -> anyhow::Result<()> {
    let remote = Remote::connect(global)?;
    match command {
        Bouncers::List => {
            let all: Vec<Bouncer> = remote.list("v1/bouncers", &Query::new())?;
            match global.output {
                Format::Json => output::json(&all),
                Format::Raw => {
                    let columns = &["name", "ip", "revoked", "last_pull", "type", "version", "auth_type"];
                    Rows { columns, rows: all.iter().map(|row| bouncer_cells(row, "validated", "pending")).collect() }
                        .raw()
                }
                Format::Human => {
                    let columns = &["Name", "IP address", "Valid", "Last pull", "Type", "Version", "Auth type"];
                    Rows { columns, rows: all.iter().map(|row| bouncer_cells(row, "yes", "no")).collect() }
                        .human("no bouncers")
                }
            }
        }
        Bouncers::Add { name, key, rights, ranges } => {
            let rights: Vec<&str> = rights.iter().map(|right| right.name()).collect();
            let body = json!({ "name": name, "key": key, "rights": rights, "ranges": ranges });
            let made: serde_json::Value = remote.post("v1/bouncers", &body)?;
            print_key(global, name, &made, "Keep it: it cannot be shown again.")
        }
        Bouncers::Rotate { name, key, grace } => {
            let grace = model::duration::format(*grace);
            let route = format!("v1/bouncers/{}/rotate", encode(name));
            let made: serde_json::Value = remote.post(&route, &json!({ "key": key, "grace": grace }))?;
            let advice = format!("Keep it: it cannot be shown again. The key before is good for {grace} more.");
            print_key(global, name, &made, &advice)
        }
        Bouncers::Prune { duration, force } => {
            not_too_short(*duration, *force)?;
            let body = json!({ "silent": model::duration::format(*duration) });
            print_pruned(global, "bouncer", &remote.post("v1/bouncers/prune", &body)?)
        }
        Bouncers::Delete { names } => delete(global, &remote, "bouncer", "v1/bouncers", names),
    }
}

impl KeyRight {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Push => "push",
            Self::Admin => "admin",
        }
    }
}

fn print_key(global: &Global, name: &str, made: &serde_json::Value, advice: &str) -> anyhow::Result<()> {
    let key = made.get("key").and_then(|key| key.as_str()).context("cordon answered without a key")?;
    match global.output {
        Format::Json => output::json(&key),
        Format::Raw => output::text(key),
        Format::Human => output::line(&format!("API key for `{}`:\n\n    {key}\n\n{advice}", printable(name))),
    }
}

/// Who polls every minute would be removed while he is there.
fn not_too_short(duration: SignedDuration, force: bool) -> anyhow::Result<()> {
    if duration < SignedDuration::from_mins(2) && !force {
        bail!("within less than two minutes also those may be silent who are well\nhint: --force does it anyway");
    }
    Ok(())
}

#[derive(Deserialize, Serialize)]
struct Pruned {
    removed: Vec<String>,
}

fn print_pruned(global: &Global, noun: &str, pruned: &Pruned) -> anyhow::Result<()> {
    match global.output {
        Format::Json => output::json(pruned),
        Format::Human if pruned.removed.is_empty() => output::line(&format!("no {noun}s to prune")),
        Format::Human | Format::Raw => {
            for name in &pruned.removed {
                confirm(global, &format!("{noun} `{}` deleted", printable(name)))?;
            }
            Ok(())
        }
    }
}

fn bouncer_cells(row: &Bouncer, valid: &str, revoked: &str) -> Vec<String> {
    vec![
        printable(&row.name),
        row.ip_address.clone(),
        if row.revoked { revoked.to_owned() } else { valid.to_owned() },
        row.last_pull.clone().unwrap_or_default(),
        printable(&row.kind),
        printable(&row.version),
        row.auth_type.clone(),
    ]
}

pub(crate) fn machines(global: &Global, command: &Machines) -> anyhow::Result<()> {
    let remote = Remote::connect(global)?;
    match command {
        Machines::List => {
            let all: Vec<Machine> = remote.list("v1/machines", &Query::new())?;
            match global.output {
                Format::Json => output::json(&all),
                Format::Raw => {
                    let columns = &[
                        "machine_id",
                        "ip_address",
                        "updated_at",
                        "validated",
                        "version",
                        "auth_type",
                        "last_heartbeat",
                        "os",
                    ];
                    let rows = all.iter().map(|row| machine_cells(row, &row.validated.to_string()));
                    Rows { columns, rows: rows.collect() }.raw()
                }
                Format::Human => {
                    let columns = &[
                        "Name",
                        "IP address",
                        "Last update",
                        "Validated",
                        "Version",
                        "Auth type",
                        "Last heartbeat",
                        "OS",
                    ];
                    let rows = all.iter().map(|row| machine_cells(row, if row.validated { "yes" } else { "no" }));
                    Rows { columns, rows: rows.collect() }.human("no machines")
                }
            }
        }
        Machines::Add { name, password } => {
            let password = match password {
                Some(password) => password.clone(),
                None => new_password(),
            };
            remote.post::<()>("v1/machines", &json!({ "name": name, "password": password }))?;
            match global.output {
                Format::Json => output::json(&json!({ "login": name, "password": password })),
                Format::Raw | Format::Human => {
                    output::line(&format!("login: {}\npassword: {}", printable(name), printable(&password)))
                }
            }
        }
        Machines::Validate { name } => {
            remote.post::<()>(&format!("v1/machines/{}/validate", encode(name)), &json!({}))?;
            confirm(global, &format!("machine `{}` may log in", printable(name)))
        }
        Machines::Prune { duration, not_validated_only, force } => {
            not_too_short(*duration, *force)?;
            let silent = model::duration::format(*duration);
            let body = json!({ "silent": silent, "only_pending": not_validated_only });
            print_pruned(global, "machine", &remote.post("v1/machines/prune", &body)?)
        }
        Machines::Delete { names } => delete(global, &remote, "machine", "v1/machines", names),
    }
}

fn machine_cells(row: &Machine, validated: &str) -> Vec<String> {
    vec![
        printable(&row.name),
        row.address.clone(),
        row.updated_at.clone().unwrap_or_default(),
        validated.to_owned(),
        printable(&row.version),
        row.auth_type.clone(),
        row.last_heartbeat.clone().unwrap_or_default(),
        printable(&row.os),
    ]
}

/// 64 letters and digits.
fn new_password() -> String {
    use rand::Rng;
    let random = rand::rng().sample_iter(rand::distr::Alphanumeric);
    random.take(64).map(char::from).collect()
}

fn delete(global: &Global, remote: &Remote, noun: &str, path: &str, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        remote
            .delete::<()>(&format!("{path}/{}", encode(name)), &json!({}))
            .with_context(|| format!("cannot delete {noun} `{}`", printable(name)))?;
        confirm(global, &format!("{noun} `{}` deleted", printable(name)))?;
    }
    Ok(())
}

/// Says to people that something is done; scripts have the exit code.
pub(crate) fn confirm(global: &Global, what: &str) -> anyhow::Result<()> {
    match global.output {
        Format::Human => output::line(what),
        Format::Json | Format::Raw => Ok(()),
    }
}
