//! The table of live operations: what runs now, which step, since when, what it waits on and who waits for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::{Clock, Timestamp};

/// One running operation as shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpInfo {
    /// Number within this process's life.
    pub id: u64,
    /// E.g. `RunPodSandbox`.
    pub kind: &'static str,
    /// What it works on: an id, a name, a reference.
    pub object: String,
    /// The step it is in.
    pub step: &'static str,
    /// When it began.
    pub started_at: Timestamp,
    /// When its step began.
    pub step_started_at: Timestamp,
    /// The path, host, plugin, lock or process it waits on, where known.
    pub waits_on: Option<String>,
    /// How many callers wait for it.
    pub waiters: u32,
}

/// All running operations. Cloning gives another handle to the same table.
#[derive(Clone, Debug)]
pub struct LiveTable {
    clock: Arc<dyn Clock>,
    next: Arc<AtomicU64>,
    rows: Arc<Mutex<BTreeMap<u64, OpInfo>>>,
}

impl LiveTable {
    /// An empty table that stamps with `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            next: Arc::default(),
            rows: Arc::default(),
        }
    }

    /// Enters an operation; it leaves the table when the last clone of the handle is dropped.
    pub fn begin(&self, kind: &'static str, object: impl Into<String>) -> Operation {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let now = self.clock.now();
        let row = OpInfo {
            id,
            kind,
            object: object.into(),
            step: "begin",
            started_at: now,
            step_started_at: now,
            waits_on: None,
            waiters: 0,
        };
        self.with(|rows| rows.insert(id, row));
        Operation(Arc::new(Row {
            id,
            table: self.clone(),
        }))
    }

    /// All rows, oldest first.
    pub fn snapshot(&self) -> Vec<OpInfo> {
        self.with(|rows| rows.values().cloned().collect())
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<u64, OpInfo>) -> T) -> T {
        work(&mut self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
struct Row {
    id: u64,
    table: LiveTable,
}

impl Drop for Row {
    fn drop(&mut self) {
        self.table.with(|rows| rows.remove(&self.id));
    }
}

/// A running operation's own row.
#[derive(Clone, Debug)]
pub struct Operation(Arc<Row>);

impl Operation {
    /// Says that the operation entered `step`.
    pub fn step(&self, step: &'static str) {
        let now = self.0.table.clock.now();
        self.edit(|row| {
            row.step = step;
            row.step_started_at = now;
            row.waits_on = None;
        });
    }

    /// Says what the operation waits on; `None` once it has it.
    pub fn waits_on(&self, what: Option<String>) {
        self.edit(|row| row.waits_on = what);
    }

    /// Says what the operation works on, once that is known.
    pub fn object(&self, object: impl Into<String>) {
        let object = object.into();
        self.edit(|row| row.object = object);
    }

    /// Counts the caller as waiting until the guard is dropped.
    pub fn waiter(&self) -> impl Drop + Send + use<> {
        struct Waiter(Operation);
        impl Drop for Waiter {
            fn drop(&mut self) {
                self.0
                    .edit(|row| row.waiters = row.waiters.saturating_sub(1));
            }
        }
        self.edit(|row| row.waiters = row.waiters.saturating_add(1));
        Waiter(self.clone())
    }

    fn edit(&self, work: impl FnOnce(&mut OpInfo)) {
        self.0.table.with(|rows| rows.get_mut(&self.0.id).map(work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::ManualClock;

    #[test]
    fn a_row_stands_as_long_as_a_handle_and_counts_its_waiters() {
        let table = LiveTable::new(Arc::new(ManualClock::at(Timestamp(7))));
        let operation = table.begin("RunPodSandbox", "web");
        operation.step("cni add");

        let waiter = operation.waiter();
        let rows = table.snapshot();
        assert_eq!(
            (rows[0].step, rows[0].waiters, rows[0].started_at),
            ("cni add", 1, Timestamp(7))
        );

        drop(waiter);
        assert_eq!(table.snapshot()[0].waiters, 0);
        drop(operation);
        assert!(table.snapshot().is_empty());
    }
}
