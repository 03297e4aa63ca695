//! How much: `60%`, `0xf0`, `0-3`, `[50%, 1000MBps]`, the same for all caches or different for some.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::model::{Context, Error, Result};

/// Highest number of a cache or of a bit of its mask that a file may name.
const MAX_NUMBER: u32 = 127;
/// Most entries of one allocation.
const MAX_ENTRIES: usize = 256;

/// What YAML has there, before it is known what it must be.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Raw {
    Text(String),
    List(Vec<Raw>),
    Map(BTreeMap<String, Raw>),
    Number(f64),
    Nothing(()),
}

impl Raw {
    fn text(&self) -> Result<&str> {
        match self {
            Self::Text(text) => Ok(text.trim()),
            Self::Number(number) => Err(Error::invalid(format!(
                "{number}: want a text in quotes, such as \"60%\" or \"0xf0\""
            ))),
            Self::List(_) | Self::Map(_) | Self::Nothing(()) => {
                Err(Error::invalid("want a text such as \"60%\" or \"0xf0\""))
            }
        }
    }
}

/// A value for each cache of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PerCache<T> {
    /// For caches that are not named; `None` where all of them must be.
    all: Option<T>,
    named: BTreeMap<u32, T>,
}

impl<T> PerCache<T> {
    /// Reads one value for all caches, or a map from caches to values.
    pub(super) fn read(raw: Raw, value: fn(&Raw) -> Result<T>) -> Result<Self>
    where
        T: Clone,
    {
        let Raw::Map(entries) = raw else {
            let all = Some(value(&raw)?);
            let named = BTreeMap::new();
            return Ok(Self { all, named });
        };
        if entries.len() > MAX_ENTRIES {
            return Err(Error::invalid(format!("more than {MAX_ENTRIES} entries")));
        }
        let (mut all, mut named) = (None, BTreeMap::new());
        for (caches, raw) in &entries {
            let value = value(raw).context(|| format!("caches {caches}"))?;
            if caches == "all" {
                all = Some(value);
                continue;
            }
            for cache in numbers(caches)? {
                if named.insert(cache, value.clone()).is_some() {
                    return Err(Error::invalid(format!("cache {cache} is named twice")));
                }
            }
        }
        Ok(Self { all, named })
    }

    /// The value for the cache `id`.
    pub(super) fn of(&self, id: u32) -> Option<&T> {
        self.named.get(&id).or(self.all.as_ref())
    }
}

/// A share of a cache, which may differ for code and data where the processor tells them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cat {
    unified: Share,
    code_and_data: Option<(Share, Share)>,
}

impl Cat {
    /// All there is.
    pub(super) const WHOLE: Self = Self {
        unified: Share::Percent { low: 0, high: 100 },
        code_and_data: None,
    };

    pub(super) fn read(raw: &Raw) -> Result<Self> {
        let Raw::Map(parts) = raw else {
            let unified = Share::read(raw)?;
            return Ok(Self {
                unified,
                code_and_data: None,
            });
        };
        if let Some(other) = parts.keys().find(|key| !KINDS.contains(&key.as_str())) {
            return Err(Error::invalid(format!(
                "{other:?}: want unified, code and data"
            )));
        }
        let part = |key: &str| {
            let read = parts.get(key).map(Share::read).transpose();
            read.context(|| key.to_owned())
        };
        let unified = part("unified")?.ok_or_else(|| Error::invalid("unified is missing"))?;
        let code_and_data = match (part("code")?, part("data")?) {
            (Some(code), Some(data)) => Some((code, data)),
            (None, None) => None,
            (Some(_), None) => return Err(Error::invalid("code needs data beside it")),
            (None, Some(_)) => return Err(Error::invalid("data needs code beside it")),
        };
        Ok(Self {
            unified,
            code_and_data,
        })
    }

    /// The share of what the kernel calls `L3`, `L3CODE` or `L3DATA`.
    pub(super) fn share(&self, of: Side) -> Share {
        match (self.code_and_data, of) {
            (Some((code, _)), Side::Code) => code,
            (Some((_, data)), Side::Data) => data,
            (_, Side::Both | Side::Code | Side::Data) => self.unified,
        }
    }
}

const KINDS: [&str; 3] = ["unified", "code", "data"];

/// Which accesses a mask is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Both,
    Code,
    Data,
}

/// A part of a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// These bits, the lowest being the lowest there is.
    Bits(u64),
    /// From one percentage to another; from 0 it is the first one percent.
    Percent { low: u64, high: u64 },
}

impl Share {
    fn read(raw: &Raw) -> Result<Self> {
        let text = raw.text()?;
        let wrong = |rule: &str| Error::invalid(format!("{text:?}: {rule}"));
        if let Some(percent) = text.strip_suffix('%') {
            let (low, high) = match percent.split_once('-') {
                Some((low, high)) => (low.parse().ok(), high.parse().ok()),
                None => (Some(0), percent.parse().ok()),
            };
            return match (low, high) {
                (Some(low), Some(high)) if low <= high && (1..=100).contains(&high) => {
                    Ok(Self::Percent { low, high })
                }
                _ => Err(wrong("want 1% to 100%, or a range of them")),
            };
        }
        let bits = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => numbers(text)?
                .into_iter()
                .try_fold(0, |bits, bit| Some(bits | 1_u64.checked_shl(bit)?)),
        };
        let bits = bits
            .filter(|bits| *bits != 0)
            .ok_or_else(|| wrong("want a percentage, a mask such as 0xf0 or bits such as 0-3"))?;
        if is_one_block(bits) {
            Ok(Self::Bits(bits))
        } else {
            Err(wrong("the bits of a mask must stand side by side"))
        }
    }
}

/// Whether the ones of `bits` stand side by side; not so where there are none.
pub(super) const fn is_one_block(bits: u64) -> bool {
    bits != 0 && bits.count_ones() == 64 - bits.leading_zeros() - bits.trailing_zeros()
}

/// A share of memory bandwidth: which of the two counts depends on how resctrl is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bandwidth {
    pub(super) percent: Option<u64>,
    pub(super) mbps: Option<u64>,
}

impl Bandwidth {
    pub(super) fn read(raw: &Raw) -> Result<Self> {
        let Raw::List(parts) = raw else {
            return Err(Error::invalid(
                "want a list such as [\"50%\", \"1000MBps\"]",
            ));
        };
        let mut bandwidth = Self::default();
        for part in parts {
            let text = part.text()?;
            let number = |unit| text.strip_suffix(unit)?.parse::<u32>().ok().map(u64::from);
            match (number("%"), number("MBps")) {
                (Some(percent @ 0..=100), _) => bandwidth.percent = Some(percent),
                (_, Some(mbps)) => bandwidth.mbps = Some(mbps),
                _ => {
                    let said = format!("{text:?}: want 0% to 100%, or a number and MBps");
                    return Err(Error::invalid(said));
                }
            }
        }
        if bandwidth == Self::default() {
            return Err(Error::invalid("an empty list says nothing"));
        }
        Ok(bandwidth)
    }
}

/// The numbers of a list such as `0,2,8-11`.
fn numbers(text: &str) -> Result<Vec<u32>> {
    let wrong = || {
        Error::invalid(format!(
            "{text:?}: want numbers up to {MAX_NUMBER} such as 0,2,8-11"
        ))
    };
    let number = |text: &str| {
        let number = text.trim().parse::<u32>().ok();
        number.filter(|number| *number <= MAX_NUMBER)
    };
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return Err(wrong());
        };
        if first > last {
            return Err(wrong());
        }
        all.extend(first..=last);
    }
    Ok(all)
}
