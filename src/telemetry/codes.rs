//! What gRPC's codes are called: in metrics as gRPC's own metrics call them, in traces as its specification spells them.

use tonic::Code;

/// A code as metrics name it.
pub const fn label(code: Code) -> &'static str {
    names(code).0
}

/// A code as the specification spells it.
pub(super) const fn spelling(code: Code) -> &'static str {
    names(code).1
}

const fn names(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::Ok => ("OK", "OK"),
        Code::Cancelled => ("Cancelled", "CANCELLED"),
        Code::Unknown => ("Unknown", "UNKNOWN"),
        Code::InvalidArgument => ("InvalidArgument", "INVALID_ARGUMENT"),
        Code::DeadlineExceeded => ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
        Code::NotFound => ("NotFound", "NOT_FOUND"),
        Code::AlreadyExists => ("AlreadyExists", "ALREADY_EXISTS"),
        Code::PermissionDenied => ("PermissionDenied", "PERMISSION_DENIED"),
        Code::ResourceExhausted => ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
        Code::FailedPrecondition => ("FailedPrecondition", "FAILED_PRECONDITION"),
        Code::Aborted => ("Aborted", "ABORTED"),
        Code::OutOfRange => ("OutOfRange", "OUT_OF_RANGE"),
        Code::Unimplemented => ("Unimplemented", "UNIMPLEMENTED"),
        Code::Internal => ("Internal", "INTERNAL"),
        Code::Unavailable => ("Unavailable", "UNAVAILABLE"),
        Code::DataLoss => ("DataLoss", "DATA_LOSS"),
        Code::Unauthenticated => ("Unauthenticated", "UNAUTHENTICATED"),
    }
}
