//! Checks of the measurement logs, by replay against the quoted PCRs.

use data_encoding::HEXLOWER;

use super::check_result::{BOOT_EVENT_LOG, CheckResult, IMA_BOOT_AGGREGATE, IMA_LIST};
use super::document::{Evidence, decode_base64};
use super::quote::{quoted_pcr, quoted_pcrs};
use crate::digest::sha256;
use crate::verify::error::Error;
use crate::verify::eventlog::EventLog;
use crate::verify::ima::{ImaEntry, MeasurementList};
use crate::verify::pcr::PcrDigest;

/// The PCRs that only firmware extends, and whose events are therefore all in the boot event log.
const FIRMWARE_PCRS: std::ops::Range<u8> = 0..8;
const IMA_PCR: u8 = 10;

/// The PCRs that the boot aggregate is the digest of.
const AGGREGATED_PCRS: std::ops::RangeInclusive<u8> = 0..=9;

/// Checks the boot event log; skipped if the evidence has none, or if not all PCRs that it replays to were
/// quoted.
pub(super) fn check_event_log(evidence: &Evidence) -> CheckResult {
    let Some(log) = &evidence.event_log else {
        return CheckResult::skipped(BOOT_EVENT_LOG, "the host sent none");
    };
    if !FIRMWARE_PCRS.into_iter().all(|number| evidence.pcrs.contains_key(&number)) {
        return CheckResult::skipped(BOOT_EVENT_LOG, "not all of PCRs 0 to 7 were quoted");
    }
    CheckResult::from_result(BOOT_EVENT_LOG, replay_event_log(evidence, log))
}

/// Checks the IMA list and its boot aggregate; skipped if the evidence has no list, or if the PCRs that they
/// are compared with were not quoted.
pub(super) fn check_ima(evidence: &Evidence) -> [CheckResult; 2] {
    let skipped = |reason: &str| {
        [CheckResult::skipped(IMA_LIST, reason), CheckResult::skipped(IMA_BOOT_AGGREGATE, reason)]
    };
    if let (None, Some(reason)) = (&evidence.ima_log, &evidence.ima_log_missing) {
        return skipped(&format!("the host left it out: {}", reason.escape_debug()));
    }
    let Some(list) = &evidence.ima_log else { return skipped("the host sent no IMA list") };
    if !evidence.pcrs.contains_key(&IMA_PCR) {
        return skipped("PCR 10 was not quoted");
    }
    match check_ima_list(evidence, list) {
        Err(error) => [
            CheckResult::fail(IMA_LIST, error.to_string()),
            CheckResult::skipped(IMA_BOOT_AGGREGATE, "the IMA list is not proven"),
        ],
        Ok((None, detail)) => [
            CheckResult::pass(IMA_LIST, detail),
            CheckResult::skipped(IMA_BOOT_AGGREGATE, "the IMA list does not begin with one in SHA-256"),
        ],
        Ok((Some(_), detail)) if !AGGREGATED_PCRS.into_iter().all(|it| evidence.pcrs.contains_key(&it)) => [
            CheckResult::pass(IMA_LIST, detail),
            CheckResult::skipped(IMA_BOOT_AGGREGATE, "not all of PCRs 0 to 9 were quoted"),
        ],
        Ok((Some(value), detail)) => [
            CheckResult::pass(IMA_LIST, detail),
            CheckResult::from_result(IMA_BOOT_AGGREGATE, check_boot_aggregate(evidence, &value)),
        ],
    }
}

/// Checks that the boot event log replays to the quoted PCRs 0 to 7.
///
/// The running system extends other PCRs as well, and its events are not in this log: a difference there is
/// mentioned, and is not a failure.
fn replay_event_log(evidence: &Evidence, log: &str) -> Result<String, Error> {
    let bytes = decode_base64(log)?;
    let log = EventLog::parse(&bytes)?;
    let replayed = log.replay();
    let differs = |number: &u8| {
        let quoted = evidence.pcrs.get(number).map(|value| value.to_ascii_lowercase());
        quoted.is_some_and(|quoted| quoted != HEXLOWER.encode(&replayed[usize::from(*number)]))
    };
    let (firmware, others): (Vec<u8>, Vec<u8>) =
        (0..24).filter(differs).partition(|number| FIRMWARE_PCRS.contains(number));
    if !firmware.is_empty() {
        return Err(Error::Evidence(format!("its replay does not give the quoted PCRs {firmware:?}")));
    }
    let detail = format!("{} events, which give PCRs 0 to 7 as quoted", log.events().len());
    Ok(if others.is_empty() { detail } else { format!("{detail}; PCRs {others:?} differ") })
}

/// Checks that a run of first entries of the IMA list replays to the quoted PCR 10. Later entries are not
/// proven: the host continues to measure between the quote and the reading of its list.
///
/// Returns the boot aggregate, if the first entry has one, and the detail of the check.
fn check_ima_list(evidence: &Evidence, list: &str) -> Result<(Option<PcrDigest>, String), Error> {
    let quoted = quoted_pcr(evidence, IMA_PCR)?;
    let bytes = decode_base64(list)?;
    let list = MeasurementList::parse(&bytes)?;
    let proven = list
        .proven_by(&quoted)
        .ok_or_else(|| Error::Evidence("no part of it replays to the quoted PCR 10".into()))?;
    let entries = proven.entries().len();
    let mut detail = format!("{entries} entries give PCR 10 as quoted");
    if list.len() > entries {
        detail += &format!("; {} later ones are not proven", list.len() - entries);
    }
    if proven.violations() > 0 {
        detail += &format!("; {} files changed while they were measured", proven.violations());
    }
    let first = proven.entries().first().filter(|entry| entry.path == b"boot_aggregate");
    let aggregate = first.and_then(ImaEntry::sha256);
    if aggregate.is_none() {
        detail +=
            "; it does not begin with a SHA-256 of the boot's PCRs, so it is not proven to be of this boot";
    }
    Ok((aggregate, detail))
}

/// Checks the boot aggregate: SHA-256 over PCRs 0 to 9 of the SHA-256 bank when IMA started (Linux,
/// security/integrity/ima).
fn check_boot_aggregate(evidence: &Evidence, aggregate: &PcrDigest) -> Result<String, Error> {
    if sha256(&quoted_pcrs(evidence, AGGREGATED_PCRS)?.concat()) != *aggregate {
        return Err(Error::Evidence(
            "it is not that of PCRs 0 to 9 as quoted: a PCR was extended since the kernel started, or \
             another kernel started this one"
                .into(),
        ));
    }
    Ok("of PCRs 0 to 9 as quoted".into())
}
