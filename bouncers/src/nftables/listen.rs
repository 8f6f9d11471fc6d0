//! Notices when somebody else changes our table.
//!
//! The kernel announces every change of the ruleset to whoever subscribes, and ends each transaction with a
//! message that names the process. What our own socket did is told apart by its port.

use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::time::{Instant, timeout_at};

use crate::engine::Disturbance;
use crate::nftables::netlink::{Kind, Message, NetlinkError, attributes, messages, number32, string};

/// Group 7, as a bit.
const NFTABLES_GROUP: u32 = 1 << 6;
const DATAGRAM: usize = 64 << 10;
/// Room for the notes on some 200,000 removed elements; a limit, not an allocation.
const RECEIVE_BUFFER: usize = 32 << 20;
/// How long the name of who did it is waited for when messages were lost: it comes last.
const LAST_WORD: Duration = Duration::from_millis(100);

/// What the messages of the current transaction touched.
#[derive(Clone, Copy, Debug, Default)]
struct Touched {
    table: bool,
    elements: bool,
    added: bool,
}

/// A subscription to the changes of one table.
pub struct Listener {
    socket: TokioSocket,
    table: String,
    own_port: u32,
    touched: Touched,
    /// Whether others have added elements since that was asked last.
    surplus: bool,
    /// Until when the last word is waited for, if messages were lost and nothing was said of it yet.
    lost: Option<Instant>,
    buffer: Vec<u8>,
}

impl Listener {
    /// Subscribes to what happens to `table`, except by the socket with `own_port`. Needs a tokio runtime.
    pub fn open(table: &str, own_port: u32) -> Result<Self, NetlinkError> {
        let failed = |what| move |source| NetlinkError::Socket { what, source };
        let mut socket = TokioSocket::new(NETLINK_NETFILTER).map_err(failed("socket"))?;
        socket.socket_mut().bind(&SocketAddr::new(0, NFTABLES_GROUP)).map_err(failed("subscription"))?;
        // Without the capability the kernel's default holds; then a big flush is healed, but nobody is named.
        let _ = sockopt::set_socket_recv_buffer_size_force(socket.socket_ref(), RECEIVE_BUFFER);
        let touched = Touched::default();
        Ok(Self {
            socket,
            table: table.to_owned(),
            own_port,
            touched,
            surplus: false,
            lost: None,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// Whether others have added elements to the table since the last call.
    pub fn take_surplus(&mut self) -> bool {
        std::mem::take(&mut self.surplus)
    }

    /// Waits until somebody else has changed the table. Safe to drop while waiting.
    pub async fn next(&mut self) -> Result<Disturbance, NetlinkError> {
        loop {
            self.buffer.clear();
            let received = self.socket.recv(&mut self.buffer);
            let received = match self.lost {
                Some(until) => timeout_at(until, received).await,
                None => Ok(received.await),
            };
            let Ok(received) = received else {
                self.lost = None;
                return Ok(Disturbance { process: String::new(), pid: 0, elements: false });
            };
            match received {
                Ok(()) => {
                    for message in messages(&self.buffer) {
                        let added = self.touched.added;
                        if let Some(disturbance) = observe(&mut self.touched, message, &self.table, self.own_port) {
                            let lost = self.lost.take().is_some();
                            self.surplus |= added;
                            return Ok(Disturbance { elements: disturbance.elements && !lost, ..disturbance });
                        }
                    }
                }
                // More happened than the buffer holds: anything may have been lost.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                    self.touched.table = true;
                    self.lost.get_or_insert(Instant::now() + LAST_WORD);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(NetlinkError::Socket { what: "subscription", source }),
            }
        }
    }
}

/// Follows one message; at the end of somebody else's transaction says whether it touched `table`.
fn observe(touched: &mut Touched, message: Message<'_>, table: &str, own_port: u32) -> Option<Disturbance> {
    const HARMFUL: [Kind; 10] = [
        Kind::NewTable,
        Kind::DelTable,
        Kind::NewChain,
        Kind::DelChain,
        Kind::NewRule,
        Kind::DelRule,
        Kind::DelSet,
        Kind::NewSetElem,
        Kind::DelSetElem,
        Kind::DelObj,
    ];
    if message.port == own_port {
        *touched = Touched::default();
        return None;
    }
    if message.kind != Kind::NewGen.wire() {
        let ours = || message.attributes().any(|(kind, name)| kind == 1 && string(name) == table);
        if HARMFUL.iter().any(|kind| kind.wire() == message.kind) && ours() {
            touched.table = true;
            touched.elements |= message.kind == Kind::DelSetElem.wire();
            touched.added |= message.kind == Kind::NewSetElem.wire();
        }
        // Whose ever it is, what it takes no longer passes by our first chain.
        touched.table |= [Kind::NewFlowtable, Kind::DelFlowtable].iter().any(|kind| kind.wire() == message.kind);
        return None;
    }
    let Touched { table: true, elements, .. } = std::mem::take(touched) else { return None };
    let mut disturbance = Disturbance { process: String::new(), pid: 0, elements };
    for (kind, value) in attributes(message.payload.get(4..).unwrap_or_default()) {
        match kind {
            2 => disturbance.pid = number32(value).unwrap_or_default(),
            3 => disturbance.process = string(value),
            _ => {}
        }
    }
    Some(disturbance)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The payload of a message: the netfilter header, then `attributes`.
    fn payload(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![1, 0, 0, 0];
        for (kind, value) in attributes {
            bytes.extend((value.len() as u16 + 4).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    type Row<'a> = (&'a str, u32, &'a [(Kind, &'a [(u16, &'a [u8])])], bool, bool);

    #[test]
    fn only_what_others_do_to_our_table_counts() {
        let ours: &[(u16, &[u8])] = &[(1, b"cordon\0")];
        let theirs: &[(u16, &[u8])] = &[(1, b"other\0")];
        // (what, port, kinds and tables before the end of the transaction, noticed, elements)
        let cases: &[Row<'_>] = &[
            ("our own removal", 7, &[(Kind::DelSetElem, ours)], false, false),
            ("a flush of everything", 9, &[(Kind::DelTable, theirs), (Kind::DelTable, ours)], true, false),
            ("a removed rule", 9, &[(Kind::DelRule, ours)], true, false),
            ("removed elements", 9, &[(Kind::DelSetElem, ours)], true, true),
            ("another table", 9, &[(Kind::DelTable, theirs), (Kind::DelSetElem, theirs)], false, false),
            ("a new set beside ours", 9, &[(Kind::NewSet, ours)], false, false),
            ("anybody's flowtable", 9, &[(Kind::NewFlowtable, theirs)], true, false),
        ];
        for &(what, port, steps, noticed, elements) in cases {
            let mut touched = Touched::default();
            for (kind, attributes) in steps {
                let payload = payload(attributes);
                let message = Message { kind: kind.wire(), flags: 0, sequence: 0, port, payload: &payload };
                assert_eq!(observe(&mut touched, message, "cordon", 7), None, "{what}");
            }
            let payload = payload(&[(1, &[0, 0, 0, 1]), (2, &[0, 0, 1, 0]), (3, b"nft\0")]);
            let message = Message { kind: Kind::NewGen.wire(), flags: 0, sequence: 0, port, payload: &payload };
            let expected = noticed.then(|| Disturbance { process: "nft".into(), pid: 256, elements });
            assert_eq!(observe(&mut touched, message, "cordon", 7), expected, "{what}");
        }
    }
}
