//! What the processor can share out, as resctrl tells it.

use std::path::Path;

use crate::model::{Classify, Context, Error, Kind, Result};
use crate::sys;

/// More than any file here has.
const MAX_BYTES: u64 = 64 << 10;

/// The techniques of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::devices) struct Processor {
    pub(super) l2: Option<Cache>,
    pub(super) l3: Option<Cache>,
    pub(super) mb: Option<Memory>,
    /// Groups that it can tell apart, the root among them; `None` where nothing says so.
    pub(super) groups: Option<u64>,
}

/// Caches of one level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cache {
    /// Code and data have masks of their own.
    pub(super) is_split: bool,
    pub(super) mask: u64,
    pub(super) min_bits: u32,
    /// Their numbers.
    pub(super) ids: Vec<u32>,
}

/// Memory bandwidth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// Least percentage.
    pub(super) min: u64,
    /// It is limited in MB a second rather than in percent.
    pub(super) is_mbps: bool,
    pub(super) ids: Vec<u32>,
}

impl Processor {
    /// Reads the files below `resctrl`; `is_mbps` says how that is mounted, which no file does.
    ///
    /// # Errors
    /// `FailedPrecondition` where a file is missing or not understood.
    pub(in crate::devices) fn read_blocking(resctrl: &Path, is_mbps: bool) -> Result<Self> {
        let info = resctrl.join("info");
        let schemata = text_blocking(&resctrl.join("schemata"))?;
        let mb = info.join("MB");
        let mb = mb.exists().then(|| {
            Ok::<_, Error>(Memory {
                min: number_blocking(&mb.join("min_bandwidth"), 10)?,
                is_mbps,
                ids: ids(&schemata, "MB")?,
            })
        });
        let mut groups = Vec::new();
        for technique in ["L2", "L2CODE", "L3", "L3CODE", "MB"] {
            let file = info.join(technique).join("num_closids");
            if file.exists() {
                groups.push(number_blocking(&file, 10)?);
            }
        }
        Ok(Self {
            l2: cache_blocking(&info, "L2", &schemata)?,
            l3: cache_blocking(&info, "L3", &schemata)?,
            mb: mb.transpose()?,
            groups: groups.into_iter().min(),
        })
    }
}

fn cache_blocking(info: &Path, level: &str, schemata: &str) -> Result<Option<Cache>> {
    let split = format!("{level}CODE");
    let is_split = info.join(&split).exists();
    let technique = if is_split { split.as_str() } else { level };
    let dir = info.join(technique);
    // A cache that is only watched has a directory of another name.
    if !dir.join("cbm_mask").exists() {
        return Ok(None);
    }
    let min_bits = number_blocking(&dir.join("min_cbm_bits"), 10)?;
    Ok(Some(Cache {
        is_split,
        mask: number_blocking(&dir.join("cbm_mask"), 16)?,
        min_bits: u32::try_from(min_bits).unwrap_or(u32::MAX),
        ids: ids(schemata, technique)?,
    }))
}

/// The caches that the root's schemata have a value for: `L3:0=fffff;1=fffff`.
fn ids(schemata: &str, technique: &str) -> Result<Vec<u32>> {
    let wrong = || {
        Error::precondition(format!(
            "resctrl: schemata of the root: no line for {technique} that is understood"
        ))
    };
    let mut lines = schemata
        .lines()
        .filter_map(|line| line.trim().split_once(':'));
    let (_, values) = lines
        .find(|(name, _)| *name == technique)
        .ok_or_else(wrong)?;
    let mut ids = Vec::new();
    for value in values.split(';') {
        let (id, _) = value.split_once('=').ok_or_else(wrong)?;
        ids.push(id.trim().parse().ok().ok_or_else(wrong)?);
    }
    Ok(ids)
}

pub(super) fn text_blocking(path: &Path) -> Result<String> {
    let what = || format!("read {}", path.display());
    let bytes = sys::files::read_capped_blocking(path, MAX_BYTES).context(what)?;
    String::from_utf8(bytes).classify(Kind::FailedPrecondition, what)
}

fn number_blocking(path: &Path, radix: u32) -> Result<u64> {
    let text = text_blocking(path)?;
    u64::from_str_radix(text.trim(), radix).classify(Kind::FailedPrecondition, || {
        format!("{}: {:?} is no number", path.display(), text.trim())
    })
}
