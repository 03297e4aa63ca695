//! What containerd measures of one container: the figures that the answers of its own CRI plugin are made of.

use serde_json::Value;

use super::containers::busy;
use super::files::between;
use crate::case::Outcome;
use crate::node::Node;

/// Figures at one moment. The keys are those of cgroup v1's metrics and of v2's.
struct Measured(Value);

impl Measured {
    fn by(node: &Node, id: &str) -> Outcome<Self> {
        let said = node.ctr(&["task", "metrics", "--format", "json", id])?;
        Ok(Self(serde_json::from_str(&said)?))
    }

    fn number(&self, pointers: &[&str]) -> Outcome<f64> {
        let mut found = pointers
            .iter()
            .filter_map(|at| self.0.pointer(at)?.as_f64());
        found
            .next()
            .ok_or_else(|| format!("none of {pointers:?}: {}", self.0).into())
    }

    fn cpu_ns(&self) -> Outcome<f64> {
        match self.number(&["/cpu/usage_usec"]) {
            Ok(us) => Ok(us * 1_000.0),
            Err(_of_v1) => self.number(&["/cpu/usage/total"]),
        }
    }

    fn usage(&self) -> Outcome<f64> {
        self.number(&["/memory/usage/usage", "/memory/usage"])
    }

    /// Nothing is left out of the document but a zero.
    fn inactive(&self) -> f64 {
        let found = self.number(&["/memory/total_inactive_file", "/memory/inactive_file"]);
        found.unwrap_or(0.0)
    }

    fn rss(&self) -> Outcome<f64> {
        self.number(&["/memory/total_rss", "/memory/anon"])
    }

    fn faults(&self) -> Outcome<f64> {
        self.number(&["/memory/total_pg_fault", "/memory/pgfault"])
    }
}

pub(super) async fn agree(node: &Node) -> Outcome {
    let id = busy(node).await?;
    let (before, _, told) = node.fresh_stats(&id, || Measured::by(node, &id)).await?;
    let after = Measured::by(node, &id)?;

    let cpu = told.cpu.unwrap_or_default();
    let memory = told.memory.unwrap_or_default();
    let working = |it: &Measured| Outcome::Ok(it.usage()? - it.inactive());
    for (what, told, before, after) in [
        (
            "cpu",
            cpu.usage_core_nano_seconds,
            before.cpu_ns()?,
            after.cpu_ns()?,
        ),
        (
            "memory",
            memory.usage_bytes,
            before.usage()?,
            after.usage()?,
        ),
        (
            "working set",
            memory.working_set_bytes,
            working(&before)?,
            working(&after)?,
        ),
        ("rss", memory.rss_bytes, before.rss()?, after.rss()?),
        (
            "faults",
            memory.page_faults,
            before.faults()?,
            after.faults()?,
        ),
    ] {
        between(what, told.as_ref(), before, after)?;
    }
    Ok(())
}
