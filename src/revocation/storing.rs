//! Stores the changes that are in effect: all that wait, in one transaction.

use std::sync::Arc;

use super::BATCH_INTERVAL;
use super::error::Error;
use super::handle::Revocations;
use super::writer::{Batch, Pending};
use crate::mutex::lock;

impl Revocations {
    /// Stores what is in effect and not stored, forgets what has expired, and closes an idle database.
    ///
    /// # Errors
    /// [`Error::NotStored`].
    pub(crate) async fn store(&self) -> Result<(), Error> {
        if !self.is_open() {
            return Ok(());
        }
        let horizon = lock(&self.0.settled).horizon(self.0.clock.now());
        let (ticket, has_changes) = {
            let mut pending = self.pending();
            self.0.tokens.write().unwrap_or_else(|poison| poison.into_inner()).forget(horizon);
            let (set, lapsed) = self.0.set.load().without_lapsed(horizon);
            if !lapsed.is_empty() {
                self.publish(set);
            }
            (pending.count, !pending.is_empty() || self.is_batch_due(&mut pending))
        };
        if has_changes {
            self.flush_all(ticket).await?;
        }
        self.0.writer.lock().await.close_if_idle();
        Ok(())
    }

    /// Whether appended rows have to be in the state manifest now. Marks the next change as guarded then.
    fn is_batch_due(&self, pending: &mut Pending) -> bool {
        let Ok(writer) = self.0.writer.try_lock() else { return false };
        let is_old = writer.guarded_at.is_none_or(|at| at.elapsed() >= BATCH_INTERVAL);
        let is_due = writer.has_appended && is_old;
        pending.is_guarded |= is_due;
        is_due
    }

    /// Stores all changes up to the `ticket`, in a task, so that a caller that goes away does not stop it.
    pub(super) async fn flush(&self, ticket: u64) -> Result<(), Error> {
        let this = self.clone();
        let task = tokio::spawn(async move { this.flush_all(ticket).await });
        task.await.unwrap_or_else(|_| Err(Error::NotOpen("the daemon is shutting down".to_owned())))
    }

    async fn flush_all(&self, ticket: u64) -> Result<(), Error> {
        let mut writer = self.0.writer.lock().await;
        if writer.stored >= ticket && self.pending().is_empty() {
            return Ok(());
        }
        if writer.stored >= ticket && ticket > 0 && !self.pending().is_guarded {
            return Ok(());
        }
        let forget = lock(&self.0.settled).horizon(self.0.clock.now());
        let (batch, count) = {
            let mut pending = self.pending();
            let count = pending.count;
            let batch = std::mem::replace(&mut *pending, Pending { count, ..Pending::default() });
            let set = self.0.set.load_full();
            let targets = set.iter().cloned().collect();
            (Batch { pending: batch, targets, forget, epoch: set.next_epoch() - 1 }, count)
        };
        match writer.store(&batch).await {
            Ok(()) => {
                writer.stored = count;
                *lock(&self.0.store_fault) = None;
                self.raise_issue_epoch(batch.epoch);
                Ok(())
            }
            Err(error) => {
                self.pending().restore(batch.pending);
                *lock(&self.0.store_fault) = Some(error.to_string());
                Err(Error::NotStored(error.to_string()))
            }
        }
    }

    /// Tokens carry an epoch only once the revocation that began it is on disk: otherwise a crash could lose it,
    /// and a later revocation would have the same epoch as tokens from before it.
    fn raise_issue_epoch(&self, epoch: u64) {
        let _pending = self.pending();
        let set = self.0.set.load_full();
        if set.epoch() < epoch {
            self.0.set.store(Arc::new(set.with_issue_epoch(epoch)));
        }
    }
}
