//! Finds names in policies that no agent of the host has: probably a typing error, and a `forbid` with one
//! forbids nothing.

use std::collections::{BTreeSet, HashSet};

use cedar_policy::EntityUid;

use crate::agents::{AgentSet, root_agent};
use crate::config::Diagnostic;

use super::policy_set::PolicySet;

/// Warnings of one set.
const MAX_WARNINGS: usize = 100;

/// The names that agents have.
#[derive(Default)]
struct KnownNames<'a> {
    tenants: HashSet<&'a str>,
    audiences: HashSet<&'a str>,
    credentials: HashSet<&'a str>,
    roles: HashSet<&'a str>,
}

/// What is valid but probably not meant, in the order of files and lines: policies that never apply, and at
/// most 100 unknown names.
pub fn warnings(set: &PolicySet, agents: &AgentSet) -> Vec<Diagnostic> {
    let known = KnownNames::of(agents);
    let mut found = BTreeSet::new();
    for (policy, info) in set.cedar_policies() {
        for uid in policy.entity_literals() {
            if let Some(kind) = known.unknown_kind(&uid, agents) {
                found.insert((&info.file, info.line, kind, uid.id().unescaped().to_owned()));
            }
        }
    }
    let warning = |(file, line, kind, id): (&String, usize, &str, String)| Diagnostic {
        file: set.dir().join(file),
        line: Some(line),
        message: format!("no {kind} \"{}\", which the policy names", id.escape_debug()),
    };
    let unknown = found.into_iter().take(MAX_WARNINGS).map(warning);
    let mut warnings: Vec<Diagnostic> = set.warnings().iter().cloned().chain(unknown).collect();
    warnings.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
    warnings
}

impl<'a> KnownNames<'a> {
    fn of(agents: &'a AgentSet) -> KnownNames<'a> {
        let mut known = KnownNames::default();
        for entry in agents.iter() {
            known.tenants.extend(entry.tenant.as_deref());
            known.audiences.extend(entry.grants().map(|grant| grant.item.audience.as_str()));
            known.credentials.extend(entry.credentials().map(|credential| credential.item.name.as_str()));
            known.roles.extend(entry.roles.iter().map(|role| role.name()));
        }
        known
    }

    /// What the name would have to be, if there is none.
    fn unknown_kind(&self, uid: &EntityUid, agents: &AgentSet) -> Option<&'static str> {
        let id = uid.id().unescaped();
        let (is_known, kind) = match uid.type_name().basename() {
            "Agent" => (agents.get(root_agent(id)).is_some(), "agent of this host is"),
            "Tenant" => (self.tenants.contains(id), "agent has the tenant"),
            "Role" => (self.roles.contains(id), "agent has the role"),
            "Audience" => (self.audiences.contains(id), "agent has a grant for"),
            "Credential" => (self.credentials.contains(id), "agent has the credential"),
            "Host" => (id == "local", "host is named"),
            _ => (true, ""),
        };
        (!is_known).then_some(kind)
    }
}
