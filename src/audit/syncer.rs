//! Syncs the log's file and directory to the disk, and watches the file.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::forecast::SpaceForecast;
use super::health::{AuditHealth, LOW_SPACE_BYTES};
use crate::mutex::lock;

/// The file that is synced and watched.
#[derive(Debug)]
struct Current {
    file: Arc<File>,
    path: PathBuf,
    /// What happened to the file, if lines that are written to it are lost.
    lost: Option<&'static str>,
}

/// What is synced: the current file, and the directory, whose entries are its files.
#[derive(Debug)]
pub(super) struct Syncer {
    current: Mutex<Current>,
    dir: Mutex<Arc<File>>,
    /// The length of the whole lines of the current file. The file itself can be longer: a failed write can
    /// leave part of a line, which is cut away later.
    written: AtomicU64,
    /// Whether lines were written since the last sync.
    file_dirty: AtomicBool,
    /// Whether the directory may have an entry that is not on the disk.
    dir_dirty: AtomicBool,
    /// Whether a sync has failed since the current file was started. Linux reports a write error once and
    /// drops the pages, so a later sync of the same file proves nothing.
    sync_failed: AtomicBool,
    /// Whether `current.lost` is set.
    is_lost: AtomicBool,
    forecast: Mutex<SpaceForecast>,
}

impl Syncer {
    /// The first sync includes the directory, because `file` can be new.
    pub(super) fn new(dir: &Path, file: Arc<File>, path: &Path) -> io::Result<Syncer> {
        Ok(Syncer {
            current: Mutex::new(Current { file, path: path.to_owned(), lost: None }),
            dir: Mutex::new(Arc::new(File::open(dir)?)),
            written: AtomicU64::new(0),
            file_dirty: AtomicBool::new(false),
            dir_dirty: AtomicBool::new(true),
            sync_failed: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
            forecast: Mutex::default(),
        })
    }

    /// Replaces the handle of the directory.
    #[cfg(test)]
    pub(super) fn with_dir(self, dir: File) -> Syncer {
        Syncer { dir: Mutex::new(Arc::new(dir)), ..self }
    }

    /// Lines were written to the current file, whose whole lines have `length` bytes now.
    pub(super) fn mark_written(&self, length: u64) {
        self.written.store(length, Ordering::Release);
        self.file_dirty.store(true, Ordering::Release);
    }

    /// Has the next sync include the current file whether or not it is known to have changed.
    pub(super) fn mark_dirty(&self) {
        self.file_dirty.store(true, Ordering::Release);
    }

    /// Continues with a new file, whose directory entry has to be synced.
    pub(super) fn follow(&self, file: Arc<File>, path: &Path) {
        let mut current = self.lock();
        *current = Current { file, path: path.to_owned(), lost: None };
        self.written.store(0, Ordering::Release);
        self.is_lost.store(false, Ordering::Release);
        self.sync_failed.store(false, Ordering::Release);
        self.dir_dirty.store(true, Ordering::Release);
    }

    /// As [`Syncer::follow`], where the directory at the path can be another one too.
    pub(super) fn follow_replacement(&self, file: Arc<File>, path: &Path) {
        if let Ok(dir) = File::open(path.parent().unwrap_or(Path::new("."))) {
            *lock(&self.dir) = Arc::new(dir);
        }
        self.follow(file, path);
    }

    /// Returns the file that is synced and watched.
    pub(super) fn current_file(&self) -> Arc<File> {
        self.lock().file.clone()
    }

    /// Returns what happened to the current file, if it was removed, moved, replaced or truncated.
    pub(super) fn lost_reason(&self) -> Option<&'static str> {
        if !self.is_lost.load(Ordering::Acquire) {
            return None;
        }
        self.lock().lost
    }

    /// Whether a sync has failed, so that a new file is needed.
    pub(super) fn has_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    /// Syncs what has changed, and stores the result in `health`. The next call repeats what failed; its
    /// success counts only after a new file was started. Returns whether there was something to sync. Blocking.
    pub(super) fn sync(&self, health: &AuditHealth) -> bool {
        let synced = self.current_file();
        let file = self.sync_file(&synced);
        let synced_dir = lock(&self.dir).clone();
        let dir = sync_if(&self.dir_dirty, || synced_dir.sync_all());
        if file.is_none() && dir.is_none() {
            return false;
        }
        let result = file.unwrap_or(Ok(())).and(dir.unwrap_or(Ok(())));
        if result.is_err() {
            let current = self.lock();
            if Arc::ptr_eq(&current.file, &synced) {
                self.sync_failed.store(true, Ordering::Release);
            }
        }
        if result.is_err() || !self.has_failed() {
            health.record_sync(result);
        }
        true
    }

    fn sync_file(&self, file: &Arc<File>) -> Option<io::Result<()>> {
        let result = sync_if(&self.file_dirty, || file.sync_data());
        // If the log has continued with a new file meanwhile, the flag may have been set for its lines.
        if !Arc::ptr_eq(&self.current_file(), file) {
            self.file_dirty.store(true, Ordering::Release);
        }
        result
    }

    /// Checks that the file is still at its path and was not truncated, and that the disk has free space. If
    /// a check fails, the state in `health` stays unchanged. Blocking.
    pub(super) fn check_disk(&self, health: &AuditHealth) {
        // The length is read before the file's own, which only grows beyond it.
        let (file, path, written) = {
            let current = self.lock();
            (current.file.clone(), current.path.clone(), self.written.load(Ordering::Acquire))
        };
        if let Ok(filesystem) = nix::sys::statvfs::fstatvfs(&file) {
            let available = filesystem.blocks_available() * filesystem.fragment_size();
            health.set_low_space(available < LOW_SPACE_BYTES);
            health.set_full_in(lock(&self.forecast).note(Instant::now(), available));
        }
        let Ok(metadata) = file.metadata() else { return };
        let is_elsewhere = match fs::symlink_metadata(&path) {
            Ok(found) => (found.dev(), found.ino()) != (metadata.dev(), metadata.ino()),
            Err(e) => matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        };
        let mut current = self.lock();
        if !Arc::ptr_eq(&current.file, &file) {
            return;
        }
        if metadata.nlink() == 0 {
            current.lost = Some("was removed");
        } else if is_elsewhere {
            current.lost = Some("was moved or replaced");
        } else if metadata.len() < written {
            current.lost = Some("was truncated");
        }
        self.is_lost.store(current.lost.is_some(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        lock(&self.current)
    }
}

/// Calls `sync` if `dirty` is set. A failure leaves it set.
fn sync_if(dirty: &AtomicBool, sync: impl Fn() -> io::Result<()>) -> Option<io::Result<()>> {
    if !dirty.swap(false, Ordering::AcqRel) {
        return None;
    }
    let result = sync();
    if result.is_err() {
        dirty.store(true, Ordering::Release);
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;
    use crate::audit::health::WriteError;

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
        let health = AuditHealth::new(0);
        syncer.sync(&health);
        assert!(health.disk_fault().is_none() && !syncer.dir_dirty.load(Ordering::Acquire));

        let syncer = syncer.with_dir(unsyncable(dir.path()));
        syncer.follow(new.clone(), &path);
        syncer.mark_written(0);
        syncer.sync(&health);
        assert!(is_sync_error(&health));
        assert!(!syncer.file_dirty.load(Ordering::Acquire), "the new file is synced");
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
        let health = AuditHealth::new(0);
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
        let syncer = Syncer::new(dir.path(), old.clone(), &path).unwrap();
        syncer.follow(Arc::new(File::create(&path).unwrap()), &path);
        syncer.mark_written(0);
        assert!(syncer.sync_file(&old).unwrap().is_ok());
        assert!(syncer.file_dirty.load(Ordering::Acquire), "the new file is not synced yet");
        assert!(syncer.sync_file(&syncer.current_file()).unwrap().is_ok());
        assert!(!syncer.file_dirty.load(Ordering::Acquire));
    }

    #[test]
    fn a_file_that_is_not_at_its_path_or_shorter_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let health = AuditHealth::new(0);
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
        let health = AuditHealth::new(0);
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
        let health = AuditHealth::new(0);
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
}
