use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::audit::files::log_file;
use crate::audit::line::{LineId, append_line};

fn lines(range: std::ops::Range<u64>) -> Vec<u8> {
    let mut text = Vec::new();
    for seq in range {
        let body =
            format!("\"time\":\"2026-11-26T10:00:00Z\",\"event\":\"token-issued\",\"agent\":\"a{seq}\"}}");
        append_line(&mut text, LineId::without_digest(seq - 1), body.as_bytes());
    }
    text
}

struct Log {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Log {
    fn new() -> Log {
        let dir = tempfile::tempdir().unwrap();
        let path = log_file(dir.path(), 1);
        fs::write(&path, lines(1..101)).unwrap();
        Log { dir, path }
    }

    fn index_path(&self) -> PathBuf {
        self.path.with_extension(INDEX_EXTENSION)
    }

    fn index(&self) -> Index {
        Index::of(&File::open(&self.path).unwrap(), &self.path).unwrap()
    }

    /// The index beside the file, if it is taken.
    fn stored(&self) -> Option<Index> {
        let file = File::open(&self.path).unwrap();
        Index::read(&self.index_path(), &file, Origin::of(&file).unwrap())
    }
}

#[test]
fn an_index_is_kept_and_read_again() {
    let log = Log::new();
    let index = log.index();
    assert_eq!(index.rows.len(), 100);
    assert_eq!(index.covered, fs::metadata(&log.path).unwrap().len());
    assert_eq!(log.stored().as_ref(), Some(&index));
    assert_eq!(log.index(), index);
    for (row, seq) in index.rows.iter().zip(1..) {
        assert_eq!(row.seq, seq);
        let text = fs::read(&log.path).unwrap();
        let line = &text[row.offset as usize..][..row.length as usize];
        assert!(line.starts_with(b"{") && line.ends_with(b"}"));
    }
    let mode = fs::metadata(log.index_path()).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_was_appended_is_added() {
    let log = Log::new();
    log.index();
    let mut text = fs::read(&log.path).unwrap();
    text.extend(lines(101..151));
    text.extend(b"{\"v\":1,\"seq\":151");
    fs::write(&log.path, &text).unwrap();
    assert_eq!(log.stored().unwrap().rows.len(), 100, "the index of the beginning");
    assert_eq!(log.index().rows.len(), 150);
}

#[test]
fn an_index_that_is_torn_or_of_another_file_or_version_is_made_again() {
    let log = Log::new();
    let index = log.index();
    let good = fs::read(log.index_path()).unwrap();
    for length in [0, 1, HEADER_LEN - 1, HEADER_LEN, good.len() - 1, good.len() - ROW_LEN] {
        fs::write(log.index_path(), &good[..length]).unwrap();
        assert_eq!(log.stored(), None, "{length}");
        assert_eq!(log.index(), index);
        assert_eq!(fs::read(log.index_path()).unwrap(), good);
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(log.index_path(), bad).unwrap();
        assert_eq!(log.stored(), None, "{at}");
    }
    fs::write(log.index_path(), &good).unwrap();
    assert_eq!(log.stored(), Some(index));
}

#[test]
fn an_index_is_older_where_the_file_was_changed_or_became_shorter() {
    let log = Log::new();
    log.index();
    let text = fs::read(&log.path).unwrap();
    let changed = String::from_utf8(text.clone()).unwrap().replace("a50\"", "b50\"");
    fs::write(&log.path, changed).unwrap();
    let later = fs::metadata(&log.path).unwrap().modified().unwrap() + Duration::from_secs(5);
    File::options().append(true).open(&log.path).unwrap().set_modified(later).unwrap();
    assert_eq!(log.stored(), None, "another time");
    log.index();
    fs::write(&log.path, &text[..text.len() / 2]).unwrap();
    assert_eq!(log.stored(), None, "shorter");
    assert!(log.index().rows.len() < 60);
    let last_differs = [&lines(1..100)[..], &lines(100..101), &lines(101..103)].concat();
    let last_differs = String::from_utf8(last_differs).unwrap().replace("a49\"", "b49\"");
    fs::write(&log.path, last_differs).unwrap();
    assert_eq!(log.index().rows.len(), 102);
}

#[test]
fn an_index_is_not_written_through_a_link_and_not_needed() {
    let log = Log::new();
    let target = log.dir.path().join("target");
    fs::write(&target, "x").unwrap();
    let linked = log.path.with_extension("index-new");
    std::os::unix::fs::symlink(&target, &linked).unwrap();
    std::os::unix::fs::symlink(&target, log.index_path()).unwrap();
    assert_eq!(log.index().rows.len(), 100);
    assert_eq!(fs::read(&target).unwrap(), b"x");
    assert!(fs::symlink_metadata(log.index_path()).unwrap().is_file(), "replaced");

    fs::remove_file(log.index_path()).unwrap();
    fs::create_dir(log.index_path()).unwrap();
    assert_eq!(log.index().rows.len(), 100);
}

#[test]
fn indices_of_removed_files_are_removed() {
    let log = Log::new();
    log.index();
    let other = log.dir.path().join("notes.index");
    fs::write(&other, "").unwrap();
    remove_orphans(log.dir.path()).unwrap();
    assert!(log.index_path().exists());
    fs::remove_file(&log.path).unwrap();
    remove_orphans(log.dir.path()).unwrap();
    assert!(!log.index_path().exists() && other.exists());
}

#[test]
fn unfinished_indices_are_removed_at_the_start_and_nothing_else() {
    let log = Log::new();
    log.index();
    let unfinished = log.path.with_extension(NEW_EXTENSION);
    let other = log.dir.path().join("notes.index-new");
    for path in [&unfinished, &other] {
        fs::write(path, "half").unwrap();
    }
    let (journal, clock) = (crate::config::LogTarget::Stderr, crate::clock::Clock::System);
    let journal = crate::audit::Journal::start(journal, clock.clone()).unwrap();
    let section = crate::config::AuditSection::default();
    let audit = crate::audit::Audit::open(log.dir.path(), section, journal, clock).unwrap();
    drop(audit);
    assert!(!unfinished.exists() && other.exists() && log.index_path().exists());
}

#[test]
fn zeros_and_old_blocks_have_no_rows() {
    let log = Log::new();
    let text = [lines(1..11), vec![0; 5000], b"\n".to_vec(), lines(3..8), lines(11..21)].concat();
    fs::write(&log.path, text).unwrap();
    let seqs: Vec<u64> = log.index().rows.iter().map(|row| row.seq).collect();
    assert_eq!(seqs, (1..21).collect::<Vec<u64>>());
}
