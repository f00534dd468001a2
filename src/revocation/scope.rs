//! What can be revoked as a whole.

use std::fmt;

/// Kinds of scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScopeKind {
    /// Everything on this host.
    Everything,
    /// The agents of a tenant.
    Tenant,
    /// The agents of an owner.
    Owner,
    /// An agent.
    Agent,
    /// One invocation of an agent: one run of a unit, or of what stands in its place.
    Invocation,
    /// An issuing key.
    Key,
}

/// A set of tokens, certificates and permissions that is revoked as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    kind: ScopeKind,
    value: Box<str>,
}

impl ScopeKind {
    /// All kinds, the widest first.
    pub const ALL: [ScopeKind; 6] = [
        ScopeKind::Everything,
        ScopeKind::Tenant,
        ScopeKind::Owner,
        ScopeKind::Agent,
        ScopeKind::Invocation,
        ScopeKind::Key,
    ];

    /// The name in requests, records and the database.
    pub fn name(self) -> &'static str {
        match self {
            ScopeKind::Everything => "everything",
            ScopeKind::Tenant => "tenant",
            ScopeKind::Owner => "owner",
            ScopeKind::Agent => "agent",
            ScopeKind::Invocation => "invocation",
            ScopeKind::Key => "key",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<ScopeKind> {
        ScopeKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Scope {
    /// Everything on this host.
    pub fn everything() -> Scope {
        Scope::new(ScopeKind::Everything, "")
    }

    /// A scope of this kind. `value` is the name of the tenant or agent, the owner as the agents' files have it,
    /// the invocation ID, or the key's `kid`; it is ignored for everything.
    pub fn new(kind: ScopeKind, value: &str) -> Scope {
        Scope { kind, value: if kind == ScopeKind::Everything { "".into() } else { value.into() } }
    }

    /// Its kind.
    pub fn kind(&self) -> ScopeKind {
        self.kind
    }

    /// What distinguishes it from others of its kind; empty for everything.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ScopeKind::Everything => f.write_str("everything"),
            kind => write!(f, "{} {}", kind.name(), self.value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kinds_are_unique_and_found() {
        for kind in ScopeKind::ALL {
            assert_eq!(ScopeKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(ScopeKind::from_name("host"), None);
        assert_eq!(Scope::new(ScopeKind::Everything, "x"), Scope::everything());
        assert_eq!(Scope::new(ScopeKind::Agent, "a").to_string(), "agent a");
    }
}
