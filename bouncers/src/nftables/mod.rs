//! The nftables bouncer: bans of addresses and ranges in one table of this host's kernel.
//!
//! Rules are loaded once through the `nft` program; every element change is one netlink batch. Nothing outside
//! the one table is ever touched.

pub mod listen;
pub mod netlink;
pub mod plan;

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use jiff::Timestamp;
use rustix::io::Errno;
use serde::Serialize;

use crate::engine::desired::{Key, widen};
use crate::engine::plan::{Placed, Placement, Plan};
use crate::engine::span::{Family, Span, number};
use crate::engine::{Bouncer, Check, Disturbance, Extent, Never, Traffic};
use crate::error::BouncerError;
use crate::nftables::listen::Listener;
use crate::nftables::netlink::{Batch, Connection, Kind, NetlinkError, SetRef, attributes, number32};
use crate::nftables::plan::{Edit, Hit, Layout};

/// Where the program is when it is not in the search path, as for services with a short one.
const PLACES: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft"];

/// What the bouncer needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the table.
    pub table: String,
    /// Length of the networks that lone IPv6 addresses widen to.
    pub ipv6_prefix: u8,
    /// Count packets from blocked addresses, but let them pass.
    pub observe: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { table: "cordon".to_owned(), ipv6_prefix: 64, observe: false }
    }
}

/// What this host can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// Where the `nft` program is.
    pub program: PathBuf,
    /// What it says its version is.
    pub version: String,
    /// Whether the kernel removes absent elements without an error (6.3 and later).
    pub destroy: bool,
}

/// What the kernel does with packets from one address, asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforced {
    /// The table or its rules are not in place.
    NoTable,
    /// It is never blocked: it passes before any block.
    Allowed,
    /// It is in a block set, and packets from blocked addresses are dropped.
    Blocked,
    /// It is in a block set, but a person has disarmed the table.
    Disarmed,
    /// It is in a block set, but packets are only counted.
    Observed,
    /// It is in no set.
    Passing,
}

/// One table in the kernel.
pub struct Nftables {
    options: Options,
    probe: Probe,
    connection: Arc<Mutex<Connection>>,
    listener: Option<Listener>,
    layout: Layout,
    /// How the ruleset looked right after it was loaded.
    loaded: Option<Structure>,
}

/// What is in the kernel besides elements.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Structure {
    /// Table, sets, chains and the rules of the first chain, in order.
    print: Vec<u8>,
    /// What the hit chain does with a packet.
    hit: Vec<Option<u32>>,
    /// Rules in the first chain.
    rules: usize,
    disarmed: bool,
}

const DROP: u32 = 0;

impl Nftables {
    /// Looks at what this host can do; changes nothing. The error says what is missing and what to do.
    pub fn probe() -> Result<Probe, BouncerError> {
        let (program, version) = find_program(std::iter::once("nft").chain(PLACES))?;
        let mut connection = Connection::open().map_err(unavailable)?;
        connection.generation().map_err(unavailable)?;
        // Nothing of that name exists, so the batch fails either way; only a kernel that does not know the
        // message says that it is invalid.
        let mut batch = Batch::new("cordon-probe-of-a-table-that-is-not-there");
        batch.remove(plan::BAN4, &[Span { first: 0, last: 0 }], true);
        let destroy = match connection.transact(batch).map_err(|error| error.errno()) {
            Ok(()) | Err(Some(Errno::NOENT)) => true,
            Err(Some(Errno::PERM)) => return Err(BouncerError::NoPermission),
            Err(_) => false,
        };
        Ok(Probe { program, version, destroy })
    }

    /// Opens the kernel for `options`; changes nothing yet.
    pub fn open(options: Options) -> Result<Self, BouncerError> {
        let probe = Self::probe()?;
        let connection = Arc::new(Mutex::new(Connection::open()?));
        let layout = Layout::new(options.ipv6_prefix);
        Ok(Self { options, probe, connection, listener: None, layout, loaded: None })
    }

    /// What the kernel does at this moment with packets from `address`, verified by look-ups.
    pub fn enforced_now(&self, address: IpAddr) -> Result<Enforced, BouncerError> {
        let table = &self.options.table;
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(structure) = structure(&mut connection, table)? else { return Ok(Enforced::NoTable) };
        let expected = plan::SETS.len() + 1;
        if structure.rules < expected || structure.hit.is_empty() {
            return Ok(Enforced::NoTable);
        }
        let address = IpNet::from(address.to_canonical());
        let exact = number(address.addr());
        let host = number(widen(address, self.options.ipv6_prefix).network());
        let sets = match Family::of(address) {
            Family::V4 => [(plan::ALLOW4, exact), (plan::BAN4, host), (plan::NET4, exact)],
            Family::V6 => [(plan::ALLOW6, exact), (plan::BAN6, host), (plan::NET6, exact)],
        };
        let mut found = [false; 3];
        for (found, (set, key)) in found.iter_mut().zip(sets) {
            *found = connection.contains(table, set, &[key])? == [true];
        }
        Ok(match found {
            [true, ..] => Enforced::Allowed,
            [_, false, false] => Enforced::Passing,
            _ if structure.disarmed => Enforced::Disarmed,
            _ if structure.hit != [Some(DROP)] => Enforced::Observed,
            _ => Enforced::Blocked,
        })
    }

    /// The panic switch: from now on nothing is dropped, and nobody but [`Nftables::arm`] changes that. Needs no
    /// running engine. False when there is no table.
    pub fn disarm(&self) -> Result<bool, BouncerError> {
        self.switch(Hit::Pass, true)
    }

    /// Undoes [`Nftables::disarm`]. False when there is no table.
    pub fn arm(&self) -> Result<bool, BouncerError> {
        self.switch(self.hit(), false)
    }

    fn switch(&self, hit: Hit, disarm: bool) -> Result<bool, BouncerError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if structure(&mut connection, &self.options.table)?.is_none() {
            return Ok(false);
        }
        drop(connection);
        load(&self.probe.program, &plan::switch(&self.options.table, hit, disarm))?;
        Ok(true)
    }

    /// Removes the table with all that is in it. It is no error if it is not there.
    pub fn remove(&self) -> Result<(), BouncerError> {
        load(&self.probe.program, &plan::removal(&self.options.table))
    }

    fn hit(&self) -> Hit {
        if self.options.observe { Hit::Pass } else { Hit::Drop }
    }

    fn listen(&mut self) -> Result<(), BouncerError> {
        if self.listener.is_none() {
            let port = self.connection.lock().unwrap_or_else(PoisonError::into_inner).port();
            self.listener = Some(Listener::open(&self.options.table, port)?);
        }
        Ok(())
    }

    /// Runs `work` on the connection, away from the asynchronous threads.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, NetlinkError> + Send + 'static,
    ) -> Result<T, BouncerError> {
        let connection = Arc::clone(&self.connection);
        let work = move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(tokio::task::spawn_blocking(work).await.map_err(|_| BouncerError::Stopping)??)
    }

    async fn structure(&self) -> Result<Option<Structure>, BouncerError> {
        let table = self.options.table.clone();
        self.with(move |connection| structure(connection, &table)).await
    }

    /// Whether the ruleset is as it was loaded. A disarmed table may differ where it was disarmed.
    fn intact(&self, now: Option<&Structure>) -> bool {
        let (Some(loaded), Some(now)) = (&self.loaded, now) else { return false };
        loaded.print == now.print && (now.disarmed || now.hit == [Some(if self.options.observe { 1 } else { DROP })])
    }

    fn edits(&self, batch: &mut Batch, edits: &[Edit], now: Timestamp) {
        for edit in edits {
            batch.remove(edit.set, &edit.remove, self.probe.destroy);
        }
        for edit in edits {
            batch.add(edit.set, &edit.add, now);
        }
    }
}

impl Bouncer for Nftables {
    fn name(&self) -> &'static str {
        "nftables"
    }

    async fn prepare(&mut self) -> Result<(), BouncerError> {
        self.listen()?;
        let before = self.structure().await?;
        if self.intact(before.as_ref()) {
            return Ok(());
        }
        let disarmed = before.is_some_and(|structure| structure.disarmed);
        let hit = if disarmed { Hit::Pass } else { self.hit() };
        let ruleset = plan::ruleset(&self.options.table, hit, self.options.ipv6_prefix);
        let removal = plan::removal(&self.options.table);
        let program = self.probe.program.clone();
        let loading = tokio::task::spawn_blocking(move || {
            load(&program, &ruleset).or_else(|_| {
                // Something of ours is there with another shape: begin afresh, still in one transaction.
                let objects = [&removal.objects[..], &ruleset.objects[..]].concat();
                load(&program, &nftables::schema::Nftables { objects: objects.into() })
            })
        });
        loading.await.map_err(|_| BouncerError::Stopping)??;
        self.loaded = self.structure().await?;
        Ok(())
    }

    async fn rebuild(
        &mut self,
        wanted: &Placement,
        never: &Never,
        extent: Extent,
        now: Timestamp,
    ) -> Result<(), BouncerError> {
        self.prepare().await?;
        let (layout, edits) = Layout::rebuild(self.options.ipv6_prefix, wanted);
        let mut batch = Batch::new(&self.options.table);
        // Ranges of an older state could overlap with ours, so interval sets always begin empty.
        for set in plan::SETS.iter().filter(|set| extent == Extent::Exactly || set.interval) {
            batch.flush(*set);
        }
        batch.add_forever(plan::ALLOW4, &never.v4);
        batch.add_forever(plan::ALLOW6, &never.v6);
        self.edits(&mut batch, &edits, now);
        // The kernel writes a note on every element while somebody listens, which doubles the time of a big load.
        // Who rebuilds looks afterwards anyway.
        if batch.len() > QUIET_LOAD {
            self.listener = None;
        }
        let outcome = self.with(move |connection| connection.transact(batch)).await;
        self.listen()?;
        outcome?;
        self.layout = layout;
        Ok(())
    }

    async fn apply(&mut self, plan: &Plan, now: Timestamp) -> Result<(), BouncerError> {
        let edits = self.layout.edit(plan, now);
        let mut batch = Batch::new(&self.options.table);
        self.edits(&mut batch, &edits, now);
        self.with(move |connection| connection.transact(batch)).await
    }

    async fn check(&mut self, keys: Vec<(Key, Placed)>) -> Result<Check, BouncerError> {
        let structure = self.structure().await?;
        let mut check = Check {
            intact: self.intact(structure.as_ref()),
            armed: structure.as_ref().is_some_and(|structure| !structure.disarmed),
            asked: keys.len(),
            missing: 0,
        };
        if !check.intact {
            return Ok(check);
        }
        let mut probes: Vec<(SetRef, Vec<u128>)> = Vec::new();
        for (key, placed) in &keys {
            let Some((set, address)) = self.layout.probe_of(key, placed) else { continue };
            match probes.iter_mut().find(|(held, _)| *held == set) {
                Some((_, addresses)) => addresses.push(address),
                None => probes.push((set, vec![address])),
            }
        }
        for (set, addresses) in probes {
            for slice in addresses.chunks(LOOK_UP_SLICE) {
                let (table, slice) = (self.options.table.clone(), slice.to_vec());
                let found = self.with(move |connection| connection.contains(&table, set, &slice)).await?;
                check.missing += found.into_iter().filter(|found| !found).count();
            }
        }
        Ok(check)
    }

    async fn disturbance(&mut self) -> Result<Disturbance, BouncerError> {
        match &mut self.listener {
            Some(listener) => Ok(listener.next().await?),
            None => std::future::pending().await,
        }
    }

    async fn dropped(&mut self) -> Result<Traffic, BouncerError> {
        let table = self.options.table.clone();
        self.with(move |connection| connection.counter(&table, plan::BANNED)).await
    }

    async fn teardown(&mut self) -> Result<(), BouncerError> {
        let (program, removal) = (self.probe.program.clone(), plan::removal(&self.options.table));
        self.listener = None;
        self.loaded = None;
        tokio::task::spawn_blocking(move || load(&program, &removal)).await.map_err(|_| BouncerError::Stopping)?
    }
}

/// A batch of more bytes than this is carried out without listening.
const QUIET_LOAD: usize = 1 << 20;

/// Keys that are looked up without letting others at the kernel's lock.
const LOOK_UP_SLICE: usize = 10_000;

/// `None` when the table, a set or a chain is not there.
fn structure(connection: &mut Connection, table: &str) -> Result<Option<Structure>, NetlinkError> {
    match look(connection, table) {
        Ok(structure) => Ok(Some(structure)),
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn look(connection: &mut Connection, table: &str) -> Result<Structure, NetlinkError> {
    let mut print = Vec::new();
    let mut record = |answers: &[Vec<u8>], wanted: &[u16]| {
        for answer in answers {
            for (kind, value) in attributes(answer).filter(|(kind, _)| wanted.contains(kind)) {
                print.extend(kind.to_be_bytes());
                print.extend(value);
            }
        }
    };
    record(&connection.get(Kind::GetTable, table, None, false)?, &[TABLE_FLAGS, TABLE_HANDLE]);
    for set in plan::SETS {
        let answers = connection.get(Kind::GetSet, table, Some((SET_NAME, set.name)), false)?;
        record(&answers, &[SET_FLAGS, SET_KEY_LENGTH, SET_HANDLE]);
    }
    for chain in [plan::CHAIN, plan::HIT] {
        let answers = connection.get(Kind::GetChain, table, Some((CHAIN_NAME, chain)), false)?;
        record(&answers, &[CHAIN_HANDLE, CHAIN_HOOK, CHAIN_POLICY]);
    }
    let rules = connection.get(Kind::GetRule, table, Some((RULE_CHAIN, plan::CHAIN)), true)?;
    record(&rules, &[RULE_HANDLE, RULE_EXPRESSIONS]);
    let hit = connection.get(Kind::GetRule, table, Some((RULE_CHAIN, plan::HIT)), true)?;
    let hit = hit.iter().map(|rule| verdict_of(rule)).collect();
    let disarmed = match connection.get(Kind::GetChain, table, Some((CHAIN_NAME, plan::DISARMED)), false) {
        Ok(_) => true,
        Err(error) if error.errno() == Some(Errno::NOENT) => false,
        Err(error) => return Err(error),
    };
    Ok(Structure { print, hit, rules: rules.len(), disarmed })
}

/// The code of the verdict in a rule: what happens to a packet that reaches its end.
fn verdict_of(rule: &[u8]) -> Option<u32> {
    let inside = |bytes, kind| attributes(bytes).find(|&(found, _)| found == kind).map(|(_, value)| value);
    let expressions = inside(rule, RULE_EXPRESSIONS)?;
    attributes(expressions).find_map(|(_, expression)| {
        let immediate = inside(expression, EXPRESSION_DATA)?;
        let verdict = inside(inside(immediate, IMMEDIATE_DATA)?, DATA_VERDICT)?;
        number32(inside(verdict, VERDICT_CODE)?)
    })
}

const TABLE_FLAGS: u16 = 2;
const TABLE_HANDLE: u16 = 4;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_LENGTH: u16 = 5;
const SET_HANDLE: u16 = 16;
const CHAIN_HANDLE: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

fn unavailable(error: NetlinkError) -> BouncerError {
    match error.errno() {
        Some(Errno::PERM | Errno::ACCESS) => BouncerError::NoPermission,
        Some(errno @ (Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::INVAL | Errno::OPNOTSUPP)) => {
            BouncerError::NoKernel(errno.into())
        }
        _ => error.into(),
    }
}

/// The first program among `places` that is there, and its version.
fn find_program(places: impl Iterator<Item = &'static str>) -> Result<(PathBuf, String), BouncerError> {
    for place in places {
        let program = Path::new(place);
        let output = match command(program).arg("-V").output() {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(BouncerError::Program { program: program.into(), source }),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let json = text.lines().find_map(|line| line.trim().strip_prefix("json:"));
        if json.is_some_and(|json| json.trim() == "no") {
            return Err(BouncerError::NoJson { program: program.into() });
        }
        return Ok((program.into(), text.lines().next().unwrap_or_default().trim().to_owned()));
    }
    Err(BouncerError::NoProgram)
}

/// Loads `ruleset` in one transaction.
fn load(program: &Path, ruleset: &nftables::schema::Nftables<'_>) -> Result<(), BouncerError> {
    let failed = |source| BouncerError::Program { program: program.into(), source };
    let json = serde_json::to_vec(ruleset).map_err(|error| failed(error.into()))?;
    let mut child = command(program)
        .args(["-j", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // A program that refuses early closes its input; what it has to say is in its errors.
        let _ = input.write_all(&json);
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
    Err(BouncerError::Ruleset(text.join("; ")))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_one_clear_error() {
        let error = find_program(["/nowhere/nft"].into_iter()).expect_err("it is not there");
        insta::assert_snapshot!(error, @r"
        no `nft` program on this host
        hint: install the package `nftables`, or set enforcement to `dry-run`
        ");
    }
}
