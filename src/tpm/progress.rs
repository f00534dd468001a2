//! What the TPM thread shows to the outside: its state, its heartbeat, and whether it is stuck in the TPM.
//!
//! A stuck thread cannot say that it is stuck, so a second one, which does nothing else, watches the clock for it.

use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::watch;

use super::state::State;
use super::state::StateKind;

/// Shared by the TPM thread, its watcher and all handles.
pub(super) struct Progress {
    deadline: Duration,
    state: watch::Sender<State>,
    heartbeat: AtomicU64,
    stopping: AtomicBool,
    work: Mutex<Work>,
    changed: Condvar,
}

struct Work {
    /// What the thread last found out; shown unless the thread is stuck.
    settled: State,
    /// Since when the thread is in the TPM.
    since: Option<Instant>,
    stuck: bool,
    watcher_sleeps: bool,
    ended: bool,
}

impl Progress {
    pub(super) fn new(deadline: Duration) -> Self {
        let starting = State::starting();
        Progress {
            deadline,
            state: watch::Sender::new(starting.clone()),
            heartbeat: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            work: Mutex::new(Work {
                settled: starting,
                since: None,
                stuck: false,
                watcher_sleeps: false,
                ended: false,
            }),
            changed: Condvar::new(),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn heartbeat(&self) -> u64 {
        self.heartbeat.load(Ordering::Relaxed)
    }

    pub(super) fn beat(&self) {
        self.heartbeat.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Waits until the thread has ended, at most for the deadline.
    pub(super) fn wait_for_end(&self) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), self.deadline, |work| !work.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// The thread's latest finding.
    pub(super) fn settled(&self) -> StateKind {
        self.lock().settled.kind
    }

    /// The thread says what it found out, which it can only when it is not stuck.
    pub(super) fn settle(&self, state: State) {
        let mut work = self.lock();
        work.stuck = false;
        work.settled = state;
        self.show(&work.settled);
    }

    /// The thread enters the TPM until the guard is dropped.
    pub(super) fn enter(&self) -> Inside<'_> {
        let mut work = self.lock();
        work.since = Some(Instant::now());
        if work.watcher_sleeps {
            self.changed.notify_all();
        }
        Inside(self)
    }

    fn leave(&self) {
        let mut work = self.lock();
        work.since = None;
        if work.stuck {
            work.stuck = false;
            self.show(&work.settled);
        }
    }

    /// A caller's deadline has passed: if the thread is in the TPM, the TPM is slow, and that is to be seen at once.
    pub(super) fn caller_gave_up(&self) {
        self.mark_stuck(&mut self.lock());
    }

    /// The watcher's life. Ends with the thread it watches.
    pub(super) fn watch(&self) {
        let mut work = self.lock();
        while !work.ended {
            let left = match work.since {
                Some(since) if !work.stuck => self.deadline.checked_sub(since.elapsed()),
                // Nothing to measure: until the thread enters the TPM, or leaves it after having been stuck.
                _ => Some(Duration::MAX),
            };
            work = match left {
                Some(Duration::MAX) => {
                    work.watcher_sleeps = true;
                    let mut work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                    work.watcher_sleeps = false;
                    work
                }
                // Calls that come and go in the meantime are not worth waking for.
                Some(left) => self.changed.wait_timeout(work, left).unwrap_or_else(PoisonError::into_inner).0,
                None => {
                    self.mark_stuck(&mut work);
                    work
                }
            };
        }
    }

    fn mark_stuck(&self, work: &mut Work) {
        if work.since.is_none() || work.stuck {
            return;
        }
        work.stuck = true;
        let busy = State::new(StateKind::Busy, format!("no answer for {} ms", self.deadline.as_millis()));
        self.show(&State { foreign: work.settled.foreign, ..busy });
    }

    /// Whoever listens is woken by what is new alone, and the journal by another state alone.
    fn show(&self, state: &State) {
        let mut old = None;
        self.state.send_if_modified(|shown| {
            let differs = shown != state;
            if differs {
                old = Some(std::mem::replace(shown, state.clone()));
            }
            differs
        });
        let Some(old) = old.filter(|old| old.kind != state.kind) else { return };
        match state.kind {
            StateKind::Ready => tracing::info!(event = "tpm-ready", from = %old.kind, "the TPM is ready"),
            kind => {
                tracing::warn!(event = "tpm-state", state = %kind, from = %old.kind, "the TPM is {state}: {}", kind.remedy());
            }
        }
    }

    /// No panic can leave the few fields behind this lock half-written, so a poisoned one is as good.
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread is in the TPM for as long as this lives.
pub(super) struct Inside<'a>(&'a Progress);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Tells everybody that the thread is gone, also when it panics.
pub(super) struct End<'a>(pub(super) &'a Progress);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc;

    #[test]
    fn a_stuck_thread_is_busy_until_it_comes_back() {
        let progress = Arc::new(Progress::new(Duration::from_millis(30)));
        let mut state = progress.subscribe();
        let watcher = std::thread::spawn({
            let progress = progress.clone();
            move || progress.watch()
        });
        progress.settle(State::new(StateKind::Ready, ""));
        let (go_on, wait) = mpsc::channel::<()>();
        let worker = std::thread::spawn({
            let progress = progress.clone();
            move || {
                let _end = End(&progress);
                for _ in 0..2 {
                    let _inside = progress.enter();
                    wait.recv().unwrap();
                }
            }
        });
        for _ in 0..2 {
            until(&mut state, StateKind::Busy);
            go_on.send(()).unwrap();
        }
        worker.join().unwrap();
        until(&mut state, StateKind::Ready);
        watcher.join().unwrap();
        assert!(progress.has_ended() && progress.wait_for_end());
    }

    #[test]
    fn a_caller_that_gave_up_shows_it_at_once() {
        let progress = Progress::new(Duration::from_secs(60));
        let state = progress.subscribe();
        progress.caller_gave_up();
        assert_eq!(state.borrow().kind, StateKind::Starting, "nobody is in the TPM");
        let inside = progress.enter();
        progress.caller_gave_up();
        assert_eq!(state.borrow().kind, StateKind::Busy);
        drop(inside);
        assert_eq!(state.borrow().kind, StateKind::Starting);
    }

    fn until(state: &mut watch::Receiver<State>, kind: StateKind) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let arrived =
            async { tokio::time::timeout(Duration::from_secs(5), state.wait_for(|s| s.kind == kind)).await };
        runtime.block_on(arrived).unwrap().unwrap();
    }
}
