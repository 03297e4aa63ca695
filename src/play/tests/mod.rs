//! Flows against a CRI server inside the process, on paused time.

mod fake;
mod server;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake::{Act, World};
use tokio::time::Instant;

use super::{CallOff, Dirs, Options, Show, UpOptions, down, up};
use crate::model::Result;

/// A place to write to and to read from afterwards.
#[derive(Clone, Debug, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Stage {
    world: World,
    options: Options,
    paper: Paper,
    _root: tempfile::TempDir,
}

impl Stage {
    /// A runtime, and a manifest with a pod `web` of `spec`.
    fn new(spec: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let world = World::new();
        let endpoint = root.path().join("cri.sock");
        server::serve(&world, &endpoint);
        let file = root.path().join("pod.yaml");
        let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
        let head = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, uid: u1}\nspec:\n";
        std::fs::write(&file, format!("{head}{indented}")).unwrap();
        let options = Options {
            file,
            endpoint,
            dirs: Dirs {
                state: root.path().join("state"),
                logs: root.path().join("logs"),
                seccomp: root.path().join("seccomp"),
            },
            clock: world.clock.clone(),
        };
        Self {
            world,
            options,
            paper: Paper::default(),
            _root: root,
        }
    }

    async fn up(&self, detach: bool, call_off: CallOff) -> Result<bool> {
        let with = UpOptions {
            detach,
            remove: false,
            cgroup_parent: String::new(),
            show: Show::Lines,
        };
        let out = Box::new(self.paper.clone());
        up(&self.options, &with, out, call_off).await
    }

    /// Runs for `seconds`, then calls off.
    async fn up_for(&self, seconds: u64) -> bool {
        let call_off = CallOff::default();
        let stop = call_off.stop.clone();
        let timer = async {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            stop.cancel();
        };
        let (outcome, ()) = tokio::join!(self.up(false, call_off), timer);
        outcome.unwrap()
    }

    fn told(&self) -> String {
        String::from_utf8(self.paper.0.lock().unwrap().clone()).unwrap()
    }

    fn tells(&self, words: &[&str]) {
        let told = self.told();
        for word in words {
            assert!(told.contains(word), "{word:?} is not in:\n{told}");
        }
    }

    /// The calls that begin with `word`, without it.
    fn calls(&self, word: &str) -> Vec<String> {
        let calls = self.world.calls();
        let wanted = calls.iter().filter_map(|call| call.strip_prefix(word));
        wanted.map(|call| call.trim().to_owned()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_in_order_before_the_others_and_sidecars_end_last() {
    let stage = Stage::new(
        "restartPolicy: Never
initContainers: [{name: one, image: i:1}, {name: side, image: i:1, restartPolicy: Always}, {name: two, image: i:1}]
containers: [{name: app, image: 'j:1'}]",
    );
    stage.world.script("one", &[Act::End(0, 1)]);
    stage.world.script("two", &[Act::End(0, 1)]);
    stage.world.script("app", &[Act::End(0, 2)]);

    let well = stage.up(false, CallOff::default()).await.unwrap();

    assert!(well);
    assert_eq!(
        stage.world.calls(),
        [
            "sandbox 0",
            "pull i:1",
            "create one",
            "start one.0",
            "create side",
            "start side.0",
            "create two",
            "start two.0",
            "pull j:1",
            "create app",
            "start app.0",
            "stop side.0 30",
            "stop sandbox s0",
        ]
    );
    stage.tells(&[
        "default/web: Init:0/3",
        "Init:1/3",
        "Init:2/3",
        "app: Completed",
    ]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let stage = Stage::new(
        "restartPolicy: Never
initContainers: [{name: one, image: i:1}]
containers: [{name: app, image: i:1}]",
    );
    stage.world.script("one", &[Act::End(3, 1)]);

    let well = stage.up(false, CallOff::default()).await.unwrap();

    assert!(!well);
    assert_eq!(stage.calls("start"), ["one.0"]);
    stage.tells(&["default/web: failed: container one: Error, exit code 3"]);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_again_and_again_waits_longer_each_time() {
    let stage = Stage::new("containers: [{name: app, image: i:1}]");
    stage.world.script("app", &[Act::End(1, 0)]);
    let began = Instant::now();

    stage.up_for(100).await;

    // At once, after 10 s, after 20 s, after 40 s; the next one would be after 80 s.
    assert_eq!(
        stage.calls("start"),
        ["app.0", "app.1", "app.2", "app.3", "app.4"]
    );
    assert!(began.elapsed() < Duration::from_secs(110));
    stage.tells(&["CrashLoopBackOff", "waits 40s", "exit code 1", "restarts 4"]);
    assert_eq!(stage.calls("remove app"), [".0", ".1", ".2", ".3", ".4"]);
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_pulled_is_told_and_tried_again() {
    let stage = Stage::new("containers: [{name: app, image: i:1}]");
    let refusal = ("pull i:1".to_owned(), "registry says no".to_owned());
    stage.world.state().refuse.extend([refusal]);

    stage.up_for(35).await;

    assert_eq!(stage.calls("pull"), ["i:1", "i:1", "i:1"]);
    stage.tells(&["ErrImagePull", "ImagePullBackOff", "registry says no"]);
}

#[tokio::test(start_paused = true)]
async fn reasons_name_what_kept_a_container_from_starting() {
    let spec = "containers: [{name: app, image: i:1, imagePullPolicy: Never}]";
    let absent = Stage::new(spec);
    let config = Stage::new(
        "containers: [{name: app, image: i:1, env: [{name: A, valueFrom: {configMapKeyRef: {name: m, key: k}}}]}]",
    );
    let refused = Stage::new("containers: [{name: app, image: i:1}]");
    let refusal = ("create app".to_owned(), "no such device".to_owned());
    refused.world.state().refuse.extend([refusal]);

    for (stage, words) in [
        (absent, ["ErrImageNeverPull", "not on this node"]),
        (
            config,
            ["CreateContainerConfigError", "configmap default/m"],
        ),
        (refused, ["CreateContainerError", "no such device"]),
    ] {
        let well = stage.up(true, CallOff::default()).await.unwrap();

        assert!(!well);
        stage.tells(&words);
    }
}

#[tokio::test(start_paused = true)]
async fn a_running_pod_is_taken_over_and_down_runs_hooks_and_clears_all() {
    let stage = Stage::new(
        "terminationGracePeriodSeconds: 7
volumes: [{name: v, emptyDir: {}}]
initContainers: [{name: side, image: i:1, restartPolicy: Always}]
containers:
- name: app
  image: i:1
  volumeMounts: [{name: v, mountPath: /v}]
  lifecycle: {postStart: {exec: {command: [hello]}}, preStop: {exec: {command: [bye]}}}",
    );

    assert!(stage.up(true, CallOff::default()).await.unwrap());
    let first = stage.world.calls().len();
    assert!(stage.up(true, CallOff::default()).await.unwrap());
    assert_eq!(stage.world.calls().len(), first);
    let mounts = stage.world.config("app.0").mounts;
    let mut out = Vec::new();
    down(&stage.options, None, &mut out).await.unwrap();
    down(&stage.options, None, &mut out).await.unwrap();

    let targets: Vec<_> = mounts.iter().map(|m| m.container_path.as_str()).collect();
    assert_eq!(targets, ["/v", "/dev/termination-log", "/etc/hosts"]);
    assert_eq!(
        stage.world.calls().split_off(first),
        [
            "exec app.0 bye",
            "stop app.0 7",
            "stop side.0 7",
            "stop sandbox s0",
            "remove app.0",
            "remove side.0",
            "remove sandbox s0",
        ]
    );
    assert_eq!(stage.calls("exec"), ["app.0 hello", "app.0 bye"]);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "default/web: deleted\ndefault/web: was not there\n"
    );
    assert!(!stage.options.dirs.state.join("u1").exists());
}

#[tokio::test(start_paused = true)]
async fn a_failing_liveness_probe_stops_the_container_and_the_reason_is_shown() {
    let stage = Stage::new(
        "containers:
- name: app
  image: i:1
  livenessProbe: {exec: {command: [well]}, periodSeconds: 1, failureThreshold: 2}",
    );
    stage.world.state().commands.insert("well".into(), 1);

    stage.up_for(5).await;

    assert_eq!(stage.calls("start").first().unwrap(), "app.0");
    assert_eq!(stage.calls("stop app.0"), ["30"]);
    stage.tells(&["liveness probe failed: well ended with 1: said so"]);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_ended_is_made_anew() {
    let stage = Stage::new("containers: [{name: app, image: i:1}]");
    assert!(stage.up(true, CallOff::default()).await.unwrap());
    stage.world.state().sandboxes.get_mut("s0").unwrap().1 = false;

    assert!(stage.up(true, CallOff::default()).await.unwrap());

    assert_eq!(stage.calls("sandbox"), ["0", "1"]);
    assert_eq!(stage.calls("start"), ["app.0", "app.0"]);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_in_the_making_is_waited_for_when_the_pod_is_called_off() {
    let stage = Stage::new("containers: [{name: app, image: i:1}]");
    stage.world.state().slow_sandbox = Duration::from_secs(5);

    let well = stage.up_for(1).await;

    assert!(well);
    assert_eq!(
        stage.calls("").first().map(String::as_str),
        Some("sandbox 0")
    );
    assert_eq!(stage.calls("remove sandbox"), ["s0"]);
    assert_eq!(stage.calls("start"), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_elsewhere_ends_the_run() {
    let stage = Stage::new("containers: [{name: app, image: i:1}]");
    let elsewhere = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        down(&stage.options, None, &mut Vec::new()).await
    };

    let (well, deleted) = tokio::join!(stage.up(false, CallOff::default()), elsewhere);

    assert!(well.unwrap());
    deleted.unwrap();
    assert_eq!(stage.calls("sandbox"), ["0"]);
    assert_eq!(stage.calls("start"), ["app.0"]);
    stage.tells(&["deleted by somebody else"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_run_again_counts_on_and_keeps_the_logs_of_its_last_run() {
    let stage = Stage::new("restartPolicy: Never\ncontainers: [{name: app, image: i:1}]");
    stage.world.script("app", &[Act::End(0, 1)]);
    assert!(stage.up(false, CallOff::default()).await.unwrap());
    let logs = stage.options.dirs.logs.join("default_web_u1/app");
    std::fs::write(logs.join("0.log"), "").unwrap();

    assert!(stage.up(false, CallOff::default()).await.unwrap());

    assert_eq!(stage.calls("sandbox"), ["0", "1"]);
    assert_eq!(stage.calls("start"), ["app.0", "app.1"]);
}
