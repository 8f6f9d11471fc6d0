//! Data files that rules declare (spec: parsers 8): what to load, and as what.

use expr::files::FileKind;

use crate::yaml::{Fault, Keys, Yaml};

/// One entry of `data:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Line of the entry.
    pub line: u32,
    /// Where hub tooling fetches it from; nothing here does.
    pub source_url: String,
    /// Name in the data directory, and the name that expressions use.
    pub name: String,
    /// What its lines are; `None` loads nothing (databases that the program opens by itself).
    pub kind: Option<FileKind>,
}

impl DataFile {
    /// Reads one entry. `cache`, `strategy`, `size` and `ttl` are checked and otherwise ignored: results are kept by
    /// the value that was looked up, whatever the file says.
    pub fn parse(yaml: &Yaml) -> Result<Self, Fault> {
        let keys = yaml.keys("`data`")?;
        let file = Self {
            line: keys.line(),
            source_url: keys.text("source_url")?.map_or(String::new(), |url| url.text),
            name: keys.required_text("dest_file")?.text,
            kind: kind(&keys)?,
        };
        keys.flag("cache")?;
        keys.integer("size")?;
        keys.text("strategy")?;
        if let Some(ttl) = keys.text("ttl")? {
            expr::duration::parse(&ttl).map_err(|error| Fault::new(ttl.line, format!("bad `ttl`: {error}")))?;
        }
        keys.finish()?;
        Ok(file)
    }
}

fn kind(keys: &Keys<'_>) -> Result<Option<FileKind>, Fault> {
    match keys.text("type")? {
        Some(kind) if !kind.is_empty() => match kind.parse() {
            Ok(kind) => Ok(Some(kind)),
            Err(_) => Err(Fault::unknown(kind.line, "data type", &kind, ["string", "regexp", "regex", "map", "bots"])),
        },
        _ => Ok(None),
    }
}
