//! The signed status lists that the service keeps.

use std::collections::HashMap;
use std::sync::{Mutex, Weak};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agents::Registrations;
use crate::clock::Timestamp;
use crate::issue::IssuerState;

/// The signed lists by number.
#[derive(Default)]
pub(super) struct StatusListCache {
    pub slots: Mutex<HashMap<u32, Slot>>,
}

/// A list that was asked for.
pub(super) struct Slot {
    pub signed: Option<Signed>,
    pub is_signing: bool,
    /// When it was last signed.
    pub begun: Option<Instant>,
    /// Told whenever signing has ended.
    pub ended: watch::Sender<()>,
}

/// A signed list, and what it was made from.
pub(super) struct Signed {
    pub text: Bytes,
    pub at: Timestamp,
    pub generation: u64,
    /// The greatest epoch of a revocation.
    pub epoch: u64,
    // The memory that a `Weak` points to is not used again while it exists.
    pub registrations: Weak<Registrations>,
    pub issuer: Weak<IssuerState>,
}

impl Default for Slot {
    fn default() -> Slot {
        Slot { signed: None, is_signing: false, begun: None, ended: watch::Sender::new(()) }
    }
}
