//! Classes of service that annotations name: block I/O, and cache and memory bandwidth (RDT).

/// The classes that a container asks for by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedClasses {
    /// Block I/O.
    pub block_io: Option<String>,
    /// Cache and memory bandwidth.
    pub rdt: Option<String>,
    /// Who names the latter.
    pub rdt_asker: Asker,
}

/// Who names a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asker {
    /// An annotation of the container.
    #[default]
    Container,
    /// An annotation of its pod.
    Pod,
    /// An NRI plugin.
    Plugin,
}

/// What those names mean on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// Block I/O.
    pub block_io: Option<BlockIo>,
    /// Name of the group in resctrl.
    pub rdt: Option<String>,
}

/// Shares and limits of block I/O.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// Share of every disk, 10 to 1000.
    pub weight: Option<u16>,
    /// What is different for one disk.
    pub disks: Vec<DiskIo>,
}

/// Shares and limits at one disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskIo {
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// The values.
    pub limits: IoLimits,
}

/// What may be said of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoLimits {
    /// Share, 10 to 1000.
    pub weight: Option<u16>,
    /// Bytes read in a second.
    pub read_bps: Option<u64>,
    /// Bytes written in a second.
    pub write_bps: Option<u64>,
    /// Read operations in a second.
    pub read_iops: Option<u64>,
    /// Write operations in a second.
    pub write_iops: Option<u64>,
}

impl IoLimits {
    /// These with what `later` says put over them.
    #[must_use]
    pub fn under(self, later: Self) -> Self {
        Self {
            weight: later.weight.or(self.weight),
            read_bps: later.read_bps.or(self.read_bps),
            write_bps: later.write_bps.or(self.write_bps),
            read_iops: later.read_iops.or(self.read_iops),
            write_iops: later.write_iops.or(self.write_iops),
        }
    }
}
