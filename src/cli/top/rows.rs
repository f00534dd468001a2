//! What is shown of requests, agents, the TPM, the audit log and the process.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::super::metric_samples::Samples;
use super::quantile::{difference, quantile};

/// Two moments, or one and the start of the daemon.
#[derive(Clone, Copy)]
pub(super) struct Interval<'a> {
    pub(super) now: &'a Samples,
    pub(super) before: Option<&'a Samples>,
    pub(super) length: Duration,
}

/// Requests of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct RequestRow {
    pub(super) request: String,
    pub(super) granted_per_second: f64,
    pub(super) refused_per_second: f64,
    /// At most so long for half of the requests.
    #[serde(serialize_with = "seconds")]
    pub(super) p50_seconds: Option<Duration>,
    #[serde(serialize_with = "seconds")]
    pub(super) p99_seconds: Option<Duration>,
    /// The most frequent reason of refusals since the start of the daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) most_refused: Option<String>,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct AgentRow {
    pub(super) agent: String,
    pub(super) granted_per_second: f64,
    pub(super) refused_per_second: f64,
    pub(super) live_tokens: u64,
    /// Seconds since 1970.
    pub(super) last_seen: f64,
}

/// The TPM.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct TpmRow {
    pub(super) state: String,
    pub(super) queue_length: u64,
    pub(super) waiting_signatures: u64,
    pub(super) requests_per_second: f64,
    pub(super) faults: u64,
    #[serde(serialize_with = "seconds")]
    pub(super) p50_seconds: Option<Duration>,
    #[serde(serialize_with = "seconds")]
    pub(super) p99_seconds: Option<Duration>,
    #[serde(serialize_with = "seconds")]
    pub(super) wait_p99_seconds: Option<Duration>,
}

/// The audit log and the journal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct AuditRow {
    pub(super) writable: bool,
    pub(super) records_per_second: f64,
    pub(super) unsynced_records: u64,
    pub(super) queued_records: u64,
    #[serde(serialize_with = "seconds")]
    pub(super) write_p99_seconds: Option<Duration>,
    #[serde(serialize_with = "seconds")]
    pub(super) sync_p99_seconds: Option<Duration>,
    pub(super) dropped_journal_entries: u64,
}

/// The daemon's process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ProcessRow {
    pub(super) resident_bytes: u64,
    /// Parts of one processor.
    pub(super) cpu: f64,
    pub(super) open_fds: u64,
    pub(super) connections: u64,
}

impl Interval<'_> {
    /// How much a counter grew a second. After a restart of the daemon, it grew from 0.
    pub(super) fn rate(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let now = self.now.sum(name, labels);
        let before = self.before.map_or(0.0, |before| before.sum(name, labels));
        let grown = if now < before { now } else { now - before };
        grown / self.length.as_secs_f64().max(1e-3)
    }

    /// The bound below which this part of the durations was.
    fn quantile(&self, name: &str, labels: &[(&str, &str)], part: f64) -> Option<Duration> {
        let before = self.before.map(|before| before.buckets(name, labels)).unwrap_or_default();
        quantile(&difference(self.now.buckets(name, labels), &before), part)
    }

    fn number(&self, name: &str) -> u64 {
        self.now.sum(name, &[]) as u64
    }

    /// The kinds of requests of which there were any since the start of the daemon, in the order of the metrics.
    pub(super) fn requests(&self) -> Vec<RequestRow> {
        const REQUESTS: &str = "hostbadge_requests_total";
        const DURATION: &str = "hostbadge_request_duration_seconds";
        let kinds = self.now.label_values(REQUESTS, "request");
        let used = kinds.into_iter().filter(|kind| self.now.sum(REQUESTS, &[("request", kind)]) > 0.0);
        used.map(|kind| {
            let of = [("request", kind)];
            let rate = |outcome| self.rate(REQUESTS, &[("request", kind), ("outcome", outcome)]);
            let reasons = self.now.label_values(REQUESTS, "reason").into_iter();
            let refused = reasons
                .filter(|reason| !reason.is_empty())
                .map(|reason| (self.now.sum(REQUESTS, &[("request", kind), ("reason", reason)]), reason));
            let most =
                refused.filter(|(count, _)| *count > 0.0).max_by(|one, other| one.0.total_cmp(&other.0));
            RequestRow {
                request: kind.to_owned(),
                granted_per_second: rate("granted"),
                refused_per_second: rate("refused") + rate("failed"),
                p50_seconds: self.quantile(DURATION, &of, 0.5),
                p99_seconds: self.quantile(DURATION, &of, 0.99),
                most_refused: most.map(|(_, reason)| reason.to_owned()),
            }
        })
        .collect()
    }

    /// The agents, the busiest first, then those that were seen last.
    pub(super) fn agents(&self) -> Vec<AgentRow> {
        let row = |agent: &str| {
            let of = [("agent", agent)];
            AgentRow {
                agent: agent.to_owned(),
                granted_per_second: self.rate("hostbadge_agent_granted_total", &of),
                refused_per_second: self.rate("hostbadge_agent_refused_total", &of),
                live_tokens: self.now.sum("hostbadge_agent_live_tokens", &of) as u64,
                last_seen: self.now.sum("hostbadge_agent_last_seen_timestamp_seconds", &of),
            }
        };
        let names = self.now.label_values("hostbadge_agent_granted_total", "agent");
        let mut agents: Vec<AgentRow> = names.into_iter().map(row).collect();
        let busy = |agent: &AgentRow| agent.granted_per_second + agent.refused_per_second;
        agents.sort_by(|one, other| {
            busy(other).total_cmp(&busy(one)).then(other.last_seen.total_cmp(&one.last_seen))
        });
        agents
    }

    pub(super) fn tpm(&self) -> TpmRow {
        const DURATION: &str = "hostbadge_tpm_request_duration_seconds";
        TpmRow {
            state: self.now.state("hostbadge_tpm_state", "state").unwrap_or("unknown").to_owned(),
            queue_length: self.number("hostbadge_tpm_queue_length"),
            waiting_signatures: self.number("hostbadge_tpm_waiting_signatures"),
            requests_per_second: self.rate(&format!("{DURATION}_count"), &[]),
            faults: self.number("hostbadge_tpm_faults_total"),
            p50_seconds: self.quantile(DURATION, &[], 0.5),
            p99_seconds: self.quantile(DURATION, &[], 0.99),
            wait_p99_seconds: self.quantile("hostbadge_tpm_queue_wait_seconds", &[], 0.99),
        }
    }

    pub(super) fn audit(&self) -> AuditRow {
        AuditRow {
            writable: self.now.value("hostbadge_audit_writable", &[]) == Some(1.0),
            records_per_second: self.rate("hostbadge_audit_records_total", &[]),
            unsynced_records: self.number("hostbadge_audit_unsynced_records"),
            queued_records: self.number("hostbadge_audit_queued_records"),
            write_p99_seconds: self.quantile("hostbadge_audit_write_duration_seconds", &[], 0.99),
            sync_p99_seconds: self.quantile("hostbadge_audit_sync_duration_seconds", &[], 0.99),
            dropped_journal_entries: self.number("hostbadge_journal_dropped_entries_total"),
        }
    }

    pub(super) fn process(&self) -> ProcessRow {
        ProcessRow {
            resident_bytes: self.number("hostbadge_process_resident_memory_bytes"),
            cpu: self.rate("hostbadge_process_cpu_seconds_total", &[]),
            open_fds: self.number("hostbadge_process_open_fds"),
            connections: self.number("hostbadge_connections"),
        }
    }
}

fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}
