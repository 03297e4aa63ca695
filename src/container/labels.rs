//! SELinux labels of what a container's processes may use, on nodes that have them.

use std::time::Duration;

use crate::containerd::RootfsMount;
use crate::index::SandboxView;
use crate::model::Result;
use crate::spec::{ImageVolume, ResolvedMount, selinux};
use crate::sys;

use super::Containers;

/// How long labelling one tree may take; kubelet's own deadline of the call is near.
const RELABEL_LIMIT: Duration = Duration::from_secs(110);

impl Containers {
    /// Labels the volumes of the image, and of the request's mounts those that ask for it.
    pub(super) async fn relabel(
        &self,
        sandbox: &SandboxView,
        mounts: &[ResolvedMount],
        volumes: &[ImageVolume],
        label: &str,
    ) -> Result<()> {
        let asked = mounts
            .iter()
            .filter(|mount| mount.asked.selinux_relabel && mount.asked.image.is_none())
            .map(|mount| mount.source.clone());
        let own = volumes.iter().map(|volume| volume.source.clone());
        for path in asked.chain(own) {
            let (what, label) = (format!("relabel {}", path.display()), label.to_owned());
            let work = move || sys::selinux::relabel_blocking(&path, &label);
            self.deps
                .paths
                .run(sandbox.id.as_str(), what, RELABEL_LIMIT, work)
                .await?;
        }
        Ok(())
    }
}

/// Has every file of the root file system show the container's label, whatever label the layers' files have.
pub(super) fn of_rootfs(mounts: &mut [RootfsMount], spec: &str) {
    let Some(label) = selinux::mount_label(spec) else {
        return;
    };
    // A bind mount has its source's superblock, and with it the labels there.
    for mount in mounts.iter_mut().filter(|mount| mount.kind != "bind") {
        mount.options.push(sys::selinux::context_option(&label));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str) -> RootfsMount {
        RootfsMount {
            kind: kind.to_owned(),
            source: kind.to_owned(),
            target: String::new(),
            options: vec!["lowerdir=/a".to_owned()],
        }
    }

    #[test]
    fn a_labelled_containers_root_shows_its_label() {
        let mut mounts = [mount("overlay"), mount("bind")];
        let spec = r#"{"ociVersion":"1.1.0","linux":{"mountLabel":"u:object_r:container_file_t:s0:c1,c2"}}"#;

        of_rootfs(&mut mounts, spec);

        let context = "context=\"u:object_r:container_file_t:s0:c1,c2\"";
        assert_eq!(mounts[0].options, ["lowerdir=/a", context]);
        assert_eq!(mounts[1].options, ["lowerdir=/a"]);
    }

    #[test]
    fn without_a_label_nothing_is_added() {
        let mut mounts = [mount("overlay")];
        of_rootfs(&mut mounts, r#"{"ociVersion":"1.1.0","linux":{}}"#);
        assert_eq!(mounts, [mount("overlay")]);
    }
}
