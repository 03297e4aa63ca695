//! Seccomp filters, whose words are those of the OCI spec.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};

use serde_json::json;

use super::messages::api;
use super::words::{meaning, read, word};
use crate::model::{Error, Result};

/// A filter of a spec.
pub(super) fn of_spec(filter: &LinuxSeccomp) -> api::LinuxSeccomp {
    let number = |value: u32| api::OptionalUInt32 { value };
    api::LinuxSeccomp {
        default_action: word(&filter.default_action()),
        default_errno: filter.default_errno_ret().map(number),
        architectures: filter.architectures().iter().flatten().map(word).collect(),
        flags: filter.flags().iter().flatten().map(word).collect(),
        listener_path: filter
            .listener_path()
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        listener_metadata: filter.listener_metadata().clone().unwrap_or_default(),
        syscalls: filter
            .syscalls()
            .iter()
            .flatten()
            .map(|call| api::LinuxSyscall {
                names: call.names().clone(),
                action: word(&call.action()),
                errno_ret: call.errno_ret().map(number),
                args: call.args().iter().flatten().map(argument_of).collect(),
            })
            .collect(),
    }
}

fn argument_of(argument: &LinuxSeccompArg) -> api::LinuxSeccompArg {
    api::LinuxSeccompArg {
        index: u32::try_from(argument.index()).unwrap_or_default(),
        value: argument.value(),
        value_two: argument.value_two().unwrap_or_default(),
        op: word(&argument.op()),
    }
}

/// A filter that a plugin asks for.
///
/// # Errors
/// `InvalidArgument` for words that the spec does not have.
pub(super) fn asked(filter: &api::LinuxSeccomp) -> Result<LinuxSeccomp> {
    let words = |what: &str, words: &[String]| -> Result<Option<Vec<_>>> {
        let all = words.iter().map(|text| meaning(what, text));
        let all = all.collect::<Result<Vec<_>>>()?;
        Ok((!all.is_empty()).then_some(all))
    };
    let flags = filter
        .flags
        .iter()
        .map(|flag| meaning("seccomp flag", flag));
    let flags = flags.collect::<Result<Vec<_>>>()?;
    let calls = filter.syscalls.iter().map(asked_call);
    let mut asked = LinuxSeccomp::default();
    asked
        .set_default_action(meaning("seccomp action", &filter.default_action)?)
        .set_default_errno_ret(filter.default_errno.as_ref().map(|value| value.value))
        .set_architectures(words("architecture", &filter.architectures)?)
        .set_flags((!flags.is_empty()).then_some(flags))
        .set_syscalls(Some(calls.collect::<Result<_>>()?));
    if !filter.listener_path.is_empty() {
        asked.set_listener_path(Some(filter.listener_path.clone().into()));
    }
    if !filter.listener_metadata.is_empty() {
        asked.set_listener_metadata(Some(filter.listener_metadata.clone()));
    }
    Ok(asked)
}

fn asked_call(call: &api::LinuxSyscall) -> Result<LinuxSyscall> {
    let arguments = call.args.iter().map(asked_argument);
    let arguments = arguments.collect::<Result<Vec<_>>>()?;
    let mut asked = LinuxSyscall::default();
    asked
        .set_names(call.names.clone())
        .set_action(meaning("seccomp action", &call.action)?)
        .set_errno_ret(call.errno_ret.as_ref().map(|value| value.value))
        .set_args((!arguments.is_empty()).then_some(arguments));
    Ok(asked)
}

fn asked_argument(argument: &api::LinuxSeccompArg) -> Result<LinuxSeccompArg> {
    let index = usize::try_from(argument.index)
        .ok()
        .filter(|index| *index < 6)
        .ok_or_else(|| {
            Error::invalid(format!(
                "seccomp: a system call has no argument {}",
                argument.index
            ))
        })?;
    let api::LinuxSeccompArg {
        value,
        value_two,
        op,
        ..
    } = argument;
    let mut asked = json!({"index": index, "value": value, "op": op});
    if *value_two != 0
        && let Some(asked) = asked.as_object_mut()
    {
        asked.insert("valueTwo".to_owned(), json!(value_two));
    }
    read("seccomp argument", asked)
}
