//! Manages the revocations: opens their database, stores what could not be stored, and forgets what has expired.
//!
//! Nothing is issued before the database is open and is the latest: a revocation may be missing otherwise.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::component::ComponentTask;
use super::invocation_watcher::{self, InvocationDeps};
use super::keystore_follower::{KeystoreFollower, KeystoreUser};
use super::startup::{Startup, StartupSignal, StartupStep};
use super::watch_ext::set_if_changed;
use crate::issue::Issuer;
use crate::keystore::Keystore;
use crate::revocation::Revocations;

/// Delay before the database is opened again.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// How often ended invocations are stored, and what could not be stored is tried again.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

/// What the revocation manager is built from.
pub(super) struct RevocationDeps {
    /// The revocations that this component opens.
    pub revocations: Revocations,
    /// Serves and signs with no revoked key.
    pub issuer: Issuer,
    /// The keystore, once it is open.
    pub keystore: watch::Receiver<Option<Arc<Keystore>>>,
    /// The invocations that there were when the daemon ended.
    pub invocations: InvocationDeps,
    /// First attempt of the issuer supervisor, which opens the keystore.
    pub issuer_first_attempt: StartupStep,
}

/// The running revocation manager.
pub(super) struct RevocationHandle {
    revocations: Revocations,
    task: ComponentTask,
}

/// Starts the revocation manager on the current runtime.
pub(super) fn spawn(deps: RevocationDeps, startup: &mut Startup) -> RevocationHandle {
    let (startup, _) = startup.register();
    let revocations = deps.revocations.clone();
    let task = ComponentTask::spawn(|stop| RevocationManager { deps, startup, stop }.run());
    RevocationHandle { revocations, task }
}

impl RevocationHandle {
    /// Stops the revocation manager, and stores what is not stored yet.
    pub async fn stop(self) {
        self.task.stop().await;
        if let Err(error) = self.revocations.store().await {
            tracing::warn!("{error}");
        }
    }
}

struct RevocationManager {
    deps: RevocationDeps,
    startup: StartupSignal,
    stop: CancellationToken,
}

impl RevocationManager {
    async fn run(self) {
        let follower = KeystoreFollower {
            keystore: self.deps.keystore.clone(),
            issuer_first_attempt: self.deps.issuer_first_attempt.clone(),
            stop: self.stop.clone(),
        };
        follower.follow(&self).await;
    }

    /// Publishes why nothing is issued, and logs each reason once.
    fn report_blocked(&self, reason: &str) {
        let blocked = self.deps.revocations.blocked_reason();
        if let Some(reason) = set_if_changed(blocked, Some(reason.to_owned())) {
            tracing::error!(event = "revocations-blocked", "nothing is issued: {reason}");
        }
    }
}

impl KeystoreUser for RevocationManager {
    /// Opens the database, then stores changes until the daemon stops.
    async fn run_with_keystore(&self, keystore: Arc<Keystore>) {
        let revocations = &self.deps.revocations;
        // An administrator may accept the database meanwhile, which opens it.
        while !revocations.is_open() {
            match revocations.open(keystore.clone()).await {
                Ok(()) => break,
                Err(error) => self.report_blocked(&error.to_string()),
            }
            self.startup.complete();
            tokio::time::sleep(RETRY_DELAY).await;
        }
        invocation_watcher::resume(&self.deps.invocations).await;
        // Before the first request: a crash may have come before a revoked key was destroyed.
        self.deps.issuer.apply_revocations(&revocations.current());
        self.startup.complete();
        let mut reported = None;
        loop {
            tokio::time::sleep(STORE_INTERVAL).await;
            let fault = revocations.store().await.err().map(|error| error.to_string());
            if fault.is_some() && fault != reported {
                tracing::error!("{}", fault.as_deref().unwrap_or_default());
            }
            reported = fault;
        }
    }

    async fn close(&self) {
        self.deps.revocations.close().await;
    }

    fn has_no_keystore(&self) {
        self.startup.complete();
    }
}
