//! Compares the rights of one agent with what it used.

use std::path::Path;

use super::counts::counts_of;
use super::figures::Counts;
use super::types::{
    AgentReview, AgentState, CredentialReview, GrantReview, Narrowing, NotKnown, ScopeReview, Use,
};
use crate::agents::{AgentEntry, CredentialGrant, CredentialUse, EvaluatedAttributes, Grant, Granted};
use crate::audit::{AgentUsage, AudienceUsage};
use crate::clock::Timestamp;

/// A narrowed lifetime is a multiple of this, in seconds.
const LIFETIME_STEP: u64 = 60;

/// On what a review of one agent is based.
#[derive(Clone, Copy, Debug)]
pub(super) struct Basis {
    /// From when on its use is known.
    pub known_since: Timestamp,
    /// Whether that is enough to call a right unused.
    pub is_enough: bool,
    /// What policies evaluate, which may refuse by it: then to narrow it could give more.
    pub evaluates: EvaluatedAttributes,
}

/// Reviews one agent.
pub(super) fn review_agent(entry: &AgentEntry, file: &Path, usage: &AgentUsage, basis: Basis) -> AgentReview {
    // What would take effect without the agent's own grants.
    let mut of_roles = entry.clone();
    of_roles.own_grants.clear();
    of_roles.own_credentials.clear();
    let is_given = usage.last_given.is_some();
    let refused = &usage.refused;
    let is_refused = refused.has_others || !refused.audiences.is_empty() || !refused.credentials.is_empty();
    // Of an agent that asked for something and got nothing, the records do not say what it needs.
    let basis = Basis { is_enough: basis.is_enough && (is_given || !is_refused), ..basis };
    let narrows = basis.is_enough && is_given;
    let is_of_unit = entry.selectors.unit.is_some();
    let comparison = Comparison { usage, of_roles: &of_roles, basis, narrows, is_of_unit };
    let mut review = AgentReview {
        name: entry.name.to_string(),
        owner: entry.owner.clone(),
        tenant: entry.tenant.clone(),
        file: file.to_owned(),
        roles: entry.roles.iter().map(|role| role.name().to_owned()).collect(),
        drain: entry.is_draining,
        known_since: basis.known_since,
        last_seen: usage.last_seen,
        state: AgentState::Keep,
        counts: Counts::default(),
        grants: entry.grants().map(|granted| comparison.grant(granted)).collect(),
        credentials: entry.credentials().map(|granted| comparison.credential(granted)).collect(),
        diff: None,
        not_narrowed: None,
    };
    review.state = match (basis.is_enough, is_given) {
        (false, _) => AgentState::Unknown,
        (true, false) => AgentState::Unused,
        (true, true) if review.has_narrowing() => AgentState::Narrow,
        (true, true) => AgentState::Keep,
    };
    review.counts = counts_of(&review);
    review
}

/// What one agent's rights are compared with.
struct Comparison<'a> {
    usage: &'a AgentUsage,
    of_roles: &'a AgentEntry,
    basis: Basis,
    /// Whether the agent's own file is narrowed.
    narrows: bool,
    /// Whether the agent is a unit of the system, for which credentials can be loaded when it starts.
    is_of_unit: bool,
}

impl Comparison<'_> {
    /// The state of a right, where `not_known` says what speaks against calling it unused.
    fn state(&self, is_used: bool, not_known: Option<NotKnown>) -> Use {
        match is_used {
            true => Use::Used,
            false if not_known.is_some() || !self.basis.is_enough => Use::Unknown,
            false => Use::Unused,
        }
    }

    fn grant(&self, granted: Granted<'_, Grant>) -> GrantReview {
        let Granted { item: grant, role } = granted;
        let used = self.usage.by_audience.get(&grant.audience);
        let refused = &self.usage.refused;
        let is_refused = refused.has_others || refused.audiences.contains(&grant.audience);
        let of_all = if is_refused { Some(NotKnown::Refused) } else { None };
        let of_grant = of_all.or(self.usage.is_cut.then_some(NotKnown::Cut));
        let of_scopes = match used {
            _ if of_grant.is_some() => of_grant,
            Some(used) if used.is_cut => Some(NotKnown::Cut),
            Some(used) if used.has_svids => Some(NotKnown::Svids),
            _ => None,
        };
        let state = self.state(used.is_some(), of_grant);
        let scope = |scope: &String| ScopeReview {
            scope: scope.clone(),
            state: self.state(used.is_some_and(|used| used.scopes.contains(scope)), of_scopes),
        };
        let scopes: Vec<ScopeReview> = grant.scopes.iter().map(scope).collect();
        let role_of_same = self.of_roles.grant(&grant.audience).and_then(|other| other.role);
        let is_own = self.narrows && role.is_none();
        let mut narrowing = Narrowing::default();
        match used {
            None => narrowing.remove = is_own && state == Use::Unused && role_of_same.is_none(),
            Some(used) if is_own => {
                if !self.basis.evaluates.scopes {
                    let unused = scopes.iter().filter(|scope| scope.state == Use::Unused);
                    narrowing.remove_scopes = unused.map(|scope| scope.scope.clone()).collect();
                }
                if !is_refused && !self.basis.evaluates.ttl {
                    narrowing.ttl = self.shorter(grant, used);
                }
            }
            Some(_) => {}
        }
        let stays = is_own && state == Use::Unused && !narrowing.remove;
        let has_unknown = state == Use::Unknown || scopes.iter().any(|scope| scope.state == Use::Unknown);
        GrantReview {
            audience: grant.audience.clone(),
            role: role.map(str::to_owned),
            state,
            not_known: of_scopes.filter(|_| has_unknown && self.basis.is_enough),
            issued: used.map_or(0, |used| used.count),
            last_used: used.and_then(|used| used.last),
            scopes,
            ttl: grant.ttl.as_secs(),
            longest: used.map(|used| used.lifetime),
            narrowing,
            stays_because_of_role: role_of_same.filter(|_| stays).map(str::to_owned),
        }
    }

    /// The lifetime that is enough, if it is shorter than that of the grant. Where a record does not name all
    /// audiences, one of this audience may have been longer, and where the grant's own expiry has ended a token, a
    /// longer one was asked for. Proofs alone say nothing of it.
    fn shorter(&self, grant: &Grant, used: &AudienceUsage) -> Option<u64> {
        if used.count == 0 {
            return None;
        }
        let is_ended = grant.limits.expires.is_some_and(|expires| used.expires >= expires.as_secs());
        let enough = used.lifetime.div_ceil(LIFETIME_STEP).max(1) * LIFETIME_STEP;
        Some(enough).filter(|enough| *enough < grant.ttl.as_secs() && !self.usage.is_cut && !is_ended)
    }

    fn credential(&self, granted: Granted<'_, CredentialGrant>) -> CredentialReview {
        let Granted { item: credential, role } = granted;
        let used = self.usage.credentials.get(&credential.name);
        let (usage, refused) = (self.usage, &self.usage.refused);
        let not_known = if credential.usage == CredentialUse::Inject {
            // No record shows what is not given to the agent itself.
            Some(NotKnown::Injected)
        } else if refused.has_others || refused.credentials.contains(&credential.name) {
            Some(NotKnown::Refused)
        } else if self.is_of_unit && (usage.has_loaded || !usage.has_started) {
            Some(NotKnown::Loaded)
        } else {
            None
        };
        let state = self.state(used.is_some(), not_known);
        let role_of_same = self.of_roles.credential(&credential.name).and_then(|other| other.role);
        let could_go = self.narrows && role.is_none() && state == Use::Unused;
        CredentialReview {
            name: credential.name.clone(),
            role: role.map(str::to_owned),
            state,
            not_known: not_known.filter(|_| state == Use::Unknown && self.basis.is_enough),
            released: used.map_or(0, |used| used.count),
            last_used: used.and_then(|used| used.last),
            remove: could_go && role_of_same.is_none(),
            stays_because_of_role: role_of_same.filter(|_| could_go).map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::{AgentSet, AgentSource};
    use crate::review::samples::NOW;

    const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
    const AT: Timestamp = NOW.before(DAY);

    fn used(scopes: &[&str], lifetime: u64) -> AudienceUsage {
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        AudienceUsage { count: 1, last: Some(AT), scopes, lifetime, ..AudienceUsage::default() }
    }

    /// The review of an agent that has used `x`, and may also use `y` and the credential `c`.
    fn review(
        text: &str,
        change: impl FnOnce(&mut AgentUsage),
        evaluates: EvaluatedAttributes,
    ) -> AgentReview {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, text).unwrap();
        let agents = AgentSet::read_from(&AgentSource::beside(dir.path(), 35)).unwrap();
        let mut usage = AgentUsage::from_time(NOW.before(DAY * 30));
        usage.by_audience.insert("x".to_owned(), used(&["r"], 60));
        (usage.last_seen, usage.last_given) = (Some(AT), Some(AT));
        change(&mut usage);
        let basis = Basis { known_since: NOW.before(DAY * 30), is_enough: true, evaluates };
        review_agent(agents.get("a").unwrap(), &path, &usage, basis)
    }

    const TEXT: &str = "name = \"a\"\n[match]\nuser = 0\n\
                        [[grant]]\naudience = \"x\"\nscopes = [\"r\", \"w\"]\nttl = \"1h\"\n\
                        [[grant]]\naudience = \"y\"\nscopes = [\"r\"]\n\
                        [[credential]]\nname = \"c\"\nuse = \"release\"\n";
    const NONE: EvaluatedAttributes = EvaluatedAttributes::NONE;

    #[test]
    fn what_was_asked_for_and_refused_stays() {
        let plain = review(TEXT, |_| {}, NONE);
        assert_eq!((plain.grants[1].state, plain.credentials[0].state), (Use::Unused, Use::Unused));
        assert!(plain.grants[1].narrowing.remove && plain.credentials[0].remove);
        assert_eq!(plain.grants[0].narrowing.ttl, Some(60));
        let refused = |audiences: &[&str], credentials: &[&str], has_others: bool| {
            let change = |usage: &mut AgentUsage| {
                usage.refused.audiences = audiences.iter().map(|&one| one.to_owned()).collect();
                usage.refused.credentials = credentials.iter().map(|&one| one.to_owned()).collect();
                usage.refused.has_others = has_others;
            };
            review(TEXT, change, NONE)
        };
        let of_both = refused(&["x", "y"], &["c"], false);
        for review in [of_both, refused(&[], &[], true)] {
            assert_eq!((review.state, review.has_narrowing()), (AgentState::Keep, false), "{review:#?}");
            assert_eq!(review.grants[0].scopes[1].state, Use::Unknown);
            assert_eq!((review.grants[1].state, review.credentials[0].state), (Use::Unknown, Use::Unknown));
            assert_eq!(review.grants[1].not_known, Some(NotKnown::Refused));
            assert_eq!(review.credentials[0].not_known, Some(NotKnown::Refused));
            assert_eq!(review.counts.unused(), 0);
        }
        let one = refused(&["y"], &[], false);
        assert!(!one.grants[1].narrowing.remove && one.credentials[0].remove);
        // An agent that was given nothing and asked for something is not unused.
        let given_nothing = |usage: &mut AgentUsage| {
            *usage = AgentUsage::from_time(usage.since);
            usage.refused.audiences.insert("y".to_owned());
        };
        let row = review(TEXT, given_nothing, NONE);
        assert_eq!((row.state, row.counts.unused()), (AgentState::Unknown, 0));
        let nothing = |usage: &mut AgentUsage| *usage = AgentUsage::from_time(usage.since);
        assert_eq!(review(TEXT, nothing, NONE).state, AgentState::Unused);
    }

    #[test]
    fn what_a_unit_can_have_loaded_at_its_start_stays() {
        let text = TEXT.replace("user = 0", "user = 0\nunit = \"a.service\"");
        let state = |has_loaded, has_started| {
            let change = |usage: &mut AgentUsage| {
                (usage.has_loaded, usage.has_started) = (has_loaded, has_started);
            };
            let review = review(&text, change, NONE);
            (review.credentials[0].state, review.credentials[0].remove)
        };
        assert_eq!(state(false, false), (Use::Unknown, false));
        assert_eq!(state(true, true), (Use::Unknown, false));
        assert_eq!(state(false, true), (Use::Unused, true));
    }

    #[test]
    fn what_a_policy_evaluates_or_svids_are_decided_with_stays() {
        let scopes = review(TEXT, |_| {}, EvaluatedAttributes { scopes: true, ..NONE });
        assert_eq!(scopes.grants[0].narrowing, Narrowing { ttl: Some(60), ..Narrowing::default() });
        let ttl = review(TEXT, |_| {}, EvaluatedAttributes { ttl: true, ..NONE });
        assert_eq!(ttl.grants[0].narrowing.ttl, None);
        assert_eq!(ttl.grants[0].narrowing.remove_scopes, ["w"]);
        let with_svids = |usage: &mut AgentUsage| usage.by_audience.get_mut("x").unwrap().has_svids = true;
        let svids = review(TEXT, with_svids, NONE);
        assert!(svids.grants[0].narrowing.remove_scopes.is_empty());
        assert_eq!(svids.grants[0].not_known, Some(NotKnown::Svids));
    }

    #[test]
    fn a_lifetime_that_the_expiry_of_the_grant_has_cut_is_not_the_one_that_is_enough() {
        let text = TEXT.replace("ttl = \"1h\"", "ttl = \"1h\"\nexpires = 2033-05-18T03:33:20Z");
        let ttl = |expires: u64| {
            let change = |usage: &mut AgentUsage| usage.by_audience.get_mut("x").unwrap().expires = expires;
            review(&text, change, NONE).grants[0].narrowing.ttl
        };
        assert_eq!(ttl(1_999_999_000), Some(60));
        assert_eq!(ttl(2_000_000_000), None);
    }
}
