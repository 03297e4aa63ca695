//! What a file may and may not say.

use rstest::rstest;

use super::*;

fn problems(text: &str) -> Vec<String> {
    let found = Config::parse(text).expect_err(text);
    found.0.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_file_is_the_default_configuration() {
    let config = Config::parse("").unwrap();

    assert_eq!(
        config.server.socket,
        Path::new("/run/podwright/podwright.sock")
    );
    assert_eq!(config.runtimes.default, "runc");
    assert_eq!(
        config.runtimes.handler("").unwrap().snapshotter,
        "overlayfs"
    );
    assert_eq!(
        config.runtimes.handler("crun").unwrap().binary.as_deref(),
        Some(Path::new("crun"))
    );
    assert!(config.warnings().is_empty());
}

#[rstest]
#[case::unknown_key("[cni]\nmax_conf_nam = 1\n", "line 2: cni.max_conf_nam: unknown field")]
#[case::unknown_table("\n[cnii]\n", "line 2: cnii: unknown field")]
#[case::wrong_type(
    "[cni]\n\nmax_conf_num = \"1\"\n",
    "line 3: cni.max_conf_num: invalid type"
)]
#[case::wrong_choice(
    "[runtimes]\ncgroup_driver = \"cgroup\"\n",
    "line 2: runtimes.cgroup_driver: unknown variant"
)]
#[case::duration_without_unit(
    "[server]\ndrain_deadline = \"5\"\n",
    "line 2: server.drain_deadline: \"5\" is no length of time"
)]
#[case::handler_field(
    "[runtimes.handlers.runc]\nbinry = \"crun\"\n",
    "line 2: runtimes.handlers.runc.binry: unknown field"
)]
#[case::list_entry(
    "[[images.pull_policy]]\npattern = \"a\"\npolicy = \"Sometimes\"\n",
    "line 3: images.pull_policy.policy: unknown variant"
)]
#[case::no_toml("[server\n", "line 1: ")]
fn what_cannot_be_read_is_named_with_line_and_key(#[case] text: &str, #[case] start: &str) {
    let found = problems(text);

    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with(start), "{}", found[0]);
}

#[rstest]
#[case("[cni]\nmax_conf_num = 0\n", "line 2: cni.max_conf_num")]
#[case("[cni]\nbin_dirs = []\n", "line 2: cni.bin_dirs")]
#[case("[server]\nsocket = \"run/x.sock\"\n", "line 2: server.socket")]
#[case(
    "[server]\nsocket = \"/var/run/crio/crio.sock\"\n",
    "line 2: server.socket"
)]
#[case(
    "[server]\nmax_message_bytes = 4194304\n",
    "line 2: server.max_message_bytes"
)]
#[case("[diagnostics]\nlevel = \"loud\"\n", "line 2: diagnostics.level")]
#[case("[runtimes]\ndefault = \"kata\"\n", "line 2: runtimes.default")]
#[case(
    "[runtimes.handlers.runc]\n[runtimes.handlers.Kata]\n",
    "line 2: runtimes.handlers.Kata"
)]
#[case(
    "[runtimes.handlers.runc]\nbinary = \"bin/crun\"\n",
    "line 2: runtimes.handlers.runc.binary"
)]
#[case("[[images.pull_policy]]\npolicy = \"Never\"\n", "images.pull_policy")]
#[case("[images]\nrange_size = 1000\n", "images.range_size")]
#[case("[images]\nrange_memory = 1000000\n", "images.range_memory")]
#[case(
    "[containers]\nunset_seccomp_profile = \"default\"\n",
    "line 2: containers.unset_seccomp_profile"
)]
#[case("[containerd]\nnamespace = \"a b\"\n", "line 2: containerd.namespace")]
#[case(
    "[operations]\nceiling = \"0s\"\n",
    "line 2: operations.ceiling: must be at least 1s"
)]
fn a_broken_rule_is_named_with_line_and_key(#[case] text: &str, #[case] part: &str) {
    let found = problems(text);

    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(part), "{}", found[0]);
}

#[test]
fn all_broken_rules_are_found_in_one_go() {
    let found =
        problems("[cni]\nconf_dir = \"net.d\"\nmax_conf_num = 0\n[operations]\nceiling = \"0s\"\n");

    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn the_managed_instance_brings_its_own_socket() {
    let flags = Overrides {
        managed_containerd: true,
        ..Overrides::default()
    };

    let config = Config::parse_with("", &flags).unwrap();

    assert_eq!(
        config.containerd.address,
        Path::new("/run/podwright/containerd/containerd.sock")
    );
    assert_eq!(
        config.runtimes.handler("crun").unwrap().root.as_deref(),
        Some(Path::new("/run/podwright/containerd/runc"))
    );
}

#[test]
fn a_local_answer_to_credentials_is_worth_a_warning() {
    let text =
        "[[images.pull_policy]]\npattern = \"*\"\npolicy = \"IfNotPresent\"\ntrust_local = true\n";

    assert_eq!(Config::parse(text).unwrap().warnings().len(), 1);
}

#[rstest]
#[case("mirror.example", true)]
#[case("Mirror.example:5000", true)]
#[case("[::1]:5000", true)]
#[case("https://mirror.example", false)]
#[case("mirror.example/path", false)]
#[case("user@mirror.example", false)]
#[case("", false)]
fn a_trusted_mirror_is_a_host(#[case] host: &str, #[case] is_one: bool) {
    let text = format!("[images]\ntrusted_mirrors = [{host:?}]\n");

    let config = Config::parse(&text);

    assert_eq!(config.is_ok(), is_one, "{config:?}");
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let missing = Path::new("/nonexistent/podwright.toml");

    assert_eq!(
        Config::load(Some(missing), &Overrides::default())
            .unwrap_err()
            .kind(),
        Kind::InvalidArgument
    );
}
