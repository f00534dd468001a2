//! Damage and what is found after it.

use super::*;
use crate::audit::chain::{ChainedLog, open};

fn append(log: &mut ChainedLog, count: usize) {
    for n in 0..count {
        let body = format!("\"detail\":\"{}\"}}", "x".repeat(97 * n % 3000));
        log.append([body.as_bytes()].into_iter()).unwrap();
    }
}

#[test]
fn zeros_after_a_power_cut_tear_no_line_and_restart_no_number() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    append(&mut log, 100);
    let path = log.path().to_owned();
    let whole = fs::read(&path).unwrap();
    for zeros in [1, 4095, 131_071, 131_072, 131_073, 1 << 20] {
        fs::write(&path, [whole.clone(), vec![0; zeros]].concat()).unwrap();
        let (log, report) = open(dir.path());
        assert_eq!(log.seq(), 100);
        assert!(report.unwrap().contains(&format!("{zeros} bytes after line 100")));
        assert_eq!(fs::read(&path).unwrap(), whole);
        let torn = path.with_extension("torn-1");
        assert_eq!(fs::read(&torn).unwrap(), vec![0; zeros]);
        fs::remove_file(torn).unwrap();
    }
}

#[test]
fn a_log_without_a_whole_line_does_not_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = log_file(dir.path(), 5000);
    fs::write(&path, vec![0; 300_000]).unwrap();
    let (mut log, report) = open(dir.path());
    assert!(report.unwrap().starts_with("300000 bytes"));
    // As many lines as the bytes can have been.
    assert!(log.seq() >= 4999 + 300_000 / 100, "{}", log.seq());
    let seq = log.seq();
    let (reopened, report) = open(dir.path());
    assert_eq!(reopened.seq(), seq);
    assert!(report.unwrap().contains("lines 1 to"), "it is reported until a line records it");
    append(&mut log, 1);
    let (reopened, report) = open(dir.path());
    assert_eq!((reopened.seq(), report), (seq + 1, None));
    assert_eq!(fs::read(path.with_extension("torn-1")).unwrap(), vec![0; 300_000]);
}

#[test]
fn a_file_without_a_whole_line_is_set_aside_and_the_file_before_continues() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    append(&mut log, 10);
    let first = log.path().to_owned();
    log.start_file().unwrap();
    fs::write(log.path(), vec![b'x'; 200_000]).unwrap();
    let torn = log.path().with_extension("torn-1");
    let (mut log, report) = open(dir.path());
    // The lost file can have had as many lines as fit its bytes.
    let highest = 10 + 200_000 / MIN_LINE_LEN;
    assert_eq!((log.seq(), log.path()), (highest, &*first));
    assert!(report.unwrap().contains(&format!("lines 11 to {highest} are missing")));
    log.append([&b"\"event\":\"audit-torn\"}"[..]].into_iter()).unwrap();
    let (log, findings) = ChainedLog::open(dir.path()).unwrap();
    assert_eq!((log.seq(), findings), (highest + 1, Findings::default()), "the record declares the gap");
    assert_eq!(fs::read(torn).unwrap(), vec![b'x'; 200_000]);
}

#[test]
fn an_unfinished_copy_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    append(&mut log, 3);
    let path = log.path().to_owned();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [&whole[..], b"{\"v\":1,\"se"].concat()).unwrap();
    let unfinished = PathBuf::from(format!("{}.new", path.with_extension("torn-1").display()));
    fs::write(&unfinished, b"{\"v\":").unwrap();
    let (log, report) = open(dir.path());
    assert!(report.is_some() && log.seq() == 3 && !unfinished.exists());
    assert_eq!(fs::read(path.with_extension("torn-1")).unwrap(), b"{\"v\":1,\"se");
}

#[test]
fn a_line_of_an_earlier_version_may_be_longer() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let body = format!("\"detail\":\"{}\"}}", "x".repeat(1_400_000));
    log.append([body.as_bytes()].into_iter()).unwrap();
    let (log, report) = open(dir.path());
    assert_eq!((log.seq(), report), (1, None));
}

/// The lines of a log of one file, with their newlines.
fn written_lines(dir: &Path, count: usize) -> (PathBuf, Vec<Vec<u8>>) {
    let (mut log, _) = open(dir);
    append(&mut log, count);
    let text = fs::read(log.path()).unwrap();
    (log.path().to_owned(), text.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect())
}

#[test]
fn old_whole_lines_after_damage_restart_no_number() {
    let dir = tempfile::tempdir().unwrap();
    let (path, lines) = written_lines(dir.path(), 11);
    let whole = lines.concat();
    let zeros = [vec![0; 4096], b"\n".to_vec()].concat();
    let old = |range: std::ops::Range<usize>| lines[range].concat();
    let tails = [
        [zeros.clone(), old(2..3)].concat(),
        [zeros.clone(), old(2..6)].concat(),
        [zeros.clone(), old(2..4), zeros.clone(), old(6..9)].concat(),
        old(10..11),
        old(0..11),
    ];
    for (at, tail) in tails.iter().enumerate() {
        fs::write(&path, [&whole[..], tail].concat()).unwrap();
        let (log, report) = open(dir.path());
        assert_eq!(log.seq(), 11, "tail {at}");
        assert!(report.unwrap().starts_with(&format!("{} bytes after line 11 ", tail.len())));
        assert_eq!(fs::read(&path).unwrap(), whole);
        let torn = path.with_extension("torn-1");
        assert_eq!(fs::read(&torn).unwrap(), *tail);
        fs::remove_file(torn).unwrap();
    }
}

#[test]
fn numbers_of_lines_that_are_set_aside_are_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut lines) = written_lines(dir.path(), 11);
    lines.swap(9, 10);
    fs::write(&path, lines.concat()).unwrap();
    let (log, report) = open(dir.path());
    assert_eq!(log.seq(), 11);
    assert!(report.unwrap().contains("lines 10 to 11 are missing"));
    assert_eq!(fs::read(&path).unwrap(), lines[..9].concat());
}

#[test]
fn a_hole_in_the_middle_is_reported_once_and_nothing_is_moved() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut lines) = written_lines(dir.path(), 12);
    lines[4..7].iter_mut().for_each(|line| line.fill(0));
    let last_len = lines[7].len() - 1;
    lines[7][..last_len].fill(0);
    fs::write(&path, lines.concat()).unwrap();
    let (mut log, findings) = ChainedLog::open(dir.path()).unwrap();
    assert_eq!((log.seq(), &findings.set_aside), (12, &None));
    let gaps = findings.gaps.unwrap();
    assert!(gaps.contains("between lines 4 and 9;"), "{gaps}");
    assert_eq!(fs::read(&path).unwrap(), lines.concat());
    let body = format!("\"event\":\"audit-gap\",\"detail\":\"{gaps}\"}}");
    log.append([body.as_bytes()].into_iter()).unwrap();
    assert_eq!(ChainedLog::open(dir.path()).unwrap().1, Findings::default());
}

#[test]
fn changed_lines_and_missing_files_are_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let (path, lines) = written_lines(dir.path(), 12);
    let at = lines[..6].concat().len() - 5;
    let mut text = lines.concat();
    text[at] ^= 1;
    fs::write(&path, &text).unwrap();
    let gaps = |dir: &Path| ChainedLog::open(dir).unwrap().1.gaps;
    assert!(gaps(dir.path()).unwrap().contains("between lines 6 and 7;"));

    fs::write(&path, lines.concat()).unwrap();
    let (mut log, _) = open(dir.path());
    for _ in 0..2 {
        log.start_file().unwrap();
        append(&mut log, 3);
    }
    assert_eq!(gaps(dir.path()), None);
    fs::remove_file(log_file(dir.path(), 13)).unwrap();
    assert!(gaps(dir.path()).unwrap().contains("between lines 12 and 16;"));
    fs::remove_file(path).unwrap();
    assert_eq!(gaps(dir.path()), None, "old files may be moved elsewhere");
    fs::write(log.path(), &fs::read(log.path()).unwrap()[100..]).unwrap();
    assert!(gaps(dir.path()).unwrap().contains("between lines 15 and 17;"));
}

#[test]
fn entries_that_are_no_files_stop_no_start_and_their_names_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = written_lines(dir.path(), 11);
    fs::create_dir(log_file(dir.path(), 12)).unwrap();
    std::os::unix::fs::symlink("/nowhere", log_file(dir.path(), 13)).unwrap();
    let mode = nix::sys::stat::Mode::S_IRUSR;
    nix::unistd::mkfifo(&log_file(dir.path(), 20), mode).unwrap();
    fs::write(dir.path().join(format!("{}.jsonl", u64::MAX)), b"").unwrap();
    let (mut log, report) = open(dir.path());
    assert_eq!((log.seq(), log.path()), (20, &*path));
    assert!(report.unwrap().contains("lines 12 to 20 are missing"));
    log.start_file().unwrap();
    assert_eq!(log.path(), log_file(dir.path(), 21));
}

#[test]
fn a_name_without_a_next_number_is_named_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = log_file(dir.path(), MAX_SEQ);
    fs::write(&path, vec![0; 100]).unwrap();
    let error = ChainedLog::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains(&format!("{MAX_SEQ}.torn-1: the name leaves no number")), "{error}");
}
