//! Containers and pods that go on from checkpoints.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use crate::container::{Criu, PodCheckpointRequest, RestorePodRequest, RestoredPod};
use crate::containerd::{CheckpointDirs, Payload};
use crate::model::state::ContainerState;
use crate::model::{ContainerId, Kind, Result};
use crate::sandbox::RunRequest;

use super::behaviour::in_a_house;
use super::house::{Home, IMAGE};

/// The image that every container of these tests runs.
const BASE: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// An archive as CRI-O and containerd make them, with changes of both kinds.
pub(super) fn write_archive(path: &Path) {
    let mut changes = tar::Builder::new(Vec::new());
    add(&mut changes, "etc/new", b"new");
    let changes = changes.into_inner().unwrap();
    let config = serde_json::json!({ "rootfsImageRef": BASE, "name": "c" }).to_string();
    let mut archive = tar::Builder::new(File::create(path).unwrap());
    for (name, data) in [
        ("checkpoint/inventory.img", b"inventory".as_slice()),
        ("checkpoint/pages-1.img", b"pages"),
        ("config.dump", config.as_bytes()),
        ("spec.dump", b"{}"),
        ("rootfs-diff.tar", &changes),
        ("deleted.files", b"[\"/etc/old\"]"),
        ("container.log", b"what the other container said"),
    ] {
        add(&mut archive, name, data);
    }
    archive.finish().unwrap();
}

fn add(tar: &mut tar::Builder<impl std::io::Write>, name: &str, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, name, data).unwrap();
}

impl Home {
    /// Creates a container that goes on from what is at `archive`.
    pub(super) async fn restore(&self) -> Result<ContainerId> {
        let image = self.archive.display().to_string();
        self.containers.create(self.create_request_of(&image)).await
    }

    /// Writes the whole pod down, as on a node where CRIU works.
    pub(super) async fn checkpoint_pod(&self) -> Result<()> {
        let now = self.deps.index.snapshot();
        let one = |id: ContainerId| (id, "{}".to_owned());
        let request = PodCheckpointRequest {
            sandbox: self.pod_id().map_or_else(String::new, |id| id.to_string()),
            output: self.shelf.display().to_string(),
            containers: now.containers().map(|view| one(view.id.clone())).collect(),
            timeout: Duration::from_secs(60),
        };
        let criu = Criu::Works("4.1".to_owned());
        self.containers
            .checkpoint_pod_by(Some(&criu), request)
            .await
    }

    /// Makes a pod of what is on the shelf.
    pub(super) async fn restore_pod(&self) -> Result<RestoredPod> {
        self.restore_pod_with(&Criu::Works("4.1".to_owned())).await
    }

    /// As [`Self::restore_pod`], on a node with this CRIU.
    pub(super) async fn restore_pod_with(&self, criu: &Criu) -> Result<RestoredPod> {
        let (config, record) = self.pod_config();
        let request = RestorePodRequest {
            path: self.shelf.display().to_string(),
            run: RunRequest {
                config,
                record,
                handler: String::new(),
                is_part: false,
            },
            containers: vec![self.container_config(IMAGE)],
        };
        self.containers.restore_pod_by(Some(criu), request).await
    }
}

/// An empty directory, whatever was there.
pub(super) fn make_shelf(shelf: &Path) {
    drop(fs::remove_dir_all(shelf));
    fs::create_dir(shelf).unwrap();
}

/// The checkpoint of a pod with the tests' one container.
pub(super) fn fill_shelf(shelf: &Path) {
    make_shelf(shelf);
    write_archive(&shelf.join("app.tar"));
    fs::write(shelf.join("pod.json"), r#"{"version":1}"#).unwrap();
}

#[test]
fn a_container_goes_on_from_an_archive_with_what_it_had_written() {
    in_a_house(async |house, home| {
        write_archive(&home.archive);
        home.run().await.unwrap();

        let id = home.restore().await.unwrap();

        let view = home.deps.index.snapshot().container(&id).cloned().unwrap();
        assert_eq!(view.image.id, BASE);
        assert_eq!(view.restored_from.as_deref(), home.archive.to_str());
        assert!(!view.spec.contains("what the other"), "{}", view.spec);
        let dir = home.deps.root_dir("containers", id.as_str());
        let pages = fs::read(dir.join("checkpoint/images/pages-1.img")).unwrap();
        assert_eq!(pages, b"pages");
        let trace = home.world.trace();
        let applied = trace.iter().filter(|call| call.starts_with("diff.apply"));
        assert_eq!(
            applied.count(),
            2,
            "changed files and deleted ones: {trace:#?}"
        );

        home.containers.start(id.as_str()).await.unwrap();

        let told = home.world.task_options(id.as_str());
        let dirs = CheckpointDirs {
            images: dir.join("checkpoint/images"),
            work: dir.join("checkpoint/work"),
        };
        let wanted = Payload::new(Payload::RUNC_OPTIONS, "").with_checkpoint(&dirs);
        assert_eq!(told, Some(wanted));
        let view = home.deps.index.snapshot().container(&id).cloned().unwrap();
        assert!(view.pid.is_some_and(|pid| pid.0 != 0), "{:?}", view.pid);
        assert!(!dir.join("checkpoint").exists());
        let left = home.clear(house).await;
        assert_eq!(left, [""; 0]);
    });
}

#[test]
fn a_pod_is_written_down_together_and_becomes_a_pod_again() {
    in_a_house(async |house, home| {
        make_shelf(&home.shelf);
        home.run_all().await;

        home.checkpoint_pod().await.unwrap();

        assert_eq!(home.world.frozen(), [""; 0]);
        let again = home.checkpoint_pod().await.unwrap_err();
        assert_eq!(again.kind(), Kind::AlreadyExists, "{again}");
        let there = home.restore_pod().await.unwrap_err();
        assert_eq!(there.kind(), Kind::AlreadyExists, "{there}");
        let id = home.pod_id().unwrap();
        home.sandboxes.remove(id.as_str()).await.unwrap();

        let restored = home.restore_pod().await.unwrap();

        let now = home.deps.index.snapshot();
        let (name, container) = restored.containers.first().unwrap();
        let view = now.container(container).unwrap();
        assert_eq!(
            (name.as_str(), view.state),
            ("app", ContainerState::Created)
        );
        assert_ne!(restored.sandbox, id);
        let once_more = home.restore_pod().await.unwrap_err();
        assert_eq!(once_more.kind(), Kind::AlreadyExists, "{once_more}");
        assert!(
            home.pod_id().is_some(),
            "a refused restore took the pod away"
        );
        let left = home.clear(house).await;
        assert_eq!(left, [""; 0]);
        let restored = home.restore_pod().await.unwrap();
        assert!(
            home.deps
                .index
                .snapshot()
                .sandbox(&restored.sandbox)
                .is_some()
        );
        assert_eq!(home.clear(house).await, [""; 0]);
    });
}

#[test]
fn a_pod_comes_back_whole_or_not_at_all() {
    in_a_house(async |house, home| {
        fill_shelf(&home.shelf);
        fs::write(home.shelf.join("app.tar"), "no archive").unwrap();

        let broken = home.restore_pod().await.unwrap_err();

        assert_eq!(broken.kind(), Kind::InvalidArgument, "{broken}");
        assert_eq!(home.pod_id(), None);
        fs::rename(home.shelf.join("app.tar"), home.shelf.join("other.tar")).unwrap();
        let others = home.restore_pod().await.unwrap_err();
        assert_eq!(others.kind(), Kind::InvalidArgument, "{others}");
        fs::remove_file(home.shelf.join("pod.json")).unwrap();
        assert!(home.restore_pod().await.is_err());
        assert_eq!(home.clear(house).await, [""; 0]);
    });
}

#[test]
fn a_node_whose_criu_does_not_work_restores_no_pod() {
    in_a_house(async |_house, home| {
        fill_shelf(&home.shelf);
        let unfit = Criu::Missing;

        let refused = home.restore_pod_with(&unfit).await.unwrap_err();

        assert_eq!(refused.kind(), Kind::Unimplemented);
        assert_eq!(refused.chain(), "method RestorePod not implemented");
    });
}
