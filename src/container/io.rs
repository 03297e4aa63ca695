//! Where the FIFOs of tasks and execs lie: one directory a process, root-only, known from the ids alone, so that a
//! restart finds it and nothing has to be recorded.
//!
//! ```text
//! <state>/containers/<container id>/io/task/{stdin,stdout,stderr}
//! <state>/containers/<container id>/io/<exec id>/{stdin,stdout,stderr}
//! ```

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::containerd::Stdio;
use crate::logs::Fifos;
use crate::model::{Classify, ContainerId, Error, ExecId, Kind, Result};
use crate::sys::fifo;

/// The directory of a container's own process.
const TASK: &str = "task";

/// Which streams a process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Something may be written to its standard input.
    pub stdin: bool,
    /// It has a terminal, so that all output is on stdout.
    pub terminal: bool,
}

/// The FIFOs of all containers, beneath the state directory (a tmpfs).
#[derive(Clone, Debug)]
pub struct IoRoot(PathBuf);

impl IoRoot {
    /// Beneath `state_dir`.
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("containers"))
    }

    /// The FIFOs of a container's own process, whether they exist or not.
    pub fn task(&self, container: &ContainerId, streams: Streams) -> ProcessIo {
        self.process(container, TASK, streams)
    }

    /// The FIFOs of a further process, whether they exist or not.
    pub fn exec(&self, container: &ContainerId, exec: &ExecId, streams: Streams) -> ProcessIo {
        self.process(container, exec.as_str(), streams)
    }

    fn process(&self, container: &ContainerId, name: &str, streams: Streams) -> ProcessIo {
        ProcessIo {
            dir: self.of(container).join(name),
            streams,
        }
    }

    fn of(&self, container: &ContainerId) -> PathBuf {
        self.0.join(container.as_str()).join("io")
    }

    /// Removes the FIFOs of a container and of all its execs. Fine where there are none.
    ///
    /// # Errors
    /// `Internal` where the state directory cannot be written.
    pub fn remove_blocking(&self, container: &ContainerId) -> Result<()> {
        remove_tree(&self.of(container))?;
        // The container's directory may hold other files of ours; it goes with the last of them.
        match std::fs::remove_dir(self.0.join(container.as_str())) {
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                Err(Error::internal(format!("remove the directory of {container}")).caused_by(e))
            }
            _ => Ok(()),
        }
    }

    /// Removes what execs left behind that a crash of ours took by surprise; returns how many there were.
    ///
    /// # Errors
    /// `Internal` where the state directory cannot be read or written.
    pub fn sweep_execs_blocking(&self, container: &ContainerId) -> Result<usize> {
        let dir = self.of(container);
        let what = || format!("look for abandoned execs in {dir:?}");
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
            entries => entries.classify(Kind::Internal, what)?,
        };
        let mut count = 0;
        for entry in entries {
            let entry = entry.classify(Kind::Internal, what)?;
            if entry.file_name() != TASK {
                remove_tree(&entry.path())?;
                count += 1;
            }
        }
        Ok(count)
    }
}

/// The FIFOs of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessIo {
    dir: PathBuf,
    streams: Streams,
}

impl ProcessIo {
    /// Makes the directory (0700) and the FIFOs (0600), which may be there already. Three or four system calls on a
    /// tmpfs.
    ///
    /// # Errors
    /// `Internal` where the state directory cannot be written.
    pub fn create_blocking(&self) -> Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .classify(Kind::Internal, || {
                format!("make the directory {:?}", self.dir)
            })?;
        [Some(self.stdout()), self.stderr(), self.stdin()]
            .iter()
            .flatten()
            .try_for_each(|path| fifo::make(path))
    }

    /// Removes the directory. Fine where it is gone.
    ///
    /// # Errors
    /// `Internal` where the state directory cannot be written.
    pub fn remove_blocking(&self) -> Result<()> {
        remove_tree(&self.dir)
    }

    /// Whether the FIFOs are there; a cleaned-up tmpfs takes them from under a running process.
    pub fn exists_blocking(&self) -> bool {
        self.stdout().exists()
    }

    /// What the pump or a capture opens.
    pub fn outputs(&self) -> Fifos {
        Fifos {
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }

    /// The FIFO that the process reads, if it was asked for.
    pub fn stdin(&self) -> Option<PathBuf> {
        self.streams.stdin.then(|| self.dir.join("stdin"))
    }

    /// What containerd is told.
    pub fn stdio(&self) -> Stdio {
        Stdio {
            stdin: self.stdin(),
            stdout: Some(self.stdout()),
            stderr: self.stderr(),
            terminal: self.streams.terminal,
        }
    }

    fn stdout(&self) -> PathBuf {
        self.dir.join("stdout")
    }

    fn stderr(&self) -> Option<PathBuf> {
        (!self.streams.terminal).then(|| self.dir.join("stderr"))
    }
}

fn remove_tree(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(Error::internal(format!("remove {dir:?}")).caused_by(e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_process_gets_the_fifos_of_its_streams() {
        let state = tempfile::tempdir().unwrap();
        let (root, id) = (IoRoot::new(state.path()), ContainerId::generate().unwrap());
        let plain = root.task(&id, Streams::default());
        let exec = ExecId::generate().unwrap();
        let streams = Streams {
            stdin: true,
            terminal: true,
        };
        let terminal = root.exec(&id, &exec, streams);

        plain.create_blocking().unwrap();
        plain.create_blocking().unwrap();
        terminal.create_blocking().unwrap();

        let io = state.path().join("containers").join(id.as_str()).join("io");
        assert_eq!(names(&io.join("task")), ["stderr", "stdout"]);
        assert_eq!(names(&io.join(exec.as_str())), ["stdin", "stdout"]);
        let about = |path: PathBuf| {
            let meta = std::fs::metadata(path).unwrap();
            (
                meta.file_type().is_fifo(),
                meta.permissions().mode() & 0o777,
            )
        };
        assert_eq!(about(io.join("task")), (false, 0o700));
        assert_eq!(about(plain.outputs().stdout), (true, 0o600));
        assert_eq!(
            terminal.stdio().stdin,
            Some(io.join(exec.as_str()).join("stdin"))
        );
        assert_eq!(terminal.stdio().stderr, None);
    }

    #[test]
    fn nothing_stays_and_removing_twice_is_fine() {
        let state = tempfile::tempdir().unwrap();
        let (root, id) = (IoRoot::new(state.path()), ContainerId::generate().unwrap());
        let task = root.task(&id, Streams::default());
        task.create_blocking().unwrap();
        for _ in 0..3 {
            let exec = ExecId::generate().unwrap();
            let io = root.exec(&id, &exec, Streams::default());
            io.create_blocking().unwrap();
        }

        assert_eq!(root.sweep_execs_blocking(&id).unwrap(), 3);
        assert!(task.exists_blocking());
        for _ in 0..2 {
            task.remove_blocking().unwrap();
            root.remove_blocking(&id).unwrap();
            assert_eq!(root.sweep_execs_blocking(&id).unwrap(), 0);
        }

        assert_eq!(names(&state.path().join("containers")), [""; 0]);
    }
}
