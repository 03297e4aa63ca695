//! What a plugin answers to ADD: any version of it, brought to the form of version 1.0 and held to limits.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::version::CniVersion;
use crate::model::{Classify, Context, Error, Kind, Result};

/// Most interfaces, and most addresses, in one result.
const ENTRIES_MAX: usize = 256;
/// Most routes, name servers, search domains and options in one result.
const DETAILS_MAX: usize = 4096;

/// A result in the form of version 1.0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct AddResult {
    #[serde(deserialize_with = "null_as_empty")]
    pub(super) interfaces: Vec<Interface>,
    #[serde(deserialize_with = "null_as_empty")]
    pub(super) ips: Vec<IpConfig>,
    #[serde(deserialize_with = "null_as_empty")]
    pub(super) routes: Vec<Route>,
    #[serde(deserialize_with = "null_as_empty")]
    pub(super) dns: Dns,
}

/// An interface that a plugin made, in the pod or on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) mac: String,
    pub(super) sandbox: String,
    pub(super) socket_path: String,
    #[serde(rename = "pciID")]
    pub(super) pci_id: String,
}

/// An address, and the index of the interface that has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IpConfig {
    #[serde(default)]
    pub(super) interface: Option<i64>,
    /// Address and prefix length.
    pub(super) address: String,
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) gateway: String,
}

impl IpConfig {
    /// The address without its prefix length.
    pub(super) fn ip(&self) -> Result<IpAddr> {
        let malformed = || Error::internal(format!("{:?} is no address with prefix", self.address));
        let (ip, prefix) = self.address.split_once('/').ok_or_else(malformed)?;
        let ip: IpAddr = ip.parse().map_err(|_not_an_address| malformed())?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        match prefix.parse::<u8>() {
            Ok(prefix) if prefix <= longest => Ok(ip),
            _ => Err(malformed()),
        }
    }
}

/// A route in the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination with prefix length.
    pub dst: String,
    /// Next hop; empty for none.
    #[serde(
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "String::is_empty"
    )]
    pub gw: String,
    /// Whatever else the plugin says of it.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Resolver settings that a network recommends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Name servers.
    #[serde(
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(
        deserialize_with = "null_as_empty",
        skip_serializing_if = "String::is_empty"
    )]
    pub domain: String,
    /// Search domains.
    #[serde(
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub options: Vec<String>,
}

/// Plugins write `null` where they mean "none".
fn null_as_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a plugin's answer; one without a version is in the configuration's.
///
/// # Errors
/// `Internal`: no JSON object, a version that is not spoken, malformed addresses, an interface index that leads nowhere,
/// more entries than the limits allow.
pub(super) fn parse(stdout: &[u8], configured: &CniVersion) -> Result<(Value, AddResult)> {
    let what = || format!("read the result as JSON: {}", excerpt(stdout));
    let mut object: Map<String, Value> =
        serde_json::from_slice(stdout).classify(Kind::Internal, what)?;
    let answered = object.get("cniVersion").and_then(Value::as_str);
    if answered.unwrap_or_default().is_empty() {
        object.insert("cniVersion".to_owned(), configured.as_str().into());
    }
    let value = Value::Object(object);
    let result = read(&value)?;
    Ok((value, result))
}

/// Reads a result that states its version.
///
/// # Errors
/// As [`parse`].
pub(super) fn read(value: &Value) -> Result<AddResult> {
    let version = version_of(value)?;
    let result = if version.is_at_least([0, 3, 0]) {
        serde_json::from_value(value.clone()).classify(Kind::Internal, || {
            format!("read a version {version} result")
        })?
    } else {
        read_oldest(value)?
    };
    check(&result)?;
    Ok(result)
}

fn version_of(value: &Value) -> Result<CniVersion> {
    let text = value.get("cniVersion").and_then(Value::as_str);
    let version: CniVersion = text
        .unwrap_or_default()
        .parse()
        .classify(Kind::Internal, || "the result's cniVersion".to_owned())?;
    if version.is_spoken() {
        Ok(version)
    } else {
        Err(Error::internal(format!(
            "the result's cniVersion {version} is not spoken here"
        )))
    }
}

/// Before 0.3 there was one address of each family, and no interfaces.
fn read_oldest(value: &Value) -> Result<AddResult> {
    #[derive(Deserialize)]
    struct Family {
        ip: String,
        #[serde(default, deserialize_with = "null_as_empty")]
        gateway: String,
        #[serde(default, deserialize_with = "null_as_empty")]
        routes: Vec<Route>,
    }
    #[derive(Deserialize)]
    struct Oldest {
        ip4: Option<Family>,
        ip6: Option<Family>,
        #[serde(default, deserialize_with = "null_as_empty")]
        dns: Dns,
    }
    let oldest: Oldest = serde_json::from_value(value.clone())
        .classify(Kind::Internal, || "read a result older than 0.3".to_owned())?;
    let mut result = AddResult {
        dns: oldest.dns,
        ..AddResult::default()
    };
    for family in oldest.ip4.into_iter().chain(oldest.ip6) {
        result.routes.extend(family.routes);
        result.ips.push(IpConfig {
            interface: None,
            address: family.ip,
            gateway: family.gateway,
        });
    }
    Ok(result)
}

fn check(result: &AddResult) -> Result<()> {
    let dns = &result.dns;
    for (noun, count, most) in [
        ("interfaces", result.interfaces.len(), ENTRIES_MAX),
        ("addresses", result.ips.len(), ENTRIES_MAX),
        ("routes", result.routes.len(), DETAILS_MAX),
        ("name servers", dns.nameservers.len(), DETAILS_MAX),
        ("search domains", dns.search.len(), DETAILS_MAX),
        ("resolver options", dns.options.len(), DETAILS_MAX),
    ] {
        if count > most {
            return Err(Error::internal(format!(
                "the result has {count} {noun}; at most {most} are accepted"
            )));
        }
    }
    for ip in &result.ips {
        ip.ip().context(|| "the result".to_owned())?;
        if ip.interface.is_some() && owner(result, ip).is_none() {
            return Err(Error::internal(format!(
                "the result gives {} to interface {:?} of {}",
                ip.address,
                ip.interface,
                result.interfaces.len()
            )));
        }
    }
    Ok(())
}

/// The interface that an address says it belongs to.
pub(super) fn owner<'a>(result: &'a AddResult, ip: &IpConfig) -> Option<&'a Interface> {
    let index = usize::try_from(ip.interface?).ok()?;
    result.interfaces.get(index)
}

/// Brings a result to `version` (0.4.0 or later), for a plugin that is handed it back.
///
/// # Errors
/// `Internal` where it cannot be read.
pub(super) fn convert(value: &Value, version: &CniVersion) -> Result<Value> {
    if version_of(value)? == *version {
        return Ok(value.clone());
    }
    let result = read(value)?;
    let mut converted = if version_of(value)?.is_at_least([0, 3, 0]) {
        value.clone()
    } else {
        serde_json::to_value(&result).classify(Kind::Internal, || "convert a result".to_owned())?
    };
    if let Some(object) = converted.as_object_mut() {
        object.insert("cniVersion".to_owned(), version.as_str().into());
    }
    let with_family = !version.is_at_least([1, 0, 0]);
    let entries = converted.get_mut("ips").and_then(Value::as_array_mut);
    for (entry, ip) in entries.into_iter().flatten().zip(&result.ips) {
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("version");
            if with_family {
                let family = if ip.ip()?.is_ipv4() { "4" } else { "6" };
                entry.insert("version".to_owned(), family.into());
            }
        }
    }
    Ok(converted)
}

/// The beginning of some output, fit for a message.
pub(super) fn excerpt(output: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(output);
    let short: String = text.trim().chars().take(SHOWN).collect();
    format!("{short:?}")
}

#[cfg(test)]
mod tests;
