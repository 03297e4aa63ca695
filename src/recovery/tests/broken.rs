//! Each verb with each of its calls broken in turn: refused, its reply lost, hanging, our process dying in it. Whether
//! the same process goes on or another takes over: once the pod is removed nothing is left.

use super::house::{Home, House, PodKind};
use super::restores;
use crate::containerd::fake::Fault;
use crate::model::Result;
use crate::sys;

/// A verb of the CRI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    RunPodSandbox,
    CreateContainer,
    StartContainer,
    ExecSync,
    CheckpointContainer,
    CheckpointPod,
    CreateFromCheckpoint,
    StartFromCheckpoint,
    RestorePod,
    StopContainer,
    RemoveContainer,
    StopPodSandbox,
    RemovePodSandbox,
}

impl Verb {
    /// Brings about what the verb needs.
    async fn prepare(self, home: &Home) {
        home.world.execs_end_with(Some(0));
        match self {
            Self::RunPodSandbox => {}
            Self::CreateContainer => drop(home.run().await.unwrap()),
            Self::StartContainer => {
                home.run().await.unwrap();
                home.create().await.unwrap();
            }
            Self::CreateFromCheckpoint => {
                restores::write_archive(&home.archive);
                drop(home.run().await.unwrap());
            }
            Self::StartFromCheckpoint => {
                restores::write_archive(&home.archive);
                home.run().await.unwrap();
                home.restore().await.unwrap();
            }
            Self::RestorePod => restores::fill_shelf(&home.shelf),
            Self::CheckpointPod => {
                restores::make_shelf(&home.shelf);
                drop(home.run_all().await);
            }
            _ => drop(home.run_all().await),
        }
    }

    async fn act(self, home: &Home) -> Result<()> {
        let container = || {
            home.container_id()
                .map(|id| id.to_string())
                .unwrap_or_else(|| "gone".to_owned())
        };
        let pod = || {
            home.pod_id()
                .map(|id| id.to_string())
                .unwrap_or_else(|| "gone".to_owned())
        };
        match self {
            Self::RunPodSandbox => home.run().await.map(drop),
            Self::CreateContainer => home.create().await.map(drop),
            Self::StartContainer => home.containers.start(&container()).await,
            Self::ExecSync => home.exec().await,
            Self::CheckpointContainer => home.checkpoint(&container()).await,
            Self::CheckpointPod => {
                restores::make_shelf(&home.shelf);
                home.checkpoint_pod().await
            }
            Self::CreateFromCheckpoint => home.restore().await.map(drop),
            Self::StartFromCheckpoint => home.containers.start(&container()).await,
            Self::RestorePod => home.restore_pod().await.map(drop),
            Self::StopContainer => home.containers.stop(&container(), 5).await,
            Self::RemoveContainer => home.containers.remove(&container()).await,
            Self::StopPodSandbox => home.sandboxes.stop(&pod()).await,
            Self::RemovePodSandbox => home.sandboxes.remove(&pod()).await,
        }
    }
}

/// What happens after the broken call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The caller asks once more.
    Retry,
    /// Another process takes over.
    Restart,
}

/// Breaks one call and looks what is left in the end; answers whether there was such a call.
fn breaks(verb: Verb, pod: PodKind, fault: Fault, nth: usize, after: After) -> bool {
    let what = || format!("{verb:?}: {fault:?} at call {nth}, then {after:?}");
    let house = House::new();
    let (struck, died) = house.live(pod, async |home| {
        verb.prepare(home).await;
        home.world.clear_trace();
        home.world.fail(nth, fault);
        let outcome = tokio::select! {
            outcome = verb.act(home) => Some(outcome),
            () = home.world.died() => None,
        };
        let struck = home.world.fault_struck();
        home.world.heal();
        let Some(outcome) = outcome else {
            return (struck, true);
        };
        if !struck {
            assert!(outcome.is_ok(), "{}: {outcome:?}", what());
            return (false, false);
        }
        if after == After::Retry {
            if matches!(verb, Verb::CheckpointContainer | Verb::CheckpointPod) {
                home.recovery.sweep().await.unwrap();
                assert_eq!(home.world.frozen(), [""; 0], "{}: {outcome:?}", what());
            }
            // A failed start is for good: kubelet makes another attempt of the container.
            let is_start = matches!(verb, Verb::StartContainer | Verb::StartFromCheckpoint);
            if outcome.is_err() && !is_start {
                let again = verb.act(home).await;
                assert!(
                    again.is_ok(),
                    "{}: first {outcome:?}, again {again:?}, trace {:#?}",
                    what(),
                    home.world.trace()
                );
            }
            let left = home.clear(&house).await;
            assert!(
                left.is_empty(),
                "{}: {left:#?}, {outcome:?}, trace {:#?}",
                what(),
                home.world.trace()
            );
        }
        (true, false)
    });
    if struck && (died || after == After::Restart) {
        house.world.revive();
        house.live(pod, async |home| {
            home.recovery.run().await.unwrap();
            assert_eq!(home.world.frozen(), [""; 0], "{}", what());
            if verb == Verb::RestorePod {
                let now = home.deps.index.snapshot();
                let all = (now.pods().count(), now.containers().count());
                assert!([(0, 0), (1, 1)].contains(&all), "{}: {all:?}", what());
            }
            let left = home.clear(&house).await;
            assert!(
                left.is_empty(),
                "{}: {left:#?}, trace {:#?}",
                what(),
                home.world.trace()
            );
        });
    }
    struck
}

/// Breaks every call of `verb` in turn in every way.
fn breaks_everywhere(verb: Verb, pod: PodKind) {
    for fault in Fault::ALL {
        for after in [After::Retry, After::Restart] {
            let calls = (0..)
                .take_while(|nth| breaks(verb, pod, fault, *nth, after))
                .count();
            assert!(calls > 0, "{verb:?}: {fault:?} broke nothing");
        }
    }
}

macro_rules! broken {
    ($($name:ident: $verb:ident;)*) => {$(
        #[test]
        fn $name() {
            breaks_everywhere(Verb::$verb, PodKind::Host);
        }
    )*};
}

broken! {
    run_pod_sandbox_leaves_nothing_whichever_call_breaks: RunPodSandbox;
    create_container_leaves_nothing_whichever_call_breaks: CreateContainer;
    start_container_leaves_nothing_whichever_call_breaks: StartContainer;
    exec_sync_leaves_nothing_whichever_call_breaks: ExecSync;
    checkpoint_container_leaves_nothing_whichever_call_breaks: CheckpointContainer;
    checkpoint_pod_leaves_nothing_whichever_call_breaks: CheckpointPod;
    create_from_a_checkpoint_leaves_nothing_whichever_call_breaks: CreateFromCheckpoint;
    start_from_a_checkpoint_leaves_nothing_whichever_call_breaks: StartFromCheckpoint;
    restore_pod_leaves_nothing_whichever_call_breaks: RestorePod;
    stop_container_leaves_nothing_whichever_call_breaks: StopContainer;
    remove_container_leaves_nothing_whichever_call_breaks: RemoveContainer;
    stop_pod_sandbox_leaves_nothing_whichever_call_breaks: StopPodSandbox;
    remove_pod_sandbox_leaves_nothing_whichever_call_breaks: RemovePodSandbox;
}

#[test]
fn a_pod_with_namespaces_of_its_own_leaves_nothing_whichever_call_breaks() {
    sys::netns::isolated(|| {
        breaks_everywhere(Verb::RunPodSandbox, PodKind::Own);
        breaks_everywhere(Verb::RemovePodSandbox, PodKind::Own);
    });
}

#[test]
fn a_pod_with_users_of_its_own_leaves_nothing_whichever_call_breaks() {
    sys::netns::isolated(|| breaks_everywhere(Verb::RunPodSandbox, PodKind::Mapped));
}
