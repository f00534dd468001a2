//! The content of an audit line, and the journal entry for the same decision. Every text in it is bounded, so
//! that a line has at most 8 KiB whatever its caller sends.

mod daemon_event;
mod decision;
mod message;
mod origin;
mod peer;

use std::borrow::Cow;

use serde::Serialize;

use crate::agents::{AgentEntry, AuthenticatedAgent, root_agent};
use crate::clock::{Clock, Timestamp};
use crate::config::escape_unprintable_json;
use crate::correlation::{self, RequestContext};
use crate::peer::Peer;
use crate::policy::{ErrorCode, PolicySetId, Verdicts};
use crate::posture::Posture;

use super::event::{Event, Outcome};
use super::fingerprint::Fingerprint;
use super::text::{BoundedText, MAX_CALLER_TEXT, MAX_EVENT_TEXT, MAX_GRANTED_TEXT, MAX_NAME};

/// A decision or an event. Members that do not apply are omitted. A record never contains a token, a private
/// key or a credential.
#[derive(Debug, Serialize)]
pub(super) struct Record<'a> {
    time: Timestamp,
    #[serde(serialize_with = "serialize_event_name")]
    event: Event,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<BoundedText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<BoundedText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<BoundedText<'a>>,
    /// Of a sub-agent: the registered agent for which it acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    delegated_subject: Option<BoundedText<'a>>,
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
    /// Of what was handed out, but not of a credential: its value can be short enough to be guessed from a digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<Fingerprint>,
    /// Expiry of the token or certificate, as a NumericDate (RFC 7519 section 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ErrorCode>,
    /// The id of the approval that was used, or that is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<BoundedText<'a>>,
    /// Who approved it.
    #[serde(skip_serializing_if = "Option::is_none")]
    approved_by: Option<BoundedText<'a>>,
    /// The rule that found something.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<BoundedText<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    suppressed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdicts: Option<Verdicts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    posture: Option<Posture>,
    /// The policies in force at the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicySetId>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "peer::serialize")]
    peer: Option<&'a Peer>,
    /// How many refusals of the agent's own it stands for.
    #[serde(skip)]
    own_refusals: u64,
    /// A digest of the public key of a certificate.
    #[serde(skip)]
    key_digest: Option<u64>,
    /// The agent that got something, as it was registered then.
    #[serde(skip)]
    subject: Option<&'a AuthenticatedAgent>,
    /// The request that is served; its members come before these.
    #[serde(skip)]
    request: Option<RequestContext>,
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
    /// Refusals that the agent's own requests caused: this one, and those before it that have no record.
    pub(super) own_refusals: u64,
    /// The calling process.
    pub(super) peer: &'a Peer,
    /// A digest of the public key of a certificate.
    pub(super) key_digest: Option<u64>,
    /// The agent that got something.
    pub(super) subject: Option<&'a AuthenticatedAgent>,
}

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

impl<'a> Record<'a> {
    fn new(event: Event, time: Timestamp) -> Record<'a> {
        Record {
            time,
            event,
            outcome: event.outcome(),
            agent: None,
            owner: None,
            tenant: None,
            delegated_subject: None,
            audience: None,
            scope: None,
            credential: None,
            credential_version: None,
            jti: None,
            kid: None,
            spiffe_id: None,
            serial: None,
            fingerprint: None,
            exp: None,
            active: None,
            reason: None,
            approval: None,
            approved_by: None,
            rule: None,
            detail: None,
            suppressed: 0,
            verdicts: None,
            posture: None,
            policy: None,
            peer: None,
            own_refusals: 0,
            key_digest: None,
            subject: None,
            request: correlation::current(),
        }
    }

    /// A record of a request of this agent that decides nothing.
    fn of_agent(event: Event, agent: &'a AuthenticatedAgent, time: Timestamp) -> Record<'a> {
        Record {
            agent: Some(name(agent.name().as_str())),
            peer: Some(agent.peer()),
            ..Record::new(event, time).registered(agent.entry())
        }
    }

    /// Adds who answers for an agent, as it is registered.
    fn registered(self, entry: &'a AgentEntry) -> Record<'a> {
        Record {
            owner: entry.owner.as_deref().map(name),
            tenant: entry.tenant.as_deref().map(name),
            delegated_subject: entry.parent.is_some().then(|| name(entry.root().name.as_str())),
            ..self
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
            posture: Some(posture),
            verdicts: Some(Verdicts::PASS),
            subject: Some(agent),
            ..Record::of_agent(event, agent, time)
        }
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
            // What a sub-agent does is what the registered agent above it does: its sub-agents are many, and live short.
            // What a user does who starts a command for it is not.
            agent: self.agent.filter(|_| !self.is_of_runner()).map(|agent| root_agent(agent.whole())),
            audience: self.audience.map(|audience| audience.whole()),
            tenant: self.tenant.map(|tenant| tenant.whole()),
            credential: self.credential.map(|credential| credential.whole()),
            jti: self.jti.map(|jti| jti.whole()),
            expires: self.exp.map(Timestamp::from_secs),
            reason: self.reason,
            own_refusals: self.own_refusals,
            peer: self.peer?,
            key_digest: self.key_digest,
            subject: self.subject,
        })
    }

    fn is_of_runner(&self) -> bool {
        self.subject.is_some_and(AuthenticatedAgent::is_runner)
    }

    /// Whether the record states the policies by which it was decided.
    pub(super) fn has_policy(&self) -> bool {
        self.policy.is_some()
    }

    /// Returns the members of the JSON object without the opening brace; the chain's members come before
    /// them. The first ones are of the clock and the request, whose texts need no escapes.
    pub(super) fn to_json_members(&self, clock: &Clock) -> serde_json::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(1280);
        origin::append_clock(&mut text, clock.quality());
        if let Some(request) = &self.request {
            origin::append_request(&mut text, request);
        }
        let start = text.len();
        serde_json::to_writer(&mut text, self)?;
        text.remove(start);
        // A terminal takes some characters beyond ASCII as commands, and shows others in another order.
        match String::from_utf8(text) {
            Ok(text) => match escape_unprintable_json(&text) {
                Cow::Borrowed(_) => Ok(text.into_bytes()),
                Cow::Owned(escaped) => Ok(escaped.into_bytes()),
            },
            Err(e) => Err(serde::ser::Error::custom(e)),
        }
    }
}

#[cfg(test)]
mod tests;
