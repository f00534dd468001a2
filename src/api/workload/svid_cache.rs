//! The credentials of one stream: an SVID for each of the caller's agents, renewed at half its lifetime.

use std::future::Future;
use std::time::Duration;

use tonic::Status;

use super::grpc_status;
use crate::service::{
    AuthenticatedAgent, IdentityService, MatchTag, RequestError, RequestResult, Timestamp, jitter,
};

/// Renewal jitter: plus or minus 1/20 of the lifetime, so that streams that were opened together do not renew
/// together.
const JITTER_DIVISOR: u32 = 20;
/// Delay of another attempt after a renewal failed.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// Shortest delay until the next refresh. A clock that is set meanwhile is noticed within 30 s, when the
/// caller is identified again.
const MIN_REFRESH_DELAY: Duration = Duration::from_millis(100);
/// An SVID that was issued more than this in the future is renewed: the clock was set back, and verifiers
/// refuse it.
const CLOCK_SKEW: Duration = Duration::from_secs(10);

/// A kind of SVID that streams deliver.
pub trait StreamedSvid: Sized + Send + Sync + 'static {
    /// Issues an SVID. With `denial_logged`, a refusal is not recorded again.
    fn issue(
        service: &IdentityService,
        agent: &AuthenticatedAgent,
        denial_logged: bool,
    ) -> impl Future<Output = RequestResult<Self>> + Send;

    /// End of validity.
    fn expires(&self) -> Timestamp;

    /// A random byte that belongs to this SVID.
    fn jitter_seed(&self) -> u8;

    /// Whether this host revoked it or its signing key.
    fn is_revoked(&self, service: &IdentityService) -> bool;
}

/// The credentials of one stream.
pub struct SvidCache<C> {
    entries: Vec<CachedSvid<C>>,
    /// When the next renewal is due.
    next_refresh: Option<Timestamp>,
    service: IdentityService,
}

struct CachedSvid<C> {
    spiffe_id: String,
    /// The agent's name, by which a client can choose.
    hint: String,
    /// The conditions that the process met when the SVID was issued.
    match_tag: MatchTag,
    /// `None` where the agent was refused.
    svid: Option<C>,
    issued_at: Timestamp,
    renew_at: Timestamp,
    /// Whether the last refusal of this agent is in the audit log.
    denial_logged: bool,
}

impl<C: StreamedSvid> SvidCache<C> {
    /// A cache without credentials yet.
    pub fn new(service: IdentityService) -> SvidCache<C> {
        SvidCache { entries: Vec::new(), next_refresh: None, service }
    }

    /// The service that issues.
    pub fn service(&self) -> &IdentityService {
        &self.service
    }

    /// Issues and renews credentials for `agents`, in their order, or for the one whose SPIFFE ID is
    /// `requested_id`. Agents that are refused have no credential.
    ///
    /// # Errors
    /// The first refusal, where all agents are refused.
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
                cached.match_tag == agent.match_tag()
                    && cached.is_valid(&self.service, now)
                    && self.service.may_have_identity(agent)
            });
            let cached = match valid {
                Some(cached) if !cached.needs_renewal(now) => cached,
                valid => match C::issue(&self.service, agent, denial_logged).await {
                    Ok(issued) => CachedSvid::new(spiffe_id, agent, issued.into_inner(), now),
                    Err(error) => {
                        self.next_refresh = Some(now.after(RETRY_DELAY));
                        let denial_logged = denial_logged || matches!(error, RequestError::Denied(_));
                        first_error = first_error.or(Some(error));
                        // The previous SVID stays valid for the other half of its lifetime.
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

    /// Credentials with their hints, the default identity first.
    pub fn svids(&self) -> impl Iterator<Item = (&C, &str)> {
        self.entries.iter().filter_map(|cached| Some((cached.svid.as_ref()?, cached.hint.as_str())))
    }

    /// Delay until the next renewal is due.
    pub fn next_refresh(&self) -> Option<Duration> {
        self.next_refresh.map(|next_refresh| next_refresh.since(self.service.now()).max(MIN_REFRESH_DELAY))
    }

    /// Whether a credential is valid now.
    pub fn has_valid(&self) -> bool {
        let now = self.service.now();
        self.entries.iter().any(|cached| cached.is_valid(&self.service, now))
    }
}

impl<C: StreamedSvid> CachedSvid<C> {
    fn new(spiffe_id: String, agent: &AuthenticatedAgent, svid: C, now: Timestamp) -> CachedSvid<C> {
        let renew_at = renew_at(now, svid.expires(), svid.jitter_seed());
        CachedSvid {
            spiffe_id,
            hint: agent.name().to_string(),
            match_tag: agent.match_tag(),
            svid: Some(svid),
            issued_at: now,
            renew_at,
            denial_logged: false,
        }
    }

    fn denied(spiffe_id: String, agent: &AuthenticatedAgent, now: Timestamp) -> CachedSvid<C> {
        CachedSvid {
            spiffe_id,
            hint: agent.name().to_string(),
            match_tag: agent.match_tag(),
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

/// Half of the lifetime with jitter.
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
