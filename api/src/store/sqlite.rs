//! The store in one SQLite file.
//!
//! WAL with `synchronous = FULL`: a commit returns after its fsync, so that an acknowledged ban survives a power
//! cut, not only `kill -9`; group commit shares that fsync among all who wait. One connection writes, a few read.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, params, params_from_iter};

use model::alert::DecisionBody;
use model::{Alert, Decision, Scope};

use super::{
    AlertQuery, Forget, Mentions, NewAlert, Order, Remembered, Restored, Retention, Store, StoreError, Verified, Write,
    Writer, bounds, trail,
};
use crate::audit::{AuditQuery, Break, Entry, Record};
use crate::decisions::{Epochs, LOG_LEN, Reach, from_micros, net_of, to_micros};
use crate::ladder::Strikes;
use crate::privacy;
use crate::wire;

/// `Cord`: tells our files from those of others.
const APPLICATION_ID: u32 = 0x436f_7264;

/// The schema, one step per file. A step that was ever released never changes.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
];

/// To how many bytes the write-ahead log shrinks again after a large import.
const MAX_LOG: i64 = 64 << 20;

/// How many idle connections for reading are kept.
const READERS: usize = 4;

/// Columns of a decision, in the order in which [`read_decision`] takes them.
const DECISION: &str = "id, alert_id, uuid, origin, type, scope, value, scenario, created_at, until, simulated";

/// Columns of a decision that was erased while it held.
const GONE: &str = "id, uuid, origin, type, scope, value, scenario, created_at, until, simulated";

/// How long it is told to those who poll.
const GONE_FOR: SignedDuration = SignedDuration::from_hours(24);

/// A SQLite database.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    readers: Mutex<Vec<Connection>>,
    /// Held as long as any connection may write.
    lock: Arc<File>,
}

impl Sqlite {
    /// Opens the database at `path` and brings its schema up to date, keeping a copy of it before that. Makes the
    /// file if there is none. A newer or foreign file is refused and left as it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, MIGRATIONS)
    }

    fn open_with(path: &Path, migrations: &[&str]) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        let file = |source| StoreError::File { path: path.into(), source };
        OpenOptions::new().create(true).append(true).mode(0o640).open(path).map_err(file)?;
        let mut connection = connect(path)?;
        migrate(&mut connection, path, migrations)?;
        can_shrink(&connection)?;
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError::Database(format!("cannot use a write-ahead log on {}", path.display())));
        }
        Ok(Self { path: path.into(), readers: Mutex::new(vec![connection]), lock: Arc::new(lock) })
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| connect(&self.path), Ok)?;
        let result = work(&connection).map_err(StoreError::from);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS {
            readers.push(connection);
        }
        result
    }
}

/// Copies the database at `path` to `copy`, which must not exist, as it is at one moment; its server may be running. The
/// copy is readable for its owner alone.
pub fn backup(path: &Path, copy: &Path) -> Result<(), StoreError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::File { path, source }
    };
    std::fs::metadata(path).map_err(file(path))?;
    let connection = connect(path)?;
    known_schema(&connection, path)?;
    // SQLite writes into an empty file; made here, nobody else can read it for a moment.
    let made = OpenOptions::new().create_new(true).write(true).mode(0o600).open(copy).map_err(file(copy))?;
    let written = connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()]);
    let durable = written.map_err(StoreError::from).and_then(|_| made.sync_all().map_err(file(copy)));
    if durable.is_err() {
        // The failure is told; half a copy must not be taken for a whole one.
        let _ = std::fs::remove_file(copy);
    }
    durable
}

/// Puts `entry` into the audit trail of the database at `path`, which no server may be using.
pub fn note(path: &Path, entry: &Entry) -> Result<(), StoreError> {
    let mut writer = Sqlite::open(path)?.writer()?;
    writer.commit(&[&[Write::Audit(Box::new(entry.clone()))]])?.into_iter().collect()
}

/// What became of a database that was replaced.
#[derive(Debug)]
pub struct Replaced {
    /// Where it is kept; `None` if there was none.
    pub kept: Option<PathBuf>,
    /// Why bouncers that poll will not be told which of its decisions hold no longer, if they will not.
    pub untold: Option<StoreError>,
}

/// Puts the backup `copy` in the place of the database at `path`, which no server may be using; the one that was there is
/// kept beside it, as `cordon.db.before-restore`. Whoever follows or polls will be told everything anew, and those who poll
/// also what held before and holds no longer. `entry` goes into its audit trail.
pub fn restore(path: &Path, copy: &Path, entry: &Entry) -> Result<Replaced, StoreError> {
    let _lock = lock(path)?;
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::File { path, source }
    };
    let (fresh, kept) = (sibling(path, ".restoring"), sibling(path, ".before-restore"));
    // The folder may belong to another user: what he put there must not be written through.
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(file(&fresh)(error)),
        _ => {}
    }
    let mut made = OpenOptions::new().create_new(true).write(true).mode(0o640).open(&fresh).map_err(file(&fresh))?;
    File::open(copy).and_then(|mut copy| std::io::copy(&mut copy, &mut made)).map_err(file(copy))?;
    drop(made);
    let prepared = prepare_restored(&fresh, copy, entry);
    if prepared.is_err() {
        // The failure is told; nothing else was touched.
        let _ = std::fs::remove_file(&fresh);
    }
    prepared?;
    let had_one = path.exists();
    let mut untold = None;
    if had_one {
        // A former database that cannot be read may be why a backup is needed.
        untold = tell_what_is_gone(&fresh, path, entry.at).err();
        // What is still in its write-ahead log goes into the file.
        let former = connect(path)?;
        former.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        drop(former);
        std::fs::rename(path, &kept).map_err(file(path))?;
    }
    for rest in ["-wal", "-shm"] {
        match std::fs::remove_file(sibling(path, rest)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(file(path)(error)),
            _ => {}
        }
    }
    std::fs::rename(&fresh, path).map_err(file(path))?;
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        folder.sync_all().map_err(file(path))?;
    }
    Ok(Replaced { kept: had_one.then_some(kept), untold })
}

/// Notes in the database `fresh` which decisions hold in `former` and not in it.
fn tell_what_is_gone(fresh: &Path, former: &Path, now: Timestamp) -> Result<(), StoreError> {
    known_schema(&connect(former)?, former)?;
    let connection = connect(fresh)?;
    connection.execute("ATTACH ?1 AS former", [former.to_string_lossy()])?;
    let sql = format!(
        "INSERT INTO main.gone ({GONE}) SELECT id, uuid, origin, type, scope, value, scenario, created_at, ?1, simulated \
         FROM former.decisions WHERE until > ?1 AND (type, scope, value) NOT IN \
         (SELECT type, scope, value FROM main.decisions WHERE until > ?1)"
    );
    connection.execute(&sql, [to_micros(now)])?;
    Ok(())
}

/// Checks a copied backup and makes it ready to be served.
fn prepare_restored(fresh: &Path, named: &Path, entry: &Entry) -> Result<(), StoreError> {
    std::fs::set_permissions(fresh, std::fs::Permissions::from_mode(0o640))
        .map_err(|source| StoreError::File { path: fresh.into(), source })?;
    let mut connection = connect(fresh)?;
    known_schema(&connection, named)?;
    let whole: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if whole != "ok" {
        return Err(StoreError::Garbled(whole));
    }
    migrate(&mut connection, fresh, MIGRATIONS)?;
    let step = connection.transaction()?;
    step.execute("DELETE FROM meta WHERE key = 'epochs'", [])?;
    // Those who poll begin anew: what they were told since the backup was made is not known here.
    step.execute("UPDATE bouncers SET body = json_remove(body, '$.last_pull')", [])?;
    trail::append(&step, entry)?;
    step.commit()?;
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    drop(connection);
    File::open(fresh).and_then(|file| file.sync_all()).map_err(|source| StoreError::File { path: fresh.into(), source })
}

/// Refuses what is not ours or newer than we are.
fn known_schema(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let foreign = |_| StoreError::Foreign { path: path.into() };
    let (owner, found) = (number("application_id").map_err(foreign)?, number("user_version").map_err(foreign)?);
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    match () {
        () if owner != APPLICATION_ID => Err(StoreError::Foreign { path: path.into() }),
        () if found > known => Err(StoreError::Newer { path: path.into(), found, known }),
        () => Ok(()),
    }
}

impl Store for Sqlite {
    fn restore(&self, now: Timestamp, decisions: &mut dyn FnMut(Remembered)) -> Result<Restored, StoreError> {
        let mut restored = self.read(|connection| {
            let number = |key: &str| meta(connection, key).map(|text| text.and_then(|t| t.parse().ok()).unwrap_or(0));
            let highest = |table: &str| {
                connection
                    .query_row("SELECT seq FROM sqlite_sequence WHERE name = ?1", [table], |row| row.get(0))
                    .optional()
                    .map(Option::unwrap_or_default)
            };
            Ok(Restored {
                epochs: Epochs::default(),
                last_change: number("last_change")?,
                floor: number("floor")?,
                last_alert: highest("alerts")?,
                last_decision: highest("decisions")?,
                machines: bodies(connection, "SELECT body FROM machines ORDER BY name", [])?,
                bouncers: bodies(connection, "SELECT body FROM bouncers ORDER BY name", [])?,
                allowlists: Vec::new(),
                seen: connection
                    .prepare("SELECT key, alert_id, at FROM seen ORDER BY at")?
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?, from_micros(row.get(2)?))))?
                    .collect::<rusqlite::Result<_>>()?,
                strikes: strikes(connection)?,
            })
        })?;
        restored.floor = restored.floor.max(restored.last_change.saturating_sub(LOG_LEN as u64));
        self.read(|connection| {
            let lists: Vec<super::Allowlist> = bodies(connection, "SELECT body FROM allowlists ORDER BY name", [])?;
            for list in lists {
                let sql = "SELECT body FROM allowlist_items WHERE list = ?1 ORDER BY value";
                let items = bodies(connection, sql, [&list.name])?;
                restored.allowlists.push((list, items));
            }
            // Two questions, each with its own index: together they would cost a walk through all that ever was.
            for (lifted, condition, from) in [
                (false, "until > ?1 AND lifted = 0", to_micros(now)),
                (true, "lifted = 1 AND change > ?1", restored.floor.cast_signed()),
            ] {
                let mut statement =
                    connection.prepare(&format!("SELECT {DECISION}, change FROM decisions WHERE {condition}"))?;
                let mut rows = statement.query([from])?;
                while let Some(row) = rows.next()? {
                    let change: i64 = row.get(11)?;
                    decisions(Remembered { decision: read_decision(row)?, change: change.cast_unsigned(), lifted });
                }
            }
            Ok(())
        })?;
        restored.epochs = self.begin_epoch(restored.last_change)?;
        Ok(restored)
    }

    fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        let (connection, archives) = (connect(&self.path)?, archives(&self.path));
        Ok(Box::new(SqliteWriter { connection, archives, _lock: Arc::clone(&self.lock) }))
    }

    fn alerts(&self, query: &AlertQuery, now: Timestamp) -> Result<Vec<Alert>, StoreError> {
        self.read(|connection| {
            let (conditions, values) = alert_conditions(query, now);
            let sql = format!("SELECT id, uuid, machine, created_at, body FROM alerts a {conditions}");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params_from_iter(values))?;
            let mut alerts = Vec::new();
            while let Some(row) = rows.next()? {
                let body: String = row.get(4)?;
                let mut alert: Alert = serde_json::from_str(&body).map_err(garbled)?;
                alert.id = row.get(0)?;
                alert.uuid = row.get(1)?;
                alert.machine_id = row.get::<_, Option<String>>(2)?.unwrap_or_else(|| "N/A".into());
                alert.created_at = wire::seconds(from_micros(row.get(3)?));
                alert.decisions = None;
                alerts.push(alert);
            }
            if !query.without_decisions {
                let sql = format!("SELECT {DECISION} FROM decisions WHERE alert_id = ?1 ORDER BY id");
                let mut statement = connection.prepare_cached(&sql)?;
                for alert in &mut alerts {
                    let bodies = statement
                        .query_map([alert.id], |row| Ok(body_of(&read_decision(row)?, now)))?
                        .collect::<rusqlite::Result<Vec<_>>>()?;
                    alert.decisions = (!bodies.is_empty()).then_some(bodies);
                }
            }
            Ok(alerts)
        })
    }

    fn alert_ids(&self, query: &AlertQuery, now: Timestamp) -> Result<Vec<i64>, StoreError> {
        self.read(|connection| {
            let (conditions, values) = alert_conditions(query, now);
            let mut statement = connection.prepare_cached(&format!("SELECT id FROM alerts a {conditions}"))?;
            statement.query_map(params_from_iter(values), |row| row.get(0))?.collect()
        })
    }

    fn alert_counts(&self, kinds: usize) -> Result<Vec<(String, i64)>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT scenario, count(*) FROM alerts GROUP BY scenario ORDER BY count(*) DESC LIMIT ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let kinds = i64::try_from(kinds).unwrap_or(i64::MAX);
            statement.query_map([kinds], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }

    fn ended(&self, after: Option<Timestamp>, before: Timestamp) -> Result<Vec<Decision>, StoreError> {
        self.read(|connection| {
            let range = [after.map_or(i64::MIN, to_micros), to_micros(before)];
            let mut ended = Vec::new();
            for from in ["decisions", "(SELECT 0 AS alert_id, * FROM gone)"] {
                let sql = format!("SELECT {DECISION} FROM {from} WHERE until >= ?1 AND until < ?2");
                let mut statement = connection.prepare_cached(&sql)?;
                for decision in statement.query_map(range, read_decision)? {
                    ended.push(decision?);
                }
            }
            ended.sort_by_key(|decision| decision.id);
            Ok(ended)
        })
    }

    fn decision(&self, id: i64) -> Result<Option<Decision>, StoreError> {
        self.read(|connection| {
            let sql = format!("SELECT {DECISION} FROM decisions WHERE id = ?1");
            connection.prepare_cached(&sql)?.query_row([id], read_decision).optional()
        })
    }

    fn mentions(&self, value: &str) -> Result<Mentions, StoreError> {
        // As it stands in a JSON document, without the quotes around it.
        let escaped = serde_json::Value::from(value).to_string();
        let escaped = escaped.get(1..escaped.len().saturating_sub(1)).unwrap_or(value);
        let has =
            |sign: &str| format!("EXISTS (SELECT 1 FROM decisions d WHERE d.alert_id = a.id AND d.value {sign} ?1)");
        let sql = format!(
            "SELECT id, value, body, {about}, {others} FROM alerts a WHERE value = ?1 OR {about} OR instr(body, ?2) > 0",
            about = has("="),
            others = has("<>"),
        );
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query([value, escaped])?;
            let mut found = Mentions::default();
            while let Some(row) = rows.next()? {
                let about = row.get_ref(1)?.as_str()? == value || row.get(3)?;
                if about && !row.get::<_, bool>(4)? {
                    found.own.push(row.get(0)?);
                } else if about
                    || privacy::redact(&mut serde_json::from_str(row.get_ref(2)?.as_str()?).map_err(garbled)?, value)
                {
                    found.others.push(row.get(0)?);
                }
            }
            Ok(found)
        })
    }

    fn audit(&self, query: &AuditQuery) -> Result<Vec<Record>, StoreError> {
        self.read(|connection| trail::list(connection, &archives(&self.path), query))
    }

    fn verify_audit(&self, moved: bool) -> Result<Result<Verified, Break>, StoreError> {
        self.read(|connection| trail::verify(connection, &archives(&self.path), moved))
    }

    fn count_covering(&self, net: IpNet, since: Option<Timestamp>) -> Result<i64, StoreError> {
        // A prefix covers another exactly if it starts where the other does after cutting it to its own length:
        // asking for the few possible starts uses the index, comparing ranges would read half of it.
        let starts = (0..=net.prefix_len()).filter_map(|len| IpNet::new(net.addr(), len).ok());
        let mut starts: Vec<[u8; 17]> = starts.map(|net| bounds(net.trunc()).0).collect();
        starts.dedup();
        self.read(|connection| {
            let marks = vec!["?"; starts.len()].join(",");
            let sql = format!(
                "SELECT count(*) FROM decisions WHERE created_at >= ? AND net_end >= ? AND net_start IN ({marks})"
            );
            let mut values =
                vec![Value::Integer(since.map_or(i64::MIN, to_micros)), Value::Blob(bounds(net).1.to_vec())];
            values.extend(starts.iter().map(|start| Value::Blob(start.to_vec())));
            connection.prepare_cached(&sql)?.query_row(params_from_iter(values), |row| row.get(0))
        })
    }
}

impl Sqlite {
    fn begin_epoch(&self, last_change: u64) -> Result<Epochs, StoreError> {
        self.read(|connection| {
            let known: Vec<(u64, u64)> = match meta(connection, "epochs")? {
                Some(text) => serde_json::from_str(&text).map_err(garbled)?,
                None => Vec::new(),
            };
            let mut epochs = Epochs::new(known);
            epochs.begin(rand::random(), last_change);
            let text = serde_json::to_string(epochs.began()).map_err(garbled)?;
            set_meta(connection, "epochs", &text)?;
            Ok(epochs)
        })
    }
}

struct SqliteWriter {
    connection: Connection,
    /// Where old records of the audit trail go.
    archives: PathBuf,
    _lock: Arc<File>,
}

impl Writer for SqliteWriter {
    fn commit(&mut self, jobs: &[&[Write]]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let mut transaction = self.connection.transaction()?;
        let mut results = Vec::with_capacity(jobs.len());
        let mut last_change = 0;
        for job in jobs {
            let savepoint = transaction.savepoint()?;
            let result = job.iter().try_for_each(|write| apply(&savepoint, &self.archives, write, &mut last_change));
            match result {
                Ok(()) => savepoint.commit()?,
                Err(error) if concerns_the_job(&error) => {
                    drop(savepoint);
                    results.push(Err(error.into()));
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            results.push(Ok(()));
        }
        if last_change > 0 {
            raise_meta(&transaction, "last_change", last_change)?;
        }
        transaction.commit()?;
        Ok(results)
    }
}

/// Whether an error lies in what was to be written, not in the place where.
fn concerns_the_job(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => matches!(
            code,
            rusqlite::ErrorCode::ConstraintViolation | rusqlite::ErrorCode::TypeMismatch | rusqlite::ErrorCode::TooBig
        ),
        None => true,
    }
}

fn apply(connection: &Connection, archives: &Path, write: &Write, last_change: &mut u64) -> rusqlite::Result<()> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        connection.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).map(|_| ())
    };
    match write {
        Write::Alert(new) => put_alert(connection, new, last_change),
        Write::Lift { lifted, until } => {
            let until = to_micros(*until);
            for lift in lifted {
                *last_change = (*last_change).max(lift.change);
                run(
                    "UPDATE decisions SET until = ?2, lifted = 1, change = max(change, ?3) WHERE id = ?1",
                    &[&lift.id, &until, &lift.change.cast_signed()],
                )?;
            }
            Ok(())
        }
        Write::EraseAlerts { ids, change, at } => {
            for id in ids {
                keep_gone(connection, "alert_id = ?1", &[id, &to_micros(*at)])?;
                run("DELETE FROM alerts WHERE id = ?1", &[id])?;
            }
            *last_change = (*last_change).max(*change);
            raise_meta(connection, "floor", *change)
        }
        Write::PutMachine(machine) => {
            run("INSERT OR REPLACE INTO machines (name, body) VALUES (?1, ?2)", &[&machine.name, &json(machine)?])
        }
        Write::DeleteMachine(name) => {
            run("UPDATE alerts SET machine = NULL WHERE machine = ?1", &[name])?;
            run("DELETE FROM machines WHERE name = ?1", &[name])
        }
        Write::PutBouncer(bouncer) => {
            run("INSERT OR REPLACE INTO bouncers (name, body) VALUES (?1, ?2)", &[&bouncer.name, &json(bouncer)?])
        }
        Write::DeleteBouncer(name) => run("DELETE FROM bouncers WHERE name = ?1", &[name]),
        // Not `OR REPLACE`: that would delete the row first, and its items with it.
        Write::PutAllowlist(list) => run(
            "INSERT INTO allowlists (name, body) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET body = ?2",
            &[&list.name, &json(list)?],
        ),
        Write::DeleteAllowlist(name) => run("DELETE FROM allowlists WHERE name = ?1", &[name]),
        Write::PutAllowItem(list, item) => run(
            "INSERT OR REPLACE INTO allowlist_items (list, value, body) VALUES (?1, ?2, ?3)",
            &[list, &item.value, &json(item)?],
        ),
        Write::DeleteAllowItem(list, value) => {
            run("DELETE FROM allowlist_items WHERE list = ?1 AND value = ?2", &[list, value])
        }
        Write::Metrics { kind, sender, at, body } => run(
            "INSERT INTO usage_metrics (kind, sender, at, body) VALUES (?1, ?2, ?3, ?4)",
            &[kind, sender, &to_micros(*at), body],
        ),
        Write::PutStrikes(net, strikes) => run(
            "INSERT OR REPLACE INTO strikes (net, count, until) VALUES (?1, ?2, ?3)",
            &[&net.to_string(), &strikes.count, &to_micros(strikes.until)],
        ),
        Write::DeleteStrikes(net) => run("DELETE FROM strikes WHERE net = ?1", &[&net.to_string()]),
        Write::Retain(retention) => {
            retain(connection, retention)?;
            trail::retain(connection, archives, retention)
        }
        Write::Audit(entry) => trail::append(connection, entry),
        Write::Forget(forget) => {
            *last_change = (*last_change).max(forget.change);
            self::forget(connection, archives, forget)
        }
    }
}

fn forget(connection: &Connection, archives: &Path, forget: &Forget) -> rusqlite::Result<()> {
    let value = forget.value.as_str();
    let at = to_micros(forget.entry.at);
    for id in &forget.found.own {
        keep_gone(connection, "alert_id = ?1", &[id, &at])?;
        connection.prepare_cached("DELETE FROM alerts WHERE id = ?1")?.execute([id])?;
    }
    for id in &forget.found.others {
        let sql = "SELECT body FROM alerts WHERE id = ?1";
        let body: Option<String> = connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
        let Some(body) = body else { continue };
        let mut body: serde_json::Value = serde_json::from_str(&body).map_err(garbled)?;
        privacy::redact(&mut body, value);
        connection.prepare_cached("UPDATE alerts SET body = ?2 WHERE id = ?1")?.execute(params![id, json(&body)?])?;
        connection.prepare_cached("UPDATE alerts SET value = ?3 WHERE id = ?1 AND value = ?2")?.execute(params![
            id,
            value,
            privacy::FORGOTTEN
        ])?;
        keep_gone(connection, "alert_id = ?1 AND value = ?3", &[id, &at, &value])?;
        connection
            .prepare_cached("DELETE FROM decisions WHERE alert_id = ?1 AND value = ?2")?
            .execute(params![id, value])?;
    }
    raise_meta(connection, "floor", forget.change)?;
    trail::forget(connection, archives, forget)
}

fn strikes(connection: &Connection) -> rusqlite::Result<Vec<(IpNet, Strikes)>> {
    let mut statement = connection.prepare("SELECT net, count, until FROM strikes")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let net = row.get_ref(0)?.as_str()?.parse();
        let net = net.map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
        })?;
        found.push((net, Strikes { count: row.get(1)?, until: from_micros(row.get(2)?) }));
    }
    Ok(found)
}

fn put_alert(connection: &Connection, new: &NewAlert, last_change: &mut u64) -> rusqlite::Result<()> {
    let alert = &new.alert;
    let mut body = alert.clone();
    body.decisions = None;
    let created = to_micros(new.created_at);
    connection
        .prepare_cached(
            "INSERT INTO alerts (id, uuid, machine, created_at, started_at, scenario, kind, scope, value, simulated, body) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            alert.id,
            alert.uuid,
            (!alert.machine_id.is_empty()).then_some(&alert.machine_id),
            created,
            to_micros(new.started_at),
            alert.scenario,
            alert.kind,
            alert.source.scope,
            alert.source.value,
            alert.simulated,
            json(&body)?,
        ])?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO decisions (id, alert_id, uuid, origin, type, scope, value, scenario, created_at, until, simulated, \
         change, net_start, net_end) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?;
    for (decision, change) in &new.decisions {
        *last_change = (*last_change).max(*change);
        let net = net_of(&decision.scope, &decision.value).map(bounds);
        insert.execute(params![
            decision.id,
            alert.id,
            decision.uuid,
            decision.origin.as_str(),
            decision.remediation.as_str(),
            decision.scope.as_str(),
            decision.value.as_str(),
            decision.scenario.as_str(),
            to_micros(decision.created_at),
            to_micros(decision.until),
            decision.simulated,
            change.cast_signed(),
            net.map(|(start, _)| start.to_vec()),
            net.map(|(_, end)| end.to_vec()),
        ])?;
    }
    if let Some(key) = new.seen {
        connection
            .prepare_cached("INSERT OR REPLACE INTO seen (key, alert_id, at) VALUES (?1, ?2, ?3)")?
            .execute(params![key, alert.id, created])?;
    }
    Ok(())
}

/// Remembers those decisions that hold and are about to be erased, so that who polls is told of their end. The second value
/// is the present.
fn keep_gone(connection: &Connection, which: &str, values: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<()> {
    let sql = format!(
        "INSERT INTO gone ({GONE}) SELECT id, uuid, origin, type, scope, value, scenario, created_at, ?2, simulated \
         FROM decisions WHERE {which} AND until > ?2"
    );
    connection.prepare_cached(&sql)?.execute(values).map(|_| ())
}

/// How many pages one retention run gives back at most: 2 MiB.
const COMPACT_STEP: u32 = 512;

/// How many alerts one retention run erases at most, so that nobody waits long for the writer.
const RETAIN_STEP: usize = 400;

/// How many alerts one retention run takes the evidence out of at most.
const STRIP_STEP: usize = 100;

fn retain(connection: &Connection, retention: &Retention) -> rusqlite::Result<()> {
    if let Some(before) = retention.metrics_before {
        connection.execute("DELETE FROM usage_metrics WHERE at < ?1", [to_micros(before)])?;
    }
    if let Some(before) = retention.seen_before {
        connection.execute("DELETE FROM seen WHERE at < ?1", [to_micros(before)])?;
    }
    if let Ok(before) = retention.now.checked_sub(GONE_FOR) {
        connection.execute("DELETE FROM gone WHERE until < ?1", [to_micros(before)])?;
    }
    if let Some(before) = retention.evidence_before {
        strip(connection, before)?;
    }
    if let Some(until) = retention.strikes_until {
        connection.execute("DELETE FROM strikes WHERE until <= ?1", [to_micros(until)])?;
    }
    let newest: i64 = connection.query_row("SELECT coalesce(max(id), 0) FROM alerts", [], |row| row.get(0))?;
    let below = retention.max_alerts.map_or(i64::MIN, |max| newest.saturating_sub_unsigned(max));
    let before = retention.alerts_before.map_or(i64::MIN, to_micros);
    let mut doomed: Vec<i64> = connection
        .prepare_cached(&format!(
            "SELECT id FROM alerts a WHERE (id <= ?1 OR created_at < ?2) \
             AND NOT EXISTS (SELECT 1 FROM decisions d WHERE d.alert_id = a.id AND d.until > ?3) LIMIT {RETAIN_STEP}"
        ))?
        .query_map([below, before, to_micros(retention.now)], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    if let Some(max) = retention.max_ended {
        doomed.extend(owners_of_surplus(connection, max, retention.now)?);
    }
    compact(connection)?;
    for id in doomed {
        let lifted: Option<i64> = connection
            .prepare_cached("SELECT max(change) FROM decisions WHERE alert_id = ?1 AND lifted = 1")?
            .query_row([id], |row| row.get(0))?;
        if let Some(change) = lifted {
            raise_meta(connection, "floor", change.cast_unsigned())?;
        }
        connection.prepare_cached("DELETE FROM alerts WHERE id = ?1")?.execute([id])?;
    }
    Ok(())
}

/// Takes the evidence out of alerts made before `before`, some at a time. Alerts are numbered in the order in which they come:
/// the last that was looked at says where to go on.
fn strip(connection: &Connection, before: Timestamp) -> rusqlite::Result<()> {
    let reached: i64 = meta(connection, "stripped")?.and_then(|text| text.parse().ok()).unwrap_or(0);
    let first: Option<i64> = connection
        .prepare_cached("SELECT created_at FROM alerts WHERE id > ?1 ORDER BY id LIMIT 1")?
        .query_row([reached], |row| row.get(0))
        .optional()?;
    // Mostly nothing is due, and then no body need be read.
    if first.is_none_or(|created| created >= to_micros(before)) {
        return Ok(());
    }
    let next: Vec<(i64, i64, String)> = connection
        .prepare_cached(&format!(
            "SELECT id, created_at, body FROM alerts WHERE id > ?1 ORDER BY id LIMIT {STRIP_STEP}"
        ))?
        .query_map([reached], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut last = reached;
    for (id, _, body) in next.iter().take_while(|(_, created, _)| *created < to_micros(before)) {
        let mut alert: Alert = serde_json::from_str(body).map_err(garbled)?;
        privacy::strip(&mut alert);
        connection.prepare_cached("UPDATE alerts SET body = ?2 WHERE id = ?1")?.execute(params![id, json(&alert)?])?;
        last = *id;
    }
    if last > reached { set_meta(connection, "stripped", &last.to_string()) } else { Ok(()) }
}

/// The oldest alerts without a decision that holds at `now`, as many as own the decisions that are over beyond `max`.
fn owners_of_surplus(connection: &Connection, max: u64, now: Timestamp) -> rusqlite::Result<Vec<i64>> {
    let now = to_micros(now);
    let ended: i64 = connection
        .prepare_cached("SELECT count(*) FROM decisions WHERE until <= ?1")?
        .query_row([now], |row| row.get(0))?;
    let mut surplus = ended.saturating_sub_unsigned(max);
    if surplus <= 0 {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare_cached(&format!(
        "SELECT alert_id, count(*) FROM decisions GROUP BY alert_id HAVING max(until) <= ?1 ORDER BY alert_id LIMIT {RETAIN_STEP}"
    ))?;
    let mut rows = statement.query([now])?;
    let mut owners = Vec::new();
    while surplus > 0
        && let Some(row) = rows.next()?
    {
        owners.push(row.get(0)?);
        surplus -= row.get::<_, i64>(1)?;
    }
    Ok(owners)
}

/// Gives pages that nothing uses any more back to the file system, some at a time, once they are a quarter of the file.
fn compact(connection: &Connection) -> rusqlite::Result<()> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if number("freelist_count")? * 4 > number("page_count")? {
        let mut statement = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({COMPACT_STEP})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}

/// `WHERE ... ORDER BY ... LIMIT` for a query on alerts `a`, with its values.
fn alert_conditions(query: &AlertQuery, now: Timestamp) -> (String, Vec<Value>) {
    let mut conditions: Vec<String> = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    let text = |text: &String| Value::Text(text.clone());
    let time = |at: Timestamp| Value::Integer(to_micros(at));
    let has = |condition: &str| format!("EXISTS (SELECT 1 FROM decisions d WHERE d.alert_id = a.id AND {condition})");
    let mut must = |condition: String, with: Vec<Value>| {
        conditions.push(condition);
        values.extend(with);
    };
    if let Some(id) = query.id {
        must("a.id = ?".into(), vec![Value::Integer(id)]);
    }
    if let Some(scope) = &query.scope {
        must("a.scope = ?".into(), vec![text(scope)]);
    }
    if let Some(value) = &query.value {
        must("a.value = ?".into(), vec![text(value)]);
    }
    if let Some(scenario) = &query.scenario {
        let condition = format!("(a.scenario = ? OR {})", has("d.scenario = ?"));
        must(condition, vec![text(scenario), text(scenario)]);
    }
    if let Some((net, reach)) = query.net {
        let (start, end) = bounds(net);
        let (start, end) = (Value::Blob(start.to_vec()), Value::Blob(end.to_vec()));
        match reach {
            Reach::Covers => must(has("d.net_start <= ? AND d.net_end >= ?"), vec![start, end]),
            Reach::Inside => must(has("d.net_start >= ? AND d.net_end <= ?"), vec![start, end]),
            Reach::Touches => must(has("d.net_end >= ? AND d.net_start <= ?"), vec![start, end]),
        }
    }
    if let Some(since) = query.since {
        must("a.started_at >= ?".into(), vec![time(since)]);
    }
    if let Some(until) = query.until {
        must("a.started_at <= ?".into(), vec![time(until)]);
    }
    if let Some(before) = query.created_before {
        must("a.created_at <= ?".into(), vec![time(before)]);
    }
    if query.hide_simulated {
        must("a.simulated = 0".into(), Vec::new());
    }
    match query.active {
        Some(true) => must(has("d.until > ?"), vec![time(now)]),
        Some(false) => must(format!("NOT {}", has("true")), Vec::new()),
        None => {}
    }
    if let Some(remediation) = &query.remediation {
        must(has("d.type = ?"), vec![text(remediation)]);
    }
    if let Some(origin) = &query.origin {
        must(has("d.origin = ?"), vec![text(origin)]);
    }
    if query.hide_lists {
        must(format!("NOT {}", has("d.origin IN ('CAPI', 'lists')")), Vec::new());
        let listed = "a.scope LIKE 'lists:%' OR a.scope = 'crowdsecurity/community-blocklist'";
        must(format!("({} OR NOT ({listed}))", has("true")), Vec::new());
    }
    if let Some(kind) = &query.kind {
        must("a.kind = ?".into(), vec![text(kind)]);
    }
    let filter = if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
    let direction = match query.order {
        Order::NewestFirst => "DESC",
        Order::OldestFirst => "ASC",
    };
    // A negative limit is none.
    let limit = query.limit.and_then(|limit| i64::try_from(limit).ok()).unwrap_or(-1);
    (format!("{filter} ORDER BY a.created_at {direction}, a.id {direction} LIMIT {limit}"), values)
}

fn read_decision(row: &Row<'_>) -> rusqlite::Result<Decision> {
    let text =
        |index: usize| -> rusqlite::Result<compact_str::CompactString> { Ok(row.get_ref(index)?.as_str()?.into()) };
    Ok(Decision {
        id: row.get(0)?,
        alert_id: row.get(1)?,
        uuid: row.get(2)?,
        origin: text(3)?,
        remediation: text(4)?,
        scope: Scope::new(row.get_ref(5)?.as_str()?),
        value: text(6)?,
        scenario: text(7)?,
        created_at: from_micros(row.get(8)?),
        until: from_micros(row.get(9)?),
        simulated: row.get(10)?,
    })
}

/// A decision as it travels with its alert.
fn body_of(decision: &Decision, now: Timestamp) -> DecisionBody {
    DecisionBody {
        id: decision.id,
        uuid: String::new(),
        origin: decision.origin.to_string(),
        remediation: decision.remediation.to_string(),
        scope: decision.scope.to_string(),
        value: decision.value.to_string(),
        duration: model::duration::time_left(decision.until, now),
        scenario: decision.scenario.to_string(),
        simulated: Some(decision.simulated),
        until: String::new(),
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", MAX_LOG)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// One server per database: two would each believe in their own memory.
fn lock(path: &Path) -> Result<File, StoreError> {
    let path = sibling(path, ".lock");
    let file = |source| StoreError::File { path: path.clone(), source };
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(file)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path }),
        Err(TryLockError::Error(error)) => Err(file(error)),
    }
}

fn migrate(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), StoreError> {
    let number =
        |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0)).map_err(StoreError::from);
    let (found, owner) = (number("user_version")?, number("application_id")?);
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if owner != APPLICATION_ID && (tables > 0 || found > 0) {
        return Err(StoreError::Foreign { path: path.into() });
    }
    if found > known {
        return Err(StoreError::Newer { path: path.into(), found, known });
    }
    if found > 0 && found < known {
        keep_copy(connection, path, found)?;
    }
    for (version, sql) in (1..).zip(migrations).skip(found as usize) {
        let step = connection.transaction()?;
        step.execute_batch(sql)?;
        finish_step(&step, version)?;
        step.commit()?;
    }
    Ok(())
}

/// Lets the file give back pages. One that was made before it could is written anew, once.
fn can_shrink(connection: &Connection) -> rusqlite::Result<()> {
    const INCREMENTAL: i64 = 2;
    if connection.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i64>(0))? == INCREMENTAL {
        return Ok(());
    }
    // The mode of the journal must be the old one while the layout changes.
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    connection.pragma_update(None, "auto_vacuum", INCREMENTAL)?;
    connection.execute_batch("VACUUM")
}

fn finish_step(step: &Transaction<'_>, version: u32) -> rusqlite::Result<()> {
    step.pragma_update(None, "user_version", version)?;
    step.pragma_update(None, "application_id", APPLICATION_ID)
}

/// Keeps the database as it is before a migration, beside it: `cordon.db.schema-3`.
fn keep_copy(connection: &Connection, path: &Path, version: u32) -> Result<(), StoreError> {
    let copy = sibling(path, &format!(".schema-{version}"));
    let file = |source| StoreError::File { path: copy.clone(), source };
    match std::fs::remove_file(&copy) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(file(error)),
        _ => {}
    }
    connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
    let permissions = std::fs::metadata(path).map_err(file)?.permissions();
    std::fs::set_permissions(&copy, permissions).map_err(file)
}

/// The folder beside the database into which old records of the audit trail go.
pub fn archives(path: &Path) -> PathBuf {
    path.with_file_name("audit")
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

pub(super) fn set_meta(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
    connection.prepare_cached(sql)?.execute([key, value]).map(|_| ())
}

fn raise_meta(connection: &Connection, key: &str, number: u64) -> rusqlite::Result<()> {
    let before = meta(connection, key)?.and_then(|text| text.parse().ok()).unwrap_or(0);
    if number > before { set_meta(connection, key, &number.to_string()) } else { Ok(()) }
}

fn bodies<T: serde::de::DeserializeOwned>(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(serde_json::from_str(row.get_ref(0)?.as_str()?).map_err(garbled)?);
    }
    Ok(found)
}

pub(super) fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

pub(super) fn garbled(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::FromSqlConversionFailure(..) => Self::Garbled(error.to_string()),
            _ => Self::Database(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn tables(path: &Path) -> i64 {
        let connection = Connection::open(path).expect("it opens");
        let sql = "SELECT count(*) FROM sqlite_schema WHERE name IN ('one', 'two')";
        connection.query_row(sql, [], |row| row.get(0)).expect("it answers")
    }

    #[test]
    fn a_schema_is_brought_up_to_date_and_the_old_file_kept() {
        let folder = folder();
        let path = folder.path().join("cordon.db");
        let steps =
            ["CREATE TABLE one (a) STRICT;".replace("(a)", "(a TEXT)"), "CREATE TABLE two (a TEXT) STRICT;".into()];
        let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
        drop(Sqlite::open_with(&path, &steps[..1]).expect("it is made"));
        assert_eq!(tables(&path), 1);
        drop(Sqlite::open_with(&path, &steps).expect("it is migrated"));
        assert_eq!((tables(&path), tables(&sibling(&path, ".schema-1"))), (2, 1));
        let before = std::fs::read(&path).expect("it can be read");
        let error = Sqlite::open_with(&path, &steps[..1]).expect_err("it is newer");
        assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
        assert!(before == std::fs::read(&path).expect("it can be read"), "it was not touched");
    }

    #[test]
    fn a_step_that_fails_leaves_the_schema_as_it_was() {
        let folder = folder();
        let path = folder.path().join("cordon.db");
        let broken =
            ["CREATE TABLE one (a TEXT) STRICT;", "CREATE TABLE two (a TEXT) STRICT; CREATE TABLE one (b TEXT);"];
        assert!(Sqlite::open_with(&path, &broken).is_err());
        assert_eq!(tables(&path), 1);
        drop(Sqlite::open_with(&path, &broken[..1]).expect("the first step holds"));
    }

    #[test]
    fn files_of_others_are_refused() {
        let folder = folder();
        let path = folder.path().join("other.db");
        Connection::open(&path).and_then(|other| other.execute_batch("CREATE TABLE bouncers (a)")).expect("a database");
        assert!(matches!(Sqlite::open(&path), Err(StoreError::Foreign { .. })));
        let path = folder.path().join("text.db");
        std::fs::write(&path, "not a database, but long enough to be looked at as one").expect("a file");
        assert!(Sqlite::open(&path).is_err());
        let path = folder.path().join("cordon.db");
        let first = Sqlite::open(&path).expect("it is made");
        assert!(matches!(Sqlite::open(&path), Err(StoreError::InUse { .. })));
        drop(first);
        Sqlite::open(&path).expect("it is free again");
    }

    fn new_alert(id: i64, value: &str, created: i64, until: i64) -> Write {
        let decision = Decision {
            id,
            uuid: String::new(),
            origin: "crowdsec".into(),
            remediation: "ban".into(),
            scope: Scope::Ip,
            value: value.into(),
            scenario: "acme/ssh".into(),
            created_at: from_micros(created),
            until: from_micros(until),
            simulated: false,
            alert_id: id,
        };
        let alert = Alert { id, ..Alert::default() };
        let (created_at, started_at) = (from_micros(created), from_micros(created));
        let decisions = vec![(decision, id.cast_unsigned())];
        Write::Alert(Box::new(NewAlert { alert, created_at, started_at, decisions, seen: None, supplied: false }))
    }

    #[test]
    fn the_file_shrinks_when_much_is_erased() {
        let folder = folder();
        let path = folder.path().join("cordon.db");
        // One made before files could shrink is made able to.
        let old = Connection::open(&path).expect("a database");
        old.pragma_update(None, "journal_mode", "WAL").expect("it is its own");
        old.execute_batch(MIGRATIONS[0]).expect("the first schema");
        old.pragma_update(None, "user_version", 1).expect("it is its own");
        old.pragma_update(None, "application_id", APPLICATION_ID).expect("it is its own");
        drop(old);
        let store = Sqlite::open(&path).expect("it is brought up to date");
        let mut writer = store.writer().expect("a writer");
        let pages = || {
            let pages = |connection: &Connection| connection.pragma_query_value(None, "page_count", |row| row.get(0));
            store.read(pages).expect("it answers")
        };
        let empty: i64 = pages();
        let large = |id| {
            let Write::Alert(mut new) = new_alert(id, "192.0.2.1", id, 20) else { panic!("it is an alert") };
            new.alert.message = "x".repeat(20_000);
            Write::Alert(new)
        };
        let alerts: Vec<Write> = (1..=200).map(large).collect();
        writer.commit(&[&alerts]).expect("the store works");
        let full = pages();
        let retention = Retention { max_alerts: Some(0), now: from_micros(100), ..Retention::default() };
        let retain = [Write::Retain(retention)];
        for _ in 0..5 {
            writer.commit(&[&retain]).expect("the store works");
        }
        assert!(full > empty + 900 && pages() < empty + 50, "{empty} pages, then {full}, then {}", pages());
    }

    #[test]
    fn one_bad_job_does_not_harm_its_neighbours() {
        let folder = folder();
        let store = Sqlite::open(&folder.path().join("cordon.db")).expect("it is made");
        let mut writer = store.writer().expect("a writer");
        let good = [new_alert(1, "192.0.2.1", 10, 99)];
        let twice = [new_alert(2, "192.0.2.2", 10, 99), new_alert(1, "192.0.2.1", 10, 99)];
        let after = [new_alert(3, "192.0.2.3", 10, 99)];
        let results = writer.commit(&[&good, &twice, &after]).expect("the store works");
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        let ids = store.alert_ids(&AlertQuery::default(), from_micros(20)).expect("it answers");
        assert_eq!(ids, [3, 1]);
    }

    #[test]
    fn past_decisions_are_counted_by_what_they_cover() {
        let folder = folder();
        let store = Sqlite::open(&folder.path().join("cordon.db")).expect("it is made");
        let mut writer = store.writer().expect("a writer");
        let values = ["192.0.2.1", "192.0.2.0/24", "0.0.0.0/0", "192.0.2.2", "2001:db8::/32", "::/0"];
        let jobs: Vec<Write> = (1..).zip(values).map(|(id, value)| new_alert(id, value, id, id + 1)).collect();
        writer.commit(&[&jobs]).expect("the store works");
        // (address or prefix, made since, how many cover it)
        let cases = [
            ("192.0.2.1", None, 3),
            ("192.0.2.1", Some(2), 2),
            ("192.0.2.0/25", None, 2),
            ("198.51.100.1", None, 1),
            ("2001:db8::1", None, 2),
            ("2001:db9::1", None, 1),
        ];
        for (text, since, count) in cases {
            let net = model::scope::parse_net(text).expect("a net");
            assert_eq!(
                store.count_covering(net, since.map(from_micros)).expect("it answers"),
                count,
                "{text} {since:?}"
            );
        }
    }

    #[test]
    fn retention_spares_what_still_holds() {
        let folder = folder();
        let store = Sqlite::open(&folder.path().join("cordon.db")).expect("it is made");
        let mut writer = store.writer().expect("a writer");
        let alerts: Vec<Write> =
            (1..=5).map(|id| new_alert(id, "192.0.2.1", id, if id == 2 { 1000 } else { 20 })).collect();
        let lift = Write::Lift {
            lifted: vec![super::super::Lift { id: 1, change: 9, target: "192.0.2.1".into() }],
            until: from_micros(15),
        };
        let retain = |retention| [Write::Retain(Retention { now: from_micros(100), ..retention })];
        writer.commit(&[&alerts, &[lift]]).expect("the store works");
        let remaining = || store.alert_ids(&AlertQuery::default(), from_micros(100)).expect("it answers");
        let old = retain(Retention { alerts_before: Some(from_micros(3)), ..Retention::default() });
        writer.commit(&[&old]).expect("the store works");
        assert_eq!(remaining(), [5, 4, 3, 2]);
        let many = retain(Retention { max_alerts: Some(1), ..Retention::default() });
        writer.commit(&[&many]).expect("the store works");
        assert_eq!(remaining(), [5, 2]);
        let over = new_alert(6, "192.0.2.1", 50, 60);
        writer.commit(&[&[over]]).expect("the store works");
        for (ended, left) in [(2, [6, 5, 2].as_slice()), (1, &[6, 2]), (0, &[2])] {
            let few = retain(Retention { max_ended: Some(ended), ..Retention::default() });
            writer.commit(&[&few]).expect("the store works");
            assert_eq!(remaining(), left, "at most {ended} that are over");
        }
        let restored = store.restore(from_micros(100), &mut |_| ()).expect("it answers");
        assert_eq!((restored.floor, restored.last_change), (9, 9), "who missed the lift that is gone gets a snapshot");
        assert_eq!((restored.last_alert, restored.last_decision), (6, 6), "numbers are not given twice");
    }

    #[test]
    fn the_trail_is_append_only_and_tampering_is_found() {
        let folder = folder();
        let path = folder.path().join("cordon.db");
        let store = Sqlite::open(&path).expect("it is made");
        let mut writer = store.writer().expect("a writer");
        let author = crate::server::service::Author::default();
        let note = |n: i64| Write::Audit(Box::new(author.did("decisions.add", &n.to_string(), from_micros(n))));
        let jobs: Vec<Write> = (1..=5).map(note).collect();
        writer.commit(&[&jobs[..2], &jobs[2..]]).expect("the store works");
        let verify = || store.verify_audit(false).expect("it answers").map(|verified| verified.head.seq);
        assert_eq!(verify(), Ok(5));
        let after = AuditQuery { after: Some(3), limit: 9, ..AuditQuery::default() };
        let places =
            |query: &AuditQuery| store.audit(query).expect("it answers").iter().map(|one| one.seq).collect::<Vec<_>>();
        assert_eq!(places(&after), [4, 5]);
        assert_eq!(places(&AuditQuery { limit: 2, ..AuditQuery::default() }), [4, 5]);
        assert_eq!(places(&AuditQuery { limit: 9, action: Some("decisions".into()), ..after.clone() }), [4, 5]);
        assert!(places(&AuditQuery { action: Some("decision".into()), ..after.clone() }).is_empty());
        assert!(places(&AuditQuery { actor: Some("nobody".into()), ..after }).is_empty());
        let intruder = Connection::open(&path).expect("it opens");
        for sql in ["DELETE FROM audit WHERE seq = 3", "UPDATE audit SET actor = 'other' WHERE seq = 3"] {
            let refused = intruder.execute(sql, []).expect_err("the schema forbids it").to_string();
            assert!(refused.contains("records of the audit trail"), "{refused}");
        }
        intruder
            .execute_batch("DROP TRIGGER audit_stays; DROP TRIGGER audit_holds")
            .expect("who may write may do that");
        // (what an intruder does, the first record that does not fit)
        let cases = [
            ("UPDATE audit SET actor = 'other' WHERE seq = 3", 3),
            ("UPDATE audit SET subject = 'other' WHERE seq = 2", 2),
            ("DELETE FROM audit WHERE seq = 4", 4),
            ("DELETE FROM audit WHERE seq = 5", 5),
            ("DELETE FROM audit", 1),
            (
                "UPDATE audit SET seq = 9 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 9",
                2,
            ),
        ];
        for (sql, seq) in cases {
            intruder.execute_batch(&format!("SAVEPOINT before; {sql}; RELEASE before")).expect("it works");
            assert_eq!(verify().map_err(|broken| broken.seq), Err(seq), "{sql}");
            intruder.execute_batch("DELETE FROM audit; DELETE FROM meta WHERE key = 'audit_head'").expect("it works");
            writer.commit(&[&jobs]).expect("the store works");
            assert_eq!(verify(), Ok(5), "a trail made anew cannot be told from the old one without its head");
        }
    }

    #[test]
    fn old_records_go_into_archives_and_the_chain_goes_through_all() {
        let folder = folder();
        let path = folder.path().join("cordon.db");
        let store = Sqlite::open(&path).expect("it is made");
        let mut writer = store.writer().expect("a writer");
        let author = crate::server::service::Author::default();
        let note =
            |n: i64| Write::Audit(Box::new(author.did("decisions.add", &format!("192.0.2.{n}"), from_micros(n))));
        for n in 1..=23 {
            writer.commit(&[&[note(n)]]).expect("the store works");
            let retention = Retention { max_audit: Some(5), now: from_micros(n), ..Retention::default() };
            writer.commit(&[&[Write::Retain(retention)]]).expect("the store works");
        }
        let verify = |moved| store.verify_audit(moved).expect("it answers");
        let verified = verify(false).expect("it holds");
        assert_eq!((verified.head.seq, verified.archived, verified.elsewhere), (27, 20, 0), "four archives were noted");
        let held = |sql: &str| -> i64 {
            Connection::open(&path).and_then(|other| other.query_row(sql, [], |row| row.get(0))).expect("it answers")
        };
        assert_eq!(held("SELECT count(*) FROM audit"), 7);
        let places =
            |query: &AuditQuery| store.audit(query).expect("it answers").iter().map(|one| one.seq).collect::<Vec<_>>();
        let from = |after, limit| AuditQuery { after, limit, ..AuditQuery::default() };
        assert_eq!(places(&from(Some(3), 20)), (4..=23).collect::<Vec<_>>());
        assert_eq!(places(&from(None, 99)), (1..=27).collect::<Vec<_>>());
        assert_eq!(places(&from(None, 9)), (19..=27).collect::<Vec<_>>());
        let action = Some("audit".to_owned());
        assert_eq!(places(&AuditQuery { action, ..from(None, 2) }).len(), 2, "they are looked for in archives, too");
        let refused = Connection::open(&path).and_then(|other| other.execute("DELETE FROM audit", []));
        assert!(refused.is_err(), "what is not in an archive stays");

        let entry = author.did("forget", "", from_micros(99));
        let forget = Forget { value: "192.0.2.3".into(), found: Mentions::default(), change: 0, entry };
        writer.commit(&[&[Write::Forget(Box::new(forget))]]).expect("the store works");
        assert_eq!(verify(false).map(|verified| verified.forgotten), Ok(1));
        let all = store.audit(&from(None, 99)).expect("it answers");
        assert!(all.iter().all(|record| record.subject.as_deref() != Some("192.0.2.3")));

        let archive = archives(&path).join("000000000006-000000000010.jsonl.gz");
        let kept = std::fs::read(&archive).expect("it is there");
        assert_eq!(std::fs::metadata(&archive).expect("it is there").permissions().mode() & 0o777, 0o400);
        std::fs::remove_file(&archive).expect("it is ours");
        assert_eq!(verify(false).map_err(|broken| broken.seq), Err(6), "one is missing");
        assert_eq!(verify(true).map(|verified| verified.elsewhere), Ok(5), "it was moved");
        std::fs::write(&archive, kept.get(..40).unwrap_or_default()).expect("it can be written");
        assert_eq!(verify(true).map_err(|broken| broken.seq), Err(6), "it is damaged");
        std::fs::write(&archive, &kept).expect("it can be written");
        let other = archives(&path).join("000000000001-000000000005.jsonl.gz");
        std::fs::rename(&archive, &other).expect("it is ours");
        assert_eq!(verify(true).map_err(|broken| broken.seq), Err(1), "it is another");
    }

    #[test]
    fn evidence_goes_before_the_alert() {
        let folder = folder();
        let store = Sqlite::open(&folder.path().join("cordon.db")).expect("it is made");
        let mut writer = store.writer().expect("a writer");
        let with_line = |id, created| {
            let Write::Alert(mut new) = new_alert(id, "192.0.2.1", created, 1000) else { panic!("it is an alert") };
            let cordon =
                model::alert::EventEvidence { raw: "user eve".into(), ..model::alert::EventEvidence::default() };
            new.alert.events = vec![model::alert::AlertEvent {
                timestamp: "then".into(),
                cordon: Some(cordon),
                ..model::alert::AlertEvent::default()
            }];
            new.alert.events_count = 1;
            Write::Alert(new)
        };
        writer.commit(&[&[with_line(1, 10), with_line(2, 20), with_line(3, 30)]]).expect("the store works");
        for (before, left) in [(5, 3), (25, 1), (25, 1), (99, 0)] {
            let evidence_before = Some(from_micros(before));
            let retention = Retention { evidence_before, now: from_micros(100), ..Retention::default() };
            writer.commit(&[&[Write::Retain(retention)]]).expect("the store works");
            let alerts = store.alerts(&AlertQuery::default(), from_micros(100)).expect("it answers");
            let text = serde_json::to_string(&alerts).expect("JSON");
            assert_eq!((text.matches("eve\"").count(), text.matches("then").count()), (left, 3), "before {before}");
        }
    }

    #[test]
    fn a_backup_comes_back_as_it_was_and_readers_start_anew() {
        let folder = folder();
        let (path, copy) = (folder.path().join("cordon.db"), folder.path().join("copy"));
        let store = Sqlite::open(&path).expect("it is made");
        let before = store.restore(from_micros(10), &mut |_| ()).expect("it answers").epochs;
        let mut writer = store.writer().expect("a writer");
        writer.commit(&[&[new_alert(1, "192.0.2.1", 10, 99)]]).expect("the store works");
        backup(&path, &copy).expect("it is copied while it is in use");
        assert!(matches!(backup(&path, &copy), Err(StoreError::File { .. })), "nothing is overwritten");
        assert_eq!(std::fs::metadata(&copy).expect("it is there").permissions().mode() & 0o777, 0o600);
        writer.commit(&[&[new_alert(2, "192.0.2.2", 10, 99)]]).expect("the store works");
        let entry = crate::server::service::Author::default().did("restore", "copy", from_micros(50));
        assert!(matches!(restore(&path, &copy, &entry), Err(StoreError::InUse { .. })));
        drop((writer, store));
        let bad = folder.path().join("bad");
        std::fs::write(&bad, "not a database, but long enough to be looked at as one").expect("a file");
        assert!(restore(&path, &bad, &entry).is_err());
        let replaced = restore(&path, &copy, &entry).expect("it comes back");
        assert!(replaced.untold.is_none(), "{replaced:?}");
        let kept = replaced.kept.expect("there was one");
        let alerts = |path: &Path| {
            let store = Sqlite::open(path).expect("it opens");
            store.alert_ids(&AlertQuery::default(), from_micros(20)).expect("it answers")
        };
        assert_eq!((alerts(&path), alerts(&kept)), (vec![1], vec![2, 1]));
        let store = Sqlite::open(&path).expect("it opens");
        let after = store.restore(from_micros(20), &mut |_| ()).expect("it answers").epochs;
        assert!(after.began().iter().all(|epoch| !before.began().contains(epoch)), "no cursor from before is known");
        let over = store.ended(None, from_micros(51)).expect("it answers");
        let over: Vec<&str> = over.iter().map(|decision| decision.value.as_str()).collect();
        assert_eq!(over, ["192.0.2.2"], "what held and is no longer there is told");
        assert_eq!(store.verify_audit(false).expect("it answers").map(|verified| verified.head.seq), Ok(1));
    }
}
