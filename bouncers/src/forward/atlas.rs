//! Countries of addresses, from a database file that somebody else keeps up to date.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use maxminddb::{PathElement, Reader};
use tracing::{error, info};

use super::profile::{Atlas, Country};
use crate::error::BouncerError;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the database of countries `{path}`: {reason}", path = path.display())]
pub struct DatabaseError {
    /// The file.
    path: PathBuf,
    /// What is wrong.
    reason: String,
}

impl From<DatabaseError> for BouncerError {
    fn from(error: DatabaseError) -> Self {
        BouncerError::Setup(error.to_string())
    }
}

/// The database and the file it came from.
pub struct Database {
    path: PathBuf,
    current: ArcSwap<Reader<Vec<u8>>>,
    written: Mutex<Option<SystemTime>>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Database {
    /// Reads the file.
    pub fn open(path: PathBuf) -> Result<Self, DatabaseError> {
        let written = Mutex::new(std::fs::metadata(&path).and_then(|meta| meta.modified()).ok());
        let current = ArcSwap::from_pointee(read(&path)?);
        Ok(Self { path, current, written })
    }

    /// Reads the file again if it was written since. What was known stays in force if it cannot be used.
    pub fn reload_if_changed(&self) {
        let now = std::fs::metadata(&self.path).and_then(|meta| meta.modified()).ok();
        {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            if now.is_none() || *written == now {
                return;
            }
            *written = now;
        }
        match read(&self.path) {
            Ok(reader) => {
                self.current.store(reader.into());
                info!(file = %self.path.display(), "read the database of countries again");
            }
            Err(error) => error!(%error, "the one before stays in force"),
        }
    }
}

impl Atlas for Database {
    fn country(&self, address: IpAddr) -> Option<Country> {
        let reader = self.current.load();
        let found = reader.lookup(address).ok()?;
        // where the network is, else where it was registered
        ["country", "registered_country"].into_iter().find_map(|kind| {
            let path = [PathElement::Key(kind), PathElement::Key("iso_code")];
            Country::new(found.decode_path::<&str>(&path).ok()??)
        })
    }
}

fn read(path: &PathBuf) -> Result<Reader<Vec<u8>>, DatabaseError> {
    let failed = |reason: String| DatabaseError { path: path.clone(), reason };
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    Reader::from_source(bytes).map_err(|error| failed(error.to_string()))
}
