//! The databases on disk: read whole, believed only if they are plausible, read again when they change.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::geo::atlas::{Atlas, Databases, Implausible, Tally};
use crate::geo::config::Config;
use crate::geo::database::{About, Database, DatabaseError, Fields};
use crate::geo::policy::{Kind, Unknown};

/// Larger files are not read: the largest databases in use have a fifth of that.
const MAX_FILE: u64 = 1 << 30;
/// How often is looked whether a file has changed.
const LOOK: Duration = Duration::from_secs(5);

/// Why there are no databases, or no new ones.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    /// The configuration names none.
    #[error("no database of countries is configured\nhint: `geo: {{ country_db: FILE }}`")]
    NotConfigured,
    /// A file cannot be read.
    #[error("cannot read the database `{}`: {source}", path.display())]
    Read {
        /// Where it is.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file is larger than any database.
    #[error("`{}` is too large for a database: more than {} MiB", path.display(), MAX_FILE >> 20)]
    TooLarge {
        /// Where it is.
        path: PathBuf,
    },
    /// A file is no database.
    #[error("`{}`: {source}", path.display())]
    Database {
        /// Where it is.
        path: PathBuf,
        /// The reason.
        source: DatabaseError,
    },
    /// What is in a file is not believed.
    #[error("`{}`: {source}", path.display())]
    Implausible {
        /// Where it is.
        path: PathBuf,
        /// The reason.
        source: Implausible,
    },
    /// All of IPv6 would be dropped.
    #[error(
        "`{}` knows IPv4 only, so policy `{policy}` would drop all of IPv6\nhint: take a database that knows both, or say \
         `unknown: pass` in the policy", path.display()
    )]
    NoIpv6 {
        /// Where it is.
        path: PathBuf,
        /// The policy.
        policy: String,
    },
    /// It was written to while it was read.
    #[error("`{}` changed while it was read", path.display())]
    Unsteady {
        /// Where it is.
        path: PathBuf,
    },
}

/// What tells one state of a file from another: device, inode, seconds and nanoseconds of the last change, size.
type Stamp = (u64, u64, i64, i64, u64);

/// Databases that are believed, and the addresses that policies need of them.
#[derive(Debug)]
pub struct Loaded {
    /// The databases.
    pub databases: Databases,
    /// The addresses of everything that policies name.
    pub atlas: Atlas,
    /// How much that is.
    pub tally: Tally,
    /// What the files say about themselves.
    pub files: Vec<FileStatus>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileStatus {
    /// Where it is.
    pub path: PathBuf,
    /// When it was read.
    pub loaded: Timestamp,
    /// What it says about itself.
    #[serde(flatten)]
    pub about: About,
}

impl Loaded {
    /// Reads what `config` names. `before` is how much there was.
    pub fn read(config: &Config, before: Option<Tally>, now: Timestamp) -> Result<Self, GeoError> {
        let paths = paths(config);
        let (mut files, mut read) = (Vec::new(), Vec::new());
        for path in &paths {
            let database = open(path, &config.fields)?;
            files.push(FileStatus { path: path.clone(), loaded: now, about: database.about() });
            read.push(database);
        }
        let mut read = read.into_iter();
        let countries = read.next().ok_or(GeoError::NotConfigured)?;
        let databases = Databases { countries, systems: read.next() };
        let path = || paths.first().cloned().unwrap_or_default();
        let atlas = Atlas::survey(&databases, &config.wanted())
            .map_err(|source| GeoError::Database { path: path(), source })?;
        atlas
            .validate(config.min_networks, before, config.max_shrink)
            .map_err(|source| GeoError::Implausible { path: path(), source })?;
        let drops_unknown = |kind, unknown| kind == Kind::Allow && unknown == Unknown::Drop;
        if !atlas.ipv6()
            && let Some(policy) = config.policies.iter().find(|policy| drops_unknown(policy.kind, policy.unknown))
        {
            return Err(GeoError::NoIpv6 { path: path(), policy: policy.name.clone() });
        }
        let tally = atlas.tally();
        Ok(Self { databases, atlas, tally, files })
    }
}

/// The files in the order of [`Databases`]: one alone knows both.
fn paths(config: &Config) -> Vec<PathBuf> {
    config.country_db.iter().chain(&config.as_db).cloned().collect()
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size())
}

fn open(path: &Path, fields: &Fields) -> Result<Database, GeoError> {
    let failed = |source| GeoError::Read { path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    let before = file.metadata().map_err(failed)?;
    if before.size() > MAX_FILE {
        return Err(GeoError::TooLarge { path: path.into() });
    }
    let mut bytes = Vec::with_capacity(before.size() as usize);
    // it may grow while it is read
    (&file).take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    if stamp(&file.metadata().map_err(failed)?) != stamp(&before) {
        return Err(GeoError::Unsteady { path: path.into() });
    }
    Database::read(bytes, fields.clone()).map_err(|source| GeoError::Database { path: path.into(), source })
}

/// What is known at a moment: databases that are believed, and why there are no newer ones.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// The databases, if any were ever believed.
    pub loaded: Option<Arc<Loaded>>,
    /// Why the files on disk are not what is used.
    pub error: Option<String>,
    /// How the files were when they were read last, whatever came of it; `None` for one that was not there.
    seen: Option<Vec<Option<Stamp>>>,
}

/// Reads the databases, once.
pub fn begin(config: &Config) -> Knowledge {
    let mut knowledge = Knowledge::default();
    look(config, &mut knowledge);
    knowledge
}

/// Keeps `knowledge` up to date with the files until nobody asks any more.
pub async fn follow(config: Config, knowledge: watch::Sender<Knowledge>) {
    let mut look_again = interval(LOOK);
    look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = knowledge.borrow().clone();
    let config = Arc::new(config);
    loop {
        tokio::select! {
            _ = look_again.tick() => {}
            () = knowledge.closed() => return,
        }
        let (theirs, mut before) = (Arc::clone(&config), known.clone());
        let looking = tokio::task::spawn_blocking(move || (look(&theirs, &mut before), before));
        // an error means that the process is stopping
        let Ok((news, now)) = looking.await else { return };
        known = now;
        if news {
            knowledge.send_replace(known.clone());
        }
    }
}

/// Reads again what has changed; whether `known` is another one now.
fn look(config: &Config, known: &mut Knowledge) -> bool {
    let stamps = paths(config).into_iter().map(|path| std::fs::metadata(path).ok().as_ref().map(stamp)).collect();
    if known.seen.as_ref() == Some(&stamps) {
        return false;
    }
    known.seen = Some(stamps);
    let before = known.loaded.as_ref().map(|loaded| loaded.tally);
    match Loaded::read(config, before, Timestamp::now()) {
        Ok(loaded) => {
            let tally = loaded.tally;
            info!(networks = tally.networks, addresses = tally.size.addresses4, "geo databases were read");
            known.loaded = Some(Arc::new(loaded));
            known.error = None;
            true
        }
        Err(error) => {
            let error = error.to_string();
            let news = known.error.as_ref() != Some(&error);
            if news {
                warn!(error, "the geo databases on disk are not used");
            }
            known.error = Some(error);
            news
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::geo::Region;
    use crate::geo::mmdb::{Mmdb, country};
    use crate::geo::policy::Policy;

    fn config(path: &Path) -> Config {
        let policy = Policy {
            name: "office".into(),
            kind: Kind::Allow,
            regions: BTreeSet::from([Region::parse("DE").expect("a region")]),
            except: Vec::new(),
            unknown: Unknown::Drop,
            interfaces: Vec::new(),
            ports: Vec::new(),
            observe: false,
        };
        Config { country_db: Some(path.into()), policies: vec![policy], ..Config::default() }
    }

    #[test]
    fn a_file_is_read_again_when_it_changes_and_believed_only_if_it_is_plausible() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("country.mmdb");
        let place = |bytes: &[u8]| {
            let new = folder.path().join("new");
            std::fs::write(&new, bytes).expect("the folder is ours");
            std::fs::rename(&new, &path).expect("the folder is ours");
        };
        let config = config(&path);
        let mut known = Knowledge::default();
        assert!(look(&config, &mut known), "there is no file");
        assert!(!look(&config, &mut known), "and that is told once");
        let told = |known: &Knowledge| known.error.clone().unwrap_or_default();
        assert!(told(&known).starts_with("cannot read the database"), "{}", told(&known));
        let both = [("5.0.0.0/16", "DE"), ("2a00::/32", "DE")];
        place(&Mmdb::countries(&both).bytes());
        assert!(look(&config, &mut known) && known.error.is_none());
        let first = known.loaded.as_ref().map(|loaded| loaded.tally);
        assert!(!look(&config, &mut known), "nothing has changed");
        // (what, file, beginning of the complaint)
        let cases = [
            ("half a file", Mmdb::countries(&both).bytes()[..200].to_vec(), "not a database"),
            ("another country", Mmdb::countries(&[("5.0.0.0/16", "FR")]).bytes(), "the database has 0 networks for DE"),
            ("much less", Mmdb::countries(&[("5.0.0.0/18", "DE"), both[1]]).bytes(), "the database lost too much"),
            ("no IPv6", Mmdb::ipv4().with("5.0.0.0/16", country("DE")).bytes(), "the database lost too much"),
        ];
        for (what, bytes, complaint) in cases {
            place(&bytes);
            assert!(look(&config, &mut known), "{what}");
            assert!(told(&known).contains(complaint), "{what}: {}", told(&known));
            assert_eq!(known.loaded.as_ref().map(|loaded| loaded.tally), first, "{what}: the old one is kept");
        }
        place(&Mmdb::countries(&[both[0], both[1], ("6.0.0.0/16", "DE")]).bytes());
        assert!(look(&config, &mut known) && known.error.is_none());
        assert_ne!(known.loaded.as_ref().map(|loaded| loaded.tally), first);
    }

    #[test]
    fn all_of_ipv6_is_not_dropped_by_a_database_that_knows_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("country.mmdb");
        std::fs::write(&path, Mmdb::ipv4().with("5.0.0.0/16", country("DE")).bytes()).expect("the folder is ours");
        let mut config = config(&path);
        let read =
            |config: &Config| Loaded::read(config, None, Timestamp::UNIX_EPOCH).map_err(|error| error.to_string());
        let complaint = read(&config).expect_err("all of IPv6 would be dropped");
        assert!(complaint.contains("policy `office` would drop all of IPv6"), "{complaint}");
        config.policies[0].unknown = Unknown::Pass;
        assert!(read(&config).is_ok());
        assert!(matches!(Loaded::read(&Config::default(), None, Timestamp::UNIX_EPOCH), Err(GeoError::NotConfigured)));
    }
}
