//! Checkpoints that were seen earlier.

use super::*;

#[test]
fn an_older_copy_is_found_by_a_checkpoint_that_was_seen() {
    let mut log = SampleLog::new();
    log.write(5);
    let early = log.checkpoint();
    let old = copy_of(&log);
    log.write(5);
    let late = log.checkpoint();
    let known = |note: &str| AuditOptions { known: vec![note.to_owned()], ..options(&log) };
    assert_valid(&verify_with(log.path(), &known(&early)));
    assert_valid(&verify_with(log.path(), &known(&late)));
    assert_valid(&verify_with(old.path(), &known(&early)));
    assert_eq!(first_bad(&verify_with(old.path(), &known(&late))).0, FindingKind::RolledBack);
    let forged = late.replace("seq 10", "seq 11");
    assert_eq!(first_bad(&verify_with(log.path(), &known(&forged))).0, FindingKind::Checkpoint);
    // Another log of the same host.
    let mut other = SampleLog::new();
    other.tpm = log.tpm;
    other.write(9);
    other.write_event("request-refused", other.now + 1);
    let note = other.tpm.note(&other.content());
    let options = AuditOptions { keys: vec![other.tpm.keys()], known: vec![note], ..AuditOptions::default() };
    assert_eq!(first_bad(&verify_with(log.dir.path(), &options)).0, FindingKind::RolledBack);
}

/// The files with its records were removed as [audit] keep says: that is no sign of an older copy, and proves nothing.
#[test]
fn a_checkpoint_from_before_the_first_file_is_told_as_expired() {
    let mut log = SampleLog::new();
    log.write(4);
    let early = log.checkpoint();
    log.write(1);
    let at_the_end = log.checkpoint();
    log.begin_file();
    log.write(5);
    let late = log.checkpoint();
    let verify_partial = |note: &str| {
        let known = vec![note.to_owned()];
        verify_with(log.path(), &AuditOptions { partial: true, known, ..options(&log) })
    };
    for note in [&early, &at_the_end, &late] {
        assert_valid(&verify_partial(note));
    }
    for extension in ["jsonl", CHECKPOINTS_EXTENSION] {
        fs::remove_file(file(log.path(), 1, extension)).unwrap();
    }
    let report = verify_partial(&early);
    assert_eq!(first_bad(&report).0, FindingKind::KnownExpired);
    let message = &report.first_bad().unwrap().message;
    assert!(message.contains("of record 4") && message.contains("begins with record 6"), "{message}");
    // The state of the tree before the first record is that of the note.
    for note in [&at_the_end, &late] {
        let report = verify_partial(note);
        assert!(report.is_valid(), "{report:#?}");
    }
}
