//! The TPM room: the only one that knows tss-esapi.
//!
//! One thread, named `tpm`, owns the TPM. Callers reach it through a bounded queue ([`Tpm`]) and wait no longer than a
//! deadline, however long the TPM takes; what the matter is, [`Tpm::state`] says by name ([`StateKind`]). The thread
//! reconnects by itself after I/O errors and resets of the TPM, and it compares the TPM's primaries with the pinned
//! Names each time, so that another TPM or a cleared one is told and not used.
//!
//! ```text
//! caller ── Tpm (handle) ── queue ──> Actor ── Connection ── libtss2 ──> TPM
//!                 ^                     │
//!                 └── state, heartbeat ─┘  (Progress; a second thread sees when the first is stuck)
//! ```
//!
//! Keys: SRK and EK are derived anew at each connection. Under the SRK, outside the dictionary attack counter and
//! bound to this TPM: the AK, the host key that the AK certifies, and a sealed key-encryption key. They are kept by
//! the caller as [`Objects`]; the room itself touches no disk. They are loaded for one command and flushed after it,
//! so that at most three transient objects exist at a time, which is all that most TPMs have room for.
//!
//! Secrets leave the room only in [`zeroize::Zeroizing`], and nothing here logs them.

mod activate;
mod actor;
mod actor_status;
mod config;
mod connection;
mod counter;
mod ek_info;
mod error;
mod handle;
mod identity_check;
mod info;
mod keys;
mod objects;
mod probe;
mod quote;
mod rsa;
mod seal;
mod setup;
mod state;
mod swtpm;
mod swtpm_setup;
mod templates;

pub use activate::CredentialBlob;
pub use activate::EkKind;
pub use config::Tcti;
pub use config::TctiError;
pub use config::TpmConfig;
pub use ek_info::EkInfo;
pub use ek_info::EndorsementKey;
pub use error::Error;
pub use handle::LoadedHandles;
pub use handle::Tpm;
pub use info::TpmInfo;
pub use objects::Certification;
pub use objects::KeyBlob;
pub use objects::TpmObjects;
pub use quote::Attestation;
pub use rsa::RsaKeyBlob;
pub use seal::PcrValues;
pub use state::StateKind;
pub use state::TpmState;
pub use swtpm::SoftwareTpm;
