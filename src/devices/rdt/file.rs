//! The file of cache classes, in the format that containerd and CRI-O share.
//!
//! ```yaml
//! options: {mb: {optional: true}}         # go on where the processor cannot limit memory bandwidth
//! partitions:                             # what one has of a cache no other has
//!   fast:
//!     l3Allocation: "60%"
//!     mbAllocation: ["100%"]
//!     classes:
//!       guaranteed:                       # all of its partition
//!   shared:
//!     l3Allocation: {all: "40%", "2-3": "20%"}
//!     mbAllocation: ["50%", "2000MBps"]
//!     classes:
//!       besteffort: {l3Allocation: "50%"}
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::share::{Bandwidth, Cat, PerCache, Raw};
use crate::model::{Classify, Context, Error, Kind, Result};

/// Most classes of one file; processors have at most a few dozen.
const MAX_CLASSES: usize = 1_024;
/// Longest name of a directory.
const MAX_NAME: usize = 255;
/// What the file calls the group of all processes that are in no other.
pub(super) const ROOT_CLASS: &str = "DEFAULT";
/// Directories of resctrl that are no groups.
pub(in crate::devices) const NO_GROUPS: [&str; 3] = ["info", "mon_groups", "mon_data"];

/// A file that breaks no rule which can be seen without the processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::devices) struct Definition {
    pub(super) may_lack: MayLack,
    pub(super) partitions: BTreeMap<String, Partition>,
}

/// Which techniques the processor may lack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MayLack {
    pub(super) l2: bool,
    pub(super) l3: bool,
    pub(super) mb: bool,
}

/// What its classes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) has: Allocations,
    pub(super) classes: BTreeMap<String, Class>,
}

/// One group of resctrl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::devices) struct Class {
    pub(super) has: Allocations,
    /// Annotations of containers may not name it.
    pub(in crate::devices) denies_containers: bool,
    /// Annotations of pods may not name it.
    pub(in crate::devices) denies_pods: bool,
}

/// What a partition has of the processor, or a class of its partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Allocations {
    pub(super) l2: Option<PerCache<Cat>>,
    pub(super) l3: Option<PerCache<Cat>>,
    pub(super) mb: Option<PerCache<Bandwidth>>,
}

impl Definition {
    /// The class of this name.
    pub(in crate::devices) fn class(&self, name: &str) -> Option<&Class> {
        let mut partitions = self.partitions.values();
        partitions.find_map(|partition| partition.classes.get(name))
    }

    /// The names of all classes, sorted.
    pub(in crate::devices) fn names(&self) -> Vec<String> {
        let partitions = self.partitions.values();
        let names: BTreeSet<&String> = partitions.flat_map(|all| all.classes.keys()).collect();
        names.into_iter().cloned().collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    options: Option<RawOptions>,
    #[serde(default)]
    partitions: Option<BTreeMap<String, Option<RawPartition>>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawOptions {
    l2: Option<RawOption>,
    l3: Option<RawOption>,
    mb: Option<RawOption>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOption {
    #[serde(default)]
    optional: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawPartition {
    l2_allocation: Option<Raw>,
    l3_allocation: Option<Raw>,
    mb_allocation: Option<Raw>,
    classes: Option<BTreeMap<String, Option<RawClass>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawClass {
    l2_allocation: Option<Raw>,
    l3_allocation: Option<Raw>,
    mb_allocation: Option<Raw>,
    kubernetes: Option<RawKubernetes>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawKubernetes {
    deny_container_annotation: bool,
    deny_pod_annotation: bool,
}

/// Reads the text of a file.
///
/// # Errors
/// `InvalidArgument` saying what is wrong, and where.
pub(in crate::devices) fn parse(text: &str) -> Result<Definition> {
    if text.trim().is_empty() {
        return Ok(Definition::default());
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let document: Document = serde_saphyr::from_str_with_options(text, options)
        .classify(Kind::InvalidArgument, || "not readable".to_owned())?;
    let may = |option: Option<RawOption>| option.is_some_and(|option| option.optional);
    let options = document.options.unwrap_or_default();
    let mut definition = Definition {
        may_lack: MayLack {
            l2: may(options.l2),
            l3: may(options.l3),
            mb: may(options.mb),
        },
        partitions: BTreeMap::new(),
    };
    for (name, raw) in document.partitions.unwrap_or_default() {
        let read = partition(raw.unwrap_or_default()).context(|| format!("partition {name}"))?;
        definition.partitions.insert(name, read);
    }
    check_together(&definition)?;
    Ok(definition)
}

fn partition(raw: RawPartition) -> Result<Partition> {
    let has = allocations(raw.l2_allocation, raw.l3_allocation, raw.mb_allocation)?;
    let mut classes = BTreeMap::new();
    for (name, raw) in raw.classes.unwrap_or_default() {
        let name = match name.as_str() {
            "" => ROOT_CLASS.to_owned(),
            _ => name,
        };
        let read = class(&name, raw.unwrap_or_default(), &has);
        let read = read.context(|| format!("class {name}"))?;
        if classes.insert(name.clone(), read).is_some() {
            return Err(twice(&name));
        }
    }
    Ok(Partition { has, classes })
}

fn class(name: &str, raw: RawClass, partition: &Allocations) -> Result<Class> {
    let is_directory = name.len() <= MAX_NAME
        && !name.starts_with('.')
        && !name.contains(|byte: char| byte == '/' || byte.is_control())
        && !NO_GROUPS.contains(&name);
    if !is_directory {
        return Err(Error::invalid("no directory of resctrl can be called so"));
    }
    let has = allocations(raw.l2_allocation, raw.l3_allocation, raw.mb_allocation)?;
    for (key, of_class, of_partition) in [
        ("l2Allocation", has.l2.is_some(), partition.l2.is_some()),
        ("l3Allocation", has.l3.is_some(), partition.l3.is_some()),
        ("mbAllocation", has.mb.is_some(), partition.mb.is_some()),
    ] {
        if of_class && !of_partition {
            let said = format!("{key} is a part of what the partition has, and that has none");
            return Err(Error::invalid(said));
        }
    }
    let kubernetes = raw.kubernetes.unwrap_or_default();
    Ok(Class {
        has,
        denies_containers: kubernetes.deny_container_annotation,
        denies_pods: kubernetes.deny_pod_annotation,
    })
}

fn allocations(l2: Option<Raw>, l3: Option<Raw>, mb: Option<Raw>) -> Result<Allocations> {
    let cache = |raw: Option<Raw>, key: &str| {
        let read = raw.map(|raw| PerCache::read(raw, Cat::read)).transpose();
        read.context(|| key.to_owned())
    };
    let mb = mb.map(|raw| PerCache::read(raw, Bandwidth::read));
    Ok(Allocations {
        l2: cache(l2, "l2Allocation")?,
        l3: cache(l3, "l3Allocation")?,
        mb: mb.transpose().context(|| "mbAllocation".to_owned())?,
    })
}

/// What no partition alone can break.
fn check_together(definition: &Definition) -> Result<()> {
    let mut names = BTreeSet::new();
    for name in definition
        .partitions
        .values()
        .flat_map(|all| all.classes.keys())
    {
        if !names.insert(name) {
            return Err(twice(name));
        }
    }
    if names.len() > MAX_CLASSES {
        let found = names.len();
        return Err(Error::invalid(format!(
            "{found} classes, at most {MAX_CLASSES}"
        )));
    }
    let all = || definition.partitions.values();
    for (key, having) in [
        (
            "l2Allocation",
            all().filter(|one| one.has.l2.is_some()).count(),
        ),
        (
            "l3Allocation",
            all().filter(|one| one.has.l3.is_some()).count(),
        ),
    ] {
        if having != 0 && having != all().count() {
            return Err(Error::invalid(format!(
                "{key} stands in some partitions only; it belongs in all of them or in none"
            )));
        }
    }
    Ok(())
}

fn twice(name: &str) -> Error {
    Error::invalid(format!("class {name} is defined more than once"))
}
