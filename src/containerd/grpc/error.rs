//! gRPC statuses as our errors: kind for kind, the server's message kept.

use std::error::Error as _;
use std::path::Path;

use tonic::{Code, Status};

use crate::model::{Error, Kind};

/// Whether `status` was made on this side because the connection failed, not sent by containerd.
pub(super) fn is_connection(status: &Status) -> bool {
    status.source().is_some() || status.message().starts_with("Service was not ready")
}

/// `status` as the failure of `step`. `address` is named where the connection is what failed.
pub(super) fn from_status(step: String, address: &Path, status: &Status) -> Error {
    if is_connection(status) {
        return Error::unavailable(format!(
            "{step}: no answer from containerd at {}: {}: check that it runs and that this is its socket",
            address.display(),
            root_cause(status)
        ));
    }
    Error::new(kind(status.code()), format!("{step}: {}", status.message()))
}

/// The innermost cause: "Connection refused" says more than "transport error".
fn root_cause(status: &Status) -> String {
    let mut cause = status.source();
    while let Some(below) = cause.and_then(std::error::Error::source) {
        cause = Some(below);
    }
    cause.map_or_else(|| status.message().to_owned(), ToString::to_string)
}

fn kind(code: Code) -> Kind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Kind::InvalidArgument,
        Code::NotFound => Kind::NotFound,
        Code::AlreadyExists => Kind::AlreadyExists,
        Code::FailedPrecondition => Kind::FailedPrecondition,
        Code::Unavailable => Kind::Unavailable,
        Code::DeadlineExceeded => Kind::DeadlineExceeded,
        Code::Cancelled => Kind::Cancelled,
        Code::ResourceExhausted => Kind::ResourceExhausted,
        Code::Unimplemented => Kind::Unimplemented,
        Code::Unauthenticated => Kind::Unauthenticated,
        Code::PermissionDenied => Kind::PermissionDenied,
        Code::Aborted => Kind::Aborted,
        Code::Unknown => Kind::Unknown,
        Code::Ok | Code::Internal | Code::DataLoss => Kind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_the_server_keeps_kind_and_message() {
        let status = Status::not_found("container \"a\": not found");

        let error = from_status("get container a".into(), Path::new("/run/c.sock"), &status);

        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.chain(), "get container a: container \"a\": not found");
    }

    #[test]
    fn a_broken_connection_is_unavailable_and_names_the_socket() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(refused));

        let error = from_status("get container a".into(), Path::new("/run/c.sock"), &status);

        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.chain().contains("/run/c.sock"));
    }
}
