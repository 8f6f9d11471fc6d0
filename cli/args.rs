//! What can be typed: clap types only, no behaviour.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use bouncers::forward::reference::{NoReference, Reference};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use jiff::SignedDuration;

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
#[derive(Clone, Debug, ClapArgs)]
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
    pub(crate) log_level: Option<String>,
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
    /// Watch logs, decide, enforce; on this host only what you allow it to
    Run(RunArgs),
    /// Play a recorded attack against a cordon of its own, in a network of its own
    Demo,
    /// Keep an address or range out
    Ban(Ban),
    /// End every decision about an address or range
    Lift {
        /// Address or range
        #[arg(value_parser = net, value_name = "IP|RANGE")]
        target: IpNet,
    },
    /// Start afresh with somebody: end decisions, forget how often he came, and let him be for a while
    Forgive {
        /// Address or range
        #[arg(value_parser = net, value_name = "IP|RANGE")]
        target: IpNet,
        /// How long he is not punished, whatever he does
        #[arg(long = "for", value_parser = duration, default_value = "24h", value_name = "DURATION")]
        duration: SignedDuration,
    },
    /// Who is kept out, until when
    #[command(subcommand, visible_alias = "decision")]
    Decisions(Decisions),
    /// What happened
    #[command(subcommand, visible_alias = "alert")]
    Alerts(Alerts),
    /// Why an address is kept out, or is not: lines, rules, checks, and how to undo it
    Why {
        /// The address, or the reference that a refused visitor was shown
        #[arg(value_name = "IP|REFERENCE", value_parser = asked)]
        asked: Asked,
    },
    /// Take lines through every stage and show what each parser and scenario makes of them
    Explain(Explain),
    /// Run an old log through the same engine, with the time in the log, and show what it would have done
    Replay(Replay),
    /// Who is never punished
    #[command(subcommand, visible_alias = "allowlist")]
    Allowlists(Allowlists),
    /// Accounts of those who enforce
    #[command(subcommand)]
    Bouncers(Bouncers),
    /// Accounts of those who send alerts
    #[command(subcommand, visible_alias = "machine")]
    Machines(Machines),
    /// Erase what is stored about somebody: alerts, evidence, decisions, his part of the audit trail
    Forget {
        /// Address, range or user name
        #[arg(value_name = "IP|USER")]
        who: String,
    },
    /// Who changed what, when, from where
    #[command(subcommand)]
    Audit(Audit),
    /// Copy database, audit trail, certificates and keys into one file; Cordon may be running
    Backup {
        /// File that does not exist yet
        file: PathBuf,
    },
    /// Collect what somebody who helps needs to see, without keys, passwords and tokens
    Support {
        /// File that does not exist yet; `cordon-support-DATE.json` if it is not named
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Put a backup in the place of what is there; Cordon must not be running
    Restore {
        /// What `backup` wrote
        file: PathBuf,
    },
    /// The site's own certificates: for the API, and for those who talk to it
    Pki(Pki),
    /// What is read, what was seen, what is enforced, and what does not work
    ///
    /// Exit status: 0 if all is well, 3 if something does not work, 1 if nobody answers.
    Status,
    /// What was counted: lines, alerts, decisions, requests
    #[command(args_conflicts_with_subcommands = true)]
    Metrics {
        #[command(subcommand)]
        command: Option<Metrics>,
        /// Plain numbers instead of `1.03k`
        #[arg(long, global = true)]
        no_unit: bool,
    },
    /// Read configuration, rules, profiles and datasources again; a mistake in any of them changes nothing
    Reload,
    /// Only enforce: follow the decisions of an API elsewhere
    Bouncer(Bouncer),
    /// The panic switch: from now on nothing is dropped, whatever is decided
    Disarm,
    /// Undo `cordon disarm`
    Arm,
    /// Where addresses are, what geo policies say of them, and what a change of policies would do
    #[command(subcommand)]
    Geo(Geo),
    /// Find rules that load but cannot work, or can be abused
    Check(Check),
    /// Try rules on recorded logs
    #[command(subcommand)]
    Hub(Hub),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Measure
    #[command(subcommand, hide = true)]
    Bench(Bench),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// Where to
        folder: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Metrics {
    /// Some sections, also empty ones
    Show {
        /// Their names, or `engine` or `lapi` for groups of them; all if none is named
        #[arg(value_name = "TYPE")]
        kinds: Vec<String>,
    },
    /// What sections there are
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Geo {
    /// Country and autonomous system of an address; what policies, decisions and allowlists say of it, and why
    Lookup {
        /// The address
        ip: IpAddr,
    },
    /// What the configured policies come to, what would change, and who is connected now and could not connect again
    Plan,
    /// What is in force: policies, ranges, dropped packets, databases, decisions about countries
    Status,
    /// Keep policies that have changed (`geo.confirm`); from a session that was opened since then
    Confirm,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// The newest records
    List {
        #[command(flatten)]
        filter: AuditFilter,
        /// How many at most
        #[arg(short, long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Whether any record was altered, removed or moved; tells where the first one is
    Verify {
        /// A record that was noted elsewhere, as `verify` printed it: it must still be there
        #[arg(long, value_name = "SEQ:HASH", value_parser = head)]
        expect: Option<api::audit::Head>,
        /// Archives of old records that are not there were moved elsewhere: go on behind them
        #[arg(long)]
        moved: bool,
    },
    /// All records as lines of JSON, the oldest first
    Export,
}

/// What narrows a list of records.
#[derive(Debug, ClapArgs)]
pub(crate) struct AuditFilter {
    /// Only within this time
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub(crate) since: Option<SignedDuration>,
    /// Only by this machine or administrator
    #[arg(long)]
    pub(crate) actor: Option<String>,
    /// Only this action (`decisions.add`), or all of a kind (`decisions`)
    #[arg(long)]
    pub(crate) action: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// Drop packets instead of only saying what would be done
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) enforce: bool,
    /// Only say what would be done, whatever the configuration says
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// TCP address of the API, instead of the configured one
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Use CrowdSec's configuration folder as it is: its rules, datasources, profiles and address, instead of the configured ones
    #[arg(long, env = "CORDON_CONFIG_DIR", value_name = "FOLDER")]
    pub(crate) config_dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Ban {
    /// Address or range
    #[arg(value_parser = net, value_name = "IP|RANGE")]
    pub(crate) target: IpNet,
    /// How long: `30m`, `4h`, `7d`
    #[arg(long = "for", visible_alias = "duration", value_parser = duration, default_value = "4h", value_name = "DURATION")]
    pub(crate) duration: SignedDuration,
    /// Why
    #[arg(long, default_value = "banned by hand")]
    pub(crate) reason: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Decisions {
    /// List decisions in force
    List(DecisionFilter),
    /// Make a decision of any kind
    Add(AddDecision),
    /// End decisions
    #[command(visible_alias = "remove")]
    Delete(DeleteDecisions),
    /// Make many decisions from a file
    Import(Import),
    /// Write all decisions in force, as `import` reads them
    Export(Export),
}

/// What narrows a list of alerts, or of the decisions that alerts led to.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct Filter {
    /// Also those of lists, and without a limit
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only about this address, and ranges around it
    #[arg(short, long)]
    pub(crate) ip: Option<String>,
    /// Only about this range, and ranges around it
    #[arg(short, long)]
    pub(crate) range: Option<String>,
    /// Only what lies inside the range, instead of around it
    #[arg(long)]
    pub(crate) contained: bool,
    /// Only with this scope
    #[arg(long)]
    pub(crate) scope: Option<String>,
    /// Only with this value
    #[arg(short, long)]
    pub(crate) value: Option<String>,
    /// Only with this remediation
    #[arg(short = 't', long = "type")]
    pub(crate) remediation: Option<String>,
    /// Only of this scenario
    #[arg(short, long)]
    pub(crate) scenario: Option<String>,
    /// Only with a decision of this origin
    #[arg(long)]
    pub(crate) origin: Option<String>,
    /// Only of alerts that began within this time
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub(crate) since: Option<SignedDuration>,
    /// Only of alerts that began before this time ago
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub(crate) until: Option<SignedDuration>,
    /// With the machine that sent the alert
    #[arg(short, long)]
    pub(crate) machine: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DecisionFilter {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Without simulated ones
    #[arg(long)]
    pub(crate) no_simu: bool,
    /// How many alerts are looked at; 0 for all
    #[arg(short, long, default_value_t = 100)]
    pub(crate) limit: u32,
}

#[derive(Debug, ClapArgs)]
#[group(id = "subject", required = true, multiple = false)]
pub(crate) struct Subject {
    /// An address
    #[arg(short, long, group = "subject")]
    pub(crate) ip: Option<String>,
    /// A range
    #[arg(short, long, group = "subject")]
    pub(crate) range: Option<String>,
    /// Anything else, with --scope
    #[arg(short, long, group = "subject")]
    pub(crate) value: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AddDecision {
    #[command(flatten)]
    pub(crate) subject: Subject,
    /// What kind of thing --value names
    #[arg(long, default_value = "Ip")]
    pub(crate) scope: String,
    /// How long
    #[arg(short, long, value_parser = duration, default_value = "4h")]
    pub(crate) duration: SignedDuration,
    /// What is done
    #[arg(short = 't', long = "type", default_value = "ban")]
    pub(crate) remediation: String,
    /// Why
    #[arg(short = 'R', long, default_value = "decided by hand")]
    pub(crate) reason: String,
}

#[derive(Debug, ClapArgs)]
#[group(id = "which", required = true, multiple = true)]
pub(crate) struct DeleteDecisions {
    /// By number
    #[arg(long, group = "which")]
    pub(crate) id: Option<i64>,
    /// About this address, and ranges around it
    #[arg(short, long, group = "which")]
    pub(crate) ip: Option<String>,
    /// About this range, and ranges around it
    #[arg(short, long, group = "which")]
    pub(crate) range: Option<String>,
    /// With this value
    #[arg(short, long, group = "which")]
    pub(crate) value: Option<String>,
    /// With this remediation
    #[arg(short = 't', long = "type", group = "which")]
    pub(crate) remediation: Option<String>,
    /// Of this scenario
    #[arg(short, long, group = "which")]
    pub(crate) scenario: Option<String>,
    /// Of this origin
    #[arg(long, group = "which")]
    pub(crate) origin: Option<String>,
    /// Only what lies inside the range, instead of around it
    #[arg(long)]
    pub(crate) contained: bool,
    /// All of them
    #[arg(long, group = "which", conflicts_with_all = ["id", "ip", "range", "value", "remediation", "scenario", "origin"])]
    pub(crate) all: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Import {
    /// The file; `-` is standard input
    #[arg(short, long)]
    pub(crate) input: PathBuf,
    /// How it is written; without it the file name says
    #[arg(long, value_enum)]
    pub(crate) format: Option<ImportFormat>,
    /// How long, where the file does not say
    #[arg(short, long, default_value = "4h")]
    pub(crate) duration: String,
    /// Scope, where the file does not say
    #[arg(long, default_value = "Ip")]
    pub(crate) scope: String,
    /// Why, where the file does not say
    #[arg(short = 'R', long, default_value = "manual")]
    pub(crate) reason: String,
    /// What is done, where the file does not say
    #[arg(short = 't', long = "type", default_value = "ban")]
    pub(crate) remediation: String,
    /// How many in one alert
    #[arg(long, default_value_t = 10_000, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=50_000))]
    pub(crate) batch: usize,
    /// What happens when an entry makes no sense
    #[arg(long, value_enum, default_value_t = OnError::Abort)]
    pub(crate) on_error: OnError,
}

/// What happens when an entry of a file makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnError {
    /// Nothing is imported
    Abort,
    /// It is told and left out
    Skip,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Export {
    /// How it is written
    #[arg(long, value_enum, default_value_t = ImportFormat::Csv)]
    pub(crate) format: ImportFormat,
    /// The file, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// Only of this origin
    #[arg(long)]
    pub(crate) origin: Option<String>,
    /// Only with this scope
    #[arg(long)]
    pub(crate) scope: Option<String>,
    /// Only with this remediation
    #[arg(short = 't', long = "type")]
    pub(crate) remediation: Option<String>,
}

/// How decisions are written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    /// Comma-separated values with a header line
    Csv,
    /// A list of objects
    Json,
    /// One value a line
    Values,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Alerts {
    /// List alerts, newest first
    List(Box<AlertFilter>),
    /// Erase alerts with their decisions and events
    #[command(visible_alias = "remove")]
    Delete(DeleteAlerts),
    /// Erase old alerts now; those with a decision in force stay
    Flush {
        /// How many stay, the newest
        #[arg(long, default_value_t = 5000)]
        max_items: u64,
        /// How old one may be
        #[arg(long, value_parser = duration, default_value = "7d", value_name = "DURATION")]
        max_age: SignedDuration,
    },
    /// Show one whole
    Inspect {
        /// Its number
        #[arg(required = true)]
        ids: Vec<i64>,
        /// With all its events
        #[arg(short, long)]
        details: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AlertFilter {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Only of this kind
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// How many; 0 for all
    #[arg(short, long, default_value_t = 50)]
    pub(crate) limit: u32,
}

#[derive(Debug, ClapArgs)]
#[group(id = "which_alerts", required = true, multiple = true)]
pub(crate) struct DeleteAlerts {
    /// By number
    #[arg(long, group = "which_alerts", conflicts_with_all = ["ip", "range", "scope", "value", "scenario"])]
    pub(crate) id: Option<i64>,
    /// With a decision about this address, and ranges around it
    #[arg(short, long, group = "which_alerts")]
    pub(crate) ip: Option<String>,
    /// With a decision about this range, and ranges around it
    #[arg(short, long, group = "which_alerts")]
    pub(crate) range: Option<String>,
    /// Only decisions inside the range, instead of around it
    #[arg(long)]
    pub(crate) contained: bool,
    /// With this scope
    #[arg(long, group = "which_alerts")]
    pub(crate) scope: Option<String>,
    /// With this value
    #[arg(short, long, group = "which_alerts")]
    pub(crate) value: Option<String>,
    /// Of this scenario
    #[arg(short, long, group = "which_alerts")]
    pub(crate) scenario: Option<String>,
    /// All of them
    #[arg(short, long, group = "which_alerts", conflicts_with_all = ["id", "ip", "range", "scope", "value", "scenario"])]
    pub(crate) all: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Explain {
    /// What kind of log the lines are from: `sshd`, `nginx`, `syslog`, ...
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    pub(crate) kind: String,
    /// One line
    #[arg(
        short,
        long,
        visible_alias = "log",
        alias = "log-line",
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    pub(crate) line: Option<String>,
    /// A file of lines; `-` is standard input
    #[arg(short, long)]
    pub(crate) file: Option<PathBuf>,
    /// Only lines that no parser understood
    #[arg(long)]
    pub(crate) failures: bool,
    /// With the parsers that did not match
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) rules: RulesFrom,
}

/// Whose rules are tried, if not those of the configuration.
#[derive(Debug, ClapArgs)]
#[group(skip)]
pub(crate) struct RulesFrom {
    /// Use rules of the hub in this folder instead of the configured ones; data files come from `data` in it
    #[arg(long, value_name = "FOLDER", requires = "items")]
    pub(crate) hub: Option<PathBuf>,
    /// Collections of the hub, separated by commas, with or without their authors; what they need comes along
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "hub", group = "items")]
    pub(crate) collections: Vec<String>,
    /// All rules of the hub
    #[arg(long = "all", requires = "hub", group = "items")]
    pub(crate) all: bool,
    /// Use a folder of rules or CrowdSec's configuration folder as it is, with its profiles, instead of the configured rules
    #[arg(long, value_name = "FOLDER", conflicts_with = "hub")]
    pub(crate) config_dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Replay {
    /// The log; a name that ends in `.gz` is decompressed
    pub(crate) file: PathBuf,
    /// What kind of log it is: `sshd`, `nginx`, `syslog`, ...
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    pub(crate) kind: String,
    /// Year of dates without one; otherwise the latest that puts them at most a day after the log was last written
    #[arg(long, value_name = "YEAR", value_parser = clap::value_parser!(i16).range(1970..=9000))]
    pub(crate) year: Option<i16>,
    /// How many threads work; as many as there are processors, if not given
    #[arg(long, value_name = "COUNT", value_parser = workers)]
    pub(crate) workers: Option<usize>,
    /// Say at the end what it cost, and which nodes and scenarios were the slow ones; the last line is JSON
    #[arg(long)]
    pub(crate) stats: bool,
    #[command(flatten)]
    pub(crate) rules: RulesFrom,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Hub {
    /// Run the tests of a hub, or make a new one
    Test(HubTest),
    /// List the items of a hub, and which are installed
    List(HubList),
    /// Show an item of a hub: what it consists of, what it reads and needs, how it is tested
    Inspect(HubInspect),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct HubList {
    #[command(flatten)]
    pub(crate) hub: HubFolder,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct HubInspect {
    /// Name of the item, with or without its author
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) hub: HubFolder,
}

/// A hub, and where its items may be installed.
#[derive(Debug, ClapArgs)]
pub(crate) struct HubFolder {
    /// Folder of the hub, with its `.index.json`
    #[arg(long, visible_alias = "dir", default_value = ".", value_name = "FOLDER")]
    pub(crate) hub: PathBuf,
    /// Folder of rules where items may be installed, such as CrowdSec's configuration folder; without it the configured ones
    #[arg(long, value_name = "FOLDER")]
    pub(crate) config_dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct HubTest {
    /// Names of tests; without any all are run
    #[arg(value_name = "NAME", conflicts_with = "new")]
    pub(crate) names: Vec<String>,
    /// Run all tests, as without any name
    #[arg(long, conflicts_with_all = ["names", "new"])]
    pub(crate) all: bool,
    /// Folder of the hub; its tests lie in `.tests`, its data files in `data`
    #[arg(long, visible_alias = "dir", default_value = ".", value_name = "FOLDER")]
    pub(crate) hub: PathBuf,
    /// Folder of the tests, if it is another
    #[arg(long, value_name = "FOLDER")]
    pub(crate) tests: Option<PathBuf>,
    /// What the clock shows, and so the year of dates without one; without it the present
    #[arg(long, value_name = "TIME")]
    pub(crate) now: Option<jiff::Timestamp>,
    /// Let every false assertion count, also those that the field's own runner lets pass
    #[arg(long)]
    pub(crate) strict: bool,
    /// Make a test of this name, whose assertions say what holds at present
    #[arg(long, value_name = "NAME", requires = "log", requires = "kind")]
    pub(crate) new: Option<String>,
    /// The log of the new test
    #[arg(long, value_name = "FILE", requires = "new")]
    pub(crate) log: Option<PathBuf>,
    /// What kind of log that is: `syslog`, `nginx`, ...
    #[arg(short = 't', long = "type", value_name = "TYPE", requires = "new")]
    pub(crate) kind: Option<String>,
    /// A parser of the new test; without any, those that understand a line
    #[arg(long = "parser", value_name = "NAME", requires = "new")]
    pub(crate) parsers: Vec<String>,
    /// A scenario of the new test; without any, those that overflow
    #[arg(long = "scenario", value_name = "NAME", requires = "new")]
    pub(crate) scenarios: Vec<String>,
    /// A parser of overflows of the new test
    #[arg(long = "postoverflow", value_name = "NAME", requires = "new")]
    pub(crate) postoverflows: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Allowlists {
    /// Make an empty allowlist
    Create {
        /// Its name
        name: String,
        /// What it is for
        #[arg(short, long)]
        description: String,
    },
    /// List allowlists
    List,
    /// Show the items of one
    Inspect {
        /// Its name
        name: String,
    },
    /// Add addresses and ranges, and lift decisions about them
    Add {
        /// Its name
        name: String,
        /// Addresses and ranges
        #[arg(required = true)]
        values: Vec<String>,
        /// How long they count; without it, always
        #[arg(short, long, value_parser = duration, value_name = "DURATION")]
        expiration: Option<SignedDuration>,
        /// What for
        #[arg(short = 'd', long, default_value = "")]
        comment: String,
    },
    /// Add what a file lists: a header line `value,expiration,comment`, and a line for each
    Import {
        /// Its name
        name: String,
        /// The file; `-` is standard input
        #[arg(short, long)]
        input: PathBuf,
    },
    /// Take addresses and ranges off
    Remove {
        /// Its name
        name: String,
        /// Addresses and ranges
        #[arg(required = true)]
        values: Vec<String>,
    },
    /// Say whether addresses and ranges are allowed, and by what
    Check {
        /// Addresses and ranges
        #[arg(required = true)]
        values: Vec<String>,
    },
    /// Remove an allowlist
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bouncers {
    /// List accounts
    List,
    /// Make an account and print its key
    Add {
        /// Its name
        name: String,
        /// The key, instead of a new one
        #[arg(short, long)]
        key: Option<String>,
        /// What the key allows; may be given more than once. Without it: to ask for decisions
        #[arg(long = "right", value_enum, value_name = "RIGHT")]
        rights: Vec<KeyRight>,
        /// Where the key may be used; may be given more than once. Without it: everywhere
        #[arg(long = "from", value_parser = net, value_name = "IP|RANGE")]
        ranges: Vec<IpNet>,
    },
    /// Give a bouncer another key; the one before stays good for a while
    Rotate {
        /// Its name
        name: String,
        /// The new key, instead of a random one
        #[arg(short, long)]
        key: Option<String>,
        /// How long the key before is good
        #[arg(long, value_parser = duration, default_value = "24h", value_name = "DURATION")]
        grace: SignedDuration,
    },
    /// Remove accounts that have not asked for decisions for a while
    Prune {
        /// For how long
        #[arg(short, long, value_parser = duration, default_value = "60m", value_name = "DURATION")]
        duration: SignedDuration,
        /// Also with a duration below two minutes
        #[arg(long)]
        force: bool,
    },
    /// Remove accounts
    #[command(visible_alias = "remove")]
    Delete {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// What a key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyRight {
    /// To ask for decisions
    Read,
    /// To send alerts
    Push,
    /// To do everything
    Admin,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Machines {
    /// List accounts
    List,
    /// Make an account and print its credentials
    Add {
        /// Its name
        name: String,
        /// The password, instead of a new one
        #[arg(short, long)]
        password: Option<String>,
    },
    /// Let an account that registered by itself log in
    Validate {
        /// Its name
        name: String,
    },
    /// Remove accounts that were never validated, or gave no sign of life for a while
    Prune {
        /// For how long
        #[arg(short, long, value_parser = duration, default_value = "10m", value_name = "DURATION")]
        duration: SignedDuration,
        /// Only those that were never validated
        #[arg(long)]
        not_validated_only: bool,
        /// Also with a duration below two minutes
        #[arg(long)]
        force: bool,
    },
    /// Remove accounts
    #[command(visible_alias = "remove")]
    Delete {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Bouncer {
    #[command(subcommand)]
    pub(crate) command: Option<BouncerCommand>,
    /// The API to follow
    #[arg(long, env = "CORDON_URL", value_name = "URL", required = true)]
    pub(crate) url: Option<String>,
    /// File that holds the key which `cordon bouncers add` printed there
    #[arg(long, env = "CORDON_KEY_FILE", value_name = "FILE", required_unless_present = "cert")]
    pub(crate) key_file: Option<PathBuf>,
    /// Certificate to show instead of a key, as `cordon pki issue` writes it
    #[arg(long, value_name = "FILE", requires = "cert_key", conflicts_with = "key_file")]
    pub(crate) cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) cert_key: Option<PathBuf>,
    /// Certificate of the authority that the API's own must come from, instead of those that the system trusts
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Drop packets instead of only saying what would be done
    #[arg(long)]
    pub(crate) enforce: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BouncerCommand {
    /// Put the last known good state into this host's kernel and end: for a host that boots, before it has a network
    Restore,
    /// Say how a target differs from what should be in force; nothing is written
    ///
    /// Exit status: 0 if it does not, 2 if it does, 1 if that cannot be told.
    Plan {
        /// Name of the target; this host's own kernel is `nftables`
        #[arg(long, value_name = "NAME")]
        target: String,
    },
    /// Let new entries go on that were too many at once, or too much of the Internet
    Acknowledge {
        /// Name of the target; without it all
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
    },
    /// Before a change that could lock you out: unless `cordon bouncer confirm` follows in time, nothing is dropped any more
    Trial {
        /// For how long
        #[arg(value_parser = duration, default_value = "60s", value_name = "DURATION")]
        within: SignedDuration,
    },
    /// Keep what is on trial; say it from a connection that was opened since the change
    Confirm,
    /// What `trial` leaves behind to undo the change
    #[command(hide = true)]
    RollBack {
        /// Which trial
        token: String,
        /// When
        #[arg(value_parser = duration)]
        within: SignedDuration,
    },
    /// Say how to connect what is to ask or to be told, and check what can be checked
    #[command(subcommand)]
    Setup(Setup),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Setup {
    /// Traefik, which asks about each request
    Traefik(SetupProxy),
    /// Caddy, which asks about each request
    Caddy(SetupProxy),
    /// nginx, which asks about each request
    Nginx(SetupProxy),
    /// The controllers of an OpenZiti network: rights, versions, and whose addresses must never be blocked
    ///
    /// Exit status: 0 if nothing is left to do there, 1 otherwise.
    Ziti(SetupTarget),
    /// pfSense with the REST API package
    Pfsense(SetupList),
    /// pfSense through ssh and pfctl
    PfsenseSsh(SetupList),
    /// `OPNsense`
    Opnsense(SetupList),
    /// A Proxmox VE cluster
    Proxmox(SetupList),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SetupTarget {
    /// Only say what is to be done; nothing is ever written there
    #[arg(long)]
    pub(crate) plan: bool,
    /// Name of the target; without it all of the kind
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SetupList {
    /// Only look; without it, what the API there can make is made
    #[arg(long)]
    pub(crate) plan: bool,
    /// Name of the target; without it all of the kind
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SetupProxy {
    /// Only say what is to be done; nothing is ever written for a proxy
    #[arg(long)]
    pub(crate) plan: bool,
    /// The target with the section `forward-auth`; needed where there are several
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Option<String>,
    /// The profile to ask for; needed where there are several
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Let everybody pass while nobody answers
    #[arg(long)]
    pub(crate) open: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Pki {
    /// Folder of the authority; without it `pki` in the state folder
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: PkiCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    /// Make the authority of this site; its key stays in the folder
    Init {
        /// Name of the authority
        #[arg(long, default_value = "cordon")]
        site: String,
    },
    /// Make a certificate with its key
    Issue {
        /// Name in the certificate, and of its files
        name: String,
        /// What it allows
        #[arg(long, value_enum)]
        role: CertificateRole,
        /// Name or address under which a server is reached; may be given more than once. Without it: its name
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// How long it is good
        #[arg(long = "for", value_parser = duration, default_value = "30d", value_name = "DURATION")]
        lifetime: SignedDuration,
    },
    /// Make another certificate with another key in place of one; the one before stays good until it ends
    Renew {
        /// Its name
        name: String,
        /// How long it is good; without it as long as the one before
        #[arg(long = "for", value_parser = duration, value_name = "DURATION")]
        lifetime: Option<SignedDuration>,
    },
    /// Let nobody in any longer who shows a certificate of this name
    Revoke {
        /// Its name
        name: String,
    },
    /// List what was ever made
    List,
}

/// What a certificate allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CertificateRole {
    /// To send alerts
    Agent,
    /// To ask for decisions
    Bouncer,
    /// To do everything
    Admin,
    /// To answer as the API
    Server,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Check {
    /// A folder of rules, CrowdSec's configuration folder, or one file; without it what the configuration loads
    #[arg(value_name = "DIR")]
    pub(crate) path: Option<PathBuf>,
    /// The same as DIR, as other commands call it
    #[arg(long, value_name = "FOLDER", conflicts_with = "path")]
    pub(crate) config_dir: Option<PathBuf>,
    /// Fail on warnings too
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print notes too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print the findings as SARIF 2.1.0
    #[arg(long)]
    pub(crate) sarif: bool,
    /// Print what a code means, and check nothing; `all` for all of them
    #[arg(long, value_name = "CODE", conflicts_with_all = ["path", "strict", "all", "sarif"])]
    pub(crate) explain: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read the configuration and say what is wrong with it
    Check,
    /// Print the configuration in force, defaults filled in
    Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// From the last attack line to the first dropped packet
    Latency {
        /// How many bans are measured
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=400))]
        bans: u16,
        /// How many others are in force in the second run
        #[arg(long, default_value_t = 100_000)]
        loaded: usize,
    },
    /// Speed and memory of the engine against what it must reach
    Engine(BenchEngine),
    /// What bans in the kernel cost and how soon they hold, against what it must reach (root)
    Enforce(BenchEnforce),
    /// Syslog over UDP on loopback: what is received, and whether every loss is counted
    Syslog {
        /// Messages a second
        #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        rate: u32,
        /// For how long
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
        seconds: u32,
    },
    /// What it costs to follow many quiet files
    Files {
        /// How many
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        files: u32,
        /// For how long they are quiet
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
        seconds: u32,
    },
    /// Forward-auth under load: requests a second and how long they take
    Forward {
        /// How many decisions are in force
        #[arg(long, default_value_t = 1_000_000)]
        decisions: u32,
        /// For how long it is asked
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
        seconds: u32,
        /// How many connections ask at once
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
        connections: u16,
    },
    /// Feeds: how long writing them takes in each format, and how fast they are served
    Feed {
        /// How many decisions are in force
        #[arg(long, default_value_t = 1_000_000)]
        decisions: u32,
    },
    /// Geo policies from a real database
    Geo {
        /// A database of countries
        #[arg(long, value_name = "FILE")]
        database: PathBuf,
    },
    /// The local API under load
    Api {
        /// How many decisions are in force
        #[arg(long, default_value_t = 1_000_000)]
        decisions: usize,
        /// How many follow the event stream
        #[arg(long, default_value_t = 1000)]
        followers: usize,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchEnforce {
    /// How many hosts the large load has
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    pub(crate) hosts: u32,
    /// How many prefixes it has
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub(crate) prefixes: u32,
    /// How often the ruleset is flushed by somebody else
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub(crate) flushes: u32,
    /// Only hold the large load, and print the memory that this took, in KiB
    #[arg(long, hide = true)]
    pub(crate) only_memory: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchEngine {
    /// Folder with the logs that are made large, and the program that does it
    #[arg(long, value_name = "FOLDER", default_value = "../shared/corpora")]
    pub(crate) corpora: PathBuf,
    /// Folder of the hub whose rules are used
    #[arg(long, value_name = "FOLDER", default_value = "../shared/hub")]
    pub(crate) hub: PathBuf,
    /// How many lines the logs are made to have
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    pub(crate) lines: u64,
    /// How many sources take part in the flood
    #[arg(long, value_name = "COUNT", default_value_t = 10_000_000)]
    pub(crate) sources: u32,
    /// How often each is run; the best counts
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) runs: u16,
}

/// Whom somebody asks about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    /// An address.
    Ip(IpAddr),
    /// A visitor who was refused, by what he was shown.
    Reference(Reference),
}

fn asked(text: &str) -> Result<Asked, String> {
    if let Ok(ip) = text.parse() {
        return Ok(Asked::Ip(ip));
    }
    text.parse().map(Asked::Reference).map_err(|error: NoReference| error.to_string())
}

fn net(text: &str) -> Result<IpNet, String> {
    model::scope::parse_net(text).map_err(|error| error.to_string())
}

/// A record's place and hash.
fn head(text: &str) -> Result<api::audit::Head, String> {
    let wrong = || format!("`{text}` is not a form like `12:0f3c...`, with 64 hexadecimal digits");
    let (seq, hash) = text.split_once(':').ok_or_else(wrong)?;
    let seq = seq.parse().map_err(|_| wrong())?;
    let right = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    if right { Ok(api::audit::Head { seq, hash: hash.to_ascii_lowercase() }) } else { Err(wrong()) }
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    let duration = model::duration::parse_with_days(text).map_err(|error| error.to_string())?;
    if duration.is_positive() { Ok(duration) } else { Err("expected more than nothing".to_owned()) }
}

fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=256) => Ok(count),
        _ => Err("expected a number from 1 to 256".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_hang_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn targets_and_durations_are_checked_when_they_are_typed() {
        let parse = |args: &[&str]| Args::try_parse_from(args).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(parse(&["cordon", "ban", "192.0.2.7", "--for", "1d12h"]), Ok(()));
        for (args, complaint) in [
            (["cordon", "ban", "192.0.2.256", "--for", "4h"], "`192.0.2.256` is not an IP address or a range"),
            (["cordon", "ban", "192.0.2.7", "--for", "0s"], "expected more than nothing"),
            (["cordon", "ban", "192.0.2.7", "--for", "soon"], "soon"),
        ] {
            let message = parse(&args).expect_err("a mistake");
            assert!(message.contains(complaint), "{message}");
        }
    }
}
