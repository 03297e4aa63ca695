use std::os::unix::fs::PermissionsExt;

use super::super::testing::{live, stub};
use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    settings: NetworkSettings,
    runner: Runner,
}

impl Fixture {
    /// A plugin `stub` that runs `script`.
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        stub(dir.path(), "stub", script);
        Self {
            settings: NetworkSettings {
                bin_dirs: vec!["/nonexistent".into(), dir.path().into()],
                plugin_environment: vec![("HTTPS_PROXY".into(), "http://proxy".into())],
                ..NetworkSettings::default()
            },
            dir,
            runner: Runner::new(live()),
        }
    }

    async fn run(&self, limit: Duration) -> Result<Vec<u8>, Failure> {
        self.run_type("stub", limit).await
    }

    async fn run_type(&self, plugin_type: &str, limit: Duration) -> Result<Vec<u8>, Failure> {
        let call = Call {
            verb: Verb::Add,
            plugin_type,
            container_id: "c1",
            netns: Path::new("/run/netns/x"),
            ifname: "eth0",
            args: "A=1;B=2",
            stdin: b"{\"in\":1}".to_vec(),
            deadline: Instant::now() + limit,
        };
        self.runner.run(&self.settings, call).await
    }

    async fn error(&self, limit: Duration) -> Error {
        self.run(limit).await.unwrap_err().into_error("net".into())
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_plugin_sees_its_call_and_nothing_else_of_ours() {
    let fixture = Fixture::new(
        "tr '\\0' '\\n' < /proc/$$/environ | sort > $DIR/env; cat > $DIR/stdin; pwd > $DIR/cwd; echo '{\"out\":1}'",
    );

    let answer = fixture.run(LONG).await.unwrap();

    assert_eq!(answer, b"{\"out\":1}\n");
    assert_eq!(fixture.read("stdin"), "{\"in\":1}");
    assert_eq!(fixture.read("cwd"), "/\n");
    let bin = fixture.dir.path().display();
    let want = format!(
        "CNI_ARGS=A=1;B=2\nCNI_COMMAND=ADD\nCNI_CONTAINERID=c1\nCNI_IFNAME=eth0\nCNI_NETNS=/run/netns/x\n\
         CNI_PATH=/nonexistent:{bin}\nHTTPS_PROXY=http://proxy\nPATH={PATH}\n"
    );
    assert_eq!(fixture.read("env"), want);
    assert_eq!(fixture.runner.live.snapshot().len(), 0);
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_its_children() {
    let fixture = Fixture::new("sleep 600 & echo $! > $DIR/child; echo $$ > $DIR/self; wait");

    let error = fixture.error(Duration::from_millis(700)).await;

    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    for name in ["self", "child"] {
        let pid = fixture.read(name).trim().parse().unwrap();
        let ended = async {
            while let Ok(stat) =
                crate::sys::process::ProcessStat::read_blocking(crate::model::Pid(pid))
                && stat.runs()
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LONG, ended).await.unwrap();
    }
}

#[tokio::test]
async fn a_caller_that_leaves_takes_the_plugin_along() {
    let fixture =
        Fixture::new("echo $$ > $DIR/self.new; mv $DIR/self.new $DIR/self; exec sleep 600");
    let started = async {
        while !fixture.dir.path().join("self").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        _ended = fixture.run(LONG) => panic!("it sleeps"),
        () = started => {}
    }

    let pid = crate::model::Pid(fixture.read("self").trim().parse().unwrap());
    let ended = async {
        while let Ok(stat) = crate::sys::process::ProcessStat::read_blocking(pid)
            && stat.runs()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, ended).await.unwrap();
}

#[tokio::test]
async fn a_process_left_behind_does_not_hold_the_answer_up() {
    let fixture = Fixture::new("sleep 5 & echo '{}'");
    let began = Instant::now();

    assert_eq!(fixture.run(LONG).await.unwrap(), b"{}\n");
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn endless_output_is_an_error_and_ends_the_plugin() {
    let fixture = Fixture::new("exec cat /dev/zero");
    let error = fixture.error(LONG).await;
    assert_eq!(error.kind(), Kind::Internal);
    assert!(error.chain().contains("more than"), "{error}");
}

#[tokio::test]
async fn output_up_to_the_limit_is_read_and_long_complaints_are_drained() {
    let fixture = Fixture::new("head -c 1048576 /dev/zero; head -c 3000000 /dev/zero >&2");
    let answer = fixture.run(LONG).await.unwrap();
    assert_eq!(answer.len(), 1 << 20);

    let above = Fixture::new("head -c 1048577 /dev/zero");
    assert_eq!(above.error(LONG).await.kind(), Kind::Internal);
}

#[tokio::test]
async fn a_plugin_that_ignores_its_input_may_succeed() {
    let fixture = Fixture::new("exec <&-; echo '{}'");
    assert_eq!(fixture.run(LONG).await.unwrap(), b"{}\n");
}

#[tokio::test]
async fn what_the_plugin_reports_is_told() {
    let fixture = Fixture::new("echo '{\"code\":100,\"msg\":\"no addresses\"}'; exit 1");
    assert_eq!(fixture.error(LONG).await.chain(), "net: no addresses");
}

#[tokio::test]
async fn only_a_binary_that_root_alone_can_write_is_run() {
    let fixture = Fixture::new("echo '{}'");
    let path = fixture.dir.path().join("stub");
    for mode in [0o775, 0o757, 0o644] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(
            fixture.error(LONG).await.kind(),
            Kind::FailedPrecondition,
            "{mode:o}"
        );
    }
    std::fs::create_dir(fixture.dir.path().join("directory")).unwrap();
    for other in ["directory", "missing"] {
        let failure = fixture.run_type(other, LONG).await.unwrap_err();
        assert_eq!(
            failure.into_error("net".into()).kind(),
            Kind::FailedPrecondition
        );
    }
}

#[tokio::test]
async fn a_binary_that_is_being_written_is_tried_again() {
    let fixture = Fixture::new("echo '{}'");
    let program = fixture.dir.path().join("busy");
    std::fs::copy("/bin/true", &program).unwrap();
    let writer = std::fs::OpenOptions::new()
        .append(true)
        .open(&program)
        .unwrap();
    let release = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(writer);
    };

    let (answer, ()) = tokio::join!(fixture.run_type("busy", LONG), release);

    assert_eq!(answer.unwrap(), b"");
}
