//! CRI messages as Go's `encoding/json` writes them, which is how they stand in containerd's records (behaviour-pods
//! §8.2.1, trap 58) and in the verbose info that tools read.
//!
//! It is not protobuf's JSON: keys are the interface's own names, zero values are left out, enums and 64-bit numbers are
//! numbers, a wrapper is `{"value":n}`, maps are sorted, and `<`, `>`, `&` are escaped in strings. `build.rs` puts the
//! rules below on every field. Keys that we do not know are ignored, and `null` reads as zero.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::ser::Formatter;

use crate::model::{Classify, Kind, Result};

/// Encodes `message`.
///
/// # Errors
/// `Internal` where a value cannot be written as JSON.
pub fn encode<T: Serialize>(message: &T) -> Result<String> {
    let what = || format!("write {} as JSON", short_name::<T>());
    let mut bytes = Vec::with_capacity(512);
    message
        .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Go))
        .classify(Kind::Internal, what)?;
    String::from_utf8(bytes).classify(Kind::Internal, what)
}

/// Decodes what [`encode`] or Go wrote.
///
/// # Errors
/// `Internal` where `text` is not JSON or a value has another type: records are ours or containerd's.
pub fn decode<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).classify(Kind::Internal, || {
        format!("read {} from JSON", short_name::<T>())
    })
}

fn short_name<T>() -> &'static str {
    let full = std::any::type_name::<T>();
    full.rsplit("::").next().unwrap_or(full)
}

/// Compact JSON with Go's escapes on top of the mandatory ones.
struct Go;

impl Formatter for Go {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let special = |c: char| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        let mut rest = fragment;
        while let Some((before, found)) =
            rest.find(special).and_then(|at| rest.split_at_checked(at))
        {
            writer.write_all(before.as_bytes())?;
            let mut after = found.chars();
            if let Some(c) = after.next() {
                write!(writer, "\\u{:04x}", u32::from(c))?;
            }
            rest = after.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        write!(writer, "{value}")
    }
}

/// Whether a field is left out.
pub(super) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads a field; `null` is its zero.
pub(super) fn or_zero<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// `KeyValue.value`: bytes on the wire, but a plain string in every record. What is not UTF-8 becomes U+FFFD.
pub(super) mod text {
    use serde::{Deserializer, Serializer};

    pub(in crate::wire) fn serialize<S: Serializer>(
        bytes: &[u8],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(bytes))
    }

    pub(in crate::wire) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        super::or_zero(deserializer).map(String::into_bytes)
    }
}

/// Any other bytes: base64 with padding.
pub(super) mod base64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::de::Error as _;
    use serde::{Deserializer, Serializer};

    pub(in crate::wire) fn serialize<S: Serializer>(
        bytes: &[u8],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(in crate::wire) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text: String = super::or_zero(deserializer)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::wire::cri;

    fn pod() -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "web".into(),
                uid: "u-1".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            log_directory: "/var/log/pods/x".into(),
            dns_config: Some(cri::DnsConfig::default()),
            port_mappings: vec![cri::PortMapping {
                protocol: cri::Protocol::Udp.into(),
                container_port: 53,
                ..Default::default()
            }],
            labels: BTreeMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]),
            annotations: BTreeMap::from([("html".into(), "<b>&\u{2028}\"\n".into())]),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: "/kubepods".into(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(cri::NamespaceOption {
                        pid: cri::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    run_as_user: Some(cri::Int64Value { value: 1000 }),
                    run_as_group: Some(cri::Int64Value { value: 0 }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_pod_is_written_as_go_writes_it() {
        assert_eq!(
            encode(&pod()).unwrap(),
            concat!(
                r#"{"metadata":{"name":"web","uid":"u-1","namespace":"default"},"log_directory":"/var/log/pods/x","#,
                r#""dns_config":{},"port_mappings":[{"protocol":1,"container_port":53}],"labels":{"a":"1","b":"2"},"#,
                r#""annotations":{"html":"\u003cb\u003e\u0026\u2028\"\n"},"linux":{"cgroup_parent":"/kubepods","#,
                r#""security_context":{"namespace_options":{"pid":1},"run_as_user":{"value":1000},"#,
                r#""run_as_group":{}}}}"#
            )
        );
    }

    #[test]
    fn names_that_are_not_snake_case_stay_as_the_interface_spells_them() {
        let config = cri::ContainerConfig {
            envs: vec![cri::KeyValue {
                key: "K".into(),
                value: b"v\xff".to_vec(),
            }],
            mounts: vec![cri::Mount {
                uid_mappings: vec![cri::IdMapping {
                    host_id: 1,
                    container_id: 0,
                    length: 2,
                }],
                ..Default::default()
            }],
            cdi_devices: vec![cri::CdiDevice {
                name: "v/c=d".into(),
            }],
            ..Default::default()
        };

        assert_eq!(
            encode(&config).unwrap(),
            concat!(
                r#"{"envs":[{"key":"K","value":"v"#,
                "\u{fffd}",
                r#""}],"mounts":[{"uidMappings":[{"host_id":1,"length":2}]}],"CDI_devices":[{"name":"v/c=d"}]}"#
            )
        );
    }

    #[test]
    fn what_was_written_reads_back() {
        let text = encode(&pod()).unwrap();

        assert_eq!(decode::<cri::PodSandboxConfig>(&text).unwrap(), pod());
    }

    #[test]
    fn unknown_keys_are_ignored_and_null_is_zero() {
        let text = r#"{"metadata":{"name":"web","later":[1]},"labels":null,"linux":null,"hostname":null,"x":{}}"#;

        let read: cri::PodSandboxConfig = decode(text).unwrap();

        assert_eq!(read.metadata.unwrap().name, "web");
        assert!(read.labels.is_empty() && read.linux.is_none());
    }

    #[test]
    fn whole_floats_have_no_fraction_and_other_bytes_are_base64() {
        let psi = cri::PsiData {
            total: 1,
            avg10: 2.0,
            avg60: 0.25,
            avg300: 0.0,
        };
        let output = cri::ExecSyncResponse {
            stdout: b"hi".to_vec(),
            ..Default::default()
        };

        assert_eq!(
            encode(&psi).unwrap(),
            r#"{"Total":1,"Avg10":2,"Avg60":0.25}"#
        );
        assert_eq!(encode(&output).unwrap(), r#"{"stdout":"aGk="}"#);
        assert_eq!(
            decode::<cri::ExecSyncResponse>(r#"{"stdout":"aGk="}"#).unwrap(),
            output
        );
    }

    #[test]
    fn a_value_of_another_type_is_an_error() {
        let read = decode::<cri::PodSandboxConfig>(r#"{"metadata":{"attempt":"1"}}"#);

        assert_eq!(read.unwrap_err().kind(), Kind::Internal);
    }
}
