//! Rotation of the host's key-encryption key: to other PCRs, and by its age.

use std::time::Duration;

use super::super::error::Error;
use super::super::kek_report::{KekReport, NewKek};
use super::{Keystore, KeystoreState};
use crate::clock::Timestamp;

impl Keystore {
    /// Makes a new key-encryption key, if the current one is not sealed to the configured PCRs, or has been in use
    /// for `interval`; `None` while the clock does not tell that. Each [`super::KekDependent`] then has to be encrypted again.
    ///
    /// Without a recovery key nothing is sealed to PCRs, since a firmware update would make the secrets
    /// inaccessible.
    pub(crate) async fn reseal_if_needed(&self, interval: Option<Duration>) -> Result<Option<NewKek>, Error> {
        let mut state = self.state.lock().await;
        if state.seal_file.has_previous() {
            return Ok(None);
        }
        let needs_recovery_key = !self.configured_pcrs.is_empty() && !state.seal_file.has_recovery_key();
        let pcrs = if needs_recovery_key { state.seal_file.pcrs() } else { self.configured_pcrs.clone() };
        let reason = if state.seal_file.pcrs() != pcrs {
            "is sealed to the configured PCRs"
        } else if interval.is_some_and(|interval| self.is_old(&state, interval)) {
            "takes the place of one that was in use for its interval"
        } else {
            return Ok(None);
        };
        let old_kek = state.seal_file.unseal(&self.tpm).await?.latest;
        let seal_file = state.seal_file.clone();
        let (seal_file, new_kek) =
            seal_file.with_new_kek(&self.tpm, &old_kek, &pcrs, self.clock.now()).await?;
        self.commit_new_kek(&mut state, seal_file, &new_kek).await?;
        let id = state.seal_file.reports(None).into_iter().next().map(|kek| kek.id).unwrap_or_default();
        Ok(Some(NewKek { id, reason }))
    }

    fn is_old(&self, state: &KeystoreState, interval: Duration) -> bool {
        let reports = state.seal_file.reports(self.initial_kek_made);
        let due = reports.first().and_then(|latest| latest.rotate_at(interval));
        due.is_some_and(|at| at <= self.clock.now())
    }

    /// The key-encryption keys: the host's latest, its previous one while there is one, those of
    /// tenants, then the erasure key, and the next one while there is one.
    pub fn kek_reports(&self) -> Vec<KekReport> {
        let mut reports = self.host_kek_reports.borrow().clone();
        reports.extend(self.tenant_kek_reports.borrow().iter().cloned());
        reports.extend(self.erasure_key_reports.borrow().iter().cloned());
        reports
    }

    /// When the host key and the first key-encryption key were made; `None` where that is not known.
    pub(crate) fn host_keys_made(&self) -> Option<Timestamp> {
        self.initial_kek_made
    }
}
