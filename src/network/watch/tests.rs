use std::path::PathBuf;

use super::super::testing::{live, stub};
use super::*;

const LIMIT: Duration = Duration::from_secs(20);

struct Fixture {
    root: tempfile::TempDir,
    configs: Configs,
    runner: Runner,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("net.d")).unwrap();
        let settings = NetworkSettings {
            conf_dir: root.path().join("net.d"),
            bin_dirs: vec![root.path().join("bin")],
            reload_interval: Duration::from_secs(600),
            ..NetworkSettings::default()
        };
        Self {
            configs: Configs::new(settings.shared()),
            root,
            runner: Runner::new(live()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn network(&self, file: &str, name: &str) -> PathBuf {
        let path = self.path(file);
        std::fs::write(
            &path,
            format!(r#"{{"name":"{name}","plugins":[{{"type":"t"}}]}}"#),
        )
        .unwrap();
        path
    }

    fn name(&self) -> Option<String> {
        Some(self.configs.networks().ok()?.first()?.name.clone())
    }

    /// Watches until the first network is `want`.
    async fn until(&self, want: Option<&str>) {
        let seen = async {
            while self.name().as_deref() != want {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, seen)
            .await
            .unwrap_or_else(|_| panic!("never {want:?}"));
    }
}

#[tokio::test]
async fn every_way_to_change_the_configuration_is_noticed() {
    let fixture = Fixture::new();
    let changes = async {
        fixture.until(None).await;
        fixture.network("net.d/10.conflist", "written");
        fixture.until(Some("written")).await;

        let elsewhere = fixture.network("elsewhere", "moved-in");
        std::fs::rename(elsewhere, fixture.path("net.d/10.conflist")).unwrap();
        fixture.until(Some("moved-in")).await;

        std::fs::rename(fixture.path("net.d/10.conflist"), fixture.path("out")).unwrap();
        fixture.until(None).await;

        std::fs::rename(fixture.path("out"), fixture.path("net.d/10.conflist")).unwrap();
        fixture.until(Some("moved-in")).await;
        std::fs::write(fixture.path("net.d/05.conflist"), "{").unwrap();
        fixture.until(None).await;
        std::fs::remove_file(fixture.path("net.d/05.conflist")).unwrap();
        fixture.until(Some("moved-in")).await;

        std::fs::remove_dir_all(fixture.path("net.d")).unwrap();
        fixture.until(None).await;
        std::fs::create_dir(fixture.path("net.d")).unwrap();
        fixture.network("net.d/10.conflist", "made-anew");
        fixture.until(Some("made-anew")).await;
        fixture.network("net.d/10.conflist", "and-watched");
        fixture.until(Some("and-watched")).await;
    };
    tokio::select! {
        () = fixture.configs.watch(&fixture.runner) => panic!("the watch ended"),
        () = changes => {}
    }
}

#[tokio::test]
async fn the_status_says_what_is_wrong() {
    let fixture = Fixture::new();
    assert!(!fixture.configs.status().ready, "nothing is loaded yet");

    fixture.configs.refresh(&fixture.runner).await;
    let status = fixture.configs.status();
    assert_eq!(
        (status.ready, status.reason),
        (false, "NetworkPluginNotReady")
    );
    assert!(
        status.message.contains("cni plugin not initialized"),
        "{status:?}"
    );

    std::fs::write(fixture.path("net.d/10.conflist"), "{").unwrap();
    fixture.configs.refresh(&fixture.runner).await;
    assert!(fixture.configs.status().message.contains("10.conflist"));

    fixture.network("net.d/10.conflist", "n");
    fixture.configs.refresh(&fixture.runner).await;
    assert_eq!(fixture.configs.status(), NetworkStatus::ready());
}

#[tokio::test]
async fn plugins_that_can_tell_are_asked_how_they_are() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path("bin")).unwrap();
    let list = r#"{"name":"n","cniVersion":"1.1.0","plugins":[{"type":"t","x":1}]}"#;
    std::fs::write(fixture.path("net.d/10.conflist"), list).unwrap();
    let script = |answer: &str| {
        let record =
            "echo \"$CNI_COMMAND.$CNI_CONTAINERID.$CNI_NETNS.$CNI_IFNAME.$CNI_ARGS.\" > $DIR/env";
        stub(
            &fixture.path("bin"),
            "t",
            &format!("{record}; cat > $DIR/in; {answer}"),
        );
    };

    script("echo '{\"code\":50,\"msg\":\"no route\"}'; exit 1");
    fixture.configs.refresh(&fixture.runner).await;
    let status = fixture.configs.status();
    assert!(
        !status.ready && status.message.contains("no route"),
        "{status:?}"
    );
    assert!(fixture.configs.networks().is_ok(), "pods may still try");
    let read = |name: &str| std::fs::read_to_string(fixture.path("bin").join(name)).unwrap();
    assert_eq!(read("env"), "STATUS.....\n");
    assert_eq!(
        read("in"),
        r#"{"cniVersion":"1.1.0","name":"n","type":"t","x":1}"#
    );

    script("exit 0");
    fixture.configs.refresh(&fixture.runner).await;
    assert_eq!(fixture.configs.status(), NetworkStatus::ready());
}

#[test]
fn want_of_descriptors_is_no_news_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("10-pods.conflist");
    let text = r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge"}]}"#;
    std::fs::write(file, text).unwrap();
    let networks = conflist::load_dir_blocking(dir.path(), 1).unwrap();
    let (good, bad) = (Ok(networks), Err("no network config found".to_owned()));
    let exhausted = || Err(Error::exhausted("too many open files"));
    let missing = || Err(Error::not_found("no network config found"));

    assert_eq!(outcome(&good, exhausted()), good);
    assert_eq!(outcome(&good, missing()), bad);
    assert_eq!(
        outcome(&bad, exhausted()),
        Err("too many open files".to_owned())
    );
}
