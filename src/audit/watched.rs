//! Passes decisions that were recorded to the rules for anomalies.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::event::Event;
use super::record::Noted;
use crate::anomaly::{Act, Anomalies, Executable, KeyUse, Observation};
use crate::clock::BACKDATE;
use crate::issue::Introspection;
use crate::peer::Peer;

/// A token's lifetime may be shorter than its grant's by this: rounding, and the time that its start is set back.
const LIFETIME_MARGIN: Duration = Duration::from_secs(BACKDATE.as_secs() + 2);

/// The rules, once they are there. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Watched(Arc<OnceLock<Anomalies>>);

impl Watched {
    pub(super) fn set(&self, anomalies: Anomalies) {
        // There is one set of profiles in a process.
        let _ = self.0.set(anomalies);
    }

    /// A decision was recorded.
    pub(super) fn note(&self, noted: &Noted<'_>) {
        let (Some(anomalies), Some(agent)) = (self.0.get(), noted.agent) else { return };
        let entry = noted.subject.map(|subject| subject.entry());
        anomalies.observe(&Observation {
            time: noted.time,
            boot: anomalies.clock().boot_time(),
            agent,
            tenant: noted.tenant,
            act: act(noted),
            exe: executable(noted.peer),
            stated_hours: entry.and_then(|entry| entry.anomaly.stated_hours.as_deref()),
        });
    }

    /// The answer to an introspection was recorded.
    pub(super) fn note_introspection(&self, introspection: &Introspection) {
        let (Some(anomalies), Some(claims)) = (self.0.get(), introspection.claims.as_ref()) else { return };
        let text = |name: &str| claims[name].as_str();
        if let (Some(agent), Some(audience), Some(jti)) = (text("client_id"), text("aud"), text("jti")) {
            anomalies.note_token_use(agent, audience, jti);
        }
    }
}

/// The executable, unless the process does not run yet: it is that of the service manager then.
fn executable(peer: &Peer) -> Option<Executable<'_>> {
    if peer.is_future {
        return None;
    }
    Some(Executable { path: peer.exe()?, version: peer.exe_file_id()?, file: peer.exe_lasting_id()? })
}

fn act<'a>(noted: &Noted<'a>) -> Act<'a> {
    match noted.event {
        Event::SvidIssued => Act::JwtSvid(noted.audience.unwrap_or_default()),
        Event::TokenIssued => {
            let lifetime = noted.expires.map_or(Duration::ZERO, |expires| expires.since(noted.time));
            Act::Token {
                audiences: noted.audience.unwrap_or_default(),
                jti: noted.jti.unwrap_or_default(),
                lifetime,
                is_longest: is_longest(noted, lifetime),
            }
        }
        Event::CertificateIssued | Event::WitSvidIssued => Act::Identity(key_use(noted)),
        Event::CredentialReleased => Act::Credential(noted.credential.unwrap_or_default()),
        Event::ProofIssued if let Some(credential) = noted.credential => Act::Credential(credential),
        Event::ApprovalRequested | Event::RequestRefused => {
            Act::Refused { credential: noted.credential, count: noted.own_refusals }
        }
        _ => Act::Other,
    }
}

/// The key of a certificate, and the invocation in which the agent has it.
fn key_use<'a>(noted: &Noted<'a>) -> Option<KeyUse<'a>> {
    Some(KeyUse { key: noted.key_digest?, invocation: noted.peer.invocation.as_deref()? })
}

/// Whether an access token has the lifetime of its grant.
fn is_longest(noted: &Noted<'_>, lifetime: Duration) -> Option<bool> {
    let grant = noted.subject?.entry().grant(noted.audience?)?.item;
    Some(lifetime + LIFETIME_MARGIN >= grant.ttl)
}

#[cfg(test)]
mod tests {
    use super::super::{Audit, Journal};
    use super::*;
    use crate::agents::AgentName;
    use crate::clock::{Clock, Zone};
    use crate::config::{AnomalyRule, AuditSection, LogTarget};
    use crate::peer::{CgroupNames, PeerInfo};
    use crate::policy::{ErrorCode, Refusal};

    #[tokio::test]
    async fn only_refusals_that_the_agent_caused_itself_are_a_burst_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::start(LogTarget::Stderr, Clock::System).unwrap();
        let audit = Audit::open(dir.path(), AuditSection::default(), journal, Clock::System).unwrap();
        let anomalies = Anomalies::new(Clock::System, Zone::utc(), Duration::from_secs(7 * 24 * 3600));
        let mut alerts = anomalies.take_receiver().unwrap();
        audit.watch(anomalies);
        let peer = Peer::of_test(PeerInfo::of_test(0, 0, None, CgroupNames::default(), None));
        let refusal =
            |code| Refusal::new(code, "no").with_peer(&peer).with_agent(&AgentName::parse("a").unwrap());
        // Callers that are no agent, and an agent whose tenant has used up its rate.
        for _ in 0..1000 {
            audit.count_refusal(Refusal::new(ErrorCode::TemporarilyUnavailable, "unreadable caller"));
        }
        let of_tenant = Refusal { suppressed: 500, ..refusal(ErrorCode::SlowDown).imposed() };
        audit.count_refusal(of_tenant.clone());
        let recorded = audit.record_refusal(refusal(ErrorCode::InvalidTarget), None).await.unwrap();
        assert_eq!(recorded.get().suppressed, 1501);
        for _ in 0..50 {
            audit.record_refusal(of_tenant.clone(), None).await.unwrap();
        }
        assert!(alerts.try_recv().is_err(), "one of them is its own");
        for _ in 0..20 {
            audit.record_refusal(refusal(ErrorCode::InvalidTarget), None).await.unwrap();
        }
        let alert = alerts.try_recv().unwrap();
        assert_eq!(alert.rule, AnomalyRule::Refusals);
        assert!(alert.detail.starts_with("21 of its requests were refused"), "{}", alert.detail);
    }
}
