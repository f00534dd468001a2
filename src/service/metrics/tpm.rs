//! Metrics of the TPM: its state, its queue, and how long it takes.

use super::catalog;
use crate::metrics::Exposition;
use crate::service::identity_service::IdentityService;
use crate::tpm::StateKind;

impl IdentityService {
    pub(super) fn add_tpm(&self, exposition: &mut Exposition) {
        let state = self.deps.tpm_state.borrow().kind;
        exposition.add_state(&catalog::TPM_STATE, StateKind::ALL.map(StateKind::name), state.name());
        let waiting = self.deps.tpm_signer.queue.waiting_count();
        exposition.add(&catalog::TPM_WAITING_SIGNATURES, [], waiting as f64);
        // Absent for a moment at the start of the daemon.
        let tpm = self.deps.tpm.borrow().clone();
        let metrics = tpm.as_ref().map(|tpm| tpm.metrics().clone()).unwrap_or_default();
        exposition.add(&catalog::TPM_QUEUE_LENGTH, [], metrics.waiting() as f64);
        exposition.add_durations(&catalog::TPM_QUEUE_WAIT, [], metrics.queue_wait.snapshot());
        exposition.add_durations(&catalog::TPM_REQUEST_DURATION, [], metrics.duration.snapshot());
        for (reason, counter) in
            [("deadline_exceeded", &metrics.deadline_exceeded), ("queue_full", &metrics.queue_full)]
        {
            exposition.add(&catalog::TPM_REJECTIONS, [reason.into()], counter.get() as f64);
        }
        for (class, count) in metrics.faults() {
            exposition.add(&catalog::TPM_FAULTS, [class.into()], count as f64);
        }
        exposition.add(&catalog::TPM_CONNECTIONS, [], metrics.connections.get() as f64);
    }
}
