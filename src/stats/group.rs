//! What one control group uses, read from its files: v1 and v2 alike.

use crate::model::{Clock, Timestamp};
use crate::sys::cgroup::GroupFiles;

use super::parse::{self, Pressure, field, limit, number};

/// What a group uses at one moment; parts whose files are not there are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Swap; `None` where the kernel does not count it.
    pub swap: Option<Swap>,
    /// Waiting for disks.
    pub io: Option<Io>,
    /// Tasks (threads).
    pub tasks: Option<Tasks>,
}

/// Processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// When it was read.
    pub at: Timestamp,
    /// Nanoseconds of all processors since the group was made.
    pub total_ns: u64,
    /// Nanoseconds a second between the last two readings; `None` while there is one.
    pub rate_ns: Option<u64>,
    /// Waiting for a processor.
    pub pressure: Option<Pressure>,
}

/// Memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// When it was read.
    pub at: Timestamp,
    /// All that is charged to the group.
    pub usage_bytes: u64,
    /// The same without what could be dropped at once.
    pub working_set_bytes: u64,
    /// What is left of the limit; `None` without a limit.
    pub available_bytes: Option<u64>,
    /// Anonymous memory.
    pub rss_bytes: Option<u64>,
    /// Page faults.
    pub faults: Option<u64>,
    /// Those of them that waited for a disk.
    pub major_faults: Option<u64>,
    /// Waiting for memory.
    pub pressure: Option<Pressure>,
}

/// Swap space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    /// When it was read.
    pub at: Timestamp,
    /// In use.
    pub usage_bytes: u64,
    /// What is left of the limit; `None` without a limit.
    pub available_bytes: Option<u64>,
}

/// Input and output.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Io {
    /// When it was read.
    pub at: Timestamp,
    /// Waiting for it.
    pub pressure: Pressure,
}

/// How many tasks there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    /// When it was read.
    pub at: Timestamp,
    /// Processes and their threads.
    pub count: u64,
}

impl Usage {
    /// Reads the files of a group; what is missing of it is left out.
    pub(super) fn read_blocking(files: &GroupFiles, clock: &dyn Clock) -> Self {
        let (memory, swap) = memory_blocking(files, clock).unzip();
        Self {
            cpu: cpu_blocking(files, clock),
            memory,
            swap: swap.flatten(),
            io: io_blocking(files, clock),
            tasks: files
                .read_blocking("pids", "pids.current")
                .and_then(|text| number(&text))
                .map(|count| Tasks {
                    at: clock.now(),
                    count,
                }),
        }
    }
}

fn pressure_blocking(files: &GroupFiles, controller: &str) -> Option<Pressure> {
    let text = files.read_blocking(controller, &format!("{controller}.pressure"))?;
    parse::pressure(&text)
}

fn cpu_blocking(files: &GroupFiles, clock: &dyn Clock) -> Option<Cpu> {
    const NS_PER_US: u64 = 1_000;
    if files.is_v1("cpuacct") {
        let text = files.read_blocking("cpuacct", "cpuacct.usage")?;
        return Some(Cpu {
            at: clock.now(),
            total_ns: number(&text)?,
            ..Cpu::default()
        });
    }
    let text = files.read_blocking("cpu", "cpu.stat")?;
    Some(Cpu {
        at: clock.now(),
        total_ns: field(&text, "usage_usec")?.saturating_mul(NS_PER_US),
        rate_ns: None,
        pressure: pressure_blocking(files, "cpu"),
    })
}

fn memory_blocking(files: &GroupFiles, clock: &dyn Clock) -> Option<(Memory, Option<Swap>)> {
    let file = |name: &str| files.read_blocking("memory", name);
    if files.is_v1("memory") {
        let (usage, stat) = (file("memory.usage_in_bytes")?, file("memory.stat")?);
        let at = clock.now();
        let limit_text = file("memory.limit_in_bytes");
        let memory = memory_of(at, &usage, &stat, limit_text.as_deref(), "total_")?;
        let usage_bytes = field(&stat, "total_swap");
        let available = |usage_bytes: u64| {
            let both = limit(&file("memory.memsw.limit_in_bytes")?)?;
            let swap = both.saturating_sub(limit(limit_text.as_deref()?)?);
            Some(swap.saturating_sub(usage_bytes))
        };
        let swap = usage_bytes.map(|usage_bytes| Swap {
            at,
            usage_bytes,
            available_bytes: available(usage_bytes),
        });
        return Some((memory, swap));
    }
    let (usage, stat) = (file("memory.current")?, file("memory.stat")?);
    let at = clock.now();
    let mut memory = memory_of(at, &usage, &stat, file("memory.max").as_deref(), "")?;
    memory.pressure = pressure_blocking(files, "memory");
    let usage_bytes = file("memory.swap.current").and_then(|text| number(&text));
    let swap = usage_bytes.map(|usage_bytes| Swap {
        at,
        usage_bytes,
        available_bytes: file("memory.swap.max")
            .and_then(|text| limit(&text))
            .map(|most| most.saturating_sub(usage_bytes)),
    });
    Some((memory, swap))
}

/// Memory from the text of its files. With v1 the lines of `memory.stat` that count what is below have a `prefix`.
fn memory_of(
    at: Timestamp,
    usage: &str,
    stat: &str,
    limit_text: Option<&str>,
    prefix: &str,
) -> Option<Memory> {
    let field = |key: &str| field(stat, &format!("{prefix}{key}"));
    let usage_bytes = number(usage)?;
    let working_set_bytes = usage_bytes.saturating_sub(field("inactive_file")?);
    Some(Memory {
        at,
        usage_bytes,
        working_set_bytes,
        available_bytes: limit_text
            .and_then(limit)
            .map(|most| most.saturating_sub(working_set_bytes)),
        rss_bytes: field(if prefix.is_empty() { "anon" } else { "rss" }),
        faults: field("pgfault"),
        major_faults: field("pgmajfault"),
        pressure: None,
    })
}

fn io_blocking(files: &GroupFiles, clock: &dyn Clock) -> Option<Io> {
    if files.is_v1("blkio") {
        return None;
    }
    let pressure = pressure_blocking(files, "io")?;
    Some(Io {
        at: clock.now(),
        pressure,
    })
}

impl Usage {
    /// Adds what another group uses; what is counted of one alone does not count. For pods without a group of their
    /// own.
    pub(super) fn add(&mut self, other: &Self) {
        if let (Some(own), Some(more)) = (&mut self.cpu, &other.cpu) {
            own.total_ns = own.total_ns.saturating_add(more.total_ns);
            own.rate_ns = sum(own.rate_ns, more.rate_ns);
            own.pressure = None;
            own.at = own.at.min(more.at);
        }
        if let (Some(own), Some(more)) = (&mut self.memory, &other.memory) {
            own.usage_bytes = own.usage_bytes.saturating_add(more.usage_bytes);
            own.working_set_bytes = own.working_set_bytes.saturating_add(more.working_set_bytes);
            own.available_bytes = None;
            own.rss_bytes = sum(own.rss_bytes, more.rss_bytes);
            own.faults = sum(own.faults, more.faults);
            own.major_faults = sum(own.major_faults, more.major_faults);
            own.pressure = None;
            own.at = own.at.min(more.at);
        }
        if let (Some(own), Some(more)) = (&mut self.swap, &other.swap) {
            own.usage_bytes = own.usage_bytes.saturating_add(more.usage_bytes);
            own.available_bytes = None;
        }
        if let (Some(own), Some(more)) = (&mut self.tasks, &other.tasks) {
            own.count = own.count.saturating_add(more.count);
        }
        self.io = None;
    }
}

fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    Some(one?.saturating_add(other?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::ManualClock;
    use crate::stats::testing::{self, Tree};

    fn read(tree: &Tree) -> Usage {
        let clock = ManualClock::at(Timestamp(1_000));
        Usage::read_blocking(&tree.files("/pod/c"), &clock)
    }

    #[test]
    fn a_group_of_v2_is_read() {
        let usage = read(&testing::recorded_v2());

        let cpu = usage.cpu.unwrap();
        assert_eq!(
            (cpu.at, cpu.total_ns, cpu.rate_ns),
            (Timestamp(1_000), 2_514_319_000, None)
        );
        assert_eq!(cpu.pressure.unwrap().some.total_ns, 1_204_511_000);
        let memory = usage.memory.unwrap();
        assert_eq!(memory.usage_bytes, 31_461_376);
        assert_eq!(memory.working_set_bytes, 31_461_376 - 8_110_080);
        assert_eq!(
            memory.available_bytes,
            Some((64 << 20) - (31_461_376 - 8_110_080))
        );
        assert_eq!(memory.rss_bytes, Some(20_418_560));
        assert_eq!(
            (memory.faults, memory.major_faults),
            (Some(10_412), Some(13))
        );
        assert_eq!(memory.pressure.unwrap().full.total_ns, 9_000);
        let swap = usage.swap.unwrap();
        assert_eq!((swap.usage_bytes, swap.available_bytes), (4096, None));
        assert_eq!(usage.io.unwrap().pressure.some.total_ns, 77_000);
        assert_eq!(usage.tasks.unwrap().count, 4);
    }

    #[test]
    fn a_group_of_v1_is_read_with_what_is_below_it() {
        let usage = read(&testing::recorded_v1());

        let cpu = usage.cpu.unwrap();
        assert_eq!((cpu.total_ns, cpu.pressure), (7_164_200_123, None));
        let memory = usage.memory.unwrap();
        assert_eq!(memory.usage_bytes, 12_582_912);
        assert_eq!(memory.working_set_bytes, 12_582_912 - 2_097_152);
        assert_eq!(
            memory.available_bytes,
            Some((64 << 20) - (12_582_912 - 2_097_152))
        );
        assert_eq!(memory.rss_bytes, Some(6_692_864));
        assert_eq!(
            (memory.faults, memory.major_faults),
            (Some(419_958), Some(21))
        );
        let swap = usage.swap.unwrap();
        assert_eq!(
            (swap.usage_bytes, swap.available_bytes),
            (8192, Some((16 << 20) - 8192))
        );
        assert_eq!((usage.io, usage.tasks.unwrap().count), (None, 3));
    }

    #[test]
    fn what_is_missing_is_left_out_and_nothing_underflows() {
        let tree = testing::recorded_v2();
        for gone in [
            "cpu.pressure",
            "io.pressure",
            "memory.swap.current",
            "pids.current",
        ] {
            tree.remove("pod/c", gone);
        }
        tree.write("pod/c", "memory.max", "1000\n");
        tree.write("pod/c", "memory.current", "5000\n");

        let usage = read(&tree);

        assert_eq!(usage.cpu.unwrap().pressure, None);
        assert_eq!((usage.io, usage.swap, usage.tasks), (None, None, None));
        let memory = usage.memory.unwrap();
        assert_eq!(
            (memory.working_set_bytes, memory.available_bytes),
            (0, Some(1000))
        );
        tree.write("pod/c", "memory.stat", "inactive_file 100\n");
        assert_eq!(read(&tree).memory.unwrap().available_bytes, Some(0));
        tree.vanish("pod/c");
        assert_eq!(read(&tree), Usage::default());
    }

    #[test]
    fn a_pod_without_a_group_is_the_sum_of_its_own() {
        let one = read(&testing::recorded_v2());
        let mut both = one.clone();
        both.add(&one);

        assert_eq!(both.cpu.unwrap().total_ns, 2 * one.cpu.unwrap().total_ns);
        assert_eq!(both.cpu.unwrap().rate_ns, None);
        assert_eq!(both.memory.unwrap().rss_bytes, Some(2 * 20_418_560));
        assert_eq!(both.memory.unwrap().available_bytes, None);
        assert_eq!(both.tasks.unwrap().count, 8);
    }
}
