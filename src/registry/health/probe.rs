//! Trials of hosts that are passed over, in the background: their API's root is asked for, without credentials, and any
//! answer but a server error will do.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use reqwest::{Client, Url};
use tokio::time::Instant;

use super::breaker::Fault;
use super::{Health, HostHealth, lock};
use crate::registry::failure::Failure;

/// Trials at the same time.
const TRIALS: usize = 4;
/// Limit of one.
const LIMIT: Duration = Duration::from_secs(15);
/// A host that no pull had to do with for so long is left alone: the file that named it may be gone.
const IDLE: Duration = Duration::from_secs(1800);

/// How a host is tried.
#[derive(Clone)]
pub(in crate::registry) struct Probe {
    pub(in crate::registry) client: Client,
    /// The same place over TLS and, where that may be, in plain HTTP; the first that answers will do.
    pub(in crate::registry) urls: Vec<Url>,
}

impl Probe {
    async fn ask(self) -> Result<(), (Fault, String)> {
        let mut failed = (Fault::Unreachable, "cannot be asked".to_owned());
        for url in self.urls {
            let asked = tokio::time::timeout(LIMIT, self.client.get(url.clone()).send()).await;
            let failure = match asked {
                Ok(Ok(response)) if response.status().is_server_error() => {
                    Failure::http(response.status(), &url, "")
                }
                Ok(Ok(_answer)) => return Ok(()),
                Ok(Err(error)) => Failure::sent(error, &url),
                Err(_elapsed) => {
                    failed = (Fault::Stalling, format!("no answer within {LIMIT:?}"));
                    continue;
                }
            };
            failed = (failure.fault.unwrap_or(Fault::Erring), failure.in_short());
        }
        Err(failed)
    }
}

impl Health {
    /// Tries hosts that are out of order when their time comes. Never ends.
    pub(in crate::registry) async fn keep_probing(&self) {
        loop {
            let trials = self.due().into_iter().map(|(host, probe)| async move {
                let began = Instant::now();
                match probe.ask().await {
                    Ok(()) => host.answered(began.elapsed()),
                    Err((fault, what)) => host.failed(fault, what),
                }
            });
            futures::stream::iter(trials)
                .for_each_concurrent(TRIALS, |trial| trial)
                .await;
            let next = self.next_trial();
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.opened.notified() => {}
            }
        }
    }

    /// The hosts whose trial is due; it has begun with this.
    fn due(&self) -> Vec<(Arc<HostHealth>, Probe)> {
        let now = Instant::now();
        let ripe = |host: Arc<HostHealth>| {
            let probe = {
                let mut ledger = lock(&host.ledger);
                let probe = ledger.probe.clone()?;
                let is_wanted = now.duration_since(ledger.wanted) < IDLE;
                (is_wanted && ledger.breaker.begin_trial(now, Duration::ZERO)).then_some(probe)?
            };
            Some((host, probe))
        };
        self.all().into_iter().filter_map(ripe).collect()
    }

    fn next_trial(&self) -> Option<Instant> {
        let now = Instant::now();
        let due = |host: &Arc<HostHealth>| {
            let ledger = lock(&host.ledger);
            let is_wanted = now.duration_since(ledger.wanted) < IDLE;
            let has_probe = ledger.probe.is_some();
            ledger.breaker.trial_at().filter(|_| is_wanted && has_probe)
        };
        self.all().iter().filter_map(due).min()
    }
}
