//! Syncs the log's file and directory to the disk, and watches the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::health::{AuditHealth, LOW_SPACE_BYTES};

/// What is synced: the current file, and the directory, whose entries are its files.
#[derive(Debug)]
pub(super) struct Syncer {
    current_file: Mutex<Arc<File>>,
    dir: File,
    /// Whether lines were written since the last sync.
    file_dirty: AtomicBool,
    /// Whether the directory may have an entry that is not on the disk.
    dir_dirty: AtomicBool,
}

impl Syncer {
    /// The first sync includes the directory, because `file` can be new.
    pub(super) fn new(dir: &Path, file: Arc<File>) -> io::Result<Syncer> {
        Ok(Syncer {
            current_file: Mutex::new(file),
            dir: File::open(dir)?,
            file_dirty: AtomicBool::new(false),
            dir_dirty: AtomicBool::new(true),
        })
    }

    /// Replaces the handle of the directory.
    #[cfg(test)]
    pub(super) fn with_dir(self, dir: File) -> Syncer {
        Syncer { dir, ..self }
    }

    /// Lines were written to the current file.
    pub(super) fn mark_written(&self) {
        self.file_dirty.store(true, Ordering::Release);
    }

    /// Continues with a new file, whose directory entry has to be synced. The previous one is synced.
    pub(super) fn follow(&self, file: Arc<File>) {
        *self.current_file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        self.dir_dirty.store(true, Ordering::Release);
    }

    /// Returns the file that is synced and watched.
    pub(super) fn current_file(&self) -> Arc<File> {
        self.current_file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Syncs what has changed, and stores the result in `health`. The next call repeats what failed.
    /// Blocking.
    pub(super) fn sync(&self, health: &AuditHealth) {
        let file = sync_if(&self.file_dirty, || self.current_file().sync_data());
        let dir = sync_if(&self.dir_dirty, || self.dir.sync_all());
        if file.is_some() || dir.is_some() {
            health.record_sync(file.unwrap_or(Ok(())).and(dir.unwrap_or(Ok(()))));
        }
    }

    /// Checks that the file still exists and the disk has free space. If a check fails, the state in `health`
    /// stays unchanged.
    pub(super) fn check_disk(&self, health: &AuditHealth) {
        let file = self.current_file();
        let (Ok(filesystem), Ok(metadata)) = (nix::sys::statvfs::fstatvfs(&file), file.metadata()) else {
            return;
        };
        let available = filesystem.blocks_available() * filesystem.fragment_size();
        health.set_disk_state(available < LOW_SPACE_BYTES, metadata.nlink() == 0);
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
        let syncer = Syncer::new(dir.path(), Arc::new(tempfile::tempfile().unwrap())).unwrap();
        let health = AuditHealth::new(0);
        syncer.sync(&health);
        assert!(health.disk_fault().is_none() && !syncer.dir_dirty.load(Ordering::Acquire));

        let syncer = syncer.with_dir(unsyncable(dir.path()));
        syncer.follow(new.clone());
        syncer.mark_written();
        syncer.sync(&health);
        assert!(is_sync_error(&health));
        assert!(!syncer.file_dirty.load(Ordering::Acquire), "the new file is synced");
        std::fs::remove_file(&path).unwrap();
        syncer.check_disk(&health);
        assert!(matches!(health.write_error(), Some(WriteError::FileRemoved)), "the new file is watched");

        let syncer = syncer.with_dir(File::open(dir.path()).unwrap());
        syncer.follow(Arc::new(File::create(&path).unwrap()));
        syncer.sync(&health);
        syncer.check_disk(&health);
        assert!(health.disk_fault().is_none(), "the next sync repeats what failed");
    }

    #[test]
    fn failed_file_sync_is_reported_and_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = Arc::new(File::create(&path).unwrap());
        let syncer = Syncer::new(dir.path(), Arc::new(unsyncable(&path))).unwrap();
        let health = AuditHealth::new(0);
        syncer.mark_written();
        for _ in 0..2 {
            syncer.sync(&health);
            assert!(is_sync_error(&health));
            assert!(health.write_error().is_none(), "requests are served");
        }
        syncer.follow(file);
        syncer.sync(&health);
        assert!(health.disk_fault().is_none());
    }
}
