//! Calls: how many, with which outcome, how long they took. Counted as they end, with a few atomics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::time::Instant;
use tonic::Code;

use super::{Page, Series, Source, Timings, codes};

/// The outcome of a call whose caller left.
const LEFT: &str = codes::label(Code::Cancelled);

/// All calls since the start. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    running: AtomicUsize,
    /// The ended calls by method and outcome.
    rows: RwLock<BTreeMap<(&'static str, &'static str), Arc<Timings>>>,
}

impl Calls {
    /// A call of `method` begins. It ends with [`Call::end`], or is dropped, since its caller left.
    pub fn begin(&self, method: &'static str) -> Call {
        self.0.running.fetch_add(1, Ordering::Relaxed);
        Call {
            calls: self.clone(),
            method,
            began: Instant::now(),
            outcome: LEFT,
        }
    }

    fn row(&self, key: (&'static str, &'static str)) -> Arc<Timings> {
        let rows = self.0.rows.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = rows.get(&key) {
            return Arc::clone(row);
        }
        drop(rows);
        let mut rows = self.0.rows.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(rows.entry(key).or_default())
    }
}

impl Source for Calls {
    fn read_blocking(&self, page: &mut Page) {
        let rows = self.0.rows.read().unwrap_or_else(PoisonError::into_inner);
        page.histogram(
            "rpc_duration_seconds",
            "Calls of the Container Runtime Interface by method and gRPC code: how many, and how long they took.",
            rows.iter().map(|((method, code), row)| {
                Series::of(&[("method", method), ("code", code)], row.buckets())
            }),
        );
        drop(rows);
        page.gauge(
            "rpc_in_flight",
            "Calls of the Container Runtime Interface that are being answered.",
            [Series::plain(self.0.running.load(Ordering::Relaxed))],
        );
    }
}

/// A call that runs.
#[derive(Debug)]
pub struct Call {
    calls: Calls,
    method: &'static str,
    began: Instant,
    outcome: &'static str,
}

impl Call {
    /// The call ended with the gRPC code called `outcome`.
    pub fn end(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.0.running.fetch_sub(1, Ordering::Relaxed);
        let row = self.calls.row((self.method, self.outcome));
        row.note(self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Sources;
    use super::*;

    fn shown(calls: &Calls) -> String {
        Sources::new(vec![Box::new(calls.clone())])
            .scrape_blocking()
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_counted_once_by_its_outcome_and_in_the_bucket_of_its_time() {
        let calls = Calls::default();
        for millis in [0, 1, 400_000] {
            let call = calls.begin("Version");
            tokio::time::advance(Duration::from_millis(millis)).await;
            call.end("OK");
        }
        drop(calls.begin("ExecSync"));
        let running = calls.begin("Version");

        let text = shown(&calls);

        for line in [
            "podwright_rpc_duration_seconds_bucket{le=\"0.0005\",method=\"Version\",code=\"OK\"} 1\n",
            "podwright_rpc_duration_seconds_bucket{le=\"0.001\",method=\"Version\",code=\"OK\"} 2\n",
            "podwright_rpc_duration_seconds_bucket{le=\"300.0\",method=\"Version\",code=\"OK\"} 2\n",
            "podwright_rpc_duration_seconds_bucket{le=\"+Inf\",method=\"Version\",code=\"OK\"} 3\n",
            "podwright_rpc_duration_seconds_count{method=\"Version\",code=\"OK\"} 3\n",
            "podwright_rpc_duration_seconds_sum{method=\"Version\",code=\"OK\"} 400.001\n",
            "podwright_rpc_duration_seconds_count{method=\"ExecSync\",code=\"Cancelled\"} 1\n",
            "podwright_rpc_in_flight 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        running.end("OK");
        assert!(shown(&calls).contains("podwright_rpc_in_flight 0\n"));
    }
}
