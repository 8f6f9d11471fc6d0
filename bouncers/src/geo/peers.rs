//! What goes on at this host at this moment: who is connected, and would be cut off the next time; by which interfaces.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use serde::Serialize;

/// Peers that are listed; more do not help anybody.
const MAX_PEERS: usize = 4096;

/// Somebody with an open TCP connection to a port of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Peer {
    /// His address.
    pub address: IpAddr,
    /// The port that he is connected to.
    pub port: u16,
}

/// Everybody with an open TCP connection to a port on which this host listens.
pub fn peers() -> io::Result<Vec<Peer>> {
    let mut sockets = parse(&fs::read_to_string("/proc/net/tcp")?);
    // a host may have no IPv6 at all
    sockets.extend(fs::read_to_string("/proc/net/tcp6").map(|text| parse(&text)).unwrap_or_default());
    Ok(inbound(&sockets))
}

/// Names of this host's network interfaces. `/sys` may belong to another network namespace than this process.
pub fn interfaces() -> io::Result<Vec<String>> {
    let text = fs::read_to_string("/proc/net/dev")?;
    Ok(text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect())
}

/// When the SSH session began in which this process runs; `None` outside of any, as at the console.
pub fn session_began() -> Option<Timestamp> {
    let stat = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|text| Process::parse(&text));
    let mut process = stat(std::process::id())?;
    let mut session = None;
    // the daemon itself is a child of the first process
    for _ in 0..MAX_ANCESTORS {
        let parent = stat(process.parent)?;
        if parent.parent > 1 && parent.name.starts_with("sshd") {
            session = Some(parent.began);
        }
        if parent.parent <= 1 {
            break;
        }
        process = parent;
    }
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: i64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    Timestamp::from_second(boot.saturating_add(i64::try_from(session? / ticks).ok()?)).ok()
}

/// More processes do not stand between a session and a command.
const MAX_ANCESTORS: usize = 64;

/// What the kernel says of a process.
struct Process {
    name: String,
    parent: u32,
    /// In ticks since the host was started.
    began: u64,
}

impl Process {
    /// The line in `stat`. A name may hold anything, so the last parenthesis ends it.
    fn parse(text: &str) -> Option<Self> {
        let (start, rest) = text.rsplit_once(')')?;
        let name = start.split_once('(')?.1.to_owned();
        let mut words = rest.split_ascii_whitespace().skip(1);
        let parent = words.next()?.parse().ok()?;
        Some(Self { name, parent, began: words.nth(17)?.parse().ok()? })
    }
}

/// One line of the kernel's list.
struct Socket {
    local_port: u16,
    remote: IpAddr,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Established,
    Listening,
    Other,
}

fn inbound(sockets: &[Socket]) -> Vec<Peer> {
    let mut found = BTreeMap::new();
    let listens = |port| sockets.iter().any(|socket| socket.state == State::Listening && socket.local_port == port);
    let mut open = BTreeMap::new();
    for socket in sockets.iter().filter(|socket| socket.state == State::Established) {
        let inbound = *open.entry(socket.local_port).or_insert_with(|| listens(socket.local_port));
        if inbound && !socket.remote.is_loopback() && found.len() < MAX_PEERS {
            let peer = Peer { address: socket.remote, port: socket.local_port };
            found.insert((peer.address, peer.port), peer);
        }
    }
    found.into_values().collect()
}

fn parse(text: &str) -> Vec<Socket> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (_, local_port) = endpoint(words.next()?)?;
        let (remote, _) = endpoint(words.next()?)?;
        let state = match words.next()? {
            "01" => State::Established,
            "0A" => State::Listening,
            _ => State::Other,
        };
        Some(Socket { local_port, remote, state })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// `0100007F:0016`: words of four bytes in this host's order.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(address)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(address.get(index * 8..index * 8 + 8)?)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some((address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn peers_are_those_who_came_to_us() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue\n\
                  0: 00000000:0016 00000000:0000 0A 00000000:00000000\n\
                  1: 0100A8C0:0016 09020005:C350 01 00000000:00000000\n\
                  2: 0100A8C0:0016 09020005:C351 01 00000000:00000000\n\
                  3: 0100A8C0:D431 08080808:01BB 01 00000000:00000000\n\
                  4: 0100007F:0016 0100007F:C350 01 00000000:00000000\n\
                  5: 0100A8C0:0016 07020005:C350 06 00000000:00000000\n\
                  garbage\n";
        let v6 = "  sl  local_address rem_address st\n\
                  0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A\n\
                  1: 0000002A000000000000000001000000:01BB 0000002A000000000000000002000000:C350 01\n\
                  2: 0000000000000000FFFF00000100A8C0:01BB 0000000000000000FFFF000003020005:C350 01\n\
                  3: 00:01BB 00:C350 01\n";
        let mut sockets = parse(v4);
        sockets.extend(parse(v6));
        let found: Vec<String> =
            inbound(&sockets).iter().map(|peer| format!("{} {}", peer.address, peer.port)).collect();
        assert_eq!(found, ["5.0.2.3 443", "5.0.2.9 22", "2a00::2 443"]);
    }

    #[test]
    fn what_the_kernel_says_of_us_can_be_read() {
        assert!(peers().is_ok());
        assert!(interfaces().is_ok_and(|names| names.iter().any(|name| name == "lo")));
        let own = fs::read_to_string("/proc/self/stat").expect("the kernel knows us");
        assert!(Process::parse(&own).is_some_and(|process| process.parent > 0 && process.began > 0));
        let odd = "7 (a) b) S 3 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4711 9 9";
        let process = Process::parse(odd).expect("a sound line");
        assert_eq!((process.name.as_str(), process.parent, process.began), ("a) b", 3, 4711));
    }
}
