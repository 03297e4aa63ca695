//! The archive and its place.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::archive::{Member, Place, write_blocking};
use crate::model::{Kind, Result};

fn place(dir: &Path) -> Place {
    Place::of(dir.join("a:b.tar").to_str().unwrap()).unwrap()
}

fn write(place: &Place, members: &[Member]) -> Result<u64> {
    write_blocking(place, members, &CancellationToken::new())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_location_is_the_absolute_path_of_a_file() {
    for bad in ["", "a.tar", "./a.tar", "/", "/a/", "/a/../b", "/.."] {
        assert_eq!(
            Place::of(bad).unwrap_err().kind(),
            Kind::InvalidArgument,
            "{bad:?}"
        );
    }
    let path = "/var/lib/kubelet/checkpoints/checkpoint-p_ns-c-2026-01-01T00:00:00Z.tar";
    assert_eq!(Place::of(path).unwrap().path(), Path::new(path));
}

#[test]
fn the_archive_has_every_member_and_belongs_to_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("pages");
    fs::write(&image, vec![7; 70_000]).unwrap();
    let place = place(dir.path());

    let size = write(
        &place,
        &[
            Member::Text("config.dump", b"{}".to_vec()),
            Member::File("checkpoint/pages-1.img".to_owned(), image),
            Member::FileIfThere("container.log", dir.path().join("none")),
        ],
    )
    .unwrap();

    let facts = fs::metadata(place.path()).unwrap();
    assert_eq!(facts.len(), size);
    assert_eq!(facts.permissions().mode() & 0o7777, 0o600);
    let mut tar = tar::Archive::new(fs::File::open(place.path()).unwrap());
    let mut found = Vec::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        found.push((name, data));
    }
    let wanted = [
        ("config.dump", b"{}".to_vec()),
        ("checkpoint/pages-1.img", vec![7; 70_000]),
    ];
    assert_eq!(found, wanted.map(|(name, data)| (name.to_owned(), data)));
    assert_eq!(names(dir.path()).len(), 2);
}

#[test]
fn an_archive_that_fails_or_that_nobody_waits_for_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());

    let missing = Member::File("x".to_owned(), dir.path().join("none"));
    let failed = write(&place, &[missing]).unwrap_err();
    assert_eq!(failed.kind(), Kind::NotFound);
    let gone = CancellationToken::new();
    gone.cancel();
    let given_up = write_blocking(&place, &[], &gone).unwrap_err();
    assert_eq!(given_up.kind(), Kind::Cancelled);

    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn what_is_there_already_stays_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    for make in [
        |path: &Path| fs::write(path, "theirs").unwrap(),
        |path: &Path| std::os::unix::fs::symlink("/nowhere", path).unwrap(),
    ] {
        make(&place.path());
        let error = write(&place, &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists, "{error}");
        assert_eq!(names(dir.path()), ["a:b.tar"]);
        fs::remove_file(place.path()).unwrap();
    }
}

#[test]
fn a_directory_that_others_may_write_to_is_refused_unless_it_is_sticky() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    for (mode, is_taken) in [
        (0o777, false),
        (0o770, false),
        (0o1777, true),
        (0o755, true),
    ] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        let written = write(&place, &[]);
        assert_eq!(written.is_ok(), is_taken, "{mode:o}: {written:?}");
        if let Err(error) = written {
            assert_eq!(error.kind(), Kind::InvalidArgument);
        }
        drop(fs::remove_file(place.path()));
    }
}
