//! The site's own certificate authority: one folder, one key, certificates that do not live long.
//!
//! What is signed is written down before it is handed out, so that whatever exists can be revoked by its name. The
//! revocation list is a file beside the certificates; a server that reads it looks at it again when it changes.

use std::fs::{File, OpenOptions};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    RevokedCertParams, SanType, SerialNumber,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::files;

/// How long the authority itself is good.
const AUTHORITY_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 3650);
/// How long a certificate is good unless somebody says otherwise.
pub const LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 30);
/// The longest that a certificate may be good.
pub const MAX_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 825);
/// By how much clocks may differ.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// When readers of the revocation list should ask for a newer one.
const NEXT_LIST: SignedDuration = SignedDuration::from_hours(24 * 7);
/// Longest name of a certificate.
const MAX_NAME: usize = 63;

/// What a certificate allows its owner; its organisational unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// To send alerts.
    Agent,
    /// To ask for decisions.
    Bouncer,
    /// To do everything.
    Admin,
    /// To answer as the local API.
    Server,
}

impl Role {
    /// The organisational unit in the certificate.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Bouncer => "bouncer",
            Self::Admin => "admin",
            Self::Server => "server",
        }
    }

    fn usage(self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::Agent | Self::Bouncer | Self::Admin => ExtendedKeyUsagePurpose::ClientAuth,
            Self::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.unit())
    }
}

/// A certificate that was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Its number in hexadecimal.
    pub serial: String,
    /// The name in it.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// Names and addresses of a server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// When it was signed.
    pub made: Timestamp,
    /// When it ends.
    pub ends: Timestamp,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

impl Issued {
    /// Whether it can still be used at `now`.
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.ends > now
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The name in the certificate and of its files.
    pub name: &'a str,
    /// What it allows.
    pub role: Role,
    /// Names and addresses under which a server is reached; without any, its name.
    pub hosts: &'a [String],
    /// How long it is good.
    pub lifetime: SignedDuration,
}

/// Why the authority cannot do what it should.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// There is one already.
    #[error("`{path}` holds an authority already\nhint: `cordon pki issue` makes certificates with it", path = .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("`{path}` holds no authority\nhint: `cordon pki init` makes one", path = .0.display())]
    Missing(PathBuf),
    /// A name that cannot be that of a certificate.
    #[error(
        "`{0}` is no name for a certificate, expected up to {MAX_NAME} letters, digits, `.`, `_` and `-`, a letter or digit first"
    )]
    Name(String),
    /// The name of a file of the authority.
    #[error("`{0}` is a name that the authority itself uses\nhint: choose another one")]
    Reserved(String),
    /// There is such a certificate.
    #[error(
        "there is a certificate for `{0}` already\nhint: `cordon pki renew {0}` replaces it, `cordon pki revoke {0}` ends it"
    )]
    Taken(String),
    /// There is no such certificate.
    #[error("there is no certificate for `{0}` that could still be used\nhint: `cordon pki list` shows all")]
    Unknown(String),
    /// A host that cannot be in a certificate.
    #[error("`{0}` is neither a host name nor an address")]
    Host(String),
    /// A certificate that would live too long, or not at all.
    #[error("a certificate can be good for up to 825 days")]
    Lifetime,
    /// A file cannot be read or written.
    #[error("cannot use `{path}`: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file makes no sense.
    #[error("`{path}` cannot be understood: {reason}", path = path.display())]
    Garbled {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The cryptography refuses.
    #[error("cannot make a certificate: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// The authority in a folder. Only one process at a time has it open.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issued: Vec<Issued>,
    /// Held as long as this lives.
    _lock: File,
}

impl Authority {
    /// Makes an authority called `site` in `folder`, which is made for this user alone if it is not there.
    pub fn init(folder: &Path, site: &str, now: Timestamp) -> Result<Self, PkiError> {
        let broken = |source| PkiError::File { path: folder.into(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(broken)?;
        let lock = lock(folder)?;
        let authority = Self { folder: folder.into(), issued: Vec::new(), _lock: lock };
        if authority.key_path().exists() || authority.certificate_path().exists() {
            return Err(PkiError::Exists(folder.into()));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let pem = key.serialize_pem();
        let mut params = params(now, now.saturating_add(AUTHORITY_LIFETIME).unwrap_or(Timestamp::MAX), &serial());
        params.distinguished_name.push(DnType::CommonName, site);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        write(&authority.key_path(), pem.as_bytes(), 0o600)?;
        write(&authority.certificate_path(), issuer.pem().as_bytes(), 0o644)?;
        authority.write_index()?;
        authority.write_list(now)?;
        Ok(authority)
    }

    /// The authority in `folder`.
    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        if !folder.join("ca.key").exists() {
            return Err(PkiError::Missing(folder.into()));
        }
        let lock = lock(folder)?;
        let path = folder.join("issued.json");
        let issued = serde_json::from_str(&read(&path)?)
            .map_err(|error| PkiError::Garbled { path, reason: error.to_string() })?;
        Ok(Self { folder: folder.into(), issued, _lock: lock })
    }

    /// The authority's certificate: what everybody trusts.
    pub fn certificate_path(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The list of what was revoked.
    pub fn list_path(&self) -> PathBuf {
        self.folder.join("crl.pem")
    }

    /// Where the certificate and the key of `name` lie.
    pub fn files(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}.key")))
    }

    /// Everything that was ever signed, the oldest first.
    pub fn issued(&self) -> &[Issued] {
        &self.issued
    }

    /// Signs a certificate for a new name and writes it with its key.
    pub fn issue(&mut self, request: &Request<'_>, now: Timestamp) -> Result<Issued, PkiError> {
        check_name(request.name)?;
        if self.issued.iter().any(|known| known.name == request.name && known.is_good(now)) {
            return Err(PkiError::Taken(request.name.into()));
        }
        self.sign(request, now)
    }

    /// Signs a new certificate with a new key for a name that has one. The old one is good until it ends, so that whoever
    /// uses it may change at leisure. Without `lifetime` the new one is good for as long as the old one was.
    pub fn renew(&mut self, name: &str, lifetime: Option<SignedDuration>, now: Timestamp) -> Result<Issued, PkiError> {
        let last = self.issued.iter().rev().find(|known| known.name == name && known.revoked.is_none());
        let last = last.cloned().ok_or_else(|| PkiError::Unknown(name.into()))?;
        let lifetime = lifetime.unwrap_or_else(|| last.ends.duration_since(last.made));
        self.sign(&Request { name, role: last.role, hosts: &last.hosts, lifetime }, now)
    }

    /// Revokes every certificate of `name` that could still be used; answers how many there were.
    pub fn revoke(&mut self, name: &str, now: Timestamp) -> Result<usize, PkiError> {
        let mut count = 0;
        for known in self.issued.iter_mut().filter(|known| known.name == name && known.is_good(now)) {
            known.revoked = Some(now);
            count += 1;
        }
        if count == 0 {
            return Err(PkiError::Unknown(name.into()));
        }
        self.write_index()?;
        self.write_list(now)?;
        Ok(count)
    }

    /// Writes the list of what was revoked anew, with a later date for the next one.
    pub fn write_list(&self, now: Timestamp) -> Result<(), PkiError> {
        let revoked = self.issued.iter().filter(|known| known.ends > now);
        let revoked = revoked.filter_map(|known| {
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&bytes(&known.serial)?),
                revocation_time: date(known.revoked?),
                reason_code: None,
                invalidity_date: None,
            })
        });
        let list = CertificateRevocationListParams {
            this_update: date(now),
            next_update: date(now.saturating_add(NEXT_LIST).unwrap_or(Timestamp::MAX)),
            // it must grow with each list, also after the clock was set back by less than it ran
            crl_number: SerialNumber::from(now.as_millisecond().unsigned_abs()),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let text = list.signed_by(&self.issuer()?)?.pem()?;
        write(&self.list_path(), text.as_bytes(), 0o644)
    }

    fn sign(&mut self, request: &Request<'_>, now: Timestamp) -> Result<Issued, PkiError> {
        if !request.lifetime.is_positive() || request.lifetime > MAX_LIFETIME {
            return Err(PkiError::Lifetime);
        }
        let issued = Issued {
            serial: serial(),
            name: request.name.into(),
            role: request.role,
            hosts: request.hosts.to_vec(),
            made: now,
            ends: now.saturating_add(request.lifetime).unwrap_or(Timestamp::MAX),
            revoked: None,
        };
        let mut params = params(now.saturating_sub(SKEW).unwrap_or(now), issued.ends, &issued.serial);
        params.distinguished_name.push(DnType::CommonName, request.name);
        params.distinguished_name.push(DnType::OrganizationalUnitName, request.role.unit());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![request.role.usage()];
        params.use_authority_key_identifier_extension = true;
        if request.role == Role::Server {
            let own = [request.name.to_owned()];
            let hosts = if request.hosts.is_empty() { &own[..] } else { request.hosts };
            params.subject_alt_names = hosts.iter().map(|host| alternative(host)).collect::<Result<_, _>>()?;
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer()?)?;
        self.issued.push(issued.clone());
        self.write_index()?;
        let (certificate_path, key_path) = self.files(request.name);
        write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
        write(&certificate_path, certificate.pem().as_bytes(), 0o644)?;
        Ok(issued)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let key = KeyPair::from_pem(&read(&self.key_path())?)?;
        Ok(Issuer::from_ca_cert_pem(&read(&self.certificate_path())?, key)?)
    }

    fn key_path(&self) -> PathBuf {
        self.folder.join("ca.key")
    }

    fn write_index(&self) -> Result<(), PkiError> {
        let path = self.folder.join("issued.json");
        let text = serde_json::to_string_pretty(&self.issued)
            .map_err(|error| PkiError::Garbled { path: path.clone(), reason: error.to_string() })?;
        write(&path, text.as_bytes(), 0o600)
    }
}

fn params(from: Timestamp, to: Timestamp, serial: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = date(from);
    params.not_after = date(to);
    params.serial_number = bytes(serial).map(|bytes| SerialNumber::from_slice(&bytes));
    params
}

/// A random number that no other certificate has, positive and of full length.
fn serial() -> String {
    let number = (rand::random::<u128>() >> 1) | (1 << 120);
    format!("{number:032x}")
}

fn bytes(serial: &str) -> Option<Vec<u8>> {
    u128::from_str_radix(serial, 16).ok().map(|number| number.to_be_bytes().to_vec())
}

fn date(at: Timestamp) -> OffsetDateTime {
    // Certificates know years with four digits only, and so does this clock.
    OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn alternative(host: &str) -> Result<SanType, PkiError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if host.len() > 253 || !host.strip_prefix("*.").unwrap_or(host).split('.').all(label) {
        return Err(PkiError::Host(host.into()));
    }
    host.try_into().map(SanType::DnsName).map_err(|_| PkiError::Host(host.into()))
}

fn check_name(name: &str) -> Result<(), PkiError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !first || name.len() > MAX_NAME || !name.bytes().all(allowed) {
        return Err(PkiError::Name(name.into()));
    }
    if matches!(name, "ca" | "crl" | "issued") {
        return Err(PkiError::Reserved(name.into()));
    }
    Ok(())
}

fn lock(folder: &Path) -> Result<File, PkiError> {
    let path = folder.join("lock");
    let failed = |source| PkiError::File { path: path.clone(), source };
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

fn read(path: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|source| PkiError::File { path: path.into(), source })
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    files::replace(path, content, mode).map_err(|source| PkiError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use x509_parser::prelude::{FromDer, X509Certificate};
    use x509_parser::revocation_list::CertificateRevocationList;

    use super::*;

    fn der(path: &Path) -> Vec<u8> {
        let text = std::fs::read(path).expect("it was written");
        x509_parser::pem::parse_x509_pem(&text).expect("PEM").1.contents
    }

    fn wanted(name: &str, role: Role) -> Request<'_> {
        Request { name, role, hosts: &[], lifetime: LIFETIME }
    }

    fn revoked(authority: &Authority) -> usize {
        let list = der(&authority.list_path());
        let (_, list) = CertificateRevocationList::from_der(&list).expect("a list");
        list.iter_revoked_certificates().count()
    }

    #[test]
    fn a_certificate_says_who_and_what_and_until_when() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let now = Timestamp::now();
        let mut authority = Authority::init(folder.path(), "site", now).expect("an authority");
        let hosts = ["api.example".to_owned(), "192.0.2.1".to_owned()];
        // (name, role, hosts, organisational unit, names in it)
        let cases: [(&str, Role, &[String], &str, usize); 3] = [
            ("edge-7", Role::Agent, &[], "agent", 0),
            ("fw", Role::Bouncer, &[], "bouncer", 0),
            ("api", Role::Server, &hosts, "server", 2),
        ];
        let ca = der(&authority.certificate_path());
        let (_, ca) = X509Certificate::from_der(&ca).expect("a certificate");
        for (name, role, hosts, unit, names) in cases {
            let issued = authority.issue(&Request { hosts, ..wanted(name, role) }, now).expect("a certificate");
            assert_eq!(issued.ends.duration_since(now), LIFETIME);
            let (certificate_path, key_path) = authority.files(name);
            let bytes = der(&certificate_path);
            let (_, certificate) = X509Certificate::from_der(&bytes).expect("a certificate");
            let subject = certificate.subject();
            assert_eq!(subject.iter_common_name().next().and_then(|cn| cn.as_str().ok()), Some(name));
            assert_eq!(subject.iter_organizational_unit().next().and_then(|ou| ou.as_str().ok()), Some(unit));
            assert_eq!(certificate.issuer(), ca.subject());
            let found = certificate.subject_alternative_name().expect("readable");
            assert_eq!(found.map_or(0, |found| found.value.general_names.len()), names);
            let mode = std::fs::metadata(&key_path).expect("it was written").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "nobody else reads the key");
        }
        let mode = std::fs::metadata(folder.path().join("ca.key")).expect("it was written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_was_signed_can_be_renewed_and_revoked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let now = Timestamp::now();
        let mut authority = Authority::init(folder.path(), "site", now).expect("an authority");
        authority.issue(&wanted("fw", Role::Bouncer), now).expect("a certificate");
        assert!(matches!(authority.issue(&wanted("fw", Role::Bouncer), now), Err(PkiError::Taken(_))));
        assert_eq!(revoked(&authority), 0);
        drop(authority);
        let mut authority = Authority::open(folder.path()).expect("it is there");
        let renewed = authority.renew("fw", None, now).expect("a new one");
        assert_eq!((renewed.role, renewed.ends.duration_since(now)), (Role::Bouncer, LIFETIME));
        assert_eq!(authority.revoke("fw", now).expect("revoked"), 2, "the old one too");
        assert_eq!(revoked(&authority), 2);
        assert!(matches!(authority.renew("fw", None, now), Err(PkiError::Unknown(_))));
        assert!(matches!(authority.revoke("fw", now), Err(PkiError::Unknown(_))));
        authority.issue(&wanted("fw", Role::Bouncer), now).expect("the name is free again");
        let later = now.saturating_add(LIFETIME * 2).expect("within range");
        authority.write_list(later).expect("a list");
        assert_eq!(revoked(&authority), 0, "what is over need not be listed");
        assert_eq!(authority.issued().len(), 3, "but is remembered");
    }

    #[test]
    fn mistakes_are_told() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let now = Timestamp::now();
        let missing = Authority::open(folder.path()).expect_err("there is none");
        assert!(missing.to_string().contains("hint: `cordon pki init` makes one"), "{missing}");
        let mut authority = Authority::init(folder.path(), "site", now).expect("an authority");
        let bad_host = ["a b".to_owned()];
        // (request, the beginning of the message)
        let cases = [
            (wanted("a/b", Role::Agent), "`a/b` is no name for a certificate"),
            (wanted("fw@192.0.2.1", Role::Agent), "`fw@192.0.2.1` is no name for a certificate"),
            (wanted("", Role::Agent), "`` is no name"),
            (wanted("ca", Role::Agent), "`ca` is a name that the authority itself uses"),
            (
                Request { hosts: &bad_host, ..wanted("api", Role::Server) },
                "`a b` is neither a host name nor an address",
            ),
            (
                Request { lifetime: MAX_LIFETIME * 2, ..wanted("fw", Role::Agent) },
                "a certificate can be good for up to",
            ),
        ];
        for (request, message) in cases {
            let error = authority.issue(&request, now).expect_err(message);
            assert!(error.to_string().starts_with(message), "{error}");
        }
        assert!(authority.issued().is_empty(), "what was refused is not there");
        drop(authority);
        assert!(matches!(Authority::init(folder.path(), "site", now), Err(PkiError::Exists(_))));
    }
}
