//! Which fields and enum values a set of requests sets, by the descriptor that the build compiled.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::FieldDescriptorProto;
use prost_types::field_descriptor_proto::Type;

use crate::case::Outcome;
use crate::ensure;
use crate::generate::{self, Request};
use crate::interface::Interface;

/// The requests that are generated.
const POD: &str = ".runtime.v1.RunPodSandboxRequest";
const CONTAINER: &str = ".runtime.v1.CreateContainerRequest";

/// What is known of one field path, or of one value of an enum at a path.
#[derive(Default)]
struct Sightings {
    /// Numbers of the requests that set it.
    requests: BTreeSet<usize>,
    /// The values, as they travel.
    values: BTreeSet<Vec<u8>>,
}

/// By path, such as `RunPodSandboxRequest.config.hostname`, with ` = NAME` for a value of an enum.
type Seen = BTreeMap<String, Sightings>;

impl Interface {
    /// Every path below `message`, and whether two sightings have to differ in their value.
    fn wanted(&self, message: &str, path: &str, out: &mut BTreeMap<String, bool>) {
        let Some(description) = self.messages.get(message) else {
            return;
        };
        for field in &description.field {
            let path = format!("{path}.{}", field.name());
            match field.r#type() {
                Type::Message if !self.is_map(field) => {
                    self.wanted(field.type_name(), &path, out);
                    out.insert(path, false);
                }
                Type::Enum => {
                    if let Some(list) = self.enums.get(field.type_name()) {
                        let values = list.value.iter();
                        out.extend(values.map(|v| (format!("{path} = {}", v.name()), false)));
                    }
                }
                Type::Bool => drop(out.insert(path, false)),
                _ => drop(out.insert(path, true)),
            }
        }
    }

    /// Notes what `bytes`, a `message`, sets. An enum field without a value has its first one.
    fn read(
        &self,
        message: &str,
        mut bytes: &[u8],
        path: &str,
        request: usize,
        seen: &mut Seen,
    ) -> Outcome {
        let description = self
            .messages
            .get(message)
            .ok_or_else(|| format!("no message {message}"))?;
        let mut set = BTreeSet::new();
        while !bytes.is_empty() {
            let (number, wire) = decode_key(&mut bytes)?;
            let field = description
                .field
                .iter()
                .find(|field| field.number().unsigned_abs() == number)
                .ok_or_else(|| format!("{message} has no field {number}"))?;
            let path = format!("{path}.{}", field.name());
            set.insert(number);
            let value = match wire {
                WireType::Varint => self.varint(field, decode_varint(&mut bytes)?),
                WireType::LengthDelimited => {
                    let length = usize::try_from(decode_varint(&mut bytes)?)?;
                    let value = bytes.get(..length).ok_or("a field ends too early")?;
                    bytes.advance(length);
                    if field.r#type() == Type::Message && !self.is_map(field) {
                        self.read(field.type_name(), value, &path, request, seen)?;
                    }
                    (String::new(), value.to_vec())
                }
                other => return Err(format!("{path}: unexpected wire type {other:?}").into()),
            };
            note(seen, path + &value.0, request, value.1);
        }
        for field in &description.field {
            if field.r#type() == Type::Enum && !set.contains(&field.number().unsigned_abs()) {
                let (name, value) = self.varint(field, 0);
                note(
                    seen,
                    format!("{path}.{}{name}", field.name()),
                    request,
                    value,
                );
            }
        }
        Ok(())
    }

    /// What follows the path, and the value.
    fn varint(&self, field: &FieldDescriptorProto, number: u64) -> (String, Vec<u8>) {
        let named = self.enums.get(field.type_name()).and_then(|list| {
            let value = list
                .value
                .iter()
                .find(|value| i64::from(value.number()).cast_unsigned() == number)?;
            Some(format!(" = {}", value.name()))
        });
        (named.unwrap_or_default(), number.to_le_bytes().to_vec())
    }

    fn seen(&self, requests: &[Request]) -> Outcome<Seen> {
        let mut seen = Seen::new();
        let mut number = 0;
        for request in requests {
            number += 1;
            let bytes = request.run().encode_to_vec();
            self.read(POD, &bytes, "RunPodSandboxRequest", number, &mut seen)?;
            for container in &request.containers {
                number += 1;
                let bytes = request
                    .create(container, &format!("pod-{number}"))
                    .encode_to_vec();
                self.read(
                    CONTAINER,
                    &bytes,
                    "CreateContainerRequest",
                    number,
                    &mut seen,
                )?;
            }
        }
        Ok(seen)
    }
}

fn note(seen: &mut Seen, path: String, request: usize, value: Vec<u8>) {
    let sightings = seen.entry(path).or_default();
    sightings.requests.insert(request);
    sightings.values.insert(value);
}

/// How many fields and enum values the requests have to set.
pub(crate) fn count() -> Outcome<usize> {
    Ok(everything(&Interface::compiled()?).len())
}

fn everything(interface: &Interface) -> BTreeMap<String, bool> {
    let mut wanted = BTreeMap::new();
    interface.wanted(POD, "RunPodSandboxRequest", &mut wanted);
    interface.wanted(CONTAINER, "CreateContainerRequest", &mut wanted);
    wanted
}

/// Each field and enum value that `requests` do not set in two requests, or set twice to the same text or number.
fn lacking(requests: &[Request]) -> Outcome<Vec<String>> {
    let interface = Interface::compiled()?;
    let seen = interface.seen(requests)?;
    let none = Sightings::default();
    Ok(everything(&interface)
        .into_iter()
        .filter_map(|(path, must_differ)| {
            let found = seen.get(&path).unwrap_or(&none);
            if found.requests.len() < 2 {
                Some(format!("{path}: set by {} requests", found.requests.len()))
            } else if must_differ && found.values.len() < 2 {
                Some(format!("{path}: always set to the same value"))
            } else {
                None
            }
        })
        .collect())
}

/// The generated requests set each field in two requests, to two values, and each enum value in two.
pub(crate) fn proof() -> Outcome {
    let lacking = lacking(&generate::all())?;
    ensure(lacking.is_empty(), || {
        format!(
            "{} fields or values are not covered:\n  {}",
            lacking.len(),
            lacking.join("\n  ")
        )
    })
}

/// The proof above fails where it should.
pub(crate) fn counter_proof() -> Outcome {
    let mut requests = generate::all();
    for request in &mut requests {
        request.pod.hostname.clear();
        for container in &mut request.containers {
            container.config.stop_signal = 0;
        }
    }
    let lacking = lacking(&requests)?;
    let has = |text: &str| lacking.iter().any(|line| line.contains(text));
    ensure(
        has("RunPodSandboxRequest.config.hostname: set by 0"),
        || format!("the missing hostname was not noticed: {lacking:?}"),
    )?;
    ensure(
        has("CreateContainerRequest.config.stop_signal = SIGNAL_SIGKILL"),
        || format!("the missing signal was not noticed: {lacking:?}"),
    )
}
