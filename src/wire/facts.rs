//! Holds the compiled interface against `proto/cri-v1-facts.txt`, line for line and in both directions.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, ServiceDescriptorProto,
};

const FACTS: &str = include_str!("../../proto/cri-v1-facts.txt");
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
const PACKAGE: &str = "runtime.v1";

/// Everything the facts say, one sorted line a fact: `Mount.5 MountPropagation propagation`.
fn wanted() -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    let mut scope = String::new();
    for line in FACTS.lines() {
        let indented = line.starts_with(' ');
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line
            .split_whitespace()
            .filter(|word| !word.starts_with("+1."))
            .collect();
        match words.as_slice() {
            [] => {}
            ["service" | "message", name, ..] if !indented => {
                scope = (*name).to_owned();
                facts.insert(words[0].to_owned() + " " + name);
            }
            ["enum", name, values @ ..] => {
                let outer = if indented {
                    format!("{scope}.")
                } else {
                    String::new()
                };
                let name = name.trim_end_matches(':');
                facts.insert(format!("enum {outer}{name}"));
                for value in values {
                    facts.insert(format!(
                        "enum {outer}{name} {}",
                        value.trim_end_matches(',')
                    ));
                }
            }
            fact => {
                facts.insert(format!("{scope}.{}", fact.join(" ")));
            }
        }
    }
    facts
}

fn file() -> FileDescriptorProto {
    FileDescriptorSet::decode(DESCRIPTORS)
        .unwrap()
        .file
        .into_iter()
        .find(|file| file.package() == PACKAGE)
        .unwrap()
}

/// The same lines, from what the build compiled.
fn compiled(file: &FileDescriptorProto) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for service in &file.service {
        service_facts(service, &mut facts);
    }
    for message in &file.message_type {
        message_facts(message, &mut facts);
    }
    for list in &file.enum_type {
        enum_facts("", list, &mut facts);
    }
    facts
}

fn service_facts(service: &ServiceDescriptorProto, facts: &mut BTreeSet<String>) {
    facts.insert(format!("service {}", service.name()));
    for rpc in &service.method {
        let stream = |on: bool| if on { "stream " } else { "" };
        facts.insert(format!(
            "{}.{}({}{}) -> {}{}",
            service.name(),
            rpc.name(),
            stream(rpc.client_streaming()),
            local(rpc.input_type()),
            stream(rpc.server_streaming()),
            local(rpc.output_type()),
        ));
    }
}

fn message_facts(message: &DescriptorProto, facts: &mut BTreeSet<String>) {
    facts.insert(format!("message {}", message.name()));
    for field in &message.field {
        let deprecated = field
            .options
            .as_ref()
            .is_some_and(|options| options.deprecated());
        facts.insert(format!(
            "{}.{} {} {}{}{}",
            message.name(),
            field.number(),
            field_type(message, field),
            field.name(),
            if deprecated { " DEPRECATED" } else { "" },
            if field.oneof_index.is_some() {
                " oneof"
            } else {
                ""
            },
        ));
    }
    for list in &message.enum_type {
        enum_facts(&format!("{}.", message.name()), list, facts);
    }
    for nested in message
        .nested_type
        .iter()
        .filter(|nested| map_entry(nested).is_none())
    {
        message_facts(nested, facts);
    }
}

fn enum_facts(outer: &str, list: &EnumDescriptorProto, facts: &mut BTreeSet<String>) {
    facts.insert(format!("enum {outer}{}", list.name()));
    for value in &list.value {
        facts.insert(format!(
            "enum {outer}{} {}={}",
            list.name(),
            value.name(),
            value.number()
        ));
    }
}

/// Key and value of a message that stands for a map's entry.
fn map_entry(message: &DescriptorProto) -> Option<[&FieldDescriptorProto; 2]> {
    let is_entry = message
        .options
        .as_ref()
        .is_some_and(|options| options.map_entry());
    match message.field.as_slice() {
        [key, value] if is_entry => Some([key, value]),
        _ => None,
    }
}

fn field_type(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let entry = message
        .nested_type
        .iter()
        .filter(|nested| {
            field
                .type_name()
                .ends_with(&format!(".{}.{}", message.name(), nested.name()))
        })
        .find_map(map_entry);
    match entry {
        Some([key, value]) => format!("map<{},{}>", scalar(key), scalar(value)),
        None if field.label() == Label::Repeated => format!("rep {}", scalar(field)),
        None => scalar(field),
    }
}

fn scalar(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => local(field.type_name()).to_owned(),
        other => other
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
    }
}

/// The last part of a full type name.
fn local(full: &str) -> &str {
    full.rsplit('.').next().unwrap_or(full)
}

#[test]
fn the_compiled_interface_has_every_fact_and_no_other() {
    let (wanted, compiled) = (wanted(), compiled(&file()));

    let missing: Vec<_> = wanted.difference(&compiled).collect();
    let extra: Vec<_> = compiled.difference(&wanted).collect();

    assert!(
        missing.is_empty() && extra.is_empty(),
        "missing from the proto: {missing:#?}\nnot among the facts: {extra:#?}"
    );
}

#[test]
fn the_interface_has_the_size_of_kubernetes_1_37() {
    let file = file();
    let rpcs: usize = file.service.iter().map(|s| s.method.len()).sum();
    let fields: usize = file.message_type.iter().map(|m| m.field.len()).sum();

    assert_eq!(
        (rpcs, file.message_type.len(), fields, file.enum_type.len()),
        (43, 175, 478, 10)
    );
}

#[test]
fn the_facts_tell_a_changed_interface_apart() {
    let mut changed = file();
    let mount = changed
        .message_type
        .iter_mut()
        .find(|message| message.name() == "Mount")
        .unwrap();
    mount.field[0].number = Some(100);

    assert_ne!(wanted(), compiled(&changed));
}
