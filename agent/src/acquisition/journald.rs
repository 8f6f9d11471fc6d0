//! Lines of the systemd journal, through a `journalctl` child.
//!
//! What a record says of itself can be forged by any local user (`logger -t sshd ...`); which program speaks is decided by
//! what journald itself found out about the sender ([`Record::program`]). The line is then written in syslog's form with that
//! program, so that parsers see it as they would in a file.

use std::io::{self, BufRead, BufReader, Read as _};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};
use model::{LineRef, Origin};
use serde::Deserialize;
use serde_json::Value;
use tracing::{info, warn};

use super::{Bell, Datasource, Outlet, Place, SourceError, Step};
use crate::tail::split::{Splitter, text};

/// Longest record in bytes: the text of a line may be written as a list of numbers.
const MAX_RECORD: usize = 1024 * 1024;

/// The fields that are asked for.
const FIELDS: &str = "--output-fields=MESSAGE,SYSLOG_IDENTIFIER,_TRANSPORT,_SYSTEMD_UNIT,_COMM,_UID,_PID,_HOSTNAME";

/// Numbers of ordinary users; those of system users, of services with a user of the moment, and of nobody lie outside.
const USERS: std::ops::RangeInclusive<u32> = 1000..=60_000;

/// One journal datasource as configured.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// Arguments handed to `journalctl` as they are.
    pub filters: Vec<String>,
    /// Labels of all lines.
    pub labels: Vec<(CompactString, CompactString)>,
    /// Whether buckets follow the time in the log.
    pub time_machine: bool,
    /// Whether it goes on for ever.
    pub follow: bool,
    /// How old what was missed may be and still be read.
    pub catch_up: Duration,
}

impl JournalConfig {
    /// What `evt.Line.Src` says.
    pub fn name(&self) -> String {
        format!("journalctl-{}", self.filters.join("."))
    }
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    config: JournalConfig,
    program: PathBuf,
    cursor: Option<String>,
    /// Records older than this were written while nobody read.
    started: Timestamp,
    /// Records that were too old to be caught up with.
    too_old: u64,
    origin: Arc<Origin>,
}

impl Journal {
    /// Reads what `config` says with `program` (`journalctl`), after `cursor` if there is one, else from now on.
    pub fn new(config: JournalConfig, program: PathBuf, cursor: Option<String>) -> Self {
        let origin = Origin {
            src: config.name().into(),
            module: "journalctl".into(),
            labels: config.labels.clone(),
            time_machine: config.time_machine,
            ..Origin::default()
        };
        Self { config, program, cursor, started: Timestamp::now(), too_old: 0, origin: Arc::new(origin) }
    }

    fn command(&self, follow: bool) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--output=json", "--all", "--no-pager", "--quiet", FIELDS]);
        match &self.cursor {
            // Asked for what comes after it, `journalctl` leaves out one record too many when that of the cursor is gone.
            Some(cursor) => drop(command.arg(format!("--cursor={cursor}"))),
            // The last record is not taken, but says where the journal stands.
            None if follow => drop(command.arg("--lines=1")),
            None => {}
        }
        if follow {
            command.arg("--follow");
            if self.cursor.is_some() {
                command.arg("--no-tail");
            }
        }
        command.args(&self.config.filters);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Reads what the child writes until it closes its end or the bell says stop.
    fn read(&mut self, output: &ChildStdout, follow: bool, bell: &Bell, out: &mut Outlet) -> Result<(), SourceError> {
        let failed = |error| SourceError::System { what: "cannot read from journalctl", error };
        let mut splitter = Splitter::with_limit(MAX_RECORD);
        let mut buffer = vec![0; 64 * 1024];
        let mut offset = 0;
        while !bell.stopped() {
            let ready = bell.wait(Some(output.as_fd()), Some(Duration::ZERO)).map_err(failed)?;
            if !ready {
                // A child that is slow to start has not told yet what was missed.
                if follow {
                    out.idle()?;
                } else {
                    out.send()?;
                }
                if !bell.wait(Some(output.as_fd()), None).map_err(failed)? {
                    continue;
                }
            }
            let count = match rustix::io::read(output, &mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(failed(error.into())),
            };
            out.status().bytes.add(count as u64);
            let mut backlog = Ok(());
            splitter.push(&buffer[..count], offset, |piece| {
                if backlog.is_ok() {
                    backlog = self.take(piece.bytes, out);
                }
            });
            backlog?;
            offset += count as u64;
            if let Some(cursor) = &self.cursor {
                out.step(Step::At(Place::Cursor(cursor.clone())));
            }
            if out.is_full() {
                out.send()?;
            }
        }
        out.send()
    }

    fn catch_up(&self) -> SignedDuration {
        SignedDuration::try_from(self.config.catch_up).unwrap_or(SignedDuration::MAX)
    }

    fn take(&mut self, json: &[u8], out: &mut Outlet) -> Result<(), SourceError> {
        let Ok(record) = serde_json::from_slice::<Record>(json) else {
            out.status().dropped.add(1);
            return Ok(());
        };
        if record.cursor.is_some() && record.cursor == self.cursor {
            return Ok(());
        }
        let first = self.cursor.is_none();
        if record.cursor.is_some() {
            self.cursor.clone_from(&record.cursor);
        }
        let written = record.written().unwrap_or(self.started);
        let old = written < self.started;
        if first && old && self.config.follow {
            return Ok(());
        }
        if old && self.config.follow && self.started.duration_since(written) > self.catch_up() {
            self.too_old += 1;
            return Ok(());
        }
        out.set_backlog(old && self.config.follow)?;
        out.status().green("");
        match record.line(written) {
            None => {}
            Some((raw, cut)) => {
                out.status().cut.add(cut.into());
                let offset = written.as_microsecond().max(0) as u64;
                out.line(LineRef { raw: &raw, origin: &self.origin, time: written, offset });
            }
        }
        Ok(())
    }
}

impl Datasource for Journal {
    fn run(&mut self, bell: &Arc<Bell>, out: &mut Outlet) -> Result<(), SourceError> {
        // Following shows the present boot only; what was written before it is read first.
        if self.config.follow && self.cursor.is_some() {
            self.run_child(false, bell, out)?;
        }
        self.run_child(self.config.follow, bell, out)
    }
}

impl Journal {
    fn run_child(&mut self, follow: bool, bell: &Bell, out: &mut Outlet) -> Result<(), SourceError> {
        let program = self.program.to_string_lossy().into_owned();
        let mut child = match self.command(follow).spawn() {
            Ok(child) => Killed(child),
            Err(error) => return Err(SourceError::Start { program, error }),
        };
        out.status().set_watching();
        let (Some(output), Some(errors)) = (child.0.stdout.take(), child.0.stderr.take()) else {
            return Ok(());
        };
        let said = Arc::new(Mutex::new(String::new()));
        let hears = Arc::clone(&said);
        let listener = thread::Builder::new().name("journalctl stderr".into()).spawn(move || {
            // A line is bounded, and only the last one is kept.
            let mut errors = BufReader::new(errors);
            let mut line = Vec::new();
            while errors.by_ref().take(1024).read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                if !text.is_empty() {
                    warn!(text, "journalctl");
                    *hears.lock().unwrap_or_else(PoisonError::into_inner) = text;
                }
                line.clear();
            }
        });
        let listener = listener.map_err(|error| SourceError::System { what: "cannot start a thread", error })?;
        self.read(&output, follow, bell, out)?;
        if self.too_old > 0 {
            info!(records = self.too_old, "records were missed too long ago to be caught up with");
            self.too_old = 0;
        }
        if bell.stopped() {
            return Ok(());
        }
        let status = child.0.wait().map_err(|error| SourceError::System { what: "cannot wait for a child", error })?;
        // It ends with the child's side of the pipe.
        let _ = listener.join();
        if !follow && status.success() {
            return Ok(());
        }
        let stderr = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if stderr.to_lowercase().contains("cursor") && self.cursor.take().is_some() {
            info!("the journal no longer knows the place where reading stood");
            self.started = Timestamp::now();
        }
        Err(SourceError::Ended { program, status: status.to_string(), stderr })
    }
}

/// A child that does not outlive us.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _: io::Result<()> = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One record of the journal. Fields whose name begins with an underscore are journald's own findings; a client cannot
/// set them.
#[derive(Debug, Default, Deserialize)]
struct Record {
    #[serde(rename = "__CURSOR")]
    cursor: Option<String>,
    #[serde(rename = "__REALTIME_TIMESTAMP", default)]
    realtime: Value,
    #[serde(rename = "MESSAGE", default)]
    message: Value,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    identifier: Value,
    #[serde(rename = "_TRANSPORT", default)]
    transport: Value,
    #[serde(rename = "_SYSTEMD_UNIT", default)]
    unit: Value,
    #[serde(rename = "_COMM", default)]
    comm: Value,
    #[serde(rename = "_UID", default)]
    uid: Value,
    #[serde(rename = "_PID", default)]
    pid: Value,
    #[serde(rename = "_HOSTNAME", default)]
    hostname: Value,
}

impl Record {
    fn written(&self) -> Option<Timestamp> {
        Timestamp::from_microsecond(self.realtime.as_str()?.parse().ok()?).ok()
    }

    /// The record as a line of syslog, and whether its end was cut; `None` when it says nothing.
    fn line(&self, written: Timestamp) -> Option<(Box<str>, bool)> {
        let message = bytes(&self.message)?;
        let message = message.trim_ascii_end();
        if message.is_empty() {
            return None;
        }
        let host = self.hostname.as_str().map_or_else(|| "localhost".into(), word);
        let mut line = format!("{written:.6} {host} {}", self.program()).into_bytes();
        if let Some(pid) = self.pid.as_str().filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())) {
            line.extend_from_slice(format!("[{pid}]").as_bytes());
        }
        line.extend_from_slice(b": ");
        // One record is one line: what stands behind a line break must not pass for a record of its own.
        line.extend(message.iter().map(|byte| if *byte == b'\n' || *byte == b'\r' { b' ' } else { *byte }));
        Some(text(&line))
    }

    /// Which program speaks.
    ///
    /// - The kernel is the kernel.
    /// - An ordinary user is only a number: user 1000 cannot be `sshd`, however the program, the message or the unit are
    ///   called (without a session manager, the shells of users run in the unit of the sshd that let them in).
    /// - A process of a system service speaks for its service: what it calls itself is believed if that and the unit's name
    ///   begin alike (`sshd` in `ssh.service`, `postfix/smtpd` in `postfix@-.service`).
    /// - A process of root is what its executable is called, and what it calls itself is believed if that begins alike.
    fn program(&self) -> String {
        if self.transport == "kernel" {
            return "kernel".into();
        }
        let uid = self.uid.as_str().and_then(|uid| uid.parse::<u32>().ok());
        let Some(uid) = uid.filter(|uid| !USERS.contains(uid)) else {
            return format!("uid-{}", uid.map_or_else(|| "unknown".into(), |uid| uid.to_string()));
        };
        let says = self.identifier.as_str().unwrap_or_default();
        let service = service(self.unit.as_str().unwrap_or_default());
        let comm = self.comm.as_str().filter(|_| uid == 0);
        if [service, comm].into_iter().flatten().any(|vouches| begin_alike(vouches, says)) {
            return word(says);
        }
        comm.or(service).map_or_else(|| format!("uid-{uid}"), word)
    }
}

/// The name of a system service; `None` for sessions and what users run.
fn service(unit: &str) -> Option<&str> {
    let name = unit.strip_suffix(".service")?;
    let name = name.split_once('@').map_or(name, |(template, _)| template);
    (!name.is_empty() && name != "user").then_some(name)
}

/// Whether one of the two names is the beginning of the other. Three letters are too few to say so.
fn begin_alike(vouches: &str, says: &str) -> bool {
    let (short, long) = if vouches.len() < says.len() { (vouches, says) } else { (says, vouches) };
    vouches == says || (short.len() >= 3 && long.starts_with(short))
}

/// A text without what separates the parts of a syslog header.
fn word(text: &str) -> String {
    let good = |c: char| c.is_ascii_graphic() && !matches!(c, '[' | ']' | ':' | '<' | '>' | '"');
    let word: String = text.chars().take(64).map(|c| if good(c) { c } else { '_' }).collect();
    if word.is_empty() { "_".into() } else { word }
}

/// The bytes of a field: a text, a list of bytes where it is no valid text, or the first of several values.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Array(items) if items.iter().all(Value::is_u64) => {
            Some(items.iter().filter_map(|item| u8::try_from(item.as_u64()?).ok()).collect())
        }
        Value::Array(items) => items.iter().find(|item| !item.is_u64() && !item.is_array()).and_then(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::acquisition::queue::{Receiver, single};
    use crate::status::SourceStatus;

    fn line(record: &Value) -> Option<String> {
        let record: Record = serde_json::from_value(record.clone()).expect("a record");
        Some(record.line(Timestamp::UNIX_EPOCH)?.0.into())
    }

    /// Who can make a line that begins like one of sshd.
    #[test]
    fn only_journald_says_which_program_speaks() {
        // (who, identifier, comm, uid, unit, transport, program)
        let cases = [
            ("the daemon", "sshd", "sshd", "0", "ssh.service", "syslog", "sshd"),
            ("its session process", "sshd-session", "sshd-session", "0", "ssh.service", "syslog", "sshd-session"),
            ("a daemon under another unit name", "sshd", "sshd", "0", "sshd@7-[::1]:22.service", "syslog", "sshd"),
            ("a user with logger", "sshd", "logger", "1000", "session-3.scope", "syslog", "uid-1000"),
            ("a user with a program named sshd", "sshd", "sshd", "1000", "session-3.scope", "journal", "uid-1000"),
            (
                "a user whose shell runs in the unit of sshd",
                "sshd",
                "sshd",
                "1000",
                "sshd.service",
                "syslog",
                "uid-1000",
            ),
            ("a user's own service", "sshd", "sshd", "1000", "user@1000.service", "stdout", "uid-1000"),
            ("root with logger", "sshd", "logger", "0", "cron.service", "syslog", "logger"),
            ("a web shell with logger", "sshd", "logger", "33", "php-fpm.service", "syslog", "php-fpm"),
            ("a web shell with a program named sshd", "sshd", "sshd", "33", "php-fpm.service", "syslog", "php-fpm"),
            (
                "a mail daemon with parts",
                "postfix/smtpd",
                "smtpd",
                "101",
                "postfix@-.service",
                "syslog",
                "postfix/smtpd",
            ),
            ("a name that is too short to vouch", "sshd", "x", "33", "s.service", "syslog", "s"),
            ("the kernel", "kernel", "", "", "", "kernel", "kernel"),
            ("somebody who pretends to be the kernel", "kernel", "logger", "1000", "x.scope", "syslog", "uid-1000"),
            ("nobody knows who", "sshd", "sshd", "", "", "syslog", "uid-unknown"),
            ("a name with a header in it", "a]: sshd[1", "a]: sshd[1", "0", "", "syslog", "a___sshd_1"),
        ];
        for (who, identifier, comm, uid, unit, transport, program) in cases {
            let record = json!({
                "MESSAGE": "Failed password for root from 192.0.2.1 port 22 ssh2", "SYSLOG_IDENTIFIER": identifier,
                "_COMM": comm, "_UID": uid, "_SYSTEMD_UNIT": unit, "_TRANSPORT": transport, "_PID": "7", "_HOSTNAME": "h",
            });
            let expected = format!(
                "1970-01-01T00:00:00.000000Z h {program}[7]: Failed password for root from 192.0.2.1 port 22 ssh2"
            );
            assert_eq!(line(&record), Some(expected), "{who}");
        }
    }

    #[test]
    fn messages_come_in_several_shapes() {
        // (message, text)
        let cases = [
            (json!("plain"), Some("plain")),
            (json!([0x61, 0xff, 0x62]), Some("a\u{fffd}b")),
            (json!(["first", "second"]), Some("first")),
            (json!("two\nJan  1 00:00:00 h sshd[1]: lines\n"), Some("two Jan  1 00:00:00 h sshd[1]: lines")),
            (json!("  "), None),
            (Value::Null, None),
            (json!(7), None),
            (json!([[[[1]]]]), None),
        ];
        for (message, text) in cases {
            let record = json!({"MESSAGE": message, "_UID": "0", "_COMM": "x"});
            let expected = text.map(|text| format!("1970-01-01T00:00:00.000000Z localhost x: {text}"));
            assert_eq!(line(&record), expected, "{message}");
        }
    }

    fn record(message: &str, cursor: &str, micros: i64) -> String {
        let fields = json!({
            "MESSAGE": message, "__CURSOR": cursor, "__REALTIME_TIMESTAMP": micros.to_string(), "_UID": "0", "_COMM": "x",
            "_HOSTNAME": "h",
        });
        format!("{fields}\n")
    }

    /// A `journalctl` that prints what is in `output` once, says something on standard error and ends with `status`; it ends
    /// well if it is not told to follow and `status` is 1.
    fn fake(folder: &Path, output: &str, stderr: &str, status: u8) -> PathBuf {
        let (program, said) = (folder.join("journalctl"), folder.join("output"));
        fs::write(&said, output).expect("room on the disk");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {0}\ncat {1}\n: > {1}\n[ -z '{stderr}' ] || echo '{stderr}' >&2\n\
             case \"{status} $*\" in 1*--follow*) exit 1;; 1*) exit 0;; esac\nexit {status}\n",
            folder.join("arguments").display(),
            said.display()
        );
        let temporary = folder.join("new");
        fs::write(&temporary, script).expect("room on the disk");
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o700)).expect("our file");
        fs::rename(&temporary, &program).expect("our folder");
        program
    }

    fn config(follow: bool) -> JournalConfig {
        JournalConfig {
            filters: vec!["_COMM=x".into()],
            labels: Vec::new(),
            time_machine: false,
            follow,
            catch_up: Duration::from_hours(24),
        }
    }

    fn outlet() -> (Outlet, Receiver, Arc<SourceStatus>) {
        let status = Arc::new(SourceStatus::default());
        let (sender, receiver) = single(100);
        (Outlet::new(0, sender, Arc::clone(&status)), receiver, status)
    }

    fn messages(receiver: &Receiver) -> Vec<String> {
        let batches = receiver.try_iter();
        let raw =
            |line: model::Line| line.raw.split_once(": ").map_or_else(String::new, |(_, message)| message.to_owned());
        batches.flat_map(|batch| batch.lines).map(raw).collect()
    }

    #[test]
    fn it_goes_on_behind_the_last_record_when_the_child_ends() {
        let folder = TempDir::new().expect("a temporary folder");
        let now = Timestamp::now().as_microsecond();
        let day = 86_400_000_000;
        let first = [record("old", "c1", now - day), "not json\n".into(), record("new", "c2", now + day)].concat();
        let mut journal = Journal::new(config(true), fake(folder.path(), &first, "it broke", 3), None);
        let (mut out, receiver, status) = outlet();
        let bell = Arc::new(Bell::new().expect("a descriptor is left"));
        let error = journal.run(&bell, &mut out).expect_err("the child ended").to_string();
        assert!(error.ends_with("journalctl` ended (exit status: 3): it broke"), "{error}");
        assert_eq!(messages(&receiver), ["new"]);
        assert_eq!(status.dropped.get(), 1);

        let again = [record("new", "c2", now + day), record("newer", "c3", now + day)].concat();
        fake(folder.path(), &again, "", 1);
        journal.run(&bell, &mut out).expect_err("the child ended");
        assert_eq!(messages(&receiver), ["newer"]);
        fake(folder.path(), "", "Failed to seek to cursor", 2);
        journal.run(&bell, &mut out).expect_err("the child ended");
        journal.run(&bell, &mut out).expect_err("the child ended");
        let arguments = fs::read_to_string(folder.path().join("arguments")).expect("the child wrote them");
        let common = format!("--output=json --all --no-pager --quiet {FIELDS} ");
        insta::assert_snapshot!(arguments.replace(&common, ""), @r"
        --lines=1 --follow _COMM=x
        --cursor=c2 _COMM=x
        --cursor=c3 --follow --no-tail _COMM=x
        --cursor=c3 _COMM=x
        --lines=1 --follow _COMM=x
        ");
    }

    #[test]
    fn read_once_it_ends_with_the_journal() {
        let folder = TempDir::new().expect("a temporary folder");
        let all = [record("1", "c1", 5), record("2", "c2", 6)].concat();
        let mut journal = Journal::new(config(false), fake(folder.path(), &all, "", 0), None);
        let (mut out, receiver, _) = outlet();
        let bell = Arc::new(Bell::new().expect("a descriptor is left"));
        journal.run(&bell, &mut out).expect("it ends well");
        assert_eq!(messages(&receiver), ["1", "2"]);
    }

    #[test]
    fn a_missing_program_says_so() {
        let mut journal = Journal::new(config(true), "/no/such/journalctl".into(), None);
        let (mut out, _receiver, _) = outlet();
        let bell = Arc::new(Bell::new().expect("a descriptor is left"));
        let error = journal.run(&bell, &mut out).expect_err("it is missing");
        assert!(error.to_string().starts_with("cannot start `/no/such/journalctl`"), "{error}");
    }

    #[test]
    fn a_stop_ends_it_while_the_child_is_silent() {
        let folder = TempDir::new().expect("a temporary folder");
        let program = fake(folder.path(), "", "", 0);
        fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").expect("our file");
        let mut journal = Journal::new(config(true), program, None);
        let (mut out, _receiver, _) = outlet();
        let bell = Arc::new(Bell::new().expect("a descriptor is left"));
        bell.stop();
        journal.run(&bell, &mut out).expect("it was asked to end");
    }
}
