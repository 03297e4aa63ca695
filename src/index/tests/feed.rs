use futures::FutureExt as _;

use super::*;
use crate::model::{Pid, Termination};

/// One attempt of the pod `web`.
fn attempt(number: u32, id: &str) -> SandboxView {
    let mut view = sandbox(&hex(id), "web");
    Arc::make_mut(&mut view.config).identity.attempt = number;
    view.created_at = Timestamp(i64::from(number) + 1);
    view.pause_pid = Some(Pid(7));
    view
}

fn made(id: &str, sandbox: &str, at: i64) -> ContainerView {
    let mut view = container(&hex(id), &hex(sandbox).parse().unwrap());
    view.created_at = Timestamp(at);
    view
}

fn started(view: &mut ContainerView) {
    view.started_at = Some(Timestamp(3));
}

fn ended(view: &mut ContainerView) {
    view.ended = Some(Termination::exited(0, Timestamp(4)));
}

/// What came so far: object, what happened, the sandbox and the containers that the event tells of.
fn heard(subscription: &mut Subscription) -> Vec<String> {
    let head = |id: &str| id.trim_end_matches('0').to_owned();
    std::iter::from_fn(|| subscription.next().now_or_never().flatten())
        .map(|change| {
            let pod = &change.pod;
            let containers = pod.containers.iter();
            let containers: Vec<_> = containers
                .map(|view| format!("{} {:?}", head(view.id.as_str()), view.state))
                .collect();
            format!(
                "{} {:?}: {} {:?} [{}]",
                head(&change.id),
                change.happened,
                head(pod.sandbox.id.as_str()),
                pod.sandbox.state,
                containers.join(", ")
            )
        })
        .collect()
}

#[test]
fn a_life_is_told_once_in_order_and_with_the_state_of_that_moment() {
    let index = index();
    let mut told = index.subscribe().unwrap();
    let pod = attempt(0, "a");
    let (pod_id, id): (SandboxId, ContainerId) = (pod.id.clone(), hex("c").parse().unwrap());

    index.insert_sandbox(pod);
    let mut parked = made("c", "a", 2);
    parked.parked = true;
    index.insert_container(parked).unwrap();
    assert_eq!(
        heard(&mut told),
        ["a Created: a Ready []", "a Started: a Ready []"]
    );

    let unpark = |view: &mut ContainerView| {
        view.parked = false;
        Ok(())
    };
    index.update_container(&id, unpark).unwrap();
    let event = |event, change: fn(&mut ContainerView)| {
        index.container_event(&id, event, change).unwrap();
    };
    event(ContainerEvent::StartAsked, |_| ());
    event(ContainerEvent::Started, started);
    event(ContainerEvent::Exited, ended);
    let note = |view: &mut ContainerView| {
        view.oom_killed = true;
        Ok(())
    };
    index.update_container(&id, note).unwrap();
    index
        .sandbox_event(&pod_id, SandboxEvent::StopAsked, |_| ())
        .unwrap();
    event(ContainerEvent::RemoveAsked, |_| ());
    index.remove_container(&id);
    assert_eq!(
        heard(&mut told),
        [
            "c Created: a Ready [c Created]",
            "c Started: a Ready [c Running]",
            "c Stopped: a Ready [c Exited]",
            "c Deleted: a Stopping []",
        ]
    );

    for happens in [SandboxEvent::Exited, SandboxEvent::Stopped] {
        index
            .sandbox_event(&pod_id, happens, |view| view.pause_pid = None)
            .unwrap();
    }
    index
        .sandbox_event(&pod_id, SandboxEvent::RemoveAsked, |_| ())
        .unwrap();
    index.remove_sandbox(&pod_id);
    assert_eq!(
        heard(&mut told),
        ["a Stopped: a Stopping []", "a Deleted: a Removing []"]
    );
}

#[test]
fn a_start_that_fails_and_a_short_life_end_once() {
    let index = index();
    let mut told = index.subscribe().unwrap();
    index.insert_sandbox(attempt(0, "a"));
    heard(&mut told);
    let (failing, short) = (made("c", "a", 2), made("d", "a", 3));
    let (failing_id, short_id) = (failing.id.clone(), short.id.clone());
    index.insert_container(failing).unwrap();
    index.insert_container(short).unwrap();
    heard(&mut told);

    for id in [&failing_id, &short_id] {
        index
            .container_event(id, ContainerEvent::StartAsked, |_| ())
            .unwrap();
    }
    index
        .container_event(&failing_id, ContainerEvent::StartFailed, ended)
        .unwrap();
    // The end is learnt before the start was shown.
    let at_once = |view: &mut ContainerView| {
        started(view);
        ended(view);
    };
    index
        .container_event(&short_id, ContainerEvent::Exited, at_once)
        .unwrap();

    assert_eq!(
        heard(&mut told),
        [
            "c Stopped: a Ready [d Starting, c Exited]",
            "d Started: a Ready [d Exited, c Exited]",
            "d Stopped: a Ready [d Exited, c Exited]",
        ]
    );
}

#[test]
fn events_tell_of_all_attempts_and_only_the_last_one_ends_the_pod() {
    let index = index();
    let (first, second, other) = (attempt(0, "a"), attempt(1, "b"), sandbox(&hex("f"), "db"));
    let (first_id, second_id) = (first.id.clone(), second.id.clone());
    for pod in [first, other] {
        index.insert_sandbox(pod);
    }
    index.insert_container(made("c", "a", 2)).unwrap();
    let mut told = index.subscribe().unwrap();

    index.insert_sandbox(second);
    index.insert_container(made("d", "b", 3)).unwrap();
    index
        .sandbox_event(&first_id, SandboxEvent::Exited, |view| {
            view.pause_pid = None
        })
        .unwrap();
    index.remove_sandbox(&first_id);
    index.remove_sandbox(&second_id);

    assert_eq!(
        heard(&mut told),
        [
            "b Created: b Ready [c Created]",
            "b Started: b Ready [c Created]",
            "d Created: b Ready [d Created, c Created]",
            "a Stopped: b Ready [d Created, c Created]",
            // An old attempt goes with what it still had; its end is not the pod's.
            "c Deleted: b Ready [d Created]",
            "a Deleted: b Ready [d Created]",
            "d Deleted: b Ready []",
            "b Stopped: b Ready []",
            "b Deleted: b Ready []",
        ]
    );
}

#[test]
fn the_newest_attempt_that_goes_first_leaves_the_pod_to_the_older_one() {
    let index = index();
    let newest = attempt(1, "b");
    let id = newest.id.clone();
    index.insert_sandbox(attempt(0, "a"));
    index.insert_sandbox(newest);
    let mut told = index.subscribe().unwrap();

    index.remove_sandbox(&id);

    assert_eq!(
        heard(&mut told),
        ["b Stopped: a Ready []", "b Deleted: a Ready []"]
    );
}

#[test]
fn who_falls_behind_is_let_go_after_what_it_was_owed_and_nobody_else_notices() {
    let index = index();
    let (mut slow, mut quick) = (index.subscribe().unwrap(), index.subscribe().unwrap());
    let (mut quick_heard, rounds) = (0, 300);
    for _ in 0..rounds {
        let pod = attempt(0, "a");
        let id = pod.id.clone();
        index.insert_sandbox(pod);
        index.remove_sandbox(&id);
        quick_heard += heard(&mut quick).len();
    }

    assert_eq!(quick_heard, rounds * 4);
    let following = index.following();
    assert_eq!((following.followers, following.lost), (1, 1));
    assert_eq!(following.sent, 1_000 + 4 * 300);
    assert_eq!(heard(&mut slow).len(), 1_000);
    assert_eq!(
        slow.next().now_or_never().map(|end| end.is_none()),
        Some(true)
    );
    assert!(quick.next().now_or_never().is_none());
}

#[test]
fn a_subscriber_beyond_the_limit_is_refused_until_one_leaves() {
    let index = index();
    let mut all: Vec<_> = std::iter::from_fn(|| index.subscribe().ok()).collect();

    assert_eq!(
        index.subscribe().unwrap_err().kind(),
        Kind::ResourceExhausted
    );
    all.pop();
    assert!(index.subscribe().is_ok());
}

#[test]
fn times_rise_although_the_clock_stands_still() {
    let index = index();
    let mut told = index.subscribe().unwrap();
    index.insert_sandbox(attempt(0, "a"));
    let first = index.snapshot().at();
    index.insert_sandbox(attempt(1, "b"));

    let times: Vec<_> = std::iter::from_fn(|| told.next().now_or_never().flatten())
        .map(|change| change.at)
        .collect();
    let second = index.snapshot().at();
    assert!(second > first);
    assert_eq!(times, [first, first, second, second]);
}
