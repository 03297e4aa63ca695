//! An OCI hook file, version 1.0.0 (oci-hooks(5)): which program runs at which stages of which containers.

use std::collections::{BTreeMap, BTreeSet};

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::model::edits::Stage;
use crate::model::{Classify, Error, Kind, Result};

/// The only version there is.
const VERSION: &str = "1.0.0";
/// Most memory of one compiled pattern.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// Most patterns of one file.
const MAX_PATTERNS: usize = 100;

/// A hook file that breaks no rule. Keys that it does not know are skipped, as by other readers of these files.
#[derive(Debug)]
pub(in crate::devices) struct HookFile {
    pub(super) path: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
    pub(super) stages: BTreeSet<Stage>,
    when: When,
}

/// What of a container decides which hooks it gets.
#[derive(Clone, Debug, Default)]
pub struct HookFacts {
    /// Annotations of the container and its pod.
    pub annotations: BTreeMap<String, String>,
    /// The first of its arguments: the program.
    pub command: String,
    /// Whether its request has mounts of the host.
    pub has_bind_mounts: bool,
}

/// Conditions; all that are given must hold.
#[derive(Debug)]
struct When {
    always: Option<bool>,
    has_bind_mounts: Option<bool>,
    /// For each pair an annotation must fit both patterns.
    annotations: Vec<(Regex, Regex)>,
    /// One of them must fit, where there are any.
    commands: Vec<Regex>,
}

#[derive(Deserialize)]
struct Document {
    version: String,
    hook: Program,
    when: Conditions,
    stages: Vec<Stage>,
}

#[derive(Deserialize)]
struct Program {
    path: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    timeout: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    always: Option<bool>,
    annotations: Option<BTreeMap<String, String>>,
    commands: Option<Vec<String>>,
    has_bind_mounts: Option<bool>,
}

/// Reads a hook file.
///
/// # Errors
/// `InvalidArgument` saying what is wrong.
pub(in crate::devices) fn parse(text: &str) -> Result<HookFile> {
    let document: Document =
        serde_json::from_str(text).classify(Kind::InvalidArgument, || "not readable".to_owned())?;
    if document.version != VERSION {
        return Err(Error::invalid(format!(
            "version {:?}: want {VERSION}",
            document.version
        )));
    }
    let Program {
        path,
        args,
        env,
        timeout,
    } = document.hook;
    let env = env.unwrap_or_default();
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Error::invalid(format!(
            "hook.path {path:?}: want an absolute path"
        )));
    }
    if !std::path::Path::new(&path).is_file() {
        return Err(Error::invalid(format!(
            "hook.path {path:?}: there is no such program"
        )));
    }
    if timeout.is_some_and(|seconds| seconds <= 0) {
        return Err(Error::invalid("hook.timeout: must be at least 1"));
    }
    if let Some(entry) = env.iter().find(|entry| !entry.contains('=')) {
        return Err(Error::invalid(format!(
            "hook.env {entry:?}: want NAME=value"
        )));
    }
    if document.stages.is_empty() {
        return Err(Error::invalid("stages: none"));
    }
    Ok(HookFile {
        path,
        args: args.unwrap_or_default(),
        env,
        timeout,
        stages: document.stages.into_iter().collect(),
        when: document.when.compile()?,
    })
}

impl HookFile {
    /// Whether the container that `facts` describes gets the hook.
    pub(in crate::devices) fn applies(&self, facts: &HookFacts) -> bool {
        let When {
            always,
            has_bind_mounts,
            annotations,
            commands,
        } = &self.when;
        let fits = |(key, value): &(Regex, Regex)| {
            facts
                .annotations
                .iter()
                .any(|(name, text)| key.is_match(name) && value.is_match(text))
        };
        always.unwrap_or(true)
            && has_bind_mounts.is_none_or(|wanted| wanted && facts.has_bind_mounts)
            && annotations.iter().all(fits)
            && (commands.is_empty()
                || commands
                    .iter()
                    .any(|command| command.is_match(&facts.command)))
    }
}

impl Conditions {
    fn compile(self) -> Result<When> {
        let annotations = self.annotations.unwrap_or_default();
        let commands = self.commands.unwrap_or_default();
        if annotations.len() + commands.len() > MAX_PATTERNS {
            return Err(Error::invalid(format!(
                "when: more than {MAX_PATTERNS} patterns"
            )));
        }
        let is_empty = self.always.is_none() && self.has_bind_mounts.is_none();
        if is_empty && annotations.is_empty() && commands.is_empty() {
            return Err(Error::invalid(
                "when: none of always, annotations, commands and hasBindMounts",
            ));
        }
        let pair = |(key, value): (String, String)| Ok((pattern(&key)?, pattern(&value)?));
        Ok(When {
            always: self.always,
            has_bind_mounts: self.has_bind_mounts,
            annotations: annotations.into_iter().map(pair).collect::<Result<_>>()?,
            commands: commands
                .iter()
                .map(|command| pattern(command))
                .collect::<Result<_>>()?,
        })
    }
}

fn pattern(text: &str) -> Result<Regex> {
    RegexBuilder::new(text)
        .size_limit(MAX_PATTERN_BYTES)
        .build()
        .classify(Kind::InvalidArgument, || format!("when: pattern {text:?}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn with(change: impl FnOnce(&mut Value)) -> Result<HookFile> {
        let mut document = json!({
            "version": "1.0.0",
            "hook": {"path": "/bin/sh", "args": ["sh", "-c", "true"], "env": ["A=b"], "timeout": 3},
            "when": {"always": true},
            "stages": ["prestart", "poststop", "prestart"],
        });
        change(&mut document);
        parse(&document.to_string())
    }

    #[test]
    fn a_whole_file_is_read_and_a_stage_counts_once() {
        let file = with(|_| ()).unwrap();

        assert_eq!(file.args, ["sh", "-c", "true"]);
        assert_eq!(file.timeout, Some(3));
        assert_eq!(file.stages, [Stage::Prestart, Stage::Poststop].into());
        assert!(with(|d| d["comment"] = json!("unknown keys are skipped")).is_ok());
    }

    #[rstest]
    #[case::version(|d: &mut Value| d["version"] = json!("0.1.0"))]
    #[case::no_version(|d: &mut Value| d["version"] = Value::Null)]
    #[case::relative(|d: &mut Value| d["hook"]["path"] = json!("sh"))]
    #[case::missing(|d: &mut Value| d["hook"]["path"] = json!("/no/such/program"))]
    #[case::timeout(|d: &mut Value| d["hook"]["timeout"] = json!(0))]
    #[case::env(|d: &mut Value| d["hook"]["env"] = json!(["A"]))]
    #[case::no_stage(|d: &mut Value| d["stages"] = json!([]))]
    #[case::unknown_stage(|d: &mut Value| d["stages"] = json!(["prestop"]))]
    #[case::no_condition(|d: &mut Value| d["when"] = json!({}))]
    #[case::unknown_condition(|d: &mut Value| d["when"] = json!({"comands": ["sh"]}))]
    #[case::bad_pattern(|d: &mut Value| d["when"] = json!({"commands": ["("]}))]
    #[case::huge_pattern(|d: &mut Value| d["when"] = json!({"commands": ["(a{1000}){1000}"]}))]
    #[case::bad_annotation(|d: &mut Value| d["when"] = json!({"annotations": {"[": "x"}}))]
    fn what_cannot_be_is_refused(#[case] change: fn(&mut Value)) {
        assert_eq!(with(change).unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[rstest]
    #[case::always(json!({"always": true}), true)]
    #[case::never(json!({"always": false}), false)]
    #[case::mounts(json!({"hasBindMounts": true}), true)]
    #[case::no_mounts(json!({"hasBindMounts": false}), false)]
    #[case::command(json!({"commands": ["^/bin/true$", "/sh$"]}), true)]
    #[case::command_part(json!({"commands": ["bin"]}), true)]
    #[case::other_command(json!({"commands": ["^sh$"]}), false)]
    #[case::annotation(json!({"annotations": {"^io\\.example/gpu$": "^(yes|true)$"}}), true)]
    #[case::other_value(json!({"annotations": {"^io\\.example/gpu$": "^no$"}}), false)]
    #[case::other_key(json!({"annotations": {"gpus": ".*"}}), false)]
    #[case::one_of_two_annotations(json!({"annotations": {"gpu": "yes", "other": "."}}), false)]
    #[case::all(json!({"always": true, "commands": ["sh"], "hasBindMounts": true, "annotations": {"gpu": "y"}}), true)]
    #[case::all_but_one(json!({"always": true, "commands": ["sh"], "annotations": {"gpu": "n"}}), false)]
    fn all_conditions_must_hold(#[case] when: Value, #[case] applies: bool) {
        let facts = HookFacts {
            annotations: [("io.example/gpu".to_owned(), "yes".to_owned())].into(),
            command: "/bin/sh".to_owned(),
            has_bind_mounts: true,
        };

        let file = with(|document| document["when"] = when).unwrap();

        assert_eq!(file.applies(&facts), applies);
    }

    #[test]
    fn mounts_that_are_wanted_and_missing_rule_a_hook_out() {
        let file = with(|document| document["when"] = json!({"hasBindMounts": true})).unwrap();

        assert!(!file.applies(&HookFacts::default()));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            drop(parse(&text));
        }

        #[test]
        fn any_pattern_is_compiled_or_refused(pattern in "\\PC{0,40}", text in "\\PC{0,40}") {
            let when = json!({"commands": [pattern]});
            if let Ok(file) = with(|document| document["when"] = when) {
                file.applies(&HookFacts { command: text, ..HookFacts::default() });
            }
        }
    }
}
