//! Compares the agents of a directory with the audit log.

use std::collections::HashMap;
use std::fs::{self, Metadata};
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

/// Compares the agents, or the one named `only`, with what the log in `dir` has of them since a time. Their roles were
/// read from `roles`. Blocking.
///
/// # Errors
/// The log, a file of an agent or the directory of roles cannot be read.
pub fn read(
    dir: &Path,
    agents: &AgentSet,
    roles: &Path,
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
    let roles_changed = latest_change(roles)?;
    let mut rows = Vec::new();
    for (entry, file) in reviewed {
        let Some(usage) = usages.get(entry.name.as_str()) else { continue };
        let of_roles = if entry.roles.is_empty() { None } else { roles_changed };
        let changed = Some(modified(&fs::metadata(file)?)?).max(of_roles);
        let known_since = changed.map_or(from, |changed| changed.max(from)).min(now);
        rows.push(review_agent(entry, file, usage, known_since, now));
    }
    let period = Period { since, from, until: now, complete: from <= since, missing_records: known.missing };
    Ok(Review { version: VERSION, host, period, totals: totals_of(&rows), agents: rows })
}

/// When a directory, or a file in it, was changed last; `None` if there is no such directory.
fn latest_change(dir: &Path) -> io::Result<Option<Timestamp>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut latest = modified(&fs::metadata(dir)?)?;
    for entry in entries {
        latest = latest.max(modified(&entry?.metadata()?)?);
    }
    Ok(Some(latest))
}

fn modified(file: &Metadata) -> io::Result<Timestamp> {
    let since_epoch = file.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Timestamp::from_secs(since_epoch.as_secs()))
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;
    use crate::agents::AgentSource;
    use crate::review::samples::NOW;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn what_is_granted_since_less_than_a_day_is_not_called_unused() {
        let root = tempfile::tempdir().unwrap();
        let (agents_dir, log) = (root.path().join("agents.d"), root.path().join("audit"));
        let source = AgentSource::beside(&agents_dir, 35);
        for dir in [&agents_dir, &source.roles, &log] {
            fs::create_dir(dir).unwrap();
        }
        let grant = "[[grant]]\naudience = \"https://x\"\n";
        let role = source.roles.join("r.toml");
        fs::write(&role, format!("name = \"r\"\n{grant}")).unwrap();
        let agent = |name: &str, roles: &str| {
            let text = format!("name = \"{name}\"\n{roles}\n[match]\nuser = 0\n{grant}");
            fs::write(agents_dir.join(format!("{name}.toml")), text).unwrap();
        };
        agent("with", "roles = [\"r\"]");
        agent("without", "");
        let line = format!(
            "{{\"v\":1,\"seq\":1,\"prev\":\"{}\",\"time\":\"{}\",\"event\":\"daemon-started\"}}\n",
            "0".repeat(64),
            NOW.before(DAY * 60)
        );
        fs::write(log.join(format!("{:020}.jsonl", 1)), line).unwrap();
        let agents = AgentSet::read_from(&source).unwrap();
        let states = || {
            let since = NOW.before(DAY * 30);
            let review = read(&log, &agents, &source.roles, None, String::new(), since, NOW).unwrap();
            assert!(review.period.complete);
            review.agents.iter().map(|agent| agent.state).collect::<Vec<_>>()
        };
        // The files are years old at that time.
        assert_eq!(states(), [AgentState::Unused, AgentState::Unused]);
        let changed = UNIX_EPOCH + Duration::from_secs(NOW.before(Duration::from_secs(3600)).as_secs());
        let touch =
            |path: &Path| File::options().append(true).open(path).unwrap().set_modified(changed).unwrap();
        touch(&role);
        assert_eq!(states(), [AgentState::Unknown, AgentState::Unused]);
        touch(&agents_dir.join("without.toml"));
        assert_eq!(states(), [AgentState::Unknown, AgentState::Unknown]);
        // No role: its directory may be missing.
        let review = read(&log, &agents, Path::new("/nonexistent"), Some("without"), String::new(), NOW, NOW);
        assert_eq!(review.unwrap().agents.len(), 1);
    }
}
