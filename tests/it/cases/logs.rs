//! What a container writes stands in its log, exactly, whoever is killed meanwhile.

use std::fs;
use std::time::Duration;

use podwright::wire::cri;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Node, layout};
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
    Case::new(
        "logs.a_container_beyond_its_quota_loses_lines_that_its_log_counts_and_starves_nobody",
        |node| Box::pin(dropped(node)),
    ),
    Case::new(
        "logs.a_container_beyond_its_quota_waits_and_can_be_stopped_and_loses_nothing",
        |node| Box::pin(blocked(node)),
    ),
    Case::new(
        "logs.a_container_beyond_its_quota_goes_on_after_a_rotation_a_restart_or_a_reload",
        |node| Box::pin(full(node)),
    ),
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

/// Puts a quota in the place of the one before, while containers run.
async fn quota(node: &Node, lines: &str) -> Outcome {
    let path = layout::podwright_config(&node.home);
    let text = fs::read_to_string(&path)?;
    let rest = text.split("[logs]").next().unwrap_or_default();
    fs::write(&path, format!("{rest}[logs]\n{lines}\n"))?;
    node.cli(&["config", "reload"]).await.map(drop)
}

/// What the verbose status says of a container's log.
async fn logged(node: &Node, id: &str) -> Outcome<serde_json::Value> {
    let request = cri::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: true,
    };
    let reply = node.cri.runtime.clone().container_status(request).await?;
    let info = reply.into_inner().info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").ok_or("no info")?)?;
    Ok(info.get("log").ok_or("nothing of the log")?.clone())
}

fn number(log: &serde_json::Value, pointer: &str) -> Outcome<u64> {
    let value = log.pointer(pointer).and_then(serde_json::Value::as_u64);
    Ok(value.ok_or_else(|| format!("no {pointer}: {log}"))?)
}

async fn until_held(node: &Node, id: &str) -> Outcome<serde_json::Value> {
    for _ in 0..1_000 {
        let log = logged(node, id).await?;
        if log.get("heldForMs").is_some() {
            return Ok(log);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("it was never held".into())
}

/// Goes through the output of `seq` from `next` on: each number in its turn, or a line that says how many are missing.
/// Returns the number that comes next, and how many are missing.
fn follow(lines: &[(String, String, String)], mut next: u64) -> Outcome<(u64, u64)> {
    let mut missing = 0;
    for (_, tag, content) in lines {
        ensure(tag == "F", || format!("a piece: {content}"))?;
        let said = content.strip_prefix("podwright: ");
        if let Some((count, _)) = said.and_then(|said| said.split_once(" lines (")) {
            let count: u64 = count.parse()?;
            next += count;
            missing += count;
        } else if said.is_none() {
            let wanted = next.to_string();
            ensure(*content == wanted, || format!("{content} for {wanted}"))?;
            next += 1;
        }
    }
    Ok((next, missing))
}

async fn dropped(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    // Its output is read all the time: the thread that it shares with the other never rests.
    let flood = shell("flood", "trap 'exit 0' TERM; yes & wait");
    let drip = shell(
        "drip",
        "n=1; while [ $n -le 200 ]; do echo $n; n=$((n+1)); sleep 0.01; done",
    );
    quota(node, "max_bytes_per_second = 50000").await?;
    let flooding = node.run(&pod, &config, &flood).await?;
    let before = number(&logged(node, &flooding).await?, "/overRate/records")?;

    let dripping = node.run(&pod, &config, &drip).await?;
    node.until_exited(&dripping).await?;

    let after = number(&logged(node, &flooding).await?, "/overRate/records")?;
    ensure(after > before, || format!("{before}, {after}: no flood"))?;
    let arrived = follow(&Node::lines(&config, &drip)?, 1)?;
    ensure(arrived == (201, 0), || format!("{arrived:?}"))?;
    node.stop(&flooding, 5).await?;
    let lines = Node::lines(&config, &flood)?;
    let told = lines
        .iter()
        .filter(|line| line.2.ends_with("dropped: over logs.max_bytes_per_second"));
    ensure(told.count() > 1, || "no line tells of a gap".to_owned())?;
    let kept = lines.iter().filter(|line| line.2 == "y").count();
    ensure(kept > 1_000, || format!("only {kept} lines"))?;

    let counted = shell("counted", "seq 50000; seq 50000 >&2");
    let id = node.run(&pod, &config, &counted).await?;
    node.until_exited(&id).await?;

    let lines = Node::lines(&config, &counted)?;
    let (out, err): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.0 == "stdout");
    let (out, err) = (follow(&out, 1)?, follow(&err, 1)?);
    ensure((out.0, err.0) == (50_001, 50_001), || {
        format!("{out:?} {err:?}")
    })?;
    let log = logged(node, &id).await?;
    let said = number(&log, "/overRate/records")?;
    ensure(said == out.1 + err.1 && said > 50_000, || log.to_string())?;

    // Without a quota the next one has all of its lines.
    quota(node, "").await?;
    let whole = shell("whole", "seq 50000");
    let id = node.run(&pod, &config, &whole).await?;
    node.until_exited(&id).await?;
    let arrived = follow(&Node::lines(&config, &whole)?, 1)?;
    ensure(arrived == (50_001, 0), || format!("{arrived:?}"))
}

async fn blocked(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    quota(
        node,
        "max_bytes_per_second = 2000000\nover_quota = \"block\"",
    )
    .await?;
    // Far more than its pipes hold: it has to wait before it can end.
    let counted = shell("counted", "seq 150000");
    let id = node.run(&pod, &config, &counted).await?;
    node.until_exited(&id).await?;
    let arrived = follow(&Node::lines(&config, &counted)?, 1)?;
    ensure(arrived == (150_001, 0), || format!("{arrived:?}"))?;
    let log = logged(node, &id).await?;
    ensure(number(&log, "/holds")? > 0, || log.to_string())?;

    // One that is held for good: it answers, is stopped, and its end is seen with what it had written.
    quota(node, "max_file_bytes = 65536\nover_quota = \"block\"").await?;
    let endless = shell("endless", "seq 100000000");
    let id = node.run(&pod, &config, &endless).await?;
    let held = until_held(node, &id).await?;
    let answer = node.ask(&id, "echo alive").await?;
    ensure(answer == "alive", || answer.clone())?;
    let quiet = shell("quiet", "seq 100");
    let quiet_id = node.run(&pod, &config, &quiet).await?;
    node.until_exited(&quiet_id).await?;
    let arrived = follow(&Node::lines(&config, &quiet)?, 1)?;
    ensure(arrived == (101, 0), || format!("{arrived:?}"))?;
    node.stop(&id, 1).await?;
    let status = node.until_exited(&id).await?;
    ensure(matches!(status.exit_code, 137 | 143), || {
        format!("{status:?}")
    })?;
    let mut lines = Node::lines(&config, &endless)?;
    // Killed within a line.
    lines.pop_if(|line| line.1 == "P");
    let (next, missing) = follow(&lines, 1)?;
    let before = number(&held, "/records")?;
    ensure(missing == 0 && next > before, || {
        format!("{next}, {missing} missing, {before} when held")
    })
}

async fn full(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let rotate = |container: &cri::ContainerConfig, id: &str| {
        let path = Node::log_of(&config, container);
        let (mut runtime, container_id) = (node.cri.runtime.clone(), id.to_owned());
        async move {
            fs::rename(&path, path.with_extension("old"))?;
            let request = cri::ReopenContainerLogRequest { container_id };
            runtime.reopen_container_log(request).await?;
            Outcome::Ok(())
        }
    };
    let size = |container: &cri::ContainerConfig| Node::log_of(&config, container).metadata();

    quota(node, "max_file_bytes = 65536").await?;
    let losing = shell("losing", "seq 20000; exec sleep 1000");
    let id = node.run(&pod, &config, &losing).await?;
    for _ in 0..500 {
        if number(&logged(node, &id).await?, "/records")? == 20_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let length = size(&losing)?.len();
    ensure((65_536..65_800).contains(&length), || length.to_string())?;
    let (next, _) = follow(&Node::lines(&config, &losing)?, 1)?;
    rotate(&losing, &id).await?;
    let rotated = follow(&Node::lines(&config, &losing)?, next)?;
    ensure(rotated == (20_001, 20_001 - next), || {
        format!("{rotated:?}")
    })?;

    quota(node, "max_file_bytes = 65536\nover_quota = \"block\"").await?;
    let waiting = shell("waiting", "seq 40000; exec sleep 1000");
    let id = node.run(&pod, &config, &waiting).await?;
    until_held(node, &id).await?;
    let length = size(&waiting)?.len();
    ensure((65_536..65_600).contains(&length), || length.to_string())?;
    let (next, _) = follow(&Node::lines(&config, &waiting)?, 1)?;
    rotate(&waiting, &id).await?;
    until_held(node, &id).await?;

    // A successor finds the file full, and the rest where it was.
    node.podwright.kill().await?;
    node.podwright.start().await?;
    node.until_ready().await?;
    let held = until_held(node, &id).await?;
    ensure(number(&held, "/records")? == 0, || held.to_string())?;
    let again = follow(&Node::lines(&config, &waiting)?, next)?;
    ensure(again.0 > next && again.1 == 0, || format!("{again:?}"))?;

    quota(node, "max_file_bytes = 0").await?;
    for _ in 0..500 {
        let (reached, missing) = follow(&Node::lines(&config, &waiting)?, next)?;
        ensure(missing == 0, || format!("{missing} are missing"))?;
        if reached == 40_001 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("it did not go on".into())
}
