//! `cordon completions` and `cordon man`: for packages, made from the same types as the help.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use crate::args::Args;

pub(crate) fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "cordon", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}

/// Writes `cordon.1` and one page a subcommand.
pub(crate) fn man(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Args::command(), folder))
        .with_context(|| format!("cannot write manual pages into `{}`", folder.display()))
}
