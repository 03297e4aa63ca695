//! Plugins over socket pairs: who is admitted, what each hears of, and what comes of answers, refusals and silence.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message as _;

use super::messages::api;
use super::testing::{
    Home, Reply, connect, container, host, join, node, pod, register, say, script, until,
};
use super::{Event, Wishes};
use crate::model::state::ContainerState;
use crate::model::{Kind, Resources};

fn spec() -> oci_spec::runtime::Spec {
    serde_json::from_str(&container(None).spec).unwrap()
}

fn env(key: &str, value: &str) -> api::CreateContainerResponse {
    api::CreateContainerResponse {
        adjust: Some(api::ContainerAdjustment {
            env: vec![api::KeyValue {
                key: key.to_owned(),
                value: value.to_owned(),
            }],
            ..api::ContainerAdjustment::default()
        }),
        ..api::CreateContainerResponse::default()
    }
}

#[tokio::test]
async fn nobody_hears_of_anything_until_a_plugin_takes_part() {
    let (nri, _home) = node(Home::default(), "");

    assert!(Event::ALL.iter().all(|event| !nri.hears(*event)));
    assert!(!nri.hears_of_creations());
    let player = join(&nri, "10", "a", script(1 << 3)).await;

    assert!(nri.hears(Event::CreateContainer) && !nri.hears(Event::StopContainer));
    assert_eq!(nri.shown()["plugins"][0]["events"][0], "CreateContainer");
    player.link.close();
    until(|| !nri.hears(Event::CreateContainer)).await;
    let (off, _home) = node(Home::default(), "enabled = false\n");
    join(&off, "10", "a", script(0)).await;
    assert!(!off.hears(Event::CreateContainer));
}

#[tokio::test]
async fn a_plugin_is_told_its_settings_and_all_that_exists() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let home = Home {
        pods: vec![pod()],
        containers: vec![container(Some(ContainerState::Running))],
        ..Home::default()
    };
    let (nri, _home) = node(home, "");
    let mut script = script(0);
    for method in ["Configure", "Synchronize"] {
        let (seen, usual) = (Arc::clone(&seen), Arc::clone(&script[method]));
        script.insert(
            method,
            Arc::new(move |bytes| {
                seen.lock().unwrap().push(bytes.clone());
                usual(bytes)
            }),
        );
    }

    join(&nri, "10", "a", script).await;

    let seen = seen.lock().unwrap();
    let configure = api::ConfigureRequest::decode(&*seen[0]).unwrap();
    assert_eq!(configure.nri_version, "v0.12.2");
    assert_eq!(
        (configure.registration_timeout, configure.request_timeout),
        (200, 200)
    );
    let all = api::SynchronizeRequest::decode(&*seen[1]).unwrap();
    let (pod, container) = (&all.pods[0], &all.containers[0]);
    assert_eq!(pod.linux.as_ref().unwrap().cgroups_path, "/pods/p");
    assert_eq!((pod.pid, &pod.ips[0][..]), (7, "10.0.0.1"));
    assert_eq!(container.env, ["A=1"]);
    assert_eq!(container.state(), api::ContainerState::ContainerRunning);
    assert_eq!(container.pod_sandbox_id, pod.id);
}

#[tokio::test]
async fn who_misbehaves_at_the_door_is_turned_away() {
    let (nri, _home) = node(Home::default(), "");
    let silent = connect(&nri, script(0));
    let misnamed = connect(&nri, script(0));
    assert!(!register(&misnamed, "1", "a").await);
    let greedy = connect(&nri, script(1 << 20));
    assert!(register(&greedy, "10", "a").await);
    let mut refuses = script(0);
    refuses.insert("Configure", Arc::new(|_| Reply::Refuse("no")));
    let refusing = connect(&nri, refuses);
    assert!(register(&refusing, "10", "a").await);
    let mut hangs = script(0);
    hangs.insert("Synchronize", Arc::new(|_| Reply::Hang));
    let hanging = connect(&nri, hangs);
    assert!(register(&hanging, "10", "a").await);
    assert!(!register(&hanging, "10", "a").await);

    for player in [silent, misnamed, greedy, refusing, hanging] {
        let closed = player.link.closed().cancelled();
        tokio::time::timeout(Duration::from_secs(5), closed)
            .await
            .unwrap();
    }
    until(|| !nri.hears(Event::CreateContainer)).await;
}

#[tokio::test]
async fn plugins_are_asked_in_order_and_each_sees_what_those_before_it_made() {
    let (nri, _home) = node(Home::default(), "");
    let seen = Arc::new(Mutex::new(Vec::new()));
    for (index, name, key) in [("20", "b", "B"), ("10", "z", "Z"), ("10", "a", "A2")] {
        let mut script = script(1 << 3);
        let seen = Arc::clone(&seen);
        script.insert(
            "CreateContainer",
            Arc::new(move |bytes| {
                let request = api::CreateContainerRequest::decode(&*bytes).unwrap();
                let container = request.container.unwrap();
                assert_eq!(container.state(), api::ContainerState::ContainerUnknown);
                seen.lock().unwrap().push(container.env);
                say(&env(key, "1"))
            }),
        );
        join(&nri, index, name, script).await;
    }

    let made = nri
        .create(&nri.enter(), &pod(), &container(None), &spec(), &host())
        .await
        .unwrap();

    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], ["A=1"]);
    assert_eq!(seen[1], ["A=1", "A2=1"]);
    assert_eq!(seen[2], ["A=1", "A2=1", "Z=1"]);
    let env = made.spec.process().clone().unwrap().env().clone().unwrap();
    assert_eq!(env, ["A=1", "A2=1", "Z=1", "B=1"]);
    assert!(made.wishes.is_empty());
}

#[tokio::test]
async fn a_refusal_fails_the_call_a_silence_only_loses_the_plugin() {
    let (nri, _home) = node(Home::default(), "");
    let mut refuses = script(0);
    for method in [
        "CreateContainer",
        "StartContainer",
        "RunPodSandbox",
        "StopPodSandbox",
    ] {
        refuses.insert(method, Arc::new(|_| Reply::Refuse("not today")));
    }
    let refusing = join(&nri, "10", "no", refuses).await;
    let (pod, container) = (pod(), container(None));

    let created = nri
        .create(&nri.enter(), &pod, &container, &spec(), &host())
        .await;
    let error = created.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.chain().contains("10-no") && error.chain().contains("not today"));
    for (event, of) in [
        (Event::StartContainer, Some(&container)),
        (Event::RunPodSandbox, None),
    ] {
        assert!(nri.ask(&nri.enter(), event, &pod, of).await.is_err());
    }
    nri.tell(Event::StopPodSandbox, &pod, None).await;
    refusing.link.close();
    until(|| !nri.hears(Event::CreateContainer)).await;

    let mut hangs = script(0);
    hangs.insert("CreateContainer", Arc::new(|_| Reply::Hang));
    hangs.insert("StopPodSandbox", Arc::new(|_| say(&api::Empty {})));
    let hanging = join(&nri, "10", "slow", hangs).await;
    let mut gibberish = script(0);
    gibberish.insert("CreateContainer", Arc::new(|_| Reply::Say(vec![0xff; 3])));
    let odd = join(&nri, "20", "odd", gibberish).await;
    let mut works = script(0);
    works.insert("CreateContainer", Arc::new(|_| say(&env("B", "2"))));
    let good = join(&nri, "30", "good", works).await;

    let made = nri
        .create(&nri.enter(), &pod, &container, &spec(), &host())
        .await
        .unwrap();

    let env = made.spec.process().clone().unwrap().env().clone().unwrap();
    assert_eq!(env, ["A=1", "B=2"]);
    for gone in [hanging, odd] {
        gone.link.closed().cancelled().await;
    }
    assert!(!good.link.closed().is_cancelled());
    until(|| nri.shown()["plugins"].as_array().unwrap().len() == 1).await;
}

#[tokio::test]
async fn an_old_plugin_hears_by_state_change_and_is_not_asked_what_it_does_not_know() {
    let (nri, _home) = node(Home::default(), "");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut old = script(0);
    let changes = Arc::clone(&seen);
    old.insert(
        "StateChange",
        Arc::new(move |bytes| {
            let change = api::StateChangeEvent::decode(&*bytes).unwrap();
            changes.lock().unwrap().push(change.event);
            say(&api::Empty {})
        }),
    );
    let player = join(&nri, "10", "old", old).await;
    let pod = pod();

    for _ in 0..2 {
        nri.ask(&nri.enter(), Event::RunPodSandbox, &pod, None)
            .await
            .unwrap();
        nri.update_pod(&nri.enter(), &pod, None, None)
            .await
            .unwrap();
    }

    assert_eq!(*seen.lock().unwrap(), [1, 1]);
    let heard = player.heard();
    let count = |name: &str| heard.iter().filter(|method| *method == name).count();
    assert_eq!((count("RunPodSandbox"), count("UpdatePodSandbox")), (1, 1));
}

#[tokio::test]
async fn validators_see_who_decided_what_and_may_object() {
    let (nri, _home) = node(Home::default(), "");
    let mut adjusts = script(1 << 3);
    adjusts.insert("CreateContainer", Arc::new(|_| say(&env("B", "2"))));
    join(&nri, "10", "a", adjusts).await;
    let mut objects = script(1 << 13);
    objects.insert(
        "ValidateContainerAdjustment",
        Arc::new(|bytes| {
            let request = api::ValidateContainerAdjustmentRequest::decode(&*bytes).unwrap();
            let id = request.container.unwrap().id;
            let owners = &request.owners.unwrap().owners[&id];
            let owner = &owners.compound[&i32::from(api::Field::Env)].owners["B"];
            assert_eq!(request.plugins.len(), 2);
            say(&api::ValidateContainerAdjustmentResponse {
                reject: owner == "10-a",
                reason: "no B".to_owned(),
            })
        }),
    );
    let judge = join(&nri, "90", "judge", objects).await;

    let refused = nri
        .create(&nri.enter(), &pod(), &container(None), &spec(), &host())
        .await;
    assert!(refused.unwrap_err().chain().contains("no B"));
    judge.link.close();
    until(|| !nri.hears(Event::ValidateContainerAdjustment)).await;
    let made = nri
        .create(&nri.enter(), &pod(), &container(None), &spec(), &host())
        .await;
    made.unwrap();
}

#[tokio::test]
async fn required_plugins_count_even_where_no_plugin_is() {
    let rules = "[nri.default_validator]\nenabled = true\nrequired_plugins = [\"a\"]\n";
    let (nri, _home) = node(Home::default(), rules);

    assert!(nri.hears_of_creations());
    let refused = nri
        .create(&nri.enter(), &pod(), &container(None), &spec(), &host())
        .await;
    assert_eq!(refused.unwrap_err().kind(), Kind::FailedPrecondition);
    join(&nri, "10", "a", script(1 << 0)).await;
    let made = nri
        .create(&nri.enter(), &pod(), &container(None), &spec(), &host())
        .await;
    made.unwrap();
}

fn shares(id: &str, value: u64) -> api::ContainerUpdate {
    api::ContainerUpdate {
        container_id: id.to_owned(),
        linux: Some(api::LinuxContainerUpdate {
            resources: Some(api::LinuxResources {
                cpu: Some(api::LinuxCpu {
                    shares: Some(api::OptionalUInt64 { value }),
                    ..api::LinuxCpu::default()
                }),
                ..api::LinuxResources::default()
            }),
        }),
        ignore_failure: false,
    }
}

#[tokio::test]
async fn an_update_may_be_changed_and_may_change_others() {
    let (nri, home) = node(Home::default(), "");
    let own = container(None).id.to_string();
    let mut changes = script(0);
    let id = own.clone();
    changes.insert(
        "UpdateContainer",
        Arc::new(move |bytes| {
            let request = api::UpdateContainerRequest::decode(&*bytes).unwrap();
            let asked = request.linux_resources.unwrap().cpu.unwrap();
            assert_eq!(asked.shares.unwrap().value, 100);
            say(&api::UpdateContainerResponse {
                update: vec![shares(&id, 200), shares("other", 5)],
                evict: vec![api::ContainerEviction {
                    container_id: "victim".to_owned(),
                    reason: "room".to_owned(),
                }],
            })
        }),
    );
    join(&nri, "10", "a", changes).await;
    let asked = Resources {
        cpu_shares: Some(100),
        ..Resources::default()
    };

    let updated = nri
        .update(
            &nri.enter(),
            &pod(),
            &container(Some(ContainerState::Running)),
            &asked,
        )
        .await
        .unwrap();
    nri.fulfil(&updated.wishes).await;

    let own = updated.own.unwrap();
    assert_eq!(own.resources.cpu().clone().unwrap().shares(), Some(200));
    assert_eq!(home.updates.lock().unwrap()[0].container, "other");
    until(|| !home.evictions.lock().unwrap().is_empty()).await;
    assert_eq!(home.evictions.lock().unwrap()[0].container, "victim");
}

#[tokio::test]
async fn a_plugin_changes_containers_unasked_and_learns_what_failed() {
    let (nri, home) = node(Home::default(), "");
    let player = join(&nri, "10", "a", script(1)).await;
    until(|| !nri.shown()["plugins"].as_array().unwrap().is_empty()).await;
    let request = api::UpdateContainersRequest {
        update: vec![shares("there", 7), shares("missing", 7)],
        evict: vec![api::ContainerEviction {
            container_id: "victim".to_owned(),
            reason: String::new(),
        }],
    };
    let limit = Duration::from_secs(5);

    // It takes part only once it has been told everything, which may be a moment later.
    let mut answer = Err(super::link::CallError::TimedOut(limit));
    for _ in 0..100 {
        let call = player
            .link
            .call("UpdateContainers", request.encode_to_vec(), limit);
        answer = call.await;
        if answer.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let answer = api::UpdateContainersResponse::decode(&*answer.unwrap()).unwrap();
    assert_eq!(answer.failed.len(), 1);
    assert_eq!(answer.failed[0].container_id, "missing");
    assert_eq!(home.updates.lock().unwrap()[0].container, "there");
    until(|| !home.evictions.lock().unwrap().is_empty()).await;
    let unknown = player.link.call("Other", Vec::new(), limit).await;
    assert!(unknown.is_err());
}

#[tokio::test]
async fn events_wait_for_a_plugin_that_is_being_told_what_exists() {
    let (nri, _home) = node(Home::default(), "");
    let making = nri.enter();
    let mut slow = script(0);
    slow.insert("RunPodSandbox", Arc::new(|_| say(&api::Empty {})));
    let player = connect(&nri, slow);
    assert!(register(&player, "10", "a").await);
    // It is on the list, and waits for what was being made before.
    until(|| nri.hears(Event::RunPodSandbox)).await;
    assert_eq!(player.heard(), ["Configure"]);
    let pod = pod();
    // Who is in the middle of something goes on with the plugins that were there when it began.
    nri.ask(&making, Event::RunPodSandbox, &pod, None)
        .await
        .unwrap();
    assert_eq!(player.heard(), ["Configure"]);
    let later = nri.enter();
    let (told, ()) = tokio::join!(nri.ask(&later, Event::RunPodSandbox, &pod, None), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(player.heard(), ["Configure"]);
        drop(making);
    });
    told.unwrap();

    assert_eq!(
        player.heard(),
        ["Configure", "Synchronize", "RunPodSandbox"]
    );
}

#[tokio::test]
async fn the_end_of_a_container_may_change_others_and_a_complaint_changes_nothing() {
    let (nri, _home) = node(Home::default(), "");
    let mut complains = script(0);
    complains.insert("StopContainer", Arc::new(|_| Reply::Refuse("why")));
    join(&nri, "10", "a", complains).await;
    let mut asks = script(0);
    asks.insert(
        "StopContainer",
        Arc::new(|_| {
            say(&api::StopContainerResponse {
                update: vec![shares("other", 9)],
            })
        }),
    );
    join(&nri, "20", "b", asks).await;

    let wishes: Wishes = nri
        .stopped(&pod(), &container(Some(ContainerState::Exited)))
        .await;

    assert_eq!(wishes.updates.len(), 1);
    assert_eq!(wishes.updates[0].container, "other");
}
