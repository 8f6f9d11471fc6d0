//! What can be typed: clap types only, no behaviour.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Watches logs, decides, drops attackers in the kernel.
#[derive(Debug, Parser)]
#[command(name = "cordon", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every subcommand understands.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Global {
    /// Configuration file; without it /etc/cordon/cordon.yaml if it exists, else the defaults
    #[arg(short, long, global = true, env = "CORDON_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Folder of the database, the socket and the places in the logs
    #[arg(long, global = true, env = "CORDON_STATE", value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,

    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Human, value_name = "FORMAT")]
    pub(crate) output: Format,

    /// What is logged on standard error: error, warn, info, debug, trace, or a filter such as `agent=debug`
    #[arg(long, global = true, env = "CORDON_LOG", value_name = "LEVEL")]
    pub(crate) log: Option<String>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences
    Human,
    /// One JSON document
    Json,
    /// Comma-separated values with a header line
    Raw,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),

    /// Print completions for a shell
    #[command(hide = true)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },

    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// Where to
        folder: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read the configuration and say what is wrong with it
    Check,
    /// Print the configuration in force, defaults filled in
    Show,
}
