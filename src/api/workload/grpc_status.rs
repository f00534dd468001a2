//! Refusals as gRPC statuses (SPIFFE Workload Endpoint, section 6).

use tonic::Status;

use crate::service::{ErrorCode, NotReady, RequestError};

/// The status of a caller without an identity. SPIFFE clients recognize it by this exact text.
pub fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

/// The status while the issuer or the CA is not ready.
pub fn not_ready(reason: NotReady) -> Status {
    Status::unavailable(reason.to_string())
}

/// The status of a request that was refused or could not be recorded.
pub fn from_request_error(error: &RequestError) -> Status {
    match error.code() {
        ErrorCode::InvalidClient => no_identity(),
        ErrorCode::InvalidRequest | ErrorCode::InvalidScope => Status::invalid_argument(error.description()),
        // The request is well-formed, and no grant permits it.
        ErrorCode::InvalidTarget | ErrorCode::AccessDenied | ErrorCode::AuthorizationPending => {
            Status::permission_denied(error.description())
        }
        ErrorCode::SlowDown | ErrorCode::TemporarilyUnavailable => Status::unavailable(error.description()),
        ErrorCode::ServerError => Status::internal(error.description()),
    }
}

/// SPIFFE and gRPC clients repeat a call that got UNAVAILABLE after a while; RESOURCE_EXHAUSTED is not
/// repeated under gRPC's usual retry policies.
pub fn too_many_calls() -> Status {
    Status::unavailable("too many open calls of this user; close some")
}
