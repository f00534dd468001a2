//! Lets replies wait until their record is on the disk, for `[audit] sync = "always"`.
//!
//! The thread `audit-sync` syncs whenever a record waits. Each sync covers all lines that were written before it
//! began, so records that arrive during a sync share the next one.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::health::WriteError;
use crate::mutex::lock;

/// How far the log is on the disk.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// The number of the last line that is on the disk.
    synced: u64,
    /// How many syncs have failed.
    failures: u64,
    /// Why the last one failed.
    error: Option<WriteError>,
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

    /// Waits until line `seq` is on the disk. The caller bounds the time.
    ///
    /// # Errors
    /// The first sync that ends after the call has failed, or the thread has exited.
    pub(super) async fn wait_for(&self, seq: u64) -> Result<(), WriteError> {
        let mut progress = self.progress.subscribe();
        let failures = progress.borrow_and_update().failures;
        self.request();
        let ended = progress.wait_for(|now| now.synced >= seq || now.failures > failures).await;
        let Ok(now) = ended else { return Err(WriteError::WriterExited) };
        match &now.error {
            Some(error) if now.synced < seq => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Has the thread sync at once.
    pub(super) fn request(&self) {
        *lock(&self.is_wanted) = true;
        self.wanted.notify_one();
    }

    /// Waits until a sync is wanted, at most for `longest`. Blocking; for the thread that syncs.
    pub(super) fn wait_for_request(&self, longest: Duration) {
        let is_wanted = lock(&self.is_wanted);
        // A poisoned lock has a flag that is as good as any.
        let result = self.wanted.wait_timeout_while(is_wanted, longest, |is_wanted| !*is_wanted);
        let (mut is_wanted, _) = result.unwrap_or_else(std::sync::PoisonError::into_inner);
        *is_wanted = false;
    }

    /// All lines up to `seq` are on the disk.
    pub(super) fn succeed(&self, seq: u64) {
        self.progress.send_modify(|progress| {
            progress.synced = progress.synced.max(seq);
            progress.error = None;
        });
    }

    /// A sync has failed.
    pub(super) fn fail(&self, error: WriteError) {
        self.progress.send_modify(|progress| {
            progress.failures += 1;
            progress.error = Some(error);
        });
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

    #[tokio::test]
    async fn a_line_waits_for_a_sync_that_covers_it() {
        let gate = Arc::new(SyncGate::new());
        let waiting: Vec<_> = (1..=3)
            .map(|seq| {
                let gate = gate.clone();
                tokio::spawn(async move { gate.wait_for(seq).await })
            })
            .collect();
        tokio::task::yield_now().await;
        gate.wait_for_request(Duration::from_secs(60));
        gate.succeed(2);
        let [first, second, third] = waiting.try_into().unwrap();
        assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
        tokio::task::yield_now().await;
        assert!(!third.is_finished(), "a line that was written after the sync began is not on the disk");
        gate.fail(sync_error());
        assert!(matches!(third.await.unwrap(), Err(WriteError::Sync(_))));
    }

    #[tokio::test]
    async fn an_earlier_failure_refuses_no_later_line() {
        let gate = Arc::new(SyncGate::new());
        gate.fail(sync_error());
        let waiting = {
            let gate = gate.clone();
            tokio::spawn(async move { gate.wait_for(1).await })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        gate.succeed(1);
        assert!(waiting.await.unwrap().is_ok());
        assert!(gate.wait_for(1).await.is_ok(), "what is on the disk already waits for nothing");
    }

    #[test]
    fn a_request_ends_the_wait_and_is_taken_once() {
        let gate = SyncGate::new();
        gate.request();
        gate.wait_for_request(Duration::from_secs(60));
        let started = std::time::Instant::now();
        gate.wait_for_request(Duration::from_millis(20));
        assert!(started.elapsed() >= Duration::from_millis(20));
    }
}
