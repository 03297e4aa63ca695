//! From the test runner into a node: `spawn` (runner) -> `enter` (makes namespaces) -> `init` (process 1) -> the case.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};

use super::{CASE, HOME, ROLE, layout, patient};
use crate::case::{self, Case, Outcome};

/// How much of each log a failure shows.
const TAIL_LINES: usize = 40;

/// Runs `case` on a node of its own and waits for its end. What it printed comes back only with a failure.
pub(crate) fn spawn(case: &Case) -> Outcome {
    let home = tempfile::Builder::new().prefix("podwright-it-").tempdir()?;
    let output = fs::File::create(home.path().join("case.log"))?;
    let mut child = role("enter")?
        .env("PATH", path_of(case)?)
        .env(CASE, case.name)
        .env(HOME, home.path())
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()?;
    let ended = wait_within(&mut child, patient(case.deadline))?;
    let cgroups = layout::remove_cgroups(&layout::cgroup_parent(home.path()));
    let failure = match ended {
        Some(true) => match cgroups {
            Ok(()) => return Ok(()),
            Err(e) => format!("cgroups left behind: {e}"),
        },
        Some(false) => String::from("the case failed"),
        None => format!("the case did not end within {:?}", case.deadline),
    };
    let mut report = failure;
    for log in ["case.log", "podwright.log", "containerd.log"] {
        report.push_str(&tail(home.path(), log));
    }
    if std::env::var_os("PODWRIGHT_IT_KEEP").is_some() {
        report.push_str(&format!("\nkept: {}", home.keep().display()));
    }
    Err(report.into())
}

/// Where the node's programs are looked for.
fn path_of(case: &Case) -> Outcome<OsString> {
    let usual = std::env::var_os("PATH").unwrap_or_default();
    if !case.newest {
        return Ok(usual);
    }
    let newest = case::newest()?.into_iter();
    Ok(std::env::join_paths(
        newest.chain(std::env::split_paths(&usual)),
    )?)
}

fn role(name: &str) -> Outcome<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(ROLE, name);
    Ok(command)
}

/// `Some(success)`, or `None` where the time ran out and the child was killed, and with it its whole node.
fn wait_within(child: &mut Child, limit: Duration) -> Outcome<Option<bool>> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let (ended, watch) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = watch.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
        late && kill(pid, Signal::SIGKILL).is_ok()
    });
    let status = child.wait()?;
    drop(ended);
    let was_late = watchdog.join().unwrap_or(false);
    Ok((!was_late).then(|| status.success()))
}

fn tail(home: &Path, log: &str) -> String {
    let text = fs::read(home.join(log)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    let shown = lines.get(from..).unwrap_or_default().join("\n    ");
    format!("\n  {log}:\n    {shown}")
}

/// Makes the namespaces and starts process 1 in them. When this process dies, they die.
pub(crate) fn enter() -> Outcome<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )?;
    let status = role("init")?.status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Process 1 of the node: sets it up, runs the case, reaps orphans, and reports who outlived the case.
pub(crate) fn init() -> Outcome<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let home = PathBuf::from(std::env::var(HOME)?);
    mounts(&home)?;
    sethostname("node")?;
    run("ip", &["link", "set", "lo", "up"])?;
    let case = role("case")?.spawn()?;
    let case = Pid::from_raw(i32::try_from(case.id())?);
    let succeeded = loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == case => break code == 0,
            Ok(WaitStatus::Signaled(pid, ..)) if pid == case => break false,
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    if !succeeded {
        return Ok(ExitCode::FAILURE);
    }
    let outlived = processes()?;
    if outlived.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!("processes outlived the case: {}", outlived.join(", ")).into())
}

fn mounts(home: &Path) -> Outcome {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), NONE)?;
    for folder in ["/run", "/var/lib/cni", "/etc/cni"] {
        fs::create_dir_all(folder)?;
        mount(
            Some("tmpfs"),
            folder,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=755"),
        )?;
    }
    // crun refuses a hybrid hierarchy; where the machine has none, there is nothing to take away. It makes folders
    // there all the same, and the tmpfs keeps them on the node.
    let unified = "/sys/fs/cgroup/unified";
    if Path::new(unified).exists() {
        umount2(unified, MntFlags::MNT_DETACH)?;
        mount(
            Some("tmpfs"),
            unified,
            Some("tmpfs"),
            MsFlags::empty(),
            NONE,
        )?;
    }
    // A boot id of the node's own, so that a case can reboot it.
    let boot = home.join("boot_id");
    fs::copy("/proc/sys/kernel/random/boot_id", &boot)?;
    mount(
        Some(&boot),
        "/proc/sys/kernel/random/boot_id",
        NONE,
        MsFlags::MS_BIND,
        NONE,
    )?;
    // Only where a whole one is seen may root of another user namespace mount /proc, and the boot id hides a part.
    let whole = home.join("proc");
    fs::create_dir_all(&whole)?;
    let flags = MsFlags::empty();
    Ok(mount(Some("proc"), &whole, Some("proc"), flags, NONE)?)
}

/// Command lines of all processes of the node but process 1.
fn processes() -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let is_other = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse::<u32>().ok())
            .is_some_and(|pid| pid > 1);
        // A process without a command line is a kernel's or a zombie that nobody waits for any more.
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        if is_other && !line.is_empty() {
            found.push(
                String::from_utf8_lossy(&line)
                    .replace('\0', " ")
                    .trim()
                    .to_owned(),
            );
        }
    }
    Ok(found)
}

/// Runs a program to its end; its failure is an error with its own words.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Outcome<String> {
    let path = crate::case::find_program(program).ok_or_else(|| format!("no {program} here"))?;
    let output = Command::new(path).args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{program} {arguments:?}: {complaint}").into())
}
