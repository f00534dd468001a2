//! Metrics of the daemon and the host: health, workers, agents, posture and clock.

use super::catalog;
use crate::clock::{BootTime, ClockSync};
use crate::metrics::Exposition;
use crate::posture::Posture;
use crate::service::health::ServiceHealth;
use crate::service::identity_service::IdentityService;

const POSTURES: [Posture; 5] =
    [Posture::Off, Posture::Accepted, Posture::Changed, Posture::Unaccepted, Posture::Stale];
const CLOCK_SYNCS: [ClockSync; 3] = [ClockSync::Synchronized, ClockSync::Unsynchronized, ClockSync::Unknown];

impl IdentityService {
    pub(super) fn add_host(&self, exposition: &mut Exposition, connections: usize) {
        let deps = &self.deps;
        exposition.add_info(&catalog::BUILD, [env!("CARGO_PKG_VERSION").into()]);
        exposition.add(&catalog::START_TIME, [], self.started.as_secs_f64());
        exposition.add(&catalog::EXPOSITION_TIME, [], deps.clock.now().as_secs_f64());
        let health = self.health();
        exposition.add_state(&catalog::HEALTH, ServiceHealth::ALL.map(ServiceHealth::name), health.name());
        exposition.add(&catalog::WARNINGS, [], self.warnings().len() as f64);
        let faults = [
            ("agents", deps.agents.load_status().faults.len()),
            ("federation", deps.federation.diagnostics().len()),
            ("policies", deps.policies.status().faults.len()),
        ];
        for (source, number) in faults {
            exposition.add(&catalog::FAULTS, [source.into()], number as f64);
        }
        exposition.add(&catalog::CONNECTIONS, [], connections as f64);
        let (total, stalled) = (self.workers.total(), self.workers.stalled());
        let running = total.saturating_sub(stalled);
        for (state, number) in [("running", running), ("stalled", stalled)] {
            exposition.add(&catalog::WORKERS, [state.into()], number as f64);
        }
        let posture = deps.posture.evaluate(BootTime::now()).posture;
        exposition.add_state(&catalog::POSTURE, POSTURES.map(Posture::as_str), posture.as_str());
        let sync = deps.clock.sync();
        exposition.add_state(&catalog::CLOCK_SYNC, CLOCK_SYNCS.map(ClockSync::as_str), sync.as_str());
        self.add_rights(exposition);
    }

    /// What agents may do, and what was taken away.
    fn add_rights(&self, exposition: &mut Exposition) {
        let deps = &self.deps;
        let pending = usize::from(deps.agents.pending_change().is_some());
        exposition.add(&catalog::PENDING_CHANGES, [], pending as f64);
        exposition.add(&catalog::EXPIRING_GRANTS, [], self.agents_status().expiring_count as f64);
        if let Ok(reports) = deps.credentials.reports() {
            exposition.add(&catalog::CREDENTIALS, [], reports.len() as f64);
        }
        let revocations = deps.revocations.current();
        exposition.add(&catalog::REVOCATIONS, [], revocations.len() as f64);
        let is_frozen = revocations.freeze().is_some();
        exposition.add(&catalog::FROZEN, [], f64::from(u8::from(is_frozen)));
    }
}
