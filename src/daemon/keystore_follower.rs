//! What components do that work with the keystore: they wait for it, and begin again when the state is moved to
//! another TPM.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::startup::StartupStep;
use crate::keystore::Keystore;

/// When there is a keystore.
pub(super) struct KeystoreFollower {
    /// The keystore, once it is open.
    pub keystore: watch::Receiver<Option<Arc<Keystore>>>,
    /// First attempt of the issuer supervisor, which opens the keystore.
    pub issuer_first_attempt: StartupStep,
    /// Ends the component.
    pub stop: CancellationToken,
}

/// A component that works with the keystore.
pub(super) trait KeystoreUser: Sync {
    /// Works with this keystore until the daemon stops.
    fn run_with_keystore(&self, keystore: Arc<Keystore>) -> impl Future<Output = ()> + Send;

    /// Gives up what it has of a keystore, because the state was moved to another TPM.
    fn close(&self) -> impl Future<Output = ()> + Send;

    /// There is no keystore yet: the start of the daemon does not wait for this component.
    fn has_no_keystore(&self);
}

impl KeystoreFollower {
    /// Has the component work with each keystore until the daemon stops.
    pub async fn follow(mut self, user: &impl KeystoreUser) {
        tokio::select! {
            () = self.stop.cancelled() => return,
            () = self.issuer_first_attempt.wait() => {}
        }
        loop {
            let keystore = self.keystore.borrow_and_update().clone();
            let working = async {
                match keystore {
                    Some(keystore) => user.run_with_keystore(keystore).await,
                    None => {
                        user.has_no_keystore();
                        std::future::pending().await
                    }
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = working => return,
                changed = self.keystore.changed() => match changed {
                    Ok(()) => user.close().await,
                    Err(_) => return,
                }
            }
        }
    }
}
