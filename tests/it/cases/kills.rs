//! podwright is killed at every step of every operation, before and after it; then the same request comes again.
//!
//! The steps are not picked: a clean run in front tells which gates each operation passes.

use std::time::Duration;

use podwright::wire::cri;
use tonic::Code;

use super::volumes::volume;
use crate::case::{Case, Outcome};
use crate::ensure;
use crate::images::BUSYBOX;
use crate::node::{Gates, Node, leaks};
use crate::pods::{mapped, mapped_pod, pod, sleeper};

pub(super) const CASES: &[Case] = &[
    case("kill.at_every_step_of_run_pod", |node| {
        Box::pin(every_step(node, Verb::RunPod, Users::Node))
    }),
    case("kill.at_every_step_of_create", |node| {
        Box::pin(every_step(node, Verb::Create, Users::Node))
    }),
    case("kill.at_every_step_of_start", |node| {
        Box::pin(every_step(node, Verb::Start, Users::Node))
    }),
    case("kill.at_every_step_of_stop", |node| {
        Box::pin(every_step(node, Verb::Stop, Users::Node))
    }),
    case("kill.at_every_step_of_remove", |node| {
        Box::pin(every_step(node, Verb::Remove, Users::Node))
    }),
    case("kill.at_every_step_of_stop_pod", |node| {
        Box::pin(every_step(node, Verb::StopPod, Users::Node))
    }),
    case("kill.at_every_step_of_remove_pod", |node| {
        Box::pin(every_step(node, Verb::RemovePod, Users::Node))
    }),
    case(
        "kill.at_every_step_of_run_pod_with_users_of_its_own",
        |node| Box::pin(every_step(node, Verb::RunPod, Users::Own)),
    )
    .newest(),
    case(
        "kill.at_every_step_of_stop_pod_with_users_of_its_own",
        |node| Box::pin(every_step(node, Verb::StopPod, Users::Own)),
    )
    .newest(),
];

/// Whose users the pod has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Users {
    Node,
    Own,
}

const fn case(name: &'static str, run: crate::case::Body) -> Case {
    Case::new(name, run).within(600)
}

/// An operation that leaves records, in the order of a pod's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Verb {
    RunPod,
    Create,
    Start,
    Stop,
    Remove,
    StopPod,
    RemovePod,
}

const LIFE: [Verb; 7] = [
    Verb::RunPod,
    Verb::Create,
    Verb::Start,
    Verb::Stop,
    Verb::Remove,
    Verb::StopPod,
    Verb::RemovePod,
];

/// One pod with one container, as far as it has come.
struct Life<'n> {
    node: &'n Node,
    config: cri::PodSandboxConfig,
    sleeper: cri::ContainerConfig,
    pod: String,
    container: String,
}

impl<'n> Life<'n> {
    fn new(node: &'n Node, users: Users) -> Self {
        let (config, mut sleeper) = match users {
            Users::Node => (pod(node, "victim"), sleeper("c")),
            Users::Own => (mapped_pod(node, "victim"), mapped(sleeper("c"))),
        };
        if users == Users::Node {
            sleeper.mounts = vec![volume(BUSYBOX, "/image")];
        }
        Self {
            node,
            config,
            sleeper,
            pod: String::new(),
            container: String::new(),
        }
    }

    /// Does everything that comes before `verb`.
    async fn up_to(&mut self, verb: Verb) -> Outcome {
        for earlier in LIFE.into_iter().filter(|earlier| *earlier < verb) {
            // A removed container leaves its pod to be stopped, so it need not be removed first.
            if earlier != Verb::Remove {
                self.request(earlier).await?;
            }
        }
        Ok(())
    }

    async fn request(&mut self, verb: Verb) -> Result<(), tonic::Status> {
        let node = self.node;
        match verb {
            Verb::RunPod => self.pod = node.run_pod(&self.config).await?,
            Verb::Create => {
                self.container = node.create(&self.pod, &self.config, &self.sleeper).await?;
            }
            Verb::Start => node.start(&self.container).await?,
            Verb::Stop => node.stop(&self.container, 5).await?,
            Verb::Remove => node.remove(&self.container).await?,
            Verb::StopPod => node.stop_pod(&self.pod).await?,
            Verb::RemovePod => node.remove_pod(&self.pod).await?,
        }
        Ok(())
    }

    /// The same request after the restart: done now, done already, or, for a start, told that it is too late.
    async fn again(&mut self, verb: Verb) -> Outcome {
        match (verb, self.request(verb).await) {
            (_, Ok(())) => Ok(()),
            (Verb::RunPod | Verb::Create, Err(e)) if e.code() == Code::AlreadyExists => Ok(()),
            (Verb::Start, Err(e)) if e.code() == Code::FailedPrecondition => Ok(()),
            (_, Err(e)) => Err(format!("the same request again: {e}").into()),
        }
    }
}

async fn every_step(node: &Node, verb: Verb, users: Users) -> Outcome {
    let gates = Gates::listen()?;
    node.podwright.stop().await?;
    node.podwright.start_with(Gates::ENVIRONMENT).await?;
    node.until_ready().await?;
    let mut clean = Life::new(node, users);
    clean.up_to(verb).await?;
    gates.passed();
    clean.request(verb).await?;
    let steps = gates.passed();
    ensure(!steps.is_empty(), || format!("{verb:?} passes no gate"))?;
    leaks::remove_pods(node).await?;
    let before = leaks::Survey::of(node).await?;

    for step in steps {
        killed_at(node, &gates, (verb, users), &step, &before)
            .await
            .map_err(|e| format!("killed at {step}: {e}"))?;
    }
    Ok(())
}

/// A life whose `verb` is held at `step`. `None` where a background task was quicker each time: an exit that is noticed
/// before the stop asks for it leaves the stop nothing to do.
async fn held_at<'n>(
    node: &'n Node,
    gates: &Gates,
    (verb, users): (Verb, Users),
    step: &str,
) -> Outcome<Option<Life<'n>>> {
    for _ in 0..5 {
        let mut life = Life::new(node, users);
        life.up_to(verb).await?;
        gates.hold_at(step);
        let held = tokio::time::timeout(Duration::from_secs(30), async {
            tokio::select! {
                () = gates.held() => Ok(true),
                result = life.request(verb) => result.map(|()| false),
            }
        });
        if held.await.map_err(|_elapsed| "the step hangs")?? {
            return Ok(Some(life));
        }
        gates.let_pass();
        leaks::remove_pods(node).await?;
    }
    Ok(None)
}

async fn killed_at(
    node: &Node,
    gates: &Gates,
    (verb, users): (Verb, Users),
    step: &str,
    before: &leaks::Survey,
) -> Outcome {
    let Some(mut life) = held_at(node, gates, (verb, users), step).await? else {
        return Ok(());
    };
    node.podwright.kill().await?;
    node.podwright.start_with(Gates::ENVIRONMENT).await?;
    node.until_ready().await?;

    life.again(verb).await?;
    let pods = node.pods(cri::PodSandboxFilter::default()).await?;
    let containers = node.containers(cri::ContainerFilter::default()).await?;
    let wanted = usize::from(verb != Verb::RemovePod);
    ensure(pods.len() == wanted && containers.len() <= 1, || {
        format!("{pods:?}\n{containers:?}")
    })?;
    leaks::remove_pods(node).await?;
    leaks::check(node, before).await
}
