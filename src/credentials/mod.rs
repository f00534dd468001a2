//! Credentials of others that agents use: API keys, passwords, refresh tokens.
//!
//! A value is encrypted (AES-256-GCM) under the key of its tenant's compartment, which is encrypted under the
//! tenant's key-encryption key, or for credentials of no tenant under the host's, the
//! key-encryption key that only this host's TPM unseals. The associated data of a value are its tenant, its
//! name, its version and the host. `credentials.db` has ciphertext only; the state manifest lists the digest
//! of its rows, so that an older copy of the database is rejected.
//!
//! ```text
//! key-encryption key (TPM) ──> compartment key, one for each tenant ──┬─> value, one for each version
//! erasure key (TPM, erasure counter) ──> key of one agent ────────────┴─> value of the agent's own credential
//! ```
//!
//! An agent's own credential is encrypted under a key that is derived from both, its tenant's compartment key and
//! the agent's key-encryption key. The latter is in no recovery copy, and offboarding destroys it.
//!
//! [`CredentialStore::release`] decrypts a value, and takes a
//! [`CredentialPermit`](crate::policy::CredentialPermit), which only `policy` constructs.

mod change;
mod compartment;
mod compartment_keks;
mod error;
mod holder;
mod offboarding;
mod open;
mod report;
mod store;
mod value;

pub use change::{Expiry, NewVersion};
pub use error::Error;
pub use holder::Holder;
pub use offboarding::{DestroyedCredential, DestroyedCredentials};
pub use report::{CredentialReport, VersionReport};
pub use store::{CredentialStore, NotReleased, ReleasedCredential};
pub use value::{InvalidValue, MAX_VALUE_LEN, SecretValue};
