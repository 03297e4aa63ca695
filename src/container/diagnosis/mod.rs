//! Why a container ended, or would not start, in words for people.
//!
//! Kubelet shows `reason` and `message` to users and compares them, so they stay what the contract says (pods 4.3); this
//! goes to the log and to verbose info, and to `message` only where that is switched on or the start failed.

mod elf;
mod end;
mod last_words;
mod program;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::index::ContainerView;
use crate::model::Termination;
use crate::sys::{self, rootfs::Layers};

use super::{Containers, Site};
use end::End;
use program::Program;

/// A diagnosis must not keep anybody waiting: what is not found out by then stays unknown.
const LIMIT: Duration = Duration::from_secs(2);

impl Containers {
    /// What kept the container's program from being started, `failed` being the OCI runtime's words; `None` where they
    /// are not about the program, or nothing is found.
    pub(super) async fn diagnose_start(
        &self,
        view: &ContainerView,
        failed: &str,
    ) -> Option<String> {
        if !failed.contains("exec") {
            return None;
        }
        let found = tokio::time::timeout(LIMIT, self.program_fault(view)).await;
        found.ok().flatten()
    }

    /// Says why a container ended, once its end is known, and keeps that; a clean end needs no words.
    pub(super) async fn diagnose_end(
        &self,
        view: &ContainerView,
        site: &Site,
        ended: &Termination,
        oom_killed: bool,
    ) -> String {
        if ended.code == 0 || !ended.reason.is_empty() {
            return String::new();
        }
        let (peak, words) = tokio::join!(self.memory_peak(view, oom_killed), self.last_words(view));
        let fault = match words.last().filter(|line| last_words::are_of_exec(line)) {
            Some(_) => tokio::time::timeout(LIMIT, self.program_fault(view))
                .await
                .ok()
                .flatten(),
            None => None,
        };
        let text = End {
            code: ended.code,
            oom_killed,
            memory_limit: view.resources.memory_limit,
            memory_peak: peak,
            killed_by_us: site.was_killed_by_us(),
            fault: fault.as_deref(),
            last_words: &words,
        }
        .to_string();
        tracing::info!(container.id = %view.id, diagnosis = text, "why the container ended");
        text
    }

    async fn program_fault(&self, view: &ContainerView) -> Option<String> {
        let program = program_of(view)?;
        let mounts = self
            .deps
            .containerd
            .snapshots
            .mounts(&view.snapshotter, view.snapshot_key())
            .await
            .ok()?;
        let last = mounts.last()?;
        let layers = Layers::of_mount(&last.kind, &last.source, &last.options)?;
        let look = move || layers.with_root_blocking(|root| Ok(program.fault_blocking(root)));
        sys::off_thread("look for a container's program", look)
            .await
            .ok()?
    }

    async fn last_words(&self, view: &ContainerView) -> Vec<String> {
        if view.log_path.is_empty() {
            return Vec::new();
        }
        let path = PathBuf::from(&view.log_path);
        let what = format!("read the end of {}", path.display());
        let read = move || last_words::read_blocking(&path);
        let pod = view.sandbox.as_str();
        let words = self.deps.paths.run(pod, what, LIMIT, read).await;
        words.unwrap_or_default()
    }
}

fn program_of(view: &ContainerView) -> Option<Program> {
    let spec = crate::spec::decode_spec(&view.spec).ok()?;
    let process = spec.process().as_ref()?;
    let env = process.env().as_deref().unwrap_or_default();
    let path = env.iter().find_map(|pair| pair.strip_prefix("PATH="));
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    Some(Program {
        name: process.args().as_ref()?.first()?.clone(),
        path: path.unwrap_or_default().to_owned(),
        directory: process.cwd().clone(),
        uid: view.user.uid,
        gids: view.user.groups.clone(),
        mounts: mounts
            .iter()
            .map(|mount| mount.destination().clone())
            .filter(|path| path != Path::new("/"))
            .collect(),
    })
}
