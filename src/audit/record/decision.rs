//! Records of decisions: what a process got, what it asked for, and what was refused.

use super::super::agent_usage::LOADED;
use super::super::event::Event;
use super::super::fingerprint::Fingerprint;
use super::{Record, described, from_caller, granted, name};
use crate::agents::{AgentEntry, AuthenticatedAgent};
use crate::approvals::UsedApproval;
use crate::clock::Timestamp;
use crate::credentials::ReleasedCredential;
use crate::delegation::DelegatedCgroup;
use crate::issue::{AccessToken, EvidenceResponse, Introspection, IssuedProof, JwtSvid, WitSvid};
use crate::pki::IssuedX509Svid;
use crate::policy::{ErrorCode, Refusal, Verdicts};

/// The detail of an introspection that used an active token up.
const USED_UP: &str = "and used it up";

impl<'a> Record<'a> {
    /// An access token was issued.
    pub(in crate::audit) fn for_token(token: &'a AccessToken, time: Timestamp) -> Record<'a> {
        let permit = token.permit();
        Record {
            audience: Some(granted(permit.audience())),
            scope: Some(granted(permit.scope())),
            jti: Some(name(token.jti())),
            kid: Some(name(token.kid())),
            fingerprint: Some(Fingerprint::of(token.text().as_bytes())),
            exp: Some(token.expires().as_secs()),
            ..Record::for_agent(Event::TokenIssued, permit.agent(), permit.posture(), permit.policy(), time)
        }
        .approved(permit.used_approval())
    }

    /// An X509-SVID was issued.
    pub(in crate::audit) fn for_certificate(certificate: &'a IssuedX509Svid, time: Timestamp) -> Record<'a> {
        let permit = certificate.permit();
        Record {
            spiffe_id: Some(granted(certificate.spiffe_id())),
            serial: Some(name(certificate.serial())),
            fingerprint: certificate.leaf().map(Fingerprint::of),
            exp: Some(certificate.expires().as_secs()),
            key_digest: certificate.key_digest(),
            ..Record::for_agent(
                Event::CertificateIssued,
                permit.agent(),
                permit.posture(),
                permit.policy(),
                time,
            )
        }
    }

    /// A proof was issued. `subject` has its kind and what it is for: the method and the URL, or the issuer.
    pub(in crate::audit) fn for_proof(
        proof: &'a IssuedProof,
        subject: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        let permit = proof.permit();
        Record {
            audience: permit.audience().map(granted),
            credential: permit.credential().map(name),
            credential_version: proof.credential_version(),
            jti: proof.id().map(name),
            kid: Some(name(proof.kid())),
            fingerprint: Some(Fingerprint::of(proof.signed_text().as_bytes())),
            exp: Some(proof.expires().as_secs()),
            detail: Some(from_caller(subject)),
            ..Record::for_agent(Event::ProofIssued, permit.agent(), permit.posture(), permit.policy(), time)
        }
        .approved(permit.used_approval())
    }

    /// A cgroup was delegated. `detail` names the sub-agent, its cgroup and its rights.
    pub(in crate::audit) fn for_delegation(
        delegated: &'a DelegatedCgroup,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        let permit = delegated.permit();
        Record {
            spiffe_id: Some(granted(delegated.spiffe_id())),
            exp: Some(delegated.delegation().expires.as_secs()),
            detail: Some(from_caller(detail)),
            ..Record::for_agent(
                Event::SubAgentDelegated,
                permit.agent(),
                permit.posture(),
                permit.policy(),
                time,
            )
        }
    }

    /// A JWT-SVID was issued. `audiences` has all its audiences, separated by spaces.
    pub(in crate::audit) fn for_jwt_svid(
        svid: &'a JwtSvid,
        audiences: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        let permit = svid.permit();
        Record {
            audience: Some(granted(audiences)),
            jti: Some(name(svid.jti())),
            kid: Some(name(svid.kid())),
            fingerprint: Some(Fingerprint::of(svid.text().as_bytes())),
            exp: Some(svid.expires().as_secs()),
            ..Record::for_agent(Event::SvidIssued, permit.agent(), permit.posture(), permit.policy(), time)
        }
    }

    /// A WIT-SVID was issued.
    pub(in crate::audit) fn for_wit_svid(svid: &'a WitSvid, time: Timestamp) -> Record<'a> {
        let permit = svid.permit();
        Record {
            spiffe_id: Some(granted(svid.spiffe_id())),
            jti: Some(name(svid.jti())),
            kid: Some(name(svid.kid())),
            fingerprint: Some(Fingerprint::of(svid.text().as_bytes())),
            exp: Some(svid.expires().as_secs()),
            ..Record::for_agent(Event::WitSvidIssued, permit.agent(), permit.posture(), permit.policy(), time)
        }
    }

    /// The value of a credential was released.
    pub(in crate::audit) fn for_credential(released: &'a ReleasedCredential, time: Timestamp) -> Record<'a> {
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
        .approved(permit.used_approval())
    }

    /// A request was refused; `entry` is its agent as it is registered.
    pub(in crate::audit) fn for_refusal(
        refusal: &'a Refusal,
        entry: Option<&'a AgentEntry>,
        time: Timestamp,
    ) -> Record<'a> {
        let event = match refusal.code {
            ErrorCode::AuthorizationPending => Event::ApprovalRequested,
            _ => Event::RequestRefused,
        };
        let record = Record::new(event, time);
        let record = match entry {
            Some(entry) => record.registered(entry),
            None => record,
        };
        Record {
            agent: refusal.agent.as_ref().map(|agent| name(agent.as_str())),
            audience: refusal.audience.as_deref().map(from_caller),
            credential: refusal.credential().map(name),
            reason: Some(refusal.code),
            approval: refusal.requested_approval().map(|approval| name(&approval.id)),
            detail: Some(from_caller(&refusal.description)),
            suppressed: refusal.suppressed,
            own_refusals: refusal.own_count(),
            verdicts: Some(refusal.verdicts()),
            posture: refusal.posture(),
            policy: refusal.policy(),
            peer: refusal.peer.as_ref(),
            ..record
        }
    }

    /// An agent introspected a token.
    pub(in crate::audit) fn for_introspection(
        requester: &'a AuthenticatedAgent,
        introspection: &'a Introspection,
        time: Timestamp,
    ) -> Record<'a> {
        Record {
            jti: introspection.jti.as_deref().map(name),
            active: Some(introspection.active),
            detail: match &introspection.inactive_reason {
                Some(reason) => Some(from_caller(reason)),
                None => introspection.is_used_up.then(|| described(USED_UP)),
            },
            ..Record::of_agent(Event::Introspected, requester, time)
        }
    }

    /// An agent used a nonce up, which is valid unless there is a reason why it is not.
    pub(in crate::audit) fn for_used_nonce(
        requester: &'a AuthenticatedAgent,
        reason: Option<&'a str>,
        time: Timestamp,
    ) -> Record<'a> {
        Record {
            active: Some(reason.is_none()),
            detail: reason.map(from_caller),
            ..Record::of_agent(Event::NonceUsed, requester, time)
        }
    }

    /// An agent asked for the revocation of a token; `jti` if it is one of this host.
    pub(in crate::audit) fn for_token_revocation(
        requester: &'a AuthenticatedAgent,
        jti: Option<&'a str>,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        Record {
            jti: jti.map(name),
            detail: Some(from_caller(detail)),
            ..Record::of_agent(Event::TokenRevoked, requester, time)
        }
    }

    /// An agent obtained evidence.
    pub(in crate::audit) fn for_attestation(
        attestation: &'a EvidenceResponse,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        Record {
            policy: attestation.policy(),
            posture: Some(attestation.posture()),
            verdicts: Some(Verdicts::PASS),
            detail: Some(from_caller(detail)),
            ..Record::of_agent(Event::Attested, attestation.agent(), time)
        }
    }

    /// Adds the approval that a request has used.
    fn approved(self, used: Option<&'a UsedApproval>) -> Record<'a> {
        let Some(used) = used else { return self };
        Record { approval: Some(name(&used.id)), approved_by: Some(name(&used.approved_by)), ..self }
    }
}
