//! Mounts and devices of a container.

use crate::model::container::{Device, Mount, Propagation};
use crate::model::{Error, Result};
use crate::wire::cri;

use super::check::{
    MAX_LIST, MAX_REFERENCE, absolute, absolute_or_empty, count, known, plain, refuse,
    relative_or_empty, shown, size,
};
use super::security::mappings;

const MAX_DEVICES: usize = 1024;
const MAX_CDI_DEVICES: usize = 256;
const OPTIONS: [&str; 3] = ["noexec", "nodev", "nosuid"];
/// The kubelet counts failures by this beginning of the message.
const IMAGE_FAILED: &str = "ImageVolumeMountFailed";

pub(super) fn mounts(messages: Vec<cri::Mount>) -> Result<Vec<Mount>> {
    count("mounts", messages.len(), MAX_LIST)?;
    let one = |(at, message): (usize, cri::Mount)| {
        let of_image = image_of(&message).is_some();
        Mount::try_from(message).map_err(|error| {
            let error = error.context(format!("mounts[{at}]"));
            if of_image {
                error.context(IMAGE_FAILED)
            } else {
                error
            }
        })
    };
    messages.into_iter().enumerate().map(one).collect()
}

/// The image to mount; an empty message asks for none.
fn image_of(message: &cri::Mount) -> Option<&str> {
    let image = message.image.as_ref()?;
    (!image.image.is_empty()).then_some(image.image.as_str())
}

impl TryFrom<cri::Mount> for Mount {
    type Error = Error;

    fn try_from(message: cri::Mount) -> Result<Self> {
        absolute("container_path", &message.container_path)?;
        let propagation = propagation(message.propagation)?;
        match image_of(&message) {
            Some(image) => image_mount(image, &message)?,
            None => absolute("host_path", &message.host_path)?,
        }
        if message.recursive_read_only && !(message.readonly && propagation == Propagation::Private)
        {
            return refuse(
                "recursive_read_only",
                "readonly and private propagation beside it",
            );
        }
        relative_or_empty("image_sub_path", &message.image_sub_path)?;
        count("mount_options", message.mount_options.len(), OPTIONS.len())?;
        if let Some(other) = message
            .mount_options
            .iter()
            .find(|option| !OPTIONS.contains(&option.as_str()))
        {
            return refuse(
                "mount_options",
                format_args!("noexec, nodev or nosuid, got {}", shown(other)),
            );
        }
        Ok(Self {
            image: image_of(&message).map(str::to_owned),
            container_path: message.container_path,
            host_path: message.host_path,
            readonly: message.readonly,
            recursive_read_only: message.recursive_read_only,
            selinux_relabel: message.selinux_relabel,
            propagation,
            uid_mappings: mappings("uidMappings", message.uid_mappings)?,
            gid_mappings: mappings("gidMappings", message.gid_mappings)?,
            image_sub_path: message.image_sub_path,
            options: message.mount_options,
        })
    }
}

fn image_mount(image: &str, message: &cri::Mount) -> Result<()> {
    size("image", image.len(), MAX_REFERENCE)?;
    plain("image", image)?;
    if !message.host_path.is_empty() {
        return refuse("host_path", "nothing for an image mount");
    }
    if !message.readonly {
        return refuse("readonly", "true for an image mount");
    }
    Ok(())
}

fn propagation(number: i32) -> Result<Propagation> {
    use cri::MountPropagation as Wire;
    Ok(match known("propagation", number)? {
        Wire::PropagationPrivate => Propagation::Private,
        Wire::PropagationHostToContainer => Propagation::HostToContainer,
        Wire::PropagationBidirectional => Propagation::Bidirectional,
    })
}

impl From<&Mount> for cri::Mount {
    fn from(mount: &Mount) -> Self {
        use cri::MountPropagation as Wire;
        let propagation = match mount.propagation {
            Propagation::Private => Wire::PropagationPrivate,
            Propagation::HostToContainer => Wire::PropagationHostToContainer,
            Propagation::Bidirectional => Wire::PropagationBidirectional,
        };
        Self {
            container_path: mount.container_path.clone(),
            host_path: mount.host_path.clone(),
            readonly: mount.readonly,
            selinux_relabel: mount.selinux_relabel,
            propagation: propagation.into(),
            uid_mappings: mount.uid_mappings.iter().copied().map(Into::into).collect(),
            gid_mappings: mount.gid_mappings.iter().copied().map(Into::into).collect(),
            recursive_read_only: mount.recursive_read_only,
            image: mount.image.as_ref().map(|image| cri::ImageSpec {
                image: image.clone(),
                ..Default::default()
            }),
            image_sub_path: mount.image_sub_path.clone(),
            mount_options: mount.options.clone(),
        }
    }
}

pub(super) fn devices(messages: Vec<cri::Device>) -> Result<Vec<Device>> {
    count("devices", messages.len(), MAX_DEVICES)?;
    let one = |(at, message): (usize, cri::Device)| {
        Device::try_from(message).map_err(|error| error.context(format!("devices[{at}]")))
    };
    messages.into_iter().enumerate().map(one).collect()
}

impl TryFrom<cri::Device> for Device {
    type Error = Error;

    fn try_from(message: cri::Device) -> Result<Self> {
        absolute("host_path", &message.host_path)?;
        absolute_or_empty("container_path", &message.container_path)?;
        let permissions = &message.permissions;
        if permissions.len() > 3 || permissions.contains(|c| !matches!(c, 'r' | 'w' | 'm')) {
            return refuse(
                "permissions",
                format_args!("letters out of rwm, got {}", shown(permissions)),
            );
        }
        Ok(Self {
            container_path: message.container_path,
            host_path: message.host_path,
            permissions: message.permissions,
        })
    }
}

pub(super) fn cdi_devices(messages: Vec<cri::CdiDevice>) -> Result<Vec<String>> {
    count("CDI_devices", messages.len(), MAX_CDI_DEVICES)?;
    let one = |message: cri::CdiDevice| {
        size("CDI_devices", message.name.len(), MAX_LIST)?;
        plain("CDI_devices", &message.name)?;
        if message.name.is_empty() {
            return refuse("CDI_devices", "names such as vendor.com/class=device");
        }
        Ok(message.name)
    };
    messages.into_iter().map(one).collect()
}
