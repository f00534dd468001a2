//! Worker threads that serve connections: single-threaded runtimes, each with connections of its own.
//!
//! A request stays on one thread and wakes no other, which takes less than half the processor time of a
//! shared pool. Workers share only data that they read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::critical::run_critical;

/// Blocking threads of one worker: digests of executables, names of users, reloads.
const MAX_BLOCKING_THREADS: usize = 8;

/// The workers of the daemon.
pub struct WorkerPool(Vec<Worker>);

/// One runtime and its number of connections.
pub struct Worker {
    /// Where its connections are spawned.
    pub runtime: Handle,
    load: Arc<()>,
    /// Whether the runtime has run a task since the last check.
    heartbeat: Arc<AtomicBool>,
    stalled: AtomicBool,
}

/// Counts as one connection of its worker until it is dropped.
#[derive(Clone)]
pub struct LoadGuard {
    _load: Arc<()>,
}

impl WorkerPool {
    /// Starts `count` workers, at least one. They end when `stop` is cancelled.
    ///
    /// # Errors
    /// Where a thread or a runtime cannot be created.
    pub fn start(count: usize, stop: &CancellationToken) -> io::Result<WorkerPool> {
        (0..count.max(1))
            .map(|index| Worker::start(index, stop.clone()))
            .collect::<io::Result<_>>()
            .map(WorkerPool)
    }

    /// The worker with the fewest connections; a stalled one only where all are stalled.
    pub fn least_loaded(&self) -> Option<&Worker> {
        self.0
            .iter()
            .min_by_key(|worker| (worker.stalled.load(Ordering::Relaxed), Arc::strong_count(&worker.load)))
    }

    /// Whether every worker has run a task since the previous call, which is made about once a second. A
    /// worker that has not is stalled and gets no new connections until it has.
    pub fn check_heartbeats(&self) -> bool {
        let mut all_alive = true;
        for worker in &self.0 {
            let alive = worker.heartbeat.swap(false, Ordering::Relaxed);
            worker.stalled.store(!alive, Ordering::Relaxed);
            all_alive &= alive;
            let heartbeat = worker.heartbeat.clone();
            worker.runtime.spawn(async move { heartbeat.store(true, Ordering::Relaxed) });
        }
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
        Ok(Worker { runtime: handle, load: Arc::new(()), heartbeat, stalled: AtomicBool::new(false) })
    }

    /// Counts a connection on this worker.
    pub fn track(&self) -> LoadGuard {
        LoadGuard { _load: self.load.clone() }
    }
}
