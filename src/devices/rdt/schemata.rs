//! From a file of classes and what the processor can do to the schemata of each group. Pure.

use std::collections::BTreeMap;

use super::file::{Allocations, Class, Definition, Partition, ROOT_CLASS};
use super::host::{Cache, Memory, Processor};
use super::share::{Cat, PerCache, Share, Side, is_one_block};
use crate::model::{Context, Error, Result};

/// No limit where bandwidth is limited in MB a second.
const UNLIMITED_MBPS: u64 = u32::MAX as u64;

/// The lines of a group's schemata file, by technique.
pub(in crate::devices) type Schemata = BTreeMap<String, String>;

/// The schemata of every class of `definition`, by its name.
///
/// # Errors
/// `FailedPrecondition` where the processor lacks what the file asks for and does not call optional, or has too little;
/// `InvalidArgument` where the file cannot be meant on any.
pub(in crate::devices) fn resolve(
    definition: &Definition,
    processor: &Processor,
) -> Result<BTreeMap<String, Schemata>> {
    let mut all: BTreeMap<String, Schemata> = BTreeMap::new();
    for partition in definition.partitions.values() {
        for name in partition.classes.keys() {
            all.insert(name.clone(), Schemata::new());
        }
    }
    let may_lack = definition.may_lack;
    for (level, cache, is_optional, pick) in [
        ("L2", &processor.l2, may_lack.l2, l2 as Pick),
        ("L3", &processor.l3, may_lack.l3, l3 as Pick),
    ] {
        let asks = definition
            .partitions
            .values()
            .any(|one| pick(&one.has).is_some());
        match cache {
            Some(cache) => caches(definition, level, cache, pick, &mut all)
                .context(|| format!("{level} cache"))?,
            None if asks && !is_optional => return Err(lacks(level, &level.to_lowercase())),
            None => {}
        }
    }
    let asks = definition
        .partitions
        .values()
        .any(|one| one.has.mb.is_some());
    match &processor.mb {
        Some(memory) => {
            bandwidth(definition, memory, &mut all).context(|| "memory bandwidth".to_owned())?;
        }
        None if asks && !may_lack.mb => return Err(lacks("memory bandwidth", "mb")),
        None => {}
    }
    Ok(all)
}

type Pick = fn(&Allocations) -> Option<&PerCache<Cat>>;

fn l2(has: &Allocations) -> Option<&PerCache<Cat>> {
    has.l2.as_ref()
}

fn l3(has: &Allocations) -> Option<&PerCache<Cat>> {
    has.l3.as_ref()
}

fn lacks(technique: &str, option: &str) -> Error {
    Error::precondition(format!(
        "{technique} is shared out, which this processor cannot do; set options.{option}.optional, or take it out"
    ))
}

/// Adds the lines of one level of caches.
fn caches(
    definition: &Definition,
    level: &str,
    cache: &Cache,
    pick: Pick,
    all: &mut BTreeMap<String, Schemata>,
) -> Result<()> {
    let sides: &[(Side, &str)] = if cache.is_split {
        &[(Side::Code, "CODE"), (Side::Data, "DATA")]
    } else {
        &[(Side::Both, "")]
    };
    for (side, suffix) in sides {
        let mut lines: BTreeMap<&str, String> = BTreeMap::new();
        for id in &cache.ids {
            let grants = grants(definition, cache, *id, *side, pick);
            let grants = grants.context(|| format!("cache {id}"))?;
            for (partition, grant) in definition.partitions.values().zip(grants) {
                for (name, class) in &partition.classes {
                    let mask = match grant {
                        Some(grant) => of_class(class, grant, cache, *id, *side, pick)
                            .context(|| format!("class {name}, cache {id}"))?,
                        // Nothing is shared out: a group has all, and what the root has is not ours to say.
                        None if name == ROOT_CLASS => continue,
                        None => cache.mask,
                    };
                    entry(&mut lines, name, *id, format_args!("{mask:x}"));
                }
            }
        }
        insert(all, &format!("{level}{suffix}"), lines);
    }
    Ok(())
}

/// The mask of each partition at one cache, in the order of their names; `None` where nothing is shared out.
fn grants(
    definition: &Definition,
    cache: &Cache,
    id: u32,
    side: Side,
    pick: Pick,
) -> Result<Vec<Option<u64>>> {
    let share = |partition: &Partition| {
        let per_cache = pick(&partition.has)?;
        Some(per_cache.of(id).unwrap_or(&Cat::WHOLE).share(side))
    };
    let shares: Option<Vec<Share>> = definition.partitions.values().map(share).collect();
    let Some(shares) = shares else {
        return Ok(vec![None; definition.partitions.len()]);
    };
    let masks = masks(&shares, cache)?;
    Ok(masks.into_iter().map(Some).collect())
}

/// Cuts a cache in pieces that do not overlap.
fn masks(shares: &[Share], cache: &Cache) -> Result<Vec<u64>> {
    let bits: Option<Vec<u64>> = shares.iter().map(|share| bits_of(*share)).collect();
    if let Some(masks) = bits {
        let mut taken = 0;
        for mask in &masks {
            if mask & !cache.mask != 0 {
                return Err(Error::precondition(format!(
                    "mask {mask:#x} of a partition is not within {:#x}, which this processor has",
                    cache.mask
                )));
            }
            check_width(*mask, cache)?;
            if mask & taken != 0 {
                return Err(Error::invalid(format!(
                    "mask {mask:#x} overlaps that of another partition"
                )));
            }
            taken |= mask;
        }
        return Ok(masks);
    }
    let percents: Option<Vec<u64>> = shares.iter().map(|share| percent_of(*share)).collect();
    let percents = percents.ok_or_else(|| {
        Error::invalid(
            "partitions want plain percentages, or all of them masks; not both, and no ranges",
        )
    })?;
    let total: u64 = percents.iter().sum();
    if total > 100 {
        return Err(Error::invalid(format!(
            "the partitions have {total}% of it"
        )));
    }
    cut(&percents, cache)
}

const fn bits_of(share: Share) -> Option<u64> {
    match share {
        Share::Bits(bits) => Some(bits),
        Share::Percent { .. } => None,
    }
}

const fn percent_of(share: Share) -> Option<u64> {
    match share {
        Share::Percent { low: 0, high } => Some(high),
        Share::Percent { .. } | Share::Bits(_) => None,
    }
}

/// Counts bits from the smallest share to the largest, so that rounding up is paid by those who have most, and the last
/// gets what is left; then lays them out in the order given.
fn cut(percents: &[u64], cache: &Cache) -> Result<Vec<u64>> {
    let total = u64::from(cache.mask.count_ones());
    let least = u64::from(cache.min_bits.max(1));
    let mut order: Vec<(usize, u64)> = percents.iter().copied().enumerate().collect();
    order.sort_by_key(|(_, percent)| *percent);
    let mut widths = vec![0; percents.len()];
    let mut left = total;
    for (nth, (index, percent)) in order.iter().enumerate() {
        if left < least {
            return Err(Error::precondition(format!(
                "{total} bits are too few for {} partitions of at least {least}",
                percents.len()
            )));
        }
        let left_percent = (left * 100 / total).max(1);
        let width = if nth + 1 == order.len() {
            left
        } else {
            (percent * left / left_percent).max(least).min(left)
        };
        if let Some(slot) = widths.get_mut(*index) {
            *slot = width;
        }
        left -= width;
    }
    let mut low = cache.mask.trailing_zeros();
    let mut masks = Vec::with_capacity(widths.len());
    for width in widths {
        let width = u32::try_from(width).unwrap_or(64);
        masks.push(ones(width) << low);
        low += width;
    }
    Ok(masks)
}

/// The part of its partition's mask that a class has.
fn of_class(
    class: &Class,
    grant: u64,
    cache: &Cache,
    id: u32,
    side: Side,
    pick: Pick,
) -> Result<u64> {
    let whole = Cat::WHOLE;
    let own = pick(&class.has).and_then(|per_cache| per_cache.of(id));
    let base = grant.trailing_zeros();
    match own.unwrap_or(&whole).share(side) {
        Share::Bits(bits) => {
            // Relative to what the partition has.
            let mask = bits.checked_shl(base).filter(|mask| mask >> base == bits);
            let mask = mask.filter(|mask| mask & !grant == 0).ok_or_else(|| {
                Error::invalid(format!(
                    "mask {bits:#x} is wider than {grant:#x}, which its partition has"
                ))
            })?;
            check_width(mask, cache)?;
            Ok(mask)
        }
        Share::Percent { low, high } => Ok(percent_within(low, high, grant, cache.min_bits)),
    }
}

fn percent_within(low: u64, high: u64, grant: u64, min_bits: u32) -> u64 {
    let width = u64::from(grant.count_ones());
    let mut first = low.max(1).saturating_sub(1) * width / 100;
    let mut last = high.max(1).saturating_sub(1) * width / 100;
    // The least that the processor takes: downwards as far as it goes, then upwards.
    let missing = u64::from(min_bits.max(1)).saturating_sub(last - first + 1);
    let down = missing.min(first);
    first -= down;
    last = (last + missing - down).min(width.saturating_sub(1));
    let bits = u32::try_from(last - first + 1).unwrap_or(64);
    let shift = u32::try_from(first).unwrap_or(0) + grant.trailing_zeros();
    ones(bits) << shift
}

/// This many ones.
const fn ones(count: u32) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

fn check_width(mask: u64, cache: &Cache) -> Result<()> {
    if mask.count_ones() < cache.min_bits || !is_one_block(mask) {
        return Err(Error::precondition(format!(
            "mask {mask:#x} has fewer bits than this processor takes, {}",
            cache.min_bits
        )));
    }
    Ok(())
}

/// Adds the lines of memory bandwidth.
fn bandwidth(
    definition: &Definition,
    memory: &Memory,
    all: &mut BTreeMap<String, Schemata>,
) -> Result<()> {
    let mut lines: BTreeMap<&str, String> = BTreeMap::new();
    let whole = if memory.is_mbps { UNLIMITED_MBPS } else { 100 };
    let value = |has: &Allocations, id: u32| {
        let Some(per_cache) = &has.mb else {
            return Ok(whole);
        };
        let given = per_cache.of(id).copied().unwrap_or_default();
        let (given, unit) = if memory.is_mbps {
            (given.mbps, "MBps")
        } else {
            (given.percent, "%")
        };
        given.ok_or_else(|| {
            Error::precondition(format!(
                "no value in {unit} for cache {id}, which is how resctrl is mounted here"
            ))
        })
    };
    for (partition_name, partition) in &definition.partitions {
        for (name, class) in &partition.classes {
            if name == ROOT_CLASS && partition.has.mb.is_none() {
                continue;
            }
            for id in &memory.ids {
                let grant =
                    value(&partition.has, *id).context(|| format!("partition {partition_name}"))?;
                let own = value(&class.has, *id).context(|| format!("class {name}"))?;
                let limit = if memory.is_mbps {
                    own.min(grant)
                } else {
                    (own * grant.max(memory.min) / 100).max(memory.min)
                };
                entry(&mut lines, name, *id, format_args!("{limit}"));
            }
        }
    }
    insert(all, "MB", lines);
    Ok(())
}

fn entry<'a>(
    lines: &mut BTreeMap<&'a str, String>,
    class: &'a str,
    id: u32,
    value: std::fmt::Arguments<'_>,
) {
    let line = lines.entry(class).or_default();
    let separator = if line.is_empty() { "" } else { ";" };
    line.push_str(&format!("{separator}{id}={value}"));
}

fn insert(all: &mut BTreeMap<String, Schemata>, technique: &str, lines: BTreeMap<&str, String>) {
    for (class, line) in lines {
        if let Some(schemata) = all.get_mut(class) {
            schemata.insert(technique.to_owned(), line);
        }
    }
}
