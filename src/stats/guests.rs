//! Containers that do not run on the host's kernel: in a virtual machine, or on a kernel of their own. The host's groups
//! show the machine at best, so their shims are asked, in the background alone: a shim that hangs holds up no answer.

use std::time::Duration;

use futures::stream::StreamExt as _;

use crate::config::RUNC_SHIM;
use crate::containerd::TaskUsage;
use crate::index::ContainerView;
use crate::model::Timestamp;

use super::Stats;
use super::collect::Subject;
use super::group::{Cpu, Memory, Swap, Tasks, Usage};
use super::parse::UNLIMITED;

/// Shims asked at once.
const AT_ONCE: usize = 4;
/// The pause where the configuration wants no readings in the background: there are no others of these.
const PAUSE: Duration = Duration::from_secs(10);

/// Whether only the shim of a container knows what it uses.
pub(super) fn is_guest(view: &ContainerView) -> bool {
    view.runtime_type != RUNC_SHIM
}

impl Stats {
    /// Asks the shims again and again.
    pub(super) async fn keep_asking(self) {
        loop {
            let period = self.deps.settings().stats.collect_period;
            let period = if period.is_zero() { PAUSE } else { period };
            tokio::time::sleep(period).await;
            self.ask_guests().await;
        }
    }

    async fn ask_guests(&self) {
        let now = self.deps.index.snapshot();
        let mut guests: Vec<_> = now.containers().cloned().collect();
        guests.retain(|view| view.is_running() && is_guest(view));
        let asked = futures::stream::iter(guests).map(async |view| {
            let told = self.deps.containerd.tasks.usage(view.id.as_str()).await;
            let at = self.deps.clock.now();
            match told {
                Ok(Some(used)) => self.readings.note(view.id.as_str(), usage(&used, at)),
                Ok(None) => self.readings.read_anyway(Subject::Container(view)).await,
                Err(error) => {
                    tracing::debug!(container.id = %view.id, %error, "the shim does not tell what is used");
                }
            }
        });
        asked.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    }
}

fn usage(used: &TaskUsage, at: Timestamp) -> Usage {
    let working_set_bytes = used.memory_bytes.saturating_sub(used.inactive_file);
    let limit = Some(used.memory_limit).filter(|limit| (1..UNLIMITED).contains(limit));
    Usage {
        cpu: Some(Cpu {
            at,
            total_ns: used.cpu_ns,
            ..Cpu::default()
        }),
        memory: Some(Memory {
            at,
            usage_bytes: used.memory_bytes,
            working_set_bytes,
            available_bytes: limit.map(|limit| limit.saturating_sub(working_set_bytes)),
            rss_bytes: Some(used.rss),
            faults: Some(used.faults),
            major_faults: Some(used.major_faults),
            pressure: None,
        }),
        swap: Some(Swap {
            at,
            usage_bytes: used.swap_bytes,
            available_bytes: None,
        }),
        io: None,
        tasks: used.tasks.map(|count| Tasks { at, count }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::testing::views;

    #[test]
    fn what_a_shim_tells_is_told_on() {
        let used = TaskUsage {
            cpu_ns: 5,
            memory_bytes: 50,
            memory_limit: 100,
            inactive_file: 20,
            swap_bytes: 3,
            tasks: Some(2),
            ..TaskUsage::default()
        };

        let told = usage(&used, Timestamp(9));

        assert_eq!(told.cpu.unwrap().total_ns, 5);
        let memory = told.memory.unwrap();
        assert_eq!(
            (memory.working_set_bytes, memory.available_bytes),
            (30, Some(70))
        );
        assert_eq!(
            (told.swap.unwrap().usage_bytes, told.tasks.unwrap().count),
            (3, 2)
        );
        for none in [0, u64::MAX] {
            let unlimited = TaskUsage {
                memory_limit: none,
                ..used
            };
            assert_eq!(
                usage(&unlimited, Timestamp(9))
                    .memory
                    .unwrap()
                    .available_bytes,
                None
            );
        }
    }

    #[test]
    fn the_shim_of_runc_is_not_asked() {
        let mut view = views::container();
        assert!(!is_guest(&view));
        view.runtime_type = "io.containerd.kata.v2".into();
        assert!(is_guest(&view));
    }
}
