//! The interfaces where packets must be looked at as they arrive.
//!
//! What a bridge passes on, and what a flowtable takes, never gets to prerouting. So the ports of bridges that lead
//! out of this host, and every interface of every flowtable, get a chain of their own.

use std::collections::BTreeSet;
use std::io;

use serde::Serialize;

use crate::engine::host::{answers, ask_kernel};
use crate::nftables::netlink::{
    Connection, DUMP, Kind, Message, NetlinkError, REQUEST, attributes, envelope, number32, seal, string,
};

/// Where packets are looked at besides prerouting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ingress {
    /// At the ports of bridges that lead out of this host, and at the interfaces of flowtables.
    #[default]
    Auto,
    /// At these interfaces, and at those of flowtables.
    Devices(Vec<String>),
    /// Nowhere.
    Off,
}

/// An interface as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    name: String,
    /// `veth`, `bond`, ...; a network card has none.
    kind: String,
    /// What it is a part of: `bridge`, ...
    part_of: String,
}

/// What a look at the flowtables of all programs found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flowtables {
    /// Their interfaces.
    pub devices: BTreeSet<String>,
    /// Whether the network card itself does the work of one of them, so that no chain sees the packets.
    pub in_hardware: bool,
}

/// The interfaces that exist and should have the chain, in order, and what is known of flowtables.
pub fn wanted(connection: &mut Connection, ingress: &Ingress) -> Result<(Vec<String>, Flowtables), NetlinkError> {
    if *ingress == Ingress::Off {
        return Ok((Vec::new(), Flowtables::default()));
    }
    let flowtables = flowtables(connection)?;
    let links = links().map_err(|source| NetlinkError::Socket { what: "list of interfaces", source })?;
    Ok((choose(&links, &flowtables.devices, ingress), flowtables))
}

fn choose(links: &[Link], flowing: &BTreeSet<String>, ingress: &Ingress) -> Vec<String> {
    // These lead to guests and containers of this host, which come and go; a bridge's way out is none of them.
    const INSIDE: [&str; 4] = ["veth", "tun", "dummy", "bridge"];
    let wanted = |link: &&Link| match ingress {
        Ingress::Off => false,
        _ if flowing.contains(&link.name) => true,
        Ingress::Devices(names) => names.contains(&link.name),
        Ingress::Auto => link.part_of == "bridge" && !INSIDE.contains(&link.kind.as_str()),
    };
    let names: BTreeSet<String> = links.iter().filter(wanted).map(|link| link.name.clone()).collect();
    names.into_iter().collect()
}

fn flowtables(connection: &mut Connection) -> Result<Flowtables, NetlinkError> {
    const HARDWARE: u32 = 1;
    let answers = connection.get_of_any_family(Kind::GetFlowtable)?;
    let mut found = Flowtables::default();
    for (kind, value) in answers.iter().flat_map(|answer| attributes(answer)) {
        match kind {
            3 => {
                let devices = attributes(value).filter(|&(kind, _)| kind == 3).flat_map(|(_, list)| attributes(list));
                found.devices.extend(devices.map(|(_, name)| string(name)));
            }
            7 => found.in_hardware |= number32(value).is_some_and(|flags| flags & HARDWARE != 0),
            _ => {}
        }
    }
    Ok(found)
}

fn links() -> io::Result<Vec<Link>> {
    const GET_LINK: u16 = 18;
    let socket = ask_kernel()?;
    let mut request = Vec::new();
    envelope(&mut request, GET_LINK, REQUEST | DUMP, 1);
    request.extend([0; 16]);
    seal(&mut request, 0);
    socket.send(&request, 0)?;
    answers(&socket, link)
}

fn link(message: &Message<'_>) -> Option<Link> {
    const NAME: u16 = 3;
    const INFO: u16 = 18;
    let body = message.payload.get(16..)?;
    let mut link = Link { name: String::new(), kind: String::new(), part_of: String::new() };
    for (kind, value) in attributes(body) {
        match kind {
            NAME => link.name = string(value),
            INFO => {
                for (kind, value) in attributes(value) {
                    match kind {
                        1 => link.kind = string(value),
                        4 => link.part_of = string(value),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_out_of_bridges_and_flowtables_are_chosen() {
        let link = |name: &str, kind: &str, part_of: &str| Link {
            name: name.into(),
            kind: kind.into(),
            part_of: part_of.into(),
        };
        let links = [
            link("lo", "", ""),
            link("eno1", "", "bridge"),
            link("eno2", "", ""),
            link("bond0", "bond", "bridge"),
            link("vmbr0", "bridge", ""),
            link("tap100i0", "tun", "bridge"),
            link("veth1", "veth", "bridge"),
            link("veth2", "veth", ""),
        ];
        // (ingress, interfaces of flowtables, chosen)
        let devices = |names: &[&str]| Ingress::Devices(names.iter().map(ToString::to_string).collect());
        let cases: [(Ingress, &[&str], &[&str]); 5] = [
            (Ingress::Auto, &[], &["bond0", "eno1"]),
            (Ingress::Auto, &["eno2", "veth2", "gone"], &["bond0", "eno1", "eno2", "veth2"]),
            (devices(&["veth1", "not-there"]), &[], &["veth1"]),
            (devices(&["veth1"]), &["eno2"], &["eno2", "veth1"]),
            (Ingress::Off, &["eno2"], &[]),
        ];
        for (ingress, flowing, chosen) in cases {
            let flowing = flowing.iter().map(ToString::to_string).collect();
            assert_eq!(choose(&links, &flowing, &ingress), chosen, "{ingress:?}");
        }
    }

    #[test]
    fn loopback_is_among_the_links() {
        assert!(links().expect("the kernel answers").iter().any(|link| link.name == "lo"));
    }
}
