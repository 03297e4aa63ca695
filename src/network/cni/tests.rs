//! The whole way with stub plugins, which log their calls and behave as a test says.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::super::testing::{live, pod, stub};
use super::*;
use crate::model::pod::PodConfig;
use crate::model::{Kind, SandboxId};

/// Logs the call, keeps the input, then does what the file `<type>.<command>` says; else answers with one address.
const SCRIPT: &str = r#"
me=$(basename "$0")
echo "$CNI_COMMAND $me $CNI_IFNAME ${CNI_NETNS:-closed}" >> $DIR/log
cat > "$DIR/$me.$CNI_COMMAND.in"
if [ -e "$DIR/$me.$CNI_COMMAND" ]; then . "$DIR/$me.$CNI_COMMAND"; exit; fi
if [ $CNI_COMMAND = ADD ]; then
  echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'$CNI_IFNAME'"}],"ips":[{"address":"10.0.0.5/24","interface":0}],"by":"'$me'"}'
fi
"#;

struct Fixture {
    root: tempfile::TempDir,
    sandbox: SandboxId,
    pod: PodConfig,
    cni: Cni,
}

impl Fixture {
    /// A node whose networks are lists of the given plugin types.
    async fn new(networks: &[(&str, &[&str])]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for dir in ["bin", "net.d"] {
            std::fs::create_dir(root.path().join(dir)).unwrap();
        }
        for (name, plugins) in networks {
            let plugin = |kind: &&str| {
                stub(&root.path().join("bin"), kind, SCRIPT);
                json!({"type": kind, "capabilities": {"dns": true, "cgroupPath": true}})
            };
            let plugins: Vec<_> = plugins.iter().map(plugin).collect();
            let list = json!({"name": name, "cniVersion": "1.0.0", "plugins": plugins});
            let file = root.path().join(format!("net.d/{name}.conflist"));
            std::fs::write(file, list.to_string()).unwrap();
        }
        let fixture = Self {
            cni: Self::cni(root.path()),
            sandbox: SandboxId::generate().unwrap(),
            pod: pod(),
            root,
        };
        fixture.cni.refresh().await;
        fixture
    }

    fn cni(root: &Path) -> Cni {
        let settings = NetworkSettings {
            conf_dir: root.join("net.d"),
            bin_dirs: vec![root.join("bin")],
            cache_dir: root.join("cache"),
            max_conf_num: 0,
            add_deadline: Duration::from_secs(20),
            del_deadline: Duration::from_secs(2),
            ..NetworkSettings::default()
        };
        Cni::new(settings.shared(), live())
    }

    fn plan(&self) -> Result<Intent> {
        self.cni.plan(&AttachRequest {
            sandbox: &self.sandbox,
            netns: Path::new("/nonexistent/netns"),
            pod: &self.pod,
        })
    }

    /// Makes plugin `kind` run `script` for `command`.
    fn script(&self, kind: &str, command: &str, script: &str) {
        let path = self.root.path().join(format!("bin/{kind}.{command}"));
        std::fs::write(path, script).unwrap();
    }

    fn heal(&self, kind: &str, command: &str) {
        let path = self.root.path().join(format!("bin/{kind}.{command}"));
        std::fs::remove_file(path).unwrap();
    }

    /// The calls since the last time this was asked.
    fn calls(&self) -> Vec<String> {
        let path = self.root.path().join("bin/log");
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        drop(std::fs::remove_file(path));
        log.lines().map(str::to_owned).collect()
    }

    fn input(&self, kind: &str, command: &str) -> Value {
        let path = self.root.path().join(format!("bin/{kind}.{command}.in"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn cached(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.root.path().join("cache/results"));
        let entries = entries.into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

#[tokio::test]
async fn plugins_run_forwards_to_attach_and_backwards_to_detach() {
    let mut fixture = Fixture::new(&[("net", &["first", "second"])]).await;
    fixture.pod.cgroup_parent = "/kubepods/pod1".into();
    let intent = fixture.plan().unwrap();
    assert!(!fixture.cni.last_add_succeeded(&intent));

    let attachment = fixture.cni.add(&intent).await.unwrap();

    assert_eq!(attachment.primary_ip.to_string(), "10.0.0.5");
    assert!(fixture.cni.last_add_succeeded(&intent));
    let netns = "/nonexistent/netns";
    let adds = [
        format!("ADD first eth0 {netns}"),
        format!("ADD second eth0 {netns}"),
    ];
    assert_eq!(fixture.calls(), adds);
    let capabilities = json!({"dns": true, "cgroupPath": true});
    let input = json!({"type": "first", "name": "net", "cniVersion": "1.0.0", "capabilities": capabilities,
        "runtimeConfig": {"cgroupPath": "/kubepods/pod1"}});
    assert_eq!(fixture.input("first", "ADD"), input);
    assert_eq!(fixture.input("second", "ADD")["prevResult"]["by"], "first");
    assert_eq!(fixture.cached().len(), 1);

    fixture.cni.del(&intent, Some(&attachment)).await.unwrap();

    assert_eq!(
        fixture.calls(),
        ["DEL second eth0 closed", "DEL first eth0 closed"]
    );
    for plugin in ["first", "second"] {
        let input = fixture.input(plugin, "DEL");
        assert_eq!(input["prevResult"]["by"], "second");
        assert_eq!(
            input["runtimeConfig"],
            json!({"cgroupPath": "/kubepods/pod1"})
        );
    }
    assert!(fixture.cached().is_empty());
    fixture.cni.del(&intent, Some(&attachment)).await.unwrap();
    assert_eq!(fixture.input("first", "DEL")["prevResult"]["by"], "second");
}

#[tokio::test]
async fn the_intent_alone_detaches_after_configuration_and_process_are_gone() {
    let fixture = Fixture::new(&[("net", &["first"])]).await;
    let intent = fixture.plan().unwrap();
    fixture.cni.add(&intent).await.unwrap();
    std::fs::remove_dir_all(fixture.root.path().join("net.d")).unwrap();
    fixture.cni.refresh().await;
    assert_eq!(fixture.plan().unwrap_err().kind(), Kind::Unavailable);
    assert!(!fixture.cni.status().ready);
    fixture.calls();

    let stored = serde_json::to_string(&intent).unwrap();
    let intent: Intent = serde_json::from_str(&stored).unwrap();
    let later = Fixture::cni(fixture.root.path());
    later.del(&intent, None).await.unwrap();

    assert_eq!(fixture.calls(), ["DEL first eth0 closed"]);
    assert_eq!(
        fixture.input("first", "DEL")["prevResult"]["by"],
        "first",
        "from the cache"
    );
    assert!(fixture.cached().is_empty());
}

#[tokio::test]
async fn a_plugin_that_fails_ends_the_list_and_keeps_nothing() {
    let fixture = Fixture::new(&[("net", &["first", "second", "third"])]).await;
    fixture.script(
        "second",
        "ADD",
        r#"echo '{"code":7,"msg":"no room"}'; exit 1"#,
    );
    let intent = fixture.plan().unwrap();

    let error = fixture.cni.add(&intent).await.unwrap_err();

    let want = "attach to network net as eth0: plugin second (ADD): no room";
    assert_eq!(error.chain(), want);
    assert_eq!(fixture.calls().len(), 2);
    assert!(fixture.cached().is_empty());
    assert!(!fixture.cni.last_add_succeeded(&intent));
    fixture.cni.del(&intent, None).await.unwrap();
    assert_eq!(fixture.calls().len(), 3, "all are detached");
    assert_eq!(fixture.input("first", "DEL").get("prevResult"), None);
}

#[tokio::test]
async fn garbage_and_silence_are_failures_of_the_plugin() {
    let fixture = Fixture::new(&[("net", &["first"])]).await;
    let intent = fixture.plan().unwrap();
    for script in [
        "echo 'all is well'",
        "exit 0",
        "echo '{\"cniVersion\":\"7.0.0\"}'",
        "head -c 2000000 /dev/zero",
    ] {
        fixture.script("first", "ADD", script);
        let error = fixture.cni.add(&intent).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Internal, "{script}");
        assert!(error.chain().contains("plugin first (ADD)"), "{error}");
        assert!(error.chain().len() < 1500);
    }
}

#[tokio::test]
async fn networks_are_independent_of_each_other() {
    let fixture = Fixture::new(&[("a", &["one"]), ("b", &["two"])]).await;
    let intent = fixture.plan().unwrap();
    fixture.script("two", "ADD", "echo '{\"cniVersion\":\"1.0.0\"}'");
    let attachment = fixture.cni.add(&intent).await.unwrap();
    assert_eq!(attachment.dns.len(), 2);
    let mut calls = fixture.calls();
    calls.sort_unstable();
    let netns = "/nonexistent/netns";
    assert_eq!(
        calls,
        [
            format!("ADD one eth0 {netns}"),
            format!("ADD two eth1 {netns}")
        ]
    );

    fixture.script("one", "DEL", "sleep 600");
    let error = fixture.cni.del(&intent, None).await.unwrap_err();

    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    assert!(error.chain().contains("plugin one (DEL)"), "{error}");
    assert_eq!(
        fixture.calls(),
        ["DEL one eth0 closed", "DEL two eth1 closed"]
    );
    fixture.heal("one", "DEL");
    fixture.cni.del(&intent, None).await.unwrap();
    assert!(fixture.cached().is_empty());
}

#[tokio::test]
async fn one_network_after_the_other_stops_at_the_first_failure() {
    let fixture = Fixture::new(&[("a", &["one"]), ("b", &["two"])]).await;
    let mut settings = NetworkSettings::clone(&fixture.cni.settings.load());
    settings.setup_serially = true;
    fixture.cni.settings.store(Arc::new(settings));
    fixture.script("one", "ADD", "exit 1");

    let intent = fixture.plan().unwrap();
    assert!(fixture.cni.add(&intent).await.is_err());
    assert_eq!(fixture.calls().len(), 1);
}

#[tokio::test]
async fn what_a_plugin_does_not_know_any_more_counts_as_detached() {
    let fixture = Fixture::new(&[("net", &["first", "second"])]).await;
    let intent = fixture.plan().unwrap();
    for gone in [
        "container not found",
        "open /proc/1/ns/net: no such file or directory",
    ] {
        fixture.script(
            "second",
            "DEL",
            &format!("echo '{{\"msg\":\"{gone}\"}}'; exit 1"),
        );
        fixture.cni.del(&intent, None).await.unwrap();
        assert_eq!(fixture.calls().len(), 2, "the others still run");
    }
    fixture.script("second", "DEL", "echo '{\"msg\":\"busy\"}'; exit 1");
    assert!(fixture.cni.del(&intent, None).await.is_err());
    assert_eq!(fixture.calls().len(), 1, "the list stops there");
}

#[tokio::test]
async fn a_missing_binary_never_counts_as_detached() {
    let fixture = Fixture::new(&[("net", &["first"])]).await;
    let intent = fixture.plan().unwrap();
    std::fs::remove_file(fixture.root.path().join("bin/first")).unwrap();
    let error = fixture.cni.del(&intent, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
}

#[tokio::test]
async fn a_bandwidth_that_cannot_be_meant_fails_before_anything_is_attached() {
    let mut fixture = Fixture::new(&[("net", &["first"])]).await;
    let annotation = "kubernetes.io/egress-bandwidth".to_owned();
    fixture.pod.annotations.insert(annotation, "plenty".into());

    assert_eq!(fixture.plan().unwrap_err().kind(), Kind::InvalidArgument);
    assert_eq!(fixture.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_plugin_left_by_an_earlier_process_is_ended_before_its_sandbox_is_detached() {
    let fixture = Fixture::new(&[("net", &["first"])]).await;
    let intent = fixture.plan().unwrap();
    let mut left = std::process::Command::new("sleep")
        .arg("600")
        .env("CNI_CONTAINERID", fixture.sandbox.as_str())
        .spawn()
        .unwrap();
    let mut other = std::process::Command::new("sleep")
        .arg("600")
        .env("CNI_CONTAINERID", "another")
        .spawn()
        .unwrap();

    fixture.cni.del(&intent, None).await.unwrap();

    assert!(left.try_wait().unwrap().is_some());
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}
