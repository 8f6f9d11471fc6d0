//! The `cordon` binary: set up logging, parse arguments, run one subcommand, turn its result into an exit code.
//!
//! No logic of its own: each subcommand is one file, and what it does lives in the crates it calls.
//! Exit codes: 0 done, 1 failed (one sentence on standard error), 2 wrong usage.

mod args;
mod config;
mod output;
mod shell;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command, ConfigCommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    output::log_to_stderr(&args.global);
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let global = &args.global;
    match args.command {
        Command::Config(ConfigCommand::Check) => config::check(global),
        Command::Config(ConfigCommand::Show) => config::show(global),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { folder } => shell::man(&folder),
    }
}
