//! Syslog over TCP and TLS.
//!
//! One thread, a task per connection. While the pipeline has no room the thread waits, and with it every sender: nothing is
//! dropped. Connections are bounded; each brings its messages in small portions, so that all get their turn.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info};

use super::framing::{Frame, Framer};
use super::{Scribe, SyslogConfig, cannot_listen};
use crate::acquisition::{Bell, Outlet, SourceError};

/// How many senders may be connected.
const CONNECTIONS: usize = 1024;

/// How long a sender may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A sender that says nothing for so long is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// Portions that wait for the datasource.
const PORTIONS: usize = 16;

/// How much is read from a connection at once.
const CHUNK: usize = 16 * 1024;

/// What one connection says at once.
#[derive(Debug)]
enum Said {
    /// Messages, and which of them were cut.
    Messages(IpAddr, Vec<(Vec<u8>, bool)>),
    /// So many pieces that are no message.
    Noise(u64),
    /// The sender was not let in.
    Refused(IpAddr, String),
}

/// Listens until the bell says stop.
pub(super) fn serve(
    config: &Arc<SyslogConfig>,
    acceptor: Option<TlsAcceptor>,
    bell: &Arc<Bell>,
    out: &mut Outlet,
) -> Result<(), SourceError> {
    let failed = |error| cannot_listen(config, error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let ended = runtime.block_on(listen(config, acceptor, bell, out));
    // Connections that are in the middle of something are left alone.
    runtime.shutdown_background();
    ended?;
    out.send()
}

async fn listen(
    config: &Arc<SyslogConfig>,
    acceptor: Option<TlsAcceptor>,
    bell: &Arc<Bell>,
    out: &mut Outlet,
) -> Result<(), SourceError> {
    let failed = |error| cannot_listen(config, error);
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    out.status().set_watching();
    let (says, mut said) = channel(PORTIONS);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut scribe = Scribe::new(config, out);
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            biased;
            () = bell.stopping() => break,
            Some(first) = said.recv() => write(first, &mut said, &mut scribe, out)?,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => take(config, acceptor.clone(), &room, &says, stream, peer),
                // The one that failed is gone; too many open files are not over at once.
                Err(error) => {
                    let remedy = "raise the limits of the service (open files)";
                    scribe.complaints.say("connections", || format!("cannot take a connection: {error}"), remedy);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            _ = clock.tick() => {
                scribe.complaints.forget();
                out.status().green("");
            }
        }
    }
    info!(source = out.status().name(), "no longer listening");
    while let Ok(last) = said.try_recv() {
        write(last, &mut said, &mut scribe, out)?;
    }
    Ok(())
}

/// Writes down what connections have said.
fn write(first: Said, more: &mut Receiver<Said>, scribe: &mut Scribe, out: &mut Outlet) -> Result<(), SourceError> {
    let mut next = Some(first);
    while let Some(said) = next {
        match said {
            Said::Messages(sender, messages) => {
                let now = Timestamp::now();
                for (message, cut) in messages {
                    scribe.take(&message, cut, sender, now, out);
                }
            }
            Said::Noise(count) => {
                out.status().dropped.add(count);
                let remedy = "let it use octet counting or one line a message";
                scribe.complaints.say("framing", || "a sender's messages cannot be told apart".into(), remedy);
            }
            Said::Refused(sender, reason) => {
                let remedy = "check `allowed_senders`, the sender's certificate and the number of connections";
                scribe.complaints.say("connections", || format!("{sender} was not let in: {reason}"), remedy);
            }
        }
        if out.is_full() {
            out.send()?;
        }
        next = more.try_recv().ok();
    }
    out.idle()
}

/// Gives a new connection a task of its own, if it may have one.
fn take(
    config: &Arc<SyslogConfig>,
    acceptor: Option<TlsAcceptor>,
    room: &Arc<Semaphore>,
    says: &Sender<Said>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let sender = peer.ip().to_canonical();
    let refuse = |reason: &str| {
        // Where the channel is full of messages, this one is not needed.
        let _ = says.try_send(Said::Refused(sender, reason.to_owned()));
    };
    if !config.admits(sender) {
        return refuse("it may not send");
    }
    let Ok(place) = Arc::clone(room).try_acquire_owned() else {
        return refuse("too many senders are connected");
    };
    // Without it the connection only lives longer than it should.
    let _ = sockopt::set_socket_keepalive(&stream, true);
    let _ = sockopt::set_tcp_keepidle(&stream, KEEPALIVE);
    let (says, longest) = (says.clone(), config.longest);
    tokio::spawn(async move {
        let _place: OwnedSemaphorePermit = place;
        let ended = match acceptor {
            None => hear(stream, sender, longest, &says).await,
            Some(acceptor) => match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => hear(stream, sender, longest, &says).await,
                Ok(Err(error)) => {
                    let _ = says.try_send(Said::Refused(sender, error.to_string()));
                    return;
                }
                Err(_) => return,
            },
        };
        if let Err(error) = ended {
            debug!(%sender, %error, "connection broke");
        }
    });
}

/// Takes a connection's messages until it ends.
async fn hear(
    mut stream: impl AsyncRead + Unpin,
    sender: IpAddr,
    longest: usize,
    says: &Sender<Said>,
) -> io::Result<()> {
    let mut framer = Framer::new(longest);
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = stream.read(&mut buffer).await;
        let (mut messages, mut noise) = (Vec::new(), 0);
        let take = |frame: Frame<'_>| match frame {
            Frame::Message(bytes, cut) => messages.push((bytes.to_vec(), cut)),
            Frame::Noise => noise += 1,
        };
        match read {
            Ok(count) if count > 0 => framer.push(buffer.get(..count).unwrap_or_default(), take),
            // Whole messages of a broken connection count as well.
            _ => framer.finish(take),
        }
        if !messages.is_empty() && says.send(Said::Messages(sender, messages)).await.is_err() {
            return Ok(());
        }
        if noise > 0 && says.send(Said::Noise(noise)).await.is_err() {
            return Ok(());
        }
        if read? == 0 {
            return Ok(());
        }
    }
}
