//! The messages that change and ask nftables, written by ourselves.
//!
//! The `nft` program reads a whole interval set back before each change, so nothing goes through it. A [`Batch`] is
//! one datagram: the kernel carries out all of it or none of it. Encoding and parsing are pure; the [`Connection`]
//! only moves bytes.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use netlink_packet_core::{ErrorBuffer, NetlinkBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::engine::Traffic;
use crate::engine::span::{Family, Span};
use crate::nftables::layout::{End, Origins};
use crate::nftables::ruleset::{COUNTER, KeyType, SetRef, Shape};

const HEADER: usize = 16;
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYSTEM: u16 = 10;
const INET: u8 = 1;

pub(crate) const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
/// Behind what is there.
const APPEND: u16 = 0x800;
/// Both `NLM_F_ROOT` and `NLM_F_MATCH`: list everything.
pub(crate) const DUMP: u16 = 0x300;
const ACK_CAPPED: u16 = 0x100;
const ACK_ATTRIBUTES: u16 = 0x200;
const DUMP_INTERRUPTED: u16 = 0x10;

const NESTED: u16 = 0x8000;
/// The attribute that names the table has this number in every nftables message.
const TABLE: u16 = 1;
/// The attribute that names the set, object or table.
const NAME: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_EXPIRATION: u16 = 5;
const ELEMENT_OBJECT: u16 = 9;
const DATA_VALUE: u16 = 1;
const INTERVAL_END: u32 = 1;

/// An attribute's length has 16 bits; a list of elements is continued in another message before that.
const LIST_LIMIT: usize = 60_000;
/// Requests in flight when many keys are asked: their answers fit the receive buffer.
const WINDOW: usize = 128;
const RECEIVE_BUFFER: usize = 4 << 20;
/// A full dump part of the kernel is at most 32 KiB.
const DATAGRAM: usize = 64 << 10;
/// Error numbers stay below this; [`Errno`] insists on it.
const MAX_ERRNO: i32 = 4096;
/// Answers are queued before `send` returns; waiting longer than this means there is none.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_TIMEOUT: i64 = 365 * 24 * 3600;

/// Message types of nftables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the kernel's and say what they do")]
pub enum Kind {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    DelChain = 5,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    NewSet = 9,
    GetSet = 10,
    DelSet = 11,
    NewSetElem = 12,
    GetSetElem = 13,
    DelSetElem = 14,
    NewGen = 15,
    GetGen = 16,
    NewObj = 18,
    GetObj = 19,
    DelObj = 20,
    NewFlowtable = 22,
    GetFlowtable = 23,
    DelFlowtable = 24,
    DestroySetElem = 30,
}

impl Kind {
    /// The type field of the message header.
    pub fn wire(self) -> u16 {
        SUBSYSTEM << 8 | self as u16
    }
}

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket failed.
    #[error("netlink {what}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The kernel refused a message, and with it the whole batch.
    #[error("the kernel refused {what}: {}{}", io::Error::from(*errno), extended(text))]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Its reason.
        errno: Errno,
        /// Its reason in words, where it gives one.
        text: String,
    },
    /// The kernel said nothing, or something unexpected.
    #[error("the kernel's answer to {0} is missing or malformed")]
    Garbled(&'static str),
}

impl NetlinkError {
    /// The kernel's reason, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            NetlinkError::Socket { source, .. } => Errno::from_io_error(source),
            NetlinkError::Refused { errno, .. } => Some(*errno),
            NetlinkError::Garbled(_) => None,
        }
    }
}

fn extended(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// Changes that happen together: one datagram.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    table: String,
    sequence: u32,
    /// Where the last message that changes something starts.
    last: Option<usize>,
}

impl Batch {
    /// Nothing to do in `table` of the family `inet`.
    pub fn new(table: &str) -> Self {
        let mut batch = Self { bytes: Vec::new(), table: table.to_owned(), sequence: 0, last: None };
        batch.frame(BATCH_BEGIN);
        batch
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A message of `kind` about something in the table; `create` makes what is not there. `write` adds what the
    /// message says besides the table's name.
    pub(crate) fn message(&mut self, kind: Kind, create: bool, write: impl FnOnce(&mut Vec<u8>)) {
        self.put(kind, if create { REQUEST | CREATE } else { REQUEST }, write);
    }

    /// A rule behind those that are there.
    pub(crate) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.put(Kind::NewRule, REQUEST | CREATE | APPEND, write);
    }

    fn put(&mut self, kind: Kind, flags: u16, write: impl FnOnce(&mut Vec<u8>)) {
        let message = self.open(kind, flags);
        write(&mut self.bytes);
        self.close(message);
    }

    /// Removes every element of `set`.
    pub fn flush(&mut self, set: SetRef) {
        self.message(Kind::DelSetElem, false, |bytes| text(bytes, NAME, &set.name()));
    }

    /// Adds `spans` to `set` without an end in time. A set that holds no ranges takes the first address of each.
    pub fn add_forever(&mut self, set: SetRef, spans: &[Span]) {
        self.elements(Kind::NewSetElem, set, spans.iter().map(|&span| (span, None, None)));
    }

    /// Adds `elements` to `set` until they end, in time left from `now`, rounded up to a second. With `origins` each
    /// names its counter.
    pub fn add(&mut self, set: SetRef, elements: &[(Span, End)], origins: Option<&Origins>, now: Timestamp) {
        let timed = elements.iter().map(|&(span, end)| {
            let counter = origins.and_then(|origins| origins.names().get(usize::from(end.counter)));
            (span, Some(milliseconds_left(end.until, now)), counter.map(String::as_str))
        });
        self.elements(Kind::NewSetElem, set, timed);
    }

    /// Removes `spans` from `set`. With `destroy` it is no error if one of them is not there.
    pub fn remove(&mut self, set: SetRef, spans: &[Span], destroy: bool) {
        let kind = if destroy { Kind::DestroySetElem } else { Kind::DelSetElem };
        self.elements(kind, set, spans.iter().map(|&span| (span, None, None)));
    }

    /// Adds names of interfaces to `set`, for `left` from now where that is given. On kernels that do not prolong
    /// what is there, `renew` removes it first, in the same step.
    pub fn add_interfaces(&mut self, set: SetRef, names: &[&str], left: Option<Duration>, renew: bool) {
        let mut put = |kind: Kind, timeout: Option<u64>| {
            let flags = if kind == Kind::NewSetElem { REQUEST | CREATE } else { REQUEST };
            self.put(kind, flags, |bytes| {
                text(bytes, NAME, &set.name());
                let list = begin(bytes, ELEMENTS);
                for name in names {
                    let mut key = [0; 16];
                    let length = name.len().min(key.len() - 1);
                    key[..length].copy_from_slice(&name.as_bytes()[..length]);
                    element(bytes, &key, timeout, None, false);
                }
                end(bytes, list);
            });
        };
        if names.is_empty() {
            return;
        }
        if renew {
            put(Kind::DestroySetElem, None);
        }
        put(Kind::NewSetElem, left.map(|left| (left.as_millis() as u64).max(1)));
    }

    fn elements<'a>(
        &mut self,
        kind: Kind,
        set: SetRef,
        elements: impl Iterator<Item = (Span, Option<u64>, Option<&'a str>)>,
    ) {
        let flags = if kind == Kind::NewSetElem { REQUEST | CREATE } else { REQUEST };
        let name = set.name();
        let top = match set.key {
            KeyType::Port => u16::MAX.into(),
            _ => set.family().map_or(u128::MAX, Family::top),
        };
        let mut open = None;
        for (span, timeout, counter) in elements {
            let (message, list) = *open.get_or_insert_with(|| {
                let message = self.open(kind, flags);
                text(&mut self.bytes, NAME, &name);
                (message, begin(&mut self.bytes, ELEMENTS))
            });
            address(&mut self.bytes, set.key, span.first, timeout, counter, false);
            if set.shape == Shape::Ranges {
                // The end is the first address that is no longer in; a range up to the top has none.
                if let Some(after) = span.last.checked_add(1).filter(|&after| after <= top) {
                    address(&mut self.bytes, set.key, after, None, None, true);
                }
            }
            if self.bytes.len() - list > LIST_LIMIT {
                end(&mut self.bytes, list);
                self.close(message);
                open = None;
            }
        }
        if let Some((message, list)) = open {
            end(&mut self.bytes, list);
            self.close(message);
        }
    }

    fn open(&mut self, kind: Kind, flags: u16) -> usize {
        let message = self.bytes.len();
        self.last = Some(message);
        self.sequence += 1;
        header(&mut self.bytes, kind.wire(), flags, self.sequence, INET, 0);
        text(&mut self.bytes, TABLE, &self.table);
        message
    }

    fn close(&mut self, message: usize) {
        seal(&mut self.bytes, message);
    }

    fn frame(&mut self, kind: u16) {
        let message = self.bytes.len();
        self.sequence += 1;
        header(&mut self.bytes, kind, REQUEST, self.sequence, 0, SUBSYSTEM);
        self.close(message);
    }

    /// The datagram; the kernel acknowledges its last change.
    fn finish(mut self) -> Vec<u8> {
        self.frame(BATCH_END);
        if let Some(last) = self.last.and_then(|last| self.bytes.get_mut(last..)) {
            let mut message = NetlinkBuffer::new(last);
            let flags = message.flags();
            message.set_flags(flags | ACK);
        }
        self.bytes
    }
}

fn milliseconds_left(until: Timestamp, now: Timestamp) -> u64 {
    let left = until.duration_since(now);
    let seconds = left.as_secs() + i64::from(left.subsec_nanos() > 0);
    seconds.clamp(1, LONGEST_TIMEOUT) as u64 * 1000
}

/// Writes the two headers every nftables message begins with; [`seal`] puts the length in.
fn header(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) {
    envelope(bytes, kind, flags, sequence);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
}

/// Writes the header every netlink message begins with; [`seal`] puts the length in.
pub(crate) fn envelope(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32) {
    let at = bytes.len();
    bytes.resize(at + HEADER, 0);
    // The slice has the size of the header: it was just made.
    let mut message = NetlinkBuffer::new(&mut bytes[at..]);
    message.set_message_type(kind);
    message.set_flags(flags);
    message.set_sequence_number(sequence);
}

/// Closes the message that starts at `message`.
pub(crate) fn seal(bytes: &mut [u8], message: usize) {
    let length = bytes.len() - message;
    NetlinkBuffer::new(&mut bytes[message..]).set_length(length as u32);
}

/// Writes an attribute and pads it.
pub(crate) fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Writes text with a zero at its end.
pub(crate) fn text(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    bytes.extend((value.len() as u16 + 5).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Opens an attribute that holds attributes.
pub(crate) fn begin(bytes: &mut Vec<u8>, kind: u16) -> usize {
    let at = bytes.len();
    bytes.extend([0, 0]);
    bytes.extend((kind | NESTED).to_ne_bytes());
    at
}

/// Closes the attribute that [`begin`] opened at `at`.
pub(crate) fn end(bytes: &mut [u8], at: usize) {
    let length = (bytes.len() - at) as u16;
    bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
}

fn address(
    bytes: &mut Vec<u8>,
    key: KeyType,
    number: u128,
    timeout: Option<u64>,
    counter: Option<&str>,
    interval_end: bool,
) {
    match key {
        KeyType::V4 => element(bytes, &(number as u32).to_be_bytes(), timeout, counter, interval_end),
        KeyType::Port => element(bytes, &(number as u16).to_be_bytes(), timeout, counter, interval_end),
        KeyType::V6 | KeyType::Interface => element(bytes, &number.to_be_bytes(), timeout, counter, interval_end),
    }
}

fn element(bytes: &mut Vec<u8>, key: &[u8], timeout: Option<u64>, counter: Option<&str>, interval_end: bool) {
    let element = begin(bytes, ELEMENT);
    let value = begin(bytes, ELEMENT_KEY);
    attribute(bytes, DATA_VALUE, key);
    end(bytes, value);
    if interval_end {
        attribute(bytes, ELEMENT_FLAGS, &INTERVAL_END.to_be_bytes());
    }
    if let Some(timeout) = timeout {
        attribute(bytes, ELEMENT_TIMEOUT, &timeout.to_be_bytes());
        // Without it, an element that is there and has the same timeout is not prolonged.
        attribute(bytes, ELEMENT_EXPIRATION, &timeout.to_be_bytes());
    }
    if let Some(counter) = counter {
        text(bytes, ELEMENT_OBJECT, counter);
    }
    end(bytes, element);
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The type field of its header.
    pub kind: u16,
    /// The flags of its header.
    pub flags: u16,
    /// The number of the request it answers.
    pub sequence: u32,
    /// The socket that caused it.
    pub port: u32,
    /// What follows the netlink header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Its attributes: what follows the netfilter header.
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        attributes(self.payload.get(4..).unwrap_or_default())
    }

    /// The refusal or acknowledgement in it.
    pub fn verdict(&self, what: &'static str) -> Result<(), NetlinkError> {
        let error = ErrorBuffer::new_checked(self.payload).map_err(|_| NetlinkError::Garbled(what))?;
        let Some(code) = error.code() else { return Ok(()) };
        // A kernel that knows `NETLINK_CAP_ACK` repeats only the header of the request.
        let repeated = match NetlinkBuffer::new(error.payload()) {
            request if self.flags & ACK_CAPPED == 0 && error.payload().len() >= HEADER => {
                (request.length() as usize).next_multiple_of(4)
            }
            _ => HEADER,
        };
        let text = match error.payload().get(repeated..) {
            Some(rest) if self.flags & ACK_ATTRIBUTES != 0 => {
                attributes(rest).find(|&(kind, _)| kind == 1).map(|(_, text)| string(text)).unwrap_or_default()
            }
            _ => String::new(),
        };
        let errno = match code.get().saturating_neg() {
            errno @ 1..MAX_ERRNO => Errno::from_raw_os_error(errno),
            _ => return Err(NetlinkError::Garbled(what)),
        };
        Err(NetlinkError::Refused { what, errno, text })
    }
}

/// The messages in a datagram, up to the first that is malformed.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(rest).ok()?;
        let length = (buffer.length() as usize).next_multiple_of(4).min(rest.len());
        rest = &rest[length..];
        Some(Message {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            port: buffer.port_number(),
            payload: buffer.payload(),
        })
    })
}

/// The attributes in `bytes`, up to the first that is malformed.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).filter_map(|attribute| {
        let (kind, end) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(4..end)?))
    })
}

/// The text of an attribute, without the zero at its end.
pub fn string(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

/// The number in an attribute of four bytes.
pub fn number32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn number64(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// A socket to nftables in this network namespace.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    port: u32,
    buffer: Vec<u8>,
    send_buffer: usize,
}

impl Connection {
    /// Opens it. Needs no rights; the first request does.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("socket"))?;
        let port = socket.bind_auto().map_err(failed("bind"))?.port_number();
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        socket.set_cap_ack(true).map_err(failed("option"))?;
        socket.set_ext_ack(true).map_err(failed("option"))?;
        let errno = |what| move |errno: Errno| failed(what)(errno.into());
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE)).map_err(errno("option"))?;
        // Without the capability the request itself will say so.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
        Ok(Self { socket, port, buffer: Vec::with_capacity(DATAGRAM), send_buffer: 0 })
    }

    /// The number by which notifications name this socket.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Carries out `batch`: all of it, or nothing and the first refusal.
    pub fn transact(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        const WHAT: &str = "a change of elements";
        if batch.is_empty() {
            return Ok(());
        }
        let expected = batch.sequence;
        self.send(&batch.finish())?;
        // The kernel works while `send` runs: all it has to say is queued by now.
        let (mut acknowledged, mut refusal) = (false, None);
        while let Some(datagram) = self.receive_queued()? {
            for message in messages(&datagram).filter(|message| message.kind == NLMSG_ERROR) {
                match message.verdict(WHAT) {
                    Ok(()) => acknowledged |= message.sequence == expected,
                    Err(error) => refusal = refusal.or(Some(error)),
                }
            }
        }
        match refusal {
            Some(refusal) => Err(refusal),
            None if acknowledged => Ok(()),
            None => Err(NetlinkError::Garbled(WHAT)),
        }
    }

    /// Which of `addresses` are in `set`, by itself or inside a range.
    pub fn contains(&mut self, table: &str, set: SetRef, addresses: &[u128]) -> Result<Vec<bool>, NetlinkError> {
        const WHAT: &str = "a look-up of an element";
        let name = set.name();
        let mut found = vec![false; addresses.len()];
        for (chunk, found) in addresses.chunks(WINDOW).zip(found.chunks_mut(WINDOW)) {
            let mut bytes = Vec::with_capacity(chunk.len() * 96);
            for (sequence, &address) in chunk.iter().enumerate() {
                let message = bytes.len();
                header(&mut bytes, Kind::GetSetElem.wire(), REQUEST, sequence as u32, INET, 0);
                text(&mut bytes, TABLE, table);
                text(&mut bytes, NAME, &name);
                let list = begin(&mut bytes, ELEMENTS);
                self::address(&mut bytes, set.key, address, None, None, false);
                end(&mut bytes, list);
                seal(&mut bytes, message);
            }
            self.send(&bytes)?;
            let mut answers = 0;
            while answers < chunk.len() {
                let datagram = self.receive()?;
                for message in messages(&datagram) {
                    answers += 1;
                    let present = match message.kind {
                        NLMSG_ERROR => match message.verdict(WHAT) {
                            Err(error) if error.errno() == Some(Errno::NOENT) => false,
                            Err(error) => return Err(error),
                            Ok(()) => continue,
                        },
                        kind => kind == Kind::NewSetElem.wire(),
                    };
                    let slot = found.get_mut(message.sequence as usize).ok_or(NetlinkError::Garbled(WHAT))?;
                    *slot = present;
                }
            }
        }
        Ok(found)
    }

    /// How long the element at `address` was to last when it was added; `None` when it is not there, or for ever.
    pub fn timeout_of(&mut self, table: &str, set: SetRef, address: u128) -> Result<Option<Duration>, NetlinkError> {
        let mut bytes = Vec::new();
        header(&mut bytes, Kind::GetSetElem.wire(), REQUEST, 1, INET, 0);
        text(&mut bytes, TABLE, table);
        text(&mut bytes, NAME, &set.name());
        let list = begin(&mut bytes, ELEMENTS);
        self::address(&mut bytes, set.key, address, None, None, false);
        end(&mut bytes, list);
        seal(&mut bytes, 0);
        let answers = match self.ask(&bytes, false) {
            Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(None),
            answers => answers?,
        };
        let find = |bytes, kind| attributes(bytes).find(move |&(found, _)| found == kind).map(|(_, value)| value);
        let timeout = answers.first().and_then(|answer| {
            let element = find(find(answer.as_slice(), ELEMENTS)?, ELEMENT)?;
            number64(find(element, ELEMENT_TIMEOUT)?)
        });
        Ok(timeout.map(Duration::from_millis))
    }

    /// The one message that answers a request for an object called `name`, or all of them with `list`.
    /// `table` alone is asked for with no `name`.
    pub fn get(
        &mut self,
        kind: Kind,
        table: &str,
        name: Option<(u16, &str)>,
        list: bool,
    ) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let mut bytes = Vec::new();
        let flags = if list { REQUEST | DUMP } else { REQUEST };
        header(&mut bytes, kind.wire(), flags, 1, INET, 0);
        if !table.is_empty() {
            text(&mut bytes, TABLE, table);
        }
        if let Some((kind, name)) = name {
            text(&mut bytes, kind, name);
        }
        seal(&mut bytes, 0);
        self.ask(&bytes, list)
    }

    /// All objects of one kind, of all tables of all families.
    pub fn get_of_any_family(&mut self, kind: Kind) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let mut bytes = Vec::new();
        header(&mut bytes, kind.wire(), REQUEST | DUMP, 1, 0, 0);
        seal(&mut bytes, 0);
        self.ask(&bytes, true)
    }

    fn ask(&mut self, request: &[u8], list: bool) -> Result<Vec<Vec<u8>>, NetlinkError> {
        const WHAT: &str = "a look at the ruleset";
        for _ in 0..DUMP_ATTEMPTS {
            self.send(request)?;
            if let Some(answers) = self.answers(list, WHAT)? {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Garbled(WHAT))
    }

    /// `None` when the ruleset changed under the dump.
    fn answers(&mut self, list: bool, what: &'static str) -> Result<Option<Vec<Vec<u8>>>, NetlinkError> {
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let datagram = self.receive()?;
            for message in messages(&datagram) {
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    NLMSG_DONE => return Ok((!interrupted).then_some(answers)),
                    NLMSG_ERROR => message.verdict(what)?,
                    _ => answers.push(message.payload.get(4..).unwrap_or_default().to_vec()),
                }
                if !list {
                    return Ok(Some(answers));
                }
            }
        }
    }

    /// The generation of the ruleset: it grows with every change by anybody.
    pub fn generation(&mut self) -> Result<u32, NetlinkError> {
        let answers = self.get(Kind::GetGen, "", None, false)?;
        let id = answers.first().and_then(|answer| attributes(answer).find(|&(kind, _)| kind == 1));
        id.and_then(|(_, id)| number32(id)).ok_or(NetlinkError::Garbled("a look at the generation"))
    }

    /// What the named counter has counted.
    pub fn counter(&mut self, table: &str, name: &str) -> Result<Traffic, NetlinkError> {
        const WHAT: &str = "a look at a counter";
        let mut bytes = Vec::new();
        header(&mut bytes, Kind::GetObj.wire(), REQUEST, 1, INET, 0);
        text(&mut bytes, TABLE, table);
        text(&mut bytes, NAME, name);
        attribute(&mut bytes, 3, &COUNTER.to_be_bytes());
        seal(&mut bytes, 0);
        self.send(&bytes)?;
        let answers = self.answers(false, WHAT)?.unwrap_or_default();
        answers.first().and_then(|answer| traffic(answer)).ok_or(NetlinkError::Garbled(WHAT))
    }

    /// What all counters of the table have counted, by name.
    pub fn counters(&mut self, table: &str) -> Result<Vec<(String, Traffic)>, NetlinkError> {
        let mut bytes = Vec::new();
        header(&mut bytes, Kind::GetObj.wire(), REQUEST | DUMP, 1, INET, 0);
        text(&mut bytes, TABLE, table);
        attribute(&mut bytes, 3, &COUNTER.to_be_bytes());
        seal(&mut bytes, 0);
        let named = |answer: &Vec<u8>| {
            let (_, name) = attributes(answer).find(|&(kind, _)| kind == NAME)?;
            Some((string(name), traffic(answer)?))
        };
        Ok(self.ask(&bytes, true)?.iter().filter_map(named).collect())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), NetlinkError> {
        // Answers to an earlier request that was given up on would be taken for answers to this one.
        while self.receive_queued()?.is_some() {}
        let needed = bytes.len() + DATAGRAM;
        if needed > self.send_buffer.max(DATAGRAM * 2) {
            sockopt::set_socket_send_buffer_size_force(&self.socket, needed)
                .map_err(|errno| failed("send buffer")(errno.into()))?;
            self.send_buffer = needed;
        }
        self.socket.send(bytes, 0).map(|_| ()).map_err(failed("send"))
    }

    fn receive(&mut self) -> Result<Vec<u8>, NetlinkError> {
        self.receive_with(0).map_err(failed("receive"))
    }

    /// The next datagram if one is waiting.
    fn receive_queued(&mut self) -> Result<Option<Vec<u8>>, NetlinkError> {
        match self.receive_with(rustix::net::RecvFlags::DONTWAIT.bits() as i32) {
            Ok(datagram) => Ok(Some(datagram)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(failed("receive")(error)),
        }
    }

    fn receive_with(&mut self, flags: i32) -> io::Result<Vec<u8>> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, flags) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(self.buffer.clone()),
            }
        }
    }
}

/// What the counter in an answer has counted.
fn traffic(answer: &[u8]) -> Option<Traffic> {
    let (_, data) = attributes(answer).find(|&(kind, _)| kind == 4)?;
    let mut traffic = Traffic::default();
    for (kind, value) in attributes(data) {
        match kind {
            1 => traffic.bytes = number64(value).unwrap_or_default(),
            2 => traffic.packets = number64(value).unwrap_or_default(),
            _ => {}
        }
    }
    Some(traffic)
}

/// How often a listing is begun again when the ruleset changes under it.
const DUMP_ATTEMPTS: usize = 5;

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> NetlinkError {
    move |source| NetlinkError::Socket { what, source }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nftables::layout::{BAN4, BAN6, NET4};

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small number of seconds")
    }

    /// The messages in `datagram` in words, one line each.
    fn read(datagram: &[u8]) -> Vec<String> {
        let hex = |value: &[u8]| value.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let element = |element: &[u8]| {
            let fields = attributes(element).map(|(kind, value)| {
                let value = if kind == ELEMENT_KEY { &value[4..] } else { value };
                format!("{kind}={}", hex(value))
            });
            format!("[{}]", fields.collect::<Vec<_>>().join(" "))
        };
        let line = |message: Message<'_>| {
            let start = format!("{}:{:#x}#{}", message.kind, message.flags, message.sequence);
            let rest = message.attributes().flat_map(|(kind, value)| match kind {
                ELEMENTS => attributes(value).map(|(_, value)| element(value)).collect(),
                _ => vec![string(value)],
            });
            std::iter::once(start).chain(rest).collect::<Vec<_>>().join(" ")
        };
        messages(datagram).map(line).collect()
    }

    #[test]
    fn a_batch_on_the_wire() {
        let mut batch = Batch::new("cordon");
        assert!(batch.is_empty());
        batch.flush(BAN4);
        batch.remove(BAN4, &[Span { first: 0xc000_0201, last: 0xc000_0201 }], true);
        batch.remove(BAN6, &[Span { first: 1 << 64, last: (1 << 65) - 1 }], false);
        let span = Span { first: 0xc000_0200, last: 0xc000_02ff };
        let top = Span { first: 0xff00_0000, last: u32::MAX.into() };
        let mut origins = Origins::default();
        let counter = origins.of(Some("cordon"));
        let end = |until| End { until: second(until), counter };
        batch.add(NET4, &[(span, end(2)), (top, end(100_000_000))], Some(&origins), second(1));
        insta::assert_snapshot!(read(&batch.finish()).join("\n"), @r"
        16:0x1#1
        2574:0x1#2 cordon ban4
        2590:0x1#3 cordon ban4 [1=c0000201]
        2574:0x1#4 cordon ban6 [1=00000000000000010000000000000000]
        2572:0x405#5 cordon net4 [1=c0000200 4=00000000000003e8 5=00000000000003e8 9=6f5f636f72646f6e00] [1=c0000300 3=00000001] [1=ff000000 4=0000000757b12c00 5=0000000757b12c00 9=6f5f636f72646f6e00]
        17:0x1#6
        ");
    }

    #[test]
    fn time_left_is_rounded_up_and_has_bounds() {
        let half = second(10) + jiff::SignedDuration::from_millis(500);
        // (until, now, milliseconds)
        let cases = [
            (second(12), second(10), 2000),
            (second(12), half, 2000),
            (half, second(10), 1000),
            (second(5), second(10), 1000),
            (Timestamp::MAX, second(10), 31_536_000_000),
        ];
        for (until, now, expected) in cases {
            assert_eq!(milliseconds_left(until, now), expected, "{until} at {now}");
        }
    }

    #[test]
    fn long_lists_are_continued_before_their_length_overflows() {
        let end = End { until: second(60), counter: 0 };
        let spans: Vec<(Span, End)> =
            (0..10_000).map(|first| (Span { first: first * 2, last: first * 2 }, end)).collect();
        let mut batch = Batch::new("cordon");
        batch.add(NET4, &spans, None, second(0));
        let datagram = batch.finish();
        let lists: Vec<usize> = messages(&datagram)
            .filter(|message| message.kind == Kind::NewSetElem.wire())
            .filter_map(|message| message.attributes().find(|&(kind, _)| kind == ELEMENTS))
            .map(|(_, list)| attributes(list).count())
            .collect();
        assert_eq!(lists.iter().sum::<usize>(), 20_000);
        assert!(lists.len() > 5, "in {} messages", lists.len());
    }

    fn refusal(flags: u16, body: &[u8]) -> String {
        let message = Message { kind: NLMSG_ERROR, flags, sequence: 1, port: 0, payload: body };
        message.verdict("the test").map_or_else(|error| error.to_string(), |()| "done".to_owned())
    }

    #[test]
    fn refusals_in_words() {
        let mut request = Vec::new();
        header(&mut request, Kind::NewSetElem.wire(), REQUEST, 1, INET, 0);
        text(&mut request, NAME, "ban4");
        seal(&mut request, 0);
        let text = [&[15, 0, 1, 0][..], b"no such x\0\0\0"].concat();
        let answer = |code: i32, repeated: &[u8], rest: &[u8]| [&code.to_ne_bytes(), repeated, rest].concat();
        // (what, flags, payload, in words)
        let cases = [
            ("an acknowledgement", 0, answer(0, &request, &[]), "done"),
            (
                "no text",
                0,
                answer(-2, &request, &[]),
                "the kernel refused the test: No such file or directory (os error 2)",
            ),
            (
                "text after the header",
                ACK_CAPPED | ACK_ATTRIBUTES,
                answer(-17, &request[..16], &text),
                "the kernel refused the test: File exists (os error 17) (no such x)",
            ),
            (
                "text after the whole request",
                ACK_ATTRIBUTES,
                answer(-17, &request, &text),
                "the kernel refused the test: File exists (os error 17) (no such x)",
            ),
            ("too short", 0, vec![0, 0], "the kernel's answer to the test is missing or malformed"),
        ];
        for (what, flags, payload, expected) in cases {
            assert_eq!(refusal(flags, &payload), expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120), flags: u16) {
            for message in messages(&bytes) {
                let _ = message.attributes().map(|(_, value)| attributes(value).count()).sum::<usize>();
            }
            let _ = refusal(flags, &bytes);
        }
    }
}
