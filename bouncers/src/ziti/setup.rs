//! Looks whether a Ziti network is ready to be driven, and says what a person has to do there. Writes nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, ToSocketAddrs};

use serde::Serialize;

use super::api::{Api, ApiError, Sessions};
use super::config::{Options, Protocol};
use super::wire::{ControllerDetail, EdgeRouter, Identity};

/// What a driver needs at a controller of 2.0 and later that is no administrator.
const RIGHTS: [&str; 3] = ["identity.read", "identity.update", "ops"];

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it is as it should be.
    pub good: bool,
    /// What was found.
    pub found: String,
    /// What to do, where something is to be done or worth knowing.
    pub remedy: Option<String>,
}

impl Finding {
    fn good(found: impl Into<String>) -> Self {
        Self { good: true, found: found.into(), remedy: None }
    }

    fn bad(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { good: false, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn but(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

/// Looks at the network that `options` name. `spared` says whether an address is never blocked on this host.
pub async fn examine(options: &Options, spared: impl Fn(IpAddr) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut api = match options.open() {
        Ok(api) => api,
        Err(error) => return vec![Finding::bad(error.to_string(), "put the files in place that the target names")],
    };
    if let Err(error) = look(&mut api, options, &spared, &mut findings).await {
        findings.push(Finding::bad(error.to_string(), remedy(&error, options)));
    }
    for path in &options.events {
        findings.push(match std::fs::File::open(path) {
            Ok(_) => Finding::good(format!("events are read from `{}`", path.display())),
            Err(error) => Finding::bad(
                format!("cannot read events from `{}`: {error}", path.display()),
                "let the controller write its events there (`docs/openziti.md` says how), readable for Cordon",
            ),
        });
    }
    findings
}

async fn look(
    api: &mut Api,
    options: &Options,
    spared: &impl Fn(IpAddr) -> bool,
    findings: &mut Vec<Finding>,
) -> Result<(), ApiError> {
    let version = api.version().await?.version;
    let major: u32 = version.trim_start_matches('v').split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    findings.push(match major {
        2.. => Finding::good(format!("the controllers run {version}: routers close what a disabled identity has open")),
        _ => Finding::good(format!("the controllers run {version}"))
            .but("tokens outlive a disable for up to 30 minutes here; Cordon cuts their circuits every two seconds"),
    });
    let me = api.me().await?;
    findings.push(rights(&me, major));
    if options.password.is_some() {
        findings.push(Finding::good("the login is a password").but(
            "whoever fails often enough under that name locks Cordon out; an enrolled identity (`identity:`) cannot be locked",
        ));
    }
    if options.protocol == Protocol::Session && major >= 3 {
        findings.push(Finding::bad("`login: session` is not known to this controller", "set `login: oidc`"));
    }
    for (what, outcome) in
        [("sessions", api.sessions(Sessions::Of(&me.id)).await.map(drop)), ("circuits", api.circuits().await.map(drop))]
    {
        findings.push(match outcome {
            Ok(()) => Finding::good(format!("{what} can be listed")),
            Err(error) if error.is_of_item() => Finding::bad(format!("{what} cannot be listed: {error}"), grant(&me)),
            Err(error) => return Err(error),
        });
    }
    for name in &options.protect {
        findings.push(match api.find(name).await {
            Ok(identity) => Finding::good(format!("`{name}` is protected: {} ({})", identity.name, identity.id)),
            Err(ApiError::NotFound) => {
                Finding::bad(format!("`{name}` is to be protected, but there is no such identity"), "correct `protect`")
            }
            Err(error) => return Err(error),
        });
    }
    let controllers = api.known_controllers().await.unwrap_or_default();
    let routers = api.routers().await?;
    let hosts = hosts(&options.controllers, &controllers, &routers);
    for host in hosts {
        findings.push(host.finding(spared));
    }
    Ok(())
}

fn remedy(error: &ApiError, options: &Options) -> String {
    match error {
        ApiError::Unreachable { reason, .. } if reason.contains("certificate") => {
            "the controller shows a certificate of another authority: use that of its own network, \
             from `https://CONTROLLER/.well-known/est/cacerts` or from the file of an enrolled identity"
                .to_owned()
        }
        ApiError::Unreachable { .. } => format!("let this host reach {}", options.controllers.join(" or ")),
        ApiError::Unauthorised { .. } => {
            "make an identity for Cordon, enrol it, and name its file as `identity`:\n    \
             ziti edge create identity cordon --admin -o cordon.jwt\n    ziti edge enroll cordon.jwt -o ziti.json"
                .to_owned()
        }
        _ => "see `docs/openziti.md`".to_owned(),
    }
}

fn grant(me: &Identity) -> String {
    format!("grant {} to the identity `{}`, or make it an administrator", RIGHTS.join(", "), me.name)
}

fn rights(me: &Identity, major: u32) -> Finding {
    let who = format!("we are the identity `{}`", me.name);
    if me.is_default_admin {
        return Finding::good(format!("{who}, the default administrator"))
            .but("an identity of its own shows in the controller's log who did what");
    }
    if me.is_admin {
        let finding = Finding::good(format!("{who}, an administrator"));
        return if major >= 2 {
            finding.but(format!(
                "{} would do, and could not touch administrators; only sessions of the newer kind need more",
                RIGHTS.join(", ")
            ))
        } else {
            finding
        };
    }
    if major < 2 {
        return Finding::bad(
            format!("{who}, no administrator"),
            "before 2.0 only an administrator may disable identities",
        );
    }
    let held = me.permissions.clone().unwrap_or_default();
    let has = |right: &str| {
        held.iter().any(|held| held == right || right.split_once('.').is_some_and(|(whole, _)| held == whole))
    };
    let missing: Vec<&str> = RIGHTS.into_iter().filter(|right| !has(right)).collect();
    if missing.is_empty() {
        return Finding::good(format!("{who}, with all rights that are needed"));
    }
    Finding::bad(format!("{who}, without {}", missing.join(", ")), grant(me))
}

/// A host of the network.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Host {
    what: String,
    name: String,
    port: Option<u16>,
}

impl Host {
    /// Whether it is never blocked here: what comes through a router comes from its address.
    fn finding(&self, spared: &impl Fn(IpAddr) -> bool) -> Finding {
        let port = self.port.map(|port| format!(", port {port}/tcp")).unwrap_or_default();
        let found = format!("{} at {}{port}", self.what, self.name);
        let addresses: Vec<IpAddr> = match (self.name.as_str(), self.port.unwrap_or(443)).to_socket_addrs() {
            Ok(addresses) => addresses.map(|address| address.ip()).collect(),
            Err(_) => {
                return Finding::good(format!("{found}; its name is not known here"))
                    .but("see that its address is on the list `site_peers`");
            }
        };
        let open: BTreeSet<String> =
            addresses.into_iter().filter(|&address| !spared(address)).map(|address| address.to_string()).collect();
        if open.is_empty() {
            return Finding::good(format!("{found} is never blocked here"));
        }
        let open = open.into_iter().collect::<Vec<_>>().join(", ");
        Finding::bad(
            format!("{found} could be blocked here"),
            format!("add {open} to `site_peers`: most who use the network arrive from there"),
        )
    }
}

fn hosts(named: &[String], controllers: &[ControllerDetail], routers: &[EdgeRouter]) -> BTreeSet<Host> {
    let mut hosts = BTreeSet::new();
    let mut add = |what: String, url: &str| {
        let address = url.split_once("://").map_or(url, |(_, rest)| rest);
        let address = address.split('/').next().unwrap_or_default();
        let (name, port) = match address.rsplit_once(':') {
            Some((name, port)) if address.parse::<IpAddr>().is_err() => (name, port.parse().ok()),
            _ => (address, None),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        if !name.is_empty() {
            hosts.insert(Host { what, name, port });
        }
    };
    for url in named {
        add("a controller".to_owned(), url);
    }
    for controller in controllers {
        let state = if controller.is_online { "" } else { " (away)" };
        for address in controller.api_addresses.iter().flatten().flat_map(|(_, addresses)| addresses) {
            add(format!("the controller `{}`{state}", controller.name), &address.url);
        }
    }
    for router in routers {
        let state = if router.is_online { "" } else { " (away)" };
        let what = format!("the router `{}`{state}", router.name);
        match (&router.supported_protocols, &router.hostname) {
            (Some(protocols), _) if !protocols.is_empty() => {
                for url in protocols.values() {
                    add(what.clone(), url);
                }
            }
            (_, Some(host)) => add(what, host),
            _ => {}
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me(admin: bool, permissions: &[&str]) -> Identity {
        let json = serde_json::json!({
            "id": "a", "name": "cordon", "disabled": false, "isAdmin": admin, "permissions": permissions,
        });
        serde_json::from_value(json).expect("an identity")
    }

    #[test]
    fn rights_differ_by_version() {
        // (admin, permissions, major, what is wrong)
        let cases: [(bool, &[&str], u32, &str); 5] = [
            (true, &[], 1, ""),
            (false, &["identity", "ops"], 1, "we are the identity `cordon`, no administrator"),
            (false, &["identity.read", "identity.update", "ops"], 2, ""),
            (false, &["identity", "ops"], 2, ""),
            (false, &["identity.read"], 2, "we are the identity `cordon`, without identity.update, ops"),
        ];
        for (admin, permissions, major, wrong) in cases {
            let finding = rights(&me(admin, permissions), major);
            assert_eq!(if finding.good { "" } else { finding.found.as_str() }, wrong, "{permissions:?} {major}");
        }
    }

    #[test]
    fn hosts_are_told_with_their_ports() {
        let routers: Vec<EdgeRouter> = serde_json::from_value(serde_json::json!([
            { "name": "edge1", "isOnline": true, "supportedProtocols": { "tls": "tls://192.0.2.7:3022" } },
            { "name": "edge2", "isOnline": false, "hostname": "2001:db8::7" },
        ]))
        .expect("routers");
        let found = hosts(&["https://[2001:db8::1]:1280".to_owned()], &[], &routers);
        let told: Vec<String> =
            found.iter().map(|host| format!("{} {} {:?}", host.what, host.name, host.port)).collect();
        insta::assert_snapshot!(told.join("\n"), @r"
        a controller 2001:db8::1 Some(1280)
        the router `edge1` 192.0.2.7 Some(3022)
        the router `edge2` (away) 2001:db8::7 None
        ");
        let host = Host { what: "the router `edge1`".into(), name: "192.0.2.7".into(), port: Some(3022) };
        assert!(host.finding(&|_| true).good);
        insta::assert_snapshot!(host.finding(&|_| false).remedy.expect("something to do"), @"add 192.0.2.7 to `site_peers`: most who use the network arrive from there");
    }
}
