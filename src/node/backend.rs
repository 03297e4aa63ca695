//! What we ask of the containerd behind us before we use it.

use crate::containerd::PluginInfo;
use crate::model::{Error, Result};

/// The lines of containerd's configuration that turn its CRI plugin off, for every supported version.
pub const DISABLE_CRI: &str = "disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.runtime\", \"io.containerd.cri.v1.images\"]";

/// Whether containerd's own CRI server works: it is loaded, and loaded without an error.
pub fn cri_plugin_is_active(plugins: &[PluginInfo]) -> bool {
    plugins.iter().any(|plugin| {
        plugin.kind == "io.containerd.grpc.v1" && plugin.id == "cri" && plugin.error.is_none()
    })
}

/// Refuses a containerd whose CRI plugin is active: two CRI servers on one namespace damage each other.
///
/// # Errors
/// `FailedPrecondition` with the lines that turn the plugin off.
pub fn refuse_cri_plugin(plugins: &[PluginInfo]) -> Result<()> {
    if !cri_plugin_is_active(plugins) {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "containerd's own CRI plugin is active and would work on the same pods; put this line at the top of containerd's \
         configuration (/etc/containerd/config.toml) and restart containerd: {DISABLE_CRI} \
         (or set containerd.allow_cri_plugin = true, for experiments only)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    fn plugin(kind: &str, id: &str, error: Option<&str>) -> PluginInfo {
        PluginInfo {
            kind: kind.into(),
            id: id.into(),
            error: error.map(str::to_owned),
            ..PluginInfo::default()
        }
    }

    #[test]
    fn only_a_working_cri_server_is_refused() {
        let images = plugin("io.containerd.grpc.v1", "images", None);
        let broken = plugin("io.containerd.grpc.v1", "cri", Some("skip plugin"));
        let active = plugin("io.containerd.grpc.v1", "cri", None);

        refuse_cri_plugin(&[images.clone(), broken]).unwrap();
        let refused = refuse_cri_plugin(&[images, active]).unwrap_err();

        assert_eq!(refused.kind(), Kind::FailedPrecondition);
        assert!(refused.chain().contains(DISABLE_CRI));
    }
}
