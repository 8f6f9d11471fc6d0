//! A child process: started without a shell, bounded in time and in what it says.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use super::config::Config;
use crate::error::BouncerError;

/// How much of what a program says is kept for the log, in bytes.
const CAPTURED: u64 = 64 << 10;
/// How much of it goes into an error, in characters.
const TOLD: usize = 300;
/// Between being asked to end and being made to.
const GRACE: Duration = Duration::from_secs(2);
/// The exit code of a program that wants to be asked again.
const RETRY: i32 = 75;

/// How a batch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was carried out.
    Done,
    /// It was not, and may be later.
    Later(String),
    /// It never will be.
    Refused(String),
    /// Nobody knows, and there is no use in asking this process again.
    Lost(String),
}

/// A program that stays.
#[derive(Debug)]
pub(super) struct Child {
    process: tokio::process::Child,
    group: Option<Pid>,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    errors: JoinHandle<()>,
}

/// What a program that stays answers.
#[derive(Debug, Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    retry: bool,
    #[serde(default)]
    error: String,
}

impl Child {
    /// Starts the program of `config`.
    pub(super) fn start(name: &str, config: &Config) -> Result<Self, BouncerError> {
        let mut process = spawn(config)?;
        let group = process.id().and_then(|id| Pid::from_raw(id as i32));
        let missing = || BouncerError::Setup(format!("`{name}` has no standard input and output"));
        let input = process.stdin.take().ok_or_else(missing)?;
        let output = BufReader::new(process.stdout.take().ok_or_else(missing)?);
        let errors = process.stderr.take().ok_or_else(missing)?;
        let name = name.to_owned();
        let errors = tokio::spawn(async move {
            let mut lines = BufReader::new(errors);
            while let Some(line) = line(&mut lines).await {
                warn!(target = name, line, "the program says");
            }
        });
        Ok(Self { process, group, input, output, errors })
    }

    /// Whether it has not ended.
    pub(super) fn is_running(&mut self) -> bool {
        let running = matches!(self.process.try_wait(), Ok(None));
        if !running {
            self.clean_up();
        }
        running
    }

    /// Ends what a program that has ended has left behind. Once: its number may soon be somebody else's.
    fn clean_up(&mut self) {
        signal(self.group.take(), Signal::KILL);
    }

    /// Has it carry out the batch in `text`, a line.
    pub(super) async fn ask(&mut self, text: &str, limit: Duration) -> Result<Ended, BouncerError> {
        let asked = async {
            // it may write before it has read all: both at once, so that neither waits for ever
            let write = async {
                self.input.write_all(text.as_bytes()).await?;
                self.input.flush().await
            };
            let (written, answer) = tokio::join!(write, line(&mut self.output));
            (written, answer)
        };
        let Ok((written, answer)) = timeout(limit, asked).await else {
            return Ok(Ended::Lost(format!("the program did not answer within {limit:?}")));
        };
        let Some(answer) = answer else {
            // it has ended, or closed its output
            let ended = timeout(GRACE, self.process.wait()).await;
            if ended.is_ok() {
                self.clean_up();
            }
            return match ended {
                Ok(Ok(status)) if status.success() => Ok(Ended::Lost("the program ended without an answer".into())),
                Ok(Ok(status)) => Ok(judge(status, "")),
                _ => Ok(Ended::Lost("the program closed its output".into())),
            };
        };
        if let Err(error) = written {
            return Ok(Ended::Lost(format!("the program does not read: {error}")));
        }
        match serde_json::from_str::<Answer>(&answer) {
            Ok(Answer { ok: true, .. }) => Ok(Ended::Done),
            Ok(Answer { retry: true, error, .. }) => Ok(Ended::Later(shorten(&error))),
            Ok(Answer { error, .. }) => Ok(Ended::Refused(shorten(&error))),
            Err(_) => {
                let found = shorten(&answer);
                Ok(Ended::Lost(format!("`{found}` is no answer, expected a line like `{{\"ok\":true}}`")))
            }
        }
    }

    /// Ends it and all that it has started.
    pub(super) async fn kill(mut self) {
        end(&mut self.process, self.group.take()).await;
        self.errors.abort();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.clean_up();
    }
}

/// Starts the program for one batch, `text`, and waits until it ends.
pub(super) async fn run_once(name: &str, config: &Config, text: String) -> Result<Ended, BouncerError> {
    let mut process = spawn(config)?;
    let group = process.id().and_then(|id| Pid::from_raw(id as i32));
    let (input, output, errors) = (process.stdin.take(), process.stdout.take(), process.stderr.take());
    let work = async {
        let write = async {
            if let Some(mut input) = input {
                // a program need not read what it is told
                let _ = input.write_all(text.as_bytes()).await;
            }
        };
        let ((), said, complained) = tokio::join!(write, capture(output), capture(errors));
        (process.wait().await, said, complained)
    };
    let finished = timeout(config.limit, work).await;
    let Ok((status, said, complained)) = finished else {
        end(&mut process, group).await;
        return Ok(Ended::Lost(format!("the program did not end within {:?}", config.limit)));
    };
    // what it has left behind must not go on
    signal(group, Signal::KILL);
    if !said.is_empty() || !complained.is_empty() {
        info!(target = name, output = said, errors = complained, "the program said");
    }
    let status = status.map_err(|error| BouncerError::unreachable(name, error.to_string()))?;
    Ok(judge(status, if complained.is_empty() { &said } else { &complained }))
}

fn judge(status: ExitStatus, said: &str) -> Ended {
    let said = shorten(said);
    match status.code() {
        Some(0) => Ended::Done,
        Some(RETRY) => Ended::Later(format!("the program asks for another try: {said}")),
        Some(code) => Ended::Refused(format!("the program ended with {code}: {said}")),
        None => Ended::Later("the program was ended by a signal".into()),
    }
}

/// Starts the program in a process group of its own, with no way to more rights than it begins with.
fn spawn(config: &Config) -> Result<tokio::process::Child, BouncerError> {
    let (program, arguments) =
        config.command.split_first().map_or(("", &[][..]), |(program, rest)| (program.as_str(), rest));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir(&config.folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(user) = &config.user {
        command.uid(user.id).gid(user.group);
    }
    let runtime = tokio::runtime::Handle::current();
    // giving up new rights holds for a thread and what it starts, so it is done on one that ends
    let started = std::thread::spawn(move || {
        let _inside = runtime.enter();
        rustix::thread::set_no_new_privs(true)?;
        command.spawn()
    });
    let failed = |error: std::io::Error| BouncerError::Setup(format!("cannot run `{program}`: {error}"));
    started.join().map_err(|_| failed(std::io::ErrorKind::Other.into()))?.map_err(failed)
}

/// Asks a process group to end, then makes it.
async fn end(process: &mut tokio::process::Child, group: Option<Pid>) {
    signal(group, Signal::TERM);
    // it may have ended already
    let _ = timeout(GRACE, process.wait()).await;
    signal(group, Signal::KILL);
    let _ = process.wait().await;
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // nobody may be left in it
        let _ = kill_process_group(group, signal);
    }
}

/// The first part of what is said; the rest is read and forgotten, so that nobody waits for us.
async fn capture(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut kept = Vec::new();
    // a program that goes away has said what it had to say
    let _ = (&mut from).take(CAPTURED).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).trim_end().to_owned()
}

/// The next line, without what goes beyond the bound; `None` at the end.
async fn line(from: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Option<String> {
    let mut kept = Vec::new();
    let read = (&mut *from).take(CAPTURED).read_until(b'\n', &mut kept).await.ok()?;
    if read == 0 {
        return None;
    }
    if read as u64 == CAPTURED && kept.last() != Some(&b'\n') {
        skip_line(from).await;
    }
    Some(String::from_utf8_lossy(&kept).trim_end().to_owned())
}

/// Reads up to the end of the line and keeps nothing.
async fn skip_line(from: &mut (impl tokio::io::AsyncBufRead + Unpin)) {
    while let Ok(bytes) = from.fill_buf().await {
        let (found, used) = match bytes.iter().position(|&byte| byte == b'\n') {
            Some(at) => (true, at + 1),
            None => (false, bytes.len()),
        };
        if used == 0 {
            return;
        }
        from.consume(used);
        if found {
            return;
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(TOLD).collect()
}
