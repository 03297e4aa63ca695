//! Published views of pods, unique-prefix lookup and list filters.
//!
//! The unit of publication is the pod: one change yields a generation, a time and an immutable view of the sandbox and
//! all its containers. List, Status and events read only views; they never wait, neither for containerd nor for a
//! lock that an operation holds. The views are also the one truth about states: a transition that the tables of
//! `model::state` do not know is refused here.

mod feed;
mod filter;
mod prefix;
mod views;
mod whole;

pub use feed::{Change, Following, Happened, Subscription};
pub use filter::{ContainerFilter, ListedState, SandboxFilter};
pub use views::{
    ContainerImage, ContainerUser, ContainerView, LayerProject, PauseImage, PodView, SandboxView,
};
pub use whole::WholePod;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::model::state::{ContainerEvent, SandboxEvent};
use crate::model::{Clock, ContainerId, Error, Result, SandboxId, Timestamp};

use feed::Feed;

/// One consistent picture of all pods.
#[derive(Debug, Default)]
pub struct Snapshot {
    generation: u64,
    at: Timestamp,
    pods: BTreeMap<SandboxId, Arc<PodView>>,
    owners: BTreeMap<ContainerId, SandboxId>,
}

impl Snapshot {
    /// How many changes there were before this picture.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When the last change was. Later pictures have later times, whatever the host's clock does.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// All pods by id.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.pods.values()
    }

    /// The pod of a sandbox.
    pub fn pod(&self, id: &SandboxId) -> Option<&Arc<PodView>> {
        self.pods.get(id)
    }

    /// A sandbox.
    pub fn sandbox(&self, id: &SandboxId) -> Option<&Arc<SandboxView>> {
        self.pods.get(id).map(|pod| &pod.sandbox)
    }

    /// A container.
    pub fn container(&self, id: &ContainerId) -> Option<&Arc<ContainerView>> {
        self.pod_of(id)?.containers.get(id)
    }

    /// The pod that a container is in.
    pub fn pod_of(&self, id: &ContainerId) -> Option<&Arc<PodView>> {
        self.pods.get(self.owners.get(id)?)
    }

    /// All containers.
    pub fn containers(&self) -> impl Iterator<Item = &Arc<ContainerView>> {
        self.pods.values().flat_map(|pod| pod.containers.values())
    }

    /// The sandbox that `text`, a whole id or a unique prefix, means; `None` where it means nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty text or one that means several.
    pub fn find_sandbox(&self, text: &str) -> Result<Option<&Arc<PodView>>> {
        Ok(prefix::unique(&self.pods, text, "sandbox")?.map(|(_, pod)| pod))
    }

    /// The container that `text`, a whole id or a unique prefix, means; `None` where it means nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty text or one that means several.
    pub fn find_container(&self, text: &str) -> Result<Option<&Arc<ContainerView>>> {
        let found = prefix::unique(&self.owners, text, "container")?;
        Ok(found.and_then(|(id, owner)| self.pods.get(owner)?.containers.get(id)))
    }
}

/// The published picture and the one way to change it.
#[derive(Debug)]
pub struct Index {
    clock: Arc<dyn Clock>,
    current: ArcSwap<Snapshot>,
    writer: Mutex<Feed>,
    changed: watch::Sender<u64>,
}

impl Index {
    /// No pods yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            current: ArcSwap::default(),
            writer: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// The picture as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Tells the newest generation; a waiter reads [`Self::snapshot`] after each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Subscribes to what happens to pods from now on.
    ///
    /// # Errors
    /// `ResourceExhausted` where too many have subscribed.
    pub fn subscribe(&self) -> Result<Subscription> {
        let mut feed = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        feed.subscribe()
    }

    /// Who follows what happens, and what was told so far.
    pub fn following(&self) -> Following {
        let feed = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        feed.following()
    }

    /// Waits until `done` answers something about the newest picture.
    pub async fn until<T>(&self, done: impl Fn(&Snapshot) -> Option<T>) -> T {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            if let Some(answer) = done(&self.current.load()) {
                return answer;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Lists a sandbox.
    pub fn insert_sandbox(&self, view: SandboxView) {
        let id = view.id.clone();
        let pod = PodView {
            generation: 0,
            sandbox: Arc::new(view),
            containers: BTreeMap::new(),
        };
        self.edit(
            |pods, _owners| Ok(pods.insert(id.clone(), Arc::new(pod)).map(drop)),
            &id,
        )
        .unwrap_or_default();
    }

    /// Takes a sandbox, and whatever containers it still shows, off the lists.
    pub fn remove_sandbox(&self, id: &SandboxId) {
        let removed = self.edit(
            |pods, owners| {
                if let Some(pod) = pods.remove(id) {
                    owners.retain(|container, _| !pod.containers.contains_key(container));
                }
                Ok(())
            },
            id,
        );
        removed.unwrap_or_default();
    }

    /// Changes a sandbox's view.
    ///
    /// # Errors
    /// `NotFound`, or what `change` answers; nothing is published then.
    pub fn update_sandbox<T>(
        &self,
        id: &SandboxId,
        change: impl FnOnce(&mut SandboxView) -> Result<T>,
    ) -> Result<T> {
        self.edit(
            |pods, _owners| {
                let pod = pods
                    .get_mut(id)
                    .ok_or_else(|| Error::not_found(format!("sandbox {id}: not found")))?;
                let pod = Arc::make_mut(pod);
                change(Arc::make_mut(&mut pod.sandbox))
            },
            id,
        )
    }

    /// Applies `event` to a sandbox, and `change` with it.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` where the state table has no such transition.
    pub fn sandbox_event(
        &self,
        id: &SandboxId,
        event: SandboxEvent,
        change: impl FnOnce(&mut SandboxView),
    ) -> Result<()> {
        self.update_sandbox(id, |view| {
            let next = view.state.after(event);
            view.state = next.ok_or_else(|| {
                Error::precondition(format!(
                    "sandbox {id} is {:?}: {event:?} does not apply",
                    view.state
                ))
            })?;
            change(view);
            Ok(())
        })
    }

    /// Lists a container in its sandbox.
    ///
    /// # Errors
    /// `NotFound` where the sandbox is not listed.
    pub fn insert_container(&self, view: ContainerView) -> Result<()> {
        let (id, sandbox) = (view.id.clone(), view.sandbox.clone());
        self.edit(
            |pods, owners| {
                let pod = pods.get_mut(&sandbox).ok_or_else(|| {
                    Error::not_found(format!("sandbox {sandbox} of container {id}: not found"))
                })?;
                Arc::make_mut(pod)
                    .containers
                    .insert(id.clone(), Arc::new(view));
                owners.insert(id, sandbox.clone());
                Ok(())
            },
            &sandbox,
        )
    }

    /// Takes a container off the lists.
    pub fn remove_container(&self, id: &ContainerId) {
        let Some(sandbox) = self.current.load().owners.get(id).cloned() else {
            return;
        };
        let removed = self.edit(
            |pods, owners| {
                if let Some(pod) = owners.remove(id).and_then(|owner| pods.get_mut(&owner)) {
                    Arc::make_mut(pod).containers.remove(id);
                }
                Ok(())
            },
            &sandbox,
        );
        removed.unwrap_or_default();
    }

    /// Changes a container's view.
    ///
    /// # Errors
    /// `NotFound`, or what `change` answers; nothing is published then.
    pub fn update_container<T>(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut ContainerView) -> Result<T>,
    ) -> Result<T> {
        let missing = || Error::not_found(format!("container {id}: not found"));
        let sandbox = self
            .current
            .load()
            .owners
            .get(id)
            .cloned()
            .ok_or_else(missing)?;
        self.edit(
            |pods, _owners| {
                let pod = pods.get_mut(&sandbox).ok_or_else(missing)?;
                let view = Arc::make_mut(pod)
                    .containers
                    .get_mut(id)
                    .ok_or_else(missing)?;
                change(Arc::make_mut(view))
            },
            &sandbox,
        )
    }

    /// Applies `event` to a container, and `change` with it.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` where the state table has no such transition.
    pub fn container_event(
        &self,
        id: &ContainerId,
        event: ContainerEvent,
        change: impl FnOnce(&mut ContainerView),
    ) -> Result<()> {
        self.update_container(id, |view| {
            let next = view.state.after(event);
            view.state = next.ok_or_else(|| {
                Error::precondition(format!(
                    "container {id} is {:?}: {event:?} does not apply",
                    view.state
                ))
            })?;
            change(view);
            Ok(())
        })
    }

    /// Makes the next picture from the present one, publishes it, and tells subscribers of it; `touched` names the pod
    /// that `work` changes.
    fn edit<T>(
        &self,
        work: impl FnOnce(
            &mut BTreeMap<SandboxId, Arc<PodView>>,
            &mut BTreeMap<ContainerId, SandboxId>,
        ) -> Result<T>,
        touched: &SandboxId,
    ) -> Result<T> {
        let mut feed = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.current.load_full();
        let (mut pods, mut owners) = (old.pods.clone(), old.owners.clone());
        let answer = work(&mut pods, &mut owners)?;
        let generation = old.generation.saturating_add(1);
        if let Some(pod) = pods.get_mut(touched) {
            Arc::make_mut(pod).generation = generation;
        }
        let now = Arc::new(Snapshot {
            generation,
            at: (self.clock.now()).max(Timestamp(old.at.0.saturating_add(1))),
            pods,
            owners,
        });
        self.current.store(Arc::clone(&now));
        let pod = |picture: &Snapshot| picture.pods.get(touched).cloned();
        feed.tell(pod(&old).as_deref(), pod(&now).as_deref(), &now);
        drop(feed);
        self.changed.send_replace(generation);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;
