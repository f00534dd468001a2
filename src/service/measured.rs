//! Measures requests.

use std::future::Future;
use std::time::Instant;

use super::error::RequestError;
use super::identity_service::IdentityService;
use super::request_metrics::{Outcome, RequestKind};

impl From<&RequestError> for Outcome {
    fn from(error: &RequestError) -> Outcome {
        match error {
            RequestError::Denied(refusal) => Outcome::Refused { code: refusal.get().code, is_recorded: true },
            RequestError::DeniedUnrecorded(refusal) => {
                Outcome::Refused { code: refusal.get().code, is_recorded: false }
            }
            RequestError::AuditUnavailable(_) => Outcome::Unrecordable,
        }
    }
}

impl IdentityService {
    /// Decides a request and counts it, with the time that this took: from when the request was received to when
    /// its decision was recorded. A request that its caller gives up is not counted.
    pub(super) async fn measured<T, E>(
        &self,
        kind: RequestKind,
        decision: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E>
    where
        for<'e> Outcome: From<&'e E>,
    {
        let begun = Instant::now();
        let result = decision.await;
        let outcome = result.as_ref().map_or_else(Outcome::from, |_| Outcome::Granted);
        self.request_metrics.count(kind, outcome, begun.elapsed());
        result
    }
}
