//! The tickets behind the URLs that Exec, Attach and PortForward answer: 256 random bits each, good once, for a minute,
//! on one path. They are all that protects the listener (threats §2.4), so nothing tells a wrong one from a used or an
//! expired one, and none is kept in the clear: the table knows digests only.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::model::{ContainerId, Error, Result, SandboxId};

/// How long a ticket is good for.
const LIFE: Duration = Duration::from_secs(60);
/// Tickets of one kind that may be out at once.
const LIMIT: usize = 1_000;
/// Random bytes of a token.
const BYTES: usize = 32;

/// Which streams a client asked for, and which it will therefore open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// A terminal instead of two outputs.
    pub tty: bool,
    /// The client sends input.
    pub stdin: bool,
    /// The client wants the output.
    pub stdout: bool,
    /// The client wants the errors.
    pub stderr: bool,
}

impl Asked {
    /// # Errors
    /// `InvalidArgument` for a terminal with a stderr of its own, and for no stream at all (contract B1).
    pub fn check(self) -> Result<Self> {
        if self.tty && self.stderr {
            return Err(Error::invalid(
                "tty and stderr exclude each other: a terminal has one output",
            ));
        }
        if !(self.stdin || self.stdout || self.stderr) {
            return Err(Error::invalid(
                "none of stdin, stdout and stderr is asked for; ask for at least one",
            ));
        }
        Ok(self)
    }
}

/// What a token stands for: the whole request, so that the URL carries nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ticket {
    /// A command in a container.
    Exec {
        container: ContainerId,
        command: Vec<String>,
        asked: Asked,
    },
    /// The container's own process.
    Attach {
        container: ContainerId,
        asked: Asked,
    },
    /// Ports of a pod; the list serves the WebSocket protocols that have no port of their own in the stream.
    PortForward { sandbox: SandboxId, ports: Vec<u16> },
}

/// The three kinds of tickets, each with a path of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Path {
    Exec,
    Attach,
    PortForward,
}

impl Path {
    /// The path's first segment.
    pub(super) fn segment(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
        }
    }

    /// The kind and the token of a request's path.
    pub(super) fn parse(path: &str) -> Option<(Self, &str)> {
        let (segment, token) = path.strip_prefix('/')?.split_once('/')?;
        let kind = [Self::Exec, Self::Attach, Self::PortForward]
            .into_iter()
            .find(|kind| kind.segment() == segment)?;
        Some((kind, token))
    }
}

impl Ticket {
    pub(super) fn path(&self) -> Path {
        match self {
            Self::Exec { .. } => Path::Exec,
            Self::Attach { .. } => Path::Attach,
            Self::PortForward { .. } => Path::PortForward,
        }
    }
}

type Key = [u8; 32];

struct Entry {
    ticket: Ticket,
    until: Instant,
}

/// All tickets that are out.
#[derive(Default)]
pub(super) struct Tokens {
    out: Mutex<HashMap<Key, Entry>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Tokens").field("out", &out.len()).finish()
    }
}

impl Tokens {
    /// Gives a token out for `ticket`. `is_there` says whether what a ticket is about still exists: where there are too
    /// many, those of objects that have gone do not count.
    ///
    /// # Errors
    /// `ResourceExhausted` while a thousand of the kind are out, `Internal` where the kernel gives no random bytes.
    pub(super) fn give(
        &self,
        ticket: Ticket,
        is_there: impl Fn(&Ticket) -> bool,
    ) -> Result<String> {
        let mut random = [0; BYTES];
        getrandom::fill(&mut random).map_err(|e| Error::internal("draw a token").caused_by(e))?;
        let token = URL_SAFE_NO_PAD.encode(random);
        let now = Instant::now();
        let path = ticket.path();
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.retain(|_, entry| entry.until > now);
        let count = |out: &HashMap<Key, Entry>| {
            let same = |entry: &&Entry| entry.ticket.path() == path;
            out.values().filter(same).count()
        };
        if count(&out) >= LIMIT {
            out.retain(|_, entry| is_there(&entry.ticket));
        }
        if count(&out) >= LIMIT {
            return Err(Error::exhausted(format!(
                "{LIMIT} {} requests wait for their clients; they expire after {LIFE:?}",
                path.segment()
            )));
        }
        let until = now + LIFE;
        out.insert(key(&token), Entry { ticket, until });
        Ok(token)
    }

    /// How many wait for their client.
    pub(super) fn waiting(&self) -> usize {
        let now = Instant::now();
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.values().filter(|entry| entry.until > now).count()
    }

    /// Takes what `token` stands for. It is good no more after that, also where it was shown on the wrong path.
    pub(super) fn take(&self, path: Path, token: &str) -> Option<Ticket> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = out.remove(&key(token))?;
        (entry.until > Instant::now() && entry.ticket.path() == path).then_some(entry.ticket)
    }
}

fn key(token: &str) -> Key {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach(id: &str) -> Ticket {
        Ticket::Attach {
            container: id.repeat(64).parse().unwrap(),
            asked: Asked {
                tty: false,
                stdin: false,
                stdout: true,
                stderr: true,
            },
        }
    }

    #[tokio::test]
    async fn a_token_is_good_once() {
        let tokens = Tokens::default();
        let token = tokens.give(attach("a"), |_| true).unwrap();
        assert_eq!(token.len(), 43);
        assert_eq!(tokens.take(Path::Attach, &token), Some(attach("a")));
        assert_eq!(tokens.take(Path::Attach, &token), None);
    }

    #[tokio::test]
    async fn the_wrong_path_burns_it() {
        let tokens = Tokens::default();
        let token = tokens.give(attach("a"), |_| true).unwrap();
        assert_eq!(tokens.take(Path::Exec, &token), None);
        assert_eq!(tokens.take(Path::Attach, &token), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_expires_after_a_minute() {
        let tokens = Tokens::default();
        let token = tokens.give(attach("a"), |_| true).unwrap();
        tokio::time::advance(LIFE).await;
        assert_eq!(tokens.take(Path::Attach, &token), None);
    }

    #[tokio::test]
    async fn a_thousand_may_be_out_and_those_of_what_is_gone_make_room() {
        let tokens = Tokens::default();
        for _ in 0..LIMIT {
            tokens.give(attach("a"), |_| true).unwrap();
        }
        let refused = tokens.give(attach("b"), |_| true).unwrap_err();
        assert_eq!(refused.kind(), crate::model::Kind::ResourceExhausted);
        let forward = Ticket::PortForward {
            sandbox: "c".repeat(64).parse().unwrap(),
            ports: Vec::new(),
        };
        tokens.give(forward, |_| true).unwrap();
        tokens
            .give(attach("b"), |ticket| *ticket != attach("a"))
            .unwrap();
    }

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!(Path::parse("/exec/abc"), Some((Path::Exec, "abc")));
        assert_eq!(Path::parse("/portforward/"), Some((Path::PortForward, "")));
        for wrong in [
            "",
            "/",
            "/exec",
            "exec/abc",
            "/Exec/abc",
            "//exec/abc",
            "/../exec/abc",
        ] {
            assert_eq!(Path::parse(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn guesses_find_nothing() {
        let tokens = Tokens::default();
        let token = tokens.give(attach("a"), |_| true).unwrap();
        for guess in 0..10_000 {
            assert_eq!(tokens.take(Path::Attach, &guess.to_string()), None);
        }
        assert_eq!(tokens.take(Path::Attach, &format!("{token}/")), None);
        assert!(tokens.take(Path::Attach, &token).is_some());
    }
}
