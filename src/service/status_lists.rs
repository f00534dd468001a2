//! The status lists for relying parties: signed on a blocking thread when one is asked for and something has
//! changed, and kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::error::NotReady;
use super::identity_service::IdentityService;
use super::status_list_cache::Signed;
use crate::issue::{IssuerState, ValidNow};
use crate::mutex::lock;
use crate::wire::agent::StatusListsResponse;

/// How often a list is signed at most. A revocation is in the list within twice this time.
const MIN_INTERVAL: Duration = Duration::from_millis(450);
/// How long a request waits for a list that is being signed.
const SIGN_TIMEOUT: Duration = Duration::from_secs(2);
/// Every local process may ask, so the reason is for administrators only.
const NOT_READY: &str = "the status lists are not ready; administrators see the reason in hostbadge status";

/// A signed status list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusListDocument {
    /// The compact JWS.
    pub text: Bytes,
    /// How long a cache may keep it: a tenth of what a relying party may.
    pub max_age: Duration,
}

impl IdentityService {
    /// A status list of a tenant's issuer, or of the host's. `None` if the issuer has no list of this number.
    /// A list that a revocation has changed is signed again first.
    ///
    /// # Errors
    /// [`NotReady`] until keys, agents, revocations and lists are loaded.
    pub async fn status_list(
        &self,
        tenant: Option<&str>,
        number: &str,
    ) -> Result<Option<StatusListDocument>, NotReady> {
        // Each list has one address, without a sign or leading zeros.
        let Some(number) = number.parse().ok().filter(|parsed: &u32| parsed.to_string() == number) else {
            return Ok(None);
        };
        let deadline = Instant::now() + SIGN_TIMEOUT;
        loop {
            let issuer = self.ready_status_issuer()?;
            let lowest_epoch = match self.deps.status_lists.lookup(tenant, number) {
                Some(Some(lowest_epoch)) if issuer.issuer_of(tenant).is_ok() => lowest_epoch,
                Some(_) => return Ok(None),
                None => return Err(NotReady(NOT_READY.into())),
            };
            let (mut ended, kept) = {
                let mut slots = lock(&self.status_list_cache.slots);
                if !slots.contains_key(&number) {
                    slots.retain(|number, slot| slot.is_signing || self.deps.status_lists.has(*number));
                }
                let slot = slots.entry(number).or_default();
                if let Some(signed) = &slot.signed
                    && self.is_current(signed, &issuer, lowest_epoch)
                {
                    return Ok(Some(self.status_list_document(&signed.text)));
                }
                if !slot.is_signing {
                    slot.is_signing = true;
                    self.sign_soon(number, slot.begun);
                }
                (slot.ended.subscribe(), slot.signed.as_ref().map(|signed| signed.text.clone()))
            };
            if tokio::time::timeout_at(deadline, ended.changed()).await.is_err() {
                let kept = kept.ok_or_else(|| NotReady(NOT_READY.into()))?;
                return Ok(Some(self.status_list_document(&kept)));
            }
        }
    }

    /// The URIs of all status lists of a tenant's issuer, or of the host's. `None` if the tenant has no keys.
    ///
    /// # Errors
    /// [`NotReady`] until keys and lists are loaded.
    pub fn status_lists(&self, tenant: Option<&str>) -> Result<Option<StatusListsResponse>, NotReady> {
        let not_ready = || NotReady(NOT_READY.into());
        let issuer = self.deps.issuer.state().ok_or_else(not_ready)?;
        let numbers = self.deps.status_lists.numbers(tenant).ok_or_else(not_ready)?;
        let uris = issuer.status_list_uris(tenant, &numbers).ok();
        Ok(uris.map(|status_lists| StatusListsResponse { status_lists }))
    }

    /// The issuing keys, once it is known what is revoked: nothing may read revoked for lack of what is not
    /// loaded, since relying parties would keep it.
    fn ready_status_issuer(&self) -> Result<Arc<IssuerState>, NotReady> {
        let deps = &self.deps;
        let is_known = deps.agents.load_status().is_loaded && deps.revocations.is_open();
        deps.issuer.state().filter(|_| is_known).ok_or_else(|| NotReady(NOT_READY.into()))
    }

    fn status_list_document(&self, text: &Bytes) -> StatusListDocument {
        let max_age = (self.deps.status_lists.ttl() / 10).max(Duration::from_secs(1));
        StatusListDocument { text: text.clone(), max_age }
    }

    /// Whether nothing has changed since the list was signed, and less than half of its `ttl` has passed.
    /// `lowest_epoch` is that of the tokens that got an index since: one of an earlier epoch may be revoked.
    fn is_current(&self, signed: &Signed, issuer: &Arc<IssuerState>, lowest_epoch: u64) -> bool {
        let now = self.deps.clock.now();
        signed.generation == self.deps.revocations.generation()
            && signed.epoch <= lowest_epoch
            && std::ptr::eq(signed.registrations.as_ptr(), Arc::as_ptr(&self.deps.agents.registrations()))
            && std::ptr::eq(signed.issuer.as_ptr(), Arc::as_ptr(issuer))
            && signed.at <= now
            && now.since(signed.at) < self.deps.status_lists.ttl() / 2
    }

    /// Signs a list, at least [`MIN_INTERVAL`] after it was last signed. It goes on when the caller goes away.
    fn sign_soon(&self, number: u32, begun: Option<Instant>) {
        let service = self.clone();
        tokio::spawn(async move {
            if let Some(begun) = begun {
                tokio::time::sleep_until(begun + MIN_INTERVAL).await;
            }
            let begun = Instant::now();
            let signer = service.clone();
            let signed = tokio::task::spawn_blocking(move || signer.sign_status_list(number)).await;
            let mut slots = lock(&service.status_list_cache.slots);
            let Some(slot) = slots.get_mut(&number) else { return };
            // A list that could not be signed stays as it was, until it expires.
            if let Ok(Some(signed)) = signed {
                slot.signed = Some(signed);
            }
            (slot.is_signing, slot.begun) = (false, Some(begun));
            slot.ended.send_replace(());
        });
    }

    /// Blocking: a list with a million indices takes tens of milliseconds.
    fn sign_status_list(&self, number: u32) -> Option<Signed> {
        let deps = &self.deps;
        let issuer = self.ready_status_issuer().ok()?;
        let registrations = deps.agents.registrations();
        // Before the list: what changes from now on is in the next one.
        let (generation, epoch) = (deps.revocations.generation(), deps.revocations.current().latest_epoch());
        let list = deps.status_lists.snapshot(number)?;
        let valid = ValidNow {
            registrations: &registrations,
            revocations: &deps.revocations,
            invocations: &deps.invocations,
        };
        let at = deps.clock.now();
        let text = issuer
            .sign_status_list(&list, valid, deps.status_lists.ttl(), at)
            .inspect_err(|error| tracing::error!("status list {number} cannot be signed: {error}"))
            .ok()?;
        let (registrations, issuer) = (Arc::downgrade(&registrations), Arc::downgrade(&issuer));
        Some(Signed { text: text.into(), at, generation, epoch, registrations, issuer })
    }
}
