//! Why a call of a plugin failed: what the plugin said is told apart from what went wrong around it, since only the
//! plugin's own words may make a DEL count as done.

use std::process::ExitStatus;

use serde::Deserialize;

use super::result::excerpt;
use crate::model::{Error, Kind};

/// Longest text of a plugin that goes into a message.
const TEXT_MAX: usize = 1024;
/// The interface's code for "try again later".
const TRY_AGAIN: u64 = 11;

/// A failed call.
#[derive(Debug)]
pub(super) enum Failure {
    /// The plugin ran and reported this.
    Reported { code: Option<u64>, text: String },
    /// It did not get to report anything.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    /// What a plugin that ended with `status` reported.
    pub(super) fn reported(status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Report {
            code: Option<u64>,
            #[serde(default)]
            msg: String,
            #[serde(default)]
            details: String,
        }
        let said = String::from_utf8_lossy(stdout);
        if said.trim().is_empty() {
            let complaint = String::from_utf8_lossy(stderr);
            let text = match complaint.trim() {
                "" => format!("it ended with {status} and said nothing"),
                complaint => complaint.to_owned(),
            };
            return Self::Reported { code: None, text };
        }
        match serde_json::from_str::<Report>(&said) {
            Ok(report) => Self::Reported {
                code: report.code,
                text: match report.details.as_str() {
                    "" => report.msg,
                    details => format!("{}; {details}", report.msg),
                },
            },
            Err(_not_json) => Self::Reported {
                code: None,
                text: format!("it ended with {status} and wrote {}", excerpt(stdout)),
            },
        }
    }

    /// Whether a DEL that failed so is done nevertheless: the plugin knows nothing (any more) of what it should undo.
    pub(super) fn means_gone(&self, netns_closed: bool) -> bool {
        match self {
            Self::Reported { text, .. } => {
                text.contains("not found")
                    || (netns_closed && text.contains("no such file or directory"))
            }
            Self::Other(_) => false,
        }
    }

    /// What went wrong, without saying with what.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Reported { text, .. } => printable(text),
            Self::Other(error) => error.chain(),
        }
    }

    /// The failure as an error about `what`.
    pub(super) fn into_error(self, what: String) -> Error {
        match self {
            Self::Reported { code, text } => {
                let kind = match code {
                    Some(TRY_AGAIN) => Kind::Unavailable,
                    _ => Kind::Internal,
                };
                Error::new(kind, format!("{what}: {}", printable(&text)))
            }
            Self::Other(error) => error.context(what),
        }
    }
}

fn printable(text: &str) -> String {
    let mut short: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut end = TEXT_MAX.min(short.len());
    while !short.is_char_boundary(end) {
        end -= 1;
    }
    short.truncate(end);
    short
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use rstest::rstest;

    use super::*;

    fn failure(stdout: &str, stderr: &str) -> Failure {
        Failure::reported(
            ExitStatus::from_raw(3 << 8),
            stdout.as_bytes(),
            stderr.as_bytes(),
        )
    }

    #[rstest]
    #[case(
        r#"{"code":7,"msg":"bad","details":"more"}"#,
        "noise",
        "net: bad; more"
    )]
    #[case(r#"{"code":7,"msg":"bad"}"#, "", "net: bad")]
    #[case("", "  broken\n", "net: broken")]
    #[case("\n", "", "net: it ended with exit status: 3 and said nothing")]
    #[case("oops", "", "net: it ended with exit status: 3 and wrote \"oops\"")]
    #[case(r#"{"msg":"two\nlines\u001b[31m"}"#, "", "net: two lines [31m")]
    fn the_best_words_available_are_used(
        #[case] stdout: &str,
        #[case] stderr: &str,
        #[case] want: &str,
    ) {
        let error = failure(stdout, stderr).into_error("net".into());
        assert_eq!(
            (error.chain().as_str(), error.kind()),
            (want, Kind::Internal)
        );
    }

    #[test]
    fn try_again_later_is_unavailable() {
        let error = failure(r#"{"code":11,"msg":"busy"}"#, "").into_error("net".into());
        assert_eq!(error.kind(), Kind::Unavailable);
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        let long = format!(r#"{{"msg":"a{}"}}"#, "ü".repeat(5000));
        let text = failure(&long, "").into_error("net".into()).chain();
        assert!(text.len() <= TEXT_MAX + 5);
    }

    #[test]
    fn only_the_plugin_itself_can_say_that_nothing_is_left() {
        let said = |text: &str| failure(&format!(r#"{{"msg":"{text}"}}"#), "");
        assert!(said("netns: not found").means_gone(false));
        assert!(said("open /run/x: no such file or directory").means_gone(true));
        assert!(!said("open /run/x: no such file or directory").means_gone(false));
        assert!(!said("address in use").means_gone(true));
        let ours = Failure::from(Error::internal("binary not found"));
        assert!(!ours.means_gone(true));
    }
}
