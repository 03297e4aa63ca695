//! What the kernel says of one container.

use std::fs;
use std::path::{Path, PathBuf};

use podwright::model::Clock as _;
use podwright::model::clock::SystemClock;
use podwright::wire::cri;

use crate::case::Outcome;
use crate::ensure;

/// How far the figures may be from the files'.
const PART: f64 = 0.02;

/// The kernel's files of one container, wherever its group lies.
pub(super) struct Files(Vec<PathBuf>);

impl Files {
    pub(super) fn of(id: &str) -> Self {
        let mut found = Vec::new();
        find(Path::new("/sys/fs/cgroup"), id, &mut found);
        Self(found)
    }

    fn read(&self, names: &[&str]) -> Outcome<String> {
        let paths = self
            .0
            .iter()
            .flat_map(|dir| names.iter().map(move |name| dir.join(name)));
        let mut texts = paths.filter_map(|path| fs::read_to_string(path).ok());
        texts
            .next()
            .ok_or_else(|| format!("none of {names:?} is there").into())
    }

    fn number(&self, names: &[&str]) -> Outcome<f64> {
        Ok(self.read(names)?.trim().parse()?)
    }

    pub(super) fn cpu_ns(&self) -> Outcome<f64> {
        let text = self.read(&["cpuacct.usage", "cpu.stat"])?;
        match field(&text, "usage_usec") {
            Some(us) => Ok(us * 1_000.0),
            None => Ok(text.trim().parse()?),
        }
    }

    pub(super) fn memory(&self) -> Outcome<f64> {
        self.number(&["memory.usage_in_bytes", "memory.current"])
    }

    pub(super) fn stat(&self, keys: [&str; 2]) -> Outcome<f64> {
        let text = self.read(&["memory.stat"])?;
        let found = keys.iter().find_map(|key| field(&text, key));
        found.ok_or_else(|| format!("no {keys:?} in memory.stat").into())
    }
}

fn field(text: &str, key: &str) -> Option<f64> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(name, _)| *name == key)?.1.trim().parse().ok()
}

fn find(dir: &Path, id: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(id) {
            found.push(entry.path());
        } else {
            find(&entry.path(), id, found);
        }
    }
}

pub(super) fn between(
    what: &str,
    told: Option<&cri::UInt64Value>,
    before: f64,
    after: f64,
) -> Outcome {
    #[expect(
        clippy::cast_precision_loss,
        reason = "two per cent are allowed anyway"
    )]
    let told = told.ok_or_else(|| format!("{what}: unset"))?.value as f64;
    let (least, most) = (before.min(after), before.max(after));
    ensure(
        (least * (1.0 - PART)..=most * (1.0 + PART)).contains(&told),
        || format!("{what}: told {told}, the files say {before}..{after}"),
    )
}

pub(super) fn nanoseconds() -> i64 {
    SystemClock.now().0
}
