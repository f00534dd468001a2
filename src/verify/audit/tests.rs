mod checkpoints;
mod clocks;
mod known;
mod proofs;
mod removals;

use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;

use super::entries::{CheckpointLine, Entry};
use super::files::checkpoints_file;
use super::finding::{AuditReport, FindingKind, Severity};
use super::keys::LogKeys;
use super::merkle::{Frontier, is_included, leaf_hash};
use super::proof::{prove_consistency, prove_record};
use super::sample::{SampleLog, SampleTpm, append};
use super::verifier::{AuditOptions, verify_audit};
use super::*;
use crate::digest::sha256;

fn options(log: &SampleLog) -> AuditOptions {
    AuditOptions { keys: vec![log.tpm.keys()], ..AuditOptions::default() }
}

fn verify_with(dir: &Path, options: &AuditOptions) -> AuditReport {
    verify_audit(dir, options, &mut |_, _| {}).unwrap()
}

fn verify(log: &SampleLog) -> AuditReport {
    verify_with(log.path(), &options(log))
}

/// Two files, three checkpoints, the last one at the end.
fn log() -> SampleLog {
    let mut log = SampleLog::new();
    log.write(5);
    log.checkpoint();
    log.write(3);
    log.begin_file();
    log.write(4);
    log.checkpoint();
    log.write(2);
    log.checkpoint();
    log
}

#[track_caller]
fn assert_valid(report: &AuditReport) {
    assert!(report.is_valid() && report.findings.is_empty(), "{:#?}", report.findings);
}

/// The kind, the file's number and the record of the first bad finding.
#[track_caller]
fn first_bad(report: &AuditReport) -> (FindingKind, Option<u64>) {
    let finding = report.first_bad().unwrap_or_else(|| panic!("nothing was found: {report:#?}"));
    assert!(!finding.message.is_empty());
    (finding.kind, finding.record)
}

/// A copy of the directory with one change.
fn with_change(log: &SampleLog, change: impl FnOnce(&Path)) -> AuditReport {
    let copy = copy_of(log);
    change(copy.path());
    verify_with(copy.path(), &options(log))
}

fn copy_of(log: &SampleLog) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in files(log.path()) {
        fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    copy
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|item| item.unwrap().path()).collect();
    files.sort();
    files
}

fn file(dir: &Path, seq: u64, extension: &str) -> PathBuf {
    dir.join(format!("{seq:020}.{extension}"))
}

fn change_lines(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let mut lines: Vec<String> = fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    change(&mut lines);
    fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

#[test]
fn a_log_with_checkpoints_is_valid_and_the_report_says_what_is_covered() {
    let log = log();
    let mut steps = Vec::new();
    let report =
        verify_audit(log.path(), &options(&log), &mut |done, total| steps.push((done, total))).unwrap();
    assert_valid(&report);
    assert_eq!((report.files, report.records, report.checkpoints), (2, 14, 3));
    assert_eq!((report.first_record, report.last_record), (Some(1), Some(14)));
    assert_eq!((report.covered_to, report.tree_from, report.not_covered()), (Some(14), Some(1), 0));
    assert!(report.note.unwrap().contains("\nseq 14\n"));
    assert_eq!(steps.last(), Some(&(report.bytes, report.bytes)));
}

/// Each bit of each byte of each file, beside those of its neighbours.
#[test]
fn every_changed_byte_is_found() {
    let mut log = SampleLog::new();
    log.write(2);
    log.checkpoint();
    log.write(1);
    log.begin_file();
    log.write(2);
    log.checkpoint();
    let options = options(&log);
    let copy = copy_of(&log);
    let mut count = 0;
    for path in files(copy.path()) {
        let whole = fs::read(&path).unwrap();
        let is_log = path.extension().unwrap() == "jsonl";
        for at in 0..whole.len() {
            // A certification is 700 bytes of base64, whose signature takes long to verify in a debug build.
            let bits: &[u8] = if is_log { &[0, 5, 7] } else { &[(at % 8) as u8] };
            for bit in bits {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                fs::write(&path, &changed).unwrap();
                let report = verify_with(copy.path(), &options);
                assert!(!report.is_valid(), "{} byte {at} bit {bit}", path.display());
                count += 1;
            }
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(count > 3000, "{count}");
    assert_valid(&verify_with(copy.path(), &options));
}

#[test]
fn changed_inserted_removed_and_reordered_records_are_found_at_their_place() {
    let log = log();
    let change =
        |change: fn(&mut Vec<String>)| with_change(&log, |dir| change_lines(&file(dir, 1, "jsonl"), change));
    let changed = change(|lines| lines[3] = lines[3].replace("token-issued", "token-denied"));
    assert_eq!(first_bad(&changed), (FindingKind::RecordChanged, Some(4)));
    assert_eq!(changed.first_bad().unwrap().line, 4);
    let prev_changed = change(|lines| {
        lines[3] = lines[3].replace("\"prev\":\"", "\"prev\":\"0").replace("0\",\"time", "\",\"time")
    });
    assert!(!prev_changed.is_valid());
    let inserted = change(|lines| lines.insert(3, lines[2].clone()));
    assert_eq!(first_bad(&inserted), (FindingKind::RecordOrder, Some(3)));
    let removed = change(|lines| drop(lines.remove(3)));
    assert_eq!(first_bad(&removed), (FindingKind::RecordOrder, Some(5)));
    let reordered = change(|lines| lines.swap(3, 4));
    assert_eq!(first_bad(&reordered), (FindingKind::RecordOrder, Some(5)));
    let foreign = change(|lines| lines.insert(3, "{\"v\":1}".to_owned()));
    assert_eq!(first_bad(&foreign), (FindingKind::Format, None));
}

/// Who changes a record, and everything after it so that the chain holds, has another root.
#[test]
fn a_chain_that_was_written_again_is_found_by_the_checkpoint() {
    let original = log();
    let mut forged = SampleLog::new();
    forged.write(4);
    forged.write_event("request-refused", forged.now + 1);
    forged.now += 1;
    forged.write(3);
    forged.begin_file();
    forged.write(6);
    let report = with_change(&original, |dir| {
        for seq in [1, 9] {
            fs::copy(file(forged.path(), seq, "jsonl"), file(dir, seq, "jsonl")).unwrap();
        }
    });
    assert_eq!(first_bad(&report), (FindingKind::CheckpointMismatch, Some(5)));
    // With the states of the tree of the forged log, and the checkpoints of the real one.
    let report = with_change(&original, |dir| {
        for seq in [1, 9] {
            fs::copy(file(forged.path(), seq, "jsonl"), file(dir, seq, "jsonl")).unwrap();
            let state = fs::read_to_string(file(forged.path(), seq, "checkpoints")).unwrap();
            change_lines(&file(dir, seq, "checkpoints"), |lines| {
                lines[0] = state.lines().next().unwrap().to_owned();
            });
        }
    });
    assert_eq!(first_bad(&report), (FindingKind::CheckpointMismatch, Some(5)));
}

#[test]
fn a_truncated_log_and_missing_files_are_found() {
    let log = log();
    let truncated = with_change(&log, |dir| {
        change_lines(&file(dir, 9, "jsonl"), |lines| lines.truncate(5));
    });
    assert_eq!(first_bad(&truncated), (FindingKind::Truncated, Some(14)));
    let last_file = with_change(&log, |dir| fs::remove_file(file(dir, 9, "jsonl")).unwrap());
    assert_eq!(first_bad(&last_file).0, FindingKind::Truncated);
    let first_file = with_change(&log, |dir| fs::remove_file(file(dir, 1, "jsonl")).unwrap());
    assert!(first_file.findings.iter().any(|finding| finding.kind == FindingKind::BeginningMissing));
    assert!(!first_file.is_valid());
    let both = with_change(&log, |dir| {
        for extension in ["jsonl", CHECKPOINTS_EXTENSION] {
            fs::remove_file(file(dir, 1, extension)).unwrap();
        }
    });
    assert_eq!(first_bad(&both), (FindingKind::BeginningMissing, None));
    let swapped = with_change(&log, |dir| {
        let (one, two) = (fs::read(file(dir, 1, "jsonl")).unwrap(), fs::read(file(dir, 9, "jsonl")).unwrap());
        fs::write(file(dir, 1, "jsonl"), two).unwrap();
        fs::write(file(dir, 9, "jsonl"), one).unwrap();
    });
    assert_eq!(first_bad(&swapped), (FindingKind::RecordOrder, Some(9)));
    let renamed = with_change(&log, |dir| {
        fs::rename(file(dir, 9, "jsonl"), file(dir, 8, "jsonl")).unwrap();
    });
    assert!(!renamed.is_valid());
    let emptied = with_change(&log, |dir| fs::write(file(dir, 9, "jsonl"), "").unwrap());
    assert_eq!(first_bad(&emptied).0, FindingKind::Truncated);
    let link = with_change(&log, |dir| {
        fs::rename(file(dir, 9, "jsonl"), dir.join("moved")).unwrap();
        std::os::unix::fs::symlink(dir.join("moved"), file(dir, 9, "jsonl")).unwrap();
    });
    assert_eq!(first_bad(&link).0, FindingKind::Format);
    let nothing = verify_with(tempfile::tempdir().unwrap().path(), &options(&log));
    assert_eq!(first_bad(&nothing).0, FindingKind::Format);
}

#[test]
fn a_partial_copy_is_valid_if_that_is_expected() {
    let log = log();
    let copy = copy_of(&log);
    for extension in ["jsonl", CHECKPOINTS_EXTENSION] {
        fs::remove_file(file(copy.path(), 1, extension)).unwrap();
    }
    let partial = AuditOptions { partial: true, ..options(&log) };
    let report = verify_with(copy.path(), &partial);
    assert!(report.is_valid(), "{:#?}", report.findings);
    assert_eq!((report.first_record, report.covered_to, report.records), (Some(9), Some(14), 6));
    assert_eq!((report.removal_record, report.removal_certified_by), (None, None));
}

#[test]
fn what_a_crash_left_is_told_and_is_no_record() {
    let log = log();
    let path = file(log.path(), 9, "jsonl");
    for tail in [vec![0; 5000], b"{\"v\":1,\"se".to_vec()] {
        let report = with_change(&log, |dir| {
            let whole = fs::read(&path).unwrap();
            fs::write(file(dir, 9, "jsonl"), [whole, tail].concat()).unwrap();
        });
        assert!(report.is_valid());
        assert_eq!(report.findings[0].severity, Severity::Warning);
    }
    let zeros = with_change(&log, |dir| append(&file(dir, 9, "jsonl"), "\0\0\n"));
    assert_eq!(first_bad(&zeros).0, FindingKind::Format);
    // The log goes on in the next file, and says so.
    let mut log = SampleLog::new();
    log.write(3);
    append(&log.path, "\0\0\0\nx\n");
    log.begin_file();
    log.now += 1;
    log.write_event("audit-torn", log.now);
    log.checkpoint();
    let report = verify(&log);
    assert!(report.is_valid(), "{report:#?}");
    let mut log = SampleLog::new();
    log.write(3);
    append(&log.path, "\0\0\0\nx\n");
    log.begin_file();
    log.write(1);
    log.checkpoint();
    assert_eq!(first_bad(&verify(&log)).0, FindingKind::Format);
}

/// Numbers at the end of their type must not overflow, wherever they stand.
#[test]
fn numbers_beyond_the_highest_are_refused_everywhere() {
    let log = log();
    for number in ["18446744073709551615", "9007199254740993"] {
        for member in ["begins_after", "seq", "size"] {
            let report = with_change(&log, |dir| {
                change_lines(&checkpoints_file(&file(dir, 1, "jsonl")), |lines| {
                    lines[0] =
                        lines[0].replace(&format!("\"{member}\":0"), &format!("\"{member}\":{number}"));
                });
            });
            assert_eq!(first_bad(&report), (FindingKind::Checkpoint, None), "{member} {number}");
        }
        let record = with_change(&log, |dir| {
            change_lines(&file(dir, 9, "jsonl"), |lines| {
                lines[2] = lines[2].replace("\"seq\":11,", &format!("\"seq\":{number},"));
            });
        });
        assert_eq!(first_bad(&record).0, FindingKind::Format, "{number}");
        let note = log.tpm.note(&log.content()).replace("seq 14", &format!("seq {number}"));
        assert!(prove_consistency(log.path(), &note).is_err());
        let known = AuditOptions { known: vec![note], ..options(&log) };
        assert_eq!(first_bad(&verify_with(log.path(), &known)).0, FindingKind::Checkpoint);
        assert!(prove_record(log.path(), number.parse().unwrap()).is_err());
    }
    // The name of a file: 0, and numbers that are too high, are no names of the log.
    for name in ["00000000000000000000", "09007199254740993000", "18446744073709551615"] {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(file(log.path(), 1, "jsonl"), dir.path().join(format!("{name}.jsonl"))).unwrap();
        let report = verify_with(dir.path(), &options(&log));
        assert_eq!(first_bad(&report), (FindingKind::Format, None), "{name}");
    }
}

#[test]
fn hostile_files_are_bounded() {
    let log = log();
    let giant = with_change(&log, |dir| {
        append(&file(dir, 9, "checkpoints"), &format!("{}\n", "x".repeat(3_000_000)))
    });
    assert_eq!(first_bad(&giant).0, FindingKind::Checkpoint);
    let many = with_change(&log, |dir| append(&file(dir, 9, "checkpoints"), &"{}\n".repeat(10_000)));
    assert!(many.findings.len() <= 101 && many.more_findings > 9000);
    let line = with_change(&log, |dir| append(&file(dir, 9, "jsonl"), &"x".repeat(3_000_000)));
    assert_eq!(first_bad(&line).0, FindingKind::Format);
}
