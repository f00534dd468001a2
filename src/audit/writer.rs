//! Writes audit lines: in the thread that submits them while the disk is fast, else in a thread of its own.
//!
//! A write into the page cache copies a few hundred bytes (2 us), which is much cheaper than waking another
//! thread and being woken by it (30 us). A worker therefore writes its own line, together with those that
//! others queued meanwhile. After a write of more than 5 ms, or while an fdatasync takes more than 50 ms,
//! lines go to the thread `audit`, until 64 of its writes were fast. No worker waits for another worker's
//! write: if the log is locked, it leaves its line in the queue for the thread that holds the lock.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::chain::ChainedLog;
use super::health::{AuditHealth, SLOW_WRITE, WriteError};
use super::line::MAX_BODY_LEN;
use super::suppressed::CarriedCount;
use super::syncer::Syncer;
use crate::critical::spawn_critical;

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
    /// For the thread `audit-sync`.
    syncer: Syncer,
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
            syncer: Syncer::new(dir, log.file())?,
            closed: AtomicBool::new(false),
            health: AuditHealth::new(log.seq()),
            log: Mutex::new(log),
        });
        let spawn_thread = |name, run: fn(&LogWriter)| {
            let writer = writer.clone();
            let builder = std::thread::Builder::new().stack_size(256 * 1024);
            spawn_critical(builder, name, move || run(&writer))
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
        self.syncer.mark_written();
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

    /// Replaces the file that lines are written to, and returns the previous one.
    #[cfg(test)]
    pub(super) fn replace_file(&self, file: Arc<std::fs::File>) -> Arc<std::fs::File> {
        lock(&self.log).replace_file(file)
    }

    /// Syncs the current file and its directory entry to disk. What fails is repeated by the next call.
    /// Blocking.
    pub(super) fn sync(&self) {
        self.syncer.sync(&self.health);
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
                    self.syncer.follow(log.file());
                }
                self.health.record_rotation(rotated);
            }
        }
    }

    /// Runs the thread `audit-sync`: syncs the file and checks its disk, once a second.
    fn run_syncer(&self) {
        while !self.closed.load(Ordering::Acquire) {
            std::thread::park_timeout(SYNC_INTERVAL);
            let _syncing = self.health.begin_sync();
            self.sync();
            self.syncer.check_disk(&self.health);
        }
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
        self.syncer.mark_written();
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

/// Locks a mutex. No critical section leaves its data inconsistent if it panics, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
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
    fn new_file_is_synced_and_watched_from_the_rotation_on() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, _) = LogWriter::start(dir.path()).unwrap();
        let mut result = writer.submit(body(), None, WriteMode::Background).unwrap();
        wait_until("it is written", || result.try_recv().is_ok());
        let first = log_path(&writer);
        lock(&writer.log).pretend_full();
        wait_until("a new file is started", || log_path(&writer) != first);
        let log = lock(&writer.log);
        assert!(Arc::ptr_eq(&writer.syncer.current_file(), &log.file()));
        drop(log);
        writer.close();
    }

    /// A file system that refuses new files: the directory has another name now.
    #[test]
    fn failed_rotation_keeps_current_file() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("audit");
        std::fs::create_dir(&dir).unwrap();
        let (writer, _) = LogWriter::start(&dir).unwrap();
        std::fs::rename(&dir, parent.path().join("moved")).unwrap();
        lock(&writer.log).pretend_full();
        for seq in 1..=3 {
            let mut result = writer.submit(body(), None, WriteMode::Background).unwrap();
            wait_until("it is written", || result.try_recv().is_ok());
            assert_eq!(writer.health().last_seq(), seq);
        }
        wait_until("the failure is reported", || writer.health().disk_fault().is_some());
        let fault = writer.health().disk_fault().unwrap();
        assert!(matches!(fault, WriteError::Rotate(_)), "{fault}");
        assert!(writer.health().write_error().is_none(), "lines are written");
        writer.close();
    }

    #[test]
    fn too_long_lines_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, _) = LogWriter::start(dir.path()).unwrap();
        let mut result = writer.submit(vec![b'x'; MAX_BODY_LEN], None, WriteMode::Inline).unwrap();
        wait_until("the longest line is written", || result.try_recv().is_ok());
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
