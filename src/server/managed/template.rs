//! The configuration of the managed containerd.

use std::path::Path;

use crate::config::settings::Managed;

/// What it must not run: the CRI plugin under the names of 1.x and 2.x, and what would take sockets of the host's own
/// containerd.
const DISABLED: [&str; 6] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
];

/// A file that containerd 1.6 and all later ones read. Later ones migrate version 2 by themselves.
/// `oom_score_adj` is ours: where we are spared by the kernel's OOM killer, the parent of every container is, too.
pub(super) fn render(settings: &Managed, oom_score_adj: i32) -> String {
    let root = |below: &str| quoted(&settings.root, below);
    let state = |below: &str| quoted(&settings.state, below);
    let disabled = DISABLED.map(|name| format!("\"{name}\"")).join(", ");
    [
        "# Written by podwright at each start of its managed containerd.".to_owned(),
        "version = 2".to_owned(),
        format!("root = {}", root("")),
        format!("state = {}", state("")),
        format!("oom_score = {}", oom_score_adj.min(0)),
        format!("disabled_plugins = [{disabled}]"),
        "[grpc]".to_owned(),
        format!("address = {}", state("containerd.sock")),
        "max_recv_message_size = 16777216".to_owned(),
        "max_send_message_size = 16777216".to_owned(),
        "[ttrpc]".to_owned(),
        format!("address = {}", state("containerd.sock.ttrpc")),
        "[debug]".to_owned(),
        format!("address = {}", state("debug.sock")),
        "level = \"info\"".to_owned(),
        "[plugins.\"io.containerd.internal.v1.opt\"]".to_owned(),
        format!("path = {}", root("opt")),
        String::new(),
    ]
    .join("\n")
}

/// `below` `dir` as a TOML string. JSON's strings are TOML's, too.
fn quoted(dir: &Path, below: &str) -> String {
    let path = if below.is_empty() {
        dir.to_owned()
    } else {
        dir.join(below)
    };
    serde_json::Value::from(path.display().to_string()).to_string()
}
