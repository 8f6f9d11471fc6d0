//! Whom this machine must never ban: itself, its gateway, and whoever is logged in to look at it.
//!
//! Everything is read from `/proc`: the addresses that the kernel accepts as its own, the default routes, and the peer of
//! the ssh session in whose environment we, or the processes that started us, live.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use model::AllowEntry;

/// Longest chain of parents that is looked at.
const GENERATIONS: usize = 64;

/// The entries, from the `/proc` at `proc`. What cannot be read is left out.
pub fn own_addresses(proc: &Path) -> Vec<AllowEntry> {
    let read = |name: &str| fs::read_to_string(proc.join(name)).unwrap_or_default();
    let mut entries = Vec::new();
    let mut add = |address: IpAddr, comment: &str| {
        let entry = AllowEntry {
            net: IpNet::from(address.to_canonical()),
            list: "own addresses".into(),
            comment: comment.into(),
            expires: None,
        };
        let known = entries.iter().any(|known: &AllowEntry| known.net == entry.net);
        if !known && !address.is_unspecified() && !address.is_loopback() {
            entries.push(entry);
        }
    };
    for address in local_v4(&read("net/fib_trie")) {
        add(address.into(), "address of this machine");
    }
    for address in local_v6(&read("net/if_inet6")) {
        add(address.into(), "address of this machine");
    }
    for gateway in gateways_v4(&read("net/route")) {
        add(gateway.into(), "default gateway");
    }
    for gateway in gateways_v6(&read("net/ipv6_route")) {
        add(gateway.into(), "default gateway");
    }
    for peer in ssh_peers(proc) {
        add(peer, "ssh session");
    }
    entries
}

/// Leaves of the table that are `host LOCAL`: the address stands in the line before.
fn local_v4(trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last);
        }
    }
    found
}

/// One address of 32 hexadecimal digits begins each line.
fn local_v6(table: &str) -> Vec<Ipv6Addr> {
    table.lines().filter_map(|line| hex_v6(line.split_whitespace().next()?)).collect()
}

fn hex_v6(digits: &str) -> Option<Ipv6Addr> {
    (digits.len() == 32).then(|| u128::from_str_radix(digits, 16).ok().map(Ipv6Addr::from)).flatten()
}

/// Routes to everywhere; numbers are written in the byte order of the machine.
fn gateways_v4(routes: &str) -> Vec<Ipv4Addr> {
    let gateway = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [_, "00000000", gateway, _, _, _, _, "00000000", ..] = columns[..] else { return None };
        Some(Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes()))
    };
    routes.lines().filter_map(gateway).collect()
}

fn gateways_v6(routes: &str) -> Vec<Ipv6Addr> {
    let gateway = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [destination, "00", _, _, gateway, ..] = columns[..] else { return None };
        hex_v6(destination).filter(Ipv6Addr::is_unspecified)?;
        hex_v6(gateway)
    };
    routes.lines().filter_map(gateway).collect()
}

/// The peers named in our environment and in that of our parents, as far as it may be read.
fn ssh_peers(proc: &Path) -> Vec<IpAddr> {
    let mut peers = Vec::new();
    let mut process = "self".to_owned();
    for _ in 0..GENERATIONS {
        let folder = proc.join(&process);
        let environment = fs::read(folder.join("environ")).unwrap_or_default();
        peers.extend(environment.split(|byte| *byte == 0).filter_map(peer));
        let stat = fs::read_to_string(folder.join("stat")).unwrap_or_default();
        // The name of a program may hold blanks and brackets; what follows the last bracket does not.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        match parent {
            Some(parent) if parent != "0" => parent.clone_into(&mut process),
            _ => break,
        }
    }
    peers
}

/// `SSH_CONNECTION=peer port address port`, or `SSH_CLIENT=peer port port`.
fn peer(variable: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(variable).ok()?;
    let value = text.strip_prefix("SSH_CONNECTION=").or_else(|| text.strip_prefix("SSH_CLIENT="))?;
    let address = value.split_whitespace().next()?;
    address.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn the_tables_of_the_kernel_are_read() {
        let proc = TempDir::new().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            let path = proc.path().join(name);
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("room on the disk");
            fs::write(path, text).expect("room on the disk");
        };
        write(
            "net/fib_trie",
            "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.0.2.0\n        /24 link UNICAST\n     |-- 192.0.2.7\n        /32 host LOCAL\n\
             Local:\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 192.0.2.7\n        /32 host LOCAL\n\
             |-- 192.0.2.255\n        /32 link BROADCAST\n",
        );
        write(
            "net/if_inet6",
            "20010db8000000000000000000000007 02 40 00 80 eth0\n00000000000000000000000000000001 01 80 10 80 lo\nnonsense\n",
        );
        let gateway = u32::from_ne_bytes([192, 0, 2, 1]);
        write(
            "net/route",
            &format!(
                "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
                 eth0\t00000000\t{gateway:08X}\t0003\t0\t0\t0\t00000000\t0\n\
                 eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n"
            ),
        );
        let zero = "0".repeat(32);
        write(
            "net/ipv6_route",
            &format!("{zero} 00 {zero} 00 20010db8000000000000000000000001 00000400 0 0 00000003 eth0\n"),
        );
        write("self/environ", "PATH=/bin\0SSH_CLIENT=198.51.100.9 5555 22\0");
        write("self/stat", "70 (a (b) c) S 69 1 1");
        write("69/environ", "SSH_CONNECTION=2001:db8:1::9%eth0 5555 2001:db8::7 22\0SSH_CONNECTION=nonsense\0");
        write("69/stat", "69 (sh) S 1 1 1");
        let found: Vec<String> = own_addresses(proc.path()).iter().map(AllowEntry::reason).collect();
        insta::assert_snapshot!(found.join("\n"), @r"
        192.0.2.7 from own addresses (address of this machine)
        2001:db8::7 from own addresses (address of this machine)
        192.0.2.1 from own addresses (default gateway)
        2001:db8::1 from own addresses (default gateway)
        198.51.100.9 from own addresses (ssh session)
        2001:db8:1::9 from own addresses (ssh session)
        ");
    }

    #[test]
    fn a_machine_without_proc_has_no_entries() {
        assert_eq!(own_addresses(Path::new("/no/such/folder")), []);
    }
}
