//! The rules of `[streaming]`.

use super::rules::Rules;
use super::settings::{Streaming, StreamingTls, TlsFiles};
use super::{file, units::Span};

impl Rules {
    pub(super) fn streaming(&mut self, file: &file::Streaming) -> Streaming {
        let idle = file.idle_timeout.0;
        if !idle.is_zero() && file.idle_timeout < Span::seconds(1) {
            self.broken(
                "streaming.idle_timeout",
                "must be at least 1s, or 0s for none",
            );
        }
        Streaming {
            address: file.address,
            port: file.port,
            tls: self.streaming_tls(file),
            creation_timeout: self.span(
                "streaming.creation_timeout",
                file.creation_timeout,
                Span::seconds(1),
            ),
            idle_timeout: (!idle.is_zero()).then_some(idle),
            max_streams: self.count("streaming.max_streams", file.max_streams),
        }
    }

    fn streaming_tls(&mut self, file: &file::Streaming) -> Option<StreamingTls> {
        let mut path = |key, path: &Option<_>| self.optional_absolute(key, path.as_ref());
        let certificate = path("streaming.tls_cert_file", &file.tls_cert_file);
        let key = path("streaming.tls_key_file", &file.tls_key_file);
        let client_ca = path("streaming.tls_client_ca_file", &file.tls_client_ca_file);
        if !file.tls {
            for (name, path) in [
                ("streaming.tls_cert_file", &certificate),
                ("streaming.tls_key_file", &key),
                ("streaming.tls_client_ca_file", &client_ca),
            ] {
                if path.is_some() {
                    self.broken(name, "has no effect without streaming.tls = true");
                }
            }
            return None;
        }
        let files = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                self.broken(
                    "streaming.tls_cert_file",
                    "needs streaming.tls_key_file beside it",
                );
                None
            }
            (None, Some(_)) => {
                self.broken(
                    "streaming.tls_key_file",
                    "needs streaming.tls_cert_file beside it",
                );
                None
            }
        };
        Some(StreamingTls { files, client_ca })
    }
}

impl Streaming {
    /// What is allowed and yet worth a word.
    pub(super) fn warn(&self, out: &mut Vec<String>) {
        if !self.address.is_loopback() && self.tls.is_none() {
            out.push(format!(
                "streaming.address {}: whoever sees the traffic of this port can read tokens and streams; listen on the loopback, or use streaming.tls",
                self.address
            ));
        }
        let Some(tls) = &self.tls else { return };
        if tls.client_ca.is_some() {
            out.push("streaming.tls_client_ca_file: the kubelet shows no certificate, so exec, attach and port-forward through it will fail".to_owned());
        }
        if tls.files.is_none() {
            out.push("streaming.tls: the kubelet trusts the node's own store only, so a self-signed certificate fails there; name one with streaming.tls_cert_file".to_owned());
        }
    }
}
