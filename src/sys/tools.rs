//! Programs of the node, such as the OCI runtimes and containerd: found, and asked a short question.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use super::program::PATH;
use super::spawn::as_stranger;
use crate::model::{Classify as _, Error, Kind, Result};

const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_CAP: u64 = 1 << 20;

/// The file behind `program`: itself where it is a path, else the first of that name in [`PATH`].
pub fn look_up_blocking(program: &Path) -> Option<PathBuf> {
    if program.is_absolute() {
        return program.is_file().then(|| program.to_owned());
    }
    PATH.split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}

/// What `program` prints when it is run with `arguments`: at most 1 MiB of standard output, within 5 seconds. Dropping
/// the future kills it.
///
/// # Errors
/// `FailedPrecondition` where it cannot be run or fails, `DeadlineExceeded` where it does not end.
pub async fn ask(program: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    ask_within(ANSWER_LIMIT, program, arguments).await
}

/// As [`ask`], within `limit`.
///
/// # Errors
/// As there.
pub async fn ask_within(limit: Duration, program: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let what = || format!("{} {}", program.display(), arguments.join(" "));
    let mut command = std::process::Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    as_stranger(&mut command);
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .classify(Kind::FailedPrecondition, what)?;
    let mut said = Vec::new();
    let listen = async {
        if let Some(out) = child.stdout.take() {
            out.take(ANSWER_CAP)
                .read_to_end(&mut said)
                .await
                .classify(Kind::Internal, what)?;
        }
        child.wait().await.classify(Kind::Internal, what)
    };
    let status = tokio::time::timeout(limit, listen)
        .await
        .unwrap_or_else(|_elapsed| Err(Error::timed_out(what(), limit)))?;
    if status.success() {
        Ok(said)
    } else {
        Err(Error::precondition(format!("{}: {status}", what())))
    }
}

/// The version in the first line of what `--version` prints, such as `1.1.5+ds1` in `runc version 1.1.5+ds1`.
pub async fn version(program: &Path) -> Result<String> {
    let said = ask(program, &["--version"]).await?;
    let text = String::from_utf8_lossy(&said);
    first_version(&text).ok_or_else(|| {
        Error::precondition(format!("{} --version: no version in it", program.display()))
    })
}

fn first_version(text: &str) -> Option<String> {
    text.lines()
        .next()?
        .split_ascii_whitespace()
        .find(|word| {
            word.trim_start_matches('v')
                .starts_with(|c: char| c.is_ascii_digit())
        })
        .map(|word| word.trim_start_matches('v').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_is_found_and_answers_or_says_why_not() {
        let echo = look_up_blocking(Path::new("echo")).unwrap();
        assert_eq!(ask(&echo, &["hello"]).await.unwrap(), b"hello\n");

        let failing = look_up_blocking(Path::new("false")).unwrap();
        assert_eq!(
            ask(&failing, &[]).await.unwrap_err().kind(),
            Kind::FailedPrecondition
        );
        assert_eq!(look_up_blocking(Path::new("no-such-program-here")), None);
    }

    #[test]
    fn versions_are_found_as_each_program_writes_them() {
        assert_eq!(
            first_version("runc version 1.1.5+ds1\ncommit: x").unwrap(),
            "1.1.5+ds1"
        );
        assert_eq!(first_version("crun version 1.8.1").unwrap(), "1.8.1");
        assert_eq!(
            first_version("containerd github.com/containerd/containerd v2.3.4 abc").unwrap(),
            "2.3.4"
        );
        assert_eq!(first_version("no digits"), None);
    }
}
