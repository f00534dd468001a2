//! What is known of the log's checkpoints, for `hostbadge status`.

use std::sync::{Arc, Mutex};

use crate::clock::Timestamp;
use crate::mutex::lock;

/// What is known of the checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointReport {
    /// The number of the last record that a checkpoint covers.
    pub covered_to: Option<u64>,
    /// When the last checkpoint was made.
    pub at: Option<Timestamp>,
    /// Why a checkpoint that is due cannot be made.
    pub problem: Option<String>,
}

/// The handle by which the component that makes checkpoints reports them. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct CheckpointStatus(Arc<Mutex<CheckpointReport>>);

impl CheckpointStatus {
    /// What is known.
    pub fn report(&self) -> CheckpointReport {
        lock(&self.0).clone()
    }

    /// A checkpoint covers the records up to `seq`.
    pub fn set_covered(&self, seq: u64, at: Timestamp) {
        let mut report = lock(&self.0);
        (report.covered_to, report.at) = (Some(seq), Some(at));
    }

    /// Why a checkpoint cannot be made; `None` once one was made.
    pub fn set_problem(&self, problem: Option<String>) {
        lock(&self.0).problem = problem;
    }
}
