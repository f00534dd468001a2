//! Manages the status lists: reads their database, and stores which indices tokens have.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::component::ComponentTask;
use super::startup::{Startup, StartupSignal};
use crate::revocation::status::StatusLists;

/// How often the indices of new tokens are stored. A daemon that crashes does not know those since.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);
/// Delay before the database is read again.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// How long the daemon's start waits for a large database. Tokens with a status are refused until it is read.
const STARTUP_TIMEOUT: Duration = Duration::from_millis(100);

/// The running manager of the status lists.
pub(super) struct StatusListHandle {
    lists: StatusLists,
    task: ComponentTask,
}

/// Starts the manager on the current runtime.
pub(super) fn spawn(lists: StatusLists, startup: &mut Startup) -> StatusListHandle {
    let (startup, _) = startup.register();
    let manager = StatusListManager { lists: lists.clone(), startup };
    StatusListHandle { lists, task: ComponentTask::spawn(|stop| manager.run(stop)) }
}

impl StatusListHandle {
    /// Stops the manager, and stores all indices. No token is issued any more.
    pub async fn stop(self) {
        self.task.stop().await;
        if let Err(error) = self.lists.save(true).await {
            tracing::warn!("the last tokens will read revoked in the status lists: {error}");
        }
    }
}

struct StatusListManager {
    lists: StatusLists,
    startup: StartupSignal,
}

impl StatusListManager {
    async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = self.open() => {}
        }
        let mut reported = None;
        loop {
            // A save that has begun is not given up.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SAVE_INTERVAL) => {}
            }
            let fault = self.lists.save(false).await.err();
            if fault.is_some() && fault != reported {
                tracing::error!(
                    "the status lists are not stored, and the last tokens would read revoked after a restart: {}",
                    fault.as_deref().unwrap_or_default()
                );
            }
            reported = fault;
        }
    }

    async fn open(&self) {
        let open = async {
            let mut reported = None;
            while let Err(error) = self.lists.open().await {
                self.startup.complete();
                if reported.as_ref() != Some(&error) {
                    tracing::error!("no token with a status is issued: {error}");
                }
                reported = Some(error);
                tokio::time::sleep(RETRY_DELAY).await;
            }
        };
        let start = async {
            tokio::time::sleep(STARTUP_TIMEOUT).await;
            self.startup.complete();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = open => self.startup.complete(),
            () = start => {}
        }
    }
}
