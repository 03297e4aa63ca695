//! The OCI spec's words for things, which are also the protocol's.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::{Error, Result};

/// The word that the spec's JSON has for `value`; empty where it is none.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        _ => String::new(),
    }
}

/// What `text` means as a `what`.
///
/// # Errors
/// `InvalidArgument` for a word that the spec does not have.
pub(super) fn meaning<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_value(Value::String(text.to_owned()))
        .map_err(|_unknown| Error::invalid(format!("{what} {text:?} is not known")))
}

/// The spec's value that `json` describes, for parts of the spec that can only be read.
///
/// # Errors
/// `InvalidArgument` naming `what` for words that the spec does not have.
pub(super) fn read<T: DeserializeOwned>(what: &str, json: Value) -> Result<T> {
    serde_json::from_value(json)
        .map_err(|unknown| Error::invalid(format!("{what}: not known")).caused_by(unknown))
}
