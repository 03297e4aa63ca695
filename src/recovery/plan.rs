//! What to do about what was found: pure, so that every case is a line of a test.

use crate::containerd::{TaskInfo, TaskState};
use crate::model::state::{ContainerState, SandboxState};
use crate::model::{Pid, Termination, Timestamp};
use crate::store::ContainerFacts;

/// What a bounded Tasks.Get answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskAnswer {
    /// The shim answered.
    Known(TaskInfo),
    /// containerd knows no such task.
    Missing,
    /// No answer within the limit: nothing may be concluded.
    Silent,
}

/// Whether the creation of an object had ended before the process did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// It was finished.
    Complete,
    /// It was cut off: nobody was ever told of the object.
    CutOff,
    /// The steps are gone with the boot they belonged to: it counts as finished.
    Forgotten,
}

/// What to do about a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxPlan {
    /// List it as it is.
    Adopt {
        /// State to show.
        state: SandboxState,
        /// Its pause process, where that runs.
        pause: Option<Pid>,
        /// Take the network attachment back now: the namespace that it stood on is gone.
        detach: bool,
    },
    /// Take everything back.
    Unwind,
}

/// Decides about a sandbox with a record. `rebooted`: its attachment was made in another boot.
pub fn sandbox(creation: Creation, task: &TaskAnswer, rebooted: bool) -> SandboxPlan {
    if creation == Creation::CutOff {
        return SandboxPlan::Unwind;
    }
    match task {
        TaskAnswer::Known(info) if matches!(info.state, TaskState::Running | TaskState::Paused) => {
            SandboxPlan::Adopt {
                state: SandboxState::Ready,
                pause: Some(info.pid),
                detach: false,
            }
        }
        _ => SandboxPlan::Adopt {
            state: SandboxState::NotReady,
            pause: None,
            detach: rebooted,
        },
    }
}

/// What to do about a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerPlan {
    /// List it as it is.
    Adopt {
        /// State to show.
        state: ContainerState,
        /// Its init process, where that runs.
        pid: Option<Pid>,
        /// When it began; `None` before.
        started_at: Option<Timestamp>,
        /// How it ended.
        ended: Option<Termination>,
        /// `ended` is news and must be written down first.
        news: bool,
        /// A task that was made and never started must go.
        drop_task: bool,
    },
    /// Take everything back.
    Unwind,
}

impl ContainerPlan {
    fn adopt(state: ContainerState, started_at: Option<Timestamp>) -> Self {
        Self::Adopt {
            state,
            pid: None,
            started_at,
            ended: None,
            news: false,
            drop_task: false,
        }
    }

    fn exited(started_at: Option<Timestamp>, ended: Termination, news: bool) -> Self {
        Self::Adopt {
            state: ContainerState::Exited,
            pid: None,
            started_at,
            ended: Some(ended),
            news,
            drop_task: false,
        }
    }
}

/// Decides about a container with a record and a sandbox (behaviour-node §8.2). `now` stamps what nobody saw.
pub fn container(
    creation: Creation,
    facts: &ContainerFacts,
    task: &TaskAnswer,
    now: Timestamp,
) -> ContainerPlan {
    if creation == Creation::CutOff {
        return ContainerPlan::Unwind;
    }
    if let Some(ended) = &facts.ended {
        return ContainerPlan::exited(facts.started_at, ended.clone(), false);
    }
    let began = facts.started_at;
    match task {
        TaskAnswer::Silent => ContainerPlan::adopt(ContainerState::Unknown, began),
        TaskAnswer::Missing if began.is_none() => {
            ContainerPlan::adopt(ContainerState::Created, None)
        }
        TaskAnswer::Missing => ContainerPlan::exited(began, Termination::lost(now), true),
        TaskAnswer::Known(info) => match (info.state, info.exit) {
            (TaskState::Running | TaskState::Paused, _) => ContainerPlan::Adopt {
                state: ContainerState::Running,
                pid: Some(info.pid),
                started_at: began.or(Some(now)),
                ended: None,
                news: false,
                drop_task: false,
            },
            (TaskState::Stopped, Some(exit)) => {
                let code = i32::try_from(exit.code).unwrap_or(255);
                ContainerPlan::exited(
                    began.or(Some(exit.at)),
                    Termination::exited(code, exit.at),
                    true,
                )
            }
            (TaskState::Stopped, None) => {
                ContainerPlan::exited(began, Termination::lost(now), true)
            }
            // Made and never started: the start is as if it had never been asked for.
            (TaskState::Created, _) if began.is_none() => ContainerPlan::Adopt {
                state: ContainerState::Created,
                pid: None,
                started_at: None,
                ended: None,
                news: false,
                drop_task: true,
            },
            // A started container cannot be back at "made": what ran is lost.
            (TaskState::Created, _) => ContainerPlan::exited(began, Termination::lost(now), true),
            (TaskState::Unknown, _) => ContainerPlan::adopt(ContainerState::Unknown, began),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::{Exit, Stdio};

    const NOW: Timestamp = Timestamp(100);
    const BEGAN: Timestamp = Timestamp(50);

    fn task(state: TaskState) -> TaskAnswer {
        let exit = (state == TaskState::Stopped).then_some(Exit {
            code: 3,
            at: Timestamp(70),
        });
        TaskAnswer::Known(TaskInfo {
            pid: Pid(9),
            state,
            exit,
            stdio: Stdio::default(),
        })
    }

    fn shown(started: bool, task: &TaskAnswer) -> (ContainerState, Option<i32>, Option<Timestamp>) {
        let facts = ContainerFacts {
            started_at: started.then_some(BEGAN),
            ..ContainerFacts::default()
        };
        match container(Creation::Complete, &facts, task, NOW) {
            ContainerPlan::Adopt {
                state,
                ended,
                started_at,
                ..
            } => (state, ended.map(|ended| ended.code), started_at),
            ContainerPlan::Unwind => panic!("unwound"),
        }
    }

    #[test]
    fn the_table_of_container_states_is_the_contracts() {
        use ContainerState as S;
        let cases = [
            (false, TaskAnswer::Missing, (S::Created, None, None)),
            (false, task(TaskState::Created), (S::Created, None, None)),
            (
                false,
                task(TaskState::Running),
                (S::Running, None, Some(NOW)),
            ),
            (
                false,
                task(TaskState::Stopped),
                (S::Exited, Some(3), Some(Timestamp(70))),
            ),
            (
                true,
                task(TaskState::Running),
                (S::Running, None, Some(BEGAN)),
            ),
            (
                true,
                task(TaskState::Paused),
                (S::Running, None, Some(BEGAN)),
            ),
            (
                true,
                task(TaskState::Stopped),
                (S::Exited, Some(3), Some(BEGAN)),
            ),
            (
                true,
                task(TaskState::Created),
                (S::Exited, Some(255), Some(BEGAN)),
            ),
            (
                true,
                TaskAnswer::Missing,
                (S::Exited, Some(255), Some(BEGAN)),
            ),
            (true, TaskAnswer::Silent, (S::Unknown, None, Some(BEGAN))),
            (false, TaskAnswer::Silent, (S::Unknown, None, None)),
        ];
        for (started, task, expected) in cases {
            assert_eq!(
                shown(started, &task),
                expected,
                "started {started}, {task:?}"
            );
        }
    }

    #[test]
    fn a_recorded_end_stays_whatever_the_task_says() {
        let ended = Termination::exited(7, Timestamp(60));
        let facts = ContainerFacts {
            ended: Some(ended.clone()),
            ..ContainerFacts::default()
        };

        let plan = container(Creation::Forgotten, &facts, &task(TaskState::Running), NOW);

        assert_eq!(plan, ContainerPlan::exited(None, ended, false));
    }

    #[test]
    fn a_creation_cut_off_is_taken_back_even_where_its_task_runs() {
        assert_eq!(
            sandbox(Creation::CutOff, &task(TaskState::Running), false),
            SandboxPlan::Unwind
        );
        let facts = ContainerFacts::default();
        assert_eq!(
            container(Creation::CutOff, &facts, &TaskAnswer::Missing, NOW),
            ContainerPlan::Unwind
        );
    }

    #[test]
    fn after_a_reboot_a_sandbox_is_not_ready_and_its_network_is_given_back() {
        let plan = sandbox(Creation::Forgotten, &TaskAnswer::Missing, true);
        assert_eq!(
            plan,
            SandboxPlan::Adopt {
                state: SandboxState::NotReady,
                pause: None,
                detach: true
            }
        );
    }
}
