//! What agents use of what their files permit, by the audit log: `hostbadge agent lint --usage`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::agent_usage::{AgentUsage, AudienceUsage, MIN_USAGE_PERIOD};
use super::usage_reader::read_usage;
use crate::agents::{AgentEntry, AgentSet, Grant, Lint};
use crate::clock::Timestamp;
use crate::config::Diagnostic;

/// Lifetimes to suggest, in seconds.
const LIFETIMES: [u64; 8] = [30, 60, 120, 300, 600, 900, 1800, 3600];

/// What the audit log says of the use of agents.
#[derive(Debug)]
pub struct UsageReport {
    /// Lints, sorted by file.
    pub lints: Vec<Diagnostic>,
    /// The time from which records were compared.
    pub from: Timestamp,
    /// Agents without a day of records since their file was changed. They have no lints.
    pub left_out: usize,
}

/// Compares the grants of the agents with what was issued since `since`, by the log in `dir`. Only records
/// since the last change of an agent's file count. Reads at most 512 MiB of records, the latest.
/// `progress` gets the number of records that were read, and the time back to which they reach. Blocking.
///
/// # Errors
/// The directory, or a file in it, cannot be read.
pub fn usage_lints(
    dir: &Path,
    agents: &AgentSet,
    since: Timestamp,
    now: Timestamp,
    progress: &mut dyn FnMut(u64, Timestamp),
) -> io::Result<UsageReport> {
    let mut usages: HashMap<&str, AgentUsage> = HashMap::new();
    for (entry, file, _) in agents.with_files() {
        let changed = fs::metadata(file)?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = since.max(Timestamp::from_secs(changed.as_secs()));
        usages.insert(entry.name.as_str(), AgentUsage::from_time(since));
    }
    let from = read_usage(dir, &mut usages, since, progress)?.from.max(since);
    let mut report = UsageReport { lints: Vec::new(), from, left_out: 0 };
    for (entry, file, line) in agents.with_files() {
        let Some(usage) = usages.get(entry.name.as_str()) else { continue };
        let known_since = usage.since.max(from);
        if now.since(known_since) < MIN_USAGE_PERIOD {
            report.left_out += 1;
            continue;
        }
        let texts = about_agent(entry, usage, known_since);
        let lint = |message| Diagnostic { file: file.to_owned(), line, message };
        report.lints.extend(texts.into_iter().map(lint));
    }
    Ok(report)
}

fn about_agent(entry: &AgentEntry, usage: &AgentUsage, since: Timestamp) -> Vec<String> {
    if usage.last_seen.is_none() {
        return vec![Lint::UnusedAgent.about(format_args!(
            "the agent requested nothing since {since}, by the audit log; remove its file if it is not needed any \
             more"
        ))];
    }
    let refused = &usage.refused;
    let is_refused = |grant: &Grant| refused.has_others || refused.audiences.contains(&grant.audience);
    let about = |grant: &Grant| {
        match usage.by_audience.get(&grant.audience) {
        Some(used) => about_grant(grant, used, since),
        None if usage.is_cut => Vec::new(),
        // It was asked for and refused, and may be needed.
        None if is_refused(grant) => Vec::new(),
        None => vec![Lint::UnusedGrant.about(format_args!(
            "nothing was issued for the audience {:?} since {since}, by the audit log; remove its grant if it is \
             not needed any more",
            grant.audience
        ))],
    }
    };
    entry.grants().flat_map(|granted| about(granted.item)).collect()
}

fn about_grant(grant: &Grant, used: &AudienceUsage, since: Timestamp) -> Vec<String> {
    let mut found = Vec::new();
    let unused: Vec<&str> =
        grant.scopes.iter().filter(|scope| !used.scopes.contains(*scope)).map(String::as_str).collect();
    if !unused.is_empty() && !used.is_cut {
        found.push(Lint::UnusedScope.about(format_args!(
            "no token for {:?} had the scope {} since {since}, by the audit log; remove what is not needed",
            grant.audience,
            unused.join(" or ")
        )));
    }
    if used.count == 0 {
        // Proofs alone.
        return found;
    }
    let enough = LIFETIMES.into_iter().find(|lifetime| *lifetime >= used.lifetime).map(Duration::from_secs);
    if let Some(enough) = enough.filter(|enough| *enough * 2 <= grant.ttl) {
        found.push(Lint::LongLifetime.about(format_args!(
            "no token for {:?} was requested for longer than {} since {since}, by the audit log; ttl = \"{}\" is \
             enough",
            grant.audience,
            humantime::format_duration(Duration::from_secs(used.lifetime)),
            humantime::format_duration(enough)
        )));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::audit::chain::open as open_log;

    const NOW: Timestamp = Timestamp::from_secs(2_000_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    const AGENT: &str = "name = \"NAME\"\n[match]\nuser = 1\nunit = 'a.service'\n\
                         [[grant]]\naudience = \"https://a\"\nscopes = [\"read\", \"write\"]\nttl = \"1h\"\n\
                         [[grant]]\naudience = \"https://b\"\nscopes = [\"read\"]\n";

    /// The lints of agents `a` and `b`, whose files are as old as `ages` says, for these records.
    fn lints(records: &[(Duration, &str)], ages: [Duration; 2]) -> (Vec<String>, usize) {
        let (agents_dir, audit_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, age) in ["a", "b"].into_iter().zip(ages) {
            let path = agents_dir.path().join(format!("{name}.toml"));
            fs::write(&path, AGENT.replace("NAME", name)).unwrap();
            let changed = UNIX_EPOCH + Duration::from_secs(NOW.before(age).as_secs());
            File::options().append(true).open(path).unwrap().set_modified(changed).unwrap();
        }
        let (mut log, _) = open_log(audit_dir.path());
        for (age, members) in records {
            let time = NOW.before(*age);
            let exp = time.after(Duration::from_secs(60)).as_secs();
            let body = format!("\"time\":\"{time}\",{}}}", members.replace("EXP", &exp.to_string()));
            log.append([body.as_bytes()].into_iter()).unwrap();
        }
        let agents = AgentSet::read(agents_dir.path(), 35).unwrap();
        let report =
            usage_lints(audit_dir.path(), &agents, NOW.before(DAY * 30), NOW, &mut |_, _| {}).unwrap();
        let text = |one: &Diagnostic| {
            let stem = one.file.file_stem().unwrap().to_string_lossy().into_owned();
            format!("{stem}: {}", one.message)
        };
        (report.lints.iter().map(text).collect(), report.left_out)
    }

    const START: (Duration, &str) = (Duration::from_secs(40 * 86_400), "\"event\":\"daemon-started\"");
    const TOKEN: &str = "\"event\":\"token-issued\",\"agent\":\"a\",\"audience\":\"https://a\",\"scope\":\"read\",\
                         \"exp\":EXP";

    #[test]
    fn what_was_not_used_is_named_with_what_is_enough() {
        let svid =
            "\"event\":\"svid-issued\",\"agent\":\"b\",\"audience\":\"https://a https://b\",\"exp\":EXP";
        let (lints, left_out) = lints(&[START, (DAY * 20, TOKEN), (DAY * 2, svid)], [DAY * 100; 2]);
        let expected = [
            "a: no token for \"https://a\" had the scope write since 2033-04-18T",
            "a: no token for \"https://a\" was requested for longer than 1m since",
            "a: nothing was issued for the audience \"https://b\" since",
            "b: no token for \"https://a\" had the scope read or write since",
            "b: no token for \"https://a\" was requested for longer than 1m since",
            "b: no token for \"https://b\" had the scope read since",
            "b: no token for \"https://b\" was requested for longer than 1m since",
        ];
        for (lint, expected) in lints.iter().zip(expected) {
            assert!(lint.starts_with(expected), "{lint}\nis not\n{expected}");
        }
        assert_eq!((lints.len(), left_out), (expected.len(), 0), "{lints:#?}");
        assert!(lints[1].ends_with("ttl = \"1m\" is enough [long-lifetime]"), "{}", lints[1]);
    }

    #[test]
    fn earlier_records_and_young_files_do_not_count() {
        // Before the period, and before the file's last change.
        let (lints, left_out) =
            lints(&[START, (DAY * 35, TOKEN), (DAY * 3, TOKEN)], [DAY * 2, Duration::from_secs(3600)]);
        assert_eq!(left_out, 1);
        assert_eq!(lints.len(), 1, "{lints:#?}");
        assert!(lints[0].starts_with("a: the agent requested nothing since"), "{lints:#?}");
        assert!(lints[0].ends_with("[unused-agent]"), "{lints:#?}");
    }

    #[test]
    fn what_was_asked_for_and_refused_is_not_named() {
        let refused = "\"event\":\"request-refused\",\"agent\":\"b\",\"audience\":\"https://b\",\
                       \"reason\":\"access_denied\"";
        let (lints, _) = lints(&[START, (DAY * 2, TOKEN), (DAY, refused)], [DAY * 100; 2]);
        let of_b: Vec<&String> = lints.iter().filter(|lint| lint.starts_with("b: ")).collect();
        assert_eq!(of_b.len(), 1, "{of_b:#?}");
        assert!(of_b[0].starts_with("b: nothing was issued for the audience \"https://a\""), "{of_b:#?}");
    }

    #[test]
    fn a_log_of_less_than_a_day_says_nothing() {
        assert_eq!(self::lints(&[(Duration::from_secs(60), TOKEN)], [DAY * 100; 2]), (Vec::new(), 2));
        assert_eq!(self::lints(&[], [DAY * 100; 2]), (Vec::new(), 2));
    }
}
