//! The run: each request on both servers, and what came of it side by side.

use std::time::Instant;

use crate::case::Outcome;
use crate::endpoint::{self, Endpoint};
use crate::generate::{self, Request};
use crate::normalise::Words;
use crate::report::{self, ONLY, Tally};
use crate::visit::Visit;
use crate::{node, say};

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
        report::print(found?)
    })
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

/// One request on both.
struct Pair<'e>(Visit<'e>, Visit<'e>);

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
        let (a, b) = tokio::try_join!(ours.pod_tree(request), theirs.pod_tree(request))?;
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
