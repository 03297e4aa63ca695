//! The seam's traits over the world; those of snapshots and blobs stand in `stores.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;

use super::State;
use super::handle::{Handle, PROBE};
use crate::containerd::{
    CheckpointDirs, ContainerRecord, Containerd, Containers, Event, Events, ExecRequest, Exit,
    ImageRecord, Images, Introspection, LeaseId, LeaseInfo, Leased, Leases, Payload, PluginInfo,
    RecordField, ServerVersion, TaskInfo, TaskRequest, TaskUsage, Tasks,
};
use crate::model::{Error, ExecId, Pid, Result, Signal, Timestamp};

pub(super) fn containerd(handle: Handle) -> Containerd {
    let handle = Arc::new(handle);
    Containerd {
        containers: handle.clone(),
        tasks: handle.clone(),
        snapshots: handle.clone(),
        content: handle.clone(),
        diff: handle.clone(),
        images: handle.clone(),
        leases: handle.clone(),
        events: handle.clone(),
        introspection: handle,
    }
}

impl Containers for Handle {
    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerRecord>> {
        Box::pin(self.call("containers.get", id, |state| state.container(id).cloned()))
    }

    fn list<'a>(
        &'a self,
        label: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<ContainerRecord>>> {
        Box::pin(self.call("containers.list", "", move |state| {
            Ok(state.list_containers(label))
        }))
    }

    fn create<'a>(&'a self, record: &'a ContainerRecord) -> BoxFuture<'a, Result<ContainerRecord>> {
        Box::pin(self.call("containers.create", &record.id, |state| {
            state.create_container(record)
        }))
    }

    fn update<'a>(
        &'a self,
        record: &'a ContainerRecord,
        fields: &'a [RecordField],
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("containers.update", &record.id, |state| {
            state.update_container(record, fields)
        }))
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("containers.delete", id, |state| state.delete_container(id)))
    }
}

/// How the trace names a process: `CONTAINER`, or `CONTAINER/EXEC`.
fn process_name(id: &str, exec: Option<&ExecId>) -> String {
    exec.map_or_else(|| id.to_owned(), |exec| format!("{id}/{exec}"))
}

impl Handle {
    async fn process_call<T>(
        &self,
        call: &'static str,
        id: &str,
        exec: Option<&ExecId>,
        work: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        self.call(call, &process_name(id, exec), work).await
    }
}

impl Tasks for Handle {
    fn create<'a>(&'a self, request: &'a TaskRequest) -> BoxFuture<'a, Result<Pid>> {
        Box::pin(self.call("tasks.create", &request.id, |state| {
            state.create_task(request)
        }))
    }

    fn start<'a>(&'a self, id: &'a str, exec: Option<&'a ExecId>) -> BoxFuture<'a, Result<Pid>> {
        Box::pin(self.process_call("tasks.start", id, exec, move |state| state.start(id, exec)))
    }

    fn get<'a>(&'a self, id: &'a str, exec: Option<&'a ExecId>) -> BoxFuture<'a, Result<TaskInfo>> {
        Box::pin(self.process_call("tasks.get", id, exec, move |state| {
            state.task_info(id, exec)
        }))
    }

    fn kill<'a>(
        &'a self,
        id: &'a str,
        exec: Option<&'a ExecId>,
        signal: Signal,
        all: bool,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let whom = format!(
                "{} {signal}{}",
                process_name(id, exec),
                if all { " all" } else { "" }
            );
            self.call("tasks.kill", &whom, |state| {
                state.kill(id, exec, signal, all)
            })
            .await
        })
    }

    fn wait<'a>(&'a self, id: &'a str, exec: Option<&'a ExecId>) -> BoxFuture<'a, Result<Exit>> {
        Box::pin(async move {
            let call = "tasks.wait";
            let fault = self.enter(call, &process_name(id, exec)).await?;
            let mut connection = self.world.connection.subscribe();
            let (mut exit, generation) = {
                let mut state = self.world.lock();
                (state.exit_of(id, exec)?, state.generation)
            };
            let broken = async {
                // A tick may also mean that a hung containerd goes on: then the wait does too.
                while connection.changed().await.is_ok() {
                    let state = self.world.lock();
                    if state.away || state.generation != generation {
                        return;
                    }
                }
            };
            let outcome = tokio::select! {
                biased;
                ended = exit.wait_for(Option::is_some) => ended.ok().and_then(|exit| *exit),
                () = broken => None,
            };
            self.leave(call, fault).await?;
            outcome
                .ok_or_else(|| Error::unavailable(format!("wait for {id}: the connection broke")))
        })
    }

    fn delete<'a>(&'a self, id: &'a str, exec: Option<&'a ExecId>) -> BoxFuture<'a, Result<Exit>> {
        Box::pin(self.process_call("tasks.delete", id, exec, move |state| {
            state.delete_task(id, exec)
        }))
    }

    fn exec<'a>(&'a self, request: &'a ExecRequest) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("tasks.exec", &request.id, |state| state.add_exec(request)))
    }

    fn update<'a>(&'a self, id: &'a str, resources: Payload) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("tasks.update", id, move |state| {
            state.update_task(id, resources)
        }))
    }

    fn pause<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("tasks.pause", id, |state| state.pause(id)))
    }

    fn resume<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("tasks.resume", id, |state| state.resume(id)))
    }

    fn checkpoint<'a>(
        &'a self,
        id: &'a str,
        dirs: &'a CheckpointDirs,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("tasks.checkpoint", id, |state| state.checkpoint(id, dirs)))
    }

    fn resize<'a>(
        &'a self,
        id: &'a str,
        exec: Option<&'a ExecId>,
        _width: u16,
        _height: u16,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.process_call("tasks.resize", id, exec, move |state| state.touch(id, exec)))
    }

    fn close_stdin<'a>(
        &'a self,
        id: &'a str,
        exec: Option<&'a ExecId>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(
            self.process_call("tasks.close_stdin", id, exec, move |state| {
                state.touch(id, exec)
            }),
        )
    }

    fn oom_kills<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(self.call("tasks.oom_kills", id, |state| state.oom_kills(id)))
    }

    fn usage<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<TaskUsage>>> {
        Box::pin(self.call("tasks.usage", id, |state| state.usage(id)))
    }
}

impl Leases for Handle {
    fn create<'a>(
        &'a self,
        id: &'a LeaseId,
        expire: Option<Timestamp>,
        labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("leases.create", &id.0, move |state| {
            state.create_lease(id, expire, labels);
            Ok(())
        }))
    }

    fn delete<'a>(&'a self, id: &'a LeaseId, _sync: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("leases.delete", &id.0, |state| {
            state.delete_lease(id);
            Ok(())
        }))
    }

    fn list_all(&self) -> BoxFuture<'_, Result<Vec<LeaseInfo>>> {
        Box::pin(self.call("leases.list_all", "", |state| Ok(state.all_leases())))
    }

    fn resources<'a>(&'a self, id: &'a LeaseId) -> BoxFuture<'a, Result<Vec<Leased>>> {
        Box::pin(self.call("leases.resources", &id.0, |state| state.leased(id)))
    }

    fn list<'a>(&'a self, label: (&'a str, &'a str)) -> BoxFuture<'a, Result<Vec<LeaseId>>> {
        Box::pin(self.call("leases.list", "", move |state| Ok(state.list_leases(label))))
    }

    fn add_resource<'a>(
        &'a self,
        id: &'a LeaseId,
        kind: &'a str,
        resource: &'a str,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("leases.add_resource", &id.0, move |state| {
            state.add_resource(id, kind, resource)
        }))
    }
}

impl Images for Handle {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ImageRecord>> {
        Box::pin(self.call("images.get", name, |state| state.image(name)))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ImageRecord>>> {
        Box::pin(self.call("images.list", "", |state| {
            Ok(state.images.values().cloned().collect())
        }))
    }

    fn put<'a>(
        &'a self,
        image: &'a ImageRecord,
        lease: Option<&'a LeaseId>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("images.put", &image.name, move |state| {
            state.put_image(image, lease)
        }))
    }

    fn delete<'a>(&'a self, name: &'a str, _sync: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("images.delete", name, |state| {
            state.delete_image(name);
            Ok(())
        }))
    }
}

impl Events for Handle {
    fn subscribe(&self) -> BoxFuture<'_, Result<BoxStream<'static, Result<Event>>>> {
        Box::pin(async move {
            let (sender, receiver) = mpsc::unbounded_channel();
            self.call("events.subscribe", "", |state| {
                state.subscribers.push(sender);
                Ok(())
            })
            .await?;
            let events = stream::unfold(receiver, |mut receiver| async move {
                receiver.recv().await.map(|event| (event, receiver))
            });
            Ok(events.boxed())
        })
    }
}

impl Introspection for Handle {
    fn version(&self) -> BoxFuture<'_, Result<ServerVersion>> {
        Box::pin(self.call(PROBE, "", |state| Ok(state.version.clone())))
    }

    fn plugins(&self) -> BoxFuture<'_, Result<Vec<PluginInfo>>> {
        Box::pin(self.call("introspection.plugins", "", |_state| {
            Ok(vec![PluginInfo {
                kind: PluginInfo::SNAPSHOTTER.into(),
                id: "overlayfs".into(),
                exports: BTreeMap::from([("root".into(), "/fake/overlayfs".into())]),
                ..PluginInfo::default()
            }])
        }))
    }

    fn runtime_features<'a>(
        &'a self,
        runtime: &'a str,
        _options: Option<Payload>,
    ) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(
            self.call("introspection.runtime_features", runtime, |state| {
                let features = state.features.clone();
                features.ok_or_else(|| Error::unimplemented("introspection has no PluginInfo"))
            }),
        )
    }

    fn server_pid(&self) -> Option<Pid> {
        Some(self.world.lock().server)
    }

    fn connections(&self) -> u64 {
        self.world.lock().generation
    }
}
