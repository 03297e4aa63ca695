//! The map of the house as data: rooms, levels, arrows, and which outside crate a room may name.
//!
//! A change of the design is a change of this file, and its diff is what a reviewer looks at.

/// One folder of `src/`.
pub(crate) struct Room {
    pub(crate) name: &'static str,
    pub(crate) level: u8,
    /// Rooms of the same level that this one may use.
    pub(crate) beside: &'static [&'static str],
}

const fn room(level: u8, name: &'static str, beside: &'static [&'static str]) -> Room {
    Room {
        name,
        level,
        beside,
    }
}

const LIFECYCLES: &[&str] = &["image", "sandbox", "container"];

/// Every room. A room uses lower levels only, and beside itself only what is listed.
pub(crate) const ROOMS: &[Room] = &[
    room(0, "model", &[]),
    room(1, "config", &[]),
    room(1, "spec", &[]),
    room(1, "sys", &[]),
    room(1, "wire", &[]),
    room(1, "telemetry", &[]),
    room(1, "pause", &[]),
    room(2, "ops", &[]),
    room(3, "containerd", &[]),
    room(3, "store", &[]),
    room(3, "network", &[]),
    room(3, "logs", &[]),
    room(3, "registry", &[]),
    room(3, "nri", &[]),
    room(3, "devices", &[]),
    room(3, "index", &[]),
    room(4, "image", &[]),
    room(4, "sandbox", &["image"]),
    room(4, "container", &["image", "sandbox"]),
    room(4, "streaming", LIFECYCLES),
    room(4, "stats", LIFECYCLES),
    room(4, "events", LIFECYCLES),
    room(4, "node", LIFECYCLES),
    room(5, "recovery", &[]),
    room(6, "cri", &[]),
    room(6, "admin", &[]),
    room(6, "play", &[]),
    room(7, "server", &[]),
    room(7, "fuzzing", &[]),
    room(8, "cli", &[]),
    room(9, "main", &[]),
];

/// Rooms that only the named ones may use, whatever their level: the wire types stop at these doors.
pub(crate) const RESERVED: &[(&str, &[&str])] = &[(
    "wire",
    &[
        "recovery", "cri", "admin", "play", "server", "cli", "fuzzing",
    ],
)];

/// Where `unsafe` may be written. The pause program is freestanding: it makes its system calls itself.
pub(crate) const UNSAFE: &[&str] = &["sys", "pause"];

/// No I/O and nothing asynchronous: these paths of `std` are closed to the rooms named beside them.
pub(crate) const PURE: &[&str] = &["model", "spec", "wire"];
pub(crate) const IMPURE_STD: &[&str] = &["fs", "net", "process", "thread", "os", "env"];

/// The longest file that we accept.
pub(crate) const MAX_LINES: usize = 500;

const ANYWHERE: &[&str] = &["*"];
const ASYNC: &[&str] = &["*", "!model", "!spec", "!wire", "!pause"];
const GRPC: &[&str] = &[
    "containerd/grpc",
    "wire",
    "cri",
    "admin",
    "play",
    "server",
    "cli",
    // The headers and statuses of calls that are traced, and the way to the collector.
    "telemetry",
];

/// Which places may name which crate: a room, a path inside a room, `*` for all, `!room` for all but it.
/// A dependency that is missing here fails the test, so that each is placed when it is added.
pub(crate) const CRATES: &[(&str, &[&str])] = &[
    ("arc_swap", ANYWHERE),
    (
        "base64",
        &[
            "registry",
            "wire",
            "cri",
            "play",
            "streaming",
            "image",
            "network",
        ],
    ),
    ("bytes", ANYWHERE),
    ("clap", &["cli", "main"]),
    ("containerd_client", &["containerd/grpc"]),
    (
        "flate2",
        &[
            "registry",
            "image",
            "streaming",
            "containerd",
            "container/restore/tests",
        ],
    ),
    ("zstd", &["image"]),
    ("futures", ASYNC),
    ("getrandom", ANYWHERE),
    ("http_body_util", &["streaming", "server", "telemetry"]),
    ("hyper", &["streaming", "server", "telemetry"]),
    (
        "hyper_util",
        &[
            "containerd/grpc",
            "admin",
            "play",
            "server",
            "cli",
            "streaming",
        ],
    ),
    ("indicatif", &["cli"]),
    ("jiff", ANYWHERE),
    ("k8s_openapi", &["play"]),
    ("listenfd", &["server"]),
    // Descriptors and signals of their own trade, all safe calls; what needs `unsafe` or /proc is sys/'s. The sandbox
    // and play's volumes name mount flags, which sys/ takes as they are.
    (
        "nix",
        &[
            "sys",
            "logs",
            "network",
            "server",
            "sandbox/files",
            "play/volumes",
        ],
    ),
    (
        "oci_spec",
        &[
            "spec",
            "registry",
            "image",
            "sandbox",
            "container",
            "recovery",
            "devices",
            "nri",
        ],
    ),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("prometheus_client", &["telemetry"]),
    // Plugins speak ttrpc, so their messages are no part of `wire`, which is what gRPC carries.
    ("prost", &["wire", "containerd/grpc", "nri"]),
    ("prost_types", &["wire", "containerd/grpc"]),
    // oci_spec brings it anyway; hook files have patterns.
    ("regex", &["devices"]),
    // Makes the streaming listener's own certificate.
    ("rcgen", &["streaming"]),
    ("reqwest", &["registry", "telemetry"]),
    (
        "rustls",
        &["registry", "streaming", "server", "telemetry", "main"],
    ),
    ("sd_notify", &["server"]),
    ("serde", ANYWHERE),
    ("serde_json", ANYWHERE),
    ("serde_saphyr", &["play", "devices"]),
    ("sha2", ANYWHERE),
    (
        "tar",
        &[
            "image",
            "container/checkpoint",
            "container/restore",
            "recovery/tests",
        ],
    ),
    ("thiserror", ANYWHERE),
    ("tokio", ASYNC),
    ("tokio_rustls", &["streaming"]),
    ("tokio_stream", ASYNC),
    ("tokio_tungstenite", &["streaming"]),
    ("tokio_util", ASYNC),
    ("toml", &["config", "registry"]),
    ("tonic", GRPC),
    ("tonic_prost", &["wire", "containerd/grpc"]),
    ("tower", GRPC),
    ("tracing", &["*", "!model", "!spec", "!wire", "!pause"]),
    (
        "tracing_subscriber",
        &["telemetry", "server", "cli", "main"],
    ),
    ("url", &["registry", "streaming"]),
];
