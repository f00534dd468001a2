//! What the CA manager does with the issuer of certificates.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::super::issued_file::{IssuedCertificatesFile, LeafRecord};
use super::super::issuing_cas::FutureLeaves;
use super::super::lost_records::LostRecords;
use super::{CaSnapshot, CertificateIssuer};
use crate::clock::Timestamp;
use crate::mutex::lock;
use crate::store;

impl CertificateIssuer {
    /// Sets the number of registered agents, among which the unexpired certificates are divided.
    pub fn set_registered(&self, agents: usize) {
        self.issued_certificates().set_registered(agents);
    }

    /// Sets the number of leaves on the CRLs that count as unexpired.
    pub fn set_revoked(&self, leaves: usize) {
        self.issued_certificates().set_revoked(leaves);
    }

    /// Why a due change of the CA has not been made.
    pub fn blocked_reason(&self) -> &watch::Sender<Option<String>> {
        &self.0.blocked_reason
    }

    /// Replaces the active snapshot; `None` stops issuing.
    pub fn set_active(&self, snapshot: Option<CaSnapshot>) {
        self.0.active.store(snapshot.map(Arc::new));
        self.0.generation.send_modify(|generation| *generation += 1);
    }

    /// Loads `leaves.json` from the state directory, as far as it can be read. Blocking.
    ///
    /// # Errors
    ///
    /// [`LostRecords`] if some records cannot be read, now or at a start less than a day ago: certificates
    /// that are valid cannot be revoked. The damaged file is kept.
    pub fn load_issued(&self, dir: &Path, now: Timestamp) -> Result<(), LostRecords> {
        let result = self.issued_certificates().read(dir);
        let lost = match result {
            Ok(damaged) if damaged.is_empty() => LostRecords::of_earlier_starts(dir, now),
            Ok(damaged) => Some(LostRecords::of_identities(dir, &damaged, now)),
            Err(error) => Some(LostRecords::of_file(dir, &error, now)),
        };
        *lock(&self.0.lost_records) = lost.clone();
        lost.map_or(Ok(()), Err)
    }

    /// Resolves when a caller waits for a usable issuing CA.
    pub async fn renewal_wanted(&self) {
        self.0.renewal_wanted.notified().await;
    }

    /// Counts the recorded leaves of a clock that was ahead, if it is right now, for
    /// [`CertificateIssuer::report`].
    pub fn count_future(&self, future: &FutureLeaves) {
        let count = self.issued_certificates().count_if(|leaf| future.contains(leaf));
        self.0.future_leaves.store(count, Ordering::Relaxed);
    }

    /// Writes `leaves.json` if it changed, and drops shared keys whose certificates have expired. Blocking.
    ///
    /// # Errors
    ///
    /// If the file cannot be written; the next call tries again.
    pub fn save_issued(&self, dir: &Path, now: Timestamp) -> Result<(), store::Error> {
        // One write after the other, so that an older content never replaces a newer one.
        let _saving = lock(&self.0.saving);
        self.shared_svids().retain(|_, issued| issued.record.expires > now);
        let Some(file) = self.issued_certificates().take_changes(now) else { return Ok(()) };
        IssuedCertificatesFile::write(&file, dir).inspect_err(|_| self.issued_certificates().mark_dirty())
    }

    /// The leaves of each SPIFFE ID for which `is_orphan` holds.
    pub fn orphaned(
        &self,
        is_orphan: impl Fn(&str, &LeafRecord) -> bool,
    ) -> Vec<(Arc<str>, Vec<LeafRecord>)> {
        self.issued_certificates().orphaned(is_orphan)
    }

    /// Marks the leaves of invocations that have ended: they are no longer valid.
    pub fn end_invocations(&self, has_ended: impl Fn(&str, &LeafRecord) -> bool) {
        self.issued_certificates().end_invocations(has_ended);
    }

    /// How many leaves of each SPIFFE ID were marked since the last call.
    pub fn take_ended(&self) -> HashMap<Arc<str>, usize> {
        self.issued_certificates().take_ended()
    }

    /// Drops the records of leaves that the CRLs in `ca.json` have.
    pub fn remove_revoked(&self, id: &str, revoked: &[LeafRecord]) {
        self.shared_svids().remove(id);
        self.issued_certificates().remove(id, revoked);
    }
}
