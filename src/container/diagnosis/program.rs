//! Why a program could not be started: looked for in the container's root file system as the OCI runtime looks for it.

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::model::Result;
use crate::sys::openat2::Root;

use super::elf;

/// As much of a file as tells what it is.
const HEAD_BYTES: u64 = 4096;
/// The longest name that is quoted.
const MAX_SHOWN: usize = 256;

/// What was to be run, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// The first argument.
    pub(super) name: String,
    /// The value of PATH in the container.
    pub(super) path: String,
    /// Working directory.
    pub(super) directory: PathBuf,
    /// User id.
    pub(super) uid: u32,
    /// Group ids.
    pub(super) gids: Vec<u32>,
    /// Where something is mounted over the image, which the image's files do not show.
    pub(super) mounts: Vec<PathBuf>,
}

impl Program {
    /// Where the runtime looks, in its order (exec(3); Go's `exec.LookPath`).
    fn candidates(&self) -> Vec<PathBuf> {
        if self.name.contains('/') {
            return vec![self.directory.join(&self.name)];
        }
        let directories = self.path.split(':').filter(|part| !part.is_empty());
        directories
            .map(|part| Path::new(part).join(&self.name))
            .collect()
    }

    /// What is wrong with it; `None` where nothing is, or nobody can know.
    pub(super) fn fault_blocking(&self, root: &Root) -> Option<String> {
        let candidates = self.candidates();
        let hidden = |path: &PathBuf| self.mounts.iter().any(|mount| path.starts_with(mount));
        if self.name.is_empty() || candidates.iter().any(hidden) {
            return None;
        }
        let mut refused = None;
        for path in &candidates {
            match self.look_blocking(root, path) {
                Found::Missing => {}
                Found::Refused(why) => refused = refused.or(Some(why)),
                Found::Runs => return contents_fault_blocking(root, path),
            }
        }
        refused.or_else(|| Some(self.nowhere(&candidates)))
    }

    fn look_blocking(&self, root: &Root, path: &Path) -> Found {
        let Ok(meta) = root.metadata_blocking(path) else {
            return Found::Missing;
        };
        let shown = Shown(path);
        if meta.is_dir() {
            return Found::Refused(format!("{shown} is a directory"));
        }
        if !meta.is_file() {
            return Found::Refused(format!("{shown} is no regular file"));
        }
        let mode = meta.mode() & 0o7777;
        if mode & 0o111 == 0 {
            return Found::Refused(format!(
                "{shown} is there, but nobody may execute it (mode {mode:04o}); remedy: chmod +x it in the image"
            ));
        }
        if !self.may_execute(mode, meta.uid(), meta.gid()) {
            return Found::Refused(format!(
                "{shown} is there, but user {} may not execute it (mode {mode:04o}, owner {}:{})",
                self.uid,
                meta.uid(),
                meta.gid()
            ));
        }
        Found::Runs
    }

    fn may_execute(&self, mode: u32, owner: u32, group: u32) -> bool {
        let bit = if self.uid == 0 {
            0o111
        } else if self.uid == owner {
            0o100
        } else if self.gids.contains(&group) {
            0o010
        } else {
            0o001
        };
        mode & bit != 0
    }

    fn nowhere(&self, candidates: &[PathBuf]) -> String {
        let tried: Vec<String> = candidates
            .iter()
            .map(|path| Shown(path).to_string())
            .collect();
        match tried.as_slice() {
            [] => format!("{:?} is not in the image, and PATH is empty", self.name),
            [one] => format!("{one} is not in the image"),
            many => format!(
                "{:?} is not in the image; looked for {}",
                self.name,
                many.join(", ")
            ),
        }
    }
}

enum Found {
    Missing,
    Refused(String),
    Runs,
}

/// What keeps the kernel from running this file, which is there and may be executed.
fn contents_fault_blocking(root: &Root, path: &Path) -> Option<String> {
    let head = head_blocking(root, path).ok()?;
    let shown = Shown(path);
    if head.is_empty() {
        return Some(format!("{shown} is an empty file"));
    }
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        return script_fault_blocking(root, &shown, &String::from_utf8_lossy(line));
    }
    let Some(elf) = elf::Header::parse(&head) else {
        return Some(format!(
            "{shown} is neither an ELF program nor a script that begins with #!"
        ));
    };
    if elf.machine != elf::NATIVE {
        let (built, node) = (elf::machine(elf.machine), std::env::consts::ARCH);
        return Some(format!(
            "{shown} is built for {built}, this node is {node}; remedy: an image for this architecture"
        ));
    }
    let loader = elf.interpreter(&head)?;
    let missing = root.metadata_blocking(Path::new(loader)).is_err();
    missing.then(|| {
        format!(
            "{shown} needs the dynamic loader {loader}, which is not in the image (a program for another C library?)"
        )
    })
}

fn script_fault_blocking(root: &Root, shown: &Shown<'_>, line: &str) -> Option<String> {
    let interpreter = line.split_ascii_whitespace().next().unwrap_or_default();
    if line.ends_with('\r') && !line.trim_end().contains(' ') {
        return Some(format!(
            "the first line of the script {shown} ends with a carriage return, which becomes part of its \
             interpreter's name; remedy: save it with Unix line ends"
        ));
    }
    let missing = root.metadata_blocking(Path::new(interpreter)).is_err();
    missing.then(|| {
        format!(
            "the script {shown} wants the interpreter {}, which is not in the image",
            Shown(Path::new(interpreter))
        )
    })
}

fn head_blocking(root: &Root, path: &Path) -> Result<Vec<u8>> {
    let file = root.open_regular_blocking(path)?;
    let mut head = Vec::new();
    // A file that cannot be read to here tells by what could be.
    drop(file.take(HEAD_BYTES).read_to_end(&mut head));
    Ok(head)
}

/// A path that an image chose: quoted, and cut where it is too long for a message.
struct Shown<'a>(&'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string_lossy();
        let head: String = text.chars().take(MAX_SHOWN).collect();
        let cut = if head.len() < text.len() { "…" } else { "" };
        write!(f, "{head:?}{cut}")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    struct Image(tempfile::TempDir);

    impl Image {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, path: &str, mode: u32, bytes: &[u8]) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn fault(&self, name: &str, edit: impl FnOnce(&mut Program)) -> String {
            let mut program = Program {
                name: name.to_owned(),
                path: "/usr/bin:/bin".to_owned(),
                directory: "/srv".into(),
                uid: 0,
                gids: vec![0],
                mounts: Vec::new(),
            };
            edit(&mut program);
            let root = Root::open_blocking(self.0.path()).unwrap();
            program.fault_blocking(&root).unwrap_or_default()
        }
    }

    #[test]
    fn a_missing_program_is_told_with_every_place_looked_at() {
        let image = Image::new();
        assert_eq!(
            image.fault("serve", |_| {}),
            r#""serve" is not in the image; looked for "/usr/bin/serve", "/bin/serve""#
        );
        assert_eq!(
            image.fault("./serve", |_| {}),
            r#""/srv/./serve" is not in the image"#
        );
        assert_eq!(
            image.fault("serve", |program| program.path.clear()),
            r#""serve" is not in the image, and PATH is empty"#
        );
        let over = |program: &mut Program| program.mounts = vec!["/bin".into()];
        assert_eq!(image.fault("serve", over), "");
    }

    #[test]
    fn what_may_not_be_executed_is_told_with_mode_and_owner() {
        let image = Image::new();
        image.file("bin/plain", 0o644, b"#!/bin/sh\n");
        image.file("bin/private", 0o700, b"#!/bin/sh\n");
        image.file("bin/folder/x", 0o644, b"");

        assert!(image.fault("plain", |_| {}).contains("mode 0644"));
        let nobody = |program: &mut Program| program.uid = 65534;
        assert!(
            image
                .fault("private", nobody)
                .contains("user 65534 may not")
        );
        assert!(image.fault("folder", |_| {}).contains("is a directory"));
    }

    #[test]
    fn scripts_are_told_by_their_first_line() {
        let image = Image::new();
        image.file("bin/run", 0o755, b"#!/usr/bin/python9 -u\n");
        image.file("bin/dos", 0o755, b"#!/bin/sh\r\necho\r\n");
        image.file("bin/text", 0o755, b"echo no first line\n");
        image.file("bin/nothing", 0o755, b"");
        image.file("bin/sh", 0o755, b"\x7fELF");
        image.file("bin/good", 0o755, b"#!/bin/sh\n");
        symlink("/bin/good", image.0.path().join("bin/link")).unwrap();

        assert!(
            image
                .fault("run", |_| {})
                .contains(r#"interpreter "/usr/bin/python9""#)
        );
        assert!(image.fault("dos", |_| {}).contains("carriage return"));
        assert!(
            image
                .fault("text", |_| {})
                .contains("neither an ELF program")
        );
        assert!(image.fault("nothing", |_| {}).contains("empty file"));
        assert_eq!(image.fault("good", |_| {}), "");
        assert_eq!(image.fault("link", |_| {}), "");
    }

    #[test]
    fn programs_are_told_by_their_header() {
        let image = Image::new();
        let loader = "/lib/ld-test.so.1";
        image.file(
            "bin/native",
            0o755,
            &elf::tests::program(elf::NATIVE, loader),
        );
        image.file("bin/foreign", 0o755, &elf::tests::program(0x16, loader));
        image.file("bin/broken", 0o755, b"\x7fELF");

        assert!(
            image
                .fault("native", |_| {})
                .contains("dynamic loader /lib/ld-test.so.1")
        );
        assert!(image.fault("foreign", |_| {}).contains("built for s390x"));
        assert!(
            image
                .fault("broken", |_| {})
                .contains("neither an ELF program")
        );
        image.file("lib/ld-test.so.1", 0o755, b"\x7fELF");
        assert_eq!(image.fault("native", |_| {}), "");
    }
}
