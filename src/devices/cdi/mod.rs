//! CDI: devices that vendors describe in files, and what a container needs to use one (contract: node 7.2).

mod edits;
pub(super) mod file;
mod name;
mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use file::Specification;
use name::Qualified;

use super::files::{BrokenFile, Files, Loaded, Reading};
use crate::model::{Clock, Context, Edits, Error, Result};

/// Prefix of the annotations that ask for devices.
const ANNOTATION: &str = "cdi.k8s.io/";
/// Most devices of one container.
const MAX_NAMES: usize = 256;
const SUFFIXES: &[&str] = &["json", "yaml"];

pub(super) fn files(clock: Arc<dyn Clock>) -> Files<Specification> {
    Files::new("CDI specification", SUFFIXES, file::parse, clock)
}

/// The devices that a container asks for, each once: those of its field `devices`, then those of its annotations, by key.
///
/// # Errors
/// `InvalidArgument` where an annotation holds what is no device name, or there are too many.
pub fn requested(
    devices: &[String],
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut add = |name: &str| {
        if seen.insert(name.to_owned()) {
            names.push(name.to_owned());
        }
    };
    devices.iter().for_each(|name| add(name));
    for (key, value) in annotations {
        if !key.starts_with(ANNOTATION) {
            continue;
        }
        for name in value.split(',') {
            if Qualified::parse(name).is_none() {
                return Err(Error::invalid(format!(
                    "annotation {key:?}: {name:?} is no CDI device; want vendor.com/class=device, several with commas between"
                )));
            }
            add(name);
        }
    }
    if names.len() > MAX_NAMES {
        return Err(Error::invalid(format!(
            "{} CDI devices: at most {MAX_NAMES} are accepted",
            names.len()
        )));
    }
    Ok(names)
}

/// What `names` come to: for each device the edits of its file, once, and then its own.
///
/// # Errors
/// `FailedPrecondition` naming every device that no file describes, or the device node that the host lacks.
pub(super) fn resolve_blocking(
    reading: &Reading<Specification>,
    directories: &[PathBuf],
    names: &[String],
) -> Result<Edits> {
    let mut found = Vec::new();
    let mut unresolvable = Vec::new();
    for name in names {
        match Qualified::parse(name).map(|name| find(reading, &name)) {
            Some(Found::One(file, edits)) => found.push((name, file, edits)),
            Some(Found::Twice(one, other)) => unresolvable.push((name, Some((one, other)))),
            Some(Found::Nowhere) | None => unresolvable.push((name, None)),
        }
    }
    if !unresolvable.is_empty() {
        return Err(no_such_devices(reading, directories, &unresolvable));
    }
    let mut edits = Edits::default();
    let mut used: BTreeSet<&Path> = BTreeSet::new();
    for (name, file, own) in found {
        let what = || format!("CDI device {name} of {}", file.path.display());
        if used.insert(&file.path) {
            edits.extend(file.content.common.resolve_blocking().context(what)?);
        }
        edits.extend(own.resolve_blocking().context(what)?);
    }
    Ok(edits)
}

/// Which file describes a device.
enum Found<'a> {
    Nowhere,
    One(&'a Loaded<Specification>, &'a edits::ContainerEdits),
    /// Two of one directory do: neither can be meant.
    Twice(&'a Path, &'a Path),
}

fn find<'a>(reading: &'a Reading<Specification>, name: &Qualified<'_>) -> Found<'a> {
    let mut found = Found::Nowhere;
    let mut priority = 0;
    let is_of_kind = |file: &&Loaded<Specification>| {
        file.content.kind.split_once('/') == Some((name.vendor, name.class))
    };
    for file in reading.files.iter().filter(is_of_kind) {
        let Some(edits) = file.content.devices.get(name.name) else {
            continue;
        };
        found = match found {
            Found::One(other, _) if priority == file.priority => {
                Found::Twice(&other.path, &file.path)
            }
            Found::Twice(..) if priority == file.priority => found,
            _ => Found::One(file, edits),
        };
        priority = file.priority;
    }
    found
}

type Unresolvable<'a> = (&'a String, Option<(&'a Path, &'a Path)>);

fn no_such_devices(
    reading: &Reading<Specification>,
    directories: &[PathBuf],
    missing: &[Unresolvable<'_>],
) -> Error {
    const SHOWN: usize = 5;
    let names: Vec<&str> = missing.iter().map(|(name, _)| name.as_str()).collect();
    let places: Vec<String> = directories
        .iter()
        .map(|dir| dir.display().to_string())
        .collect();
    let mut text = format!(
        "unresolvable CDI devices {}: looked for in {}",
        names.join(", "),
        places.join(", ")
    );
    for (name, conflict) in missing.iter().take(SHOWN) {
        if let Some((one, other)) = conflict {
            text.push_str(&format!(
                "; {name} is described by both {} and {}",
                one.display(),
                other.display()
            ));
        }
    }
    for file in reading.broken.iter().take(SHOWN) {
        text.push_str(&format!(
            "; {} cannot be used: {}",
            file.path.display(),
            file.reason
        ));
    }
    Error::precondition(text)
}

/// Files that describe devices which another file of their directory describes too: neither of the two counts.
pub(super) fn conflicts(reading: &Reading<Specification>) -> Vec<BrokenFile> {
    let mut first: BTreeMap<(usize, &str, &str), &Path> = BTreeMap::new();
    let mut shared: BTreeMap<(&Path, &Path), Vec<&str>> = BTreeMap::new();
    for file in &reading.files {
        for device in file.content.devices.keys() {
            let key = (file.priority, file.content.kind.as_str(), device.as_str());
            if let Some(other) = first.insert(key, &file.path) {
                shared.entry((&file.path, other)).or_default().push(device);
            }
        }
    }
    let conflict = |((path, other), devices): ((&Path, &Path), Vec<&str>)| BrokenFile {
        path: path.to_owned(),
        reason: format!(
            "describes {} devices, {:?} among them, as {} does; neither counts",
            devices.len(),
            devices.first().copied().unwrap_or_default(),
            other.display()
        ),
    };
    shared.into_iter().map(conflict).collect()
}

#[cfg(test)]
mod tests;
