//! Makes checkpoints of the audit log: has the TPM certify the end of the chain and the root of the tree.
//!
//! It works beside the log: it looks once a second how many records there are, and no request waits for it. A TPM that
//! is slow or absent delays checkpoints, which `hostbadge status` and a record say, and the log goes on.

mod deps;
mod error;
mod index;
mod maker;
mod state_file;

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::audit_ext::record_completed;
use super::component::ComponentTask;
use crate::audit::{Audit, Event};
use crate::config::CheckpointSettings;
use crate::verify::audit::CheckpointReason;

pub(in crate::daemon) use deps::CheckpointDeps;

use error::Error;
use maker::{Made, Maker, News};

/// How often the number of records is looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Least time between two checkpoints, unless `checkpoint_every` is less: each one is a write to the TPM's NV memory.
const MIN_SPACING: Duration = Duration::from_secs(600);
/// Delay before a failed attempt is repeated; it doubles up to the maximum.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(2);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(10);
/// A checkpoint that is due for longer is reported as delayed.
const REPORT_AFTER: Duration = Duration::from_secs(20);

/// The running component.
pub(in crate::daemon) struct CheckpointHandle(ComponentTask);

/// Starts the component on the current runtime.
pub(in crate::daemon) fn spawn(deps: CheckpointDeps) -> CheckpointHandle {
    CheckpointHandle(ComponentTask::spawn(|stop| run(deps, stop)))
}

impl CheckpointHandle {
    /// Makes the last checkpoint, which may take 2 s, and stops. Call it after the last record was written, and before
    /// the TPM is stopped.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

async fn run(mut deps: CheckpointDeps, stop: CancellationToken) {
    let Some(settings) = deps.settings else { return stop.cancelled().await };
    deps.audit.checkpoints().set_on();
    tokio::select! {
        () = stop.cancelled() => return,
        () = deps.issuer_first_attempt.wait() => {}
    }
    let mut schedule = Schedule { settings, last_at: None, reason: Some(CheckpointReason::Start) };
    let mut maker = Maker::new(deps.clone(), settings);
    let mut attempts = Attempts::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        let now = Instant::now();
        let Some(reason) = schedule.due_of(&maker, now).filter(|_| attempts.may_try(now)) else { continue };
        // An attempt that has begun is not given up: what it changed in the TPM has to be written down.
        match maker.make(reason).await {
            Ok(Made::Checkpoint | Made::NothingNew) => {
                schedule.made(Instant::now());
                attempts.succeeded(&deps.audit).await;
            }
            Ok(Made::Busy) => {}
            Err(error) => attempts.failed(&deps.audit, &error).await,
        }
    }
    if let Err(error) = maker.make(CheckpointReason::Stop).await {
        tracing::warn!(
            "the last records of the audit log are in no checkpoint until the next start: {error}"
        );
    }
}

/// When checkpoints are due.
struct Schedule {
    settings: CheckpointSettings,
    /// When the last one was made by this process.
    last_at: Option<Instant>,
    /// Why one is due already.
    reason: Option<CheckpointReason>,
}

impl Schedule {
    /// Why a checkpoint is due; `None` if none is.
    fn due_of(&self, maker: &Maker, now: Instant) -> Option<CheckpointReason> {
        // At the start, the time of an earlier process's last one counts.
        let since_last = match self.last_at {
            Some(last) => now - last,
            None => maker.since_last().unwrap_or(self.settings.every),
        };
        self.due(maker.news()?, since_last)
    }

    fn due(&self, news: News, since_last: Duration) -> Option<CheckpointReason> {
        let CheckpointSettings { every, records } = self.settings;
        if news.records == 0 {
            return None;
        }
        if since_last < MIN_SPACING.min(every) {
            return None;
        }
        if let Some(reason) = self.reason {
            return Some(reason);
        }
        // A verification takes the removal as it is recorded only once the TPM has certified the record.
        if news.has_removal {
            return Some(CheckpointReason::Removal);
        }
        if news.records >= records {
            return Some(CheckpointReason::Records);
        }
        if since_last >= every {
            return Some(CheckpointReason::Time);
        }
        news.has_rotated.then_some(CheckpointReason::Rotation)
    }

    fn made(&mut self, now: Instant) {
        (self.last_at, self.reason) = (Some(now), None);
    }
}

/// Failed attempts since the last one that succeeded.
#[derive(Default)]
struct Attempts {
    failing_since: Option<Instant>,
    not_before: Option<Instant>,
    delay: Duration,
    is_reported: bool,
}

impl Attempts {
    fn may_try(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|not_before| now >= not_before)
    }

    async fn failed(&mut self, audit: &Audit, error: &Error) {
        let now = Instant::now();
        let since = *self.failing_since.get_or_insert(now);
        self.delay = (self.delay * 2).clamp(MIN_RETRY_DELAY, MAX_RETRY_DELAY);
        self.not_before = Some(now + self.delay);
        audit.checkpoints().note_failure(error.to_string());
        if now - since >= REPORT_AFTER && !self.is_reported {
            self.is_reported = true;
            let message = format!("checkpoints of the audit log are delayed, and the log goes on: {error}");
            record_completed(audit, Event::AuditCheckpointsDelayed, &message).await;
        }
    }

    async fn succeeded(&mut self, audit: &Audit) {
        audit.checkpoints().note_success();
        let reported = std::mem::take(self).is_reported;
        if reported {
            let message = "checkpoints of the audit log are made again";
            record_completed(audit, Event::AuditCheckpointsResumed, message).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_makes_a_checkpoint_due_as_soon_as_one_is_allowed() {
        let every = Duration::from_secs(3600);
        let settings = CheckpointSettings { every, records: 100 };
        let schedule = Schedule { settings, last_at: None, reason: None };
        let news = News { records: 3, has_rotated: false, has_removal: true };
        let second = Duration::from_secs(1);
        assert_eq!(schedule.due(news, MIN_SPACING - second), None);
        assert_eq!(schedule.due(news, MIN_SPACING), Some(CheckpointReason::Removal));
        let rotated = News { has_rotated: true, ..news };
        assert_eq!(schedule.due(rotated, MIN_SPACING), Some(CheckpointReason::Removal));
        let other = News { has_removal: false, ..news };
        assert_eq!(schedule.due(other, every - second), None);
        assert_eq!(schedule.due(other, every), Some(CheckpointReason::Time));
        assert_eq!(schedule.due(News { records: 0, ..news }, every), None);
        let often = Schedule { settings: CheckpointSettings { every: second, ..settings }, ..schedule };
        assert_eq!(often.due(news, second), Some(CheckpointReason::Removal));
    }
}
