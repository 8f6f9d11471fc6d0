//! `cordon pki`: the site's own certificates. Needs no running process; one that reads the files sees what changes.

use std::path::Path;

use anyhow::Context;
use api::pki::{Authority, Issued, Request, Role};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::accounts::confirm;
use crate::args::{CertificateRole, Format, Global, Pki, PkiCommand};
use crate::backup::give_to_owner;
use crate::config::Config;
use crate::output::{self, Rows};
use crate::remote;

pub(crate) fn run(global: &Global, args: &Pki) -> anyhow::Result<()> {
    manage(global, args)?;
    if args.dir.is_none() {
        // root makes them, and the service, which seldom is root, must read them
        give_to_owner(&Config::load(global)?.state);
    }
    Ok(())
}

fn manage(global: &Global, args: &Pki) -> anyhow::Result<()> {
    let folder = match &args.dir {
        Some(folder) => folder.clone(),
        None => Config::load(global)?.state.join("pki"),
    };
    let now = Timestamp::now();
    match &args.command {
        PkiCommand::Init { site } => {
            let authority = Authority::init(&folder, site, now)?;
            remote::note(global, "pki.init", site);
            let (certificate, list) = (authority.certificate_path(), authority.list_path());
            match global.output {
                Format::Json => output::json(&json!({ "certificate": certificate, "revocation_list": list })),
                Format::Human | Format::Raw => output::line(&format!(
                    "authority: {}\nrevocation list: {}\n\nKeep the folder safe: who has its key can make anybody an administrator.",
                    certificate.display(),
                    list.display()
                )),
            }
        }
        PkiCommand::Issue { name, role, hosts, lifetime } => {
            let mut authority = Authority::open(&folder)?;
            let role = match role {
                CertificateRole::Agent => Role::Agent,
                CertificateRole::Bouncer => Role::Bouncer,
                CertificateRole::Admin => Role::Admin,
                CertificateRole::Server => Role::Server,
            };
            let issued = authority.issue(&Request { name, role, hosts, lifetime: *lifetime }, now)?;
            remote::note(global, "pki.issue", &noted(&issued));
            print_issued(global, &authority, &issued)
        }
        PkiCommand::Renew { name, lifetime } => {
            let mut authority = Authority::open(&folder)?;
            let issued = authority.renew(name, *lifetime, now)?;
            // the list has a date too, and who renews comes by now and then
            authority.write_list(now)?;
            remote::note(global, "pki.renew", &noted(&issued));
            print_issued(global, &authority, &issued)
        }
        PkiCommand::Revoke { name } => {
            let count = Authority::open(&folder)?.revoke(name, now)?;
            remote::note(global, "pki.revoke", name);
            let many = if count == 1 { "1 certificate".to_owned() } else { format!("{count} certificates") };
            confirm(global, &format!("{many} of `{name}` revoked"))
        }
        PkiCommand::List => list(global, &folder, now),
    }
}

/// A certificate as the audit trail names it.
fn noted(issued: &Issued) -> String {
    format!("{} ({}) {} until {:.0}", issued.name, issued.role, issued.serial, issued.ends)
}

fn print_issued(global: &Global, authority: &Authority, issued: &Issued) -> anyhow::Result<()> {
    let (certificate, key) = authority.files(&issued.name);
    match global.output {
        Format::Json => output::json(&with_files(issued, &certificate, &key)?),
        Format::Human | Format::Raw => output::line(&format!(
            "certificate: {}\nkey: {}\ngood until: {:.0}",
            certificate.display(),
            key.display(),
            issued.ends
        )),
    }
}

fn with_files(issued: &Issued, certificate: &Path, key: &Path) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(issued).context("cannot print as JSON")?;
    value["certificate"] = json!(certificate);
    value["key"] = json!(key);
    Ok(value)
}

fn list(global: &Global, folder: &Path, now: Timestamp) -> anyhow::Result<()> {
    let authority = Authority::open(folder)?;
    let state = |issued: &Issued| match issued.revoked {
        Some(at) => format!("revoked {at:.0}"),
        None if issued.ends <= now => "over".to_owned(),
        None => "good".to_owned(),
    };
    let cells = |issued: &Issued| {
        let ends = format!("{:.0}", issued.ends);
        vec![issued.name.clone(), issued.role.to_string(), ends, state(issued), issued.serial.clone()]
    };
    let rows = authority.issued().iter().map(cells).collect();
    match global.output {
        Format::Json => output::json(&authority.issued()),
        Format::Raw => Rows { columns: &["name", "role", "ends", "state", "serial"], rows }.raw(),
        Format::Human => {
            Rows { columns: &["Name", "Role", "Good until", "State", "Serial"], rows }.human("no certificates")
        }
    }
}
