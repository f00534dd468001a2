//! What an administrator is shown of a request, and the digest that is approved.

use data_encoding::HEXLOWER;
use serde::Serialize;

use crate::agents::{ApprovalMode, Assurance, AuthenticatedAgent, TokenTyp};
use crate::digest::sha256;
use crate::peer::Sha256Digest;

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
    /// The invocation that the process is part of.
    pub invocation: String,
    /// Path of the executable as the kernel reports it.
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
            tenant: entry.tenant.clone(),
            owner: entry.owner.clone(),
            approval,
            uid: peer.uid,
            unit: peer.unit.clone(),
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

    /// Whether both are requests of one invocation of an agent for the same audience or credential. The later one is
    /// then an edited form of the earlier one.
    pub(super) fn is_edited_form_of(&self, earlier: &ApprovalRequest) -> bool {
        let is_same_target = match (&self.request, &earlier.request) {
            (ApprovalAction::Token { audience, .. }, ApprovalAction::Token { audience: other, .. }) => {
                audience == other
            }
            (ApprovalAction::Credential { name, .. }, ApprovalAction::Credential { name: other, .. }) => {
                name == other
            }
            _ => false,
        };
        is_same_target && self.agent == earlier.agent && self.invocation == earlier.invocation
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
            tenant: None,
            owner: Some("anna@example.com".into()),
            approval,
            uid: 1000,
            unit: Some("a.service".into()),
            invocation: invocation.into(),
            exe: Some("/usr/bin/a".into()),
            exe_sha256: "00".repeat(32),
            request: ApprovalAction::Token {
                audience: "https://api".into(),
                scope: scope.into(),
                ttl: 300,
                assurance: Assurance::Sealed,
                typ: TokenTyp::AtJwt,
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
    fn an_edited_request_is_one_of_the_same_invocation_for_the_same_audience() {
        let one = token("i", "read", ApprovalMode::Each);
        assert!(token("i", "write", ApprovalMode::Each).is_edited_form_of(&one));
        assert!(!token("j", "write", ApprovalMode::Each).is_edited_form_of(&one));
        let credential = ApprovalAction::Credential { name: "https://api".into(), version: None };
        assert!(!ApprovalRequest { request: credential, ..one.clone() }.is_edited_form_of(&one));
    }
}
