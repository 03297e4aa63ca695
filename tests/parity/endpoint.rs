//! Both servers: podwright above a containerd without a CRI plugin, and a containerd with it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use containerd_client::services::v1::containers_client::ContainersClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podwright::wire::cri;
use tonic::transport::Channel;

use crate::case::Outcome;
use crate::client::Cri;
use crate::{image, node, pause_image};

const PATIENCE: Duration = Duration::from_secs(30);
const OUR_CONTAINERD: &str = "/run/ours/containerd.sock";
const OUR_SOCKET: &str = "/run/podwright/podwright.sock";
const PEER_SOCKET: &str = "/run/peer/containerd.sock";
/// What a handler lets through from a pod's and a container's annotations.
const PASSED: &str = "io.example.pass/*";
/// The OCI runtime by its path, as an option of the shim.
const RUNC: &str = "/run/parity/runc";

/// A running server, the daemons that it consists of, and the records of the containerd below it.
pub(crate) struct Endpoint {
    pub(crate) name: &'static str,
    pub(crate) cri: Cri,
    pub(crate) records: ContainersClient<Channel>,
    /// What `Version` says.
    pub(crate) version: String,
    /// Logs and durable files.
    pub(crate) home: PathBuf,
    pub(crate) cgroup_parent: String,
    daemons: Vec<Child>,
}

/// podwright above a containerd without a CRI plugin.
pub(crate) async fn podwright(home: &Path) -> Outcome<Endpoint> {
    let folder = home.join("ours");
    fs::create_dir_all(&folder)?;
    let off = "disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\"]\n";
    let containerd = containerd(&folder, OUR_CONTAINERD, off)?;
    let config = folder.join("podwright.toml");
    fs::write(
        &config,
        format!(
            "[server]\nsocket = \"{OUR_SOCKET}\"\nroot_dir = \"{}\"\nstate_dir = \"/run/podwright\"\n\
             [containerd]\naddress = \"{OUR_CONTAINERD}\"\n\
             [cni]\nbin_dirs = [\"{}\"]\n\
             [runtimes.handlers.runc]\n\
             [runtimes.handlers.options]\nbinary = \"{RUNC}\"\nprivileged_without_host_devices = true\n\
             [runtimes.handlers.annotated]\npod_annotations = [\"{PASSED}\"]\ncontainer_annotations = [\"{PASSED}\"]\n",
            folder.join("podwright").display(),
            node::cni_plugins()?
        ),
    )?;
    until_listening(OUR_CONTAINERD).await?;
    let server = node::daemon(
        Command::new(env!("CARGO_BIN_EXE_podwright"))
            .args(["serve", "--config"])
            .arg(&config),
        &folder.join("podwright.log"),
    )?;
    let daemons = vec![server, containerd];
    let endpoint = Endpoint::ready(
        "podwright",
        home,
        folder,
        OUR_SOCKET,
        OUR_CONTAINERD,
        daemons,
    );
    let endpoint = endpoint.await?;
    let busybox = busybox()?;
    let rich = endpoint.home.join("rich.tar");
    image::write_rich(&busybox, &rich)?;
    for archive in [busybox, rich] {
        run(Command::new(env!("CARGO_BIN_EXE_podwright"))
            .args(["image", "import"])
            .arg(archive))?;
    }
    Ok(endpoint)
}

/// containerd with its own CRI plugin, as its defaults have it; but where a machine does not let us lower an OOM score,
/// podwright finds that out, and the plugin has to be told.
pub(crate) async fn plugin(home: &Path) -> Outcome<Endpoint> {
    let folder = home.join("peer");
    fs::create_dir_all(&folder)?;
    let runtime = "io.containerd.cri.v1.runtime";
    let settings = format!(
        "[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = \"{}\"\n\
         [plugins.'{runtime}']\nrestrict_oom_score_adj = true\n\
         [plugins.'{runtime}'.cni]\nbin_dirs = [\"{}\"]\nconf_dir = \"/etc/cni/peer.d\"\n\
         [plugins.'{runtime}'.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [plugins.'{runtime}'.containerd.runtimes.annotated]\nruntime_type = \"io.containerd.runc.v2\"\n\
         pod_annotations = [\"{PASSED}\"]\ncontainer_annotations = [\"{PASSED}\"]\n\
         [plugins.'{runtime}'.containerd.runtimes.options]\nruntime_type = \"io.containerd.runc.v2\"\n\
         privileged_without_host_devices = true\n\
         [plugins.'{runtime}'.containerd.runtimes.options.options]\nBinaryName = \"{RUNC}\"\n",
        pause_image::NAME,
        node::cni_plugins()?
    );
    let containerd = containerd(&folder, PEER_SOCKET, &settings)?;
    until_listening(PEER_SOCKET).await?;
    let pause = folder.join("pause.tar");
    pause_image::write(&pause)?;
    let busybox = busybox()?;
    let rich = folder.join("rich.tar");
    image::write_rich(&busybox, &rich)?;
    for archive in [busybox, rich, pause] {
        run(Command::new(node::containerd_folder()?.join("ctr"))
            .args(["--address", PEER_SOCKET, "--namespace", "k8s.io"])
            .args(["images", "import"])
            .arg(archive))?;
    }
    let daemons = vec![containerd];
    Endpoint::ready(
        "containerd",
        home,
        folder,
        PEER_SOCKET,
        PEER_SOCKET,
        daemons,
    )
    .await
}

fn containerd(folder: &Path, socket: &str, settings: &str) -> Outcome<Child> {
    let binaries = node::containerd_folder()?;
    let config = folder.join("containerd.toml");
    let state = Path::new(socket).parent().unwrap_or(Path::new("/run"));
    fs::create_dir_all(state)?;
    // Settings of no table come first.
    fs::write(
        &config,
        format!(
            "version = 3\nroot = \"{}\"\nstate = \"{}\"\n{settings}\n\
             [debug]\nlevel = \"warn\"\n[grpc]\naddress = \"{socket}\"\n",
            folder.join("containerd").display(),
            state.display()
        ),
    )?;
    let path = std::env::var("PATH").unwrap_or_default();
    node::daemon(
        Command::new(binaries.join("containerd"))
            .arg("--config")
            .arg(&config)
            .env("PATH", format!("{}:{path}", binaries.display())),
        &folder.join("containerd.log"),
    )
}

/// Builds the stand-in image and returns its archive.
fn busybox() -> Outcome<PathBuf> {
    let images = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/images/build");
    run(Command::new(script).arg(&images))?;
    Ok(images.join("busybox.tar"))
}

/// Runs a program to its end; its failure is an error with its own words.
fn run(command: &mut Command) -> Outcome {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{command:?}: {complaint}").into())
}

async fn until_listening(socket: &str) -> Outcome {
    let began = Instant::now();
    while UnixStream::connect(socket).is_err() {
        if began.elapsed() > PATIENCE {
            return Err(format!("nothing answers on {socket}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

impl Endpoint {
    async fn ready(
        name: &'static str,
        home: &Path,
        folder: PathBuf,
        socket: &str,
        containerd: &str,
        daemons: Vec<Child>,
    ) -> Outcome<Self> {
        until_listening(socket).await?;
        let cri = Cri::at(socket.as_ref())?;
        let began = Instant::now();
        loop {
            let request = cri::StatusRequest { verbose: false };
            let reply = cri.runtime.clone().status(request).await;
            let is_ready = reply.as_ref().is_ok_and(|reply| {
                let status = reply.get_ref().status.as_ref();
                status.is_some_and(|s| s.conditions.iter().take(2).all(|c| c.status))
            });
            if is_ready {
                break;
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{name} is not ready: {reply:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let request = cri::VersionRequest::default();
        let version = cri.runtime.clone().version(request).await?.into_inner();
        Ok(Self {
            name,
            cri,
            records: ContainersClient::new(containerd_client::connect(containerd).await?),
            version: format!("{} {}", version.runtime_name, version.runtime_version),
            cgroup_parent: node::cgroup_parent(home),
            home: folder,
            daemons,
        })
    }

    /// Ends the daemons, the server first.
    pub(crate) async fn stop(self) -> Outcome {
        for mut daemon in self.daemons {
            kill(Pid::from_raw(i32::try_from(daemon.id())?), Signal::SIGTERM)?;
            tokio::task::spawn_blocking(move || daemon.wait()).await??;
        }
        Ok(())
    }
}
