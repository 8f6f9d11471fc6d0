//! Certificates of a listener, and the names in those of its clients.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{error, info};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::config::TlsFiles;

/// Why certificates cannot be used.
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
    #[error("`{path}` cannot be used: {reason}\nhint: it must be PEM, as `cordon pki` writes it", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The handshake failed.
    #[error("a TLS handshake failed: {0}")]
    Handshake(std::io::Error),
    /// The certificate is good, but not one of those that are let in.
    #[error("the client's certificate is for `{0}`, which `client_names` does not list")]
    Name(String),
}

/// The files of a listener and what they said last.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
    seen: Mutex<Vec<Option<SystemTime>>>,
}

impl Tls {
    /// Reads all files.
    pub(super) fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let seen = Mutex::new(times(&files));
        let current = ArcSwap::from_pointee(read(&files)?);
        Ok(Self { files, current, seen })
    }

    /// Reads the files again if one has changed. What was known stays in force if they cannot be used.
    pub(super) fn reload_if_changed(&self) {
        let now = times(&self.files);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == now {
                return;
            }
            *seen = now;
        }
        match read(&self.files) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                info!(certificate = %self.files.certificate.display(), "read the certificates again");
            }
            Err(error) => error!(%error, "the certificates changed and cannot be used: the ones before stay in force"),
        }
    }

    /// Takes a handshake: the stream, and the names in the client's certificate.
    pub(super) async fn accept<S>(&self, stream: S) -> Result<(TlsStream<S>, Vec<String>), Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(self.current.load_full());
        let stream = acceptor.accept(stream).await.map_err(Refused::Handshake)?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let names = leaf.map(|leaf| names(leaf)).unwrap_or_default();
        match &self.files.clients {
            Some(clients) if clients.required && !names.iter().any(|name| clients.names.contains(name)) => {
                Err(Refused::Name(names.join(", ")))
            }
            _ => Ok((stream, names)),
        }
    }
}

/// The alternative names in a certificate, in lower case.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
            Some(name.to_lowercase())
        }
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(name).collect()
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let wrong = |path: &Path| {
        let path = path.to_path_buf();
        move |reason: String| TlsError::Content { path, reason }
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&files.certificate)(error.to_string()))?;
    let builder = match &files.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&clients.authority)? {
                roots.add(certificate).map_err(|error| wrong(&clients.authority)(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if clients.required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(
                verifier.build().map_err(|error| wrong(&clients.authority)(error.to_string()))?,
            )
        }
    };
    let key = PrivateKeyDer::from_pem_slice(&file(&files.key)?)
        .map_err(|_| wrong(&files.key)("it holds no private key".to_owned()))?;
    let chain = certificates(&files.certificate)?;
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| wrong(&files.certificate)(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = || TlsError::Content { path: path.into(), reason: "it holds no certificate".to_owned() };
    let found = CertificateDer::pem_slice_iter(&file(path)?).collect::<Result<Vec<_>, _>>().map_err(|_| wrong())?;
    if found.is_empty() { Err(wrong()) } else { Ok(found) }
}

fn file(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File { path: path.into(), source })
}

/// When each file was last written.
fn times(files: &TlsFiles) -> Vec<Option<SystemTime>> {
    let authority = files.clients.as_ref().map(|clients| &clients.authority);
    let paths = [Some(&files.certificate), Some(&files.key), authority];
    paths.into_iter().flatten().map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok()).collect()
}
