//! Runs one pod: sees, decides, acts, and shows it, until the pod has ended or somebody calls it off. What was seen
//! is all that decides, so a pod that runs already is simply taken over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::defaults::{RestartPolicy, Role};
use super::dirs::log_path;
use super::lifecycle::{Backoff, Phase, Seen, Step, Verdict, decide};
use super::observe::{Facts, Observed, blocking, remove_log_blocking};
use super::probes::{Health, Patient};
use super::start::{Ground, Refused, Sandbox, hosts_file};
use super::status::{PodLines, Screen};
use super::view::{self, Notes, Trouble};
use super::{CallOff, hooks, pod, volumes};
use crate::model::{Clock, Context as _, Error, Kind, Result, Timestamp};
use crate::wire::cri;

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

    /// The pod's sandbox, made where there is none that is ready. None where the one we had has ended and the pod is
    /// never to be restarted.
    async fn sandbox(&mut self) -> Result<Option<Sandbox>> {
        let ground = self.ground.clone();
        let (plan, cri) = (&ground.plan, &ground.cri);
        let found = cri.sandboxes(pod::identity(plan)).await?;
        let attempt_of = |item: &cri::PodSandbox| item.metadata.as_ref().map_or(0, |m| m.attempt);
        let ready = found
            .iter()
            .find(|item| item.state() == cri::PodSandboxState::SandboxReady);
        if let (Some(known), Some(ready)) = (&self.sandbox, ready)
            && known.id == ready.id
        {
            return Ok(Some(known.clone()));
        }
        if self.sandbox.is_some() && plan.restart == RestartPolicy::Never {
            return Ok(None);
        }
        let (shared, maps) = (Arc::clone(plan), Arc::clone(&ground.config_maps));
        let dirs = ground.dirs.clone();
        let (node_dns, node_hosts) = blocking(move || {
            volumes::prepare_blocking(&shared, &maps, &dirs)?;
            let read = |path| std::fs::read_to_string(path).unwrap_or_default();
            Ok((read("/etc/resolv.conf"), read("/etc/hosts")))
        })
        .await?;
        let attempt = match (ready, found.first()) {
            (Some(ready), _) => attempt_of(ready),
            (None, Some(old)) => attempt_of(old).saturating_add(1),
            (None, None) => 0,
        };
        let parent = &self.setting.cgroup_parent;
        let config = pod::sandbox_config(plan, attempt, &ground.dirs, parent, &node_dns)?;
        let id = match ready {
            Some(ready) => ready.id.clone(),
            None => {
                for old in &found {
                    cri.stop_sandbox(&old.id).await?;
                    cri.remove_sandbox(&old.id).await?;
                }
                self.begin_anew();
                self.make_sandbox(config.clone()).await?
            }
        };
        let addresses = cri.addresses(&id).await?;
        let path = ground.dirs.hosts(plan);
        let hosts = hosts_file(plan, &addresses, &node_hosts);
        blocking(move || volumes::write_hosts_blocking(&path, &hosts)).await?;
        let made = Sandbox {
            id,
            addresses,
            config,
        };
        self.sandbox = Some(made.clone());
        Ok(Some(made))
    }

    async fn make_sandbox(&mut self, config: cri::PodSandboxConfig) -> Result<String> {
        let directory = config.log_directory.clone();
        blocking(move || crate::sys::files::make_dir_blocking(directory.as_ref(), 0o755)).await?;
        self.notes.pod = "making the sandbox".into();
        self.show()?;
        let _making = self.making.lock().await;
        let made = self.ground.cri.run_sandbox(config).await;
        made.context(|| "FailedCreatePodSandBox".into())
    }

    /// A new sandbox: what was known of the old one's containers no longer counts.
    fn begin_anew(&mut self) {
        self.sandbox = None;
        self.last = None;
        self.notes = Notes::default();
        self.facts = Facts::default();
        self.health = Health::default();
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
                let brought = self.bring_up(*index, *attempt, sandbox).await?;
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

    fn is_up(&self, seen: &[Seen]) -> bool {
        let containers = self.ground.plan.containers.iter();
        let mut apps = containers
            .zip(seen)
            .filter(|(container, _)| container.role == Role::App);
        apps.all(|(_, seen)| {
            let well = matches!(seen, Seen::Running { started: true, .. });
            well || matches!(seen, Seen::Exited { exit, .. } if exit.code == 0)
        })
    }

    /// The first container that ended badly.
    fn why(&self, seen: &[Seen]) -> String {
        let containers = self.ground.plan.containers.iter();
        let failed = containers
            .zip(seen)
            .find_map(|(container, seen)| match seen {
                Seen::Exited { exit, .. } if exit.code != 0 => Some((container, exit)),
                _ => None,
            });
        match failed {
            Some((container, exit)) => {
                let name = &container.spec.name;
                let text = format!("container {name}: {}, exit code {}", exit.reason, exit.code);
                format!("{text} {}", exit.message).trim_end().to_owned()
            }
            None => "a container failed".into(),
        }
    }

    fn doing(&mut self, index: usize, what: &'static str) -> Result<()> {
        self.notes.doing.insert(index, what);
        self.show()
    }

    fn show(&self) -> Result<()> {
        let plan = &self.ground.plan;
        let addresses = self.sandbox.as_ref().map(|known| known.addresses.clone());
        let lines = match &self.last {
            Some((seen, verdict)) => {
                let addresses = addresses.unwrap_or_default();
                view::lines(plan, &addresses, seen, verdict, &self.notes)
            }
            None => PodLines {
                title: plan.title(),
                state: "Pending".into(),
                reason: self.notes.pod.clone(),
                ..Default::default()
            },
        };
        let now = self.setting.clock.now();
        let mut screen = self.screen();
        screen.update(self.setting.index, lines, now)
    }

    fn say(&self, text: &str) -> Result<()> {
        self.screen().say(text)
    }

    fn screen(&self) -> std::sync::MutexGuard<'_, Screen> {
        let screen = &self.setting.screen;
        screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
