//! AppArmor on this node: whether it can be used, which profiles are loaded, and loading one.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::errno::SysContext;
use super::files::read_capped_blocking;
use super::spawn::as_stranger;
use crate::model::host_facts::ApparmorFacts;
use crate::model::{Error, Pid, Result};

const KERNEL_DIR: &str = "/sys/kernel/security/apparmor";
const PARSER: &str = "/sbin/apparmor_parser";
const CONFIG_DIR: &str = "/etc/apparmor.d";
const MAX_LIST_BYTES: u64 = 4 << 20;
const MAX_OUTPUT_BYTES: u64 = 64 << 10;
const LOAD_LIMIT: Duration = Duration::from_secs(60);

/// Whether profiles can be given to containers: the kernel has AppArmor switched on, the parser is installed, and we are
/// in no container ourselves.
pub fn is_usable_blocking() -> bool {
    Path::new(KERNEL_DIR).exists()
        && std::env::var_os("container").is_none_or(|value| value.is_empty())
        && Path::new(PARSER).exists()
        && std::fs::read("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|answer| answer.first() == Some(&b'Y'))
}

/// The kernel's list of loaded profiles, `name (mode)` lines; empty without AppArmor.
///
/// # Errors
/// Where the list is there and cannot be read.
pub fn loaded_blocking() -> Result<String> {
    match read_capped_blocking(&Path::new(KERNEL_DIR).join("profiles"), MAX_LIST_BYTES) {
        Ok(list) => Ok(String::from_utf8_lossy(&list).into_owned()),
        Err(error) if error.is_not_found() => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// What the built-in profile's text depends on. `containerd` is the process whose signals containers must take.
pub fn facts_blocking(containerd: Pid) -> ApparmorFacts {
    let in_config = |path: &str| Path::new(CONFIG_DIR).join(path).exists();
    let label = Path::new("/proc")
        .join(containerd.to_string())
        .join("attr/current");
    let label = read_capped_blocking(&label, 4096).unwrap_or_default();
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let rootlesskit = std::env::split_paths(&search_path)
        .map(|dir| dir.join("rootlesskit"))
        .find(|program| program.is_absolute() && program.is_file());
    ApparmorFacts {
        has_abi_3: in_config("abi/3.0"),
        has_tunables: in_config("tunables/global"),
        has_base: in_config("abstractions/base"),
        containerd_profile: first_word(&String::from_utf8_lossy(&label)),
        rootlesskit: rootlesskit.map(|program| program.to_string_lossy().into_owned()),
    }
}

fn first_word(label: &str) -> String {
    let label = label.trim_end_matches(['\0', '\n']);
    label
        .split_ascii_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Loads the profiles of `text`, replacing those of the same names. Dropping the future kills the parser.
///
/// # Errors
/// `DeadlineExceeded` after a minute; `Internal` with the parser's own words where it refuses.
pub async fn load(text: &str) -> Result<()> {
    load_with(PARSER, text, LOAD_LIMIT).await
}

async fn load_with(parser: &str, text: &str, limit: Duration) -> Result<()> {
    let mut command = std::process::Command::new(parser);
    command
        .arg("-Kr")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    as_stranger(&mut command);
    let what = || format!("load AppArmor profile with {parser}");
    let mut child = Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .sys(what)?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let feed = async move {
        match stdin {
            // A parser that ends early says why on its standard error.
            Some(mut stdin) => stdin.write_all(text.as_bytes()).await.is_ok(),
            None => false,
        }
    };
    let complain = async move {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            stderr.take(MAX_OUTPUT_BYTES).read_to_end(&mut said).await?;
        }
        Ok::<_, std::io::Error>(said)
    };
    let run = async { tokio::join!(feed, complain, child.wait()) };
    let (_fed, said, ended) = tokio::time::timeout(limit, run)
        .await
        .map_err(|_elapsed| Error::timed_out(what(), limit))?;
    let ended = ended.sys(what)?;
    if ended.success() {
        return Ok(());
    }
    let said = said.unwrap_or_default();
    let said: String = String::from_utf8_lossy(&said).chars().take(1024).collect();
    Err(Error::internal(format!(
        "{}: {ended}: {:?}",
        what(),
        said.trim()
    )))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::model::Kind;

    fn script(body: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let (text, path) = (dir.path().join("text"), dir.path().join("parser"));
        std::fs::write(&text, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&text, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Copied by another process: a fork of a test beside this one could hold our descriptor, and the file be busy.
        let copied = std::process::Command::new("/bin/cp")
            .args([&text, &path])
            .status();
        assert!(copied.unwrap().success());
        let path = path.to_string_lossy().into_owned();
        (dir, path)
    }

    #[tokio::test]
    async fn the_parser_gets_the_text_and_its_complaint_comes_back() {
        let (_dir, good) = script(r#"test "$1" = -Kr && test "$(/bin/cat)" = profile"#);
        let (_dir2, bad) = script("echo no good >&2; exit 3");

        load_with(&good, "profile\n", LOAD_LIMIT).await.unwrap();
        let error = load_with(&bad, "profile\n", LOAD_LIMIT).await.unwrap_err();

        assert_eq!(error.kind(), Kind::Internal);
        assert!(error.chain().contains("no good"), "{error}");
    }

    #[tokio::test]
    async fn a_hanging_parser_meets_its_deadline_and_a_missing_one_says_so() {
        let (_dir, hanging) = script("exec /bin/sleep 1000");

        let late = load_with(&hanging, "x", Duration::from_millis(50)).await;
        let missing = load_with("/nonexistent/parser", "x", LOAD_LIMIT).await;

        assert_eq!(late.unwrap_err().kind(), Kind::DeadlineExceeded);
        assert_eq!(missing.unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_label_is_its_first_word() {
        assert_eq!(
            first_word("/usr/bin/containerd (enforce)\n"),
            "/usr/bin/containerd"
        );
        assert_eq!(first_word("unconfined\n\0"), "unconfined");
        assert_eq!(first_word(""), "");
    }
}
