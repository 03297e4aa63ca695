//! Rules of tasks and execs.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::{Value, json};

use super::Stage;
use crate::containerd::{
    ContainerRecord, Event, ExecRequest, Payload, Stdio, TaskRequest, TaskState,
};
use crate::model::{ExecId, Kind, Pid, Result, Signal};

const LIMIT: Duration = Duration::from_secs(30);

/// An OCI process.
pub(in crate::containerd) fn process(args: &[&str]) -> Value {
    json!({
        "terminal": false,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/"
    })
}

/// An OCI spec with namespaces of its own and a cgroup below `cgroup`.
pub(in crate::containerd) fn spec(args: &[&str], cgroup: &str) -> Payload {
    let json = json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": format!("/{cgroup}/c"),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]
        }
    });
    Payload::new(Payload::SPEC, json.to_string())
}

const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "600"];

async fn record(stage: &Stage) {
    let record = ContainerRecord {
        id: "c".into(),
        runtime: "io.containerd.runc.v2".into(),
        spec: Some(spec(&SLEEP, &stage.cgroup)),
        ..ContainerRecord::default()
    };
    stage.containerd.containers.create(&record).await.unwrap();
}

fn task(stage: &Stage) -> TaskRequest {
    TaskRequest {
        id: "c".into(),
        rootfs: stage.rootfs.clone(),
        stdio: Stdio::default(),
        options: None,
    }
}

async fn exit_event(events: &mut BoxStream<'static, Result<Event>>) -> (Option<String>, u32) {
    let next = tokio::time::timeout(LIMIT, events.next()).await;
    match next.unwrap().unwrap().unwrap() {
        Event::TaskExit { exec, exit, .. } => (exec, exit.code),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn a_task_needs_a_container_and_two_streams(stage: &Stage) {
    let tasks = &stage.containerd.tasks;

    let alone = tasks.create(&task(stage)).await.unwrap_err();
    assert_eq!(alone.kind(), Kind::NotFound);
    assert_eq!(
        tasks.get("c", None).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        tasks.start("c", None).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        tasks.delete("c", None).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        tasks.wait("c", None).await.unwrap_err().kind(),
        Kind::NotFound
    );
    let nobody = tasks
        .kill("c", None, Signal::KILL, false)
        .await
        .unwrap_err();
    assert_eq!(nobody.kind(), Kind::NotFound);

    record(stage).await;
    let mut halved = task(stage);
    halved.stdio.stdout = Some("/dev/null".into());
    assert_eq!(
        tasks.create(&halved).await.unwrap_err().kind(),
        Kind::Unknown
    );
    assert_eq!(
        tasks.get("c", None).await.unwrap_err().kind(),
        Kind::NotFound
    );
}

pub(super) async fn a_task_is_created_started_killed_and_deleted(stage: &Stage) {
    let tasks = &stage.containerd.tasks;
    let mut events = stage.containerd.events.subscribe().await.unwrap();
    record(stage).await;

    let pid = tasks.create(&task(stage)).await.unwrap();
    let made = tasks.get("c", None).await.unwrap();
    assert_eq!(
        (made.state, made.pid, made.exit),
        (TaskState::Created, pid, None)
    );
    let again = tasks.create(&task(stage)).await.unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
    assert_eq!(tasks.start("c", None).await.unwrap(), pid);
    let twice = tasks.start("c", None).await.unwrap_err();
    assert_eq!(twice.kind(), Kind::FailedPrecondition, "{twice}");
    assert_eq!(
        tasks.get("c", None).await.unwrap().state,
        TaskState::Running
    );
    assert_eq!(tasks.oom_kills("c").await.unwrap(), Some(0));
    let used = tasks.usage("c").await.unwrap().unwrap();
    assert!(used.cpu_ns > 0 && used.memory_bytes > 0, "{used:?}");
    let busy = tasks.delete("c", None).await.unwrap_err();
    assert_eq!(busy.kind(), Kind::FailedPrecondition, "{busy}");
    let held = stage.containerd.containers.delete("c").await.unwrap_err();
    assert_eq!(held.kind(), Kind::FailedPrecondition);

    let waiting = tokio::time::timeout(LIMIT, tasks.wait("c", None));
    let (exit, killed) = tokio::join!(waiting, tasks.kill("c", None, Signal::KILL, true));
    killed.unwrap();
    let exit = exit.unwrap().unwrap();
    assert_eq!(exit.code, 137);
    assert_eq!(exit_event(&mut events).await, (None, 137));
    let ended = tasks.get("c", None).await.unwrap();
    assert_eq!(
        (ended.state, ended.pid, ended.exit),
        (TaskState::Stopped, Pid(0), Some(exit))
    );
    assert_eq!(tasks.wait("c", None).await.unwrap(), exit);
    let late = tasks
        .kill("c", None, Signal::TERM, false)
        .await
        .unwrap_err();
    assert_eq!(late.kind(), Kind::NotFound);
    assert_eq!(tasks.delete("c", None).await.unwrap(), exit);
    assert_eq!(
        tasks.delete("c", None).await.unwrap_err().kind(),
        Kind::NotFound
    );
    stage.containerd.containers.delete("c").await.unwrap();
}

pub(super) async fn a_task_that_never_started_is_deleted(stage: &Stage) {
    let tasks = &stage.containerd.tasks;
    record(stage).await;
    tasks.create(&task(stage)).await.unwrap();

    tasks.delete("c", None).await.unwrap();

    assert_eq!(
        tasks.get("c", None).await.unwrap_err().kind(),
        Kind::NotFound
    );
    stage.containerd.containers.delete("c").await.unwrap();
}

fn exec(args: &[&str]) -> ExecRequest {
    ExecRequest {
        id: "c".into(),
        exec: ExecId::generate().unwrap(),
        stdio: Stdio::default(),
        process: Payload::new(Payload::PROCESS, process(args).to_string()),
    }
}

pub(super) async fn an_exec_ends_by_itself_and_is_deleted(stage: &Stage) {
    let tasks = &stage.containerd.tasks;
    record(stage).await;
    tasks.create(&task(stage)).await.unwrap();
    let request = exec(&["/bin/busybox", "sleep", "600"]);
    tasks.start("c", None).await.unwrap();

    tasks.exec(&request).await.unwrap();
    let name = Some(&request.exec);
    let twice = tasks.exec(&request).await.unwrap_err();
    assert_eq!(twice.kind(), Kind::AlreadyExists);
    assert_eq!(
        tasks.get("c", name).await.unwrap().state,
        TaskState::Created
    );
    let pid = tasks.start("c", name).await.unwrap();
    let running = tasks.get("c", name).await.unwrap();
    assert_eq!((running.state, running.pid), (TaskState::Running, pid));
    let waiting = tokio::time::timeout(LIMIT, tasks.wait("c", name));
    let (exit, killed) = tokio::join!(waiting, tasks.kill("c", name, Signal::TERM, false));
    killed.unwrap();

    let exit = exit.unwrap().unwrap();
    assert_eq!(exit.code, 143);
    let ended = tasks.get("c", name).await.unwrap();
    assert_eq!((ended.state, ended.pid), (TaskState::Stopped, Pid(0)));
    assert_eq!(tasks.delete("c", name).await.unwrap(), exit);
    assert_eq!(
        tasks.delete("c", name).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        tasks.get("c", name).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        tasks.get("c", None).await.unwrap().state,
        TaskState::Running
    );
}

pub(super) async fn execs_end_with_their_task(stage: &Stage) {
    let tasks = &stage.containerd.tasks;
    record(stage).await;
    tasks.create(&task(stage)).await.unwrap();
    tasks.start("c", None).await.unwrap();
    let request = exec(&SLEEP);
    tasks.exec(&request).await.unwrap();
    tasks.start("c", Some(&request.exec)).await.unwrap();
    let mut events = stage.containerd.events.subscribe().await.unwrap();

    tasks.kill("c", None, Signal::KILL, false).await.unwrap();

    let (first, code) = exit_event(&mut events).await;
    assert_eq!((first, code), (Some(request.exec.to_string()), 137));
    assert_eq!(exit_event(&mut events).await, (None, 137));
    let late = tasks.exec(&exec(&SLEEP)).await.unwrap_err();
    assert_eq!(late.kind(), Kind::FailedPrecondition);
    let resources = Payload::new(Payload::RESOURCES, *b"{}");
    let late = tasks.update("c", resources).await.unwrap_err();
    assert_eq!(late.kind(), Kind::FailedPrecondition);
    tasks.resize("c", None, 80, 25).await.unwrap();
    tasks.delete("c", None).await.unwrap();
}
