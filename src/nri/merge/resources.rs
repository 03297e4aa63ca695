//! Limits, each of which has an owner.

use crate::model::Result;
use crate::nri::messages::api::{self, Field};
use crate::nri::owners::Owners;

/// Lays what `plugin` asks for `id` over `into`.
pub(super) fn merge(
    owners: &mut Owners,
    id: &str,
    plugin: &str,
    into: &mut api::LinuxResources,
    asked: api::LinuxResources,
) -> Result<()> {
    macro_rules! whole {
        ($from:expr, $to:expr, $($field:ident: $owned:ident),*) => {$(
            if let Some(value) = $from.$field {
                owners.claim(id, Field::$owned, plugin)?;
                $to.$field = Some(value);
            }
        )*};
    }
    if let Some(memory) = asked.memory {
        let to = into.memory.get_or_insert_default();
        whole!(memory, to,
            limit: MemLimit, reservation: MemReservation, swap: MemSwapLimit, kernel: MemKernelLimit,
            kernel_tcp: MemTcpLimit, swappiness: MemSwappiness,
            disable_oom_killer: MemDisableOomKiller, use_hierarchy: MemUseHierarchy);
    }
    if let Some(cpu) = asked.cpu {
        let to = into.cpu.get_or_insert_default();
        whole!(cpu, to,
            shares: CpuShares, quota: CpuQuota, period: CpuPeriod,
            realtime_runtime: CpuRealtimeRuntime, realtime_period: CpuRealtimePeriod);
        if !cpu.cpus.is_empty() {
            owners.claim(id, Field::CpuSetCpus, plugin)?;
            to.cpus = cpu.cpus;
        }
        if !cpu.mems.is_empty() {
            owners.claim(id, Field::CpuSetMems, plugin)?;
            to.mems = cpu.mems;
        }
    }
    whole!(asked, into, blockio_class: BlockioClass, rdt_class: RdtClass, pids: PidsLimit);
    for page in asked.hugepage_limits {
        owners.claim_entry(id, Field::HugepageLimits, &page.page_size, plugin)?;
        into.hugepage_limits
            .retain(|other| other.page_size != page.page_size);
        into.hugepage_limits.push(page);
    }
    for (key, value) in asked.unified {
        owners.claim_entry(id, Field::CgroupsUnified, &key, plugin)?;
        into.unified.insert(key, value);
    }
    into.devices.extend(asked.devices);
    Ok(())
}

/// As [`merge`], for cache and memory bandwidth.
pub(super) fn merge_rdt(
    owners: &mut Owners,
    id: &str,
    plugin: &str,
    into: &mut Option<api::LinuxRdt>,
    asked: api::LinuxRdt,
) -> Result<()> {
    let into = into.get_or_insert_default();
    if asked.remove {
        for field in [
            Field::RdtClosId,
            Field::RdtSchemata,
            Field::RdtEnableMonitoring,
        ] {
            owners.release(id, field);
        }
        *into = api::LinuxRdt {
            remove: true,
            ..api::LinuxRdt::default()
        };
    }
    if let Some(class) = asked.clos_id {
        owners.claim(id, Field::RdtClosId, plugin)?;
        into.clos_id = Some(class);
    }
    if let Some(schemata) = asked.schemata {
        owners.claim(id, Field::RdtSchemata, plugin)?;
        into.schemata = Some(schemata);
    }
    if let Some(monitoring) = asked.enable_monitoring {
        owners.claim(id, Field::RdtEnableMonitoring, plugin)?;
        into.enable_monitoring = Some(monitoring);
    }
    Ok(())
}
