//! What the node says of itself, as messages.

use std::sync::atomic::Ordering;

use crate::model::host_facts::CgroupDriver;
use crate::wire::cri;

use super::Service;

impl Service {
    /// The answer to Status.
    pub(super) fn node_status(&self, verbose: bool) -> cri::StatusResponse {
        let recovered = self.recovered.load(Ordering::Acquire);
        let node = self.identity.status(recovered, verbose);
        let conditions = node
            .conditions
            .into_iter()
            .map(|condition| cri::RuntimeCondition {
                r#type: condition.kind.to_owned(),
                status: condition.holds,
                reason: condition.reason.to_owned(),
                message: condition.message,
            });
        let handlers = node
            .handlers
            .into_iter()
            .map(|handler| cri::RuntimeHandler {
                name: handler.name,
                features: Some(cri::RuntimeHandlerFeatures {
                    recursive_read_only_mounts: handler.recursive_read_only_mounts,
                    user_namespaces: handler.user_namespaces,
                }),
            });
        cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: conditions.collect(),
            }),
            info: node.info,
            runtime_handlers: handlers.collect(),
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: node.supplemental_groups_policy,
                user_namespaces_host_network: node.user_namespaces_host_network,
                mount_options: node.mount_options,
            }),
        }
    }

    /// The answer to RuntimeConfig.
    pub(super) fn node_config(&self) -> cri::RuntimeConfigResponse {
        let driver = match self.identity.cgroup_driver() {
            CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
            CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
        };
        let linux = cri::LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        };
        cri::RuntimeConfigResponse { linux: Some(linux) }
    }
}
