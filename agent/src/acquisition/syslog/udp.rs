//! Syslog over UDP.
//!
//! One thread does nothing but empty the socket into blocks, many datagrams at a time; the datasource's own thread makes lines
//! of them. Between the two stands a bounded queue. When it is full the socket is left alone, so that the kernel drops, and
//! counts exactly what it drops; nothing is lost anywhere else.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::net::sockopt;
use tracing::{info, warn};

use super::{Scribe, SyslogConfig, cannot_listen};
use crate::acquisition::{Bell, Outlet, SourceError};

/// How many datagrams are taken from the kernel at once.
const AT_ONCE: usize = 64;

/// A receive buffer below this is worth a word.
const SMALL: usize = 2 << 20;

/// How often the kernel is asked what it dropped.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Datagrams that came together.
#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    /// Where each ends, who sent it, and whether its end was cut.
    messages: Vec<(usize, IpAddr, bool)>,
    received: Timestamp,
    /// How many came from somebody who may not send, and one of them.
    uninvited: (u64, Option<IpAddr>),
}

impl Block {
    /// How many bytes it occupies; what many small datagrams cost beside their text counts, too.
    fn cost(&self) -> usize {
        self.bytes.len() + self.messages.len() * size_of::<(usize, IpAddr, bool)>()
    }
}

/// What lies between the two threads.
#[derive(Debug, Default)]
struct Pool {
    state: Mutex<Waiting>,
    filled: Condvar,
    drained: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    blocks: VecDeque<Block>,
    bytes: usize,
    /// Set by the datasource: the socket is no longer emptied.
    over: bool,
    /// Set by the receiver: why it cannot go on.
    failed: Option<io::Error>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Each change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens until the bell says stop.
pub(super) fn serve(config: &Arc<SyslogConfig>, bell: &Arc<Bell>, out: &mut Outlet) -> Result<(), SourceError> {
    let failed = |error| cannot_listen(config, error);
    let socket = UdpSocket::bind(config.listen).map_err(failed)?;
    enlarge(&socket, config.room, out);
    out.status().set_watching();
    let pool = Pool::default();
    let receiver = Bell::new().map_err(failed)?;
    let mut drops = Drops::of(&socket);
    thread::scope(|scope| {
        let started = thread::Builder::new().name("syslog udp".into()).spawn_scoped(scope, || {
            let result = receive(&socket, config, &receiver, &pool);
            pool.lock().failed = result.err();
            pool.filled.notify_all();
        });
        let ended = match started {
            Ok(_) => work(config, bell, &pool, &mut drops, out),
            Err(error) => Err(failed(error)),
        };
        receiver.stop();
        pool.lock().over = true;
        pool.drained.notify_all();
        ended
    })?;
    out.send()
}

/// Asks for as much room as the system gives.
fn enlarge(socket: &UdpSocket, room: usize, out: &Outlet) {
    // The first needs a privilege, the second is bounded by the system.
    let asked = sockopt::set_socket_recv_buffer_size_force(socket, room)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, room));
    let got = sockopt::socket_recv_buffer_size(socket).unwrap_or(0);
    if asked.is_err() || got < SMALL.min(room) {
        warn!(
            source = out.status().name(),
            bytes = got,
            "the system gives little room for datagrams; raise `net.core.rmem_max` with sysctl, or grant CAP_NET_ADMIN"
        );
    }
}

/// Empties the socket until the bell says stop.
fn receive(socket: &UdpSocket, config: &SyslogConfig, bell: &Bell, pool: &Pool) -> io::Result<()> {
    let mut room = vec![0; AT_ONCE * config.longest];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(AT_ONCE, None);
    while !bell.stopped() {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            room.chunks_exact_mut(config.longest).map(|chunk| [IoSliceMut::new(chunk)]).collect();
        let mut block = Block { received: Timestamp::now(), ..Block::default() };
        match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_DONTWAIT, None) {
            Ok(messages) => messages.for_each(|message| {
                let sender = message.address.as_ref().and_then(address);
                let cut = message.flags.contains(MsgFlags::MSG_TRUNC);
                if let Some(sender) = sender.filter(|sender| config.admits(*sender)) {
                    message.iovs().for_each(|bytes| block.bytes.extend_from_slice(bytes));
                    block.messages.push((block.bytes.len(), sender, cut));
                } else {
                    block.uninvited = (block.uninvited.0 + 1, sender.or(block.uninvited.1));
                }
            }),
            Err(Errno::EAGAIN) => {
                bell.wait(Some(socket.as_fd()), None)?;
                continue;
            }
            // The last is an answer to something that was sent from here earlier; nothing is.
            Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut state = pool.lock();
        while state.bytes > config.room && !state.over {
            state = pool.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.bytes += block.cost();
        state.blocks.push_back(block);
        drop(state);
        pool.filled.notify_all();
    }
    Ok(())
}

fn address(storage: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| Some(IpAddr::V6(storage.as_sockaddr_in6()?.ip())))
}

/// Makes lines of what was received.
fn work(
    config: &Arc<SyslogConfig>,
    bell: &Bell,
    pool: &Pool,
    drops: &mut Drops,
    out: &mut Outlet,
) -> Result<(), SourceError> {
    let mut scribe = Scribe::new(config, out);
    let mut asked = Instant::now();
    loop {
        let mut state = pool.lock();
        let block = state.blocks.pop_front();
        if let Some(block) = &block {
            state.bytes -= block.cost();
            out.status().lag.set(state.bytes as u64);
            drop(state);
            pool.drained.notify_all();
        } else {
            if let Some(error) = state.failed.take() {
                return Err(cannot_listen(config, error));
            }
            drop(state);
            out.status().lag.set(0);
            out.idle()?;
        }
        if asked.elapsed() >= ASK_EVERY || bell.stopped() {
            asked = Instant::now();
            drops.tell(&mut scribe, out);
            scribe.complaints.forget();
            out.status().green("");
        }
        let Some(block) = block else {
            if bell.stopped() {
                info!(source = out.status().name(), "no longer listening");
                return Ok(());
            }
            let state = pool.lock();
            if state.blocks.is_empty() && state.failed.is_none() {
                // A stop waits at most as long as the kernel is not asked.
                drop(pool.filled.wait_timeout(state, ASK_EVERY / 4).unwrap_or_else(PoisonError::into_inner));
            }
            continue;
        };
        let mut from = 0;
        for (end, sender, cut) in &block.messages {
            let message = block.bytes.get(from..*end).unwrap_or_default();
            scribe.take(message, *cut, *sender, block.received, out);
            from = *end;
            if out.is_full() {
                out.send()?;
            }
        }
        if let (count, Some(sender)) = block.uninvited {
            out.status().dropped.add(count);
            scribe.complaints.uninvited(sender);
        }
    }
}

/// What the kernel dropped because the socket's buffer was full.
#[derive(Debug)]
struct Drops {
    /// The socket's number in the tables of the kernel.
    inode: Option<u64>,
    table: &'static str,
    known: u64,
}

impl Drops {
    fn of(socket: &UdpSocket) -> Self {
        let is_v4 = socket.local_addr().is_ok_and(|address| matches!(address, SocketAddr::V4(_)));
        Self {
            inode: rustix::fs::fstat(socket).ok().map(|stat| stat.st_ino),
            table: if is_v4 { "/proc/thread-self/net/udp" } else { "/proc/thread-self/net/udp6" },
            known: 0,
        }
    }

    /// Counts what was dropped since it was last asked.
    fn tell(&mut self, scribe: &mut Scribe, out: &Outlet) {
        let Some(inode) = self.inode else { return };
        let Some(dropped) = std::fs::read_to_string(self.table).ok().and_then(|table| dropped(&table, inode)) else {
            let remedy = "let cordon read `/proc`";
            scribe.complaints.say("drops", || "it is not known how many datagrams the kernel drops".into(), remedy);
            return;
        };
        // The kernel's number has 32 bits.
        let new = u64::from((dropped as u32).wrapping_sub(self.known as u32));
        self.known = dropped;
        if new > 0 {
            out.status().dropped.add(new);
            let remedy = "raise `net.core.rmem_max` with sysctl, or let the senders use TCP, which waits";
            scribe.complaints.say("drops", || format!("the kernel dropped {new} datagrams within a second"), remedy);
        }
    }
}

/// What the kernel's table says was dropped for a socket.
fn dropped(table: &str, inode: u64) -> Option<u64> {
    table.lines().skip(1).find_map(|row| {
        let mut columns = row.split_ascii_whitespace();
        (columns.nth(9)?.parse() == Ok(inode)).then(|| columns.nth(2)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_says_what_was_dropped() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
             \x20 123: 0100007F:0202 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 37\n\
             \x20 124: 0100007F:0203 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 5\n";
        assert_eq!(dropped(table, 4711), Some(37));
        assert_eq!(dropped(table, 4712), Some(5));
        assert_eq!(dropped(table, 1), None);
    }
}
