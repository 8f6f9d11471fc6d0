//! pfSense through ssh: the table behind an alias, changed by `pfctl`, with the states of whoever is blocked.
//!
//! The key may run one script on the firewall and nothing else; the script is `cordon-pf.sh` beside this file. One
//! connection is kept and shared by all calls. The table lives as long as a rule uses it and is read back regularly,
//! because loading the filter anew fills it with whatever the alias says.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use ipnet::IpNet;
use model::allowlist::display_net;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tracing::warn;

use crate::engine::Caps;
use crate::error::BouncerError;
use crate::remote::http::{TOTAL, WHOLE};
use crate::remote::list::{List, Written, parse_all};
use crate::remote::nets::{Edits, Nets, There};

/// The script for the firewall.
pub const SCRIPT: &str = include_str!("cordon-pf.sh");

/// Addresses in one call.
const BATCH: usize = 5000;
/// From so many changes on, the whole table is replaced in one step.
const REPLACES: usize = 20_000;
/// States of so many new sources are killed in one write; each costs the firewall a look through its states.
const KILLS: usize = 500;
/// Longest answer in bytes.
const MAX_ANSWER: usize = 64 << 20;
/// As much of what the firewall says is shown in an error.
const SHOWN: usize = 200;

/// What the script answers when it does not understand us.
const NOT_UNDERSTOOD: i32 = 64;
/// What the script answers to something that is no address.
const NO_ADDRESS: i32 = 65;
/// What ssh answers when there is no connection.
const NO_CONNECTION: i32 = 255;

/// How the firewall is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SshOptions {
    /// Where it is: `USER@HOST`.
    pub destination: String,
    /// Port of its sshd.
    pub port: u16,
    /// File with our private key.
    pub identity: PathBuf,
    /// File with the firewall's public key.
    pub known_hosts: PathBuf,
    /// Folder for the socket of the shared connection; its path must be short.
    pub control: PathBuf,
    /// Whether connections of newly blocked addresses are cut.
    pub kill_states: bool,
}

/// One table of one firewall. Which one is written in the firewall's `authorized_keys`.
#[derive(Debug)]
pub struct Ssh {
    target: String,
    options: SshOptions,
}

impl Ssh {
    /// Gets ready for the firewall; asks nothing yet.
    pub fn open(target: &str, options: &SshOptions) -> Result<Self, BouncerError> {
        for (what, path) in [("key", &options.identity), ("known hosts", &options.known_hosts)] {
            if let Err(error) = std::fs::metadata(path) {
                return Err(BouncerError::Setup(format!("cannot use the {what} in `{}`: {error}", path.display())));
            }
        }
        Ok(Self { target: target.to_owned(), options: options.clone() })
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new("ssh");
        let SshOptions { destination, port, identity, known_hosts, control, .. } = &self.options;
        command.args(["-F", "none", "-T", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
        command.args(["-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=3", "-o", "ServerAliveInterval=5"]);
        command.args(["-o", "ServerAliveCountMax=2", "-o", "ControlMaster=auto", "-o", "ControlPersist=120"]);
        command.args(["-o", "LogLevel=ERROR", "-o", "ClearAllForwardings=yes"]);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
        command.arg("-o").arg(format!("ControlPath={}", control.join("%C").display()));
        command.arg("-i").arg(identity).arg("-p").arg(port.to_string());
        command.arg("--").arg(destination).arg(verb);
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Lets the firewall do `verb` with `nets`: what it says.
    async fn run(&self, verb: &str, nets: &[IpNet], patience: Duration) -> Result<String, BouncerError> {
        let failed = |reason: String| BouncerError::unreachable(&self.target, reason);
        let mut child = self.command(verb).spawn().map_err(|error| {
            BouncerError::Setup(format!("cannot run `ssh`: {error}\nhint: install an OpenSSH client"))
        })?;
        let input: String = nets.iter().flat_map(|net| [display_net(*net), "\n".to_owned()]).collect();
        let mut stdin = child.stdin.take();
        let talking = async {
            let writing = async {
                if let Some(stdin) = &mut stdin {
                    // a script that refuses early closes its input; what it has to say is in its errors
                    let _ = stdin.write_all(input.as_bytes()).await;
                }
                drop(stdin);
            };
            let (output, ()) = tokio::join!(child.wait_with_output(), writing);
            output
        };
        let output = tokio::time::timeout(patience, talking)
            .await
            .map_err(|_| failed("timed out".to_owned()))?
            .map_err(|error| failed(error.to_string()))?;
        if output.stdout.len() > MAX_ANSWER {
            return Err(BouncerError::unusable(&self.target, "its answer is too long"));
        }
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let refused = ["Permission denied", "Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED"];
        let refused = refused.iter().any(|words| said.contains(words));
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        let says: String = last.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        Err(match output.status.code() {
            Some(NO_CONNECTION) if refused => BouncerError::unauthorised(&self.target, says),
            Some(NOT_UNDERSTOOD | NO_ADDRESS) => {
                BouncerError::unusable(&self.target, format!("its script says: {says}"))
            }
            _ if said.contains("Table does not exist") => BouncerError::unusable(
                &self.target,
                "the table is not there: no rule uses it, so nothing is blocked\nhint: add a block rule with its alias",
            ),
            _ => failed(says),
        })
    }
}

impl List for Ssh {
    fn name(&self) -> &'static str {
        "pfsense-ssh"
    }

    fn caps(&self) -> Caps {
        ssh_caps()
    }

    /// The table comes with the rule that uses it, which is the operator's.
    async fn prepare(&mut self) -> Result<(), BouncerError> {
        std::fs::create_dir_all(&self.options.control)
            .map_err(|source| BouncerError::File { path: self.options.control.clone(), source })
    }

    async fn read(&mut self, _: &Nets) -> Result<There, BouncerError> {
        let shown = self.run("show", &[], TOTAL).await?;
        Ok(There { ours: parse_all(shown.lines()).into_iter().collect(), others: BTreeSet::new() })
    }

    async fn write(&mut self, edits: &Edits, all: &Nets) -> Result<Written, BouncerError> {
        if edits.add.len() + edits.remove.len() >= REPLACES {
            self.run("replace", &all.sorted(), WHOLE).await?;
        } else {
            for nets in edits.add.chunks(BATCH) {
                self.run("add", nets, TOTAL).await?;
            }
            for nets in edits.remove.chunks(BATCH) {
                self.run("delete", nets, TOTAL).await?;
            }
        }
        if self.options.kill_states && !edits.add.is_empty() {
            let some = edits.add.get(..KILLS.min(edits.add.len())).unwrap_or_default();
            // the block holds for new connections without it
            if let Err(error) = self.run("kill", some, TOTAL).await {
                warn!(target = self.target, %error, "cannot cut connections of blocked addresses");
            }
        }
        Ok(Written::default())
    }

    /// The table stays, because a rule uses it; it is emptied.
    async fn remove(&mut self) -> Result<(), BouncerError> {
        self.run("replace", &[], WHOLE).await.map(drop)
    }
}

/// What a table can do.
pub(crate) fn ssh_caps() -> Caps {
    Caps {
        max_entries: 200_000,
        batch: BATCH,
        window: Duration::from_millis(200),
        look: Duration::from_mins(1),
        ..Caps::REMOTE
    }
}
