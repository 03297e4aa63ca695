//! TLS in front of a collector, with a certificate that nobody trusts who was not told of it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::case::Outcome;

/// Makes a certificate for localhost, writes it to `file`, and answers what speaks with it. `protocol` is what follows
/// (RFC 7301).
pub(super) fn acceptor(file: &Path, protocol: &str) -> Outcome<TlsAcceptor> {
    let made = rcgen::generate_simple_self_signed([String::from("localhost")])?;
    let text = STANDARD.encode(made.cert.der());
    let lines: Vec<_> = text.as_bytes().chunks(64).collect();
    let text = String::from_utf8(lines.join(&b'\n'))?;
    fs::write(
        file,
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"),
    )?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    config.alpn_protocols = vec![protocol.into()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Passes on what comes in TLS to `behind`, until it is dropped. Whoever does not like the certificate goes.
pub(super) async fn in_front_of(
    behind: &str,
    listener: TcpListener,
    acceptor: TlsAcceptor,
) -> Outcome {
    loop {
        let (stream, _) = listener.accept().await?;
        let Ok(mut stream) = acceptor.accept(stream).await else {
            continue;
        };
        // One connection at a time is all that one client makes.
        let mut plain = TcpStream::connect(behind).await?;
        drop(copy_bidirectional(&mut stream, &mut plain).await);
    }
}
