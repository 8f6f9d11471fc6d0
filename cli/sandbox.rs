//! Where the demonstration and the benchmark take place: private namespaces, with a cordon of their own to look at.
//!
//! Everything vanishes with the process, however it ends: the kernel removes namespaces that nobody is in.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

use crate::args::Global;
use crate::lab::Host;

/// Set in the process that is inside.
const MARK: &str = "CORDON_SANDBOX";

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether this process is in private namespaces already.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts this same command again, inside. Returns only on failure, or when the command there has ended.
pub(crate) fn enter() -> anyhow::Result<()> {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    // a /run of its own, because that is where network namespaces get their names
    let script = "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"";
    command.args(["--net", "--mount", "sh", "-c", script]);
    command.arg(std::env::current_exe().context("cannot find the program file of cordon")?);
    command.args(std::env::args_os().skip(1)).env(MARK, "1");
    let error = command.exec();
    Err(error).context("cannot run `unshare`\nhint: install util-linux")
}

/// A cordon under observation.
pub(crate) struct Subject {
    /// `None` is this host, where it changes nothing.
    host: Option<Host>,
    config: PathBuf,
    program: PathBuf,
    child: Child,
}

impl Subject {
    /// Starts one that reads `log`, and enforces if it has a host of a lab; answers when it watches, and how long that took.
    pub(crate) fn start(
        host: Option<&Host>,
        folder: &Path,
        log: &Path,
        global: &Global,
    ) -> anyhow::Result<(Self, Duration)> {
        Self::start_with(host, folder, &format!("filename: {}\nlabels:\n  type: syslog\n", log.display()), global)
    }

    /// One that enforces nothing, and answers on `port` of the loopback interface.
    pub(crate) fn start_listening(
        folder: &Path,
        log: &Path,
        port: u16,
        global: &Global,
    ) -> anyhow::Result<(Self, Duration)> {
        let acquisition = format!("filename: {}\nlabels:\n  type: syslog\n", log.display());
        Self::begin(None, folder, &acquisition, &format!("127.0.0.1:{port}"), global)
    }

    /// The same with any datasources.
    pub(crate) fn start_with(
        host: Option<&Host>,
        folder: &Path,
        acquisition: &str,
        global: &Global,
    ) -> anyhow::Result<(Self, Duration)> {
        Self::begin(host, folder, acquisition, "off", global)
    }

    fn begin(
        host: Option<&Host>,
        folder: &Path,
        acquisition: &str,
        listen: &str,
        global: &Global,
    ) -> anyhow::Result<(Self, Duration)> {
        fs::write(folder.join("acquisition.yaml"), acquisition)?;
        let config = folder.join("cordon.yaml");
        let text = format!(
            "state: {0}/state\napi:\n  listen: {listen}\nacquisition:\n  discover: false\n  paths: [{0}/acquisition.yaml]\n\
             enforcement:\n  mode: {1}\n",
            folder.display(),
            if host.is_some() { "enforce" } else { "dry-run" }
        );
        fs::write(&config, text)?;
        let notify = folder.join("notify");
        let socket = UnixDatagram::bind(&notify).context("cannot listen for the start")?;
        socket.set_read_timeout(Some(PATIENCE))?;

        let program = std::env::current_exe().context("cannot find the program file of cordon")?;
        let said = fs::File::create(folder.join("stderr"))?;
        let start = Instant::now();
        let mut command = command(host, &program);
        command.args(["run", "--config"]).arg(&config).env("NOTIFY_SOCKET", &notify);
        command.args(["--log-level", global.log_level.as_deref().unwrap_or("warn")]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn();
        let subject = Self { host: host.cloned(), config, program, child: child.context("cannot start cordon")? };

        let mut message = [0; 256];
        loop {
            let Ok(length) = socket.recv(&mut message) else {
                let said = fs::read_to_string(folder.join("stderr")).unwrap_or_default();
                bail!("cordon did not start: {}", said.trim());
            };
            if message.get(..length).is_some_and(|text| text.windows(7).any(|part| part == b"READY=1")) {
                return Ok((subject, start.elapsed()));
            }
        }
    }

    /// Runs one of its commands; what it printed.
    pub(crate) fn ask(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = command(self.host.as_ref(), &self.program);
        let output = command.args(args).arg("--config").arg(&self.config).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("`cordon {}` failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Its resident memory in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no memory figure")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().context("no memory figure")?;
        Ok(kilobytes * 1024)
    }

    /// How long it has had a processor.
    pub(crate) fn processor(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name of the program stands in brackets and may hold anything.
        let fields =
            stat.rsplit_once(") ").map(|(_, fields)| fields.split(' ')).context("no figure of the processor")?;
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

fn command(host: Option<&Host>, program: &Path) -> Command {
    host.map_or_else(|| Command::new(program), |host| host.command(&program.to_string_lossy()))
}

/// `message` as syslog would write it for sshd, now.
pub(crate) fn syslog_line(message: &str) -> String {
    format!("{} victim sshd[4711]: {message}\n", jiff::Zoned::now().strftime("%b %e %H:%M:%S"))
}
