use rstest::rstest;
use serde_json::json;

use super::*;

fn version(text: &str) -> CniVersion {
    text.parse().unwrap()
}

fn parsed(value: &Value) -> Result<AddResult> {
    parse(value.to_string().as_bytes(), &version("1.0.0")).map(|(_, result)| result)
}

#[test]
fn every_version_comes_to_the_same_form() {
    let dns = json!({"nameservers": ["10.0.0.1"]});
    let oldest = json!({"cniVersion": "0.2.0", "dns": dns,
        "ip4": {"ip": "10.0.0.5/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00::5/64"}});
    let ips = |family: bool| {
        let mut ips =
            json!([{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}, {"address": "fd00::5/64"}]);
        if family {
            ips[0]["version"] = "4".into();
            ips[1]["version"] = "6".into();
        }
        ips
    };
    let routes = json!([{"dst": "0.0.0.0/0"}]);
    let middle = json!({"cniVersion": "0.3.1", "ips": ips(true), "routes": routes, "dns": dns});
    let newest = json!({"cniVersion": "1.1.0", "ips": ips(false), "routes": routes, "dns": dns,
        "interfaces": null, "unknown": 7});

    let want = parsed(&newest).unwrap();
    assert_eq!(want.ips.len(), 2);
    assert_eq!(want.ips[0].gateway, "10.0.0.1");
    for value in [oldest, middle] {
        assert_eq!(parsed(&value).unwrap(), want, "{value}");
    }
}

#[test]
fn an_answer_without_version_is_in_the_configured_one() {
    let (value, result) = parse(
        br#"{"ips":[{"version":"4","address":"10.0.0.5/24"}]}"#,
        &version("0.4.0"),
    )
    .unwrap();
    assert_eq!(value["cniVersion"], "0.4.0");
    assert_eq!(result.ips.len(), 1);
}

#[test]
fn unknown_parts_of_a_route_are_kept() {
    let value =
        json!({"cniVersion": "1.1.0", "routes": [{"dst": "::/0", "gw": null, "mtu": 1400}]});
    let route = parsed(&value).unwrap().routes.remove(0);
    assert_eq!(route.gw, "");
    assert_eq!(
        serde_json::to_value(route).unwrap(),
        json!({"dst": "::/0", "mtu": 1400})
    );
}

#[rstest]
#[case::future_version(json!({"cniVersion": "2.0.0"}))]
#[case::odd_version(json!({"cniVersion": "new"}))]
#[case::no_prefix(json!({"ips": [{"address": "10.0.0.5"}]}))]
#[case::wide_prefix(json!({"ips": [{"address": "10.0.0.5/33"}]}))]
#[case::no_address(json!({"ips": [{"address": "ten/8"}]}))]
#[case::no_such_interface(json!({"interfaces": [{"name": "eth0"}], "ips": [{"address": "10.0.0.5/24", "interface": 1}]}))]
#[case::negative_interface(json!({"interfaces": [{"name": "eth0"}], "ips": [{"address": "10.0.0.5/24", "interface": -1}]}))]
#[case::many_addresses(json!({"ips": vec![json!({"address": "10.0.0.5/24"}); 257]}))]
#[case::many_interfaces(json!({"interfaces": vec![json!({"name": "x"}); 257]}))]
#[case::many_routes(json!({"routes": vec![json!({"dst": "::/0"}); 4097]}))]
#[case::wrong_shape(json!({"ips": {"address": "10.0.0.5/24"}}))]
#[case::an_array(json!([]))]
fn answers_that_cannot_be_meant_are_refused(#[case] value: Value) {
    assert_eq!(parsed(&value).unwrap_err().kind(), Kind::Internal);
}

#[rstest]
#[case::empty(b"")]
#[case::words(b"all is well")]
#[case::two_objects(b"{}{}")]
#[case::not_text(b"\xff\xfe\x00")]
fn garbage_is_refused_and_quoted_in_short(#[case] stdout: &[u8]) {
    let error = parse(stdout, &version("1.0.0")).unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    let long = parse(&b"x".repeat(1 << 20), &version("1.0.0")).unwrap_err();
    assert!(long.chain().len() < 400);
}

#[test]
fn nesting_is_bounded() {
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(parse(deep.as_bytes(), &version("1.0.0")).is_err());
}

#[test]
fn limits_hold_at_the_limit() {
    let value = json!({
        "ips": vec![json!({"address": "10.0.0.5/24"}); 256],
        "interfaces": vec![json!({"name": "x"}); 256],
        "routes": vec![json!({"dst": "::/0"}); 4096],
    });
    assert_eq!(parsed(&value).unwrap().ips.len(), 256);
}

#[test]
fn a_result_is_handed_back_in_the_version_of_the_list() {
    let newest = json!({"cniVersion": "1.0.0", "extra": 1, "interfaces": [{"name": "eth0"}],
        "ips": [{"address": "10.0.0.5/24", "interface": 0}, {"address": "fd00::5/64"}]});
    let older = convert(&newest, &version("0.4.0")).unwrap();

    let families = [&older["ips"][0]["version"], &older["ips"][1]["version"]];
    assert_eq!(families, ["4", "6"]);
    assert_eq!(
        (&older["cniVersion"], &older["extra"]),
        (&json!("0.4.0"), &json!(1))
    );
    assert_eq!(convert(&older, &version("1.0.0")).unwrap(), newest);

    let oldest = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.5/24"}});
    let lifted = convert(&oldest, &version("1.0.0")).unwrap();
    assert_eq!(lifted["ips"][0]["address"], "10.0.0.5/24");
}
