//! What a later caller is given of what an earlier one began: a stop in its place, but never an object that has moved
//! on since.

use std::time::Duration;

use tokio::time::sleep;

use super::house::{Home, House, PodKind};
use crate::containerd::fake::Fault;
use crate::model::state::ContainerState;
use crate::model::{Kind, Resources, SandboxId};
use crate::sandbox::record::PodSums;
use crate::sys;

#[test]
fn the_updated_resources_of_a_pod_outlive_the_process() {
    let house = House::new();
    let sums = |shares| PodSums {
        resources: Some(Resources {
            cpu_shares: Some(shares),
            ..Resources::default()
        }),
        overhead: Some(Resources::default()),
    };
    let shown = |home: &Home, pod: &SandboxId| {
        let now = home.deps.index.snapshot();
        now.sandbox(pod).unwrap().updated.clone()
    };
    let pod = house.live(PodKind::Host, async |home| {
        let pod = home.run().await.unwrap();
        for shares in [100, 200] {
            let update = home.sandboxes.update_resources(pod.as_str(), sums(shares));
            update.await.unwrap();
        }
        home.world.fail_call("containers.update", 0, Fault::Refused);
        let refused = home.sandboxes.update_resources(pod.as_str(), sums(300));
        assert_eq!(refused.await.unwrap_err().kind(), Kind::Unavailable);
        let unknown = home.sandboxes.update_resources("f00", sums(1));
        assert_eq!(unknown.await.unwrap_err().kind(), Kind::NotFound);
        pod
    });
    house.world.revive();
    house.live(PodKind::Host, async |home| {
        home.recovery.run().await.unwrap();

        let told = shown(home, &pod);

        assert_eq!(told, Some((sums(200).resources, sums(200).overhead)));
        assert_eq!(home.clear(&house).await, [""; 0]);
    });
}

#[test]
fn a_stop_goes_on_in_the_place_of_one_that_gave_up() {
    let house = House::new();
    house.live(PodKind::Host, async |home| {
        let id = home.run_all().await;
        home.world.fail_call("tasks.kill", 0, Fault::Refused);

        let (first, second) = tokio::join!(home.containers.stop(id.as_str(), 60), async {
            sleep(Duration::from_nanos(1)).await;
            home.containers.stop(id.as_str(), 60).await
        });

        assert_eq!(first.unwrap_err().kind(), Kind::Unavailable);
        second.unwrap();
        let now = home.deps.index.snapshot();
        let state = now.container(&id).map(|view| view.state);
        assert_eq!(state, Some(ContainerState::Exited));
    });
}

#[test]
fn after_a_restart_only_what_is_still_new_is_handed_out() {
    let house = House::new();
    let (pod, container) = house.live(PodKind::Host, async |home| {
        (home.run().await.unwrap(), home.create().await.unwrap())
    });
    house.world.revive();
    house.live(PodKind::Host, async |home| {
        home.recovery.run().await.unwrap();
        assert_eq!(home.run().await.unwrap(), pod);
        assert_eq!(home.create().await.unwrap(), container);
        home.containers.start(container.as_str()).await.unwrap();
    });
    house.world.revive();
    house.live(PodKind::Host, async |home| {
        home.recovery.run().await.unwrap();
        let error = home.create().await.unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists);
        assert!(error.chain().contains(container.as_str()));
        home.sandboxes.stop(pod.as_str()).await.unwrap();
    });
    house.world.revive();
    house.live(PodKind::Host, async |home| {
        home.recovery.run().await.unwrap();
        let error = home.run().await.unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists);
        assert!(error.chain().contains(pod.as_str()));
        assert_eq!(home.clear(&house).await, [""; 0]);
    });
}

#[test]
fn a_stopped_pods_network_namespace_is_shown_closed_also_after_a_restart() {
    sys::netns::isolated(|| {
        let house = House::new();
        let pod = house.live(PodKind::Own, async |home| {
            let pod = home.run().await.unwrap();
            let netns = || {
                home.deps
                    .index
                    .snapshot()
                    .sandbox(&pod)
                    .unwrap()
                    .netns
                    .clone()
            };
            assert!(netns().is_some());
            home.sandboxes.stop(pod.as_str()).await.unwrap();
            assert_eq!(netns(), None);
            pod
        });
        house.world.revive();
        house.live(PodKind::Own, async |home| {
            home.recovery.run().await.unwrap();
            assert_eq!(
                home.deps.index.snapshot().sandbox(&pod).unwrap().netns,
                None
            );
            assert_eq!(home.clear(&house).await, [""; 0]);
        });
    });
}
