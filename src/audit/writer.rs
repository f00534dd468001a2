//! Writes audit lines: in the thread that submits them while the disk is fast, else in a thread of its own.
//!
//! A write into the page cache copies a few hundred bytes (2 us), which is much cheaper than waking another
//! thread and being woken by it (30 us). A worker therefore writes its own line, together with those that
//! others queued meanwhile. After a write of more than 5 ms, or while an fdatasync takes more than 50 ms,
//! lines go to the thread `audit`, until 64 of its writes were fast. No worker waits for another worker's
//! write: if the log is locked, it leaves its line in the queue for the thread that holds the lock.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::chain::ChainedLog;
use super::health::{AuditHealth, LOW_SPACE_BYTES, SLOW_WRITE, WriteError};
use super::line::MAX_BODY_LEN;
use super::suppressed::CarriedCount;

/// Lines that may wait; further ones are refused.
const QUEUE_CAPACITY: usize = 1024;
/// Lines of one write call.
const MAX_BATCH: usize = 256;
/// Batches that a worker writes, including other workers' lines, before it leaves the rest to the thread
/// `audit`.
const MAX_INLINE_BATCHES: usize = 4;
/// The thread `audit` checks the queue at least this often.
const WAKE_INTERVAL: Duration = Duration::from_millis(500);
/// Interval of fdatasync calls.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// One line to write, without its number and the digest of its predecessor.
#[derive(Debug)]
struct PendingLine {
    body: Vec<u8>,
    /// The refusals that the line counts. Where the line is not written, drop counts them again.
    carried: Option<CarriedCount>,
    result_sender: oneshot::Sender<Result<(), WriteError>>,
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
    /// The current file, for the thread `audit-sync`.
    current_file: Mutex<Arc<File>>,
    dir: File,
    /// Whether lines were written since the last sync.
    dirty: AtomicBool,
    /// Whether the directory may have an entry that is not on disk.
    dir_dirty: AtomicBool,
    closed: AtomicBool,
    health: AuditHealth,
}

impl LogWriter {
    /// Opens the log and starts its threads. The second value describes a recovery, as in
    /// [`ChainedLog::open`].
    pub(super) fn start(dir: &Path) -> io::Result<(Arc<LogWriter>, Option<String>)> {
        let (log, recovered) = ChainedLog::open(dir)?;
        let writer = Arc::new(LogWriter {
            queue: Mutex::default(),
            work_available: Condvar::new(),
            current_file: Mutex::new(log.file()),
            dir: File::open(dir)?,
            dirty: AtomicBool::new(false),
            dir_dirty: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            health: AuditHealth::new(log.seq()),
            log: Mutex::new(log),
        });
        let spawn_thread = |name: &str, run: fn(&LogWriter)| {
            let writer = writer.clone();
            let builder = std::thread::Builder::new().name(name.into()).stack_size(256 * 1024);
            builder.spawn(move || run(&writer)).map(drop)
        };
        spawn_thread("audit", LogWriter::run_writer)?;
        spawn_thread("audit-sync", LogWriter::run_syncer)?;
        Ok((writer, recovered))
    }

    /// Writes a line before all others, or with the first line that can be written. Blocking.
    pub(super) fn write_first(&self, body: Vec<u8>) {
        let mut log = lock(&self.log);
        log.set_first_body(body);
        let result = log.append(std::iter::empty()).map_err(WriteError::from);
        self.health.record_result(&result, &log);
        self.dirty.store(true, Ordering::Release);
    }

    /// Queues a line. The receiver gets the result of its write.
    pub(super) fn submit(
        &self,
        body: Vec<u8>,
        carried: Option<CarriedCount>,
        write_mode: WriteMode,
    ) -> Result<oneshot::Receiver<Result<(), WriteError>>, WriteError> {
        // Records bound their members so that they fit; this holds where a later member does not.
        if body.len() > MAX_BODY_LEN {
            let error = WriteError::LineTooLong { length: body.len() };
            tracing::error!(event = "audit-failed", "a line of the audit log is not written: {error}");
            return Err(error);
        }
        if let Some(error) = self.health.stall_error() {
            return Err(error);
        }
        let (result_sender, result) = oneshot::channel();
        {
            let mut queue = lock(&self.queue);
            if queue.len() >= QUEUE_CAPACITY {
                return Err(WriteError::QueueFull);
            }
            queue.push_back(PendingLine { body, carried, result_sender });
        }
        if write_mode == WriteMode::Background || !self.health.is_fast() || !self.drain_queue() {
            self.work_available.notify_one();
        }
        Ok(result)
    }

    pub(super) fn health(&self) -> &AuditHealth {
        &self.health
    }

    /// Syncs the current file and its directory entry to disk. What fails is repeated by the next call.
    /// Blocking.
    pub(super) fn sync(&self) {
        let file = sync_if(&self.dirty, || {
            let file = lock(&self.current_file).clone();
            file.sync_data()
        });
        let dir = sync_if(&self.dir_dirty, || self.dir.sync_all());
        if file.is_some() || dir.is_some() {
            self.health.record_sync(file.unwrap_or(Ok(())).and(dir.unwrap_or(Ok(()))));
        }
    }

    /// Stops the threads.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.work_available.notify_all();
    }

    /// Writes the queued lines, unless another thread holds the log and will write them. Returns false if
    /// lines are left after [`MAX_INLINE_BATCHES`].
    fn drain_queue(&self) -> bool {
        for _ in 0..MAX_INLINE_BATCHES {
            let mut log = match self.log.try_lock() {
                Ok(log) => log,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return true,
            };
            self.write_batch(&mut log);
            drop(log);
            // A thread that found the log locked has left its line in the queue.
            if lock(&self.queue).is_empty() {
                return true;
            }
        }
        false
    }

    /// Runs the thread `audit`: writes queued lines and starts new files.
    fn run_writer(&self) {
        while !self.closed.load(Ordering::Acquire) {
            let queue = lock(&self.queue);
            let wait_result = self.work_available.wait_timeout_while(queue, WAKE_INTERVAL, |queue| {
                queue.is_empty() && !self.closed.load(Ordering::Acquire)
            });
            drop(wait_result);
            let mut log = lock(&self.log);
            if let Some(elapsed) = self.write_batch(&mut log) {
                self.health.note_write_time(elapsed);
            }
            if log.is_full() {
                let rotated = log.rotate();
                if rotated.is_ok() {
                    *lock(&self.current_file) = log.file();
                    self.dir_dirty.store(true, Ordering::Release);
                }
                self.health.record_rotation(&rotated, &log);
            }
        }
    }

    /// Runs the thread `audit-sync`: syncs the file and checks its disk, once a second.
    fn run_syncer(&self) {
        while !self.closed.load(Ordering::Acquire) {
            std::thread::park_timeout(SYNC_INTERVAL);
            let _syncing = self.health.begin_sync();
            self.sync();
            self.check_disk();
        }
    }

    /// Checks that the file still exists and the disk has free space. If a check fails, the state stays
    /// unchanged.
    fn check_disk(&self) {
        let file = lock(&self.current_file).clone();
        let (Ok(filesystem), Ok(metadata)) = (nix::sys::statvfs::fstatvfs(&file), file.metadata()) else {
            return;
        };
        let available = filesystem.blocks_available() * filesystem.fragment_size();
        self.health.set_disk_state(available < LOW_SPACE_BYTES, metadata.nlink() == 0);
    }

    /// Writes one batch with one call and sends the result to the submitters. Returns the duration of the
    /// write, or `None` if the queue was empty.
    fn write_batch(&self, log: &mut ChainedLog) -> Option<Duration> {
        let lines: Vec<PendingLine> = {
            let mut queue = lock(&self.queue);
            let count = queue.len().min(MAX_BATCH);
            queue.drain(..count).collect()
        };
        if lines.is_empty() {
            return None;
        }
        let started_at = Instant::now();
        let result = {
            let _writing = self.health.begin_write();
            log.append(lines.iter().map(|job| job.body.as_slice()))
        };
        let elapsed = started_at.elapsed();
        if elapsed > SLOW_WRITE {
            self.health.mark_slow();
        }
        let result = result.map_err(WriteError::from);
        self.health.record_result(&result, log);
        self.dirty.store(true, Ordering::Release);
        for line in lines {
            if result.is_ok() {
                line.carried.into_iter().for_each(CarriedCount::settle);
            }
            // The receiver is gone if the submitter does not wait for the result.
            let _ = line.result_sender.send(result.clone());
        }
        Some(elapsed)
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

/// Locks a mutex. No critical section leaves its data inconsistent if it panics, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::audit::health::FAST_WRITES_TO_RECOVER;

    fn body() -> Vec<u8> {
        b"\"detail\":\"x\"}".to_vec()
    }

    /// Replaces the file with a full pipe: writes block until the reader has read.
    fn install_stalling_file(writer: &LogWriter) -> File {
        let (reader, pipe_end): (OwnedFd, OwnedFd) = nix::unistd::pipe().unwrap();
        let mut pipe_end = File::from(pipe_end);
        let capacity = nix::fcntl::fcntl(&pipe_end, nix::fcntl::FcntlArg::F_GETPIPE_SZ).unwrap();
        io::Write::write_all(&mut pipe_end, &vec![b'-'; capacity as usize]).unwrap();
        lock(&writer.log).replace_file(pipe_end);
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
        let (writer, _) = LogWriter::start(dir.path()).unwrap();
        for at in 1..=50 {
            let mut result = writer.submit(body(), None, WriteMode::Inline).unwrap();
            // If the machine was slow at that moment, the thread `audit` writes the line.
            wait_until("it is written", || result.try_recv().is_ok());
            assert_eq!(writer.health().last_seq(), at);
        }
        writer.close();
    }

    #[test]
    fn stalled_write_does_not_block_other_callers() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, _) = LogWriter::start(dir.path()).unwrap();
        let mut pipe_reader = install_stalling_file(&writer);
        let blocked = std::thread::spawn({
            let writer = writer.clone();
            move || writer.submit(body(), None, WriteMode::Inline).unwrap()
        });
        wait_until("a write is in progress", || writer.health.is_writing());

        let mut second = writer.submit(body(), None, WriteMode::Inline).unwrap();
        assert!(second.try_recv().is_err(), "nothing was written");
        wait_until("a stall is reported", || writer.health().write_error().is_some());
        let error = writer.submit(body(), None, WriteMode::Inline).unwrap_err();
        assert!(error.to_string().contains("has not responded"), "{error}");

        let reader = std::thread::spawn(move || pipe_reader.read(&mut [0; 1 << 20]).map(|_| pipe_reader));
        // The submitter was blocked, unless the thread `audit` woke up at that moment and wrote the line.
        let mut first = blocked.join().unwrap();
        wait_until("the first is written", || first.try_recv().is_ok());
        wait_until("the second is written", || second.try_recv().is_ok());
        assert!(!writer.health().is_fast(), "the thread `audit` writes the next lines");
        assert!(writer.health().write_error().is_none());
        let _pipe_reader = reader.join().unwrap().unwrap();
        for _ in 0..FAST_WRITES_TO_RECOVER {
            let mut result = writer.submit(body(), None, WriteMode::Inline).unwrap();
            wait_until("the thread has written", || result.try_recv().is_ok());
        }
        wait_until("workers write inline again", || writer.health().is_fast());
        writer.close();
    }

    #[test]
    fn concurrent_writers_form_one_chain() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, _) = LogWriter::start(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for write_mode in [WriteMode::Inline, WriteMode::Inline, WriteMode::Background, WriteMode::Inline]
            {
                let writer = &writer;
                scope.spawn(move || {
                    for _ in 0..500 {
                        let mut result = writer.submit(body(), None, write_mode).unwrap();
                        wait_until("it is written", || result.try_recv().is_ok());
                    }
                });
            }
        });
        assert_eq!(writer.health().last_seq(), 2000);
        writer.close();
        let (log, recovered) = ChainedLog::open(dir.path()).unwrap();
        assert_eq!((log.seq(), recovered), (2000, None));
    }
}
