//! TLS on the listener: a certificate from files, which may be replaced while we run, or one made at start. The kubelet
//! shows no certificate and trusts the node's own store only, so neither our own certificate nor a client CA goes with
//! it (contract B15).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::settings::StreamingTls;
use crate::model::{Error, Result};
use crate::sys;
use crate::sys::fingerprint::Fingerprint;

/// How often the files are looked at, when somebody connects.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What the files are; `None` for one that is not there.
type Prints = Vec<Option<Fingerprint>>;

/// Accepts TLS connections with the newest certificate. Whoever renews it replaces its files; connections that are open
/// keep what they began with.
pub(super) struct Acceptor {
    settings: StreamingTls,
    current: ArcSwap<ServerConfig>,
    /// When the files were last looked at, and what they were.
    seen: Mutex<(Instant, Prints)>,
}

impl Acceptor {
    /// # Errors
    /// `InvalidArgument` where certificate, key or CA cannot be used.
    pub(super) fn new_blocking(settings: &StreamingTls) -> Result<Self> {
        let prints = prints_blocking(settings);
        Ok(Self {
            current: ArcSwap::from_pointee(configure_blocking(settings)?),
            seen: Mutex::new((Instant::now(), prints)),
            settings: settings.clone(),
        })
    }

    /// Shakes hands with a client.
    pub(super) async fn accept(
        self: Arc<Self>,
        socket: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        if self.is_due() {
            let this = Arc::clone(&self);
            let looked = sys::off_thread("look at the streaming certificate", move || {
                this.look_blocking()
            });
            if let Err(error) = looked.await {
                tracing::error!(
                    error = error.chain(),
                    "streaming: the new certificate cannot be used; the old one stays"
                );
            }
        }
        TlsAcceptor::from(self.current.load_full())
            .accept(socket)
            .await
    }

    /// Whether the files are to be looked at again; the one who asks first does it.
    fn is_due(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let due = seen.0.elapsed() >= LOOK_EVERY;
        if due {
            seen.0 = Instant::now();
        }
        due
    }

    /// Takes new files into use.
    fn look_blocking(&self) -> Result<()> {
        let prints = prints_blocking(&self.settings);
        let is_same = |seen: &(Instant, Prints)| seen.1 == prints;
        if is_same(&self.seen.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        // Half a renewal (a certificate without its key yet) is an error, and is looked at again.
        self.current
            .store(Arc::new(configure_blocking(&self.settings)?));
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).1 = prints;
        tracing::info!("streaming: a new certificate is in use");
        Ok(())
    }
}

fn prints_blocking(settings: &StreamingTls) -> Prints {
    let files = settings
        .files
        .iter()
        .flat_map(|files| [&files.certificate, &files.key]);
    files
        .chain(&settings.client_ca)
        .map(|path| Fingerprint::of_path_blocking(path))
        .collect()
}

fn configure_blocking(settings: &StreamingTls) -> Result<ServerConfig> {
    let (chain, key) = match &settings.files {
        Some(files) => (certificates(&files.certificate)?, private_key(&files.key)?),
        None => own_certificate()?,
    };
    let builder = ServerConfig::builder();
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| unusable(path, e))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
            builder.with_client_cert_verifier(verifier.build().map_err(|e| unusable(path, e))?)
        }
    };
    builder.with_single_cert(chain, key).map_err(|e| {
        Error::invalid("streaming: the certificate and its key do not go together").caused_by(e)
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| unusable(path, e))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| unusable(path, e))
}

fn unusable(path: &Path, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::invalid(format!(
        "streaming: {} holds nothing that TLS can use",
        path.display()
    ))
    .caused_by(cause)
}

/// A certificate for this node, as clients that verify nothing (crictl, critest) take it.
fn own_certificate() -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let what = "streaming: make a certificate";
    let mut names = vec!["localhost".to_owned()];
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    names.extend(loopback.map(|ip| ip.to_string()));
    names.extend(sys::sockets::own_names());
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|e| Error::internal(what).caused_by(e))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((vec![made.cert.der().clone()], key.into()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use rustls::pki_types::ServerName;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::config::settings::TlsFiles;
    use crate::model::Kind;

    /// Bytes in the armour that files of certificates have.
    fn pem(label: &str, bytes: &[u8]) -> String {
        let text = STANDARD.encode(bytes);
        let lines: Vec<_> = text
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            lines.join("\n")
        )
    }

    /// Writes a certificate and key for localhost, and says what a client must trust for it.
    fn write(dir: &Path) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        // As renewals do it: beside, then over the old ones.
        for (name, text) in [
            ("key", pem("PRIVATE KEY", &made.signing_key.serialize_der())),
            ("crt", pem("CERTIFICATE", made.cert.der())),
        ] {
            fs::write(dir.join("new"), text).unwrap();
            fs::rename(dir.join("new"), dir.join(name)).unwrap();
        }
        made.cert.der().clone()
    }

    fn settings(dir: &Path) -> StreamingTls {
        StreamingTls {
            files: Some(TlsFiles {
                certificate: dir.join("crt"),
                key: dir.join("key"),
            }),
            client_ca: None,
        }
    }

    /// Whether a client that trusts `trusted` alone gets through.
    async fn connects(acceptor: &Arc<Acceptor>, trusted: &CertificateDer<'static>) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let client = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = TlsConnector::from(Arc::new(client)).connect(name, socket);
        let (accepted, _) = listener.accept().await.unwrap();
        let (connected, _) = futures::join!(connecting, Arc::clone(acceptor).accept(accepted));
        connected.is_ok()
    }

    fn due(acceptor: &Acceptor) {
        acceptor.seen.lock().unwrap().0 = Instant::now() - LOOK_EVERY;
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_used_for_the_next_connection_and_half_a_renewal_is_not() {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let dir = tempfile::tempdir().unwrap();
        let first = write(dir.path());
        let acceptor = Arc::new(Acceptor::new_blocking(&settings(dir.path())).unwrap());
        assert!(connects(&acceptor, &first).await);

        let second = write(dir.path());
        assert!(connects(&acceptor, &first).await, "looked at too often");
        due(&acceptor);
        assert!(connects(&acceptor, &second).await);
        assert!(!connects(&acceptor, &first).await);

        fs::write(dir.path().join("key"), "no key").unwrap();
        due(&acceptor);
        assert!(connects(&acceptor, &second).await, "the old one stays");
    }

    #[tokio::test]
    async fn files_that_hold_nothing_of_use_are_named() {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let dir = tempfile::tempdir().unwrap();
        let refused = |settings: &StreamingTls| match Acceptor::new_blocking(settings) {
            Ok(_) => panic!("accepted"),
            Err(error) => error,
        };
        let error = refused(&settings(dir.path()));
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.chain().contains("crt"), "{}", error.chain());
        write(dir.path());
        fs::write(dir.path().join("ca"), "nothing").unwrap();
        let mut with_ca = settings(dir.path());
        with_ca.client_ca = Some(dir.path().join("ca"));
        assert_eq!(refused(&with_ca).kind(), Kind::InvalidArgument);
    }

    #[tokio::test]
    async fn without_files_a_certificate_is_made_for_this_node() {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let none = StreamingTls {
            files: None,
            client_ca: None,
        };
        let acceptor = Arc::new(Acceptor::new_blocking(&none).unwrap());
        let (chain, _) = own_certificate().unwrap();
        // Made anew each time: nobody can trust it beforehand.
        assert!(!connects(&acceptor, &chain[0]).await);
    }
}
