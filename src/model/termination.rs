//! How a container ended, as the CRI tells it.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// How a container ended (behaviour §4.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Termination {
    /// Exit code; 128 + n after signal n, 128 where the start failed, 255 where we lost track.
    pub code: i32,
    /// When.
    pub at: Timestamp,
    /// Reason that was recorded; empty: `Completed` for code 0, else `Error`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Message for people; only where the start failed, or where the node's settings ask for more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What was found out about it, for people who ask for more than the contract lets a message say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub diagnosis: String,
}

impl Termination {
    /// A process that ended with `code`.
    pub fn exited(code: i32, at: Timestamp) -> Self {
        Self {
            code,
            at,
            reason: String::new(),
            message: String::new(),
            diagnosis: String::new(),
        }
    }

    /// A start that failed, told to people by `message`.
    pub fn start_failed(message: impl Into<String>, at: Timestamp) -> Self {
        Self {
            code: 128,
            at,
            reason: "StartError".into(),
            message: message.into(),
            diagnosis: String::new(),
        }
    }

    /// A process whose end nobody saw.
    pub fn lost(at: Timestamp) -> Self {
        Self {
            code: 255,
            at,
            reason: "Unknown".into(),
            message: String::new(),
            diagnosis: String::new(),
        }
    }

    /// The CRI's word for why it ended.
    pub fn reason(&self, oom_killed: bool) -> &str {
        match (self.reason.as_str(), self.code) {
            ("", _) if oom_killed => "OOMKilled",
            ("", 0) => "Completed",
            ("", _) => "Error",
            (recorded, _) => recorded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_reason_wins_and_the_code_decides_otherwise() {
        let at = Timestamp(1);
        assert_eq!(Termination::exited(0, at).reason(false), "Completed");
        assert_eq!(Termination::exited(3, at).reason(false), "Error");
        assert_eq!(Termination::exited(137, at).reason(true), "OOMKilled");
        assert_eq!(Termination::lost(at).reason(true), "Unknown");
        assert_eq!(
            Termination::start_failed("no", at).reason(false),
            "StartError"
        );
    }
}
