//! Reviews for tests.

use super::counts::{counts_of, totals_of};
use super::figures::Counts;
use super::types::{
    AgentReview, AgentState, CredentialReview, GrantReview, Narrowing, Period, Review, ScopeReview, Use,
    VERSION,
};
use crate::clock::Timestamp;

/// The time of the reviews.
pub(super) const NOW: Timestamp = Timestamp::from_secs(2_000_000_000);

/// An agent with these audiences and credentials of its own, all of which were used.
pub(super) fn agent_review(name: &str, audiences: &[&str], credentials: &[&str]) -> AgentReview {
    let grant = |audience: &&str| GrantReview {
        audience: (*audience).to_owned(),
        role: None,
        state: Use::Used,
        not_known: None,
        issued: 3,
        last_used: Some(NOW),
        scopes: vec![ScopeReview { scope: "read".to_owned(), state: Use::Used }],
        ttl: 300,
        longest: Some(60),
        narrowing: Narrowing::default(),
        stays_because_of_role: None,
    };
    let credential = |name: &&str| CredentialReview {
        name: (*name).to_owned(),
        role: None,
        state: Use::Used,
        not_known: None,
        released: 2,
        last_used: Some(NOW),
        remove: false,
        stays_because_of_role: None,
    };
    let mut review = AgentReview {
        name: name.to_owned(),
        owner: None,
        tenant: None,
        file: format!("/etc/hostbadge/agents.d/{name}.toml").into(),
        roles: Vec::new(),
        drain: false,
        known_since: Timestamp::from_secs(1_997_408_000),
        last_seen: Some(NOW),
        state: AgentState::Keep,
        counts: Counts::default(),
        grants: audiences.iter().map(grant).collect(),
        credentials: credentials.iter().map(credential).collect(),
        diff: None,
        not_narrowed: None,
    };
    review.counts = counts_of(&review);
    review
}

/// A review of these agents over 30 days.
pub(super) fn review(agents: Vec<AgentReview>) -> Review {
    let since = Timestamp::from_secs(1_997_408_000);
    let period = Period {
        since,
        from: since,
        until: NOW,
        complete: true,
        bound: None,
        missing_records: 0,
        accepts_incomplete: false,
    };
    let (host, totals) = ("host-1".to_owned(), totals_of(&agents));
    Review { version: VERSION, host, period, totals, agents, applied: None }
}
