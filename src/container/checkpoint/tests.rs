//! The archive.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::archive::{Member, write_blocking};
use crate::model::{Kind, Result};
use crate::sys::new_file::Place;

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
fn the_archive_has_every_member() {
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
