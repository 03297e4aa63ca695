//! OCI hooks: drop-in files that have the OCI runtime run programs at stages of containers that fit.

pub(super) mod file;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) use file::HookFile;

pub use file::HookFacts;

use super::files::{Files, Loaded, Reading};
use crate::model::edits::Hook;
use crate::model::{Clock, Edits};

pub(super) fn files(clock: Arc<dyn Clock>) -> Files<HookFile> {
    Files::new("OCI hook", &["json"], file::parse, clock)
}

/// The hooks of the container that `facts` describes: sorted by the lower-cased names of their files; of files of one
/// name the one of the later directory counts.
pub(super) fn select(reading: &Reading<HookFile>, facts: &HookFacts) -> Edits {
    let mut by_name: BTreeMap<_, &Loaded<HookFile>> = BTreeMap::new();
    for file in &reading.files {
        by_name.insert(file.path.file_name(), file);
    }
    let mut files: Vec<&Loaded<HookFile>> = by_name.into_values().collect();
    // Stable: names that differ in case only stay in their own order.
    files.sort_by_cached_key(|file| {
        let name = file.path.file_name().unwrap_or_default();
        name.to_string_lossy().to_lowercase()
    });
    let mut edits = Edits::default();
    for file in files.iter().filter(|file| file.content.applies(facts)) {
        let HookFile {
            path,
            args,
            env,
            timeout,
            stages,
            ..
        } = &*file.content;
        edits.hooks.extend(stages.iter().map(|stage| Hook {
            stage: *stage,
            path: path.clone(),
            args: args.clone(),
            env: env.clone(),
            timeout: *timeout,
        }));
    }
    edits
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::model::clock::SystemClock;

    fn write(dir: &Path, name: &str, argument: &str, stages: &[&str]) {
        let document = json!({
            "version": "1.0.0",
            "hook": {"path": "/bin/sh", "args": [argument]},
            "when": {"always": true},
            "stages": stages,
        });
        std::fs::write(dir.join(name), document.to_string()).unwrap();
    }

    fn arguments(dirs: &[&Path]) -> Vec<String> {
        let dirs: Vec<_> = dirs.iter().map(|dir| dir.to_path_buf()).collect();
        let reading = files(Arc::new(SystemClock)).read_blocking(&dirs);
        let edits = select(&reading, &HookFacts::default());
        edits
            .hooks
            .into_iter()
            .map(|hook| hook.args[0].clone())
            .collect()
    }

    #[test]
    fn hooks_come_in_the_order_of_their_file_names_and_a_later_directory_overrides() {
        let (low, high) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(low.path(), "02-two.json", "two", &["poststop"]);
        write(low.path(), "10-Upper.json", "upper", &["poststop"]);
        write(low.path(), "10-lower.json", "lower", &["poststop"]);
        write(low.path(), "03-three.json", "three", &["poststop"]);
        write(high.path(), "03-three.json", "other three", &["poststop"]);
        write(
            high.path(),
            "01-one.json",
            "one",
            &["createRuntime", "poststop"],
        );

        assert_eq!(
            arguments(&[low.path(), high.path()]),
            ["one", "one", "two", "other three", "lower", "upper"]
        );
    }

    #[test]
    fn a_bad_file_overrides_nothing() {
        let (low, high) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(low.path(), "a.json", "a", &["poststop"]);
        std::fs::write(high.path().join("a.json"), "{").unwrap();

        assert_eq!(arguments(&[low.path(), high.path()]), ["a"]);
    }
}
