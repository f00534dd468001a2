//! What `hostbadge top` shows, as values.

use std::time::Duration;

use serde::Serialize;

use super::measurement::Measurement;
use super::rows::{AgentRow, AuditRow, Interval, ProcessRow, RequestRow, TpmRow};
use crate::clock::Timestamp;
use crate::wire::status::StatusResponse;

/// Everything that is shown; `--json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct View {
    pub(super) time: Timestamp,
    /// `None` until the host's identity is known.
    pub(super) host: Option<String>,
    pub(super) version: String,
    pub(super) started: Timestamp,
    /// What the rates are over: the time since the last view, or since the start of the daemon.
    pub(super) interval_seconds: f64,
    pub(super) health: String,
    pub(super) posture: String,
    pub(super) clock: String,
    pub(super) granted_per_second: f64,
    pub(super) refused_per_second: f64,
    pub(super) failed_per_second: f64,
    pub(super) registered_agents: u64,
    pub(super) live_tokens: u64,
    pub(super) frozen: bool,
    pub(super) tpm: TpmRow,
    pub(super) audit: AuditRow,
    pub(super) process: ProcessRow,
    pub(super) requests: Vec<RequestRow>,
    pub(super) agents: Vec<AgentRow>,
    /// What an administrator has to do, one sentence each.
    pub(super) alerts: Vec<String>,
}

impl View {
    /// The view of one moment, with rates since `before`, or since the start of the daemon.
    pub(super) fn new(now: &Measurement, before: Option<&Measurement>) -> View {
        let status = &now.status;
        // Another process counts from 0 again.
        let before = before.filter(|before| before.status.pid == status.pid);
        let length = match before {
            Some(before) => now.taken_at.duration_since(before.taken_at),
            None => now.time.since(status.started).max(Duration::from_secs(1)),
        };
        let interval = Interval { now: &now.samples, before: before.map(|before| &before.samples), length };
        let rate = |outcome| interval.rate("hostbadge_requests_total", &[("outcome", outcome)]);
        let state = |name| now.samples.state(name, "state").unwrap_or("unknown").to_owned();
        let number = |name| now.samples.sum(name, &[]) as u64;
        View {
            time: now.time,
            host: status.host.id.clone(),
            version: status.version.clone(),
            started: status.started,
            interval_seconds: length.as_secs_f64(),
            health: state("hostbadge_health"),
            posture: state("hostbadge_posture"),
            clock: state("hostbadge_clock_sync"),
            granted_per_second: rate("granted"),
            refused_per_second: rate("refused"),
            failed_per_second: rate("failed"),
            registered_agents: number("hostbadge_agents"),
            live_tokens: number("hostbadge_live_tokens"),
            frozen: number("hostbadge_frozen") > 0,
            tpm: interval.tpm(),
            audit: interval.audit(),
            process: interval.process(),
            requests: interval.requests(),
            agents: interval.agents(),
            alerts: alerts(status),
        }
    }
}

/// What the status says that an administrator should know, the worst first.
fn alerts(status: &StatusResponse) -> Vec<String> {
    let audit = &status.audit;
    let mut alerts: Vec<String> = status.issuer_blocked_reason.iter().cloned().collect();
    alerts.extend(status.hidden_processes.iter().cloned());
    alerts
        .extend(audit.problem.as_ref().map(|problem| format!("the audit log cannot be written: {problem}")));
    if status.tpm.state != "ready" {
        alerts.push(format!("the TPM is {}: {}", status.tpm.state, status.tpm.remedy));
    }
    alerts.extend(status.posture_reason.iter().map(|reason| format!("posture {}: {reason}", status.posture)));
    alerts.extend(status.warnings.iter().cloned());
    alerts.extend(audit.disk_fault.iter().chain(&audit.filling).cloned());
    let checkpoint = audit.checkpoint.problem.iter();
    alerts.extend(checkpoint.map(|problem| format!("no checkpoint of the audit log can be made: {problem}")));
    if status.anomalies.alerts > 0 {
        let number = status.anomalies.alerts;
        alerts.push(format!(
            "alerts of rules for anomalies in the last day: {number} (hostbadge anomaly list)"
        ));
    }
    alerts.extend(status.workers.problem.iter().cloned());
    alerts.extend(status.ca.blocked_reason.iter().map(|reason| format!("the CA is not renewed: {reason}")));
    alerts.extend(status.rsa_blocked_reason.iter().cloned());
    alerts.extend(status.admin_group.problem.iter().map(|problem| format!("admin group: {problem}")));
    alerts.extend(status.name_problems.iter().cloned());
    if status.agents.pending.is_some() {
        alerts.push("a change of agents waits for another administrator (hostbadge status)".to_owned());
    }
    alerts
}
