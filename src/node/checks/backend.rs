//! containerd: does it answer, is it new enough, is its own CRI server off, does it have our snapshotters.

use std::collections::BTreeSet;

use super::Check;
use super::facts::{Backend, Facts};
use crate::containerd::PluginInfo;
use crate::node::backend::{DISABLE_CRI, cri_plugin_is_active};

/// The oldest containerd that we are tested with.
const OLDEST: (u32, u32) = (1, 6);
/// The first of the 2.3 releases whose layer unpacking cannot be made to run for hours (GHSA-rp3h-jf77-q9p4).
const UNPACK_FIXED: u64 = 5;

pub(super) fn containerd(facts: &Facts) -> Vec<Check> {
    let backend = match &facts.containerd {
        Ok(backend) => backend,
        Err(error) if facts.is_managed => {
            return vec![Check::warn(
                "containerd",
                format!("the managed one does not answer: {error}"),
                "podwright serve --managed-containerd starts it",
            )];
        }
        Err(error) => {
            return vec![Check::fail(
                "containerd",
                error,
                "start it (systemctl start containerd), set containerd.address, or use --managed-containerd",
            )];
        }
    };
    let mut checks = vec![
        version(backend),
        cri_plugin(backend, facts.allow_cri_plugin),
    ];
    checks.extend(snapshotters(backend, facts));
    checks
}

fn version(backend: &Backend) -> Check {
    let version = &backend.version;
    let found = format!("{} answers", version.text);
    if (version.major, version.minor) < OLDEST {
        return Check::fail(
            "containerd",
            found,
            format!("upgrade it to {}.{} or later", OLDEST.0, OLDEST.1),
        );
    }
    let patch = version.text.split('.').nth(2).and_then(leading_number);
    if (version.major, version.minor) == (2, 3) && patch.is_some_and(|patch| patch < UNPACK_FIXED) {
        return Check::warn(
            "containerd",
            format!("{found}; a crafted layer can keep it unpacking for hours"),
            "upgrade it to 2.3.5 or later",
        );
    }
    Check::ok("containerd", found)
}

/// The digits that `text` starts with, as a number.
pub(super) fn leading_number(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

fn cri_plugin(backend: &Backend, is_allowed: bool) -> Check {
    const NAME: &str = "containerd's CRI plugin";
    if !cri_plugin_is_active(&backend.plugins) {
        return Check::ok(NAME, "off");
    }
    let remedy = format!(
        "put this line at the top of /etc/containerd/config.toml and restart containerd: {DISABLE_CRI}"
    );
    let finding = "active: it would work on the same pods";
    if is_allowed {
        Check::warn(
            NAME,
            format!("{finding}; allowed by containerd.allow_cri_plugin"),
            remedy,
        )
    } else {
        Check::fail(NAME, format!("{finding}; serve refuses to start"), remedy)
    }
}

fn snapshotters(backend: &Backend, facts: &Facts) -> Vec<Check> {
    let wanted: BTreeSet<&str> = facts
        .handlers
        .iter()
        .map(|handler| handler.snapshotter.as_str())
        .collect();
    let judge = |name: &str| {
        let title = format!("snapshotter {name}");
        let plugin = backend
            .plugins
            .iter()
            .find(|plugin| plugin.kind == PluginInfo::SNAPSHOTTER && plugin.id == name);
        let remedy = "set containerd.snapshotter, or the handler's one, to a snapshotter that containerd has (ctr plugins ls)";
        match plugin.map(|plugin| &plugin.error) {
            Some(None) => Check::ok(title, "loaded"),
            Some(Some(error)) => Check::fail(title, format!("not usable: {error}"), remedy),
            // Remote snapshotters are listed, too; what is not listed is not there.
            None => Check::fail(title, "containerd does not have it", remedy),
        }
    };
    wanted.into_iter().map(judge).collect()
}
