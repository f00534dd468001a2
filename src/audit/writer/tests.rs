//! Slow, full and failing disks below the log's threads.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;

use super::*;
use crate::audit::chain;
use crate::audit::files::{log_file, log_files};
use crate::audit::health::FAST_WRITES_TO_RECOVER;
use crate::config::KeepLimits;

fn body() -> Vec<u8> {
    b"\"detail\":\"x\"}".to_vec()
}

/// Submits a line and waits, at most 5 s, until it is written.
fn write(writer: &LogWriter, write_mode: WriteMode) -> Result<u64, WriteError> {
    wait_for(writer.submit(body(), None, write_mode)?)
}

fn wait_for(submitted: Submitted) -> Result<u64, WriteError> {
    let mut pending = match submitted {
        Submitted::Written(seq) => return Ok(seq),
        Submitted::Queued(pending) => pending,
    };
    let mut result = None;
    wait_until("it is written", || {
        result = pending.try_recv().ok();
        result.is_some()
    });
    result.unwrap()
}

/// Replaces the file with a full pipe: writes block until the reader has read.
fn install_stalling_file(writer: &LogWriter) -> File {
    let (reader, pipe_end): (OwnedFd, OwnedFd) = nix::unistd::pipe().unwrap();
    let mut pipe_end = File::from(pipe_end);
    let capacity = nix::fcntl::fcntl(&pipe_end, nix::fcntl::FcntlArg::F_GETPIPE_SZ).unwrap();
    io::Write::write_all(&mut pipe_end, &vec![b'-'; capacity as usize]).unwrap();
    writer.replace_file(Arc::new(pipe_end));
    File::from(reader)
}

/// Waits until `condition` holds, at most 5 s.
fn wait_until(condition_name: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    panic!("waited in vain until {condition_name}");
}

#[test]
fn writes_inline_while_disk_is_fast() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _) = LogWriter::start(dir.path(), AuditSection::default(), Clock::System).unwrap();
    for at in 1..=50 {
        // If the machine was slow at that moment, the thread `audit` writes the line.
        assert_eq!(write(&writer, WriteMode::Inline).unwrap(), at);
        assert_eq!(writer.health().last_seq(), at);
    }
    writer.close();
}

#[test]
fn stalled_write_does_not_block_other_callers() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _) = LogWriter::start(dir.path(), AuditSection::default(), Clock::System).unwrap();
    let mut pipe_reader = install_stalling_file(&writer);
    let blocked = std::thread::spawn({
        let writer = writer.clone();
        move || writer.submit(body(), None, WriteMode::Inline).unwrap()
    });
    wait_until("a write is in progress", || writer.health.is_writing());

    let Submitted::Queued(mut second) = writer.submit(body(), None, WriteMode::Inline).unwrap() else {
        panic!("another write is in progress");
    };
    assert!(second.try_recv().is_err(), "nothing was written");
    wait_until("a stall is reported", || writer.health().write_error().is_some());
    let error = writer.submit(body(), None, WriteMode::Inline).unwrap_err();
    assert!(error.to_string().contains("has not responded"), "{error}");

    let reader = std::thread::spawn(move || pipe_reader.read(&mut [0; 1 << 20]).map(|_| pipe_reader));
    // The submitter was blocked, unless the thread `audit` woke up at that moment and wrote the line.
    wait_for(blocked.join().unwrap()).unwrap();
    wait_until("the second is written", || second.try_recv().is_ok());
    assert!(!writer.health().is_fast(), "the thread `audit` writes the next lines");
    assert!(writer.health().write_error().is_none());
    let _pipe_reader = reader.join().unwrap().unwrap();
    for _ in 0..FAST_WRITES_TO_RECOVER {
        write(&writer, WriteMode::Inline).unwrap();
    }
    wait_until("workers write inline again", || writer.health().is_fast());
    writer.close();
}

#[test]
fn new_file_is_synced_and_watched_from_the_rotation_on() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _) = LogWriter::start(dir.path(), AuditSection::default(), Clock::System).unwrap();
    write(&writer, WriteMode::Background).unwrap();
    let first = log_path(&writer);
    lock(&writer.log).pretend_full();
    wait_until("a new file is started", || log_path(&writer) != first);
    let log = lock(&writer.log);
    assert!(Arc::ptr_eq(&writer.syncer.current_file(), &log.file()));
    drop(log);
    writer.close();
}

#[test]
fn failed_rotation_keeps_current_file() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _) = LogWriter::start(dir.path(), AuditSection::default(), Clock::System).unwrap();
    // The names of the next files are taken.
    for seq in 2..10 {
        std::fs::create_dir(log_file(dir.path(), seq)).unwrap();
    }
    lock(&writer.log).pretend_full();
    for seq in 1..=3 {
        write(&writer, WriteMode::Background).unwrap();
        assert_eq!(writer.health().last_seq(), seq);
    }
    wait_until("the failure is reported", || writer.health().disk_fault().is_some());
    let fault = writer.health().disk_fault().unwrap();
    assert!(matches!(fault, WriteError::Rotate(_)), "{fault}");
    assert!(writer.health().write_error().is_none(), "lines are written");
    writer.close();
}

#[test]
fn a_removed_or_moved_file_is_replaced_and_the_new_one_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let (writer, _) = LogWriter::start(dir.path(), AuditSection::default(), Clock::System).unwrap();
    for (round, reason) in ["was removed", "was moved or replaced"].into_iter().enumerate() {
        write(&writer, WriteMode::Background).unwrap();
        let lost = log_path(&writer);
        match round {
            0 => std::fs::remove_file(&lost).unwrap(),
            _ => std::fs::rename(&lost, elsewhere.path().join("moved")).unwrap(),
        }
        wait_until("a new file is started", || log_path(&writer) != lost);
        wait_until("its first line is written", || writer.health().last_seq() == 2 * round as u64 + 2);
        let text = std::fs::read_to_string(log_path(&writer)).unwrap();
        assert!(text.contains("audit-file-replaced") && text.contains(reason), "{text}");
        assert!(writer.health().write_error().is_none(), "requests are served");
    }
    writer.close();
    let (log, report) = chain::open(dir.path());
    assert_eq!((log.seq(), report), (4, None), "the chain continues");
}

#[test]
fn without_a_new_file_for_a_lost_one_lines_are_refused_until_there_is_one() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, moved) = (parent.path().join("audit"), parent.path().join("moved"));
    std::fs::create_dir(&dir).unwrap();
    let (writer, _) = LogWriter::start(&dir, AuditSection::default(), Clock::System).unwrap();
    std::fs::rename(&dir, &moved).unwrap();
    wait_until("the loss is reported", || writer.health().write_error().is_some());
    let error = writer.health().write_error().unwrap();
    assert!(matches!(error, WriteError::FileLost { .. }), "{error}");
    assert!(write(&writer, WriteMode::Inline).is_err(), "the line is refused");
    std::fs::create_dir(&dir).unwrap();
    wait_until("the log continues", || writer.health().write_error().is_none());
    write(&writer, WriteMode::Inline).unwrap();
    assert!(log_path(&writer).exists());
    writer.sync();
    assert!(writer.health().disk_fault().is_none(), "the new directory is synced");
    writer.close();
}

#[test]
fn a_new_file_for_a_lost_one_ends_the_fault_of_the_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _) = LogWriter::start(dir.path(), AuditSection::default(), Clock::System).unwrap();
    write(&writer, WriteMode::Background).unwrap();
    let taken = log_file(dir.path(), 2);
    std::fs::create_dir(&taken).unwrap();
    lock(&writer.log).pretend_full();
    wait_until("the failure is reported", || writer.health().disk_fault().is_some());
    std::fs::remove_file(log_path(&writer)).unwrap();
    wait_until("the loss is reported", || writer.health().write_error().is_some());
    std::fs::remove_dir(&taken).unwrap();
    write(&writer, WriteMode::Background).unwrap();
    assert!(writer.health().disk_fault().is_none());
    writer.close();
}

#[test]
fn too_long_lines_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _) = LogWriter::start(dir.path(), AuditSection::default(), Clock::System).unwrap();
    let longest = writer.submit(vec![b'x'; MAX_BODY_LEN], None, WriteMode::Inline).unwrap();
    wait_for(longest).unwrap();
    let error = writer.submit(vec![b'x'; MAX_BODY_LEN + 1], None, WriteMode::Inline).unwrap_err();
    assert!(matches!(error, WriteError::LineTooLong { .. }), "{error}");
    assert!(std::fs::metadata(log_path(&writer)).unwrap().len() <= 8192);
    writer.close();
}

fn log_path(writer: &LogWriter) -> std::path::PathBuf {
    lock(&writer.log).path().to_owned()
}

#[test]
fn concurrent_writers_form_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _) = LogWriter::start(dir.path(), AuditSection::default(), Clock::System).unwrap();
    let numbers = Mutex::new(std::collections::HashSet::new());
    std::thread::scope(|scope| {
        for write_mode in [WriteMode::Inline, WriteMode::Inline, WriteMode::Background, WriteMode::Inline] {
            let (writer, numbers) = (&writer, &numbers);
            scope.spawn(move || {
                let mut last = 0;
                for _ in 0..500 {
                    let seq = write(writer, write_mode).unwrap();
                    assert!(seq > last && writer.health().last_seq() >= seq);
                    assert!(numbers.lock().unwrap().insert(seq), "{seq} was given twice");
                    last = seq;
                }
            });
        }
    });
    assert_eq!(writer.health().last_seq(), 2000);
    writer.close();
    let (log, recovered) = chain::open(dir.path());
    assert_eq!((log.seq(), recovered), (2000, None));
}

#[test]
fn old_files_are_removed_after_a_new_one_was_started_and_the_removal_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let keep = KeepLimits { size: Some(1), age: None };
    let section = AuditSection { keep, ..AuditSection::default() };
    let (writer, _) = LogWriter::start(dir.path(), section, Clock::System).unwrap();
    write(&writer, WriteMode::Background).unwrap();
    lock(&writer.log).pretend_full();
    let removed = || -> Vec<String> {
        let text: String =
            log_files(dir.path()).unwrap().iter().map(|f| fs::read_to_string(f).unwrap()).collect();
        text.lines().filter(|line| line.contains("audit-files-removed")).map(String::from).collect()
    };
    wait_until("the removal is recorded", || !removed().is_empty());
    wait_until("the file is removed", || !log_file(dir.path(), 1).exists());
    let record = &removed()[0];
    assert!(record.contains("keep.size") && record.contains("records 1 to 1 are removed"), "{record}");
    writer.close();
    let (log, findings) = ChainedLog::open(dir.path()).unwrap();
    assert_eq!(findings, Findings::default(), "the chain holds from the first record that is kept");
    assert_eq!(log.seq(), 2);
}

#[tokio::test]
async fn lines_are_on_the_disk_or_refused_where_replies_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let section = AuditSection { sync: AuditSync::Always, ..AuditSection::default() };
    let (writer, _) = LogWriter::start(dir.path(), section, Clock::System).unwrap();
    for _ in 0..3 {
        let seq = write(&writer, WriteMode::Inline).unwrap();
        writer.wait_synced(seq).await.unwrap();
    }
    writer.pretend_unsyncable();
    let refused = write(&writer, WriteMode::Inline).unwrap();
    assert!(matches!(writer.wait_synced(refused).await, Err(WriteError::Sync(_))));
    // The log continues with another file, and lines in it are synced again.
    wait_until("there is a new file", || log_files(dir.path()).unwrap().len() == 2);
    wait_until("the fault has ended", || writer.health().write_error().is_none());
    let seq = write(&writer, WriteMode::Inline).unwrap();
    writer.wait_synced(seq).await.unwrap();
    assert!(
        matches!(writer.wait_synced(refused).await, Err(WriteError::Sync(_))),
        "a sync of another file says nothing of this line"
    );
    writer.close();
}

#[test]
fn a_file_without_lines_that_cannot_be_synced_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let section = AuditSection { sync: AuditSync::Always, ..AuditSection::default() };
    let (writer, _) = LogWriter::start(dir.path(), section, Clock::System).unwrap();
    let path = log_path(&writer);
    writer.pretend_unsyncable();
    writer.sync();
    // Nothing is written meanwhile, since requests are refused.
    wait_until("the fault has ended", || writer.health().write_error().is_none());
    assert_eq!(log_files(dir.path()).unwrap(), [path]);
    writer.close();
}
