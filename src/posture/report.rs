//! What administrators see of the host's posture.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::Serialize;

use super::{Mode, PcrValues, Posture, PostureState, changed_pcrs, describe_pcr_changes, pcr_digest};
use crate::clock::{BootTime, Timestamp};

/// The answer to `hostbadge posture show`.
#[derive(Debug, Serialize)]
pub struct PostureReport {
    mode: Mode,
    posture: Posture,
    /// Why it is not `accepted`.
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
    /// PCRs that are compared.
    compared: Vec<u8>,
    /// How old what is known may be at a decision, in seconds.
    max_age: f64,
    baseline: Option<BaselineReport>,
    now: Option<ReadingReport>,
    /// Of those compared.
    changed: Vec<u8>,
    /// What is wrong with the baseline, or with the last look.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// Lines of the IMA list that are proven; none while no agent has to be measured.
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
    /// One name for the values of the PCRs that are compared: what is accepted is accepted by it.
    digest: String,
    pcrs: BTreeMap<u8, String>,
}

#[derive(Debug, Serialize)]
struct ImaReport {
    lines: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// The answer to `hostbadge posture diff`.
#[derive(Debug, Serialize)]
pub struct PostureDiff {
    posture: Posture,
    /// Of the state now. See [`digest`].
    digest: String,
    /// Of those compared.
    changed: Vec<u8>,
    /// In words.
    changes: Vec<String>,
}

fn hex_values(pcrs: &PcrValues) -> BTreeMap<u8, String> {
    pcrs.iter().map(|(number, value)| (*number, HEXLOWER.encode(value))).collect()
}

fn select_pcrs(compared: &[u8], pcrs: &PcrValues) -> PcrValues {
    pcrs.iter().filter(|(number, _)| compared.contains(number)).map(|(n, value)| (*n, *value)).collect()
}

impl PostureReport {
    /// `measured`: whether an agent has to be.
    pub fn new(state: &PostureState, compared: &[u8], uses_ima: bool, now: BootTime) -> PostureReport {
        let current = state.evaluate(now);
        let snapshot = current.snapshot();
        let (reading, baseline) = (snapshot.reading.as_ref(), snapshot.baseline.as_ref());
        let differing = match (baseline, reading) {
            (Some(baseline), Some(reading)) => {
                changed_pcrs(&select_pcrs(compared, &baseline.pcrs), &reading.pcrs).collect()
            }
            _ => Vec::new(),
        };
        PostureReport {
            mode: current.mode,
            posture: current.posture,
            why: current.reason(),
            compared: compared.to_vec(),
            max_age: state.max_age().as_secs_f64(),
            baseline: baseline.map(|baseline| BaselineReport {
                recorded: baseline.recorded_at,
                accepted: baseline.acceptance.as_ref().map(|accepted| AcceptedReport {
                    at: accepted.accepted_at,
                    by: accepted.accepted_by.clone(),
                    digest: accepted.digest.clone(),
                }),
                boot_log: baseline.event_log.is_some(),
                pcrs: hex_values(&baseline.pcrs),
            }),
            now: reading.map(|reading| ReadingReport {
                at: reading.wall_time,
                age: current.age().unwrap_or_default().as_secs_f64(),
                digest: pcr_digest(compared, &reading.pcrs),
                pcrs: hex_values(&reading.pcrs),
            }),
            changed: differing,
            trouble: snapshot.baseline_error.clone().or(snapshot.read_error.clone()),
            measured: uses_ima.then(|| match state.ima_digests().entry_count() {
                Ok(lines) => ImaReport { lines, trouble: None },
                Err(why) => ImaReport { lines: 0, trouble: Some(why) },
            }),
        }
    }
}

impl PostureDiff {
    /// What changed between the baseline and the last look; an error where one of them is missing. `log` is the boot log of
    /// now. Takes some milliseconds where both logs are long.
    pub fn new(
        state: &PostureState,
        compared: &[u8],
        event_log: Option<&[u8]>,
        now: BootTime,
    ) -> Result<PostureDiff, String> {
        let current = state.evaluate(now);
        let snapshot = current.snapshot();
        let Some(baseline) = &snapshot.baseline else {
            let why = snapshot.baseline_error.clone();
            return Err(why.unwrap_or_else(|| "there is no baseline yet to compare with".into()));
        };
        let Some(reading) = &snapshot.reading else {
            return Err(snapshot
                .read_error
                .clone()
                .unwrap_or_else(|| "nobody has looked at the host yet".into()));
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
