//! Policies by the agents that they concern.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::{Policy, PolicySet as CedarSet, PolicySetError};

use super::needs::Needs;
use super::question::Principal;
use super::scope::Scope;

/// The policies with one scope.
#[derive(Default)]
pub(super) struct Slice {
    pub policies: CedarSet,
    /// What they can read of a request.
    pub needs: Needs,
}

/// All policies, by their scopes.
#[derive(Default)]
pub(super) struct Slices {
    unscoped: Option<Slice>,
    agents: HashMap<String, Slice>,
    tenants: HashMap<String, Slice>,
    roles: HashMap<String, Slice>,
}

impl Slices {
    /// # Errors
    /// Cedar refuses a policy.
    pub(super) fn new(policies: BTreeMap<Scope, Vec<Policy>>) -> Result<Slices, Box<PolicySetError>> {
        let mut slices = Slices::default();
        for (scope, policies) in policies {
            let needs = policies.iter().map(|policy| Needs::of_text(&policy.to_string()));
            let needs = needs.fold(Needs::default(), Needs::and);
            let slice = Slice { policies: CedarSet::from_policies(policies)?, needs };
            match scope {
                Scope::All => slices.unscoped = Some(slice),
                Scope::Agent(name) => drop(slices.agents.insert(name, slice)),
                Scope::Tenant(name) => drop(slices.tenants.insert(name, slice)),
                Scope::Role(name) => drop(slices.roles.insert(name, slice)),
            }
        }
        Ok(slices)
    }

    /// The slices whose policies concern the agent, each once.
    pub(super) fn of(&self, principal: &Principal<'_>) -> Vec<&Slice> {
        let agent = self.agents.get(principal.name);
        let tenant = principal.tenant.and_then(|tenant| self.tenants.get(tenant));
        let mut slices: Vec<&Slice> = self.unscoped.iter().chain(agent).chain(tenant).collect();
        for slice in principal.roles.iter().filter_map(|role| self.roles.get(*role)) {
            if !slices.iter().any(|known| std::ptr::eq(*known, slice)) {
                slices.push(slice);
            }
        }
        slices
    }

    /// All policies, in no order.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.all().flat_map(|slice| slice.policies.policies())
    }

    /// What all policies can read of a request.
    pub(super) fn needs(&self) -> Needs {
        self.all().fold(Needs::default(), |needs, slice| needs.and(slice.needs))
    }

    fn all(&self) -> impl Iterator<Item = &Slice> {
        let scoped = [&self.agents, &self.tenants, &self.roles].into_iter().flat_map(HashMap::values);
        self.unscoped.iter().chain(scoped)
    }
}
