//! Refusals as gRPC tells them (SPIFFE Workload Endpoint, section 6).

use tonic::Status;

use crate::policy::ErrorCode;
use crate::service::RequestError;

/// What clients take for "not registered", by its very words.
pub fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

pub fn from_request_error(error: &RequestError) -> Status {
    let refusal = match error {
        RequestError::Denied(refusal) => refusal.get(),
        RequestError::AuditUnavailable(unavailable) => return Status::unavailable(unavailable.to_string()),
    };
    let description = refusal.description.as_str();
    match refusal.code {
        ErrorCode::InvalidClient => no_identity(),
        ErrorCode::InvalidRequest | ErrorCode::InvalidScope => Status::invalid_argument(description),
        // The request is well-formed; it is the grant that is not there.
        ErrorCode::InvalidTarget | ErrorCode::AccessDenied => Status::permission_denied(description),
        ErrorCode::SlowDown | ErrorCode::TemporarilyUnavailable => Status::unavailable(description),
        ErrorCode::ServerError => Status::internal(description),
    }
}
