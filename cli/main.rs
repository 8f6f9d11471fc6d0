//! The `cordon` binary: set up logging, parse arguments, run one subcommand, turn its result into an exit code.
//!
//! No logic of its own: each subcommand is one file, and what it does lives in the crates it calls.
//! Exit codes: 0 done, 1 failed (one sentence on standard error), 2 wrong usage.

mod accounts;
mod alerts;
mod allowlists;
mod args;
mod audit;
mod backup;
mod bench;
mod bench_api;
mod bench_edge;
mod bench_enforce;
mod bench_engine;
mod bench_geo;
mod bench_sources;
mod bouncer;
mod check;
mod config;
mod decisions;
mod demo;
mod explain;
mod geo;
mod hub;
mod import;
mod lab;
mod metrics;
mod output;
mod pki;
mod reload;
mod remote;
mod replay;
mod run;
mod sandbox;
mod setup_lists;
mod setup_proxy;
mod setup_ziti;
mod shell;
mod status;
mod support;
mod trial;
mod why;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Bench, Command, ConfigCommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    output::log_to_stderr(&args.global);
    match dispatch(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<status::NotWell>() => ExitCode::from(3),
        Err(error) if error.is::<bouncer::Differs>() => ExitCode::from(2),
        Err(error) => {
            output::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: Args) -> anyhow::Result<()> {
    let global = &args.global;
    match args.command {
        Command::Run(args) => run::run(global, &args),
        Command::Demo => demo::run(global),
        Command::Ban(ban) => decisions::ban(global, &ban),
        Command::Lift { target } => decisions::lift(global, target),
        Command::Forgive { target, duration } => decisions::forgive(global, target, duration),
        Command::Decisions(command) => decisions::run(global, &command),
        Command::Alerts(command) => alerts::run(global, &command),
        Command::Why { asked } => why::run(global, asked),
        Command::Explain(args) => explain::run(global, &args),
        Command::Replay(args) => replay::run(global, &args),
        Command::Allowlists(command) => allowlists::run(global, &command),
        Command::Bouncers(command) => accounts::bouncers(global, &command),
        Command::Machines(command) => accounts::machines(global, &command),
        Command::Forget { who } => audit::forget(global, &who),
        Command::Audit(command) => audit::run(global, &command),
        Command::Backup { file } => backup::backup(global, &file),
        Command::Support { out } => support::run(global, out),
        Command::Restore { file } => backup::restore(global, &file),
        Command::Pki(args) => pki::run(global, &args),
        Command::Status => status::run(global),
        Command::Metrics { command, no_unit } => metrics::run(global, command.as_ref(), no_unit),
        Command::Reload => reload::run(global),
        Command::Bouncer(args) => bouncer::run(global, &args),
        Command::Disarm => bouncer::switch(global, false),
        Command::Arm => bouncer::switch(global, true),
        Command::Geo(command) => geo::run(global, &command),
        Command::Check(args) => check::run(global, &args),
        Command::Hub(command) => hub::run(global, &command),
        Command::Config(ConfigCommand::Check) => config::check(global),
        Command::Config(ConfigCommand::Show) => config::show(global),
        Command::Bench(Bench::Latency { bans, loaded }) => bench::latency(bans, loaded, global),
        Command::Bench(Bench::Enforce(args)) => bench_enforce::run(&args, global),
        Command::Bench(Bench::Engine(args)) => bench_engine::run(global, &args),
        Command::Bench(Bench::Syslog { rate, seconds }) => bench_sources::syslog(rate, seconds, global),
        Command::Bench(Bench::Files { files, seconds }) => bench_sources::files(files, seconds, global),
        Command::Bench(Bench::Forward { decisions, seconds, connections }) => {
            bench_edge::forward(decisions, seconds, connections, global)
        }
        Command::Bench(Bench::Feed { decisions }) => bench_edge::feed(decisions, global),
        Command::Bench(Bench::Geo { database }) => bench_geo::run(global, &database),
        Command::Bench(Bench::Api { decisions, followers }) => bench_api::run(decisions, followers, global),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { folder } => shell::man(&folder),
    }
}
