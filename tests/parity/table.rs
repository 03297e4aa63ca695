//! The differences that are meant, a reason each: `accepted.toml`.

use std::path::Path;

use serde::Deserialize;

use crate::case::Outcome;
use crate::compare::Difference;
use crate::ensure;

const ACCEPTED: &str = include_str!("accepted.toml");

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    accepted: Vec<Entry>,
    refused: Vec<Refusal>,
}

/// Requests that both servers refuse, so that nothing of them can be compared but the code.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    request: String,
    reason: String,
    r#where: Option<Machine>,
    #[serde(skip)]
    hits: usize,
}

/// What a difference hangs on. Elsewhere its entry does not count.
#[derive(Clone, Copy, Deserialize)]
enum Machine {
    #[serde(rename = "cgroup v1")]
    FirstCgroups,
    #[serde(rename = "no AppArmor")]
    NoAppArmor,
}

impl Machine {
    fn is_here(self) -> bool {
        let has = |path: &str| Path::new(path).exists();
        match self {
            Self::FirstCgroups => !has("/sys/fs/cgroup/cgroup.controllers"),
            Self::NoAppArmor => !has("/sys/kernel/security/apparmor"),
        }
    }
}

/// One kind of difference. In every text but the reason, `*` stands for anything.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The requests to which it applies.
    #[serde(default = "anything")]
    request: String,
    path: String,
    /// The values, as JSON text, or `absent`.
    #[serde(default = "anything")]
    ours: String,
    #[serde(default = "anything")]
    theirs: String,
    reason: String,
    r#where: Option<Machine>,
    #[serde(skip)]
    hits: usize,
}

fn anything() -> String {
    String::from("*")
}

impl Table {
    pub(crate) fn read() -> Outcome<Self> {
        let mut table: Self = toml::from_str(ACCEPTED)?;
        let of_differences = table.accepted.iter().map(|e| (&e.path, &e.reason));
        let of_refusals = table.refused.iter().map(|e| (&e.request, &e.reason));
        for (what, reason) in of_differences.chain(of_refusals) {
            ensure(reason.len() > 20, || {
                format!("accepted.toml: {what}: the reason says too little")
            })?;
        }
        let is_here = |machine: Option<Machine>| machine.is_none_or(Machine::is_here);
        table.accepted.retain(|entry| is_here(entry.r#where));
        table.refused.retain(|entry| is_here(entry.r#where));
        Ok(table)
    }

    pub(crate) fn len(&self) -> usize {
        self.accepted.len()
    }

    /// Takes out what is accepted, and returns the rest.
    pub(crate) fn sift(&mut self, found: Vec<Difference>) -> Vec<Difference> {
        found
            .into_iter()
            .filter(|difference| {
                // Each entry that fits counts, so that one is not called unused for standing below another.
                let mut is_accepted = false;
                for entry in self
                    .accepted
                    .iter_mut()
                    .filter(|entry| entry.fits(difference))
                {
                    entry.hits += 1;
                    is_accepted = true;
                }
                !is_accepted
            })
            .collect()
    }

    /// Takes out the requests that both servers may refuse, and returns the rest.
    pub(crate) fn sift_refusals(&mut self, found: Vec<String>) -> Vec<String> {
        found
            .into_iter()
            .filter(|request| {
                let mut is_expected = false;
                for entry in &mut self.refused {
                    if matches(&entry.request, request) {
                        entry.hits += 1;
                        is_expected = true;
                    }
                }
                !is_expected
            })
            .collect()
    }

    /// The entries that nothing fitted: they have to go.
    pub(crate) fn unused(&self) -> Vec<String> {
        let differences = self.accepted.iter().filter(|entry| entry.hits == 0);
        let refusals = self.refused.iter().filter(|entry| entry.hits == 0);
        differences
            .map(|entry| format!("request {:?}, path {:?}", entry.request, entry.path))
            .chain(refusals.map(|entry| format!("request {:?}, refused", entry.request)))
            .collect()
    }
}

impl Entry {
    fn fits(&self, difference: &Difference) -> bool {
        matches(&self.path, &difference.path)
            && matches(&self.request, &difference.request)
            && matches(&self.ours, &difference.ours)
            && matches(&self.theirs, &difference.theirs)
    }
}

/// True where `text` is `pattern` with something, or nothing, for each `*`.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(head) else {
        return false;
    };
    (0..=text.len())
        .filter(|&from| text.is_char_boundary(from))
        .any(|from| text.get(from..).is_some_and(|text| matches(rest, text)))
}

/// Patterns match what they say and nothing else; the file is well-formed.
pub(crate) fn proof() -> Outcome {
    for (pattern, text, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a*", "ab", true),
        ("*b", "ab", true),
        ("a*c*e", "abcde", true),
        ("a*c*e", "abde", false),
        ("*", "", true),
        (
            "spec.mounts[/etc/*].options",
            "spec.mounts[/etc/hosts].options",
            true,
        ),
    ] {
        ensure(matches(pattern, text) == expected, || {
            format!("{pattern:?} against {text:?} is not {expected}")
        })?;
    }
    Table::read().map(drop)
}
