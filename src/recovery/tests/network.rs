//! The pod network's calls broken in each way: the address is given back and nothing else stays.

use super::house::{House, PodKind};
use crate::network::fake::{Fault, Point};
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
