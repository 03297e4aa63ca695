use super::*;
use tempfile::TempDir;

struct Rig {
    dir: TempDir,
}

impl Rig {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn hosts(&self, reference: &str) -> Result<Vec<Host>> {
        for_reference(&[self.dir.path().to_owned()], &reference.parse().unwrap())
    }

    fn urls(&self, reference: &str) -> Vec<String> {
        let hosts = self.hosts(reference).unwrap();
        hosts
            .iter()
            .map(|host| format!("{:?} {}{}", host.scheme, host.authority, host.path))
            .collect()
    }
}

const PEM: &str = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";

#[test]
fn without_a_directory_the_reference_names_its_own_host() {
    let rig = Rig::new();

    assert_eq!(rig.urls("busybox"), ["Https registry-1.docker.io/v2"]);
    assert_eq!(rig.urls("host.tld:5000/a"), ["Https host.tld:5000/v2"]);
}

#[test]
fn loopback_speaks_tls_first_unless_its_port_says_otherwise() {
    let rig = Rig::new();

    assert_eq!(rig.urls("localhost/a"), ["Https localhost/v2"]);
    assert_eq!(rig.urls("localhost:443/a"), ["Https localhost:443/v2"]);
    assert_eq!(rig.urls("127.1.2.3:80/a"), ["Http 127.1.2.3:80/v2"]);
    assert_eq!(rig.urls("[::1]:5000/a"), ["HttpsThenHttp [::1]:5000/v2"]);
    assert!(rig.hosts("localhost:5000/a").unwrap()[0].tls.skip_verify);
    assert!(!rig.hosts("10.0.0.1:5000/a").unwrap()[0].tls.skip_verify);
}

#[test]
fn hosts_are_asked_in_file_order_and_the_upstream_last() {
    let rig = Rig::new();
    rig.write(
        "docker.io/hosts.toml",
        r#"
        [host."https://z.tld"]
          capabilities = ["PULL"]
        [host."http://a.tld:8080/proxy"]
        [host."https://m.tld/v2".header]
          x-key = ["one", "two"]
        [host."https://o.tld/custom"]
          override_path = true
          dial_timeout = "5s"
        [host]
        "#,
    );
    let hosts = rig.hosts("busybox").unwrap();

    assert_eq!(
        rig.urls("busybox"),
        [
            "Https z.tld/v2",
            "Http a.tld:8080/proxy/v2",
            "Https m.tld/v2",
            "Https o.tld/custom",
            "Https registry-1.docker.io/v2",
        ]
    );
    assert!(hosts[0].capabilities.pull && !hosts[0].capabilities.resolve);
    assert_eq!(hosts[2].headers.len(), 2);
    assert_eq!(hosts[3].dial_timeout, Some(Duration::from_secs(5)));
    assert_eq!(hosts[4].capabilities, Capabilities::ALL);
}

#[test]
fn dotted_keys_and_inline_tables_make_no_entry() {
    let rig = Rig::new();
    rig.write(
        "host.tld/hosts.toml",
        "server = \"https://up.tld\"\n[host]\n\"https://inline.tld\" = { skip_verify = true }\n\"https://dotted.tld\".skip_verify = true\n",
    );

    assert_eq!(rig.urls("host.tld/a"), ["Https up.tld/v2"]);
}

#[test]
fn a_server_may_leave_its_scheme_out() {
    let rig = Rig::new();
    rig.write("host.tld/hosts.toml", "server = \"up.tld:5000\"\n");

    assert_eq!(rig.urls("host.tld/a"), ["Https up.tld:5000/v2"]);
}

#[test]
fn plain_http_with_any_tls_setting_tries_tls_first_except_on_port_80() {
    let rig = Rig::new();
    rig.write(
        "host.tld/hosts.toml",
        "[host.\"http://a.tld\"]\nskip_verify = false\n[host.\"http://b.tld:80\"]\nskip_verify = true\n[host.\"http://c.tld\"]\n",
    );

    assert_eq!(
        rig.urls("host.tld/a")[..3],
        ["HttpsThenHttp a.tld/v2", "Http b.tld/v2", "Http c.tld/v2"]
    );
}

#[test]
fn an_earlier_root_hides_a_later_one_even_by_its_default() {
    let rig = Rig::new();
    rig.write(
        "one/_default/hosts.toml",
        "[host.\"https://default.tld\"]\n",
    )
    .write("two/host.tld/hosts.toml", "[host.\"https://exact.tld\"]\n");
    let roots = [rig.dir.path().join("one"), rig.dir.path().join("two")];

    let hosts = for_reference(&roots, &"host.tld/a".parse().unwrap()).unwrap();

    assert_eq!(hosts[0].authority, "default.tld");
}

#[test]
fn a_port_has_two_directory_names_and_the_underscored_one_wins() {
    let rig = Rig::new();
    rig.write(
        "host.tld:5000/hosts.toml",
        "[host.\"https://literal.tld\"]\n",
    );
    assert_eq!(
        rig.hosts("host.tld:5000/a").unwrap()[0].authority,
        "literal.tld"
    );

    rig.write(
        "host.tld_5000_/hosts.toml",
        "[host.\"https://underscored.tld\"]\n",
    );
    assert_eq!(
        rig.hosts("host.tld:5000/a").unwrap()[0].authority,
        "underscored.tld"
    );
}

#[test]
fn a_broken_file_falls_back_to_docker_style_files() {
    for broken in [
        "[host",
        "[host.\"https://m.tld\"]\ncapabilities = [\"fly\"]",
        "[host.\"https://m.tld\"]\nskip_verify = 1",
        "[host.\"https://m.tld\"]\ndial_timeout = \"soon\"",
        "[host.\"http://\"]",
    ] {
        let rig = Rig::new();
        rig.write("host.tld/hosts.toml", broken)
            .write("host.tld/ca.crt", PEM)
            .write("host.tld/me.cert", PEM)
            .write("host.tld/me.key", PEM);

        let hosts = rig.hosts("host.tld/a").unwrap();

        assert_eq!(hosts.len(), 1, "{broken}");
        assert_eq!((hosts[0].tls.ca.len(), hosts[0].tls.client.len()), (1, 1));
    }
}

#[test]
fn unknown_keys_are_ignored_and_an_empty_capability_list_means_all() {
    let rig = Rig::new();
    rig.write(
        "host.tld/hosts.toml",
        "future = 1\n[host.\"https://m.tld\"]\ncapabilities = []\nother = \"x\"\n",
    );

    let hosts = rig.hosts("host.tld/a").unwrap();

    assert_eq!(hosts[0].capabilities, Capabilities::ALL);
}

#[test]
fn certificates_are_read_relative_to_the_directory_and_must_be_pem() {
    let rig = Rig::new();
    rig.write("host.tld/ca.pem", PEM)
        .write("host.tld/key.pem", PEM)
        .write(
            "host.tld/hosts.toml",
            "ca = \"ca.pem\"\nclient = [[\"ca.pem\", \"key.pem\"], \"key.pem\"]\n",
        );
    let tls = &rig.hosts("host.tld/a").unwrap()[0].tls;
    assert_eq!((tls.ca.len(), tls.client.len()), (1, 2));

    for (file, text) in [("missing.pem", None), ("text.pem", Some("hello"))] {
        if let Some(text) = text {
            rig.write(&format!("host.tld/{file}"), text);
        }
        rig.write("host.tld/hosts.toml", &format!("ca = [\"{file}\"]\n"));
        assert!(rig.hosts("host.tld/a").is_err(), "{file}");
    }
}

#[test]
fn files_that_cannot_be_used_are_listed_with_their_reason() {
    let root = tempfile::tempdir().unwrap();
    for (host, text) in [
        ("good.tld", "server = \"https://a.tld\"\n"),
        ("empty.tld", ""),
        ("broken.tld", "server = [\n"),
        (
            "word.tld",
            "[host.\"https://a.tld\"]\ncapabilities = [\"fly\"]\n",
        ),
        ("ca.tld", "[host.\"https://a.tld\"]\nca = \"none.pem\"\n"),
    ] {
        std::fs::create_dir(root.path().join(host)).unwrap();
        std::fs::write(root.path().join(host).join("hosts.toml"), text).unwrap();
    }
    std::fs::create_dir(root.path().join("bare.tld")).unwrap();

    let absent = root.path().join("absent");
    let broken = broken_files_blocking(&[root.path().to_owned(), absent]);

    let names: Vec<_> = broken
        .iter()
        .map(|(path, _)| path.parent().unwrap().file_name().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["broken.tld", "ca.tld", "word.tld"]);
    assert!(broken.iter().all(|(_, reason)| !reason.is_empty()));
}
