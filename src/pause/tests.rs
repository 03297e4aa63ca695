use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// What the build made. Run from there, since a file that a test writes may be busy in another test's fork.
const BUILT: &str = concat!(env!("OUT_DIR"), "/pause");

/// Polls until `probe` finds something; anything here takes milliseconds.
fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::yield_now();
    }
}

/// The program has blocked its signals, so from now on none is lost and none kills it unasked.
fn wait_until_ready(pid: u32) {
    wait_for("pause blocks its signals", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let blocked = status.lines().find_map(|l| l.strip_prefix("SigBlk:"))?;
        (blocked.trim() != "0000000000000000").then_some(())
    });
}

fn children(pid: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

fn send(signal: &str, pid: u32) {
    let sent = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// Ends with the test, however that ends.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn exit_code(&mut self) -> Option<i32> {
        wait_for("exit", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn what_is_embedded_is_what_was_built_and_small() {
    assert_eq!(super::program(), fs::read(BUILT).unwrap());
    assert!(super::program().starts_with(b"\x7fELF"));
    assert!(
        super::program().len() < 4096,
        "{} bytes",
        super::program().len()
    );
    assert_eq!(super::content_digest().algorithm(), "sha256");
}

#[rstest::rstest]
fn the_stop_signals_end_it_at_once_with_zero(#[values("-TERM", "-INT")] signal: &str) {
    let mut pause = Running::start(&mut Command::new(BUILT));
    wait_until_ready(pause.0.id());

    send(signal, pause.0.id());

    assert_eq!(pause.exit_code(), Some(0));
}

#[test]
fn other_signals_do_not_end_it() {
    let mut pause = Running::start(&mut Command::new(BUILT));
    wait_until_ready(pause.0.id());

    for signal in ["-HUP", "-USR1", "-PIPE", "-CHLD", "-QUIT"] {
        send(signal, pause.0.id());
    }

    assert!(pause.0.try_wait().unwrap().is_none());
    send("-TERM", pause.0.id());
    assert_eq!(pause.exit_code(), Some(0));
}

#[test]
fn as_pid_1_it_reaps_what_is_left_to_it() {
    let is_root = fs::metadata("/proc/self").is_ok_and(|proc| {
        use std::os::unix::fs::MetadataExt as _;
        proc.uid() == 0
    });
    if !is_root {
        eprintln!("SKIPPED: making a PID namespace needs root");
        return;
    }
    let mut namespace =
        Running::start(Command::new("unshare").args(["--pid", "--fork", "--kill-child", BUILT]));
    let pause = wait_for("pause as PID 1", || {
        children(namespace.0.id()).first().copied()
    });
    wait_until_ready(pause);

    // A shell inside the namespace leaves a child behind, which the kernel gives to PID 1.
    let left = Command::new("nsenter")
        .args([
            "-t",
            &pause.to_string(),
            "-p",
            "sh",
            "-c",
            "sleep 1000 >&- 2>&- <&- &",
        ])
        .status()
        .unwrap();
    assert!(left.success());
    let orphan = wait_for("orphan at PID 1", || children(pause).first().copied());
    send("-KILL", orphan);

    wait_for("orphan reaped", || children(pause).is_empty().then_some(()));
    send("-TERM", pause);
    assert_eq!(namespace.exit_code(), Some(0));
}
