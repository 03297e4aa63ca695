//! Holds the house to its map: who may use whom, which outside crates a room may name, where `unsafe` stands,
//! how long a file may grow. The map itself is `architecture/table.rs`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot read the tree must say so and end"
)]

#[path = "architecture/scan.rs"]
mod scan;
#[path = "architecture/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use scan::{Mention, scan};
use table::{CRATES, IMPURE_STD, MAX_LINES, PURE, RESERVED, ROOMS, Room, UNSAFE};

/// What is wrong in one file: a line each.
fn violations(module: &[&str], source: &str) -> Vec<String> {
    let found = match scan(module, source) {
        Ok(found) => found,
        Err(e) => return vec![format!("does not parse: {e}")],
    };
    let mut wrong: Vec<String> = found
        .evasions
        .iter()
        .map(|(line, what)| format!("line {line}: hides what it uses: {what}"))
        .collect();
    for mention in &found.mentions {
        if let Err(why) = judge(module, mention) {
            wrong.push(format!("line {}: {why}", mention.line));
        }
    }
    if !UNSAFE.contains(&room_of(module)) {
        for line in &found.unsafe_lines {
            wrong.push(format!("line {line}: unsafe belongs to sys/"));
        }
    }
    wrong
}

fn room_of<'m>(module: &[&'m str]) -> &'m str {
    module.first().copied().unwrap_or("main")
}

fn find(name: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| room.name == name)
}

fn judge(module: &[&str], mention: &Mention) -> Result<(), String> {
    let path: Vec<&str> = mention.path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["crate", room, ..] => judge_room(module, room),
        ["std" | "core", part, ..] if IMPURE_STD.contains(part) => {
            let room = room_of(module);
            // `std::net::IpAddr` and the like are values, `std::os` has none that a pure room needs.
            let value = matches!(
                path.as_slice(),
                [_, "net", kind] if kind.starts_with("Ip") || kind.starts_with("Addr") || kind.starts_with("SocketAddr")
            );
            if PURE.contains(&room) && !value {
                return Err(format!("{room} is pure and may not name std::{part}"));
            }
            Ok(())
        }
        [krate, ..] => judge_crate(module, krate),
        [] => Ok(()),
    }
}

fn judge_room(module: &[&str], target: &str) -> Result<(), String> {
    let from = room_of(module);
    let (Some(user), Some(used)) = (find(from), find(target)) else {
        // `crate::Something` that is no room: the root holds modules only, so nothing else can be meant.
        return Err(format!(
            "{from} names crate::{target}, which the map does not know"
        ));
    };
    if from == target {
        return Ok(());
    }
    if let Some((_, doors)) = RESERVED.iter().find(|(name, _)| *name == target)
        && !doors.contains(&from)
    {
        return Err(format!(
            "{from} may not use {target}: only {} may",
            doors.join(", ")
        ));
    }
    if used.level < user.level || user.beside.contains(&target) {
        return Ok(());
    }
    Err(format!(
        "{from} (level {}) may not use {target} (level {})",
        user.level, used.level
    ))
}

fn judge_crate(module: &[&str], krate: &str) -> Result<(), String> {
    let Some((_, places)) = CRATES.iter().find(|(name, _)| *name == krate) else {
        return Ok(()); // std, a test-only crate, or a type's associated item
    };
    let here = if module.is_empty() {
        String::from("main")
    } else {
        module.join("/")
    };
    let within = |place: &str| {
        here.strip_prefix(place)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let barred = places
        .iter()
        .filter_map(|place| place.strip_prefix('!'))
        .any(within);
    let admitted = places.iter().any(|place| *place == "*" || within(place));
    if admitted && !barred {
        return Ok(());
    }
    Err(format!("{here} may not name the crate {krate}"))
}

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            out.push(path);
        }
    }
    out.sort();
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    rust_files(&root().join(folder), &mut files);
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

/// `src/sandbox/run.rs` is `["sandbox", "run"]`; `mod.rs` is its folder; `main.rs` is `[]`, as is `lib.rs`.
fn module_of(path: &Path) -> Vec<String> {
    let relative = path
        .strip_prefix(root().join("src"))
        .unwrap()
        .with_extension("");
    let mut parts: Vec<String> = relative
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if matches!(
        parts.last().map(String::as_str),
        Some("mod" | "main" | "lib")
    ) {
        parts.pop();
    }
    parts
}

#[test]
fn every_file_keeps_to_the_map() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let module = module_of(&path);
        let module: Vec<&str> = module.iter().map(String::as_str).collect();
        for violation in violations(&module, &text) {
            wrong.push(format!(
                "{}: {violation}",
                path.strip_prefix(root()).unwrap().display()
            ));
        }
    }

    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_room_is_on_the_map() {
    let on_disk: BTreeSet<String> = std::fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let on_map: BTreeSet<String> = ROOMS
        .iter()
        .filter(|room| room.name != "main")
        .map(|room| room.name.to_owned())
        .collect();

    assert_eq!(on_disk, on_map);
}

#[test]
fn every_dependency_is_placed() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let declared: BTreeSet<String> = manifest["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .map(|name| name.replace('-', "_"))
        .collect();
    let placed: BTreeSet<String> = CRATES.iter().map(|(name, _)| (*name).to_owned()).collect();

    assert_eq!(declared, placed);
}

#[test]
fn no_file_grows_past_the_limit() {
    let long: Vec<String> = ["src", "tests"]
        .iter()
        .flat_map(|folder| sources(folder))
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();

    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
}

#[test]
fn the_readme_lists_every_call_with_its_status() {
    let text = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let calls: Vec<String> = text("proto/cri.proto")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("rpc "))
        .map(|rest| rest.split('(').next().unwrap().to_owned())
        .collect();
    let served = text("src/cri/runtime.rs");
    let listed: Vec<String> = text("README.md")
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            match cells.as_slice() {
                [
                    "",
                    call,
                    status @ ("done" | "partial" | "unimplemented"),
                    "",
                ] => {
                    assert_eq!(
                        *status == "unimplemented",
                        served.contains(&format!("unimplemented(\"{call}\")")),
                        "{call}"
                    );
                    Some((*call).to_owned())
                }
                _ => None,
            }
        })
        .collect();

    assert_eq!(calls.len(), 43);
    assert_eq!(listed, calls);
}

/// Each must be refused: where it stands, and what it says.
const FORBIDDEN: &[(&[&str], &str)] = &[
    (&["model"], "use crate::config::Config;"),
    (&["store"], "use crate::network::Attachment;"),
    (&["sandbox", "run"], "use crate::container::Container;"),
    (&["image"], "use crate::sandbox::Sandbox;"),
    (&["sandbox"], "use crate::wire::cri::Status;"),
    (&["sandbox"], "use crate::{model::Error, cri::runtime};"),
    (&["store", "files"], "use super::super::logs::Line;"),
    (&["stats"], "fn f() { crate::node::conditions(); }"),
    (&["stats"], "fn f(x: &crate::streaming::Session) {}"),
    (
        &["ops"],
        "fn f() { println!(\"{}\", crate::containerd::NAME); }",
    ),
    (&["ops"], "fn f() { vec![super::store::Files::new()]; }"),
    (
        &["ops"],
        "macro_rules! m { () => { $crate::server::run() } }",
    ),
    (&["logs"], "#[derive(crate::wire::Shape)] struct S;"),
    (&["admin"], "use crate::cri::serve;"),
    (&["sandbox"], "fn f() -> tonic::Status { todo!() }"),
    (&["sandbox"], "use tonic::Status;"),
    (&["container"], "use ::tonic::Status;"),
    (&["containerd", "traits"], "use tonic::Status;"),
    (&["containerd", "fake"], "use containerd_client::services;"),
    (&["image", "pull"], "use reqwest::Client;"),
    (&["sandbox"], "use k8s_openapi::api;"),
    (
        &["spec"],
        "async fn f() { tokio::task::yield_now().await; }",
    ),
    (&["model"], "fn f() { std::fs::read(\"x\"); }"),
    (&["spec"], "use std::process::Command;"),
    (&["network"], "fn f() { unsafe { g() } }"),
    (&["network"], "unsafe fn f() {}"),
    (&["network"], "unsafe impl Send for S {}"),
    (&["network"], "m! { unsafe { g() } }"),
    (&["store"], "use crate as house;"),
    (&["store"], "use crate::*;"),
    (&["store"], "use tonic as t;"),
    (&["store"], "extern crate tonic;"),
    (&["store"], "#[path = \"../cri/mod.rs\"] mod cri;"),
    (&["store"], "m! { use crate::{cri, model}; }"),
    (&["store"], "use crate::Elsewhere;"),
];

/// Each must pass.
const PERMITTED: &[(&[&str], &str)] = &[
    (&["sandbox", "run"], "use crate::image::Images;"),
    (
        &["container"],
        "use crate::sandbox::Sandbox; use crate::model::Error;",
    ),
    (&["stats"], "use crate::container::Container;"),
    (&["recovery"], "use crate::wire::record;"),
    (
        &["sandbox", "run"],
        "use super::steps::Step; use super::super::model::Error;",
    ),
    (&["containerd", "grpc", "tasks"], "use tonic::Status;"),
    (&["sys", "netns"], "fn f() { unsafe { g() } }"),
    (&["model"], "use std::net::IpAddr;"),
    (&["spec"], "mod url { pub fn f() {} } fn g() { url::f(); }"),
    (
        &["store"],
        "fn f() { assert_eq!(crate::model::Kind::NotFound, k); }",
    ),
    (&[], "fn main() { podwright::cli::run(); }"),
];

#[test]
fn fixtures_that_break_the_map_are_caught() {
    for (module, source) in FORBIDDEN {
        assert_ne!(
            violations(module, source),
            Vec::<String>::new(),
            "missed in {module:?}: {source}"
        );
    }
}

#[test]
fn fixtures_that_keep_to_the_map_pass() {
    for (module, source) in PERMITTED {
        assert_eq!(
            violations(module, source),
            Vec::<String>::new(),
            "in {module:?}: {source}"
        );
    }
}
