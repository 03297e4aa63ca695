//! Resource limits, from the CRI's names to the OCI's and back (contract: pods 3.10, 2.7, trap 43).

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources, Spec};

use crate::model::host_facts::CgroupVersion;
use crate::model::resources::HugepageLimit;
use crate::model::{Error, HostFacts, Resources, Result};

use super::lexical::has_control;

/// Lays `asked` over the limits that `current` holds; what is not asked for stays, device rules as well.
///
/// # Errors
/// `InvalidArgument` on values that no cgroup of this node can hold.
pub(super) fn apply(
    current: &mut LinuxResources,
    asked: &Resources,
    host: &HostFacts,
) -> Result<()> {
    let mut cpu = current.cpu().clone().unwrap_or_default();
    if set_cpu(&mut cpu, asked)? {
        current.set_cpu(Some(cpu));
    }
    let mut memory = current.memory().unwrap_or_default();
    if set_memory(&mut memory, asked, host)? {
        current.set_memory(Some(memory));
    }
    if host.has_hugetlb && !asked.hugepages.is_empty() {
        let limits = hugepages(current.hugepage_limits().as_deref(), &asked.hugepages)?;
        current.set_hugepage_limits(Some(limits));
    }
    if !asked.unified.is_empty() {
        let mut unified: HashMap<String, String> = current.unified().clone().unwrap_or_default();
        for (key, value) in &asked.unified {
            check_unified(key, value, host)?;
            unified.insert(key.clone(), value.clone());
        }
        current.set_unified(Some(unified));
    }
    Ok(())
}

fn set_cpu(cpu: &mut LinuxCpu, asked: &Resources) -> Result<bool> {
    let mut is_touched = false;
    if let Some(period) = asked.cpu_period {
        cpu.set_period(Some(period));
        is_touched = true;
    }
    if let Some(quota) = asked.cpu_quota {
        cpu.set_quota(Some(quota));
        is_touched = true;
    }
    if let Some(shares) = asked.cpu_shares {
        cpu.set_shares(Some(shares));
        is_touched = true;
    }
    if !asked.cpuset_cpus.is_empty() {
        cpu.set_cpus(Some(id_list("cpuset_cpus", &asked.cpuset_cpus)?));
        is_touched = true;
    }
    if !asked.cpuset_mems.is_empty() {
        cpu.set_mems(Some(id_list("cpuset_mems", &asked.cpuset_mems)?));
        is_touched = true;
    }
    Ok(is_touched)
}

fn set_memory(memory: &mut LinuxMemory, asked: &Resources, host: &HostFacts) -> Result<bool> {
    let swap = asked.memory_swap_limit.filter(|_| host.has_swap_limit);
    if let Some(limit) = asked.memory_limit {
        memory.set_limit(Some(limit));
        // A limit on memory alone would let the container swap.
        if host.has_swap_limit && swap.is_none() {
            memory.set_swap(Some(limit));
        }
    }
    if let Some(swap) = swap {
        memory.set_swap(Some(swap));
        match memory.limit() {
            None if swap > 0 => {
                return Err(Error::invalid(
                    "resources: a memory and swap limit needs a memory limit",
                ));
            }
            Some(limit) if limit > 0 && swap > 0 && swap < limit => {
                return Err(Error::invalid(format!(
                    "resources: memory and swap together ({swap} bytes) is below memory alone ({limit} bytes)"
                )));
            }
            _ => {}
        }
    }
    Ok(asked.memory_limit.is_some() || swap.is_some())
}

fn hugepages(
    current: Option<&[LinuxHugepageLimit]>,
    asked: &[HugepageLimit],
) -> Result<Vec<LinuxHugepageLimit>> {
    let mut limits = current.unwrap_or_default().to_vec();
    for page in asked {
        let bytes = i64::try_from(page.limit).map_err(|_too_large| {
            Error::invalid(format!(
                "resources: limit of {} on huge pages is beyond 2^63",
                page.limit
            ))
        })?;
        let mut limit = LinuxHugepageLimit::default();
        limit.set_page_size(page.page_size.clone()).set_limit(bytes);
        limits.retain(|old| old.page_size() != &page.page_size);
        limits.push(limit);
    }
    Ok(limits)
}

fn check_unified(key: &str, value: &str, host: &HostFacts) -> Result<()> {
    if host.cgroup == CgroupVersion::V1 {
        return Err(Error::invalid(format!(
            "resources: {key:?} is a cgroup v2 file, and this node has cgroup v1"
        )));
    }
    let is_file_name = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && key.contains('.')
        && !key.starts_with('.');
    if !is_file_name || has_control(value) {
        return Err(Error::invalid(format!(
            "resources: unified {key:?}={value:?}: want the name of a cgroup file and one line for it"
        )));
    }
    Ok(())
}

fn id_list(name: &str, text: &str) -> Result<String> {
    if text.bytes().all(|b| matches!(b, b'0'..=b'9' | b',' | b'-')) {
        return Ok(text.to_owned());
    }
    Err(Error::invalid(format!(
        "resources: {name} {text:?}: want numbers and ranges joined by commas, such as 0-2,7"
    )))
}

/// `process.oomScoreAdj`: what is asked, raised to what containerd can give.
///
/// # Errors
/// `InvalidArgument` outside −1000..=1000.
pub(super) fn oom_score_adj(asked: i32, host: &HostFacts) -> Result<i32> {
    if !(-1000..=1000).contains(&asked) {
        return Err(Error::invalid(format!(
            "resources: oom_score_adj {asked} is outside -1000..=1000"
        )));
    }
    Ok(asked.max(host.lowest_oom_score_adj()))
}

/// The limits that a spec sets, as ContainerStatus reports them.
pub fn effective(spec: &Spec) -> Resources {
    let limits = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let cpu = limits.and_then(|limits| limits.cpu().as_ref());
    let memory = limits.and_then(|limits| limits.memory().as_ref());
    let text = |text: Option<&Option<String>>| text.cloned().flatten().unwrap_or_default();
    let pages = limits.and_then(|limits| limits.hugepage_limits().as_deref());
    let process = spec.process().as_ref();
    Resources {
        cpu_period: cpu.and_then(LinuxCpu::period),
        cpu_quota: cpu.and_then(LinuxCpu::quota),
        cpu_shares: cpu.and_then(LinuxCpu::shares),
        memory_limit: memory.and_then(LinuxMemory::limit),
        memory_swap_limit: memory.and_then(LinuxMemory::swap),
        oom_score_adj: process
            .and_then(oci_spec::runtime::Process::oom_score_adj)
            .unwrap_or(0),
        cpuset_cpus: text(cpu.map(LinuxCpu::cpus)),
        cpuset_mems: text(cpu.map(LinuxCpu::mems)),
        hugepages: pages
            .unwrap_or_default()
            .iter()
            .map(|page| HugepageLimit {
                page_size: page.page_size().clone(),
                limit: u64::try_from(page.limit()).unwrap_or(0),
            })
            .collect(),
        unified: limits
            .and_then(|limits| limits.unified().clone())
            .unwrap_or_default()
            .into_iter()
            .collect(),
    }
}

/// The spec of a container after UpdateContainerResources: what is asked laid over what it has. The OOM score stays,
/// it is decided when the process is made.
///
/// # Errors
/// As for a new container; `Internal` where the spec is none of a Linux container.
pub fn updated(spec: &Spec, asked: &Resources, host: &HostFacts) -> Result<Spec> {
    let mut spec = spec.clone();
    let linux = spec
        .linux_mut()
        .as_mut()
        .ok_or_else(|| Error::internal("update resources: the spec has no linux part"))?;
    let mut limits = linux.resources().clone().unwrap_or_default();
    apply(&mut limits, asked, host)?;
    linux.set_resources(Some(limits));
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, Case};
    use super::*;
    use crate::model::Kind;

    fn spec(asked: &Resources) -> Result<Spec> {
        let mut case = Case::default();
        case.config.resources = Some(asked.clone());
        case.spec()
    }

    fn update(spec: &Spec, asked: &Resources) -> Result<Spec> {
        updated(spec, asked, &testing::host())
    }

    fn page(limit: u64) -> HugepageLimit {
        HugepageLimit {
            page_size: "2MB".into(),
            limit,
        }
    }

    fn full() -> Resources {
        Resources {
            cpu_period: Some(100_000),
            cpu_quota: Some(50_000),
            cpu_shares: Some(512),
            memory_limit: Some(1000),
            memory_swap_limit: Some(1500),
            oom_score_adj: 7,
            cpuset_cpus: "0-1,3".into(),
            cpuset_mems: "0".into(),
            hugepages: vec![page(4096)],
            unified: [("memory.high".to_owned(), "900".to_owned())].into(),
        }
    }

    #[test]
    fn what_goes_in_is_what_status_reports() {
        assert_eq!(effective(&spec(&full()).unwrap()), full());
        assert_eq!(
            effective(&Case::default().spec().unwrap()),
            Resources::default()
        );
    }

    #[test]
    fn an_update_keeps_what_it_leaves_out() {
        let before = spec(&full()).unwrap();
        let asked = Resources {
            cpu_quota: Some(-1),
            memory_limit: Some(2000),
            hugepages: vec![page(8192)],
            oom_score_adj: 999,
            unified: [("memory.low".to_owned(), "1".to_owned())].into(),
            ..Resources::default()
        };

        let after = update(&before, &asked).unwrap();

        let mut want = full();
        want.cpu_quota = Some(-1);
        want.memory_limit = Some(2000);
        want.memory_swap_limit = Some(2000);
        want.hugepages = vec![page(8192)];
        want.unified.insert("memory.low".into(), "1".into());
        assert_eq!(effective(&after), want);
        let devices = |spec: &Spec| {
            let linux = spec.linux().clone().unwrap();
            linux.resources().clone().unwrap().devices().clone()
        };
        assert_eq!(devices(&after), devices(&before));
        let nothing = update(&before, &Resources::default()).unwrap();
        assert_eq!(nothing, before);
    }

    #[test]
    fn values_that_no_cgroup_holds_are_refused() {
        type Change = fn(&mut Resources);
        let changes: [Change; 9] = [
            |r| r.memory_swap_limit = Some(999),
            |r| r.memory_limit = None,
            |r| r.oom_score_adj = 1001,
            |r| r.oom_score_adj = -1001,
            |r| r.cpuset_cpus = "0 1".into(),
            |r| r.cpuset_mems = "a".into(),
            |r| r.hugepages = vec![page(u64::MAX)],
            |r| {
                r.unified.insert("../memory.max".into(), "1".into());
            },
            |r| {
                r.unified.insert("memory.max".into(), "1\n2".into());
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut asked = full();
            change(&mut asked);
            let error = spec(&asked).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{number}");
        }
    }

    #[test]
    fn raw_keys_need_the_unified_hierarchy() {
        let mut case = Case::default();
        case.host.cgroup = CgroupVersion::V1;
        case.config.resources = Some(full());

        assert_eq!(case.spec().unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn unlimited_swap_may_stand_beside_a_memory_limit() {
        let mut asked = full();
        asked.memory_swap_limit = Some(-1);

        assert_eq!(effective(&spec(&asked).unwrap()), asked);
    }
}
