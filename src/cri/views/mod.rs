//! Published views as the CRI's messages, and the CRI's filters as the index takes them. Pure: no call, no wait.

pub(super) mod info;

use crate::index::{
    ContainerFilter, ContainerView, ListedState, SandboxFilter, SandboxView, WholePod,
};
use crate::model::{Error, Result, Timestamp};
use crate::wire::cri;

/// A sandbox as ListPodSandbox shows it.
pub(super) fn sandbox_item(view: &SandboxView) -> cri::PodSandbox {
    cri::PodSandbox {
        id: view.id.to_string(),
        metadata: Some((&view.config.identity).into()),
        state: sandbox_state(view).into(),
        created_at: view.created_at.0,
        labels: view.config.labels.clone(),
        annotations: view.config.annotations.clone(),
        runtime_handler: view.handler.clone(),
    }
}

/// A sandbox as PodSandboxStatus and events show it.
pub(super) fn sandbox_status(view: &SandboxView) -> cri::PodSandboxStatus {
    let mut ips = view.ips.iter().cloned();
    cri::PodSandboxStatus {
        id: view.id.to_string(),
        metadata: Some((&view.config.identity).into()),
        state: sandbox_state(view).into(),
        created_at: view.created_at.0,
        network: Some(cri::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
        }),
        // The kubelet compares the network mode at every sync, and makes the pod anew where it is not the asked one.
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace {
                options: Some((&view.config.security.namespaces).into()),
            }),
        }),
        labels: view.config.labels.clone(),
        annotations: view.config.annotations.clone(),
        runtime_handler: view.handler.clone(),
    }
}

/// The containers of a pod as PodSandboxStatus and events show them.
pub(super) fn container_statuses(pod: &WholePod) -> Vec<cri::ContainerStatus> {
    let listed = pod.containers.iter();
    listed.map(|view| container_status(view)).collect()
}

fn sandbox_state(view: &SandboxView) -> cri::PodSandboxState {
    if view.state.is_ready() {
        cri::PodSandboxState::SandboxReady
    } else {
        cri::PodSandboxState::SandboxNotready
    }
}

/// A container as ListContainers shows it.
pub(super) fn container_item(view: &ContainerView) -> cri::Container {
    cri::Container {
        id: view.id.to_string(),
        pod_sandbox_id: view.sandbox.to_string(),
        metadata: Some((&view.config.identity).into()),
        image: Some(image_spec(view, &view.config.image)),
        image_ref: first_of([&view.image.id, &view.config.image]),
        state: container_state(view).into(),
        created_at: view.created_at.0,
        labels: view.config.labels.clone(),
        annotations: view.config.annotations.clone(),
        image_id: view.image.id.clone(),
    }
}

/// A container as ContainerStatus and events show it.
pub(super) fn container_status(view: &ContainerView) -> cri::ContainerStatus {
    let nanoseconds = |at: Option<Timestamp>| at.map_or(0, |at| at.0);
    let ended = view.ended.as_ref();
    cri::ContainerStatus {
        id: view.id.to_string(),
        metadata: Some((&view.config.identity).into()),
        state: container_state(view).into(),
        created_at: view.created_at.0,
        started_at: nanoseconds(view.started_at),
        finished_at: nanoseconds(ended.map(|ended| ended.at)),
        exit_code: ended.map_or(0, |ended| ended.code),
        image: Some(image_spec(
            view,
            &first_of([&view.image.name, &view.config.image]),
        )),
        image_ref: first_of([&view.image.reference, &view.image.id, &view.config.image]),
        reason: ended.map_or_else(String::new, |ended| {
            ended.reason(view.oom_killed).to_owned()
        }),
        message: ended.map_or_else(String::new, |ended| ended.message.clone()),
        labels: view.config.labels.clone(),
        annotations: view.config.annotations.clone(),
        mounts: mounts(view),
        log_path: view.log_path.clone(),
        resources: Some(cri::ContainerResources {
            linux: Some((&view.resources).into()),
            windows: None,
        }),
        image_id: view.image.id.clone(),
        user: Some(cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: view.user.uid.into(),
                gid: view.user.gid.into(),
                supplemental_groups: view.user.groups.iter().copied().map(Into::into).collect(),
            }),
        }),
        stop_signal: cri::Signal::from(view.stop_signal).into(),
    }
}

/// The mounts as they were asked for. An image is told by its id, whatever name the request had for it: the kubelet keeps
/// an image from its garbage collection only where it finds its very id here.
fn mounts(view: &ContainerView) -> Vec<cri::Mount> {
    let mut images = view.volume_images.iter();
    let one = |mount| {
        let mut shown = cri::Mount::from(mount);
        if let Some(spec) = &mut shown.image
            && let Some(image) = images.next()
        {
            spec.image.clone_from(&image.id);
            spec.image_ref.clone_from(&image.id);
        }
        shown
    };
    view.config.mounts.iter().map(one).collect()
}

fn image_spec(view: &ContainerView, image: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.to_owned(),
        user_specified_image: view.config.user_specified_image.clone(),
        ..Default::default()
    }
}

/// The first that says something: a client discards a whole status over one empty image field.
fn first_of<const N: usize>(texts: [&String; N]) -> String {
    let found = texts.into_iter().find(|text| !text.is_empty());
    found.cloned().unwrap_or_default()
}

fn container_state(view: &ContainerView) -> cri::ContainerState {
    match ListedState::of(view) {
        ListedState::Created => cri::ContainerState::ContainerCreated,
        ListedState::Running => cri::ContainerState::ContainerRunning,
        ListedState::Exited => cri::ContainerState::ContainerExited,
        ListedState::Unknown => cri::ContainerState::ContainerUnknown,
    }
}

fn unknown_state(number: i32) -> Error {
    Error::invalid(format!(
        "filter: state: want a value of the interface's enum, got {number}"
    ))
}

/// What ListPodSandbox asks for; no filter asks for all.
///
/// # Errors
/// `InvalidArgument` for a state that the interface does not know.
pub(super) fn sandbox_filter(message: Option<cri::PodSandboxFilter>) -> Result<SandboxFilter> {
    let message = message.unwrap_or_default();
    let ready = |value: cri::PodSandboxStateValue| -> Result<bool> {
        let state = cri::PodSandboxState::try_from(value.state)
            .map_err(|_unknown| unknown_state(value.state))?;
        Ok(state == cri::PodSandboxState::SandboxReady)
    };
    Ok(SandboxFilter {
        id: message.id,
        ready: message.state.map(ready).transpose()?,
        labels: message.label_selector,
    })
}

/// What ListContainers asks for; no filter asks for all.
///
/// # Errors
/// `InvalidArgument` for a state that the interface does not know.
pub(super) fn container_filter(message: Option<cri::ContainerFilter>) -> Result<ContainerFilter> {
    use cri::ContainerState as Wire;
    let message = message.unwrap_or_default();
    let listed = |value: cri::ContainerStateValue| -> Result<ListedState> {
        let state = Wire::try_from(value.state).map_err(|_unknown| unknown_state(value.state))?;
        Ok(match state {
            Wire::ContainerCreated => ListedState::Created,
            Wire::ContainerRunning => ListedState::Running,
            Wire::ContainerExited => ListedState::Exited,
            Wire::ContainerUnknown => ListedState::Unknown,
        })
    };
    Ok(ContainerFilter {
        id: message.id,
        sandbox: message.pod_sandbox_id,
        state: message.state.map(listed).transpose()?,
        labels: message.label_selector,
    })
}

#[cfg(test)]
mod tests;
