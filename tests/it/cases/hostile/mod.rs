//! Registries that misbehave: what the caller is told, how soon, at what cost, and that nothing is left.

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join_all};
use podwright::wire::cri;
use tokio::net::TcpListener;
use tonic::Code;

use super::images::{list, pull_with, remove};
use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Node, layout, namespaces, patient, registry};
use crate::pods::{pod, sleeper};
use server::{Asked, Counts, Shelf};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "image.a_hostile_registry_costs_a_clear_error_and_leaves_nothing",
        |node| Box::pin(hostile(node)),
    )
    .within(300),
    Case::new("image.ten_pulls_at_once_are_one_download", |node| {
        Box::pin(slow(node, |node, shelf, counts| {
            Box::pin(together(node, shelf, counts))
        }))
    }),
    Case::new("image.a_pull_goes_on_where_a_kill_ended_it", |node| {
        Box::pin(slow(node, |node, shelf, counts| {
            Box::pin(killed(node, shelf, counts))
        }))
    }),
    Case::new(
        "image.what_a_killed_pull_left_is_given_back_on_demand",
        |node| {
            Box::pin(slow(node, |node, shelf, counts| {
                Box::pin(pruned(node, shelf, counts))
            }))
        },
    ),
];

/// What a case does with the repository `slow`.
type WithSlow = for<'a> fn(&'a Node, &'a Shelf, &'a Counts) -> BoxFuture<'a, Outcome>;

const ADDRESS: &str = "127.0.0.1:5011";
/// Where the realm of another host listens.
const ELSEWHERE: &str = "127.0.0.2:5012";
const DOMAIN: &str = "hostile.example";
/// More memory than this over what it had before is not bounded.
const MEMORY_KIB: u64 = 64 << 10;

/// Bytes that a kill may cost: a few writes to the content store, and buffers of sockets.
const IN_FLIGHT: usize = 9 << 20;

/// How a repository misbehaves, and what comes of it.
struct Misdeed {
    how: &'static str,
    code: Code,
    says: &'static str,
    /// Longest that the caller waits.
    seconds: u64,
    /// Most requests that it costs.
    requests: usize,
}

const fn misdeed(
    how: &'static str,
    code: Code,
    says: &'static str,
    seconds: u64,
    requests: usize,
) -> Misdeed {
    Misdeed {
        how,
        code,
        says,
        seconds,
        requests,
    }
}

const MISDEEDS: &[Misdeed] = &[
    misdeed("hang", Code::Unknown, "RegistryUnavailable", 20, 3),
    misdeed("500", Code::Unknown, "RegistryUnavailable", 30, 5),
    misdeed("429", Code::Unknown, "RegistryUnavailable", 30, 5),
    misdeed("redirects", Code::Unknown, "redirect", 20, 60),
    misdeed(
        "unauthorized",
        Code::Unauthenticated,
        "user or password",
        20,
        6,
    ),
    misdeed(
        "evil-realm",
        Code::PermissionDenied,
        "private address",
        20,
        6,
    ),
    misdeed(
        "endless-manifest",
        Code::ResourceExhausted,
        "4194304",
        20,
        4,
    ),
    misdeed("wrong-digest", Code::Aborted, "has not this digest", 20, 8),
    misdeed("too-long", Code::Unknown, "sends 3151360 bytes", 20, 20),
    misdeed("too-short", Code::Unknown, "sends 1573632 bytes", 20, 20),
    misdeed("drip", Code::Unknown, "RegistryUnavailable", 40, 20),
    misdeed(
        "hang-mid-blob",
        Code::Unknown,
        "RegistryUnavailable",
        40,
        20,
    ),
];

async fn hostile(node: &Node) -> Outcome {
    let names = MISDEEDS.iter().map(|misdeed| misdeed.how);
    let shelf = Arc::new(Shelf::new(names.chain(["cut"]))?);
    let counts = Counts::default();
    registry::served_by(DOMAIN, &format!("http://{ADDRESS}"))?;
    // A slow download shall be given up after seconds.
    node.configure("progress_timeout = \"5s\"").await?;
    let near = TcpListener::bind(ADDRESS).await?;
    let far = TcpListener::bind(ELSEWHERE).await?;
    let before = memory(node).await?;

    let trying = async {
        try_all(node, &counts, before).await?;
        resumed(node, &shelf, &counts).await
    };
    tokio::select! {
        ended = server::serve(near, Arc::clone(&shelf), Arc::clone(&counts)) => ended,
        ended = server::serve(far, Arc::clone(&shelf), Arc::clone(&counts)) => ended,
        ended = trying => ended,
    }
}

async fn try_all(node: &Node, counts: &Counts, before: u64) -> Outcome {
    let tries = MISDEEDS.iter().map(|misdeed| attempt(node, misdeed));
    let mut wrong: Vec<String> = join_all(tries).await.into_iter().flatten().collect();
    let asked = counts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    wrong.extend(too_many(&asked));
    let after = memory(node).await?;
    if after > before + MEMORY_KIB {
        wrong.push(format!("{before} KiB of memory became {after}"));
    }
    wrong.extend(left(node).await?);
    ensure(wrong.is_empty(), || wrong.join("\n"))
}

/// What is not as it should be about one misdeed.
async fn attempt(node: &Node, misdeed: &Misdeed) -> Option<String> {
    let how = misdeed.how;
    let auth = (how == "unauthorized" || how == "evil-realm").then(|| cri::AuthConfig {
        username: "user".into(),
        password: "S3cret".into(),
        server_address: ADDRESS.into(),
        ..Default::default()
    });
    let began = Instant::now();
    let ended = pull(node, how, auth).await;
    let took = began.elapsed();
    let Err(status) = ended else {
        return Some(format!("{how}: it was pulled"));
    };
    let fits = status.code() == misdeed.code && status.message().contains(misdeed.says);
    if !fits || status.message().contains("S3cret") {
        return Some(format!("{how}: {:?} {}", status.code(), status.message()));
    }
    (took > patient(Duration::from_secs(misdeed.seconds))).then(|| format!("{how}: {took:?}"))
}

fn too_many(asked: &BTreeMap<String, Asked>) -> Vec<String> {
    let mut wrong = Vec::new();
    for misdeed in MISDEEDS {
        let count = asked.get(misdeed.how).copied().unwrap_or_default();
        if count.requests == 0 || count.requests > misdeed.requests {
            wrong.push(format!("{}: {count:?}", misdeed.how));
        }
    }
    if asked.get("token").is_some_and(|token| token.leaks > 0) {
        wrong.push("credentials went to the realm of another host".into());
    }
    wrong
}

/// What should not be there any more.
async fn left(node: &Node) -> Outcome<Vec<String>> {
    let mut wrong = Vec::new();
    let images = list(node).await?;
    let ours = |image: &cri::Image| image.repo_digests.iter().any(|it| it.contains(DOMAIN));
    if images.iter().any(ours) {
        wrong.push(format!("images: {images:?}"));
    }
    let running = node.cli(&["ops"]).await?;
    if running != "nothing runs\n" {
        wrong.push(running);
    }
    let snapshots = node.ctr(&["snapshots", "list"])?;
    if snapshots.contains("extract-") {
        wrong.push(snapshots);
    }
    Ok(wrong)
}

async fn slow(node: &Node, work: WithSlow) -> Outcome {
    let shelf = Arc::new(Shelf::new(std::iter::once("slow"))?);
    let counts = Counts::default();
    registry::served_by(DOMAIN, &format!("http://{ADDRESS}"))?;
    let listener = TcpListener::bind(ADDRESS).await?;
    tokio::select! {
        ended = server::serve(listener, Arc::clone(&shelf), Arc::clone(&counts)) => ended,
        ended = work(node, &shelf, &counts) => ended,
    }
}

async fn together(node: &Node, shelf: &Shelf, counts: &Counts) -> Outcome {
    let pulls = (0..10).map(|_| pull(node, "slow", None));
    let ended: Result<Vec<String>, tonic::Status> = join_all(pulls).await.into_iter().collect();
    let ids = ended?;

    ensure(ids.iter().all(|id| Some(id) == ids.first()), || {
        format!("{ids:?}")
    })?;
    let sent = sent(counts);
    ensure(sent == shelf.layer_size("slow"), || format!("{sent} bytes"))?;
    Ok(remove(node, &name("slow")).await?)
}

async fn killed(node: &Node, shelf: &Shelf, counts: &Counts) -> Outcome {
    let size = shelf.layer_size("slow");
    killed_half_way(node, size, counts).await?;
    let before = sent(counts);

    node.podwright.start().await?;
    node.until_ready().await?;
    pull(node, "slow", None).await?;

    let again = sent(counts) - before;
    // What was on its way to the content store is fetched anew, and what the sockets held.
    ensure(again < size - before + IN_FLIGHT, || {
        format!("{again} bytes after {before} of {size}")
    })?;
    forget(node)?;
    Ok(remove(node, &name("slow")).await?)
}

/// Kills podwright when half of the layer is here.
async fn killed_half_way(node: &Node, size: usize, counts: &Counts) -> Outcome {
    let half_way = async {
        while sent(counts) < size / 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = pull(node, "slow", None) => return Err(format!("it ended early: {ended:?}").into()),
        () = half_way => {}
    }
    node.podwright.kill().await
}

/// What another client writes meanwhile stays, and so does what it holds by a lease.
async fn pruned(node: &Node, shelf: &Shelf, counts: &Counts) -> Outcome {
    let part = node.home.join("part");
    fs::write(&part, "partial")?;
    let theirs = format!(
        "ctr --address {} --namespace k8s.io content ingest --expected-size 1000 theirs <{}",
        layout::CONTAINERD_SOCKET,
        part.display()
    );
    drop(namespaces::run("sh", &["-c", &theirs]));
    node.ctr(&["leases", "create", "--id", "theirs"])?;
    killed_half_way(node, shelf.layer_size("slow"), counts).await?;
    node.podwright.start().await?;
    node.until_ready().await?;
    let ingests = || -> Outcome<String> { Ok(ingests_in(&node.ctr(&["content", "active"])?)) };
    let before = ingests()?;
    ensure(
        before.contains("layer-") && before.contains("theirs"),
        || before.clone(),
    )?;

    let settings = layout::podwright_config(&node.home);
    let settings = settings.to_string_lossy();
    // Its end depends on the machine.
    let doctor = match node.cli(&["doctor", "--config", &settings]).await {
        Ok(text) => text,
        Err(error) => error.to_string(),
    };
    ensure(doctor.contains("interrupted pulls"), || doctor.clone())?;
    let told = node.cli(&["image", "prune", "--dry-run"]).await?;
    let still = ingests()?;
    ensure(still == before, || {
        format!("a dry run changed it: {before:?} {still:?}")
    })?;
    let young = node.cli(&["image", "prune", "--older-than", "1h"]).await?;
    ensure(young == "0 B given back\n", || young.clone())?;
    let given = node.cli(&["image", "prune"]).await?;

    ensure(
        told.replace("would be given back", "given back") == given
            && given.starts_with("1 interrupted pulls\n1 incomplete blobs: ")
            && given.contains(" MiB given back"),
        || format!("{told}{given}"),
    )?;
    let after = ingests()?;
    ensure(
        !after.contains("layer-") && after.contains("theirs"),
        || after,
    )?;
    let leases = node.ctr(&["leases", "list", "-q"])?;
    ensure(leases.trim() == "theirs", || leases.clone())?;

    // Nothing uses busybox, but somebody may just have asked for it.
    let fresh = node.cli(&["image", "prune", "--unused"]).await?;
    ensure(fresh == "0 B given back\n", || fresh.clone())?;
    pull(node, "slow", None).await?;
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    node.run(&pod, &config, &sleeper("c")).await?;
    let unused = ["image", "prune", "--unused", "--older-than", "0s"];
    let given = node.cli(&unused).await?;
    let left = list(node).await?;
    ensure(
        given.contains(&format!("image {}\n", name("slow"))) && left.len() == 1,
        || format!("{given}{left:?}"),
    )?;
    node.remove_pod(&pod).await?;
    namespaces::run("sh", &["-c", &theirs.replace("--expected-size 1000", "")])?;
    node.ctr(&["leases", "delete", "--sync", "theirs"])
        .map(drop)
}

/// ctr's table of ingests, which come in any order, without its last column, which says how old each is.
fn ingests_in(table: &str) -> String {
    let rows = table.lines().filter_map(|row| {
        let mut cells = row.split('\t').filter(|cell| !cell.is_empty());
        Some(format!("{} {}\n", cells.next()?, cells.next()?))
    });
    rows.collect::<BTreeSet<String>>().into_iter().collect()
}

/// Bytes of layers that `slow` has sent.
fn sent(counts: &Counts) -> usize {
    let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    counts.get("slow").map_or(0, |asked| asked.layer_bytes)
}

/// A connection that breaks after each mebibyte costs no byte twice.
async fn resumed(node: &Node, shelf: &Shelf, counts: &Counts) -> Outcome {
    pull(node, "cut", None).await?;

    let asked = {
        let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get("cut").copied().unwrap_or_default()
    };
    ensure(asked.layer_bytes == shelf.layer_size("cut"), || {
        format!("{asked:?} for {} bytes", shelf.layer_size("cut"))
    })?;
    forget(node)?;
    Ok(remove(node, &name("cut")).await?)
}

/// Ends the leases of the pulls that failed: they keep for a day what came of an image, so that the next pull of it
/// goes on there.
fn forget(node: &Node) -> Outcome {
    for lease in node.ctr(&["leases", "list", "-q"])?.lines() {
        node.ctr(&["leases", "delete", "--sync", lease])?;
    }
    Ok(())
}

fn name(how: &str) -> String {
    format!("{DOMAIN}/{how}:1")
}

async fn pull(
    node: &Node,
    how: &str,
    auth: Option<cri::AuthConfig>,
) -> Result<String, tonic::Status> {
    pull_with(node, &name(how), auth).await
}

/// Resident memory of podwright in KiB.
async fn memory(node: &Node) -> Outcome<u64> {
    let pid = node.podwright.pid().await?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("no VmRSS")?.parse()?)
}
