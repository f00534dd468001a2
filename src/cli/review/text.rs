//! A review as text, in 80 columns.

use std::fmt::Write;

use super::super::table::format_columns;
use crate::audit::MIN_USAGE_PERIOD;
use crate::config::escape_unprintable;
use crate::plural::counted;
use crate::review::{AgentReview, AgentState, Count, NotKnown, Period, Review, Use, notes};

/// Columns of a line. A word that is longer, such as an audience, is not divided.
const WIDTH: usize = 80;

/// The figures, a table of the agents, and what is proposed for each.
pub(super) fn report(review: &Review) -> String {
    let totals = &review.totals;
    let figures = format!(
        "{}: {}, {}, {} to narrow, {} not seen in the period, {} whose use is not known",
        escape_unprintable(&review.host),
        counted(totals.agents, "agent"),
        counted(totals.rights.unused(), "unused right"),
        counted(totals.narrow, "file"),
        totals.not_seen,
        totals.unknown
    );
    let mut lines = wrapped(&figures, "", "");
    lines.push(format!(
        "{} to {}, by the audit log",
        review.period.from.to_rfc3339_seconds(),
        review.period.until.to_rfc3339_seconds()
    ));
    lines.extend(notes(review).into_iter().flat_map(|note| wrapped(&note, "", "")));
    lines.push(String::new());
    let mut agents: Vec<&AgentReview> = review.agents.iter().collect();
    agents.sort_by_key(|agent| AgentState::ALL.iter().position(|state| *state == agent.state));
    if !agents.is_empty() {
        let headers = ["STATE", "AUDIENCES", "SCOPES", "CREDENTIALS", "TTL", "LAST SEEN", "AGENT"];
        let rows: Vec<Vec<String>> = agents.iter().map(|agent| row(agent)).collect();
        lines.extend(format_columns(&headers, &rows));
        lines.push("used/granted; TTL: grants whose lifetime can be shorter".to_owned());
    }
    for agent in agents {
        lines.extend(about(agent, &review.period));
    }
    lines.join("\n") + "\n"
}

/// The differences of the narrowed files. On a terminal, what would control it is escaped.
pub(super) fn diffs(review: &Review, is_terminal: bool) -> String {
    let diffs: String = review.agents.iter().filter_map(|agent| agent.diff.as_deref()).collect();
    match is_terminal {
        true => diffs.split_inclusive('\n').map(escaped_line).collect(),
        false => diffs,
    }
}

fn escaped_line(line: &str) -> String {
    match line.strip_suffix('\n') {
        Some(text) => format!("{}\n", escape_unprintable(text)),
        None => escape_unprintable(line).into_owned(),
    }
}

/// Which of the narrowed agents are known for a shorter time than was asked for, in sentences.
pub(super) fn shorter_times(review: &Review) -> Vec<String> {
    let narrowed = review.agents.iter().filter(|agent| agent.diff.is_some());
    let shorter = narrowed.filter(|agent| agent.known_since > review.period.since);
    let text = |agent: &AgentReview| {
        format!("the use of {} is known since {} only", agent.name, agent.known_since.to_rfc3339_seconds())
    };
    shorter.map(text).collect()
}

fn row(agent: &AgentReview) -> Vec<String> {
    let figures = |count: Count| format!("{}/{}", count.used, count.granted);
    let seen = agent.last_seen.map(|at| at.to_rfc3339_seconds());
    vec![
        agent.state.name().to_owned(),
        figures(agent.counts.audiences),
        figures(agent.counts.scopes),
        figures(agent.counts.credentials),
        agent.counts.shorter_lifetimes.to_string(),
        seen.as_deref().map_or("not seen", |seen| seen.get(..10).unwrap_or(seen)).to_owned(),
        agent.name.clone(),
    ]
}

/// What is proposed for an agent, and what cannot be; empty where there is nothing to say.
fn about(agent: &AgentReview, period: &Period) -> Vec<String> {
    let since = agent.known_since.to_rfc3339_seconds();
    let mut said = Vec::new();
    match agent.state {
        AgentState::Unused if agent.last_seen.is_some() => said.push(format!(
            "was given nothing since {since}, and made other requests; its file stays as it is"
        )),
        AgentState::Unused => said.push(format!(
            "was given nothing since {since}: consider to offboard it; its file stays as it is"
        )),
        AgentState::Unknown => said.push(not_known(agent, period)),
        AgentState::Narrow | AgentState::Keep => said.extend(rights(agent)),
    }
    if let Some(reason) = &agent.not_narrowed {
        said.push(format!("is not narrowed: {reason}"));
    }
    if said.is_empty() {
        return said;
    }
    let mut head = format!("\n{}", agent.name);
    if let Some(owner) = &agent.owner {
        let _ = write!(head, ", owner {}", escape_unprintable(owner));
    }
    let _ = write!(head, ", {}", escape_unprintable(&agent.file.to_string_lossy()));
    if agent.state == AgentState::Narrow && agent.known_since > period.since {
        let _ = write!(head, ", known since {since}");
    }
    let mut lines = wrapped(&head, "", "    ");
    lines.extend(said.iter().flat_map(|text| wrapped(&escape_unprintable(text), "  - ", "    ")));
    lines
}

/// Why the use of an agent is not known.
fn not_known(agent: &AgentReview, period: &Period) -> String {
    let since = agent.known_since.to_rfc3339_seconds();
    let (why, what) = match () {
        () if period.until.since(agent.known_since) < MIN_USAGE_PERIOD => {
            (format!("is known since {since} only, less than a day"), "")
        }
        () if agent.known_since > period.since && !period.accepts_incomplete => (
            format!("is known since {since} only, a shorter time than was asked for"),
            "; choose --since by it, or add --incomplete",
        ),
        () if period.missing_records > 0 && !period.accepts_incomplete => {
            ("may have used what the log lacks".to_owned(), "")
        }
        () => ("was given nothing, and asked for something and was refused".to_owned(), ""),
    };
    format!("{why}: nothing is called unused{what}")
}

fn rights(agent: &AgentReview) -> Vec<String> {
    let duration = |secs| humantime::format_duration(std::time::Duration::from_secs(secs)).to_string();
    let mut said = Vec::new();
    for grant in &agent.grants {
        let (audience, narrowing) = (&grant.audience, &grant.narrowing);
        if narrowing.remove {
            said.push(format!("remove the grant for {audience}: nothing was issued"));
        }
        if !narrowing.remove_scopes.is_empty() {
            said.push(format!("remove scopes of {audience}: {}", narrowing.remove_scopes.join(" ")));
        }
        if let Some(ttl) = narrowing.ttl {
            let (old, longest) = (duration(grant.ttl), duration(grant.longest.unwrap_or_default()));
            said.push(format!("ttl of {audience}: {old} to {}; the longest was {longest}", duration(ttl)));
        }
        if let Some(why) = grant.not_known {
            said.push(format!("the use of {audience}, or of its scopes, is not known: {}", why.text()));
        }
        let unused_scopes = grant.scopes.iter().filter(|scope| scope.state == Use::Unused).count();
        if let Some(role) = grant.role.as_ref().filter(|_| unused_scopes > 0 || grant.state == Use::Unused) {
            let what = match grant.state {
                Use::Unused => "is unused".to_owned(),
                _ => format!("has {}", counted(unused_scopes, "unused scope")),
            };
            said.push(format!(
                "the grant for {audience} of role {role} {what}; the role's file is not narrowed"
            ));
        }
        if let Some(role) = &grant.stays_because_of_role {
            said.push(format!("the unused grant for {audience} stays: that of role {role} would replace it"));
        }
    }
    for credential in &agent.credentials {
        let name = &credential.name;
        // That of a credential which the agent does not get itself is never known.
        if let Some(why) = credential.not_known.filter(|why| *why != NotKnown::Injected) {
            said.push(format!("the use of the credential {name} is not known: {}", why.text()));
        }
        match (&credential.role, &credential.stays_because_of_role) {
            _ if credential.remove => said.push(format!("remove the credential {name}: it was not released")),
            (Some(role), _) if credential.state == Use::Unused => {
                said.push(format!(
                    "the credential {name} of role {role} is unused; the role's file is not narrowed"
                ));
            }
            (_, Some(role)) => {
                said.push(format!(
                    "the unused credential {name} stays: that of role {role} would replace it"
                ));
            }
            _ => {}
        }
    }
    said
}

/// A text in lines of at most 80 columns. The first begins with `first`, the others with `next`.
fn wrapped(text: &str, first: &str, next: &str) -> Vec<String> {
    let (leading, text) = match text.strip_prefix('\n') {
        Some(text) => (vec![String::new()], text),
        None => (Vec::new(), text),
    };
    let mut lines = leading;
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(std::mem::replace(&mut line, next.to_owned()));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_controls_no_terminal() {
        let raw = "-# \u{1b}[2J\n+x\n";
        assert_eq!(raw.split_inclusive('\n').map(escaped_line).collect::<String>(), "-# \\u{1b}[2J\n+x\n");
    }

    #[test]
    fn lines_are_wrapped_between_words() {
        let text = "word ".repeat(40);
        let lines = wrapped(text.trim_end(), "  - ", "    ");
        assert!(lines.len() == 3 && lines.iter().all(|line| line.len() <= WIDTH), "{lines:#?}");
        assert!(lines[0].starts_with("  - word") && lines[1].starts_with("    word"), "{lines:#?}");
        let long = format!("a {} b", "x".repeat(100));
        assert_eq!(wrapped(&long, "", ""), ["a".to_owned(), "x".repeat(100), "b".to_owned()]);
        assert_eq!(wrapped("\nhead", "", ""), ["", "head"]);
    }
}
