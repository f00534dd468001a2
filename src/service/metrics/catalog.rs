//! All metrics of the daemon. A test compares this list with docs/guide/monitoring.md.

use crate::metrics::{Metric, MetricKind, MetricUnit};

/// Defines metrics and [`CATALOG`], in the order in which they are written.
macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal $(in $unit:ident)? [$($label:literal)*] $help:literal;)*) => {
        $(
            pub(super) static $constant: Metric = Metric {
                name: $name,
                kind: MetricKind::$kind,
                unit: metrics!(@unit $($unit)?),
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All metrics.
        pub(super) static CATALOG: &[&Metric] = &[$(&$constant),*];
    };
    (@unit) => { None };
    (@unit $unit:ident) => { Some(MetricUnit::$unit) };
}

metrics! {
    BUILD = Info "build" ["version"] "The release of the daemon";
    START_TIME = Gauge "start_time" in Seconds [] "When the daemon started";
    EXPOSITION_TIME = Gauge "exposition_timestamp" in Seconds [] "When these values were read";
    HEALTH = Gauge "health" ["state"] "1 for how much of its work the daemon can do";
    WARNINGS = Gauge "warnings" [] "Warnings in `hostbadge status`";
    FAULTS = Gauge "configuration_faults" ["source"] "Faults of the last reading of these files; what was read before stays active";

    REQUESTS = Counter "requests" ["request" "outcome" "reason"] "Decided requests of agents, SPIFFE clients and service managers";
    UNRECORDED_REFUSALS = Counter "unrecorded_refusals" [] "Refusals without a record of their own; a later record has their number";
    REQUEST_DURATION = Histogram "request_duration" in Seconds ["request"] "Time from a received request to its recorded decision";
    CONNECTIONS = Gauge "connections" [] "Open connections of the agent socket, the workload socket and the credentials socket";
    WORKERS = Gauge "workers" ["state"] "Threads that serve these connections; a stalled one has not run for a second";

    AGENTS = Gauge "agents" [] "Registered agents";
    LIVE_TOKENS = Gauge "live_tokens" [] "Tokens that have not expired and are not revoked";
    EXPIRING_GRANTS = Gauge "expiring_grants" [] "Grants and credentials of agents that have expired or will within 7 days";
    PENDING_CHANGES = Gauge "pending_changes" [] "Changes of agents that wait for a second administrator";
    CREDENTIALS = Gauge "credentials" [] "Sealed credentials; absent while they are not available";
    REVOCATIONS = Gauge "revocations" [] "Revoked targets: agents, owners, tenants, invocations, keys";
    FROZEN = Gauge "frozen" [] "1 while the host is frozen";
    POSTURE = Gauge "posture" ["state"] "1 for the measured state of the host";
    CLOCK_SYNC = Gauge "clock_sync" ["state"] "1 for what the kernel says of the clock";

    TPM_STATE = Gauge "tpm_state" ["state"] "1 for the state of the TPM";
    TPM_QUEUE_LENGTH = Gauge "tpm_queue_length" [] "Requests that wait for the TPM thread";
    TPM_QUEUE_WAIT = Histogram "tpm_queue_wait" in Seconds [] "Time that requests waited for the TPM thread";
    TPM_REQUEST_DURATION = Histogram "tpm_request_duration" in Seconds [] "Time that requests took in the TPM thread, with repetitions";
    TPM_REJECTIONS = Counter "tpm_rejected_requests" ["reason"] "Requests that got no answer of the TPM";
    TPM_FAULTS = Counter "tpm_faults" ["class"] "Faults of the TPM or of the connection to it";
    TPM_CONNECTIONS = Counter "tpm_connections" [] "Times that the connection to the TPM was opened";
    TPM_WAITING_SIGNATURES = Gauge "tpm_waiting_signatures" [] "Token requests that wait for a signature by the TPM";

    KEYS = Gauge "keys" ["kind" "state"] "Keys of the host by what they are for and what they do";
    KEY_CREATED = Gauge "key_created_timestamp" in Seconds ["kind"] "When the oldest active key of each kind was made";
    KEY_NEXT_STEP = Gauge "key_next_step_timestamp" in Seconds ["kind"] "When the first step of an active key of each kind is due: a successor, or its renewal";
    KEYS_BLOCKED = Gauge "key_rotation_blocked" [] "1 while a step of the rotation that is due cannot be made";
    CERTIFICATE_NOT_BEFORE = Gauge "certificate_not_before_timestamp" in Seconds ["certificate"] "Start of the validity of the host certificate, and when the active issuing CA was made";
    CERTIFICATE_NOT_AFTER = Gauge "certificate_not_after_timestamp" in Seconds ["certificate"] "End of the validity of the host certificate and the active issuing CA";

    AUDIT_RECORDS = Counter "audit_records" ["event"] "Records of the audit log by their event";
    AUDIT_LAST_SEQUENCE = Gauge "audit_last_sequence" [] "Number of the last record";
    AUDIT_UNSYNCED = Gauge "audit_unsynced_records" [] "Records that may not be on the disk yet";
    AUDIT_QUEUED = Gauge "audit_queued_records" [] "Records that wait to be written";
    AUDIT_WRITE_DURATION = Histogram "audit_write_duration" in Seconds [] "Time of writes to the audit log, each of one record or several";
    AUDIT_SYNC_DURATION = Histogram "audit_sync_duration" in Seconds [] "Time to sync the audit log to its disk";
    AUDIT_WRITE_FAILURES = Counter "audit_write_failures" [] "Writes to the audit log that failed";
    AUDIT_WRITABLE = Gauge "audit_writable" [] "1 while the audit log can be written; nothing is issued while it cannot";
    AUDIT_PROBLEM = Gauge "audit_disk_problem" ["problem"] "1 for what is wrong with the disk of the audit log although it can be written";
    AUDIT_CHECKPOINT_TIME = Gauge "audit_checkpoint_timestamp" in Seconds [] "When the TPM certified the last checkpoint of the audit log";
    AUDIT_UNCOVERED = Gauge "audit_uncovered_records" [] "Records after the last checkpoint of the audit log";
    AUDIT_CHECKPOINT_FAILURES = Counter "audit_checkpoint_failures" [] "Attempts to make a checkpoint of the audit log that failed";
    JOURNAL_DROPPED = Counter "journal_dropped_entries" [] "Journal entries that were dropped because the journal did not read in time";

    ANOMALY_ALERTS = Counter "anomaly_alerts" ["rule"] "Alerts of each rule for anomalies";
    ANOMALY_DROPPED = Counter "anomaly_dropped_alerts" [] "Alerts that were not recorded, because too many came at once";
    SUSPENDED_AGENTS = Gauge "suspended_agents" [] "Agents that a rule for anomalies has suspended";

    RESIDENT = Gauge "process_resident_memory" in Bytes [] "Memory that the daemon occupies";
    VIRTUAL = Gauge "process_virtual_memory" in Bytes [] "Address space of the daemon";
    CPU = Counter "process_cpu" in Seconds [] "Processor time of the daemon";
    OPEN_FDS = Gauge "process_open_fds" [] "Open descriptors of the daemon";
    MAX_FDS = Gauge "process_max_fds" [] "Descriptors that the daemon may have";

    AGENT_GRANTED = Counter "agent_granted" ["agent"] "Tokens and certificates that were issued to the agent, and credentials that were released to it";
    AGENT_REFUSED = Counter "agent_refused" ["agent"] "Requests of the agent that were refused";
    AGENT_LIVE_TOKENS = Gauge "agent_live_tokens" ["agent"] "Tokens of the agent that have not expired and are not revoked";
    AGENT_LAST_SEEN = Gauge "agent_last_seen_timestamp" in Seconds ["agent"] "Time of the agent's last record in the audit log";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const GUIDE: &str = include_str!("../../../docs/guide/monitoring.md");

    #[test]
    fn the_guide_has_exactly_these_metrics() {
        let rows = GUIDE.lines().filter(|line| line.starts_with("| `hostbadge_"));
        let documented: Vec<String> = rows.map(str::to_owned).collect();
        let row = |metric: &&Metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind) = (metric.full_name(), metric.kind.name());
            let unit = metric.unit.map_or("", MetricUnit::name);
            format!("| `{name}` | {kind} | {unit} | {} | {} |", labels.join(", "), metric.help)
        };
        let exported: Vec<String> = CATALOG.iter().map(row).collect();
        assert_eq!(documented, exported, "the rows should be:\n{}", exported.join("\n"));
    }

    #[test]
    fn names_are_unique_and_follow_the_rules() {
        let names: HashSet<&str> = CATALOG.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), CATALOG.len());
        for metric in CATALOG {
            let is_word =
                |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit());
            assert!(
                is_word(metric.name) && metric.labels.iter().all(|label| is_word(label)),
                "{}",
                metric.name
            );
            // The suffixes are added, and `le` is the bound of a bucket.
            assert!(
                !metric.name.ends_with("_total") && !metric.name.ends_with("_seconds"),
                "{}",
                metric.name
            );
            assert!(!metric.labels.contains(&"le"), "{}", metric.name);
            assert!(!metric.help.ends_with('.') && !metric.help.contains(['\n', '\\']), "{}", metric.name);
            assert!(metric.kind != MetricKind::Histogram || metric.unit == Some(MetricUnit::Seconds));
        }
    }
}
