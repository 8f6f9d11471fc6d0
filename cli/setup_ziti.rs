//! `cordon bouncer setup ziti`: is a network ready to be driven, and what has a person to do there? Writes nothing.

use std::fmt::Write;

use anyhow::{Context, bail};
use bouncers::config::Kind;
use bouncers::engine::host;
use bouncers::engine::rails::Rails;
use bouncers::ziti::setup::{self, Finding};
use jiff::Timestamp;
use model::AllowSet;
use serde_json::json;

use crate::args::{Format, Global};
use crate::config::Config;
use crate::output::{self, printable};
use crate::run;

/// What a configuration begins with that names no Ziti network yet.
const ZITI: &str = "no target of the kind `ziti` is configured
hint: make an identity for Cordon, enrol it, and name its file:
    ziti edge create identity cordon --admin -o cordon.jwt
    ziti edge enroll cordon.jwt -o /etc/cordon/ziti.json
  then in the configuration, and ask again:
    enforcement:
      targets:
        - mode: dry-run
          ziti: {identity: /etc/cordon/ziti.json}";

pub(crate) fn run(global: &Global, name: Option<&str>) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let targets = config.enforcement.all(&config.state);
    let wanted = |known: &str| name.is_none_or(|name| name == known);
    let networks: Vec<_> = targets
        .iter()
        .filter(|target| wanted(&target.settings.name))
        .filter_map(|target| match &target.kind {
            Kind::Ziti(options) => Some((&target.settings, options)),
            _ => None,
        })
        .collect();
    if networks.is_empty() {
        bail!(ZITI);
    }
    let allow = AllowSet::new(run::configured_entries(&config));
    let own = host::own_addresses().context("cannot list this host's own addresses")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let now = Timestamp::now();
    let mut told = Vec::new();
    for (settings, options) in networks {
        let spared: Vec<_> = own.iter().chain(&settings.never).cloned().collect();
        let rails = Rails::new(settings.limits, &allow, &spared, now);
        let findings = runtime.block_on(setup::examine(options, |address| rails.spares(address, now).is_some()));
        told.push((settings.name.clone(), findings));
    }
    let bad = told.iter().flat_map(|(_, findings)| findings).filter(|finding| !finding.good).count();
    match global.output {
        Format::Json => {
            let targets = told.iter().map(|(name, findings)| json!({ "target": name, "findings": findings }));
            output::json(&json!({ "targets": targets.collect::<Vec<_>>(), "to_do": bad }))?;
        }
        Format::Human | Format::Raw => output::text(&report(&told))?,
    }
    if bad > 0 {
        bail!("{bad} of these must be done before the network can be driven");
    }
    Ok(())
}

fn report(told: &[(String, Vec<Finding>)]) -> String {
    let mut text = String::new();
    for (name, findings) in told {
        let mut line = |line: &str| writeln!(text, "{line}").expect("text takes any length");
        line(&format!("{}:", printable(name)));
        for finding in findings {
            let mark = if finding.good { "ok " } else { "TO DO" };
            line(&format!("  {mark:5}  {}", printable(&finding.found)));
            for part in finding.remedy.iter().flat_map(|remedy| remedy.lines()) {
                line(&format!("         -> {}", printable(part.trim_start())));
            }
        }
        line(
            "  Addresses are blocked by the firewall of the hosts that controllers and routers run on, not by routers:",
        );
        line("  let Cordon enforce on those hosts too. Nothing was written.");
    }
    text
}
