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
fn a_partial_copy_is_valid_if_that_is_expected_or_recorded() {
    let log = log();
    let copy = copy_of(&log);
    for extension in ["jsonl", CHECKPOINTS_EXTENSION] {
        fs::remove_file(file(copy.path(), 1, extension)).unwrap();
    }
    let partial = AuditOptions { partial: true, ..options(&log) };
    let report = verify_with(copy.path(), &partial);
    assert!(report.is_valid(), "{:#?}", report.findings);
    assert_eq!((report.first_record, report.covered_to, report.records), (Some(9), Some(14), 6));

    let mut log = SampleLog::new();
    log.write(3);
    log.checkpoint();
    log.begin_file();
    let prev = data_encoding::HEXLOWER.encode(&log.state.head);
    log.write(2);
    let text = format!("so the log begins with record 4 now, whose prev is {prev}");
    let event = format!("audit-files-removed\",\"detail\":\"{text}\",\"x\":\"");
    log.now += 1;
    log.write_event(&event, log.now);
    log.checkpoint();
    for extension in ["jsonl", CHECKPOINTS_EXTENSION] {
        fs::remove_file(file(log.path(), 1, extension)).unwrap();
    }
    let report = verify(&log);
    assert!(report.is_valid(), "{:#?}", report.findings);
    assert_eq!(report.findings[0].kind, FindingKind::BeginningMissing);
}

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

#[test]
fn a_removed_checkpoint_and_an_index_that_moved_otherwise_are_found() {
    let log = log();
    let removed = with_change(&log, |dir| {
        change_lines(&file(dir, 9, "checkpoints"), |lines| drop(lines.remove(1)));
    });
    assert_eq!(first_bad(&removed), (FindingKind::CheckpointGap, Some(14)));
    let first = with_change(&log, |dir| {
        change_lines(&file(dir, 1, "checkpoints"), |lines| drop(lines.remove(1)));
    });
    assert_eq!(first_bad(&first), (FindingKind::CheckpointGap, Some(12)));
    let repeated = with_change(&log, |dir| {
        change_lines(&file(dir, 1, "checkpoints"), |lines| lines.push(lines[1].clone()));
    });
    assert_eq!(first_bad(&repeated), (FindingKind::CheckpointGap, Some(5)));
    let reordered = with_change(&log, |dir| {
        change_lines(&file(dir, 9, "checkpoints"), |lines| lines.swap(1, 2));
    });
    assert!(!reordered.is_valid());
    // The last one: what it covered is not covered any more, which the report says.
    let last = with_change(&log, |dir| {
        change_lines(&file(dir, 9, "checkpoints"), |lines| drop(lines.pop()));
    });
    assert!(last.is_valid());
    assert_eq!((last.covered_to, last.not_covered()), (Some(12), 2));
    assert_eq!(last.findings[0].kind, FindingKind::NotCovered);
    // Together with the records, nothing in the directory shows it.
    let all = with_change(&log, |dir| {
        for extension in ["jsonl", CHECKPOINTS_EXTENSION] {
            change_lines(&file(dir, 9, extension), |lines| drop(lines.pop()));
        }
        change_lines(&file(dir, 9, "jsonl"), |lines| drop(lines.pop()));
    });
    assert!(all.is_valid() && all.findings.is_empty());

    let mut log = SampleLog::new();
    log.write(1);
    log.checkpoint();
    log.tpm.value = extended(&log.tpm.value, &[1; 32]);
    log.write(1);
    log.checkpoint();
    assert_eq!(first_bad(&verify(&log)), (FindingKind::CheckpointGap, Some(2)));
    let mut log = SampleLog::new();
    log.write(1);
    log.checkpoint();
    log.tpm.value = first_value();
    log.write(1);
    log.checkpoint();
    let report = verify(&log);
    assert!(report.first_bad().unwrap().message.contains("deleted and defined again"), "{report:#?}");
}

/// Each forgery of one part, made with the real keys where the forger could use them.
#[test]
fn forged_checkpoints_are_found() {
    let mut log = SampleLog::new();
    log.write(3);
    let forge = |log: &SampleLog, forge: &dyn Fn(&mut SampleLog) -> CheckpointLine| {
        let mut copy = SampleLog::new();
        copy.tpm = log.tpm.duplicate();
        copy.write(3);
        let line = forge(&mut copy);
        copy.append_entry(&Entry::Checkpoint(Box::new(line)));
        let report = verify_with(copy.path(), &options(log));
        report.first_bad().unwrap_or_else(|| panic!("{report:#?}")).message.clone()
    };
    let check = |expected: &str, change: &dyn Fn(&mut SampleLog) -> CheckpointLine| {
        let message = forge(&log, change);
        assert!(message.contains(expected), "{message}");
    };
    let with = |content: &dyn Fn(&mut Checkpoint)| {
        let mut log = SampleLog::new();
        log.write(3);
        let mut changed = log.content();
        content(&mut changed);
        changed
    };
    check("host key did not make", &|copy| {
        let mut line = copy.tpm.checkpoint(&copy.content());
        let other = SampleTpm::new().note(&copy.content());
        let signature = |note: &str| {
            let line = note.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
            (BASE64.decode(line.as_bytes()).unwrap(), line)
        };
        // The id of the real key, with the signature of another.
        let ((own, line_of_own), (foreign, _)) = (signature(&line.note), signature(&other));
        let spliced = BASE64.encode(&[&own[..4], &foreign[4..]].concat());
        line.note = line.note.replace(&line_of_own, &spliced);
        line
    });
    check("another key", &|copy| {
        let mut line = copy.tpm.checkpoint(&copy.content());
        line.note = SampleTpm::new().note(&copy.content());
        line
    });
    check("the AK did not make the signature", &|copy| {
        let mut line = copy.tpm.checkpoint(&copy.content());
        line.after = SampleTpm::new().certify(&after_binding(&copy.content().digest()));
        line
    });
    check("made for another checkpoint", &|copy| {
        let mut line = copy.tpm.checkpoint(&copy.content());
        line.after = copy.tpm.certify(&before_binding(&copy.content().digest()));
        line
    });
    check("made for another checkpoint", &|copy| {
        let mut line = copy.tpm.checkpoint(&copy.content());
        std::mem::swap(&mut line.before, &mut line.after);
        line
    });
    check("its Name is not the pinned one", &|copy| {
        let digest = copy.content().digest();
        let mut line = copy.tpm.checkpoint(&copy.content());
        copy.tpm.nv_index += 1;
        line.after = copy.tpm.certify(&after_binding(&digest));
        line
    });
    check("not trusted", &|copy| {
        copy.tpm.nv_index += 1;
        copy.tpm.checkpoint(&copy.content())
    });
    check("not trusted", &|copy| SampleTpm::new().checkpoint(&copy.content()));
    check("certifies no NV index", &|copy| {
        let mut line = copy.tpm.checkpoint(&copy.content());
        line.after = copy.tpm.other_certification(&after_binding(&copy.content().digest()));
        line
    });
    check("was not extended with the digest", &|copy| {
        let content = copy.content();
        let mut line = copy.tpm.checkpoint(&content);
        line.after = copy.tpm.certify(&after_binding(&content.digest()));
        copy.tpm.value = extended(&copy.tpm.value, &[1; 32]);
        line.after = copy.tpm.certify(&after_binding(&content.digest()));
        line
    });
    check("a past that is not in the directory", &|copy| {
        copy.tpm.value = [3; 32];
        copy.tpm.checkpoint(&copy.content())
    });
    for (expected, content) in [
        ("not the one that the TPM certified", with(&|content| content.head = [1; 32])),
        ("not the one that the TPM certified", with(&|content| content.root = [1; 32])),
        ("not as many as the TPM certified", with(&|content| content.size = 2)),
        ("not as many as the TPM certified", with(&|content| content.begins_after = 1)),
        ("another name", with(&|content| content.origin = origin("otherhost", &[9; 16]))),
        ("another name", with(&|content| content.origin = origin(super::sample::HOST, &[8; 16]))),
        ("this is of record 4", with(&|content| content.seq = 4)),
    ] {
        check(expected, &|copy| copy.tpm.checkpoint(&content));
    }
    log.checkpoint();
    assert_valid(&verify(&log));
}

#[test]
fn keys_that_an_ak_does_not_certify_are_refused() {
    let tpm = SampleTpm::new();
    let line = serde_json::to_value(&tpm.line).unwrap();
    let other = serde_json::to_value(&SampleTpm::new().line).unwrap();
    let parse = |line: &serde_json::Value| LogKeys::parse_file(format!("{line}\n").as_bytes());
    assert_eq!(parse(&line).unwrap(), [tpm.keys()]);
    for member in ["ak", "host_key", "certification"] {
        let mut changed = line.clone();
        changed[member] = other[member].clone();
        assert!(parse(&changed).is_err(), "{member}");
    }
    for (member, value) in
        [("v", 2.into()), ("nv_index", 0x0180_4881.into()), ("host", "a/b".into()), ("x", 1.into())]
    {
        let mut changed = line.clone();
        changed[member] = value;
        assert!(parse(&changed).is_err(), "{member}");
    }
    // A host key in place of the AK: it signs whatever it is given.
    let mut unrestricted = line.clone();
    unrestricted["ak"] = line["host_key"].clone();
    assert!(parse(&unrestricted).unwrap_err().to_string().contains("those of an AK"));
    assert!(LogKeys::parse_file(b"").unwrap().is_empty());
    // What a crash left behind the last newline is no line; a line that is damaged otherwise is one.
    let whole = format!("{line}\n");
    for rest in ["", "{\"v\":1,\"ho", "\0\0\0"] {
        assert_eq!(LogKeys::parse_file(format!("{whole}{rest}").as_bytes()).unwrap(), [tpm.keys()]);
    }
    assert_eq!(LogKeys::parse_file(format!("{whole}{line}").as_bytes()).unwrap().len(), 2);
    let damaged = LogKeys::parse_file(format!("{whole}{{\"v\":1,\"ho\n{whole}").as_bytes()).unwrap_err();
    assert!(damaged.to_string().contains("line 2"), "{damaged}");
}

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

/// A new index has its first value, also where the beginning of the log is elsewhere.
#[test]
fn another_index_or_ak_in_the_middle_has_no_past_of_its_own() {
    let log_with = |change: &dyn Fn(&mut SampleTpm)| {
        let mut log = SampleLog::new();
        log.write(1);
        log.checkpoint();
        let mut all = vec![log.tpm.keys()];
        change(&mut log.tpm);
        log.write(1);
        log.checkpoint();
        all.push(log.tpm.keys());
        let partial = AuditOptions { keys: all, partial: true, ..AuditOptions::default() };
        verify_with(log.path(), &partial)
    };
    let other_index = |value| {
        move |tpm: &mut SampleTpm| {
            tpm.use_index(AUDIT_INDICES.start + 1);
            tpm.value = value;
        }
    };
    let other_ak = |value| {
        move |tpm: &mut SampleTpm| {
            *tpm = SampleTpm::new();
            tpm.value = value;
        }
    };
    for report in [log_with(&other_index(first_value())), log_with(&other_ak(first_value()))] {
        assert!(report.is_valid(), "{report:#?}");
        assert_eq!(report.findings[0].kind, FindingKind::TpmChanged);
    }
    for report in [log_with(&other_index([3; 32])), log_with(&other_ak([3; 32]))] {
        assert_eq!(first_bad(&report), (FindingKind::CheckpointGap, Some(2)));
    }
}

/// A daemon that does not run writes nothing, so that the time without records is no gap. Records after the stop are one.
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

#[test]
fn a_log_from_before_checkpoints_has_its_chain_alone_and_its_records_stay_covered_by_it() {
    let mut log = SampleLog::without_tree();
    log.write(6);
    assert_eq!(first_bad(&verify(&log)), (FindingKind::NotCovered, None));
    let chain_only = AuditOptions { chain_only: true, ..AuditOptions::default() };
    let report = verify_with(log.path(), &chain_only);
    assert_valid(&report);
    assert_eq!((report.covered_to, report.not_covered()), (None, 6));
    // The upgrade.
    log.state.begins_after = 6;
    log.state.frontier = Frontier::default();
    log.append_entry(&Entry::Tree(log.state.clone()));
    log.write(3);
    log.checkpoint();
    let report = verify(&log);
    assert_valid(&report);
    assert_eq!((report.covered_to, report.tree_from), (Some(9), Some(7)));
    let changed = with_change(&log, |dir| {
        change_lines(&file(dir, 1, "jsonl"), |lines| {
            lines[2] = lines[2].replace("token-issued", "token-denied")
        });
    });
    assert_eq!(first_bad(&changed), (FindingKind::RecordChanged, Some(3)));
}

#[test]
fn a_tree_that_began_anew_and_another_tpm_are_told() {
    let mut log = SampleLog::new();
    log.write(3);
    log.checkpoint();
    log.state = TreeState {
        log_id: [8; 16],
        begins_after: log.state.seq,
        frontier: Frontier::default(),
        ..log.state.clone()
    };
    log.append_entry(&Entry::Tree(log.state.clone()));
    log.write(3);
    log.checkpoint();
    let report = verify(&log);
    assert!(report.is_valid(), "{report:#?}");
    assert_eq!(report.findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::LogRestarted]);
    let keys = log.tpm.keys();
    log.tpm = SampleTpm::new();
    log.write(1);
    log.checkpoint();
    let both = AuditOptions { keys: vec![keys, log.tpm.keys()], ..AuditOptions::default() };
    let report = verify_with(log.path(), &both);
    assert!(report.is_valid(), "{report:#?}");
    assert_eq!(report.findings.last().unwrap().kind, FindingKind::TpmChanged);
    assert_eq!(first_bad(&verify(&log)).0, FindingKind::Checkpoint, "the first AK is not trusted");
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

#[test]
fn each_record_is_proven_by_itself_and_the_log_continues_each_checkpoint() {
    let mut log = log();
    let keys = log.tpm.keys();
    for seq in 1..=14 {
        let proof = prove_record(log.path(), seq).unwrap();
        let checkpoint = proof.checkpoint.verify(&keys, &[9; 16]).unwrap().checkpoint;
        assert_eq!(proof.index, seq - 1);
        let leaf = leaf_hash(&sha256(proof.record.as_bytes()));
        assert!(is_included(&leaf, proof.index, checkpoint.size, &proof.hashes, &checkpoint.root));
        assert!(proof.record.contains(&format!("\"seq\":{seq},")));
        let text = proof.to_tlog_proof();
        assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra ") && text.ends_with(&proof.checkpoint.note));
    }
    let note = prove_record(log.path(), 2).unwrap().checkpoint.note;
    let proof = prove_consistency(log.path(), &note).unwrap();
    assert_eq!((proof.old_size, proof.checkpoint.unverified().unwrap().size), (5, 14));
    log.write(1);
    let missing = prove_record(log.path(), 15).unwrap_err().to_string();
    assert!(missing.contains("no checkpoint covers record 15 yet"), "{missing}");
    log.checkpoint();
    prove_record(log.path(), 15).unwrap();
    assert!(prove_record(log.path(), 16).is_err() && prove_record(log.path(), 0).is_err());
    let other = SampleLog::new();
    assert!(prove_consistency(other.path(), &note).is_err());
    // From the second file alone.
    for extension in ["jsonl", CHECKPOINTS_EXTENSION] {
        fs::remove_file(file(log.path(), 1, extension)).unwrap();
    }
    assert_eq!(prove_record(log.path(), 11).unwrap().index, 10);
    assert!(prove_record(log.path(), 3).is_err());
    change_lines(&file(log.path(), 9, "jsonl"), |lines| {
        lines[1] = lines[1].replace("token-issued", "token-denied")
    });
    assert!(prove_record(log.path(), 11).unwrap_err().to_string().contains("verify audit"));
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
