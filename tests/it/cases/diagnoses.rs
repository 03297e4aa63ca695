//! Why a container ended, or did not start: found out by podwright, and told to whoever asks for more.

use std::time::Duration;

use podwright::wire::cri;
use serde_json::Value;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::Node;
use crate::pods::{hungry, pod, shell};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "diagnosis.a_missing_program_is_told_with_every_place",
        |node| Box::pin(missing_program(node)),
    ),
    Case::new("diagnosis.an_end_is_told_with_its_last_words", |node| {
        Box::pin(last_words(node))
    }),
    Case::new(
        "diagnosis.out_of_memory_is_told_with_limit_and_peak",
        |node| Box::pin(out_of_memory(node)),
    ),
    Case::new("diagnosis.survives_a_restart", |node| {
        Box::pin(restart(node))
    }),
];

/// What verbose info says; it comes a moment after the end is shown.
async fn diagnosis(node: &Node, id: &str) -> Outcome<String> {
    for _ in 0..100 {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let reply = node.cri.runtime.clone().container_status(request).await?;
        let info = reply.into_inner().info;
        let info: Value = serde_json::from_str(info.get("info").ok_or("no info")?)?;
        if let Some(text) = info.get("exitDiagnosis").and_then(Value::as_str) {
            return Ok(text.to_owned());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("no diagnosis".into())
}

async fn missing_program(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut absent = shell("absent", "");
    absent.command = vec![String::from("serve-nothing")];
    let id = node.create(&pod, &config, &absent).await?;

    ensure(node.start(&id).await.is_err(), || {
        String::from("the start succeeded")
    })?;

    let status = node.status(&id).await?;
    let told = "\"serve-nothing\" is not in the image; looked for \"";
    ensure(
        status.reason == "StartError"
            && status.message.contains(told)
            && status.message.contains("/bin/serve-nothing\""),
        || format!("{status:?}"),
    )?;
    let info = diagnosis(node, &id).await?;
    ensure(info.starts_with(told), || info.clone())
}

async fn last_words(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let script = "echo begin; echo 'no database at db:5432' >&2; exit 3";

    let id = node.run(&pod, &config, &shell("c", script)).await?;

    let status = node.until_exited(&id).await?;
    // What kubelet shows and compares stays what the interface says.
    ensure(
        status.reason == "Error" && status.message.is_empty(),
        || format!("{status:?}"),
    )?;
    let info = diagnosis(node, &id).await?;
    // The two streams are two pipes: which line came first, nobody knows.
    let words = [
        "begin | no database at db:5432",
        "no database at db:5432 | begin",
    ];
    let said = "the process ended by itself with exit code 3; its last words: ";
    let last = info.strip_prefix(said);
    ensure(last.is_some_and(|last| words.contains(&last)), || {
        info.clone()
    })
}

async fn out_of_memory(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;

    let id = node.run(&pod, &config, &hungry()).await?;

    node.until_exited(&id).await?;
    let info = diagnosis(node, &id).await?;
    ensure(
        info.starts_with("the kernel killed it for want of memory: its limit is 16.0 MiB"),
        || info.clone(),
    )
}

async fn restart(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node
        .run(&pod, &config, &shell("c", "kill -SEGV $$"))
        .await?;
    node.until_exited(&id).await?;
    let before = diagnosis(node, &id).await?;
    ensure(before.starts_with("ended by signal 11 (SIGSEGV)"), || {
        before.clone()
    })?;

    node.podwright.kill().await?;
    node.podwright.start().await?;
    node.until_ready().await?;

    let after = diagnosis(node, &id).await?;
    ensure(before == after, || format!("{before}\n{after}"))
}
