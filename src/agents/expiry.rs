//! When grants and credentials end.

use crate::clock::Timestamp;

use super::credential::CredentialGrant;
use super::entry::AgentEntry;
use super::grant::Grant;
use super::role_set::RoleSet;

/// The end of a grant or credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// When it ends.
    pub at: Timestamp,
    /// Whose file has it.
    pub holder: ExpiryHolder,
    /// What ends.
    pub of: ExpiryOf,
}

/// The file that has a grant or credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpiryHolder {
    /// That of the agent with this name.
    Agent(String),
    /// That of the role with this name.
    Role(String),
}

/// What ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpiryOf {
    /// The grant for this audience.
    Grant(String),
    /// The permission for the credential of this name.
    Credential(String),
}

/// All ends, the earliest first. Those of a role stand once, however many agents have it.
pub(super) fn all<'a>(agents: impl Iterator<Item = &'a AgentEntry>, roles: &RoleSet) -> Vec<Expiry> {
    let mut all = Vec::new();
    for agent in agents {
        let holder = || ExpiryHolder::Agent(agent.name.to_string());
        all.extend(agent.own_grants.iter().filter_map(|grant| of_grant(grant, holder)));
        all.extend(agent.own_credentials.iter().filter_map(|credential| of_credential(credential, holder)));
    }
    for role in roles.iter() {
        let holder = || ExpiryHolder::Role(role.name().to_owned());
        let own_grants = role.grants().iter().filter(|grant| &*grant.role == role.name());
        all.extend(own_grants.filter_map(|grant| of_grant(&grant.item, holder)));
        let own_credentials = role.credentials().iter().filter(|credential| &*credential.role == role.name());
        all.extend(own_credentials.filter_map(|credential| of_credential(&credential.item, holder)));
    }
    all.sort_by_key(|expiry| expiry.at);
    all
}

fn of_grant(grant: &Grant, holder: impl Fn() -> ExpiryHolder) -> Option<Expiry> {
    let at = grant.limits.expires?;
    Some(Expiry { at, holder: holder(), of: ExpiryOf::Grant(grant.audience.clone()) })
}

fn of_credential(credential: &CredentialGrant, holder: impl Fn() -> ExpiryHolder) -> Option<Expiry> {
    let at = credential.limits.expires?;
    Some(Expiry { at, holder: holder(), of: ExpiryOf::Credential(credential.name.clone()) })
}
