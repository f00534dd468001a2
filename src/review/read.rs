//! Compares the agents of a directory with the audit log.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::counts::{counts_of, totals_of};
use super::figures::Counts;
use super::types::{
    AgentReview, AgentState, CredentialReview, GrantReview, Narrowing, Period, Review, ScopeReview, Use,
    VERSION,
};
use crate::agents::{AgentEntry, AgentSet, CredentialGrant, CredentialUse, Grant, Granted};
use crate::audit::{AgentUsage, AudienceUsage, MIN_USAGE_PERIOD, read_usage};
use crate::clock::Timestamp;

/// A narrowed lifetime is a multiple of this, in seconds.
const LIFETIME_STEP: u64 = 60;

/// Compares the agents, or the one named `only`, with what the log in `dir` has of them since a time. Blocking.
///
/// # Errors
/// The log, or a file of an agent, cannot be read.
pub fn read(
    dir: &Path,
    agents: &AgentSet,
    only: Option<&str>,
    host: String,
    since: Timestamp,
    now: Timestamp,
) -> io::Result<Review> {
    let reviewed: Vec<(&AgentEntry, &Path)> = agents
        .with_files()
        .filter(|(entry, ..)| only.is_none_or(|name| entry.name.as_str() == name))
        .map(|(entry, file, _)| (entry, file))
        .collect();
    let mut usages: HashMap<&str, AgentUsage> =
        reviewed.iter().map(|(entry, _)| (entry.name.as_str(), AgentUsage::from_time(since))).collect();
    let known = read_usage(dir, &mut usages, since)?;
    // An empty log is known from now on.
    let from = known.from.min(now);
    let mut rows = Vec::new();
    for (entry, file) in reviewed {
        let Some(usage) = usages.get(entry.name.as_str()) else { continue };
        let changed = fs::metadata(file)?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let known_since = from.max(Timestamp::from_secs(changed.as_secs())).min(now);
        rows.push(review_agent(entry, file, usage, known_since, now));
    }
    let period = Period { since, from, until: now, complete: from <= since, missing_records: known.missing };
    Ok(Review { version: VERSION, host, period, totals: totals_of(&rows), agents: rows })
}

/// Reviews one agent, whose use is known since `known_since`.
pub(super) fn review_agent(
    entry: &AgentEntry,
    file: &Path,
    usage: &AgentUsage,
    known_since: Timestamp,
    now: Timestamp,
) -> AgentReview {
    let is_known = now.since(known_since) >= MIN_USAGE_PERIOD;
    // What would take effect without the agent's own grants.
    let mut of_roles = entry.clone();
    of_roles.own_grants.clear();
    of_roles.own_credentials.clear();
    let is_given = usage.last_given.is_some();
    let comparison = Comparison { usage, of_roles: &of_roles, is_known, narrows: is_known && is_given };
    let mut review = AgentReview {
        name: entry.name.to_string(),
        owner: entry.owner.clone(),
        tenant: entry.tenant.clone(),
        file: file.to_owned(),
        roles: entry.roles.iter().map(|role| role.name().to_owned()).collect(),
        drain: entry.is_draining,
        known_since,
        last_seen: usage.last_seen,
        state: AgentState::Keep,
        counts: Counts::default(),
        grants: entry.grants().map(|granted| comparison.grant(granted)).collect(),
        credentials: entry.credentials().map(|granted| comparison.credential(granted)).collect(),
        diff: None,
        not_narrowed: None,
    };
    review.state = match (is_known, is_given) {
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
    is_known: bool,
    /// Whether the agent's own file is narrowed.
    narrows: bool,
}

impl Comparison<'_> {
    fn state(&self, is_used: bool, is_cut: bool) -> Use {
        match is_used {
            true => Use::Used,
            false if is_cut || !self.is_known => Use::Unknown,
            false => Use::Unused,
        }
    }

    fn grant(&self, granted: Granted<'_, Grant>) -> GrantReview {
        let Granted { item: grant, role } = granted;
        let used = self.usage.by_audience.get(&grant.audience);
        let state = self.state(used.is_some(), self.usage.is_cut);
        let is_cut = self.usage.is_cut || used.is_some_and(|used| used.is_cut);
        let scope = |scope: &String| ScopeReview {
            scope: scope.clone(),
            state: self.state(used.is_some_and(|used| used.scopes.contains(scope)), is_cut),
        };
        let scopes: Vec<ScopeReview> = grant.scopes.iter().map(scope).collect();
        let role_of_same = self.of_roles.grant(&grant.audience).and_then(|other| other.role);
        let is_own = self.narrows && role.is_none();
        let mut narrowing = Narrowing::default();
        match used {
            None => narrowing.remove = is_own && state == Use::Unused && role_of_same.is_none(),
            Some(used) if is_own => {
                let unused = scopes.iter().filter(|scope| scope.state == Use::Unused);
                narrowing.remove_scopes = unused.map(|scope| scope.scope.clone()).collect();
                narrowing.ttl = self.shorter(grant, used);
            }
            Some(_) => {}
        }
        let stays = is_own && state == Use::Unused && !narrowing.remove;
        GrantReview {
            audience: grant.audience.clone(),
            role: role.map(str::to_owned),
            state,
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
    /// audiences, one of this audience may have been longer.
    fn shorter(&self, grant: &Grant, used: &AudienceUsage) -> Option<u64> {
        let enough = used.lifetime.div_ceil(LIFETIME_STEP).max(1) * LIFETIME_STEP;
        Some(enough).filter(|enough| *enough < grant.ttl.as_secs() && !self.usage.is_cut)
    }

    fn credential(&self, granted: Granted<'_, CredentialGrant>) -> CredentialReview {
        let Granted { item: credential, role } = granted;
        let used = self.usage.credentials.get(&credential.name);
        // No record shows what is not given to the agent itself.
        let state = self.state(used.is_some(), credential.usage == CredentialUse::Inject);
        let role_of_same = self.of_roles.credential(&credential.name).and_then(|other| other.role);
        let could_go = self.narrows && role.is_none() && state == Use::Unused;
        CredentialReview {
            name: credential.name.clone(),
            role: role.map(str::to_owned),
            state,
            released: used.map_or(0, |used| used.count),
            last_used: used.and_then(|used| used.last),
            remove: could_go && role_of_same.is_none(),
            stays_because_of_role: role_of_same.filter(|_| could_go).map(str::to_owned),
        }
    }
}
