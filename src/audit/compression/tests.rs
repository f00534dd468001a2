//! A log with compressed files is read as without, whatever a crash or an administrator has left of them.

use super::*;
use crate::audit::chain::open as open_log;
use crate::audit::files::{log_file, remove_log_file};
use crate::audit::filter::{AuditQuery, PageStart};
use crate::audit::opened::open_present_log;
use crate::audit::query::read_page;
use crate::audit::search::{IndexUse, search_last};
use crate::audit::unreadable::line_of;
use crate::verify::audit::{AuditOptions, AuditReport, FindingKind, verify_audit};

const NOW: Timestamp = Timestamp::from_secs(2_000_000_000);

/// Four files of 300 records each, written long before [`NOW`]; the last one is the current one.
fn log() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open_log(dir.path());
    for file in 0..4 {
        for n in 0..300 {
            let time = Timestamp::from_secs(1_900_000_000 + 300 * file + n);
            let body =
                format!("\"time\":\"{time}\",\"event\":\"token-issued\",\"agent\":\"agent-{}\"}}", n % 3);
            log.append([body.as_bytes()].into_iter()).unwrap();
        }
        let written_at = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        File::options().append(true).open(log.path()).unwrap().set_modified(written_at).unwrap();
        if file < 3 {
            log.start_file().unwrap();
        }
    }
    dir
}

fn current(dir: &Path) -> PathBuf {
    log_file(dir, 901)
}

fn compress_all(dir: &Path) -> usize {
    let mut count = 0;
    while let Some(file) = next_file(dir, &current(dir), NOW).unwrap() {
        compress(&file, &mut unhurried()).unwrap();
        count += 1;
    }
    count
}

/// The records of a query, by pages forwards and backwards and by both kinds of search.
fn found(dir: &Path, agent: Option<&str>) -> Vec<Vec<String>> {
    let query = AuditQuery { agent: agent.map(str::to_owned), ..AuditQuery::default() };
    let page = |start| {
        let page = read_page(dir, &AuditQuery { start, ..query.clone() }, 100_000).unwrap();
        assert!(page.missing.is_empty() && page.unreadable.is_empty() && !page.has_more);
        page.records.iter().map(|record| record.get().to_owned()).collect()
    };
    let search = |by| {
        let found = search_last(dir, &query, 100_000, by).unwrap();
        assert!(found.missing.is_empty() && found.unreadable.is_empty() && !found.has_more);
        found.lines.into_iter().map(String::from).collect()
    };
    vec![
        page(PageStart::After(0)),
        page(PageStart::End),
        page(PageStart::After(450)),
        page(PageStart::Before(450)),
        search(IndexUse::Beside),
        search(IndexUse::Beside),
        search(IndexUse::None),
    ]
}

fn verify(dir: &Path) -> AuditReport {
    let options = AuditOptions { chain_only: true, ..AuditOptions::default() };
    verify_audit(dir, &options, &mut |_, _| {}).unwrap()
}

#[test]
fn a_compressed_log_has_the_same_records_in_every_reader() {
    let dir = log();
    let dir = dir.path();
    let before = (found(dir, None), found(dir, Some("agent-1")), verify(dir));
    assert_eq!((before.0[0].len(), before.1[0].len()), (1200, 400));
    let index = fs::read(log_file(dir, 301).with_extension("index")).unwrap();
    assert_eq!(compress_all(dir), 3);
    for seq in [1, 301, 601] {
        let plain = log_file(dir, seq);
        assert!(!plain.exists() && compressed_file(&plain).is_file(), "{seq}");
    }
    assert!(current(dir).is_file());
    assert_eq!((found(dir, None), found(dir, Some("agent-1"))), (before.0, before.1));
    assert_eq!(
        fs::read(log_file(dir, 301).with_extension("index")).unwrap(),
        index,
        "the index of the plain file is that of the compressed one"
    );
    let after = verify(dir);
    assert!(after.bytes < before.2.bytes);
    assert_eq!(AuditReport { bytes: before.2.bytes, ..after }, before.2);
    // Where there is no index, it is made beside the compressed file.
    fs::remove_file(log_file(dir, 301).with_extension("index")).unwrap();
    assert_eq!(found(dir, None)[4].len(), 1200);
    assert!(log_file(dir, 301).with_extension("index").is_file());
    let (file, line) = line_of(dir, 302).unwrap().unwrap();
    assert_eq!((file, line), (compressed_file(&log_file(dir, 301)), 2));
    // The log goes on.
    let (mut log, set_aside) = open_log(dir);
    assert_eq!((log.seq(), set_aside), (1200, None));
    log.append([b"\"event\":\"x\"}".as_slice()].into_iter()).unwrap();
    assert!(verify(dir).is_valid());
}

#[test]
fn zcat_reads_what_was_compressed() {
    let dir = log();
    let plain = fs::read(log_file(dir.path(), 1)).unwrap();
    let modified = fs::metadata(log_file(dir.path(), 1)).unwrap().modified().unwrap();
    compress_all(dir.path());
    let packed = compressed_file(&log_file(dir.path(), 1));
    let metadata = fs::metadata(&packed).unwrap();
    assert!(metadata.len() * 2 < plain.len() as u64, "{} of {}", metadata.len(), plain.len());
    assert_eq!(metadata.modified().unwrap(), modified, "keep.age counts from the last record");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777, 0o600);
    let output = std::process::Command::new("zcat").arg(&packed).output().unwrap();
    assert!(output.status.success() && output.stdout == plain);
}

#[test]
fn the_current_file_a_young_one_and_one_that_is_too_large_stay_as_they_are() {
    let dir = log();
    let dir = dir.path();
    assert_eq!(next_file(dir, &log_file(dir, 1), NOW).unwrap(), None);
    let young = Timestamp::from_secs(1_900_000_060);
    assert_eq!(next_file(dir, &current(dir), young).unwrap(), None);
    assert_eq!(
        next_file(dir, &current(dir), Timestamp::from_secs(1)).unwrap(),
        None,
        "a clock that was set back"
    );
    File::options().append(true).open(log_file(dir, 1)).unwrap().set_len(MAX_UNPACKED_LEN + 1).unwrap();
    File::options().append(true).open(log_file(dir, 1)).unwrap().set_modified(UNIX_EPOCH).unwrap();
    assert_eq!(next_file(dir, &current(dir), NOW).unwrap(), Some(log_file(dir, 301)));
}

/// The process ends at each step: what is there is read, and the next round completes it.
#[test]
fn what_a_crash_leaves_is_read_and_completed() {
    let dir = log();
    let dir = dir.path();
    let whole = found(dir, None);
    let plain = fs::read(log_file(dir, 1)).unwrap();
    let new = log_file(dir, 1).with_extension(NEW_EXTENSION);
    let packed = compressed_file(&log_file(dir, 1));
    // While it was written.
    let mut blocks = 0;
    let ended = compress(&log_file(dir, 1), &mut |_| {
        blocks += 1;
        assert!(new.is_file());
        Err(io::ErrorKind::Interrupted.into())
    });
    assert!(ended.is_err() && blocks == 1 && !new.exists() && !packed.exists());
    fs::write(&new, "part").unwrap();
    assert_eq!(found(dir, None), whole);
    remove_unfinished(dir).unwrap();
    assert!(!new.exists());
    fs::write(&new, "part").unwrap();
    // Before the plain file was removed; and as a file that is no gzip file, which does not count.
    for content in [fs::read(log_file(dir, 301)).unwrap(), b"torn".to_vec()] {
        fs::write(&packed, content).unwrap();
        assert_eq!(found(dir, None), whole);
        assert_eq!(verify(dir).records, 1200);
        assert!(verify(dir).findings.is_empty());
        let (log, set_aside) = open_log(dir);
        assert_eq!((log.seq(), set_aside), (1200, None));
    }
    assert_eq!(compress_all(dir), 3);
    assert!(!new.exists() && !log_file(dir, 1).exists());
    assert_eq!(found(dir, None), whole);
    // Of a file that is removed, no compressed one comes back.
    fs::write(log_file(dir, 1), &plain).unwrap();
    remove_log_file(&log_file(dir, 1)).unwrap();
    assert_eq!(log_files(dir).unwrap().len(), 3);
    assert!(!packed.exists());
}

#[test]
fn a_file_that_is_compressed_while_it_is_read_is_found_under_its_other_name() {
    let dir = log();
    let listed = log_files(dir.path()).unwrap();
    compress_all(dir.path());
    for path in listed {
        let length = open_present_log(&path).unwrap().metadata().unwrap().len();
        assert!(length > 30_000, "{}", path.display());
    }
}

#[test]
fn a_damaged_file_is_named_by_readers_and_its_first_bad_line_by_the_verification() {
    let dir = log();
    let dir = dir.path();
    compress_all(dir);
    let packed = compressed_file(&log_file(dir, 301));
    let whole = fs::read(&packed).unwrap();
    let first_bad = |dir: &Path| {
        let report = verify(dir);
        let finding = report.first_bad().unwrap().clone();
        assert_eq!(finding.file, packed.file_name().unwrap().to_str().unwrap());
        (finding, report)
    };
    // As a crash of the machine could leave it.
    fs::write(&packed, &whole[..whole.len() / 2]).unwrap();
    let (finding, report) = first_bad(dir);
    assert_eq!(finding.kind, FindingKind::Format);
    assert!(finding.message.contains("cannot be decompressed: the gzip file ends early"), "{finding:?}");
    assert_eq!(report.last_record, Some(300 + finding.line - 1));
    let error =
        read_page(dir, &AuditQuery { start: PageStart::After(400), ..AuditQuery::default() }, 9).unwrap_err();
    assert!(error.to_string().contains("00301.jsonl.gz: the gzip file ends early"), "{error}");
    // Other files are read.
    let later = AuditQuery { start: PageStart::After(700), ..AuditQuery::default() };
    assert_eq!(read_page(dir, &later, 9).unwrap().records.len(), 9);
    let (log, set_aside) = open_log(dir);
    assert_eq!((log.seq(), set_aside), (1200, None), "the start does not need it");

    // A bomb.
    let mut bomb = compressed_of(dir, &vec![b'\n'; MAX_UNPACKED_LEN as usize + 1]);
    fs::write(&packed, &bomb).unwrap();
    let error = search_last(dir, &AuditQuery::default(), 1000, IndexUse::None).unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
    assert_eq!(first_bad(dir).0.line, 1);

    // The file of another number.
    fs::copy(compressed_file(&log_file(dir, 1)), &packed).unwrap();
    let (finding, _) = first_bad(dir);
    assert_eq!((finding.kind, finding.line, finding.record), (FindingKind::RecordOrder, 1, Some(1)));

    // A whole gzip file with a record that was changed.
    let mut text = Vec::new();
    GzReader::new(whole.as_slice(), u64::MAX).read_to_end(&mut text).unwrap();
    let changed =
        String::from_utf8(text).unwrap().replacen("\"agent\":\"agent-2\"", "\"agent\":\"agent-0\"", 1);
    bomb = compressed_of(dir, changed.as_bytes());
    fs::write(&packed, bomb).unwrap();
    let (finding, _) = first_bad(dir);
    assert_eq!((finding.kind, finding.line, finding.record), (FindingKind::RecordChanged, 3, Some(303)));
    // A sum that is wrong, behind records that are right.
    let mut sum = whole.clone();
    let at = sum.len() - 8;
    sum[at] ^= 1;
    fs::write(&packed, sum).unwrap();
    let (finding, _) = first_bad(dir);
    assert!(finding.line == 301 && finding.message.contains("does not have the sum"), "{finding:?}");
    fs::write(&packed, &whole).unwrap();
    assert!(verify(dir).is_valid());
}

/// The newest plain file was removed: the log goes on in a new one, and not in the compressed one.
#[test]
fn nothing_is_appended_to_a_compressed_file() {
    let dir = log();
    let dir = dir.path();
    compress_all(dir);
    fs::remove_file(current(dir)).unwrap();
    let packed = compressed_file(&log_file(dir, 601));
    let whole = fs::read(&packed).unwrap();
    let (mut log, _) = open_log(dir);
    log.append([b"\"event\":\"x\"}".as_slice()].into_iter()).unwrap();
    assert_eq!((log.seq(), log.path()), (901, current(dir).as_path()));
    assert_eq!(fs::read(&packed).unwrap(), whole);
}

/// What the daemon would write of a file with this content.
fn compressed_of(dir: &Path, content: &[u8]) -> Vec<u8> {
    let plain = dir.join("content");
    fs::write(&plain, content).unwrap();
    let mut packed = tempfile::tempfile().unwrap();
    write_packed(&File::open(&plain).unwrap(), &mut packed, &mut unhurried()).unwrap();
    fs::remove_file(plain).unwrap();
    packed.rewind().unwrap();
    let mut bytes = Vec::new();
    packed.read_to_end(&mut bytes).unwrap();
    bytes
}
