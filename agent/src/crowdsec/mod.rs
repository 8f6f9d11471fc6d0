//! CrowdSec's own configuration folder, as far as it says something to us.
//!
//! The folder is used as it is: `config.yaml` with `config.yaml.local` over it names where everything lies, and items are known by
//! the links into its hub. What it says and we do not do is named with its place, never passed over in silence.

mod keys;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use model::yaml::{Content, Fault, Text, Yaml, documents};

use crate::acquisition::config::expand;
use crate::hub::Index;
use crate::status::{Kind, Problem};

/// What CrowdSec's configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The folder in which `config.yaml` lies.
    pub root: PathBuf,
    /// Data files.
    pub data: Option<PathBuf>,
    /// Grok patterns.
    pub patterns: PathBuf,
    /// What is simulated; the second is merged over the first.
    pub simulation: [PathBuf; 2],
    /// The hub whose items are linked into the folder.
    pub hub: PathBuf,
    /// The hub's index.
    pub index: PathBuf,
    /// Files and folders with datasources, those that exist.
    pub acquisition: Vec<PathBuf>,
    /// Files with profiles that exist, in the order in which they are evaluated.
    pub profiles: Vec<PathBuf>,
    /// The console's file with alert context, if it exists.
    pub context: Option<PathBuf>,
    /// Longest text of alert context in bytes; 0 is the default.
    pub context_length: usize,
    /// Where its API listens, if it has one that listens on TCP.
    pub listen: Option<SocketAddr>,
    /// The file that says where alerts go, if they go to another machine.
    pub credentials: Option<PathBuf>,
    /// What it says that does not count here.
    pub notes: Vec<Fault>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// How often links are followed.
const HOPS: usize = 10;
/// Longest configuration file in bytes.
const LONGEST: u64 = 4 << 20;

impl Configuration {
    /// What the folder at `root` says; `None` when it has no `config.yaml` that names paths. `env` answers for `$NAME`.
    pub fn read(root: &Path, env: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        if root.as_os_str().is_empty() {
            return None;
        }
        let path = root.join("config.yaml");
        let text = text(&path).ok()?;
        let mut read = Self { root: root.to_path_buf(), ..Self::default() };
        let config = match documents(&expand(&text, env)) {
            Ok(documents) => documents.into_iter().next()?,
            // Whether it names paths cannot be told, but it is the file of that name.
            Err(fault) => {
                read.problems.push(Problem::new(Kind::Profile, fault.within(&path)));
                return text.contains("config_paths").then_some(read);
            }
        };
        get(&config, "config_paths")?;
        read.notes.extend(keys::notes(&config).into_iter().map(|note| note.within(&path)));
        let config = read.overlaid(config, env);
        read.paths(&config);
        read.service(&config);
        read.notify();
        Some(read)
    }

    /// `config` with the `.local` file over it.
    fn overlaid(&mut self, config: Yaml, env: &dyn Fn(&str) -> Option<String>) -> Yaml {
        let path = self.root.join("config.yaml.local");
        let over = match text(&path) {
            Ok(text) => documents(&expand(&text, env)).map(|documents| documents.into_iter().next()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return config,
            Err(error) => Err(Fault::new(0, format!("cannot be read: {error}"))),
        };
        let merged = over.and_then(|over| match over {
            Some(over) => {
                self.notes.extend(keys::notes(&over).into_iter().map(|note| note.within(&path)));
                merge(config.clone(), over)
            }
            None => Ok(config.clone()),
        });
        merged.unwrap_or_else(|fault| {
            self.problems.push(Problem::new(Kind::Profile, fault.within(&path)));
            config
        })
    }

    fn paths(&mut self, config: &Yaml) {
        let named = |key: &str| path(get(config, "config_paths"), key);
        let base = named("config_dir").unwrap_or_default();
        // A copy of the folder speaks of where it was.
        let root = self.root.clone();
        let here = move |path: PathBuf| match path.strip_prefix(&base) {
            Ok(below) if !base.as_os_str().is_empty() => root.join(below),
            _ => root.join(path),
        };
        let at = |key: &str, default: &str| here(named(key).unwrap_or_else(|| default.into()));
        self.data = named("data_dir").map(&here).filter(|folder| folder.is_dir());
        self.patterns = at("pattern_dir", "patterns");
        let simulation = at("simulation_path", "simulation.yaml");
        self.simulation = [simulation.clone(), local(&simulation)];
        self.hub = at("hub_dir", "hub");
        self.index = named("index_path").map_or_else(|| self.hub.join(".index.json"), &here);

        let service = get(config, "crowdsec_service");
        let files = ["acquisition_path", "acquisition_dir"].map(|key| path(service, key).map(&here));
        self.acquisition = files.into_iter().flatten().filter(|path| path.exists()).collect();
        self.context = Some(match path(service, "console_context_path") {
            Some(path) => here(path),
            None => here("console/context.yaml".into()),
        });
        let server = get(config, "api").and_then(|api| get(api, "server"));
        let profiles = path(server, "profiles_path").map_or_else(|| self.root.join("profiles.yaml"), &here);
        self.profiles = [local(&profiles), profiles].into_iter().filter(|path| path.exists()).collect();
        let notifications = at("notification_dir", "notifications");
        self.check_notifications(&notifications);
        if let Some(credentials) = get(config, "api")
            .and_then(|api| get(api, "client"))
            .and_then(|client| path(Some(client), "credentials_path"))
        {
            let credentials = here(credentials);
            if self.goes_elsewhere(&credentials) {
                self.credentials = Some(credentials);
            }
        }
    }

    fn service(&mut self, config: &Yaml) {
        let service = get(config, "crowdsec_service");
        let file = self.root.join("config.yaml");
        let off = |section: Option<&Yaml>| {
            let switch = get(section?, "enable")?;
            (switch.flag("enable") == Ok(false)).then_some(switch.line)
        };
        if let Some(line) = off(service) {
            self.acquisition.clear();
            let note = Fault::new(line, "`crowdsec_service.enable` is off: no logs are read");
            self.notes.push(note.within(&file));
        }
        let explicit = service.and_then(|service| get(service, "console_context_path"));
        if self.context.as_ref().is_some_and(|path| !path.exists()) {
            if let Some(yaml) = explicit {
                let fault = Fault::new(yaml.line, "`console_context_path` names a file that does not exist");
                self.problems.push(Problem::new(Kind::Context, fault.hint("make it, or remove the key").within(&file)));
            }
            self.context = None;
        }
        let length = service.and_then(|service| get(service, "console_context_value_length"));
        self.context_length =
            length.and_then(|length| length.integer("").ok()).and_then(|length| length.try_into().ok()).unwrap_or(0);
        let server = get(config, "api").and_then(|api| get(api, "server"));
        if let Some(yaml) = server.filter(|_| off(server).is_none()).and_then(|server| get(server, "listen_uri")) {
            let text = yaml.text("listen_uri").map(|text| text.text).unwrap_or_default();
            match text.replace("localhost", "127.0.0.1").parse() {
                Ok(address) => self.listen = Some(address),
                Err(_) if text.is_empty() => {}
                Err(_) => {
                    let note = Fault::new(yaml.line, format!("`listen_uri` is `{text}`: cordon listens on addresses"));
                    self.notes.push(note.hint("write it like `127.0.0.1:8080`").within(&file));
                }
            }
        }
        if self.root.join("feature.yaml").exists() {
            let note = Fault::new(0, "not used here: cordon has no such switches");
            self.notes.push(note.within(&self.root.join("feature.yaml")));
        }
    }

    /// Says which profiles want to notify somebody.
    fn notify(&mut self) {
        for path in &self.profiles {
            let Ok(documents) = text(path).map(|text| documents(&text).unwrap_or_default()) else { continue };
            for list in documents.iter().filter_map(|document| get(document, "notifications")) {
                for name in list.texts("notifications").unwrap_or_default() {
                    let note = Fault::new(name.line, format!("notification `{}` is not sent: cordon has none", &*name));
                    self.notes.push(note.within(path));
                }
            }
        }
    }

    /// Says what notifications are configured.
    fn check_notifications(&mut self, folder: &Path) {
        let mut files: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
        files.sort();
        for path in files {
            let Ok(text) = text(&path) else { continue };
            for document in documents(&text).unwrap_or_default().iter().filter(|document| !document.is_null()) {
                let say = |key: &str| get(document, key).and_then(|yaml| yaml.text(key).ok()).map(|text| text.text);
                let (kind, name) = (say("type").unwrap_or_default(), say("name").unwrap_or_default());
                let note = Fault::new(document.line, format!("notification `{name}` by `{kind}` is not available"));
                self.notes.push(note.within(&path));
            }
        }
    }

    /// Whether alerts go to another machine; says so.
    fn goes_elsewhere(&mut self, path: &Path) -> bool {
        let mut elsewhere = false;
        for path in [path.to_path_buf(), local(path)] {
            let Ok(text) = text(&path) else { continue };
            let documents = documents(&text).unwrap_or_default();
            let Some(url) = documents.first().and_then(|document| get(document, "url")) else { continue };
            let Ok(Text { text, line }) = url.text("url") else { continue };
            let host = text.split_once("://").map_or(text.as_str(), |(_, rest)| rest);
            let here = ["/", "127.", "localhost", "[::1]", "0.0.0.0"].iter().any(|start| host.starts_with(start));
            if !here {
                elsewhere = true;
                let note = Fault::new(line, format!("CrowdSec sends alerts to `{text}`"));
                let hint =
                    "so does `cordon run --config-dir`; otherwise name this file as `api.client.credentials_path`";
                self.notes.push(note.hint(hint).within(&path));
            }
        }
        elsewhere
    }
}

/// Profiles that lie in a folder of rules: those that CrowdSec's configuration names, else `profiles.yaml`; a `.local` file first.
pub fn profiles(root: &Path) -> Vec<PathBuf> {
    if let Some(configuration) = Configuration::read(root, &environment) {
        return configuration.profiles;
    }
    let path = root.join("profiles.yaml");
    [local(&path), path].into_iter().filter(|path| path.exists()).collect()
}

/// What a credentials file says, with its `.local` file over it and variables replaced.
pub fn credentials(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Yaml, Fault> {
    let read = |path: &Path, text: &str| {
        let all = documents(&expand(text, env)).map_err(|fault| fault.within(path))?;
        all.into_iter().next().ok_or_else(|| Fault::new(0, "says nothing").within(path))
    };
    let own = text(path).map_err(|error| Fault::new(0, format!("cannot be read: {error}")).within(path))?;
    let own = read(path, &own)?;
    let over = local(path);
    match text(&over) {
        Ok(text) => merge(own, read(&over, &text)?).map_err(|fault| fault.within(&over)),
        Err(_) => Ok(own),
    }
}

/// A variable of this process.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What the hub's index knows of the files that are linked from a configuration folder.
#[derive(Debug, Default)]
pub(crate) struct Links {
    hub: PathBuf,
    /// Author and name by the file below the hub.
    items: HashMap<PathBuf, String>,
    index: Index,
}

/// What a file in a configuration folder is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A file of the owner's.
    Local,
    /// An item of the hub, by its name, with version and hash.
    Hub {
        /// Its name.
        name: String,
        /// Its version; `?` for one that no version of the hub's has.
        version: String,
        /// SHA-256 of the file.
        hash: String,
    },
    /// A link into the hub that its index does not know.
    Unknown(PathBuf),
}

impl Links {
    pub(crate) fn read(configuration: &Configuration) -> Self {
        let index = Index::read_file(&configuration.index).ok().flatten().unwrap_or_default();
        let items = index.items().map(|(_, name, item)| (item.path.clone(), name.to_owned())).collect();
        Self { hub: plain(&configuration.hub), items, index }
    }

    /// What the file at `path` is, whose content is `text`.
    pub(crate) fn item(&self, kind: &str, path: &Path, text: &str) -> Item {
        let mut target = path.to_path_buf();
        let mut known = None;
        let mut within = false;
        for _ in 0..HOPS {
            let Ok(next) = fs::read_link(&target) else { break };
            target = plain(&target.parent().unwrap_or(Path::new("")).join(next));
            within |= target.starts_with(&self.hub);
            known = known.or_else(|| self.tail(kind, &target));
        }
        match known {
            Some(name) => {
                let Some(item) = self.index.get(kind, &name) else { return Item::Local };
                let (version, hash) = item.identify(text.as_bytes());
                Item::Hub { name, version, hash }
            }
            None if within && !self.items.is_empty() => Item::Unknown(target),
            None => Item::Local,
        }
    }

    /// The item of `kind` whose file below the hub is the end of `target`.
    fn tail(&self, kind: &str, target: &Path) -> Option<String> {
        let parts: Vec<_> = target.components().collect();
        let tails = (0..parts.len()).rev().map(|from| parts[from..].iter().collect::<PathBuf>());
        let mut named = tails.take(5).filter_map(|tail| self.items.get(&tail));
        named.find(|name| self.index.get(kind, name).is_some()).cloned()
    }
}

/// `path` without `..`, as links are written and not as they lead.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir if plain.file_name().is_some() => {
                plain.pop();
            }
            component => plain.push(component),
        }
    }
    plain
}

/// The name of a local file: what its first document says.
pub(crate) fn local_name(text: &str) -> Option<String> {
    let documents = documents(text).ok()?;
    let name = get(documents.first()?, "name")?.text("name").ok()?;
    (!name.is_empty()).then_some(name.text)
}

/// The file that is merged over `path`.
fn local(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".local");
    name.into()
}

/// `over` merged over `under`: maps entry by entry, anything else is replaced.
fn merge(under: Yaml, over: Yaml) -> Result<Yaml, Fault> {
    if over.is_null() || under.is_null() {
        return Ok(if over.is_null() { under } else { over });
    }
    match (under.content, over.content) {
        (Content::Map(mut entries), Content::Map(more)) => {
            for (key, value) in more {
                match entries.iter_mut().find(|(known, _)| *known.text == *key.text) {
                    Some((_, known)) => *known = merge(known.clone(), value)?,
                    None => entries.push((key, value)),
                }
            }
            Ok(Yaml { line: over.line, content: Content::Map(entries) })
        }
        (Content::Scalar { .. }, content @ Content::Scalar { .. }) | (Content::List(_), content @ Content::List(_)) => {
            Ok(Yaml { line: over.line, content })
        }
        _ => {
            let fault = Fault::new(over.line, "this is of another kind than what it stands over");
            Err(fault.hint("a map goes over a map, a list over a list, a value over a value"))
        }
    }
}

fn get<'y>(yaml: &'y Yaml, key: &str) -> Option<&'y Yaml> {
    let entries = yaml.pairs(key).ok()?;
    entries.iter().find(|(name, _)| name.text == key).map(|(_, value)| value).filter(|value| !value.is_null())
}

fn path(section: Option<&Yaml>, key: &str) -> Option<PathBuf> {
    let text = get(section?, key)?.text(key).ok()?.text;
    (!text.is_empty()).then(|| text.into())
}

fn text(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > LONGEST {
        return Err(io::Error::other(format!("larger than {LONGEST} bytes")));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests;
