//! What a pod's network interfaces carried.

use std::path::Path;

use crate::model::{Clock, Pid, Timestamp};
use crate::sys;

/// The interface that CNI is asked to make.
const DEFAULT: &str = "eth0";
/// Never leaves the pod.
const LOOPBACK: &str = "lo";

/// The interfaces of a pod at one moment, without the loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// When they were read.
    pub at: Timestamp,
    /// In the kernel's order; at least one.
    pub interfaces: Vec<Interface>,
}

/// What one interface carried since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the pod.
    pub name: String,
    /// What came in.
    pub received: Traffic,
    /// What went out.
    pub sent: Traffic,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were damaged.
    pub errors: u64,
    /// Packets that found no room.
    pub dropped: u64,
}

impl Network {
    /// Reads the counters of the namespace at `netns`, in which `pid` should live; `None` where there is nothing but
    /// the loopback.
    pub(super) fn read_blocking(netns: &Path, pid: Option<Pid>, clock: &dyn Clock) -> Option<Self> {
        let table = sys::links::table_blocking(netns, pid);
        let at = clock.now();
        match table {
            Ok(table) => {
                let interfaces = interfaces(&table);
                (!interfaces.is_empty()).then_some(Self { at, interfaces })
            }
            Err(error) => {
                tracing::debug!(%error, "the interfaces of a pod cannot be read");
                None
            }
        }
    }

    /// The interface that counts as the pod's.
    pub fn default_interface(&self) -> Option<&Interface> {
        let named = self.interfaces.iter().find(|one| one.name == DEFAULT);
        named.or(self.interfaces.first())
    }
}

/// The kernel's table, a line for each interface: eight numbers received, eight sent.
fn interfaces(table: &str) -> Vec<Interface> {
    table.lines().filter_map(interface).collect()
}

fn interface(line: &str) -> Option<Interface> {
    let (name, numbers) = line.split_once(':')?;
    let name = name.trim();
    if name == LOOPBACK || name.contains('|') {
        return None;
    }
    let numbers: Vec<u64> = numbers
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let traffic = |from: usize| {
        let number = |at: usize| numbers.get(from.checked_add(at)?).copied();
        Some(Traffic {
            bytes: number(0)?,
            packets: number(1)?,
            errors: number(2)?,
            dropped: number(3)?,
        })
    };
    Some(Interface {
        name: name.to_owned(),
        received: traffic(0)?,
        sent: traffic(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 2446082224 1290596    0    0    0     0          0         0 2446082224 1290596    0    0    0     0       0          0
  net1:      10       2    0    0    0     0          0         0       20       1    0    0    0     0       0          0
  eth0: 18446744073709551615   79684    3    4    0     0          0         0  5039369   50735    5    6    0     0       0          0
broken: 1 2 3
";

    #[test]
    fn every_interface_but_the_loopback_is_told_of() {
        let network = Network {
            at: Timestamp(1),
            interfaces: interfaces(TABLE),
        };

        let names: Vec<_> = network
            .interfaces
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(names, ["net1", "eth0"]);
        let eth0 = network.default_interface().unwrap();
        let received = Traffic {
            bytes: u64::MAX,
            packets: 79_684,
            errors: 3,
            dropped: 4,
        };
        assert_eq!((eth0.name.as_str(), eth0.received), ("eth0", received));
        assert_eq!(
            (eth0.sent.bytes, eth0.sent.errors, eth0.sent.dropped),
            (5_039_369, 5, 6)
        );
    }

    #[test]
    fn without_the_usual_one_the_first_counts() {
        let network = Network {
            at: Timestamp(1),
            interfaces: interfaces(&TABLE.replace("eth0", "wlan")),
        };
        assert_eq!(network.default_interface().unwrap().name, "net1");
        assert!(interfaces("").is_empty());
    }
}
