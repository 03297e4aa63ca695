//! The requests, the same for both endpoints but for the folder of the logs.

use std::path::Path;

use podwright::wire::cri;

use crate::case::Outcome;
use crate::endpoint::Endpoint;

/// A pod as kubelet would ask for it.
pub(crate) fn pod(endpoint: &Endpoint, name: &str) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: String::from("bench"),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: endpoint.home.join("logs").join(name).display().to_string(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: endpoint.cgroup_parent.clone(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(cri::NamespaceOption::default()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container that prints one line, sleeps, and leaves at once when asked.
pub(crate) fn container() -> cri::ContainerConfig {
    running("trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done")
}

/// A container that ends by itself, soon after its start was answered.
pub(crate) fn short_lived() -> cri::ContainerConfig {
    running("sleep 0.2")
}

fn running(script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: String::from("main"),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: String::from("podwright.local/busybox:1"),
            ..Default::default()
        }),
        command: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        log_path: String::from("main.log"),
        linux: Some(cri::LinuxContainerConfig::default()),
        ..Default::default()
    }
}

impl Endpoint {
    pub(crate) async fn run_pod(&self, config: &cri::PodSandboxConfig) -> Outcome<String> {
        std::fs::create_dir_all(&config.log_directory)?;
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let reply = self.cri.runtime.clone().run_pod_sandbox(request).await?;
        Ok(reply.into_inner().pod_sandbox_id)
    }

    pub(crate) async fn create(
        &self,
        pod: &str,
        config: &cri::PodSandboxConfig,
        container: cri::ContainerConfig,
    ) -> Outcome<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(container),
            sandbox_config: Some(config.clone()),
        };
        let reply = self.cri.runtime.clone().create_container(request).await?;
        Ok(reply.into_inner().container_id)
    }

    pub(crate) async fn start(&self, id: &str) -> Outcome {
        let request = cri::StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.cri.runtime.clone().start_container(request).await?;
        Ok(())
    }

    pub(crate) async fn exec_true(&self, id: &str) -> Outcome {
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: vec![String::from("/bin/true")],
            timeout: 30,
        };
        let reply = self.cri.runtime.clone().exec_sync(request).await?;
        match reply.into_inner().exit_code {
            0 => Ok(()),
            code => Err(format!("/bin/true ended with {code}").into()),
        }
    }

    pub(crate) async fn stop_pod(&self, id: &str) -> Outcome {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.cri.runtime.clone().stop_pod_sandbox(request).await?;
        Ok(())
    }

    pub(crate) async fn remove_pod(&self, id: &str) -> Outcome {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.cri.runtime.clone().remove_pod_sandbox(request).await?;
        Ok(())
    }

    /// A pod with its running container: both ids.
    pub(crate) async fn whole_pod(&self, name: &str) -> Outcome<(String, String)> {
        let config = pod(self, name);
        let pod = self.run_pod(&config).await?;
        let container = self.create(&pod, &config, container()).await?;
        self.start(&container).await?;
        Ok((pod, container))
    }
}

/// Waits for the first line of a container's log, looking every 200 µs.
pub(crate) async fn first_line(config: &cri::PodSandboxConfig) -> Outcome {
    let path = Path::new(&config.log_directory).join("main.log");
    for _ in 0..100_000 {
        if path.metadata().is_ok_and(|found| found.len() > 0) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_micros(200)).await;
    }
    Err(format!("{} stays empty", path.display()).into())
}
