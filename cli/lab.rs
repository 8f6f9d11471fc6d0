//! A network of our own: hosts as network namespaces around one bridge, made for an attack and gone after it.
//!
//! The demonstration, the latency benchmark and the end-to-end tests share it. All traffic stays inside; the host's
//! own interfaces and ruleset are never touched. Needs `CAP_NET_ADMIN` and the `ip` program.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use ipnet::IpNet;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Hosts that see each other and nobody else. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct Lab {
    victim: Host,
    others: Vec<Host>,
}

/// One host. Commands and sockets made through it live in its network.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    namespace: String,
}

impl Lab {
    /// A network with one host, the victim, which has `addresses`.
    pub(crate) fn new(addresses: &[IpNet]) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let victim = Host::named(&format!("cordon-{}-{number}-victim", std::process::id()));
        run("ip", &["netns", "add", &victim.namespace], "")?;
        // from here on, dropping the lab cleans up
        let lab = Self { victim, others: Vec::new() };
        lab.victim.ip("link set lo up\nlink add br0 type bridge forward_delay 0\nlink set br0 up\n")?;
        lab.victim.own(addresses, "br0")?;
        Ok(lab)
    }

    /// The host that is attacked.
    pub(crate) fn victim(&self) -> &Host {
        &self.victim
    }

    /// A further host with `addresses`, on the victim's network.
    pub(crate) fn add(&mut self, name: &str, addresses: &[IpNet]) -> anyhow::Result<Host> {
        let host = Host::named(&self.victim.namespace.replace("victim", name));
        run("ip", &["netns", "add", &host.namespace], "")?;
        self.others.push(host.clone());
        let port = format!("port{}", self.others.len());
        self.victim.ip(&format!(
            "link add {port} type veth peer name eth0 netns {}\nlink set {port} master br0 up\n",
            host.namespace
        ))?;
        host.ip("link set lo up\nlink set eth0 up\n")?;
        host.own(addresses, "eth0")?;
        Ok(host)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in self.others.iter().chain([&self.victim]) {
            // nothing more can be done about what refuses to go
            let _ = run("ip", &["netns", "delete", &host.namespace], "");
        }
    }
}

impl Host {
    /// The host whose network namespace is called `namespace`.
    pub(crate) fn named(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    /// A command that will run on this host.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// Runs `work` on this host: sockets that it opens stay on it.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let path = format!("/run/netns/{}", self.namespace);
        let namespace = File::open(&path).with_context(|| format!("cannot open `{path}`"))?;
        // a thread of its own, because a thread that has moved stays moved
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("cannot enter `{path}`"))?;
                Ok(work())
            });
            thread.join().map_err(|_| anyhow!("work inside `{}` panicked", self.namespace))?
        })
    }

    /// Answers every byte with the same byte on `port` of all addresses, as long as the process lives.
    pub(crate) fn echo(&self, port: u16) -> anyhow::Result<()> {
        let listener = self.inside(|| TcpListener::bind(("::", port)))??;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let (mut from, mut to) = (&stream, &stream);
                    std::io::copy(&mut from, &mut to)
                });
            }
        });
        Ok(())
    }

    fn own(&self, addresses: &[IpNet], device: &str) -> anyhow::Result<()> {
        let line = |net: &IpNet| {
            let nodad = if matches!(net, IpNet::V6(_)) { " nodad" } else { "" };
            format!("address add {net} dev {device}{nodad}\n")
        };
        self.ip(&addresses.iter().map(line).collect::<Vec<_>>().concat())
    }

    fn ip(&self, batch: &str) -> anyhow::Result<()> {
        run("ip", &["-netns", &self.namespace, "-batch", "-"], batch)
    }
}

/// A conversation with an echo service that is held open.
#[derive(Debug)]
pub(crate) struct Stream(TcpStream);

impl Stream {
    /// Opens one on `host` from `own` to the echo service at `to`, if it answers within `patience`.
    pub(crate) fn open(host: &Host, own: IpAddr, to: SocketAddr, patience: Duration) -> Option<Self> {
        let connect = || {
            let family = if own.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
            // Linux applies the sending timeout to connect too
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(patience))?;
            rustix::net::bind(&socket, &SocketAddr::new(own, 0))?;
            rustix::net::connect(&socket, &to)?;
            Ok::<_, rustix::io::Errno>(TcpStream::from(socket))
        };
        host.inside(connect).ok()?.ok().map(Self)
    }

    /// Whether a byte still comes back.
    pub(crate) fn alive(&mut self) -> bool {
        let mut byte = [0];
        self.0.write_all(b"x").is_ok() && self.0.read_exact(&mut byte).is_ok()
    }
}

/// Runs a program with `input`; its complaint is the error.
pub(crate) fn run(program: &str, args: &[&str], input: &str) -> anyhow::Result<()> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{program}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`{program} {}` failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
