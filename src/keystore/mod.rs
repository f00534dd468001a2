//! Protection of the host's secrets at rest.
//!
//! The key-encryption key is sealed to the TPM. The recovery key opens the secrets when the TPM or its PCRs
//! change. The anti-rollback manifest detects an older copy of the state directory.
//!
//! ```text
//! recovery key ──┐                          ┌── issuing keys (issuing.json), issuing CAs (ca.json)
//!                ├──> key-encryption key ───┼── keys of credentials (credentials.db)
//! TPM (PCRs) ────┘      (seal.json)         ├── tenants' key-encryption keys (tenants.json) ── their secrets
//!                                           └── manifest key (ledger.json) ── counter in the TPM
//! TPM (erasure counter) ──> erasure key ──> agents' key-encryption keys (erasure.json)
//! ```
//!
//! The key-encryption key is 32 random bytes, stored twice. Only this host's TPM unseals the first copy, with
//! `[seal] pcrs` only while these PCRs have the values of the time of sealing. The second copy, if there is a
//! recovery key, is encrypted under a key derived from it.

mod cipher;
mod erasure_file;
mod error;
mod kek;
mod kek_report;
mod lifecycle;
mod recovery_key;
mod seal_file;
mod state_manifest;
mod tenant_keks;

pub(crate) use cipher::{decrypt, encrypt, random_key};
pub use erasure_file::{AgentKeks, Erasure};
pub use error::Error;
pub(crate) use kek::{Kek, KekDependent, KekPair};
pub(crate) use kek_report::NewKek;
pub use kek_report::{KekReport, KekUse};
pub use lifecycle::Keystore;
pub(crate) use lifecycle::{TpmMigration, accept_current_state, reseal_with_recovery_key};
pub use recovery_key::RecoveryKey;
pub use seal_file::SealStatus;
pub use state_manifest::{ComponentFile, StateDatabase};
pub(crate) use tenant_keks::{TenantKekDependent, TenantKeks};
