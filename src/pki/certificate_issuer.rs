//! Issues certificates for what policy permitted, and publishes what relying parties verify them with. All in
//! memory.

mod management;
mod rotation;
mod tenant_quota;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use tokio::sync::{Notify, watch};
use zeroize::Zeroizing;

use super::ca_rotation::CaRotationRequest;
use super::csr::SubjectKey;
use super::error::Error;
use super::invocation_tag::InvocationTag;
use super::issued::{IssuedCertificates, QuotaExceeded};
use super::issued_file::LeafRecord;
use super::issuing_ca::IssuingCa;
use super::lost_records::LostRecords;
use super::quota::BoundReached;
use super::svid::{IssuedLeaf, IssuedX509Svid};
use crate::agents::MatchTag;
use crate::clock::{Clock, Timestamp};
use crate::issue::{HostIdentity, IssuingKey, KeyReport};
use crate::mutex::lock;
use crate::policy::{ErrorCode, IdentityPermit, Refusal};

/// The CA state that certificates are issued from and verified with. Immutable: a change replaces the whole
/// snapshot.
#[derive(Debug)]
pub struct CaSnapshot {
    pub(super) issuing_ca: Arc<IssuingCa>,
    /// DER certificates that follow the leaf in a chain.
    pub(super) intermediates: Vec<Vec<u8>>,
    /// DER root certificates.
    pub(super) bundle: Vec<Vec<u8>>,
    /// DER CRLs.
    pub(super) crls: Vec<Bytes>,
    /// Greater at each change of the bundle and the CRLs.
    pub(super) number: u64,
    /// The keys of the CA, for administrators.
    pub(super) key_reports: Vec<KeyReport>,
}

/// Parameters of a certificate that a caller may choose.
#[derive(Clone, Debug, Default)]
pub struct CertificateParams {
    /// The caller's own key; `None` has one generated.
    pub key: Option<SubjectKey>,
    /// A shorter lifetime than the configured one, which is also the upper bound.
    pub ttl: Option<Duration>,
}

/// From this many unexpired leaves of one identity on, its streams share the latest certificate instead of
/// getting one each, so that an agent that is started every second does not exhaust its quota within a day.
const SHARING_THRESHOLD: usize = 1024;
/// How long a request waits for a usable issuing CA, if the CA manager can create one: a signature of the
/// TPM.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Issues X509-SVIDs from the active [`CaSnapshot`]. Cheap to clone; issues nothing before the first
/// snapshot.
#[derive(Clone)]
pub struct CertificateIssuer(Arc<CertificateIssuerInner>);

struct CertificateIssuerInner {
    ttl: Duration,
    active: ArcSwapOption<CaSnapshot>,
    issued_certificates: Mutex<IssuedCertificates>,
    /// For identities above the threshold: the latest certificate and its key, by SPIFFE ID.
    shared_svids: Mutex<HashMap<String, IssuedLeaf>>,
    generation: watch::Sender<u64>,
    blocked_reason: watch::Sender<Option<String>>,
    /// Wakes the CA manager.
    renewal_wanted: Notify,
    /// Wakes the CA manager.
    rotation_wanted: Notify,
    rotation_requests: Mutex<VecDeque<CaRotationRequest>>,
    /// Held while `leaves.json` is written.
    saving: Mutex<()>,
    lost_records: Mutex<Option<LostRecords>>,
    future_leaves: AtomicUsize,
}

/// The state of the host's CA, for administrators.
#[derive(Clone, Debug)]
pub struct CaReport {
    /// When the active issuing CA expires; `None` before there is one.
    pub issues_until: Option<Timestamp>,
    /// Why a due change of the CA has not been made.
    pub blocked_reason: Option<String>,
    /// Certificates that cannot be revoked, because their records were lost.
    pub lost_records: Option<LostRecords>,
    /// How many certificates were issued while the clock was ahead, if it is right now.
    pub future_certificates: usize,
}

impl CertificateIssuer {
    /// An issuer of certificates with the lifetime `ttl`, where the caller asks for no shorter one.
    pub fn new(ttl: Duration) -> CertificateIssuer {
        CertificateIssuer(Arc::new(CertificateIssuerInner {
            ttl,
            active: ArcSwapOption::empty(),
            issued_certificates: Mutex::new(IssuedCertificates::new(ttl)),
            shared_svids: Mutex::default(),
            generation: watch::Sender::new(0),
            blocked_reason: watch::Sender::new(None),
            renewal_wanted: Notify::new(),
            rotation_wanted: Notify::new(),
            rotation_requests: Mutex::default(),
            saving: Mutex::new(()),
            lost_records: Mutex::new(None),
            future_leaves: AtomicUsize::new(0),
        }))
    }

    /// Waits while the issuing CA is not usable by this clock and the CA manager can create another, at most
    /// 5 s: after the host slept, or the clock was set, the first request would be refused otherwise.
    pub async fn wait_until_usable(&self, clock: &Clock) {
        let (mut generation, mut blocked) = (self.subscribe(), self.0.blocked_reason.subscribe());
        let wait =
            async {
                loop {
                    generation.borrow_and_update();
                    let is_usable =
                        self.0.active.load().as_ref().is_none_or(|snapshot| {
                            snapshot.issuing_ca.unusable_reason(clock.now()).is_none()
                        });
                    if is_usable || blocked.borrow_and_update().is_some() {
                        return;
                    }
                    self.0.renewal_wanted.notify_one();
                    // Fails only if the sender is gone, which this issuer holds.
                    tokio::select! {
                        _ = generation.changed() => {}
                        _ = blocked.changed() => {}
                    }
                }
            };
        let _ = tokio::time::timeout(RENEWAL_TIMEOUT, wait).await;
    }

    /// Issues a certificate for a permitted identity.
    ///
    /// # Errors
    ///
    /// `temporarily_unavailable` without a usable issuing CA, `slow_down` if the agent or the host has too
    /// many unexpired certificates, `server_error` if signing fails.
    pub fn issue(
        &self,
        permit: IdentityPermit,
        host: &HostIdentity,
        params: CertificateParams,
        now: Timestamp,
    ) -> Result<IssuedX509Svid, Refusal> {
        let reject = |reason, message: String| refusal(&permit, reason, message);
        let internal_error = |e: Error| reject(ErrorCode::ServerError, e.to_string());
        let unavailable = |message: &str| reject(ErrorCode::TemporarilyUnavailable, message.into());
        let active = self.0.active.load_full();
        let active =
            active.ok_or_else(|| unavailable("the host's CA is being created; try again in a moment"))?;
        if let Some(reason) = active.issuing_ca.unusable_reason(now) {
            return Err(unavailable(reason));
        }
        let spiffe_id = host.spiffe_id(permit.agent().entry());
        // Before a key is generated, so that a caller beyond its quota costs no more than a lookup.
        self.check_quota(&permit, host, now)?;
        let (subject_key, key) = match params.key {
            Some(subject_key) => (subject_key, None),
            None => generate_key()
                .map(|(subject_key, key)| (subject_key, Some(Bytes::from_owner(key))))
                .map_err(internal_error)?,
        };
        let key_digest = subject_key.short_digest();
        let ttl = params.ttl.map_or(self.0.ttl, |ttl| ttl.min(self.0.ttl));
        let ttl = permit.agent().cap(ttl, now);
        let (certificate, leaf) =
            active.issuing_ca.sign_leaf(&spiffe_id, &subject_key, ttl, now).map_err(internal_error)?;
        let invocation = permit.agent().peer().invocation.as_deref().and_then(InvocationTag::of_id);
        let leaf = LeafRecord { match_tag: Some(permit.agent().match_tag()), invocation, ..leaf };
        let added = self.issued_certificates().add(&spiffe_id, leaf, now);
        added.map_err(|exceeded| quota_refusal(&permit, exceeded))?;
        let chain = std::iter::once(certificate).chain(active.intermediates.iter().cloned()).collect();
        let serial = HEXLOWER.encode(&leaf.serial);
        let issued = IssuedLeaf { issued_at: now, serial, record: leaf, chain, key };
        Ok(IssuedX509Svid { permit, spiffe_id, issued, key_digest: Some(key_digest), shared: false })
    }

    /// Checks that the agent can have one more unexpired certificate, before the caller computes anything for
    /// it. [`CertificateIssuer::issue`] checks the same.
    ///
    /// # Errors
    ///
    /// `slow_down` if it has its share, and no more is left beyond the shares.
    pub fn check_quota(
        &self,
        permit: &IdentityPermit,
        host: &HostIdentity,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let spiffe_id = host.spiffe_id(permit.agent().entry());
        let checked = self.issued_certificates().check(&spiffe_id, now);
        checked.map_err(|exceeded| quota_refusal(permit, exceeded))
    }

    /// Issues a certificate with a generated key for one stream of an agent. Above 1024 unexpired
    /// certificates of the identity, the streams share the latest one for the first half of its lifetime;
    /// while the identity can have no more, for most of it. Only processes that met the same conditions share
    /// one.
    ///
    /// # Errors
    ///
    /// As of [`CertificateIssuer::issue`].
    pub fn issue_for_stream(
        &self,
        permit: IdentityPermit,
        host: &HostIdentity,
        now: Timestamp,
    ) -> Result<IssuedX509Svid, Refusal> {
        let spiffe_id = host.spiffe_id(permit.agent().entry());
        if let Some(issued) = self.shared_svid(&spiffe_id, permit.agent().match_tag(), now) {
            return Ok(IssuedX509Svid { permit, spiffe_id, issued, key_digest: None, shared: true });
        }
        self.issue(permit, host, CertificateParams::default(), now)
    }

    /// Keeps an audited certificate and its key for the identity's other streams, if the identity is above
    /// the threshold or can have no more. Keys of other certificates are not kept.
    pub fn cache_for_sharing(&self, certificate: &IssuedX509Svid) {
        let id = &certificate.spiffe_id;
        if certificate.shared {
            return;
        }
        let is_shared = {
            let mut issued = self.issued_certificates();
            let is_shared = issued.count_for(id) >= SHARING_THRESHOLD
                || issued.check(id, certificate.issued.issued_at).is_err();
            if is_shared {
                issued.share(id, &certificate.issued.record.serial);
            }
            is_shared
        };
        if is_shared {
            self.shared_svids().insert(id.clone(), certificate.issued.clone());
        }
    }

    /// What [`CertificateIssuer::forget`] needs of a certificate; `None` if earlier callers have received it.
    pub fn record_of(certificate: &IssuedX509Svid) -> Option<(String, LeafRecord)> {
        (!certificate.shared).then(|| (certificate.spiffe_id.clone(), certificate.issued.record))
    }

    /// Drops the record of a certificate that no caller received, so that it does not count against the
    /// quota.
    pub fn forget(&self, (id, leaf): (String, LeafRecord)) {
        self.issued_certificates().remove(&id, &[leaf]);
    }

    fn shared_svid(&self, spiffe_id: &str, match_tag: MatchTag, now: Timestamp) -> Option<IssuedLeaf> {
        let issued = self.shared_svids().get(spiffe_id).cloned()?;
        // After a change of `[match]`, a process that no longer matches may have the key.
        if issued.record.match_tag != Some(match_tag) {
            return None;
        }
        let lifetime = issued.record.expires.since(issued.issued_at);
        let mut records = self.issued_certificates();
        let max_age = match records.check(spiffe_id, now) {
            Ok(()) if records.count_for(spiffe_id) < SHARING_THRESHOLD => return None,
            Ok(()) => lifetime / 2,
            // Its streams would get nothing else.
            Err(_) => lifetime / 10 * 9,
        };
        let is_fresh = issued.issued_at <= now && now.since(issued.issued_at) < max_age;
        (is_fresh && records.contains(spiffe_id, &issued.serial)).then_some(issued)
    }

    /// The configured lifetime of certificates.
    pub fn ttl(&self) -> Duration {
        self.0.ttl
    }

    /// Whether a certificate is recorded as issued: it is neither revoked nor dropped as expired.
    pub fn is_valid(&self, certificate: &IssuedX509Svid) -> bool {
        self.issued_certificates().contains(&certificate.spiffe_id, &certificate.issued.serial)
    }

    /// Whether a certificate with this serial number in hexadecimal is recorded as issued to this SPIFFE ID.
    pub(super) fn is_recorded(&self, spiffe_id: &str, serial: &str) -> bool {
        self.issued_certificates().contains(spiffe_id, serial)
    }

    /// The certificates between leaves and the roots, DER; empty before the first snapshot.
    pub(super) fn intermediates(&self) -> Vec<Vec<u8>> {
        self.0.active.load().as_ref().map_or_else(Vec::new, |snapshot| snapshot.intermediates.clone())
    }

    /// Whether there is an active snapshot.
    pub fn is_ready(&self) -> bool {
        self.0.active.load().is_some()
    }

    /// The root certificates of the host's trust domain, DER; empty before the first snapshot.
    pub fn bundle(&self) -> Vec<Vec<u8>> {
        self.0.active.load().as_ref().map_or_else(Vec::new, |snapshot| snapshot.bundle.clone())
    }

    /// One CRL (DER) for each issuing CA that has not expired for certain, about 1.3 MiB altogether at most.
    pub fn crls(&self) -> Vec<Bytes> {
        self.0.active.load().as_ref().map_or_else(Vec::new, |snapshot| snapshot.crls.clone())
    }

    /// A number that is greater after each change of the bundle and the CRLs, also across restarts and
    /// whatever the clock says.
    pub fn bundle_number(&self) -> u64 {
        self.0.active.load().as_ref().map_or(0, |snapshot| snapshot.number)
    }

    /// The generation of the active snapshot, now and at each change. Issued leaves remain valid across
    /// changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// The number that [`CertificateIssuer::subscribe`] watches.
    pub fn generation(&self) -> u64 {
        *self.0.generation.borrow()
    }

    /// The state for administrators.
    pub fn report(&self, now: Timestamp) -> CaReport {
        CaReport {
            issues_until: self.0.active.load().as_ref().map(|snapshot| snapshot.issuing_ca.not_after()),
            blocked_reason: self.0.blocked_reason.borrow().clone(),
            lost_records: lock(&self.0.lost_records).clone().filter(|lost| now < lost.until),
            future_certificates: self.0.future_leaves.load(Ordering::Relaxed),
        }
    }

    fn shared_svids(&self) -> MutexGuard<'_, HashMap<String, IssuedLeaf>> {
        lock(&self.0.shared_svids)
    }

    fn issued_certificates(&self) -> MutexGuard<'_, IssuedCertificates> {
        lock(&self.0.issued_certificates)
    }
}

fn refusal(permit: &IdentityPermit, reason: ErrorCode, message: String) -> Refusal {
    let agent = permit.agent();
    Refusal::new(reason, message).with_peer(agent.peer()).with_agent(agent.name())
}

fn quota_refusal(permit: &IdentityPermit, exceeded: QuotaExceeded) -> Refusal {
    let message = match exceeded.bound {
        BoundReached::OfIdentity => "this agent has reached its maximum number of unexpired certificates",
        BoundReached::OfAll => {
            "this agent has its share of the unexpired certificates of this host, and no more are left"
        }
    };
    let mut refusal = refusal(permit, ErrorCode::SlowDown, format!("{message}; ask again later"));
    refusal.retry_after = Some(exceeded.retry_after);
    // The agent has its share, and others have what is beyond.
    refusal.is_imposed = matches!(exceeded.bound, BoundReached::OfAll);
    refusal
}

/// A P-256 key for a caller without one: the public half, and PKCS#8.
fn generate_key() -> Result<(SubjectKey, Zeroizing<Vec<u8>>), Error> {
    let pkcs8 = IssuingKey::generate()?;
    // The public key is the end of ECPrivateKey (RFC 5915, section 3), and so of the document. Parsing the
    // key would compute the public key a second time.
    let point = pkcs8.last_chunk::<65>().filter(|point| point[0] == 4);
    let subject_key = SubjectKey::from_point(point.ok_or(Error::UnexpectedEncoding("generated key"))?)?;
    Ok((subject_key, pkcs8))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that the agent's present conditions exclude may have the key of a certificate from before.
    #[test]
    fn processes_of_different_conditions_share_no_key() {
        const ID: &str = "spiffe://example.org/a";
        let now = Timestamp::from_secs(1_700_000_000);
        let hour = Duration::from_secs(3600);
        let [old, new] = [1, 2].map(|n| MatchTag::from_bytes([0, 0, 0, n]).unwrap());
        let issuer = CertificateIssuer::new(hour);
        let record = |n: u64| {
            let mut serial = [0; 16];
            serial[..8].copy_from_slice(&n.to_be_bytes());
            LeafRecord {
                serial,
                expires: now.after(hour),
                ca_tag: *b"ca 1",
                match_tag: Some(old),
                invocation: None,
            }
        };
        for n in 0..SHARING_THRESHOLD as u64 {
            issuer.issued_certificates().add(ID, record(n), now).unwrap();
        }
        let (record, key) = (record(0), Bytes::from_static(b"key"));
        let serial = HEXLOWER.encode(&record.serial);
        let issued = IssuedLeaf { issued_at: now, serial, record, chain: Vec::new(), key: Some(key) };
        issuer.shared_svids().insert(ID.into(), issued);
        let key = |match_tag| issuer.shared_svid(ID, match_tag, now).and_then(|issued| issued.key);
        assert_eq!((key(old).as_deref(), key(new)), (Some(&b"key"[..]), None));
    }

    #[test]
    fn generated_key_matches_the_certified_public_key() {
        for _ in 0..100 {
            let (subject_key, pkcs8) = generate_key().unwrap();
            let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(0)).unwrap();
            assert_eq!(subject_key, SubjectKey::from_point(&key.jwk().p256_point().unwrap()).unwrap());
        }
    }
}
