//! `cordon bouncer trial` and `confirm`: a change that could lock somebody out is undone unless he says that it did not.
//!
//! Undoing is disarming: everything passes, whatever the change was. A process of its own waits for it, in a session of its
//! own, so that neither a connection that breaks nor an agent that dies keeps it from its work.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, bail};
use bouncers::geo::peers;
use jiff::{SignedDuration, Timestamp};
use rustix::process::setsid;

use crate::accounts::confirm as say;
use crate::args::Global;
use crate::bouncer::open;
use crate::config::Config;

/// Where the trial that runs is noted.
fn mark(config: &Config) -> PathBuf {
    config.state.join(format!("{}.trial", config.enforcement.table))
}

/// Begins a trial; a later one takes the place of an earlier one.
pub(crate) fn begin(global: &Global, within: SignedDuration) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    // what could not be disarmed then must be said now
    open(&config)?;
    let (mark, token) = (mark(&config), format!("{:016x}", rand::random::<u64>()));
    fs::write(&mark, &token).with_context(|| format!("cannot write `{}`", mark.display()))?;
    let program = std::env::current_exe().context("cannot find the program file of cordon")?;
    let mut command = Command::new(program);
    command.args(["bouncer", "roll-back", &token, &model::duration::format(within), "--state"]).arg(&config.state);
    if let Some(file) = &global.config {
        command.arg("--config").arg(fs::canonicalize(file)?);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("cannot start the process that would undo the change")?;
    let within = model::duration::format(within);
    say(global, &format!("on trial for {within}: make the change, then `cordon bouncer confirm` from a new connection"))
}

/// Ends the trial that runs: what was changed stays.
pub(crate) fn confirm(global: &Global) -> anyhow::Result<()> {
    let mark = mark(&Config::load(global)?);
    let since = fs::metadata(&mark).and_then(|mark| mark.modified()).ok().and_then(|at| Timestamp::try_from(at).ok());
    if peers::session_began().zip(since).is_some_and(|(began, since)| began < since) {
        bail!(
            "this session was opened before the trial began, so it does not show that one can still get in\n\
             hint: open another one, and confirm there"
        );
    }
    match fs::remove_file(mark) {
        Ok(()) => say(global, "confirmed: the change stays"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!(
                "nothing is on trial\nhint: if the time was over, the table is disarmed, and `cordon arm` takes that back"
            )
        }
        Err(error) => Err(error).context("cannot end the trial"),
    }
}

/// Waits, and disarms unless somebody has confirmed. Nobody reads what it says.
pub(crate) fn roll_back(global: &Global, token: &str, within: SignedDuration) -> anyhow::Result<()> {
    // one that leads its session already is as good
    let _ = setsid();
    sleep(Duration::try_from(within).context("a trial lasts longer than nothing")?);
    let config = Config::load(global)?;
    let mark = mark(&config);
    if fs::read_to_string(&mark).is_ok_and(|running| running == token) {
        open(&config)?.disarm()?;
        fs::remove_file(&mark)?;
        crate::remote::note(global, "enforcement.rolled-back", &config.enforcement.table);
    }
    Ok(())
}
