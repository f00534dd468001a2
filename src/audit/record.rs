//! The content of an audit line, and the journal entry for the same decision. Every text in it is bounded, so
//! that a line has at most 8 KiB whatever its caller sends.

mod message;

use serde::Serialize;
use serde::ser::SerializeStruct;

use crate::agents::AuthenticatedAgent;
use crate::anomaly::Alert;
use crate::clock::{ClockSync, Timestamp};
use crate::credentials::ReleasedCredential;
use crate::issue::{AccessToken, EvidenceResponse, Introspection, JwtSvid, WitSvid};
use crate::peer::Peer;
use crate::pki::IssuedX509Svid;
use crate::policy::{ErrorCode, PolicySetId, Refusal};
use crate::posture::Posture;

use super::event::Event;
use super::text::{BoundedText, MAX_CALLER_TEXT, MAX_EVENT_TEXT, MAX_EXE_PATH, MAX_GRANTED_TEXT, MAX_NAME};

/// A decision or an event. Members that do not apply are omitted. A record never contains a token, a private
/// key or a credential.
#[derive(Debug, Serialize)]
pub(super) struct Record<'a> {
    time: Timestamp,
    #[serde(serialize_with = "serialize_event_name")]
    event: Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<BoundedText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<BoundedText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<BoundedText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<BoundedText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<BoundedText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<BoundedText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<BoundedText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<BoundedText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<BoundedText<'a>>,
    /// Expiry of the token or certificate, as a NumericDate (RFC 7519 section 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ErrorCode>,
    /// The rule that found something.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<BoundedText<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    suppressed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    posture: Option<Posture>,
    /// The policies in force at the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicySetId>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_peer")]
    peer: Option<&'a Peer>,
    /// The agent that got something, as it was registered then.
    #[serde(skip)]
    subject: Option<&'a AuthenticatedAgent>,
}

/// What the activity of agents takes note of.
pub(super) struct Noted<'a> {
    pub(super) time: Timestamp,
    pub(super) event: Event,
    /// The agent's name; `None` for a caller that is none.
    pub(super) agent: Option<&'a str>,
    /// Audiences, separated by spaces.
    pub(super) audience: Option<&'a str>,
    /// Its tenant.
    pub(super) tenant: Option<&'a str>,
    /// The name of the credential.
    pub(super) credential: Option<&'a str>,
    /// The identifier of the token.
    pub(super) jti: Option<&'a str>,
    pub(super) expires: Option<Timestamp>,
    pub(super) reason: Option<ErrorCode>,
    /// Refusals before this one that have no record.
    pub(super) suppressed: u64,
    /// The calling process.
    pub(super) peer: &'a Peer,
    /// The agent that got something.
    pub(super) subject: Option<&'a AuthenticatedAgent>,
}

/// The detail of an introspection that used an active token up.
const USED_UP: &str = "and used it up";
/// The detail of a release to a service manager.
const LOADED: &str = "loaded by the service manager for the unit";

/// A name or an identifier.
fn name(text: &str) -> BoundedText<'_> {
    BoundedText::new(text, MAX_NAME)
}

/// An audience, a scope or a SPIFFE ID that was granted.
fn granted(text: &str) -> BoundedText<'_> {
    BoundedText::new(text, MAX_GRANTED_TEXT)
}

/// Text that contains what a caller sent.
fn from_caller(text: &str) -> BoundedText<'_> {
    BoundedText::new(text, MAX_CALLER_TEXT)
}

/// The description of an event of the daemon.
fn described(text: &str) -> BoundedText<'_> {
    BoundedText::new(text, MAX_EVENT_TEXT)
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn serialize_event_name<S: serde::Serializer>(event: &Event, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(event.name())
}

fn serialize_peer<S: serde::Serializer>(peer: &Option<&Peer>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(peer) = peer else { return serializer.serialize_none() };
    let exe = peer.exe().map(|path| path.to_string_lossy());
    let mut out = serializer.serialize_struct("peer", 8)?;
    out.serialize_field("pid", &peer.pid)?;
    out.serialize_field("uid", &peer.uid)?;
    out.serialize_field("gid", &peer.gid)?;
    out.serialize_field("unit", &peer.unit.as_deref().map(from_caller))?;
    out.serialize_field("invocation", &peer.invocation.as_deref().map(name))?;
    out.serialize_field("exe", &exe.as_deref().map(|path| BoundedText::new(path, MAX_EXE_PATH)))?;
    out.serialize_field("exe_sha256", &peer.exe_sha256())?;
    out.serialize_field("pinned", &peer.pinned)?;
    out.end()
}

impl<'a> Record<'a> {
    fn new(event: Event, time: Timestamp) -> Record<'a> {
        Record {
            time,
            event,
            agent: None,
            tenant: None,
            audience: None,
            scope: None,
            credential: None,
            credential_version: None,
            jti: None,
            kid: None,
            spiffe_id: None,
            serial: None,
            exp: None,
            active: None,
            reason: None,
            rule: None,
            detail: None,
            suppressed: 0,
            posture: None,
            policy: None,
            peer: None,
            subject: None,
        }
    }

    /// A record about an agent, with its process, and the posture and the policies of the decision.
    fn for_agent(
        event: Event,
        agent: &'a AuthenticatedAgent,
        posture: Posture,
        policy: Option<PolicySetId>,
        time: Timestamp,
    ) -> Record<'a> {
        Record {
            policy,
            agent: Some(name(agent.name().as_str())),
            tenant: agent.entry().tenant.as_deref().map(name),
            posture: Some(posture),
            peer: Some(agent.peer()),
            subject: Some(agent),
            ..Record::new(event, time)
        }
    }

    /// An access token was issued.
    pub(super) fn for_token(token: &'a AccessToken, time: Timestamp) -> Record<'a> {
        let permit = token.permit();
        Record {
            audience: Some(granted(permit.audience())),
            scope: Some(granted(permit.scope())),
            jti: Some(name(token.jti())),
            kid: Some(name(token.kid())),
            exp: Some(token.expires().as_secs()),
            ..Record::for_agent(Event::TokenIssued, permit.agent(), permit.posture(), permit.policy(), time)
        }
    }

    /// An X509-SVID was issued.
    pub(super) fn for_certificate(certificate: &'a IssuedX509Svid, time: Timestamp) -> Record<'a> {
        let permit = certificate.permit();
        Record {
            spiffe_id: Some(granted(certificate.spiffe_id())),
            serial: Some(name(certificate.serial())),
            exp: Some(certificate.expires().as_secs()),
            ..Record::for_agent(
                Event::CertificateIssued,
                permit.agent(),
                permit.posture(),
                permit.policy(),
                time,
            )
        }
    }

    /// A JWT-SVID was issued. `audiences` has all its audiences, separated by spaces.
    pub(super) fn for_jwt_svid(svid: &'a JwtSvid, audiences: &'a str, time: Timestamp) -> Record<'a> {
        let permit = svid.permit();
        Record {
            audience: Some(granted(audiences)),
            jti: Some(name(svid.jti())),
            kid: Some(name(svid.kid())),
            exp: Some(svid.expires().as_secs()),
            ..Record::for_agent(Event::SvidIssued, permit.agent(), permit.posture(), permit.policy(), time)
        }
    }

    /// A WIT-SVID was issued.
    pub(super) fn for_wit_svid(svid: &'a WitSvid, time: Timestamp) -> Record<'a> {
        let permit = svid.permit();
        Record {
            spiffe_id: Some(granted(svid.spiffe_id())),
            jti: Some(name(svid.jti())),
            kid: Some(name(svid.kid())),
            exp: Some(svid.expires().as_secs()),
            ..Record::for_agent(Event::WitSvidIssued, permit.agent(), permit.posture(), permit.policy(), time)
        }
    }

    /// The value of a credential was released.
    pub(super) fn for_credential(released: &'a ReleasedCredential, time: Timestamp) -> Record<'a> {
        let permit = released.permit();
        Record {
            credential: Some(name(permit.name())),
            credential_version: Some(released.version()),
            detail: permit.agent().peer().is_future.then(|| described(LOADED)),
            ..Record::for_agent(
                Event::CredentialReleased,
                permit.agent(),
                permit.posture(),
                permit.policy(),
                time,
            )
        }
    }

    /// A request was refused; `tenant` is the agent's.
    pub(super) fn for_refusal(refusal: &'a Refusal, tenant: Option<&'a str>, time: Timestamp) -> Record<'a> {
        Record {
            agent: refusal.agent.as_ref().map(|agent| name(agent.as_str())),
            tenant: tenant.map(name),
            audience: refusal.audience.as_deref().map(from_caller),
            credential: refusal.credential().map(name),
            reason: Some(refusal.code),
            detail: Some(from_caller(&refusal.description)),
            suppressed: refusal.suppressed,
            policy: refusal.policy(),
            peer: refusal.peer.as_ref(),
            ..Record::new(Event::RequestRefused, time)
        }
    }

    /// An agent introspected a token.
    pub(super) fn for_introspection(
        requester: &'a AuthenticatedAgent,
        introspection: &'a Introspection,
        time: Timestamp,
    ) -> Record<'a> {
        Record {
            agent: Some(name(requester.name().as_str())),
            tenant: requester.entry().tenant.as_deref().map(name),
            jti: introspection.jti.as_deref().map(name),
            active: Some(introspection.active),
            detail: match &introspection.inactive_reason {
                Some(reason) => Some(from_caller(reason)),
                None => introspection.is_used_up.then(|| described(USED_UP)),
            },
            peer: Some(requester.peer()),
            ..Record::new(Event::Introspected, time)
        }
    }

    /// An agent used a nonce up, which is valid unless there is a reason why it is not.
    pub(super) fn for_used_nonce(
        requester: &'a AuthenticatedAgent,
        reason: Option<&'a str>,
        time: Timestamp,
    ) -> Record<'a> {
        Record {
            agent: Some(name(requester.name().as_str())),
            tenant: requester.entry().tenant.as_deref().map(name),
            active: Some(reason.is_none()),
            detail: reason.map(from_caller),
            peer: Some(requester.peer()),
            ..Record::new(Event::NonceUsed, time)
        }
    }

    /// An agent asked for the revocation of a token; `jti` if it is one of this host.
    pub(super) fn for_token_revocation(
        requester: &'a AuthenticatedAgent,
        jti: Option<&'a str>,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        Record {
            agent: Some(name(requester.name().as_str())),
            tenant: requester.entry().tenant.as_deref().map(name),
            jti: jti.map(name),
            detail: Some(from_caller(detail)),
            peer: Some(requester.peer()),
            ..Record::new(Event::TokenRevoked, time)
        }
    }

    /// An agent obtained evidence.
    pub(super) fn for_attestation(
        attestation: &'a EvidenceResponse,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        Record {
            agent: Some(name(attestation.agent().name().as_str())),
            policy: attestation.policy(),
            tenant: attestation.agent().entry().tenant.as_deref().map(name),
            detail: Some(from_caller(detail)),
            peer: Some(attestation.agent().peer()),
            ..Record::new(Event::Attested, time)
        }
    }

    /// An event without a caller.
    pub(super) fn for_event(event: Event, detail: &'a str, time: Timestamp) -> Record<'a> {
        Record { detail: Some(described(detail)), ..Record::new(event, time) }
    }

    /// An event without a caller that concerns one tenant; `None` where it concerns none.
    pub(super) fn for_tenant_event(
        event: Event,
        tenant: Option<&'a str>,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        Record { tenant: tenant.map(name), ..Record::for_event(event, detail, time) }
    }

    /// An event without a caller that concerns one agent.
    pub(super) fn for_agent_event(
        event: Event,
        agent: &'a str,
        tenant: Option<&'a str>,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        Record { agent: Some(name(agent)), ..Record::for_tenant_event(event, tenant, detail, time) }
    }

    /// What a rule found, or what follows from it.
    pub(super) fn for_alert(event: Event, alert: &'a Alert, detail: &'a str, time: Timestamp) -> Record<'a> {
        let rule = Some(alert.rule.name());
        let tenant = alert.tenant.as_deref();
        Record { rule, ..Record::for_agent_event(event, &alert.agent, tenant, detail, time) }
    }

    /// An event without a caller that concerns one token.
    pub(super) fn for_token_event(
        event: Event,
        jti: &'a str,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        Record { jti: Some(name(jti)), ..Record::for_event(event, detail, time) }
    }

    /// An event of an issuing key, of a tenant or of none.
    pub(super) fn for_key_event(
        event: Event,
        kid: &'a str,
        tenant: Option<&'a str>,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        Record { kid: Some(name(kid)), ..Record::for_tenant_event(event, tenant, detail, time) }
    }

    /// Returns the kind of event.
    pub(super) fn event(&self) -> Event {
        self.event
    }

    /// What the activity of agents takes note of; `None` for a record of no calling process.
    pub(super) fn noted(&self) -> Option<Noted<'a>> {
        Some(Noted {
            time: self.time,
            event: self.event,
            agent: self.agent.map(|agent| agent.whole()),
            audience: self.audience.map(|audience| audience.whole()),
            tenant: self.tenant.map(|tenant| tenant.whole()),
            credential: self.credential.map(|credential| credential.whole()),
            jti: self.jti.map(|jti| jti.whole()),
            expires: self.exp.map(Timestamp::from_secs),
            reason: self.reason,
            suppressed: self.suppressed,
            peer: self.peer?,
            subject: self.subject,
        })
    }

    /// Whether the record states the policies by which it was decided.
    pub(super) fn has_policy(&self) -> bool {
        self.policy.is_some()
    }

    /// Returns the members of the JSON object without the opening brace; the chain's members come before
    /// them. The first one is `clock`, unless the clock is synchronized: `time` may be wrong then.
    pub(super) fn to_json_members(&self, clock: ClockSync) -> serde_json::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(768);
        if clock != ClockSync::Synchronized {
            text.extend(format!("\"clock\":\"{clock}\",").as_bytes());
        }
        let start = text.len();
        serde_json::to_writer(&mut text, self)?;
        text.remove(start);
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
