//! Refusals as gRPC tells them (SPIFFE Workload Endpoint, section 6).

use tonic::Status;

use crate::policy::Reason;
use crate::road::Refused;

/// What clients take for "not registered", by its very words.
pub fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

pub fn of(refused: &Refused) -> Status {
    let refusal = match refused {
        Refused::Recorded(refusal) => refusal.get(),
        Refused::Unrecorded(why) => return Status::unavailable(why.to_string()),
    };
    let what = refusal.description.as_str();
    match refusal.reason {
        Reason::InvalidClient => no_identity(),
        Reason::InvalidRequest | Reason::InvalidScope => Status::invalid_argument(what),
        // The request is well-formed; it is the grant that is not there.
        Reason::InvalidTarget | Reason::AccessDenied => Status::permission_denied(what),
        Reason::SlowDown | Reason::TemporarilyUnavailable => Status::unavailable(what),
        Reason::ServerError => Status::internal(what),
    }
}
