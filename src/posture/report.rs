//! The reports on the host's posture for administrators.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::Serialize;

use super::baseline::{Baseline, pcr_digest};
use super::ima_digests::ImaDigests;
use super::kind::Posture;
use super::pcr_diff::{changed_pcrs, describe_pcr_changes};
use super::state::{PostureAtDecision, PostureState};
use crate::clock::{BootTime, Timestamp};
use crate::config::PostureMode;
use crate::error_class::ErrorClass;
use crate::tpm::PcrValues;

/// The response to `GET /v1/posture`.
#[derive(Debug, Serialize)]
pub struct PostureReport {
    mode: PostureMode,
    posture: Posture,
    /// Why the posture is not `accepted`.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    /// The PCRs that are compared.
    compared: Vec<u8>,
    /// The age in seconds from which a reading is stale.
    max_age: f64,
    baseline: Option<BaselineReport>,
    reading: Option<ReadingReport>,
    /// Compared PCRs that differ from the baseline.
    changed: Vec<u8>,
    /// What is wrong with the baseline, or with the last attempt to read the PCRs.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The IMA list; `None` while no agent has the selector `measured`.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<ImaReport>,
}

#[derive(Debug, Serialize)]
struct BaselineReport {
    recorded: Timestamp,
    accepted: Option<AcceptedReport>,
    boot_log: bool,
    pcrs: BTreeMap<u8, String>,
}

#[derive(Debug, Serialize)]
struct AcceptedReport {
    at: Timestamp,
    by: String,
    digest: String,
}

#[derive(Debug, Serialize)]
struct ReadingReport {
    at: Timestamp,
    /// In seconds.
    age: f64,
    /// The digest of the compared PCRs, by which an administrator accepts them.
    digest: String,
    pcrs: BTreeMap<u8, String>,
}

#[derive(Debug, Serialize)]
struct ImaReport {
    /// The number of entries that PCR 10 proves.
    lines: usize,
    /// Why it proves none.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The response to `GET /v1/posture/diff`.
#[derive(Debug, Serialize)]
pub struct PostureDiff {
    posture: Posture,
    /// The digest of the last reading.
    digest: String,
    /// Compared PCRs that differ from the baseline.
    changed: Vec<u8>,
    /// Descriptions of the changes, one a line.
    changes: Vec<String>,
}

/// Why there is nothing to compare. The messages are for administrators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostureDiffError {
    /// The baseline cannot be used.
    #[error("{0}")]
    BaselineUnusable(String),
    /// No baseline is recorded.
    #[error("there is no baseline yet to compare with")]
    NoBaseline,
    /// The last attempt to read the PCRs failed, and none before succeeded.
    #[error("{0}")]
    ReadFailed(String),
    /// The PCRs have not been read since the daemon started.
    #[error("the PCRs have not been read yet; try again in a moment")]
    NotRead,
}

impl PostureDiffError {
    /// The class of the failure, from which the HTTP status of the reply follows.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Unavailable
    }
}

impl PostureReport {
    /// Reports on the posture at `now`, by the PCRs in `compared`. `uses_ima` says whether an agent has the
    /// selector `measured`.
    pub fn new(state: &PostureState, compared: &[u8], uses_ima: bool, now: BootTime) -> PostureReport {
        let current = state.evaluate(now);
        let snapshot = current.snapshot();
        let (reading, baseline) = (snapshot.reading.as_ref(), snapshot.baseline.as_deref());
        let changed = match (baseline, reading) {
            (Some(baseline), Some(reading)) => {
                changed_pcrs(&select_pcrs(compared, &baseline.pcrs), &reading.pcrs).collect()
            }
            _ => Vec::new(),
        };
        PostureReport {
            mode: current.mode,
            posture: current.posture,
            reason: current.reason(),
            compared: compared.to_vec(),
            max_age: state.max_age().as_secs_f64(),
            baseline: baseline.map(BaselineReport::new),
            reading: ReadingReport::new(&current, compared),
            changed,
            error: snapshot.baseline_error.clone().or(snapshot.read_error.clone()),
            measured: uses_ima.then(|| ImaReport::new(state.ima_digests())),
        }
    }
}

impl PostureDiff {
    /// Describes what changed between the baseline and the last reading, by the PCRs in `compared`.
    /// `event_log` is the present boot event log. Takes some milliseconds if both logs are long.
    ///
    /// # Errors
    ///
    /// If there is no baseline or no reading.
    pub fn new(
        state: &PostureState,
        compared: &[u8],
        event_log: Option<&[u8]>,
        now: BootTime,
    ) -> Result<PostureDiff, PostureDiffError> {
        let current = state.evaluate(now);
        let snapshot = current.snapshot();
        let Some(baseline) = &snapshot.baseline else {
            let error = snapshot.baseline_error.clone();
            return Err(error.map_or(PostureDiffError::NoBaseline, PostureDiffError::BaselineUnusable));
        };
        let Some(reading) = &snapshot.reading else {
            let error = snapshot.read_error.clone();
            return Err(error.map_or(PostureDiffError::NotRead, PostureDiffError::ReadFailed));
        };
        let before = select_pcrs(compared, &baseline.pcrs);
        Ok(PostureDiff {
            posture: current.posture,
            digest: pcr_digest(compared, &reading.pcrs),
            changed: changed_pcrs(&before, &reading.pcrs).collect(),
            changes: describe_pcr_changes(&before, baseline.event_log.as_deref(), &reading.pcrs, event_log),
        })
    }
}

impl BaselineReport {
    fn new(baseline: &Baseline) -> BaselineReport {
        BaselineReport {
            recorded: baseline.recorded_at,
            accepted: baseline.acceptance.as_ref().map(|acceptance| AcceptedReport {
                at: acceptance.accepted_at,
                by: acceptance.accepted_by.clone(),
                digest: acceptance.digest.clone(),
            }),
            boot_log: baseline.event_log.is_some(),
            pcrs: hex_values(&baseline.pcrs),
        }
    }
}

impl ReadingReport {
    fn new(current: &PostureAtDecision, compared: &[u8]) -> Option<ReadingReport> {
        let reading = current.snapshot().reading.as_ref()?;
        Some(ReadingReport {
            at: reading.wall_time,
            age: current.age().unwrap_or_default().as_secs_f64(),
            digest: pcr_digest(compared, &reading.pcrs),
            pcrs: hex_values(&reading.pcrs),
        })
    }
}

impl ImaReport {
    fn new(ima_digests: &ImaDigests) -> ImaReport {
        match ima_digests.entry_count() {
            Ok(lines) => ImaReport { lines, error: None },
            Err(error) => ImaReport { lines: 0, error: Some(error.to_string()) },
        }
    }
}

fn hex_values(pcrs: &PcrValues) -> BTreeMap<u8, String> {
    pcrs.iter().map(|(number, value)| (*number, HEXLOWER.encode(value))).collect()
}

fn select_pcrs(compared: &[u8], pcrs: &PcrValues) -> PcrValues {
    pcrs.iter().filter(|(number, _)| compared.contains(number)).map(|(n, value)| (*n, *value)).collect()
}
