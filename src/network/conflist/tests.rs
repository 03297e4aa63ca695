use rstest::rstest;

use super::*;

const BRIDGE: &str =
    r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge","x":{"y":[1]}}]}"#;

fn conf_dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn names(dir: &tempfile::TempDir, max: usize) -> Vec<String> {
    let networks = load_dir_blocking(dir.path(), max).unwrap();
    networks.into_iter().map(|network| network.name).collect()
}

#[test]
fn files_count_in_the_order_of_their_names() {
    let named = |name: &str| BRIDGE.replace("\"net\"", &format!("\"{name}\""));
    let dir = conf_dir(&[
        ("20-b.conflist", &named("b")),
        ("10-a.conflist", &named("a")),
        ("00-readme.txt", "not json"),
        ("05-dir.conf/x", "a directory"),
        ("30-c.json", r#"{"name":"c","type":"ptp"}"#),
    ]);

    assert_eq!(names(&dir, 1), ["a"]);
    assert_eq!(names(&dir, 0), ["a", "b", "c"]);
}

#[test]
fn one_bad_file_among_those_used_fails_the_load_and_is_named() {
    let dir = conf_dir(&[("10-a.conflist", BRIDGE), ("20-b.conflist", "{")]);

    assert_eq!(names(&dir, 1), ["net"]);
    let error = load_dir_blocking(dir.path(), 2).unwrap_err();
    assert!(error.chain().contains("20-b.conflist"), "{error}");
}

#[test]
fn nothing_to_load_is_not_found() {
    let dir = conf_dir(&[("readme", "")]);
    for dir in [dir.path().to_owned(), dir.path().join("missing")] {
        let error = load_dir_blocking(&dir, 1).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    }
}

#[test]
fn a_single_plugin_becomes_a_list_that_keeps_its_keys() {
    let text = r#"{"cniVersion":"0.3.1","name":"solo","type":"ptp","ipam":{"type":"host-local"}}"#;
    let dir = conf_dir(&[("10.conf", text)]);

    let network = load_dir_blocking(dir.path(), 1).unwrap().remove(0);

    assert_eq!(
        (network.name.as_str(), network.version.as_str()),
        ("solo", "0.3.1")
    );
    let expected: Value = serde_json::from_str(text).unwrap();
    assert_eq!(Value::Object(network.plugins[0].object.clone()), expected);
    assert_eq!(
        parse(&network.text).unwrap(),
        network,
        "the text is the network"
    );
}

#[test]
fn plugins_dropped_beside_a_list_are_part_of_it_and_of_its_text() {
    let list = r#"{"cniVersion":"1.0.0","name":"net"}"#;
    let files = [
        ("10.conflist", list),
        ("net/20-b.conf", r#"{"type":"b"}"#),
        ("net/10-a.conf", r#"{"type":"a"}"#),
        ("net/30-c.json", r#"{"type":"c"}"#),
    ];
    let dir = conf_dir(&files);

    let network = load_dir_blocking(dir.path(), 1).unwrap().remove(0);
    let types: Vec<_> = network.plugins.iter().map(|p| &p.plugin_type).collect();
    assert_eq!(types, ["a", "b"]);
    assert_eq!(parse(&network.text).unwrap(), network);

    let alone = list.replace("\"net\"", "\"net\",\"loadOnlyInlinedPlugins\":true");
    std::fs::write(dir.path().join("10.conflist"), alone).unwrap();
    assert!(load_dir_blocking(dir.path(), 1).is_err(), "no plugins left");
}

#[rstest]
#[case(r#""cniVersion":"0.4.0","#, "0.4.0")]
#[case("", "")]
#[case(r#""cniVersions":["0.4.0","1.1.0","0.10.0","9.9.9"],"#, "1.1.0")]
#[case(r#""cniVersion":"1.0.0","cniVersions":["0.4.0"],"#, "1.0.0")]
fn the_highest_version_that_both_speak_is_used(#[case] keys: &str, #[case] want: &str) {
    let text = format!(r#"{{{keys}"name":"n","plugins":[{{"type":"t"}}]}}"#);
    assert_eq!(parse(&text).unwrap().version.as_str(), want);
}

#[rstest]
#[case::no_name(r#"{"plugins":[{"type":"t"}]}"#)]
#[case::name_is_a_path(r#"{"name":"../x","plugins":[{"type":"t"}]}"#)]
#[case::name_is_a_number(r#"{"name":7,"plugins":[{"type":"t"}]}"#)]
#[case::no_plugins(r#"{"name":"n"}"#)]
#[case::empty_plugins(r#"{"name":"n","plugins":[]}"#)]
#[case::plugins_no_array(r#"{"name":"n","plugins":{"type":"t"}}"#)]
#[case::plugin_no_object(r#"{"name":"n","plugins":["t"]}"#)]
#[case::no_type(r#"{"name":"n","plugins":[{}]}"#)]
#[case::empty_type(r#"{"name":"n","plugins":[{"type":""}]}"#)]
#[case::type_climbs(r#"{"name":"n","plugins":[{"type":"../../bin/x"}]}"#)]
#[case::type_is_dots(r#"{"name":"n","plugins":[{"type":".."}]}"#)]
#[case::type_absolute(r#"{"name":"n","plugins":[{"type":"/bin/sh"}]}"#)]
#[case::ipam_type_climbs(r#"{"name":"n","plugins":[{"type":"t","ipam":{"type":"../x"}}]}"#)]
#[case::bad_version(r#"{"name":"n","cniVersion":"one","plugins":[{"type":"t"}]}"#)]
#[case::version_no_string(r#"{"name":"n","cniVersion":1,"plugins":[{"type":"t"}]}"#)]
#[case::an_array("[]")]
#[case::garbage("\u{1}\u{2}")]
fn wrong_lists_are_refused(#[case] text: &str) {
    assert_eq!(parse(text).unwrap_err().kind(), Kind::InvalidArgument);
}

#[test]
fn limits_hold_at_the_limit_and_break_one_above() {
    let list = |count: usize, name: usize| {
        let plugin = format!(r#"{{"type":"{}"}}"#, "t".repeat(name));
        let plugins = vec![plugin; count].join(",");
        format!(r#"{{"name":"n","plugins":[{plugins}]}}"#)
    };
    assert_eq!(parse(&list(64, 255)).unwrap().plugins.len(), 64);
    assert!(parse(&list(65, 1)).is_err());
    assert!(parse(&list(1, 256)).is_err());

    let cap = usize::try_from(FILE_CAP).unwrap();
    let padded = |length: usize| format!("{BRIDGE}{}", " ".repeat(length - BRIDGE.len()));
    let dir = conf_dir(&[("10.conflist", &padded(cap))]);
    assert_eq!(names(&dir, 1), ["net"]);
    std::fs::write(dir.path().join("10.conflist"), padded(cap + 1)).unwrap();
    assert!(load_dir_blocking(dir.path(), 1).is_err());
}

#[test]
fn only_a_true_capability_counts() {
    let text =
        r#"{"name":"n","plugins":[{"type":"t","capabilities":{"a":true,"b":false,"c":"true"}}]}"#;
    let network = parse(text).unwrap();
    let has = |name: &str| network.plugins[0].has_capability(name);
    assert!(has("a") && !has("b") && !has("c") && !has("d"));
}
