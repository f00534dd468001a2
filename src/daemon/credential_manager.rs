//! Manages the sealed credentials: opens their database, encrypts the keys of their compartments again when
//! the key-encryption key changes, and destroys versions whose overlap has ended.
//!
//! A step that fails, because the TPM is unavailable, the disk is full or the database is not the latest, is
//! retried. Tokens and certificates do not depend on it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::audit_ext::record_completed_of_tenant;
use super::component::ComponentTask;
use super::keystore_follower::{KeystoreFollower, KeystoreUser};
use super::startup::{Startup, StartupSignal, StartupStep};
use super::watch_ext::set_if_changed;
use crate::audit::{Audit, Event};
use crate::credentials::{self, CredentialStore};
use crate::issue::Issuer;
use crate::keystore::Keystore;

/// Delay before a failed step is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// How often versions are looked for whose overlap has ended.
const RETIRE_INTERVAL: Duration = Duration::from_secs(30);

/// What the credential manager is built from.
pub(super) struct CredentialDeps {
    /// The store that this component opens.
    pub store: CredentialStore,
    /// Names the host, once its keys are loaded.
    pub issuer: Issuer,
    /// Audit log, for each version that is destroyed.
    pub audit: Audit,
    /// The keystore, once it is open.
    pub keystore: watch::Receiver<Option<Arc<Keystore>>>,
    /// First attempt of the issuer supervisor: before its end the host has no name.
    pub issuer_first_attempt: StartupStep,
}

/// The running credential manager.
pub(super) struct CredentialHandle(ComponentTask);

/// Starts the credential manager on the current runtime.
pub(super) fn spawn(deps: CredentialDeps, startup: &mut Startup) -> CredentialHandle {
    let (startup, _) = startup.register();
    CredentialHandle(ComponentTask::spawn(|stop| CredentialManager { deps, startup, stop }.run()))
}

impl CredentialHandle {
    /// Stops the credential manager.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

struct CredentialManager {
    deps: CredentialDeps,
    startup: StartupSignal,
    stop: CancellationToken,
}

impl CredentialManager {
    async fn run(self) {
        let follower = KeystoreFollower {
            keystore: self.deps.keystore.clone(),
            issuer_first_attempt: self.deps.issuer_first_attempt.clone(),
            stop: self.stop.clone(),
        };
        follower.follow(&self).await;
    }

    async fn advance(&self, keystore: &Arc<Keystore>) -> Result<(), credentials::Error> {
        let store = &self.deps.store;
        if !store.is_open() {
            let Some(issuer_state) = self.deps.issuer.state() else {
                return Err(credentials::Error::NotOpen("the issuer is not ready".to_owned()));
            };
            store.open(keystore.clone(), &issuer_state.host().id).await?;
        }
        store.rewrap().await?;
        for row in store.retire_due().await? {
            let message = format!(
                "version {} of the credential {} is destroyed, because the overlap after its rotation has ended",
                row.version, row.name
            );
            let audit = &self.deps.audit;
            record_completed_of_tenant(audit, Event::CredentialDestroyed, &row.tenant, &message).await;
        }
        Ok(())
    }

    /// Publishes why credentials are not available, and logs each reason once.
    fn report_blocked(&self, error: Option<credentials::Error>) {
        let Some(error) = error else { return };
        let store = &self.deps.store;
        let reason = error.to_string();
        if store.is_open() {
            tracing::warn!("a change of the sealed credentials is delayed: {reason}");
            return;
        }
        if let Some(reason) = set_if_changed(store.blocked_reason(), Some(reason)) {
            tracing::warn!(event = "credentials-blocked", "no credentials are released: {reason}");
        }
    }
}

impl KeystoreUser for CredentialManager {
    /// Takes the due steps until the daemon stops.
    async fn run_with_keystore(&self, keystore: Arc<Keystore>) {
        let mut seal_status = keystore.seal_status();
        loop {
            seal_status.borrow_and_update();
            let result = self.advance(&keystore).await;
            self.startup.complete();
            let pause = if result.is_ok() { RETIRE_INTERVAL } else { RETRY_DELAY };
            self.report_blocked(result.err());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // The key-encryption key has changed. Fails only if the keystore is gone, which this has.
                _ = seal_status.changed() => {}
            }
        }
    }

    async fn close(&self) {
        self.deps.store.close().await;
    }

    fn has_no_keystore(&self) {
        self.startup.complete();
    }
}
