//! Values for every field, as they travel: appended to an encoded request they are merged into it (protobuf, "Last One
//! Wins").

use prost::Message as _;
use prost_types::FieldDescriptorProto;
use prost_types::field_descriptor_proto::{Label, Type};

use super::cri;
use super::interface::{Interface, PACKAGE};

/// Bytes to append to a request: without the field, and with each of its values.
pub(crate) struct Tried {
    pub(crate) without: Vec<u8>,
    pub(crate) with: Vec<Vec<u8>>,
}

impl Interface {
    /// Every field below a message by its path, with values for it.
    pub(crate) fn fields(&self, message: &str) -> Vec<(String, Tried)> {
        let mut found = Vec::new();
        self.collect(
            &format!("{PACKAGE}.{message}"),
            message,
            &|bytes| bytes,
            &mut found,
        );
        found
    }

    /// `wrap` makes bytes of the whole request out of bytes of this message.
    fn collect(
        &self,
        message: &str,
        path: &str,
        wrap: &dyn Fn(Vec<u8>) -> Vec<u8>,
        found: &mut Vec<(String, Tried)>,
    ) {
        let description = self.messages.get(message).expect("a message");
        for field in &description.field {
            let path = format!("{path}.{}", field.name());
            let number = field.number().unsigned_abs();
            let is_list = field.label() == Label::Repeated;
            let with = if field.r#type() == Type::Message && !self.is_map(field) {
                let least = if is_list {
                    template(field.type_name())
                } else {
                    Vec::new()
                };
                let deeper =
                    |bytes: Vec<u8>| wrap(nested(number, &[least.as_slice(), &bytes].concat()));
                self.collect(field.type_name(), &path, &deeper, found);
                if !is_list {
                    continue;
                }
                vec![deeper(Vec::new())]
            } else {
                self.values(field).into_iter().map(wrap).collect()
            };
            let without = wrap(Vec::new());
            found.push((path, Tried { without, with }));
        }
    }

    /// The field, encoded with each of the values that are tried.
    fn values(&self, field: &FieldDescriptorProto) -> Vec<Vec<u8>> {
        let number = field.number().unsigned_abs();
        match field.r#type() {
            Type::Message => [
                ("x7", "8"),
                ("net.ipv4.tcp_syncookies", "0"),
                ("memory.high", "9"),
            ]
            .map(|(key, value)| {
                let entry = [nested(1, key.as_bytes()), nested(2, value.as_bytes())].concat();
                nested(number, &entry)
            })
            .to_vec(),
            Type::String | Type::Bytes => [
                "x7",
                "/x7",
                "KEY=7",
                "7",
                "NET_ADMIN",
                "CHOWN",
                "localhost/x7",
                "v.io/c=x7",
            ]
            .map(|text| nested(number, text.as_bytes()))
            .to_vec(),
            Type::Bool => vec![scalar(number, 1)],
            Type::Enum => {
                let list = self.enums.get(field.type_name()).expect("an enum");
                let numbers = list.value.iter().map(|value| value.number());
                numbers
                    .filter(|value| *value != 0)
                    .map(|value| scalar(number, u64::from(value.unsigned_abs())))
                    .collect()
            }
            _ => [7, 1_000, 64 << 20]
                .map(|value| scalar(number, value))
                .to_vec(),
        }
    }
}

/// The least that an element of a list must say.
fn template(message: &str) -> Vec<u8> {
    let name = message.rsplit('.').next().unwrap_or_default();
    match name {
        "Mount" => cri::Mount {
            container_path: "/m".into(),
            host_path: "/src".into(),
            ..Default::default()
        }
        .encode_to_vec(),
        "Device" => cri::Device {
            container_path: "/dev/d".into(),
            host_path: "/dev/null".into(),
            permissions: "r".into(),
        }
        .encode_to_vec(),
        "KeyValue" => cri::KeyValue {
            key: "K".into(),
            value: b"v".to_vec(),
        }
        .encode_to_vec(),
        "PortMapping" => cri::PortMapping {
            container_port: 80,
            host_port: 8080,
            ..Default::default()
        }
        .encode_to_vec(),
        "HugepageLimit" => cri::HugepageLimit {
            page_size: "2MB".into(),
            limit: 4 << 20,
        }
        .encode_to_vec(),
        "CDIDevice" => cri::CdiDevice {
            name: "vendor.com/class=a".into(),
        }
        .encode_to_vec(),
        _ => Vec::new(),
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7F).expect("seven bits") | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("seven bits"));
    bytes
}

fn scalar(number: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(number) << 3), varint(value)].concat()
}

fn nested(number: u32, bytes: &[u8]) -> Vec<u8> {
    let length = u64::try_from(bytes.len()).expect("a length");
    [
        varint(u64::from(number) << 3 | 2),
        varint(length),
        bytes.to_vec(),
    ]
    .concat()
}
