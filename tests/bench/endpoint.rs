//! What is measured: a CRI server with a containerd of its own below it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podwright::wire::cri;

use crate::case::Outcome;
use crate::client::Cri;
use crate::{node, pause_image};

/// A running server and the daemons that it consists of.
pub(crate) struct Endpoint {
    pub(crate) cri: Cri,
    /// What `Version` says, for the report.
    pub(crate) version: String,
    /// Logs and cgroups of its pods.
    pub(crate) home: PathBuf,
    pub(crate) cgroup_parent: String,
    daemons: Mutex<Vec<Child>>,
}

/// podwright above a containerd without a CRI plugin.
pub(crate) async fn podwright(home: &Path) -> Outcome<Endpoint> {
    let folder = home.join("ours");
    fs::create_dir_all(&folder)?;
    let socket = "/run/ours/containerd.sock";
    let off = "disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\"]";
    let containerd = containerd(&folder, "/run/ours", off)?;
    let config = folder.join("podwright.toml");
    fs::write(
        &config,
        format!(
            "[server]\nsocket = \"/run/podwright/podwright.sock\"\nroot_dir = \"{}\"\n\
             [containerd]\naddress = \"{socket}\"\n\
             [cni]\nbin_dirs = [\"{}\"]\n",
            folder.join("podwright").display(),
            node::cni_plugins()?
        ),
    )?;
    until_listening(socket).await?;
    let server = node::daemon(
        Command::new(env!("CARGO_BIN_EXE_podwright"))
            .args(["serve", "--config"])
            .arg(&config),
        &folder.join("podwright.log"),
    )?;
    let endpoint = Endpoint::ready(
        &folder,
        home,
        "/run/podwright/podwright.sock",
        vec![server, containerd],
    )
    .await?;
    run(Command::new(env!("CARGO_BIN_EXE_podwright"))
        .args(["image", "import"])
        .arg(busybox()?))?;
    Ok(endpoint)
}

/// containerd with its own CRI plugin.
pub(crate) async fn plugin(home: &Path) -> Outcome<Endpoint> {
    let folder = home.join("peer");
    fs::create_dir_all(&folder)?;
    let socket = "/run/peer/containerd.sock";
    let containerd = containerd(&folder, "/run/peer", &plugin_settings()?)?;
    until_listening(socket).await?;
    let pause = folder.join("pause.tar");
    pause_image::write(&pause)?;
    for archive in [busybox()?, pause] {
        run(program("ctr")
            .args(["--address", socket, "--namespace", "k8s.io"])
            .args(["images", "import"])
            .arg(archive))?;
    }
    Endpoint::ready(&folder, home, socket, vec![containerd]).await
}

/// The containerd under test: `BENCH_CONTAINERD` names the folder of another build than the one on PATH.
fn containerd(folder: &Path, state: &str, settings: &str) -> Outcome<Child> {
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
    node::daemon(
        program("containerd")
            .arg("--config")
            .arg(&config)
            .env("PATH", search_path()),
        &folder.join("containerd.log"),
    )
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
        node::cni_plugins()?
    );
    let pause = pause_image::NAME;
    Ok(if is_second_generation()? {
        format!(
            "[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = \"{pause}\"\n\
             [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\n{cni}"
        )
    } else {
        format!(
            "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{pause}\"\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\n{cni}"
        )
    })
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
        if began.elapsed() > Duration::from_secs(30) {
            return Err(format!("nothing answers on {socket}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

impl Endpoint {
    async fn ready(folder: &Path, home: &Path, socket: &str, daemons: Vec<Child>) -> Outcome<Self> {
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
            if began.elapsed() > Duration::from_secs(30) {
                return Err(format!("{socket} is not ready: {reply:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let request = cri::VersionRequest::default();
        let version = cri.runtime.clone().version(request).await?.into_inner();
        Ok(Self {
            cri,
            version: format!("{} {}", version.runtime_name, version.runtime_version),
            home: folder.to_owned(),
            cgroup_parent: node::cgroup_parent(home),
            daemons: Mutex::new(daemons),
        })
    }

    /// Its processes: the CRI server, and then the containerd below it where that is another one.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let daemons = self.daemons.lock();
        daemons.map_or_else(
            |_poisoned| Vec::new(),
            |daemons| daemons.iter().map(Child::id).collect(),
        )
    }

    /// Ends the daemons, the server first.
    pub(crate) async fn stop(&self) -> Outcome {
        let daemons = self
            .daemons
            .lock()
            .map(|mut daemons| std::mem::take(&mut *daemons))
            .unwrap_or_default();
        for mut daemon in daemons {
            kill(Pid::from_raw(i32::try_from(daemon.id())?), Signal::SIGTERM)?;
            tokio::task::spawn_blocking(move || daemon.wait()).await??;
        }
        Ok(())
    }
}
