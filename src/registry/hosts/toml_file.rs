//! `hosts.toml` itself. Hosts are tried in file order, and only table headers make an entry, as containerd has it.

use std::path::Path;
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use url::Url;

use super::{Capabilities, Host, Scheme, Tls, default_upstream, duration, files, split_port};
use crate::model::{Reference, Result};

/// A file, read but not yet joined with the files it names.
#[derive(Debug)]
pub(in crate::registry) struct HostsFile {
    hosts: Vec<(Location, Entry)>,
    server: Option<Location>,
    top: Entry,
}

/// One `[host."URL"]` table, or the top of the file.
#[derive(Debug)]
struct Entry {
    capabilities: Option<Capabilities>,
    ca: Vec<String>,
    client: Vec<ClientPair>,
    skip_verify: Option<bool>,
    headers: Vec<(HeaderName, HeaderValue)>,
    dial_timeout: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Location {
    is_http: bool,
    is_port_80: bool,
    authority: String,
    path: String,
}

#[derive(Debug)]
enum ClientPair {
    OneFile(String),
    Two(String, String),
}

/// Why a file is not usable; the whole file then counts as absent.
pub(in crate::registry) type Reason = String;

/// Reads the text of a `hosts.toml`.
pub(in crate::registry) fn parse(text: &str) -> Result<HostsFile, Reason> {
    let document = DeTable::parse(text).map_err(|error| error.to_string())?;
    let table = document.get_ref();
    let top = entry(table)?;
    let server = match string(table, "server")? {
        Some(server) if !server.is_empty() => {
            Some(location(&server, flag(table, "override_path")?)?)
        }
        _ => None,
    };
    let mut hosts = Vec::new();
    if let Some(value) = table.get("host") {
        let tables = value.get_ref().as_table().ok_or("host: not a table")?;
        let mut keyed: Vec<(usize, &str, &Spanned<DeValue<'_>>)> = tables
            .iter()
            .map(|(key, value)| (key.span().start, key.get_ref().as_ref(), value))
            .filter(|(start, ..)| is_in_header(text, *start))
            .collect();
        keyed.sort_by_key(|(start, ..)| *start);
        for (_, name, value) in keyed {
            let table = value
                .get_ref()
                .as_table()
                .ok_or_else(|| format!("host {name:?}: not a table"))?;
            let host = entry(table).map_err(|reason| format!("host {name:?}: {reason}"))?;
            hosts.push((location(name, flag(table, "override_path")?)?, host));
        }
    }
    Ok(HostsFile { hosts, server, top })
}

/// Whether the key at byte `start` stands in a `[table]` header: its line begins with a bracket.
fn is_in_header(text: &str, start: usize) -> bool {
    text.get(..start)
        .and_then(|before| before.rsplit('\n').next())
        .is_some_and(|line| line.trim_start().starts_with('['))
}

fn entry(table: &DeTable<'_>) -> Result<Entry, Reason> {
    Ok(Entry {
        capabilities: capabilities(table)?,
        ca: strings(table, "ca")?,
        client: clients(table)?,
        skip_verify: match table.get("skip_verify") {
            None => None,
            Some(value) => Some(
                value
                    .get_ref()
                    .as_bool()
                    .ok_or("skip_verify: not a boolean")?,
            ),
        },
        headers: headers(table)?,
        dial_timeout: match string(table, "dial_timeout")? {
            None => None,
            Some(text) => Some(
                duration::parse(&text)
                    .ok_or_else(|| format!("dial_timeout: {text:?} is no duration"))?,
            ),
        },
    })
}

fn string(table: &DeTable<'_>, key: &str) -> Result<Option<String>, Reason> {
    match table.get(key) {
        None => Ok(None),
        Some(value) => value
            .get_ref()
            .as_str()
            .map(|text| Some(text.to_owned()))
            .ok_or_else(|| format!("{key}: not a string")),
    }
}

fn flag(table: &DeTable<'_>, key: &str) -> Result<bool, Reason> {
    match table.get(key) {
        None => Ok(false),
        Some(value) => value
            .get_ref()
            .as_bool()
            .ok_or_else(|| format!("{key}: not a boolean")),
    }
}

/// A string, or a list of strings.
fn string_list(value: &DeValue<'_>, key: &str) -> Result<Vec<String>, Reason> {
    if let Some(text) = value.as_str() {
        return Ok(vec![text.to_owned()]);
    }
    value
        .as_array()
        .ok_or_else(|| format!("{key}: neither a string nor a list"))?
        .iter()
        .map(|item| {
            item.get_ref()
                .as_str()
                .map(ToOwned::to_owned)
                .ok_or_else(|| format!("{key}: an item is not a string"))
        })
        .collect()
}

fn strings(table: &DeTable<'_>, key: &str) -> Result<Vec<String>, Reason> {
    table
        .get(key)
        .map_or(Ok(Vec::new()), |value| string_list(value.get_ref(), key))
}

fn capabilities(table: &DeTable<'_>) -> Result<Option<Capabilities>, Reason> {
    let Some(value) = table.get("capabilities") else {
        return Ok(None);
    };
    let words = value
        .get_ref()
        .as_array()
        .ok_or("capabilities: not a list")?;
    if words.iter().next().is_none() {
        return Ok(None);
    }
    let mut found = Capabilities {
        pull: false,
        resolve: false,
    };
    for word in words {
        let word = word
            .get_ref()
            .as_str()
            .ok_or("capabilities: an item is not a string")?;
        match word.to_ascii_lowercase().as_str() {
            "pull" => found.pull = true,
            "resolve" => found.resolve = true,
            "push" | "referrers" => {}
            _ => return Err(format!("capabilities: {word:?} is unknown")),
        }
    }
    Ok(Some(found))
}

fn clients(table: &DeTable<'_>) -> Result<Vec<ClientPair>, Reason> {
    let Some(value) = table.get("client") else {
        return Ok(Vec::new());
    };
    if let Some(file) = value.get_ref().as_str() {
        return Ok(vec![ClientPair::OneFile(file.to_owned())]);
    }
    let items = value
        .get_ref()
        .as_array()
        .ok_or("client: neither a string nor a list")?;
    items
        .iter()
        .map(|item| match item.get_ref().as_str() {
            Some(file) => Ok(ClientPair::OneFile(file.to_owned())),
            None => match <[String; 2]>::try_from(string_list(item.get_ref(), "client")?) {
                Ok([certificate, key]) => Ok(ClientPair::Two(certificate, key)),
                Err(_wrong_count) => Err("client: a pair needs a certificate and a key".to_owned()),
            },
        })
        .collect()
}

fn headers(table: &DeTable<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, Reason> {
    let Some(value) = table.get("header") else {
        return Ok(Vec::new());
    };
    let table = value.get_ref().as_table().ok_or("header: not a table")?;
    let mut found = Vec::new();
    for (name, value) in table {
        let text = name.get_ref().as_ref();
        let name = HeaderName::from_bytes(text.as_bytes())
            .map_err(|_malformed| format!("header {text:?}: not a header name"))?;
        for item in string_list(value.get_ref(), text)? {
            let mut item = HeaderValue::from_str(&item)
                .map_err(|_malformed| format!("header {text:?}: not a header value"))?;
            item.set_sensitive(true);
            found.push((name.clone(), item));
        }
    }
    Ok(found)
}

fn location(text: &str, override_path: bool) -> Result<Location, Reason> {
    let full = if text.starts_with("http") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let url = Url::parse(&full).map_err(|error| format!("{text:?}: {error}"))?;
    let is_http = match url.scheme() {
        "http" => true,
        "https" => false,
        other => {
            return Err(format!(
                "{text:?}: scheme {other:?} is neither http nor https"
            ));
        }
    };
    let host = url.host_str().ok_or_else(|| format!("{text:?}: no host"))?;
    // `url` drops a scheme's default port, but whether the file named one matters below.
    let named = full
        .split_once("://")
        .map_or("", |(_, rest)| rest)
        .split(['/', '?', '#'])
        .next()
        .and_then(|authority| split_port(authority).1);
    let path = url.path().trim_end_matches('/');
    let path = if override_path || path.ends_with("/v2") {
        path.to_owned()
    } else {
        format!("{path}/v2")
    };
    Ok(Location {
        is_http,
        is_port_80: named == Some("80"),
        authority: match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        },
        path,
    })
}

impl Entry {
    /// The host at `location` with these settings.
    fn to_host(&self, location: &Location, directory: &Path) -> Result<Host> {
        let has_tls_settings =
            !self.ca.is_empty() || !self.client.is_empty() || self.skip_verify.is_some();
        let scheme = match (location.is_http, has_tls_settings, location.is_port_80) {
            (false, ..) => Scheme::Https,
            (true, true, false) => Scheme::HttpsThenHttp,
            (true, ..) => Scheme::Http,
        };
        Ok(Host {
            scheme,
            authority: location.authority.clone(),
            path: location.path.clone(),
            capabilities: self.capabilities.unwrap_or(Capabilities::ALL),
            tls: self.tls(directory)?,
            headers: self.headers.clone(),
            dial_timeout: self.dial_timeout,
            is_named: true,
        })
    }

    fn tls(&self, directory: &Path) -> Result<Tls> {
        let ca = self
            .ca
            .iter()
            .map(|path| files::read_pem(directory, path))
            .collect::<Result<_>>()?;
        let client = self
            .client
            .iter()
            .map(|pair| match pair {
                ClientPair::OneFile(path) => files::read_pem(directory, path),
                ClientPair::Two(certificate, key) => files::read_pair(directory, certificate, key),
            })
            .collect::<Result<_>>()?;
        Ok(Tls {
            ca,
            client,
            skip_verify: self.skip_verify.unwrap_or(false),
        })
    }
}

impl HostsFile {
    /// All hosts in the order in which they are asked: the tables, then `server`, or in its absence the reference's
    /// own registry with every capability.
    ///
    /// # Errors
    /// `FailedPrecondition` where a named certificate or key file cannot be used.
    pub(super) fn into_hosts(self, directory: &Path, reference: &Reference) -> Result<Vec<Host>> {
        let mut hosts = Vec::with_capacity(self.hosts.len().saturating_add(1));
        for (location, entry) in &self.hosts {
            hosts.push(entry.to_host(location, directory)?);
        }
        hosts.push(match &self.server {
            Some(server) => self.top.to_host(server, directory)?,
            None => self.default_upstream(directory, reference)?,
        });
        Ok(hosts)
    }

    fn default_upstream(&self, directory: &Path, reference: &Reference) -> Result<Host> {
        let mut host = default_upstream(reference);
        let tls = self.top.tls(directory)?;
        host.tls.ca = tls.ca;
        host.tls.client = tls.client;
        if let Some(skip_verify) = self.top.skip_verify {
            host.tls.skip_verify = skip_verify;
        }
        host.headers.clone_from(&self.top.headers);
        host.dial_timeout = self.top.dial_timeout;
        // `_default` is for whatever a reference names.
        host.is_named = directory.file_name().is_none_or(|name| name != "_default");
        Ok(host)
    }
}
