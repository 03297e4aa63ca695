//! The metrics that kubelet passes on in place of cAdvisor's: names, kinds, labels and help, once.
//!
//! Kubelet asks for this list once in its life, and crashes on an empty name (contract: node, §3). Every metric here must
//! have a sample for each running container or for each pod, unless it is marked in the contract as optional.

/// How a value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises.
    Counter,
    /// It rises and falls.
    Gauge,
}

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// Its labels beside [`BASE`].
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

/// The labels of every sample, in this order, before the metric's own.
pub const BASE: &[&str] = &["container", "id", "image", "name", "namespace", "pod"];

macro_rules! metrics {
    ($($key:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) static $key: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// Every metric.
        pub static METRICS: &[&Metric] = &[$(&$key),*];
    };
}

metrics! {
    CPU_USAGE: Counter "container_cpu_usage_seconds_total" ["cpu"] "Processor time used, in whole seconds.";
    CPU_USER: Counter "container_cpu_user_seconds_total" [] "Processor time used in user mode, in whole seconds.";
    CPU_SYSTEM: Counter "container_cpu_system_seconds_total" [] "Processor time used in the kernel, in whole seconds.";
    CFS_PERIODS: Counter "container_cpu_cfs_periods_total" [] "Periods in which the processor quota was enforced.";
    CFS_THROTTLED_PERIODS: Counter "container_cpu_cfs_throttled_periods_total" [] "Periods in which the processor quota was used up.";
    CFS_THROTTLED: Counter "container_cpu_cfs_throttled_seconds_total" [] "Time in which the quota kept tasks from running, in whole seconds.";
    MEMORY_USAGE: Gauge "container_memory_usage_bytes" [] "Memory in use, all that is charged.";
    MEMORY_WORKING_SET: Gauge "container_memory_working_set_bytes" [] "Memory in use without inactive files.";
    MEMORY_RSS: Gauge "container_memory_rss" [] "Anonymous memory.";
    MEMORY_CACHE: Gauge "container_memory_cache" [] "Memory of the page cache.";
    MEMORY_MAPPED: Gauge "container_memory_mapped_file" [] "Memory of mapped files.";
    MEMORY_SWAP: Gauge "container_memory_swap" [] "Swap space in use.";
    MEMORY_KERNEL: Gauge "container_memory_kernel_usage" [] "Memory of the kernel that is charged.";
    MEMORY_MAX_USAGE: Gauge "container_memory_max_usage_bytes" [] "Most memory that ever was in use.";
    MEMORY_FAILCNT: Counter "container_memory_failcnt" [] "How often the memory limit was hit.";
    MEMORY_FAILURES: Counter "container_memory_failures_total" ["failure_type", "scope"] "Page faults.";
    MEMORY_ACTIVE_FILE: Gauge "container_memory_total_active_file_bytes" [] "Memory of files in active use.";
    MEMORY_INACTIVE_FILE: Gauge "container_memory_total_inactive_file_bytes" [] "Memory of files not in active use.";
    OOM_EVENTS: Counter "container_oom_events_total" [] "Processes killed for want of memory.";
    FS_USAGE: Gauge "container_fs_usage_bytes" ["device"] "Bytes of the writable layer.";
    FS_LIMIT: Gauge "container_fs_limit_bytes" ["device"] "Size of the file system that holds the writable layer.";
    FS_INODES: Gauge "container_fs_inodes_total" ["device"] "Inodes of the file system that holds the writable layer.";
    FS_INODES_FREE: Gauge "container_fs_inodes_free" ["device"] "Free inodes of that file system.";
    FS_READS: Counter "container_fs_reads_total" ["device"] "Reads from a disk.";
    FS_WRITES: Counter "container_fs_writes_total" ["device"] "Writes to a disk.";
    FS_READ_BYTES: Counter "container_fs_reads_bytes_total" ["device"] "Bytes read from a disk.";
    FS_WRITE_BYTES: Counter "container_fs_writes_bytes_total" ["device"] "Bytes written to a disk.";
    BLKIO: Counter "container_blkio_device_usage_total" ["device", "major", "minor", "operation"] "Bytes moved between memory and a disk.";
    RECEIVED_BYTES: Counter "container_network_receive_bytes_total" ["interface"] "Bytes received.";
    RECEIVED_PACKETS: Counter "container_network_receive_packets_total" ["interface"] "Packets received.";
    RECEIVED_DROPPED: Counter "container_network_receive_packets_dropped_total" ["interface"] "Packets dropped while receiving.";
    RECEIVED_ERRORS: Counter "container_network_receive_errors_total" ["interface"] "Errors while receiving.";
    SENT_BYTES: Counter "container_network_transmit_bytes_total" ["interface"] "Bytes sent.";
    SENT_PACKETS: Counter "container_network_transmit_packets_total" ["interface"] "Packets sent.";
    SENT_DROPPED: Counter "container_network_transmit_packets_dropped_total" ["interface"] "Packets dropped while sending.";
    SENT_ERRORS: Counter "container_network_transmit_errors_total" ["interface"] "Errors while sending.";
    PROCESSES: Gauge "container_processes" [] "Processes.";
    THREADS: Gauge "container_threads" [] "Threads.";
    THREADS_MAX: Gauge "container_threads_max" [] "Threads that are allowed; 0 without a limit.";
    FILE_DESCRIPTORS: Gauge "container_file_descriptors" [] "Open files of all processes.";
    SOCKETS: Gauge "container_sockets" [] "Open sockets of all processes.";
    ULIMITS_SOFT: Gauge "container_ulimits_soft" ["ulimit"] "Soft limits of the first process.";
    LAST_SEEN: Gauge "container_last_seen" [] "When this was read, in seconds since 1970.";
    START_TIME: Gauge "container_start_time_seconds" [] "When the container was started, in seconds since 1970.";
    SPEC_CPU_PERIOD: Gauge "container_spec_cpu_period" [] "Period of the processor quota, in microseconds.";
    SPEC_CPU_QUOTA: Gauge "container_spec_cpu_quota" [] "Processor quota, in microseconds a period.";
    SPEC_CPU_SHARES: Gauge "container_spec_cpu_shares" [] "Processor shares asked for.";
    SPEC_MEMORY_LIMIT: Gauge "container_spec_memory_limit_bytes" [] "Memory limit; 0 without one.";
    SPEC_SWAP_LIMIT: Gauge "container_spec_memory_swap_limit_bytes" [] "Limit of memory and swap together; 0 without one.";
    SPEC_RESERVATION: Gauge "container_spec_memory_reservation_limit_bytes" [] "Memory kept from being reclaimed; 0 for none.";
    HUGETLB: Gauge "container_hugetlb_usage_bytes" ["pagesize"] "Huge pages in use or reserved.";
    HUGETLB_MAX: Gauge "container_hugetlb_max_usage_bytes" ["pagesize"] "Most huge pages that ever were; 0 where the kernel does not keep it.";
    PRESSURE_CPU_FULL: Counter "container_pressure_cpu_stalled_seconds_total" [] "Time in which all tasks waited for a processor, in whole seconds.";
    PRESSURE_CPU_SOME: Counter "container_pressure_cpu_waiting_seconds_total" [] "Time in which some task waited for a processor, in whole seconds.";
    PRESSURE_MEMORY_FULL: Counter "container_pressure_memory_stalled_seconds_total" [] "Time in which all tasks waited for memory, in whole seconds.";
    PRESSURE_MEMORY_SOME: Counter "container_pressure_memory_waiting_seconds_total" [] "Time in which some task waited for memory, in whole seconds.";
    PRESSURE_IO_FULL: Counter "container_pressure_io_stalled_seconds_total" [] "Time in which all tasks waited for disks, in whole seconds.";
    PRESSURE_IO_SOME: Counter "container_pressure_io_waiting_seconds_total" [] "Time in which some task waited for disks, in whole seconds.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_descriptor_can_harm_a_kubelet() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        assert_eq!(
            METRICS.len(),
            58,
            "the contract's 56 and two of containerd's"
        );
        for metric in METRICS {
            let all: Vec<_> = BASE.iter().chain(metric.labels).collect();
            let unique: BTreeSet<_> = all.iter().collect();
            assert_eq!(unique.len(), all.len(), "{}", metric.name);
            let is_word = |text: &str| {
                text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                    && text.starts_with(|first: char| first.is_ascii_lowercase())
            };
            assert!(all.iter().all(|label| is_word(label)), "{}", metric.name);
            assert!(is_word(metric.name) && !metric.help.is_empty());
        }
    }
}
