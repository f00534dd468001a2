//! What the thread `audit-files` does: it removes the files of the log beyond the limits, and compresses those that are
//! complete.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::event::Event;
use super::super::files::remove_log_file;
use super::super::record::Record;
use super::super::tree::remove_entries;
use super::super::{compression, index, opened, retention};
use super::LogWriter;
use crate::mutex::lock;

/// How often it is looked whether there is a new file.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Files beyond the limits of what is kept are searched at the start, after a new file was started, and at
/// this interval.
const REMOVAL_INTERVAL: Duration = Duration::from_secs(3600);
/// How often a file to compress is searched.
const COMPRESSION_INTERVAL: Duration = Duration::from_secs(10);
/// A failed compression is repeated after this time.
const RETRY_DELAY: Duration = Duration::from_secs(600);
/// The thread rests so many times as long as it has compressed.
const REST: u32 = 3;

impl LogWriter {
    /// Runs the thread `audit-files`. No line waits for it.
    pub(super) fn run_old_files(&self) {
        let (mut removal_due, mut compression_due) = (Instant::now(), Instant::now());
        let mut current = PathBuf::new();
        while !self.waits_for_end(LOOK_INTERVAL) {
            let (path, _) = self.syncer.current_path();
            if path != current || Instant::now() >= removal_due {
                current = path;
                removal_due = Instant::now() + REMOVAL_INTERVAL;
                self.remove_old_files();
            }
            if self.section.compress && Instant::now() >= compression_due {
                compression_due = Instant::now() + self.compress_old_file();
            }
            opened::drop_idle();
        }
    }

    /// Waits at most this time, and returns whether the log is closed.
    fn waits_for_end(&self, longest: Duration) -> bool {
        let is_closed = lock(&self.old_files_end.0);
        let waited = self.old_files_end.1.wait_timeout_while(is_closed, longest, |is_closed| !*is_closed);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Removes the files beyond the limits, after a record of it. A full disk may have no room for the
    /// record; it is the first line that is written then.
    fn remove_old_files(&self) {
        let (current, _) = self.syncer.current_path();
        let dir = current.parent().unwrap_or(Path::new("."));
        let result =
            retention::removal(dir, &current, self.section.keep, self.clock.now()).and_then(|removal| {
                let Some(removal) = removal else { return Ok(()) };
                let event = Event::AuditFilesRemoved;
                let record = Record::for_event(event, &removal.description, self.clock.now());
                let body = record.to_json_members(&self.clock)?;
                {
                    let mut log = lock(&self.log);
                    log.push_first_body(body);
                    // Where it cannot be written, it is one of the next lines.
                    let next = u64::from(self.append(&mut log, std::iter::empty()).is_err());
                    self.last_removal.store(log.seq() + next, Ordering::Release);
                }
                // Who found the log locked has left a line.
                self.work_available.notify_one();
                self.health.metrics().count_record(event);
                tracing::info!(event = event.name(), "{}", removal.description);
                removal.files.iter().try_for_each(|file| {
                    remove_log_file(file)?;
                    remove_entries(file)
                })?;
                index::remove_orphans(dir)
            });
        if let Err(e) = result {
            tracing::error!(event = "audit-degraded", "old files of the audit log cannot be removed: {e}");
        }
    }

    /// Compresses the oldest file that is complete, if there is one. Returns the time after which there may be another.
    fn compress_old_file(&self) -> Duration {
        let (current, has_lines) = self.syncer.current_path();
        // A start that finds the newest file empty reads the one before.
        if !has_lines {
            return COMPRESSION_INTERVAL;
        }
        let dir = current.parent().unwrap_or(Path::new("."));
        let mut rest = |took: Duration| match self.waits_for_end(took * REST) {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        };
        let result = compression::next_file(dir, &current, self.clock.now());
        let result = result.and_then(|file| match file {
            Some(file) => compression::compress(&file, &mut rest).map(|()| true),
            None => Ok(false),
        });
        match result {
            Ok(true) => Duration::ZERO,
            Ok(false) => COMPRESSION_INTERVAL,
            Err(e) => {
                if e.kind() != io::ErrorKind::Interrupted {
                    tracing::warn!("a file of the audit log cannot be compressed, and stays as it is: {e}");
                }
                RETRY_DELAY
            }
        }
    }
}
