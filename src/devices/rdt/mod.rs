//! Cache classes (RDT) that a file of the operator defines, and their groups in the kernel's resctrl.

mod file;
mod groups;
mod host;
mod schemata;
mod share;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(super) use file::{Definition, NO_GROUPS, parse};
use groups::Outcome;
use host::Processor;

use crate::model::classes::Asker;
use crate::model::{Context, Error, Result};

use super::classes;

/// Where the kernel's groups are and which of them we made.
#[derive(Clone, Debug)]
pub(super) struct Resctrl {
    /// The file system's root.
    pub(super) root: PathBuf,
    /// Bandwidth is limited in MB a second.
    pub(super) is_mbps: bool,
    /// The list of groups that we made.
    pub(super) made: PathBuf,
}

/// What came of bringing the groups in line with the file.
#[derive(Debug)]
pub(super) struct Applied {
    definition: Definition,
    outcome: Outcome,
}

impl Resctrl {
    /// Whether it is mounted.
    pub(super) fn is_there_blocking(&self) -> bool {
        self.root.join("schemata").exists()
    }

    /// Reads the file and makes the groups what it says.
    ///
    /// # Errors
    /// Saying what is wrong with the file, or what the processor lacks for it: no group is changed then.
    pub(super) fn apply_blocking(&self, file: &Path) -> Result<Applied> {
        let definition = read_blocking(file)?;
        let (processor, wanted) = self.resolve_blocking(file, &definition)?;
        let outcome = groups::apply_blocking(&self.root, &self.made, &wanted, &processor)?;
        Ok(Applied {
            definition,
            outcome,
        })
    }

    /// The names of the classes that the file defines, where this processor can have them.
    ///
    /// # Errors
    /// As [`Self::apply_blocking`]. Changes nothing.
    pub(super) fn survey_blocking(&self, file: &Path) -> Result<Vec<String>> {
        let definition = read_blocking(file)?;
        if !self.is_there_blocking() {
            let root = self.root.display();
            return Err(Error::precondition(format!(
                "{} defines classes, but resctrl is not mounted at {root}",
                file.display()
            )));
        }
        self.resolve_blocking(file, &definition)?;
        Ok(definition.names())
    }

    fn resolve_blocking(
        &self,
        file: &Path,
        definition: &Definition,
    ) -> Result<(Processor, BTreeMap<String, schemata::Schemata>)> {
        let processor = Processor::read_blocking(&self.root, self.is_mbps)?;
        let wanted = schemata::resolve(definition, &processor)
            .context(|| format!("cache classes in {}", file.display()))?;
        Ok((processor, wanted))
    }

    /// The groups there are; `None` where it is not mounted. Those of former classes are not among them.
    pub(super) fn groups_blocking(&self) -> Option<Vec<String>> {
        if !self.is_there_blocking() {
            return None;
        }
        let entries = std::fs::read_dir(&self.root).ok()?.flatten();
        let mut groups: Vec<String> = entries
            .filter(|entry| entry.path().join("schemata").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !NO_GROUPS.contains(&name.as_str()))
            .collect();
        groups.sort();
        Some(groups)
    }
}

impl Applied {
    /// What went wrong, and what stays until it is empty: nothing that whoever applies it must do something about.
    pub(super) fn report(&self) {
        for (class, error) in &self.outcome.failed {
            tracing::error!(class, error = %error.chain(), "a cache class cannot be used");
        }
        for group in &self.outcome.lingering {
            tracing::info!(
                group,
                "a cache class is no longer defined; its group goes when it is empty"
            );
        }
    }

    /// The group of the class `name`: `None` where the file does not define it, `Some(None)` where it is the root,
    /// which processes are in without being put there.
    ///
    /// # Errors
    /// `InvalidArgument` where whoever asks may not have it; why its group is not as it should be.
    pub(super) fn group(&self, name: &str, asker: Asker) -> Result<Option<Option<String>>> {
        let Some(class) = self.definition.class(name) else {
            return Ok(None);
        };
        let denied = match asker {
            Asker::Container => class.denies_containers.then_some("containers"),
            Asker::Pod => class.denies_pods.then_some("pods"),
            Asker::Plugin => None,
        };
        if let Some(who) = denied {
            return Err(Error::invalid(format!(
                "cache (RDT) class {name:?}: its definition denies it to annotations of {who}"
            )));
        }
        if let Some(error) = self.outcome.failed.get(name) {
            let said = format!("cache (RDT) class {name:?}: {}", error.chain());
            return Err(Error::precondition(said));
        }
        Ok(Some((name != file::ROOT_CLASS).then(|| name.to_owned())))
    }

    /// Groups of former classes.
    pub(super) const fn lingering(&self) -> &BTreeSet<String> {
        &self.outcome.lingering
    }

    /// The names of the classes.
    pub(super) fn names(&self) -> Vec<String> {
        self.definition.names()
    }
}

/// Reads a file of classes.
///
/// # Errors
/// `FailedPrecondition` where it cannot be read; `InvalidArgument` saying what is wrong with it.
pub(super) fn read_blocking(path: &Path) -> Result<Definition> {
    classes::read_blocking("cache classes", path, parse)
}
