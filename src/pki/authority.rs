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

use super::book::{Book, Leaf, Written};
use super::issuing::IssuingCa;
use super::{Error, HolderKey};
use crate::clock::Timestamp;
use crate::issue::{Host, IssuingKey};
use crate::policy::{IdentityPermit, Reason, Refusal};
use crate::store;

/// All that certificates are issued by and checked with. Never changed: another is put in its place.
#[derive(Debug)]
pub struct InForce {
    pub(super) ca: Arc<IssuingCa>,
    /// DER each: what a chain has after the leaf.
    pub(super) above: Vec<Vec<u8>>,
    pub(super) bundle: Vec<Vec<u8>>,
    pub(super) crls: Vec<Vec<u8>>,
    pub(super) changed: Timestamp,
}

/// What a certificate is asked for with.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The key of whoever asks; none has one made.
    pub key: Option<HolderKey>,
    /// A shorter life than is usual.
    pub ttl: Option<Duration>,
}

/// From so many leaves of one identity on that have not expired, those that it takes more are one and the same: a program that
/// is started every second is to be served all day.
const SHARED_FROM: usize = 1024;

/// An X509-SVID, with what the record needs of it. Its key is not shown by `Debug`.
pub struct Certificate {
    permit: IdentityPermit,
    spiffe_id: String,
    made: Made,
    /// Whether others have it already.
    shared: bool,
}

/// What a certificate is, whoever has it.
#[derive(Clone)]
struct Made {
    at: Timestamp,
    serial: String,
    leaf: Leaf,
    chain: Vec<Vec<u8>>,
    /// Wiped when the last who holds it lets go.
    key: Option<Bytes>,
}

impl Certificate {
    pub fn permit(&self) -> &IdentityPermit {
        &self.permit
    }

    pub fn spiffe_id(&self) -> &str {
        &self.spiffe_id
    }

    /// In hexadecimal.
    pub fn serial(&self) -> &str {
        &self.made.serial
    }

    pub fn expires(&self) -> Timestamp {
        self.made.leaf.expires
    }

    /// DER each, the leaf first, without the root.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.made.chain
    }

    /// PKCS#8 (RFC 5958), DER, where the key was made here.
    pub fn key(&self) -> Option<&[u8]> {
        self.made.key.as_deref()
    }

    /// The same key without a copy; nothing where it was not made here.
    pub fn shared_key(&self) -> Bytes {
        self.made.key.clone().unwrap_or_default()
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("serial", &self.made.serial).finish_non_exhaustive()
    }
}

/// The host's authority. Cheap to clone; until something is in force it issues nothing.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    ttl: Duration,
    force: ArcSwapOption<InForce>,
    book: Mutex<Book>,
    /// By identity: what was made last, key and all, for those who are many.
    latest: Mutex<HashMap<String, Made>>,
    changed: watch::Sender<u64>,
    waits: watch::Sender<Option<String>>,
}

/// How the authority is, for administrators.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Until when the issuing CA in force can sign; none where there is none.
    pub issues_until: Option<Timestamp>,
    /// Why a change that is due is not made.
    pub waits: Option<String>,
}

impl Authority {
    /// `ttl`: how long leaves live where nobody asks for less.
    pub fn new(ttl: Duration) -> Authority {
        Authority(Arc::new(Inner {
            ttl,
            force: ArcSwapOption::empty(),
            book: Mutex::default(),
            latest: Mutex::default(),
            changed: watch::Sender::new(0),
            waits: watch::Sender::new(None),
        }))
    }

    /// Issues what was permitted.
    pub fn issue(
        &self,
        permit: IdentityPermit,
        host: &Host,
        wanted: Wanted,
        now: Timestamp,
    ) -> Result<Certificate, Refusal> {
        let agent = permit.agent().clone();
        let refuse = |reason, what: String| Refusal::new(reason, what).by(agent.peer()).of(agent.name());
        let broken = |e: Error| refuse(Reason::ServerError, e.to_string());
        let not_now = |what: &str| refuse(Reason::TemporarilyUnavailable, what.into());
        let force = self.0.force.load_full();
        let force = force.ok_or_else(|| not_now("the host's CA is being made; try again in a moment"))?;
        if let Some(why) = force.ca.why_not_at(now) {
            return Err(not_now(why));
        }
        let spiffe_id = host.spiffe_id(agent.entry());
        let (holder, key) = match wanted.key {
            Some(holder) => (holder, None),
            None => make_key().map(|(holder, key)| (holder, Some(Bytes::from_owner(key)))).map_err(broken)?,
        };
        let ttl = wanted.ttl.map_or(self.0.ttl, |ttl| ttl.min(self.0.ttl));
        let (certificate, leaf) = force.ca.leaf(&spiffe_id, &holder, ttl, now).map_err(broken)?;
        self.book().add(&spiffe_id, leaf, now).map_err(|full| {
            let what = match full.own {
                true => "this agent has as many certificates that have not expired as it may",
                false => "as many certificates have not expired as this host issues",
            };
            let mut refusal = refuse(Reason::SlowDown, format!("{what}; ask again later"));
            refusal.retry_after = Some(full.retry_after);
            refusal
        })?;
        let chain = std::iter::once(certificate).chain(force.above.iter().cloned()).collect();
        let serial = HEXLOWER.encode(&leaf.serial);
        let made = Made { at: now, serial, leaf, chain, key };
        Ok(Certificate { permit, spiffe_id, made, shared: false })
    }

    /// The same with a key made here, for one of an agent's streams. Each has its own unless they are very many: then
    /// they share the one that was made last, for the first half of its life.
    pub fn issue_to_stream(
        &self,
        permit: IdentityPermit,
        host: &Host,
        now: Timestamp,
    ) -> Result<Certificate, Refusal> {
        let spiffe_id = host.spiffe_id(permit.agent().entry());
        if let Some(made) = self.shared(&spiffe_id, now) {
            return Ok(Certificate { permit, spiffe_id, made, shared: true });
        }
        self.issue(permit, host, Wanted::default(), now)
    }

    /// Lets streams share a certificate that is in the record, where they are so many. No other's key is kept here.
    pub fn share(&self, certificate: &Certificate) {
        let id = &certificate.spiffe_id;
        if !certificate.shared && self.book().count_of(id) >= SHARED_FROM {
            self.latest().insert(id.clone(), certificate.made.clone());
        }
    }

    /// What [`Authority::take_back`] is told of a certificate; nothing where others have it.
    pub fn trace(certificate: &Certificate) -> Option<(String, Leaf)> {
        (!certificate.shared).then(|| (certificate.spiffe_id.clone(), certificate.made.leaf))
    }

    /// Forgets a certificate that nobody was given: it takes the room of none that is out there.
    pub fn take_back(&self, (id, leaf): (String, Leaf)) {
        self.book().strike(&id, &[leaf]);
    }

    fn shared(&self, spiffe_id: &str, now: Timestamp) -> Option<Made> {
        if self.book().count_of(spiffe_id) < SHARED_FROM {
            return None;
        }
        let made = self.latest().get(spiffe_id).cloned()?;
        let young = made.at <= now && now.since(made.at) < made.leaf.expires.since(made.at) / 2;
        (young && self.book().has(spiffe_id, &made.serial)).then_some(made)
    }

    /// How long certificates live where nobody asks for less.
    pub fn ttl(&self) -> Duration {
        self.0.ttl
    }

    /// Whether a certificate is neither expired nor revoked, as far as is known here.
    pub fn knows(&self, certificate: &Certificate) -> bool {
        self.book().has(&certificate.spiffe_id, &certificate.made.serial)
    }

    /// Whether certificates are issued.
    pub fn stands(&self) -> bool {
        self.0.force.load().is_some()
    }

    /// The roots of this host's trust domain, DER each; none before the authority stands.
    pub fn bundle(&self) -> Vec<Vec<u8>> {
        self.0.force.load().as_ref().map_or_else(Vec::new, |force| force.bundle.clone())
    }

    /// One list, DER, for each issuing CA that has not expired. Bounded to some 700 KiB altogether.
    pub fn crls(&self) -> Vec<Vec<u8>> {
        self.0.force.load().as_ref().map_or_else(Vec::new, |force| force.crls.clone())
    }

    /// When one of these was changed last, through restarts too.
    pub fn changed_at(&self) -> Timestamp {
        self.0.force.load().as_ref().map_or(Timestamp::from_secs(0), |force| force.changed)
    }

    /// Another number each time that issuing CA, bundle or lists are others. Leaves stay good through it.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// The number that [`Authority::changed`] gives.
    pub fn state(&self) -> u64 {
        *self.0.changed.borrow()
    }

    pub fn report(&self) -> Report {
        let issues_until = self.0.force.load().as_ref().map(|force| force.ca.until());
        Report { issues_until, waits: self.0.waits.borrow().clone() }
    }

    // === for whoever keeps it ===

    /// What keeps a change that is due from being made.
    pub fn waits(&self) -> &watch::Sender<Option<String>> {
        &self.0.waits
    }

    /// Puts something in force, or nothing.
    pub fn set(&self, force: Option<InForce>) {
        self.0.force.store(force.map(Arc::new));
        self.0.changed.send_modify(|number| *number += 1);
    }

    /// Takes up the leaves of an earlier start.
    pub fn read_leaves(&self, dir: &Path) -> Result<(), store::Error> {
        *self.book() = Book::read(dir)?;
        Ok(())
    }

    /// Writes down which leaves there are, if that is news. Blocking.
    pub fn write_leaves(&self, dir: &Path, now: Timestamp) -> Result<(), store::Error> {
        // Nor is a key kept longer than it is of use.
        self.latest().retain(|_, made| made.leaf.expires > now);
        let Some(written) = self.book().take_changes(now) else { return Ok(()) };
        Written::write(&written, dir).inspect_err(|_| self.book().changed())
    }

    /// The leaves of identities that are not there any more.
    pub fn leaves_of_others(&self, is_there: impl Fn(&str) -> bool) -> Vec<(Arc<str>, Vec<Leaf>)> {
        self.book().of_others(is_there)
    }

    /// Forgets leaves that are on a list now.
    pub fn strike(&self, id: &str, revoked: &[Leaf]) {
        self.latest().remove(id);
        self.book().strike(id, revoked);
    }

    fn latest(&self) -> MutexGuard<'_, HashMap<String, Made>> {
        self.0.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A P-256 key for a holder who brought none.
fn make_key() -> Result<(HolderKey, Zeroizing<Vec<u8>>), Error> {
    let pkcs8 = IssuingKey::generate()?;
    // The public key is the end of ECPrivateKey (RFC 5915, section 3), and that of the document: reading the key back would
    // have it computed a second time.
    let point = pkcs8.last_chunk::<65>().filter(|point| point[0] == 4).ok_or(Error::Random)?;
    let holder = HolderKey::of_point(point);
    Ok((holder, pkcs8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_made_is_the_one_that_is_certified() {
        for _ in 0..100 {
            let (holder, pkcs8) = make_key().unwrap();
            let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(0)).unwrap();
            assert_eq!(holder, HolderKey::of_point(&key.jwk().point().unwrap()));
        }
    }
}
