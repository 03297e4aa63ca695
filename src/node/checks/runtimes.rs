//! The OCI runtimes behind the handlers: there, safe, and what they can do.

use super::Check;
use super::backend::leading_number;
use super::facts::{Facts, HandlerFact};

pub(super) fn handlers(facts: &Facts) -> Vec<Check> {
    facts.handlers.iter().map(handler).collect()
}

fn handler(fact: &HandlerFact) -> Check {
    let title = format!("runtime handler {}", fact.name);
    let Some(program) = &fact.program else {
        return Check::ok(title, format!("shim {}", fact.runtime_type));
    };
    let Some(path) = &program.path else {
        let finding = format!("no program {}", program.wanted.display());
        let remedy = format!(
            "install it, set runtimes.handlers.{}.binary, or remove the handler",
            fact.name
        );
        return if fact.is_default {
            Check::fail(title, finding, remedy)
        } else {
            Check::warn(title, finding, remedy)
        };
    };
    let version = match &program.version {
        Ok(version) => version,
        Err(error) => {
            return Check::warn(title, error, format!("run {} --version", path.display()));
        }
    };
    let found = format!("{} {version}{}", path.display(), abilities(fact));
    let is_runc = path.file_name().is_some_and(|name| name == "runc");
    match known_holes(version).filter(|_| is_runc) {
        Some(holes) => Check::warn(
            title,
            format!("{found}; {holes}"),
            "upgrade runc to 1.3.6, 1.4.3 or later; a distribution may have repaired an older version: see its changelog",
        ),
        None => Check::ok(title, found),
    }
}

fn abilities(fact: &HandlerFact) -> String {
    let mut words = Vec::new();
    if fact.abilities.recursive_read_only {
        words.push("recursive read-only mounts");
    }
    let obstacle = fact.abilities.user_namespaces.obstacle();
    if obstacle.is_none() {
        words.push("user namespaces");
    }
    let with = match words.is_empty() {
        true => String::new(),
        false => format!(", with {}", words.join(" and ")),
    };
    let without = obstacle.map_or_else(String::new, |why| {
        format!("; no pods with user namespaces: {why}")
    });
    with + &without
}

/// What is known to be wrong with runc `version`; `None` for one that has every repair.
pub(super) fn known_holes(version: &str) -> Option<&'static str> {
    const MASKS: &str =
        "containers can get at files of the host (CVE-2025-31133, -52565, -52881, CVE-2026-41579)";
    const DEV: &str = "an image can write to the host in a limited way (CVE-2026-41579)";
    let mut parts = version.split('.');
    let mut number = || parts.next().and_then(leading_number).unwrap_or(0);
    let version_number = (number(), number(), number());
    let is_candidate = version.contains("-rc");
    match version_number {
        (1, 4, 0) if is_candidate && candidate(version) < 3 => Some(MASKS),
        (1, 4, 0..=2) => Some(DEV),
        (1, 3, 3..=5) => Some(DEV),
        (1, 3, 6..) => None,
        (1, 2, 8..) => Some(DEV),
        older if older < (1, 4, 0) => Some(MASKS),
        _ => None,
    }
}

fn candidate(version: &str) -> u64 {
    version
        .split_once("-rc")
        .and_then(|(_, number)| leading_number(number.trim_start_matches('.')))
        .unwrap_or(0)
}
