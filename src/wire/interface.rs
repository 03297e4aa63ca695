//! The compiled interface as data, for tests that go through every field: those of this crate and the parity run.

use std::collections::BTreeMap;

use prost::{DecodeError, Message as _};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
pub(crate) const PACKAGE: &str = ".runtime.v1";

/// The interface's messages and enums by their full name.
pub(crate) struct Interface {
    pub(crate) messages: BTreeMap<String, DescriptorProto>,
    pub(crate) enums: BTreeMap<String, EnumDescriptorProto>,
}

impl Interface {
    /// What the build compiled.
    pub(crate) fn compiled() -> Result<Self, DecodeError> {
        let mut found = Self {
            messages: BTreeMap::new(),
            enums: BTreeMap::new(),
        };
        for file in FileDescriptorSet::decode(DESCRIPTORS)?.file {
            let scope = format!(".{}", file.package());
            if scope == PACKAGE {
                for message in file.message_type {
                    found.add(&scope, message);
                }
                for list in file.enum_type {
                    found.enums.insert(format!("{scope}.{}", list.name()), list);
                }
            }
        }
        Ok(found)
    }

    fn add(&mut self, scope: &str, message: DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for list in &message.enum_type {
            self.enums
                .insert(format!("{name}.{}", list.name()), list.clone());
        }
        for inner in message.nested_type.clone() {
            self.add(&name, inner);
        }
        self.messages.insert(name, message);
    }

    /// A map is one field: its keys are data.
    pub(crate) fn is_map(&self, field: &FieldDescriptorProto) -> bool {
        let message = self.messages.get(field.type_name());
        message.is_some_and(|message| message.options.as_ref().is_some_and(|o| o.map_entry()))
    }
}
