//! CrowdSec's own programs, as Debian builds them: its firewall bouncer, its agent and `cscli`, unpacked beside the build.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::lab::Host;

/// One of the programs, running.
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    fn start(mut command: Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("a writable folder");
        let errors = output.try_clone().expect("an open file");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        Self { child: child.expect("`ip` can be run"), log: log.into() }
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is our child");
        self.child.wait().expect("it is our child");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.log.display(), self.log());
        }
    }
}

/// The folder with the unpacked programs. If it is not there, says loudly that the test did not run.
pub(crate) fn programs() -> Option<PathBuf> {
    let build = Path::new(env!("CARGO_BIN_EXE_cordon")).ancestors().nth(2).expect("a build folder");
    let folder = build.join("clients/usr/bin");
    if folder.join("crowdsec").exists() && folder.join("crowdsec-firewall-bouncer").exists() {
        return Some(folder);
    }
    eprintln!("SKIPPED, NOT PASSED: CrowdSec's own programs are not there: run `.ci/setup clients`");
    None
}

/// Starts the firewall bouncer on `host`. It asks `url` each second; `identity` is how it says who it is.
pub(crate) fn firewall_bouncer(host: &Host, folder: &Path, url: &str, identity: &str) -> Program {
    let programs = programs().expect("it was asked for before");
    let config = format!(
        "mode: nftables\nupdate_frequency: 1s\ndaemonize: false\nlog_mode: stdout\nlog_level: info\n\
         api_url: {url}\n{identity}supported_decisions_types: [ban]\ndeny_action: DROP\n\
         nftables:\n  ipv4: {{enabled: true, set-only: false, table: crowdsec, chain: crowdsec-chain}}\n\
         \x20 ipv6: {{enabled: true, set-only: false, table: crowdsec6, chain: crowdsec6-chain}}\n\
         prometheus: {{enabled: false}}\n"
    );
    let path = folder.join("firewall-bouncer.yaml");
    fs::write(&path, config).expect("a writable folder");
    let mut command = host.command(&programs.join("crowdsec-firewall-bouncer").display().to_string());
    command.arg("-c").arg(&path);
    Program::start(command, &folder.join("firewall-bouncer.log"))
}

/// An agent with one parser and one scenario of its own, which overflows at the third knock in its log.
pub(crate) struct Agent {
    host: Host,
    folder: PathBuf,
}

impl Agent {
    /// Prepares one. `credentials` is the content of its credentials file.
    pub(crate) fn install(host: &Host, folder: &Path, credentials: &str) -> Self {
        let folder = folder.join("crowdsec");
        for name in [
            "data",
            "hub",
            "notifications",
            "parsers/s00-raw",
            "parsers/s01-parse",
            "scenarios",
            "postoverflows",
            "patterns",
        ] {
            fs::create_dir_all(folder.join(name)).expect("a writable folder");
        }
        let place = folder.display();
        let config = format!(
            "common: {{daemonize: false, log_media: stdout, log_level: info, working_dir: .}}\n\
             config_paths:\n  config_dir: {place}/\n  data_dir: {place}/data/\n  simulation_path: {place}/simulation.yaml\n\
             \x20 hub_dir: {place}/hub/\n  index_path: {place}/hub/.index.json\n  notification_dir: {place}/notifications/\n\
             \x20 plugin_dir: {place}/plugins/\n\
             crowdsec_service: {{acquisition_path: {place}/acquis.yaml, parser_routines: 1}}\n\
             db_config: {{type: sqlite, db_path: {place}/data/crowdsec.db}}\n\
             api:\n  client: {{credentials_path: {place}/credentials.yaml}}\n\
             \x20 server: {{enable: false, listen_uri: '127.0.0.1:9', profiles_path: {place}/profiles.yaml}}\n\
             prometheus: {{enabled: false}}\n"
        );
        let parser = "name: test/door\nfilter: \"evt.Line.Labels.type == 'door'\"\nonsuccess: next_stage\n\
             nodes:\n  - grok: {pattern: '^knock from %{ADDRESS:source_ip}$', apply_on: Line.Raw}\n\
             statics:\n  - {meta: source_ip, expression: evt.Parsed.source_ip}\n  - {meta: log_type, value: knock}\n";
        let scenario = "type: leaky\nname: test/knocking\ndescription: too many knocks\n\
             filter: \"evt.Meta.log_type == 'knock'\"\ngroupby: evt.Meta.source_ip\n\
             capacity: 2\nleakspeed: 1h\nlabels: {remediation: true, service: door}\n";
        let files: [(&str, &str); 9] = [
            ("config.yaml", &config),
            ("credentials.yaml", credentials),
            ("simulation.yaml", "simulation: false\n"),
            ("hub/.index.json", r#"{"parsers":{},"scenarios":{},"postoverflows":{},"collections":{}}"#),
            ("acquis.yaml", &format!("filenames: [{place}/door.log]\nlabels: {{type: door}}\n")),
            ("door.log", ""),
            ("patterns/door", "ADDRESS [0-9a-f.:]+\n"),
            ("parsers/s00-raw/door.yaml", parser),
            ("scenarios/knocking.yaml", scenario),
        ];
        for (name, content) in files {
            fs::write(folder.join(name), content).expect("a writable folder");
        }
        Self { host: host.clone(), folder }
    }

    /// Where its credentials are.
    pub(crate) fn credentials(&self) -> PathBuf {
        self.folder.join("credentials.yaml")
    }

    /// Starts it.
    pub(crate) fn start(&self) -> Program {
        Program::start(self.command("crowdsec"), &self.folder.join("log"))
    }

    /// Lets it be an API on `127.0.0.1:8080`. `profiles` says what it decides.
    pub(crate) fn be_api(&self, profiles: &str) {
        let path = self.folder.join("config.yaml");
        let config = fs::read_to_string(&path).expect("it was made");
        let on =
            config.replace("enable: false, listen_uri: '127.0.0.1:9'", "enable: true, listen_uri: '127.0.0.1:8080'");
        assert_ne!(on, config, "it is switched on");
        fs::write(path, on).expect("a writable folder");
        fs::write(self.folder.join("profiles.yaml"), profiles).expect("a writable folder");
    }

    /// Starts its API, and nothing else of it.
    pub(crate) fn serve(&self) -> Program {
        let mut command = self.command("crowdsec");
        command.arg("-no-cs");
        Program::start(command, &self.folder.join("log"))
    }

    /// Writes so many knocks from `ip` into its log.
    pub(crate) fn knock(&self, ip: &str, times: usize) {
        use std::io::Write;
        let mut log = File::options().append(true).open(self.folder.join("door.log")).expect("it was made");
        log.write_all(format!("knock from {ip}\n").repeat(times).as_bytes()).expect("a writable folder");
    }

    /// Runs `cscli` with its configuration.
    pub(crate) fn cscli(&self, args: &[&str]) -> Output {
        self.command("cscli").args(args).stdin(Stdio::null()).output().expect("`ip` can be run")
    }

    /// Runs `cscli`, which must succeed; what it printed as JSON, null if that is nothing.
    pub(crate) fn ask(&self, args: &[&str]) -> serde_json::Value {
        let output = self.cscli(&[args, &["-o", "json"]].concat());
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cscli {} failed: {complaint}", args.join(" "));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn command(&self, program: &str) -> Command {
        let programs = programs().expect("it was asked for before");
        let mut command = self.host.command(&programs.join(program).display().to_string());
        command.arg("-c").arg(self.folder.join("config.yaml"));
        command
    }
}
