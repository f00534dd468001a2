//! Checks of the measurement logs, by replay against the quoted PCRs.

use data_encoding::HEXLOWER;

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

/// Checks that the boot event log replays to the quoted PCRs 0 to 7.
///
/// The running system extends other PCRs as well, and its events are not in this log: a difference there is
/// mentioned, and is not a failure.
pub(super) fn check_event_log(evidence: &Evidence, log: &str) -> Result<String, Error> {
    if !FIRMWARE_PCRS.into_iter().all(|number| evidence.pcrs.contains_key(&number)) {
        return Err(Error::Evidence("it cannot be verified: not all of PCRs 0 to 7 were quoted".into()));
    }
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
pub(super) fn check_ima_list(evidence: &Evidence, list: &str) -> Result<(Option<PcrDigest>, String), Error> {
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
pub(super) fn check_boot_aggregate(evidence: &Evidence, aggregate: &PcrDigest) -> Result<String, Error> {
    if sha256(&quoted_pcrs(evidence, 0..=9)?.concat()) != *aggregate {
        return Err(Error::Evidence(
            "it is not that of PCRs 0 to 9 as quoted: a PCR was extended since the kernel started, or \
             another kernel started this one"
                .into(),
        ));
    }
    Ok("of PCRs 0 to 9 as quoted".into())
}
