//! A running cordon: its state and configuration in a temporary folder, its commands at hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::eventually;
use crate::lab::Host;

/// One installation, running or not.
pub(crate) struct Cordon {
    folder: PathBuf,
    /// Where it runs; `None` is this host, where it changes nothing.
    host: Option<Host>,
    running: Option<Child>,
    /// The library that makes a clock of its own for it.
    clock: Option<PathBuf>,
}

impl Cordon {
    /// Prepares an installation: `config` goes into its `cordon.yaml`, `acquisition` into its datasources.
    pub(crate) fn install(host: Option<&Host>, folder: &Path, config: &str, acquisition: &str) -> Self {
        let folder = folder.join("cordon");
        fs::create_dir_all(&folder).expect("a writable folder");
        fs::write(folder.join("acquisition.yaml"), acquisition).expect("a writable folder");
        let place = folder.display();
        let api = if config.contains("api:") { "" } else { "api:\n  listen: off\n" };
        let head = format!(
            "state: {place}/state\n{api}acquisition:\n  discover: false\n  paths: [{place}/acquisition.yaml]\n"
        );
        fs::write(folder.join("cordon.yaml"), head + config).expect("a writable folder");
        Self { folder, host: host.cloned(), running: None, clock: None }
    }

    /// Lets it see a clock of its own, which `library` makes; to be called before it starts.
    pub(crate) fn give_clock(&mut self, library: &Path) {
        self.clock = Some(library.into());
        self.set_clock("+0");
    }

    /// Sets its clock to so much from the true time: `+5h`, `-1h`.
    pub(crate) fn set_clock(&self, shift: &str) {
        let (new, clock) = (self.folder.join("clock.new"), self.folder.join("clock"));
        fs::write(&new, format!("{shift}\n")).expect("a writable folder");
        fs::rename(new, clock).expect("a writable folder");
    }

    /// Starts it and waits until it watches.
    pub(crate) fn start(&mut self) {
        let log =
            fs::File::options().create(true).append(true).open(self.folder.join("log")).expect("a writable folder");
        let child = self.command(&["run"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.running = Some(child.expect("the binary was built"));
        eventually("cordon answers", || answered(&self.run(&["status"])));
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(&mut self) {
        let mut child = self.running.take().expect("it was started");
        signal(&child, rustix::process::Signal::TERM);
        let status = child.wait().expect("it is our child");
        assert!(status.success(), "cordon ended with {status}:\n{}", self.log());
    }

    /// Asks it by a signal to read its files again.
    pub(crate) fn hang_up(&self) {
        signal(self.running.as_ref().expect("it was started"), rustix::process::Signal::HUP);
    }

    /// Kills it without a chance to tidy up.
    pub(crate) fn kill(&mut self) {
        let mut child = self.running.take().expect("it was started");
        signal(&child, rustix::process::Signal::KILL);
        child.wait().expect("it is our child");
    }

    /// Lets it do nothing for a while.
    pub(crate) fn pause(&self) {
        signal(self.running.as_ref().expect("it was started"), rustix::process::Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        signal(self.running.as_ref().expect("it was started"), rustix::process::Signal::CONT);
    }

    /// Runs one of its commands.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().expect("the binary was built")
    }

    /// Starts one of its commands, and does not wait for it.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the binary was built")
    }

    /// Runs one of its commands, which must succeed, or tell as a status that something does not work; what it printed.
    pub(crate) fn ask(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(answered(&output), "cordon {} failed: {complaint}\n{}", args.join(" "), self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What `cordon status` knows.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.ask(&["status", "-o", "json"])).expect("JSON")
    }

    /// Asks its API on its socket, as the bouncer with `key`: the status of the answer, and its body.
    pub(crate) fn get(&self, key: &str, route: &str) -> (String, String) {
        let output = Command::new("curl")
            .args(["-q", "-s", "-w", "%{stderr}%{http_code}", "--max-time", "15", "--unix-socket"])
            .arg(self.folder.join("state/cordon.sock"))
            .args(["-H", &format!("X-Api-Key: {key}"), &format!("http://localhost/{route}")])
            .output()
            .expect("curl is installed: make test installs it");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stderr), text(&output.stdout))
    }

    /// The values of all decisions in force.
    pub(crate) fn banned(&self) -> Vec<String> {
        let text = self.ask(&["decisions", "list", "--limit", "0", "-o", "raw"]);
        text.lines().skip(1).filter_map(|row| row.split(',').nth(2)).map(str::to_owned).collect()
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn command(&self, args: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_cordon");
        let mut command = self.host.as_ref().map_or_else(|| Command::new(program), |host| host.command(program));
        command.args(args).arg("--config").arg(self.folder.join("cordon.yaml")).env("CORDON_LOG", "info");
        if let Some(library) = &self.clock {
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", self.folder.join("clock"));
            // Only the clock on the wall is set; what measures pauses goes on.
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command
    }
}

impl Drop for Cordon {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            // it may have ended by itself
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- what cordon logged:\n{}", self.log());
        }
    }
}

/// Whether a command succeeded, or told as a status that something does not work.
fn answered(output: &Output) -> bool {
    matches!(output.status.code(), Some(0 | 3))
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("it is our child");
}
