//! `hostbadge status`.

use std::process::ExitCode;

use super::agent::pending_lines;
use super::client;
use super::clock::clock_lines;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::format::{format_fault, roles_suffix};
use super::table::KeyValueTable;
use crate::plural::counted;
use crate::wire::host::Health;
use crate::wire::keys::Key;
use crate::wire::lifecycle::ActivitySummary;
use crate::wire::status::{
    AgentsStatus, ExpiringGrant, PoliciesStatus, SealStatus, StatusResponse, TpmStatus,
};

/// Exit status if the daemon answers but cannot do everything that it is configured to do.
const EXIT_DEGRADED: u8 = 4;

/// Grants that end soon that are shown.
const MAX_EXPIRING: usize = 10;

pub(super) async fn run(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let reply = client::get::<StatusResponse>(&common.admin_socket, "/v1/status").await?;
    if common.json {
        print_json(&reply.raw)?;
    } else {
        print_status(&reply.body)?;
    }
    Ok(match reply.body.status {
        Health::Ok => ExitCode::SUCCESS,
        Health::Degraded => ExitCode::from(EXIT_DEGRADED),
    })
}

fn print_status(status: &StatusResponse) -> Result<(), CliError> {
    let mut table = KeyValueTable::default();
    table.add("status", status.status.to_string());
    table.add_some("problem", status.issuer_blocked_reason.as_ref());
    for warning in &status.warnings {
        table.add("warning", warning.clone());
    }
    table.add("daemon", format!("{}, pid {}, since {}", status.version, status.pid, status.started));
    let host = &status.host;
    table.add("host", or_unknown(host.id.as_ref()));
    table.add("trust domain", or_unknown(host.trust_domain.as_ref()));
    table.add("issuer", or_unknown(host.issuer.as_ref()));
    for line in tpm_lines(&status.tpm) {
        table.add("TPM", line);
    }
    if let Some(certificate) = &status.certificate {
        let (subject, issuer) = (&certificate.subject, &certificate.issuer);
        table.add("certificate", format!("{subject} by {issuer}, until {}", certificate.not_after));
        let root = certificate.signing_root_sha256.as_ref();
        table.add_some("certificate", root.map(|root| format!("signs below the root with SHA-256 {root}")));
    }
    let until = or_unknown(status.ca.issues_until.as_ref());
    table.add("CA", format!("issues certificates until {until}"));
    table
        .add_some("CA", status.ca.blocked_reason.as_ref().map(|reason| format!("renewal delayed: {reason}")));
    table.add_some("CA", status.ca.lost_records.as_ref());
    for line in clock_lines(&status.clock) {
        table.add("clock", line);
    }
    let reason = status.posture_reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    table.add("posture", format!("{}{reason}", status.posture));
    for line in status.seal.iter().flat_map(seal_lines) {
        table.add("seal", line);
    }
    for key in &status.keys {
        table.add("key", key_line(key));
    }
    table.add_some("RS256", status.rsa_blocked_reason.as_ref());
    match status.agents.is_loaded {
        true => {
            let roles = roles_suffix(status.agents.roles);
            let read = format!("{}{roles}, read {}", status.agents.agents, status.agents.loaded_at);
            table.add("agents", read);
        }
        false => table.add("agents", "not known: no caller is identified until a reload succeeds"),
    }
    if let Some(activity) = &status.agents.activity {
        table.add("activity", activity_line(activity));
    }
    for line in status.agents.pending.iter().flat_map(pending_lines) {
        table.add("pending", line);
    }
    for line in expiring_lines(&status.agents) {
        table.add("expiry", line);
    }
    for fault in &status.agents.faults {
        table.add("fault", format_fault(fault));
    }
    for line in policy_lines(&status.policies) {
        table.add("policies", line);
    }
    for fault in &status.policies.faults {
        table.add("fault", format_fault(fault));
    }
    if let Some(stored) = status.credentials.stored.filter(|stored| *stored > 0) {
        table.add("credentials", format!("{stored} sealed"));
    }
    if status.status_lists.lists > 0 {
        let lists = counted(status.status_lists.lists, "status list");
        table.add("tokens", format!("{} in {lists}", status.status_lists.tokens));
    }
    if status.anomalies.alerts > 0 {
        let alerts = counted(status.anomalies.alerts, "alert");
        table.add("anomalies", format!("{alerts} in the last 24 hours; hostbadge anomaly list has them"));
    }
    if let Some(problem) = &status.admin_group.problem {
        table.add("admin group", format!("{}: {problem}", status.admin_group.name));
    }
    table.add_some("processes", status.hidden_processes.as_ref());
    for problem in &status.name_problems {
        table.add("names", problem.clone());
    }
    if !status.federation.trust_domains.is_empty() {
        table.add("federation", status.federation.trust_domains.join(", "));
    }
    for fault in &status.federation.faults {
        table.add("fault", format_fault(fault));
    }
    match &status.audit.problem {
        Some(problem) => {
            table.add("audit", format!("cannot be written: {problem}; nothing is issued until it can"));
        }
        None => table.add("audit", counted(status.audit.last_seq, "record")),
    }
    table.add_some("audit disk", status.audit.disk_fault.as_deref());
    table.add_some("audit disk", status.audit.filling.as_deref());
    let checkpoint = &status.audit.checkpoint;
    if let (Some(covered_to), Some(at)) = (checkpoint.covered_to, checkpoint.at) {
        let text = format!("record {covered_to}, {}", at.to_rfc3339_seconds());
        table.add("audit checkpoint", text);
    }
    table.add_some("checkpoint delayed", checkpoint.problem.as_deref());
    let dropped = match status.journal.dropped {
        0 => String::new(),
        n => format!(", dropped entries: {n}"),
    };
    table.add("journal", format!("{}{dropped}", status.journal.sink));
    table.add_some("workers", status.workers.problem.as_ref());
    table.add("connections", status.connections.to_string());
    table.print()
}

fn activity_line(activity: &ActivitySummary) -> String {
    let mut parts = vec![counted(activity.live_tokens, "live token")];
    match activity.known_since {
        Some(since) if activity.never_seen > 0 => {
            let never_seen = counted(activity.never_seen, "agent");
            parts.push(format!("{never_seen} not seen since {}", since.to_rfc3339_seconds()));
        }
        Some(_) => {}
        None => parts.push("the audit log is being read".to_owned()),
    }
    let counts = [
        (activity.absent_units.unwrap_or_default(), "agent", " without the file of its unit"),
        (activity.unregistered_units, "unit", " that no agent names"),
    ];
    let found = counts.into_iter().filter(|(count, ..)| *count > 0);
    parts.extend(found.map(|(count, noun, what)| format!("{}{what}", counted(count, noun))));
    parts.join(", ")
}

/// The grants that end soon, and the number of those beyond what is shown.
fn expiring_lines(agents: &AgentsStatus) -> Vec<String> {
    let line = |grant: &ExpiringGrant| {
        let (kind, holder) = match (&grant.agent, &grant.role) {
            (Some(agent), _) => ("agent", agent.as_str()),
            (None, role) => ("role", role.as_deref().unwrap_or_default()),
        };
        let what = match (&grant.audience, &grant.credential) {
            (Some(audience), _) => audience.clone(),
            (None, credential) => format!("credential {}", credential.as_deref().unwrap_or_default()),
        };
        let verb = if grant.expired { "expired" } else { "expires" };
        format!("{kind} {holder}, {what}: {verb} {}", grant.expires.to_rfc3339_seconds())
    };
    let mut lines: Vec<String> = agents.expiring.iter().take(MAX_EXPIRING).map(line).collect();
    if let Some(more) = agents.expiring_count.checked_sub(MAX_EXPIRING).filter(|more| *more > 0) {
        lines.push(format!("{more} more"));
    }
    lines
}

fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "unknown".into(), |value| value.to_string())
}

fn tpm_lines(tpm: &TpmStatus) -> Vec<String> {
    let mut lines = Vec::new();
    let detail = if tpm.detail.is_empty() { String::new() } else { format!(": {}", tpm.detail) };
    lines.push(format!("{}{detail}", tpm.state));
    if tpm.state != "ready" {
        lines.push(format!("fix: {}", tpm.remedy));
    }
    if tpm.waiting_to_sign > 0 {
        lines.push(format!("requests that wait for a TPM signature: {}", tpm.waiting_to_sign));
    }
    let Some(description) = &tpm.description else { return lines };
    if !description.manufacturer.is_empty() {
        let certificate = if description.ek_certificate { "with" } else { "without" };
        lines.push(format!(
            "{}, {} {}, firmware {}, {certificate} an EK certificate",
            tpm.kind.map(|kind| kind.to_string()).unwrap_or_default(),
            description.manufacturer.trim(),
            description.vendor.split_whitespace().collect::<Vec<_>>().join(" "),
            description.firmware.trim()
        ));
    }
    lines
        .extend(description.ek_certificate_fault.as_ref().map(|fault| format!("no EK certificate: {fault}")));
    lines.extend(description.ak_name.as_ref().map(|name| format!("attestation key {name}")));
    lines
}

/// Nothing where no policies are used.
fn policy_lines(policies: &PoliciesStatus) -> Vec<String> {
    if !policies.loaded {
        return vec!["not known: nothing is permitted until a reload succeeds".to_owned()];
    }
    let mut lines = Vec::new();
    if let (Some(set), Some(at)) = (&policies.set, policies.at) {
        let (number, version) = (policies.policies, set.version);
        lines.push(format!("{number}, version {version}, read {at}, times in {}", policies.timezone));
        lines.push(format!("SHA-256 {}", set.sha256));
    }
    match (policies.require_permit, &policies.set) {
        (true, _) => lines.push("each request needs a policy that permits it".to_owned()),
        (false, Some(_)) => {
            lines.push("implicit permit: a grant suffices where no policy forbids".to_owned())
        }
        (false, None) => {}
    }
    lines
}

fn seal_lines(seal: &SealStatus) -> Vec<String> {
    let list = |pcrs: &[u8]| pcrs.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let mut first = "to this TPM".to_owned();
    if !seal.pcrs.is_empty() {
        first += &format!(" and its PCRs {}", list(&seal.pcrs));
    }
    match seal.recovery {
        Some(created) => first += &format!("; recovery key created {created}"),
        None => first += "; no recovery key (hostbadge key recovery)",
    }
    let mut lines = vec![first];
    if !seal.pending_pcrs.is_empty() {
        lines.push(format!("to PCRs {} once a recovery key exists", list(&seal.pending_pcrs)));
    }
    lines
}

fn key_line(key: &Key) -> String {
    let since = key.since.map(|since| format!(", since {since}")).unwrap_or_default();
    format!("{} {}, {}{since}", key.alg, key.kid, key.state)
}
