//! StopContainer: one shared session per container. The signal is sent once, the deadline is the earliest that any
//! caller asked for, and the answer comes only after the end is recorded.
//!
//! Stop always answers and never lies: while a process lives the container stays RUNNING, and the call says which process
//! hangs where.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::index::ContainerView;
use crate::model::state::ContainerState;
use crate::model::{ContainerId, Error, Result, Signal};
use crate::ops::{Edge, Operation, gate};
use crate::sys;

use super::{Containers, Site};

/// How long a process may take to end after SIGKILL before the call says what holds it.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// A grace beyond this is as good as none at all.
const LONGEST_GRACE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// First pause between two SIGKILLs.
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// The stop that all callers share: the earliest deadline asked for, `None` while none is running.
#[derive(Debug)]
pub(super) struct StopSession(watch::Sender<Option<Instant>>);

impl Default for StopSession {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl StopSession {
    /// Asks for an end by `deadline`; answers whether the caller is the first and must lead.
    fn ask(&self, deadline: Instant) -> bool {
        let mut leads = false;
        self.0.send_if_modified(|current| {
            leads = current.is_none();
            let sooner = current.is_none_or(|current| deadline < current);
            if sooner {
                *current = Some(deadline);
            }
            sooner
        });
        leads
    }

    fn over(&self) {
        self.0.send_replace(None);
    }

    /// Waits until somebody asks for an end.
    pub(super) async fn is_asked(&self) {
        let mut asked = self.0.subscribe();
        // An error would mean that the session is gone, and with it the container.
        drop(asked.wait_for(Option::is_some).await);
    }

    /// Waits until nobody leads any more.
    async fn is_over(&self) {
        let mut asked = self.0.subscribe();
        // An error would mean that the session is gone, and with it whoever led it.
        drop(asked.wait_for(Option::is_none).await);
    }

    /// Waits until the deadline, which may move closer meanwhile.
    async fn deadline(&self) {
        let mut asked = self.0.subscribe();
        loop {
            let until = *asked.borrow_and_update();
            let Some(until) = until else { return };
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                changed = asked.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Ends the session however its leader ends.
struct Leading<'a>(&'a StopSession);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.over();
    }
}

impl Containers {
    /// Stops a container, giving it `grace` seconds between its stop signal and SIGKILL; none where that is not
    /// positive. Unknown, never started and ended ones count as stopped. Runs on when the caller leaves.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty or ambiguous id; `DeadlineExceeded` where a process outlives SIGKILL.
    pub async fn stop(&self, text: &str, grace: i64) -> Result<()> {
        let Some(view) = self.find(text)? else {
            return Ok(());
        };
        let Some(site) = self.site(&view.id) else {
            return Ok(());
        };
        let grace = u64::try_from(grace)
            .map_or(Duration::ZERO, Duration::from_secs)
            .min(LONGEST_GRACE);
        self.stop_by(view, site, grace).await
    }

    pub(super) async fn stop_by(
        &self,
        view: Arc<ContainerView>,
        site: Arc<Site>,
        grace: Duration,
    ) -> Result<()> {
        let this = self.clone();
        self.deps
            .supervisor
            .detached("StopContainer", async move {
                let id = view.id.clone();
                this.stop_whole(view, &site, grace).await?;
                this.tell_ended(&id, &site).await;
                Ok(())
            })
            .await
    }

    async fn stop_whole(
        &self,
        view: Arc<ContainerView>,
        site: &Site,
        grace: Duration,
    ) -> Result<()> {
        let id = &view.id;
        let operation = self.deps.live.begin(
            "StopContainer",
            format!("{} {}", view.config.identity.name, id.short()),
        );
        operation.step("wait for a start in progress");
        // A start holds the lock; afterwards the state says whether there is anything to stop.
        let state = {
            let _transition = site.lock.lock().await;
            self.deps
                .index
                .snapshot()
                .container(id)
                .map(|view| view.state)
        };
        if !matches!(
            state,
            Some(ContainerState::Running | ContainerState::Unknown)
        ) {
            return Ok(());
        }
        let deadline = Instant::now() + grace;
        let limit = deadline + KILL_LIMIT + Duration::from_secs(1);
        loop {
            if site.stop.ask(deadline) {
                let _over_at_the_end = Leading(&site.stop);
                let grace = deadline.saturating_duration_since(Instant::now());
                return self.lead(&view, site, grace, &operation).await;
            }
            operation.step("wait for the stop in progress");
            operation.patiently();
            operation.waits_on_process(view.pid);
            tokio::select! {
                () = self.ended(id) => return Ok(()),
                () = tokio::time::sleep_until(limit) => return Err(self.still_alive(&view).await),
                // Who led gave up, perhaps for a reason that has passed: this caller goes on in its place.
                () = site.stop.is_over() => {}
            }
        }
    }

    /// The first caller's part: signal, grace, SIGKILL, bounded wait.
    async fn lead(
        &self,
        view: &ContainerView,
        site: &Site,
        grace: Duration,
        operation: &Operation,
    ) -> Result<()> {
        let id = &view.id;
        if !grace.is_zero() {
            let step = operation.step("signal");
            gate("stop_container", "signal", Edge::Before).await;
            let signal = self.signal(id, site, view.stop_signal, false);
            step.hold(signal).await?;
            gate("stop_container", "signal", Edge::After).await;
            operation.step("grace");
            operation.patiently();
            operation.waits_on_process(view.pid);
            tokio::select! {
                () = self.ended(id) => return Ok(()),
                () = site.stop.deadline() => {}
            }
        }
        let step = operation.step("kill");
        operation.waits_on_process(view.pid);
        gate("stop_container", "kill", Edge::Before).await;
        let until = Instant::now() + KILL_LIMIT;
        let mut pause = KILL_AGAIN;
        while Instant::now() < until {
            let signal = self.signal(id, site, Signal::KILL, true);
            step.clone().hold(signal).await?;
            if tokio::time::timeout(pause, self.ended(id)).await.is_ok() {
                gate("stop_container", "kill", Edge::After).await;
                return Ok(());
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        Err(self.still_alive(view).await)
    }

    /// Sends a signal to the init process, or to all; one that is gone already is none of our trouble, since the vigil
    /// sees its end.
    async fn signal(&self, id: &ContainerId, site: &Site, signal: Signal, all: bool) -> Result<()> {
        if signal == Signal::KILL {
            site.killed.store(true, Ordering::Release);
        }
        match self
            .deps
            .containerd
            .tasks
            .kill(id.as_str(), None, signal, all)
            .await
        {
            Err(error) if error.is_not_found() => {
                self.nudge(id.as_str());
                Ok(())
            }
            sent => sent,
        }
    }

    /// Waits until the container's end is recorded, or it is gone altogether.
    pub(super) async fn ended(&self, id: &ContainerId) {
        self.deps
            .index
            .until(|now| match now.container(id).map(|view| view.state) {
                None | Some(ContainerState::Exited | ContainerState::Removing) => Some(()),
                Some(_) => None,
            })
            .await;
    }

    /// What holds a process that outlived SIGKILL.
    async fn still_alive(&self, view: &ContainerView) -> Error {
        let pid = self
            .deps
            .index
            .snapshot()
            .container(&view.id)
            .and_then(|view| view.pid);
        let place = match pid {
            Some(pid) => {
                let look = move || {
                    let command =
                        sys::process::command_blocking(pid).unwrap_or_else(|| "?".to_owned());
                    let channel = sys::process::wait_channel_blocking(pid)
                        .unwrap_or_else(|| "unknown".to_owned());
                    Ok(format!(
                        "process {pid} ({command}) waits in kernel function {channel}"
                    ))
                };
                sys::off_thread("look at a process", look)
                    .await
                    .unwrap_or_else(|error| error.chain())
            }
            None => "its process is not known".to_owned(),
        };
        Error::deadline(format!(
            "container {}: still alive {KILL_LIMIT:?} after SIGKILL (step kill): {place}; it stays RUNNING until it ends",
            view.id.short()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_caller_leads_and_a_shorter_second_stop_shortens_the_grace() {
        let session = StopSession::default();
        let start = Instant::now();
        assert!(session.ask(start + Duration::from_secs(60)));
        assert!(!session.ask(start + Duration::from_secs(90)));

        let shorten = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!session.ask(start + Duration::from_secs(5)));
        };
        tokio::join!(session.deadline(), shorten);

        assert_eq!(start.elapsed(), Duration::from_secs(5));
        session.over();
        assert!(session.ask(Instant::now()));
    }
}
