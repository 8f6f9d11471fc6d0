//! The last known good state on disk, so that a host is protected before it reaches any API.
//!
//! A file holds what it says or is not used at all: a checksum covers everything behind the first sixteen bytes,
//! everything is read once before the first decision is handed out, and a new file takes the old one's place in one
//! step. Words that repeat (origins, scenarios) are written once; reading a hundred thousand decisions takes some ten
//! milliseconds, because a host that boots is open until it is done.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use compact_str::CompactString;
use ipnet::IpNet;
use jiff::Timestamp;
use model::{Decision, Scope};

use crate::engine::Never;
use crate::engine::desired::{Claim, Desired, Subject};
use crate::engine::span::{Family, Span};

const MAGIC: &[u8; 8] = b"CORDONBN";
const VERSION: u32 = 2;
const HEADER: usize = 16;
/// Fast; a hundred thousand entries shrink to about a third.
const LEVEL: i32 = 1;
/// No honest file unpacks to more.
const LIMIT: u64 = 2 << 30;
/// No honest word is longer.
const LONGEST: u64 = 64 << 10;
/// Decisions that are handed out at a time.
const CHUNK: usize = 10_000;

/// What an entry is about, as its first byte.
const V4: u8 = 4;
const V6: u8 = 6;
const NAMED: u8 = 0;

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

/// The file for what `desired` holds, in the order of the keys, and for who must pass.
pub fn encode(bouncer: &str, desired: &Desired, never: &Never) -> Vec<u8> {
    let body = Vec::with_capacity(desired.len() * 32);
    let mut writer = Writer {
        body: zstd::stream::write::Encoder::new(body, LEVEL).expect("a buffer in memory takes any length"),
        words: HashMap::new(),
        record: Vec::new(),
    };
    writer.text(bouncer);
    writer.spans(&never.v4);
    writer.spans(&never.v6);
    let mut entries: Vec<_> = desired.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    for (key, entry) in entries {
        for claim in entry.claims() {
            writer.claim(&key.subject, &key.remediation, claim);
        }
        writer.flush();
    }
    writer.flush();
    head(writer.body.finish().expect("a buffer in memory takes any length"))
}

/// A file with any content and the right checksum: what somebody would have to write who wants to be believed.
pub fn seal(content: &[u8]) -> Vec<u8> {
    head(zstd::bulk::compress(content, LEVEL).expect("a buffer in memory takes any length"))
}

fn head(body: Vec<u8>) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEADER + body.len());
    file.extend(MAGIC);
    file.extend(VERSION.to_le_bytes());
    file.extend(crc32c::crc32c(&body).to_le_bytes());
    file.extend(body);
    file
}

/// Writes decisions. A word is written where it is first used, and by its number from then on.
struct Writer {
    body: zstd::stream::write::Encoder<'static, Vec<u8>>,
    words: HashMap<CompactString, u64>,
    record: Vec<u8>,
}

impl Writer {
    fn claim(&mut self, subject: &Subject, remediation: &CompactString, claim: &Claim) {
        match (subject, claim.address) {
            (Subject::Net(IpNet::V6(_)), Some(address)) => self.address(IpAddr::V6(address), 128),
            (Subject::Net(net), _) => self.address(net.addr(), net.prefix_len()),
            (Subject::Named(scope, value), _) => {
                self.record.push(NAMED);
                self.word(scope.as_str());
                self.text(value);
            }
        }
        self.word(remediation);
        self.number(claim.until.as_second() as u64);
        self.number(claim.until.subsec_nanosecond().unsigned_abs().into());
        self.number(claim.id as u64);
        self.text(&claim.uuid);
        self.word(&claim.origin);
        self.word(&claim.scenario);
    }

    fn address(&mut self, address: IpAddr, bits: u8) {
        match address {
            IpAddr::V4(address) => {
                self.record.push(V4);
                self.record.extend(address.octets());
            }
            IpAddr::V6(address) => {
                self.record.push(V6);
                self.record.extend(address.octets());
            }
        }
        self.record.push(bits);
    }

    fn spans(&mut self, spans: &[Span]) {
        self.number(spans.len() as u64);
        for span in spans {
            self.record.extend(span.first.to_be_bytes());
            self.record.extend(span.last.to_be_bytes());
        }
    }

    /// Seven bits a byte, the lowest first.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.record.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.record.push(number as u8);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.record.extend(text.as_bytes());
    }

    fn word(&mut self, word: &str) {
        let known = self.words.get(word).copied();
        let number = known.unwrap_or(self.words.len() as u64);
        self.number(number);
        if known.is_none() {
            self.words.insert(word.into(), number);
            self.text(word);
        }
    }

    fn flush(&mut self) {
        self.body.write_all(&self.record).expect("a buffer in memory takes any length");
        self.record.clear();
    }
}

/// A file that has been read to its end once: all of it can be used.
pub struct Snapshot {
    file: Vec<u8>,
    decisions: usize,
    never: Never,
}

impl Snapshot {
    /// The file, if it is whole and belongs to `bouncer`; otherwise what is wrong with it.
    pub fn decode(bouncer: &str, file: Vec<u8>) -> Result<Self, &'static str> {
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
        let mut reader = Reader::new(body)?;
        if reader.text()? != bouncer {
            return Err("it belongs to another bouncer");
        }
        let never = reader.never()?;
        let mut decisions = 0;
        while reader.decision()?.is_some() {
            decisions += 1;
        }
        drop(reader);
        Ok(Self { file, decisions, never })
    }

    /// How many decisions are in it.
    pub fn len(&self) -> usize {
        self.decisions
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.decisions == 0
    }

    /// Who was never to be blocked when it was written.
    pub fn never(&self) -> &Never {
        &self.never
    }

    /// The decisions, some thousands at a time.
    pub fn chunks(&self) -> impl Iterator<Item = Vec<Decision>> + use<'_> {
        let mut reader = Reader::new(self.file.get(HEADER..).unwrap_or_default()).ok();
        let begun = reader.as_mut().is_some_and(|reader| reader.text().is_ok() && reader.never().is_ok());
        std::iter::from_fn(move || {
            let reader = reader.as_mut().filter(|_| begun)?;
            // it was read to its end before: there are no errors in it
            let decisions: Vec<Decision> = std::iter::from_fn(|| reader.decision().ok()?).take(CHUNK).collect();
            (!decisions.is_empty()).then_some(decisions)
        })
    }
}

/// Reads what [`Writer`] writes.
struct Reader<'a> {
    body: BufReader<io::Take<zstd::stream::read::Decoder<'a, BufReader<&'a [u8]>>>>,
    words: Vec<CompactString>,
}

impl<'a> Reader<'a> {
    fn new(body: &'a [u8]) -> Result<Self, &'static str> {
        let body = zstd::stream::read::Decoder::new(body).map_err(|_| "it cannot be unpacked")?;
        Ok(Self { body: BufReader::with_capacity(64 << 10, body.take(LIMIT)), words: Vec::new() })
    }

    fn never(&mut self) -> Result<Never, &'static str> {
        Ok(Never { v4: self.spans(Family::V4)?, v6: self.spans(Family::V6)? })
    }

    fn spans(&mut self, family: Family) -> Result<Vec<Span>, &'static str> {
        let mut spans = Vec::new();
        for _ in 0..self.number()? {
            let first = u128::from_be_bytes(self.bytes()?);
            let last = u128::from_be_bytes(self.bytes()?);
            if first > last || last > family.top() {
                return Err("a range is malformed");
            }
            spans.push(Span { first, last });
        }
        Ok(spans)
    }

    /// `None` at the end.
    fn decision(&mut self) -> Result<Option<Decision>, &'static str> {
        let mut kind = [0];
        match self.body.read(&mut kind) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(_) => return Err("it cannot be unpacked"),
        }
        let net = match kind {
            [V4] => Some(IpNet::new(Ipv4Addr::from(self.bytes::<4>()?).into(), self.byte()?)),
            [V6] => Some(IpNet::new(Ipv6Addr::from(self.bytes::<16>()?).into(), self.byte()?)),
            [NAMED] => None,
            _ => return Err("an entry is malformed"),
        };
        let (scope, value) = match net {
            Some(Ok(net)) if net.prefix_len() == net.max_prefix_len() => {
                (Scope::Ip, compact_str::format_compact!("{}", net.addr()))
            }
            Some(Ok(net)) => (Scope::Range, compact_str::format_compact!("{net}")),
            Some(Err(_)) => return Err("a prefix is malformed"),
            None => (Scope::new(&self.word()?), self.text()?),
        };
        let remediation = self.word()?;
        let (seconds, nanoseconds) = (self.number()? as i64, self.number()?);
        let nanoseconds = i32::try_from(nanoseconds).map_err(|_| "a time is malformed")?;
        let until = Timestamp::new(seconds, nanoseconds).map_err(|_| "a time is malformed")?;
        let (id, uuid) = (self.number()? as i64, self.text()?.into());
        let (origin, scenario) = (self.word()?, self.word()?);
        Ok(Some(Decision {
            id,
            uuid,
            origin,
            remediation,
            scope,
            value,
            scenario,
            created_at: Timestamp::UNIX_EPOCH,
            until,
            simulated: false,
            alert_id: 0,
        }))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let mut bytes = [0; N];
        self.body.read_exact(&mut bytes).map_err(|_| "it ends early")?;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number is malformed")
    }

    fn text(&mut self) -> Result<CompactString, &'static str> {
        let length = self.number()?;
        if length > LONGEST {
            return Err("a word is too long");
        }
        let mut bytes = vec![0; length as usize];
        self.body.read_exact(&mut bytes).map_err(|_| "it ends early")?;
        CompactString::from_utf8(bytes).map_err(|_| "a word is malformed")
    }

    fn word(&mut self) -> Result<CompactString, &'static str> {
        let number = self.number()? as usize;
        if number == self.words.len() {
            let word = self.text()?;
            self.words.push(word);
        }
        self.words.get(number).cloned().ok_or("a word is missing")
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

/// The file at `path`; `None` when there is none.
pub fn read(path: &Path, bouncer: &str) -> Result<Option<Snapshot>, SnapshotError> {
    let file = match fs::read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SnapshotError::Io { path: path.into(), source }),
    };
    Snapshot::decode(bouncer, file).map(Some).map_err(|reason| SnapshotError::Unusable { path: path.into(), reason })
}

#[cfg(test)]
mod tests {
    use model::Delta;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::desired::tests::{ban, second};
    use crate::engine::desired::{Entry, Key};

    fn desired(add: Vec<Decision>) -> Desired {
        let mut desired = Desired::new(64, 100);
        desired.apply(&Delta { add, remove: vec![] }, second(0));
        desired
    }

    fn sample() -> Desired {
        let country = Decision { scope: Scope::Country, uuid: "u-1".into(), ..ban(3, "FR", 30) };
        desired(vec![ban(1, "192.0.2.1", 10), ban(2, "192.0.2.1", 20), ban(4, "2001:db8::5", 40), country])
    }

    fn office() -> Never {
        Never { v4: vec![Span { first: 7, last: 9 }], v6: vec![Span { first: 1 << 100, last: u128::MAX }] }
    }

    fn decode(bouncer: &str, file: &[u8]) -> Result<Snapshot, &'static str> {
        Snapshot::decode(bouncer, file.to_vec())
    }

    fn sorted(desired: &Desired) -> Vec<(&Key, &Entry)> {
        let mut entries: Vec<_> = desired.iter().collect();
        entries.sort_by_key(|(key, _)| *key);
        entries
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deeper").join("nftables.snapshot");
        assert!(read(&path, "nftables").is_ok_and(|nothing| nothing.is_none()));
        for held in [sample(), desired(vec![ban(9, "192.0.2.9", 10)]), desired(vec![])] {
            write(&path, &encode("nftables", &held, &Never::default())).expect("the folder is ours");
            let read = read(&path, "nftables").expect("it was just written").expect("it is there");
            assert_eq!(read.len(), read.chunks().map(|chunk| chunk.len()).sum::<usize>());
            assert_eq!(read.is_empty(), held.is_empty());
            let again = desired(read.chunks().flatten().collect());
            assert_eq!(sorted(&held), sorted(&again));
        }
    }

    #[test]
    fn a_torn_damaged_or_foreign_file_is_refused() {
        let file = encode("nftables", &sample(), &office());
        assert_eq!(decode("nftables", &file).map(|snapshot| snapshot.len()), Ok(4));
        assert_eq!(decode("nftables", &file).map(|snapshot| snapshot.never().clone()), Ok(office()));
        assert_eq!(decode("pfsense", &file).err(), Some("it belongs to another bouncer"));
        for end in 0..file.len() {
            assert!(decode("nftables", &file[..end]).is_err(), "cut after {end} bytes");
            let mut damaged = file.clone();
            damaged[end] ^= 1;
            assert!(decode("nftables", &damaged).is_err(), "byte {end} changed");
        }
    }

    #[test]
    fn a_write_that_is_cut_short_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("nftables.snapshot");
        let (old, new) = (
            encode("nftables", &sample(), &office()),
            encode("nftables", &desired(vec![ban(9, "192.0.2.9", 10)]), &office()),
        );
        write(&path, &old).expect("the folder is ours");
        for end in 0..new.len() {
            // as a process that is killed leaves it
            fs::write(path.with_extension("new"), &new[..end]).expect("the folder is ours");
            assert_eq!(read(&path, "nftables").expect("whole").expect("there").len(), 4, "cut after {end} bytes");
        }
        write(&path, &new).expect("what is left over is in nobody's way");
        assert_eq!(read(&path, "nftables").expect("whole").expect("there").len(), 1);
    }

    proptest! {
        #[test]
        fn any_decisions_survive(
            rows in proptest::collection::vec(("[a-z:/ ]{0,60}", "\\PC{0,40}", any::<i64>(), 1..1_000_000i64, any::<u32>(), 0..3u8), 0..40)
        ) {
            let decisions = rows.into_iter().map(|(scenario, word, id, until, bits, kind)| {
                let address = Ipv4Addr::from_bits(bits);
                let value = match kind {
                    0 => address.to_string(),
                    1 => format!("2001:db8:{:x}:{:x}::{:x}", bits >> 16, bits & 0xffff, bits & 0xff),
                    _ => format!("{address}/{}", bits % 33),
                };
                let named = bits % 7 == 0;
                let scope = if named { Scope::Custom(word.as_str().into()) } else { Scope::Ip };
                let value = if named { word.as_str().into() } else { value.as_str().into() };
                Decision {
                    scope: if !named && kind == 2 { Scope::Range } else { scope },
                    value,
                    uuid: word.clone(),
                    scenario: scenario.as_str().into(),
                    ..ban(id, "192.0.2.1", until)
                }
            });
            let held = desired(decisions.collect());
            let snapshot = decode("nftables", &encode("nftables", &held, &Never::default())).expect("it was just written");
            let again = desired(snapshot.chunks().flatten().collect());
            prop_assert_eq!(sorted(&held), sorted(&again));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode("nftables", &bytes);
            if let Ok(snapshot) = decode("", &seal(&[&[0, 0, 0][..], &bytes].concat())) {
                prop_assert_eq!(snapshot.chunks().map(|chunk| chunk.len()).sum::<usize>(), snapshot.len());
            }
        }
    }
}
