//! Gets lines into the log: by whoever brings them while the disk keeps up, by a thread of its own while it does not.
//!
//! A write into the page cache copies a few hundred bytes, which is far less work than waking another thread and being
//! woken by it. So a lane of the road writes its own line, together with what others brought in the meantime. It does so
//! only while the disk answers: once a write took long, or the sync of each second does, lines are handed to the thread
//! until the disk has caught up. Nobody waits for another's write: whoever finds the log taken leaves its line to
//! whoever has it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::chain::Log;
use super::health::{Health, Problem, SCARCE, SLOW_WRITE};

/// How many lines may wait; one more is refused.
const QUEUE: usize = 1024;
/// Lines written by one call.
const BATCH: usize = 256;
/// Batches that a lane writes for others before it hands over to the thread.
const ROUNDS: usize = 4;
/// The thread looks at least this often for what was left behind.
const TURN: Duration = Duration::from_millis(500);
/// What is written is asked of the disk this often.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// One line to write, without its number and its link.
#[derive(Debug)]
struct Job {
    body: Vec<u8>,
    done: oneshot::Sender<Result<(), Problem>>,
}

/// Who writes a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hand {
    /// The thread that brings it, while the disk keeps up.
    Own,
    /// The log's thread always: for callers that must never wait for a disk.
    Thread,
}

/// The log and the way into it.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Mutex<VecDeque<Job>>,
    wanted: Condvar,
    log: Mutex<Log>,
    /// The file being written, for the thread that syncs it.
    current: Mutex<File>,
    dirty: AtomicBool,
    closed: AtomicBool,
    health: Health,
}

impl Writer {
    /// Opens the log and starts its threads. The second part tells what was mended, if anything was.
    pub(super) fn start(dir: &Path) -> io::Result<(Arc<Writer>, Option<String>)> {
        let (log, recovered) = Log::open(dir)?;
        let writer = Arc::new(Writer {
            queue: Mutex::default(),
            wanted: Condvar::new(),
            current: Mutex::new(log.file()?),
            dirty: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            health: Health::new(log.seq()),
            log: Mutex::new(log),
        });
        let thread = |name: &str, run: fn(&Writer)| {
            let writer = writer.clone();
            let builder = std::thread::Builder::new().name(name.into()).stack_size(256 * 1024);
            builder.spawn(move || run(&writer)).map(drop)
        };
        thread("audit", Writer::write_for_others)?;
        thread("audit-sync", Writer::sync_now_and_then)?;
        Ok((writer, recovered))
    }

    /// Brings a line. What comes of it is told through the receiver.
    pub(super) fn submit(
        &self,
        body: Vec<u8>,
        hand: Hand,
    ) -> Result<oneshot::Receiver<Result<(), Problem>>, Problem> {
        if let Some(stalled) = self.health.stalled() {
            return Err(stalled);
        }
        let (done, written) = oneshot::channel();
        {
            let mut queue = lock(&self.queue);
            if queue.len() >= QUEUE {
                return Err(Problem("too many decisions wait for the disk".into()));
            }
            queue.push_back(Job { body, done });
        }
        if hand == Hand::Thread || !self.health.keeps_up() || !self.write_what_waits() {
            self.wanted.notify_one();
        }
        Ok(written)
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// Puts what was written on the disk. Blocking.
    pub(super) fn sync(&self) {
        if self.dirty.swap(false, Ordering::AcqRel) {
            let file = lock(&self.current).try_clone();
            // A disk that cannot keep what it took will fail the next write as well, which is told.
            let _ = file.and_then(|file| file.sync_data());
        }
    }

    /// Ends the threads.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wanted.notify_all();
    }

    /// Writes all that waits, unless somebody else is at it and will find it. False if more is left than is fair.
    fn write_what_waits(&self) -> bool {
        for _ in 0..ROUNDS {
            let mut log = match self.log.try_lock() {
                Ok(log) => log,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return true,
            };
            self.write_batch(&mut log);
            drop(log);
            // Whoever came while the log was taken has left its line here.
            if lock(&self.queue).is_empty() {
                return true;
            }
        }
        false
    }

    /// The life of the thread `audit`.
    fn write_for_others(&self) {
        while !self.closed.load(Ordering::Acquire) {
            let queue = lock(&self.queue);
            let waited = self.wanted.wait_timeout_while(queue, TURN, |queue| {
                queue.is_empty() && !self.closed.load(Ordering::Acquire)
            });
            drop(waited);
            let mut log = lock(&self.log);
            if let Some(took) = self.write_batch(&mut log) {
                self.health.count_quick(took);
            }
            if log.is_full() && log.turn_over().is_ok() {
                if let Ok(file) = log.file() {
                    *lock(&self.current) = file;
                }
            }
        }
    }

    /// The life of the thread `audit-sync`.
    fn sync_now_and_then(&self) {
        while !self.closed.load(Ordering::Acquire) {
            std::thread::park_timeout(SYNC_EVERY);
            let _syncing = self.health.syncing();
            self.sync();
            self.look_for_room();
        }
    }

    /// Whether the file is where it was, and the disk has room. What cannot be told is left as it was.
    fn look_for_room(&self) {
        let file = lock(&self.current).try_clone();
        let Ok(file) = file else { return };
        let (Ok(disk), Ok(meta)) = (nix::sys::statvfs::fstatvfs(&file), file.metadata()) else { return };
        let left = disk.blocks_available() * disk.fragment_size();
        self.health.found(left < SCARCE, meta.nlink() == 0);
    }

    /// Writes a batch by one call, and tells those who wait. How long it took; none if nothing waited.
    fn write_batch(&self, log: &mut Log) -> Option<Duration> {
        let jobs: Vec<Job> = {
            let mut queue = lock(&self.queue);
            let count = queue.len().min(BATCH);
            queue.drain(..count).collect()
        };
        if jobs.is_empty() {
            return None;
        }
        let began = Instant::now();
        let result = {
            let _writing = self.health.writing();
            log.append(jobs.iter().map(|job| job.body.as_slice()))
        };
        let took = began.elapsed();
        if took > SLOW_WRITE {
            self.health.fall_behind();
        }
        let result = result.map_err(|e| Problem(e.to_string().into()));
        self.health.note(&result, log);
        self.dirty.store(true, Ordering::Release);
        for job in jobs {
            // Whoever did not wait for it is not told.
            let _ = job.done.send(result.clone());
        }
        Some(took)
    }
}

/// No panic leaves what these locks hold half-changed, so a poisoned one is as good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::audit::health::CAUGHT_UP;

    fn body() -> Vec<u8> {
        b"\"detail\":\"x\"}".to_vec()
    }

    /// A disk that takes 64 KiB and then nothing until it is read.
    fn stalling_disk(writer: &Writer) -> File {
        let (disk, mouth): (OwnedFd, OwnedFd) = nix::unistd::pipe().unwrap();
        let mut mouth = File::from(mouth);
        let room = nix::fcntl::fcntl(&mouth, nix::fcntl::FcntlArg::F_GETPIPE_SZ).unwrap();
        io::Write::write_all(&mut mouth, &vec![b'-'; room as usize]).unwrap();
        lock(&writer.log).redirect(mouth);
        File::from(disk)
    }

    /// Waits, bounded, until `seen` holds.
    fn until(what: &str, mut seen: impl FnMut() -> bool) {
        for _ in 0..1000 {
            if seen() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        panic!("waited in vain until {what}");
    }

    #[test]
    fn whoever_brings_a_line_writes_it_while_the_disk_keeps_up() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, _) = Writer::start(dir.path()).unwrap();
        for at in 1..=50 {
            let mut written = writer.submit(body(), Hand::Own).unwrap();
            // A slow moment of the machine may have handed it to the thread.
            until("it is written", || written.try_recv().is_ok());
            assert_eq!(writer.health().last(), at);
        }
        writer.close();
    }

    #[test]
    fn nobody_waits_for_another_whom_the_disk_holds_up() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, _) = Writer::start(dir.path()).unwrap();
        let mut disk = stalling_disk(&writer);
        let held = std::thread::spawn({
            let writer = writer.clone();
            move || writer.submit(body(), Hand::Own).unwrap()
        });
        until("somebody is at it", || writer.health.is_writing());

        let mut waiting = writer.submit(body(), Hand::Own).unwrap();
        assert!(waiting.try_recv().is_err(), "nothing was written");
        until("the disk is called stalled", || writer.health().problem().is_some());
        let refused = writer.submit(body(), Hand::Own).unwrap_err();
        assert!(refused.to_string().contains("has not answered"), "{refused}");

        let reader = std::thread::spawn(move || disk.read(&mut [0; 1 << 20]).map(|_| disk));
        // It was held, unless the log's own thread happened to turn just then and took its line.
        let mut first = held.join().unwrap();
        until("the first is written", || first.try_recv().is_ok());
        until("the second is written", || waiting.try_recv().is_ok());
        assert!(!writer.health().keeps_up(), "the next lines are the thread's");
        assert_eq!(writer.health().problem(), None);
        let _disk = reader.join().unwrap().unwrap();
        for _ in 0..CAUGHT_UP {
            let mut written = writer.submit(body(), Hand::Own).unwrap();
            until("the thread has written", || written.try_recv().is_ok());
        }
        until("lanes write again", || writer.health().keeps_up());
        writer.close();
    }

    #[test]
    fn lines_of_many_threads_are_one_chain() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, _) = Writer::start(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for hand in [Hand::Own, Hand::Own, Hand::Thread, Hand::Own] {
                let writer = &writer;
                scope.spawn(move || {
                    for _ in 0..500 {
                        let mut written = writer.submit(body(), hand).unwrap();
                        until("it is written", || written.try_recv().is_ok());
                    }
                });
            }
        });
        assert_eq!(writer.health().last(), 2000);
        writer.close();
        let (log, recovered) = Log::open(dir.path()).unwrap();
        assert_eq!((log.seq(), recovered), (2000, None));
    }
}
