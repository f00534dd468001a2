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
const BLOCKING: usize = 8;

/// The lanes of this daemon.
pub struct Lanes(Vec<Lane>);

/// One runtime, and how many connections it has.
pub struct Lane {
    pub runtime: Handle,
    load: Arc<()>,
    /// Whether it has answered since it was last asked for a sign of life.
    answered: Arc<AtomicBool>,
    stuck: AtomicBool,
}

/// Counted on its lane while it is held.
#[derive(Clone)]
pub struct Ride {
    _load: Arc<()>,
}

impl Lanes {
    /// Starts `count` lanes, which end with `stop`.
    pub fn start(count: usize, stop: &CancellationToken) -> io::Result<Lanes> {
        (0..count.max(1))
            .map(|number| Lane::start(number, stop.clone()))
            .collect::<io::Result<_>>()
            .map(Lanes)
    }

    /// The lane with the fewest connections; one that is stuck only where all are.
    pub fn quietest(&self) -> Option<&Lane> {
        self.0.iter().min_by_key(|lane| (lane.stuck.load(Ordering::Relaxed), Arc::strong_count(&lane.load)))
    }

    /// Asks every lane for a sign of life, and tells whether all have answered the last time. To be called every
    /// second or so: a lane that cannot turn for that long gets no new connections until it does.
    pub fn look(&self) -> bool {
        let mut all = true;
        for lane in &self.0 {
            let answered = lane.answered.swap(false, Ordering::Relaxed);
            lane.stuck.store(!answered, Ordering::Relaxed);
            all &= answered;
            let answer = lane.answered.clone();
            lane.runtime.spawn(async move { answer.store(true, Ordering::Relaxed) });
        }
        all
    }
}

impl Lane {
    fn start(number: usize, stop: CancellationToken) -> io::Result<Lane> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING)
            .thread_name("road-blocking")
            .build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name(format!("road-{number}")).spawn(move || {
            runtime.block_on(stop.cancelled());
            // Blocking work that hangs, such as on a dead network file system, must not hold up the end.
            runtime.shutdown_background();
        })?;
        let answered = Arc::new(AtomicBool::new(true));
        Ok(Lane { runtime: handle, load: Arc::new(()), answered, stuck: AtomicBool::new(false) })
    }

    pub fn ride(&self) -> Ride {
        Ride { _load: self.load.clone() }
    }
}
