//! The differences that are meant, a reason each: `accepted.toml`.

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
    #[serde(skip)]
    hits: usize,
}

fn anything() -> String {
    String::from("*")
}

impl Table {
    pub(crate) fn read() -> Outcome<Self> {
        let table: Self = toml::from_str(ACCEPTED)?;
        for entry in &table.accepted {
            ensure(entry.reason.len() > 20, || {
                format!("accepted.toml: {}: the reason says too little", entry.path)
            })?;
        }
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

    /// The entries that nothing fitted: they have to go.
    pub(crate) fn unused(&self) -> Vec<String> {
        self.accepted
            .iter()
            .filter(|entry| entry.hits == 0)
            .map(|entry| format!("request {:?}, path {:?}", entry.request, entry.path))
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
