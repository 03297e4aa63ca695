//! Probes: when each one is due, what its outcome means, and how it is asked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::Cri;
use super::defaults::ContainerPlan;
use super::hooks::shortened;
use crate::model::{Classify as _, Error, Kind, Result, Timestamp};

/// What a probe decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Startup,
    Liveness,
    Readiness,
}

/// One probe's course so far.
#[derive(Clone, Debug, Default)]
struct Track {
    /// When it was last asked; none before the first time.
    asked: Option<Timestamp>,
    failures: i32,
    successes: i32,
    passed: bool,
}

/// What became of a probe after one more answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Undecided,
    Passed,
    Failed,
}

impl Track {
    fn is_due(&self, probe: &Probe, started_at: Timestamp, now: Timestamp) -> bool {
        let seconds = |count: Option<i32>, default: u64| {
            let count = count.and_then(|count| u64::try_from(count).ok());
            Duration::from_secs(count.unwrap_or(default))
        };
        match self.asked {
            None => now.since(started_at) >= seconds(probe.initial_delay_seconds, 0),
            Some(asked) => now.since(asked) >= seconds(probe.period_seconds, 10),
        }
    }

    fn answer(&mut self, probe: &Probe, well: bool) -> Turn {
        if well {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            if self.successes >= probe.success_threshold.unwrap_or(1) {
                self.passed = true;
                return Turn::Passed;
            }
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            if self.failures >= probe.failure_threshold.unwrap_or(3) {
                self.passed = false;
                self.failures = 0;
                return Turn::Failed;
            }
        }
        Turn::Undecided
    }
}

/// The course of all probes, by container id.
#[derive(Debug, Default)]
pub(super) struct Health(BTreeMap<(String, Purpose), Track>);

/// A container that runs, for [`Health::ask`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Patient<'a> {
    pub(super) index: usize,
    pub(super) id: &'a str,
    pub(super) container: &'a ContainerPlan,
    pub(super) started_at: Timestamp,
}

/// A container that its probes gave up.
#[derive(Debug)]
pub(super) struct GivenUp {
    pub(super) index: usize,
    pub(super) id: String,
    pub(super) why: String,
    /// The probe's own grace period, where it has one.
    pub(super) grace_s: Option<i64>,
}

impl Health {
    /// Whether the startup probe has passed; true without one.
    pub(super) fn is_started(&self, id: &str, container: &ContainerPlan) -> bool {
        container.spec.startup_probe.is_none() || self.passed(id, Purpose::Startup)
    }

    /// Whether the readiness probe passes; true without one.
    pub(super) fn is_ready(&self, id: &str, container: &ContainerPlan) -> bool {
        container.spec.readiness_probe.is_none() || self.passed(id, Purpose::Readiness)
    }

    fn passed(&self, id: &str, purpose: Purpose) -> bool {
        let track = self.0.get(&(id.to_owned(), purpose));
        track.is_some_and(|track| track.passed)
    }

    /// Asks every probe that is due, all at once; the containers that are to be killed.
    pub(super) async fn ask(
        &mut self,
        cri: &Cri,
        address: Option<IpAddr>,
        patients: &[Patient<'_>],
        now: Timestamp,
    ) -> Vec<GivenUp> {
        let mut due = Vec::new();
        for patient in patients {
            for (purpose, probe) in self.wanted(patient) {
                let track = self.track(patient.id, purpose);
                if track.is_due(probe, patient.started_at, now) {
                    track.asked = Some(now);
                    due.push((*patient, purpose, probe));
                }
            }
        }
        let asked = due
            .iter()
            .map(|(patient, _, probe)| ask(cri, address, patient, probe));
        let answers = join_all(asked).await;
        let mut given_up = Vec::new();
        for ((patient, purpose, probe), answer) in due.into_iter().zip(answers) {
            let turn = self
                .track(patient.id, purpose)
                .answer(probe, answer.is_ok());
            if turn == Turn::Failed && purpose != Purpose::Readiness {
                let word = match purpose {
                    Purpose::Startup => "startup",
                    _ => "liveness",
                };
                let why = answer.err().map_or_else(String::new, |error| error.chain());
                given_up.push(GivenUp {
                    index: patient.index,
                    id: patient.id.to_owned(),
                    why: format!("{word} probe failed: {why}"),
                    grace_s: probe.termination_grace_period_seconds,
                });
            }
        }
        given_up
    }

    /// Until the startup probe has passed, it alone is asked.
    fn wanted<'a>(&self, patient: &Patient<'a>) -> Vec<(Purpose, &'a Probe)> {
        let spec = &patient.container.spec;
        if !self.is_started(patient.id, patient.container) {
            return spec
                .startup_probe
                .iter()
                .map(|probe| (Purpose::Startup, probe))
                .collect();
        }
        let live = spec
            .liveness_probe
            .iter()
            .map(|probe| (Purpose::Liveness, probe));
        let ready = spec
            .readiness_probe
            .iter()
            .map(|probe| (Purpose::Readiness, probe));
        live.chain(ready).collect()
    }

    fn track(&mut self, id: &str, purpose: Purpose) -> &mut Track {
        self.0.entry((id.to_owned(), purpose)).or_default()
    }
}

/// One question, within the probe's own limit.
async fn ask(
    cri: &Cri,
    address: Option<IpAddr>,
    patient: &Patient<'_>,
    probe: &Probe,
) -> Result<()> {
    let limit_s = i64::from(probe.timeout_seconds.unwrap_or(1).max(1));
    let limit = Duration::from_secs(u64::try_from(limit_s).unwrap_or(1));
    let question = async {
        if let Some(command) = probe.exec.as_ref().and_then(|exec| exec.command.as_ref()) {
            let ran = cri.exec(patient.id, command, limit_s).await?;
            return match ran.code {
                0 => Ok(()),
                code => Err(Error::precondition(format!(
                    "{} ended with {code}: {}",
                    command.join(" "),
                    shortened(&ran.output)
                ))),
            };
        }
        if let Some(action) = &probe.tcp_socket {
            return dial(patient, action.host.as_deref(), address, &action.port)
                .await
                .map(drop);
        }
        match &probe.http_get {
            Some(action) => http_get(patient, action, address).await,
            None => Ok(()),
        }
    };
    match tokio::time::timeout(limit, question).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(Error::timed_out("probe", limit)),
    }
}

async fn http_get(
    patient: &Patient<'_>,
    action: &HTTPGetAction,
    address: Option<IpAddr>,
) -> Result<()> {
    let mut stream = dial(patient, action.host.as_deref(), address, &action.port).await?;
    if action.scheme.as_deref() == Some("HTTPS") {
        // The certificate would not be looked at either way; that somebody listens is what can be told.
        return Ok(());
    }
    let path = action.path.as_deref().unwrap_or("/");
    let host = address.map_or_else(String::new, |address| address.to_string());
    let mut request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: podwright-play\r\n");
    for header in action.http_headers.iter().flatten() {
        request.push_str(&format!("{}: {}\r\n", header.name, header.value));
    }
    request.push_str("Connection: close\r\n\r\n");
    let what = || format!("GET {path}");
    stream
        .write_all(request.as_bytes())
        .await
        .classify(Kind::Unavailable, what)?;
    let mut head = Vec::new();
    let mut part = stream.take(1024);
    part.read_to_end(&mut head)
        .await
        .classify(Kind::Unavailable, what)?;
    let head = String::from_utf8_lossy(&head);
    let code = head.split_whitespace().nth(1);
    match code.and_then(|code| code.parse::<u16>().ok()) {
        Some(200..400) => Ok(()),
        Some(code) => Err(Error::precondition(format!("GET {path} answered {code}"))),
        None => Err(Error::precondition(format!("GET {path}: no HTTP answer"))),
    }
}

async fn dial(
    patient: &Patient<'_>,
    host: Option<&str>,
    address: Option<IpAddr>,
    port: &IntOrString,
) -> Result<TcpStream> {
    let number = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let ports = patient.container.spec.ports.iter().flatten();
            let named = ports
                .filter(|port| port.name.as_ref() == Some(name))
                .find_map(|port| u16::try_from(port.container_port).ok());
            named.or_else(|| name.parse().ok())
        }
    };
    let number = number.ok_or_else(|| Error::invalid(format!("no such port: {port:?}")))?;
    let host = match (host, address) {
        (Some(host), _) if !host.is_empty() => host.to_owned(),
        (_, Some(address)) => address.to_string(),
        (_, None) => return Err(Error::precondition("the pod has no address")),
    };
    TcpStream::connect((host.as_str(), number))
        .await
        .classify(Kind::Unavailable, || format!("connect to port {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_decide_and_a_success_clears_the_failures() {
        let probe = Probe {
            failure_threshold: Some(2),
            ..Default::default()
        };
        let mut track = Track::default();

        let turns: Vec<Turn> = [false, true, false, false]
            .into_iter()
            .map(|well| track.answer(&probe, well))
            .collect();

        assert_eq!(
            turns,
            [Turn::Undecided, Turn::Passed, Turn::Undecided, Turn::Failed]
        );
        assert!(!track.passed);
    }

    #[test]
    fn a_probe_is_due_after_its_delay_and_then_each_period() {
        let probe = Probe {
            initial_delay_seconds: Some(5),
            period_seconds: Some(3),
            ..Default::default()
        };
        let at = |seconds: i64| Timestamp(seconds * 1_000_000_000);
        let mut track = Track::default();

        assert!(!track.is_due(&probe, at(10), at(14)));
        assert!(track.is_due(&probe, at(10), at(15)));
        track.asked = Some(at(15));
        assert!(!track.is_due(&probe, at(10), at(17)));
        assert!(track.is_due(&probe, at(10), at(18)));
    }
}
