//! Logs whose beginning was removed by a rule, and logs with compressed files.

use data_encoding::HEXLOWER;

use super::super::sample::gzip;
use super::*;
use crate::json::from_object;

/// A log of three files of which the first was removed, as record 7 says. No checkpoint covers that record yet.
fn removed() -> SampleLog {
    let mut log = SampleLog::new();
    log.write(3);
    log.checkpoint();
    log.begin_file();
    let prev = HEXLOWER.encode(&log.state.head);
    log.write(2);
    log.checkpoint();
    log.begin_file();
    log.write(1);
    write_removal(&mut log, 4, &prev);
    for extension in ["jsonl", CHECKPOINTS_EXTENSION] {
        fs::remove_file(file(log.path(), 1, extension)).unwrap();
    }
    log
}

/// The record of a removal of everything before record `first`.
fn write_removal(log: &mut SampleLog, first: u64, prev: &str) {
    let text = format!("so the log begins with record {first} now, whose prev is {prev}");
    log.now += 1;
    log.write_event(&format!("audit-files-removed\",\"detail\":\"{text}\",\"x\":\""), log.now);
}

#[test]
fn a_removal_counts_once_a_checkpoint_certifies_its_record() {
    let mut log = removed();
    let open = verify(&log);
    assert_eq!(first_bad(&open), (FindingKind::RemovalNotCertified, Some(7)));
    assert_eq!((open.removal_record, open.removal_certified_by), (Some(7), None));
    let with = |options: AuditOptions| verify_with(log.path(), &options);
    let partial = with(AuditOptions { partial: true, ..options(&log) });
    assert!(partial.is_valid(), "{partial:#?}");
    assert!(partial.findings.iter().any(|finding| finding.kind == FindingKind::RemovalNotCertified));
    let chain = with(AuditOptions { chain_only: true, ..options(&log) });
    assert!(chain.is_valid() && chain.findings.len() == 1, "{chain:#?}");

    log.write(1);
    log.checkpoint();
    log.write(1);
    log.checkpoint();
    let report = verify(&log);
    assert!(report.is_valid(), "{:#?}", report.findings);
    let [finding] = &report.findings[..] else { panic!("{:#?}", report.findings) };
    assert_eq!((finding.kind, finding.severity), (FindingKind::BeginningMissing, Severity::Warning));
    let expected = "records 1 to 3 are not in the directory: they were removed by [audit] keep, as record 7 says, and \
                    the checkpoint of record 8 certifies that record";
    assert_eq!(finding.message, expected);
    assert_eq!((report.removal_record, report.removal_certified_by), (Some(7), Some(8)));
}

/// Who can write to the directory removes the first file, and writes the record that the daemon would write.
#[test]
fn a_removal_that_is_forged_after_the_last_checkpoint_is_not_believed() {
    let mut log = log();
    let first = fs::read_to_string(file(log.path(), 9, "jsonl")).unwrap();
    let first: serde_json::Value = from_object(first.lines().next().unwrap().as_bytes()).unwrap();
    let prev = first["prev"].as_str().unwrap().to_owned();
    write_removal(&mut log, 9, &prev);
    for extension in ["jsonl", CHECKPOINTS_EXTENSION] {
        fs::remove_file(file(log.path(), 1, extension)).unwrap();
    }
    assert_eq!(first_bad(&verify(&log)), (FindingKind::RemovalNotCertified, Some(15)));
    // A record of another removal says nothing of this one.
    let mut log = removed();
    let other = HEXLOWER.encode(&[7; 32]);
    write_removal(&mut log, 6, &other);
    log.checkpoint();
    for extension in ["jsonl", CHECKPOINTS_EXTENSION] {
        fs::remove_file(file(log.path(), 4, extension)).unwrap();
    }
    assert_eq!(first_bad(&verify(&log)).0, FindingKind::BeginningMissing);
}

/// Replaces a file by a compressed one with other content.
fn compress(dir: &Path, seq: u64, change: impl FnOnce(&mut Vec<u8>)) {
    let plain = file(dir, seq, "jsonl");
    let mut content = fs::read(&plain).unwrap();
    change(&mut content);
    fs::write(file(dir, seq, "jsonl.gz"), gzip(&content)).unwrap();
    fs::remove_file(plain).unwrap();
}

#[test]
fn compressed_files_are_verified_with_their_checkpoints_and_proofs() {
    let log = log();
    let plain = verify(&log);
    let packed = copy_of(&log);
    compress(packed.path(), 1, |_| {});
    compress(packed.path(), 9, |_| {});
    let mut steps = Vec::new();
    let report =
        verify_audit(packed.path(), &options(&log), &mut |done, total| steps.push((done, total))).unwrap();
    assert_valid(&report);
    assert_eq!(AuditReport { bytes: plain.bytes, ..report.clone() }, plain);
    assert_eq!(steps.last(), Some(&(report.bytes, report.bytes)));
    for seq in [1, 6, 12] {
        assert_eq!(prove_record(packed.path(), seq).unwrap(), prove_record(log.path(), seq).unwrap());
    }
    assert!(has_log_files(packed.path()));
    // The plain file counts where both are there.
    fs::copy(file(log.path(), 9, "jsonl"), file(packed.path(), 9, "jsonl")).unwrap();
    fs::write(file(packed.path(), 9, "jsonl.gz"), "left by a crash").unwrap();
    assert_eq!(verify_with(packed.path(), &options(&log)).files, 2);
    assert_valid(&verify_with(packed.path(), &options(&log)));
}

#[test]
fn a_change_in_a_compressed_file_is_found_at_its_line() {
    let log = log();
    let changed = |from: &str, to: &str| {
        let copy = copy_of(&log);
        compress(copy.path(), 1, |content| {
            *content = String::from_utf8(content.clone()).unwrap().replacen(from, to, 1).into_bytes();
        });
        verify_with(copy.path(), &options(&log))
    };
    let report = changed("\"detail\":\"3\"", "\"detail\":\"4\"");
    assert_eq!(first_bad(&report), (FindingKind::RecordChanged, Some(4)));
    let finding = report.first_bad().unwrap();
    assert!(finding.file.ends_with("1.jsonl.gz") && finding.line == 4, "{finding:?}");
    let report = changed("\"seq\":5", "\"seq\":6");
    assert_eq!(report.first_bad().unwrap().line, 5, "{report:?}");
    // Cut in the middle of the file, and a file that is another one's.
    let copy = copy_of(&log);
    compress(copy.path(), 1, |_| {});
    let packed = file(copy.path(), 1, "jsonl.gz");
    let whole = fs::read(&packed).unwrap();
    fs::write(&packed, &whole[..whole.len() - 9]).unwrap();
    let report = verify_with(copy.path(), &options(&log));
    assert_eq!(first_bad(&report).0, FindingKind::Format);
    assert!(report.first_bad().unwrap().message.contains("ends early"));
    fs::write(&packed, gzip(&fs::read(file(log.path(), 9, "jsonl")).unwrap())).unwrap();
    let report = verify_with(copy.path(), &options(&log));
    assert_eq!(first_bad(&report).0, FindingKind::RecordOrder);
    // A file that is missing is missing, also where it was compressed.
    let copy = copy_of(&log);
    compress(copy.path(), 9, |_| {});
    fs::remove_file(file(copy.path(), 9, "jsonl.gz")).unwrap();
    assert_eq!(first_bad(&verify_with(copy.path(), &options(&log))).0, FindingKind::Truncated);
}
