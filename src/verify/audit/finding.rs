//! What a verification of an audit log has found.

use serde::Serialize;

/// Whether a finding makes the log not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The log was changed, or its end or beginning is missing.
    Bad,
    /// Something that an auditor should know, and that has innocent causes.
    Warning,
}

/// The kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A line is no record, or a file has no records.
    Format,
    /// A record does not have the digest that the next one names, or the other way round.
    RecordChanged,
    /// Numbers are missing, repeated or not in order.
    RecordOrder,
    /// The log ends before a record that a checkpoint names.
    Truncated,
    /// The log does not have its beginning.
    BeginningMissing,
    /// A record says that the log's beginning was removed, and no checkpoint covers that record.
    RemovalNotCertified,
    /// The time of a record is before that of an earlier one.
    ClockBackwards,
    /// A checkpoint is not valid by itself: its form, its signatures, its NV index.
    Checkpoint,
    /// A checkpoint is valid, and the records are not those that it is of.
    CheckpointMismatch,
    /// The NV index has moved between two checkpoints, or began again.
    CheckpointGap,
    /// The time between two checkpoints is longer than it should be.
    CheckpointLate,
    /// The TPM's clock contradicts the order or the times of the checkpoints.
    TpmClock,
    /// The log began again with another id.
    LogRestarted,
    /// Another AK or NV index is used from here on.
    TpmChanged,
    /// No checkpoint covers these records.
    NotCovered,
    /// The log does not contain a checkpoint that was seen earlier.
    RolledBack,
    /// The records of a checkpoint that was seen earlier are not in the directory any more, so that it is not known
    /// whether the log continues it.
    KnownExpired,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it makes the log not valid.
    pub severity: Severity,
    /// Its kind.
    pub kind: FindingKind,
    /// The file in the directory.
    pub file: String,
    /// The line in the file, from 1; 0 where it is about the file.
    pub line: u64,
    /// The number of the record; absent where it is about none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<u64>,
    /// What was found.
    pub message: String,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// The number of files with records.
    pub files: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// The number of records that were verified.
    pub records: u64,
    /// The number of the first record.
    pub first_record: Option<u64>,
    /// The number of the last record.
    pub last_record: Option<u64>,
    /// The number of valid checkpoints.
    pub checkpoints: u64,
    /// The number of the last record that a valid checkpoint covers.
    pub covered_to: Option<u64>,
    /// The number of the first record whose inclusion the last checkpoint proves: earlier ones are covered by the chain
    /// alone.
    pub tree_from: Option<u64>,
    /// The number of the record that says that the beginning of the log was removed, where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removal_record: Option<u64>,
    /// The number of the last record of the first valid checkpoint that covers that record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removal_certified_by: Option<u64>,
    /// When the last valid checkpoint was made, by the host's clock.
    pub checkpointed_at: Option<String>,
    /// The signed note of the last valid checkpoint.
    pub note: Option<String>,
    /// What was found, in the order of the log; of many, the first.
    pub findings: Vec<Finding>,
    /// How many findings were left out.
    pub more_findings: u64,
}

/// Findings that a report has.
const MAX_FINDINGS: usize = 100;

impl AuditReport {
    /// Whether no finding makes the log not valid.
    pub fn is_valid(&self) -> bool {
        self.first_bad().is_none()
    }

    /// The first finding that makes the log not valid.
    pub fn first_bad(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.severity == Severity::Bad)
    }

    /// The number of records that no checkpoint covers.
    pub fn not_covered(&self) -> u64 {
        match (self.covered_to, self.last_record) {
            (Some(covered), Some(last)) => last.saturating_sub(covered),
            _ => self.records,
        }
    }

    /// Adds a finding. Of many, the first are kept, and the first one that is bad.
    pub(super) fn add(&mut self, finding: Finding) {
        let is_first_bad = finding.severity == Severity::Bad && self.is_valid();
        if self.findings.len() < MAX_FINDINGS || is_first_bad {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }
}
