use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::*;
use crate::audit::files::log_file;
use crate::config::AuditSync;

/// A handle on which fsync and fdatasync fail, with EBADF.
fn unsyncable(path: &Path) -> File {
    File::options().read(true).custom_flags(libc::O_PATH).open(path).unwrap()
}

fn is_sync_error(health: &AuditHealth) -> bool {
    matches!(health.disk_fault(), Some(WriteError::Sync(_)))
}

#[test]
fn failed_directory_sync_leaves_new_file_synced_and_watched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    let new = Arc::new(File::create(&path).unwrap());
    let syncer = Syncer::new(dir.path(), Arc::new(tempfile::tempfile().unwrap()), &path).unwrap();
    let health = AuditHealth::new(0, AuditSync::Interval);
    syncer.sync(&health);
    assert!(health.disk_fault().is_none() && syncer.dir_changes.are_synced());

    let syncer = syncer.with_dir(unsyncable(dir.path()));
    syncer.follow(new.clone(), &path);
    syncer.mark_written(0);
    syncer.sync(&health);
    assert!(is_sync_error(&health));
    assert!(syncer.file_changes.are_synced(), "the new file is synced");
    std::fs::remove_file(&path).unwrap();
    syncer.check_disk(&health);
    assert_eq!(syncer.lost_reason(), Some("was removed"), "the new file is watched");

    let syncer = syncer.with_dir(File::open(dir.path()).unwrap());
    syncer.follow(Arc::new(File::create(&path).unwrap()), &path);
    syncer.sync(&health);
    syncer.check_disk(&health);
    assert!(health.disk_fault().is_none(), "the next sync repeats what failed");
    assert_eq!(syncer.lost_reason(), None);
}

#[test]
fn failed_file_sync_is_reported_until_a_new_file_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let file = Arc::new(File::create(&path).unwrap());
    let syncer = Syncer::new(dir.path(), Arc::new(unsyncable(&path)), &path).unwrap();
    let health = AuditHealth::new(0, AuditSync::Interval);
    syncer.mark_written(0);
    for _ in 0..2 {
        syncer.sync(&health);
        assert!(is_sync_error(&health) && syncer.has_failed());
        assert!(health.write_error().is_none(), "requests are served");
    }
    // As after a write error that Linux has reported once: the same file can be synced again.
    syncer.lock().file = file.clone();
    for _ in 0..2 {
        syncer.mark_written(0);
        syncer.sync(&health);
        assert!(is_sync_error(&health) && syncer.has_failed(), "a later success proves nothing");
    }
    syncer.follow(file, &path);
    assert!(is_sync_error(&health), "the new file is not synced yet");
    syncer.sync(&health);
    assert!(health.disk_fault().is_none() && !syncer.has_failed());
}

#[test]
fn lines_of_a_file_that_was_started_during_a_sync_are_synced_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let old = Arc::new(tempfile::tempfile().unwrap());
    let syncer = Syncer::new(dir.path(), old, &path).unwrap();
    let health = AuditHealth::new(0, AuditSync::Interval);
    syncer.mark_written(0);
    let begun = syncer.begin();
    syncer.follow(Arc::new(File::create(&path).unwrap()), &path);
    syncer.mark_written(0);
    assert!(syncer.finish(begun, &health).result.is_ok());
    assert!(!syncer.file_changes.are_synced(), "the new file is not synced yet");
    assert!(syncer.sync(&health).result.is_ok());
    assert!(syncer.file_changes.are_synced());
}

#[test]
fn a_sync_that_another_thread_has_begun_is_not_relied_upon() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let syncer = Syncer::new(dir.path(), Arc::new(File::create(&path).unwrap()), &path).unwrap();
    let health = AuditHealth::new(0, AuditSync::Interval);
    syncer.mark_written(0);
    let in_progress = syncer.begin();
    assert!(syncer.sync(&health).was_needed, "the other sync has not ended");
    assert!(!syncer.finish(in_progress, &health).was_needed, "one sync serves both");
}

#[test]
fn a_failed_sync_of_a_file_that_the_log_has_left_is_no_fault_of_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new] = [1, 8].map(|seq| log_file(dir.path(), seq));
    File::create(&old).unwrap();
    let syncer = Syncer::new(dir.path(), Arc::new(unsyncable(&old)), &old).unwrap();
    let health = AuditHealth::new(0, AuditSync::Always);
    syncer.mark_written(0);
    let begun = syncer.begin();
    syncer.follow(Arc::new(File::create(&new).unwrap()), &new);
    let report = syncer.finish(begun, &health);
    assert!(matches!((report.first_seq, report.result), (1, Err(WriteError::Sync(_)))));
    assert!(!syncer.has_failed() && health.disk_fault().is_none() && health.write_error().is_none());
    let report = syncer.sync(&health);
    assert!(matches!((report.first_seq, report.result), (8, Ok(()))));
}

#[test]
fn a_file_that_is_not_at_its_path_or_shorter_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let health = AuditHealth::new(0, AuditSync::Interval);
    let lose = |lose: &dyn Fn()| {
        fs::write(&path, b"line\n").unwrap();
        let file = Arc::new(File::options().append(true).open(&path).unwrap());
        let syncer = Syncer::new(dir.path(), file.clone(), &path).unwrap();
        syncer.mark_written(5);
        syncer.check_disk(&health);
        assert_eq!(syncer.lost_reason(), None);
        lose();
        syncer.check_disk(&health);
        let reason = syncer.lost_reason();
        syncer.follow(file, &path);
        assert_eq!(syncer.lost_reason(), None);
        reason
    };
    let moved = dir.path().join("moved");
    assert_eq!(lose(&|| fs::remove_file(&path).unwrap()), Some("was removed"));
    assert_eq!(lose(&|| fs::rename(&path, &moved).unwrap()), Some("was moved or replaced"));
    let replace = || {
        fs::rename(&path, &moved).unwrap();
        fs::write(&path, b"line\n").unwrap();
    };
    assert_eq!(lose(&replace), Some("was moved or replaced"));
    assert_eq!(lose(&|| drop(File::create(&path).unwrap())), Some("was truncated"));
}

#[test]
fn half_a_line_that_is_cut_away_is_no_truncation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let health = AuditHealth::new(0, AuditSync::Interval);
    fs::write(&path, b"line\n").unwrap();
    let file = Arc::new(File::options().append(true).open(&path).unwrap());
    let syncer = Syncer::new(dir.path(), file.clone(), &path).unwrap();
    syncer.mark_written(5);
    (&*file).write_all(b"li").unwrap();
    syncer.check_disk(&health);
    file.set_len(5).unwrap();
    syncer.check_disk(&health);
    assert_eq!(syncer.lost_reason(), None);
    file.set_len(4).unwrap();
    syncer.check_disk(&health);
    assert_eq!(syncer.lost_reason(), Some("was truncated"));
}

#[test]
fn a_file_that_was_truncated_and_has_grown_again_before_the_first_check_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let health = AuditHealth::new(0, AuditSync::Interval);
    let file = Arc::new(File::options().append(true).create(true).open(&path).unwrap());
    let syncer = Syncer::new(dir.path(), file.clone(), &path).unwrap();
    for written in [5, 10] {
        file.set_len(0).unwrap();
        (&*file).write_all(b"line\n").unwrap();
        syncer.mark_written(written);
    }
    syncer.check_disk(&health);
    assert_eq!(syncer.lost_reason(), Some("was truncated"));
}
