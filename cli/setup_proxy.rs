//! `cordon bouncer setup traefik|caddy|nginx`: what to paste, and whether it can work.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{anyhow, bail};
use bouncers::config::Kind;
use bouncers::forward::config::Config as Forward;
use bouncers::forward::setup::{Proxy, notes, sample};
use bouncers::serve::config::On;
use serde::Serialize;

use crate::args::{Format, Global, SetupProxy};
use crate::config::Config;
use crate::output;

/// How long our own service may take to take a connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// What there is to say.
#[derive(Debug, Serialize)]
struct Advice {
    /// The text for the proxy's configuration.
    paste: String,
    /// What to do besides, and what to know.
    notes: Vec<&'static str>,
    /// What was looked at.
    checks: Vec<Checked>,
}

/// One look, and what it found.
#[derive(Debug, Serialize)]
struct Checked {
    good: bool,
    found: String,
}

/// Says how to connect `proxy`.
pub(crate) fn run(global: &Global, proxy: Proxy, args: &SetupProxy) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let forward = target(&config, args.target.as_deref())?;
    let profile = profile(forward, args.profile.as_deref())?;
    let paste = sample(forward, proxy, profile, args.open)?;
    let identity = forward.profiles.get(profile).is_some_and(|profile| profile.identity.is_some());
    let advice = Advice { paste, notes: notes(proxy, identity, args.open), checks: checks(proxy, forward) };
    match global.output {
        Format::Json | Format::Raw => output::json(&advice),
        Format::Human => {
            output::line(advice.paste.trim_end())?;
            output::line("")?;
            for note in &advice.notes {
                output::line(&format!("note    {note}"))?;
            }
            for Checked { good, found } in &advice.checks {
                output::line(&format!("{}  {found}", if *good { "good  " } else { "wrong " }))?;
            }
            let plan = if args.plan { "" } else { " (with or without --plan)" };
            output::line(&format!("nothing was written{plan}: paste the text above into the proxy's configuration"))
        }
    }
}

/// The target that proxies ask: the one called `name`, or the only one.
fn target<'a>(config: &'a Config, name: Option<&str>) -> anyhow::Result<&'a Forward> {
    let all: Vec<(&str, &Forward)> = config
        .enforcement
        .targets
        .iter()
        .filter_map(|target| match &target.kind {
            Kind::ForwardAuth(forward) => Some((target.settings.name.as_str(), forward)),
            _ => None,
        })
        .collect();
    let known: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    match (name, all.as_slice()) {
        (Some(name), all) => {
            let found = all.iter().find(|(known, _)| *known == name).map(|(_, forward)| *forward);
            found.ok_or_else(|| anyhow!("there is no target `{name}` with a section `forward-auth`, only {known:?}"))
        }
        (None, [(_, only)]) => Ok(only),
        (None, []) => bail!(
            "nothing answers reverse proxies yet\nhint: put this into the configuration, then run this again\n\
             enforcement:\n  targets:\n    - forward-auth:\n        listen: unix:/run/cordon/forward.sock\n        \
             profiles:\n          web: {{}}\n          nginx: {{ proxy: nginx }}"
        ),
        (None, _) => bail!("there are several, expected --target with one of {known:?}"),
    }
}

fn profile<'a>(forward: &'a Forward, name: Option<&'a str>) -> anyhow::Result<&'a str> {
    let mut names = forward.profiles.keys().map(String::as_str);
    match (name, names.next(), names.next()) {
        (Some(name), ..) | (None, Some(name), None) => Ok(name),
        _ => {
            let names: Vec<&String> = forward.profiles.keys().collect();
            bail!("there are several profiles, expected --profile with one of {names:?}")
        }
    }
}

fn checks(proxy: Proxy, forward: &Forward) -> Vec<Checked> {
    let mut checks = vec![program(proxy), answers(forward)];
    if let On::Unix(path) = &forward.listen.on {
        checks.push(reachable(path));
    }
    checks
}

/// Whether the proxy is here and knows how to ask.
fn program(proxy: Proxy) -> Checked {
    let (name, arguments, knows): (_, &[&str], _) = match proxy {
        Proxy::Nginx => ("nginx", &["-V"], "--with-http_auth_request_module"),
        Proxy::Caddy => ("caddy", &["adapt", "--adapter", "caddyfile", "--config", "/dev/stdin"], "forward_auth"),
        Proxy::Traefik => ("traefik", &["version"], "Version:"),
    };
    let Some(path) = find(name) else {
        return Checked {
            good: false,
            found: format!("there is no `{name}` on this host: what it can do was not looked at"),
        };
    };
    let said = if proxy == Proxy::Caddy {
        adapt(&path, arguments)
    } else {
        let output = Command::new(&path).args(arguments).stdin(Stdio::null()).output();
        output.map(|output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    match said {
        Ok(said) if said.contains(knows) => Checked { good: true, found: format!("`{}` can ask", path.display()) },
        Ok(_) => Checked { good: false, found: format!("`{}` cannot ask: it lacks `{knows}`", path.display()) },
        Err(error) => Checked { good: false, found: format!("cannot run `{}`: {error}", path.display()) },
    }
}

/// What Caddy makes of a directive: `forward_auth` if it knows it.
fn adapt(path: &Path, arguments: &[&str]) -> std::io::Result<String> {
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        std::io::Write::write_all(&mut input, b":1 {\n\tforward_auth :2 {\n\t\turi /\n\t}\n}\n")?;
    }
    let output = child.wait_with_output()?;
    Ok(if output.status.success() { "forward_auth".to_owned() } else { String::new() })
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/usr/local/bin"]);
    folders.map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
}

/// Whether somebody takes connections where proxies will ask.
fn answers(forward: &Forward) -> Checked {
    let on = &forward.listen.on;
    let connected = match on {
        On::Unix(path) => UnixStream::connect(path).map(drop),
        On::Tcp(address) => {
            let mut address: SocketAddr = *address;
            match address {
                SocketAddr::V4(found) if found.ip().is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                SocketAddr::V6(found) if found.ip().is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            TcpStream::connect_timeout(&address, PATIENCE).map(drop)
        }
    };
    match connected {
        Ok(()) => Checked { good: true, found: format!("somebody answers at `{on}`") },
        Err(error) => Checked { good: false, found: format!("nobody answers at `{on}` ({error}): start `cordon run`") },
    }
}

/// Who may use the socket.
fn reachable(path: &Path) -> Checked {
    let Ok(meta) = std::fs::metadata(path) else {
        return Checked { good: false, found: format!("there is no socket `{}` yet", path.display()) };
    };
    let (mode, group) = (meta.permissions().mode() & 0o777, meta.gid());
    let name = group_name(group, &std::fs::read_to_string("/etc/group").unwrap_or_default());
    let name = name.unwrap_or_else(|| group.to_string());
    let found = format!(
        "`{}` can be used by its owner and the group `{name}` (mode {mode:o}): the proxy's user must be in it",
        path.display()
    );
    Checked { good: mode & 0o060 == 0o060, found }
}

fn group_name(id: u32, groups: &str) -> Option<String> {
    let mut lines = groups.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}
