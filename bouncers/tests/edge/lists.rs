//! Feeds in the hands of the programs for which they are made.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use bouncers::engine::plan::{Placed, Why};
use bouncers::feed::query::{Format, Query};
use bouncers::feed::render::{Heading, render};
use bouncers::feed::rows::Rows;
use jiff::{SignedDuration, Timestamp};

use crate::support::{ban, find};

/// A list with neighbours, nested prefixes and both families in `format`.
fn list(format: Format, nets: &[&str]) -> String {
    let now = Timestamp::now();
    let changes = nets.iter().zip(1..).map(|(net, at)| {
        let until = now + SignedDuration::from_mins(10 * at);
        let why = Why { id: at, origin: "cordon".into(), scenario: "test/scenario".into() };
        (ban(net), Some((Placed { until, pieces: None }, why)))
    });
    let rows = Rows::default().with(changes, now);
    let heading = Heading { name: "banned", sequence: 1, now };
    String::from_utf8(render(&rows, &Query::new(format), &heading).body).expect("text")
}

const NETS: [&str; 7] = [
    "203.0.113.0/24",
    "203.0.113.9",
    "192.0.2.8",
    "192.0.2.9",
    "2001:db8:1::/64",
    "2001:db8:1::/48",
    "198.51.100.0/25",
];

/// Runs `script` in a network of its own, where nobody else's tables are.
fn isolated(script: &str, input: &str) -> (bool, String) {
    let mut command = Command::new("unshare");
    let child =
        command.args(["--net", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("unshare is part of every Linux");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("the script reads it");
    drop(stdin);
    let output = child.wait_with_output().expect("a child of ours");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn nft_takes_a_list_twice_and_an_empty_one() {
    if find("nft", "NFT_BIN", "feeds in the form of nftables").is_none() {
        return;
    }
    let full = list(Format::Nft, &NETS);
    let empty = list(Format::Nft, &[]);
    let (good, said) = isolated("export PATH=$PATH:/usr/sbin; cat > /dev/null; true", "");
    assert!(good, "networks of our own cannot be made: {said}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a writable folder");
    write("full", &full);
    write("empty", &empty);
    let script = format!(
        "export PATH=$PATH:/usr/sbin; cd {}; nft -c -f full && nft -f full && nft -f full && nft list table inet cordon_feed_banned && \
         nft get element inet cordon_feed_banned banned4 '{{ 203.0.113.77 }}' && nft -f empty && \
         nft list set inet cordon_feed_banned banned4 | grep -c elements; true",
        folder.path().display()
    );
    let (_, said) = isolated(&script, "");
    assert!(said.contains("elements = { 203.0.113.64/26 }"), "{said}");
    assert!(said.trim_end().ends_with('0'), "the empty list empties it: {said}");
}

#[test]
fn ipset_swaps_a_list_in() {
    let Some(program) = find("ipset", "IPSET_BIN", "feeds in the form of ipset") else { return };
    let program = program.display();
    let script = format!(
        "{program} list -n >/dev/null 2>&1 || {{ echo no kernel support; exit 9; }}; {program} restore < full && {program} restore < full && \
         {program} test banned_v4 203.0.113.77 && {program} test banned_v6 2001:db8:1::5 && ! {program} test banned_v4 203.0.114.1 && \
         {program} restore < empty && ! {program} test banned_v4 203.0.113.77"
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a writable folder");
    write("full", &list(Format::IpsetRestore, &NETS));
    write("empty", &list(Format::IpsetRestore, &[]));
    let (good, said) = isolated(&format!("cd {} && {{ {script}; }}", folder.path().display()), "");
    if said.contains("no kernel support") {
        eprintln!("NOT TESTED: feeds in the form of ipset: this kernel has none");
        return;
    }
    assert!(good, "{said}");
}

/// Whether nginx takes a configuration with `inside` in its `http` block.
fn nginx_takes(program: &Path, inside: &str) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().display();
    let text =
        format!("pid {place}/pid;\nerror_log {place}/log;\nevents {{}}\nhttp {{\naccess_log off;\n{inside}\n}}\n");
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, text).expect("a writable folder");
    let output = Command::new(program).arg("-t").arg("-p").arg(folder.path()).arg("-c").arg(&file).output();
    let output = output.expect("a program that was found");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn nginx_reads_both_forms() {
    let Some(program) = find("nginx", "NGINX_BIN", "feeds in the form of nginx") else { return };
    for nets in [&NETS[..], &[]] {
        let geo = format!("geo $banned {{\ndefault 0;\n{}}}", list(Format::NginxGeo, nets));
        let (good, said) = nginx_takes(&program, &geo);
        assert!(good, "{said}");
        let (good, said) = nginx_takes(&program, &list(Format::NginxDeny, nets));
        assert!(good, "{said}");
    }
}

#[test]
fn haproxy_reads_a_map() {
    let Some(program) = find("haproxy", "HAPROXY_BIN", "feeds in the form of HAProxy") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let map = folder.path().join("map");
    let file = folder.path().join("haproxy.cfg");
    let text = format!(
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\nfrontend site\n  bind 127.0.0.1:1\n  \
         http-request deny if {{ src,map_ip({}) -m found }}\n",
        map.display()
    );
    std::fs::write(&file, text).expect("a writable folder");
    for nets in [&NETS[..], &[]] {
        std::fs::write(&map, list(Format::HaproxyMap, nets)).expect("a writable folder");
        let output = Command::new(&program).arg("-c").arg("-f").arg(&file).output().expect("a program that was found");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
