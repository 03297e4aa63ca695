//! Rules that hold for the real containerd and for the fake world alike: each runs against both, so that what the
//! fake lets pass is what containerd would.

mod content;
mod records;
pub(super) mod running;

use super::fake::World;
use super::grpc::live::Node;
use super::{Containerd, RootfsMount};

/// What a rule plays on.
pub(super) struct Stage {
    containerd: Containerd,
    /// Mounts of a root file system that has busybox in it.
    rootfs: Vec<RootfsMount>,
    /// Parent of all cgroups.
    cgroup: String,
}

macro_rules! both {
    ($($file:ident::$rule:ident,)*) => {
        mod fake {
            use super::*;
            $(
                #[tokio::test]
                async fn $rule() {
                    let stage = Stage {
                        containerd: World::new().containerd(),
                        rootfs: Vec::new(),
                        cgroup: String::new(),
                    };
                    $file::$rule(&stage).await;
                }
            )*
        }

        mod real {
            use super::*;
            $(
                #[tokio::test]
                async fn $rule() {
                    let Some(node) = Node::start() else { return };
                    let stage = Stage {
                        containerd: node.client().await.containerd,
                        rootfs: node.busybox(),
                        cgroup: node.cgroup().to_owned(),
                    };
                    $file::$rule(&stage).await;
                }
            )*
        }
    };
}

both! {
    records::container_records_are_kept_changed_by_field_and_deleted,
    records::an_incomplete_container_record_is_refused,
    records::an_image_record_is_repointed_and_keeps_the_labels_of_others,
    records::leases_are_made_twice_found_by_label_and_deleted_twice,
    records::snapshots_are_prepared_committed_and_removed,
    content::a_blob_is_resumed_committed_read_and_leased,
    content::a_wrong_blob_is_refused_and_leaves_no_ingest,
    content::an_empty_blob_is_committed,
    content::a_plain_layer_is_unpacked,
    content::a_compressed_layer_is_unpacked,
    content::an_unknown_lease_protects_nothing,
    content::what_no_lease_protects_is_collected,
    running::a_task_needs_a_container_and_two_streams,
    running::a_task_is_created_started_killed_and_deleted,
    running::a_task_that_never_started_is_deleted,
    running::an_exec_ends_by_itself_and_is_deleted,
    running::execs_end_with_their_task,
}
