//! Targets for a fuzzer: what plugins send.

use oci_spec::runtime::Spec;
use prost::Message as _;

use super::adjust;
use super::merge::Merge;
use super::messages::{api, envelope};
use super::mux::{self, Demux};
use super::ttrpc::Frames;
use crate::model::HostFacts;
use crate::model::host_facts::{Arch, CapabilityMask, CgroupVersion, KernelVersion};

/// What arrives at a socket, in whatever pieces.
pub(crate) fn frames(data: &[u8]) {
    let (mut demux, mut frames) = (Demux::default(), Frames::default());
    let mut whole = 0;
    for piece in data.chunks(7) {
        let fed = demux.feed(piece, |id, part| {
            if id == mux::PLUGIN {
                frames.feed(part, |frame| {
                    let length = frame.data.as_ref().map_or(0, Vec::len);
                    whole += length;
                    if let Some(data) = &frame.data {
                        drop(envelope::Request::decode(&**data));
                        drop(envelope::Response::decode(&**data));
                    }
                });
            }
            Ok(())
        });
        if fed.is_err() {
            break;
        }
    }
    assert!(whole <= data.len());
}

/// A plugin's wishes for a container that is being made: what is put into a spec once stays there when it is put in again.
pub(crate) fn answer(data: &[u8]) {
    let Ok(answer) = api::CreateContainerResponse::decode(data) else {
        return;
    };
    let mut merge = Merge::new("c");
    if merge.created("10-a", answer).is_err() {
        return;
    }
    drop(merge.wishes());
    let spec = Spec::default();
    if let Ok(made) = adjust::adjusted(&spec, &merge.adjust, &host()) {
        assert!(serde_json::to_string(&made).is_ok());
        assert!(adjust::adjusted(&made, &merge.adjust, &host()).is_ok());
    }
}

fn host() -> HostFacts {
    HostFacts {
        hostname: "node".to_owned(),
        cgroup: CgroupVersion::V2,
        cgroup_superblock_options: Vec::new(),
        kernel: KernelVersion::new(6, 1),
        arch: Arch::Amd64,
        has_seccomp: true,
        has_apparmor: false,
        selinux: None,
        has_swap_limit: true,
        has_hugetlb: true,
        in_user_namespace: false,
        capabilities: CapabilityMask(0),
        oom_score_adj: 0,
    }
}
