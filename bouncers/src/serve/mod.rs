//! Answering over HTTP, for targets that others ask: reverse proxies and firewalls.
//!
//! A listener has threads of its own, each with its own small runtime: what the engine does, however long it takes,
//! keeps no question waiting. Answers come from memory, so a handler gets the head of a request and no body.

pub mod config;
pub mod percent;
mod tls;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, error, info};

use self::config::{Listen, On};
use self::tls::Tls;
use crate::error::BouncerError;

pub use self::tls::TlsError;

/// How many connections may be open at once.
const MAX_CONNECTIONS: usize = 2048;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long nothing of an answer may be taken by whoever asked for it.
const READ_PATIENCE: u32 = 30_000;
/// How long a connection may wait for the head of a request: longer than proxies keep one for later.
const HEAD_PATIENCE: Duration = Duration::from_mins(2);
/// Largest head of a request in bytes.
const MAX_HEAD: usize = 64 << 10;
/// How often certificates are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Longest path of a socket.
const MAX_SOCKET_PATH: usize = 107;

/// Why nobody can be answered.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address or path cannot be used.
    #[error("cannot listen on `{on}`: {source}")]
    Listen {
        /// What it is.
        on: On,
        /// What the system says.
        source: io::Error,
    },
    /// The path of the socket is too long.
    #[error("the path of the socket is {len} bytes long, the system allows {MAX_SOCKET_PATH}: `{path}`", path = path.display())]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is no thread to answer.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

impl From<ServeError> for BouncerError {
    fn from(error: ServeError) -> Self {
        BouncerError::Setup(error.to_string())
    }
}

/// What is sent back.
pub type Answer = Response<Full<Bytes>>;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The address at the other end; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// The names in the certificate that was shown, in lower case.
    pub names: Vec<String>,
}

/// A listener that answers; dropping it ends that.
#[derive(Debug)]
pub struct Server {
    address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    open: Arc<AtomicUsize>,
    socket: Option<PathBuf>,
}

impl Server {
    /// Opens what `listen` says and answers there with `workers` threads.
    pub fn start<F, A>(name: &str, listen: &Listen, workers: usize, answer: A) -> Result<Self, ServeError>
    where
        A: Fn(Arc<Peer>, Parts) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let tls = listen.tls.clone().map(Tls::open).transpose()?.map(Arc::new);
        let failed = |source| ServeError::Listen { on: listen.on.clone(), source };
        let socket = Socket::bind(&listen.on)?;
        let address = match &socket {
            Socket::Tcp(listener) => Some(listener.local_addr().map_err(failed)?),
            Socket::Unix(_) => None,
        };
        let (stop, stopping) = watch::channel(false);
        let open = Arc::new(AtomicUsize::new(0));
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut threads = Vec::with_capacity(workers);
        for _ in 0..workers.max(1) {
            let accept = Accept {
                answer: answer.clone(),
                tls: tls.clone(),
                places: Arc::clone(&places),
                open: Arc::clone(&open),
                stopping: stopping.clone(),
            };
            let socket = socket.try_clone().map_err(failed)?;
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Thread)?;
            let thread = std::thread::Builder::new().name(format!("cordon-{name}"));
            let thread = thread.spawn(move || {
                if let Err(error) = runtime.block_on(accept.run(socket)) {
                    error!(%error, "cannot take connections");
                }
            });
            threads.push(thread.map_err(ServeError::Thread)?);
        }
        let socket = match &listen.on {
            On::Unix(path) => Some(path.clone()),
            On::Tcp(_) => None,
        };
        let on = address.map_or_else(|| listen.on.clone(), On::Tcp);
        info!(name, %on, tls = tls.is_some(), "listens");
        Ok(Self { address, stop, threads, open, socket })
    }

    /// The address on which it listens, if it does on one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Whether all its threads are at work.
    pub fn is_alive(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(path) = &self.socket {
            // somebody else may have removed it: then there is nothing to do
            let _ = std::fs::remove_file(path);
        }
    }
}

/// An open socket, not yet watched by any runtime.
enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Socket {
    fn bind(on: &On) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { on: on.clone(), source };
        let socket = match on {
            On::Tcp(address) => Socket::Tcp(std::net::TcpListener::bind(address).map_err(failed)?),
            On::Unix(path) => {
                let len = path.as_os_str().len();
                if len > MAX_SOCKET_PATH {
                    return Err(ServeError::SocketPath { path: path.clone(), len });
                }
                Socket::Unix(bind_socket(path).map_err(failed)?)
            }
        };
        match &socket {
            Socket::Tcp(listener) => listener.set_nonblocking(true).map_err(failed)?,
            Socket::Unix(listener) => listener.set_nonblocking(true).map_err(failed)?,
        }
        Ok(socket)
    }

    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Socket::Tcp(listener) => listener.try_clone().map(Socket::Tcp),
            Socket::Unix(listener) => listener.try_clone().map(Socket::Unix),
        }
    }
}

/// A socket that the group may use: the proxy's user is put into it.
fn bind_socket(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        // a socket on which somebody still listens is not ours to take
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Takes connections on one thread.
#[derive(Clone)]
struct Accept<A> {
    answer: A,
    tls: Option<Arc<Tls>>,
    places: Arc<Semaphore>,
    open: Arc<AtomicUsize>,
    stopping: watch::Receiver<bool>,
}

impl<F, A> Accept<A>
where
    A: Fn(Arc<Peer>, Parts) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    async fn run(self, socket: Socket) -> io::Result<()> {
        let mut stopping = self.stopping.clone();
        if let Some(tls) = self.tls.clone() {
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(LOOK_EVERY).await;
                    tls.reload_if_changed();
                }
            });
        }
        let accept = async {
            match socket {
                Socket::Tcp(listener) => self.tcp(&tokio::net::TcpListener::from_std(listener)?).await,
                Socket::Unix(listener) => self.unix(&tokio::net::UnixListener::from_std(listener)?).await,
            }
        };
        tokio::select! {
            ended = accept => ended,
            _ = stopping.wait_for(|stop| *stop) => Ok(()),
        }
    }

    async fn tcp(&self, listener: &tokio::net::TcpListener) -> io::Result<()> {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return Ok(()) };
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause(&error).await;
                    continue;
                }
            };
            // answers are small and must not wait; who takes nothing is given up by the kernel
            let _ = stream.set_nodelay(true);
            let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, READ_PATIENCE);
            let address = Some(address.ip().to_canonical());
            let this = self.clone();
            tokio::spawn(async move {
                match &this.tls {
                    None => this.serve(stream, Peer { address, names: Vec::new() }).await,
                    Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                        Ok(Ok((stream, names))) => this.serve(stream, Peer { address, names }).await,
                        Ok(Err(error)) => info!(?address, %error, "refused a connection"),
                        Err(_) => debug!(?address, "a TLS handshake took too long"),
                    },
                }
                drop(place);
            });
        }
    }

    async fn unix(&self, listener: &tokio::net::UnixListener) -> io::Result<()> {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return Ok(()) };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let this = self.clone();
                    tokio::spawn(async move {
                        this.serve(stream, Peer::default()).await;
                        drop(place);
                    });
                }
                Err(error) => pause(&error).await,
            }
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(&self, stream: S, peer: Peer) {
        self.open.fetch_add(1, Ordering::Relaxed);
        let peer = Arc::new(peer);
        let service = service_fn(|request: Request<Incoming>| {
            let answer = (self.answer)(Arc::clone(&peer), request.into_parts().0);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(MAX_HEAD);
        if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
            debug!(?peer, %error, "connection ended");
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Out of file descriptors, most likely: it passes.
async fn pause(error: &io::Error) {
    error!(%error, "cannot take a connection");
    tokio::time::sleep(Duration::from_millis(200)).await;
}
