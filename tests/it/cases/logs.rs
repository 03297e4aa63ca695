//! What a container writes stands in its log, exactly, whoever is killed meanwhile.

use std::fs;
use std::time::Duration;

use podwright::wire::cri;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::Node;
use crate::pods::{fails, pod, shell, sleeper};

pub(super) const CASES: &[Case] = &[
    Case::new("logs.lines_are_framed_exactly", |node| {
        Box::pin(framing(node))
    }),
    Case::new("logs.a_terminal_writes_to_stdout_only", |node| {
        Box::pin(terminal(node))
    }),
    Case::new("logs.reopen_moves_to_a_new_file", |node| {
        Box::pin(reopen(node))
    }),
    Case::new("logs.twenty_kills_lose_no_line", |node| {
        Box::pin(twenty_kills(node))
    })
    .within(300),
];

fn record(stream: &str, tag: &str, content: &str) -> (String, String, String) {
    (stream.to_owned(), tag.to_owned(), content.to_owned())
}

async fn framing(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let script = "echo one; echo; echo two >&2; sleep 0.2; head -c 16385 /dev/zero | tr '\\0' x; echo; printf rest";
    let container = shell("c", script);

    let id = node.run(&pod, &config, &container).await?;
    node.until_exited(&id).await?;

    let lines = Node::lines(&config, &container)?;
    let (out, err): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.0 == "stdout");
    ensure(err == [record("stderr", "F", "two")], || format!("{err:?}"))?;
    let wanted = [
        record("stdout", "F", "one"),
        record("stdout", "F", ""),
        record("stdout", "P", &"x".repeat(16_384)),
        record("stdout", "F", "x"),
        record("stdout", "P", "rest"),
    ];
    ensure(out == wanted, || {
        let short: Vec<_> = out.iter().map(|l| (&l.1, l.2.len())).collect();
        format!("{short:?}")
    })
}

async fn terminal(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut container = shell("c", "tty; echo loud >&2");
    container.tty = true;

    let id = node.run(&pod, &config, &container).await?;
    node.until_exited(&id).await?;

    let lines = Node::lines(&config, &container)?;
    ensure(
        lines
            == [
                record("stdout", "F", "/dev/pts/0"),
                record("stdout", "F", "loud"),
            ],
        || format!("{lines:?}"),
    )
}

async fn reopen(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let container = shell("c", "while :; do echo tick; sleep 0.05; done");
    let id = node.run(&pod, &config, &container).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let path = Node::log_of(&config, &container);
    let old = path.with_extension("old");
    let ask = |id: &str| cri::ReopenContainerLogRequest {
        container_id: id.to_owned(),
    };

    fs::rename(&path, &old)?;
    node.cri
        .runtime
        .clone()
        .reopen_container_log(ask(&id))
        .await?;
    let size = old.metadata()?.len();
    tokio::time::sleep(Duration::from_millis(500)).await;

    ensure(size > 0 && old.metadata()?.len() == size, || {
        String::from("the old file went on growing")
    })?;
    ensure(!Node::lines(&config, &container)?.is_empty(), || {
        String::from("nothing came to the new file")
    })?;
    let quiet = sleeper("quiet");
    let quiet_id = node.create(&pod, &config, &quiet).await?;
    let refused = node
        .cri
        .runtime
        .clone()
        .reopen_container_log(ask(&quiet_id))
        .await;
    fails("reopen before the start", refused, Code::FailedPrecondition)?;
    ensure(!Node::log_of(&config, &quiet).exists(), || {
        String::from("a refused reopen made a file")
    })
}

async fn twenty_kills(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let container = shell(
        "c",
        "n=0; while [ ! -e /dev/shm/stop ]; do n=$((n+1)); echo line $n; done",
    );
    let id = node.run(&pod, &config, &container).await?;

    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        node.podwright.kill().await?;
        node.podwright.start().await?;
        node.until_ready().await?;
    }
    node.ask(&id, "touch /dev/shm/stop").await?;
    node.until_exited(&id).await?;

    let mut last = 0_u64;
    for (_, _, content) in Node::lines(&config, &container)? {
        let number: u64 = content
            .strip_prefix("line ")
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| format!("a torn line: {content:?}"))?;
        // The last read before a kill may be repeated, so a step back is no gap.
        ensure(number <= last + 1, || format!("{number} follows {last}"))?;
        last = last.max(number);
    }
    ensure(last > 1_000, || format!("only {last} lines"))
}
