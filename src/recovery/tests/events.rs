//! What is told of a pod's life, whichever call of it breaks.

use std::collections::BTreeMap;

use futures::FutureExt as _;

use super::house::{Home, House, PodKind};
use crate::containerd::fake::{Fault, When};
use crate::index::{Happened, Subscription};
use crate::model::Result;

/// What each object is told to have gone through. Each event tells of its object, unless that is a container that went.
fn told(mut subscription: Subscription) -> BTreeMap<String, Vec<Happened>> {
    let mut told = BTreeMap::<String, Vec<Happened>>::new();
    let mut last = None;
    while let Some(Some(change)) = subscription.next().now_or_never() {
        let is_sandbox = change.pod.sandbox.id.as_str() == change.id;
        let mut containers = change.pod.containers.iter();
        let is_shown = is_sandbox || containers.any(|view| view.id.as_str() == change.id);
        let is_gone = change.happened == Happened::Deleted && !is_sandbox;
        assert_eq!(is_shown, !is_gone, "{change:?}");
        assert!(last <= Some(change.at), "{change:?}");
        last = Some(change.at);
        told.entry(change.id.clone())
            .or_default()
            .push(change.happened);
    }
    told
}

/// A pod's life as far as it comes.
async fn live(home: &Home) -> Result<()> {
    home.run().await?;
    let id = home.create().await?;
    home.containers.start(id.as_str()).await
}

#[test]
fn every_life_is_told_in_order_whichever_call_breaks() {
    use Happened::{Created, Deleted, Started, Stopped};
    let lives = [
        &[Created, Started, Stopped, Deleted] as &[_],
        &[Created, Stopped, Deleted],
        &[Created, Deleted],
    ];
    let faults = [
        Fault::Refused,
        Fault::ReplyLost,
        Fault::Hangs(When::Before),
        Fault::Hangs(When::After),
    ];
    let mut longest = 0;
    for fault in faults {
        for nth in 0.. {
            let house = House::new();
            let struck = house.live(PodKind::Host, async |home| {
                let subscription = home.deps.index.subscribe().unwrap();
                home.world.fail(nth, fault);
                drop(live(home).await);
                let struck = home.world.fault_struck();
                home.world.heal();
                let left = home.clear(&house).await;
                assert!(left.is_empty(), "{left:#?}");
                for (id, told) in told(subscription) {
                    assert!(
                        lives.contains(&told.as_slice()),
                        "{fault:?} at call {nth}: {id}: {told:?}"
                    );
                    longest = longest.max(told.len());
                }
                struck
            });
            if !struck {
                break;
            }
        }
    }
    assert_eq!(longest, 4);
}
