//! What is measured: a CRI server with a containerd of its own below it.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::case::Outcome;
use crate::client::Cri;
use crate::daemon::{busybox, import, run, until_listening, until_ready};
use crate::{daemon, machine, pause_image};

/// podwright's containerd.
pub(crate) const OURS: &str = "/run/ours/containerd.sock";
/// The peer's containerd, which is its CRI server.
const PEER: &str = "/run/peer/containerd.sock";
/// podwright's own socket.
const SERVER: &str = "/run/podwright/podwright.sock";
/// Where both look for `hosts.toml` files.
const HOSTS: &str = "/etc/cni/hosts";

/// A running server and the daemons that it consists of.
pub(crate) struct Endpoint {
    pub(crate) cri: Cri,
    /// What `Version` says, for the report.
    pub(crate) version: String,
    /// Logs and cgroups of its pods.
    pub(crate) home: PathBuf,
    pub(crate) cgroup_parent: String,
    /// The containerd below.
    containerd: &'static str,
    /// The server first.
    daemons: Mutex<Vec<Daemon>>,
}

/// A process of an endpoint, and how to start it once more.
struct Daemon {
    child: Child,
    again: Command,
    log: PathBuf,
}

impl Daemon {
    fn start(mut again: Command, log: PathBuf) -> Outcome<Self> {
        let child = daemon::start(&mut again, &log)?;
        Ok(Self { child, again, log })
    }
}

/// podwright above a containerd without a CRI plugin.
pub(crate) async fn podwright(home: &Path) -> Outcome<Endpoint> {
    let folder = home.join("ours");
    fs::create_dir_all(&folder)?;
    let off = "disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\"]";
    let containerd = containerd(&folder, "/run/ours", off)?;
    let config = folder.join("podwright.toml");
    fs::write(
        &config,
        format!(
            "[server]\nsocket = \"{SERVER}\"\nroot_dir = \"{}\"\n\
             [containerd]\naddress = \"{OURS}\"\n\
             [nri]\nsocket = \"/run/podwright/nri.sock\"\n\
             [runtimes]\ndefault = \"{}\"\n\
             [images]\nregistry_config_path = [\"{HOSTS}\"]\n\
             [cni]\nbin_dirs = [\"{}\"]\n",
            folder.join("podwright").display(),
            oci_runtime(),
            machine::cni_plugins()?
        ),
    )?;
    until_listening(OURS).await?;
    let mut server = Command::new(env!("CARGO_BIN_EXE_podwright"));
    server.args(["serve", "--config"]).arg(&config);
    let server = Daemon::start(server, folder.join("podwright.log"))?;
    let endpoint = Endpoint::ready(&folder, home, OURS, SERVER, vec![server, containerd]).await?;
    import(&busybox())?;
    Ok(endpoint)
}

/// containerd with its own CRI plugin.
pub(crate) async fn plugin(home: &Path) -> Outcome<Endpoint> {
    let folder = home.join("peer");
    fs::create_dir_all(&folder)?;
    let containerd = containerd(&folder, "/run/peer", &plugin_settings()?)?;
    until_listening(PEER).await?;
    let pause = folder.join("pause.tar");
    pause_image::write(&pause)?;
    for archive in [busybox(), pause] {
        run(client(PEER).args(["images", "import"]).arg(archive))?;
    }
    Endpoint::ready(&folder, home, PEER, PEER, vec![containerd]).await
}

/// The containerd under test: `BENCH_CONTAINERD` names the folder of another build than the one on PATH.
fn containerd(folder: &Path, state: &str, settings: &str) -> Outcome<Daemon> {
    let config = folder.join("containerd.toml");
    let version = if is_second_generation()? { 3 } else { 2 };
    fs::create_dir_all(state)?;
    fs::write(
        &config,
        format!(
            "version = {version}\nroot = \"{}\"\nstate = \"{state}\"\n{settings}\n\
             [debug]\nlevel = \"warn\"\n[grpc]\naddress = \"{state}/containerd.sock\"\n",
            folder.join("containerd").display()
        ),
    )?;
    let mut command = program("containerd");
    command
        .arg("--config")
        .arg(&config)
        .env("PATH", search_path());
    Daemon::start(command, folder.join("containerd.log"))
}

/// containerd's own client, for what the CRI has no call for.
fn client(socket: &str) -> Command {
    let mut command = program("ctr");
    command.args(["--address", socket, "--namespace", "k8s.io"]);
    command
}

/// The OCI runtime of both: `BENCH_RUNTIME`, `runc` where that is unset.
pub(crate) fn oci_runtime() -> String {
    std::env::var("BENCH_RUNTIME").unwrap_or_else(|_unset| String::from("runc"))
}

fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    std::env::var("BENCH_CONTAINERD").map_or(path.clone(), |folder| format!("{folder}:{path}"))
}

fn program(name: &str) -> Command {
    Command::new(std::env::var("BENCH_CONTAINERD").map_or_else(
        |_unset| PathBuf::from(name),
        |folder| Path::new(&folder).join(name),
    ))
}

/// containerd 2 has another layout of its CRI plugin's settings.
fn is_second_generation() -> Outcome<bool> {
    let output = program("containerd").arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .split_whitespace()
        .any(|word| word.trim_start_matches('v').starts_with("2.")))
}

fn plugin_settings() -> Outcome<String> {
    let cni = format!(
        "bin_dir = \"{}\"\nconf_dir = \"/etc/cni/peer.d\"\n",
        machine::cni_plugins()?
    );
    let (pause, runtime) = (pause_image::NAME, oci_runtime());
    Ok(if is_second_generation()? {
        format!(
            "[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = \"{pause}\"\n\
             [plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = \"{HOSTS}\"\n\
             [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nBinaryName = \"{runtime}\"\n\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\n{cni}"
        )
    } else {
        format!(
            "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{pause}\"\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{HOSTS}\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nBinaryName = \"{runtime}\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\n{cni}"
        )
    })
}

/// Waits until something listens at a TCP address.
pub(crate) async fn until_connected(address: &str) -> Outcome {
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        if began.elapsed() > Duration::from_secs(30) {
            return Err(format!("nothing answers on {address}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

impl Endpoint {
    async fn ready(
        folder: &Path,
        home: &Path,
        containerd: &'static str,
        socket: &'static str,
        daemons: Vec<Daemon>,
    ) -> Outcome<Self> {
        let cri = Cri::at(socket.as_ref())?;
        until_ready(&cri).await?;
        Ok(Self {
            version: daemon::version(&cri).await?,
            cri,
            home: folder.to_owned(),
            cgroup_parent: machine::cgroup_parent(home),
            containerd,
            daemons: Mutex::new(daemons),
        })
    }

    /// Kills the CRI server, starts it again and says how long it takes to be ready.
    pub(crate) async fn restart(&self) -> Outcome<Duration> {
        let began = {
            let mut daemons = self.daemons.lock().map_err(|e| e.to_string())?;
            let server = daemons.first_mut().ok_or("no server")?;
            server.child.kill()?;
            server.child.wait()?;
            let began = Instant::now();
            server.child = daemon::start(&mut server.again, &server.log)?;
            began
        };
        until_ready(&self.cri).await?;
        Ok(began.elapsed())
    }

    /// Has containerd collect its garbage now: it does when a lease is deleted by a caller that waits.
    pub(crate) fn collect_garbage(&self) -> Outcome {
        let socket = self.containerd;
        run(client(socket).args(["leases", "create", "--id", "bench"]))?;
        run(client(socket).args(["leases", "delete", "--sync", "bench"]))
    }

    /// Its processes: the CRI server, and then the containerd below it where that is another one.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let daemons = self.daemons.lock();
        daemons.map_or_else(
            |_poisoned| Vec::new(),
            |daemons| daemons.iter().map(|daemon| daemon.child.id()).collect(),
        )
    }

    /// Ends the daemons, the server first.
    pub(crate) async fn stop(&self) -> Outcome {
        let daemons = self
            .daemons
            .lock()
            .map(|mut daemons| std::mem::take(&mut *daemons))
            .unwrap_or_default();
        for daemon in daemons {
            daemon::end(daemon.child).await?;
        }
        Ok(())
    }
}
