//! Resource limits. Zero and empty mean "not asked for" on both sides.

use crate::model::resources::HugepageLimit;
use crate::model::{Error, Resources, Result};
use crate::wire::cri;

use super::check::{count, limit, no_nul, plain, positive, refuse, shown, size};

const MAX_ENTRIES: usize = 256;
const MAX_VALUE: usize = 4096;
const MAX_PAGE_SIZE: usize = 16;
const SCORES: std::ops::RangeInclusive<i64> = -1000..=1000;

impl TryFrom<cri::LinuxContainerResources> for Resources {
    type Error = Error;

    fn try_from(message: cri::LinuxContainerResources) -> Result<Self> {
        cpu_list("cpuset_cpus", &message.cpuset_cpus)?;
        cpu_list("cpuset_mems", &message.cpuset_mems)?;
        count(
            "hugepage_limits",
            message.hugepage_limits.len(),
            MAX_ENTRIES,
        )?;
        count("unified", message.unified.len(), MAX_ENTRIES)?;
        for (key, value) in &message.unified {
            unified(key, value)?;
        }
        let score = message.oom_score_adj;
        let oom_score_adj = i32::try_from(score)
            .ok()
            .filter(|_| SCORES.contains(&score));
        Ok(Self {
            cpu_period: positive("cpu_period", message.cpu_period)?,
            cpu_quota: limit("cpu_quota", message.cpu_quota)?,
            cpu_shares: positive("cpu_shares", message.cpu_shares)?,
            memory_limit: limit("memory_limit_in_bytes", message.memory_limit_in_bytes)?,
            memory_swap_limit: limit(
                "memory_swap_limit_in_bytes",
                message.memory_swap_limit_in_bytes,
            )?,
            oom_score_adj: match oom_score_adj {
                Some(score) => score,
                None => refuse("oom_score_adj", format_args!("-1000 to 1000, got {score}"))?,
            },
            cpuset_cpus: message.cpuset_cpus,
            cpuset_mems: message.cpuset_mems,
            hugepages: message
                .hugepage_limits
                .into_iter()
                .map(hugepage)
                .collect::<Result<_>>()?,
            unified: message.unified,
        })
    }
}

fn cpu_list(field: &str, text: &str) -> Result<()> {
    size(field, text.len(), MAX_VALUE)?;
    if text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-'))
    {
        return Ok(());
    }
    refuse(
        field,
        format_args!("a list such as 0-2,7, got {}", shown(text)),
    )
}

fn hugepage(message: cri::HugepageLimit) -> Result<HugepageLimit> {
    let text = &message.page_size;
    size("hugepage_limits: page_size", text.len(), MAX_PAGE_SIZE)?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return refuse(
            "hugepage_limits: page_size",
            format_args!("a size such as 2MB, got {}", shown(text)),
        );
    }
    Ok(HugepageLimit {
        page_size: message.page_size,
        limit: message.limit,
    })
}

/// A key is the name of a file in the container's cgroup, and must stay one.
fn unified(key: &str, value: &str) -> Result<()> {
    let field = format!("unified[{}]", shown(key));
    size(&field, key.len(), 255)?;
    plain(&field, key)?;
    let (controller, file) = key.split_once('.').unwrap_or_default();
    if controller.is_empty() || file.is_empty() || key.contains('/') {
        return refuse(&field, "the name of a cgroup v2 file such as memory.high");
    }
    size(&field, value.len(), MAX_VALUE)?;
    no_nul(&field, value)
}

impl From<&Resources> for cri::LinuxContainerResources {
    fn from(resources: &Resources) -> Self {
        let unsigned = |number: Option<u64>| i64::try_from(number.unwrap_or(0)).unwrap_or(i64::MAX);
        Self {
            cpu_period: unsigned(resources.cpu_period),
            cpu_quota: resources.cpu_quota.unwrap_or(0),
            cpu_shares: unsigned(resources.cpu_shares),
            memory_limit_in_bytes: resources.memory_limit.unwrap_or(0),
            oom_score_adj: resources.oom_score_adj.into(),
            cpuset_cpus: resources.cpuset_cpus.clone(),
            cpuset_mems: resources.cpuset_mems.clone(),
            hugepage_limits: resources
                .hugepages
                .iter()
                .map(|page| cri::HugepageLimit {
                    page_size: page.page_size.clone(),
                    limit: page.limit,
                })
                .collect(),
            unified: resources.unified.clone(),
            memory_swap_limit_in_bytes: resources.memory_swap_limit.unwrap_or(0),
        }
    }
}
