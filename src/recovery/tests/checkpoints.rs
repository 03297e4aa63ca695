//! Checkpoints: what a caller gets, and what meets them on the way.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::behaviour::in_a_house;
use crate::container::{CheckpointRequest, Criu};
use crate::containerd::fake::{Fault, When};
use crate::model::Kind;

#[test]
fn a_container_is_written_down_whole_and_lives_on() {
    in_a_house(async |house, home| {
        let id = home.run_all().await;

        home.checkpoint(id.as_str()).await.unwrap();

        let mut tar = tar::Archive::new(std::fs::File::open(&home.archive).unwrap());
        let names: BTreeSet<String> = tar
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        let wanted = [
            "checkpoint/core-1.img",
            "checkpoint/inventory.img",
            "checkpoint/pages-1.img",
            "config.dump",
            "dump.log",
            "rootfs-diff.tar",
            "spec.dump",
            "stats-dump",
            "status",
            "status.dump",
        ];
        assert_eq!(names, wanted.map(str::to_owned).into());
        assert_eq!(home.world.frozen(), [""; 0]);
        let left = home.clear(house).await;
        assert_eq!(left, [""; 0]);
    });
}

#[test]
fn only_what_runs_is_written_down_and_only_where_criu_works() {
    in_a_house(async |_house, home| {
        let id = home.run_all().await;
        let request = |container: &str, location: &str| CheckpointRequest {
            container: container.to_owned(),
            location: location.to_owned(),
            timeout: None,
            status: String::new(),
        };
        let works = Criu::Works("4.1".to_owned());
        let place = home.archive.display().to_string();

        let unknown = home
            .containers
            .checkpoint_by(Some(&Criu::Missing), request("none", &place))
            .await
            .unwrap_err();
        assert_eq!(unknown.kind(), Kind::NotFound);
        for criu in [
            Criu::Missing,
            Criu::TooOld("3.15".to_owned()),
            Criu::Unfit("3.17".to_owned()),
        ] {
            let refused = home
                .containers
                .checkpoint_by(Some(&criu), request(id.as_str(), &place))
                .await
                .unwrap_err();
            assert_eq!(refused.kind(), Kind::Unimplemented);
            assert_eq!(
                refused.chain(),
                "method CheckpointContainer not implemented"
            );
        }
        let odd = home
            .containers
            .checkpoint_by(Some(&works), request(id.as_str(), "here.tar"))
            .await
            .unwrap_err();
        assert_eq!(odd.kind(), Kind::InvalidArgument);
        home.containers.stop(id.as_str(), 0).await.unwrap();
        let ended = home.checkpoint(id.as_str()).await.unwrap_err();
        assert_eq!(ended.kind(), Kind::FailedPrecondition, "{ended}");
        assert!(!home.archive.exists());
    });
}

#[test]
fn a_stop_ends_a_checkpoint_that_hangs() {
    in_a_house(async |_house, home| {
        let id = home.run_all().await;
        home.world
            .fail_call("tasks.checkpoint", 0, Fault::Hangs(When::Before));
        let began = Instant::now();

        let (written, stopped) = tokio::join!(home.checkpoint(id.as_str()), async {
            sleep(Duration::from_secs(1)).await;
            home.containers.stop(id.as_str(), 5).await
        });

        assert_eq!(written.unwrap_err().kind(), Kind::Cancelled);
        stopped.unwrap();
        // Without events the end is seen after the grace; the call that hangs would take half an hour.
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}, trace {:#?}",
            began.elapsed(),
            home.world.trace()
        );
        assert!(!home.archive.exists());
    });
}

#[test]
fn a_checkpoint_that_takes_too_long_thaws_the_container() {
    in_a_house(async |_house, home| {
        let id = home.run_all().await;
        home.world
            .fail_call("tasks.checkpoint", 0, Fault::Hangs(When::After));
        let request = CheckpointRequest {
            container: id.to_string(),
            location: home.archive.display().to_string(),
            timeout: Some(Duration::from_secs(3)),
            status: String::new(),
        };

        let works = Criu::Works("4.1".to_owned());
        let late = home.containers.checkpoint_by(Some(&works), request).await;

        assert_eq!(late.unwrap_err().kind(), Kind::DeadlineExceeded);
        assert_eq!(home.world.frozen(), [""; 0]);
        assert!(!home.archive.exists());
    });
}
