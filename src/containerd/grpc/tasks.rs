//! containerd's Tasks service.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::tasks_client::TasksClient as Stub;
use containerd_client::services::v1::{
    CheckpointTaskRequest, CloseIoRequest, CreateTaskRequest, DeleteProcessRequest,
    DeleteTaskRequest, ExecProcessRequest, GetRequest, KillRequest, MetricsRequest,
    PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest, StartRequest, UpdateTaskRequest,
    WaitRequest,
};
use containerd_client::types::v1::{Process, Status as WireState};
use futures::future::BoxFuture;
use prost_types::Any;

use super::channel::{MESSAGE_LIMIT, Step, Wire, present};
use super::traced::Traced;
use super::{checkpoint, convert, limits, metrics};
use crate::containerd::{
    CheckpointDirs, ExecRequest, Exit, Payload, TaskInfo, TaskRequest, TaskState, TaskUsage, Tasks,
};
use crate::model::{Error, ExecId, Kind, Pid, Result, Signal};

/// Pauses before the second and third attempt of a call that met a shim just as its connection closed.
const SHIM_CLOSED_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

/// The service over the wire.
pub(super) struct RemoteTasks(pub(super) Arc<Wire>);

impl RemoteTasks {
    fn stub(&self) -> Stub<Traced> {
        Stub::new(self.0.control()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// What the shim measures of a task, undecoded.
    async fn metrics_of(&self, id: &str) -> Result<Option<Any>> {
        let request = self.0.request(MetricsRequest {
            filters: vec![convert::equals("id", id)],
        });
        let mut stub = self.stub();
        let step = Step("read metrics of container", id);
        let reply = self
            .0
            .call(step, limits::SHIM_READ, stub.metrics(request))
            .await?;
        let metric = reply.metrics.into_iter().find(|metric| metric.id == id);
        Ok(metric.and_then(|metric| metric.data))
    }

    async fn kill_once(&self, request: KillRequest, step: Step<'_>) -> Result<()> {
        let request = self.0.request(request);
        let mut stub = self.stub();
        self.0
            .call(step, limits::SHIM_WRITE, stub.kill(request))
            .await
    }

    async fn resume_once(&self, id: &str) -> Result<()> {
        let container_id = id.to_owned();
        let request = self.0.request(ResumeTaskRequest { container_id });
        let mut stub = self.stub();
        let step = Step("resume container", id);
        let resumed = self
            .0
            .call(step, limits::SHIM_WRITE, stub.resume(request))
            .await;
        match resumed {
            // runc refuses to thaw what runs, and says so in words alone.
            Err(_refused) if self.is_running(id).await? => Ok(()),
            resumed => resumed,
        }
    }

    async fn is_running(&self, id: &str) -> Result<bool> {
        Ok(self.get(id, None).await?.state == TaskState::Running)
    }

    async fn wait_once(&self, request: WaitRequest, step: Step<'_>) -> Result<Exit> {
        let request = self.0.request(request);
        let mut stub = self.stub();
        let reply = self.0.call_unlimited(step, stub.wait(request)).await?;
        Ok(convert::exit(reply.exit_status, reply.exited_at))
    }

    async fn delete_once(&self, id: &str, exec: Option<&ExecId>) -> Result<Exit> {
        let mut stub = self.stub();
        let step = process_step(
            "delete task of container",
            "delete exec in container",
            id,
            exec,
        );
        let container_id = id.to_owned();
        let reply = if exec.is_some() {
            let request = self.0.request(DeleteProcessRequest {
                container_id,
                exec_id: exec_text(exec),
            });
            self.0
                .call(step, limits::TASK, stub.delete_process(request))
                .await
        } else {
            let request = self.0.request(DeleteTaskRequest { container_id });
            self.0.call(step, limits::TASK, stub.delete(request)).await
        };
        let reply = reply.map_err(wrong_state)?;
        Ok(convert::exit(reply.exit_status, reply.exited_at))
    }
}

impl Tasks for RemoteTasks {
    fn create<'a>(&'a self, request: &'a TaskRequest) -> BoxFuture<'a, Result<Pid>> {
        Box::pin(async move {
            let stdio = &request.stdio;
            let message = self.0.request(CreateTaskRequest {
                container_id: request.id.clone(),
                rootfs: convert::wire_mounts(&request.rootfs),
                stdin: convert::fifo(stdio.stdin.as_ref()),
                stdout: convert::fifo(stdio.stdout.as_ref()),
                stderr: convert::fifo(stdio.stderr.as_ref()),
                terminal: stdio.terminal,
                options: request.options.clone().map(convert::any),
                ..CreateTaskRequest::default()
            });
            let mut stub = self.stub();
            let step = Step("create task of container", &request.id);
            let reply = self
                .0
                .call(step, limits::TASK, stub.create(message))
                .await?;
            Ok(Pid(reply.pid))
        })
    }

    fn start<'a>(&'a self, id: &'a str, exec: Option<&'a ExecId>) -> BoxFuture<'a, Result<Pid>> {
        Box::pin(async move {
            let request = self.0.request(StartRequest {
                container_id: id.to_owned(),
                exec_id: exec_text(exec),
            });
            let mut stub = self.stub();
            let step = process_step(
                "start task of container",
                "start exec in container",
                id,
                exec,
            );
            let reply = self.0.call(step, limits::TASK, stub.start(request)).await;
            Ok(Pid(reply.map_err(wrong_state)?.pid))
        })
    }

    fn get<'a>(&'a self, id: &'a str, exec: Option<&'a ExecId>) -> BoxFuture<'a, Result<TaskInfo>> {
        Box::pin(async move {
            let request = self.0.request(GetRequest {
                container_id: id.to_owned(),
                exec_id: exec_text(exec),
            });
            let mut stub = self.stub();
            let step = process_step("get task of container", "get exec in container", id, exec);
            let reply = self
                .0
                .call(step, limits::SHIM_READ, stub.get(request))
                .await?;
            present(reply.process, step).map(task_info)
        })
    }

    fn kill<'a>(
        &'a self,
        id: &'a str,
        exec: Option<&'a ExecId>,
        signal: Signal,
        all: bool,
    ) -> BoxFuture<'a, Result<()>> {
        let request = KillRequest {
            container_id: id.to_owned(),
            exec_id: exec_text(exec),
            signal: u32::from(signal.number()),
            all,
        };
        let step = process_step("signal container", "signal exec in container", id, exec);
        Box::pin(past_closed_shim(move || {
            self.kill_once(request.clone(), step)
        }))
    }

    fn wait<'a>(&'a self, id: &'a str, exec: Option<&'a ExecId>) -> BoxFuture<'a, Result<Exit>> {
        let request = WaitRequest {
            container_id: id.to_owned(),
            exec_id: exec_text(exec),
        };
        let step = process_step("wait for container", "wait for exec in container", id, exec);
        Box::pin(past_closed_shim(move || {
            self.wait_once(request.clone(), step)
        }))
    }

    fn delete<'a>(&'a self, id: &'a str, exec: Option<&'a ExecId>) -> BoxFuture<'a, Result<Exit>> {
        Box::pin(past_closed_shim(move || self.delete_once(id, exec)))
    }

    fn exec<'a>(&'a self, request: &'a ExecRequest) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let stdio = &request.stdio;
            let message = self.0.request(ExecProcessRequest {
                container_id: request.id.clone(),
                exec_id: request.exec.to_string(),
                stdin: convert::fifo(stdio.stdin.as_ref()),
                stdout: convert::fifo(stdio.stdout.as_ref()),
                stderr: convert::fifo(stdio.stderr.as_ref()),
                terminal: stdio.terminal,
                spec: Some(convert::any(request.process.clone())),
            });
            let mut stub = self.stub();
            let step = Step("add exec to container", &request.id);
            self.0
                .call(step, limits::SHIM_WRITE, stub.exec(message))
                .await
                .map_err(wrong_state)
        })
    }

    fn update<'a>(&'a self, id: &'a str, resources: Payload) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = self.0.request(UpdateTaskRequest {
                container_id: id.to_owned(),
                resources: Some(convert::any(resources)),
                ..UpdateTaskRequest::default()
            });
            let mut stub = self.stub();
            let step = Step("update resources of container", id);
            self.0
                .call(step, limits::SHIM_WRITE, stub.update(request))
                .await
                .map_err(wrong_state)
        })
    }

    fn pause<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let container_id = id.to_owned();
            let request = self.0.request(PauseTaskRequest { container_id });
            let mut stub = self.stub();
            let step = Step("pause container", id);
            self.0
                .call(step, limits::SHIM_WRITE, stub.pause(request))
                .await
                .map_err(wrong_state)
        })
    }

    fn resume<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(past_closed_shim(move || self.resume_once(id)))
    }

    fn checkpoint<'a>(
        &'a self,
        id: &'a str,
        dirs: &'a CheckpointDirs,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = self.0.request(CheckpointTaskRequest {
                container_id: id.to_owned(),
                options: Some(convert::any(checkpoint::options(dirs)?)),
                ..CheckpointTaskRequest::default()
            });
            let mut stub = self.stub();
            let step = Step("checkpoint container", id);
            self.0
                .call(step, limits::CAPTURE, stub.checkpoint(request))
                .await
                .map(drop)
        })
    }

    fn resize<'a>(
        &'a self,
        id: &'a str,
        exec: Option<&'a ExecId>,
        width: u16,
        height: u16,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = self.0.request(ResizePtyRequest {
                container_id: id.to_owned(),
                exec_id: exec_text(exec),
                width: u32::from(width),
                height: u32::from(height),
            });
            let mut stub = self.stub();
            let step = Step("resize terminal in container", id);
            self.0
                .call(step, limits::SHIM_WRITE, stub.resize_pty(request))
                .await
        })
    }

    fn close_stdin<'a>(
        &'a self,
        id: &'a str,
        exec: Option<&'a ExecId>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = self.0.request(CloseIoRequest {
                container_id: id.to_owned(),
                exec_id: exec_text(exec),
                stdin: true,
            });
            let mut stub = self.stub();
            let step = Step("close stdin in container", id);
            self.0
                .call(step, limits::SHIM_WRITE, stub.close_io(request))
                .await
        })
    }

    fn oom_kills<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            let data = self.metrics_of(id).await?;
            Ok(data.and_then(|data| metrics::oom_kills(&data.type_url, &data.value)))
        })
    }

    fn usage<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<TaskUsage>>> {
        Box::pin(async move {
            let data = self.metrics_of(id).await?;
            Ok(data.and_then(|data| metrics::usage(&data.type_url, &data.value)))
        })
    }
}

/// Repeats a call that came just as the shim's connection closed: what it then says is the truth.
async fn past_closed_shim<T, F>(mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    for pause in SHIM_CLOSED_PAUSES {
        match attempt().await {
            Err(error) if is_closed_shim(&error) => tokio::time::sleep(pause).await,
            other => return other,
        }
    }
    attempt().await
}

fn is_closed_shim(error: &Error) -> bool {
    error.kind() == Kind::Unknown
        && error
            .chain()
            .trim_end_matches(": unknown")
            .ends_with("ttrpc: closed")
}

/// The runc shim says with a plain error that a process's state does not allow a request ("cannot delete a running
/// process"): the kind is lost on the way.
fn wrong_state(error: Error) -> Error {
    const STATES: [&str; 5] = ["created", "running", "paused", "stopped", "deleted"];
    let chain = error.chain();
    let refused = error.kind() == Kind::Unknown
        && STATES
            .iter()
            .any(|state| chain.contains("cannot ") && chain.contains(&format!(" a {state} ")));
    if refused {
        Error::precondition(chain)
    } else {
        error
    }
}

fn exec_text(exec: Option<&ExecId>) -> String {
    exec.map_or_else(String::new, ToString::to_string)
}

const fn process_step<'a>(
    init: &'static str,
    further: &'static str,
    id: &'a str,
    exec: Option<&ExecId>,
) -> Step<'a> {
    match exec {
        None => Step(init, id),
        Some(_) => Step(further, id),
    }
}

fn task_info(process: Process) -> TaskInfo {
    let state = match process.status() {
        WireState::Created => TaskState::Created,
        WireState::Running => TaskState::Running,
        WireState::Stopped => TaskState::Stopped,
        WireState::Paused | WireState::Pausing => TaskState::Paused,
        WireState::Unknown => TaskState::Unknown,
    };
    TaskInfo {
        // What the shim says of an ended process's pid varies: an old number, or minus one.
        pid: if state == TaskState::Stopped {
            Pid(0)
        } else {
            Pid(process.pid)
        },
        state,
        exit: (state == TaskState::Stopped)
            .then(|| convert::exit(process.exit_status, process.exited_at)),
        stdio: convert::stdio(
            process.stdin,
            process.stdout,
            process.stderr,
            process.terminal,
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shim_that_closes_is_asked_three_times_in_all() {
        let asked = Cell::new(0);
        let answer: Result<()> = past_closed_shim(|| {
            asked.set(asked.get() + 1);
            async {
                Err(Error::new(
                    Kind::Unknown,
                    "signal container a: ttrpc: closed: unknown",
                ))
            }
        })
        .await;

        assert_eq!(answer.unwrap_err().kind(), Kind::Unknown);
        assert_eq!(asked.get(), 3);
    }

    #[test]
    fn only_a_closing_connection_is_worth_another_try() {
        let closed = |kind| Error::new(kind, "ttrpc: closed").context("kill task");

        assert!(is_closed_shim(&closed(Kind::Unknown)));
        assert!(!is_closed_shim(&closed(Kind::Unavailable)));
        assert!(!is_closed_shim(&Error::new(
            Kind::Unknown,
            "permission denied"
        )));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_after_a_shim_closed_is_the_answer() {
        let asked = Cell::new(0);
        let answer: Result<()> = past_closed_shim(|| {
            asked.set(asked.get() + 1);
            let first = asked.get() == 1;
            async move {
                Err(if first {
                    Error::new(Kind::Unknown, "failed to delete task: ttrpc: closed")
                } else {
                    Error::not_found("no running task found")
                })
            }
        })
        .await;

        assert_eq!(answer.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(asked.get(), 2);
    }

    #[tokio::test]
    async fn any_other_failure_is_told_at_once() {
        let asked = Cell::new(0);
        let answer: Result<()> = past_closed_shim(|| {
            asked.set(asked.get() + 1);
            async { Err(Error::not_found("process already finished")) }
        })
        .await;

        assert_eq!(answer.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(asked.get(), 1);
    }
}
