//! The host's CA: its root, its issuing CAs, and what they have revoked.
//!
//! Each change is written to `ca.json` before it takes effect in memory. The root's key is the host key in
//! the TPM; the keys of the issuing CAs are encrypted under the key-encryption key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};

use super::ca_file::{
    CaFile, CaRecord, FILE_NAME, RevokedCertificate, VERSION, encrypt_key, truncate_revoked,
};
use super::certificate_issuer::CaSnapshot;
use super::error::Error;
use super::issued_file::LeafRecord;
use super::issuing_ca::{self, CLOCK_SKEW, ParentCa, UnsignedCa};
use super::root_ca::{RootCa, sign};
use crate::clock::{Clock, Timestamp};
use crate::issue::{DelegatedCa, HostIdentity};
use crate::keystore::{KekDependent, Keystore};
use crate::store;
use crate::tpm::{self, Tpm};

/// A root with less lifetime left gets a successor with the same key and name: one year.
const ROOT_RENEW_BEFORE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The active issuing CA, its predecessor, and those that a clock set back and forth leaves behind.
const MAX_ISSUING_CAS: usize = 4;

/// A change of the host's CA, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaChange {
    /// The host key signed a new root.
    RootCreated {
        /// When the root expires.
        not_after: Timestamp,
    },
    /// The host key signed a new issuing CA.
    IssuingCaCreated {
        /// The first 4 bytes of its key identifier, in hexadecimal.
        name: String,
        /// When the issuing CA expires.
        not_after: Timestamp,
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
    host: HostIdentity,
    clock: Clock,
    root: RootCa,
    /// An organization's certificate that makes the host key a CA, in place of the root.
    delegated_ca: Option<Arc<DelegatedCa>>,
    /// The latest first.
    issuing_cas: Vec<CaRecord>,
    crl_number: u64,
    crl_issued_at: Timestamp,
}

impl HostCa {
    /// Reads `ca.json`, and creates the root if there is none for this host key and trust domain, or if it
    /// expires within a year. [`HostCa::advance`] creates the issuing CAs.
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
        let existing = file.and_then(|file| {
            let certificate = BASE64.decode(file.root.as_bytes()).ok()?;
            RootCa::from_certificate(certificate, &host_key, host).map(|root| (root, file))
        });
        let (root, issuing_cas, crl_number, crl_issued_at, root_created) = match existing {
            None => {
                let root = RootCa::create(tpm, &host_key, host, now).await?;
                changes.push(CaChange::RootCreated { not_after: root.not_after });
                (root, Vec::new(), 0, now, true)
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
                let root_expires_soon = root.not_after.since(now) < ROOT_RENEW_BEFORE;
                let root =
                    if root_expires_soon { RootCa::create(tpm, &host_key, host, now).await? } else { root };
                if root_expires_soon {
                    changes.push(CaChange::RootCreated { not_after: root.not_after });
                }
                let crl_issued_at = Timestamp::from_secs(file.crl_issued_at);
                (root, issuing_cas, file.crl_number, crl_issued_at, root_expires_soon)
            }
        };
        let (tpm, host, clock) = (tpm.clone(), host.clone(), clock.clone());
        let mut ca = HostCa {
            keystore,
            tpm,
            host,
            clock,
            root,
            delegated_ca: None,
            issuing_cas,
            crl_number,
            crl_issued_at,
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
    pub fn has_crls_of_the_future(&self) -> bool {
        self.clock.now().after(CLOCK_SKEW) < self.crl_issued_at
    }

    /// Puts the host's CA below an organization's root, or with `None` below its own.
    pub fn set_parent(&mut self, delegated_ca: Option<Arc<DelegatedCa>>) {
        self.delegated_ca = delegated_ca;
    }

    /// When [`HostCa::advance`] next creates an issuing CA.
    pub fn next_renewal(&self) -> Timestamp {
        self.issuing_cas.first().map_or(self.clock.now(), |record| record.ca.renew_at())
    }

    /// Creates the next issuing CA if it is due. A failure changes nothing, and the next call tries again.
    ///
    /// # Errors
    ///
    /// If TPM or keystore are unavailable, if `ca.json` cannot be written, or if the parent's certificate has
    /// expired.
    pub async fn advance(&mut self) -> Result<Vec<CaChange>, Error> {
        self.rewrap_keys().await?;
        let now = self.clock.now();
        let due = match self.issuing_cas.first() {
            None => true,
            // Created by a clock that was ahead: this CA is not valid yet.
            Some(record) => now >= record.ca.renew_at() || now.after(CLOCK_SKEW) < record.ca.created_at(),
        };
        if !due {
            return Ok(Vec::new());
        }
        let not_after =
            self.delegated_ca.as_ref().map_or(self.root.not_after, |delegated_ca| delegated_ca.not_after);
        if not_after <= now {
            return Err(Error::ParentExpired(not_after));
        }
        let parent = ParentCa {
            name: &self.root.name,
            key_id: self.root.key_id,
            not_after,
            host_id: &self.host.id,
            trust_domain: &self.host.trust_domain,
        };
        let unsigned = UnsignedCa::new(&parent, now)?;
        let kek = self.keystore.latest_kek().await?;
        let signature = sign(&self.tpm, unsigned.tbs()).await?;
        let ca = Arc::new(unsigned.into_signed(&signature)?);
        let encrypted_key = encrypt_key(&kek, &ca)?;
        let change =
            CaChange::IssuingCaCreated { name: HEXLOWER.encode(&ca.tag()), not_after: ca.not_after() };
        let mut issuing_cas = vec![CaRecord { ca, encrypted_key, revoked: Vec::new() }];
        issuing_cas.extend(self.issuing_cas.iter().filter(|record| record.ca.not_after() > now).cloned());
        issuing_cas.truncate(MAX_ISSUING_CAS);
        self.persist(issuing_cas).await?;
        Ok(vec![change])
    }

    /// Puts unexpired leaves on the CRLs, which are on disk when this returns.
    ///
    /// # Errors
    ///
    /// If `ca.json` cannot be written.
    pub async fn revoke(&mut self, leaves: &[LeafRecord]) -> Result<(), Error> {
        let now = self.clock.now();
        let mut issuing_cas = self.issuing_cas.clone();
        for leaf in leaves.iter().filter(|leaf| leaf.expires > now) {
            let issuer = issuing_cas.iter_mut().find(|record| record.ca.tag() == leaf.ca_tag);
            if let Some(record) = issuer {
                let revoked =
                    RevokedCertificate { serial: leaf.serial, revoked_at: now, expires: leaf.expires };
                if record.revoked.iter().all(|existing| existing.serial != leaf.serial) {
                    record.revoked.push(revoked);
                }
            }
        }
        self.persist(issuing_cas).await
    }

    /// What leaves are issued from and verified with; `None` before the first issuing CA.
    ///
    /// # Errors
    ///
    /// If a CRL cannot be signed.
    pub fn snapshot(&self) -> Result<Option<CaSnapshot>, Error> {
        let Some(newest) = self.issuing_cas.first() else { return Ok(None) };
        let crls =
            self.issuing_cas.iter().filter(|record| record.ca.not_after() > self.clock.now()).map(|record| {
                let revoked = record.revoked.iter().map(|one| (one.serial, one.revoked_at));
                record.ca.sign_crl(self.crl_number, revoked, self.crl_issued_at)
            });
        let mut intermediates = vec![newest.ca.certificate().to_vec()];
        let mut bundle = vec![self.root.certificate.clone()];
        if let Some(delegated_ca) = &self.delegated_ca {
            intermediates.extend_from_slice(delegated_ca.chain_without_root());
            bundle.insert(0, delegated_ca.root().to_vec());
            // Leaves issued before the delegation lead to the host's own root alone, until they expire.
            if self.clock.now().since(delegated_ca.installed_at) > issuing_ca::LIFETIME {
                bundle.truncate(1);
            }
        }
        Ok(Some(CaSnapshot {
            intermediates,
            bundle,
            changed_at: self.crl_issued_at,
            crls: crls.collect::<Result<_, _>>()?,
            issuing_ca: newest.ca.clone(),
        }))
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

    async fn persist(&mut self, mut issuing_cas: Vec<CaRecord>) -> Result<(), Error> {
        let now = self.clock.now();
        for record in &mut issuing_cas {
            record.revoked.retain(|one| one.expires > now);
        }
        truncate_revoked(&mut issuing_cas, now);
        let file = CaFile {
            root: BASE64.encode(&self.root.certificate),
            crl_number: self.crl_number + 1,
            crl_issued_at: now.as_secs(),
            issuing_cas: issuing_cas.iter().map(CaRecord::to_raw).collect(),
        };
        self.keystore.write_file(FILE_NAME, VERSION, &file).await?;
        (self.crl_number, self.crl_issued_at) = (file.crl_number, Timestamp::from_secs(file.crl_issued_at));
        self.issuing_cas = issuing_cas;
        Ok(())
    }
}
