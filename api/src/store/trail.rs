//! The audit trail in SQLite, and the archives beside it into which old records go.
//!
//! An archive holds records as lines of JSON, compressed. The database knows the last hash of each, so that a chain that goes
//! through all of them can be walked from the first record to the head. Only what the seals cover is ever taken out of one.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use rusqlite::{Connection, Row, params};
use tracing::warn;

use super::sqlite::{garbled, json, meta, set_meta};
use super::{Forget, Retention, Verified};
use crate::audit::{self, AuditQuery, Break, Entry, Head, Record, Verifier};
use crate::decisions::{from_micros, to_micros};
use crate::privacy;
use crate::server::service::Author;

/// How many records one archive holds at most.
const ARCHIVE: u64 = 10_000;
/// How large an archive may be once it is unpacked, in bytes: several times what one can be.
const MAX_ARCHIVE: u64 = 256 << 20;

/// Columns of a record, in the order in which [`read_record`] takes them.
const RECORD: &str = "seq, at, actor, origin, proof, action, seal, hash, subject, salt";

/// Appends what `entry` says.
pub(super) fn append(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let record = Record::follow(&head(connection)?, entry, rand::random());
    connection
        .prepare_cached(&format!("INSERT INTO audit ({RECORD}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"))?
        .execute(params![
            record.seq,
            to_micros(record.at),
            record.actor,
            record.origin,
            record.proof,
            record.action,
            record.seal,
            record.hash,
            record.subject,
            record.salt,
        ])?;
    set_meta(connection, "audit_head", &json(&record.head())?)
}

/// The records that `query` wants, the oldest first.
pub(super) fn list(connection: &Connection, folder: &Path, query: &AuditQuery) -> rusqlite::Result<Vec<Record>> {
    let mut archives = archives(connection)?;
    let mut found = Vec::new();
    if let Some(after) = query.after {
        archives.retain(|archive| archive.head.seq > after);
        for archive in archives {
            if found.len() < query.limit {
                found.extend(archive.here(folder).into_iter().filter(|record| query.wants(record)));
            }
        }
        found.truncate(query.limit);
        let rest = AuditQuery { limit: query.limit - found.len(), ..query.clone() };
        found.extend(stored(connection, &rest)?);
        return Ok(found);
    }
    // The newest are wanted.
    found = stored(connection, query)?;
    for archive in archives.iter().rev() {
        if found.len() >= query.limit {
            break;
        }
        let mut older: Vec<Record> = archive.here(folder).into_iter().filter(|record| query.wants(record)).collect();
        older.drain(..older.len().saturating_sub(query.limit - found.len()));
        older.append(&mut found);
        found = older;
    }
    Ok(found)
}

fn stored(connection: &Connection, query: &AuditQuery) -> rusqlite::Result<Vec<Record>> {
    let order = if query.after.is_some() { "ASC" } else { "DESC" };
    let sql = format!(
        "SELECT {RECORD} FROM audit WHERE seq > ?1 AND at >= ?2 AND (?3 IS NULL OR actor = ?3) \
         AND (?4 IS NULL OR action = ?4 OR substr(action, 1, length(?4) + 1) = ?4 || '.') ORDER BY seq {order} LIMIT ?5"
    );
    let since = query.since.map_or(i64::MIN, to_micros);
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let mut records = connection
        .prepare_cached(&sql)?
        .query_map(params![query.after.unwrap_or(0), since, query.actor, query.action, limit], read_record)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    records.sort_unstable_by_key(|record| record.seq);
    Ok(records)
}

/// Walks all records, those in archives first. With `moved`, archives that are not there are taken for moved elsewhere, and
/// the walk goes on from what is known about their ends.
pub(super) fn verify(connection: &Connection, folder: &Path, moved: bool) -> rusqlite::Result<Result<Verified, Break>> {
    // One transaction: the head must be that of the records that are read.
    let view = connection.unchecked_transaction()?;
    let head = head(&view)?;
    let archives = archives(&view)?;
    let mut verifier = Verifier::default();
    let (mut seen, mut elsewhere) = (0, 0);
    for archive in &archives {
        let broken = |reason: String| Ok(Err(Break { seq: archive.first, reason }));
        let path = archive.path(folder);
        let records = match archive.read(folder) {
            Ok(records) => records,
            Err(error) if error.kind() == io::ErrorKind::NotFound && moved => {
                elsewhere += archive.head.seq - archive.first + 1;
                verifier.skip(archive.head.clone());
                continue;
            }
            Err(error) => return broken(format!("its archive `{}` cannot be read: {error}", path.display())),
        };
        seen += records.len() as u64;
        if let Err(broken) = records.iter().try_for_each(|record| verifier.take(record)) {
            return Ok(Err(broken));
        }
        if *verifier.head() != archive.head {
            return broken(format!("its archive `{}` does not end as it did", path.display()));
        }
    }
    let mut statement = view.prepare(&format!("SELECT {RECORD} FROM audit ORDER BY seq"))?;
    for record in statement.query_map([], read_record)? {
        if let Err(broken) = verifier.take(&record?) {
            return Ok(Err(broken));
        }
    }
    Ok(verifier.finish(&head).map(|forgotten| Verified { head, forgotten, archived: seen, elsewhere }))
}

/// Moves the oldest records into an archive when there are many more than wanted.
pub(super) fn retain(connection: &Connection, folder: &Path, retention: &Retention) -> rusqlite::Result<()> {
    let Some(max) = retention.max_audit else { return Ok(()) };
    let before = archives(connection)?.last().map_or(0, |archive| archive.head.seq);
    let part = max.clamp(1, ARCHIVE);
    if head(connection)?.seq.saturating_sub(before).cast_unsigned() < max.saturating_add(part) {
        return Ok(());
    }
    let query = AuditQuery { after: Some(before), limit: part as usize, ..AuditQuery::default() };
    let records = stored(connection, &query)?;
    let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
    let archive = Archive { first: first.seq, head: last.head() };
    if let Err(error) = archive.write(folder, &records) {
        // It is tried again; until then the records stay where they are.
        warn!(path = %archive.path(folder).display(), %error, "cannot move old records of the audit trail into an archive");
        return Ok(());
    }
    connection.execute(
        "INSERT INTO audit_archives (last, hash, first) VALUES (?1, ?2, ?3)",
        params![archive.head.seq, archive.head.hash, archive.first],
    )?;
    connection.execute("DELETE FROM audit WHERE seq <= ?1", [archive.head.seq])?;
    let subject = format!("{} to {}, {}", archive.first, archive.head.seq, archive.head.hash);
    append(connection, &Author::default().did("audit.archive", &subject, retention.now))
}

/// Takes somebody out of all records, and notes that.
pub(super) fn forget(connection: &Connection, folder: &Path, forget: &Forget) -> rusqlite::Result<()> {
    let value = forget.value.as_str();
    let mentions = |record: &Record| record.subject.as_deref().is_some_and(|subject| privacy::mentions(subject, value));
    for archive in archives(connection)? {
        let mut records = archive.here(folder);
        if records.iter().any(mentions) {
            for record in records.iter_mut().filter(|record| mentions(record)) {
                (record.subject, record.salt) = (None, None);
            }
            if let Err(error) = archive.write(folder, &records) {
                warn!(path = %archive.path(folder).display(), %error, "cannot take somebody out of an archive of the audit trail");
            }
        }
    }
    let about: Vec<(i64, String)> = connection
        .prepare("SELECT seq, subject FROM audit WHERE instr(subject, ?1) > 0")?
        .query_map([value], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (seq, _) in about.iter().filter(|(_, subject)| privacy::mentions(subject, value)) {
        connection.execute("UPDATE audit SET subject = NULL, salt = NULL WHERE seq = ?1", [seq])?;
    }
    let key = if let Some(key) = meta(connection, "audit_key")? {
        key
    } else {
        let key = audit::hex(&rand::random::<[u8; 32]>());
        set_meta(connection, "audit_key", &key)?;
        key
    };
    let subject = audit::pseudonym(key.as_bytes(), value);
    append(connection, &Entry { subject, ..forget.entry.clone() })
}

/// The head that is kept beside the records.
fn head(connection: &Connection) -> rusqlite::Result<Head> {
    let kept = meta(connection, "audit_head")?;
    kept.map_or_else(|| Ok(Head::default()), |text| serde_json::from_str(&text).map_err(garbled))
}

fn read_record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        seq: row.get(0)?,
        at: from_micros(row.get(1)?),
        actor: row.get(2)?,
        origin: row.get(3)?,
        proof: row.get(4)?,
        action: row.get(5)?,
        seal: row.get(6)?,
        hash: row.get(7)?,
        subject: row.get(8)?,
        salt: row.get(9)?,
    })
}

/// Records that were moved out of the database.
struct Archive {
    first: i64,
    /// Its last record.
    head: Head,
}

/// All archives, the oldest first.
fn archives(connection: &Connection) -> rusqlite::Result<Vec<Archive>> {
    let mut statement = connection.prepare_cached("SELECT first, last, hash FROM audit_archives ORDER BY last")?;
    let read = |row: &Row<'_>| Ok(Archive { first: row.get(0)?, head: Head { seq: row.get(1)?, hash: row.get(2)? } });
    statement.query_map([], read)?.collect()
}

impl Archive {
    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{:012}-{:012}.jsonl.gz", self.first, self.head.seq))
    }

    /// Its records, or none where it is not to be read; that is told in the log, and by [`verify`].
    fn here(&self, folder: &Path) -> Vec<Record> {
        self.read(folder).unwrap_or_else(|error| {
            warn!(path = %self.path(folder).display(), %error, "cannot read an archive of the audit trail");
            Vec::new()
        })
    }

    fn read(&self, folder: &Path) -> io::Result<Vec<Record>> {
        let file = fs::File::open(self.path(folder))?;
        let lines = BufReader::new(GzDecoder::new(file).take(MAX_ARCHIVE)).lines();
        lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
    }

    /// Writes it whole or not at all, for nobody to change.
    fn write(&self, folder: &Path, records: &[Record]) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let (path, fresh) = (self.path(folder), folder.join("unfinished"));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().create_new(true).write(true).mode(0o400).open(&fresh)?;
        let mut packed = GzEncoder::new(file, Compression::default());
        for record in records {
            serde_json::to_writer(&mut packed, record)?;
            packed.write_all(b"\n")?;
        }
        packed.finish()?.sync_all()?;
        fs::rename(&fresh, &path)?;
        fs::File::open(folder)?.sync_all()
    }
}
