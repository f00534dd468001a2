//! The handle to the current [`IssuerState`], which lacks what is revoked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::issuer::IssuerState;
use crate::mutex::lock;
use crate::revocation::RevocationSet;

/// A handle to the current [`IssuerState`]. Cheap to clone. Without a state nothing is issued.
#[derive(Clone, Debug, Default)]
pub struct Issuer(Arc<IssuerShared>);

#[derive(Debug, Default)]
struct IssuerShared {
    /// What requests are served from.
    state: ArcSwapOption<IssuerState>,
    suspended: AtomicBool,
    source: Mutex<Source>,
    /// Greater after each change of the served state.
    generation: watch::Sender<u64>,
}

/// What the served state is made from.
#[derive(Debug, Default)]
struct Source {
    /// The state with all keys, also with those that are revoked and not destroyed yet.
    complete: Option<Arc<IssuerState>>,
    revocations: Arc<RevocationSet>,
    /// How many of the keys are revoked.
    revoked: usize,
}

impl Issuer {
    /// Replaces the current state.
    pub fn set_state(&self, state: IssuerState) {
        let mut source = lock(&self.0.source);
        source.complete = Some(Arc::new(state));
        self.publish(&mut source);
    }

    /// Takes keys that are revoked from the documents, and lets them sign no more. This needs neither the disk nor
    /// the TPM.
    pub fn apply_revocations(&self, revocations: &Arc<RevocationSet>) {
        // What was revoked stays so while the revocations are not available.
        if !revocations.is_loaded() {
            return;
        }
        let mut source = lock(&self.0.source);
        source.revocations = revocations.clone();
        let complete = source.complete.as_ref();
        // The revocation of a key is never lifted, so that an equal number means the same keys.
        if complete.is_some_and(|state| state.count_revoked(revocations) != source.revoked) {
            self.publish(&mut source);
        }
    }

    fn publish(&self, source: &mut Source) {
        let Some(complete) = source.complete.clone() else { return };
        source.revoked = complete.count_revoked(&source.revocations);
        let served = match source.revoked {
            0 => Some(complete),
            _ => match complete.without_revoked(&source.revocations) {
                Ok(state) => Some(Arc::new(state)),
                Err(e) => {
                    tracing::error!(
                        "nothing is issued: the documents without the revoked keys cannot be made: {e}"
                    );
                    None
                }
            },
        };
        self.0.state.store(served);
        self.0.generation.send_modify(|generation| *generation += 1);
    }

    /// Changes with each change of the state.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// While suspended, [`Issuer::state`] is `None`; afterwards it is the previous state again.
    pub fn set_suspended(&self, suspended: bool) {
        self.0.suspended.store(suspended, Ordering::Release);
    }

    /// The current state; `None` before the first one and while suspended.
    pub fn state(&self) -> Option<Arc<IssuerState>> {
        if self.0.suspended.load(Ordering::Acquire) { None } else { self.0.state.load_full() }
    }
}
