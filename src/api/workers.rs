//! Worker threads that serve connections: single-threaded runtimes, each with connections of its own.
//!
//! A request stays on one thread and wakes no other, which takes less than half the processor time of a
//! shared pool. Workers share only data that they read.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::critical::run_critical;
use crate::mutex::lock;
use crate::service::WorkerHealth;

/// Blocking threads of one worker: names of users, reloads, the start of readers of a development host.
const MAX_BLOCKING_THREADS: usize = 8;
/// A worker counts as stalled this long after the check that first found that it has not run: a busy machine
/// can delay it for one check.
const STALL_TIME: Duration = Duration::from_secs(1);

/// The workers of the daemon.
pub struct WorkerPool {
    workers: Vec<Worker>,
    health: WorkerHealth,
}

/// One runtime and its number of connections.
pub struct Worker {
    /// Where its connections are spawned.
    pub runtime: Handle,
    load: Arc<()>,
    /// Whether the runtime has run a task since the last check.
    heartbeat: Arc<AtomicBool>,
    stalled: AtomicBool,
    /// The check that first found that it has not run.
    silent_since: Mutex<Option<Instant>>,
}

/// Counts as one connection of its worker until it is dropped.
pub struct LoadGuard {
    _load: Arc<()>,
}

impl WorkerPool {
    /// Starts `count` workers, at least one. They end when `stop` is cancelled. `health` is told which do not
    /// run.
    ///
    /// # Errors
    /// Where a thread or a runtime cannot be created.
    pub fn start(count: usize, stop: &CancellationToken, health: WorkerHealth) -> io::Result<WorkerPool> {
        let start = |index| Worker::start(index, stop.clone());
        let workers = (0..count.max(1)).map(start).collect::<io::Result<Vec<_>>>()?;
        health.report(workers.len(), 0);
        Ok(WorkerPool { workers, health })
    }

    /// The worker with the fewest connections; a stalled one only where all are stalled.
    pub fn least_loaded(&self) -> Option<&Worker> {
        self.workers
            .iter()
            .min_by_key(|worker| (worker.stalled.load(Ordering::Relaxed), Arc::strong_count(&worker.load)))
    }

    /// Whether every worker has run a task since the previous call, which is made about once a second. A
    /// worker that has not is stalled and gets no new connections until it has.
    pub fn check_heartbeats(&self, now: Instant) -> bool {
        let (mut all_alive, mut stalled) = (true, 0);
        for worker in &self.workers {
            let alive = worker.heartbeat.swap(false, Ordering::Relaxed);
            worker.stalled.store(!alive, Ordering::Relaxed);
            all_alive &= alive;
            stalled += usize::from(worker.is_stalled(alive, now));
            // A worker that does not run gets no second task.
            if alive {
                let heartbeat = worker.heartbeat.clone();
                worker.runtime.spawn(async move { heartbeat.store(true, Ordering::Relaxed) });
            }
        }
        self.health.report(self.workers.len(), stalled);
        all_alive
    }
}

impl Worker {
    fn start(index: usize, stop: CancellationToken) -> io::Result<Worker> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_BLOCKING_THREADS)
            .thread_name("worker-blocking")
            .build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            run_critical("worker", || runtime.block_on(stop.cancelled()));
            // Does not wait for blocking work, which may hang on a network file system.
            runtime.shutdown_background();
        })?;
        let heartbeat = Arc::new(AtomicBool::new(true));
        Ok(Worker {
            runtime: handle,
            load: Arc::new(()),
            heartbeat,
            stalled: AtomicBool::new(false),
            silent_since: Mutex::new(None),
        })
    }

    /// Keeps the result of a check, and returns whether those of the last [`STALL_TIME`] found no heartbeat.
    fn is_stalled(&self, alive: bool, now: Instant) -> bool {
        let mut silent_since = lock(&self.silent_since);
        if alive {
            *silent_since = None;
            return false;
        }
        now.duration_since(*silent_since.get_or_insert(now)) >= STALL_TIME
    }

    /// Counts a connection on this worker.
    pub fn track(&self) -> LoadGuard {
        LoadGuard { _load: self.load.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// Waits until a worker has run what was given to it before, at most 5 s.
    fn wait_until(mut condition: impl FnMut() -> bool) {
        for _ in 0..500 {
            if condition() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        panic!("did not happen within 5 s");
    }

    #[test]
    fn workers_that_do_not_run_are_reported() {
        let (stop, health) = (CancellationToken::new(), WorkerHealth::default());
        let pool = WorkerPool::start(2, &stop, health.clone()).unwrap();
        let mut now = Instant::now();
        let mut check = |seconds| {
            now += Duration::from_secs(seconds);
            pool.check_heartbeats(now)
        };
        assert!(check(0));
        let (release, blocked) = channel::<()>();
        let (begin, begun) = channel();
        pool.workers[0].runtime.spawn(async move {
            let _ = begin.send(());
            let _ = blocked.recv();
        });
        // The heartbeat of the first check was before the task that blocks, so that none is left over for later.
        begun.recv().unwrap();
        let heartbeat = |index: usize| pool.workers[index].heartbeat.load(Ordering::Relaxed);
        wait_until(|| heartbeat(0) && heartbeat(1));
        check(1);
        wait_until(|| heartbeat(1));
        assert!(!check(1), "the first worker did not run");
        wait_until(|| heartbeat(1));
        assert!(!check(1));
        assert_eq!((health.total(), health.stalled()), (2, 1));
        assert!(health.problem().unwrap().starts_with("1 of 2 workers"));
        assert!(std::ptr::eq(pool.least_loaded().unwrap(), &pool.workers[1]));
        drop(release);
        wait_until(|| heartbeat(0) && heartbeat(1));
        assert!(check(1));
        assert_eq!(health.problem(), None);
        stop.cancel();
    }
}
