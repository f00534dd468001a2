//! The host's CA: its root, its issuing CAs, and what they have revoked.
//!
//! `ca.json` comes first: a step is written, and only then taken in memory. The host key that signs for the root is in
//! the TPM; the issuing CAs' keys are sealed under the vault's key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{SHA256, digest};
use x509_cert::der::Encode;

use super::ca_file::{
    CaFile, CaRecord, FILE_NAME, RevokedCertificate, VERSION, encrypt_key, truncate_revoked,
};
use super::issued::LeafRecord;
use super::issuing_ca::{self, CLOCK_SKEW, ParentCa, UnsignedCa};
use super::x509::{self, CertificateProfile, TbsCertificate};
use super::{CaSnapshot, Error};
use crate::clock::{Clock, Timestamp};
use crate::enroll::host_ca_name;
use crate::issue::{DelegatedCa, HostIdentity};
use crate::keystore::{KekDependent, Keystore};
use crate::store;
use crate::tpm::{self, Tpm};
use crate::verify::{der, parse_certificate};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The host key does not rotate, and who holds its root by hand is not to be sent another one.
const ROOT_LIFETIME: Duration = Duration::from_secs(20 * YEAR.as_secs());
/// A root with less life left gets a successor by the same key and name.
const ROOT_RENEW_BEFORE: Duration = YEAR;

/// The one that signs, the one before it, and what a clock that is being set about leaves behind.
const MAX_ISSUING_CAS: usize = 4;

/// Something that happened: for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaChange {
    RootCreated {
        not_after: Timestamp,
    },
    IssuingCaCreated {
        name: String,
        not_after: Timestamp,
    },
    /// An issuing CA of before whose key does not open. Its leaves stay good, and it revokes none of them.
    IssuingKeyLost {
        name: String,
    },
}

/// The root as it stands.
#[derive(Clone)]
struct RootCa {
    certificate: Vec<u8>,
    name: Vec<u8>,
    key_id: [u8; 20],
    not_after: Timestamp,
}

/// The host's CA, and the means to change it.
pub struct HostCa {
    keystore: Arc<Keystore>,
    tpm: Tpm,
    host: HostIdentity,
    clock: Clock,
    root: RootCa,
    /// What stands in the root's place below an organisation's.
    delegated_ca: Option<Arc<DelegatedCa>>,
    issuing_cas: Vec<CaRecord>,
    crl_number: u64,
    crl_issued_at: Timestamp,
}

impl HostCa {
    /// Reads what there is and makes the root if it is missing or another key's. [`HostCa::turn`] makes the rest.
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
                for raw in file.issuing {
                    match raw.decrypt(&keks, host) {
                        Ok(record) => issuing_cas.push(record),
                        Err(name) => changes.push(CaChange::IssuingKeyLost { name }),
                    }
                }
                let root_expires_soon = root.not_after.since(now) < ROOT_RENEW_BEFORE;
                let root = match root_expires_soon {
                    true => RootCa::create(tpm, &host_key, host, now).await?,
                    false => root,
                };
                if root_expires_soon {
                    changes.push(CaChange::RootCreated { not_after: root.not_after });
                }
                (root, issuing_cas, file.list, Timestamp::from_secs(file.listed), root_expires_soon)
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

    /// Has what is in force be of another time, though no step of ours was due.
    pub async fn reissue_crls(&mut self) -> Result<(), Error> {
        self.persist(self.issuing_cas.clone()).await
    }

    /// From now on the host signs below an organisation's root, or below its own.
    pub fn set_parent(&mut self, delegated_ca: Option<Arc<DelegatedCa>>) {
        self.delegated_ca = delegated_ca;
    }

    /// When there is something to do next.
    pub fn next_renewal(&self) -> Timestamp {
        self.issuing_cas.first().map_or(self.clock.now(), |record| record.ca.renew_at())
    }

    /// Makes the next issuing CA if it is time. What failed changes nothing and is tried at the next turn.
    pub async fn advance(&mut self) -> Result<Vec<CaChange>, Error> {
        self.rewrap_keys().await?;
        let now = self.clock.now();
        let due = match self.issuing_cas.first() {
            None => true,
            // A clock that was ahead: this CA does not count yet.
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
        let ca = Arc::new(unsigned.into_signed(&signature));
        let encrypted_key = encrypt_key(&kek, &ca)?;
        let change =
            CaChange::IssuingCaCreated { name: HEXLOWER.encode(&ca.tag()), not_after: ca.not_after() };
        let mut issuing_cas = vec![CaRecord { ca, encrypted_key, revoked: Vec::new() }];
        issuing_cas.extend(self.issuing_cas.iter().filter(|record| record.ca.not_after() > now).cloned());
        issuing_cas.truncate(MAX_ISSUING_CAS);
        self.persist(issuing_cas).await?;
        Ok(vec![change])
    }

    /// Puts leaves on the lists: on disk when this returns.
    pub async fn revoke(&mut self, leaves: &[LeafRecord]) -> Result<(), Error> {
        let now = self.clock.now();
        let mut issuing_cas = self.issuing_cas.clone();
        for leaf in leaves.iter().filter(|leaf| leaf.expires > now) {
            let issuer = issuing_cas.iter_mut().find(|record| record.ca.tag() == leaf.ca_tag);
            if let Some(record) = issuer {
                let revoked =
                    RevokedCertificate { serial: leaf.serial, revoked_at: now, expires: leaf.expires };
                if record.revoked.iter().all(|old| old.serial != leaf.serial) {
                    record.revoked.push(revoked);
                }
            }
        }
        self.persist(issuing_cas).await
    }

    /// What leaves are issued by and checked with, as it is now.
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
            // Leaves of before lead to the host's own root alone, for as long as they live.
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

    /// Encrypts the keys anew where the vault's key is another one. Until then the vault keeps the key before.
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
        truncate_revoked(&mut issuing_cas);
        let file = CaFile {
            root: BASE64.encode(&self.root.certificate),
            list: self.crl_number + 1,
            listed: now.as_secs(),
            issuing: issuing_cas.iter().map(CaRecord::to_raw).collect(),
        };
        self.keystore.write_file(FILE_NAME, VERSION, &file).await?;
        (self.crl_number, self.crl_issued_at) = (file.list, Timestamp::from_secs(file.listed));
        self.issuing_cas = issuing_cas;
        Ok(())
    }
}

impl RootCa {
    async fn create(
        tpm: &Tpm,
        host_key: &[u8; 65],
        host: &HostIdentity,
        now: Timestamp,
    ) -> Result<RootCa, Error> {
        let name = host_ca_name(&host.id);
        let key_id = der::key_id(host_key);
        let not_after = Timestamp::from_secs(now.after(ROOT_LIFETIME).as_secs());
        let tbs = TbsCertificate {
            profile: CertificateProfile::Ca { path_length: 1 },
            serial: issuing_ca::random_serial()?,
            issuer: &name,
            subject: &name,
            not_before: Timestamp::from_secs(now.as_secs().saturating_sub(CLOCK_SKEW.as_secs())),
            not_after,
            spki: &der::p256_spki(host_key),
            key_id,
            issuer_key_id: None,
            uri: &format!("spiffe://{}", host.trust_domain),
        };
        let tbs = tbs.to_der();
        let certificate = x509::assemble(&tbs, &sign(tpm, &tbs).await?);
        Ok(RootCa { certificate, name, key_id, not_after })
    }

    /// The root of an earlier start, if it is this host key's and this trust domain's.
    fn from_certificate(certificate: Vec<u8>, host_key: &[u8; 65], host: &HostIdentity) -> Option<RootCa> {
        use x509_cert::ext::pkix::SubjectAltName;
        use x509_cert::ext::pkix::name::GeneralName;
        let parsed = parse_certificate(&certificate).ok()?;
        let tbs = parsed.tbs_certificate();
        let (_, names) = tbs.get_extension::<SubjectAltName>().ok().flatten()?;
        let uri = format!("spiffe://{}", host.trust_domain);
        let matches_uri = |name: &GeneralName| matches!(name, GeneralName::UniformResourceIdentifier(san_uri) if san_uri.as_str() == uri);
        let key_matches = tbs.subject_public_key_info().to_der().ok()? == der::p256_spki(host_key);
        if !key_matches || !names.0.iter().any(matches_uri) {
            return None;
        }
        let not_after = Timestamp::from_secs(tbs.validity().not_after.to_unix_duration().as_secs());
        let name = tbs.subject().to_der().ok()?;
        Some(RootCa { certificate, name, key_id: der::key_id(host_key), not_after })
    }
}

async fn sign(tpm: &Tpm, tbs: &[u8]) -> Result<[u8; 64], Error> {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, tbs).as_ref());
    Ok(tpm.host_sign(hash).await?)
}
