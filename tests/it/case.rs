//! A case as data: its name, what it needs of the machine, how long it may take, what it does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;

use crate::node::{self, Node};
use crate::pinned;

/// What a case, or a step of one, ends with.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The body of a case.
pub(crate) type Body = for<'n> fn(&'n Node) -> BoxFuture<'n, Outcome>;

/// One test on a node of its own.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Programs without which the case is impossible.
    pub(crate) needs: &'static [&'static str],
    /// Says what else the case is impossible without.
    pub(crate) lacks: fn() -> Option<String>,
    /// After this the whole node is killed and the case has failed.
    pub(crate) deadline: Duration,
    /// The node has the newest containerd and runc instead of the machine's own.
    pub(crate) newest: bool,
    pub(crate) run: Body,
}

/// What every node is made of.
const ALWAYS: &[&str] = &["containerd", "ctr", "runc", "ip", "iptables"];

/// The folders of the newest containerd and runc.
pub(crate) fn newest() -> Outcome<[PathBuf; 2]> {
    Ok([pinned::containerd_folder()?, pinned::runc_folder()?])
}

impl Case {
    pub(crate) const fn new(name: &'static str, run: Body) -> Self {
        Self {
            name,
            needs: &[],
            lacks: || None,
            deadline: Duration::from_secs(120),
            newest: false,
            run,
        }
    }

    pub(crate) const fn needs(mut self, programs: &'static [&'static str]) -> Self {
        self.needs = programs;
        self
    }

    pub(crate) const fn unless(mut self, lacks: fn() -> Option<String>) -> Self {
        self.lacks = lacks;
        self
    }

    pub(crate) const fn newest(mut self) -> Self {
        self.newest = true;
        self
    }

    pub(crate) const fn within(mut self, seconds: u64) -> Self {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    /// Why the case cannot run here, if it cannot.
    pub(crate) fn obstacle(&self) -> Option<String> {
        if !node::is_root() {
            return Some(String::from(
                "it makes namespaces and mounts, so it needs root",
            ));
        }
        if !Path::new("/usr/lib/cni/bridge").exists() && !Path::new("/opt/cni/bin/bridge").exists()
        {
            return Some(String::from(
                "no CNI plugins: apt-get install containernetworking-plugins",
            ));
        }
        let lack = (self.lacks)().or_else(|| {
            newest()
                .err()
                .filter(|_| self.newest)
                .map(|e| e.to_string())
        });
        if lack.is_some() {
            return lack;
        }
        ALWAYS
            .iter()
            .chain(self.needs)
            .find(|program| find_program(program).is_none())
            .map(|program| format!("{program} is not installed: run deploy/setup test"))
    }
}

/// Where `program` stands on PATH, or in the folders of root's that a PATH may lack.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|folder| Path::new(folder).join(program))
        .find(|candidate| candidate.is_file())
}
