//! The host's CA: its root, its issuing CAs, and what they have revoked.
//!
//! Each change is written to `ca.json` before it takes effect in memory. Revocations alone take effect first,
//! because a TPM that is unavailable delays the write. The root's key is the host key in
//! the TPM; the keys of the issuing CAs are encrypted under the key-encryption key.

mod keys;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};

use super::ca_file::{CaFile, CaRecord, FILE_NAME, VERSION, encrypt_key};
use super::certificate_issuer::CaSnapshot;
use super::error::Error;
use super::issued_file::LeafRecord;
use super::issuing_ca::{self, CLOCK_SKEW};
use super::issuing_cas::{self, FutureLeaves, NotRevoked};
use super::root_ca::{RootCa, RootRenewal};

use crate::clock::{Clock, SettledClock, Timestamp};
use crate::issue::{DelegatedCa, HostIdentity};
use crate::keystore::{KekDependent, Keystore};
use crate::store;
use crate::tpm::{self, Tpm};

/// A change of the host's CA, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaChange {
    /// The host key signed a new root.
    RootCreated {
        /// When the root expires.
        not_after: Timestamp,
        /// Why the previous root is replaced; `None` for the first one.
        replaces: Option<RootRenewal>,
    },
    /// The host key signed a new issuing CA.
    IssuingCaCreated {
        /// The first 4 bytes of its key identifier, in hexadecimal.
        name: String,
        /// When the issuing CA expires.
        not_after: Timestamp,
    },
    /// The active issuing CA was created while the clock was ahead, and an earlier one signs again.
    IssuingCaResumed {
        /// The first 4 bytes of its key identifier, in hexadecimal.
        name: String,
    },
    /// The key of an earlier issuing CA cannot be decrypted. Its leaves remain valid, and it revokes none of
    /// them.
    IssuingKeyLost {
        /// The RFC 7638 thumbprint of its key.
        name: String,
    },
}

/// The host's CA, and the means to change it.
pub struct HostCa {
    keystore: Arc<Keystore>,
    tpm: Tpm,
    host_key: [u8; 65],
    host: HostIdentity,
    clock: Clock,
    root: RootCa,
    /// An organization's certificate that makes the host key a CA, in place of the root.
    delegated_ca: Option<Arc<DelegatedCa>>,
    /// Since when that certificate is installed, at most the present time.
    delegated_since: Timestamp,
    /// The active one first.
    issuing_cas: Vec<CaRecord>,
    crl_number: u64,
    crl_issued_at: Timestamp,
    /// Whether `ca.json` lacks revocations.
    has_unsaved: bool,
    /// Whether [`HostCa::snapshot`] has not been called since a revocation.
    has_unpublished: bool,
    /// Decides what has expired for certain.
    settled: SettledClock,
}

impl HostCa {
    /// Reads `ca.json`, and creates the root if there is none for this host key and trust domain.
    /// [`HostCa::advance`] renews it, and creates the issuing CAs.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or written, or if TPM or keystore are unavailable.
    pub async fn open(
        tpm: &Tpm,
        keystore: Arc<Keystore>,
        dir: &Path,
        host: &HostIdentity,
        clock: &Clock,
    ) -> Result<(HostCa, Vec<CaChange>), Error> {
        let host_key = tpm.info().await?.host_key.ok_or(tpm::Error::NotProvisioned)?;
        let file = store::read::<CaFile>(&dir.join(FILE_NAME), VERSION)?;
        let mut changes = Vec::new();
        let now = clock.now();
        let last_number = file.as_ref().map(|file| file.crl_number);
        let existing = file.and_then(|file| {
            let certificate = BASE64.decode(file.root.as_bytes()).ok()?;
            RootCa::from_certificate(certificate, &host_key, host).map(|root| (root, file))
        });
        let (root, issuing_cas, crl_number, crl_issued_at, root_created) = match existing {
            None => {
                let root = RootCa::create(tpm, &host_key, host, now).await?;
                changes.push(CaChange::RootCreated { not_after: root.not_after, replaces: None });
                // The sequence of the bundle document has the number as a summand. Without the last one, the
                // time is greater, since there are fewer changes than seconds.
                (root, Vec::new(), last_number.unwrap_or(now.as_secs()), now, true)
            }
            Some((root, file)) => {
                let keks = keystore.keks().await?;
                let mut issuing_cas = Vec::new();
                for raw in file.issuing_cas {
                    let name = raw.kid.clone();
                    match raw.decrypt(&keks, host) {
                        Some(record) => issuing_cas.push(record),
                        None => changes.push(CaChange::IssuingKeyLost { name }),
                    }
                }
                let crl_issued_at = Timestamp::from_secs(file.crl_issued_at);
                (root, issuing_cas, file.crl_number, crl_issued_at, false)
            }
        };
        let (tpm, host, clock) = (tpm.clone(), host.clone(), clock.clone());
        let mut ca = HostCa {
            keystore,
            tpm,
            host_key,
            host,
            clock,
            root,
            delegated_ca: None,
            delegated_since: now,
            issuing_cas,
            crl_number,
            crl_issued_at,
            has_unsaved: false,
            has_unpublished: false,
            settled: SettledClock::default(),
        };
        if root_created {
            ca.persist(ca.issuing_cas.clone()).await?;
        }
        Ok((ca, changes))
    }

    /// Issues the CRLs again with a new number and time, so that [`HostCa::snapshot`] counts as changed.
    ///
    /// # Errors
    ///
    /// If `ca.json` cannot be written.
    pub async fn reissue_crls(&mut self) -> Result<(), Error> {
        self.persist(self.issuing_cas.clone()).await
    }

    /// Whether the clock was ahead when the CRLs were issued: verifiers refuse them as not valid yet.
    pub fn crls_are_not_yet_valid(&self) -> bool {
        self.clock.now().after(CLOCK_SKEW) < self.crl_issued_at
    }

    /// Puts the host's CA below an organization's root, or with `None` below its own.
    pub fn set_parent(&mut self, delegated_ca: Option<Arc<DelegatedCa>>) {
        let since = delegated_ca.as_ref().map(|delegated_ca| delegated_ca.installed_at);
        self.delegated_since = since.unwrap_or(Timestamp::from_secs(0));
        self.delegated_ca = delegated_ca;
    }

    /// When [`HostCa::advance`] next creates an issuing CA.
    pub fn next_renewal(&self) -> Timestamp {
        self.issuing_cas.first().map_or(self.clock.now(), |record| record.ca.renew_at())
    }

    /// Creates the root's successor and the next issuing CA, if they are due. A failure changes nothing, and
    /// the next call tries again.
    ///
    /// # Errors
    ///
    /// If TPM or keystore are unavailable, if `ca.json` cannot be written, or if the parent's certificate has
    /// expired.
    pub async fn advance(&mut self) -> Result<Vec<CaChange>, Error> {
        self.rewrap_keys().await?;
        let mut changes: Vec<CaChange> = self.renew_root().await?.into_iter().collect();
        let now = self.clock.now();
        // A clock that was ahead when the certificate was installed would keep the host's root in the bundle.
        self.delegated_since = self.delegated_since.min(now);
        let is_early =
            self.issuing_cas.first().is_some_and(|record| issuing_cas::is_not_yet_valid(record, now));
        let is_current =
            |record: &CaRecord| record.ca.unusable_reason(now).is_none() && now < record.ca.renew_at();
        match self.issuing_cas.iter().position(is_current) {
            Some(0) => return Ok(changes),
            Some(at) if is_early => {
                changes.push(self.resume(at).await?);
                return Ok(changes);
            }
            _ => {}
        }
        changes.push(self.create_issuing_ca(now).await?);
        Ok(changes)
    }

    /// Creates the root's successor if it is due. The clock may have been set since the root was created, so
    /// this is not only checked at a start.
    async fn renew_root(&mut self) -> Result<Option<CaChange>, Error> {
        let now = self.clock.now();
        let Some(reason) = self.root.renewal(now) else { return Ok(None) };
        let root = RootCa::create(&self.tpm, &self.host_key, &self.host, now).await?;
        let not_after = root.not_after;
        let previous = std::mem::replace(&mut self.root, root);
        if let Err(error) = self.persist(self.issuing_cas.clone()).await {
            self.root = previous;
            return Err(error);
        }
        Ok(Some(CaChange::RootCreated { not_after, replaces: Some(reason) }))
    }

    /// Makes an earlier issuing CA the active one again.
    async fn resume(&mut self, at: usize) -> Result<CaChange, Error> {
        let mut issuing_cas = self.issuing_cas.clone();
        let record = issuing_cas.remove(at);
        let change = CaChange::IssuingCaResumed { name: HEXLOWER.encode(&record.ca.tag()) };
        issuing_cas.insert(0, record);
        self.persist(issuing_cas).await?;
        Ok(change)
    }

    /// Puts leaves on the CRLs of the next [`HostCa::snapshot`], in memory, and returns those for which this
    /// is not possible. [`HostCa::save`] writes them.
    pub fn revoke(&mut self, leaves: &[LeafRecord]) -> NotRevoked {
        let now = self.clock.now();
        let horizon = self.settled.horizon(now);
        let (not_revoked, changed) = issuing_cas::revoke(&self.issuing_cas, leaves.iter(), horizon, now);
        if let Some(changed) = changed {
            self.issuing_cas = changed;
            self.crl_number += 1;
            self.crl_issued_at = Timestamp::from_secs(now.as_secs());
            (self.has_unsaved, self.has_unpublished) = (true, true);
        }
        not_revoked
    }

    /// Whether the present time is within the root's validity.
    pub fn is_root_valid(&self) -> bool {
        let now = self.clock.now();
        self.root.not_before <= now && now < self.root.not_after
    }

    /// Which leaves were issued while the clock was ahead, if it is right now.
    pub fn future_leaves(&self) -> FutureLeaves {
        FutureLeaves::new(&self.issuing_cas, self.clock.now())
    }

    /// Whether there was a revocation since the last [`HostCa::snapshot`].
    pub fn has_unpublished(&self) -> bool {
        self.has_unpublished
    }

    /// Writes what [`HostCa::revoke`] changed. After a crash before that, the leaves have to be revoked
    /// again.
    ///
    /// # Errors
    ///
    /// If `ca.json` cannot be written; the next call tries again.
    pub async fn save(&mut self) -> Result<(), Error> {
        if self.has_unsaved {
            self.write(&self.issuing_cas, self.crl_number, self.crl_issued_at).await?;
            self.has_unsaved = false;
        }
        Ok(())
    }

    /// How many entries of the CRLs take room that unexpired leaves need.
    pub fn count_revoked(&mut self) -> usize {
        let now = self.clock.now();
        issuing_cas::count_revoked(&self.issuing_cas, self.settled.horizon(now), now)
    }

    /// What leaves are issued from and verified with; `None` before the first issuing CA.
    ///
    /// # Errors
    ///
    /// If a CRL cannot be signed.
    pub fn snapshot(&mut self) -> Result<Option<CaSnapshot>, Error> {
        let horizon = self.settled.horizon(self.clock.now());
        let Some(newest) = self.issuing_cas.first() else { return Ok(None) };
        let crls = self.issuing_cas.iter().filter(|record| record.ca.not_after() > horizon).map(|record| {
            let revoked = record.revoked.iter().map(|one| (one.serial, one.revoked_at));
            record.ca.sign_crl(self.crl_number, revoked, self.crl_issued_at).map(Bytes::from)
        });
        let mut intermediates = vec![newest.ca.certificate().to_vec()];
        let mut bundle = vec![self.root.certificate.clone()];
        if let Some(delegated_ca) = &self.delegated_ca {
            intermediates.extend_from_slice(delegated_ca.chain_without_root());
            bundle.insert(0, delegated_ca.root().to_vec());
            // Leaves issued before the delegation lead to the host's own root alone, until they expire. By
            // the time of the last change, so that each other content of the bundle has another number.
            if self.crl_issued_at.since(self.delegated_since) > issuing_ca::LIFETIME {
                bundle.truncate(1);
            }
        }
        let crls = crls.collect::<Result<_, _>>()?;
        self.has_unpublished = false;
        let (number, issuing_ca) = (self.crl_number, newest.ca.clone());
        let key_reports = self.key_reports();
        Ok(Some(CaSnapshot { intermediates, bundle, number, crls, issuing_ca, key_reports }))
    }

    /// Encrypts the keys again after the key-encryption key changed. Until then the keystore retains the
    /// previous one.
    async fn rewrap_keys(&mut self) -> Result<(), Error> {
        let Some(keks) = self.keystore.needs_rewrap(KekDependent::IssuingCas).await? else { return Ok(()) };
        let rewrap = |record: &CaRecord| {
            Ok(CaRecord { encrypted_key: encrypt_key(&keks.latest, &record.ca)?, ..record.clone() })
        };
        let issuing_cas = self.issuing_cas.iter().map(rewrap).collect::<Result<_, Error>>()?;
        self.persist(issuing_cas).await?;
        Ok(self.keystore.mark_rewrapped(KekDependent::IssuingCas).await?)
    }

    /// Writes the issuing CAs with CRLs of a new number and time, and then uses them.
    async fn persist(&mut self, mut issuing_cas: Vec<CaRecord>) -> Result<(), Error> {
        let now = self.clock.now();
        issuing_cas::drop_expired(&mut issuing_cas, self.settled.horizon(now));
        let (crl_number, crl_issued_at) = (self.crl_number + 1, Timestamp::from_secs(now.as_secs()));
        self.write(&issuing_cas, crl_number, crl_issued_at).await?;
        (self.crl_number, self.crl_issued_at) = (crl_number, crl_issued_at);
        self.issuing_cas = issuing_cas;
        self.has_unsaved = false;
        Ok(())
    }

    async fn write(
        &self,
        issuing_cas: &[CaRecord],
        crl_number: u64,
        crl_issued_at: Timestamp,
    ) -> Result<(), Error> {
        let file = CaFile {
            root: BASE64.encode(&self.root.certificate),
            crl_number,
            crl_issued_at: crl_issued_at.as_secs(),
            issuing_cas: issuing_cas.iter().map(CaRecord::to_raw).collect(),
        };
        Ok(self.keystore.write_file(FILE_NAME, VERSION, &file).await?)
    }
}
