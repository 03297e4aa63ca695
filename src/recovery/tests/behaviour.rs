//! What the lifecycles promise beside leaving nothing: who is shown when, one signal per stop, no lies about ends.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::poll;
use tokio::time::{Instant, sleep};

use super::house::{Home, House, PodKind};
use crate::container::record::OURS_CONTAINER;
use crate::containerd::RecordField;
use crate::containerd::fake::{Behaviour, Fault, When};
use crate::index::ContainerView;
use crate::model::state::ContainerState;
use crate::model::{ContainerId, Kind};

pub(super) fn in_a_house(test: impl AsyncFnOnce(&House, &Home)) {
    let house = House::new();
    house.live(PodKind::Host, async |home| test(&house, home).await);
}

fn view(home: &Home, id: &ContainerId) -> ContainerView {
    ContainerView::clone(home.deps.index.snapshot().container(id).unwrap())
}

async fn until_ended(home: &Home, id: &ContainerId) {
    home.containers.nudge(id.as_str());
    let exited = |now: &crate::index::Snapshot| {
        let state = now.container(id).map(|view| view.state);
        (state == Some(ContainerState::Exited)).then_some(())
    };
    home.deps.index.until(exited).await;
}

#[test]
fn no_sandbox_is_listed_before_it_is_ready() {
    let mut seen = Vec::new();
    for nth in 0.. {
        let more = House::new().live(PodKind::Host, async |home| {
            home.world.fail(nth, Fault::Hangs(When::Before));
            let answered = tokio::select! {
                _id = home.run() => true,
                () = sleep(Duration::from_secs(1)) => false,
            };
            let trace = home.world.trace();
            let call = trace
                .last()
                .and_then(|line| line.split(' ').next())
                .unwrap()
                .to_owned();
            seen.push(format!(
                "{call}, answered {answered}: {} listed",
                home.deps.index.snapshot().pods().count()
            ));
            !answered
        });
        if !more {
            break;
        }
    }
    assert_eq!(
        seen,
        [
            "containers.create, answered false: 0 listed",
            "tasks.create, answered false: 0 listed",
            "tasks.start, answered false: 0 listed",
            "tasks.start, answered true: 1 listed",
        ]
    );
}

#[test]
fn two_stops_send_the_signal_once_and_the_shorter_grace_wins() {
    in_a_house(async |_house, home| {
        let id = home.run_all().await;
        home.world.behave(id.as_str(), Behaviour::IgnoresTerm);
        home.world.clear_trace();
        let began = Instant::now();

        let (patient, hasty) = tokio::join!(home.containers.stop(id.as_str(), 60), async {
            sleep(Duration::from_secs(1)).await;
            home.containers.stop(id.as_str(), 3).await
        });

        patient.unwrap();
        hasty.unwrap();
        let took = began.elapsed();
        assert!(
            took >= Duration::from_secs(4) && took < Duration::from_secs(30),
            "{took:?}"
        );
        let trace = home.world.trace();
        let terms = trace.iter().filter(|line| line.contains("SIGTERM")).count();
        assert_eq!(terms, 1, "{trace:#?}");
        assert_eq!(view(home, &id).ended.unwrap().code, 137);
    });
}

#[test]
fn a_process_that_outlives_sigkill_is_named_and_stays_running() {
    in_a_house(async |house, home| {
        let id = home.run_all().await;
        home.world.behave(id.as_str(), Behaviour::Unkillable);
        let pid = view(home, &id).pid.unwrap();

        let error = home.containers.stop(id.as_str(), 1).await.unwrap_err();

        assert_eq!(error.kind(), Kind::DeadlineExceeded);
        assert!(
            error.chain().contains(&pid.to_string()),
            "{}",
            error.chain()
        );
        assert_eq!(view(home, &id).state, ContainerState::Running);
        let pod = home.pod_id().unwrap();
        let error = home.sandboxes.remove(pod.as_str()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
        assert_eq!(view(home, &id).state, ContainerState::Running);

        home.world.exit(id.as_str(), 9);
        until_ended(home, &id).await;
        assert_eq!(view(home, &id).ended.unwrap().code, 9);
        assert_eq!(home.clear(house).await, [""; 0]);
    });
}

/// What was ever called stuck while `work` ran.
async fn stuck_during<T>(home: &Home, work: impl Future<Output = T>) -> BTreeSet<&'static str> {
    let mut stuck = BTreeSet::new();
    let look = async {
        loop {
            let rows = home.deps.live.snapshot();
            let rows = rows.iter().filter(|row| row.is_stuck(home.world.now()));
            stuck.extend(rows.map(|row| row.kind));
            sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        _done = work => {}
        () = look => {}
    }
    stuck
}

#[test]
fn a_pods_stop_is_stuck_where_a_container_holds_it_up_and_not_by_a_long_grace() {
    in_a_house(async |house, home| {
        let id = home.run_all().await;
        home.world.behave(id.as_str(), Behaviour::IgnoresTerm);
        let pod = home.pod_id().unwrap();
        let graceful = stuck_during(home, async {
            tokio::join!(home.containers.stop(id.as_str(), 3_600), async {
                sleep(Duration::from_secs(600)).await;
                home.sandboxes.stop(pod.as_str()).await
            })
        });
        assert_eq!(graceful.await, BTreeSet::new());
        assert_eq!(home.clear(house).await, [""; 0]);

        let pod = home.run().await.unwrap();
        let id = home.create().await.unwrap();
        home.world
            .fail_call("tasks.start", 0, Fault::Hangs(When::Before));
        let held_up = stuck_during(home, async {
            tokio::join!(home.containers.start(id.as_str()), async {
                sleep(Duration::from_secs(1)).await;
                home.sandboxes.stop(pod.as_str()).await
            })
        });
        assert!(held_up.await.contains("StopPodSandbox"));
        assert_eq!(home.clear(house).await, [""; 0]);
    });
}

#[test]
fn an_out_of_memory_kill_is_known_from_the_counter_alone() {
    in_a_house(async |_house, home| {
        let id = home.run_all().await;

        home.world.oom(id.as_str());
        until_ended(home, &id).await;

        let view = view(home, &id);
        assert!(view.oom_killed);
        assert_eq!(view.ended.unwrap().code, 137);
        assert!(home.deps.facts.of(&id).oom_killed);
    });
}

#[test]
fn an_exit_is_written_down_before_the_task_is_deleted() {
    let house = House::new();
    let id = house.live(PodKind::Host, async |home| {
        let id = home.run_all().await;
        home.world
            .fail_call("tasks.delete", 0, Fault::ProcessDies(When::After));
        home.world.exit(id.as_str(), 3);
        home.containers.nudge(id.as_str());
        home.world.died().await;
        id
    });
    house.world.revive();
    house.live(PodKind::Host, async |home| {
        home.recovery.run().await.unwrap();

        let view = view(home, &id);
        assert_eq!(
            (view.state, view.ended.unwrap().code),
            (ContainerState::Exited, 3)
        );
        assert_eq!(home.clear(&house).await, [""; 0]);
    });
}

/// Asks for a container and leaves before the answer.
async fn create_and_leave(home: &Home) -> ContainerId {
    home.run().await.unwrap();
    {
        let mut asked = Box::pin(home.create());
        assert!(poll!(&mut asked).is_pending());
    }
    home.settle().await;
    let id = home.container_id().unwrap();
    assert!(view(home, &id).parked);
    assert!(
        home.deps
            .index
            .snapshot()
            .list_containers(&Default::default())
            .is_empty()
    );
    id
}

#[test]
fn a_container_that_nobody_waited_for_is_handed_to_the_retry() {
    in_a_house(async |_house, home| {
        let id = create_and_leave(home).await;

        assert_eq!(home.create().await.unwrap(), id);

        assert!(!view(home, &id).parked);
        sleep(Duration::from_secs(600)).await;
        assert!(
            home.container_id().is_some(),
            "a delivered container does not expire"
        );
        assert_eq!(home.create().await.unwrap_err().kind(), Kind::AlreadyExists);
    });
}

#[test]
fn a_container_that_nobody_asks_for_again_is_removed_after_a_while() {
    in_a_house(async |house, home| {
        create_and_leave(home).await;

        sleep(Duration::from_secs(239)).await;
        assert!(home.container_id().is_some());
        sleep(Duration::from_secs(2)).await;
        home.settle().await;

        assert!(home.container_id().is_none());
        assert_eq!(home.clear(house).await, [""; 0]);
    });
}

#[test]
fn what_cannot_be_read_is_left_as_it_is() {
    let house = House::new();
    let (id, before) = house.live(PodKind::Host, async |home| {
        let id = home.run_all().await;
        let containers = &home.deps.containerd.containers;
        let mut record = containers.get(id.as_str()).await.unwrap();
        record.extensions.get_mut(OURS_CONTAINER).unwrap().value = b"{".to_vec();
        containers
            .update(&record, &[RecordField::Extensions])
            .await
            .unwrap();
        (id, house.world.leftovers())
    });
    house.world.revive();
    house.live(PodKind::Host, async |home| {
        let report = home.recovery.run().await.unwrap();
        home.recovery.sweep().await.unwrap();

        assert_eq!((report.unreadable, report.unwound), (1, 0));
        assert_eq!(house.world.leftovers(), before);
        assert!(
            home.deps.facts.of(&id).started_at.is_some(),
            "its facts stay"
        );
    });
}

#[test]
fn a_start_that_nobody_waited_for_is_answered_to_the_retry_once() {
    in_a_house(async |_house, home| {
        home.run().await.unwrap();
        let id = home.create().await.unwrap();
        {
            let mut asked = Box::pin(home.containers.start(id.as_str()));
            assert!(poll!(&mut asked).is_pending());
        }

        let (joined, beside) = tokio::join!(
            home.containers.start(id.as_str()),
            home.containers.start(id.as_str())
        );

        joined.unwrap();
        beside.unwrap();
        assert_eq!(view(home, &id).state, ContainerState::Running);
        let again = home.containers.start(id.as_str()).await.unwrap_err();
        assert_eq!(again.kind(), Kind::FailedPrecondition);
    });
}

#[test]
fn a_finished_start_that_was_never_answered_is_answered_also_after_a_restart() {
    let house = House::new();
    let id = house.live(PodKind::Host, async |home| {
        home.run().await.unwrap();
        let id = home.create().await.unwrap();
        {
            let mut asked = Box::pin(home.containers.start(id.as_str()));
            assert!(poll!(&mut asked).is_pending());
        }
        home.settle().await;
        assert_eq!(view(home, &id).state, ContainerState::Running);
        id
    });
    house.world.revive();
    house.live(PodKind::Host, async |home| {
        home.recovery.run().await.unwrap();

        home.containers.start(id.as_str()).await.unwrap();

        let again = home.containers.start(id.as_str()).await.unwrap_err();
        assert_eq!(again.kind(), Kind::FailedPrecondition);
        assert_eq!(home.clear(&house).await, [""; 0]);
    });
}

/// Restarts while the shim of a running container does not answer, and says what the world then does.
fn restarted_without_the_shim(then: impl AsyncFnOnce(&House, &Home, ContainerId)) {
    let house = House::new();
    let id = house.live(PodKind::Host, async |home| home.run_all().await);
    house.world.revive();
    house.live(PodKind::Host, async |home| {
        for nth in 0..2 {
            home.world
                .fail_call("tasks.get", nth, Fault::Hangs(When::Before));
        }
        home.recovery.run().await.unwrap();
        assert_eq!(view(home, &id).state, ContainerState::Unknown);
        then(&house, home, id).await;
        assert_eq!(home.clear(&house).await, [""; 0]);
    });
}

#[test]
fn a_container_whose_shim_was_silent_at_a_restart_is_found_again_and_can_be_stopped() {
    restarted_without_the_shim(async |_house, home, id| {
        sleep(Duration::from_secs(30)).await;
        assert_eq!(view(home, &id).state, ContainerState::Running);
        assert!(view(home, &id).pid.is_some());
    });
    restarted_without_the_shim(async |_house, home, id| {
        home.containers.stop(id.as_str(), 0).await.unwrap();
        assert_eq!(view(home, &id).state, ContainerState::Exited);
    });
}
