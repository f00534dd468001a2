//! Metrics of the rules for anomalies, and of approvals.

use super::catalog;
use crate::config::AnomalyRule;
use crate::metrics::Exposition;
use crate::service::identity_service::IdentityService;

impl IdentityService {
    pub(super) fn add_anomalies(&self, exposition: &mut Exposition) {
        let anomalies = &self.deps.anomalies;
        for rule in AnomalyRule::ALL {
            exposition.add(&catalog::ANOMALY_ALERTS, [rule.name().into()], anomalies.count(*rule) as f64);
        }
        exposition.add(&catalog::ANOMALY_DROPPED, [], anomalies.dropped() as f64);
        exposition.add(&catalog::PENDING_APPROVALS, [], self.deps.approvals.pending_count() as f64);
        exposition.add(&catalog::SUSPENDED_AGENTS, [], self.anomalies_status().suspended as f64);
    }
}
