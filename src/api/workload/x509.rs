//! The X.509 half of the Workload API, at the border to what issues certificates.

use tonic::Status;

use super::pb::{X509BundlesResponse, X509svidResponse};
use crate::agents::Agent;
use crate::road::Road;

/// What FetchX509SVID tells the agents that a caller is. The default identity is the first.
pub fn svids(_road: &Road, _agents: &[Agent]) -> Result<X509svidResponse, Status> {
    Err(not_yet())
}

/// What FetchX509Bundles tells.
pub fn bundles(_road: &Road, _agents: &[Agent]) -> Result<X509BundlesResponse, Status> {
    Err(not_yet())
}

fn not_yet() -> Status {
    Status::unavailable(
        "X509-SVIDs are not served here yet: hostbadge certificate --watch keeps them in files; JWT-SVIDs are",
    )
}
