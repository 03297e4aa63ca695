//! Archives that are malformed or meant to harm: refused before anything of them is used.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use rstest::rstest;
use tar::EntryType;

use super::source::Checkpoint;
use super::{CheckpointDirs, lay};
use crate::image::Archive;
use crate::model::{Kind, Result};

const EMPTY: &[u8] = b"";
const LIMIT: u32 = 1 << 20;

/// An entry: name, kind, where it links to, what is in it.
type Entry<'a> = (&'a str, EntryType, &'a str, &'a [u8]);

const fn file<'a>(name: &'a str, data: &'a [u8]) -> Entry<'a> {
    (name, EntryType::Regular, "", data)
}

const WHOLE: [Entry<'static>; 3] = [
    file("checkpoint/inventory.img", b"inventory"),
    file("config.dump", b"{}"),
    file("spec.dump", b"{}"),
];

/// Written header by header, since the library refuses names that lead outside.
fn archive(dir: &Path, entries: &[Entry<'_>]) -> Result<Checkpoint> {
    let mut bytes = Vec::new();
    for (name, kind, link, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(data.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    let path = dir.join("archive.tar");
    fs::write(&path, bytes).unwrap();
    let archive = Archive::open_blocking(File::open(path).unwrap())?;
    Checkpoint::read_blocking("the archive".to_owned(), vec![archive])
}

fn laid(dir: &Path, entries: &[Entry<'_>]) -> Result<Vec<File>> {
    let checkpoint = archive(dir, entries)?;
    let target = dir.join("checkpoint");
    let dirs = CheckpointDirs {
        images: target.join("images"),
        work: target.join("work"),
    };
    lay::lay_out_blocking(&checkpoint, &target, &dirs, LIMIT.into())
}

#[rstest]
#[case::a_name_that_climbs(file("checkpoint/../../../etc/cron.d/x", b"x"))]
#[case::an_absolute_name(file("/etc/cron.d/x", b"x"))]
#[case::a_directory_among_criu_s_files(file("checkpoint/a/b.img", b"x"))]
#[case::a_link_as_log(("container.log", EntryType::Symlink, "/etc/shadow", EMPTY))]
#[case::a_link_among_criu_s_files(("checkpoint/pages-1.img", EntryType::Symlink, "../config.dump", EMPTY))]
#[case::a_hard_link(("dump.log", EntryType::Link, "/etc/shadow", EMPTY))]
#[case::a_fifo(("status.dump", EntryType::Fifo, "", EMPTY))]
#[case::a_device(("stats-dump", EntryType::Char, "", EMPTY))]
#[case::a_file_twice(file("spec.dump", b"{}"))]
fn hostile_archives_are_refused(#[case] entry: Entry<'static>) {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<Entry<'_>> = WHOLE.into_iter().chain([entry]).collect();

    let refused = laid(dir.path(), &entries).unwrap_err();

    assert_eq!(refused.kind(), Kind::InvalidArgument, "{}", refused.chain());
}

#[rstest]
#[case(0)]
#[case(1)]
#[case(2)]
fn an_archive_without_what_every_checkpoint_has_is_refused(#[case] missing: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut entries = WHOLE.to_vec();
    entries.remove(missing);

    let refused = laid(dir.path(), &entries).unwrap_err();

    assert_eq!(refused.kind(), Kind::InvalidArgument, "{}", refused.chain());
}

#[test]
fn documents_have_a_limit_and_must_be_what_they_are_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let mut entries = WHOLE.to_vec();
    let long = vec![b' '; 8 * 1024 * 1024 + 1];
    entries[1] = file("config.dump", &long);
    assert!(laid(dir.path(), &entries).is_err());

    entries[1] = file("config.dump", b"[1]");
    assert!(laid(dir.path(), &entries).is_err());

    let mut entries = WHOLE.to_vec();
    entries.push(file("deleted.files", b"[\"a/../../b\"]"));
    assert!(laid(dir.path(), &entries).is_err());
}

#[test]
fn changes_that_unpack_to_more_than_a_layer_may_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&vec![0; LIMIT as usize + 1]).unwrap();
    let packed = packed.finish().unwrap();
    let mut entries = WHOLE.to_vec();
    entries.push(file("rootfs-diff.tar", &packed));

    let refused = laid(dir.path(), &entries).unwrap_err();

    assert_eq!(
        refused.kind(),
        Kind::ResourceExhausted,
        "{}",
        refused.chain()
    );
}

#[test]
fn criu_s_files_are_laid_out_for_root_alone_and_nothing_else_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let mut entries = WHOLE.to_vec();
    entries.push(file("container.log", b"log"));
    entries.push(file("deleted.files", b"[\"/a/b\"]"));

    let layers = laid(dir.path(), &entries).unwrap();

    let images = dir.path().join("checkpoint/images");
    let names: Vec<_> = fs::read_dir(&images)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["inventory.img"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&images), 0o700);
    assert_eq!(mode(&images.join("inventory.img")), 0o600);
    let mut tar = tar::Archive::new(&layers[0]);
    let names: Vec<_> = tar
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["a/.wh.b"]);
    assert_eq!(layers.len(), 1);
}
