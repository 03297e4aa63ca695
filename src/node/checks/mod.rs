//! What `podwright doctor` finds: facts about the node, gathered in `facts`, and what each means, judged here by pure
//! functions. Each finding is a line with an outcome and, where something is wrong, a remedy.

mod backend;
pub mod facts;
mod host;
mod runtimes;

#[cfg(test)]
mod tests;

use facts::Facts;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Works, but not as well or as safely as it could.
    Warn,
    /// Pods will not run.
    Fail,
}

impl Outcome {
    /// As printed.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How bad it is.
    pub outcome: Outcome,
    /// What was found.
    pub finding: String,
    /// What to do about it; empty where nothing needs doing.
    pub remedy: String,
}

impl Check {
    fn ok(name: impl Into<String>, finding: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            outcome: Outcome::Ok,
            finding: finding.into(),
            remedy: String::new(),
        }
    }

    fn warn(
        name: impl Into<String>,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            outcome: Outcome::Warn,
            remedy: remedy.into(),
            ..Self::ok(name, finding)
        }
    }

    fn fail(
        name: impl Into<String>,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            outcome: Outcome::Fail,
            remedy: remedy.into(),
            ..Self::ok(name, finding)
        }
    }
}

/// Every finding about `facts`, in the order in which one would repair them.
pub fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![host::user(facts)];
    checks.extend(facts.warnings.iter().map(|warning| {
        Check::warn(
            "configuration",
            warning,
            "see docs/configuration.md for the key",
        )
    }));
    checks.extend(backend::containerd(facts));
    checks.extend(runtimes::handlers(facts));
    checks.extend(host::network(facts));
    checks.extend(host::cgroups(facts));
    checks.extend(host::kernel(facts));
    checks.extend(host::selinux(facts));
    checks.push(host::socket(facts));
    checks.extend(host::space(facts));
    checks.extend(host::project_quotas(facts));
    checks.extend(host::registries(facts));
    checks.extend(host::verifiers(facts));
    checks.extend(host::interrupted(facts));
    checks.extend(host::checkpoints(facts));
    checks.extend(host::device_files(facts));
    checks.extend(host::classes(facts));
    checks.extend(host::plugins(facts));
    checks.extend(host::records(facts));
    checks
}
