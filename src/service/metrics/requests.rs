//! Metrics of requests: how many were granted and refused, and how long each took.

use super::catalog;
use crate::metrics::Exposition;
use crate::service::identity_service::IdentityService;

impl IdentityService {
    pub(super) fn add_requests(&self, exposition: &mut Exposition) {
        let metrics = &self.request_metrics;
        for (kind, of) in metrics.counts() {
            let labels = [kind.name().into(), of.outcome.into(), of.reason.into()];
            exposition.add(&catalog::REQUESTS, labels, of.count as f64);
        }
        for (kind, durations) in metrics.durations() {
            exposition.add_durations(&catalog::REQUEST_DURATION, [kind.name().into()], durations);
        }
        exposition.add(&catalog::UNRECORDED_REFUSALS, [], metrics.unrecorded_refusals() as f64);
    }
}
