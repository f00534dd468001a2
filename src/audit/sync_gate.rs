//! Lets replies wait until their record is on the disk, for `[audit] sync = "always"`.
//!
//! A reply that waits subscribes and sets a flag, and needs no lock that is held during a sync. The thread `audit-sync`
//! syncs whenever a record waits. Each sync covers all lines that were written before it began, so one sync ends the
//! wait for all of them, and records that arrive during a sync share the next one.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::health::WriteError;
use crate::mutex::lock;

/// Ranges of lines whose sync has failed that are remembered, the latest. Nothing waits for longer than 5 s, and new
/// files after failed syncs become rare.
const MAX_FAILED: usize = 8;

/// Lines that are not known to be on the disk, because a sync of their file has failed.
#[derive(Clone, Debug)]
struct Failed {
    from: u64,
    /// [`u64::MAX`] while their file is the newest: what is written there later cannot be synced either.
    to: u64,
    error: WriteError,
}

/// How far the log is on the disk.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// The number of the last line that is on the disk, but for `failed`.
    synced: u64,
    /// The number of the first line of the newest file.
    newest_file: u64,
    /// Earliest first.
    failed: VecDeque<Failed>,
}

impl Progress {
    /// What is known of a line; `None` if no sync has covered it.
    fn of(&self, seq: u64) -> Option<Result<(), WriteError>> {
        let failed = self.failed.iter().rev().find(|failed| (failed.from..=failed.to).contains(&seq));
        match failed {
            Some(failed) => Some(Err(failed.error.clone())),
            None => (seq <= self.synced).then_some(Ok(())),
        }
    }

    fn begin_file(&mut self, first_seq: u64) {
        self.newest_file = first_seq;
        let Some(last) = self.failed.back_mut().filter(|last| last.to == u64::MAX) else { return };
        last.to = first_seq.saturating_sub(1);
        if last.to < last.from {
            self.failed.pop_back();
        }
    }

    fn fail(&mut self, first_seq: u64, error: WriteError) {
        let from = self.synced + 1;
        let is_newest = first_seq >= self.newest_file;
        let to = if is_newest { u64::MAX } else { self.newest_file.saturating_sub(1) };
        let is_known = self.failed.back().is_some_and(|last| last.to == u64::MAX);
        if to < from || is_known {
            return;
        }
        self.failed.push_back(Failed { from, to, error });
        if self.failed.len() > MAX_FAILED {
            self.failed.pop_front();
        }
    }
}

/// Between those who wait for the disk and the thread that syncs.
#[derive(Debug)]
pub(super) struct SyncGate {
    /// Whether a record waits that no sync has covered.
    is_wanted: Mutex<bool>,
    wanted: Condvar,
    progress: watch::Sender<Progress>,
}

impl SyncGate {
    pub(super) fn new() -> SyncGate {
        SyncGate {
            is_wanted: Mutex::new(false),
            wanted: Condvar::new(),
            progress: watch::Sender::new(Progress::default()),
        }
    }

    /// Waits until line `seq`, which is written, is on the disk. The caller bounds the time.
    ///
    /// # Errors
    /// A sync of the line's file has failed, before the call or after it, or the thread has exited.
    pub(super) async fn wait_for(&self, seq: u64) -> Result<(), WriteError> {
        let mut progress = self.progress.subscribe();
        if let Some(known) = progress.borrow_and_update().of(seq) {
            return known;
        }
        self.request();
        let ended = progress.wait_for(|now| now.of(seq).is_some()).await;
        let Ok(now) = ended else { return Err(WriteError::WriterExited) };
        now.of(seq).unwrap_or(Err(WriteError::WriterExited))
    }

    /// Has the thread sync at once.
    pub(super) fn request(&self) {
        *lock(&self.is_wanted) = true;
        self.wanted.notify_one();
    }

    /// Waits until a sync is wanted, at most for `longest`, and returns whether one is. Blocking; for the thread that
    /// syncs.
    pub(super) fn wait_for_request(&self, longest: Duration) -> bool {
        let is_wanted = lock(&self.is_wanted);
        // A poisoned lock has a flag that is as good as any.
        let result = self.wanted.wait_timeout_while(is_wanted, longest, |is_wanted| !*is_wanted);
        let (mut is_wanted, _) = result.unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut *is_wanted)
    }

    /// The next lines go to a file that begins with line `first_seq`. Called before one is written there.
    pub(super) fn begin_file(&self, first_seq: u64) {
        self.progress.send_modify(|progress| progress.begin_file(first_seq));
    }

    /// All lines up to `seq` are on the disk, but for those whose sync has failed.
    pub(super) fn succeed(&self, seq: u64) {
        self.progress.send_modify(|progress| progress.synced = progress.synced.max(seq));
    }

    /// A sync of the file that begins with line `first_seq` has failed.
    pub(super) fn fail(&self, first_seq: u64, error: WriteError) {
        self.progress.send_modify(|progress| progress.fail(first_seq, error));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    fn sync_error() -> WriteError {
        WriteError::Sync(Arc::new(io::Error::from_raw_os_error(libc::EIO)))
    }

    fn waiting(gate: &Arc<SyncGate>, seq: u64) -> tokio::task::JoinHandle<Result<(), WriteError>> {
        let gate = gate.clone();
        tokio::spawn(async move { gate.wait_for(seq).await })
    }

    fn is_refused(result: &Result<(), WriteError>) -> bool {
        matches!(result, Err(WriteError::Sync(_)))
    }

    #[tokio::test]
    async fn a_line_waits_for_a_sync_that_covers_it_and_one_sync_serves_all() {
        let gate = Arc::new(SyncGate::new());
        let [first, second, third] = [1, 2, 3].map(|seq| waiting(&gate, seq));
        tokio::task::yield_now().await;
        assert!(gate.wait_for_request(Duration::from_secs(60)));
        gate.succeed(2);
        assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
        tokio::task::yield_now().await;
        assert!(!third.is_finished(), "a line that was written after the sync began is not on the disk");
        gate.fail(1, sync_error());
        assert!(is_refused(&third.await.unwrap()));
    }

    #[tokio::test]
    async fn a_sync_that_fails_before_the_wait_begins_refuses_the_line_for_good() {
        let gate = SyncGate::new();
        gate.succeed(4);
        // Line 5 is written, and its sync fails before anyone waits.
        gate.fail(1, sync_error());
        assert!(is_refused(&gate.wait_for(5).await));
        // Line 6 went to the same file; the sync of the next file says nothing of either.
        gate.begin_file(7);
        gate.succeed(9);
        for seq in [5, 6] {
            assert!(is_refused(&gate.wait_for(seq).await), "{seq}");
        }
        for seq in [4, 7, 9] {
            assert!(gate.wait_for(seq).await.is_ok(), "{seq}");
        }
    }

    #[tokio::test]
    async fn a_failed_sync_of_an_earlier_file_refuses_no_line_of_a_new_one() {
        let gate = Arc::new(SyncGate::new());
        gate.begin_file(1);
        let [old, new] = [6, 7].map(|seq| waiting(&gate, seq));
        tokio::task::yield_now().await;
        // The file was changed during the sync that failed then.
        gate.begin_file(7);
        gate.fail(1, sync_error());
        assert!(is_refused(&old.await.unwrap()));
        tokio::task::yield_now().await;
        assert!(!new.is_finished());
        gate.succeed(7);
        assert!(new.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_failure_that_concerns_no_line_refuses_none() {
        let gate = SyncGate::new();
        gate.begin_file(5);
        gate.succeed(4);
        gate.fail(5, sync_error());
        // The same file again, which has no line yet.
        gate.begin_file(5);
        gate.succeed(5);
        assert!(gate.wait_for(5).await.is_ok());
    }

    #[test]
    fn a_request_ends_the_wait_and_is_taken_once() {
        let gate = SyncGate::new();
        gate.request();
        gate.request();
        assert!(gate.wait_for_request(Duration::from_secs(60)));
        assert!(!gate.wait_for_request(Duration::ZERO));
    }
}
