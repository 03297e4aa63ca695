//! The way to the collector.

use std::time::Duration;

use opentelemetry_otlp::{
    SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use tonic::transport::{Certificate, ClientTlsConfig};

use super::settings::{Protocol, Settings};
use crate::model::{Classify as _, Kind, Result};

/// How long it may take to reach the collector.
const CONNECT: Duration = Duration::from_secs(5);
/// Largest file of certificates.
const CERTIFICATE_BYTES: u64 = 1 << 20;

/// What sends spans as `settings` say. Connects to nobody yet; needs a running tokio runtime.
///
/// # Errors
/// `InvalidArgument` where a variable that the exporter reads by itself is wrong, or the certificate cannot be read.
pub(super) fn exporter_blocking(settings: &Settings) -> Result<SpanExporter> {
    let certificate = certificate_blocking(settings)?;
    match settings.protocol {
        Protocol::Http => {
            let mut client = reqwest::Client::builder()
                .connect_timeout(CONNECT)
                // Whom a redirect names has nothing to do with what the operator named.
                .redirect(reqwest::redirect::Policy::none());
            if let Some(pem) = &certificate {
                let found = reqwest::Certificate::from_pem_bundle(pem)
                    .classify(Kind::InvalidArgument, || {
                        "the certificate for the collector of traces".into()
                    })?;
                client = client.tls_certs_merge(found);
            }
            let client = client.build().classify(Kind::InvalidArgument, || {
                "make a client for the collector of traces".into()
            })?;
            SpanExporter::builder()
                .with_http()
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_http_client(client)
                .with_endpoint(&settings.endpoint)
                .build()
        }
        Protocol::Grpc => {
            let mut builder = SpanExporter::builder()
                .with_tonic()
                .with_endpoint(&settings.endpoint);
            if settings.endpoint.starts_with("https:") {
                let mut tls = ClientTlsConfig::new().with_native_roots();
                if let Some(pem) = &certificate {
                    tls = tls.ca_certificate(Certificate::from_pem(pem));
                }
                builder = builder.with_tls_config(tls);
            }
            builder.build()
        }
    }
    .classify(Kind::InvalidArgument, || {
        "traces: the OTEL_EXPORTER_OTLP_ variables".into()
    })
}

fn certificate_blocking(settings: &Settings) -> Result<Option<Vec<u8>>> {
    use std::io::Read as _;

    let Some(path) = &settings.certificate else {
        return Ok(None);
    };
    let read = || {
        let mut pem = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(CERTIFICATE_BYTES).read_to_end(&mut pem)?;
        std::io::Result::Ok(pem)
    };
    let pem = read().classify(Kind::InvalidArgument, || {
        format!("OTEL_EXPORTER_OTLP_CERTIFICATE: read {}", path.display())
    })?;
    Ok(Some(pem))
}
