//! The journal of facts about containers that nobody else remembers: when they started, how they ended.
//!
//! One thread appends; what queued up while it synced goes out with the next write (group commit), so a burst of exits
//! costs one sync and a lone exit waits for one. Each line carries a checksum; a torn last line, as a power loss leaves
//! it, is dropped. The journal is rewritten when it is opened and whenever it has grown past its limit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::model::{
    Classify, ContainerId, Digest, Error, Kind, Pid, Result, Termination, Timestamp,
};
use crate::sys::files;

/// A journal past this many bytes is rewritten.
const REWRITE_BYTES: u64 = 4 << 20;
/// A journal past this many bytes is not ours.
const LIMIT_BYTES: u64 = 64 << 20;

/// What is remembered of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// Its init process on the host, of the boot it started in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When its process began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Termination>,
    /// Whether the OOM killer struck.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    id: String,
    /// `None`: forget the container.
    facts: Option<ContainerFacts>,
}

struct Append {
    line: Vec<u8>,
    synced: Option<oneshot::Sender<Result<(), String>>>,
}

/// The journal. Cloning gives another handle.
#[derive(Clone)]
pub struct Facts {
    known: Arc<Mutex<BTreeMap<String, ContainerFacts>>>,
    appends: Sender<Append>,
}

impl Facts {
    /// Opens the journal at `path`, making it where it is missing, and starts its thread.
    ///
    /// # Errors
    /// `Internal` where the file cannot be read or written.
    pub fn open_blocking(path: &Path) -> Result<Self> {
        let known = match path.exists() {
            true => parse(&files::read_capped_blocking(path, LIMIT_BYTES)?),
            false => BTreeMap::new(),
        };
        let journal = Journal::rewrite(path, &known)?;
        let known = Arc::new(Mutex::new(known));
        let (appends, queue) = channel();
        let shared = Arc::clone(&known);
        std::thread::Builder::new()
            .name("facts".into())
            .spawn(move || keep(journal, &queue, &shared))
            .classify(Kind::Internal, || {
                "start the thread of the facts journal".to_owned()
            })?;
        Ok(Self { known, appends })
    }

    /// What is remembered of `id`.
    pub fn of(&self, id: &ContainerId) -> ContainerFacts {
        self.with(|known| known.get(id.as_str()).cloned().unwrap_or_default())
    }

    /// All containers that anything is remembered of.
    pub fn ids(&self) -> Vec<String> {
        self.with(|known| known.keys().cloned().collect())
    }

    /// Remembers that the process began. Not waited for: after a power loss the process is gone anyway, and the
    /// next synced fact carries this one with it.
    pub fn started(&self, id: &ContainerId, pid: Pid, at: Timestamp) {
        let change = |facts: &mut ContainerFacts| {
            facts.pid = Some(pid.0);
            facts.started_at = Some(at);
        };
        if let Err(error) = self.append(id, Some(&change), None) {
            tracing::error!(container.id = %id, %error, "the start could not be noted");
        }
    }

    /// Remembers how the container ended. Returns once that is on disk.
    ///
    /// # Errors
    /// `Internal` where the journal could not be written.
    pub async fn ended(
        &self,
        id: &ContainerId,
        termination: &Termination,
        oom_killed: bool,
    ) -> Result<()> {
        let change = |facts: &mut ContainerFacts| {
            facts.ended = Some(termination.clone());
            facts.oom_killed |= oom_killed;
        };
        let (done, wait) = oneshot::channel();
        self.append(id, Some(&change), Some(done))?;
        let synced = wait
            .await
            .map_err(|_dropped| Error::internal("the thread of the facts journal ended"))?;
        synced.map_err(|text| Error::internal(format!("note how container {id} ended: {text}")))
    }

    /// Remembers what was found out about an end that is remembered already. Not waited for.
    pub fn explained(&self, id: &ContainerId, termination: &Termination) {
        let change = |facts: &mut ContainerFacts| facts.ended = Some(termination.clone());
        if let Err(error) = self.append(id, Some(&change), None) {
            tracing::error!(container.id = %id, %error, "why the container ended could not be noted");
        }
    }

    /// Remembers that the OOM killer struck.
    pub fn oom(&self, id: &ContainerId) {
        if let Err(error) = self.append(
            id,
            Some(&|facts: &mut ContainerFacts| facts.oom_killed = true),
            None,
        ) {
            tracing::error!(container.id = %id, %error, "the OOM kill could not be noted");
        }
    }

    /// Forgets a removed container.
    pub fn forget(&self, id: &ContainerId) {
        if let Err(error) = self.append(id, None, None) {
            tracing::error!(container.id = %id, %error, "the container's facts could not be dropped");
        }
    }

    /// Waits until everything that was asked for so far is written.
    #[cfg(test)]
    pub(crate) fn settle_blocking(&self) {
        let (synced, wait) = oneshot::channel();
        let line = Vec::new();
        let asked = self.appends.send(Append {
            line,
            synced: Some(synced),
        });
        if asked.is_ok() {
            // A thread that ended has nothing left to write.
            wait.blocking_recv().unwrap_or(Ok(())).unwrap_or_default();
        }
    }

    fn append(
        &self,
        id: &ContainerId,
        change: Option<&dyn Fn(&mut ContainerFacts)>,
        synced: Option<oneshot::Sender<Result<(), String>>>,
    ) -> Result<()> {
        // The line is queued under the lock, so lines of one container stand in the order of its changes.
        self.with(|known| {
            let facts = match change {
                Some(change) => {
                    let facts = known.entry(id.to_string()).or_default();
                    change(facts);
                    Some(facts.clone())
                }
                None => {
                    known.remove(id.as_str());
                    None
                }
            };
            let line = line_of(&Entry {
                id: id.to_string(),
                facts,
            })?;
            let gone = |_closed| Error::internal("the thread of the facts journal ended");
            self.appends.send(Append { line, synced }).map_err(gone)
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<String, ContainerFacts>) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn line_of(entry: &Entry) -> Result<Vec<u8>> {
    let json =
        serde_json::to_string(entry).classify(Kind::Internal, || "encode a fact".to_owned())?;
    Ok(format!("{} {json}\n", checksum(&json)).into_bytes())
}

fn checksum(json: &str) -> String {
    Digest::sha256(json.as_bytes())
        .hex()
        .chars()
        .take(16)
        .collect()
}

fn parse(bytes: &[u8]) -> BTreeMap<String, ContainerFacts> {
    let mut known = BTreeMap::new();
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines().filter(|line| !line.is_empty()) {
        let entry = line
            .split_once(' ')
            .filter(|(sum, json)| checksum(json) == *sum);
        let Some(Ok(entry)) = entry.map(|(_, json)| serde_json::from_str::<Entry>(json)) else {
            tracing::warn!(
                bytes = line.len(),
                "a damaged line of the facts journal was dropped"
            );
            continue;
        };
        match entry.facts {
            Some(facts) => known.insert(entry.id, facts),
            None => known.remove(&entry.id),
        };
    }
    known
}

struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// A rewrite failed: `file` may no longer be the one that has the name.
    is_stale: bool,
    /// The last write failed and may have left the beginning of a line.
    torn: bool,
}

impl Journal {
    fn rewrite(path: &Path, known: &BTreeMap<String, ContainerFacts>) -> Result<Self> {
        let mut all = Vec::new();
        for (id, facts) in known {
            all.extend(line_of(&Entry {
                id: id.clone(),
                facts: Some(facts.clone()),
            })?);
        }
        files::write_synced_blocking(path, &all, 0o600)?;
        let what = || format!("open {} to append", path.display());
        Ok(Self {
            path: path.to_owned(),
            file: open_blocking(path).classify(Kind::Internal, what)?,
            is_stale: false,
            bytes: all.len() as u64,
            torn: false,
        })
    }

    fn write(&mut self, batch: &[u8], sync: bool) -> std::io::Result<()> {
        if self.is_stale {
            self.file = open_blocking(&self.path)?;
            self.is_stale = false;
        }
        if std::mem::replace(&mut self.torn, true) {
            self.file.write_all(b"\n")?;
        }
        self.file.write_all(batch)?;
        self.torn = false;
        self.bytes = self.bytes.saturating_add(batch.len() as u64);
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

fn open_blocking(path: &Path) -> std::io::Result<File> {
    File::options().append(true).open(path)
}

fn keep(
    mut journal: Journal,
    queue: &Receiver<Append>,
    known: &Mutex<BTreeMap<String, ContainerFacts>>,
) {
    while let Ok(first) = queue.recv() {
        let batch: Vec<Append> = std::iter::once(first).chain(queue.try_iter()).collect();
        let bytes: Vec<u8> = batch
            .iter()
            .flat_map(|append| append.line.iter().copied())
            .collect();
        let sync = batch.iter().any(|append| append.synced.is_some());
        let written = journal
            .write(&bytes, sync)
            .map_err(|e| format!("{}: {e}", journal.path.display()));
        for synced in batch.into_iter().filter_map(|append| append.synced) {
            // A caller that left needs no answer.
            synced.send(written.clone()).unwrap_or_default();
        }
        if journal.bytes > REWRITE_BYTES {
            let now = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match Journal::rewrite(&journal.path, &now) {
                Ok(fresh) => journal = fresh,
                Err(error) => {
                    tracing::error!(%error, "the facts journal could not be rewritten");
                    journal.is_stale = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: &str) -> ContainerId {
        digit.repeat(64).parse().unwrap()
    }

    #[tokio::test]
    async fn facts_survive_a_reopen_and_a_torn_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts");
        let facts = Facts::open_blocking(&path).unwrap();
        let end = Termination::exited(3, Timestamp(9));
        facts.started(&id("a"), Pid(7), Timestamp(5));
        facts.ended(&id("a"), &end, false).await.unwrap();
        facts.started(&id("b"), Pid(8), Timestamp(6));
        facts.forget(&id("b"));
        facts.ended(&id("c"), &end, true).await.unwrap();
        drop(facts);
        let torn = [std::fs::read(&path).unwrap(), b"0123 {\"id\":".to_vec()].concat();
        std::fs::write(&path, torn).unwrap();

        let again = Facts::open_blocking(&path).unwrap();

        assert_eq!(again.of(&id("a")).ended, Some(end));
        assert_eq!(again.of(&id("a")).started_at, Some(Timestamp(5)));
        assert_eq!(again.of(&id("b")), ContainerFacts::default());
        assert!(again.of(&id("c")).oom_killed);
        assert_eq!(again.ids().len(), 2);
    }

    #[test]
    fn a_write_that_was_cut_short_costs_its_own_line_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts");
        let line = |digit: &str| {
            let facts = Some(ContainerFacts::default());
            let id = id(digit).to_string();
            line_of(&Entry { id, facts }).unwrap()
        };
        let mut journal = Journal::rewrite(&path, &BTreeMap::new()).unwrap();
        journal.write(&line("a"), false).unwrap();
        journal.write(&line("b")[..20], false).unwrap();
        journal.torn = true;

        journal.write(&line("c"), true).unwrap();

        let kept: Vec<String> = parse(&std::fs::read(&path).unwrap()).into_keys().collect();
        assert_eq!(kept, [id("a").to_string(), id("c").to_string()]);
    }

    #[test]
    fn a_rewrite_that_failed_half_way_costs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts");
        let mut journal = Journal::rewrite(&path, &BTreeMap::new()).unwrap();
        let _renamed_over = Journal::rewrite(&path, &BTreeMap::new()).unwrap();
        journal.is_stale = true;
        let facts = Some(ContainerFacts::default());
        let id = id("a").to_string();

        journal
            .write(&line_of(&Entry { id, facts }).unwrap(), true)
            .unwrap();

        assert_eq!(parse(&std::fs::read(&path).unwrap()).len(), 1);
    }

    #[tokio::test]
    async fn a_burst_of_exits_is_on_disk_when_each_call_returns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts");
        let facts = Facts::open_blocking(&path).unwrap();
        let ids: Vec<ContainerId> = (0..50).map(|_| ContainerId::generate().unwrap()).collect();
        let end = Termination::exited(0, Timestamp(1));

        futures::future::join_all(ids.iter().map(|id| facts.ended(id, &end, false)))
            .await
            .into_iter()
            .for_each(|synced| synced.unwrap());

        assert_eq!(parse(&std::fs::read(&path).unwrap()).len(), 50);
    }
}
