//! The run: each request on both servers, what came of it compared, the differences held against the table.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use podwright::wire::cri::NamespaceMode;
use serde_json::{Map, Value, json};

use crate::case::Outcome;
use crate::compare::{self, Difference};
use crate::descriptor;
use crate::endpoint::{self, Endpoint};
use crate::generate::{self, Container, Request};
use crate::normalise::Words;
use crate::observe::{mounted_files, refusal};
use crate::requests::Made;
use crate::table::Table;
use crate::{node, say};

/// Names a request, or its beginning, to compare only that; the table's unused entries are no failure then.
const ONLY: &str = "PODWRIGHT_PARITY_ONLY";

/// How many pairs of values and names of requests are printed of one place.
const PAIRS_SHOWN: usize = 5;

/// Compares everything, in the process inside the namespaces.
pub(crate) fn all() -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let home = node::prepare()?;
        let (ours, theirs) = tokio::try_join!(endpoint::podwright(&home), endpoint::plugin(&home))?;
        say(&format!(
            "parity: {} beside {}",
            ours.version, theirs.version
        ));
        let found = compare_all(&ours, &theirs).await;
        tokio::try_join!(ours.stop(), theirs.stop())?;
        report(found?)
    })
}

/// What a run has seen.
#[derive(Default)]
struct Tally {
    requests: usize,
    differences: Vec<Difference>,
    /// The requests that both servers refused.
    refused: Vec<String>,
    seconds: f32,
}

async fn compare_all(ours: &Endpoint, theirs: &Endpoint) -> Outcome<Tally> {
    let began = Instant::now();
    let only = std::env::var(ONLY).unwrap_or_default();
    let mut all = generate::all();
    // Containers whose own pod both refuse are created in this one.
    let shelter = all.iter().position(|request| request.name == "plain");
    let shelter = all.swap_remove(shelter.ok_or("no request is called plain")?);
    let (our_shelter, their_shelter) =
        tokio::try_join!(Visit::begin(ours, &shelter), Visit::begin(theirs, &shelter))?;
    let mut tally = Tally::default();
    let mut pods = Pair(our_shelter, their_shelter);
    pods.compare(&shelter, None, &mut tally).await?;
    let Pair(our_shelter, their_shelter) = pods;
    let home = (our_shelter.id()?, their_shelter.id()?);
    for image in [generate::IMAGE, generate::RICH_IMAGE] {
        let (a, b) = tokio::try_join!(ours.node(image), theirs.node(image))?;
        let (a, b) = (Words::of(ours).apply(&a), Words::of(theirs).apply(&b));
        tally.add(&format!("node/{image}"), a, b);
    }
    for request in all.iter().filter(|request| request.name.starts_with(&only)) {
        let (a, b) = tokio::try_join!(Visit::begin(ours, request), Visit::begin(theirs, request))?;
        let mut pair = Pair(a, b);
        pair.compare(request, Some((&home.0, &home.1)), &mut tally)
            .await?;
        pair.end(request, &mut tally).await?;
    }
    Pair(our_shelter, their_shelter)
        .end(&shelter, &mut tally)
        .await?;
    tally.seconds = began.elapsed().as_secs_f32();
    Ok(tally)
}

/// One request on one server.
struct Visit<'e> {
    server: &'e Endpoint,
    pod: Made,
    words: Words,
    is_on_host_network: bool,
    /// The container that was created first, which others may name.
    neighbour: String,
}

/// One request on both.
struct Pair<'e>(Visit<'e>, Visit<'e>);

impl<'e> Visit<'e> {
    async fn begin(server: &'e Endpoint, request: &Request) -> Outcome<Self> {
        let mut words = Words::of(server);
        let pod = server.run_pod(request).await?;
        if let Ok(id) = &pod {
            words.call(id, "pod");
        }
        let security = request
            .pod
            .linux
            .as_ref()
            .and_then(|l| l.security_context.as_ref());
        let options = security.and_then(|security| security.namespace_options.as_ref());
        Ok(Self {
            server,
            is_on_host_network: options.is_some_and(|o| o.network() == NamespaceMode::Node),
            pod,
            words,
            neighbour: String::new(),
        })
    }

    fn id(&self) -> Outcome<String> {
        Ok(self.pod.clone()?)
    }

    async fn pod_tree(&self) -> Outcome<Value> {
        let tree = match &self.pod {
            Ok(id) => {
                let mut record = self.settled_record(id).await?;
                record
                    .as_object_mut()
                    .map(|fields| fields.remove("sandbox"));
                json!({"record": record, "running": answer(self.server.pod_status(id).await?, &record)})
            }
            Err(status) => refusal(status),
        };
        Ok(self.words.apply(&tree))
    }

    /// The pod's record once the network stands in it, which comes behind the answer; a pod without one never has it.
    async fn settled_record(&self, id: &str) -> Outcome<Value> {
        const RESULT: &str =
            "/extensions/io.cri-containerd.sandbox.metadata/value/Metadata/CNIResult";
        for _ in 0..40 {
            let record = self.server.record(id).await?;
            let is_there = record
                .pointer(RESULT)
                .is_some_and(|result| !result.is_null());
            if is_there || self.is_on_host_network {
                return Ok(record);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.server.record(id).await
    }

    /// Creates a container, does with it what the request says, and returns everything that can be seen of it.
    async fn container_tree(
        &mut self,
        request: &Request,
        container: &Container,
        pod: &str,
    ) -> Outcome<Value> {
        let made = self
            .server
            .create(request, container, pod, &self.neighbour)
            .await?;
        let id = match made {
            Ok(id) => id,
            Err(status) => {
                explain(self.server.name, request, container, &status);
                return Ok(refusal(&status));
            }
        };
        let mut words = self.words.clone();
        words.call(pod, "pod");
        words.call(&id, "container");
        if self.neighbour.is_empty() {
            self.neighbour.clone_from(&id);
        } else {
            words.call(&self.neighbour, "neighbour");
        }
        let mut tree = Map::new();
        let record = self.server.record(&id).await?;
        tree.insert("files".into(), mounted_files(&record, pod));
        tree.insert(
            "created".into(),
            answer(self.server.container_status(&id).await?, &record),
        );
        tree.insert("record".into(), record);
        if container.is_started {
            let started = self.server.start(&id).await;
            tree.insert(
                "start".into(),
                json!(started.map_err(|status| refusal(&status)).err()),
            );
            self.settle(&id, container).await?;
        }
        for (number, resources) in container.updates.iter().enumerate() {
            let updated = self.server.update(&id, resources).await;
            let record = self.server.record(&id).await?;
            let status = self.server.container_status(&id).await?;
            let after = json!({
                "answer": updated.map_err(|status| refusal(&status)).err(),
                "spec": record.get("spec"),
                "status": status.pointer("/status/resources"),
            });
            tree.insert(format!("update-{number}"), after);
        }
        if container.is_started {
            let record = self.server.record(&id).await?;
            tree.insert(
                "running".into(),
                answer(self.server.container_status(&id).await?, &record),
            );
            // The first one may be named by those that follow.
            if self.neighbour != id {
                let stopped = self.server.stop_container(&id).await;
                tree.insert(
                    "stop".into(),
                    json!(stopped.map_err(|status| refusal(&status)).err()),
                );
                let status = self.server.container_status(&id).await?;
                tree.insert("exited".into(), answer(status, &record));
            }
        }
        Ok(words.apply(&Value::Object(tree)))
    }

    /// A container that ends by itself is looked at once it has.
    async fn settle(&self, id: &str, container: &Container) -> Outcome {
        if container.name != "brief" {
            return Ok(());
        }
        for _ in 0..200 {
            let status = self.server.container_status(id).await?;
            if status.pointer("/status/finished_at").is_some() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("{}: a brief container does not end", self.server.name).into())
    }

    /// Stops and removes the pod, and returns what could be seen of it in between.
    async fn end(&self) -> Outcome<Option<Value>> {
        let Ok(id) = &self.pod else {
            return Ok(None);
        };
        self.server.stop_pod(id).await?;
        let status = self.server.pod_status(id).await?;
        self.server.remove_pod(id).await?;
        Ok(Some(self.words.apply(&answer(status, &Value::Null))))
    }
}

impl Pair<'_> {
    /// Compares the pod, and then each container.
    async fn compare(
        &mut self,
        request: &Request,
        shelter: Option<(&str, &str)>,
        tally: &mut Tally,
    ) -> Outcome {
        tally.requests += 1;
        let Self(ours, theirs) = self;
        for visit in [&*ours, &*theirs] {
            if let Err(status) = &visit.pod {
                verbose(&format!(
                    "{}: {}: {status}",
                    request.name, visit.server.name
                ));
            }
        }
        let (a, b) = tokio::try_join!(ours.pod_tree(), theirs.pod_tree())?;
        tally.add(&request.name, a, b);
        let (our_pod, their_pod) = match (&ours.pod, &theirs.pod, shelter) {
            (Ok(a), Ok(b), _) => (a.clone(), b.clone()),
            (Err(_), Err(_), Some((a, b))) => (a.to_owned(), b.to_owned()),
            // Only one has the pod: that is the difference.
            _ => return Ok(()),
        };
        for container in &request.containers {
            tally.requests += 1;
            let (a, b) = tokio::try_join!(
                ours.container_tree(request, container, &our_pod),
                theirs.container_tree(request, container, &their_pod)
            )?;
            let name = format!("{}/{}", request.name, container.name);
            tally.add(&name, a, b);
        }
        Ok(())
    }

    async fn end(self, request: &Request, tally: &mut Tally) -> Outcome {
        let (a, b) = tokio::try_join!(self.0.end(), self.1.end())?;
        if let (Some(a), Some(b)) = (a, b) {
            let name = format!("{}/stopped", request.name);
            tally.add(&name, a, b);
        }
        Ok(())
    }
}

impl Tally {
    /// Notes where the two trees differ. Of what only one server made there is nothing to compare but that.
    fn add(&mut self, request: &str, ours: Value, theirs: Value) {
        let is_refused = |tree: &Value| tree.get("refused").is_some();
        if is_refused(&ours) && is_refused(&theirs) {
            self.refused.push(request.to_owned());
        }
        let brief = |tree: Value| {
            if is_refused(&tree) {
                tree
            } else {
                json!({"refused": null})
            }
        };
        let found = if is_refused(&ours) == is_refused(&theirs) {
            compare::trees(request, &ours, &theirs)
        } else {
            compare::trees(request, &brief(ours), &brief(theirs))
        };
        self.differences.extend(found);
    }
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

fn explain(server: &str, request: &Request, container: &Container, status: &tonic::Status) {
    verbose(&format!(
        "{}/{}: {server}: {status}",
        request.name, container.name
    ));
}

/// A line for whoever asked for more.
fn verbose(line: &str) {
    if std::env::var_os("PODWRIGHT_PARITY_VERBOSE").is_some() {
        say(line);
    }
}

/// Prints what is new, and the last line; fails where anything is new or the table says too much.
fn report(tally: Tally) -> Outcome {
    let mut table = Table::read()?;
    let fields = descriptor::count()?;
    let new = table.sift(tally.differences);
    // The same place in many requests is one difference.
    let mut places: BTreeMap<&str, Vec<&Difference>> = BTreeMap::new();
    for difference in &new {
        places.entry(&difference.path).or_default().push(difference);
    }
    for (path, differences) in &places {
        show(path, differences);
    }
    let refused = tally.refused.len();
    let unexpected = table.sift_refusals(tally.refused);
    for request in &unexpected {
        say(&format!(
            "{request}: both servers refuse it, so that it shows nothing"
        ));
    }
    say(&format!(
        "parity: {refused} requests refused by both, all but {} for a reason that is known",
        unexpected.len()
    ));
    let unused = if std::env::var_os(ONLY).is_some() {
        Vec::new()
    } else {
        table.unused()
    };
    for entry in &unused {
        say(&format!(
            "tests/parity/accepted.toml: nothing differs any more as in: {entry}; remove it"
        ));
    }
    say(&format!(
        "parity: {} requests, {fields} fields, {} differences accepted, {} new ({:.0} s)",
        tally.requests,
        table.len(),
        places.len() + unexpected.len(),
        tally.seconds
    ));
    if places.is_empty() && unexpected.is_empty() && unused.is_empty() {
        return Ok(());
    }
    Err("there are new differences, or entries without any".into())
}

/// One place, each pair of values that it has, and in which requests.
fn show(path: &str, differences: &[&Difference]) {
    let mut values: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for difference in differences {
        let pair = (difference.ours.as_str(), difference.theirs.as_str());
        values.entry(pair).or_default().push(&difference.request);
    }
    say(path);
    for ((ours, theirs), requests) in values.iter().take(PAIRS_SHOWN) {
        let shown: Vec<&str> = requests.iter().take(PAIRS_SHOWN).copied().collect();
        let (count, shown) = (requests.len(), shown.join(", "));
        say(&format!(
            "    podwright  {ours}\n    containerd {theirs}\n        in {count}: {shown}"
        ));
    }
    if values.len() > PAIRS_SHOWN {
        say(&format!(
            "    and {} other pairs of values",
            values.len() - PAIRS_SHOWN
        ));
    }
}
