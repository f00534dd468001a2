//! What one stream keeps for its caller: a credential for each of its identities, renewed at half its life.

use std::future::Future;
use std::time::Duration;

use tonic::Status;

use super::grpc_status;
use crate::service::{AuthenticatedAgent, IdentityService, RequestError, RequestResult, Timestamp, jitter};

/// A credential is renewed so long before or after half its life at most, as a part of it: those who came together are
/// not to come together for ever.
const JITTER_DIVISOR: u32 = 20;
/// How soon what could not be renewed is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// The shortest sleep. Whoever follows is looked at anew every half minute, should the machine's clock be set meanwhile.
const MIN_REFRESH_DELAY: Duration = Duration::from_millis(100);
/// A clock that is set back further than leaves allow for makes them ones of the future.
const CLOCK_SKEW: Duration = Duration::from_secs(10);

/// What an identity is shown with.
pub trait StreamedSvid: Sized + Send + Sync + 'static {
    fn issue(
        service: &IdentityService,
        agent: &AuthenticatedAgent,
        denial_logged: bool,
    ) -> impl Future<Output = RequestResult<Self>> + Send;

    fn expires(&self) -> Timestamp;

    /// Random bits of it.
    fn jitter_seed(&self) -> u8;

    /// Whether it was revoked, as far as is known here.
    fn is_revoked(&self, service: &IdentityService) -> bool;
}

pub struct SvidCache<C> {
    entries: Vec<CachedSvid<C>>,
    /// When there is something to do, whatever else happens.
    next_refresh: Option<Timestamp>,
    service: IdentityService,
}

struct CachedSvid<C> {
    spiffe_id: String,
    /// The agent's name, by which a program may choose.
    hint: String,
    /// None for an identity that is refused.
    svid: Option<C>,
    issued_at: Timestamp,
    renew_at: Timestamp,
    /// Whether the record says already that there is none, or no next one.
    denial_logged: bool,
}

impl<C: StreamedSvid> SvidCache<C> {
    pub fn new(service: IdentityService) -> SvidCache<C> {
        SvidCache { entries: Vec::new(), next_refresh: None, service }
    }

    pub fn service(&self) -> &IdentityService {
        &self.service
    }

    /// Has a credential for each of `agents`, in their order, or for the one of them whose SPIFFE ID is `only`. Those that
    /// are refused are left out; where all are, the refusal is what the caller is told.
    pub async fn refresh(
        &mut self,
        agents: &[AuthenticatedAgent],
        requested_id: Option<&str>,
    ) -> Result<(), Status> {
        self.next_refresh = None;
        let spiffe_ids = self.service.spiffe_ids(agents).map_err(grpc_status::not_ready)?;
        let mut previous = std::mem::take(&mut self.entries);
        let mut first_error = None;
        for (agent, spiffe_id) in agents.iter().zip(spiffe_ids) {
            if requested_id.is_some_and(|requested_id| requested_id != spiffe_id) {
                continue;
            }
            let now = self.service.now();
            let old = previous
                .iter()
                .position(|cached| cached.spiffe_id == spiffe_id)
                .map(|index| previous.swap_remove(index));
            let denial_logged = old.as_ref().is_some_and(|cached| cached.denial_logged);
            let valid = old.filter(|cached| {
                cached.is_valid(&self.service, now) && self.service.posture_allows_identity(agent)
            });
            let cached = match valid {
                Some(cached) if !cached.needs_renewal(now) => cached,
                valid => match C::issue(&self.service, agent, denial_logged).await {
                    Ok(issued) => CachedSvid::new(spiffe_id, agent, issued.into_inner(), now),
                    Err(error) => {
                        self.next_refresh = Some(now.after(RETRY_DELAY));
                        let denial_logged = denial_logged || matches!(error, RequestError::Denied(_));
                        first_error = first_error.or(Some(error));
                        // What is there is good for the other half of its life.
                        let cached = valid.unwrap_or_else(|| CachedSvid::denied(spiffe_id, agent, now));
                        CachedSvid { denial_logged, ..cached }
                    }
                },
            };
            self.entries.push(cached);
        }
        if self.svids().next().is_some() {
            self.next_refresh =
                self.next_refresh.or_else(|| self.entries.iter().map(|cached| cached.renew_at).min());
            return Ok(());
        }
        Err(first_error.as_ref().map_or_else(grpc_status::no_identity, grpc_status::from_request_error))
    }

    /// Credentials with their hints; the default identity's comes first.
    pub fn svids(&self) -> impl Iterator<Item = (&C, &str)> {
        self.entries.iter().filter_map(|cached| Some((cached.svid.as_ref()?, cached.hint.as_str())))
    }

    pub fn next_refresh(&self) -> Option<Duration> {
        self.next_refresh.map(|next_refresh| next_refresh.since(self.service.now()).max(MIN_REFRESH_DELAY))
    }

    /// Whether anything in it is of use still.
    pub fn has_valid(&self) -> bool {
        let now = self.service.now();
        self.entries.iter().any(|cached| cached.is_valid(&self.service, now))
    }
}

impl<C: StreamedSvid> CachedSvid<C> {
    fn new(spiffe_id: String, agent: &AuthenticatedAgent, svid: C, now: Timestamp) -> CachedSvid<C> {
        let renew_at = renew_at(now, svid.expires(), svid.jitter_seed());
        let hint = agent.name().to_string();
        CachedSvid { spiffe_id, hint, svid: Some(svid), issued_at: now, renew_at, denial_logged: false }
    }

    fn denied(spiffe_id: String, agent: &AuthenticatedAgent, now: Timestamp) -> CachedSvid<C> {
        let hint = agent.name().to_string();
        CachedSvid {
            spiffe_id,
            hint,
            svid: None,
            issued_at: now,
            renew_at: now.after(RETRY_DELAY),
            denial_logged: true,
        }
    }

    fn is_valid(&self, service: &IdentityService, now: Timestamp) -> bool {
        let Some(svid) = &self.svid else { return false };
        svid.expires() > now && self.issued_at <= now.after(CLOCK_SKEW) && !svid.is_revoked(service)
    }

    fn needs_renewal(&self, now: Timestamp) -> bool {
        now >= self.renew_at
    }
}

/// Half of the life, give or take a part of it by chance.
fn renew_at(issued_at: Timestamp, expires: Timestamp, jitter_seed: u8) -> Timestamp {
    let lifetime = expires.since(issued_at);
    let jitter = jitter(lifetime / JITTER_DIVISOR * 2, u32::from_be_bytes([jitter_seed; 4]));
    issued_at.after(lifetime / 2 - lifetime / JITTER_DIVISOR + jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_jittered_around_half_life() {
        let issued_at = Timestamp::from_secs(1_800_000_000);
        let expires = issued_at.after(Duration::from_secs(3600));
        let after = |jitter_seed| renew_at(issued_at, expires, jitter_seed).since(issued_at).as_secs();
        assert_eq!((after(0), after(255)), (1620, 1980));
        assert!((1795..1805).contains(&after(127)));
    }
}
