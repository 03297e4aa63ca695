//! A caller that hung up asks again: it gets what it asked for, once.

use std::time::Duration;

use podwright::wire::cri;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::Node;
use crate::pods::{fails, pod, sleeper};

pub(super) const CASES: &[Case] = &[
    Case::new("join.a_retry_gets_the_first_requests_pod", |node| {
        Box::pin(retried_pod(node))
    }),
    Case::new("join.a_retry_gets_the_first_requests_container", |node| {
        Box::pin(retried_container(node))
    }),
    Case::new("join.equal_requests_at_once_make_one_pod", |node| {
        Box::pin(at_once(node))
    }),
    Case::new("join.another_configuration_is_refused", |node| {
        Box::pin(other_configuration(node))
    }),
    Case::new("join.names_are_not_mixed_up", |node| {
        Box::pin(similar_names(node))
    }),
];

const HASTE: Duration = Duration::from_millis(50);

async fn retried_pod(node: &Node) -> Outcome {
    let config = pod(node, "hasty");

    let first = tokio::time::timeout(HASTE, node.run_pod(&config)).await;
    let id = node.run_pod(&config).await?;

    if let Ok(Ok(first)) = first {
        return ensure(first == id, || format!("{first} and {id}"));
    }
    let listed = node.pods(cri::PodSandboxFilter::default()).await?;
    ensure(
        listed.len() == 1 && listed.iter().all(|p| p.id == id),
        || format!("{listed:?}"),
    )
}

async fn retried_container(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let container = sleeper("hasty");

    drop(
        tokio::time::timeout(
            Duration::from_millis(2),
            node.create(&pod, &config, &container),
        )
        .await,
    );
    let id = node.create(&pod, &config, &container).await?;

    let listed = node.containers(cri::ContainerFilter::default()).await?;
    ensure(
        listed.len() == 1 && listed.iter().all(|c| c.id == id),
        || format!("{listed:?}"),
    )
}

async fn at_once(node: &Node) -> Outcome {
    let config = pod(node, "twin");

    let (one, other) = tokio::join!(node.run_pod(&config), node.run_pod(&config));

    let (one, other) = (one?, other?);
    ensure(one == other, || format!("{one} and {other}"))
}

async fn other_configuration(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let id = node.run_pod(&config).await?;
    let mut other = config.clone();
    other.hostname = String::from("elsewhere");

    for (what, config) in [("the same again", &config), ("another one", &other)] {
        let message = fails(what, node.run_pod(config).await, Code::AlreadyExists)?;
        ensure(message.contains(&id), || {
            format!("the id is not in: {message}")
        })?;
    }
    Ok(())
}

async fn similar_names(node: &Node) -> Outcome {
    let mut one = pod(node, "n");
    let mut other = pod(node, "n");
    let name = |config: &mut cri::PodSandboxConfig, name: &str, namespace: &str| {
        let metadata = config.metadata.get_or_insert_default();
        metadata.name = name.to_owned();
        metadata.namespace = namespace.to_owned();
    };
    name(&mut one, "a-b", "c");
    name(&mut other, "a", "b-c");
    let mut next = one.clone();
    next.metadata.get_or_insert_default().attempt = 1;

    let mut ids = vec![
        node.run_pod(&one).await?,
        node.run_pod(&other).await?,
        node.run_pod(&next).await?,
    ];

    ids.sort();
    ids.dedup();
    ensure(ids.len() == 3, || format!("{ids:?}"))
}
