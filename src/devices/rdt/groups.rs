//! Groups in resctrl made what their classes say.
//!
//! A group that the file names is set; one that it no longer names is removed if we made it and no process is in it.
//! Nothing else is touched: the names of those that we made stand in a file of ours, before they are made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::file::ROOT_CLASS;
use super::host::{Processor, text_blocking};
use super::schemata::Schemata;
use crate::model::{Classify, Context, Error, Kind, Result};
use crate::sys;

/// Longest list of groups that we made.
const MAX_BYTES: u64 = 1 << 20;
const FILE_MODE: u32 = 0o600;

/// What became of each class.
#[derive(Debug, Default)]
pub(in crate::devices) struct Outcome {
    /// Why a class has no group as it should be.
    pub(in crate::devices) failed: BTreeMap<String, Error>,
    /// Groups of former classes that processes are still in.
    pub(in crate::devices) lingering: BTreeSet<String>,
}

/// Makes the groups what `wanted` says. One that fails keeps no other from being made.
///
/// # Errors
/// Where the list `made` of groups that we made cannot be read or written: nothing is changed then.
pub(in crate::devices) fn apply_blocking(
    resctrl: &Path,
    made: &Path,
    wanted: &BTreeMap<String, Schemata>,
    processor: &Processor,
) -> Result<Outcome> {
    let mut ours = read_made_blocking(made)?;
    let mut outcome = Outcome::default();
    let known = ours.clone();
    ours.retain(|name| resctrl.join(name).exists());
    for name in ours.clone() {
        if wanted.contains_key(&name) {
            continue;
        }
        match remove_blocking(&resctrl.join(&name)) {
            Ok(true) => {
                tracing::info!(
                    group = name,
                    "removed a cache class that is no longer defined"
                );
                ours.remove(&name);
            }
            Ok(false) => {
                outcome.lingering.insert(name);
            }
            Err(error) => {
                tracing::warn!(group = name, error = %error.chain(), "a cache class stays");
                outcome.lingering.insert(name);
            }
        }
    }
    let is_new = |name: &&String| *name != ROOT_CLASS && !resctrl.join(name).exists();
    ours.extend(wanted.keys().filter(is_new).cloned());
    if ours != known {
        write_made_blocking(made, &ours)?;
    }
    for (name, schemata) in wanted {
        if let Err(error) = set_blocking(resctrl, name, schemata, processor) {
            outcome.failed.insert(name.clone(), error);
        }
    }
    Ok(outcome)
}

/// The names of the groups that we made.
pub(in crate::devices) fn read_made_blocking(made: &Path) -> Result<BTreeSet<String>> {
    if !made.exists() {
        return Ok(BTreeSet::new());
    }
    let what = || format!("read {}", made.display());
    let bytes = sys::files::read_capped_blocking(made, MAX_BYTES).context(what)?;
    let text = String::from_utf8(bytes).classify(Kind::Internal, what)?;
    let is_name = |name: &&str| !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    Ok(text.lines().filter(is_name).map(str::to_owned).collect())
}

fn write_made_blocking(made: &Path, names: &BTreeSet<String>) -> Result<()> {
    let mut text = String::new();
    for name in names {
        text.push_str(name);
        text.push('\n');
    }
    if let Some(dir) = made.parent() {
        sys::files::make_dir_blocking(dir, 0o700)?;
    }
    sys::files::write_atomic_blocking(made, text.as_bytes(), FILE_MODE)
}

/// Answers whether the group is gone; one that processes are in stays.
fn remove_blocking(group: &Path) -> Result<bool> {
    if !text_blocking(&group.join("tasks"))?.trim().is_empty() {
        return Ok(false);
    }
    match std::fs::remove_dir(group) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).classify(Kind::Internal, || format!("remove {}", group.display()))
        }
        _ => Ok(true),
    }
}

fn set_blocking(
    resctrl: &Path,
    name: &str,
    schemata: &Schemata,
    processor: &Processor,
) -> Result<()> {
    let group = match name {
        ROOT_CLASS => resctrl.to_owned(),
        name => resctrl.join(name),
    };
    if let Err(error) = std::fs::create_dir(&group)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        let remedy = match (error.kind(), processor.groups) {
            (std::io::ErrorKind::StorageFull, Some(groups)) => {
                format!(": this processor tells {groups} groups apart, the root among them")
            }
            _ => status_blocking(resctrl),
        };
        return Err(error).classify(Kind::FailedPrecondition, || {
            format!("make {}{remedy}", group.display())
        });
    }
    let file = group.join("schemata");
    let now = parse(&text_blocking(&file)?);
    let mut text = String::new();
    for (technique, line) in schemata {
        if now.get(technique) != Some(&values(line)) {
            text.push_str(technique);
            text.push(':');
            text.push_str(line);
            text.push('\n');
        }
    }
    if text.is_empty() {
        return Ok(());
    }
    // The kernel takes what one write has, and never a file made anew.
    let open = std::fs::OpenOptions::new().write(true).open(&file);
    open.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .classify(Kind::FailedPrecondition, || {
            let said = status_blocking(resctrl);
            format!("write {:?} to {}{said}", text.trim(), file.display())
        })?;
    tracing::info!(group = name, schemata = text.trim(), "set a cache class");
    Ok(())
}

/// What the kernel says of the last thing that it refused.
fn status_blocking(resctrl: &Path) -> String {
    let said = text_blocking(&resctrl.join("info/last_cmd_status")).unwrap_or_default();
    match said.trim() {
        "" | "ok" => String::new(),
        said => format!(": the kernel says {said:?}"),
    }
}

/// The values that a schemata file has, by technique.
fn parse(text: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let lines = text.lines().filter_map(|line| line.trim().split_once(':'));
    lines
        .map(|(technique, line)| (technique.trim().to_owned(), values(line)))
        .collect()
}

/// The values of one line. The kernel pads them with blanks and writes masks with leading zeros.
fn values(line: &str) -> Vec<(String, String)> {
    let plain = |value: &str| match value.trim().trim_start_matches('0') {
        "" => "0".to_owned(),
        value => value.to_owned(),
    };
    line.split(';')
        .filter_map(|value| value.split_once('='))
        .map(|(id, value)| (plain(id), plain(value)))
        .collect()
}
