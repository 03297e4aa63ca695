//! What the classes of service mean that containers name: block I/O by a file of the operator, cache and memory bandwidth
//! by another one and by the groups that the kernel's resctrl has.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::config::settings::Containers;
use crate::model::classes::{AskedClasses, Classes};
use crate::model::{Classify as _, Context as _, Error, Kind, Result};
use crate::sys::{self, mounts};

use super::blockio;
use super::rdt::Resctrl;

/// Longest file of classes.
const MAX_BYTES: u64 = 1 << 20;
/// Where the kernel shows its groups, once somebody mounted it.
const RESCTRL: &str = "/sys/fs/resctrl";
/// The list of groups that we made; a reboot takes it away with them.
const MADE: &str = "rdt-groups";

/// The classes of this node, as doctor shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassesSurvey {
    /// Names of the block I/O classes, or what is wrong with their file; `None` where there is none.
    pub block_io: Option<std::result::Result<Vec<String>, String>>,
    /// Names of the cache classes that a file defines, or what is wrong with it; `None` where there is none.
    pub rdt_file: Option<std::result::Result<Vec<String>, String>>,
    /// Names of resctrl's groups; `None` where it is not mounted.
    pub rdt: Option<Vec<String>>,
}

/// Reads a file of classes of the kind that `what` names.
///
/// # Errors
/// `FailedPrecondition` where it cannot be read; `InvalidArgument` saying what is wrong with it.
pub(super) fn read_blocking<T>(what: &str, path: &Path, parse: fn(&str) -> Result<T>) -> Result<T> {
    let what = || format!("{what} in {}", path.display());
    let real = path
        .canonicalize()
        .classify(Kind::FailedPrecondition, what)?;
    let bytes = sys::files::read_capped_blocking(&real, MAX_BYTES).context(what)?;
    let text = String::from_utf8(bytes).classify(Kind::InvalidArgument, what)?;
    parse(&text).context(what)
}

/// Where resctrl is, and how it is mounted.
pub(super) fn resctrl_blocking(config: &Config) -> Resctrl {
    let is_mbps = |mount: &mounts::MountInfo| {
        mount.fs_type == "resctrl" && mount.super_options.split(',').any(|one| one == "mba_MBps")
    };
    let table = mounts::table_blocking().unwrap_or_default();
    Resctrl {
        root: PathBuf::from(RESCTRL),
        is_mbps: table.iter().any(is_mbps),
        made: config.server.state_dir.join(MADE),
    }
}

/// Brings the groups of resctrl in line with the file of cache classes, where there is one.
///
/// # Errors
/// Saying what is wrong with the file, or that resctrl is not mounted.
pub(super) fn apply_blocking(settings: &Containers, resctrl: &Resctrl) -> Result<()> {
    let Some(file) = &settings.rdt_config_file else {
        return Ok(());
    };
    if !resctrl.is_there_blocking() {
        return resctrl.survey_blocking(file).map(drop);
    }
    resctrl.apply_blocking(file)?.report();
    Ok(())
}

/// Looks up what `asked` means. Files are read again each time: a change counts for the next container.
///
/// # Errors
/// `FailedPrecondition` where the node has no such classes, unless the settings say to go on without; `InvalidArgument`
/// where it has classes, and none of this name, or the file is broken.
pub(super) fn resolve_blocking(
    asked: &AskedClasses,
    settings: &Containers,
    resctrl: &Resctrl,
) -> Result<Classes> {
    let mut classes = Classes::default();
    if let Some(name) = &asked.block_io {
        classes.block_io = match &settings.blockio_config_file {
            Some(file) => {
                let known = blockio::read_blocking(file)?;
                let parts = known.get(name).ok_or_else(|| {
                    let names: Vec<&str> = known.keys().map(String::as_str).collect();
                    unknown(
                        "block I/O",
                        name,
                        &names,
                        &format!("add it to {}", file.display()),
                    )
                })?;
                Some(blockio::resolve_blocking(name, parts)?)
            }
            None => without(
                settings.ignore_blockio_not_enabled_errors,
                "block I/O",
                name,
                "set containers.blockio_config_file",
            )?,
        };
    }
    if let Some(name) = &asked.rdt {
        classes.rdt = if resctrl.is_there_blocking() {
            rdt_blocking(name, asked, settings, resctrl)?
        } else {
            without(
                settings.ignore_rdt_not_enabled_errors,
                "cache (RDT)",
                name,
                "mount resctrl at /sys/fs/resctrl, where the processor has it",
            )?
        };
    }
    Ok(classes)
}

/// The group of the cache class `name`; `None` for the root.
fn rdt_blocking(
    name: &str,
    asked: &AskedClasses,
    settings: &Containers,
    resctrl: &Resctrl,
) -> Result<Option<String>> {
    let mut known = resctrl.groups_blocking().unwrap_or_default();
    let mut remedy = format!("make the group {}", resctrl.root.join("NAME").display());
    if let Some(file) = &settings.rdt_config_file {
        let applied = resctrl.apply_blocking(file)?;
        applied.report();
        if let Some(group) = applied.group(name, asked.rdt_asker)? {
            return Ok(group);
        }
        known.retain(|group| !applied.lingering().contains(group));
        known.extend(applied.names());
        known.sort();
        known.dedup();
        remedy = format!("add it to {}", file.display());
    }
    if known.iter().any(|group| group == name) {
        return Ok(Some(name.to_owned()));
    }
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    Err(unknown("cache (RDT)", name, &names, &remedy))
}

/// What doctor shows.
pub(super) fn survey_blocking(settings: &Containers, resctrl: &Resctrl) -> ClassesSurvey {
    let block_io = settings.blockio_config_file.as_deref();
    let block_io = block_io.map(|file| Ok(blockio::read_blocking(file)?.into_keys().collect()));
    let rdt_file = settings.rdt_config_file.as_deref();
    let rdt_file = rdt_file.map(|file| resctrl.survey_blocking(file));
    let said = |found: Result<Vec<String>>| found.map_err(|error| error.chain());
    ClassesSurvey {
        block_io: block_io.map(said),
        rdt_file: rdt_file.map(said),
        rdt: resctrl.groups_blocking(),
    }
}

/// What is wrong with the files of classes, whatever this node has.
pub(super) fn broken_files_blocking(settings: &Containers) -> Vec<String> {
    let block_io = settings.blockio_config_file.as_deref();
    let rdt = settings.rdt_config_file.as_deref();
    let broken = [
        block_io.and_then(|file| blockio::read_blocking(file).err()),
        rdt.and_then(|file| super::rdt::read_blocking(file).err()),
    ];
    broken
        .into_iter()
        .flatten()
        .map(|error| error.chain())
        .collect()
}

fn unknown(kind: &str, name: &str, known: &[&str], remedy: &str) -> Error {
    let known = match known {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    Error::invalid(format!(
        "{kind} class {name:?} of an annotation: not known on this node, which has {known}; {remedy}"
    ))
}

/// A container that asks for a class must not run without it, unless the operator says so.
fn without<T>(ignored: bool, kind: &str, name: &str, remedy: &str) -> Result<Option<T>> {
    if ignored {
        tracing::debug!(
            kind,
            class = name,
            "a class is left out: this node has none of its kind"
        );
        return Ok(None);
    }
    Err(Error::precondition(format!(
        "{kind} class {name:?} of an annotation: this node has no such classes; {remedy}, or remove the annotation"
    )))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::model::Kind;

    fn both(name: &str) -> AskedClasses {
        AskedClasses {
            block_io: Some(name.to_owned()),
            rdt: Some(name.to_owned()),
            ..AskedClasses::default()
        }
    }

    fn settings(toml: &str) -> Containers {
        let config = Config::parse(&format!("[containers]\n{toml}")).unwrap();
        config.containers
    }

    fn at(root: &Path) -> Resctrl {
        Resctrl {
            root: root.to_owned(),
            is_mbps: false,
            made: root.with_extension("made"),
        }
    }

    #[test]
    fn a_node_without_classes_refuses_or_goes_on_as_it_is_told() {
        let nowhere = &at(Path::new("/nonexistent"));
        let (block_io, rdt) = (both("gold"), both("gold"));
        for asked in [
            AskedClasses {
                rdt: None,
                ..block_io
            },
            AskedClasses {
                block_io: None,
                ..rdt
            },
        ] {
            let refused = resolve_blocking(&asked, &settings(""), nowhere).unwrap_err();
            assert_eq!(refused.kind(), Kind::FailedPrecondition);
            assert!(refused.to_string().contains("gold"));
        }
        let lenient = settings(
            "ignore_blockio_not_enabled_errors = true\nignore_rdt_not_enabled_errors = true",
        );
        let none = resolve_blocking(&both("gold"), &lenient, nowhere).unwrap();
        assert_eq!(none, Classes::default());
        let nothing = AskedClasses::default();
        assert!(resolve_blocking(&nothing, &settings(""), nowhere).is_ok());
    }

    #[test]
    fn known_classes_are_found_and_a_changed_file_counts_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (file, resctrl) = (dir.path().join("classes.yaml"), dir.path().join("resctrl"));
        for group in ["", "gold", "info", "mon_groups"] {
            fs::create_dir_all(resctrl.join(group)).unwrap();
            fs::write(resctrl.join(group).join("schemata"), "").unwrap();
        }
        fs::create_dir(resctrl.join("no-group")).unwrap();
        fs::write(&file, "Classes: {gold: [{Weight: 400}]}").unwrap();
        let settings = settings(&format!("blockio_config_file = {file:?}"));
        let resolve = |asked: &AskedClasses| resolve_blocking(asked, &settings, &at(&resctrl));

        let found = resolve(&both("gold")).unwrap();
        assert_eq!(found.block_io.unwrap().weight, Some(400));
        assert_eq!(found.rdt.as_deref(), Some("gold"));
        for name in ["info", "no-group", "..", "", "."] {
            let asked = AskedClasses {
                block_io: None,
                ..both(name)
            };
            let unknown = resolve(&asked).unwrap_err();
            assert_eq!(unknown.kind(), Kind::InvalidArgument, "{name}");
        }
        fs::write(&file, "Classes: {silver: []}").unwrap();
        let gone = resolve(&both("gold")).unwrap_err();
        assert!(gone.to_string().contains("silver"), "{gone}");
        fs::write(&file, "Classes: [").unwrap();
        assert!(resolve(&both("gold")).is_err());
        assert!(
            survey_blocking(&settings, &at(&resctrl))
                .block_io
                .unwrap()
                .is_err()
        );
    }
}
