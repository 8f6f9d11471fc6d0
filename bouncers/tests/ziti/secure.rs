//! Logins, certificates, and several controllers.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use bouncers::ziti::api::{Api, ApiError};
use bouncers::ziti::config::Options;
use bouncers::ziti::journal::Journal;
use bouncers::ziti::plan::Standing;
use bouncers::ziti::work::{Settled, Work, ZitiError};
use futures_util::FutureExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::controller::{Family, Fault, Site};
use crate::support::{Cordon, in_minutes};

#[tokio::test]
async fn a_session_that_ended_is_opened_again_once() {
    for oidc in [false, true] {
        let site = Site::start(Family::New, 1).await;
        let mut cordon = Cordon::new(&site);
        cordon.oidc = oidc;
        cordon.restart(&site);
        cordon.ban("aliceId", in_minutes(10));
        cordon.settle().await;
        assert_eq!(site.lock().logins, 1);
        site.lock().expire_logins();
        cordon.settle().await;
        // A bearer token is renewed without showing the password again.
        assert_eq!(site.lock().logins, if oidc { 1 } else { 2 });
        cordon.lift("aliceId");
        cordon.settle().await;
        assert!(!site.lock().disabled("aliceId"));
    }
}

#[tokio::test]
async fn a_refused_login_is_not_tried_again_and_again() {
    for oidc in [false, true] {
        let site = Site::start(Family::New, 2).await;
        let mut cordon = Cordon::new(&site);
        cordon.oidc = oidc;
        cordon.restart(&site);
        site.lock().locked_out = true;
        cordon.ban("aliceId", in_minutes(10));
        for _ in 0..5 {
            assert!(cordon.try_settle().await.is_err());
        }
        assert_eq!(site.lock().logins, 1, "an account must not be locked by those who knock");
    }
}

#[tokio::test]
async fn another_controller_is_asked_when_one_does_not_answer() {
    let mut site = Site::start(Family::Old, 3).await;
    let mut cordon = Cordon::new(&site);
    {
        let mut network = site.lock();
        let session = network.log_in("aliceId", "203.0.113.9", true).expect("she may");
        network.dial(&session, 2).expect("she may");
    }
    site.stop(0);
    cordon.ban("aliceId", in_minutes(10));
    let settled = cordon.settle().await;
    assert!(matches!(&settled[0].1, Settled::Partial(reason) if reason.contains("may live on")), "{settled:?}");
    assert!(site.lock().disabled("aliceId") && !site.lock().flows("aliceId"));

    // No leader: each is asked, then it is an error that may pass.
    let site = Site::start(Family::New, 3).await;
    let mut cordon = Cordon::new(&site);
    site.lock().faults = [Fault::None, Fault::None, Fault::None, Fault::None, Fault::None].into();
    cordon.ban("aliceId", in_minutes(10));
    site.lock().faults = vec![Fault::Status(503); 3].into();
    assert!(matches!(cordon.try_settle().await, Err(ZitiError::Api(ApiError::Busy { status: 503, .. }))));
    assert_eq!(cordon.settle().await[0].1, Settled::Done(Standing::InForce));
}

#[tokio::test]
async fn an_enrolled_identity_logs_in_by_its_certificate_and_only_its_network_is_trusted() {
    let site = Site::start(Family::New, 1).await;
    let (ours, theirs) = (Authority::new(), Authority::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("it is bound"));
    serve(listener, &ours, &site);
    let folder = tempfile::tempdir().expect("a temporary folder");
    // (authority that we trust, authority of our certificate, error)
    let cases = [
        (&ours, &ours, None),
        (&theirs, &ours, Some("invalid peer certificate")),
        (&ours, &theirs, Some("received fatal alert")),
    ];
    for (number, (trusted, own, error)) in cases.into_iter().enumerate() {
        let (cert, key) = own.issue("cordon");
        let path = folder.path().join(format!("identity{number}.json"));
        let file = serde_json::json!({
            "ztAPI": format!("{url}/edge/client/v1"),
            "id": { "cert": format!("pem:{cert}"), "key": format!("pem:{key}"), "ca": format!("pem:{}", trusted.pem()) },
        });
        std::fs::write(&path, file.to_string()).expect("written");
        let options = Options { identity: Some(path), ..Options::default() };
        let api: Api = options.open().expect("a usable identity");
        let journal = Journal::read(&folder.path().join(format!("journal{number}"))).expect("a journal");
        let found = Work::new(options, api, journal).connect().await.err().map(|error| error.to_string());
        match error {
            None => assert_eq!(found, None),
            Some(error) => assert!(found.as_ref().is_some_and(|found| found.contains(error)), "{found:?}"),
        }
    }
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key for `name`, as PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// Serves the first controller of `site` over TLS, to those who show a certificate of `authority`.
fn serve(listener: TcpListener, authority: &Authority, site: &Site) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
    let certificate = params.signed_by(&key, &authority.0).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.0.der().to_vec())).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
        .expect("a certificate and its key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let router = site.router(0);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let mut router = router.clone();
                    async move { tower::Service::call(&mut router, request.map(Body::new)).await }.boxed()
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .await;
            });
        }
    });
}
