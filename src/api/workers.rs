//! Where connections are served: single-threaded runtimes side by side, each with connections of its own.
//!
//! A request then never moves between threads and wakes none that has nothing to do for it, which costs less than
//! half of what a shared pool does; lanes share only what is read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Threads for blocking work of one lane: digests of executables, names of users, reloads.
const MAX_BLOCKING_THREADS: usize = 8;

/// The lanes of this daemon.
pub struct WorkerPool(Vec<Worker>);

/// One runtime, and how many connections it has.
pub struct Worker {
    pub runtime: Handle,
    load: Arc<()>,
    /// Whether it has answered since it was last asked for a sign of life.
    heartbeat: Arc<AtomicBool>,
    stalled: AtomicBool,
}

/// Counted on its lane while it is held.
#[derive(Clone)]
pub struct LoadGuard {
    _load: Arc<()>,
}

impl WorkerPool {
    /// Starts `count` lanes, which end with `stop`.
    pub fn start(count: usize, stop: &CancellationToken) -> io::Result<WorkerPool> {
        (0..count.max(1))
            .map(|index| Worker::start(index, stop.clone()))
            .collect::<io::Result<_>>()
            .map(WorkerPool)
    }

    /// The lane with the fewest connections; one that is stuck only where all are.
    pub fn least_loaded(&self) -> Option<&Worker> {
        self.0
            .iter()
            .min_by_key(|worker| (worker.stalled.load(Ordering::Relaxed), Arc::strong_count(&worker.load)))
    }

    /// Asks every lane for a sign of life, and tells whether all have answered the last time. To be called every
    /// second or so: a lane that cannot turn for that long gets no new connections until it does.
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
            .thread_name("road-blocking")
            .build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name(format!("road-{index}")).spawn(move || {
            runtime.block_on(stop.cancelled());
            // Blocking work that hangs, such as on a dead network file system, must not hold up the end.
            runtime.shutdown_background();
        })?;
        let heartbeat = Arc::new(AtomicBool::new(true));
        Ok(Worker { runtime: handle, load: Arc::new(()), heartbeat, stalled: AtomicBool::new(false) })
    }

    pub fn track(&self) -> LoadGuard {
        LoadGuard { _load: self.load.clone() }
    }
}
