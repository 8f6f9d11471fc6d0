//! Programs that carry out decisions, as they stand in the file, read loosely and checked once.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use crate::config::{Fault, choose, duration, limit};

/// A program, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// The program and its arguments. No shell reads them.
    pub command: Vec<String>,
    /// How it is run.
    pub style: Style,
    /// Where it is run.
    pub folder: PathBuf,
    /// How long it may take over a batch.
    pub limit: Duration,
    /// Who it runs as; `None` runs it as we do.
    pub user: Option<User>,
    /// Most changes in one batch.
    pub batch: usize,
    /// The scopes that it is told of beside addresses; empty tells of all.
    pub scopes: Vec<String>,
}

/// How a program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// It stays, reads a line for each batch and answers with one.
    Stay,
    /// It is started for each batch, which it reads, and ends.
    Once,
}

/// A user of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// Number of the user.
    pub id: u32,
    /// Number of his group.
    pub group: u32,
}

/// The section as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    command: Spanned<Vec<String>>,
    style: Option<Spanned<String>>,
    folder: Option<Spanned<PathBuf>>,
    limit: Option<Spanned<String>>,
    user: Option<Spanned<String>>,
    batch: Option<Spanned<i64>>,
    scopes: Option<Vec<String>>,
}

/// How long a program may take unless the file says otherwise.
const LIMIT: Duration = Duration::from_secs(10);
/// The longest that it may be given.
const LONGEST: Duration = Duration::from_mins(10);

impl RawConfig {
    /// The checked section, or everything that is wrong with it.
    pub fn check(self) -> Result<Config, Vec<Fault>> {
        let mut faults = Vec::new();
        let line = self.command.referenced.line();
        match self.command.value.first() {
            Some(program) if program.starts_with('/') => {
                if !std::path::Path::new(program).is_file() {
                    faults.push(Fault { line, message: format!("there is no program `{program}`") });
                }
            }
            found => {
                let found = found.map_or("", String::as_str);
                let message = format!(
                    "`{found}` is no program, expected a list that begins with a path from the root, like `[/usr/local/bin/block]`"
                );
                faults.push(Fault { line, message });
            }
        }
        let mut style = Style::Stay;
        choose(self.style, "style", &[("stay", Style::Stay), ("once", Style::Once)], &mut style, &mut faults);
        let folder = match self.folder {
            None => PathBuf::from("/"),
            Some(folder) => {
                if !folder.value.is_absolute() || !folder.value.is_dir() {
                    let message = format!("there is no folder `{}`", folder.value.display());
                    faults.push(Fault { line: folder.referenced.line(), message });
                }
                folder.value
            }
        };
        let mut time = LIMIT;
        let line = self.limit.as_ref().map_or(line, |limit| limit.referenced.line());
        duration(self.limit, "limit", &mut time, &mut faults);
        if !(Duration::from_millis(1)..=LONGEST).contains(&time) {
            faults.push(Fault { line, message: "`limit` is out of bounds, expected up to `10m`".to_owned() });
        }
        let user = self.user.and_then(|user| {
            let found = user_of(&user.value, &std::fs::read_to_string("/etc/passwd").unwrap_or_default());
            if found.is_none() {
                let message = format!("there is no user `{}` on this host", user.value);
                faults.push(Fault { line: user.referenced.line(), message });
            }
            found
        });
        let mut batch = 1000;
        limit(self.batch, "batch", 1..=10_000, &mut batch, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let scopes = self.scopes.unwrap_or_default();
        Ok(Config { command: self.command.value, style, folder, limit: time, user, batch, scopes })
    }
}

/// The user that `passwd` calls `name`.
fn user_of(name: &str, passwd: &str) -> Option<User> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(User { id: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let raw: RawConfig = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        raw.check().map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_program_is_enough() {
        let config = parse("command: [/bin/sh, -c, 'true; false']").expect("no mistakes");
        assert_eq!((config.style, config.limit, config.user), (Style::Stay, LIMIT, None));
        let user = parse("command: [/bin/sh]\nuser: root").map(|config| config.user);
        assert_eq!(user, Ok(Some(User { id: 0, group: 0 })));
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let text = "command: [sh]\nstyle: twice\nfolder: here\nlimit: 1h\nuser: nobody-at-all\nbatch: 0";
        insta::assert_snapshot!(parse(text).expect_err("many mistakes"));
    }
}
