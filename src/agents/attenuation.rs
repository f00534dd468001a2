//! The rights of a sub-agent: a part of those that its parent has at the time of a request, and never more.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::binding::Binding;
use super::credential::CredentialGrant;
use super::delegation::{DelegatedGrant, DelegatedRight, DelegatedRights, Delegation};
use super::entry::AgentEntry;
use super::grant::Grant;
use super::selectors::Selectors;

/// Why an agent cannot delegate a right. The caller receives the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDelegable {
    /// It has no grant for the audience.
    #[error("agent \"{0}\" has no grant for the audience {1}")]
    NoGrant(String, String),
    /// Its grant lacks a scope.
    #[error("the grant for {0} has no scope \"{1}\"")]
    NoScope(String, String),
    /// Its grant has a shorter lifetime.
    #[error("tokens of the grant for {0} live {1} s at most")]
    LongerLife(String, u64),
    /// Its grant has another binding.
    #[error("tokens of the grant for {0} have bind = \"{1}\"")]
    OtherBinding(String, &'static str),
    /// It does not have the credential.
    #[error("agent \"{0}\" has no credential \"{1}\"")]
    NoCredential(String, String),
    /// A right is there twice.
    #[error("\"{0}\" is twice in grants")]
    Twice(String),
}

/// The rights that a sub-agent has of its parent's.
pub(super) struct Attenuated {
    pub grants: Vec<Grant>,
    pub credentials: Vec<CredentialGrant>,
}

impl AgentEntry {
    /// The sub-agent of a delegation, with what `parent` has of the delegated rights.
    pub(super) fn of_sub_agent(parent: &Arc<AgentEntry>, delegation: &Delegation) -> AgentEntry {
        let Attenuated { grants, credentials } = delegation.rights.of(parent);
        AgentEntry {
            name: delegation.agent.clone(),
            owner: parent.owner.clone(),
            tenant: parent.tenant.clone(),
            selectors: Selectors::default(),
            roles: Vec::new(),
            is_draining: parent.is_draining,
            own_grants: grants,
            own_credentials: credentials,
            anomaly: parent.anomaly.clone(),
            delegate: parent.delegate.clone(),
            run: None,
            parent: Some(parent.clone()),
        }
    }
}

impl DelegatedRights {
    /// Checks that the parent has these rights now.
    ///
    /// # Errors
    /// The first that it lacks.
    pub fn check(&self, parent: &AgentEntry) -> Result<(), NotDelegable> {
        let DelegatedRights::Some(rights) = self else { return Ok(()) };
        let mut seen = BTreeSet::new();
        for right in rights {
            if !seen.insert(key(right)) {
                return Err(NotDelegable::Twice(key(right).1.to_owned()));
            }
            match right {
                DelegatedRight::Grant(grant) => check_grant(grant, parent)?,
                DelegatedRight::Credential(name) if parent.credential(name).is_none() => {
                    return Err(NotDelegable::NoCredential(parent.name.to_string(), name.clone()));
                }
                DelegatedRight::Credential(_) => {}
            }
        }
        Ok(())
    }

    /// What the parent still has of them, each audience and credential once. A reload may have taken something from it
    /// since they were checked.
    pub(super) fn of(&self, parent: &AgentEntry) -> Attenuated {
        match self {
            DelegatedRights::All => Attenuated {
                grants: parent.grants().map(|grant| grant.item.clone()).collect(),
                credentials: parent.credentials().map(|credential| credential.item.clone()).collect(),
            },
            DelegatedRights::Some(rights) => {
                let mut some = Attenuated { grants: Vec::new(), credentials: Vec::new() };
                let mut seen = BTreeSet::new();
                for right in rights.iter().filter(|right| seen.insert(key(right))) {
                    match right {
                        DelegatedRight::Grant(part) => {
                            let granted = parent.grant(&part.audience);
                            some.grants.extend(granted.and_then(|granted| part.of(granted.item)));
                        }
                        DelegatedRight::Credential(name) => {
                            let granted = parent.credential(name);
                            some.credentials.extend(granted.map(|granted| granted.item.clone()));
                        }
                    }
                }
                some
            }
        }
    }
}

impl DelegatedGrant {
    /// This part of a grant; `None` if the grant's tokens are bound to something else.
    fn of(&self, grant: &Grant) -> Option<Grant> {
        let mut part = grant.clone();
        if let Some(scopes) = &self.scopes {
            part.scopes.retain(|scope| scopes.contains(scope));
        }
        if let Some(ttl) = self.ttl {
            part.ttl = part.ttl.min(ttl);
        }
        part.bind = binding(grant.bind, self.bind)?;
        Some(part)
    }
}

/// What can be there once: an audience or a credential.
fn key(right: &DelegatedRight) -> (&'static str, &str) {
    match right {
        DelegatedRight::Grant(grant) => ("audience", &grant.audience),
        DelegatedRight::Credential(name) => ("credential", name),
    }
}

fn check_grant(part: &DelegatedGrant, parent: &AgentEntry) -> Result<(), NotDelegable> {
    let audience = || part.audience.clone();
    let Some(grant) = parent.grant(&part.audience) else {
        return Err(NotDelegable::NoGrant(parent.name.to_string(), audience()));
    };
    if let Some(missing) = part.scopes.iter().flatten().find(|scope| !grant.scopes.contains(*scope)) {
        return Err(NotDelegable::NoScope(audience(), missing.escape_debug().to_string()));
    }
    if part.ttl.is_some_and(|ttl| ttl > grant.ttl) {
        return Err(NotDelegable::LongerLife(audience(), grant.ttl.as_secs()));
    }
    match binding(grant.bind, part.bind) {
        Some(_) => Ok(()),
        None => Err(NotDelegable::OtherBinding(audience(), grant.bind.as_str())),
    }
}

/// What tokens are bound to where the parent's grant says one thing and the delegation another; `None` if both cannot
/// hold.
fn binding(granted: Binding, delegated: Option<Binding>) -> Option<Binding> {
    match (granted, delegated) {
        (granted, None) => Some(granted),
        (Binding::None, Some(delegated)) => Some(delegated),
        (granted, Some(delegated)) => (granted == delegated).then_some(granted),
    }
}

#[cfg(test)]
mod tests {
    use super::super::agent_set::tests::read;
    use super::super::index_simulation::Random;
    use super::*;
    use std::time::Duration;

    fn some<T>(random: &mut Random, value: impl FnOnce(&mut Random) -> T) -> Option<T> {
        random.one_in(2).then(|| value(random))
    }

    const SCOPES: [&str; 3] = ["r", "w", "x"];
    const BINDINGS: [Binding; 3] = [Binding::None, Binding::Dpop, Binding::Mtls];

    fn scopes(random: &mut Random) -> Vec<String> {
        SCOPES.iter().filter(|_| random.below(2) == 0).map(|scope| (*scope).to_owned()).collect()
    }

    /// An agent with up to three grants and credentials.
    fn parent(random: &mut Random) -> AgentEntry {
        let mut text = "name = \"a\"\n[match]\nuser = 0\n".to_owned();
        for n in 0..random.below(4) {
            let (ttl, bind) = (random.below(60) + 1, BINDINGS[random.below(3) as usize].as_str());
            text += &format!(
                "[[grant]]\naudience = \"https://{n}.example.com\"\nttl = {ttl}\nbind = \"{bind}\"\n"
            );
            text += &format!("scopes = {:?}\n", scopes(random));
        }
        for n in 0..random.below(4) {
            text += &format!("[[credential]]\nname = \"c{n}\"\n");
        }
        (**read(&[("a.toml", &text)]).unwrap().get("a").unwrap()).clone()
    }

    fn right(random: &mut Random) -> DelegatedRight {
        if random.below(4) == 0 {
            return DelegatedRight::Credential(format!("c{}", random.below(4)));
        }
        DelegatedRight::Grant(DelegatedGrant {
            audience: format!("https://{}.example.com", random.below(4)),
            scopes: some(random, scopes),
            ttl: some(random, |random| Duration::from_secs(random.below(60) + 1)),
            bind: some(random, |random| BINDINGS[random.below(3) as usize]),
        })
    }

    fn rights(random: &mut Random) -> DelegatedRights {
        match random.below(8) {
            0 => DelegatedRights::All,
            _ => DelegatedRights::Some((0..random.below(4)).map(|_| right(random)).collect()),
        }
    }

    /// Asserts that each right in `child` is one of `parent`, no wider in any respect.
    #[track_caller]
    fn assert_within(child: &AgentEntry, parent: &AgentEntry) {
        for grant in child.grants() {
            let above = parent.grant(&grant.audience).expect("a grant for the audience");
            assert!(grant.scopes.is_subset(&above.scopes), "{grant:?} {above:?}");
            assert!(grant.ttl <= above.ttl, "{grant:?} {above:?}");
            assert!(above.bind == Binding::None || grant.bind == above.bind, "{grant:?} {above:?}");
            assert_eq!((&grant.proofs, &grant.limits), (&above.proofs, &above.limits));
            assert_eq!((grant.posture, grant.assurance), (above.posture, above.assurance));
            assert_eq!(grant.approval, above.approval);
        }
        for credential in child.credentials() {
            assert_eq!(Some(credential.item), parent.credential(&credential.name).map(|above| above.item));
        }
    }

    fn entry_of(parent: &AgentEntry, rights: &DelegatedRights) -> AgentEntry {
        let Attenuated { grants, credentials } = rights.of(parent);
        AgentEntry { own_grants: grants, own_credentials: credentials, ..parent.clone() }
    }

    #[test]
    fn no_delegation_has_more_than_its_parent() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..2000 {
            let parent = parent(&mut random);
            let (first, second) = (rights(&mut random), rights(&mut random));
            let child = entry_of(&parent, &first);
            // What was refused, or was checked before a reload, has no more either.
            assert_within(&child, &parent);
            assert_within(&entry_of(&child, &second), &child);
            match first.check(&parent) {
                Ok(()) => {
                    accepted += 1;
                    if let DelegatedRights::Some(rights) = &first {
                        assert_eq!(child.grants().count() + child.credentials().count(), rights.len());
                    }
                }
                Err(_) => refused += 1,
            }
        }
        assert!(accepted > 200 && refused > 200, "{accepted} {refused}");
    }

    #[test]
    fn what_the_parent_lacks_is_named() {
        let text = "name = \"a\"\n[match]\nuser = 0\n[[grant]]\naudience = \"https://x.com\"\nscopes = [\"r\"]\nttl = 60\n\
                    bind = \"dpop\"\n[[credential]]\nname = \"c\"\n";
        let agents = read(&[("a.toml", text)]).unwrap();
        let parent = agents.get("a").unwrap();
        let part = |audience: &str, scopes: Option<&str>, ttl: Option<u64>, bind| DelegatedGrant {
            audience: audience.to_owned(),
            scopes: scopes.map(|scope| vec![scope.to_owned()]),
            ttl: ttl.map(Duration::from_secs),
            bind,
        };
        let error = |rights: Vec<DelegatedRight>| {
            DelegatedRights::Some(rights).check(parent).unwrap_err().to_string()
        };
        let of_grant = |part| error(vec![DelegatedRight::Grant(part)]);
        assert_eq!(
            of_grant(part("https://y", None, None, None)),
            "agent \"a\" has no grant for the audience https://y"
        );
        assert_eq!(
            of_grant(part("https://x.com", Some("w"), None, None)),
            "the grant for https://x.com has no scope \"w\""
        );
        assert!(of_grant(part("https://x.com", None, Some(61), None)).contains("live 60 s at most"));
        assert!(of_grant(part("https://x.com", None, None, Some(Binding::None))).contains("bind = \"dpop\""));
        assert!(of_grant(part("https://x.com", None, None, Some(Binding::Mtls))).contains("bind = \"dpop\""));
        assert_eq!(
            error(vec![DelegatedRight::Credential("d".into())]),
            "agent \"a\" has no credential \"d\""
        );
        let twice = DelegatedRight::Credential("c".into());
        assert_eq!(error(vec![twice.clone(), twice]), "\"c\" is twice in grants");
        let whole = DelegatedRight::Grant(part("https://x.com", Some("r"), Some(60), Some(Binding::Dpop)));
        assert_eq!(DelegatedRights::Some(vec![whole]).check(parent), Ok(()));
    }
}
