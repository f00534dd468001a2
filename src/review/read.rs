//! Compares the agents of a directory with the audit log.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::changed::{changed_at, latest_change};
use super::compare::{Basis, review_agent};
use super::counts::totals_of;
use super::types::{Period, PeriodBound, Review, VERSION};
use crate::agents::{AgentEntry, AgentSet, EvaluatedAttributes};
use crate::audit::{AgentUsage, KnownBound, MIN_USAGE_PERIOD, read_usage};
use crate::clock::Timestamp;

/// What is reviewed.
#[derive(Clone, Debug)]
pub struct ReviewRequest<'a> {
    /// The directory of the audit log.
    pub audit: &'a Path,
    /// The agents.
    pub agents: &'a AgentSet,
    /// The directory from which their roles were read.
    pub roles: &'a Path,
    /// Only the agent of this name.
    pub only: Option<&'a str>,
    /// The name of the host.
    pub host: String,
    /// The begin of the period.
    pub since: Timestamp,
    /// Its end.
    pub now: Timestamp,
    /// Whether a right is called unused although records are missing, and although the agent's use is known for a
    /// shorter time than was asked for.
    pub accepts_incomplete: bool,
    /// What the policies of the host evaluate.
    pub evaluates: EvaluatedAttributes,
}

/// Compares agents with what the log has of them since a time. `progress` gets the number of records that were read, and
/// the time back to which they reach. Blocking.
///
/// # Errors
/// The log, a file of an agent or the directory of roles cannot be read.
pub fn read(request: ReviewRequest<'_>, progress: &mut dyn FnMut(u64, Timestamp)) -> io::Result<Review> {
    let ReviewRequest { since, now, accepts_incomplete, evaluates, .. } = request;
    let reviewed: Vec<(&AgentEntry, &Path)> = request
        .agents
        .with_files()
        .filter(|(entry, ..)| request.only.is_none_or(|name| entry.name.as_str() == name))
        .map(|(entry, file, _)| (entry, file))
        .collect();
    let mut usages: HashMap<&str, AgentUsage> =
        reviewed.iter().map(|(entry, _)| (entry.name.as_str(), AgentUsage::from_time(since))).collect();
    let known = read_usage(request.audit, &mut usages, since, progress)?;
    // An empty log is known from now on.
    let from = known.from.min(now);
    let roles_changed = latest_change(request.roles)?;
    let mut rows = Vec::new();
    for (entry, file) in reviewed {
        let Some(usage) = usages.get(entry.name.as_str()) else { continue };
        let of_roles = if entry.roles.is_empty() { None } else { roles_changed };
        let changed = Some(changed_at(file)?).max(of_roles);
        let known_since = changed.map_or(from, |changed| changed.max(from)).min(now);
        let is_whole = known_since <= since && known.missing == 0;
        let is_enough = (is_whole || accepts_incomplete) && now.since(known_since) >= MIN_USAGE_PERIOD;
        rows.push(review_agent(entry, file, usage, Basis { known_since, is_enough, evaluates }));
    }
    let period = Period {
        since,
        from,
        until: now,
        complete: from <= since,
        bound: known.bound.map(PeriodBound::from),
        missing_records: known.missing,
        accepts_incomplete,
    };
    let totals = totals_of(&rows);
    Ok(Review { version: VERSION, host: request.host, period, totals, agents: rows, applied: None })
}

impl From<KnownBound> for PeriodBound {
    fn from(bound: KnownBound) -> PeriodBound {
        match bound {
            KnownBound::Log => PeriodBound::Log,
            KnownBound::Size => PeriodBound::Size,
            KnownBound::Clock => PeriodBound::Clock,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::agents::AgentSource;
    use crate::review::AgentState;
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
        let request = |only| ReviewRequest {
            audit: &log,
            agents: &agents,
            roles: &source.roles,
            only,
            host: String::new(),
            since: NOW.before(DAY * 30),
            now: NOW,
            accepts_incomplete: false,
            evaluates: EvaluatedAttributes::default(),
        };
        let states = |accepts_incomplete| {
            let review = read(ReviewRequest { accepts_incomplete, ..request(None) }, &mut |_, _| {}).unwrap();
            assert!(review.period.complete && review.period.bound.is_none());
            review.agents.iter().map(|agent| agent.state).collect::<Vec<_>>()
        };
        // The files are years old at that time.
        assert_eq!(states(false), [AgentState::Unused, AgentState::Unused]);
        let touch = |path: &Path, age: Duration| {
            let changed = UNIX_EPOCH + Duration::from_secs(NOW.before(age).as_secs());
            File::options().append(true).open(path).unwrap().set_modified(changed).unwrap();
        };
        // Known for a shorter time than was asked for.
        touch(&role, DAY * 10);
        assert_eq!(states(false), [AgentState::Unknown, AgentState::Unused]);
        assert_eq!(states(true), [AgentState::Unused, AgentState::Unused]);
        touch(&role, Duration::from_secs(3600));
        assert_eq!(states(true), [AgentState::Unknown, AgentState::Unused]);
        touch(&agents_dir.join("without.toml"), Duration::from_secs(3600));
        assert_eq!(states(true), [AgentState::Unknown, AgentState::Unknown]);
        // No role: its directory may be missing.
        let request = ReviewRequest { roles: Path::new("/nonexistent"), ..request(Some("without")) };
        assert_eq!(read(request, &mut |_, _| {}).unwrap().agents.len(), 1);
    }

    #[test]
    fn what_was_used_by_a_missing_record_is_not_called_unused() {
        let root = tempfile::tempdir().unwrap();
        let (agents_dir, log) = (root.path().join("agents.d"), root.path().join("audit"));
        for dir in [&agents_dir, &log] {
            fs::create_dir(dir).unwrap();
        }
        let source = AgentSource::beside(&agents_dir, 35);
        let text =
            "name = \"a\"\n[match]\nuser = 0\n[[grant]]\naudience = \"x\"\n[[grant]]\naudience = \"y\"\n";
        fs::write(agents_dir.join("a.toml"), text).unwrap();
        let line = |seq: u64, age: Duration, members: &str| {
            let (prev, time) = ("0".repeat(64), NOW.before(age));
            format!("{{\"v\":1,\"seq\":{seq},\"prev\":\"{prev}\",\"time\":\"{time}\",{members}}}\n")
        };
        let token = r#""event":"token-issued","agent":"a","audience":"x","exp":2000000000"#;
        let begin = line(1, DAY * 60, r#""event":"daemon-started""#);
        let agents = AgentSet::read_from(&source).unwrap();
        let of_y = |seq: u64, accepts_incomplete: bool| {
            let text = format!("{begin}{}", line(seq, DAY, token));
            fs::write(log.join(format!("{:020}.jsonl", 1)), text).unwrap();
            let request = ReviewRequest {
                audit: &log,
                agents: &agents,
                roles: &source.roles,
                only: None,
                host: String::new(),
                since: NOW.before(DAY * 30),
                now: NOW,
                accepts_incomplete,
                evaluates: EvaluatedAttributes::default(),
            };
            let review = read(request, &mut |_, _| {}).unwrap();
            assert_eq!(review.period.missing_records, seq - 2);
            (
                review.agents[0].state,
                review.agents[0].grants[1].narrowing.remove,
                review.totals.rights.unused(),
            )
        };
        assert_eq!(of_y(2, false), (AgentState::Narrow, true, 1));
        assert_eq!(of_y(3, false), (AgentState::Unknown, false, 0));
        assert_eq!(of_y(3, true), (AgentState::Narrow, true, 1));
    }
}
