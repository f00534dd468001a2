//! What can be revoked as a whole.

use std::fmt;

/// Kinds of targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetKind {
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
pub struct Target {
    kind: TargetKind,
    value: Box<str>,
}

impl TargetKind {
    /// All kinds, the widest first.
    pub const ALL: [TargetKind; 6] = [
        TargetKind::Everything,
        TargetKind::Tenant,
        TargetKind::Owner,
        TargetKind::Agent,
        TargetKind::Invocation,
        TargetKind::Key,
    ];

    /// The name in requests, records and the database.
    pub fn name(self) -> &'static str {
        match self {
            TargetKind::Everything => "everything",
            TargetKind::Tenant => "tenant",
            TargetKind::Owner => "owner",
            TargetKind::Agent => "agent",
            TargetKind::Invocation => "invocation",
            TargetKind::Key => "key",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<TargetKind> {
        TargetKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Target {
    /// Everything on this host.
    pub fn everything() -> Target {
        Target::new(TargetKind::Everything, "")
    }

    /// A target of this kind. `value` is the name of the tenant or agent, the owner as the agents' files have it,
    /// the invocation ID, or the key's `kid`; it is ignored for everything.
    pub fn new(kind: TargetKind, value: &str) -> Target {
        Target { kind, value: if kind == TargetKind::Everything { "".into() } else { value.into() } }
    }

    /// Its kind.
    pub fn kind(&self) -> TargetKind {
        self.kind
    }

    /// What distinguishes it from others of its kind; empty for everything.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TargetKind::Everything => f.write_str("everything"),
            kind => write!(f, "{} {}", kind.name(), self.value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kinds_are_unique_and_found() {
        for kind in TargetKind::ALL {
            assert_eq!(TargetKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(TargetKind::from_name("host"), None);
        assert_eq!(Target::new(TargetKind::Everything, "x"), Target::everything());
        assert_eq!(Target::new(TargetKind::Agent, "a").to_string(), "agent a");
    }
}
