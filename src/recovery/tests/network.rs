//! The pod network's calls broken in each way: the address is given back and nothing else stays.

use std::time::Duration;

use super::house::{Home, House, PodKind};
use crate::containerd::fake::{Fault as Broken, When};
use crate::model::SandboxId;
use crate::network::fake::{Fault, Point};
use crate::sandbox::record::PLUGIN_SANDBOX;
use crate::sys;

/// Breaks one call; `restart`: another process clears up.
fn breaks(point: Point, fault: Fault, restart: bool) {
    let what = || format!("{point:?} {fault:?}, restart {restart}");
    let house = House::new();
    house.live(PodKind::Own, async |home| {
        house.network.inject(point, fault);
        let made = home.run().await;
        assert_eq!(made.is_err(), point != Point::Del, "{}: {made:?}", what());
        if made.is_err() {
            assert!(
                home.pod_id().is_none(),
                "{}: a failed sandbox is listed",
                what()
            );
            assert_eq!(house.leftovers(), [""; 0], "{}", what());
            home.run().await.unwrap();
        }
        let id = home.pod_id().unwrap();
        assert!(house.network.held().contains_key(id.as_str()), "{}", what());
        let stopped = home.sandboxes.stop(id.as_str()).await;
        assert_eq!(
            stopped.is_err(),
            point == Point::Del,
            "{}: {stopped:?}",
            what()
        );
        if !restart {
            assert_eq!(home.clear(&house).await, [""; 0], "{}", what());
        }
    });
    if restart {
        house.world.revive();
        house.live(PodKind::Own, async |home| {
            home.recovery.run().await.unwrap();
            assert_eq!(home.clear(&house).await, [""; 0], "{}", what());
        });
    }
}

#[test]
fn a_broken_network_call_leaves_no_address_and_no_namespace() {
    sys::netns::isolated(|| {
        for restart in [false, true] {
            breaks(Point::Plan, Fault::Refused, restart);
            for point in [Point::Add, Point::Del] {
                for fault in [Fault::Refused, Fault::ReplyLost, Fault::Hangs] {
                    breaks(point, fault, restart);
                }
            }
        }
    });
}

/// What containerd's own CRI plugin would read of the pod's network.
async fn handed_over(home: &Home) -> (String, bool) {
    let id = home.pod_id().unwrap();
    let containers = &home.deps.containerd.containers;
    let record = containers.get(id.as_str()).await.unwrap();
    let value: serde_json::Value =
        serde_json::from_slice(&record.extensions[PLUGIN_SANDBOX].value).unwrap();
    let metadata = &value["Metadata"];
    let ip = metadata["IP"].as_str().unwrap().to_owned();
    (ip, !metadata["CNIResult"].is_null())
}

#[test]
fn the_networks_answer_stands_in_containerds_record_also_after_a_failed_write_or_a_restart() {
    sys::netns::isolated(|| {
        let house = House::new();
        house.live(PodKind::Own, async |home| {
            home.world
                .fail_call("containers.update", 0, Broken::Refused);
            home.run().await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            let shown = home.deps.index.snapshot();
            let ip = shown.pods().next().unwrap().sandbox.ips[0].clone();
            assert_eq!(handed_over(home).await, (ip, true));
        });
        let house = House::new();
        house.live(PodKind::Own, async |home| {
            let dies = Broken::ProcessDies(When::Before);
            home.world.fail_call("containers.update", 0, dies);
            home.run().await.unwrap();
            home.world.died().await;
        });
        house.world.revive();
        house.live(PodKind::Own, async |home| {
            assert_eq!(home.recovery.run().await.unwrap().sandboxes, 1);
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(handed_over(home).await.1);
            assert_eq!(home.clear(&house).await, [""; 0]);
        });
    });
}

#[test]
fn an_attachment_that_stays_does_not_keep_the_others() {
    sys::netns::isolated(|| {
        let house = House::new();
        house.live(PodKind::Own, async |home| {
            let pod = home.run().await.unwrap();
            let records = home.sandboxes.attachment_records();
            let record = records.get(pod.as_str()).await.unwrap().unwrap();
            let orphans = [(); 2].map(|()| SandboxId::generate().unwrap());
            for orphan in &orphans {
                records.put(orphan.as_str(), &record).await.unwrap();
            }
            let count = async || {
                let mut left = 0;
                for orphan in &orphans {
                    left += usize::from(records.get(orphan.as_str()).await.unwrap().is_some());
                }
                left
            };

            house.network.inject(Point::Del, Fault::Refused);
            home.recovery.sweep().await.unwrap();
            assert_eq!(count().await, 1, "one is refused, the other goes");
            home.recovery.sweep().await.unwrap();
            assert_eq!(count().await, 0);
            assert!(records.get(pod.as_str()).await.unwrap().is_some());
        });
    });
}
