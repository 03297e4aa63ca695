//! The states of sandboxes and containers as transition tables. A state follows an observed event, never an intent;
//! the full tables are golden files, so a change of behaviour is a diff of a table.

/// Where a pod sandbox is.
///
/// ```text
/// Creating --Started--> Ready --Exited--> NotReady
///     |                   |                  |
/// CreateFailed         StopAsked          StopAsked
///     v                   v                  v
/// NotReady             Stopping --Stopped--> NotReady --RemoveAsked--> Removing
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SandboxState {
    /// Being made; not listed.
    Creating,
    /// The pause task runs and the network is attached.
    Ready,
    /// A stop was asked for; new containers are refused. Reported NOTREADY.
    Stopping,
    /// Not usable any more.
    NotReady,
    /// Being removed.
    Removing,
}

/// What may happen to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SandboxEvent {
    /// The pause task runs and the network is attached.
    Started,
    /// A step of the creation failed and something would not unwind.
    CreateFailed,
    /// The pause task ended.
    Exited,
    /// A stop was asked for.
    StopAsked,
    /// Every step of the stop is done.
    Stopped,
    /// A removal was asked for.
    RemoveAsked,
}

impl SandboxState {
    /// Every state, for tables and tests.
    pub const ALL: [Self; 5] = [
        Self::Creating,
        Self::Ready,
        Self::Stopping,
        Self::NotReady,
        Self::Removing,
    ];

    /// The state after `event`, or `None` where the event does not apply.
    pub const fn after(self, event: SandboxEvent) -> Option<Self> {
        use {SandboxEvent as E, SandboxState as S};
        Some(match (self, event) {
            (S::Creating, E::Started) => S::Ready,
            (S::Creating, E::CreateFailed) | (S::Ready, E::Exited) => S::NotReady,
            (S::Ready | S::NotReady | S::Stopping, E::StopAsked) | (S::Stopping, E::Exited) => {
                S::Stopping
            }
            (S::Stopping, E::Stopped) | (S::NotReady, E::Exited | E::Stopped) => S::NotReady,
            (S::NotReady | S::Removing, E::RemoveAsked) => S::Removing,
            _ => return None,
        })
    }

    /// Whether the CRI calls this state READY.
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Ready)
    }
}

impl SandboxEvent {
    /// Every event, for tables and tests.
    pub const ALL: [Self; 6] = [
        Self::Started,
        Self::CreateFailed,
        Self::Exited,
        Self::StopAsked,
        Self::Stopped,
        Self::RemoveAsked,
    ];
}

/// Where a workload container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerState {
    /// Record and snapshot exist, no process yet.
    Created,
    /// Its task is being created and started. Reported CREATED.
    Starting,
    /// Its init process runs.
    Running,
    /// Its init process ended, or never could start.
    Exited,
    /// We lost track: neither the record nor the task could be read. Reported UNKNOWN.
    Unknown,
    /// Being removed.
    Removing,
}

/// What may happen to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerEvent {
    /// A start was asked for.
    StartAsked,
    /// The task's init process runs.
    Started,
    /// The start failed before the process ran.
    StartFailed,
    /// The init process ended.
    Exited,
    /// Neither record nor task can be read.
    Lost,
    /// The task of a lost container was seen running.
    Found,
    /// A removal was asked for.
    RemoveAsked,
    /// The removal could not be finished; the container stays as it was.
    RemoveFailed,
}

impl ContainerState {
    /// Every state, for tables and tests.
    pub const ALL: [Self; 6] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Exited,
        Self::Unknown,
        Self::Removing,
    ];

    /// The state after `event`, or `None` where the event does not apply.
    pub const fn after(self, event: ContainerEvent) -> Option<Self> {
        use {ContainerEvent as E, ContainerState as S};
        Some(match (self, event) {
            (S::Created, E::StartAsked) => S::Starting,
            (S::Starting, E::Started) | (S::Unknown, E::Found) => S::Running,
            (S::Starting, E::StartFailed | E::Exited) | (S::Running | S::Unknown, E::Exited) => {
                S::Exited
            }
            (S::Created | S::Starting | S::Running, E::Lost) => S::Unknown,
            (S::Created | S::Exited | S::Removing, E::RemoveAsked) => S::Removing,
            (S::Removing, E::RemoveFailed) => S::Exited,
            _ => return None,
        })
    }
}

impl ContainerEvent {
    /// Every event, for tables and tests.
    pub const ALL: [Self; 8] = [
        Self::StartAsked,
        Self::Started,
        Self::StartFailed,
        Self::Exited,
        Self::Lost,
        Self::Found,
        Self::RemoveAsked,
        Self::RemoveFailed,
    ];
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_sandbox_table_is_the_golden_one() {
        let mut table = String::new();
        for state in SandboxState::ALL {
            for event in SandboxEvent::ALL {
                writeln!(table, "{state:?} + {event:?} -> {:?}", state.after(event)).unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn the_container_table_is_the_golden_one() {
        let mut table = String::new();
        for state in ContainerState::ALL {
            for event in ContainerEvent::ALL {
                writeln!(table, "{state:?} + {event:?} -> {:?}", state.after(event)).unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }
}
