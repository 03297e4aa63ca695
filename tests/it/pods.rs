//! What cases do with pods and containers: the requests kubelet would send, and the questions it would ask.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use podwright::wire::cri;
use tonic::Code;

use crate::case::Outcome;
use crate::images::BUSYBOX;
use crate::node::Node;

/// A pod's configuration with the node's cgroup parent and a log folder of its own.
pub(crate) fn pod(node: &Node, name: &str) -> cri::PodSandboxConfig {
    let logs = node.home.join("logs").join(name);
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: String::from("it"),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: logs.display().to_string(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: node.cgroup_parent.clone(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(cri::NamespaceOption::default()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The namespace options of a pod's configuration, to be changed.
pub(crate) fn namespaces(config: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    config
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
        .namespace_options
        .get_or_insert_default()
}

/// The first of the node's ids that the users of a mapped pod have.
pub(crate) const FIRST_MAPPED: u32 = 200_000;

/// A user namespace of the pod's own, and what a mount needs to be seen with its ids.
pub(crate) fn mapping() -> Vec<cri::IdMapping> {
    vec![cri::IdMapping {
        host_id: FIRST_MAPPED,
        container_id: 0,
        length: 65_536,
    }]
}

fn mapped_users() -> cri::UserNamespace {
    cri::UserNamespace {
        mode: cri::NamespaceMode::Pod.into(),
        uids: mapping(),
        gids: mapping(),
    }
}

/// As [`pod`], with a user namespace of its own.
pub(crate) fn mapped_pod(node: &Node, name: &str) -> cri::PodSandboxConfig {
    let mut config = pod(node, name);
    namespaces(&mut config).userns_options = Some(mapped_users());
    config
}

/// `config` as a container of such a pod.
pub(crate) fn mapped(mut config: cri::ContainerConfig) -> cri::ContainerConfig {
    let options = &mut security(&mut config).namespace_options;
    options.get_or_insert_default().userns_options = Some(mapped_users());
    config
}

/// A busybox container that runs `script` in a shell.
pub(crate) fn shell(name: &str, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: BUSYBOX.to_owned(),
            ..Default::default()
        }),
        command: vec![
            String::from("/bin/sh"),
            String::from("-c"),
            script.to_owned(),
        ],
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig::default()),
        ..Default::default()
    }
}

/// A container that waits for its end, and ends at once when asked.
pub(crate) fn sleeper(name: &str) -> cri::ContainerConfig {
    shell(name, "trap 'exit 0' TERM; while :; do sleep 0.1; done")
}

/// A container that wants more memory than it may have.
pub(crate) fn hungry() -> cri::ContainerConfig {
    let mut hungry = shell("hungry", "x=; while :; do x=$x$x$x$x$x$x$x$x.; done");
    hungry.linux.get_or_insert_default().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        ..Default::default()
    });
    hungry
}

/// The security context of a container's configuration, to be changed.
pub(crate) fn security(
    config: &mut cri::ContainerConfig,
) -> &mut cri::LinuxContainerSecurityContext {
    config
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
}

/// Checks that `result` failed with `code`, and returns the message.
pub(crate) fn fails<T>(
    what: &str,
    result: Result<T, tonic::Status>,
    code: Code,
) -> Outcome<String> {
    match result {
        Err(status) if status.code() == code => Ok(status.message().to_owned()),
        Err(status) => Err(format!("{what}: wanted {code:?}, got {status}").into()),
        Ok(_) => Err(format!("{what}: wanted {code:?}, but it succeeded").into()),
    }
}

/// The plain calls, unwrapped from their messages. Each keeps the gRPC status as its error.
impl Node {
    pub(crate) async fn run_pod(
        &self,
        config: &cri::PodSandboxConfig,
    ) -> Result<String, tonic::Status> {
        self.run_pod_with("", config).await
    }

    pub(crate) async fn run_pod_with(
        &self,
        handler: &str,
        config: &cri::PodSandboxConfig,
    ) -> Result<String, tonic::Status> {
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let reply = self.cri.runtime.clone().run_pod_sandbox(request).await?;
        Ok(reply.into_inner().pod_sandbox_id)
    }

    pub(crate) async fn stop_pod(&self, id: &str) -> Result<(), tonic::Status> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.cri.runtime.clone().stop_pod_sandbox(request).await?;
        Ok(())
    }

    pub(crate) async fn remove_pod(&self, id: &str) -> Result<(), tonic::Status> {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.cri.runtime.clone().remove_pod_sandbox(request).await?;
        Ok(())
    }

    pub(crate) async fn pod_status(
        &self,
        id: &str,
    ) -> Result<cri::PodSandboxStatus, tonic::Status> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let reply = self.cri.runtime.clone().pod_sandbox_status(request).await?;
        reply
            .into_inner()
            .status
            .ok_or_else(|| tonic::Status::internal("a status without a status"))
    }

    pub(crate) async fn pods(
        &self,
        filter: cri::PodSandboxFilter,
    ) -> Result<Vec<cri::PodSandbox>, tonic::Status> {
        let request = cri::ListPodSandboxRequest {
            filter: Some(filter),
        };
        let reply = self.cri.runtime.clone().list_pod_sandbox(request).await?;
        Ok(reply.into_inner().items)
    }

    pub(crate) async fn create(
        &self,
        pod: &str,
        pod_config: &cri::PodSandboxConfig,
        config: &cri::ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        let reply = self.cri.runtime.clone().create_container(request).await?;
        Ok(reply.into_inner().container_id)
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), tonic::Status> {
        let request = cri::StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.cri.runtime.clone().start_container(request).await?;
        Ok(())
    }

    /// Creates and starts.
    pub(crate) async fn run(
        &self,
        pod: &str,
        pod_config: &cri::PodSandboxConfig,
        config: &cri::ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let id = self.create(pod, pod_config, config).await?;
        self.start(&id).await?;
        Ok(id)
    }

    pub(crate) async fn stop(&self, id: &str, timeout: i64) -> Result<(), tonic::Status> {
        let request = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout,
        };
        self.cri.runtime.clone().stop_container(request).await?;
        Ok(())
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<(), tonic::Status> {
        let request = cri::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        self.cri.runtime.clone().remove_container(request).await?;
        Ok(())
    }

    pub(crate) async fn status(&self, id: &str) -> Result<cri::ContainerStatus, tonic::Status> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let reply = self.cri.runtime.clone().container_status(request).await?;
        reply
            .into_inner()
            .status
            .ok_or_else(|| tonic::Status::internal("a status without a status"))
    }

    pub(crate) async fn containers(
        &self,
        filter: cri::ContainerFilter,
    ) -> Result<Vec<cri::Container>, tonic::Status> {
        let request = cri::ListContainersRequest {
            filter: Some(filter),
        };
        let reply = self.cri.runtime.clone().list_containers(request).await?;
        Ok(reply.into_inner().containers)
    }

    pub(crate) async fn exec(
        &self,
        id: &str,
        command: &[&str],
        timeout: i64,
    ) -> Result<cri::ExecSyncResponse, tonic::Status> {
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(ToString::to_string).collect(),
            timeout,
        };
        let reply = self.cri.runtime.clone().exec_sync(request).await?;
        Ok(reply.into_inner())
    }

    /// Runs a shell line in the container and returns what it printed, without the last newline.
    pub(crate) async fn ask(&self, id: &str, script: &str) -> Outcome<String> {
        let reply = self.exec(id, &["/bin/sh", "-c", script], 30).await?;
        if reply.exit_code == 0 {
            return Ok(String::from_utf8_lossy(&reply.stdout).trim_end().to_owned());
        }
        let complaint = String::from_utf8_lossy(&reply.stderr).into_owned();
        Err(format!("{script}: exit code {}: {complaint}", reply.exit_code).into())
    }

    /// Waits until the container has exited, and returns its last status.
    pub(crate) async fn until_exited(&self, id: &str) -> Outcome<cri::ContainerStatus> {
        for _ in 0..1_500 {
            let status = self.status(id).await?;
            if status.state() == cri::ContainerState::ContainerExited {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("container {id} did not exit within 30 s").into())
    }

    /// The log file of a container of `pod_config`.
    pub(crate) fn log_of(
        pod_config: &cri::PodSandboxConfig,
        config: &cri::ContainerConfig,
    ) -> PathBuf {
        PathBuf::from(&pod_config.log_directory).join(&config.log_path)
    }

    /// The lines of a CRI log: stream, tag, content.
    pub(crate) fn lines(
        pod_config: &cri::PodSandboxConfig,
        config: &cri::ContainerConfig,
    ) -> Outcome<Vec<(String, String, String)>> {
        let path = Self::log_of(pod_config, config);
        let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ');
                let mut part = || parts.next().unwrap_or_default().to_owned();
                let (time, stream, tag, content) = (part(), part(), part(), part());
                time.parse::<jiff::Timestamp>()
                    .map_err(|e| format!("log line {line:?}: {e}"))?;
                Ok((stream, tag, content))
            })
            .collect()
    }
}
