//! What an administrator is shown of a request, and the digest that is approved.

use data_encoding::HEXLOWER;
use serde::Serialize;

use crate::agents::{ApprovalMode, Assurance, AuthenticatedAgent, Binding, TokenTyp, lineage_of, root_agent};
use crate::digest::sha256;
use crate::peer::Sha256Digest;
use crate::present::ProofKind;
use crate::revocation::{RevocationSet, Target, TargetKind};

/// Version of the members that the digest covers.
const FORMAT: u32 = 1;

/// One request of an agent, with everything that an approval of it is bound to. An approval is one of the SHA-256
/// digest of this value as compact JSON in the order of its members; another value of any member needs another
/// approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApprovalRequest {
    /// Version of the format: 1.
    pub v: u32,
    /// The agent's name.
    pub agent: String,
    /// Its tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// How long an approval counts.
    pub approval: ApprovalMode,
    /// The user of the process.
    pub uid: u32,
    /// The systemd unit of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The unit in its user's own service manager.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_unit: Option<String>,
    /// The id of the login session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The id of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The invocation that the process is part of.
    pub invocation: String,
    /// Of a sub-agent: the invocations of the agents above it. What is shown does not have them.
    #[serde(skip)]
    pub invocations_above: Vec<String>,
    /// Path of the executable as the kernel reports it, in the mount namespace of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// SHA-256 of the executable, in hexadecimal digits.
    pub exe_sha256: String,
    /// What is requested.
    pub request: ApprovalAction,
}

/// What is requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ApprovalAction {
    /// An access token.
    Token {
        /// The relying party that it is for.
        audience: String,
        /// Its scopes in alphabetical order, separated by spaces; may be empty.
        scope: String,
        /// The lifetime that was asked for, at most that of the grant, in seconds.
        ttl: u64,
        /// Where the key is kept that signs it.
        assurance: Assurance,
        /// The `typ` of its header.
        typ: TokenTyp,
        /// What it is bound to.
        bind: Binding,
    },
    /// A proof for one HTTP request, or for an authorization server.
    Proof {
        /// What kind of proof.
        proof: ProofKind,
        /// The audience of the grant that gives it; absent where a credential does.
        #[serde(skip_serializing_if = "Option::is_none")]
        audience: Option<String>,
        /// The credential that signs it.
        #[serde(skip_serializing_if = "Option::is_none")]
        credential: Option<String>,
        /// The method of the request; absent for an authorization server.
        #[serde(skip_serializing_if = "Option::is_none")]
        method: Option<String>,
        /// Its URL in normal form, as for `method`.
        #[serde(skip_serializing_if = "Option::is_none")]
        url: Option<String>,
        /// SHA-256 of its body in hexadecimal digits; absent where it has none.
        #[serde(skip_serializing_if = "Option::is_none")]
        body_sha256: Option<String>,
    },
    /// The value of a sealed credential.
    Credential {
        /// Its name.
        name: String,
        /// The version; absent where the latest is asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
}

impl ApprovalRequest {
    /// The request of this agent; `None` if it is not known which invocation its process is part of.
    pub fn new(
        agent: &AuthenticatedAgent,
        approval: ApprovalMode,
        exe_sha256: Sha256Digest,
        request: ApprovalAction,
    ) -> Option<ApprovalRequest> {
        let (entry, peer) = (agent.entry(), agent.peer());
        Some(ApprovalRequest {
            v: FORMAT,
            agent: entry.name.to_string(),
            invocations_above: agent.invocations().skip(1).map(|id| id.to_string()).collect(),
            tenant: entry.tenant.clone(),
            owner: entry.owner.clone(),
            approval,
            uid: peer.uid,
            unit: peer.unit.clone(),
            user_unit: peer.user_unit.as_ref().map(|unit| unit.name.clone()),
            session: peer.session.as_ref().map(|session| session.id.clone()),
            container: peer.container.as_ref().map(|container| container.id.clone()),
            invocation: peer.invocation.as_deref()?.to_owned(),
            exe: peer.exe().map(|path| path.to_string_lossy().into_owned()),
            exe_sha256: exe_sha256.to_string(),
            request,
        })
    }

    /// What is approved: the length of the text in bytes, and its digest in hexadecimal digits.
    ///
    /// # Errors
    /// None in practice: texts and numbers have a JSON text.
    pub(super) fn length_and_digest(&self) -> Result<(usize, String), serde_json::Error> {
        let text = serde_json::to_string(self)?;
        Ok((text.len(), HEXLOWER.encode(&sha256(text.as_bytes()))))
    }

    /// Whether a refusal of `self` covers `other`: a request of the same registered agent or of its sub-agents for the same
    /// credential, or for a token for the same audience with at least these scopes, whatever else is different.
    pub(super) fn refusal_covers(&self, other: &ApprovalRequest) -> bool {
        let covers = match (&self.request, &other.request) {
            (
                ApprovalAction::Token { audience, scope, .. },
                ApprovalAction::Token { audience: of, scope: asked, .. },
            ) => {
                let asked: Vec<&str> = asked.split(' ').collect();
                audience == of && scope.split_terminator(' ').all(|scope| asked.contains(&scope))
            }
            // With another body, it is the same request to the agent.
            (
                ApprovalAction::Proof { proof, audience, credential, method, url, body_sha256: _ },
                ApprovalAction::Proof {
                    proof: kind,
                    audience: of,
                    credential: by,
                    method: verb,
                    url: asked,
                    ..
                },
            ) => (proof, audience, credential, method, url) == (kind, of, by, verb, asked),
            (ApprovalAction::Credential { name, .. }, ApprovalAction::Credential { name: of, .. }) => {
                name == of
            }
            _ => false,
        };
        covers && root_agent(&self.agent) == root_agent(&other.agent)
    }

    /// Whether a revocation after this epoch concerns the agent, its owner or tenant, or the invocation.
    pub(super) fn is_revoked_since(&self, epoch: u64, revocations: &RevocationSet) -> bool {
        let is_later = |kind, value: &str| {
            revocations.get(&Target::new(kind, value)).is_some_and(|revocation| revocation.epoch > epoch)
        };
        let is_later_of = |kind, value: Option<&String>| value.is_some_and(|value| is_later(kind, value));
        is_later(TargetKind::Everything, "")
            || is_later_of(TargetKind::Tenant, self.tenant.as_ref())
            || is_later_of(TargetKind::Owner, self.owner.as_ref())
            || lineage_of(&self.agent).any(|name| is_later(TargetKind::Agent, name))
            || self
                .invocations_above
                .iter()
                .chain([&self.invocation])
                .any(|id| is_later(TargetKind::Invocation, id))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A request of agent `a` in this invocation for a token with this scope.
    pub(in super::super) fn token(invocation: &str, scope: &str, approval: ApprovalMode) -> ApprovalRequest {
        ApprovalRequest {
            v: FORMAT,
            agent: "a".into(),
            invocations_above: Vec::new(),
            tenant: None,
            owner: Some("anna@example.com".into()),
            approval,
            uid: 1000,
            unit: Some("a.service".into()),
            user_unit: None,
            session: None,
            container: None,
            invocation: invocation.into(),
            exe: Some("/usr/bin/a".into()),
            exe_sha256: "00".repeat(32),
            request: ApprovalAction::Token {
                audience: "https://api".into(),
                scope: scope.into(),
                ttl: 300,
                assurance: Assurance::Sealed,
                typ: TokenTyp::AtJwt,
                bind: Binding::None,
            },
        }
    }

    fn digest_of(request: &ApprovalRequest) -> String {
        request.length_and_digest().unwrap().1
    }

    #[test]
    fn the_digest_is_that_of_the_text_that_is_shown_and_covers_each_member() {
        let one = token("i", "read", ApprovalMode::Each);
        let (text, digest) = (serde_json::to_string(&one).unwrap(), digest_of(&one));
        assert_eq!(digest, HEXLOWER.encode(&sha256(text.as_bytes())));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let flat = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let members: Vec<String> = flat(&value).into_iter().filter(|key| key != "request").collect();
        let of_request: Vec<String> = flat(&value["request"]);
        for (pointer, keys) in [("", members), ("/request", of_request)] {
            for key in keys {
                let mut other = value.clone();
                other.pointer_mut(pointer).unwrap()[&key] = serde_json::json!("changed");
                let other = HEXLOWER.encode(&sha256(other.to_string().as_bytes()));
                assert_ne!(other, digest, "{pointer}/{key}");
            }
        }
        assert_ne!(digest, digest_of(&token("i", "read", ApprovalMode::Task)));
        assert_eq!(digest, digest_of(&token("i", "read", ApprovalMode::Each)));
    }

    #[test]
    fn a_refusal_covers_the_same_and_more_for_the_same_audience() {
        let refused = token("i", "read write", ApprovalMode::Each);
        let covers = |scope: &str| refused.refusal_covers(&token("j", scope, ApprovalMode::Each));
        assert!(covers("read write") && covers("admin read write"));
        assert!(!covers("read") && !covers(""));
        assert!(token("i", "", ApprovalMode::Each).refusal_covers(&refused), "of a request without scopes");
        let credential = ApprovalAction::Credential { name: "https://api".into(), version: None };
        assert!(!refused.refusal_covers(&ApprovalRequest { request: credential, ..refused.clone() }));
        assert!(!refused.refusal_covers(&ApprovalRequest { agent: "b".into(), ..refused.clone() }));
    }
}
