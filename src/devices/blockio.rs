//! The file of block I/O classes, in the format that containerd and CRI-O share.
//!
//! ```yaml
//! Classes:
//!   slow:
//!     - Weight: 100                     # at every disk
//!     - Devices: [/dev/vd?, /dev/disk/by-id/*SSD*]
//!       ThrottleReadBps: 50M
//!       ThrottleWriteIOPS: 10k
//! ```

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::model::classes::{BlockIo, DiskIo, IoLimits};
use crate::model::host_facts::DeviceKind;
use crate::model::{Classify, Context, Error, Kind, Result};
use crate::{spec, sys};

use super::classes;

/// Nodes that the patterns of one class may mean.
const MAX_NODES: usize = 4_096;

/// The classes of a file, by name.
pub(super) type BlockIoClasses = BTreeMap<String, Vec<Part>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "Classes", alias = "classes", default)]
    classes: BTreeMap<String, Option<Vec<RawPart>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawPart {
    #[serde(rename = "Devices", alias = "devices")]
    devices: Option<Vec<String>>,
    #[serde(rename = "Weight", alias = "weight")]
    weight: Option<Quantity>,
    #[serde(rename = "ThrottleReadBps", alias = "throttleReadBps")]
    read_bps: Option<Quantity>,
    #[serde(rename = "ThrottleWriteBps", alias = "throttleWriteBps")]
    write_bps: Option<Quantity>,
    #[serde(rename = "ThrottleReadIOPS", alias = "throttleReadIOPS")]
    read_iops: Option<Quantity>,
    #[serde(rename = "ThrottleWriteIOPS", alias = "throttleWriteIOPS")]
    write_iops: Option<Quantity>,
}

/// A number, or one with a unit such as `50M` or `2Gi`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Quantity {
    Number(u64),
    Text(String),
}

impl Quantity {
    fn value(&self) -> Result<u64> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Text(text) => parse_quantity(text).ok_or_else(|| {
                Error::invalid(format!("{text:?}: want a number such as 50M or 2Gi"))
            }),
        }
    }
}

fn parse_quantity(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 10] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("", 1),
    ];
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| Some((text.trim().strip_suffix(suffix)?, *unit)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = match fraction {
        "" => 0,
        digits => digits.parse::<u64>().ok()?.checked_mul(unit)? / scale,
    };
    let is_number = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
    let whole = is_number.then(|| whole.parse::<u64>().ok()).flatten()?;
    whole.checked_mul(unit)?.checked_add(part)
}

/// One entry of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Patterns of device nodes; `None` is all disks.
    devices: Option<Vec<String>>,
    limits: IoLimits,
}

/// Reads the file.
///
/// # Errors
/// `FailedPrecondition` where it cannot be read; `InvalidArgument` saying what is wrong with it.
pub(super) fn read_blocking(path: &Path) -> Result<BlockIoClasses> {
    classes::read_blocking("block I/O classes", path, parse)
}

fn parse(text: &str) -> Result<BlockIoClasses> {
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let document: Document = serde_saphyr::from_str_with_options(text, options)
        .classify(Kind::InvalidArgument, || "not readable".to_owned())?;
    let class = |(name, raw): (String, Option<Vec<RawPart>>)| {
        let parts: Result<Vec<Part>> = raw.unwrap_or_default().into_iter().map(part).collect();
        let parts = parts.context(|| format!("class {name}"))?;
        Ok((name, parts))
    };
    document.classes.into_iter().map(class).collect()
}

fn part(raw: RawPart) -> Result<Part> {
    let value = |name: &str, quantity: &Option<Quantity>| {
        let value = quantity.as_ref().map(Quantity::value).transpose();
        value.context(|| name.to_owned())
    };
    let weight = value("Weight", &raw.weight)?
        .map(|weight| {
            let fits = u16::try_from(weight).ok();
            fits.filter(|weight| (10..=1_000).contains(weight))
                .ok_or_else(|| Error::invalid(format!("Weight {weight}: want 10 to 1000")))
        })
        .transpose()?;
    let limits = IoLimits {
        weight,
        read_bps: value("ThrottleReadBps", &raw.read_bps)?,
        write_bps: value("ThrottleWriteBps", &raw.write_bps)?,
        read_iops: value("ThrottleReadIOPS", &raw.read_iops)?,
        write_iops: value("ThrottleWriteIOPS", &raw.write_iops)?,
    };
    let only_weight = IoLimits {
        weight,
        ..IoLimits::default()
    };
    if raw.devices.is_none() && limits != only_weight {
        return Err(Error::invalid("a limit needs Devices beside it"));
    }
    Ok(Part {
        devices: raw.devices,
        limits,
    })
}

/// What a class means with the disks that are here now. A pattern without a disk says nothing, as elsewhere; partitions
/// have no shares or limits of their own and are passed over.
///
/// # Errors
/// `ResourceExhausted` where patterns mean too many nodes.
pub(super) fn resolve_blocking(class: &str, parts: &[Part]) -> Result<BlockIo> {
    let mut block_io = BlockIo::default();
    for part in parts {
        let Some(patterns) = &part.devices else {
            block_io.weight = part.limits.weight.or(block_io.weight);
            continue;
        };
        let disks = disks_blocking(patterns)?;
        if disks.is_empty() {
            tracing::warn!(
                class,
                ?patterns,
                "the patterns of a block I/O class mean no disk"
            );
        }
        for (major, minor) in disks {
            let same = |disk: &&mut DiskIo| (disk.major, disk.minor) == (major, minor);
            match block_io.disks.iter_mut().find(same) {
                Some(disk) => disk.limits = disk.limits.under(part.limits),
                None => block_io.disks.push(DiskIo {
                    major,
                    minor,
                    limits: part.limits,
                }),
            }
        }
    }
    Ok(block_io)
}

fn disks_blocking(patterns: &[String]) -> Result<Vec<(i64, i64)>> {
    let mut found = Vec::new();
    for pattern in patterns {
        for path in expand_blocking(pattern)? {
            let Ok(real) = path.canonicalize() else {
                continue;
            };
            let Ok(node) = sys::devices::node_at_blocking(&real) else {
                continue;
            };
            let numbers = (i64::from(node.major), i64::from(node.minor));
            let is_disk = node.kind == DeviceKind::Block
                && !sys::devices::is_partition_blocking(node.major, node.minor);
            if is_disk && !found.contains(&numbers) {
                found.push(numbers);
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The paths that a shell pattern means, sorted.
fn expand_blocking(pattern: &str) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::from("/")];
    for component in Path::new(pattern).components() {
        let Component::Normal(name) = component else {
            continue;
        };
        let name = name.to_string_lossy();
        let mut next = Vec::new();
        for dir in found {
            if !name.contains(['*', '?', '[', '\\']) {
                next.push(dir.join(&*name));
                continue;
            }
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            let fits = entries.filter_map(|entry| entry.file_name().into_string().ok());
            next.extend(
                fits.filter(|entry| spec::shell_match(&name, entry))
                    .map(|entry| dir.join(entry)),
            );
            if next.len() > MAX_NODES {
                return Err(Error::exhausted(format!(
                    "pattern {pattern:?} means more than {MAX_NODES} paths"
                )));
            }
        }
        found = next;
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
Classes:
  slow:
    - Weight: 100
    - Devices:
        - /dev/none-*
        - /dev/null
      ThrottleReadBps: 50M
      ThrottleWriteIOPS: 1.5k
  nothing:
";

    #[test]
    fn the_shared_format_is_read() {
        let classes = parse(FILE).unwrap();

        assert_eq!(classes.keys().collect::<Vec<_>>(), ["nothing", "slow"]);
        let slow = &classes["slow"];
        assert_eq!(
            (slow[0].limits.weight, &slow[0].devices),
            (Some(100), &None)
        );
        assert_eq!(slow[1].limits.read_bps, Some(50_000_000));
        assert_eq!(slow[1].limits.write_iops, Some(1_500));
        let lower = FILE
            .replace("Classes", "classes")
            .replace("Weight", "weight");
        assert_eq!(parse(&lower).unwrap(), classes);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn only_disks_count() {
        let classes = parse(FILE).unwrap();

        let slow = resolve_blocking("slow", &classes["slow"]).unwrap();

        let expected = BlockIo {
            weight: Some(100),
            disks: Vec::new(),
        };
        assert_eq!(slow, expected);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, word) in [
            ("Classes: {a: [{Weight: 5}]}", "10 to 1000"),
            ("Classes: {a: [{Weight: 5000}]}", "10 to 1000"),
            ("Classes: {a: [{ThrottleReadBps: 5}]}", "Devices"),
            (
                "Classes: {a: [{Devices: [/dev/x], ThrottleReadBps: fast}]}",
                "fast",
            ),
            (
                "Classes: {a: [{Devices: [/dev/x], ThrottleReadBps: -1}]}",
                "",
            ),
            ("Classes: {a: [{Speed: 5}]}", "Speed"),
            ("Klasses: {}", "Klasses"),
        ] {
            let said = parse(text).unwrap_err().chain();
            assert!(said.contains(word), "{text}: {said}");
        }
    }

    #[test]
    fn quantities_have_units() {
        for (text, value) in [
            ("0", Some(0)),
            ("10k", Some(10_000)),
            ("2Gi", Some(2 << 30)),
            ("0.5M", Some(500_000)),
            ("1.5Ki", Some(1_536)),
            ("", None),
            ("k", None),
            ("-1", None),
            ("+1", None),
            ("1.x", None),
            ("99999999999P", None),
        ] {
            assert_eq!(parse_quantity(text), value, "{text}");
        }
    }

    #[test]
    fn patterns_mean_paths() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["sda", "sdb", "vda", "by-id"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("by-id/one-SSD-1"), "").unwrap();
        let names = |pattern: &str| {
            let base = dir.path().display();
            let found = expand_blocking(&format!("{base}/{pattern}")).unwrap();
            found
                .iter()
                .map(|path| path.strip_prefix(dir.path()).unwrap().display().to_string())
                .collect::<Vec<_>>()
        };

        assert_eq!(names("sd?"), ["sda", "sdb"]);
        assert_eq!(names("[sv]da"), ["sda", "vda"]);
        assert_eq!(names("by-*/*SSD*"), ["by-id/one-SSD-1"]);
        assert_eq!(names("vda"), ["vda"]);
        assert!(names("x*").is_empty());
    }
}
