//! The server as systemd sees it: a socket that is passed, words that are told, a configuration that is read again.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podwright::wire::cri;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Node, binary};

pub(super) const CASES: &[Case] = &[
    Case::new("systemd.readiness_watchdog_and_end_are_told", |node| {
        Box::pin(words(node))
    }),
    Case::new("systemd.readiness_waits_for_containerd", |node| {
        Box::pin(patience(node))
    }),
    Case::new("systemd.a_passed_socket_is_used_and_left", |node| {
        Box::pin(passed_socket(node))
    }),
    Case::new(
        "systemd.a_reload_changes_the_level_and_survives_a_bad_file",
        |node| Box::pin(reload(node)),
    ),
];

/// Where the second server is found.
const SOCKET: &str = "/run/second/podwright.sock";

/// A second server on the node, with a containerd of its own, in the hands of this case.
struct Second {
    child: Child,
    log: PathBuf,
}

impl Second {
    /// Starts `script`, a line of shell that ends in the server; `$PODWRIGHT` is its command line.
    fn start(
        node: &Node,
        script: &str,
        stdin: Stdio,
        environment: &[(&str, &str)],
    ) -> Outcome<Self> {
        let home = node.home.display();
        let back_end = format!(
            "[managed_containerd]\nenabled = true\nstop_at_exit = true\n\
             root = \"{home}/second-containerd\"\nstate = \"/run/second-containerd\"\n"
        );
        Self::over(&back_end, node, script, stdin, environment)
    }

    /// As `start`, with the tables of the configuration that name the containerd.
    fn over(
        back_end: &str,
        node: &Node,
        script: &str,
        stdin: Stdio,
        environment: &[(&str, &str)],
    ) -> Outcome<Self> {
        let home = node.home.display();
        let config = config_of(node);
        fs::write(
            &config,
            format!(
                "[server]\nsocket = \"{SOCKET}\"\nroot_dir = \"{home}/second\"\nstate_dir = \"/run/second\"\n{back_end}"
            ),
        )?;
        let log = node.home.join("second.log");
        let command = format!("{} serve --config {}", binary(), config.display());
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .env("PODWRIGHT", command)
            .envs(environment.iter().copied())
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()?;
        Ok(Self { child, log })
    }

    fn signal(&self, signal: Signal) -> Outcome {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(kill(pid, signal)?)
    }

    /// Waits until its log says `word`.
    async fn until_said(&self, word: &str) -> Outcome {
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if self.said().contains(word) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("the server never said {word:?}:\n{}", self.said()).into())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Stops it and waits for its end.
    async fn stop(mut self) -> Outcome {
        self.signal(Signal::SIGTERM)?;
        let ended = tokio::task::spawn_blocking(move || self.child.wait()).await??;
        ensure(ended.success(), || format!("{ended}"))
    }
}

fn config_of(node: &Node) -> PathBuf {
    node.home.join("second.toml")
}

/// Reads what is told until a message holds `word`.
async fn until_told(ear: &UnixDatagram, word: &str) -> Outcome {
    let wanted = word.to_owned();
    until_told_of(ear, move |line| line == wanted)
        .await
        .map(drop)
        .map_err(|e| format!("{word}: {e}").into())
}

/// Reads what is told until a line is `wanted`; answers all of it.
async fn until_told_of(
    ear: &UnixDatagram,
    wanted: impl Fn(&str) -> bool + Send + 'static,
) -> Outcome<String> {
    let ear = ear.try_clone()?;
    tokio::task::spawn_blocking(move || {
        ear.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut heard = [0_u8; 4096];
        let mut all = String::new();
        loop {
            let length = ear
                .recv(&mut heard)
                .map_err(|e| format!("was not told ({e}), only:\n{all}"))?;
            let text = String::from_utf8_lossy(heard.get(..length).unwrap_or_default());
            all.extend([&*text, "\n"]);
            if text.lines().any(&wanted) {
                return Ok(all);
            }
        }
    })
    .await?
}

async fn words(node: &Node) -> Outcome {
    let path = "/run/notify";
    let ear = UnixDatagram::bind(path)?;
    let environment = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "1000000")];
    let second = Second::start(node, "exec $PODWRIGHT", Stdio::null(), &environment)?;

    until_told(&ear, "READY=1").await?;
    UnixStream::connect(SOCKET)?;
    until_told(&ear, "WATCHDOG=1").await?;
    second.signal(Signal::SIGTERM)?;
    until_told(&ear, "STOPPING=1").await?;

    let mut child = second.child;
    let ended = tokio::task::spawn_blocking(move || child.wait()).await??;
    ensure(ended.success(), || format!("{ended}"))
}

/// Readiness waits for recovery, and recovery for containerd; until then systemd is asked for patience, and clients
/// learn what is missing.
async fn patience(node: &Node) -> Outcome {
    let path = "/run/notify";
    let ear = UnixDatagram::bind(path)?;
    let late = "[containerd]\naddress = \"/run/late.sock\"\nnamespace = \"second\"\n";
    let environment = [("NOTIFY_SOCKET", path)];
    let second = Second::over(late, node, "exec $PODWRIGHT", Stdio::null(), &environment)?;

    let said = until_told_of(&ear, |line| line.starts_with("EXTEND_TIMEOUT_USEC=")).await?;
    let client = crate::client::Cri::at(SOCKET.as_ref())?;
    let request = cri::StatusRequest { verbose: false };
    let status = client.runtime.clone().status(request).await?.into_inner();
    let request = cri::ListPodSandboxRequest::default();
    let list = client.runtime.clone().list_pod_sandbox(request).await;
    std::os::unix::fs::symlink("/run/containerd/containerd.sock", "/run/late.sock")?;
    until_told(&ear, "READY=1").await?;
    let request = cri::ListPodSandboxRequest::default();
    client.runtime.clone().list_pod_sandbox(request).await?;
    second.stop().await?;

    ensure(!said.contains("READY=1"), || said)?;
    let conditions = status
        .status
        .map_or_else(Vec::new, |status| status.conditions);
    ensure(
        conditions.iter().any(|c| {
            c.r#type == "RuntimeReady" && !c.status && c.reason == "ContainerdUnavailable"
        }),
        || format!("{conditions:?}"),
    )?;
    let code = list.as_ref().err().map(tonic::Status::code);
    ensure(code == Some(tonic::Code::Unavailable), || {
        format!("{list:?}")
    })
}

async fn passed_socket(node: &Node) -> Outcome {
    let path = Path::new("/run/passed.sock");
    let passed = OwnedFd::from(UnixListener::bind(path)?);
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec $PODWRIGHT";
    let second = Second::start(node, script, Stdio::from(passed), &[])?;
    second.until_said("serving").await?;

    let answer = node
        .cli(&["ops", "--socket", &path.to_string_lossy()])
        .await?;
    ensure(answer.contains("nothing runs"), || answer)?;
    second.stop().await?;

    ensure(path.exists(), || "systemd's socket was removed".to_owned())?;
    ensure(!Path::new(SOCKET).exists(), || {
        "a socket was made beside the passed one".to_owned()
    })
}

async fn reload(node: &Node) -> Outcome {
    let second = Second::start(node, "exec $PODWRIGHT", Stdio::null(), &[])?;
    second.until_said("serving").await?;
    let config = config_of(node);
    let good = fs::read_to_string(&config)?;

    fs::write(&config, format!("{good}[diagnostics]\nlevel = \"shout\"\n"))?;
    second.signal(Signal::SIGHUP)?;
    second.until_said("reload refused").await?;
    fs::write(
        &config,
        format!(
            "{good}[diagnostics]\nlevel = \"debug\"\nformat = \"json\"\n[logs]\nmax_line_bytes = 4096\n"
        ),
    )?;
    second.signal(Signal::SIGHUP)?;
    second.until_said("configuration reloaded").await?;
    second.until_said("diagnostics.format").await?;
    ensure(!second.said().contains("rpc.method=\"Version\""), || {
        "a debug line came before the level was lowered".to_owned()
    })?;
    let client = crate::client::Cri::at(SOCKET.as_ref())?;
    let request = cri::VersionRequest::default();
    client.runtime.clone().version(request).await?;
    second.until_said("rpc.method=\"Version\"").await?;
    second.stop().await
}
