//! What the classes of service mean that containers name: block I/O by a file of the operator, cache and memory bandwidth
//! by the groups that the kernel's resctrl has.

use std::path::Path;

use crate::config::settings::Containers;
use crate::model::classes::{AskedClasses, Classes};
use crate::model::{Error, Result};

use super::blockio;

/// Where the kernel shows its groups, once somebody mounted it.
const RESCTRL: &str = "/sys/fs/resctrl";
/// Directories of resctrl that are no groups.
const NO_GROUPS: [&str; 3] = ["info", "mon_groups", "mon_data"];

/// The classes of this node, as doctor shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassesSurvey {
    /// Names of the block I/O classes, or what is wrong with their file; `None` where there is none.
    pub block_io: Option<std::result::Result<Vec<String>, String>>,
    /// Names of resctrl's groups; `None` where it is not mounted.
    pub rdt: Option<Vec<String>>,
}

/// Looks up what `asked` means. The file is read again each time: a change counts for the next container.
///
/// # Errors
/// `FailedPrecondition` where the node has no such classes, unless the settings say to go on without; `InvalidArgument`
/// where it has classes, and none of this name, or the file is broken.
pub(super) fn resolve_blocking(asked: &AskedClasses, settings: &Containers) -> Result<Classes> {
    resolve_at_blocking(asked, settings, Path::new(RESCTRL))
}

fn resolve_at_blocking(
    asked: &AskedClasses,
    settings: &Containers,
    resctrl: &Path,
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
        classes.rdt = match groups_blocking(resctrl) {
            Some(groups) if groups.contains(name) => Some(name.clone()),
            Some(groups) => {
                let names: Vec<&str> = groups.iter().map(String::as_str).collect();
                let remedy = format!("make the group {}", resctrl.join("NAME").display());
                return Err(unknown("cache (RDT)", name, &names, &remedy));
            }
            None => without(
                settings.ignore_rdt_not_enabled_errors,
                "cache (RDT)",
                name,
                "mount resctrl at /sys/fs/resctrl, where the processor has it",
            )?,
        };
    }
    Ok(classes)
}

/// What doctor shows.
pub(super) fn survey_blocking(settings: &Containers) -> ClassesSurvey {
    let file = settings.blockio_config_file.as_deref();
    let read = |file| match blockio::read_blocking(file) {
        Ok(classes) => Ok(classes.into_keys().collect()),
        Err(error) => Err(error.chain()),
    };
    ClassesSurvey {
        block_io: file.map(read),
        rdt: groups_blocking(Path::new(RESCTRL)),
    }
}

/// The groups of resctrl; `None` where it is not mounted.
fn groups_blocking(resctrl: &Path) -> Option<Vec<String>> {
    if !resctrl.join("schemata").exists() {
        return None;
    }
    let entries = std::fs::read_dir(resctrl).ok()?.flatten();
    let mut groups: Vec<String> = entries
        .filter(|entry| entry.path().join("schemata").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !NO_GROUPS.contains(&name.as_str()))
        .collect();
    groups.sort();
    Some(groups)
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

    use super::*;
    use crate::config::Config;
    use crate::model::Kind;

    fn both(name: &str) -> AskedClasses {
        AskedClasses {
            block_io: Some(name.to_owned()),
            rdt: Some(name.to_owned()),
        }
    }

    fn settings(toml: &str) -> Containers {
        let config = Config::parse(&format!("[containers]\n{toml}")).unwrap();
        config.containers
    }

    #[test]
    fn a_node_without_classes_refuses_or_goes_on_as_it_is_told() {
        let nowhere = Path::new("/nonexistent");
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
            let refused = resolve_at_blocking(&asked, &settings(""), nowhere).unwrap_err();
            assert_eq!(refused.kind(), Kind::FailedPrecondition);
            assert!(refused.to_string().contains("gold"));
        }
        let lenient = settings(
            "ignore_blockio_not_enabled_errors = true\nignore_rdt_not_enabled_errors = true",
        );
        let none = resolve_at_blocking(&both("gold"), &lenient, nowhere).unwrap();
        assert_eq!(none, Classes::default());
        let nothing = AskedClasses::default();
        assert!(resolve_at_blocking(&nothing, &settings(""), nowhere).is_ok());
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
        let resolve = |asked: &AskedClasses| resolve_at_blocking(asked, &settings, &resctrl);

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
        assert!(survey_blocking(&settings).block_io.unwrap().is_err());
    }
}
