//! What a layer makes.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

#[test]
fn the_digest_is_of_the_whole_stream() {
    let bench = Bench::new();
    let mut layer = Layer::default().file("a", "data").end();
    layer.extend_from_slice(b"what follows the end counts too");
    let found = bench.apply_with(&layer, Whiteouts::Remove, 10).unwrap();
    assert_eq!(found, Digest::sha256(&layer));
    assert_eq!(bench.read("a"), "data");
}

#[test]
fn owner_mode_and_times_are_the_entry_s() {
    let bench = Bench::new();
    let mut owned = header(EntryType::Regular, "bin", 1);
    owned.set_mode(0o4755);
    owned.set_uid(1234);
    owned.set_gid(0o7777777 - 1);
    let mut sticky = header(EntryType::Directory, "tmp/", 0);
    sticky.set_mode(0o1777);
    let layer = Layer::default()
        .entry(sticky, b"")
        .pax(&[("mtime", b"1000000001.123456789"), ("atime", b"5")])
        .entry(owned, b"x")
        .pax(&[
            ("uid", b"3000000000"),
            ("path", b"tmp/long"),
            ("size", b"3"),
        ])
        .entry(header(EntryType::Regular, "short", 0), b"abc")
        .symlink("link", "nowhere")
        .pax(&[("mtime", b"-5.5")])
        .file("old", "");
    bench.apply(layer).unwrap();

    let root = bench.root();
    let bin = lstat(&root.join("bin"));
    assert_eq!(bin.mode() & 0o7777, 0o4755);
    assert_eq!((bin.uid(), bin.gid()), (1234, 0o7777776));
    assert_eq!(
        (bin.mtime(), bin.mtime_nsec()),
        (1_000_000_001, 123_456_789)
    );
    assert_eq!(bin.atime(), bin.mtime());
    let tmp = lstat(&root.join("tmp"));
    assert_eq!((tmp.mode() & 0o7777, tmp.mtime()), (0o1777, 1_000_000_000));
    assert_eq!(lstat(&root.join("tmp/long")).uid(), 3_000_000_000);
    assert_eq!(bench.read("tmp/long"), "abc");
    assert_eq!(lstat(&root.join("link")).mtime(), 1_000_000_000);
    assert_eq!(lstat(&root.join("old")).mtime(), 0);
}

#[test]
fn extended_attributes_are_set_but_those_that_rule_overlayfs() {
    let bench = Bench::new();
    // Permission to bind low ports, in the format of the kernel.
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = Layer::default()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", b"a=b\n\0c"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/../.."),
        ])
        .entry(
            {
                let mut header = header(EntryType::Regular, "ping", 0);
                header.set_uid(7);
                header
            },
            b"",
        )
        .pax(&[("SCHILY.xattr.user.note", b"x")])
        .symlink("link", "ping");
    bench.apply(layer).unwrap();

    let value =
        |name: &std::ffi::CStr| crate::sys::layer_tree::attribute(&bench.root().join("ping"), name);
    assert_eq!(value(c"security.capability").unwrap(), capability);
    assert_eq!(value(c"trusted.overlay.redirect"), None);
    // A tmpfs may not know attributes of users.
    assert!(matches!(
        value(c"user.note").as_deref(),
        None | Some(b"a=b\n\0c")
    ));
}

#[test]
fn every_kind_of_file_is_made() {
    let bench = Bench::new();
    let layer = Layer::default()
        .dir("d")
        .file("d/f", "one")
        .hard_link("d/again", "d/f")
        .hard_link("far", "/d/../d/f")
        .symlink("d/s", "../../etc/passwd")
        .hard_link("s2", "d/s")
        .device(EntryType::Fifo, "p", 0, 0)
        .device(EntryType::Char, "null", 1, 3)
        .device(EntryType::Block, "disk", 7, 300);
    bench.apply(layer).unwrap();

    let root = bench.root();
    let inode = |name: &str| lstat(&root.join(name)).ino();
    assert_eq!(inode("d/f"), inode("d/again"));
    assert_eq!(inode("d/f"), inode("far"));
    assert_eq!(inode("d/s"), inode("s2"));
    let target = fs::read_link(root.join("d/s")).unwrap();
    assert_eq!(target, Path::new("../../etc/passwd"));
    assert!(lstat(&root.join("p")).file_type().is_fifo());
    // As the kernel packs 1:3 and 7:300.
    let device = |name: &str| lstat(&root.join(name)).rdev();
    assert_eq!(device("null"), 0x103);
    assert_eq!(device("disk"), 0x10_072c);
    bench.is_contained();
}

#[test]
fn missing_directories_are_as_below() {
    let bench = Bench::new();
    let below = bench.below();
    fs::create_dir_all(below.join("opt/app")).unwrap();
    fs::set_permissions(below.join("opt"), fs::Permissions::from_mode(0o2711)).unwrap();
    std::os::unix::fs::chown(below.join("opt"), Some(5), Some(6)).unwrap();
    fs::create_dir_all(below.join("real")).unwrap();
    fs::set_permissions(below.join("real"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("/real", below.join("alias")).unwrap();
    symlink("../../../..", below.join("evil")).unwrap();
    fs::write(below.join("file"), "").unwrap();
    let layer = Layer::default()
        .file("opt/app/x", "x")
        .file("alias/x", "x")
        .file("evil/x", "x")
        .file("file/x", "x")
        .file("new/dir/x", "x");
    bench.apply(layer).unwrap();

    let root = bench.root();
    let opt = lstat(&root.join("opt"));
    assert_eq!((opt.mode() & 0o7777, opt.uid(), opt.gid()), (0o2711, 5, 6));
    let mode = |name: &str| lstat(&root.join(name)).mode() & 0o7777;
    assert_eq!(mode("alias"), 0o700);
    assert_eq!(mode("new/dir"), 0o755);
    assert_eq!(mode("file"), 0o755);
    bench.is_contained();
}

#[test]
fn entries_replace_what_stood_there() {
    let bench = Bench::new();
    let layer = Layer::default()
        .dir("a")
        .file("a/x", "x")
        .file("a", "file")
        .file("b", "first")
        .hard_link("keep", "b")
        .file("b", "second")
        .file("c", "c")
        .dir("c")
        .file("c/y", "y")
        .symlink("c", "d")
        .dir("e")
        .file("e/kept", "kept")
        .dir("e");
    bench.apply(layer).unwrap();

    assert_eq!(bench.read("a"), "file");
    assert_eq!(bench.read("b"), "second");
    assert_eq!(bench.read("keep"), "first");
    assert!(lstat(&bench.root().join("c")).is_symlink());
    assert_eq!(bench.read("e/kept"), "kept");
    assert_eq!(lstat(&bench.root().join("e")).mtime(), 1_000_000_000);
}

#[test]
fn whiteouts_are_written_as_overlayfs_reads_them() {
    let bench = Bench::new();
    let mut owned = header(EntryType::Regular, "d/.wh.gone", 0);
    owned.set_uid(9);
    let layer = Layer::default()
        .entry(owned, b"")
        .file("d/kept", "kept")
        .file("d/.wh.kept", "")
        .dir("made")
        .file(".wh.made", "")
        .file(".wh.back", "")
        .dir("back")
        .file("hidden/.wh..wh..opq", "")
        .file(".wh..wh.aufs", "")
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", "x");
    bench.apply(layer).unwrap();

    let root = bench.root();
    assert!(is_whiteout(&root.join("d/gone")));
    assert_eq!(lstat(&root.join("d/gone")).uid(), 9);
    assert_eq!(bench.read("d/kept"), "kept");
    assert!(is_opaque(&root.join("made")), "nothing below shows through");
    assert!(lstat(&root.join("back")).is_dir());
    assert!(is_opaque(&root.join("back")));
    assert!(is_opaque(&root.join("hidden")));
    assert!(!is_opaque(&root.join("d")));
    assert_eq!(fs::read_dir(&root).unwrap().count(), 4);
}

#[test]
fn a_first_layer_s_whiteouts_remove() {
    let bench = Bench::new();
    let layer = Layer::default()
        .dir("d")
        .file("d/x", "x")
        .file("f", "f")
        .file(".wh.d", "")
        .file(".wh.f", "")
        .file(".wh.missing", "")
        .file(".wh..wh..opq", "");
    bench
        .apply_with(&layer.end(), Whiteouts::Remove, 100)
        .unwrap();
    assert_eq!(fs::read_dir(bench.root()).unwrap().count(), 0);
}

#[test]
fn gnu_s_long_names_and_holes_are_read() {
    let bench = Bench::new();
    let long = format!("{}/{}", "n".repeat(200), "m".repeat(200));
    let target = "t".repeat(300);
    let with_nul = |text: &str| [text.as_bytes(), b"\0"].concat();
    let name = header(
        EntryType::GNULongName,
        "././@LongLink",
        long.len() as u64 + 1,
    );
    let link = header(
        EntryType::GNULongLink,
        "././@LongLink",
        target.len() as u64 + 1,
    );
    let mut sparse = header(EntryType::GNUSparse, "sparse", 4);
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.set_real_size(100_000);
    gnu.sparse[0].set_offset(50_000);
    gnu.sparse[0].set_length(4);
    gnu.sparse[1].set_offset(100_000);
    gnu.sparse[1].set_length(0);
    let layer = Layer::default()
        .entry(name, &with_nul(&long))
        .entry(link, &with_nul(&target))
        .symlink("short", "short")
        .entry(sparse, b"data");
    bench.apply(layer).unwrap();

    let found = fs::read_link(bench.root().join(&long)).unwrap();
    assert_eq!(found, Path::new(&target));
    let bytes = fs::read(bench.root().join("sparse")).unwrap();
    assert_eq!(bytes.len(), 100_000);
    assert_eq!(&bytes[50_000..50_004], b"data");
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 4);
}
