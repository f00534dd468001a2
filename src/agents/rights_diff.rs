//! What a reload changes in the rights of agents, and which of it widens them.
//!
//! A change widens if an agent or role may afterwards do something that it could not before: a new agent, a new
//! audience, scope, role or credential, a longer lifetime, a later end, further hours, a weaker posture or
//! assurance, fewer or other conditions on the process, a credential that is released instead of injected, a rule for
//! anomalies that does less. What removes or narrows does not, except where a policy may refuse because of what was
//! there before: a role, the owner, the posture, the assurance, an executable whose digest is not known, or a scope or
//! lifetime, which an agent cannot leave out of the request for a JWT-SVID.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use serde_json::Value;

use crate::config::PostureMode;

use super::agent_set::AgentSet;
use super::approval_mode::ApprovalMode;
use super::beside::EvaluatedAttributes;
use super::binding::Binding;
use super::credential::{CredentialGrant, CredentialUse};
use super::entry::AgentEntry;
use super::grant::{Assurance, Grant, TokenTyp};
use super::rights_changes::{RightsCollector, RightsDiff};
use super::role::Role;
use super::time_limits::TimeLimits;

impl RightsDiff {
    /// Compares the rights of two sets. Of an agent whose own file has not changed, the changes are those of its
    /// roles. `evaluates` says what the policies evaluate of an agent.
    pub(super) fn between(
        previous: &AgentSet,
        current: &AgentSet,
        evaluates: EvaluatedAttributes,
    ) -> RightsDiff {
        let mut diff = Differences { evaluates, ..Differences::default() };
        diff.roles(previous, current);
        for entry in current.iter() {
            match previous.get(entry.name.as_str()) {
                None => diff.add(&format!("agent {}", entry.name), "new agent", true),
                Some(old) if !Arc::ptr_eq(old, entry) && old != entry => diff.agent(old, entry),
                Some(_) => {}
            }
        }
        let removed = previous.iter().filter(|entry| current.get(entry.name.as_str()).is_none());
        for entry in removed {
            diff.add(&format!("agent {}", entry.name), "removed", false);
        }
        diff.found.finish()
    }
}

/// The changes that were found.
#[derive(Default)]
struct Differences {
    found: RightsCollector,
    evaluates: EvaluatedAttributes,
}

impl Differences {
    fn add(&mut self, holder: &str, what: &str, widens: bool) {
        self.found.add(holder, what, widens);
    }

    fn roles(&mut self, previous: &AgentSet, current: &AgentSet) {
        let by_name = |agents: &AgentSet| -> BTreeMap<String, Arc<Role>> {
            agents.roles().iter().map(|role| (role.name().to_owned(), role.clone())).collect()
        };
        let (old, new) = (by_name(previous), by_name(current));
        for (name, role) in &new {
            let holder = format!("role {name}");
            match old.get(name) {
                // Agents that get it are listed themselves.
                None => self.add(&holder, "new role", false),
                Some(before) if before != role => {
                    let grants = |role: &Role| role.grants().iter().map(|one| one.item.clone()).collect();
                    let credentials =
                        |role: &Role| role.credentials().iter().map(|one| one.item.clone()).collect();
                    self.grants(&holder, grants(before), grants(role));
                    self.credentials(&holder, credentials(before), credentials(role));
                }
                Some(_) => {}
            }
        }
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            self.add(&format!("role {name}"), "removed", false);
        }
    }

    fn agent(&mut self, old: &AgentEntry, new: &AgentEntry) {
        let holder = format!("agent {}", new.name);
        let names = |entry: &AgentEntry| -> BTreeSet<String> {
            entry.roles.iter().map(|role| role.name().to_owned()).collect()
        };
        let (old_roles, new_roles) = (names(old), names(new));
        for role in new_roles.difference(&old_roles) {
            self.add(&holder, &format!("role {role} added"), true);
        }
        for role in old_roles.difference(&new_roles) {
            self.add(&holder, &format!("role {role} removed"), self.evaluates.roles);
        }
        if old.selectors != new.selectors {
            let is_stricter = is_stricter(&conditions(old), &conditions(new));
            let what = match is_stricter {
                true => "further conditions in [match]",
                false => "weaker or other conditions in [match]",
            };
            self.add(&holder, what, !is_stricter || self.evaluates.exe_sha256);
        }
        if old.tenant != new.tenant {
            self.add(&holder, "another tenant", true);
        }
        if old.owner != new.owner {
            self.add(&holder, "another owner", self.evaluates.owner);
        }
        if old.is_draining != new.is_draining {
            let what = if new.is_draining { "is drained" } else { "is drained no more" };
            self.add(&holder, what, old.is_draining);
        }
        if old.delegate != new.delegate {
            let is_within = match (&old.delegate, &new.delegate) {
                (Some(old), Some(new)) => new.is_within(old),
                (_, new) => new.is_none(),
            };
            self.add(&holder, "sub-agents in [delegate]", !is_within);
        }
        if old.run != new.run {
            let is_within = match (&old.run, &new.run) {
                (Some(old), Some(new)) => new.is_within(old),
                (_, new) => new.is_none(),
            };
            self.add(&holder, "who may start commands in [run]", !is_within);
        }
        for (key, widens) in new.anomaly.changes_since(&old.anomaly) {
            self.add(&holder, &format!("{key} in [anomaly]"), widens);
        }
        let is_same_file = old_roles == new_roles
            && old.own_grants == new.own_grants
            && old.own_credentials == new.own_credentials;
        if is_same_file {
            return;
        }
        // What a role has and the agent's own file replaced or no longer replaces counts too.
        let grants = |entry: &AgentEntry| entry.grants().map(|one| Arc::new(one.item.clone())).collect();
        let credentials =
            |entry: &AgentEntry| entry.credentials().map(|one| Arc::new(one.item.clone())).collect();
        self.grants(&holder, grants(old), grants(new));
        self.credentials(&holder, credentials(old), credentials(new));
    }

    fn grants(&mut self, holder: &str, old: Vec<Arc<Grant>>, new: Vec<Arc<Grant>>) {
        let old: BTreeMap<&str, &Grant> =
            old.iter().map(|grant| (grant.audience.as_str(), &**grant)).collect();
        let new: BTreeMap<&str, &Grant> =
            new.iter().map(|grant| (grant.audience.as_str(), &**grant)).collect();
        for (audience, grant) in &new {
            match old.get(audience) {
                None => self.add(holder, &format!("new grant for {audience}"), true),
                Some(before) if before != grant => {
                    let change = compare_grants(before, grant, self.evaluates);
                    self.add(holder, &format!("grant for {audience}:{}", change.text), change.widens);
                }
                Some(_) => {}
            }
        }
        for audience in old.keys().filter(|audience| !new.contains_key(*audience)) {
            self.add(holder, &format!("grant for {audience} removed"), false);
        }
    }

    fn credentials(&mut self, holder: &str, old: Vec<Arc<CredentialGrant>>, new: Vec<Arc<CredentialGrant>>) {
        let by_name = |all: &[Arc<CredentialGrant>]| -> BTreeMap<String, Arc<CredentialGrant>> {
            all.iter().map(|one| (one.name.clone(), one.clone())).collect()
        };
        let (old, new) = (by_name(&old), by_name(&new));
        for (name, credential) in &new {
            match old.get(name) {
                None => self.add(holder, &format!("new credential {name}"), true),
                Some(before) if before != credential => {
                    let mut change = Change::default();
                    // With the value, an agent can do everything that the other uses let it do.
                    let had_value = before.usage == CredentialUse::Release;
                    change.note_if(before.usage != credential.usage, "use", !had_value);
                    if let (Some(old), Some(new)) = (&before.signing, &credential.signing) {
                        let is_other = (&old.region, &old.service) != (&new.region, &new.service);
                        change.note_if(is_other, "region and service", is_other);
                        let widens = new.actions.iter().any(|action| !old.actions.contains(action));
                        change.note_if(old.actions != new.actions, "actions", widens);
                    }
                    change.posture(before.posture, credential.posture, self.evaluates);
                    change.approval(before.approval, credential.approval, self.evaluates);
                    // A policy sees no lifetime of a credential.
                    let evaluates = EvaluatedAttributes { ttl: false, ..self.evaluates };
                    change.limits(&before.limits, &credential.limits, evaluates);
                    self.add(holder, &format!("credential {name}:{}", change.text), change.widens);
                }
                Some(_) => {}
            }
        }
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            self.add(holder, &format!("credential {name} removed"), false);
        }
    }
}

/// What changes in one table, and whether a part of it widens.
#[derive(Default)]
struct Change {
    text: String,
    widens: bool,
}

impl Change {
    fn note_if(&mut self, is_changed: bool, what: &str, widens: bool) {
        if is_changed {
            // Writing to a string does not fail.
            let _ = write!(self.text, " {what}");
            self.widens |= widens;
        }
    }

    fn posture(
        &mut self,
        old: Option<PostureMode>,
        new: Option<PostureMode>,
        evaluates: EvaluatedAttributes,
    ) {
        // Without a mode, the configuration decides, which may be weaker or stronger.
        let widens = new != Some(PostureMode::Enforce) && old != Some(PostureMode::Off);
        self.note_if(old != new, "posture", widens || evaluates.posture);
    }

    /// A policy may permit only what a person has approved, so that a grant which requires it may give more.
    fn approval(
        &mut self,
        old: Option<ApprovalMode>,
        new: Option<ApprovalMode>,
        evaluates: EvaluatedAttributes,
    ) {
        self.note_if(old != new, "approval", new < old || evaluates.approved);
    }

    fn limits(&mut self, old: &TimeLimits, new: &TimeLimits, evaluates: EvaluatedAttributes) {
        let lasts_longer = match (old.expires, new.expires) {
            (Some(old), Some(new)) => new > old,
            (old, None) => old.is_some(),
            (None, Some(_)) => false,
        };
        // No token outlasts the expiry, so that an earlier one shortens lifetimes.
        self.note_if(old.expires != new.expires, "expires", lasts_longer || evaluates.ttl);
        let has_further_hours = match (&old.hours, &new.hours) {
            (Some(old), Some(new)) => !new.are_within(old),
            (old, None) => old.is_some(),
            (None, Some(_)) => false,
        };
        self.note_if(old.hours != new.hours, "hours", has_further_hours);
    }
}

fn compare_grants(old: &Grant, new: &Grant, evaluates: EvaluatedAttributes) -> Change {
    let mut change = Change::default();
    let added: Vec<&String> = new.scopes.difference(&old.scopes).collect();
    let scopes = added.iter().map(|scope| format!("+{scope}"));
    let removed = old.scopes.difference(&new.scopes).map(|scope| format!("-{scope}"));
    let scopes = scopes.chain(removed).collect::<Vec<_>>().join(" ");
    let widens = !added.is_empty() || evaluates.scopes;
    change.note_if(old.scopes != new.scopes, &format!("scopes {scopes}"), widens);
    let ttl = format!("ttl {} s to {} s", old.ttl.as_secs(), new.ttl.as_secs());
    change.note_if(old.ttl != new.ttl, &ttl, new.ttl > old.ttl || evaluates.ttl);
    let widens = new.assurance == Assurance::Sealed || evaluates.assurance;
    change.note_if(old.assurance != new.assurance, "assurance", widens);
    change.note_if(old.alg != new.alg, "alg", false);
    change.note_if(old.typ != new.typ, "typ", new.typ == TokenTyp::Jwt);
    change.posture(old.posture, new.posture, evaluates);
    change.approval(old.approval, new.approval, evaluates);
    // A bound token cannot be used without its key or certificate.
    let widens = new.bind == Binding::None || evaluates.binding;
    change.note_if(old.bind != new.bind, "bind", widens);
    change.note_if(old.proofs != new.proofs, "proofs", !new.proofs.is_within(&old.proofs));
    // A token without a status is valid at relying parties until it expires. Without the key, the configuration
    // decides, which may say either.
    let widens = new.status_list != Some(true) && old.status_list != Some(false);
    change.note_if(old.status_list != new.status_list, "status_list", widens);
    change.limits(&old.limits, &new.limits, evaluates);
    change
}

/// The conditions of an agent by their keys.
fn conditions(entry: &AgentEntry) -> Value {
    serde_json::to_value(&entry.selectors).unwrap_or(Value::Null)
}

/// Whether each condition of `old` is one of `new`, with the same value.
fn is_stricter(old: &Value, new: &Value) -> bool {
    let is_given = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
    let Some(old) = old.as_object() else { return false };
    old.iter().all(|(key, value)| !is_given(value) || new.get(key) == Some(value))
}

#[cfg(test)]
mod tests;
