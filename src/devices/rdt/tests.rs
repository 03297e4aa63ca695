//! Files, recorded trees of resctrl, and what comes of them.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::groups::read_made_blocking;
use super::*;
use crate::model::Kind;
use crate::model::classes::Asker;

/// A processor with two L3 caches of 20 bits and limits on bandwidth, as the kernel shows it.
const TREE: &[(&str, &str)] = &[
    ("schemata", "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n"),
    ("tasks", "1\n"),
    ("info/last_cmd_status", "ok\n"),
    ("info/L3/cbm_mask", "fffff\n"),
    ("info/L3/min_cbm_bits", "1\n"),
    ("info/L3/num_closids", "16\n"),
    ("info/L3_MON/num_rmids", "160\n"),
    ("info/MB/min_bandwidth", "10\n"),
    ("info/MB/num_closids", "8\n"),
];
/// One with L2 masks for code and data, and nothing else.
const SPLIT: &[(&str, &str)] = &[
    ("schemata", "L2CODE:0=ff\nL2DATA:0=ff\n"),
    ("info/L2CODE/cbm_mask", "ff\n"),
    ("info/L2CODE/min_cbm_bits", "2\n"),
    ("info/L2CODE/num_closids", "4\n"),
    ("info/L2DATA/cbm_mask", "ff\n"),
];

struct Node {
    dir: tempfile::TempDir,
    resctrl: Resctrl,
}

impl Node {
    fn new(tree: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("resctrl");
        for (path, text) in tree {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let made = dir.path().join("state/rdt-groups");
        let resctrl = Resctrl {
            root,
            is_mbps: false,
            made,
        };
        Self { dir, resctrl }
    }

    /// The kernel fills a new group; a directory does not.
    fn group(&self, name: &str, schemata: &str, tasks: &str) {
        let group = self.resctrl.root.join(name);
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("schemata"), schemata).unwrap();
        fs::write(group.join("tasks"), tasks).unwrap();
    }

    fn schemata(&self, text: &str) -> Result<BTreeMap<String, String>> {
        let processor = Processor::read_blocking(&self.resctrl.root, self.resctrl.is_mbps)?;
        let all = schemata::resolve(&parse(text)?, &processor)?;
        let flat = |schemata: schemata::Schemata| {
            let lines = schemata.iter().map(|(name, line)| format!("{name}:{line}"));
            lines.collect::<Vec<_>>().join(" ")
        };
        Ok(all
            .into_iter()
            .map(|(name, one)| (name, flat(one)))
            .collect())
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("rdt.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    fn written(&self, group: &str) -> String {
        fs::read_to_string(self.resctrl.root.join(group).join("schemata")).unwrap()
    }
}

const TWO: &str = r#"
partitions:
  exclusive:
    l3Allocation: "60%"
    mbAllocation: ["100%"]
    classes:
      guaranteed:
  shared:
    l3Allocation: {all: "40%", "1": "20%"}
    mbAllocation: ["50%", "2000MBps"]
    classes:
      burstable: {l3Allocation: "100%"}
      besteffort: {l3Allocation: "50%", mbAllocation: ["50%", "1000MBps"]}
"#;

#[test]
fn partitions_do_not_overlap_and_classes_have_parts_of_them() {
    let node = Node::new(TREE);
    let all = node.schemata(TWO).unwrap();
    // The last partition to be counted has what is left.
    assert_eq!(all["guaranteed"], "L3:0=fff;1=ffff MB:0=100;1=100");
    assert_eq!(all["burstable"], "L3:0=ff000;1=f0000 MB:0=50;1=50");
    assert_eq!(all["besteffort"], "L3:0=f000;1=30000 MB:0=25;1=25");
}

#[test]
fn bandwidth_in_mbps_is_what_counts_where_resctrl_is_mounted_so() {
    let mut node = Node::new(TREE);
    node.resctrl.is_mbps = true;
    let refused = node.schemata(TWO).unwrap_err().chain();
    assert!(
        refused.contains("exclusive") && refused.contains("MBps"),
        "{refused}"
    );
    let text = TWO.replace("[\"100%\"]", "[\"9000MBps\"]");
    let all = node.schemata(&text).unwrap();
    assert!(all["guaranteed"].ends_with("MB:0=9000;1=9000"), "{all:?}");
    assert!(all["burstable"].ends_with("MB:0=2000;1=2000"), "{all:?}");
    assert!(all["besteffort"].ends_with("MB:0=1000;1=1000"), "{all:?}");
}

#[test]
fn masks_are_taken_as_they_are_and_those_of_classes_count_from_their_partition() {
    let node = Node::new(TREE);
    let text = r#"
partitions:
  a: {l3Allocation: "0xff000", classes: {one: {l3Allocation: "0-3"}, two: {l3Allocation: "0xf0"}}}
  b: {l3Allocation: "0-11", classes: {DEFAULT: {l3Allocation: "50-100%"}}}
"#;
    let all = node.schemata(text).unwrap();
    assert_eq!(all["one"], "L3:0=f000;1=f000 MB:0=100;1=100");
    assert_eq!(all["two"], "L3:0=f0000;1=f0000 MB:0=100;1=100");
    assert_eq!(all["DEFAULT"], "L3:0=fe0;1=fe0");
}

#[test]
fn code_and_data_have_masks_of_their_own_where_the_processor_has_them() {
    let node = Node::new(SPLIT);
    let text = r#"
options: {l3: {optional: true}}
partitions:
  all:
    l2Allocation: "100%"
    l3Allocation: "100%"
    classes:
      a: {l2Allocation: {all: {unified: "100%", code: "50%", data: "1%"}}}
"#;
    assert_eq!(node.schemata(text).unwrap()["a"], "L2CODE:0=f L2DATA:0=3");
    let strict = text.replace("true", "false");
    let refused = node.schemata(&strict).unwrap_err();
    assert_eq!(refused.kind(), Kind::FailedPrecondition);
    assert!(
        refused.to_string().contains("options.l3.optional"),
        "{refused}"
    );
}

#[test]
fn what_no_processor_can_do_is_refused_with_its_place() {
    for (text, word) in [
        (
            "partitions: {p: {classes: {a: {l3Allocation: \"5%\"}}}}",
            "partition has",
        ),
        ("partitions: {p: {l3Allocation: 60}}", "quotes"),
        ("partitions: {p: {l3Allocation: \"101%\"}}", "1% to 100%"),
        ("partitions: {p: {l3Allocation: \"0x5\"}}", "side by side"),
        ("partitions: {p: {l3Allocation: \"0,2\"}}", "side by side"),
        ("partitions: {p: {l3Allocation: \"0-200\"}}", "0-200"),
        (
            "partitions: {p: {l3Allocation: {all: {code: \"5%\"}}}}",
            "unified",
        ),
        (
            "partitions: {p: {l3Allocation: {all: {unified: \"5%\", code: \"5%\"}}}}",
            "data",
        ),
        ("partitions: {p: {l3Allocation: {some: \"5%\"}}}", "some"),
        ("partitions: {p: {mbAllocation: \"5%\"}}", "list"),
        ("partitions: {p: {mbAllocation: []}}", "empty"),
        ("partitions: {p: {mbAllocation: [\"fast\"]}}", "fast"),
        (
            "partitions: {p: {classes: {a: }}, q: {classes: {a: }}}",
            "more than once",
        ),
        (
            "partitions: {p: {classes: {\"\": , DEFAULT: }}}",
            "more than once",
        ),
        ("partitions: {p: {classes: {info: }}}", "info"),
        ("partitions: {p: {classes: {a/b: }}}", "a/b"),
        ("partitions: {p: {classes: {..: }}}", ".."),
        (
            "partitions: {p: {l3Allocation: \"5%\"}, q: }",
            "all of them",
        ),
        ("partition: {}", "partition"),
        ("options: {l4: {optional: true}}", "l4"),
    ] {
        let said = parse(text).unwrap_err().chain();
        assert!(said.contains(word), "{text}: {said}");
    }
    assert_eq!(parse(" \n").unwrap(), Definition::default());
}

#[test]
fn what_this_processor_cannot_do_is_refused() {
    let node = Node::new(TREE);
    for (text, word) in [
        (
            "{p: {l3Allocation: \"60%\"}, q: {l3Allocation: \"60%\"}}",
            "120%",
        ),
        (
            "{p: {l3Allocation: \"0xff\"}, q: {l3Allocation: \"0x180\"}}",
            "overlaps",
        ),
        (
            "{p: {l3Allocation: \"0xff\"}, q: {l3Allocation: \"10%\"}}",
            "not both",
        ),
        ("{p: {l3Allocation: \"0xff00000\"}}", "0xfffff"),
        (
            "{p: {l3Allocation: \"0xff\", classes: {a: {l3Allocation: \"0x1ff\"}}}}",
            "wider",
        ),
        ("{p: {l2Allocation: \"1%\"}}", "L2"),
    ] {
        let said = node
            .schemata(&format!("partitions: {text}"))
            .unwrap_err()
            .chain();
        assert!(said.contains(word), "{text}: {said}");
    }
    fs::remove_file(node.resctrl.root.join("info/L3/min_cbm_bits")).unwrap();
    assert!(
        node.schemata(TWO)
            .unwrap_err()
            .chain()
            .contains("min_cbm_bits")
    );
}

proptest! {
    #[test]
    fn percentages_of_any_kind_make_masks_that_a_processor_takes(
        shares in prop::collection::vec(1_u64..=100, 1..6),
        low in 0_u64..=100, high in 1_u64..=100,
    ) {
        let node = Node::new(TREE);
        let total: u64 = shares.iter().sum();
        let (low, high) = (low.min(high), high.max(low));
        let mut text = "partitions:\n".to_owned();
        for (nth, share) in shares.iter().enumerate() {
            let share = (share * 100 / total).max(1);
            text += &format!(
                "  p{nth}: {{l3Allocation: \"{share}%\", classes: {{whole{nth}: , c{nth}: {{l3Allocation: \"{low}-{high}%\"}}}}}}\n"
            );
        }
        let all = node.schemata(&text).unwrap();
        let mask = |class: String| {
            let line = all[&class].split(['=', ';']).nth(1).unwrap();
            u64::from_str_radix(line, 16).unwrap()
        };
        let mut taken = 0;
        for nth in 0..shares.len() {
            let (whole, part) = (mask(format!("whole{nth}")), mask(format!("c{nth}")));
            prop_assert!(share::is_one_block(whole) && share::is_one_block(part));
            prop_assert_eq!(part & !whole, 0);
            prop_assert_eq!(whole & taken, 0);
            taken |= whole;
        }
        prop_assert_eq!(taken, 0xfffff);
    }
}

#[test]
fn groups_are_set_where_they_differ_and_strangers_are_left_alone() {
    let node = Node::new(TREE);
    let whole = "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n";
    for name in ["guaranteed", "burstable", "besteffort", "strange"] {
        node.group(name, whole, "");
    }
    node.group(
        "burstable",
        "    MB:0= 50;1= 50\n    L3:0=0ff000;1=0f0000\n",
        "",
    );
    let before = node.written("burstable");

    let applied = node.resctrl.apply_blocking(&node.file(TWO)).unwrap();

    assert!(applied.outcome.failed.is_empty(), "{:?}", applied.outcome);
    assert!(node.written("guaranteed").starts_with("L3:0=fff;1=ffff\n"));
    assert_eq!(node.written("burstable"), before);
    assert_eq!(node.written("strange"), whole);
    assert_eq!(
        read_made_blocking(&node.resctrl.made).unwrap(),
        BTreeSet::new()
    );
    let group = |name: &str| applied.group(name, Asker::Container).unwrap();
    assert_eq!(group("besteffort"), Some(Some("besteffort".to_owned())));
    assert_eq!(group("strange"), None);
}

#[test]
fn a_group_that_we_made_goes_when_it_is_empty_and_no_longer_named() {
    let node = Node::new(TREE);
    let one = "partitions: {p: {l3Allocation: \"50%\", classes: {a: , b: }}}";
    // No kernel fills the new directories here, so neither can be set; both are noted as ours.
    let applied = node.resctrl.apply_blocking(&node.file(one)).unwrap();
    assert_eq!(applied.outcome.failed.len(), 2);
    let refused = applied.group("a", Asker::Container).unwrap_err();
    assert_eq!(refused.kind(), Kind::FailedPrecondition);
    let made = || read_made_blocking(&node.resctrl.made).unwrap();
    assert_eq!(made(), ["a", "b"].map(str::to_owned).into());

    node.group("a", "L3:0=fffff;1=fffff\n", "");
    node.group("b", "L3:0=fffff;1=fffff\n", "17\n");
    node.group("c", "L3:0=fffff;1=fffff\n", "");
    let none = node.file("");
    let applied = node.resctrl.apply_blocking(&none).unwrap();
    // A directory with files is not removed by rmdir, as a group would be.
    assert_eq!(applied.lingering(), &["a", "b"].map(str::to_owned).into());
    fs::remove_dir_all(node.resctrl.root.join("a")).unwrap();
    let applied = node.resctrl.apply_blocking(&none).unwrap();
    assert_eq!(applied.lingering(), &["b".to_owned()].into());
    assert_eq!(made(), ["b".to_owned()].into());
    assert!(node.resctrl.root.join("c").exists());
}

#[test]
fn a_broken_file_changes_no_group() {
    let node = Node::new(TREE);
    node.group("a", "L3:0=fffff;1=fffff\n", "");
    for text in [
        "partitions: [",
        "partitions: {p: {l3Allocation: \"60%\", classes: {a: }}, q: {l3Allocation: \"60%\"}}",
    ] {
        assert!(node.resctrl.apply_blocking(&node.file(text)).is_err());
    }
    assert_eq!(node.written("a"), "L3:0=fffff;1=fffff\n");
    assert!(
        node.resctrl
            .apply_blocking(Path::new("/nonexistent"))
            .is_err()
    );
}

#[test]
fn definitions_may_deny_annotations_and_mean_the_root() {
    let node = Node::new(TREE);
    node.group("a", "L3:0=fffff;1=fffff\nMB:0=100;1=100\n", "");
    let text = r#"
partitions:
  p:
    mbAllocation: ["50%"]
    classes:
      a: {kubernetes: {denyPodAnnotation: true}}
      DEFAULT:
"#;
    let applied = node.resctrl.apply_blocking(&node.file(text)).unwrap();
    assert!(applied.group("a", Asker::Pod).is_err());
    assert!(applied.group("a", Asker::Container).unwrap().is_some());
    assert_eq!(applied.group("DEFAULT", Asker::Pod).unwrap(), Some(None));
    assert!(
        node.written("").starts_with("MB:0=50;1=50\n"),
        "{}",
        node.written("")
    );
}

#[test]
fn doctor_says_what_the_node_lacks() {
    let node = Node::new(&[]);
    let file = node.file(TWO);
    let said = node.resctrl.survey_blocking(&file).unwrap_err().chain();
    assert!(said.contains("not mounted"), "{said}");
    let node = Node::new(TREE);
    let names = node.resctrl.survey_blocking(&node.file(TWO)).unwrap();
    assert_eq!(names, ["besteffort", "burstable", "guaranteed"]);
}
