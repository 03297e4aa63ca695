//! What went wrong at one registry host, ranked so that the most telling failure of several hosts is reported, and
//! worded so that no secret can be in it.

use reqwest::StatusCode;
use url::Url;

use super::health::Fault;
use crate::model::{Error, Kind};

/// How far a request got before it failed. A later rank tells more and beats an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// No HTTP answer, or authentication failed.
    Transport,
    /// The host does not have it.
    NotFound,
    /// The host answered with another error.
    Http,
    /// The answer was larger than allowed.
    TooLarge,
}

/// One host's failure.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) rank: Rank,
    pub(super) status: Option<StatusCode>,
    /// Sending the same again may help.
    pub(super) is_transient: bool,
    /// The host sent other bytes than those that were asked for.
    is_wrong_part: bool,
    /// What it says of the host's health, where it says anything.
    pub(super) fault: Option<Fault>,
    pub(super) error: Error,
}

impl Failure {
    /// No usable answer, for a reason that will not go away by itself.
    pub(super) fn transport(error: Error) -> Self {
        Self {
            rank: Rank::Transport,
            status: None,
            is_transient: false,
            is_wrong_part: false,
            fault: None,
            error,
        }
    }

    /// Not the bytes that were asked for.
    pub(super) fn wrong_part(error: Error) -> Self {
        Self {
            is_wrong_part: true,
            ..Self::transport(error)
        }
    }

    /// Whether it may come of asking for a part only.
    pub(super) fn is_about_ranges(&self) -> bool {
        let status = self.status.map(|status| status.as_u16());
        self.is_wrong_part || matches!(status, Some(400 | 405 | 406 | 411..=417 | 501))
    }

    /// The connection broke.
    pub(super) fn broken(error: Error) -> Self {
        Self {
            is_transient: true,
            fault: Some(Fault::Erring),
            ..Self::transport(error)
        }
    }

    /// No answer, or no further part of it, came in time.
    pub(super) fn stalled(error: Error) -> Self {
        Self {
            fault: Some(Fault::Stalling),
            ..Self::broken(error)
        }
    }

    /// A send or a read that failed.
    pub(super) fn sent(error: reqwest::Error, url: &Url) -> Self {
        let fault = if error.is_connect() {
            Fault::Unreachable
        } else if error.is_timeout() {
            Fault::Stalling
        } else {
            Fault::Erring
        };
        let error = send_error(error, url);
        // What was refused will be refused again at once.
        let is_refused = has_cause(&error, |cause| {
            cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        Self {
            is_transient: !is_refused,
            fault: Some(fault),
            ..Self::transport(error)
        }
    }

    /// The same failure, met where the host had sent us: it says less of the host itself.
    pub(super) fn elsewhere(mut self) -> Self {
        self.fault = self.fault.map(|_elsewhere| Fault::Erring);
        self
    }

    /// The failure in few words, without any URL: who reads them may be another than who asked.
    pub(super) fn in_short(&self) -> String {
        let what = match (self.fault, self.status) {
            (_, Some(status)) => return format!("answers {status}"),
            (Some(Fault::Unreachable), None) => "cannot connect",
            (Some(Fault::Stalling), None) => "keeps us waiting",
            (Some(Fault::Erring) | None, None) => "the connection failed",
        };
        match root(&self.error) {
            Some(root) => format!("{what}: {}", cut(&root, 120)),
            None => what.to_owned(),
        }
    }

    /// A body that is not of the coding that its headers announce.
    pub(super) fn undecodable(error: std::io::Error, url: &Url) -> Self {
        let what = format!("{}: the body is not encoded as it says", shown(url));
        Self::transport(Error::new(Kind::Unknown, what).caused_by(error))
    }

    pub(super) fn too_large(error: Error) -> Self {
        Self {
            rank: Rank::TooLarge,
            ..Self::transport(error)
        }
    }

    /// An HTTP error status; `codes` are the registry's own error codes, already cleaned.
    pub(super) fn http(status: StatusCode, url: &Url, codes: &str) -> Self {
        let (rank, kind) = match status.as_u16() {
            404 => (Rank::NotFound, Kind::NotFound),
            401 => (Rank::Transport, Kind::Unauthenticated),
            403 => (Rank::Http, Kind::PermissionDenied),
            408 | 429 | 500..=599 => (Rank::Http, Kind::Unavailable),
            _ => (Rank::Http, Kind::Unknown),
        };
        let codes = if codes.is_empty() {
            String::new()
        } else {
            format!(" ({codes})")
        };
        let remedy = match status.as_u16() {
            401 | 403 => "; check that the credentials are right and allow this repository",
            404 => "; check the name and the tag",
            _ => "",
        };
        let error = Error::new(kind, format!("{}: {status}{codes}{remedy}", shown(url)));
        Self {
            rank,
            status: Some(status),
            is_transient: false,
            is_wrong_part: false,
            fault: status.is_server_error().then_some(Fault::Erring),
            error,
        }
    }
}

/// Keeps the first failure of the highest rank.
#[derive(Debug, Default)]
pub(super) struct Worst {
    held: Option<Failure>,
    has_others: bool,
}

impl Worst {
    pub(super) fn note(&mut self, failure: Failure) {
        self.has_others |= failure.rank != Rank::NotFound;
        if self
            .held
            .as_ref()
            .is_none_or(|held| held.rank < failure.rank)
        {
            self.held = Some(failure);
        }
    }

    /// Every host that was asked answered that it does not have it.
    pub(super) fn all_not_found(&self) -> bool {
        self.held.is_some() && !self.has_others
    }

    /// The error to report; `none` words the case that no host was asked.
    pub(super) fn into_error(self, none: impl FnOnce() -> Error) -> Error {
        self.held.map_or_else(none, |held| held.error)
    }
}

/// Whether an error or one of the causes below it is wanted.
pub(super) fn has_cause(
    error: &(dyn std::error::Error + 'static),
    wanted: impl Fn(&(dyn std::error::Error + 'static)) -> bool,
) -> bool {
    causes(error).any(wanted)
}

/// An error and each cause below it.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |cause| {
        // An io error's `source` skips the error it wraps.
        match cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        }
    })
}

/// What the system or TLS said in the end. Neither knows of URLs.
fn root(error: &Error) -> Option<String> {
    let known = |cause: &&(dyn std::error::Error + 'static)| {
        cause.is::<std::io::Error>() || cause.is::<rustls::Error>()
    };
    causes(error).filter(known).last().map(ToString::to_string)
}

/// A URL as messages may show it: without user, password, query and fragment, which may be secrets.
pub(super) fn shown(url: &Url) -> String {
    let mut clean = url.clone();
    clean.set_query(None);
    clean.set_fragment(None);
    // Both fail only for URLs that cannot have a user to begin with.
    let stripped = clean.set_username("").and(clean.set_password(None)).is_ok();
    if stripped || (url.username().is_empty() && url.password().is_none()) {
        cut(clean.as_str(), 300)
    } else {
        "(URL hidden)".to_owned()
    }
}

/// At most `max` characters of `text`, everything unprintable escaped.
pub(super) fn cut(text: &str, max: usize) -> String {
    let mut out: String = text
        .chars()
        .take(max)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(max).is_some() {
        out.push('…');
    }
    out
}

/// A failed send as an [`Error`] that names the host but never the URL's query.
pub(super) fn send_error(error: reqwest::Error, url: &Url) -> Error {
    let kind = if error.is_timeout()
        || error.is_connect()
        || error.is_request()
        || error.is_body()
        || error.is_decode()
    {
        Kind::Unavailable
    } else {
        Kind::Unknown
    };
    let step = if error.is_connect() {
        "cannot connect; check name resolution, network, proxy and certificates"
    } else if error.is_timeout() {
        "no answer in time"
    } else {
        "the connection failed"
    };
    Error::new(kind, format!("{}: {step}", shown(url))).caused_by(error.without_url())
}

/// The registry's error codes in a JSON error body, e.g. `MANIFEST_UNKNOWN`. Free text is left out: it may be a page
/// of another service, or echo what we sent.
pub(super) fn error_codes(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return String::new();
    };
    let mut codes: Vec<String> = body
        .errors
        .into_iter()
        .map(|entry| entry.code)
        .filter(|code| {
            !code.is_empty()
                && code.len() <= 40
                && code
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        })
        .take(4)
        .collect();
    codes.dedup();
    codes.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_holds_no_secret() {
        let url = Url::parse("https://u:S3cret@host:5000/v2/a?sig=S3cret#S3cret").unwrap();

        assert_eq!(shown(&url), "https://host:5000/v2/a");
    }

    #[test]
    fn the_first_failure_of_the_highest_rank_is_reported() {
        let url = Url::parse("https://h/").unwrap();
        let mut worst = Worst::default();
        worst.note(Failure::transport(Error::unavailable("first")));
        worst.note(Failure::http(StatusCode::NOT_FOUND, &url, ""));
        worst.note(Failure::http(StatusCode::BAD_GATEWAY, &url, ""));
        worst.note(Failure::http(StatusCode::FORBIDDEN, &url, ""));
        worst.note(Failure::transport(Error::unavailable("last")));

        let error = worst.into_error(|| Error::internal("none"));

        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.chain().contains("502"), "{error}");
    }

    #[test]
    fn only_plain_codes_leave_an_error_body() {
        let body = br#"{"errors":[{"code":"DENIED","message":"S3cret"},{"code":"<b>"},{}]}"#;

        assert_eq!(error_codes(body), "DENIED");
        assert_eq!(error_codes(b"<html>metadata</html>"), "");
    }

    #[test]
    fn cut_text_is_escaped() {
        assert_eq!(cut("a\u{1b}b", 9), "a\\u{1b}b");
        assert_eq!(cut("abcdef", 3), "abc…");
    }
}
