//! What is known of the log's checkpoints, for `hostbadge status` and the metrics.

use std::sync::{Arc, Mutex};

use crate::clock::Timestamp;
use crate::mutex::lock;

/// What is known of the checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Whether this daemon makes checkpoints.
    pub is_on: bool,
    /// The number of the last record that a checkpoint covers.
    pub covered_to: Option<u64>,
    /// When the last checkpoint was made.
    pub at: Option<Timestamp>,
    /// Why a checkpoint that is due cannot be made.
    pub problem: Option<String>,
    /// Attempts that failed since the start.
    pub failures: u64,
}

/// The handle by which the component that makes checkpoints reports them. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct CheckpointStatus(Arc<Mutex<CheckpointReport>>);

impl CheckpointStatus {
    /// What is known.
    pub fn report(&self) -> CheckpointReport {
        lock(&self.0).clone()
    }

    /// Checkpoints are made.
    pub fn set_on(&self) {
        lock(&self.0).is_on = true;
    }

    /// A checkpoint covers the records up to `seq`.
    pub fn set_covered(&self, seq: u64, at: Timestamp) {
        let mut report = lock(&self.0);
        (report.covered_to, report.at) = (Some(seq), Some(at));
    }

    /// An attempt failed, for this reason.
    pub fn note_failure(&self, problem: String) {
        let mut report = lock(&self.0);
        report.problem = Some(problem);
        report.failures += 1;
    }

    /// A checkpoint was made, or none is due.
    pub fn note_success(&self) {
        lock(&self.0).problem = None;
    }
}
