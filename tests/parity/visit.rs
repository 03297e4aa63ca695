//! One request on one server: what is asked of it, and everything that can be seen of the outcome.

use std::time::Duration;

use podwright::wire::cri::NamespaceMode;
use serde_json::{Map, Value, json};
use tonic::Status;

use crate::case::Outcome;
use crate::endpoint::Endpoint;
use crate::generate::{Container, Request};
use crate::normalise::Words;
use crate::observe::{log_file, mounted_files, refusal};
use crate::requests::Made;
use crate::verbose;

/// One request on one server.
pub(crate) struct Visit<'e> {
    pub(crate) server: &'e Endpoint,
    pub(crate) pod: Made,
    words: Words,
    is_on_host_network: bool,
    /// The container that was created first, which others may name.
    neighbour: String,
}

impl<'e> Visit<'e> {
    /// Asks for the pod.
    pub(crate) async fn begin(server: &'e Endpoint, request: &Request) -> Outcome<Self> {
        let mut words = Words::of(server);
        let pod = server.run_pod(request).await?;
        match &pod {
            Ok(id) => words.call(id, "pod"),
            Err(status) => verbose(&format!("{}: {}: {status}", request.name, server.name)),
        }
        let security = request
            .pod
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref());
        let options = security.and_then(|security| security.namespace_options.as_ref());
        Ok(Self {
            server,
            is_on_host_network: options.is_some_and(|o| o.network() == NamespaceMode::Node),
            pod,
            words,
            neighbour: String::new(),
        })
    }

    pub(crate) fn id(&self) -> Outcome<String> {
        Ok(self.pod.clone()?)
    }

    /// The pod's record, and what the server says of it before and after its resources change.
    pub(crate) async fn pod_tree(&self, request: &Request) -> Outcome<Value> {
        let tree = match &self.pod {
            Ok(id) => {
                let mut record = self.settled_record(id).await?;
                record
                    .as_object_mut()
                    .map(|fields| fields.remove("sandbox"));
                let running = answer(self.server.pod_status(id).await?, &record);
                let mut tree = json!({"record": record, "running": running});
                if let (Some(update), Some(tree)) = (&request.update, tree.as_object_mut()) {
                    let updated = failure(self.server.update_pod(id, update).await);
                    let status = self.server.pod_status(id).await?;
                    let after = json!({
                        "answer": updated,
                        "spec": self.server.record(id).await?.get("spec"),
                        "resources": status.pointer("/info/info/resources"),
                        "overhead": status.pointer("/info/info/overhead"),
                    });
                    tree.insert(String::from("updated"), after);
                }
                tree
            }
            Err(status) => refusal(status),
        };
        Ok(self.words.apply(&tree))
    }

    /// The pod's record once the network stands in it, which comes behind the answer; a pod without one never has it.
    async fn settled_record(&self, id: &str) -> Outcome<Value> {
        const RESULT: &str =
            "/extensions/io.cri-containerd.sandbox.metadata/value/Metadata/CNIResult";
        for _ in 0..100 {
            let record = self.server.record(id).await?;
            let is_there = record
                .pointer(RESULT)
                .is_some_and(|result| !result.is_null());
            if is_there || self.is_on_host_network {
                return Ok(record);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!(
            "{}: the network never reaches the pod's record",
            self.server.name
        )
        .into())
    }

    /// Creates a container, does with it what the request says, and returns everything that can be seen of it.
    pub(crate) async fn container_tree(
        &mut self,
        request: &Request,
        container: &Container,
        pod: &str,
    ) -> Outcome<Value> {
        let server = self.server;
        let made = server
            .create(request, container, pod, &self.neighbour)
            .await?;
        let id = match made {
            Ok(id) => id,
            Err(status) => {
                let (pod, name) = (&request.name, &container.name);
                verbose(&format!("{pod}/{name}: {}: {status}", server.name));
                return Ok(refusal(&status));
            }
        };
        let mut words = self.words.clone();
        words.call(pod, "pod");
        words.call(&id, "container");
        // The first one may be named by those that follow, and therefore runs on.
        let is_first = self.neighbour.is_empty();
        if is_first {
            self.neighbour.clone_from(&id);
        } else {
            words.call(&self.neighbour, "neighbour");
        }
        let mut tree = Map::new();
        let mut see = |what: &str, tree_of_it: Value| tree.insert(what.to_owned(), tree_of_it);
        let record = server.record(&id).await?;
        see("files", mounted_files(&record, pod));
        see(
            "created",
            answer(server.container_status(&id).await?, &record),
        );
        if container.is_started {
            see("start", failure(server.start(&id).await));
            self.settle(&id, container).await?;
        }
        for (number, resources) in container.updates.iter().enumerate() {
            let answer = failure(server.update(&id, resources).await);
            let spec = server.record(&id).await?;
            let status = server.container_status(&id).await?;
            let after = json!({
                "answer": answer,
                "spec": spec.get("spec"),
                "status": status.pointer("/status/resources"),
            });
            see(&format!("update-{number}"), after);
        }
        if container.is_started {
            let record = server.record(&id).await?;
            let status = answer(server.container_status(&id).await?, &record);
            see("reopened", self.reopened(&id, &status).await?);
            see("running", status);
            if !is_first {
                see("stop", failure(server.stop_container(&id).await));
                let status = server.container_status(&id).await?;
                see("exited", answer(status, &record));
            }
        }
        see("record", record);
        Ok(words.apply(&Value::Object(tree)))
    }

    /// Takes the log file away, as kubelet does when it rotates, and looks at the one that takes its place.
    async fn reopened(&self, id: &str, status: &Value) -> Outcome<Value> {
        let path = status.pointer("/status/log_path").and_then(Value::as_str);
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return Ok(failure(self.server.reopen(id).await));
        };
        std::fs::rename(path, format!("{path}.old"))?;
        let answer = failure(self.server.reopen(id).await);
        Ok(json!({"answer": answer, "log": log_file(path)}))
    }

    /// A container that ends by itself is looked at once it has.
    async fn settle(&self, id: &str, container: &Container) -> Outcome {
        if container.name != "brief" {
            return Ok(());
        }
        for _ in 0..500 {
            let status = self.server.container_status(id).await?;
            if status.pointer("/status/finished_at").is_some() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("{}: a brief container does not end", self.server.name).into())
    }

    /// Stops and removes the pod, and returns what could be seen of it in between.
    pub(crate) async fn end(&self) -> Outcome<Option<Value>> {
        let Ok(id) = &self.pod else {
            return Ok(None);
        };
        self.server.stop_pod(id).await?;
        let status = self.server.pod_status(id).await?;
        self.server.remove_pod(id).await?;
        Ok(Some(self.words.apply(&answer(status, &Value::Null))))
    }
}

/// What went wrong, or null.
fn failure(answer: Result<(), Status>) -> Value {
    answer.map_or_else(|status| refusal(&status), |()| Value::Null)
}

/// A server's answer, in whose verbose info the spec is replaced by whether it is the one of the record: that one is
/// compared already.
fn answer(mut answer: Value, record: &Value) -> Value {
    if let Some(spec) = answer.pointer_mut("/info/info/runtimeSpec") {
        let is_same = Some(&*spec) == record.get("spec");
        *spec = if record.is_null() {
            Value::Null
        } else {
            json!(is_same)
        };
    }
    answer
}
