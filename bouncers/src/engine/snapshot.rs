//! The last known good state on disk, so that a host is protected before it reaches any API.
//!
//! A file holds what it says or is not used at all: a checksum covers everything behind the first sixteen bytes,
//! and a new file takes the old one's place in one step.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use compact_str::CompactString;
use jiff::Timestamp;
use model::{Decision, Scope};
use serde::{Deserialize, Serialize};

use crate::engine::desired::Desired;

const MAGIC: &[u8; 8] = b"CORDONBN";
const VERSION: u32 = 1;
const HEADER: usize = 16;
/// Fast; a hundred thousand entries shrink to about a tenth.
const LEVEL: i32 = 1;
/// No honest file unpacks to more.
const LIMIT: u64 = 2 << 30;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is not a snapshot of this bouncer, or it is damaged.
    #[error("{path}: not a usable snapshot: {reason}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// One decision as it is kept.
#[derive(Serialize, Deserialize)]
struct Record {
    scope: Scope,
    value: CompactString,
    remediation: CompactString,
    until: Timestamp,
    id: i64,
    uuid: CompactString,
    origin: CompactString,
    scenario: CompactString,
}

/// Which bouncer a file belongs to.
#[derive(Serialize, Deserialize)]
struct Head {
    bouncer: String,
}

/// The file for what `desired` holds, in the order of the keys.
pub fn encode(bouncer: &str, desired: &Desired) -> Vec<u8> {
    let mut lines = Vec::new();
    push(&mut lines, &Head { bouncer: bouncer.to_owned() });
    let mut entries: Vec<_> = desired.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    for (key, entry) in entries {
        for claim in entry.claims() {
            let record = Record {
                scope: key.scope(),
                value: claim.address.map_or_else(|| key.value(), |address| address.to_string()).into(),
                remediation: key.remediation.clone(),
                until: claim.until,
                id: claim.id,
                uuid: claim.uuid.clone(),
                origin: claim.origin.clone(),
                scenario: claim.scenario.clone(),
            };
            push(&mut lines, &record);
        }
    }
    let body = zstd::bulk::compress(&lines, LEVEL).expect("a buffer in memory takes any length");
    let mut file = Vec::with_capacity(HEADER + body.len());
    file.extend(MAGIC);
    file.extend(VERSION.to_le_bytes());
    file.extend(crc32c::crc32c(&body).to_le_bytes());
    file.extend(body);
    file
}

fn push(lines: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *lines, line).expect("plain data into memory");
    lines.push(b'\n');
}

/// The decisions in `file`, or what is wrong with it.
pub fn decode(bouncer: &str, file: &[u8]) -> Result<Vec<Decision>, &'static str> {
    let (header, body) = file.split_at_checked(HEADER).ok_or("it is too short")?;
    let (magic, numbers) = header.split_at(MAGIC.len());
    let (version, checksum) = numbers.split_at(size_of::<u32>());
    if magic != MAGIC {
        return Err("it is another kind of file");
    }
    if version != VERSION.to_le_bytes() {
        return Err("it is of another version");
    }
    if checksum != crc32c::crc32c(body).to_le_bytes() {
        return Err("it is torn");
    }
    let mut lines = Vec::new();
    let unpacked = zstd::stream::read::Decoder::new(body).and_then(|body| body.take(LIMIT).read_to_end(&mut lines));
    unpacked.map_err(|_| "it cannot be unpacked")?;
    let mut lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let head: Head =
        lines.next().and_then(|line| serde_json::from_slice(line).ok()).ok_or("it does not say whose it is")?;
    if head.bouncer != bouncer {
        return Err("it belongs to another bouncer");
    }
    lines.map(|line| serde_json::from_slice(line).map(decision).map_err(|_| "an entry is malformed")).collect()
}

fn decision(record: Record) -> Decision {
    Decision {
        id: record.id,
        uuid: record.uuid.into(),
        origin: record.origin,
        remediation: record.remediation,
        scope: record.scope,
        value: record.value,
        scenario: record.scenario,
        created_at: Timestamp::UNIX_EPOCH,
        until: record.until,
        simulated: false,
        alert_id: 0,
    }
}

/// Puts `file` at `path` in one step: whoever reads sees the old or the new one, also after a power cut.
pub fn write(path: &Path, file: &[u8]) -> Result<(), SnapshotError> {
    let temporary = path.with_extension("new");
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let done = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut new = File::create(&temporary)?;
        new.write_all(file)?;
        new.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    done().map_err(|source| SnapshotError::Io { path: path.into(), source })
}

/// The decisions in the file at `path`; `None` when there is no file.
pub fn read(path: &Path, bouncer: &str) -> Result<Option<Vec<Decision>>, SnapshotError> {
    let file = match fs::read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SnapshotError::Io { path: path.into(), source }),
    };
    decode(bouncer, &file).map(Some).map_err(|reason| SnapshotError::Unusable { path: path.into(), reason })
}

#[cfg(test)]
mod tests {
    use model::Delta;

    use super::*;
    use crate::engine::desired::tests::{ban, second};

    fn desired(add: Vec<Decision>) -> Desired {
        let mut desired = Desired::new(64, 100);
        desired.apply(&Delta { add, remove: vec![] }, second(0));
        desired
    }

    fn sample() -> Desired {
        let country = Decision { scope: Scope::Country, uuid: "u-1".into(), ..ban(3, "FR", 30) };
        desired(vec![ban(1, "192.0.2.1", 10), ban(2, "192.0.2.1", 20), ban(4, "2001:db8::5", 40), country])
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deeper").join("nftables.snapshot");
        assert!(read(&path, "nftables").is_ok_and(|nothing| nothing.is_none()));
        for held in [sample(), desired(vec![ban(9, "192.0.2.9", 10)])] {
            write(&path, &encode("nftables", &held)).expect("the folder is ours");
            let read = read(&path, "nftables").expect("it was just written").expect("it is there");
            let again = desired(read);
            let mut entries: Vec<_> = held.iter().collect();
            let mut entries_again: Vec<_> = again.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            entries_again.sort_by_key(|(key, _)| *key);
            assert_eq!(entries, entries_again);
        }
    }

    #[test]
    fn a_torn_damaged_or_foreign_file_is_refused() {
        let file = encode("nftables", &sample());
        assert!(decode("nftables", &file).is_ok());
        assert_eq!(decode("pfsense", &file), Err("it belongs to another bouncer"));
        for end in 0..file.len() {
            assert!(decode("nftables", &file[..end]).is_err(), "cut after {end} bytes");
            let mut damaged = file.clone();
            damaged[end] ^= 1;
            assert!(decode("nftables", &damaged).is_err(), "byte {end} changed");
        }
    }
}
