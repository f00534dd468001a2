//! What is read with the agents and becomes active with them: the policies, which this module does not know.

use data_encoding::HEXLOWER;

use crate::digest::sha256;

use super::rights_changes::RightsDiff;

/// What was read beside the agents, not yet active.
#[derive(Clone, Debug, Default)]
pub struct ReadBeside<T> {
    /// The content.
    pub content: T,
    /// Whether it is known what was active before, with which `rights` compares. Before the first reading
    /// without faults it is not.
    pub has_previous: bool,
    /// SHA-256 of the files' names and contents; `None` without files.
    pub sha256: Option<[u8; 32]>,
    /// What it changes in the rights of agents.
    pub rights: RightsDiff,
    /// Attributes of agents that it evaluates.
    pub evaluates: EvaluatedAttributes,
}

/// What of the registration of agents a policy evaluates. A policy may refuse because of one of these, so that an
/// agent with another value may do more than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvaluatedAttributes {
    /// The roles.
    pub roles: bool,
    /// The owner.
    pub owner: bool,
    /// The posture, which a request has if its grant evaluates it.
    pub posture: bool,
    /// Where the key of a token is kept.
    pub assurance: bool,
    /// What a token is bound to.
    pub binding: bool,
    /// Whether a person has approved what is requested.
    pub approved: bool,
    /// The digest of the executable, which a request has if a condition of its agent needs it.
    pub exe_sha256: bool,
    /// The scopes. A JWT-SVID is decided as if it had all scopes of the grant, and its request cannot name fewer.
    pub scopes: bool,
    /// The lifetime. That of a JWT-SVID is the longest that all of its grants allow, and its request cannot name
    /// another.
    pub ttl: bool,
}

impl EvaluatedAttributes {
    /// All of them: for policies that are not known.
    pub const ALL: EvaluatedAttributes = EvaluatedAttributes {
        roles: true,
        owner: true,
        posture: true,
        assurance: true,
        binding: true,
        approved: true,
        exe_sha256: true,
        scopes: true,
        ttl: true,
    };
    /// None: for a host without policies.
    pub const NONE: EvaluatedAttributes = EvaluatedAttributes {
        roles: false,
        owner: false,
        posture: false,
        assurance: false,
        binding: false,
        approved: false,
        exe_sha256: false,
        scopes: false,
        ttl: false,
    };
}

/// The digest that an administrator approves: that of the files of agents and roles, and, where there are policies,
/// SHA-256 of it and theirs. 64 hexadecimal digits.
pub(super) fn joined_digest(agents: &str, beside: Option<&[u8; 32]>) -> String {
    match beside {
        None => agents.to_owned(),
        Some(beside) => HEXLOWER.encode(&sha256(&[agents.as_bytes(), beside].concat())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_depends_on_both() {
        let [a, b] = ["a", "b"].map(|text| HEXLOWER.encode(&sha256(text.as_bytes())));
        assert_eq!(joined_digest(&a, None), a);
        let digests = [
            joined_digest(&a, None),
            joined_digest(&a, Some(&[0; 32])),
            joined_digest(&a, Some(&[1; 32])),
            joined_digest(&b, Some(&[0; 32])),
        ];
        let distinct: std::collections::HashSet<&String> = digests.iter().collect();
        assert!(distinct.len() == 4 && digests.iter().all(|digest| digest.len() == 64));
    }
}
