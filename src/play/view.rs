//! What was seen and decided, in the words that kubectl would use: a pure function.

use std::collections::BTreeMap;

use super::defaults::{Plan, Role};
use super::lifecycle::{Exit, Phase, Seen, Verdict};
use super::status::{Line, PodLines};
use crate::model::Timestamp;

/// Why a container could not be brought up.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// Kubernetes' word: `ErrImagePull`.
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) at: Timestamp,
}

/// What the driver knows beside what the runtime says.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// What is being done to containers, since they were last seen: `Pulling`.
    pub(super) doing: BTreeMap<usize, &'static str>,
    pub(super) troubles: BTreeMap<usize, Trouble>,
    /// Why we killed a container ourselves, by id.
    pub(super) killed: BTreeMap<String, String>,
    /// What holds the pod as a whole.
    pub(super) pod: String,
}

/// The pod's lines.
pub(super) fn lines(
    plan: &Plan,
    addresses: &[String],
    seen: &[Seen],
    verdict: &Verdict,
    notes: &Notes,
) -> PodLines {
    let mut containers = Vec::new();
    let initializing = matches!(verdict.phase, Phase::Initializing { .. });
    for (index, (container, seen)) in plan.containers.iter().zip(seen).enumerate() {
        let (mut state, mut reason) = told(seen, verdict.waiting.get(&index), notes);
        if *seen == Seen::Missing {
            state = match container.role {
                Role::App if initializing => "PodInitializing".into(),
                _ => "Waiting".into(),
            };
        }
        if let Some(trouble) = notes.troubles.get(&index) {
            state = match trouble.reason {
                "ErrImagePull" if verdict.waiting.contains_key(&index) => "ImagePullBackOff",
                reason => reason,
            }
            .into();
            reason.clone_from(&trouble.message);
        }
        if let Some(doing) = notes.doing.get(&index) {
            state = (*doing).into();
            reason.clear();
        }
        containers.push(Line {
            name: container.spec.name.clone(),
            state,
            restarts: seen.attempt().unwrap_or(0),
            since: since(seen),
            reason,
        });
    }
    PodLines {
        title: plan.title(),
        state: pod_state(plan, &containers, verdict),
        address: addresses.join(" "),
        reason: notes.pod.clone(),
        containers,
    }
}

fn since(seen: &Seen) -> Option<Timestamp> {
    match seen {
        Seen::Running { started_at, .. } => Some(*started_at),
        Seen::Exited { exit, .. } => Some(exit.finished_at),
        Seen::Missing | Seen::Created { .. } => None,
    }
}

fn told(seen: &Seen, due: Option<&Timestamp>, notes: &Notes) -> (String, String) {
    match seen {
        Seen::Missing => (String::new(), String::new()),
        Seen::Created { .. } => ("Created".into(), String::new()),
        Seen::Running { started: false, .. } => {
            ("Running".into(), "the startup probe has not passed".into())
        }
        Seen::Running { ready: false, .. } => {
            ("Running".into(), "the readiness probe does not pass".into())
        }
        Seen::Running { .. } => ("Running".into(), String::new()),
        Seen::Exited { id, exit, .. } => {
            let killed = notes.killed.get(id);
            let why = ended(exit, killed);
            match due {
                Some(due) => {
                    let wait = due.since(exit.finished_at).as_secs();
                    let text = format!("waits {wait}s before the next start; {why}");
                    ("CrashLoopBackOff".into(), text)
                }
                None if exit.code == 0 => ("Completed".into(), exit.message.clone()),
                None if exit.reason.is_empty() => ("Error".into(), why),
                None => (exit.reason.clone(), why),
            }
        }
    }
}

fn ended(exit: &Exit, killed: Option<&String>) -> String {
    let mut text = format!("exit code {}", exit.code);
    if !exit.reason.is_empty() && exit.reason != "Error" {
        text = format!("{}, {text}", exit.reason);
    }
    for more in [Some(&exit.message), killed].into_iter().flatten() {
        if !more.trim().is_empty() {
            text.push_str(": ");
            text.push_str(more.trim());
        }
    }
    text
}

fn pod_state(plan: &Plan, lines: &[Line], verdict: &Verdict) -> String {
    let roles = plan.containers.iter().map(|container| container.role);
    let found = |init: bool| {
        let of = roles
            .clone()
            .zip(lines)
            .filter(move |(role, _)| (*role != Role::App) == init);
        of.map(|(_, line)| line.state.as_str()).find(|state| {
            let plain = [
                "Running",
                "Completed",
                "Waiting",
                "Created",
                "Stopping",
                "PodInitializing",
            ];
            !plain.contains(state)
        })
    };
    match verdict.phase {
        Phase::Succeeded => "Completed".into(),
        Phase::Failed => "Error".into(),
        Phase::Initializing { done, total } => match found(true) {
            Some("Pulling" | "Creating") | None => format!("Init:{done}/{total}"),
            Some(word) => format!("Init:{word}"),
        },
        Phase::Running => match found(false) {
            Some("Pulling" | "Creating") => "ContainerCreating".into(),
            Some(word) => word.into(),
            None if lines.iter().any(|line| line.state == "Waiting") => "ContainerCreating".into(),
            None => "Running".into(),
        },
    }
}
