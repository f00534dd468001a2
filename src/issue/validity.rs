//! Whether a token of this host is still valid, beside its signature and its times: one rule for introspection,
//! JWT-SVIDs and status lists.

use super::issuer::IssuerState;
use crate::agents::{MatchTag, Registrations, TagCheck, root_agent};
use crate::clock::Timestamp;
use crate::invocations::{Invocations, TokenInvocation};
use crate::revocation::{IssuedToken, Revocations};

/// What makes a token of this host valid, beside its signature and its times.
#[derive(Clone, Copy)]
pub struct ValidNow<'a> {
    /// The registered agents.
    pub registrations: &'a Registrations,
    /// What has been revoked.
    pub revocations: &'a Revocations,
    /// The invocations in which something was issued.
    pub invocations: &'a Invocations,
}

/// Whether a token's agent still matches is not known. The caller receives the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token cannot be checked now: its agent is registered by {0}, whose number is not known yet")]
pub struct Undecided(String);

/// What a token says about its agent.
#[derive(Default)]
pub(super) struct TokenSubject<'a> {
    /// The agent's name.
    pub name: &'a str,
    /// Its SPIFFE ID: of a sub-agent its own, which is not that of the claim `sub` in an access token.
    pub spiffe_id: &'a str,
    /// The key that signed it.
    pub kid: &'a str,
    /// Its identifier; `None` where single revoked tokens are not asked for.
    pub jti: Option<&'a str>,
    /// The invocation of the process that got it.
    pub invocation: Option<&'a str>,
    /// The unit of that process.
    pub unit: Option<&'a str>,
    /// `exp`; `None` where an invocation that is not watched is not looked up. The end of one that is watched is a
    /// revocation.
    pub expires: Option<Timestamp>,
    /// The epoch of the revocations at its issue; 0 for tokens of releases that had none.
    pub epoch: u64,
    /// The conditions that the process met; `None` for tokens of releases that did not write them, which expire
    /// within an hour.
    pub match_tag: Option<MatchTag>,
}

impl<'a> TokenSubject<'a> {
    /// The same with what the private claim `hostbadge` says.
    pub(super) fn with_claim(self, claim: &'a serde_json::Value) -> TokenSubject<'a> {
        TokenSubject {
            invocation: claim["invocation"].as_str(),
            unit: claim["unit"].as_str(),
            epoch: claim["epoch"].as_u64().unwrap_or_default(),
            match_tag: claim["match"].as_str().and_then(|tag| tag.parse().ok()),
            ..self
        }
    }
}

impl IssuerState {
    /// Why a token of this host is not valid any more for these audiences; `None` if it is. `tenant` is the
    /// tenant of the issuer.
    ///
    /// # Errors
    /// [`Undecided`] while the number of a name in the agent's conditions is not known.
    pub(super) fn invalid_reason<'a>(
        &self,
        token: &TokenSubject<'_>,
        mut audiences: impl Iterator<Item = &'a str>,
        tenant: Option<&str>,
        valid: ValidNow<'_>,
    ) -> Result<Option<String>, Undecided> {
        let ValidNow { registrations, revocations, invocations } = valid;
        let name = token.name;
        let Some(entry) = registrations.find(name) else {
            let what = if name == root_agent(name) { "registered" } else { "delegated" };
            return Ok(Some(format!("agent \"{name}\" is not {what} any more")));
        };
        let delegation = registrations.delegations.get(name);
        if delegation.is_some_and(|delegation| token.invocation != Some(&*delegation.invocation)) {
            return Ok(Some(format!("agent \"{name}\" was delegated again since it was issued")));
        }
        if self.host().spiffe_id(entry) != token.spiffe_id {
            return Ok(Some(format!("agent \"{name}\" has a different SPIFFE ID now")));
        }
        if entry.tenant.as_deref() != tenant {
            return Ok(Some(format!("agent \"{name}\" is of another tenant than the caller")));
        }
        let issued = IssuedToken {
            agent: entry,
            invocation: token.invocation,
            parent_invocations: delegation.map_or(&[], |delegation| &delegation.parent_invocations),
            kid: token.kid,
            jti: token.jti.unwrap_or_default(),
            epoch: token.epoch,
        };
        let revoked = match token.jti {
            Some(_) => revocations.revoked_reason(&issued),
            None => revocations.current().revoking(&issued).map(|revocation| revocation.description()),
        };
        if revoked.is_some() {
            return Ok(revoked);
        }
        let invocation = token.invocation.zip(token.expires);
        let invocation = invocation.map(|(id, expires)| TokenInvocation {
            id,
            unit: token.unit,
            agent: &entry.name,
            expires,
        });
        if invocation.is_some_and(|invocation| invocations.has_ended(&invocation)) {
            return Ok(Some("the invocation in which it was issued has ended".to_owned()));
        }
        if audiences.any(|audience| entry.grant(audience).is_none()) {
            return Ok(Some(format!("agent \"{name}\" has no grant for its audience any more")));
        }
        match token.match_tag.map_or(TagCheck::Same, |tag| registrations.check_tag(entry, tag)) {
            TagCheck::Same => Ok(None),
            TagCheck::Changed => {
                Ok(Some(format!("agent \"{name}\" is matched by other conditions since it was issued")))
            }
            TagCheck::Undecided(unknown) => Err(Undecided(unknown.to_string())),
        }
    }
}
