//! What administrators see of the host's posture.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::Serialize;

use super::{Mode, Pcrs, Posture, Watched, changed, digest, explain};
use crate::clock::{Timestamp, Uptime};

/// The answer to `hostbadge posture show`.
#[derive(Debug, Serialize)]
pub struct Report {
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
    now: Option<NowReport>,
    /// Of those compared.
    changed: Vec<u8>,
    /// What is wrong with the baseline, or with the last look.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// Lines of the IMA list that are proven; none while no agent has to be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<MeasuredReport>,
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
struct NowReport {
    at: Timestamp,
    /// In seconds.
    age: f64,
    /// One name for the values of the PCRs that are compared: what is accepted is accepted by it.
    digest: String,
    pcrs: BTreeMap<u8, String>,
}

#[derive(Debug, Serialize)]
struct MeasuredReport {
    lines: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// The answer to `hostbadge posture diff`.
#[derive(Debug, Serialize)]
pub struct Difference {
    posture: Posture,
    /// Of the state now. See [`digest`].
    digest: String,
    /// Of those compared.
    changed: Vec<u8>,
    /// In words.
    changes: Vec<String>,
}

fn hex(pcrs: &Pcrs) -> BTreeMap<u8, String> {
    pcrs.iter().map(|(number, value)| (*number, HEXLOWER.encode(value))).collect()
}

fn only(compared: &[u8], pcrs: &Pcrs) -> Pcrs {
    pcrs.iter().filter(|(number, _)| compared.contains(number)).map(|(n, value)| (*n, *value)).collect()
}

impl Report {
    /// `measured`: whether an agent has to be.
    pub fn of(watched: &Watched, compared: &[u8], measured: bool, now: Uptime) -> Report {
        let condition = watched.condition(now);
        let seen = condition.seen();
        let (reading, baseline) = (seen.reading.as_ref(), seen.baseline.as_ref());
        let others = match (baseline, reading) {
            (Some(baseline), Some(reading)) => {
                changed(&only(compared, &baseline.pcrs), &reading.pcrs).collect()
            }
            _ => Vec::new(),
        };
        Report {
            mode: condition.mode,
            posture: condition.posture,
            why: condition.why(),
            compared: compared.to_vec(),
            max_age: watched.max_age().as_secs_f64(),
            baseline: baseline.map(|baseline| BaselineReport {
                recorded: baseline.recorded,
                accepted: baseline.accepted.as_ref().map(|accepted| AcceptedReport {
                    at: accepted.at,
                    by: accepted.by.clone(),
                    digest: accepted.digest.clone(),
                }),
                boot_log: baseline.boot_log.is_some(),
                pcrs: hex(&baseline.pcrs),
            }),
            now: reading.map(|reading| NowReport {
                at: reading.at,
                age: condition.age().unwrap_or_default().as_secs_f64(),
                digest: digest(compared, &reading.pcrs),
                pcrs: hex(&reading.pcrs),
            }),
            changed: others,
            trouble: seen.trouble.clone().or(seen.failed.clone()),
            measured: measured.then(|| match watched.measured().lines() {
                Ok(lines) => MeasuredReport { lines, trouble: None },
                Err(why) => MeasuredReport { lines: 0, trouble: Some(why) },
            }),
        }
    }
}

impl Difference {
    /// What changed between the baseline and the last look; an error where one of them is missing. `log` is the boot log of
    /// now. Takes some milliseconds where both logs are long.
    pub fn of(
        watched: &Watched,
        compared: &[u8],
        log: Option<&[u8]>,
        now: Uptime,
    ) -> Result<Difference, String> {
        let condition = watched.condition(now);
        let seen = condition.seen();
        let Some(baseline) = &seen.baseline else {
            let why = seen.trouble.clone();
            return Err(why.unwrap_or_else(|| "there is no baseline yet to compare with".into()));
        };
        let Some(reading) = &seen.reading else {
            return Err(seen.failed.clone().unwrap_or_else(|| "nobody has looked at the host yet".into()));
        };
        let before = only(compared, &baseline.pcrs);
        Ok(Difference {
            posture: condition.posture,
            digest: digest(compared, &reading.pcrs),
            changed: changed(&before, &reading.pcrs).collect(),
            changes: explain(&before, baseline.boot_log.as_deref(), &reading.pcrs, log),
        })
    }
}
