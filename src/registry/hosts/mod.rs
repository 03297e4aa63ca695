//! Which hosts serve a reference, in which order and how: `hosts.toml` directories as containerd reads them, and the
//! defaults without one. Blocking file reads; callers keep them off the workers.
//!
//! ```text
//! root 1: <name>_<port>_/, <host>/, _default/     the first directory that exists wins,
//! root 2: ...                                     and a whole root goes before the next
//! directory: hosts.toml, else *.crt and *.cert + *.key, else nothing special
//! ```

mod duration;
mod files;
pub(super) mod toml_file;

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};

use crate::model::{Reference, Result};

/// How to speak to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// TLS only.
    Https,
    /// Plain only.
    Http,
    /// TLS first, plain where the other side does not speak TLS; what worked sticks.
    HttpsThenHttp,
}

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// Serve content by digest.
    pub(super) pull: bool,
    /// Say what a tag names.
    pub(super) resolve: bool,
}

impl Capabilities {
    pub(super) const ALL: Self = Self {
        pull: true,
        resolve: true,
    };
}

/// TLS settings of a host, files already read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Tls {
    /// PEM bundles that are trusted beside the system's.
    pub(super) ca: Vec<Vec<u8>>,
    /// PEM files with certificate and key.
    pub(super) client: Vec<Vec<u8>>,
    /// No verification at all.
    pub(super) skip_verify: bool,
}

/// One endpoint that may serve a reference.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) scheme: Scheme,
    /// `host[:port]`.
    pub(super) authority: String,
    /// Root of the registry API on it, e.g. `/v2`.
    pub(super) path: String,
    pub(super) capabilities: Capabilities,
    pub(super) tls: Tls,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) dial_timeout: Option<Duration>,
    /// An operator's file leads to it; else the reference alone does.
    pub(super) is_named: bool,
}

impl Host {
    /// Scheme and authority, as people know it. Where plain HTTP is the fallback, the file says `http`.
    pub(super) fn name(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Https => "https",
            Scheme::Http | Scheme::HttpsThenHttp => "http",
        };
        format!("{scheme}://{}", self.authority)
    }
}

/// The hosts to ask about `reference`, in order. Never empty.
///
/// # Errors
/// `FailedPrecondition` where a certificate or key file that the configuration names cannot be used.
pub(super) fn for_reference(roots: &[PathBuf], reference: &Reference) -> Result<Vec<Host>> {
    match directory(roots, reference.domain()) {
        Some(directory) => from_directory(&directory, reference),
        None => Ok(vec![default_upstream(reference)]),
    }
}

fn directory(roots: &[PathBuf], domain: &str) -> Option<PathBuf> {
    let mut names = Vec::with_capacity(3);
    if let Some((name, port)) = domain.rsplit_once(':')
        && !port.contains(']')
    {
        names.push(format!("{name}_{port}_"));
    }
    names.push(domain.to_owned());
    names.push("_default".to_owned());
    roots
        .iter()
        .flat_map(|root| names.iter().map(move |name| root.join(name)))
        .find(|candidate| candidate.is_dir())
}

fn from_directory(directory: &Path, reference: &Reference) -> Result<Vec<Host>> {
    let file = directory.join("hosts.toml");
    let parsed = match std::fs::read_to_string(&file) {
        Ok(text) if text.trim().is_empty() => None,
        Ok(text) => match toml_file::parse(&text) {
            Ok(parsed) => Some(parsed),
            Err(reason) => {
                tracing::error!(path = %file.display(), %reason, "hosts.toml is not usable: its mirrors are off");
                None
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::error!(path = %file.display(), %error, "hosts.toml cannot be read: its mirrors are off");
            None
        }
    };
    let Some(parsed) = parsed else {
        let mut upstream = default_upstream(reference);
        let tls = files::docker_style(directory)?;
        upstream.tls.ca = tls.ca;
        upstream.tls.client = tls.client;
        return Ok(vec![upstream]);
    };
    parsed.into_hosts(directory, reference)
}

/// Every `hosts.toml` below `roots` that pulls do without or fail on, with the reason. A file that cannot be parsed turns
/// its mirrors off without stopping a pull, so nobody would notice.
pub fn broken_files_blocking(roots: &[PathBuf]) -> Vec<(PathBuf, String)> {
    let mut broken = Vec::new();
    for root in roots {
        let Ok(entries) = std::fs::read_dir(root) else {
            continue;
        };
        for directory in entries.flatten().map(|entry| entry.path()) {
            let file = directory.join("hosts.toml");
            if let Some(reason) = fault(&directory, &file) {
                broken.push((file, reason));
            }
        }
    }
    broken.sort();
    broken
}

fn fault(directory: &Path, file: &Path) -> Option<String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => return None,
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(error.to_string()),
    };
    let parsed = match toml_file::parse(&text) {
        Ok(parsed) => parsed,
        Err(reason) => return Some(reason.to_string()),
    };
    // Which repository it is makes no difference to the certificates and keys that the file names.
    let any = "host.invalid/name:tag".parse().ok()?;
    parsed
        .into_hosts(directory, &any)
        .err()
        .map(|error| error.chain())
}

/// The host that a reference names itself.
fn default_upstream(reference: &Reference) -> Host {
    let authority = reference.endpoint().to_owned();
    let (name, port) = split_port(&authority);
    let (scheme, skip_verify) = if is_loopback(name) {
        match port {
            None | Some("443") => (Scheme::Https, true),
            Some("80") => (Scheme::Http, true),
            Some(_) => (Scheme::HttpsThenHttp, true),
        }
    } else {
        (Scheme::Https, false)
    };
    Host {
        scheme,
        authority,
        path: "/v2".to_owned(),
        capabilities: Capabilities::ALL,
        tls: Tls {
            skip_verify,
            ..Tls::default()
        },
        headers: Vec::new(),
        dial_timeout: None,
        is_named: false,
    }
}

/// Splits `host[:port]`; brackets of an IPv6 address stay with the host.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (authority, None),
    }
}

/// Whether a host name is this machine by its text alone: no lookup is made.
pub(super) fn is_loopback(name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
