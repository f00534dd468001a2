//! What keeps this host's secrets closed to every other: the key that encrypts them at rest, a recovery key for the day
//! the TPM or what it measured changes, and a ledger that tells an older copy of the state from the latest.
//!
//! ```text
//! recovery key ──┐                          ┌── issuing keys (issuing.json)
//!                ├──> key-encryption key ───┤
//! TPM (PCRs) ────┘      (seal.json)         └── ledger key (ledger.json) ── counter in the TPM
//! ```
//!
//! The key-encryption key is 32 random bytes: one blob of it opens in this host's TPM alone, with `[seal] pcrs` only as
//! long as those PCRs have the values of then; a second one opens under the recovery key, where one was made.

mod cipher;
mod error;
mod kek;
mod lifecycle;
mod recovery_key;
mod seal_file;
mod state_manifest;

pub use cipher::{decrypt, encrypt};
pub use error::{Error, RecoveryKeyFault, Rollback};
pub use kek::{Kek, KekDependent, KekPair};
pub use lifecycle::{Keystore, TpmMigration, accept_current_state, reseal_with_recovery_key};
pub use recovery_key::RecoveryKey;
pub use seal_file::SealStatus;
