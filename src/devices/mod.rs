//! CDI and OCI-hook files to edits as model values; names of classes of service to what they mean.
//!
//! `files` reads directories that others write into while we run; `cdi` and `hooks` say what a file means. Nothing here
//! knows containers beyond what decides the edits; whoever builds the spec applies them.

mod blockio;
mod cdi;
mod classes;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod hooks;
mod rdt;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub use cdi::requested;
pub use classes::ClassesSurvey;
pub use files::BrokenFile;
pub use hooks::HookFacts;

use crate::config::settings::Containers;
use crate::config::{Config, Shared};
use crate::model::classes::{AskedClasses, Classes};
use crate::model::clock::SystemClock;
use crate::model::{Clock, Edits, Error, Result};

use cdi::Specification;
use files::Files;
use hooks::HookFile;

/// The node's CDI specifications and OCI hook files, as they are at each question.
#[derive(Debug)]
pub struct DeviceFiles {
    config: Shared,
    specifications: Files<Specification>,
    hooks: Files<HookFile>,
    /// Held while groups of resctrl are changed.
    groups: Mutex<()>,
}

impl DeviceFiles {
    /// Reads nothing yet.
    pub fn new(config: Shared, clock: Arc<dyn Clock>) -> Self {
        Self {
            config,
            specifications: cdi::files(Arc::clone(&clock)),
            hooks: hooks::files(clock),
            groups: Mutex::new(()),
        }
    }

    /// What a container needs that uses the devices `names`, which [`requested`] tells. Looks at the specifications and
    /// at device nodes of the host.
    ///
    /// # Errors
    /// `FailedPrecondition` where CDI is off, naming the devices that no file describes, or the node that the host lacks.
    pub fn devices_blocking(&self, names: &[String]) -> Result<Edits> {
        if names.is_empty() {
            return Ok(Edits::default());
        }
        let config = self.config.load();
        let directories = &config.containers.cdi_spec_dirs;
        if directories.is_empty() {
            return Err(Error::precondition(format!(
                "CDI devices {} are asked for, but CDI is switched off; set containers.cdi_spec_dirs",
                names.join(", ")
            )));
        }
        let reading = self.specifications.read_blocking(directories);
        cdi::resolve_blocking(&reading, directories, names)
    }

    /// What the classes of service `asked` mean on this node.
    ///
    /// # Errors
    /// `FailedPrecondition` or `InvalidArgument` where they mean nothing here, and the settings do not say to go on without.
    pub fn classes_blocking(&self, asked: &AskedClasses) -> Result<Classes> {
        let config = self.config.load();
        let resctrl = classes::resctrl_blocking(&config);
        let _one_at_a_time = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        classes::resolve_blocking(asked, &config.containers, &resctrl)
    }

    /// Brings the groups of resctrl in line with the file of cache classes, where there is one.
    ///
    /// # Errors
    /// Saying what is wrong with the file or missing on this node; classes that can be used are none the worse for one
    /// that cannot, which is logged.
    pub fn apply_classes_blocking(&self) -> Result<()> {
        let config = self.config.load();
        if config.containers.rdt_config_file.is_none() {
            return Ok(());
        }
        let resctrl = classes::resctrl_blocking(&config);
        let _one_at_a_time = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        classes::apply_blocking(&config.containers, &resctrl)
    }

    /// Whether any directory of hook files is configured.
    pub fn has_hooks(&self) -> bool {
        !self.config.load().containers.hooks_dirs.is_empty()
    }

    /// The hooks of the container that `facts` describes.
    pub fn hooks_blocking(&self, facts: &HookFacts) -> Edits {
        let config = self.config.load();
        let reading = self.hooks.read_blocking(&config.containers.hooks_dirs);
        hooks::select(&reading, facts)
    }
}

/// The classes of service that the node has.
pub fn classes_survey_blocking(config: &Config) -> ClassesSurvey {
    classes::survey_blocking(&config.containers, &classes::resctrl_blocking(config))
}

/// What is wrong with the files of classes, whatever this node has.
pub fn broken_class_files_blocking(settings: &Containers) -> Vec<String> {
    classes::broken_files_blocking(settings)
}

/// CDI specifications in `cdi` that cannot be used, or not wholly, and then such hook files in `hooks`.
pub fn broken_files_blocking(
    cdi: &[PathBuf],
    hooks: &[PathBuf],
) -> (Vec<BrokenFile>, Vec<BrokenFile>) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let specifications = cdi::files(Arc::clone(&clock)).read_blocking(cdi);
    let mut broken = cdi::conflicts(&specifications);
    broken.extend(specifications.broken);
    (broken, hooks::files(clock).read_blocking(hooks).broken)
}
