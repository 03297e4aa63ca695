//! What the metrics of one container are made of, read from the files of its group and of its processes.

use std::collections::BTreeSet;

use crate::model::Pid;
use crate::sys::cgroup::GroupFiles;
use crate::sys::open_files;

use super::disks::{self, Disk};
use crate::stats::parse::{self, Pressure, field, limit, number};

/// v1 counts modes in hundredths of a second, on every machine.
const TICKS: u64 = 100;
const US: u64 = 1_000_000;
const NS: u64 = 1_000_000_000;

/// Everything that one container's files say. What a kernel does not tell is zero: most of these must have a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reading {
    pub(super) cpu: CpuReading,
    pub(super) memory: MemoryReading,
    pub(super) disks: Vec<Disk>,
    pub(super) processes: u64,
    pub(super) threads: u64,
    pub(super) threads_max: u64,
    pub(super) files: u64,
    pub(super) sockets: u64,
    pub(super) files_max: Option<u64>,
    /// Page size, bytes now, most bytes ever.
    pub(super) hugetlb: Vec<(String, u64, u64)>,
    pub(super) cpu_pressure: Option<Pressure>,
    pub(super) memory_pressure: Option<Pressure>,
    pub(super) io_pressure: Option<Pressure>,
}

/// Whole seconds, and counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuReading {
    pub(super) usage_s: u64,
    pub(super) user_s: u64,
    pub(super) system_s: u64,
    pub(super) periods: u64,
    pub(super) throttled_periods: u64,
    pub(super) throttled_s: u64,
}

/// Bytes, and counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MemoryReading {
    pub(super) usage: u64,
    pub(super) working_set: u64,
    pub(super) rss: u64,
    pub(super) cache: u64,
    pub(super) mapped: u64,
    pub(super) swap: u64,
    pub(super) kernel: u64,
    pub(super) max_usage: u64,
    pub(super) limit_hits: u64,
    /// In the group alone: page faults, and those that waited for a disk.
    pub(super) own_faults: [u64; 2],
    /// The same with what is below.
    pub(super) all_faults: [u64; 2],
    pub(super) kills: u64,
    pub(super) active_file: u64,
    pub(super) inactive_file: u64,
}

impl Reading {
    /// Reads everything; `None` where the group is gone.
    pub(super) fn make_blocking(files: &GroupFiles, init: Option<Pid>) -> Option<Self> {
        let cpu = cpu_blocking(files);
        let memory = memory_blocking(files);
        if cpu.is_none() && memory.is_none() {
            return None;
        }
        let count = |name: &str| files.read_blocking("pids", name);
        let pids = processes_blocking(files);
        let open = pids.iter().filter_map(|pid| open_files::of_blocking(*pid));
        let open = open.fold((0_u64, 0_u64), |sum, open| {
            (
                sum.0.saturating_add(open.all),
                sum.1.saturating_add(open.sockets),
            )
        });
        let pressure = |controller: &str, v1: &str| {
            let file = format!("{controller}.pressure");
            let text = (!files.is_v1(v1)).then(|| files.read_blocking(controller, &file));
            parse::pressure(&text.flatten()?)
        };
        Some(Self {
            cpu: cpu.unwrap_or_default(),
            memory: memory.unwrap_or_default(),
            disks: disks_blocking(files),
            processes: u64::try_from(pids.len()).unwrap_or(u64::MAX),
            threads: count("pids.current")
                .and_then(|text| number(&text))
                .unwrap_or(0),
            threads_max: count("pids.max").and_then(|text| limit(&text)).unwrap_or(0),
            files: open.0,
            sockets: open.1,
            files_max: init.and_then(open_files::soft_limit_blocking),
            hugetlb: hugetlb_blocking(files),
            cpu_pressure: pressure("cpu", "cpuacct"),
            memory_pressure: pressure("memory", "memory"),
            io_pressure: pressure("io", "blkio"),
        })
    }
}

fn cpu_blocking(files: &GroupFiles) -> Option<CpuReading> {
    let stat = files.read_blocking("cpu", "cpu.stat");
    let value = |key: &str| field(stat.as_deref()?, key);
    let of = |key: &str, unit: u64| value(key).unwrap_or(0) / unit;
    let mut reading = CpuReading {
        periods: of("nr_periods", 1),
        throttled_periods: of("nr_throttled", 1),
        ..CpuReading::default()
    };
    if files.is_v1("cpuacct") {
        let usage = files.read_blocking("cpuacct", "cpuacct.usage")?;
        let modes = files
            .read_blocking("cpuacct", "cpuacct.stat")
            .unwrap_or_default();
        reading.usage_s = number(&usage)? / NS;
        reading.user_s = field(&modes, "user").unwrap_or(0) / TICKS;
        reading.system_s = field(&modes, "system").unwrap_or(0) / TICKS;
        reading.throttled_s = of("throttled_time", NS);
    } else {
        reading.usage_s = value("usage_usec")? / US;
        reading.user_s = of("user_usec", US);
        reading.system_s = of("system_usec", US);
        reading.throttled_s = of("throttled_usec", US);
    }
    Some(reading)
}

fn memory_blocking(files: &GroupFiles) -> Option<MemoryReading> {
    let file = |name: &str| files.read_blocking("memory", name);
    let count = |name: &str| file(name).and_then(|text| number(&text));
    let stat = file("memory.stat")?;
    let of = |key: &str| field(&stat, key).unwrap_or(0);
    if files.is_v1("memory") {
        let usage = count("memory.usage_in_bytes")?;
        let kills = file("memory.oom_control").and_then(|text| field(&text, "oom_kill"));
        return Some(MemoryReading {
            usage,
            working_set: usage.saturating_sub(of("total_inactive_file")),
            rss: of("total_rss"),
            cache: of("total_cache"),
            mapped: of("total_mapped_file"),
            swap: of("total_swap"),
            kernel: count("memory.kmem.usage_in_bytes").unwrap_or(0),
            max_usage: count("memory.max_usage_in_bytes").unwrap_or(0),
            limit_hits: count("memory.failcnt").unwrap_or(0),
            own_faults: [of("pgfault"), of("pgmajfault")],
            all_faults: [of("total_pgfault"), of("total_pgmajfault")],
            kills: kills.unwrap_or(0),
            active_file: of("total_active_file"),
            inactive_file: of("total_inactive_file"),
        });
    }
    let usage = count("memory.current")?;
    let kills = file("memory.events").and_then(|text| field(&text, "oom_kill"));
    let faults = [of("pgfault"), of("pgmajfault")];
    Some(MemoryReading {
        usage,
        working_set: usage.saturating_sub(of("inactive_file")),
        rss: of("anon"),
        cache: of("file"),
        mapped: of("file_mapped"),
        swap: count("memory.swap.current").unwrap_or(0),
        kernel: of("kernel"),
        max_usage: count("memory.peak").unwrap_or(0),
        limit_hits: 0,
        own_faults: faults,
        all_faults: faults,
        kills: kills.unwrap_or(0),
        active_file: of("active_file"),
        inactive_file: of("inactive_file"),
    })
}

fn disks_blocking(files: &GroupFiles) -> Vec<Disk> {
    if !files.is_v1("blkio") {
        let text = files.read_blocking("io", "io.stat");
        return text.map_or_else(Vec::new, |text| disks::of_v2(&text));
    }
    let read = |what: &str| {
        let names = [
            format!("blkio.bfq.{what}_recursive"),
            format!("blkio.throttle.{what}_recursive"),
            format!("blkio.throttle.{what}"),
        ];
        let texts = names
            .into_iter()
            .filter_map(|name| files.read_blocking("blkio", &name));
        disks::first_with_devices(texts)
    };
    disks::of_v1(&read("io_service_bytes"), &read("io_serviced"))
}

fn processes_blocking(files: &GroupFiles) -> Vec<Pid> {
    let mut controllers = ["pids", "memory", "cpuacct"].into_iter();
    let known = controllers.find(|name| files.is_v1(name));
    files.processes_blocking(known.unwrap_or("pids"))
}

fn hugetlb_blocking(files: &GroupFiles) -> Vec<(String, u64, u64)> {
    let names = files.names_blocking("hugetlb");
    let sizes: BTreeSet<&str> = names
        .iter()
        .filter_map(|name| name.strip_prefix("hugetlb.")?.split_once('.'))
        .map(|(size, _rest)| size)
        .collect();
    let first = |size: &str, kinds: [&str; 2]| {
        let mut texts = kinds.iter().filter_map(|kind| {
            let name = format!("hugetlb.{size}.{kind}");
            names
                .contains(&name)
                .then(|| files.read_blocking("hugetlb", &name))?
        });
        texts.next().and_then(|text| number(&text))
    };
    let of = |size: &str| {
        let (now, most) = if files.is_v1("hugetlb") {
            let most = first(size, ["rsvd.max_usage_in_bytes", "max_usage_in_bytes"]);
            (
                first(size, ["rsvd.usage_in_bytes", "usage_in_bytes"])?,
                most,
            )
        } else {
            (first(size, ["rsvd.current", "current"])?, None)
        };
        Some((size.to_owned(), now, most.unwrap_or(0)))
    };
    sizes.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::testing;

    #[test]
    fn everything_of_v2_is_read() {
        let tree = testing::recorded_v2();
        let own = Pid(std::process::id());
        tree.write("pod/c", "cgroup.procs", &format!("{own}\n3999999\n"));
        let reading = Reading::make_blocking(&tree.files("/pod/c"), Some(own)).unwrap();

        assert_eq!(
            reading.cpu,
            CpuReading {
                usage_s: 2,
                user_s: 1,
                system_s: 1,
                periods: 314,
                throttled_periods: 12,
                throttled_s: 3,
            }
        );
        assert_eq!(
            reading.memory,
            MemoryReading {
                usage: 31_461_376,
                working_set: 23_351_296,
                rss: 20_418_560,
                cache: 9_920_512,
                mapped: 4_190_208,
                swap: 4_096,
                kernel: 1_048_576,
                max_usage: 40_894_464,
                limit_hits: 0,
                own_faults: [10_412, 13],
                all_faults: [10_412, 13],
                kills: 2,
                active_file: 1_810_432,
                inactive_file: 8_110_080,
            }
        );
        assert_eq!((reading.disks.len(), reading.disks[1].reads), (2, 1));
        assert_eq!(
            (reading.processes, reading.threads, reading.threads_max),
            (2, 4, 0)
        );
        assert!(reading.files > 3 && reading.files_max.is_some());
        let pages = [("1GB", 1 << 30, 0), ("2MB", 2 << 20, 0)];
        assert_eq!(
            reading.hugetlb,
            pages.map(|(size, now, most)| (size.to_owned(), now, most))
        );
        assert_eq!(reading.io_pressure.unwrap().full.total_ns, 70_000);
    }

    #[test]
    fn everything_of_v1_is_read() {
        let tree = testing::recorded_v1();
        let reading = Reading::make_blocking(&tree.files("/pod/c"), None).unwrap();

        assert_eq!(
            reading.cpu,
            CpuReading {
                usage_s: 7,
                user_s: 5,
                system_s: 2,
                periods: 20,
                throttled_periods: 5,
                throttled_s: 2,
            }
        );
        let memory = reading.memory;
        assert_eq!(
            (memory.kernel, memory.max_usage, memory.limit_hits),
            (1_187_840, 13_631_488, 3)
        );
        assert_eq!(
            (memory.own_faults, memory.all_faults),
            ([100, 1], [419_958, 21])
        );
        assert_eq!(
            (memory.swap, memory.kills, memory.cache),
            (8_192, 1, 4_702_208)
        );
        let [disk] = &reading.disks[..] else {
            panic!("{:?}", reading.disks);
        };
        assert_eq!(
            (disk.reads, disk.writes, disk.read_bytes, disk.written_bytes),
            (31, 11, 1_130_496, 45_056)
        );
        assert_eq!(disk.by_operation.len(), 6);
        assert_eq!(
            (reading.threads, reading.threads_max, reading.files_max),
            (3, 1_024, None)
        );
        assert_eq!(reading.hugetlb, [("2MB".to_owned(), 2 << 20, 6 << 20)]);
        assert_eq!((reading.cpu_pressure, reading.io_pressure), (None, None));
    }

    #[test]
    fn a_group_that_is_gone_has_no_metrics() {
        let tree = testing::recorded_v2();
        tree.vanish("pod/c");
        assert_eq!(Reading::make_blocking(&tree.files("/pod/c"), None), None);
    }
}
