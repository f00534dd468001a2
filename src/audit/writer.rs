//! Writes audit lines: in the thread that submits them while the disk is fast, else in a thread of its own.
//!
//! A write into the page cache copies a few hundred bytes (2 us), which is much cheaper than waking another
//! thread and being woken by it (30 us). A worker therefore writes its own line, together with those that
//! others queued meanwhile. After a write of more than 5 ms, or while an fdatasync takes more than 50 ms,
//! lines go to the thread `audit`, until 64 of its writes were fast. No worker waits for another worker's
//! write: if the log is locked, it leaves its line in the queue for the thread that holds the lock.

mod new_file_pace;
mod old_files;
mod threads;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::chain::ChainedLog;
use super::compression;
use super::event::Event;
use super::health::{AuditHealth, SLOW_WRITE, WriteError};
use super::index;
use super::line::MAX_BODY_LEN;
use super::record::Record;
use super::recovery::Findings;
use super::suppressed::CarriedCount;
use super::sync_gate::SyncGate;
use super::syncer::Syncer;
use super::tree::LogHead;
use super::unanswered::Unanswered;
use crate::clock::Clock;
use crate::config::{AuditSection, AuditSync};
use crate::critical::spawn_critical;
use crate::mutex::lock;

/// Lines that may wait; further ones are refused.
const QUEUE_CAPACITY: usize = 1024;
/// Bytes of a thread's stack.
const STACK_SIZE: usize = 256 * 1024;
/// Lines of one write call.
const MAX_BATCH: usize = 256;
/// Batches that a worker writes, including other workers' lines, before it leaves the rest to the thread
/// `audit`.
const MAX_INLINE_BATCHES: usize = 4;

/// One line to write, without its number and the digest of its predecessor.
#[derive(Debug)]
struct PendingLine {
    body: Vec<u8>,
    /// The refusals that the line counts. Where the line is not written, drop counts them again.
    carried: Option<CarriedCount>,
    result_sender: oneshot::Sender<Result<u64, WriteError>>,
}

/// Gets the result of a line that another thread writes: its number.
pub(super) type PendingResult = oneshot::Receiver<Result<u64, WriteError>>;

/// What became of a line that was submitted.
#[derive(Debug)]
pub(super) enum Submitted {
    /// It is written, with this number.
    Written(u64),
    /// Another thread writes it.
    Queued(PendingResult),
}

/// Which thread writes a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteMode {
    /// The submitting thread while the disk is fast.
    Inline,
    /// Always the thread `audit`: for submitters that must never wait for a disk.
    Background,
}

/// The log, its queue and its threads.
#[derive(Debug)]
pub(super) struct LogWriter {
    queue: Mutex<VecDeque<PendingLine>>,
    work_available: Condvar,
    log: Mutex<ChainedLog>,
    /// For the thread `audit-sync`.
    syncer: Syncer,
    closed: AtomicBool,
    /// Whether the thread `audit-files` is to end.
    old_files_end: (Mutex<bool>, Condvar),
    /// The number of the last record of a removal.
    last_removal: AtomicU64,
    health: AuditHealth,
    section: AuditSection,
    sync_gate: SyncGate,
    unanswered: Mutex<Unanswered>,
    clock: Clock,
}

impl LogWriter {
    /// Opens the log and starts its threads. The second value describes what was found, as in
    /// [`ChainedLog::open`].
    pub(super) fn start(
        dir: &Path,
        section: AuditSection,
        clock: Clock,
    ) -> io::Result<(Arc<LogWriter>, Findings)> {
        let (log, findings) = ChainedLog::open(dir)?;
        if let Err(e) = index::remove_unfinished(dir) {
            tracing::warn!("what is left of an index of the audit log cannot be removed: {e}");
        }
        if let Err(e) = compression::remove_unfinished(dir) {
            tracing::warn!("what is left of a compressed file of the audit log cannot be removed: {e}");
        }
        let syncer = Syncer::new(dir, log.file(), log.path())?;
        syncer.mark_written(log.length());
        let writer = Arc::new(LogWriter {
            queue: Mutex::default(),
            work_available: Condvar::new(),
            syncer,
            closed: AtomicBool::new(false),
            old_files_end: (Mutex::new(false), Condvar::new()),
            last_removal: AtomicU64::new(0),
            health: AuditHealth::new(log.seq(), section.sync),
            log: Mutex::new(log),
            section,
            sync_gate: SyncGate::new(),
            unanswered: Mutex::default(),
            clock,
        });
        let spawn_thread = |name, stack_size, run: fn(&LogWriter)| {
            let writer = writer.clone();
            let builder = std::thread::Builder::new().stack_size(stack_size);
            spawn_critical(builder, name, move || run(&writer))
        };
        spawn_thread("audit", STACK_SIZE, LogWriter::run_writer)?;
        spawn_thread("audit-sync", STACK_SIZE, LogWriter::run_syncer)?;
        // A compressor is made on the stack.
        spawn_thread("audit-files", 4 * STACK_SIZE, LogWriter::run_old_files)?;
        Ok((writer, findings))
    }

    /// Writes a line before all others, or with the first line that can be written. Blocking.
    pub(super) fn write_first(&self, body: Vec<u8>) {
        let mut log = lock(&self.log);
        log.push_first_body(body);
        let _ = self.append(&mut log, std::iter::empty());
    }

    /// Writes a line, or queues it for another thread; the receiver then gets the result of its write.
    pub(super) fn submit(
        &self,
        body: Vec<u8>,
        carried: Option<CarriedCount>,
        write_mode: WriteMode,
    ) -> Result<Submitted, WriteError> {
        // Records bound their members so that they fit; this holds where a later member does not.
        if body.len() > MAX_BODY_LEN {
            let error = WriteError::LineTooLong { length: body.len() };
            tracing::error!(event = "audit-failed", "a line of the audit log is not written: {error}");
            return Err(error);
        }
        if let Some(error) = self.health.stall_error() {
            return Err(error);
        }
        let is_inline = write_mode == WriteMode::Inline && self.health.is_fast();
        if let Some(log) = is_inline.then(|| self.try_lock_log()).flatten() {
            let seq = self.write_inline(log, &body)?;
            carried.into_iter().for_each(CarriedCount::settle);
            return Ok(Submitted::Written(seq));
        }
        let (result_sender, result) = oneshot::channel();
        {
            let mut queue = lock(&self.queue);
            if queue.len() >= QUEUE_CAPACITY {
                return Err(WriteError::QueueFull);
            }
            queue.push_back(PendingLine { body, carried, result_sender });
        }
        if !is_inline || !self.drain_queue() {
            self.work_available.notify_one();
        }
        Ok(Submitted::Queued(result))
    }

    /// The last record and the tree; `None` while a thread has the log.
    pub(super) fn head(&self) -> Option<LogHead> {
        self.try_lock_log().map(|log| log.head())
    }

    /// The number of the last record of this process that says that files were removed; 0 if there is none.
    pub(super) fn last_removal(&self) -> u64 {
        self.last_removal.load(Ordering::Acquire)
    }

    /// Returns how many lines wait to be written.
    pub(super) fn queued_lines(&self) -> usize {
        lock(&self.queue).len()
    }

    pub(super) fn health(&self) -> &AuditHealth {
        &self.health
    }

    /// Has syncs of the current file fail, with EBADF: on a handle that only names it.
    #[cfg(test)]
    pub(super) fn pretend_unsyncable(&self) {
        use std::os::unix::fs::OpenOptionsExt as _;

        let path = lock(&self.log).path().to_owned();
        let handle = std::fs::File::options().read(true).custom_flags(libc::O_PATH).open(&path);
        self.syncer.follow(Arc::new(handle.unwrap()), &path);
    }

    /// Replaces the file that lines are written to, and returns the previous one.
    #[cfg(test)]
    pub(super) fn replace_file(&self, file: Arc<std::fs::File>) -> Arc<std::fs::File> {
        lock(&self.log).replace_file(file)
    }

    /// Syncs the current file and its directory entry to disk: all lines that were written before the call are there
    /// when it returns, or `health` has the fault. What fails is repeated by the next call. Blocking.
    pub(super) fn sync(&self) {
        let written = self.health.last_seq();
        let begun = Instant::now();
        let report = self.syncer.sync(&self.health);
        if report.was_needed {
            self.health.metrics().sync_duration.observe(begun.elapsed());
        }
        match report.result {
            Ok(()) => {
                self.health.metrics().set_synced(written);
                self.sync_gate.succeed(written);
            }
            Err(error) => self.sync_gate.fail(report.first_seq, error),
        }
    }

    /// When lines are synced.
    pub(super) fn sync_mode(&self) -> AuditSync {
        self.section.sync
    }

    /// Waits until line `seq`, which is written, is on the disk.
    ///
    /// # Errors
    /// The disk cannot sync it.
    pub(super) async fn wait_synced(&self, seq: u64) -> Result<(), WriteError> {
        self.sync_gate.wait_for(seq).await
    }

    /// The request of this record is refused after the record was written. A later record says so.
    pub(super) fn note_unanswered(&self, seq: u64) {
        lock(&self.unanswered).note(seq);
    }

    /// Stops the threads.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.sync_gate.request();
        self.work_available.notify_all();
        *lock(&self.old_files_end.0) = true;
        self.old_files_end.1.notify_all();
    }

    /// `None` if another thread holds the log.
    fn try_lock_log(&self) -> Option<MutexGuard<'_, ChainedLog>> {
        match self.log.try_lock() {
            Ok(log) => Some(log),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Writes this line after those that are queued, and then what others queue meanwhile.
    fn write_inline(&self, mut log: MutexGuard<'_, ChainedLog>, body: &[u8]) -> Result<u64, WriteError> {
        let (result, _) = self.write_batch(&mut log, Some(body));
        drop(log);
        if !self.drain_queue() {
            self.work_available.notify_one();
        }
        result
    }

    /// Writes the queued lines, unless another thread holds the log and will write them. Returns false if
    /// lines are left after [`MAX_INLINE_BATCHES`].
    fn drain_queue(&self) -> bool {
        for _ in 0..MAX_INLINE_BATCHES {
            // A thread that found the log locked has left its line in the queue.
            if self.is_queue_empty() {
                return true;
            }
            let Some(mut log) = self.try_lock_log() else { return true };
            // The submitters get the result.
            let _ = self.write_batch(&mut log, None);
        }
        self.is_queue_empty()
    }

    fn is_queue_empty(&self) -> bool {
        lock(&self.queue).is_empty()
    }

    /// Writes one batch of queued lines, and then `own`, with one call, and sends the result to the
    /// submitters of the queued ones. Returns the number of the last line, and the duration of the write.
    fn write_batch(&self, log: &mut ChainedLog, own: Option<&[u8]>) -> (Result<u64, WriteError>, Duration) {
        let lines: Vec<PendingLine> = {
            let mut queue = lock(&self.queue);
            let count = queue.len().min(MAX_BATCH);
            queue.drain(..count).collect()
        };
        let started_at = Instant::now();
        let result = self.append(log, lines.iter().map(|line| line.body.as_slice()).chain(own));
        let elapsed = started_at.elapsed();
        self.health.metrics().write_duration.observe(elapsed);
        if elapsed > SLOW_WRITE {
            self.health.mark_slow();
        }
        // The lines of the batch are the last ones of the log, without a gap.
        let count = lines.len() as u64 + u64::from(own.is_some());
        for (seq, line) in ((log.seq() + 1).saturating_sub(count)..).zip(lines) {
            if result.is_ok() {
                line.carried.into_iter().for_each(CarriedCount::settle);
            }
            // The receiver is gone if the submitter does not wait for the result.
            let _ = line.result_sender.send(result.clone().map(|()| seq));
        }
        (result.map(|()| log.seq()), elapsed)
    }

    /// Appends lines, after starting a new file if the current one is lost, and stores the result.
    fn append<'a>(
        &self,
        log: &mut ChainedLog,
        bodies: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), WriteError> {
        let result = {
            let _writing = self.health.begin_write();
            self.replace_lost_file(log).and_then(|()| Ok(log.append(bodies)?))
        };
        // First, since a sync covers all lines whose number was known before it.
        self.syncer.mark_written(log.length());
        self.health.record_result(&result, log);
        result
    }

    /// Starts a new file if lines in the current one would be lost. Its first line says why.
    fn replace_lost_file(&self, log: &mut ChainedLog) -> Result<(), WriteError> {
        let Some(reason) = self.syncer.lost_reason() else { return Ok(()) };
        let lost = log.path().to_owned();
        log.start_file().map_err(|error| WriteError::FileLost { reason, source: Arc::new(error) })?;
        self.sync_gate.begin_file(log.seq() + 1);
        self.syncer.follow_replacement(log.file(), log.path());
        self.health.record_rotation(Ok(()));
        let detail = format!(
            "{} {reason} while in use; the audit log continues after line {} in {}",
            lost.display(),
            log.seq(),
            log.path().display()
        );
        let record = Record::for_event(Event::AuditFileReplaced, &detail, self.clock.now());
        if let Ok(body) = record.to_json_members(&self.clock) {
            log.push_first_body(body);
            self.health.metrics().count_record(Event::AuditFileReplaced);
        }
        tracing::error!(event = "audit-file-replaced", "{detail}");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
