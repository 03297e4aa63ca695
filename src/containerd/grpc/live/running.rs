//! What only a real task shows: its output, and that it outlives containerd.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::Node;
use crate::containerd::conformance::running::{process, spec};
use crate::containerd::{
    ContainerRecord, Containerd, Event, ExecRequest, Payload, Stdio, TaskRequest, TaskState,
};
use crate::model::{ExecId, Kind, Pid, Result, Signal};

const LIMIT: Duration = Duration::from_secs(30);

fn fifo(path: PathBuf) -> PathBuf {
    assert!(
        Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    path
}

/// A FIFO for output and one for errors (the runc shim wants both or neither), and the thread that reads them to their end.
/// One for both would not do: the shim opens them one after the other, when the process may have ended and the reader with
/// it.
fn output(path: PathBuf) -> (Stdio, std::thread::JoinHandle<String>) {
    let errors = fifo(path.with_extension("errors"));
    let path = fifo(path);
    let stdio = Stdio {
        stdout: Some(path.clone()),
        stderr: Some(errors.clone()),
        ..Stdio::default()
    };
    let read = |path| std::thread::spawn(move || std::fs::read_to_string(path).unwrap());
    let (said, complained) = (read(path), read(errors));
    let reader = std::thread::spawn(move || said.join().unwrap() + &complained.join().unwrap());
    (stdio, reader)
}

async fn create(node: &Node, containerd: &Containerd, args: &[&str], stdio: Stdio) -> Result<Pid> {
    create_from(node, containerd, spec(args, node.cgroup()), stdio).await
}

async fn create_from(
    node: &Node,
    containerd: &Containerd,
    spec: Payload,
    stdio: Stdio,
) -> Result<Pid> {
    let record = ContainerRecord {
        id: "c".into(),
        runtime: "io.containerd.runc.v2".into(),
        spec: Some(spec),
        ..ContainerRecord::default()
    };
    containerd.containers.create(&record).await?;
    let request = TaskRequest {
        id: "c".into(),
        rootfs: node.busybox(),
        stdio,
        options: None,
    };
    containerd.tasks.create(&request).await
}

async fn next_exit(events: &mut BoxStream<'static, Result<Event>>) -> (Option<String>, u32) {
    let next = tokio::time::timeout(LIMIT, events.next()).await;
    match next.unwrap().unwrap().unwrap() {
        Event::TaskExit { exec, exit, .. } => (exec, exit.code),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_task_writes_its_output_and_tells_its_exit() {
    let Some(node) = Node::start() else { return };
    let containerd = node.client().await.containerd;
    let tasks = &containerd.tasks;
    let mut events = containerd.events.subscribe().await.unwrap();
    let (stdio, reader) = output(node.path().join("out"));

    let script = "echo hello; exit 3";
    let pid = create(
        &node,
        &containerd,
        &["/bin/busybox", "sh", "-c", script],
        stdio,
    )
    .await
    .unwrap();
    let made = tasks.get("c", None).await.unwrap();
    assert_eq!((made.state, made.pid), (TaskState::Created, pid));
    assert_eq!(made.exit, None);
    let waiting = tokio::time::timeout(LIMIT, tasks.wait("c", None));
    let (exit, started) = tokio::join!(waiting, tasks.start("c", None));
    let exit = exit.unwrap().unwrap();

    assert_eq!(started.unwrap(), pid);
    assert_eq!(exit.code, 3);
    assert_eq!(next_exit(&mut events).await, (None, 3));
    let ended = tasks.get("c", None).await.unwrap();
    assert_eq!((ended.state, ended.exit), (TaskState::Stopped, Some(exit)));
    let late = tasks
        .kill("c", None, Signal::KILL, false)
        .await
        .unwrap_err();
    assert_eq!(late.kind(), Kind::NotFound);
    let held = containerd.containers.delete("c").await.unwrap_err();
    assert_eq!(held.kind(), Kind::FailedPrecondition);
    assert_eq!(tasks.delete("c", None).await.unwrap(), exit);
    assert_eq!(
        tasks.delete("c", None).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        tasks.get("c", None).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        tasks.wait("c", None).await.unwrap_err().kind(),
        Kind::NotFound
    );
    containerd.containers.delete("c").await.unwrap();
    assert_eq!(reader.join().unwrap(), "hello\n");
}

#[tokio::test]
async fn a_running_task_takes_execs_and_signals_and_outlives_containerd() {
    let Some(node) = Node::start() else { return };
    let client = node.client().await;
    let containerd = client.containerd;
    let tasks = &containerd.tasks;
    let mut events = containerd.events.subscribe().await.unwrap();
    create(
        &node,
        &containerd,
        &["/bin/busybox", "sleep", "600"],
        Stdio::default(),
    )
    .await
    .unwrap();
    tasks.start("c", None).await.unwrap();

    let again = TaskRequest {
        id: "c".into(),
        rootfs: vec![],
        stdio: Stdio::default(),
        options: None,
    };
    let taken = tasks.create(&again).await.unwrap_err();
    assert_eq!(taken.kind(), Kind::AlreadyExists);
    let held = tasks.delete("c", None).await.unwrap_err();
    assert_eq!(held.kind(), Kind::FailedPrecondition, "{held}");
    assert_eq!(tasks.oom_kills("c").await.unwrap(), Some(0));
    run_exec(&containerd, node.path()).await;
    let (exec, code) = next_exit(&mut events).await;
    assert!(exec.is_some());
    assert_eq!(code, 7);

    let server = containerd.introspection.server_pid().unwrap().0;
    assert!(
        Command::new("kill")
            .args(["-KILL", &server.to_string()])
            .status()
            .unwrap()
            .success()
    );
    let containerd = node.client().await.containerd;
    let mut events = containerd.events.subscribe().await.unwrap();
    let tasks = &containerd.tasks;
    assert_eq!(
        tasks.get("c", None).await.unwrap().state,
        TaskState::Running
    );
    let waiting = tokio::time::timeout(LIMIT, tasks.wait("c", None));
    let (exit, killed) = tokio::join!(waiting, tasks.kill("c", None, Signal::KILL, true));
    let exit = exit.unwrap().unwrap();
    killed.unwrap();
    assert_eq!(exit.code, 137);
    assert_eq!(next_exit(&mut events).await, (None, 137));
    tasks.delete("c", None).await.unwrap();
}

async fn run_exec(containerd: &Containerd, dir: &Path) {
    let tasks = &containerd.tasks;
    let exec = ExecId::generate().unwrap();
    let (stdio, reader) = output(dir.join("exec-out"));
    let args = process(&["/bin/busybox", "sh", "-c", "echo from exec; exit 7"]);
    let request = ExecRequest {
        id: "c".into(),
        exec: exec.clone(),
        stdio,
        process: Payload::new(Payload::PROCESS, args.to_string()),
    };

    tasks.exec(&request).await.unwrap();
    tasks.start("c", Some(&exec)).await.unwrap();
    let waiting = tokio::time::timeout(LIMIT, tasks.wait("c", Some(&exec)));
    let exit = waiting.await.unwrap().unwrap();

    assert_eq!(exit.code, 7);
    assert_eq!(tasks.delete("c", Some(&exec)).await.unwrap().code, 7);
    assert_eq!(
        tasks.get("c", Some(&exec)).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(reader.join().unwrap(), "from exec\n");
}

/// Pids of the processes that run `program` with the argument `argument`.
fn pids(program: &str, argument: &str) -> Vec<u32> {
    let numbers = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|pid: &u32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            let first = command.split('\0').next().unwrap_or_default();
            first.ends_with(program) && command.split('\0').any(|word| word.contains(argument))
        })
        .collect()
}

#[tokio::test]
async fn a_killed_shim_ends_its_task() {
    let Some(node) = Node::start() else { return };
    let containerd = node.client().await.containerd;
    let tasks = &containerd.tasks;
    let mut events = containerd.events.subscribe().await.unwrap();
    create(
        &node,
        &containerd,
        &["/bin/busybox", "sleep", "600"],
        Stdio::default(),
    )
    .await
    .unwrap();
    tasks.start("c", None).await.unwrap();
    let shims = pids(
        "containerd-shim-runc-v2",
        &node.path().display().to_string(),
    );
    assert_eq!(shims.len(), 1, "{shims:?}");

    let waiting = tokio::time::timeout(LIMIT, tasks.wait("c", None));
    let (waited, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(
            Command::new("kill")
                .args(["-KILL", &shims[0].to_string()])
                .status()
                .unwrap()
                .success()
        );
    });

    assert_eq!(waited.unwrap().unwrap_err().kind(), Kind::NotFound);
    assert_eq!(next_exit(&mut events).await, (None, 137));
    assert_eq!(
        tasks.get("c", None).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        tasks.delete("c", None).await.unwrap_err().kind(),
        Kind::NotFound
    );
    containerd.containers.delete("c").await.unwrap();
}

#[tokio::test]
async fn an_oom_kill_is_told_and_counted() {
    let Some(node) = Node::start() else { return };
    let containerd = node.client().await.containerd;
    let tasks = &containerd.tasks;
    let mut events = containerd.events.subscribe().await.unwrap();
    let Payload { type_url, value } = spec(&["/bin/busybox", "tail", "/dev/zero"], node.cgroup());
    let mut json: serde_json::Value = serde_json::from_slice(&value).unwrap();
    json["linux"]["resources"] = serde_json::json!({"memory": {"limit": 16 << 20}});
    let spec = Payload::new(type_url, json.to_string());
    create_from(&node, &containerd, spec, Stdio::default())
        .await
        .unwrap();
    tasks.start("c", None).await.unwrap();

    let (mut oom, mut exit) = (false, None);
    while exit.is_none() || !oom {
        match tokio::time::timeout(LIMIT, events.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
        {
            Event::TaskOom { container } => oom = container == "c",
            Event::TaskExit { exit: ended, .. } => exit = Some(ended.code),
            Event::ImageChanged { .. } => {}
        }
    }

    assert_eq!(exit, Some(137));
    assert_eq!(tasks.oom_kills("c").await.unwrap(), Some(1));
    tasks.delete("c", None).await.unwrap();
}
