//! The one mapping of error kinds to gRPC codes. kubelet and crictl act on the code: NotFound of a stop counts as done,
//! Unavailable is tried again, Unknown has its text inspected.

use tonic::{Code, Status};

use crate::model::{Error, Kind};

/// Longest message of a status; gRPC carries it in a header.
const MESSAGE_BYTES: usize = 4096;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            Kind::InvalidArgument => Code::InvalidArgument,
            Kind::NotFound => Code::NotFound,
            Kind::AlreadyExists => Code::AlreadyExists,
            Kind::FailedPrecondition => Code::FailedPrecondition,
            Kind::Unavailable => Code::Unavailable,
            Kind::DeadlineExceeded => Code::DeadlineExceeded,
            Kind::Cancelled => Code::Cancelled,
            Kind::ResourceExhausted => Code::ResourceExhausted,
            Kind::Unimplemented => Code::Unimplemented,
            Kind::Unauthenticated => Code::Unauthenticated,
            Kind::PermissionDenied => Code::PermissionDenied,
            Kind::Aborted => Code::Aborted,
            Kind::Internal => Code::Internal,
            Kind::Unknown => Code::Unknown,
        };
        Self::new(code, printable(&error.chain()))
    }
}

/// Escapes what a tenant could have put into a message, and cuts it.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(MESSAGE_BYTES));
    for character in text.chars() {
        if shown.len() >= MESSAGE_BYTES {
            shown.push('…');
            break;
        }
        match character {
            '\n' | '\t' => shown.push(character),
            control if control.is_control() => shown.extend(control.escape_default()),
            plain => shown.push(plain),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_kinds_and_the_message_the_whole_chain() {
        let error = Error::not_found("no such task").context("stop container");

        let status = Status::from(error);

        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "stop container: no such task");
    }

    #[test]
    fn control_characters_are_shown_and_not_sent() {
        let status = Status::from(Error::invalid("name \u{1b}[2J"));

        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "name \\u{1b}[2J")
        );
    }
}
