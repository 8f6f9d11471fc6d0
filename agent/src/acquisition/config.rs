//! The YAML of datasources, checked once.
//!
//! A file holds documents, each one datasource. They are read one by one: a document with a mistake is reported with its
//! place and left out, the others are read.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use compact_str::CompactString;
use ipnet::IpNet;
use model::yaml::{Fault, Keys, Text, Yaml, did_you_mean, documents};
use regex::Regex;

use super::file::{Files, Follow, PathPattern};
use super::journald::JournalConfig;
use super::syslog::{ROOM, SyslogConfig, TlsFiles, Transport};
use super::transform::Transform;
use super::voice::{self, Voice};
use crate::status::{Kind, Problem};

/// Datasources that the field knows and this build does not have.
const ELSEWHERE: [&str; 14] = [
    "appsec",
    "cloudwatch",
    "docker",
    "http",
    "k8s-audit",
    "kafka",
    "kinesis",
    "kubernetes",
    "loki",
    "nats",
    "s3",
    "unifi",
    "victorialogs",
    "wineventlog",
];

const COMMON_KEYS: &[&str] =
    &["source", "mode", "labels", "log_level", "name", "unique_id", "use_time_machine", "transform"];
const FILE_KEYS: &[&str] = &[
    "filename",
    "filenames",
    "exclude_regexps",
    "poll_without_inotify",
    "force_inotify",
    "discovery_poll_enable",
    "discovery_poll_interval",
    "max_buffer_size",
    "catch_up",
];
const JOURNAL_KEYS: &[&str] = &["journalctl_filter", "catch_up"];
const SYSLOG_KEYS: &[&str] = &[
    "listen_addr",
    "listen_port",
    "protocol",
    "max_message_len",
    "disable_rfc_parser",
    "allowed_senders",
    "spoofable",
    "cert_file",
    "key_file",
    "client_ca_file",
];

/// What was last written longer ago than this is not caught up after a restart.
pub(super) const CATCH_UP: Duration = Duration::from_hours(24);

/// Longest messages that may be asked for, in bytes; the least is what every receiver must take by RFC 5424.
const MESSAGE_LENGTHS: std::ops::RangeInclusive<i64> = 480..=65_536;

/// One datasource as configured.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// What tells it from others, the same after a restart: kind and what it reads.
    pub id: String,
    /// The file that configures it; empty when it was discovered.
    pub path: PathBuf,
    /// The line on which its document starts.
    pub line: u32,
    /// What it reads.
    pub input: Input,
    /// What becomes of its lines before they are parsed.
    pub transform: Option<Transform>,
    /// Longest line in bytes, where that is less than for all.
    pub longest: Option<usize>,
    /// How it speaks in the log.
    pub voice: Voice,
}

/// What a datasource reads.
#[derive(Clone, Debug)]
pub enum Input {
    /// Files that are followed.
    Follow(Files, Follow),
    /// Files that are read once.
    Cat(Files),
    /// The journal.
    Journal(JournalConfig),
    /// What other hosts send.
    Syslog(SyslogConfig),
}

impl SourceConfig {
    /// A datasource that no file configures.
    pub fn discovered(input: Input) -> Self {
        Self {
            id: input.id(),
            path: PathBuf::new(),
            line: 0,
            input,
            transform: None,
            longest: None,
            voice: Voice::default(),
        }
    }
}

impl Input {
    /// Its kind: `evt.Line.Module`.
    pub fn module(&self) -> &'static str {
        match self {
            Input::Follow(..) | Input::Cat(_) => "file",
            Input::Journal(_) => "journalctl",
            Input::Syslog(_) => "syslog",
        }
    }

    fn id(&self) -> String {
        match self {
            Input::Follow(files, _) | Input::Cat(files) => format!("file:{}", files.name()),
            Input::Journal(journal) => format!("journalctl:{}", journal.name()),
            Input::Syslog(syslog) => format!("syslog:{}", syslog.name()),
        }
    }
}

/// Reads all datasources of `paths`: files, or folders of which `*.yaml` and then `*.yml` count. What is wrong is
/// reported, and the rest is read. `env` answers for `$NAME` and `${NAME}`.
pub fn load(paths: &[PathBuf], env: &dyn Fn(&str) -> Option<String>) -> (Vec<SourceConfig>, Vec<Problem>) {
    let mut sources: Vec<SourceConfig> = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        match files_of(path) {
            Ok(files) => {
                for file in files {
                    match fs::read_to_string(&file) {
                        Ok(text) => {
                            let (new, wrong) = parse(&file, &text, env);
                            sources.extend(new);
                            problems.extend(wrong);
                        }
                        Err(error) => problems.push(unreadable(&file, &error)),
                    }
                }
            }
            Err(error) => problems.push(unreadable(path, &error)),
        }
    }
    // Two that read the same are two datasources, with places of their own.
    for index in 0..sources.len() {
        let id = &sources[index].id;
        let same = sources[..index].iter().filter(|before| before.id.split('#').next() == Some(id)).count();
        if same > 0 {
            sources[index].id = format!("{id}#{}", same + 1);
        }
    }
    (sources, problems)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem {
        kind: Kind::Datasource,
        path: path.to_path_buf(),
        line: 0,
        message: format!("cannot be read: {error}"),
        remedy: "name a file with datasources, or a folder of such files, that cordon may read".into(),
    }
}

pub(crate) fn files_of(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files: Vec<PathBuf> = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    let rank = |path: &PathBuf| match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml") => Some(0),
        Some("yml") => Some(1),
        _ => None,
    };
    files.retain(|path| rank(path).is_some());
    files.sort_by_key(|path| (rank(path), path.clone()));
    Ok(files)
}

/// Reads the datasources of one file.
pub fn parse(path: &Path, text: &str, env: &dyn Fn(&str) -> Option<String>) -> (Vec<SourceConfig>, Vec<Problem>) {
    let text = expand(text, env);
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    for document in split(&text) {
        match documents(&document) {
            Ok(all) => {
                for document in all.iter().filter(|document| !document.is_null()) {
                    match source(document, path) {
                        Ok(source) => sources.push(source),
                        Err(fault) => problems.push(Problem::new(Kind::Datasource, fault.within(path))),
                    }
                }
            }
            Err(fault) => problems.push(Problem::new(Kind::Datasource, fault.within(path))),
        }
    }
    (sources, problems)
}

/// Cuts a text into documents, each with as many empty lines before it as keep its line numbers.
fn split(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut document = String::new();
    for (number, line) in text.lines().enumerate() {
        let rest = line.strip_prefix("---");
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t'])) {
            all.push(std::mem::replace(&mut document, "\n".repeat(number)));
        }
        document.push_str(line);
        document.push('\n');
    }
    all.push(document);
    all
}

/// Replaces `$NAME` and `${NAME}` where the variable exists; anything else stays as it is.
pub(crate) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, len) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, _)) if name.chars().all(is_name) => (name, name.len() + 2),
            _ => {
                let len = after.find(|c| !is_name(c)).unwrap_or(after.len());
                (&after[..len], len)
            }
        };
        // A line break in a variable would move the lines behind it.
        if let Some(value) = env(name).filter(|value| !name.is_empty() && !value.contains('\n')) {
            expanded.push_str(&value);
            rest = &after[len..];
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded.push_str(rest);
    expanded
}

fn source(document: &Yaml, path: &Path) -> Result<SourceConfig, Fault> {
    let entries = document.entries("the datasource")?;
    let keys = document.keys("the datasource")?;
    let kind = match keys.text("source")? {
        Some(kind) => kind,
        None => Text { line: keys.line(), text: detect(entries, keys.line())?.into() },
    };
    if ELSEWHERE.contains(&&*kind) {
        return Err(Fault::new(kind.line, format!("datasource `{}` is not in this build", &*kind))
            .hint("let it write to a file or to the journal, and read that"));
    }
    let own = match &*kind {
        "file" => FILE_KEYS,
        "journalctl" => JOURNAL_KEYS,
        "syslog" => SYSLOG_KEYS,
        _ => return Err(Fault::unknown(kind.line, "datasource", &kind, ["file", "journalctl", "syslog"])),
    };
    // A slip of the pen is named as such, not as something missing.
    let known = || COMMON_KEYS.iter().chain(own).copied();
    if let Some((key, _)) = entries.iter().find(|(key, _)| !known().any(|known| known == &**key)) {
        return Err(Fault::unknown(key.line, "key in the datasource:", key, known()));
    }
    let common = common(&keys)?;
    let input = match &*kind {
        "file" => file(&keys, common)?,
        "journalctl" => journal(&keys, common)?,
        _ => syslog(&keys, common)?,
    };
    let transform = keys.text("transform")?.filter(|text| !text.is_empty());
    let transform = transform.map(|text| Transform::new(&text)).transpose()?;
    let identity = keys.text("unique_id")?.filter(|text| !text.is_empty());
    let id = identity.map_or_else(|| input.id(), |identity| format!("{}:{}", input.module(), identity.text));
    // Only there the field has a limit, and one that ends the file.
    let longest = match integer_within(&keys, "max_buffer_size", 1..=i64::from(u32::MAX))? {
        Some(bytes) if matches!(input, Input::Cat(_)) => usize::try_from(bytes).ok(),
        _ => None,
    };
    let voice = voice(&keys)?;
    Ok(SourceConfig { id, path: path.to_path_buf(), line: keys.line(), input, transform, longest, voice })
}

fn voice(keys: &Keys<'_>) -> Result<Voice, Fault> {
    let name = keys.text("name")?.filter(|name| !name.is_empty()).map(|name| name.text);
    let level = match keys.text("log_level")?.filter(|level| !level.is_empty()) {
        None => None,
        Some(level) => {
            let known = voice::NAMES.iter().find(|(name, _)| level.eq_ignore_ascii_case(name));
            let unknown = || Fault::unknown(level.line, "log level", &level, voice::NAMES.map(|(name, _)| name));
            Some(known.ok_or_else(unknown)?.1)
        }
    };
    Ok(Voice { level, name })
}

/// The kind of a document that does not say it, by what it has.
fn detect(entries: &[(Text, Yaml)], line: u32) -> Result<&'static str, Fault> {
    const TELLING: [(&str, &str); 3] =
        [("filename", "file"), ("filenames", "file"), ("journalctl_filter", "journalctl")];
    let has = |wanted: &str| entries.iter().any(|(key, _)| &**key == wanted);
    if let Some((_, kind)) = TELLING.iter().find(|(key, _)| has(key)) {
        return Ok(kind);
    }
    let telling = || TELLING.iter().map(|(key, _)| *key).chain(["source"]);
    match entries.iter().find(|(key, _)| did_you_mean(key, telling()).is_some()) {
        Some((key, _)) => Err(Fault::unknown(key.line, "key in the datasource:", key, telling())),
        None => Err(Fault::new(line, "`source` is missing in the datasource")
            .hint("add `source: file` with `filenames`, or `source: journalctl` with `journalctl_filter`")),
    }
}

/// What all kinds have.
struct Common {
    labels: Vec<(CompactString, CompactString)>,
    time_machine: bool,
    follow: bool,
}

fn common(keys: &Keys<'_>) -> Result<Common, Fault> {
    let mut labels = Vec::new();
    if let Some(yaml) = keys.get("labels") {
        for (key, value) in yaml.entries("labels")? {
            labels.push((key.text.as_str().into(), value.text("labels")?.text.into()));
        }
    }
    if labels.is_empty() {
        return Err(Fault::new(keys.line(), "`labels` is missing in the datasource")
            .hint("add `labels: {type: syslog}`, or the type that the parsers of this log ask for"));
    }
    let follow = match keys.text("mode")? {
        None => true,
        Some(mode) => match &*mode {
            "tail" | "server" => true,
            "cat" => false,
            _ => return Err(Fault::unknown(mode.line, "mode", &mode, ["tail", "cat"])),
        },
    };
    let time_machine = keys.flag("use_time_machine")?.unwrap_or(false) || !follow;
    Ok(Common { labels, time_machine, follow })
}

fn file(keys: &Keys<'_>, common: Common) -> Result<Input, Fault> {
    let mut names = keys.texts("filenames")?;
    names.extend(keys.text("filename")?);
    names.retain(|name| !name.is_empty());
    if names.is_empty() {
        return Err(Fault::new(keys.line(), "`filenames` is missing in the datasource")
            .hint("add `filenames: [/var/log/auth.log]`; `*`, `?` and `[...]` match within one folder"));
    }
    let mut patterns = Vec::new();
    for name in &names {
        patterns.push(PathPattern::new(name).map_err(|error| {
            Fault::new(name.line, format!("`{}` is not a path pattern: {}", &**name, error.msg))
                .hint("`*`, `?` and `[...]` match within one folder, `**` only stands between slashes")
        })?);
    }
    let mut exclude = Vec::new();
    for regex in keys.texts("exclude_regexps")? {
        exclude.push(Regex::new(&regex).map_err(|error| {
            let reason = error.to_string().lines().last().unwrap_or_default().replace("error: ", "");
            Fault::new(regex.line, format!("`{}` is not a regular expression: {reason}", &*regex))
        })?);
    }
    let poll = keys.flag("poll_without_inotify")?;
    keys.flag("force_inotify")?;
    let discover = keys.flag("discovery_poll_enable")?.unwrap_or(false);
    let interval = duration(keys, "discovery_poll_interval")?;
    let files = Files { patterns, exclude, labels: common.labels, time_machine: common.time_machine };
    if !common.follow {
        return Ok(Input::Cat(files));
    }
    Ok(Input::Follow(
        files,
        Follow {
            poll,
            rescan: interval.filter(|_| discover),
            catch_up: duration(keys, "catch_up")?.or(Some(CATCH_UP)),
        },
    ))
}

/// A duration that is longer than nothing.
fn duration(keys: &Keys<'_>, key: &'static str) -> Result<Option<Duration>, Fault> {
    let Some(text) = keys.text(key)? else { return Ok(None) };
    let duration = model::duration::parse(&text).ok().and_then(|duration| Duration::try_from(duration).ok());
    match duration.filter(|duration| !duration.is_zero()) {
        Some(duration) => Ok(Some(duration)),
        None => {
            Err(Fault::new(text.line, format!("`{}` is not a duration", &*text)).hint("write it like `30s` or `5m`"))
        }
    }
}

fn journal(keys: &Keys<'_>, common: Common) -> Result<Input, Fault> {
    let filters: Vec<String> = keys.texts("journalctl_filter")?.into_iter().map(|filter| filter.text).collect();
    if filters.is_empty() {
        return Err(Fault::new(keys.line(), "`journalctl_filter` is missing in the datasource")
            .hint("add `journalctl_filter: [_SYSTEMD_UNIT=ssh.service]`"));
    }
    Ok(Input::Journal(JournalConfig {
        filters,
        labels: common.labels,
        time_machine: common.time_machine,
        follow: common.follow,
        catch_up: duration(keys, "catch_up")?.unwrap_or(CATCH_UP),
    }))
}

fn syslog(keys: &Keys<'_>, common: Common) -> Result<Input, Fault> {
    if !common.follow {
        let line = keys.get("mode").map_or(keys.line(), |mode| mode.line);
        return Err(Fault::new(line, "a syslog server cannot be read once").hint("leave `mode` out"));
    }
    let address = match keys.text("listen_addr")? {
        None => IpAddr::from([127, 0, 0, 1]),
        Some(text) => text.parse().map_err(|_| {
            Fault::new(text.line, format!("`{}` is not an address to listen on", &*text))
                .hint("write an IP address, `0.0.0.0` for all of IPv4 or `::` for all")
        })?,
    };
    let port = match integer_within(keys, "listen_port", 1..=65_535)? {
        None => 514,
        Some(port) => u16::try_from(port).unwrap_or(514),
    };
    let longest = integer_within(keys, "max_message_len", MESSAGE_LENGTHS)?.map_or(2048, |bytes| bytes as usize);
    let mut senders = Vec::new();
    for text in keys.texts("allowed_senders")? {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        senders.push(net.map_err(|_| {
            Fault::new(text.line, format!("`{}` is neither an address nor a range", &*text))
                .hint("write it like `192.0.2.0/24`")
        })?);
    }
    let protocol = keys.text("protocol")?;
    let transport = match protocol.as_ref().map(|text| text.to_ascii_lowercase()).as_deref() {
        None | Some("udp") => Transport::Udp,
        Some("tcp") => Transport::Tcp,
        Some("tls") => Transport::Tls(tls(keys)?),
        Some(_) => {
            let text = protocol.unwrap_or_else(|| Text { line: keys.line(), text: String::new() });
            return Err(Fault::unknown(text.line, "protocol", &text, ["udp", "tcp", "tls"]));
        }
    };
    if !matches!(transport, Transport::Tls(_))
        && let Some((key, line)) =
            ["cert_file", "key_file", "client_ca_file"].into_iter().find_map(|key| Some((key, keys.get(key)?.line)))
    {
        return Err(Fault::new(line, format!("`{key}` has no effect without TLS")).hint("set `protocol: tls`"));
    }
    // Nobody but this host's own programs reaches the loopback address.
    let spoofable = keys.flag("spoofable")?.unwrap_or(transport == Transport::Udp && !address.is_loopback());
    Ok(Input::Syslog(SyslogConfig {
        listen: SocketAddr::new(address, port),
        transport,
        longest,
        bare: keys.flag("disable_rfc_parser")?.unwrap_or(false),
        room: ROOM,
        senders,
        spoofable,
        labels: common.labels,
        time_machine: common.time_machine,
    }))
}

fn tls(keys: &Keys<'_>) -> Result<TlsFiles, Fault> {
    let path = |key: &'static str| keys.text(key).map(|text| text.map(|text| PathBuf::from(text.text)));
    let needed = |key: &'static str| {
        path(key)?.ok_or_else(|| {
            Fault::new(keys.line(), format!("`{key}` is missing in the datasource")).hint(
                "TLS needs `cert_file` and `key_file`, in PEM; `client_ca_file` admits only senders with a certificate",
            )
        })
    };
    Ok(TlsFiles { cert: needed("cert_file")?, key: needed("key_file")?, client_ca: path("client_ca_file")? })
}

/// A number between two others.
fn integer_within(
    keys: &Keys<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<i64>,
) -> Result<Option<i64>, Fault> {
    let Some(number) = keys.integer(key)? else { return Ok(None) };
    if range.contains(&number) {
        return Ok(Some(number));
    }
    let line = keys.get(key).map_or(keys.line(), |yaml| yaml.line);
    Err(Fault::new(line, format!("`{key}` cannot be `{number}`")).hint(format!(
        "it lies between {} and {}",
        range.start(),
        range.end()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<SourceConfig>, String) {
        let env = |name: &str| (name == "LOGS").then(|| "/srv/logs".to_owned());
        let (sources, problems) = parse(Path::new("a.yaml"), text, &env);
        (sources, problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn mistakes_name_file_line_and_remedy() {
        let (sources, problems) = read(
            "filenames: [/var/log/a.log]\nlabels: {type: nginx}\n\
             ---\nfilname: /var/log/b.log\nlabels: {type: nginx}\n\
             ---\n# nothing but a comment\n\
             ---\nfilename: /var/log/c.log\nlabel: {type: nginx}\n\
             ---\nsource: filee\nlabels: {type: x}\n\
             ---\nsource: docker\ncontainer_name: [x]\n\
             ---\nfilename: /var/log/d.log\nlabels: {type: x}\nfilename: /var/log/e.log\n\
             ---\nsource: journalctl\nlabels: {type: syslog}\n\
             ---\nfilename: /var/log/f.log\nexclude_regexps: ['(gz']\nlabels: {type: x}\n\
             ---\nfilename: a: b: c\n\
             ---\nfilename: /var/log/g.log\nlabels: {type: x}\nmode: tial\n\
             ---\nfilename: /var/log/h.log\nlabels: {type: x}\ntransform: evt.Line.Rwa\n\
             ---\nfilename: /var/log/i.log\nlabels: {type: x}\npoll_without_inotfy: true\n\
             ---\nfilename: /var/log/[j.log\nlabels: {type: x}\n\
             ---\nfilename: /var/log/k.log\nlabels: {type: x}\ndiscovery_poll_interval: soon\n\
             ---\nsource: syslog\nlisten_addr: localhost\nlabels: {type: x}\n\
             ---\nsource: syslog\nlisten_port: 70000\nlabels: {type: x}\n\
             ---\nsource: syslog\nprotocol: tpc\nlabels: {type: x}\n\
             ---\nsource: syslog\nprotocol: tls\nlabels: {type: x}\n\
             ---\nsource: syslog\ncert_file: /x\nlabels: {type: x}\n\
             ---\nsource: syslog\nallowed_senders: [gateway]\nlabels: {type: x}\n\
             ---\nsource: syslog\nmode: cat\nlabels: {type: x}\n\
             ---\nfilename: /var/log/l.log\nlabels: {type: x}\nlog_level: lout\n\
             ---\nfilename: /var/log/m.log\nlabels: {type: x}\nmax_buffer_size: 0\n\
             ---\nsource: syslog\nmax_message_len: 10\nlabels: {type: x}\n\
             ---\nfilename: /var/log/z.log\nlabels: {type: nginx}\n",
        );
        let ids: Vec<&str> = sources.iter().map(|source| source.id.as_str()).collect();
        assert_eq!(ids, ["file:/var/log/a.log", "file:/var/log/z.log"]);
        insta::assert_snapshot!(problems, @r"
        a.yaml:4: unknown key in the datasource: `filname`
        hint: did you mean `filename`?
        a.yaml:10: unknown key in the datasource: `label`
        hint: did you mean `labels`?
        a.yaml:12: unknown datasource `filee`
        hint: did you mean `file`?
        a.yaml:15: datasource `docker` is not in this build
        hint: let it write to a file or to the journal, and read that
        a.yaml:20: key `filename` is repeated
        hint: it is already set in line 18; keep one of them
        a.yaml:22: `journalctl_filter` is missing in the datasource
        hint: add `journalctl_filter: [_SYSTEMD_UNIT=ssh.service]`
        a.yaml:26: `(gz` is not a regular expression: unclosed group
        a.yaml:29: not valid YAML: mapping values are not allowed in this context
           |
        29 | filename: a: b: c
           |            ^
        hint: a `:` with a blank behind it separates key and value: quote a text that holds one, and indent all keys of a map alike
        a.yaml:33: unknown mode `tial`
        hint: did you mean `tail`?
        a.yaml:37: bad `transform`: Line has no member `Rwa`
           |
        37 | evt.Line.Rwa
           |          ^^^
        a.yaml:41: unknown key in the datasource: `poll_without_inotfy`
        hint: did you mean `poll_without_inotify`?
        a.yaml:43: `/var/log/[j.log` is not a path pattern: invalid range pattern
        hint: `*`, `?` and `[...]` match within one folder, `**` only stands between slashes
        a.yaml:48: `soon` is not a duration
        hint: write it like `30s` or `5m`
        a.yaml:51: `localhost` is not an address to listen on
        hint: write an IP address, `0.0.0.0` for all of IPv4 or `::` for all
        a.yaml:55: `listen_port` cannot be `70000`
        hint: it lies between 1 and 65535
        a.yaml:59: unknown protocol `tpc`
        hint: did you mean `tcp`?
        a.yaml:62: `cert_file` is missing in the datasource
        hint: TLS needs `cert_file` and `key_file`, in PEM; `client_ca_file` admits only senders with a certificate
        a.yaml:67: `cert_file` has no effect without TLS
        hint: set `protocol: tls`
        a.yaml:71: `gateway` is neither an address nor a range
        hint: write it like `192.0.2.0/24`
        a.yaml:75: a syslog server cannot be read once
        hint: leave `mode` out
        a.yaml:80: unknown log level `lout`
        hint: expected one of `trace`, `debug`, `info`, `warning`, `warn`, `error`, `fatal`, `panic`
        a.yaml:84: `max_buffer_size` cannot be `0`
        hint: it lies between 1 and 4294967295
        a.yaml:87: `max_message_len` cannot be `10`
        hint: it lies between 480 and 65536
        ");
    }

    #[test]
    fn every_key_of_the_field_is_read() {
        let (sources, problems) = read(
            "source: file\nfilenames: ['$LOGS/*.log', \"${LOGS}/x\", '$NONE/y']\nfilename: /z\nexclude_regexps: ['\\.gz$']\n\
             mode: tail\nlabels: {type: nginx, program: n}\nlog_level: debug\nname: web\nunique_id: u\nuse_time_machine: yes\ntransform: JsonExtract(evt.Line.Raw, 'log')\n\
             poll_without_inotify: true\nforce_inotify: true\ndiscovery_poll_enable: true\ndiscovery_poll_interval: 5s\n\
             max_buffer_size: 1000\n---\njournalctl_filter: [-b, _COMM=sshd]\nlabels: {type: syslog}\n\
             ---\nsource: syslog\nlabels: {type: syslog}\n\
             ---\nsource: syslog\nlisten_addr: '::'\nlisten_port: 6514\nprotocol: tls\ncert_file: /c\nkey_file: /k\nclient_ca_file: /a\n\
             max_message_len: 8192\ndisable_rfc_parser: yes\nallowed_senders: [192.0.2.1, '2001:db8::/32']\nlabels: {type: x}\n\
             ---\nsource: syslog\nlisten_addr: 0.0.0.0\nlabels: {type: syslog}\n\
             ---\nsource: syslog\nlisten_addr: 192.0.2.7\nspoofable: false\nlabels: {type: syslog}\n",
        );
        assert_eq!(problems, "");
        let Input::Follow(files, follow) = &sources[0].input else { panic!("a file that is followed") };
        assert_eq!(files.name(), format!("/srv/logs/*.log,/srv/logs/x,{},/z", absolute("$NONE/y")));
        assert!(files.time_machine);
        assert_eq!(
            (sources[0].id.as_str(), sources[0].longest),
            ("file:u", None),
            "a limit of lines is for what is read once"
        );
        assert_eq!(
            sources[0].voice,
            Voice { level: Some(tracing::level_filters::LevelFilter::DEBUG), name: Some("web".into()) }
        );
        assert_eq!((follow.poll, follow.rescan), (Some(true), Some(Duration::from_secs(5))));
        assert_eq!((sources[1].id.as_str(), sources[1].line), ("journalctl:journalctl--b._COMM=sshd", 18));
        let syslog: Vec<&SyslogConfig> = sources[2..]
            .iter()
            .map(|source| match &source.input {
                Input::Syslog(syslog) => syslog,
                other => panic!("{other:?} is no syslog server"),
            })
            .collect();
        let names: Vec<String> = syslog.iter().map(|config| config.name()).collect();
        assert_eq!(names, ["udp://127.0.0.1:514", "tls://[::]:6514", "udp://0.0.0.0:514", "udp://192.0.2.7:514"]);
        let spoofable: Vec<bool> = syslog.iter().map(|config| config.spoofable).collect();
        assert_eq!(spoofable, [false, false, true, false], "only this host reaches the loopback address");
        assert_eq!((syslog[1].longest, syslog[1].bare, syslog[1].senders.len()), (8192, true, 2));
    }

    fn absolute(path: &str) -> String {
        std::path::absolute(path).expect("there is a working directory").to_string_lossy().into_owned()
    }

    #[test]
    fn folders_are_read_in_order_and_the_same_twice_is_two() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        for (name, log) in [("b.yaml", "/b"), ("a.yml", "/a"), ("a.yaml", "/b"), ("c.txt", "/c")] {
            let text = format!("filename: {log}\nlabels: {{type: x}}\n");
            fs::write(folder.path().join(name), text).expect("room on the disk");
        }
        let missing = folder.path().join("missing.yaml");
        let (sources, problems) = load(&[folder.path().to_path_buf(), missing], &|_| None);
        let ids: Vec<&str> = sources.iter().map(|source| source.id.as_str()).collect();
        assert_eq!(ids, ["file:/b", "file:/b#2", "file:/a"]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.starts_with("cannot be read"), "{}", problems[0]);
    }
}
