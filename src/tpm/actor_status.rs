//! Status of the TPM thread as other threads see it.
//!
//! It has the TPM's state, a heartbeat, and whether a call is stuck.
//! A thread that is blocked in a TPM command cannot report that, so a watchdog thread measures its calls.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::metrics::TpmMetrics;
use super::state::{StateKind, TpmState};
use crate::mutex::lock;

/// How long the end of the thread is waited for when the TPM call in progress has used up its deadline.
const END_WAIT: Duration = Duration::from_secs(1);

/// Shared by the TPM thread, its watchdog and all handles.
pub(super) struct ActorStatus {
    deadline: Duration,
    state: watch::Sender<TpmState>,
    heartbeat: AtomicU64,
    stopping: AtomicBool,
    thread: Mutex<ThreadStatus>,
    changed: Condvar,
    metrics: Arc<TpmMetrics>,
}

struct ThreadStatus {
    /// The state that the thread set last; published unless the thread is stuck.
    last_state: TpmState,
    /// When the current TPM call began.
    in_call_since: Option<Instant>,
    stuck: bool,
    /// The watchdog waits without a timeout, so the next call has to wake it.
    watchdog_idle: bool,
    ended: bool,
}

impl ActorStatus {
    pub(super) fn new(deadline: Duration) -> Self {
        let starting = TpmState::starting();
        ActorStatus {
            deadline,
            state: watch::Sender::new(starting.clone()),
            heartbeat: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            thread: Mutex::new(ThreadStatus {
                last_state: starting,
                in_call_since: None,
                stuck: false,
                watchdog_idle: false,
                ended: false,
            }),
            changed: Condvar::new(),
            metrics: Arc::default(),
        }
    }

    pub(super) fn metrics(&self) -> &Arc<TpmMetrics> {
        &self.metrics
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<TpmState> {
        self.state.subscribe()
    }

    pub(super) fn heartbeat(&self) -> u64 {
        self.heartbeat.load(Ordering::Relaxed)
    }

    pub(super) fn beat(&self) {
        self.heartbeat.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request_stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Blocks until the thread has ended, at most for the deadline, of which the TPM call in progress has used a part; what is
    /// left is at least [`END_WAIT`], for a TPM that has just responded. Returns whether it has ended.
    pub(super) fn wait_until_ended(&self) -> bool {
        let thread = self.lock();
        let used = thread.in_call_since.map_or(Duration::ZERO, |since| since.elapsed());
        let left = self.deadline.saturating_sub(used).max(END_WAIT.min(self.deadline));
        let result = self.changed.wait_timeout_while(thread, left, |thread| !thread.ended);
        result.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// The kind of the state that the thread set last.
    pub(super) fn last_state_kind(&self) -> StateKind {
        self.lock().last_state.kind
    }

    /// Sets the state; only the thread calls this, so it is not stuck.
    pub(super) fn set_state(&self, state: TpmState) {
        let mut thread = self.lock();
        thread.stuck = false;
        thread.last_state = state;
        self.publish(&thread.last_state);
    }

    /// Marks the thread as being in a TPM call until the guard is dropped.
    pub(super) fn begin_call(&self) -> InCallGuard<'_> {
        let mut thread = self.lock();
        thread.in_call_since = Some(Instant::now());
        if thread.watchdog_idle {
            self.changed.notify_all();
        }
        InCallGuard(self)
    }

    fn end_call(&self) {
        let mut thread = self.lock();
        thread.in_call_since = None;
        if thread.stuck {
            thread.stuck = false;
            self.publish(&thread.last_state);
        }
    }

    /// Publishes `busy` at once if the thread is in a TPM call, for a caller whose deadline passed.
    pub(super) fn report_caller_timeout(&self) {
        self.mark_stuck(&mut self.lock());
    }

    /// The watchdog's loop; returns when the thread has ended.
    pub(super) fn run_watchdog(&self) {
        let mut thread = self.lock();
        while !thread.ended {
            let remaining = match thread.in_call_since {
                Some(since) if !thread.stuck => self.deadline.checked_sub(since.elapsed()),
                // There is no call, or it is reported as stuck already.
                _ => Some(Duration::MAX),
            };
            thread = match remaining {
                Some(Duration::MAX) => {
                    thread.watchdog_idle = true;
                    let mut thread = self.changed.wait(thread).unwrap_or_else(PoisonError::into_inner);
                    thread.watchdog_idle = false;
                    thread
                }
                // Calls that begin and end meanwhile do not wake the watchdog.
                Some(remaining) => {
                    self.changed.wait_timeout(thread, remaining).unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    self.mark_stuck(&mut thread);
                    thread
                }
            };
        }
    }

    fn mark_stuck(&self, thread: &mut ThreadStatus) {
        if thread.in_call_since.is_none() || thread.stuck {
            return;
        }
        thread.stuck = true;
        let busy =
            TpmState::new(StateKind::Busy, format!("no response for {} ms", self.deadline.as_millis()));
        self.publish(&TpmState { ek_mismatch: thread.last_state.ek_mismatch, ..busy });
    }

    /// Wakes subscribers if the state changed, and logs if its kind changed.
    fn publish(&self, state: &TpmState) {
        let mut previous = None;
        self.state.send_if_modified(|published| {
            let changed = published != state;
            if changed {
                previous = Some(std::mem::replace(published, state.clone()));
            }
            changed
        });
        let Some(previous) = previous.filter(|previous| previous.kind != state.kind) else { return };
        match state.kind {
            StateKind::Ready => {
                tracing::info!(event = "tpm-ready", from = %previous.kind, "the TPM is ready")
            }
            kind => {
                tracing::warn!(
                    event = "tpm-state",
                    state = %kind,
                    from = %previous.kind,
                    "the TPM is {state}: {}",
                    kind.remedy()
                );
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ThreadStatus> {
        lock(&self.thread)
    }
}

/// Marks the thread as being in a TPM call.
pub(super) struct InCallGuard<'a>(&'a ActorStatus);

impl Drop for InCallGuard<'_> {
    fn drop(&mut self) {
        self.0.end_call();
    }
}

/// Marks the thread as ended when dropped, also by a panic.
pub(super) struct ExitGuard<'a>(pub(super) &'a ActorStatus);

impl Drop for ExitGuard<'_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn stuck_thread_is_busy_until_it_returns() {
        let status = Arc::new(ActorStatus::new(Duration::from_millis(30)));
        let mut state = status.subscribe();
        let watchdog = std::thread::spawn({
            let status = status.clone();
            move || status.run_watchdog()
        });
        status.set_state(TpmState::new(StateKind::Ready, ""));
        let (release, released) = mpsc::channel::<()>();
        let worker = std::thread::spawn({
            let status = status.clone();
            move || {
                let _exit_guard = ExitGuard(&status);
                for _ in 0..2 {
                    let _in_call = status.begin_call();
                    released.recv().unwrap();
                }
            }
        });
        for _ in 0..2 {
            wait_for_state(&mut state, StateKind::Busy);
            release.send(()).unwrap();
        }
        worker.join().unwrap();
        wait_for_state(&mut state, StateKind::Ready);
        watchdog.join().unwrap();
        assert!(status.has_ended() && status.wait_until_ended());
    }

    #[test]
    fn a_call_that_has_used_up_its_deadline_is_not_waited_for_again() {
        let hour = Duration::from_secs(3600);
        let status = ActorStatus::new(hour);
        let _in_call = status.begin_call();
        // The time since the start of this machine may be shorter.
        let Some(since) = Instant::now().checked_sub(hour) else { return };
        status.lock().in_call_since = Some(since);
        assert!(!status.wait_until_ended());
    }

    #[test]
    fn caller_timeout_reports_busy_at_once() {
        let status = ActorStatus::new(Duration::from_secs(60));
        let state = status.subscribe();
        status.report_caller_timeout();
        assert_eq!(state.borrow().kind, StateKind::Starting, "no TPM call is running");
        let in_call = status.begin_call();
        status.report_caller_timeout();
        assert_eq!(state.borrow().kind, StateKind::Busy);
        drop(in_call);
        assert_eq!(state.borrow().kind, StateKind::Starting);
    }

    fn wait_for_state(state: &mut watch::Receiver<TpmState>, kind: StateKind) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let arrived =
            async { tokio::time::timeout(Duration::from_secs(5), state.wait_for(|s| s.kind == kind)).await };
        runtime.block_on(arrived).unwrap().unwrap();
    }
}
