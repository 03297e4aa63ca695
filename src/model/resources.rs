//! Resource limits as the CRI names them. `None` and empty mean "not asked for".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Limits of a container, or the sums of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period: Option<u64>,
    /// CFS quota in microseconds per period; −1 means unlimited.
    pub cpu_quota: Option<i64>,
    /// Relative CPU weight in cgroup v1's shares.
    pub cpu_shares: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit: Option<i64>,
    /// Memory plus swap limit in bytes (cgroup v1 semantics); −1 means unlimited.
    pub memory_swap_limit: Option<i64>,
    /// Score adjustment of the OOM killer, −1000..=1000. The CRI cannot tell an unset value from zero.
    pub oom_score_adj: i32,
    /// CPUs the container may use, e.g. `0-2,7`; empty means all.
    pub cpuset_cpus: String,
    /// Memory nodes the container may use; empty means all.
    pub cpuset_mems: String,
    /// Limits per huge page size, e.g. `2MB`.
    pub hugepages: Vec<HugepageLimit>,
    /// Raw cgroup v2 keys.
    pub unified: BTreeMap<String, String>,
}

/// A limit on one huge page size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// Page size as cgroups spell it, e.g. `2MB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

impl Resources {
    /// This request on top of `current`: what it leaves unset stays (UpdateContainerResources, behaviour §2.7).
    #[must_use]
    pub fn over(&self, current: &Self) -> Self {
        let text = |new: &String, old: &String| {
            if new.is_empty() {
                old.clone()
            } else {
                new.clone()
            }
        };
        let mut hugepages = current.hugepages.clone();
        for limit in &self.hugepages {
            hugepages.retain(|old| old.page_size != limit.page_size);
            hugepages.push(limit.clone());
        }
        let mut unified = current.unified.clone();
        unified.extend(
            self.unified
                .iter()
                .map(|(key, value)| (key.clone(), value.clone())),
        );
        Self {
            cpu_period: self.cpu_period.or(current.cpu_period),
            cpu_quota: self.cpu_quota.or(current.cpu_quota),
            cpu_shares: self.cpu_shares.or(current.cpu_shares),
            memory_limit: self.memory_limit.or(current.memory_limit),
            memory_swap_limit: self.memory_swap_limit.or_else(|| match self.memory_limit {
                Some(limit) => current.memory_swap_limit.map(|_| limit),
                None => current.memory_swap_limit,
            }),
            oom_score_adj: current.oom_score_adj,
            cpuset_cpus: text(&self.cpuset_cpus, &current.cpuset_cpus),
            cpuset_mems: text(&self.cpuset_mems, &current.cpuset_mems),
            hugepages,
            unified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_what_it_does_not_name_and_replaces_huge_page_limits() {
        let page = |limit| HugepageLimit {
            page_size: "2MB".into(),
            limit,
        };
        let current = Resources {
            cpu_shares: Some(100),
            cpuset_cpus: "0-1".into(),
            hugepages: vec![page(1)],
            oom_score_adj: 5,
            ..Resources::default()
        };
        let update = Resources {
            cpu_quota: Some(-1),
            hugepages: vec![page(2)],
            ..Resources::default()
        };

        let merged = update.over(&current);

        assert_eq!(
            merged,
            Resources {
                cpu_quota: Some(-1),
                hugepages: vec![page(2)],
                ..current
            }
        );
    }
}
