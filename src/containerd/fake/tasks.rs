//! Rules of tasks and execs: states, signals, exits.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::State;
use crate::containerd::{
    CheckpointDirs, Event, ExecRequest, Exit, Payload, Stdio, TaskInfo, TaskRequest, TaskState,
    TaskUsage,
};
use crate::model::{Error, ExecId, Kind, Pid, Result, Signal};

/// How a task takes signals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Any signal that ends a process by default ends it, with 128 + n.
    #[default]
    Obedient,
    /// Only SIGKILL ends it.
    IgnoresTerm,
    /// Nothing ends it, as in uninterruptible sleep; [`super::World::exit`] still does.
    Unkillable,
}

/// A process, init or exec.
pub(super) struct Process {
    pid: Pid,
    state: TaskState,
    stdio: Stdio,
    exit: watch::Sender<Option<Exit>>,
}

/// A task.
pub(super) struct Task {
    init: Process,
    pub(super) execs: BTreeMap<String, Process>,
    oom_kills: u64,
    resources: Option<Payload>,
    /// What it was created with.
    options: Option<Payload>,
}

impl Process {
    fn new(pid: Pid, stdio: &Stdio) -> Self {
        Self {
            pid,
            state: TaskState::Created,
            stdio: stdio.clone(),
            exit: watch::Sender::new(None),
        }
    }

    fn end(&mut self, exit: Exit) {
        self.state = TaskState::Stopped;
        self.exit.send_replace(Some(exit));
    }

    fn has_ended(&self) -> bool {
        self.state == TaskState::Stopped
    }

    fn info(&self) -> TaskInfo {
        TaskInfo {
            pid: if self.has_ended() { Pid(0) } else { self.pid },
            state: self.state,
            exit: *self.exit.borrow(),
            stdio: self.stdio.clone(),
        }
    }
}

impl State {
    fn task(&mut self, id: &str) -> Result<&mut Task> {
        let task = self.tasks.get_mut(id);
        task.ok_or_else(|| Error::not_found(format!("task {id:?}")))
    }

    fn process(&mut self, id: &str, exec: Option<&ExecId>) -> Result<&mut Process> {
        let task = self.task(id)?;
        match exec {
            None => Ok(&mut task.init),
            Some(exec) => {
                let process = task.execs.get_mut(exec.as_str());
                process.ok_or_else(|| Error::not_found(format!("exec {exec} of task {id:?}")))
            }
        }
    }

    pub(super) fn create_task(&mut self, request: &TaskRequest) -> Result<Pid> {
        self.container(&request.id)?;
        if self.tasks.contains_key(&request.id) {
            return Err(Error::already_exists(format!("task {:?}", request.id)));
        }
        check_stdio(&request.stdio)?;
        let pid = self.take_pid();
        let task = Task {
            init: Process::new(pid, &request.stdio),
            execs: BTreeMap::new(),
            oom_kills: 0,
            resources: None,
            options: request.options.clone(),
        };
        self.tasks.insert(request.id.clone(), task);
        // A task that is to be restored has no process before its start.
        Ok(request.options.as_ref().map_or(pid, |_restored| Pid(0)))
    }

    pub(super) fn start(&mut self, id: &str, exec: Option<&ExecId>) -> Result<Pid> {
        let exec_code = self.exec_code;
        let exec_pid = exec.map(|_exec| self.take_pid());
        let process = self.process(id, exec)?;
        if process.state != TaskState::Created {
            return Err(Error::precondition(format!(
                "process of task {id:?} was started before"
            )));
        }
        process.state = TaskState::Running;
        process.pid = exec_pid.unwrap_or(process.pid);
        let pid = process.pid;
        if let (Some(exec), Some(code)) = (exec, exec_code) {
            self.end_exec(id, exec.as_str(), code);
        }
        Ok(pid)
    }

    pub(super) fn task_info(&mut self, id: &str, exec: Option<&ExecId>) -> Result<TaskInfo> {
        Ok(self.process(id, exec)?.info())
    }

    pub(super) fn exit_of(
        &mut self,
        id: &str,
        exec: Option<&ExecId>,
    ) -> Result<watch::Receiver<Option<Exit>>> {
        Ok(self.process(id, exec)?.exit.subscribe())
    }

    pub(super) fn kill(
        &mut self,
        id: &str,
        exec: Option<&ExecId>,
        signal: Signal,
        all: bool,
    ) -> Result<()> {
        let behaviour = self.behaviours.get(id).copied().unwrap_or_default();
        let process = self.process(id, exec)?;
        if process.has_ended() {
            return Err(Error::not_found(format!(
                "process of task {id:?} has finished"
            )));
        }
        let ends = match behaviour {
            Behaviour::Obedient => !is_ignored_by_default(signal),
            Behaviour::IgnoresTerm => signal == Signal::KILL,
            Behaviour::Unkillable => false,
        };
        if !ends {
            return Ok(());
        }
        let code = 128 + u32::from(signal.number());
        match exec {
            Some(exec) if !all => self.end_exec(id, exec.as_str(), code),
            Some(_) | None => self.end_init(id, code),
        }
        Ok(())
    }

    pub(super) fn delete_task(&mut self, id: &str, exec: Option<&ExecId>) -> Result<Exit> {
        let killed = self.exit_now(137);
        let process = self.process(id, exec)?;
        let running = matches!(process.state, TaskState::Running | TaskState::Paused);
        if running {
            return Err(Error::precondition(format!(
                "process of task {id:?} still runs"
            )));
        }
        // A process that was never started goes the way of SIGKILL.
        let exit = process.exit.borrow().unwrap_or(killed);
        process.end(exit);
        match exec {
            None => {
                self.tasks.remove(id);
            }
            Some(exec) => {
                self.task(id)?.execs.remove(exec.as_str());
            }
        }
        Ok(exit)
    }

    pub(super) fn add_exec(&mut self, request: &ExecRequest) -> Result<()> {
        check_stdio(&request.stdio)?;
        let task = self.task(&request.id)?;
        if task.init.has_ended() {
            return Err(Error::precondition("cannot exec in a stopped state"));
        }
        let exec = request.exec.to_string();
        if task.execs.contains_key(&exec) {
            return Err(Error::already_exists(format!("exec {exec}")));
        }
        task.execs
            .insert(exec, Process::new(Pid(0), &request.stdio));
        Ok(())
    }

    /// A call that needs a process, running or not, and changes nothing here: resize, close of stdin.
    pub(super) fn touch(&mut self, id: &str, exec: Option<&ExecId>) -> Result<()> {
        self.process(id, exec).map(|_process| ())
    }

    pub(super) fn update_task(&mut self, id: &str, resources: Payload) -> Result<()> {
        let task = self.task(id)?;
        if task.init.has_ended() {
            return Err(Error::precondition("cannot update a stopped container"));
        }
        task.resources = Some(resources);
        Ok(())
    }

    pub(super) fn pause(&mut self, id: &str) -> Result<()> {
        let init = &mut self.task(id)?.init;
        if init.state != TaskState::Running {
            return Err(Error::precondition("cannot pause a task that does not run"));
        }
        init.state = TaskState::Paused;
        Ok(())
    }

    pub(super) fn resume(&mut self, id: &str) -> Result<()> {
        let init = &mut self.task(id)?.init;
        match init.state {
            TaskState::Paused | TaskState::Running => {
                init.state = TaskState::Running;
                Ok(())
            }
            _ => Err(Error::precondition(
                "cannot resume a task that is not paused",
            )),
        }
    }

    pub(super) fn frozen(&self) -> Vec<String> {
        let frozen = self
            .tasks
            .iter()
            .filter(|(_, task)| task.init.state == TaskState::Paused);
        frozen.map(|(id, _)| id.clone()).collect()
    }

    /// Writes what CRIU would, in small.
    pub(super) fn checkpoint(&mut self, id: &str, dirs: &CheckpointDirs) -> Result<()> {
        let state = self.task(id)?.init.state;
        if !matches!(state, TaskState::Running | TaskState::Paused) {
            return Err(Error::precondition("cannot checkpoint a stopped task"));
        }
        for (dir, name) in [
            (&dirs.images, "inventory.img"),
            (&dirs.images, "pages-1.img"),
            (&dirs.images, "core-1.img"),
            (&dirs.work, "dump.log"),
            (&dirs.work, "stats-dump"),
        ] {
            std::fs::write(dir.join(name), format!("{name} of {id}"))
                .map_err(|error| Error::internal(format!("write {name}")).caused_by(error))?;
        }
        Ok(())
    }

    /// The options that a task was created with.
    pub(super) fn options(&self, id: &str) -> Option<Payload> {
        self.tasks.get(id)?.options.clone()
    }

    /// What the last update of a task asked for.
    pub(super) fn resources(&self, id: &str) -> Option<Payload> {
        self.tasks.get(id)?.resources.clone()
    }

    pub(super) fn oom_kills(&mut self, id: &str) -> Result<Option<u64>> {
        Ok(Some(self.task(id)?.oom_kills))
    }

    /// Every task of this world uses the same.
    pub(super) fn usage(&mut self, id: &str) -> Result<Option<TaskUsage>> {
        self.task(id)?;
        Ok(Some(TaskUsage {
            cpu_ns: 1_000_000,
            memory_bytes: 4_096,
            ..TaskUsage::default()
        }))
    }

    pub(super) fn count_oom(&mut self, id: &str) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.oom_kills += 1;
            self.publish(Event::TaskOom {
                container: id.to_owned(),
            });
        }
    }

    /// Ends init and, as its PID namespace goes, all execs: their exits are told first.
    pub(super) fn end_init(&mut self, id: &str, code: u32) {
        let execs: Vec<String> = match self.tasks.get(id) {
            Some(task) => task.execs.keys().cloned().collect(),
            None => panic!("no task {id:?} to end"),
        };
        for exec in execs {
            self.end_exec(id, &exec, 137);
        }
        self.end(id, None, code);
    }

    pub(super) fn end_exec(&mut self, id: &str, exec: &str, code: u32) {
        self.end(id, Some(exec), code);
    }

    fn end(&mut self, id: &str, exec: Option<&str>, code: u32) {
        let exit = self.exit_now(code);
        let Some(task) = self.tasks.get_mut(id) else {
            panic!("no task {id:?} to end");
        };
        let process = match exec {
            None => &mut task.init,
            Some(exec) => match task.execs.get_mut(exec) {
                Some(process) => process,
                None => panic!("task {id:?} has no exec {exec:?} to end"),
            },
        };
        if process.has_ended() {
            return;
        }
        process.end(exit);
        let pid = process.pid;
        self.publish(Event::TaskExit {
            container: id.to_owned(),
            exec: exec.map(ToOwned::to_owned),
            pid,
            exit,
        });
    }
}

/// CHLD, CONT, URG and WINCH end nobody; stops are not exits either.
fn is_ignored_by_default(signal: Signal) -> bool {
    matches!(signal.number(), 17..=23 | 28)
}

/// The runc shim copies neither or both of output and errors, unless there is a terminal.
fn check_stdio(stdio: &Stdio) -> Result<()> {
    if !stdio.terminal && stdio.stdout.is_some() != stdio.stderr.is_some() {
        return Err(Error::new(
            Kind::Unknown,
            "failed to start io pipe copy: opening file \"\": want both stdout and stderr, or neither",
        ));
    }
    Ok(())
}
