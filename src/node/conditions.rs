//! The two conditions that kubelet acts on, as pure functions of what is known. A restart of containerd must not make
//! the node NotReady, so its absence counts only after a while; a start that is not done counts at once.

use std::time::Duration;

use tokio::time::Instant;

use crate::containerd::LinkState;
use crate::network::NetworkStatus;

/// A condition, with a reason for programs and a message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `RuntimeReady` or `NetworkReady`.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// One CamelCase word; empty while it holds.
    pub reason: &'static str,
    /// A sentence; empty while it holds.
    pub message: String,
}

impl Condition {
    fn holding(kind: &'static str) -> Self {
        Self {
            kind,
            holds: true,
            reason: "",
            message: String::new(),
        }
    }

    fn failing(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            holds: false,
            reason,
            message: message.into(),
        }
    }
}

const RUNTIME: &str = "RuntimeReady";
const NETWORK: &str = "NetworkReady";

/// Whether containers can be run. `trouble` is what makes the containerd behind us unusable although it answers.
pub fn runtime(
    link: &LinkState,
    recovered: bool,
    trouble: Option<&str>,
    unready_after: Duration,
    now: Instant,
) -> Condition {
    match link {
        LinkState::Down { since, reason }
            if !recovered || now.saturating_duration_since(*since) >= unready_after =>
        {
            let away = now.saturating_duration_since(*since).as_secs();
            let message = format!("containerd has not answered for {away} s: {reason}");
            Condition::failing(RUNTIME, "ContainerdUnavailable", message)
        }
        LinkState::Untried if !recovered => Condition::failing(
            RUNTIME,
            "ContainerdUnavailable",
            "containerd has not answered yet",
        ),
        _ => match trouble {
            Some(trouble) => Condition::failing(RUNTIME, "ContainerdUnusable", trouble),
            None if recovered => Condition::holding(RUNTIME),
            None => Condition::failing(
                RUNTIME,
                "Recovering",
                "the pods and containers of this node are being found again",
            ),
        },
    }
}

/// Whether pods can be attached to their network. Operators' alerts match the start of the message.
pub fn network(status: NetworkStatus) -> Condition {
    const START: &str = "Network plugin returns error: ";
    if status.ready {
        return Condition::holding(NETWORK);
    }
    let message = match status.message.strip_prefix(START) {
        Some(_) => status.message,
        None => format!("{START}{}", status.message),
    };
    Condition::failing(NETWORK, status.reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::ServerVersion;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn up() -> LinkState {
        LinkState::Up {
            version: ServerVersion::default(),
            pid: None,
            generation: 1,
        }
    }

    fn down(since: Instant) -> LinkState {
        LinkState::Down {
            since,
            reason: "connection refused".into(),
        }
    }

    #[test]
    fn a_short_absence_of_containerd_leaves_a_recovered_node_ready() {
        let start = Instant::now();
        let after = |seconds| {
            let now = start + Duration::from_secs(seconds);
            runtime(&down(start), true, None, PATIENCE, now)
        };

        assert!(after(29).holds);
        assert_eq!(after(30).reason, "ContainerdUnavailable");
    }

    #[test]
    fn a_node_that_is_not_recovered_says_what_it_waits_for() {
        let now = Instant::now();
        let reason = |link: &LinkState| runtime(link, false, None, PATIENCE, now).reason;

        assert_eq!(reason(&LinkState::Untried), "ContainerdUnavailable");
        assert_eq!(reason(&down(now)), "ContainerdUnavailable");
        assert_eq!(reason(&up()), "Recovering");
    }

    #[test]
    fn a_containerd_that_must_not_be_used_is_no_ready_runtime() {
        let condition = runtime(
            &up(),
            true,
            Some("CRI plugin active"),
            PATIENCE,
            Instant::now(),
        );

        assert_eq!(condition.reason, "ContainerdUnusable");
    }

    #[test]
    fn the_network_message_starts_as_alerts_expect_and_only_once() {
        let bare = network(NetworkStatus::not_ready("no network config".into()));
        let again = network(NetworkStatus::not_ready(bare.message.clone()));

        assert_eq!(
            bare.message,
            "Network plugin returns error: no network config"
        );
        assert_eq!(again.message, bare.message);
        assert!(network(NetworkStatus::ready()).holds);
    }
}
