//! Compares each checkpoint with the one before it: the value of the NV index, the TPM's clock, the host's clock.

use std::time::Duration;

use super::super::tpm_structures::ClockInfo;
use super::checkpoint::first_value;
use super::entries::VerifiedCheckpoint;
use super::finding::{FindingKind, Severity};
use super::merkle::Hash;
use crate::clock::Timestamp;

/// A TPM's clock may be wrong by 15 % (TPM 2.0 Part 1, section 36.2), and a certification may wait for a slow TPM.
const CLOCK_TOLERANCE: f64 = 0.16;
const CLOCK_LEEWAY: Duration = Duration::from_secs(120);
/// A checkpoint is late if it was made after this multiple of the interval that the one before it names.
const LATE_FACTOR: u32 = 2;
/// The next daemon may have another interval, and makes its first checkpoint up to 10 minutes after the last one.
const LATE_LEEWAY: Duration = Duration::from_secs(660);

/// A finding without its place.
pub(super) type Found = (Severity, FindingKind, String);

/// The checkpoint before.
#[derive(Debug)]
struct Previous {
    ak: String,
    nv_index: u32,
    value: Hash,
    clock: ClockInfo,
    time: Timestamp,
    seq: u64,
    /// The time after which it says that the next one is due.
    every: Duration,
}

/// The sequence of checkpoints, as the TPM saw it.
#[derive(Debug, Default)]
pub(super) struct TpmChain {
    previous: Option<Previous>,
}

/// A checkpoint and what is known of the records before it.
pub(super) struct NextCheckpoint<'a> {
    pub(super) ak: &'a str,
    pub(super) nv_index: u32,
    pub(super) verified: &'a VerifiedCheckpoint,
    /// Whether the directory has the records from the beginning of the log on, and so the first checkpoint.
    pub(super) has_beginning: bool,
    /// The time of the first record after the checkpoint before, if there is one.
    pub(super) first_uncovered: Option<Timestamp>,
}

impl TpmChain {
    /// Takes the next checkpoint, and returns what is wrong between it and the one before it.
    pub(super) fn push(&mut self, next: &NextCheckpoint<'_>) -> Vec<Found> {
        let mut found = Vec::new();
        let VerifiedCheckpoint { checkpoint, before, after, clock_before, clock_after } = next.verified;
        check_clock(clock_before, clock_after, "while the checkpoint was made", &mut found);
        match &self.previous {
            Some(previous) if previous.ak == next.ak && previous.nv_index == next.nv_index => {
                check_value(previous, before, &mut found);
                check_clock(&previous.clock, clock_before, "since the checkpoint before", &mut found);
                check_times(previous, next, &mut found);
            }
            Some(previous) => {
                found.push((
                    Severity::Warning,
                    FindingKind::TpmChanged,
                    format!(
                        "after record {}, the checkpoints are by another AK or NV index: the TPM was cleared or \
                         replaced, or the index was defined at another handle",
                        previous.seq
                    ),
                ));
                // The directory has what was before, and a new index begins with its first value.
                check_first(before, true, &mut found);
            }
            None => check_first(before, next.has_beginning, &mut found),
        }
        self.previous = Some(Previous {
            ak: next.ak.to_owned(),
            nv_index: next.nv_index,
            value: *after,
            clock: *clock_after,
            time: checkpoint.time,
            seq: checkpoint.seq,
            every: Duration::from_secs(checkpoint.every_seconds),
        });
        found
    }
}

fn check_first(before: &Hash, has_beginning: bool, found: &mut Vec<Found>) {
    if has_beginning && *before != first_value() {
        let text = "the NV index has a past that is not in the directory: an earlier log, or checkpoints that were \
                    removed";
        found.push((Severity::Bad, FindingKind::CheckpointGap, text.to_owned()));
    }
}

fn check_value(previous: &Previous, before: &Hash, found: &mut Vec<Found>) {
    if *before == previous.value {
        return;
    }
    let seq = previous.seq;
    let text = match *before == first_value() {
        true => format!("the NV index was deleted and defined again after the checkpoint of record {seq}"),
        false => format!(
            "the NV index was extended after the checkpoint of record {seq}: a checkpoint is missing, or another \
             program extended the index"
        ),
    };
    found.push((Severity::Bad, FindingKind::CheckpointGap, text));
}

/// Counters of one AK can be compared with each other: they are obfuscated by a constant of the key.
fn check_clock(earlier: &ClockInfo, later: &ClockInfo, when: &str, found: &mut Vec<Found>) {
    let is_back = |earlier: u32, later: u32| later.wrapping_sub(earlier) > u32::MAX / 2;
    let was_reset = earlier.resets != later.resets;
    let backwards = if is_back(earlier.resets, later.resets) {
        "number of resets"
    } else if !was_reset && is_back(earlier.restarts, later.restarts) {
        "number of restarts"
    } else if later.millis < earlier.millis && (!was_reset || later.safe) {
        // After a loss of power, the clock may repeat some time, which it says (TPMS_CLOCK_INFO.safe).
        "clock"
    } else {
        return;
    };
    let text = format!("the TPM's {backwards} is lower than before, {when}");
    found.push((Severity::Bad, FindingKind::TpmClock, text));
}

fn check_times(previous: &Previous, next: &NextCheckpoint<'_>, found: &mut Vec<Found>) {
    let checkpoint = &next.verified.checkpoint;
    let clock = &next.verified.clock_before;
    let by_host = checkpoint.time.since(previous.time);
    // Across a reset the TPM may have been without power.
    if clock.resets == previous.clock.resets && clock.millis >= previous.clock.millis {
        let by_tpm = Duration::from_millis(clock.millis - previous.clock.millis);
        let difference = by_tpm.abs_diff(by_host);
        if difference > by_host.max(by_tpm).mul_f64(CLOCK_TOLERANCE) + CLOCK_LEEWAY {
            let text = format!(
                "since the checkpoint of record {}, {} s have passed by the TPM's clock, and {} s by the host's: the \
                 host's clock was set, or checkpoints were made later than they say",
                previous.seq,
                by_tpm.as_secs(),
                by_host.as_secs()
            );
            found.push((Severity::Warning, FindingKind::TpmClock, text));
        }
    }
    // The one before has said when this one is due. Its interval may be any number.
    let due = previous.every.saturating_mul(LATE_FACTOR).saturating_add(LATE_LEEWAY);
    let waited = next.first_uncovered.map(|first| checkpoint.time.since(first)).unwrap_or_default();
    // After a stop, the first record is that of the next start, which has a checkpoint within 10 minutes: a daemon that
    // does not run leaves no gap.
    if waited > due {
        let text = format!(
            "{} s passed between the first record after the checkpoint of record {} and this checkpoint, although one \
             is due every {} s: the records between could have been written at any time before it",
            waited.as_secs(),
            previous.seq,
            previous.every.as_secs()
        );
        found.push((Severity::Warning, FindingKind::CheckpointLate, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_one_ak_wrap_and_never_go_back() {
        let clock = |millis, resets, restarts, safe| ClockInfo { millis, resets, restarts, safe };
        let check = |earlier: ClockInfo, later: ClockInfo| {
            let mut found = Vec::new();
            check_clock(&earlier, &later, "", &mut found);
            found.is_empty()
        };
        let first = clock(1000, u32::MAX, 7, true);
        assert!(check(first, first));
        assert!(check(first, clock(1001, u32::MAX, 7, true)));
        assert!(check(first, clock(1001, 0, 0, true)), "one reset, whose number wraps");
        assert!(check(first, clock(900, 0, 0, false)), "a loss of power");
        assert!(!check(first, clock(900, 0, 0, true)));
        assert!(!check(first, clock(999, u32::MAX, 8, false)), "no reset");
        assert!(!check(first, clock(2000, u32::MAX - 1, 7, true)));
        assert!(!check(first, clock(2000, u32::MAX, 6, true)));
    }
}
