//! `cordon bouncer setup pfsense|pfsense-ssh|opnsense|proxmox`: looks whether a firewall can be driven, says what has to
//! be clicked or pasted there, and makes what can be made through its API.

use std::fmt::Write;

use anyhow::{Context, bail};
use bouncers::BouncerError;
use bouncers::config::{Kind, TargetConfig};
use bouncers::engine::Difference;
use bouncers::pfsense::ssh::SCRIPT;
use serde_json::json;

use crate::args::{Format, Global, SetupList};
use crate::bouncer;
use crate::config::Config;
use crate::output::{self, printable};

/// A kind of target that holds a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firewall {
    PfSense,
    PfSenseSsh,
    OpnSense,
    Proxmox,
}

impl Firewall {
    fn word(self) -> &'static str {
        match self {
            Self::PfSense => "pfsense",
            Self::PfSenseSsh => "pfsense_ssh",
            Self::OpnSense => "opnsense",
            Self::Proxmox => "proxmox",
        }
    }

    /// What the configuration of such a target looks like.
    fn example(self) -> &'static str {
        match self {
            Self::PfSense => {
                "pfsense: {url: https://192.0.2.1, ca: /etc/cordon/fw-ca.pem, key_file: /etc/cordon/fw.key}"
            }
            Self::PfSenseSsh => {
                "pfsense_ssh: {destination: cordon@192.0.2.1, identity: /etc/cordon/fw, known_hosts: /etc/cordon/fw-hosts}"
            }
            Self::OpnSense => {
                "opnsense: {url: https://192.0.2.1, ca: /etc/cordon/fw-ca.pem, key_file: /etc/cordon/fw.key, \
                 secret_file: /etc/cordon/fw.secret}"
            }
            Self::Proxmox => {
                "proxmox: {urls: [https://192.0.2.11:8006, https://192.0.2.12:8006], ca: /etc/cordon/pve-ca.pem, \
                 token_file: /etc/cordon/pve.token}"
            }
        }
    }

    /// What a person has to do, because no API can.
    fn by_hand(self) -> &'static str {
        match self {
            Self::PfSense => {
                "1. System > Package Manager: install the REST API package (an unofficial one).\n\
                 2. System > User Manager: make a user `cordon` with these privileges and no others:\n   \
                 api-v2-firewall-aliases-get, api-v2-firewall-alias-get, -post, -patch, api-v2-firewall-apply-get, -post,\n   \
                 api-v2-diagnostics-table-get; with `kill_states` also api-v2-firewall-states-delete.\n\
                 3. System > REST API > Keys: make a key as that user; put it into the `key_file`.\n\
                 4. Run this without --plan: it makes the alias.\n\
                 5. Firewall > Rules > Floating: a rule `block`, quick, direction in, interface WAN, source = the alias,\n   \
                 below a `pass` rule, quick, for your own addresses. Without a rule nothing is blocked.\n\
                 More than 2,000 entries do not belong here: serve a `feed` and let a URL table fetch it.\n"
            }
            Self::PfSenseSsh => {
                "1. Firewall > Aliases > URLs: a URL table (IPs) with the name of the table, fed by a `feed` target: after a\n   \
                 reload of the filter the firewall falls back to it.\n\
                 2. Firewall > Rules > Floating: a rule `block`, quick, direction in, interface WAN, source = that alias,\n   \
                 below a `pass` rule, quick, for your own addresses. Without a rule there is no table.\n\
                 3. Make a key: `ssh-keygen -t ed25519 -N '' -f /etc/cordon/fw`, and put the firewall's own public key into the\n   \
                 `known_hosts` file (compare it at the console).\n\
                 4. Put the script below onto the firewall as /root/cordon-pf.sh, mode 0700, and this line into the\n   \
                 authorized_keys of a user that may run pfctl:\n   \
                 restrict,command=\"/root/cordon-pf.sh cordon_ban\" ssh-ed25519 AAAA...\n"
            }
            Self::OpnSense => {
                "1. System > Access > Users: make a user `cordon` with the privilege `Firewall: Alias: Edit` and no other, and an\n   \
                 API key; put its two halves into `key_file` and `secret_file`.\n\
                 2. Run this without --plan: it makes the alias, of type External (advanced).\n\
                 3. Firewall > Rules > Floating: a rule `block`, quick, direction in, interface WAN, source = the alias,\n   \
                 below a `pass` rule, quick, for your own addresses. Without a rule nothing is blocked.\n\
                 Every entry is a call of its own: serve a `feed` for long lists, and give this target `except_origins`.\n"
            }
            Self::Proxmox => {
                "1. Datacenter > Permissions: a role with `Sys.Audit` and `Sys.Modify`, a user `cordon@pve`, a token of his with\n   \
                 privilege separation, and that role for the token on the path `/`. There is no finer right: where that is\n   \
                 too much, run Cordon with nftables on each host instead.\n\
                 2. Put `cordon@pve!TOKEN=UUID` into the `token_file`.\n\
                 3. Run this without --plan: it makes the set, and the rule that drops what is in it.\n\
                 4. Datacenter > Firewall > Options: the firewall must be on, and on at each host.\n\
                 5. Rules of the cluster protect its hosts. For guests, use the set in a security group of your own.\n\
                 Connections that are open when somebody is blocked stay open where the hosts filter with iptables.\n"
            }
        }
    }

    fn is(self, kind: &Kind) -> bool {
        kind.word() == self.word()
    }
}

pub(crate) fn run(global: &Global, firewall: Firewall, args: &SetupList) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let mut targets: Vec<TargetConfig> = config.enforcement.all(&config.state);
    targets.retain(|target| firewall.is(&target.kind));
    if let Some(name) = &args.target {
        targets.retain(|target| target.settings.name == *name);
    }
    if targets.is_empty() {
        bail!(
            "no such target is configured\n\
             hint: what has to be done there first:\n\n{}\nthen add to the configuration, and ask again:\n\n\
             enforcement:\n  targets:\n    - mode: dry-run\n      {}",
            firewall.by_hand(),
            firewall.example()
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let mut told = Vec::new();
    for target in &targets {
        let outcome = runtime.block_on(examine(&config, target, args.plan));
        told.push((target, outcome));
    }
    let well = told.iter().all(|(_, outcome)| outcome.as_ref().is_ok_and(|difference| difference.structure.is_empty()));
    match global.output {
        Format::Json | Format::Raw => {
            let told: Vec<_> = told
                .iter()
                .map(|(target, outcome)| match outcome {
                    Ok(difference) => json!({ "target": target.settings.name, "missing": difference.structure }),
                    Err(error) => json!({ "target": target.settings.name, "error": format!("{error:#}") }),
                })
                .collect();
            output::json(&told)?;
        }
        Format::Human => {
            let mut text = String::from(firewall.by_hand());
            // writing to a String cannot fail, here and below
            let _ = writeln!(text);
            for (target, outcome) in &told {
                let name = &target.settings.name;
                let most = target.caps().max_entries.min(target.settings.room.unwrap_or(usize::MAX));
                let _ = match outcome {
                    Ok(difference) if difference.structure.is_empty() => {
                        writeln!(text, "{name}: answers, may be read, and has what it needs; it takes {most} entries")
                    }
                    Ok(difference) => writeln!(text, "{name}: {}", printable(&difference.structure.join("; "))),
                    Err(error) => writeln!(text, "{name}: {}", printable(&format!("{error:#}"))),
                };
            }
            if firewall == Firewall::PfSenseSsh {
                let _ = writeln!(text, "\n{SCRIPT}");
            }
            output::line(text.trim_end())?;
        }
    }
    if well { Ok(()) } else { Err(bouncer::Differs.into()) }
}

/// Looks at the target, after making what can be made there unless this is only a plan.
async fn examine(config: &Config, target: &TargetConfig, plan: bool) -> anyhow::Result<Difference> {
    if !plan {
        match target.connect()?.prepare().await {
            Ok(()) => {}
            Err(error @ BouncerError::Unusable { .. }) => {
                return Ok(Difference { structure: vec![error.to_string()], ..Difference::default() });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Box::pin(bouncer::compare(config, target, &[])).await
}
