//! Both servers: podwright above a containerd without a CRI plugin, and a containerd with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use containerd_client::services::v1::containers_client::ContainersClient;
use tonic::transport::Channel;

use crate::case::Outcome;
use crate::client::Cri;
use crate::daemon::{busybox, import, run, until_listening, until_ready};
use crate::pinned::{containerd_folder, runc_folder};
use crate::{daemon, image, machine, pause_image};

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
             [nri]\nsocket = \"/run/podwright/nri.sock\"\n\
             [cni]\nbin_dirs = [\"{}\"]\n\
             [runtimes.handlers.runc]\n\
             [runtimes.handlers.options]\nbinary = \"{RUNC}\"\nprivileged_without_host_devices = true\n\
             [runtimes.handlers.annotated]\npod_annotations = [\"{PASSED}\"]\ncontainer_annotations = [\"{PASSED}\"]\n",
            folder.join("podwright").display(),
            machine::cni_plugins()?
        ),
    )?;
    until_listening(OUR_CONTAINERD).await?;
    let server = daemon::start(
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
    let busybox = busybox();
    let rich = endpoint.home.join("rich.tar");
    image::write_rich(&busybox, &rich)?;
    for archive in [busybox, rich] {
        import(&archive)?;
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
        machine::cni_plugins()?
    );
    let containerd = containerd(&folder, PEER_SOCKET, &settings)?;
    until_listening(PEER_SOCKET).await?;
    let pause = folder.join("pause.tar");
    pause_image::write(&pause)?;
    let busybox = busybox();
    let rich = folder.join("rich.tar");
    image::write_rich(&busybox, &rich)?;
    for archive in [busybox, rich, pause] {
        run(Command::new(containerd_folder()?.join("ctr"))
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
    let binaries = containerd_folder()?;
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
    let path = format!(
        "{}:{}:{}",
        binaries.display(),
        runc_folder()?.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    daemon::start(
        Command::new(binaries.join("containerd"))
            .arg("--config")
            .arg(&config)
            .env("PATH", path),
        &folder.join("containerd.log"),
    )
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
        until_ready(&cri).await?;
        Ok(Self {
            name,
            version: daemon::version(&cri).await?,
            cri,
            records: ContainersClient::new(containerd_client::connect(containerd).await?),
            cgroup_parent: machine::cgroup_parent(home),
            home: folder,
            daemons,
        })
    }

    /// Ends the daemons, the server first.
    pub(crate) async fn stop(self) -> Outcome {
        for daemon in self.daemons {
            daemon::end(daemon).await?;
        }
        Ok(())
    }
}
