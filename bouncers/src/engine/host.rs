//! What this host must not block on itself: its own addresses, its gateways, its name servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use model::AllowEntry;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;

use crate::nftables::netlink::{
    DUMP, Message, NLMSG_DONE, NLMSG_ERROR, REQUEST, attribute, attributes, envelope, messages, seal,
};

const GET_ADDRESS: u16 = 22;
const NEW_ADDRESS: u16 = 20;
const GET_ROUTE: u16 = 26;
const NEW_ROUTE: u16 = 24;
const V4: u8 = 2;
const V6: u8 = 10;
const PATIENCE: Duration = Duration::from_secs(2);
const DATAGRAM: usize = 64 << 10;

/// The addresses of all interfaces, the gateways to the world, and the name servers in `resolv.conf`.
pub fn own_addresses() -> io::Result<Vec<AllowEntry>> {
    let socket = ask_kernel()?;
    let mut own = Vec::new();
    let mut add = |address: IpAddr, what: &str| {
        let net = IpNet::from(address.to_canonical());
        let entry = AllowEntry { net, list: "this host".into(), comment: what.to_owned(), expires: None };
        if !own.iter().any(|held: &AllowEntry| held.net == entry.net) {
            own.push(entry);
        }
    };
    socket.send(&address_request(), 0)?;
    for address in answers(&socket, address_in)? {
        add(address, "own address");
    }
    // Documentation prefixes: never routed specially, so the answer is the way to the world.
    let far: [IpAddr; 2] = [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    for destination in far {
        socket.send(&route_request(destination), 0)?;
        for gateway in answers(&socket, gateway_in)? {
            add(gateway, "gateway");
        }
    }
    // A host without the file has no name servers of its own.
    let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    for server in name_servers(&resolv) {
        add(server, "name server");
    }
    Ok(own)
}

/// A socket that asks the kernel for links, addresses and routes, and does not wait for ever.
pub(crate) fn ask_kernel() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

/// What `read` finds in the answers to one request. A refusal ends it: there is no such route.
pub(crate) fn answers<T>(socket: &Socket, read: impl Fn(&Message<'_>) -> Option<T>) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        for message in messages(&buffer) {
            if matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
                return Ok(found);
            }
            found.extend(read(&message));
            if message.kind == NEW_ROUTE {
                return Ok(found);
            }
        }
    }
}

fn address_request() -> Vec<u8> {
    let mut bytes = Vec::new();
    envelope(&mut bytes, GET_ADDRESS, REQUEST | DUMP, 1);
    bytes.extend([0; 8]);
    seal(&mut bytes, 0);
    bytes
}

fn route_request(destination: IpAddr) -> Vec<u8> {
    let (family, octets) = match destination {
        IpAddr::V4(address) => (V4, address.octets().to_vec()),
        IpAddr::V6(address) => (V6, address.octets().to_vec()),
    };
    let mut bytes = Vec::new();
    envelope(&mut bytes, GET_ROUTE, REQUEST, 1);
    bytes.extend([family, octets.len() as u8 * 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    attribute(&mut bytes, 1, &octets);
    seal(&mut bytes, 0);
    bytes
}

/// An address message: the local address where there is one, else the address.
fn address_in(message: &Message<'_>) -> Option<IpAddr> {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let body = message.payload.get(8..).filter(|_| message.kind == NEW_ADDRESS)?;
    let find = |wanted| attributes(body).find(|&(kind, _)| kind == wanted).and_then(|(_, value)| address(value));
    find(LOCAL).or_else(|| find(ADDRESS))
}

fn gateway_in(message: &Message<'_>) -> Option<IpAddr> {
    const GATEWAY: u16 = 5;
    let body = message.payload.get(12..).filter(|_| message.kind == NEW_ROUTE)?;
    attributes(body).find(|&(kind, _)| kind == GATEWAY).and_then(|(_, value)| address(value))
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
    }
}

fn name_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.split('%').next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_found() {
        let text =
            "# nameserver 192.0.2.1\nsearch example.org\n nameserver 192.0.2.53 # first\nnameserver fe80::1%eth0\n";
        let servers: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.53", "fe80::1"]);
    }

    #[test]
    fn loopback_is_among_the_own_addresses() {
        let own = own_addresses().expect("the kernel answers");
        assert!(own.iter().any(|entry| entry.net.addr().is_loopback() || entry.comment == "own address"), "{own:?}");
    }
}
