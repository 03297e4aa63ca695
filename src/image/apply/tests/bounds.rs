//! What a layer cannot do.

use super::*;

/// Layers that would reach the file beside their root, or the host: entries divided by bars, each a kind (file, symbolic
/// link, hard link, directory), a name, and a target where it has one. `OUT` is the directory above the root.
const ESCAPES: &[&str] = &[
    "f ../canary",
    "f a/../../canary",
    "f OUT/canary",
    "s l OUT | f l/canary",
    "s l .. | f l/canary",
    "s a b | s b ../.. | f a/canary",
    "s l ../canary | f l",
    "s l .. | d l",
    "h l ../canary | f l",
    "h l OUT/canary | f l",
    "s s .. | h l s/canary | f l",
    "s s ../canary | h l s | f l",
    "s l ../canary | h h l",
    "s s .. | f s/.wh.canary",
    "s s OUT | f s/.wh.canary",
    "f d/.wh...",
    "f .wh...",
    "s s .. | f s/.wh..wh..opq",
    "d d | f d/x | s d .. | f d/canary",
    "d d | d d/e | s d OUT | d d/e | f d/e/canary",
    "d d | s d ..",
    "s l /proc/self/cwd | f l/x",
    "s l /proc/self/root | f l/tmp/x",
    "s l l/../.. | f l/canary",
];

fn described(text: &str, out: &str) -> Layer {
    text.split(" | ").fold(Layer::default(), |layer, entry| {
        let entry = entry.replace("OUT", out);
        match entry.split(' ').collect::<Vec<_>>()[..] {
            ["f", name] => layer.file(name, "x"),
            ["d", name] => layer.dir(name),
            ["s", name, target] => layer.symlink(name, target),
            ["h", name, target] => layer.hard_link(name, target),
            _ => panic!("{entry}"),
        }
    })
}

#[test]
fn nothing_leads_out_of_the_root() {
    for escape in ESCAPES {
        for whiteouts in [Whiteouts::Overlay, Whiteouts::Remove] {
            let bench = Bench::new();
            let before = lstat(bench.dir.path()).mtime_nsec();
            let layer = described(escape, &bench.dir.path().display().to_string());
            if let Err(error) = bench.apply_with(&layer.end(), whiteouts, 1000) {
                let is_verdict = matches!(
                    error.kind(),
                    Kind::Aborted | Kind::InvalidArgument | Kind::Unimplemented
                );
                assert!(is_verdict, "{escape}: {}", error.chain());
            }
            bench.is_contained();
            let after = lstat(bench.dir.path()).mtime_nsec();
            assert_eq!(after, before, "{escape}");
        }
    }
}

#[test]
fn a_link_in_the_middle_counts_from_the_root() {
    let bench = Bench::new();
    let layer = Layer::default()
        .dir("usr/lib")
        .symlink("lib", "/usr/lib")
        .symlink("usr/up", "../../..")
        .file("lib/a", "a")
        .file("usr/up/b", "b")
        .symlink("new", "made/by/link")
        .file("new/c", "c");
    bench.apply(layer).unwrap();

    assert_eq!(bench.read("usr/lib/a"), "a");
    assert_eq!(bench.read("b"), "b");
    assert_eq!(bench.read("made/by/link/c"), "c");
}

#[test]
fn what_is_rare_is_left_to_containerd() {
    for layer in [
        Layer::default().hard_link("a", "only/below"),
        Layer::default().hard_link("a", ".wh..wh.plnk/1.2"),
        Layer::default()
            .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")])
            .file("a", ""),
    ] {
        let error = Bench::new().apply(layer).unwrap_err();
        assert_eq!(error.kind(), Kind::Unimplemented, "{}", error.chain());
    }
}

#[test]
fn what_is_no_layer_is_refused() {
    let long = "x/".repeat(3000);
    let mut backwards = header(EntryType::Regular, "f", 0);
    backwards.as_old_mut().size = *b"-00000000012";
    for (name, layer) in [
        (
            "unknown kind",
            Layer::default().link(EntryType::new(b'7'), "a", ""),
        ),
        ("no number", Layer::default().entry(backwards, b"")),
        (
            "device number",
            Layer::default().device(EntryType::Char, "d", 5000, 1),
        ),
        (
            "owner",
            Layer::default()
                .pax(&[("uid", b"4294967295")])
                .file("a", ""),
        ),
        (
            "bad record",
            Layer::default().entry(header(EntryType::XHeader, "x", 3), b"3 a"),
        ),
        (
            "a path too long",
            Layer::default()
                .pax(&[("path", long.as_bytes())])
                .file("a", ""),
        ),
        (
            "no directory",
            Layer::default().file("a", "").file("a/b", ""),
        ),
        (
            "links in circles",
            Layer::default()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/x", ""),
        ),
        ("whiteout of nothing", Layer::default().file(".wh.", "")),
        (
            "too long an extension",
            Layer::default().entry(header(EntryType::XHeader, "x", 2 << 20), &vec![0; 2 << 20]),
        ),
    ] {
        let error = Bench::new().apply(layer).unwrap_err();
        assert!(
            matches!(error.kind(), Kind::Aborted | Kind::InvalidArgument),
            "{name}: {:?} {}",
            error.kind(),
            error.chain()
        );
    }
    for broken in [
        &[1_u8; 700][..],
        &Layer::default().file("a", "data").0[..514],
    ] {
        let done = Bench::new().apply_with(broken, Whiteouts::Overlay, 10);
        assert_eq!(done.unwrap_err().kind(), Kind::Aborted);
    }
}

#[test]
fn too_many_entries_end_it() {
    let layer = Layer::default()
        .file("a", "")
        .file("b", "")
        .file("c", "")
        .end();
    let error = Bench::new()
        .apply_with(&layer, Whiteouts::Overlay, 2)
        .unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted);
}

#[test]
fn a_wide_and_deep_tree_is_laid_out() {
    let bench = Bench::new();
    let mut layer = Layer::default();
    for number in 0..300 {
        layer = layer.file(&format!("{}/{number}", "d/".repeat(number % 40)), "x");
    }
    bench.apply(layer).unwrap();
    assert_eq!(bench.read(&format!("{}/39", "d/".repeat(39))), "x");
}
