//! How the end of a remote command is told on its error stream (contract B7).

use bytes::Bytes;
use serde_json::json;

use super::protocol::Version;

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The command ended with 0, or what was attached to ended.
    Success,
    /// The command ended with another code.
    Code { code: i32, text: String },
    /// It could not be run, or could not go on.
    Failed(String),
}

impl Ending {
    /// The bytes for the error stream; none where that says it. An object, once, with nothing after it.
    pub(super) fn encode(&self, version: Version) -> Bytes {
        if !version.has_status() {
            return match self {
                Self::Success => Bytes::new(),
                Self::Code { text, .. } | Self::Failed(text) => text.clone().into(),
            };
        }
        let status = match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Code { code, text } => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("command terminated with non-zero exit code: {text}"),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": exit_code(*code).to_string()}]},
            }),
            Self::Failed(text) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {text}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": text}]},
                "code": 500,
            }),
        };
        status.to_string().into()
    }
}

/// Clients read eight bits and take anything else for a broken protocol.
fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn json(ending: &Ending) -> Value {
        serde_json::from_slice(&ending.encode(Version::V4)).unwrap()
    }

    #[test]
    fn success_is_told_from_the_fourth_version_on() {
        assert_eq!(json(&Ending::Success)["status"], "Success");
        assert!(Ending::Success.encode(Version::V3).is_empty());
    }

    #[test]
    fn an_exit_code_is_a_cause_of_eight_bits() {
        for (code, told) in [
            (3, "3"),
            (137, "137"),
            (255, "255"),
            (-1, "255"),
            (256, "255"),
        ] {
            let ending = Ending::Code {
                code,
                text: "it ended".into(),
            };
            let status = json(&ending);
            assert_eq!(status["reason"], "NonZeroExitCode");
            assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
            assert_eq!(status["details"]["causes"][0]["message"], told);
            assert_eq!(status.get("code"), None);
            assert_eq!(ending.encode(Version::V2), "it ended");
        }
    }

    #[test]
    fn a_failure_is_an_internal_error_with_its_text() {
        let ending = Ending::Failed("error attaching to container: gone".into());
        assert_eq!(
            json(&ending)["message"],
            "Internal error occurred: error attaching to container: gone"
        );
        assert_eq!(json(&ending)["code"], 500);
        assert_eq!(
            ending.encode(Version::V1),
            "error attaching to container: gone"
        );
    }
}
