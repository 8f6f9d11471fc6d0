//! Ends connections that no chain of ours sees any more.
//!
//! A network card that forwards by itself, and a firewall that is not ours, let packets of known connections through
//! without asking. Where that is so, the kernel is made to forget the connections of whoever is blocked: it takes the
//! card's shortcut back, and the next packet is judged like the first one. One walk through the table of connections
//! serves all blocks that have gathered meanwhile, and there is a pause after each.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::engine::span::{Family, Span, join, number};
use crate::nftables::netlink::{
    DUMP, Message, NLMSG_DONE, NLMSG_ERROR, REQUEST, attribute, attributes, begin, end, envelope, messages, seal,
};

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const PATIENCE: Duration = Duration::from_secs(5);
const DATAGRAM: usize = 64 << 10;
/// Between two walks through the table.
const PAUSE: Duration = Duration::from_secs(1);
/// More blocks than this are not remembered between two walks: all connections are looked at by joined spans anyway.
const MOST: usize = 100_000;

/// Whose connections are to end.
#[derive(Debug, Default)]
struct Blocked {
    v4: Vec<Span>,
    v6: Vec<Span>,
}

impl Blocked {
    fn covers(&self, address: IpAddr) -> bool {
        let spans = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let address = number(address);
        let at = spans.partition_point(|span| span.last < address);
        spans.get(at).is_some_and(|span| span.first <= address)
    }
}

/// Ends connections in the background. Dropping it stops that.
#[derive(Debug)]
pub struct Cutter {
    gathered: Arc<Mutex<Blocked>>,
    news: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Cutter {
    /// Starts with nothing to do. Needs a tokio runtime.
    pub fn start() -> Self {
        let (gathered, news) = (Arc::new(Mutex::new(Blocked::default())), Arc::new(Notify::new()));
        let task = tokio::spawn(work(Arc::clone(&gathered), Arc::clone(&news)));
        Self { gathered, news, task }
    }

    /// Ends the connections from and to `spans` soon.
    pub fn cut(&self, family: Family, spans: impl IntoIterator<Item = Span>) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let held = if family == Family::V4 { &mut gathered.v4 } else { &mut gathered.v6 };
        let room = MOST.saturating_sub(held.len());
        held.extend(spans.into_iter().take(room));
        drop(gathered);
        self.news.notify_one();
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn work(gathered: Arc<Mutex<Blocked>>, news: Arc<Notify>) {
    loop {
        news.notified().await;
        let mut blocked = std::mem::take(&mut *gathered.lock().unwrap_or_else(PoisonError::into_inner));
        for spans in [&mut blocked.v4, &mut blocked.v6] {
            *spans = join(std::mem::take(spans));
        }
        match tokio::task::spawn_blocking(move || end_all(&blocked)).await {
            Ok(Ok(ended)) => debug!(ended, "connections of blocked addresses were ended"),
            Ok(Err(error)) => warn!(%error, "cannot end the connections of blocked addresses"),
            Err(_) => return,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Ends all connections that come from, or lead to, what is blocked; how many that were.
fn end_all(blocked: &Blocked) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    let mut doomed = Vec::new();
    for (family, spans) in [(FAMILY_V4, &blocked.v4), (FAMILY_V6, &blocked.v6)] {
        if spans.is_empty() {
            continue;
        }
        socket.send(&request(GET, REQUEST | DUMP, family, &[]), 0)?;
        walk(&socket, |message| doomed.extend(doom(message, family, blocked)))?;
    }
    let ended = doomed.len();
    for request in doomed {
        // one that has ended by itself meanwhile is refused, and that is all right
        socket.send(&request, 0)?;
    }
    Ok(ended)
}

const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;

fn request(kind: u16, flags: u16, family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    envelope(&mut bytes, kind, flags, 1);
    bytes.extend([family, 0, 0, 0]);
    for &(kind, value) in attributes {
        match kind {
            ORIGINAL => {
                let nested = begin(&mut bytes, kind);
                bytes.extend(value);
                end(&mut bytes, nested);
            }
            _ => attribute(&mut bytes, kind, value),
        }
    }
    seal(&mut bytes, 0);
    bytes
}

fn walk(socket: &Socket, mut each: impl FnMut(&Message<'_>)) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        for message in messages(&buffer) {
            if matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
                return Ok(());
            }
            each(&message);
        }
    }
}

/// The request that ends the connection in `message`, if one of its ends is blocked.
fn doom(message: &Message<'_>, family: u8, blocked: &Blocked) -> Option<Vec<u8>> {
    let find = |wanted| message.attributes().find(|&(kind, _)| kind == wanted);
    let ends = [find(ORIGINAL), find(REPLY)].into_iter().flatten().flat_map(|(_, tuple)| addresses(tuple));
    if !ends.into_iter().any(|address| blocked.covers(address)) {
        return None;
    }
    let named: Vec<(u16, &[u8])> = [find(ORIGINAL)?].into_iter().chain(find(ID)).chain(find(ZONE)).collect();
    Some(request(DELETE, REQUEST, family, &named))
}

/// The two addresses of one direction of a connection.
fn addresses(tuple: &[u8]) -> impl Iterator<Item = IpAddr> {
    const ADDRESSES: u16 = 1;
    let address = |(kind, value): (u16, &[u8])| match kind {
        1 | 2 => <[u8; 4]>::try_from(value).ok().map(|octets| Ipv4Addr::from(octets).into()),
        3 | 4 => <[u8; 16]>::try_from(value).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    };
    attributes(tuple).filter(|&(kind, _)| kind == ADDRESSES).flat_map(|(_, ip)| attributes(ip)).filter_map(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_if_one_of_its_ends_is_blocked() {
        let span = |first: u8, last: u8| Span {
            first: number(Ipv4Addr::new(192, 0, 2, first).into()),
            last: number(Ipv4Addr::new(192, 0, 2, last).into()),
        };
        let blocked = Blocked { v4: join(vec![span(9, 9), span(32, 63)]), v6: Vec::new() };
        // (what, source, destination, ends)
        let cases = [
            ("from a blocked address", 9, 1, true),
            ("to a blocked address", 1, 40, true),
            ("before the range", 31, 1, false),
            ("at its end", 63, 1, true),
            ("behind it", 64, 1, false),
        ];
        for (what, source, destination, ends) in cases {
            let mut tuple = Vec::new();
            let ip = begin(&mut tuple, 1);
            attribute(&mut tuple, 1, &[192, 0, 2, source]);
            attribute(&mut tuple, 2, &[192, 0, 2, destination]);
            end(&mut tuple, ip);
            let request = request(GET, 0, FAMILY_V4, &[(ORIGINAL, &tuple), (ID, &[0, 0, 0, 7])]);
            let message = messages(&request).next().expect("one message");
            let doomed = doom(&message, FAMILY_V4, &blocked);
            assert_eq!(doomed.is_some(), ends, "{what}");
            if let Some(doomed) = doomed {
                let message = messages(&doomed).next().expect("one message");
                assert_eq!((message.kind, message.attributes().count()), (DELETE, 2), "{what}");
            }
        }
    }
}
