//! The managed containerd against a stand-in that answers on its socket, or does not.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::config::Config;

/// Settings in a directory of their own. The stand-in is `script`, run by `sh` with `$STATE` set.
fn settings(base: &Path, script: &str) -> settings::Managed {
    let binary = base.join("containerd");
    let state = base.join("state");
    std::fs::write(
        &binary,
        format!("#!/bin/sh\nSTATE={}\n{script}\n", state.display()),
    )
    .unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    settings::Managed {
        enabled: true,
        binary,
        root: base.join("root"),
        state,
        start_deadline: Duration::from_secs(10),
        stop_at_exit: false,
    }
}

async fn ensure(settings: &settings::Managed) -> Result<Managed> {
    Managed::ensure(settings, Variables::default()).await
}

/// A script for a stand-in that listens: this test program, told to run [`stand_in`].
fn listens() -> String {
    let tests = std::env::current_exe().unwrap();
    format!(
        "export STATE\nexec {} --exact server::managed::tests::stand_in --ignored --nocapture",
        tests.display()
    )
}

/// Not a test of its own: the process that others start in containerd's place.
#[test]
#[ignore = "the stand-in that other tests start"]
fn stand_in() {
    let Some(state) = std::env::var_os("STATE") else {
        return;
    };
    let socket = Path::new(&state).join("containerd.sock");
    drop(std::fs::remove_file(&socket));
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    listener.incoming().for_each(drop);
}

#[tokio::test]
async fn the_instance_is_started_once_adopted_by_the_next_start_and_ended_on_request() {
    let base = tempfile::tempdir().unwrap();
    let settings = settings(base.path(), &listens());

    let first = ensure(&settings).await.unwrap();
    let beside = ensure(&settings).await.unwrap_err();
    assert_eq!(beside.kind(), Kind::FailedPrecondition);
    let pid = first.process.pid();
    drop(first);

    let second = ensure(&settings).await.unwrap();
    assert_eq!(second.process.pid(), pid);
    drop(second);

    // The record is lost with a kill -9 of ours between the start and its writing: who answers is adopted.
    std::fs::remove_file(settings.state.join(RECORD)).unwrap();
    let third = ensure(&settings).await.unwrap();
    assert_eq!(third.process.pid(), pid);
    third.end().await.unwrap();
}

#[tokio::test]
async fn an_instance_that_ends_is_started_again() {
    let base = tempfile::tempdir().unwrap();
    let settings = settings(base.path(), &listens());
    let managed = ensure(&settings).await.unwrap();
    let first = managed.process.pid();
    managed
        .process
        .kill(nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let closing = CancellationToken::new();
    let keeping = managed.keep(closing.clone());
    let until_back = async {
        let record = settings.state.join(RECORD);
        while recorded_blocking(&record)
            .unwrap()
            .is_none_or(|process| process.pid() == first)
        {
            tokio::time::sleep(ASK_EVERY).await;
        }
        closing.cancel();
    };

    let (managed, ()) = tokio::join!(keeping, until_back);

    assert_ne!(managed.process.pid(), first);
    managed.end().await.unwrap();
}

#[tokio::test]
async fn an_instance_that_dies_at_once_is_told_with_its_log() {
    let base = tempfile::tempdir().unwrap();
    let settings = settings(base.path(), "echo broken >&2; exit 3");

    let error = ensure(&settings).await.unwrap_err();

    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.chain().contains("containerd.log"), "{error}");
}

#[tokio::test]
async fn it_is_told_where_traces_go_and_has_a_name_of_its_own() {
    let base = tempfile::tempdir().unwrap();
    let settings = settings(base.path(), "env > $STATE/environment; exit 3");
    let ours = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector"),
        ("OTEL_SERVICE_NAME", "node"),
        ("SECRET", "ours"),
    ];
    let ours = ours.iter().map(|(name, value)| (name.into(), value.into()));
    let traces = Variables::gather(ours, &Config::default().tracing);

    let ended = Managed::ensure(&settings, traces.of_containerd()).await;

    ended.unwrap_err();
    let given = std::fs::read_to_string(settings.state.join("environment")).unwrap();
    let given: Vec<&str> = given.lines().collect();
    assert!(given.contains(&"OTEL_EXPORTER_OTLP_ENDPOINT=http://collector"));
    assert!(given.contains(&"OTEL_SERVICE_NAME=containerd"), "{given:?}");
    assert!(given.iter().all(|line| !line.contains("ours")), "{given:?}");
}

#[tokio::test]
async fn one_that_runs_without_answering_is_neither_killed_nor_doubled() {
    let base = tempfile::tempdir().unwrap();
    let mut settings = settings(base.path(), "exec sleep 600");
    settings.start_deadline = Duration::from_millis(300);

    let first = ensure(&settings).await.unwrap_err();
    let again = ensure(&settings).await.unwrap_err();

    assert_eq!(
        (first.kind(), again.kind()),
        (Kind::Unavailable, Kind::Unavailable)
    );
    let process = recorded_blocking(&settings.state.join(RECORD))
        .unwrap()
        .unwrap();
    assert!(
        again.chain().contains(&process.pid().to_string()),
        "{again}"
    );
    process.kill(nix::sys::signal::Signal::SIGKILL).unwrap();
    process.exited().await.unwrap();
}

#[test]
fn the_configuration_leaves_the_hosts_containerd_alone() {
    let base = Path::new("/x");
    let settings = settings::Managed {
        enabled: true,
        binary: "containerd".into(),
        root: base.join("root"),
        state: base.join("state"),
        start_deadline: Duration::from_secs(1),
        stop_at_exit: false,
    };

    let text = template::render(&settings, -999);

    insta::assert_snapshot!(text);
}
