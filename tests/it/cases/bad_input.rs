//! What a client may get wrong: each is refused with its code, and nothing is left.

use podwright::wire::cri;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::node::Node;
use crate::pods::{fails, pod, shell, sleeper};

pub(super) const CASES: &[Case] = &[
    Case::new("refused.pods_that_cannot_be", |node| {
        Box::pin(bad_pods(node))
    }),
    Case::new("refused.containers_that_cannot_be", |node| {
        Box::pin(bad_containers(node))
    }),
    Case::new("refused.images_that_cannot_be", |node| {
        Box::pin(bad_images(node))
    }),
];

async fn bad_pods(node: &Node) -> Outcome {
    let good = pod(node, "good");
    let mut no_metadata = good.clone();
    no_metadata.metadata = None;
    let mut escaping = good.clone();
    escaping.metadata.get_or_insert_default().uid = String::from("../../../etc");
    let mut injected = good.clone();
    injected.metadata.get_or_insert_default().name =
        String::from("x;K8S_POD_NAMESPACE=kube-system");
    let mut broken_name = good.clone();
    broken_name.hostname = String::from("two\nlines");
    let mut long_name = good.clone();
    long_name.hostname = "h".repeat(70);
    let mut resolver = good.clone();
    resolver.dns_config = Some(cri::DnsConfig {
        searches: vec![String::from("x\nnameserver 6.6.6.6")],
        ..Default::default()
    });
    let mut sysctl = good.clone();
    sysctl
        .linux
        .get_or_insert_default()
        .sysctls
        .insert(String::from("kernel.core_pattern"), String::from("|/evil"));
    let mut long_label = good.clone();
    long_label
        .labels
        .insert(String::from("l"), "x".repeat(5_000));
    let mut many_annotations = good.clone();
    for number in 0..300 {
        many_annotations
            .annotations
            .insert(format!("a{number}"), "x".repeat(1_000));
    }
    let mut long_uid = good.clone();
    long_uid.metadata.get_or_insert_default().uid = "u".repeat(200);
    let questions = [
        ("a label that is too long", long_label),
        ("annotations that are too many", many_annotations),
        ("a uid that is too long", long_uid),
        ("no metadata", no_metadata),
        ("a uid that is a path", escaping),
        ("a name that injects CNI arguments", injected),
        ("a host name of two lines", broken_name),
        ("a host name that is too long", long_name),
        ("a search domain of two lines", resolver),
        ("a sysctl of the whole node", sysctl),
    ];

    for (what, config) in questions {
        fails(what, node.run_pod(&config).await, Code::InvalidArgument)?;
    }
    let unknown = node.run_pod_with("no-such-handler", &good).await;
    fails("an unknown handler", unknown, Code::InvalidArgument)?;
    let mut huge = good.clone();
    huge.annotations
        .insert(String::from("a"), "x".repeat(17 << 20));
    fails(
        "a message that is too long",
        node.run_pod(&huge).await,
        Code::OutOfRange,
    )?;
    let id = node.run_pod(&good).await?;
    Ok(node.remove_pod(&id).await?)
}

async fn bad_containers(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    for (what, container, code) in wrong_requests().into_iter().chain(wrong_mounts()) {
        fails(what, node.create(&pod, &config, &container).await, code)?;
    }
    let left = node.containers(cri::ContainerFilter::default()).await?;
    crate::ensure(left.is_empty(), || format!("listed: {left:?}"))?;
    let nowhere = "0".repeat(64);
    let orphan = node.create(&nowhere, &config, &shell("c", "true")).await;
    fails("a container without a pod", orphan, Code::NotFound).map(drop)
}

/// What is wrong, the container that is asked for, and the code that has to come back.
type Wrong = (&'static str, cri::ContainerConfig, Code);

fn wrong_requests() -> Vec<Wrong> {
    let with = |change: fn(&mut cri::ContainerConfig)| {
        let mut container = sleeper("c");
        change(&mut container);
        container
    };
    let absent = with(|c| c.image = super::images::spec("podwright.local/absent:1"));
    let no_reference = with(|c| c.image = super::images::spec("UPPER/Case:!"));
    let argument = with(|c| c.args.push("x".repeat(200 << 10)));
    let environment = with(|c| {
        c.envs = (0..11_000)
            .map(|number| cri::KeyValue {
                key: format!("K{number}"),
                ..Default::default()
            })
            .collect();
    });
    let escaping_log = with(|c| c.log_path = String::from("../../escaped.log"));
    let capability = with(|c| {
        crate::pods::security(c).capabilities = Some(cri::Capability {
            add_capabilities: vec![String::from("NO_SUCH_THING")],
            ..Default::default()
        });
    });
    let nobody = with(|c| {
        crate::pods::security(c).run_as_username = String::from("no-such-user");
    });
    let bad = Code::InvalidArgument;
    vec![
        ("no metadata", with(|c| c.metadata = None), bad),
        ("an absent image", absent, Code::NotFound),
        ("a reference that is none", no_reference, Code::NotFound),
        ("an argument that is too long", argument, bad),
        ("an environment that is too long", environment, bad),
        ("a log outside its folder", escaping_log, bad),
        ("an unknown capability", capability, bad),
        ("an unknown user", nobody, bad),
    ]
}

fn wrong_mounts() -> Vec<Wrong> {
    let mount = |host: &str, inside: &str, propagation: i32| {
        let mut container = sleeper("c");
        container.mounts.push(cri::Mount {
            host_path: host.to_owned(),
            container_path: inside.to_owned(),
            propagation,
            ..Default::default()
        });
        container
    };
    let bad = Code::InvalidArgument;
    vec![
        ("a mount from nowhere", mount("", "/x", 0), bad),
        ("a mount from a relative path", mount("tmp", "/x", 0), bad),
        ("a mount without a place", mount("/tmp", "", 0), bad),
        ("a propagation that is none", mount("/tmp", "/x", 9), bad),
    ]
}

async fn bad_images(node: &Node) -> Outcome {
    for reference in [
        "",
        "registry.example/UPPER/case",
        "a b",
        "x@sha256:123",
        "/leading",
    ] {
        let result = super::images::pull(node, reference).await;
        fails(
            &format!("pull of {reference:?}"),
            result,
            Code::InvalidArgument,
        )?;
    }
    Ok(())
}
