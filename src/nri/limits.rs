//! Limits: from requests and specs to the protocol, from the protocol to the spec's words, and laid over a spec.

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources,
};

use super::facts::Limits;
use super::messages::api;
use super::words::{meaning, word};
use crate::model::classes::{AskedClasses, Asker};
use crate::model::host_facts::CgroupVersion;
use crate::model::{Error, HostFacts, Resources, Result};

/// What a request of the CRI asks for.
pub(super) fn of_request(asked: &Resources) -> api::LinuxResources {
    let signed = |value: i64| api::OptionalInt64 { value };
    let unsigned = |value: u64| api::OptionalUInt64 { value };
    api::LinuxResources {
        memory: Some(api::LinuxMemory {
            limit: asked.memory_limit.map(signed),
            swap: asked.memory_swap_limit.map(signed),
            ..api::LinuxMemory::default()
        }),
        cpu: Some(api::LinuxCpu {
            shares: asked.cpu_shares.map(unsigned),
            quota: asked.cpu_quota.map(signed),
            period: asked.cpu_period.map(unsigned),
            cpus: asked.cpuset_cpus.clone(),
            mems: asked.cpuset_mems.clone(),
            ..api::LinuxCpu::default()
        }),
        hugepage_limits: asked
            .hugepages
            .iter()
            .map(|page| api::HugepageLimit {
                page_size: page.page_size.clone(),
                limit: page.limit,
            })
            .collect(),
        unified: asked.unified.clone(),
        ..api::LinuxResources::default()
    }
}

/// What a spec says.
pub(super) fn of_spec(resources: &LinuxResources) -> api::LinuxResources {
    api::LinuxResources {
        memory: resources.memory().as_ref().map(memory_of),
        cpu: resources.cpu().as_ref().map(cpu_of),
        hugepage_limits: resources
            .hugepage_limits()
            .iter()
            .flatten()
            .map(|page| api::HugepageLimit {
                page_size: page.page_size().clone(),
                limit: u64::try_from(page.limit()).unwrap_or_default(),
            })
            .collect(),
        blockio_class: None,
        rdt_class: None,
        unified: resources
            .unified()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        devices: resources.devices().iter().flatten().map(rule_of).collect(),
        pids: resources.pids().map(|pids| api::LinuxPids {
            limit: pids.limit(),
        }),
    }
}

fn memory_of(memory: &LinuxMemory) -> api::LinuxMemory {
    let signed = |value: i64| api::OptionalInt64 { value };
    let truth = |value: bool| api::OptionalBool { value };
    api::LinuxMemory {
        limit: memory.limit().map(signed),
        reservation: memory.reservation().map(signed),
        swap: memory.swap().map(signed),
        kernel: memory.kernel().map(signed),
        kernel_tcp: memory.kernel_tcp().map(signed),
        swappiness: memory
            .swappiness()
            .map(|value| api::OptionalUInt64 { value }),
        disable_oom_killer: memory.disable_oom_killer().map(truth),
        use_hierarchy: memory.use_hierarchy().map(truth),
    }
}

fn cpu_of(cpu: &LinuxCpu) -> api::LinuxCpu {
    let signed = |value: i64| api::OptionalInt64 { value };
    let unsigned = |value: u64| api::OptionalUInt64 { value };
    api::LinuxCpu {
        shares: cpu.shares().map(unsigned),
        quota: cpu.quota().map(signed),
        period: cpu.period().map(unsigned),
        realtime_runtime: cpu.realtime_runtime().map(signed),
        realtime_period: cpu.realtime_period().map(unsigned),
        cpus: cpu.cpus().clone().unwrap_or_default(),
        mems: cpu.mems().clone().unwrap_or_default(),
    }
}

fn rule_of(rule: &LinuxDeviceCgroup) -> api::LinuxDeviceCgroup {
    let number = |value: i64| api::OptionalInt64 { value };
    api::LinuxDeviceCgroup {
        allow: rule.allow(),
        r#type: rule.typ().map(|kind| word(&kind)).unwrap_or_default(),
        major: rule.major().map(number),
        minor: rule.minor().map(number),
        access: rule.access().clone().unwrap_or_default(),
    }
}

/// What a plugin asks for.
///
/// # Errors
/// `InvalidArgument` for values that the spec cannot hold.
pub(super) fn asked(resources: &api::LinuxResources) -> Result<Limits> {
    let mut limits = LinuxResources::default();
    limits.set_devices(None);
    if let Some(memory) = &resources.memory {
        limits.set_memory(Some(asked_memory(memory)));
    }
    if let Some(cpu) = &resources.cpu {
        limits.set_cpu(Some(asked_cpu(cpu)));
    }
    if !resources.hugepage_limits.is_empty() {
        let pages = resources.hugepage_limits.iter().map(asked_page);
        limits.set_hugepage_limits(Some(pages.collect::<Result<_>>()?));
    }
    if !resources.unified.is_empty() {
        limits.set_unified(Some(resources.unified.clone().into_iter().collect()));
    }
    if !resources.devices.is_empty() {
        let rules = resources.devices.iter().map(asked_rule);
        limits.set_devices(Some(rules.collect::<Result<_>>()?));
    }
    if let Some(pids) = &resources.pids {
        let mut limit = LinuxPids::default();
        limit.set_limit(pids.limit);
        limits.set_pids(Some(limit));
    }
    let class = |class: &Option<api::OptionalString>| {
        let class = class.as_ref().map(|class| class.value.clone());
        class.filter(|class| !class.is_empty())
    };
    Ok(Limits {
        resources: limits,
        classes: AskedClasses {
            block_io: class(&resources.blockio_class),
            rdt_asker: match &resources.rdt_class {
                Some(_) => Asker::Plugin,
                None => Asker::default(),
            },
            rdt: class(&resources.rdt_class),
        },
    })
}

fn asked_memory(memory: &api::LinuxMemory) -> LinuxMemory {
    let signed = |value: &Option<api::OptionalInt64>| value.as_ref().map(|value| value.value);
    let truth = |value: &Option<api::OptionalBool>| value.as_ref().map(|value| value.value);
    let mut limits = LinuxMemory::default();
    limits
        // A limit of nothing is no limit of anybody's.
        .set_limit(signed(&memory.limit).filter(|limit| *limit != 0))
        .set_reservation(signed(&memory.reservation))
        .set_swap(signed(&memory.swap))
        .set_kernel_tcp(signed(&memory.kernel_tcp))
        .set_swappiness(memory.swappiness.as_ref().map(|value| value.value))
        .set_disable_oom_killer(truth(&memory.disable_oom_killer))
        .set_use_hierarchy(truth(&memory.use_hierarchy));
    limits.set_kernel(signed(&memory.kernel));
    limits
}

fn asked_cpu(cpu: &api::LinuxCpu) -> LinuxCpu {
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let mut limits = LinuxCpu::default();
    limits
        .set_shares(cpu.shares.as_ref().map(|value| value.value))
        .set_quota(cpu.quota.as_ref().map(|value| value.value))
        .set_period(cpu.period.as_ref().map(|value| value.value))
        .set_realtime_runtime(cpu.realtime_runtime.as_ref().map(|value| value.value))
        .set_realtime_period(cpu.realtime_period.as_ref().map(|value| value.value))
        .set_cpus(text(&cpu.cpus))
        .set_mems(text(&cpu.mems));
    limits
}

fn asked_page(page: &api::HugepageLimit) -> Result<LinuxHugepageLimit> {
    let bytes = i64::try_from(page.limit).map_err(|_too_large| {
        Error::invalid(format!(
            "limit of {} on huge pages is beyond 2^63",
            page.limit
        ))
    })?;
    let mut limit = LinuxHugepageLimit::default();
    limit.set_page_size(page.page_size.clone()).set_limit(bytes);
    Ok(limit)
}

fn asked_rule(rule: &api::LinuxDeviceCgroup) -> Result<LinuxDeviceCgroup> {
    let mut limit = LinuxDeviceCgroup::default();
    let kind = match rule.r#type.as_str() {
        "" => None,
        kind => Some(meaning("type of device", kind)?),
    };
    limit
        .set_allow(rule.allow)
        .set_typ(kind)
        .set_major(rule.major.as_ref().map(|value| value.value))
        .set_minor(rule.minor.as_ref().map(|value| value.value))
        .set_access((!rule.access.is_empty()).then(|| rule.access.clone()));
    Ok(limit)
}

impl Limits {
    /// Puts these limits into `current`; what they leave out stays. The classes are left to whoever knows what they mean.
    ///
    /// # Errors
    /// `InvalidArgument` for what the node's cgroups cannot hold.
    pub fn lay_over(&self, current: &mut LinuxResources, host: &HostFacts) -> Result<()> {
        let new = &self.resources;
        if let Some(memory) = new.memory() {
            let mut all = current.memory().unwrap_or_default();
            lay_memory(&mut all, *memory, host);
            current.set_memory(Some(all));
        }
        if let Some(cpu) = new.cpu() {
            let mut all = current.cpu().clone().unwrap_or_default();
            lay_cpu(&mut all, cpu);
            current.set_cpu(Some(all));
        }
        if let Some(pages) = new.hugepage_limits() {
            let mut all = current.hugepage_limits().clone().unwrap_or_default();
            for page in pages {
                all.retain(|old| old.page_size() != page.page_size());
                all.push(page.clone());
            }
            current.set_hugepage_limits(Some(all));
        }
        if let Some(unified) = new.unified() {
            if host.cgroup == CgroupVersion::V1 {
                return Err(Error::invalid(
                    "files of cgroup v2 are asked for, and this node has cgroup v1",
                ));
            }
            let mut all = current.unified().clone().unwrap_or_default();
            all.extend(unified.clone());
            current.set_unified(Some(all));
        }
        if let Some(rules) = new.devices() {
            let mut all = current.devices().clone().unwrap_or_default();
            all.extend(rules.iter().cloned());
            current.set_devices(Some(all));
        }
        if let Some(pids) = new.pids() {
            current.set_pids(Some(*pids));
        }
        Ok(())
    }
}

fn lay_memory(all: &mut LinuxMemory, new: LinuxMemory, host: &HostFacts) {
    let swap = new.swap().filter(|_| host.has_swap_limit);
    if let Some(limit) = new.limit() {
        all.set_limit(Some(limit));
        // A limit on memory alone would let the container swap.
        if host.has_swap_limit {
            all.set_swap(Some(limit));
        }
    }
    if swap.is_some() {
        all.set_swap(swap);
    }
    let old = *all;
    all.set_reservation(new.reservation().or(old.reservation()))
        .set_kernel_tcp(new.kernel_tcp().or(old.kernel_tcp()))
        .set_swappiness(new.swappiness().or(old.swappiness()))
        .set_disable_oom_killer(new.disable_oom_killer().or(old.disable_oom_killer()))
        .set_use_hierarchy(new.use_hierarchy().or(old.use_hierarchy()));
    all.set_kernel(new.kernel().or(old.kernel()));
}

fn lay_cpu(all: &mut LinuxCpu, new: &LinuxCpu) {
    let old = all.clone();
    let text = |new: &Option<String>, old: &Option<String>| new.clone().or_else(|| old.clone());
    all.set_shares(new.shares().or(old.shares()))
        .set_quota(new.quota().or(old.quota()))
        .set_period(new.period().or(old.period()))
        .set_realtime_runtime(new.realtime_runtime().or(old.realtime_runtime()))
        .set_realtime_period(new.realtime_period().or(old.realtime_period()))
        .set_cpus(text(new.cpus(), old.cpus()))
        .set_mems(text(new.mems(), old.mems()));
}
