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
    let questions = [
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
    let id = node.run_pod(&good).await?;
    Ok(node.remove_pod(&id).await?)
}

async fn bad_containers(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mount = |host: &str, inside: &str| {
        let mut container = sleeper("c");
        container.mounts.push(cri::Mount {
            host_path: host.to_owned(),
            container_path: inside.to_owned(),
            ..Default::default()
        });
        container
    };
    let mut no_metadata = sleeper("c");
    no_metadata.metadata = None;
    let mut absent_image = sleeper("c");
    absent_image.image = super::images::spec("podwright.local/absent:1");
    let mut escaping_log = sleeper("c");
    escaping_log.log_path = String::from("../../escaped.log");
    let mut capability = sleeper("c");
    crate::pods::security(&mut capability).capabilities = Some(cri::Capability {
        add_capabilities: vec![String::from("NO_SUCH_THING")],
        ..Default::default()
    });
    let mut nobody = sleeper("c");
    crate::pods::security(&mut nobody).run_as_username = String::from("no-such-user");
    let questions = [
        ("no metadata", no_metadata, Code::InvalidArgument),
        ("an absent image", absent_image, Code::NotFound),
        (
            "a log outside its folder",
            escaping_log,
            Code::InvalidArgument,
        ),
        ("an unknown capability", capability, Code::InvalidArgument),
        ("an unknown user", nobody, Code::InvalidArgument),
        (
            "a mount without a place",
            mount("/tmp", ""),
            Code::InvalidArgument,
        ),
    ];

    for (what, container, code) in questions {
        fails(what, node.create(&pod, &config, &container).await, code)?;
    }
    let left = node.containers(cri::ContainerFilter::default()).await?;
    crate::ensure(left.is_empty(), || format!("listed: {left:?}"))?;
    let nowhere = "0".repeat(64);
    let orphan = node.create(&nowhere, &config, &shell("c", "true")).await;
    fails("a container without a pod", orphan, Code::NotFound).map(drop)
}

async fn bad_images(node: &Node) -> Outcome {
    for reference in [
        "",
        "registry.example/UPPER/case",
        "a b",
        "x@sha256:123",
        "/leading",
    ] {
        let request = cri::PullImageRequest {
            image: super::images::spec(reference),
            ..Default::default()
        };
        let result = node.cri.images.clone().pull_image(request).await;
        fails(
            &format!("pull of {reference:?}"),
            result,
            Code::InvalidArgument,
        )?;
    }
    Ok(())
}
