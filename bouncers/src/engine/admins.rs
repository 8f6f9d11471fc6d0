//! Whoever is logged in as root over ssh at this moment: the one person who could undo a mistake.
//!
//! The kernel knows which connection belongs to which process, and sshd says in its command line for whom it works. What
//! this process may not look at is left out.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use model::AllowEntry;

/// The addresses from which root is logged in over ssh, as `proc` shows them, and that of the session in which this
/// process was started: `connection` is what `SSH_CONNECTION` says.
pub fn active_admins(proc: &Path, connection: Option<&str>) -> Vec<AllowEntry> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let own: Option<IpAddr> = connection.and_then(|text| text.split(' ').next()?.split('%').next()?.parse().ok());
    addresses.extend(own);
    let sockets = sockets_of_root(proc);
    if !sockets.is_empty() {
        for table in ["net/tcp", "net/tcp6"] {
            let text = fs::read_to_string(proc.join(table)).unwrap_or_default();
            addresses.extend(peers(&text, &sockets));
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    let entry = |address: IpAddr| AllowEntry {
        net: IpNet::from(address.to_canonical()),
        list: "active admins".to_owned(),
        comment: "logged in as root when cordon started".to_owned(),
        expires: None,
    };
    addresses.into_iter().filter(|address| !address.is_unspecified()).map(entry).collect()
}

/// The sockets of every sshd that works for root.
fn sockets_of_root(proc: &Path) -> HashSet<String> {
    let mut sockets = HashSet::new();
    let Ok(processes) = fs::read_dir(proc) else { return sockets };
    for process in processes.flatten().map(|entry| entry.path()) {
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        if !works_for_root(&String::from_utf8_lossy(&command)) {
            continue;
        }
        let Ok(files) = fs::read_dir(process.join("fd")) else { continue };
        let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        sockets.extend(links.filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        }));
    }
    sockets
}

/// `sshd: root@pts/0`, `sshd-session: root [priv]`, ...
fn works_for_root(command: &str) -> bool {
    let Some((program, whom)) = command.split_once(": ") else { return false };
    let whom = whom.trim_end_matches('\0');
    (program == "sshd" || program == "sshd-session")
        && whom.strip_prefix("root").is_some_and(|rest| rest.is_empty() || rest.starts_with(['@', ' ']))
}

/// The far ends of `sockets` in a table of the kernel's.
fn peers(table: &str, sockets: &HashSet<String>) -> Vec<IpAddr> {
    let peer = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let inode = columns.get(9)?;
        if !sockets.contains(*inode) {
            return None;
        }
        address(columns.get(2)?.split(':').next()?)
    };
    table.lines().skip(1).filter_map(peer).collect()
}

/// An address in words of four bytes, each in the order of this machine.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(IpAddr::from(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes.get_mut(at * 4..at * 4 + 4)?.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn whoever_is_root_over_ssh_is_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let proc = folder.path();
        // (process, command line, socket)
        let processes = [
            ("7", "sshd: root@pts/0\0", "101"),
            ("8", "sshd-session: root [priv]\0", "102"),
            ("9", "sshd: rooty@pts/1\0", "103"),
            ("10", "nginx: master\0", "104"),
        ];
        for (pid, command, socket) in processes {
            fs::create_dir_all(proc.join(pid).join("fd")).expect("a temporary folder");
            fs::write(proc.join(pid).join("cmdline"), command).expect("a temporary folder");
            symlink(format!("socket:[{socket}]"), proc.join(pid).join("fd/3")).expect("a temporary folder");
        }
        fs::create_dir_all(proc.join("net")).expect("a temporary folder");
        let line = |local: &str, peer: &str, inode: u32| {
            format!(
                "   0: {local}:0016 {peer}:C001 01 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0\n"
            )
        };
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let mapped = format!("{}{}{}{}", word([0; 4]), word([0; 4]), word([0, 0, 255, 255]), word([203, 0, 113, 8]));
        let (local, far) = (word([192, 0, 2, 1]), word([203, 0, 113, 7]));
        let table = format!("head\n{}{}", line(&local, &far, 101), line(&local, &word([203, 0, 113, 9]), 103));
        fs::write(proc.join("net/tcp"), table).expect("a temporary folder");
        fs::write(proc.join("net/tcp6"), format!("head\n{}", line(&mapped, &mapped, 102))).expect("a temporary folder");
        let found: Vec<String> = active_admins(proc, Some("2001:db8::5 50000 2001:db8::1 22"))
            .iter()
            .map(|entry| entry.net.to_string())
            .collect();
        assert_eq!(found, ["203.0.113.7/32", "203.0.113.8/32", "2001:db8::5/128"]);
        assert!(active_admins(Path::new("/nowhere"), None).is_empty());
    }
}
