//! The configuration, re-read while pods run: all of it, or nothing.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use podwright::wire::cri;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Node, layout};
use crate::pods::pod;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "reload.a_file_that_breaks_a_rule_changes_nothing_and_says_why",
        |node| Box::pin(refused(node)),
    ),
    Case::new(
        "reload.live_keys_change_and_others_wait_for_a_restart_however_it_is_asked_for",
        |node| Box::pin(taken(node)),
    ),
];

/// What is wrong with a file, and what is said of it.
const BAD: [(&str, &str); 9] = [
    ("[images\n", "line "),
    ("[images]\nprogress_timeot = \"1m\"\n", "progress_timeot"),
    ("[imags]\nrange_size = 1\n", "imags"),
    (
        "[images]\nprogress_timeout = 7\n",
        "images.progress_timeout",
    ),
    (
        "[images]\nprogress_timeout = \"7\"\n",
        "images.progress_timeout",
    ),
    ("[logs]\nmax_line_bytes = 1\n", "logs.max_line_bytes"),
    (
        "[diagnostics]\nlevel = \"podwright=loud\"\n",
        "diagnostics.level",
    ),
    ("[cni]\nbin_dirs = [\"relative\"]\n", "cni.bin_dirs"),
    (
        "[runtimes]\ndefault = \"x\"\n[runtimes.handlers.x]\nruntime_type = \"io.containerd.runc.v2\"\nbase_runtime_spec = \"/nowhere.json\"\n",
        "/nowhere.json",
    ),
];

/// The lines beside a bad one, which would be good ones.
const BESIDE: &str = "[operations]\npark_time = \"7m\"\n";

async fn info(node: &Node) -> Outcome<BTreeMap<String, String>> {
    let request = cri::StatusRequest { verbose: true };
    let reply = node.cri.runtime.clone().status(request).await?;
    Ok(reply.into_inner().info)
}

/// A key of the configuration as the server has it, as JSON.
async fn key(node: &Node, table: &str, key: &str) -> Outcome<String> {
    let info = info(node).await?;
    let config: serde_json::Value = serde_json::from_str(info.get("config").ok_or("no config")?)?;
    let value = config.get(table).and_then(|table| table.get(key));
    Ok(value.ok_or("no such key")?.to_string())
}

async fn refused(node: &Node) -> Outcome {
    let path = layout::podwright_config(&node.home);
    let good = fs::read_to_string(&path)?;
    let before = info(node).await?.remove("config");
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    for (lines, says) in BAD {
        // Without the tables that the good file has already.
        let table = lines.split([']', '\n']).next().unwrap_or_default();
        let base = if good.contains(&format!("{table}]")) {
            ""
        } else {
            &good
        };
        fs::write(&path, format!("{base}{lines}"))?;
        let answer = node.cli(&["config", "reload"]).await;
        let complaint = answer
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        ensure(complaint.contains(says), || {
            format!("{lines}: {complaint:?}")
        })?;
        let info = info(node).await?;
        ensure(info.get("config") == before.as_ref(), || {
            format!("{lines}: it took effect")
        })?;
        let last = info.get("lastReload").cloned().unwrap_or_default();
        ensure(
            last.contains("\"error\":\"") && !last.contains("\"error\":\"\""),
            || last.clone(),
        )?;
    }
    fs::write(&path, good)?;
    Ok(node.remove_pod(&pod).await?)
}

async fn taken(node: &Node) -> Outcome {
    let path = layout::podwright_config(&node.home);
    let good = fs::read_to_string(&path)?;
    let write = |span: &str| fs::write(&path, format!("{good}{}", BESIDE.replace("7m", span)));

    write("7m")?;
    let told = node.cli(&["config", "reload"]).await?;
    ensure(
        told.contains("operations.park_time: ") && told.contains("-> \"7m\" (done)"),
        || told.clone(),
    )?;
    ensure(
        key(node, "operations", "park_time").await? == "\"7m\"",
        || "not by the command".to_owned(),
    )?;
    ensure(
        node.cli(&["config", "reload"]).await? == "nothing has changed\n",
        || "twice".to_owned(),
    )?;

    write("8m")?;
    node.podwright.signal(Signal::SIGHUP).await?;
    until(node, "\"8m\"").await?;
    write("9m")?;
    until(node, "\"9m\"").await?;

    // A key that only a restart changes keeps its value, so that no room sees another one than the rest.
    let text = fs::read_to_string(&path)?.replace("root_dir = \"", "root_dir = \"/elsewhere");
    fs::write(&path, text)?;
    let before = key(node, "server", "root_dir").await?;
    let told = node.cli(&["config", "reload"]).await?;
    ensure(
        told.contains("server.root_dir: ") && told.contains("(waits for a restart)"),
        || told.clone(),
    )?;
    ensure(key(node, "server", "root_dir").await? == before, || {
        "it did not wait".to_owned()
    })?;
    Ok(fs::write(&path, good)?)
}

/// Waits until the server has this value.
async fn until(node: &Node, value: &str) -> Outcome {
    for _ in 0..200 {
        if key(node, "operations", "park_time").await? == value {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("{value} did not take effect within 10 s").into())
}
