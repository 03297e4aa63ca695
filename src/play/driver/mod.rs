//! Runs one pod: sees, decides, acts, and shows it, until the pod has ended or somebody calls it off. What was seen
//! is all that decides, so a pod that runs already is simply taken over.

mod sandbox;
mod show;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::model::{Clock, Error, Kind, Result, Timestamp};
use crate::play::defaults::Role;
use crate::play::dirs::log_path;
use crate::play::lifecycle::{Backoff, Phase, Seen, Step, Verdict, decide};
use crate::play::observe::{Facts, Observed, blocking, remove_log_blocking};
use crate::play::probes::{Health, Patient};
use crate::play::start::{Ground, Refused, Sandbox};
use crate::play::status::Screen;
use crate::play::view::{Notes, Trouble};
use crate::play::{CallOff, hooks};

/// How often the runtime is asked.
const PERIOD: Duration = Duration::from_millis(500);
/// The pause after a failure of the pod as a whole.
const RETRY: Duration = Duration::from_secs(5);

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The pod has ended.
    Ended,
    /// All ordinary containers run; a failure on the way ends it too.
    Up,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Succeeded,
    /// With the reason.
    Failed(String),
    Up,
    Interrupted,
    /// Somebody else deletes it.
    Deleted,
}

/// The output that all pods of one call share.
pub(super) type SharedScreen = Arc<Mutex<Screen>>;

/// What a driver is given.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) cgroup_parent: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) screen: SharedScreen,
    /// The pod's place on the screen.
    pub(super) index: usize,
    pub(super) call_off: CallOff,
}

/// One pod's driver.
pub(super) struct Driver {
    ground: Ground,
    setting: Setting,
    facts: Facts,
    health: Health,
    /// Waits between starts of containers that end, and between tries of those that cannot be brought up.
    crashes: Backoff,
    failures: Backoff,
    notes: Notes,
    sandbox: Option<Sandbox>,
    told_changed: bool,
    /// Held while a sandbox is being made.
    making: Arc<tokio::sync::Mutex<()>>,
    last: Option<(Vec<Seen>, Verdict)>,
}

impl Driver {
    pub(super) fn new(ground: Ground, setting: Setting) -> Self {
        Self {
            ground,
            setting,
            facts: Facts::default(),
            health: Health::default(),
            crashes: Backoff::default(),
            failures: Backoff::default(),
            notes: Notes::default(),
            sandbox: None,
            told_changed: false,
            making: Arc::default(),
            last: None,
        }
    }

    /// Runs the pod. A call-off takes effect at any await but one: a sandbox in the making is waited for, else it could
    /// appear when nobody looks for it any more.
    ///
    /// # Errors
    /// What no retry mends: a manifest that the runtime refuses, volumes that cannot be made.
    pub(super) async fn run(&mut self, until: Until) -> Result<Outcome> {
        let (call_off, making) = (self.setting.call_off.clone(), Arc::clone(&self.making));
        let called_off = async {
            call_off.stop.cancelled().await;
            call_off.hurry.run_until_cancelled(making.lock()).await;
        };
        tokio::select! {
            outcome = self.course(until) => outcome,
            () = called_off => Ok(Outcome::Interrupted),
        }
    }

    async fn course(&mut self, until: Until) -> Result<Outcome> {
        loop {
            let pause = match self.turn(until).await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => PERIOD,
                Err(error) if self.gives_up(&error, until) => return Err(error),
                Err(error) => {
                    self.notes.pod = format!("{error}; tried again in {}s", RETRY.as_secs());
                    self.show()?;
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn gives_up(&self, error: &Error, until: Until) -> bool {
        let hopeless = matches!(
            error.kind(),
            Kind::InvalidArgument | Kind::NotFound | Kind::PermissionDenied | Kind::Unimplemented
        );
        self.sandbox.is_none() && (hopeless || until == Until::Up)
    }

    /// One round. The outcome, once there is one.
    async fn turn(&mut self, until: Until) -> Result<Option<Outcome>> {
        if self.is_deleted().await? {
            return Ok(Some(Outcome::Deleted));
        }
        let Some(sandbox) = self.sandbox().await? else {
            return Ok(Some(Outcome::Failed("the sandbox ended".into())));
        };
        let observed = self.observe(&sandbox).await?;
        self.notes.pod.clear();
        self.notes.doing.clear();
        let now = self.setting.clock.now();
        let verdict = self.decide(&observed.seen, now);
        self.last = Some((observed.seen.clone(), verdict.clone()));
        self.show()?;
        match verdict.phase {
            Phase::Succeeded | Phase::Failed => {
                self.ground.cri.stop_sandbox(&sandbox.id).await?;
                return Ok(Some(match verdict.phase {
                    Phase::Succeeded => Outcome::Succeeded,
                    _ => Outcome::Failed(self.why(&observed.seen)),
                }));
            }
            Phase::Running if until == Until::Up && self.is_up(&observed.seen) => {
                return Ok(Some(Outcome::Up));
            }
            Phase::Running | Phase::Initializing { .. } => {}
        }
        for step in &verdict.steps {
            self.act(step, &sandbox, &observed.seen).await?;
        }
        if until == Until::Up
            && let Some(trouble) = self.notes.troubles.values().next()
        {
            let text = format!("{}: {}", trouble.reason, trouble.message);
            return Ok(Some(Outcome::Failed(text)));
        }
        self.clear_old_attempts(&observed).await;
        self.probe(&sandbox, &observed.seen).await?;
        Ok(None)
    }

    async fn observe(&mut self, sandbox: &Sandbox) -> Result<Observed> {
        let ground = &self.ground;
        let observed = self
            .facts
            .observe(
                &ground.cri,
                &ground.plan,
                &sandbox.id,
                &ground.dirs,
                &self.health,
            )
            .await?;
        if !observed.changed.is_empty() && !self.told_changed {
            self.told_changed = true;
            self.say(&format!(
                "{}: runs from another manifest than this one ({}); play --down and play again make the change",
                ground.plan.title(),
                observed.changed.join(", ")
            ))?;
        }
        Ok(observed)
    }

    fn decide(&self, seen: &[Seen], now: Timestamp) -> Verdict {
        let plan = &self.ground.plan;
        let roles: Vec<Role> = plan.containers.iter().map(|one| one.role).collect();
        let mut not_before = BTreeMap::new();
        for (index, seen) in seen.iter().enumerate() {
            let crashed = match seen {
                Seen::Exited { exit, .. } => Some(self.crashes.due(index, exit.finished_at)),
                _ => None,
            };
            let trouble = self.notes.troubles.get(&index);
            let failed = trouble.map(|trouble| self.failures.due(index, trouble.at));
            if let Some(due) = crashed.max(failed) {
                not_before.insert(index, due);
            }
        }
        decide(plan.restart, &roles, seen, &not_before, now)
    }

    async fn act(&mut self, step: &Step, sandbox: &Sandbox, seen: &[Seen]) -> Result<()> {
        let plan = Arc::clone(&self.ground.plan);
        match step {
            Step::Stop { index, id } => {
                let container = plan.containers.get(*index);
                self.doing(*index, "Stopping")?;
                hooks::stop(&self.ground.cri, id, container, plan.grace_s).await?;
            }
            Step::Start {
                index,
                attempt,
                replaces,
            } => {
                if let Some(old) = replaces {
                    self.ground.cri.remove(old).await?;
                }
                let now = self.setting.clock.now();
                if let Some(Seen::Exited { exit, .. }) = seen.get(*index) {
                    self.crashes.note(*index, exit.finished_at, now);
                }
                let attempt = match seen.get(*index) {
                    Some(Seen::Missing) => self.ground.first_attempt(*index).await?,
                    _ => *attempt,
                };
                let brought = self.bring_up(*index, attempt, sandbox).await?;
                match brought {
                    Ok(()) => {
                        self.notes.troubles.remove(index);
                        self.failures.forget(*index);
                    }
                    Err(refused) => {
                        self.note_trouble(*index, &refused);
                        self.show()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The outer error is the screen's.
    async fn bring_up(
        &mut self,
        index: usize,
        attempt: u32,
        sandbox: &Sandbox,
    ) -> Result<Result<(), Refused>> {
        let ground = self.ground.clone();
        let Some(container) = ground.plan.containers.get(index) else {
            return Ok(Ok(()));
        };
        let image = match ground.present(container).await {
            Ok(Some(image)) => Ok(image),
            Ok(None) => {
                self.doing(index, "Pulling")?;
                ground.pull(container, sandbox).await
            }
            Err(refused) => Err(refused),
        };
        let image = match image {
            Ok(image) => image,
            Err(refused) => return Ok(Err(refused)),
        };
        self.doing(index, "Creating")?;
        let made = ground.create(container, &image, sandbox, attempt).await;
        Ok(match made {
            Ok(id) => ground.start(container, &id).await,
            Err(refused) => Err(refused),
        })
    }

    fn note_trouble(&mut self, index: usize, refused: &Refused) {
        let now = self.setting.clock.now();
        self.failures.note(index, now, now);
        let trouble = Trouble {
            reason: refused.reason,
            message: refused.error.chain(),
            at: now,
        };
        self.notes.troubles.insert(index, trouble);
        self.notes.doing.remove(&index);
    }

    /// Removes all attempts but the newest two, as kubelet keeps them. What will not go is tried again next time.
    async fn clear_old_attempts(&self, observed: &Observed) {
        let ground = &self.ground;
        for (id, name, attempt) in &observed.stale {
            let log = log_path(name, *attempt);
            let log = ground.dirs.log_directory(&ground.plan).join(log);
            let removed = ground.cri.remove(id).await;
            let cleared = match removed {
                Ok(()) => blocking(move || remove_log_blocking(log)).await,
                refused => refused,
            };
            if let Err(error) = cleared {
                tracing::debug!(container.id = id, %error, "an old attempt stays for now");
            }
        }
    }

    /// Asks the probes and stops the containers that failed theirs.
    async fn probe(&mut self, sandbox: &Sandbox, seen: &[Seen]) -> Result<()> {
        let ground = self.ground.clone();
        let patients: Vec<Patient<'_>> = seen
            .iter()
            .zip(&ground.plan.containers)
            .enumerate()
            .filter_map(|(index, (seen, container))| match seen {
                Seen::Running { id, started_at, .. } => Some(Patient {
                    index,
                    id,
                    container,
                    started_at: *started_at,
                }),
                _ => None,
            })
            .collect();
        let address = match ground.plan.spec.host_network {
            Some(true) => Some(std::net::Ipv4Addr::LOCALHOST.into()),
            _ => sandbox.addresses.first().and_then(|ip| ip.parse().ok()),
        };
        let now = self.setting.clock.now();
        let given_up = self.health.ask(&ground.cri, address, &patients, now).await;
        for failed in given_up {
            self.doing(failed.index, "Stopping")?;
            let grace_s = failed.grace_s.unwrap_or(ground.plan.grace_s);
            let container = ground.plan.containers.get(failed.index);
            self.notes.killed.insert(failed.id.clone(), failed.why);
            hooks::stop(&ground.cri, &failed.id, container, grace_s).await?;
        }
        Ok(())
    }
}
