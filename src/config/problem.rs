//! What is wrong with a file: every problem at once, each naming line, key and rule.

use std::fmt;

use toml::de::{DeTable, DeValue};

use crate::model::Error;

/// One thing wrong with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; `None` where the value does not come from a line of its own.
    pub line: Option<usize>,
    /// Dotted path of the key; empty where the file is no TOML at all.
    pub key: String,
    /// The rule that is broken.
    pub rule: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.rule)
    }
}

/// Every problem of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, problem) in self.0.iter().enumerate() {
            if nth > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::invalid(problems.to_string())
    }
}

/// Finds lines and keys in the text of a file.
pub(super) struct Locator<'a> {
    text: &'a str,
    root: DeTable<'a>,
}

impl<'a> Locator<'a> {
    /// Reads as much of `text` as is TOML.
    pub(super) fn new(text: &'a str) -> Self {
        let (root, _errors) = DeTable::parse_recoverable(text);
        Self {
            text,
            root: root.into_inner(),
        }
    }

    /// The line, from 1, of a byte offset.
    pub(super) fn line(&self, offset: usize) -> usize {
        let before = self.text.get(..offset).unwrap_or(self.text);
        before.bytes().filter(|byte| *byte == b'\n').count() + 1
    }

    /// The line of the deepest part of `key` that stands in the file.
    pub(super) fn line_of(&self, key: &str) -> Option<usize> {
        let mut found = None;
        let mut table = Some(&self.root);
        for part in key.split('.') {
            let Some((name, value)) =
                table.and_then(|table| table.iter().find(|(name, _)| name.get_ref() == part))
            else {
                break;
            };
            found = Some(self.line(name.span().start));
            table = value.get_ref().as_table();
        }
        found
    }

    /// The dotted path of the key whose name or value covers `offset`.
    pub(super) fn key_at(&self, offset: usize) -> String {
        let mut path = Vec::new();
        descend(&self.root, offset, &mut path);
        path.join(".")
    }
}

fn descend(table: &DeTable<'_>, offset: usize, path: &mut Vec<String>) {
    for (name, value) in table {
        let named = name.span().contains(&offset);
        if named || covers(value.get_ref(), value.span(), offset) {
            path.push(name.get_ref().to_string());
            match value.get_ref() {
                DeValue::Table(inner) if !named => descend(inner, offset, path),
                DeValue::Array(items) if !named => {
                    for item in items.iter() {
                        if let DeValue::Table(inner) = item.get_ref() {
                            descend(inner, offset, path);
                        }
                    }
                }
                _ => {}
            }
            return;
        }
    }
}

/// Whether `offset` lies in a value. A table's own span is only its header, so its content is asked as well.
fn covers(value: &DeValue<'_>, span: std::ops::Range<usize>, offset: usize) -> bool {
    span.contains(&offset)
        || match value {
            DeValue::Table(inner) => inner.iter().any(|(name, value)| {
                name.span().contains(&offset) || covers(value.get_ref(), value.span(), offset)
            }),
            DeValue::Array(items) => items
                .iter()
                .any(|item| covers(item.get_ref(), item.span(), offset)),
            _ => false,
        }
}
