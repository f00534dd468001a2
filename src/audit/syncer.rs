//! Syncs the log's file and directory to the disk, and watches the file.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::changes::Changes;
use super::files::first_seq;
use super::forecast::SpaceForecast;
use super::health::{AuditHealth, LOW_SPACE_BYTES, WriteError};
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
    /// Never locked during a sync.
    current: Mutex<Current>,
    dir: Mutex<Arc<File>>,
    /// The length of the whole lines of the current file. The file itself can be longer: a failed write can
    /// leave part of a line, which is cut away later.
    written: AtomicU64,
    /// Lines that were written, and new files.
    file_changes: Changes,
    /// Entries of the directory.
    dir_changes: Changes,
    /// Whether a sync has failed since the current file was started. Linux reports a write error once and
    /// drops the pages, so a later sync of the same file proves nothing.
    sync_failed: AtomicBool,
    /// Whether `current.lost` is set.
    is_lost: AtomicBool,
    forecast: Mutex<SpaceForecast>,
}

/// What became of a sync.
#[derive(Debug)]
pub(super) struct SyncReport {
    /// The number in the name of the file whose lines the result is about.
    pub(super) first_seq: u64,
    /// Whether there was something to sync.
    pub(super) was_needed: bool,
    /// Why lines of the file are not known to be on the disk, if a sync of it has failed.
    pub(super) result: Result<(), WriteError>,
}

/// A sync that begins: what was changed before it, and the file.
struct Begun {
    file_changes: u64,
    dir_changes: u64,
    file: Arc<File>,
    first_seq: u64,
}

impl Syncer {
    /// The first sync includes the directory, because `file` can be new.
    pub(super) fn new(dir: &Path, file: Arc<File>, path: &Path) -> io::Result<Syncer> {
        let dir_changes = Changes::default();
        dir_changes.note();
        Ok(Syncer {
            current: Mutex::new(Current { file, path: path.to_owned(), lost: None }),
            dir: Mutex::new(Arc::new(File::open(dir)?)),
            written: AtomicU64::new(0),
            file_changes: Changes::default(),
            dir_changes,
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
        self.file_changes.note();
    }

    /// Continues with a new file, whose directory entry has to be synced. A file without lines can be followed
    /// again after a failed sync, which has lost none.
    pub(super) fn follow(&self, file: Arc<File>, path: &Path) {
        let mut current = self.lock();
        *current = Current { file, path: path.to_owned(), lost: None };
        self.written.store(0, Ordering::Release);
        self.is_lost.store(false, Ordering::Release);
        self.sync_failed.store(false, Ordering::Release);
        self.file_changes.note();
        self.dir_changes.note();
    }

    /// As [`Syncer::follow`], where the directory at the path can be another one too.
    pub(super) fn follow_replacement(&self, file: Arc<File>, path: &Path) {
        if let Ok(dir) = File::open(path.parent().unwrap_or(Path::new("."))) {
            *lock(&self.dir) = Arc::new(dir);
        }
        self.follow(file, path);
    }

    /// Returns the file that is synced and watched.
    #[cfg(test)]
    pub(super) fn current_file(&self) -> Arc<File> {
        self.lock().file.clone()
    }

    /// The path of the current file, and whether it has a line.
    pub(super) fn current_path(&self) -> (PathBuf, bool) {
        let current = self.lock();
        (current.path.clone(), self.written.load(Ordering::Acquire) > 0)
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
    /// success counts only after a new file was started. Blocking: everything that was written before the call is
    /// on the disk when this returns, also where another thread syncs at the same time, or the result says why not.
    pub(super) fn sync(&self, health: &AuditHealth) -> SyncReport {
        self.finish(self.begin(), health)
    }

    fn begin(&self) -> Begun {
        // Before the file: what is written to a later one is a later change.
        let (file_changes, dir_changes) = (self.file_changes.made(), self.dir_changes.made());
        let current = self.lock();
        let first_seq = first_seq(&current.path).unwrap_or_default();
        Begun { file_changes, dir_changes, file: current.file.clone(), first_seq }
    }

    fn finish(&self, begun: Begun, health: &AuditHealth) -> SyncReport {
        let synced_dir = lock(&self.dir).clone();
        let file = self.file_changes.sync(begun.file_changes, || begun.file.sync_data());
        let dir = self.dir_changes.sync(begun.dir_changes, || synced_dir.sync_all());
        let was_needed = file.is_some() || dir.is_some();
        let (file, dir) = (file.unwrap_or(Ok(())), dir.unwrap_or(Ok(())));
        let current = self.lock();
        // A failure of the directory can be about the entry of any file.
        let is_of_current = Arc::ptr_eq(&current.file, &begun.file) || dir.is_err();
        let first_seq =
            if is_of_current { first_seq(&current.path).unwrap_or_default() } else { begun.first_seq };
        let result = match file.and(dir) {
            Err(error) if is_of_current => {
                self.sync_failed.store(true, Ordering::Release);
                Err(health.record_sync_failure(error))
            }
            // The log has left the file whose lines are concerned: no fault of the new one.
            Err(error) => {
                tracing::error!(
                    event = "audit-degraded",
                    "lines of the audit log before the current file cannot be synced to the disk: {error}"
                );
                Err(WriteError::Sync(Arc::new(error)))
            }
            Ok(()) => match health.sync_error().filter(|_| self.has_failed()) {
                Some(standing) if is_of_current => Err(standing),
                Some(_) => Ok(()),
                None if was_needed && is_of_current => {
                    health.record_sync_success();
                    Ok(())
                }
                None => Ok(()),
            },
        };
        SyncReport { first_seq, was_needed, result }
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

#[cfg(test)]
mod tests;
