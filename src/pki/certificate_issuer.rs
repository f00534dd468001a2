//! What the road and the Workload API hold of this room: certificates for what was permitted, and what they are checked
//! with. All in memory.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::Serialize;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::issued::{IssuedCertificates, IssuedCertificatesFile, LeafRecord};
use super::issuing_ca::IssuingCa;
use super::{Error, SubjectKey};
use crate::clock::Timestamp;
use crate::issue::{HostIdentity, IssuingKey};
use crate::policy::{ErrorCode, IdentityPermit, Refusal};
use crate::store;

/// All that certificates are issued by and checked with. Never changed: another is put in its place.
#[derive(Debug)]
pub struct CaSnapshot {
    pub(super) issuing_ca: Arc<IssuingCa>,
    /// DER each: what a chain has after the leaf.
    pub(super) intermediates: Vec<Vec<u8>>,
    pub(super) bundle: Vec<Vec<u8>>,
    pub(super) crls: Vec<Vec<u8>>,
    pub(super) changed_at: Timestamp,
}

/// What a certificate is asked for with.
#[derive(Clone, Debug, Default)]
pub struct CertificateParams {
    /// The key of whoever asks; none has one made.
    pub key: Option<SubjectKey>,
    /// A shorter life than is usual.
    pub ttl: Option<Duration>,
}

/// From so many leaves of one identity on that have not expired, those that it takes more are one and the same: a program that
/// is started every second is to be served all day.
const SHARING_THRESHOLD: usize = 1024;

/// An X509-SVID, with what the record needs of it. Its key is not shown by `Debug`.
pub struct IssuedX509Svid {
    permit: IdentityPermit,
    spiffe_id: String,
    issued: IssuedLeaf,
    /// Whether others have it already.
    shared: bool,
}

/// What a certificate is, whoever has it.
#[derive(Clone)]
struct IssuedLeaf {
    issued_at: Timestamp,
    serial: String,
    record: LeafRecord,
    chain: Vec<Vec<u8>>,
    /// Wiped when the last who holds it lets go.
    key: Option<Bytes>,
}

impl IssuedX509Svid {
    pub fn permit(&self) -> &IdentityPermit {
        &self.permit
    }

    pub fn spiffe_id(&self) -> &str {
        &self.spiffe_id
    }

    /// In hexadecimal.
    pub fn serial(&self) -> &str {
        &self.issued.serial
    }

    pub fn expires(&self) -> Timestamp {
        self.issued.record.expires
    }

    /// DER each, the leaf first, without the root.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.issued.chain
    }

    /// PKCS#8 (RFC 5958), DER, where the key was made here.
    pub fn key(&self) -> Option<&[u8]> {
        self.issued.key.as_deref()
    }

    /// The same key without a copy; nothing where it was not made here.
    pub fn shared_key(&self) -> Bytes {
        self.issued.key.clone().unwrap_or_default()
    }
}

impl std::fmt::Debug for IssuedX509Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("serial", &self.issued.serial).finish_non_exhaustive()
    }
}

/// The host's authority. Cheap to clone; until something is in force it issues nothing.
#[derive(Clone)]
pub struct CertificateIssuer(Arc<CertificateIssuerInner>);

struct CertificateIssuerInner {
    ttl: Duration,
    active: ArcSwapOption<CaSnapshot>,
    issued_certificates: Mutex<IssuedCertificates>,
    /// By identity: what was made last, key and all, for those who are many.
    shared_svids: Mutex<HashMap<String, IssuedLeaf>>,
    generation: watch::Sender<u64>,
    blocked_reason: watch::Sender<Option<String>>,
}

/// How the authority is, for administrators.
#[derive(Clone, Debug, Serialize)]
pub struct CaReport {
    /// Until when the issuing CA in force can sign; none where there is none.
    pub issues_until: Option<Timestamp>,
    /// Why a change that is due is not made.
    pub waits: Option<String>,
}

impl CertificateIssuer {
    /// `ttl`: how long leaves live where nobody asks for less.
    pub fn new(ttl: Duration) -> CertificateIssuer {
        CertificateIssuer(Arc::new(CertificateIssuerInner {
            ttl,
            active: ArcSwapOption::empty(),
            issued_certificates: Mutex::default(),
            shared_svids: Mutex::default(),
            generation: watch::Sender::new(0),
            blocked_reason: watch::Sender::new(None),
        }))
    }

    /// Issues what was permitted.
    pub fn issue(
        &self,
        permit: IdentityPermit,
        host: &HostIdentity,
        params: CertificateParams,
        now: Timestamp,
    ) -> Result<IssuedX509Svid, Refusal> {
        let agent = permit.agent().clone();
        let reject = |reason, message: String| {
            Refusal::new(reason, message).with_peer(agent.peer()).with_agent(agent.name())
        };
        let internal_error = |e: Error| reject(ErrorCode::ServerError, e.to_string());
        let unavailable = |message: &str| reject(ErrorCode::TemporarilyUnavailable, message.into());
        let active = self.0.active.load_full();
        let active =
            active.ok_or_else(|| unavailable("the host's CA is being made; try again in a moment"))?;
        if let Some(reason) = active.issuing_ca.unusable_reason(now) {
            return Err(unavailable(reason));
        }
        let spiffe_id = host.spiffe_id(agent.entry());
        let (subject_key, key) = match params.key {
            Some(subject_key) => (subject_key, None),
            None => generate_key()
                .map(|(subject_key, key)| (subject_key, Some(Bytes::from_owner(key))))
                .map_err(internal_error)?,
        };
        let ttl = params.ttl.map_or(self.0.ttl, |ttl| ttl.min(self.0.ttl));
        let (certificate, leaf) =
            active.issuing_ca.sign_leaf(&spiffe_id, &subject_key, ttl, now).map_err(internal_error)?;
        self.issued_certificates().add(&spiffe_id, leaf, now).map_err(|exceeded| {
            let message = match exceeded.per_identity {
                true => "this agent has as many certificates that have not expired as it may",
                false => "as many certificates have not expired as this host issues",
            };
            let mut refusal = reject(ErrorCode::SlowDown, format!("{message}; ask again later"));
            refusal.retry_after = Some(exceeded.retry_after);
            refusal
        })?;
        let chain = std::iter::once(certificate).chain(active.intermediates.iter().cloned()).collect();
        let serial = HEXLOWER.encode(&leaf.serial);
        let issued = IssuedLeaf { issued_at: now, serial, record: leaf, chain, key };
        Ok(IssuedX509Svid { permit, spiffe_id, issued, shared: false })
    }

    /// The same with a key made here, for one of an agent's streams. Each has its own unless they are very many: then
    /// they share the one that was made last, for the first half of its life.
    pub fn issue_for_stream(
        &self,
        permit: IdentityPermit,
        host: &HostIdentity,
        now: Timestamp,
    ) -> Result<IssuedX509Svid, Refusal> {
        let spiffe_id = host.spiffe_id(permit.agent().entry());
        if let Some(issued) = self.shared_svid(&spiffe_id, now) {
            return Ok(IssuedX509Svid { permit, spiffe_id, issued, shared: true });
        }
        self.issue(permit, host, CertificateParams::default(), now)
    }

    /// Lets streams share a certificate that is in the record, where they are so many. No other's key is kept here.
    pub fn cache_for_sharing(&self, certificate: &IssuedX509Svid) {
        let id = &certificate.spiffe_id;
        if !certificate.shared && self.issued_certificates().count_for(id) >= SHARING_THRESHOLD {
            self.shared_svids().insert(id.clone(), certificate.issued.clone());
        }
    }

    /// What [`Authority::take_back`] is told of a certificate; nothing where others have it.
    pub fn record_of(certificate: &IssuedX509Svid) -> Option<(String, LeafRecord)> {
        (!certificate.shared).then(|| (certificate.spiffe_id.clone(), certificate.issued.record))
    }

    /// Forgets a certificate that nobody was given: it takes the room of none that is out there.
    pub fn forget(&self, (id, leaf): (String, LeafRecord)) {
        self.issued_certificates().remove(&id, &[leaf]);
    }

    fn shared_svid(&self, spiffe_id: &str, now: Timestamp) -> Option<IssuedLeaf> {
        if self.issued_certificates().count_for(spiffe_id) < SHARING_THRESHOLD {
            return None;
        }
        let issued = self.shared_svids().get(spiffe_id).cloned()?;
        let in_first_half = issued.issued_at <= now
            && now.since(issued.issued_at) < issued.record.expires.since(issued.issued_at) / 2;
        (in_first_half && self.issued_certificates().contains(spiffe_id, &issued.serial)).then_some(issued)
    }

    /// How long certificates live where nobody asks for less.
    pub fn ttl(&self) -> Duration {
        self.0.ttl
    }

    /// Whether a certificate is neither expired nor revoked, as far as is known here.
    pub fn is_valid(&self, certificate: &IssuedX509Svid) -> bool {
        self.issued_certificates().contains(&certificate.spiffe_id, &certificate.issued.serial)
    }

    /// Whether certificates are issued.
    pub fn is_ready(&self) -> bool {
        self.0.active.load().is_some()
    }

    /// The roots of this host's trust domain, DER each; none before the authority stands.
    pub fn bundle(&self) -> Vec<Vec<u8>> {
        self.0.active.load().as_ref().map_or_else(Vec::new, |force| force.bundle.clone())
    }

    /// One list, DER, for each issuing CA that has not expired. Bounded to some 700 KiB altogether.
    pub fn crls(&self) -> Vec<Vec<u8>> {
        self.0.active.load().as_ref().map_or_else(Vec::new, |force| force.crls.clone())
    }

    /// When one of these was changed last, through restarts too.
    pub fn changed_at(&self) -> Timestamp {
        self.0.active.load().as_ref().map_or(Timestamp::from_secs(0), |force| force.changed_at)
    }

    /// Another number each time that issuing CA, bundle or lists are others. Leaves stay good through it.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// The number that [`Authority::changed`] gives.
    pub fn generation(&self) -> u64 {
        *self.0.generation.borrow()
    }

    pub fn report(&self) -> CaReport {
        let issues_until = self.0.active.load().as_ref().map(|force| force.issuing_ca.not_after());
        CaReport { issues_until, waits: self.0.blocked_reason.borrow().clone() }
    }

    // === for whoever keeps it ===

    /// What keeps a change that is due from being made.
    pub fn blocked_reason(&self) -> &watch::Sender<Option<String>> {
        &self.0.blocked_reason
    }

    /// Puts something in force, or nothing.
    pub fn set_active(&self, snapshot: Option<CaSnapshot>) {
        self.0.active.store(snapshot.map(Arc::new));
        self.0.generation.send_modify(|generation| *generation += 1);
    }

    /// Takes up the leaves of an earlier start.
    pub fn load_issued(&self, dir: &Path) -> Result<(), store::Error> {
        *self.issued_certificates() = IssuedCertificates::read(dir)?;
        Ok(())
    }

    /// Writes down which leaves there are, if that is news. Blocking.
    pub fn save_issued(&self, dir: &Path, now: Timestamp) -> Result<(), store::Error> {
        // Nor is a key kept longer than it is of use.
        self.shared_svids().retain(|_, issued| issued.record.expires > now);
        let Some(file) = self.issued_certificates().take_changes(now) else { return Ok(()) };
        IssuedCertificatesFile::write(&file, dir).inspect_err(|_| self.issued_certificates().mark_dirty())
    }

    /// The leaves of identities that are not there any more.
    pub fn orphaned(&self, is_registered: impl Fn(&str) -> bool) -> Vec<(Arc<str>, Vec<LeafRecord>)> {
        self.issued_certificates().orphaned(is_registered)
    }

    /// Forgets leaves that are on a list now.
    pub fn remove_revoked(&self, id: &str, revoked: &[LeafRecord]) {
        self.shared_svids().remove(id);
        self.issued_certificates().remove(id, revoked);
    }

    fn shared_svids(&self) -> MutexGuard<'_, HashMap<String, IssuedLeaf>> {
        self.0.shared_svids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issued_certificates(&self) -> MutexGuard<'_, IssuedCertificates> {
        self.0.issued_certificates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A P-256 key for a holder who brought none.
fn generate_key() -> Result<(SubjectKey, Zeroizing<Vec<u8>>), Error> {
    let pkcs8 = IssuingKey::generate()?;
    // The public key is the end of ECPrivateKey (RFC 5915, section 3), and that of the document: reading the key back would
    // have it computed a second time.
    let point = pkcs8.last_chunk::<65>().filter(|point| point[0] == 4).ok_or(Error::Random)?;
    let subject_key = SubjectKey::from_point(point);
    Ok((subject_key, pkcs8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_key_matches_the_certified_public_key() {
        for _ in 0..100 {
            let (subject_key, pkcs8) = generate_key().unwrap();
            let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(0)).unwrap();
            assert_eq!(subject_key, SubjectKey::from_point(&key.jwk().p256_point().unwrap()));
        }
    }
}
