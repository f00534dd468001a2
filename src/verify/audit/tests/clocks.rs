//! Clocks, and the times of checkpoints.

use super::*;

#[test]
fn clocks_that_run_backwards_are_found() {
    let mut log = SampleLog::new();
    log.write(5);
    log.write_event("token-issued", log.now - 60);
    log.write(2);
    log.checkpoint();
    let report = verify(&log);
    assert_eq!(first_bad(&report), (FindingKind::ClockBackwards, Some(6)));
    assert_eq!(report.first_bad().unwrap().line, 6);

    let mut log = SampleLog::new();
    log.write(5);
    log.now -= 60;
    log.write(1);
    log.write_event("clock-changed", log.now);
    log.write(2);
    log.checkpoint();
    let report = verify(&log);
    assert!(report.is_valid(), "{report:#?}");
    assert_eq!(report.findings[0].kind, FindingKind::ClockBackwards);

    let mut log = SampleLog::new();
    log.write(5);
    log.write_event("token-issued", log.now - 9);
    log.checkpoint();
    assert_valid(&verify(&log));

    let backwards = |change: fn(&mut SampleTpm)| {
        let mut log = SampleLog::new();
        log.write(1);
        log.checkpoint();
        change(&mut log.tpm);
        log.write(1);
        log.checkpoint();
        first_bad(&verify(&log))
    };
    assert_eq!(backwards(|tpm| tpm.millis = 0), (FindingKind::TpmClock, Some(2)));
    assert_eq!(backwards(|tpm| tpm.resets -= 1), (FindingKind::TpmClock, Some(2)));
}

/// Who deletes the index, defines it again and extends it again as before can write another history from any point on.
/// The TPM's clock shows when that was.
#[test]
fn checkpoints_that_were_made_later_than_they_say_are_told() {
    let mut log = SampleLog::new();
    log.write(1);
    log.checkpoint();
    log.tpm.millis += 5 * 3_600_000;
    log.write(1);
    log.checkpoint();
    let report = verify(&log);
    assert!(report.is_valid());
    assert_eq!(report.findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::TpmClock]);
    // With the times of now.
    let mut log = SampleLog::new();
    log.write(1);
    log.checkpoint();
    log.write(1);
    log.now += 5 * 3600;
    log.tpm.millis += 5 * 3_600_000;
    log.checkpoint();
    let report = verify(&log);
    assert_eq!(report.findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::CheckpointLate]);
}

/// The interval is a number that the host writes: it must not overflow, and a checkpoint cannot excuse itself.
#[test]
fn a_checkpoint_is_late_by_the_interval_of_the_one_before_it() {
    let kinds = |first: u64, second: u64| {
        let mut log = SampleLog::new();
        for every in [first, second] {
            log.every_seconds = every;
            log.write(1);
            log.now += 5 * 3600;
            log.tpm.millis += 5 * 3_600_000;
            log.checkpoint();
        }
        let report = verify(&log);
        assert!(report.is_valid(), "{report:#?}");
        report.findings.iter().map(|finding| finding.kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(3600, u64::MAX), [FindingKind::CheckpointLate]);
    assert_eq!(kinds(u64::MAX, 3600), []);
    assert_eq!(kinds(u64::MAX, u64::MAX), []);
    assert_eq!(kinds(5 * 3600, 60), []);
}

/// A daemon that does not run writes nothing, so that the time without records is no gap. Records after the stop are
/// one.
#[test]
fn a_gap_after_a_stop_is_told_and_the_time_until_the_next_start_is_none() {
    let kinds = |records_at: u64, checkpoint_at: u64| {
        let mut log = SampleLog::new();
        log.write(1);
        log.reason = CheckpointReason::Stop;
        log.checkpoint();
        let stop = log.now;
        log.tpm.millis += checkpoint_at * 1000;
        log.now = stop + records_at;
        log.write(1);
        log.now = stop + checkpoint_at;
        log.reason = CheckpointReason::Start;
        log.checkpoint();
        let report = verify(&log);
        assert!(report.is_valid(), "{report:#?}");
        report.findings.iter().map(|finding| finding.kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(5 * 3600, 5 * 3600 + 60), []);
    assert_eq!(kinds(60, 5 * 3600), [FindingKind::CheckpointLate]);
}
