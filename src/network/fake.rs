//! A network in memory, for tests of the rooms above: hands out addresses, remembers who holds one, and fails on demand.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::attachment::NetworkResult;
use super::{AttachRequest, Attachment, Intent, IpPreference, Network, NetworkStatus, conflist};
use crate::model::{Error, Result};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing happens but the error.
    Refused,
    /// It is done, and the answer is an error all the same.
    ReplyLost,
    /// It never answers, and nothing happens.
    Hangs,
}

/// The calls that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Point {
    /// [`Network::plan`], which cannot hang.
    Plan,
    /// [`Network::add`].
    Add,
    /// [`Network::del`].
    Del,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct FakeNetwork(Mutex<World>);

#[derive(Debug, Default)]
struct World {
    faults: BTreeMap<Point, VecDeque<Fault>>,
    trouble: Option<String>,
    next: u32,
    held: BTreeMap<String, IpAddr>,
    calls: Vec<(Point, String)>,
}

impl FakeNetwork {
    /// A network that is ready and works.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Makes the next call of `point` fail that has no fault waiting yet.
    pub(crate) fn inject(&self, point: Point, fault: Fault) {
        self.with(|world| world.faults.entry(point).or_default().push_back(fault));
    }

    /// Makes the network unready for `trouble`, or ready again.
    pub(crate) fn set_trouble(&self, trouble: Option<&str>) {
        self.with(|world| world.trouble = trouble.map(str::to_owned));
    }

    /// Which sandboxes hold an address now: what is left here at the end of a test has leaked.
    pub(crate) fn held(&self) -> BTreeMap<String, IpAddr> {
        self.with(|world| world.held.clone())
    }

    /// Every call so far, with the sandbox it was for.
    pub(crate) fn calls(&self) -> Vec<(Point, String)> {
        self.with(|world| world.calls.clone())
    }

    fn with<R>(&self, work: impl FnOnce(&mut World) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&self, point: Point, sandbox: &str) -> Option<Fault> {
        self.with(|world| {
            world.calls.push((point, sandbox.to_owned()));
            world.faults.get_mut(&point).and_then(VecDeque::pop_front)
        })
    }

    async fn perform<T>(
        &self,
        point: Point,
        intent: &Intent,
        work: impl FnOnce(&mut World) -> Result<T>,
    ) -> Result<T> {
        let failed = || Error::internal(format!("injected failure of {point:?}"));
        match self.begin(point, intent.sandbox()) {
            None => self.with(work),
            Some(Fault::Refused) => Err(failed()),
            Some(Fault::ReplyLost) => self.with(work).and_then(|_done| Err(failed())),
            Some(Fault::Hangs) => std::future::pending().await,
        }
    }
}

impl World {
    fn attach(&mut self, intent: &Intent) -> Result<Attachment> {
        self.next += 1;
        let ip = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + self.next));
        self.held.insert(intent.sandbox.clone(), ip);
        let answer = NetworkResult {
            network: "fake".to_owned(),
            ifname: "eth0".to_owned(),
            result: json!({
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "eth0", "sandbox": intent.netns}],
                "ips": [{"address": format!("{ip}/8"), "interface": 0}],
            }),
        };
        Attachment::assemble(vec![answer], IpPreference::default())
    }
}

impl Network for FakeNetwork {
    fn status(&self) -> NetworkStatus {
        match self.with(|world| world.trouble.clone()) {
            None => NetworkStatus::ready(),
            Some(trouble) => NetworkStatus::not_ready(trouble),
        }
    }

    fn shown(&self) -> Value {
        Value::Null
    }

    fn plan(&self, request: &AttachRequest<'_>) -> Result<Intent> {
        if let Some(trouble) = self.with(|world| world.trouble.clone()) {
            return Err(Error::unavailable(trouble));
        }
        if self.begin(Point::Plan, request.sandbox.as_str()).is_some() {
            return Err(Error::internal("injected failure of Plan"));
        }
        let network = conflist::parse(r#"{"name":"fake","plugins":[{"type":"fake"}]}"#)?;
        Intent::plan(request, &[network])
    }

    fn last_add_succeeded(&self, _intent: &Intent) -> bool {
        self.with(|world| world.next > 0)
    }

    fn add<'a>(&'a self, intent: &'a Intent) -> BoxFuture<'a, Result<Attachment>> {
        Box::pin(self.perform(Point::Add, intent, |world| world.attach(intent)))
    }

    fn del<'a>(
        &'a self,
        intent: &'a Intent,
        _attachment: Option<&'a Attachment>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.perform(Point::Del, intent, |world| {
            world.held.remove(&intent.sandbox);
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures::FutureExt as _;

    use super::super::testing::pod;
    use super::*;
    use crate::model::SandboxId;

    #[tokio::test]
    async fn a_lost_reply_leaves_an_address_and_a_refusal_none() {
        let network = FakeNetwork::new();
        let sandbox = SandboxId::generate().unwrap();
        let request = AttachRequest {
            sandbox: &sandbox,
            netns: Path::new("/run/netns/x"),
            pod: &pod(),
        };
        let intent = network.plan(&request).unwrap();

        network.inject(Point::Add, Fault::Refused);
        network.inject(Point::Add, Fault::ReplyLost);
        assert!(network.add(&intent).await.is_err());
        assert!(network.held().is_empty());
        assert!(network.add(&intent).await.is_err());
        assert_eq!(network.held().len(), 1);
        network.del(&intent, None).await.unwrap();
        assert!(network.held().is_empty());

        network.inject(Point::Del, Fault::Hangs);
        assert!(network.del(&intent, None).now_or_never().is_none());
        let attachment = network.add(&intent).await.unwrap();
        assert_eq!(network.held()[sandbox.as_str()], attachment.primary_ip);
        assert_eq!(network.calls().len(), 6);
        network.set_trouble(Some("down"));
        assert!(!network.status().ready && network.plan(&request).is_err());
    }
}
