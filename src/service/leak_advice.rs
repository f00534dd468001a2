//! What to do after a leak, as sentences for the administrator.

use crate::wire::leak::{LeakRequest, LeakResponse, LeakedKind};

/// Names of credentials in one sentence.
const MAX_NAMES: usize = 10;

/// What to do next. `is_registered` says whether an agent's file has the agent.
pub(super) fn next_steps(report: &LeakResponse, request: &LeakRequest, is_registered: bool) -> Vec<String> {
    match report.what {
        LeakedKind::NoToken => vec!["check that the whole token was given".to_owned()],
        LeakedKind::Foreign => vec![
            "tell the issuer of this token, who alone can revoke it; if it is one of another hostbadge, run this \
             command on that host"
                .to_owned(),
            "look for where it was left: hostbadge hygiene PATH".to_owned(),
        ],
        LeakedKind::Unknown => vec![
            "look for the identifier in copies of older files of the audit log; a token lives at most an hour".to_owned(),
        ],
        _ => own_steps(report, request, is_registered),
    }
}

fn own_steps(report: &LeakResponse, request: &LeakRequest, is_registered: bool) -> Vec<String> {
    let mut steps = Vec::new();
    let agent = report.agent.as_deref().unwrap_or_default();
    let is_agent_revoked = report.revoked.iter().any(|one| one.kind == "agent");
    let is_invocation_revoked = report.revoked.iter().any(|one| one.kind == "invocation");
    if request.dry_run && !report.expired {
        steps.push("run this command again without --dry-run: nothing is revoked yet".to_owned());
    }
    if report.what == LeakedKind::Certificate
        && !report.expired
        && !is_agent_revoked
        && !is_invocation_revoked
    {
        steps.push(
            "give --agent, or --invocation: a certificate is revoked with the agent or the invocation that has it"
                .to_owned(),
        );
    }
    if request.invocation && report.invocation.is_none() {
        steps.push("it was issued in no invocation of a unit, so none was revoked; give --agent".to_owned());
    }
    if !report.expired && report.what != LeakedKind::Certificate {
        let whom = match report.audiences.as_slice() {
            [] => "its relying parties".to_owned(),
            audiences => audiences.join(", "),
        };
        steps.push(format!(
            "ask {whom} for what was done with it: a relying party that checks the signature alone accepts it until it \
             expires, {}",
            report.expires_at.map_or_else(String::new, |at| at.to_rfc3339_seconds())
        ));
    }
    if !report.credentials.is_empty() {
        let names = &report.credentials[..report.credentials.len().min(MAX_NAMES)];
        let more = report.credentials.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        steps.push(format!(
            "rotate what {agent} could read, if its process was taken over and not only the token: {}{more} (hostbadge \
             credential rotate NAME)",
            names.join(", ")
        ));
    }
    if let Some(unit) = report.unit.as_deref().filter(|unit| unit.ends_with(".service")) {
        steps.push(format!("look at what the unit wrote: journalctl --unit={unit}"));
    }
    if !agent.is_empty() {
        steps.push(format!(
            "look at what else it asked for: hostbadge audit tail --agent {agent} --since 24h"
        ));
    }
    steps.push("look for where it was left: hostbadge hygiene PATH".to_owned());
    if !is_agent_revoked && is_registered && !request.dry_run {
        steps.push(format!(
            "{agent} still gets new tokens; if its process was taken over, revoke it too: hostbadge revoke agent {agent}"
        ));
    }
    if is_agent_revoked {
        steps.push(format!(
            "{agent} gets nothing until you lift that, once the cause is removed: hostbadge revoke lift agent {agent}"
        ));
    }
    if is_invocation_revoked {
        steps.push(
            "restart the unit once the cause is removed: its next invocation is not revoked".to_owned(),
        );
    }
    steps
}
