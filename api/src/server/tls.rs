//! Transport security: our certificate, and who may show one of their own.
//!
//! A client's certificate is checked twice. At the handshake its chain must lead to the configured authority; at
//! each request it is checked again, revocation included, so that a long connection outlives neither its
//! certificate nor a revocation. All files are read again when they change; connections in use stay open.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, RootCertStore};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tracing::{error, info, warn};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use crate::config::{ClientCertificates, TlsConfig};

/// How long a check of a certificate counts.
const CHECKED_FOR: Duration = Duration::from_secs(5);
/// How often the files are looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Longest name in a certificate that can be a client's.
const MAX_NAME: usize = 200;

/// The number of OCSP among the ways to ask about a certificate.
const OCSP: &str = "1.3.6.1.5.5.7.48.1";

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read `{path}`: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file holds something else than it should.
    #[error("`{path}` holds no {what} that can be read\nhint: it must be PEM, as `cordon pki` writes it", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
    },
    /// Certificate and key do not belong together, or cannot be used.
    #[error("`{path}` cannot be used with its key: {reason}", path = path.display())]
    Pair {
        /// The certificate.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What clients are to be checked with cannot be used.
    #[error("clients cannot be checked with `{path}`: {reason}", path = path.display())]
    Clients {
        /// The authority's certificate.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What a TLS listener knows, and may learn anew.
#[derive(Debug)]
pub(crate) struct Tls {
    config: TlsConfig,
    current: ArcSwap<State>,
    seen: Mutex<Seen>,
    /// How often the files were read.
    readings: watch::Sender<u64>,
    /// Whether it was said that revocations may go unnoticed.
    warned: AtomicBool,
}

/// What the files say.
#[derive(Debug)]
struct State {
    /// The how many-th reading it is.
    reading: u64,
    server: Arc<rustls::ServerConfig>,
    /// Checks clients with revocation; `None` when none may show a certificate.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// The revocation list as it is handed out.
    revoked: Option<Arc<[u8]>>,
}

/// Size and time of each file when it was read.
type Seen = Vec<Option<(u64, SystemTime)>>;

impl Tls {
    /// Reads all files of `config`.
    pub(crate) fn open(config: TlsConfig) -> Result<Self, TlsError> {
        let seen = look(&config);
        let current = ArcSwap::from_pointee(State::read(&config, 0)?);
        Ok(Self {
            config,
            current,
            seen: Mutex::new(seen),
            readings: watch::channel(0).0,
            warned: AtomicBool::new(false),
        })
    }

    /// Reads all files again; what was known stays in force if they cannot be used.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let seen = look(&self.config);
        let reading = *self.readings.borrow() + 1;
        let state = State::read(&self.config, reading);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        self.current.store(Arc::new(state?));
        self.readings.send_replace(reading);
        info!(certificate = %self.config.certificate.display(), "read the certificates again");
        Ok(())
    }

    /// Reads the files again if one has changed since they were read. Says in the log what is wrong with them.
    pub(crate) fn reload_if_changed(&self) {
        if *self.seen.lock().unwrap_or_else(PoisonError::into_inner) == look(&self.config) {
            return;
        }
        if let Err(error) = self.reload() {
            error!(%error, "the certificates changed and cannot be used: the ones before stay in force");
        }
    }

    /// Tells of each time that the files were read again.
    pub(crate) fn readings(&self) -> watch::Receiver<u64> {
        self.readings.subscribe()
    }

    /// Takes handshakes.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.load().server))
    }

    /// The list of what is revoked, in PEM, if there is one.
    pub(crate) fn revocation_list(&self) -> Option<Arc<[u8]>> {
        self.current.load().revoked.clone()
    }

    /// Whether a client's certificate is good at this moment; if not, why.
    pub(crate) fn check(&self, certificate: &PeerCertificate) -> Result<(), String> {
        let state = self.current.load();
        let mut last = certificate.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((reading, at)) = *last
            && reading == state.reading
            && at.elapsed() < CHECKED_FOR
        {
            return Ok(());
        }
        *last = None;
        let Some(clients) = &state.clients else { return Err("client certificates are not asked for".into()) };
        let (leaf, chain) = certificate.chain.split_first().ok_or("the client certificate is missing")?;
        clients.verify_client_cert(leaf, chain, UnixTime::now()).map_err(|error| plain(&error))?;
        if certificate.names_responder && state.revoked.is_none() && !self.warned.swap(true, Ordering::Relaxed) {
            warn!(
                name = certificate.name,
                "a client certificate names an OCSP responder, which is not asked, and there is no `crl_path`: revoked certificates are let in until they end"
            );
        }
        *last = Some((state.reading, Instant::now()));
        Ok(())
    }

    /// The organisational units of agents, bouncers and administrators.
    pub(crate) fn units(&self) -> &TlsConfig {
        &self.config
    }
}

impl State {
    fn read(config: &TlsConfig, reading: u64) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = certificates(&config.certificate)?;
        let content = |_| TlsError::Content { path: config.key.clone(), what: "private key" };
        let key = PrivateKeyDer::from_pem_slice(&file(&config.key)?).map_err(content)?;
        let mut roots = RootCertStore::empty();
        let mut clients = None;
        let mut revoked = None;
        if config.clients != ClientCertificates::Off
            && let Some(authority) = &config.client_authority
        {
            for certificate in certificates(authority)? {
                roots
                    .add(certificate)
                    .map_err(|_| TlsError::Content { path: authority.clone(), what: "certificate of an authority" })?;
            }
            let mut lists = Vec::new();
            if let Some(path) = &config.revoked {
                let text = file(path)?;
                let wrong = |_| TlsError::Content { path: path.clone(), what: "revocation list" };
                lists = CertificateRevocationListDer::pem_slice_iter(&text)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(wrong)?;
                if lists.is_empty() {
                    return Err(TlsError::Content { path: path.clone(), what: "revocation list" });
                }
                revoked = Some(Arc::from(text));
            }
            let strict = verifier(&roots, lists, true, &provider);
            clients = Some(strict.map_err(|reason| TlsError::Clients { path: authority.clone(), reason })?);
        }
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
        let pair =
            |error: rustls::Error| TlsError::Pair { path: config.certificate.clone(), reason: error.to_string() };
        let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
        let builder = match (&clients, &config.client_authority) {
            (Some(_), Some(authority)) => {
                let required = config.clients == ClientCertificates::Required;
                let first = verifier(&roots, Vec::new(), required, &provider)
                    .map_err(|reason| TlsError::Clients { path: authority.clone(), reason })?;
                builder.with_client_cert_verifier(first)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(chain, key).map_err(pair)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { reading, server: Arc::new(server), clients, revoked })
    }
}

/// A verifier of clients. Only lists that an authority in the chain has signed count; an old one counts too.
fn verifier(
    roots: &RootCertStore,
    lists: Vec<CertificateRevocationListDer<'static>>,
    required: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), Arc::clone(provider));
    let builder = builder.with_crls(lists).allow_unknown_revocation_status();
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| error.to_string())
}

/// A certificate that a client showed at the handshake.
#[derive(Debug)]
pub(crate) struct PeerCertificate {
    chain: Vec<CertificateDer<'static>>,
    /// The name in it.
    pub(crate) name: String,
    /// Its organisational units.
    pub(crate) units: Vec<String>,
    /// Whether it says whom to ask over OCSP about it.
    names_responder: bool,
    /// By which reading of the files it was last found good, and when.
    last: Mutex<Option<(u64, Instant)>>,
}

impl PeerCertificate {
    /// The certificate at the beginning of `chain`, if it can be read.
    pub(crate) fn read(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let leaf = chain.first()?;
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        let subject = parsed.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?;
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return None;
        }
        let units = subject.iter_organizational_unit().filter_map(|unit| unit.as_str().ok().map(str::to_owned));
        Some(Self {
            name: name.to_owned(),
            units: units.collect(),
            names_responder: names_responder(&parsed),
            chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
            last: Mutex::new(None),
        })
    }

    /// Whether it belongs to one of `units`.
    pub(crate) fn belongs_to(&self, units: &[String]) -> bool {
        self.units.iter().any(|unit| units.contains(unit))
    }
}

fn names_responder(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().any(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => {
            access.accessdescs.iter().any(|one| one.access_method.to_id_string() == OCSP)
        }
        _ => false,
    })
}

/// Why a certificate is refused, in the words that operators know.
fn plain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Revoked) => "certificate revoked by CRL".into(),
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "client certificate is expired".into()
        }
        other => other.to_string(),
    }
}

fn look(config: &TlsConfig) -> Seen {
    let files =
        [Some(&config.certificate), Some(&config.key), config.client_authority.as_ref(), config.revoked.as_ref()];
    let one = |path: &PathBuf| std::fs::metadata(path).ok().and_then(|meta| Some((meta.len(), meta.modified().ok()?)));
    files.into_iter().flatten().map(one).collect()
}

fn file(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File { path: path.into(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = || TlsError::Content { path: path.into(), what: "certificate" };
    let found = CertificateDer::pem_slice_iter(&file(path)?).collect::<Result<Vec<_>, _>>().map_err(|_| wrong())?;
    if found.is_empty() { Err(wrong()) } else { Ok(found) }
}
