//! The OCI spec as JSON.
//!
//! oci-spec writes two flags of a process' scheduler in words that no OCI runtime knows; they are put right on the way
//! out, and back on the way in.

use oci_spec::runtime::{LinuxSchedulerFlag, Process, Spec};
use serde_json::{Value, json};

use crate::model::{Classify, Error, Kind, Result};

/// The crate's words, and those of the OCI runtime specification.
const WORDS: [(LinuxSchedulerFlag, &str, &str); 2] = [
    (
        LinuxSchedulerFlag::SchedResetOnFork,
        "SCHED_RESET_ON_FORK",
        "SCHED_FLAG_RESET_ON_FORK",
    ),
    (
        LinuxSchedulerFlag::SchedFlagDLOverrun,
        "SCHED_FLAG_D_L_OVERRUN",
        "SCHED_FLAG_DL_OVERRUN",
    ),
];

/// The spec as OCI runtimes read it.
///
/// # Errors
/// `Internal` where it cannot be written as JSON.
pub fn encode_spec(spec: &Spec) -> Result<String> {
    let what = || "encode the OCI spec".to_owned();
    if !spec.process().as_ref().is_some_and(has_flags) {
        return serde_json::to_string(spec).classify(Kind::Internal, what);
    }
    let mut tree = serde_json::to_value(spec).classify(Kind::Internal, what)?;
    rewrite(tree.pointer_mut("/process/scheduler/flags"), to_oci);
    Ok(tree.to_string())
}

/// One process as OCI runtimes read it.
///
/// # Errors
/// `Internal` where it cannot be written as JSON.
pub fn encode_process(process: &Process) -> Result<Vec<u8>> {
    let what = || "encode an OCI process".to_owned();
    if !has_flags(process) {
        return serde_json::to_vec(process).classify(Kind::Internal, what);
    }
    let mut tree = serde_json::to_value(process).classify(Kind::Internal, what)?;
    rewrite(tree.pointer_mut("/scheduler/flags"), to_oci);
    Ok(tree.to_string().into_bytes())
}

/// Reads what [`encode_spec`] or anybody else has written.
///
/// # Errors
/// `Internal` where it is no OCI spec.
pub fn decode_spec(json: &str) -> Result<Spec> {
    let what = || "read an OCI spec".to_owned();
    if !json.contains(PREFIX) {
        return serde_json::from_str(json).classify(Kind::Internal, what);
    }
    let mut tree: Value = serde_json::from_str(json).classify(Kind::Internal, what)?;
    rewrite(tree.pointer_mut("/process/scheduler/flags"), to_crate);
    serde_json::from_value(tree).classify(Kind::Internal, what)
}

/// What words begin with that may have to be put back.
const PREFIX: &str = "SCHED_FLAG_";

/// The word of the OCI runtime specification for a flag.
pub fn scheduler_flag_word(flag: LinuxSchedulerFlag) -> String {
    match WORDS.iter().find(|(known, ..)| *known == flag) {
        Some((_, _, word)) => (*word).to_owned(),
        None => flag.to_string(),
    }
}

/// The flag that a word of the OCI runtime specification means.
///
/// # Errors
/// `InvalidArgument` for any other.
pub fn scheduler_flag(word: &str) -> Result<LinuxSchedulerFlag> {
    let word = to_crate(word).unwrap_or(word);
    serde_json::from_value(json!(word))
        .map_err(|_unknown| Error::invalid(format!("scheduler flag {word:?} is not known")))
}

fn has_flags(process: &Process) -> bool {
    let scheduler = process.scheduler().as_ref();
    scheduler.is_some_and(|scheduler| scheduler.flags().is_some())
}

fn rewrite(flags: Option<&mut Value>, word: fn(&str) -> Option<&'static str>) {
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(other) = flag.as_str().and_then(word) {
            *flag = json!(other);
        }
    }
}

fn to_oci(word: &str) -> Option<&'static str> {
    let found = WORDS.iter().find(|(_, ours, _)| *ours == word);
    found.map(|(_, _, oci)| *oci)
}

fn to_crate(word: &str) -> Option<&'static str> {
    let found = WORDS.iter().find(|(_, _, oci)| *oci == word);
    found.map(|(_, ours, _)| *ours)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Scheduler;

    use super::*;
    use crate::model::Kind;

    /// The words of the OCI runtime specification, in its order.
    const FLAGS: [&str; 7] = [
        "SCHED_FLAG_RESET_ON_FORK",
        "SCHED_FLAG_RECLAIM",
        "SCHED_FLAG_DL_OVERRUN",
        "SCHED_FLAG_KEEP_POLICY",
        "SCHED_FLAG_KEEP_PARAMS",
        "SCHED_FLAG_UTIL_CLAMP_MIN",
        "SCHED_FLAG_UTIL_CLAMP_MAX",
    ];

    fn with_all_flags() -> Spec {
        let flags = FLAGS.map(|word| scheduler_flag(word).unwrap()).to_vec();
        let mut scheduler = Scheduler::default();
        scheduler.set_flags(Some(flags));
        let mut process = Process::default();
        process
            .set_args(Some(vec!["SCHED_RESET_ON_FORK".to_owned()]))
            .set_scheduler(Some(scheduler));
        let mut spec = Spec::default();
        spec.set_process(Some(process));
        spec
    }

    #[test]
    fn flags_are_written_in_the_specifications_words_and_nothing_else_is_touched() {
        let spec = with_all_flags();
        let text = encode_spec(&spec).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["process"]["scheduler"]["flags"], json!(FLAGS));
        assert_eq!(json["process"]["args"][0], "SCHED_RESET_ON_FORK");
        assert_eq!(decode_spec(&text).unwrap(), spec);

        let process = spec.process().as_ref().unwrap();
        let json: Value = serde_json::from_slice(&encode_process(process).unwrap()).unwrap();
        assert_eq!(json["scheduler"]["flags"], json!(FLAGS));
    }

    #[test]
    fn a_spec_without_flags_is_written_as_it_is() {
        let spec = Spec::default();
        assert_eq!(
            encode_spec(&spec).unwrap(),
            serde_json::to_string(&spec).unwrap()
        );
        let process = Process::default();
        assert_eq!(
            encode_process(&process).unwrap(),
            serde_json::to_vec(&process).unwrap()
        );
    }

    #[test]
    fn words_go_there_and_back() {
        for word in FLAGS {
            assert_eq!(scheduler_flag_word(scheduler_flag(word).unwrap()), word);
        }
        let unknown = scheduler_flag("SCHED_FLAG_X").unwrap_err();
        assert_eq!(unknown.kind(), Kind::InvalidArgument);
    }
}
