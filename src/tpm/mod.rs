//! The TPM: the only module that uses tss-esapi.
//!
//! One thread, named `tpm`, owns the TPM. Callers reach it through a handle with a bounded queue ([`Tpm`])
//! and wait at most for a deadline, however long the TPM takes. [`Tpm::state`] names the TPM's condition
//! ([`StateKind`]). The thread reconnects after I/O errors and resets of the TPM, and compares the SRK and EK
//! with the pinned Names each time, so that another TPM or a cleared one is reported and not used.
//!
//! ```text
//! caller ── Tpm (handle) ── queue ──> Actor ── TpmConnection ── libtss2 ──> TPM
//!                 ^                     │
//!                 └── state, heartbeat ─┘  (ActorStatus; a watchdog thread detects a stuck call)
//! ```
//!
//! SRK and EK are derived at each connection. Under the SRK, exempt from the dictionary attack counter
//! (`noDA`) and bound to this TPM (`fixedTPM`), are the AK, the host key, which the AK certifies, and a
//! sealed key-encryption key. The caller stores them as [`TpmObjects`]; this module does not access the disk.
//! Each is loaded for one command and flushed after it, so at most three transient objects exist at a time,
//! which is the capacity of most TPMs.
//!
//! Secrets are returned only in [`zeroize::Zeroizing`], and none is logged.

mod activate;
mod actor;
mod actor_status;
mod audit_index;
mod capabilities;
mod config;
mod connected_tpm;
mod connection;
mod counter;
mod counter_seal;
mod counter_value;
mod ek_certificate;
mod ek_info;
mod error;
mod esys;
mod handle;
mod identity;
mod identity_check;
mod info;
mod keys;
mod metrics;
mod nv_index;
mod objects;
mod pcrs;
mod probe;
mod quote;
mod random;
mod request;
mod rsa;
mod seal;
mod session;
mod setup;
mod state;
mod swtpm;
mod swtpm_process;
mod swtpm_setup;
mod templates;

pub use activate::CredentialBlob;
pub use activate::EkKind;
pub use audit_index::AuditIndexState;
pub use config::Tcti;
pub use config::TctiError;
pub use config::TpmConfig;
pub use counter::CounterKind;
pub use counter_value::CounterValue;
pub use ek_certificate::EkCertificateFault;
pub use ek_certificate::EkCertificateFaultCause;
pub use ek_info::EkInfo;
pub use ek_info::EndorsementKey;
pub use error::Error;
pub use error::RequestError;
pub use handle::LoadedHandles;
pub use handle::Tpm;
pub use info::TpmInfo;
pub use nv_index::NvReadFault;
pub use objects::Certification;
pub use objects::KeyBlob;
pub use objects::TpmObjects;
pub use pcrs::PcrValues;
pub use quote::Attestation;
pub use rsa::RsaKeyBlob;
pub use state::StateKind;
pub use state::TpmState;
pub use swtpm::SoftwareTpm;
