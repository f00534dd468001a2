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
mod kek;
mod lifecycle;
mod recovery_key;
mod seal_file;
mod state_manifest;

pub use cipher::encrypt;
pub use kek::{Kek, KekDependent, KekPair};
pub use lifecycle::{Keystore, TpmMigration, accept_current_state, reseal_with_recovery_key};
pub use recovery_key::RecoveryKey;
pub use seal_file::SealStatus;

use crate::{store, tpm};

/// Why secrets cannot be opened or kept. The texts go to administrators.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Tpm(#[from] tpm::Error),
    #[error("{0}")]
    Store(#[from] store::Error),
    #[error("the system gives no random numbers")]
    Random,
    /// The TPM refuses what it sealed.
    #[error(
        "this host's secrets are sealed to its PCRs, and PCR {} changed since then; if that was an update of yours, \
         open them with the recovery key: hostbadge posture accept --recovery",
        list(pcrs)
    )]
    PcrsChanged { pcrs: Vec<u8>, sealed_to: tpm::PcrValues },
    #[error(
        "the state directory is not the latest of this host: {0}; put the latest copy back, or take this one as it is: \
         hostbadge key accept"
    )]
    RolledBack(String),
    #[error("{0}")]
    Recovery(String),
    #[error("the daemon ends")]
    ShuttingDown,
    #[error("{path}: {reason}; put it back from a backup of this host", path = path.display())]
    InvalidFile { path: std::path::PathBuf, reason: String },
}

fn list(pcrs: &[u8]) -> String {
    pcrs.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}
