//! What is minted, and by which key: the fifth step of the road.

mod access_token;
mod commands;
mod delegated_ca;
mod documents;
mod encrypted_key;
mod endorsement;
mod enrollment;
mod evidence;
mod evidence_slots;
mod fair_queue;
mod introspect;
mod issuer;
mod jwt_svid;
mod key;
mod key_schedule;
#[cfg(test)]
mod key_schedule_simulation;
mod keys;
mod recover;
mod report;
mod rotation;
mod rsa;
mod storage;
mod tpm_signer;
mod validate;
mod wit_svid;

pub use access_token::AccessToken;
pub use commands::{
    KeyAction, KeyAdmin, KeyCommand, KeyCommandReceiver, RotationOutcome, RotationResult, key_command_channel,
};
pub use delegated_ca::DelegatedCa;
pub use documents::PublishedDocuments;
pub use enrollment::{CertificateReport, Enrollment};
pub use evidence::{
    AttestRequest, EvidenceDocument, EvidenceFormat, EvidenceResponse, MeasurementLogs, Nonce, Requester,
};
pub use evidence_slots::{EvidenceSlot, EvidenceSlots};
pub use fair_queue::FairQueue;
pub use introspect::{Introspection, IntrospectionRequest};
pub use issuer::{HostIdentity, Issuer, IssuerState};
pub use jwt_svid::JwtSvid;
pub use key::IssuingKey;
pub use key_schedule::ScheduleError;
pub use keys::{IssuingKeys, KeyChange};
pub use recover::{check_recovery_key, recover};
pub use report::{KeyReport, KeyState, NextStep};
pub use rotation::RotationPolicy;
pub use rsa::{HostKeyRef, RsaSigningKey, create_rsa_key, load_rsa_key};
pub use storage::{IssuerConfig, LoadedKeys, load_or_create_keys, read_host_key_blobs};
pub use tpm_signer::TpmSigner;
pub use validate::ValidationRequest;
pub use wit_svid::WitSvid;

use crate::{enroll, keystore, store, tpm};

/// Why nothing can be minted. The texts go to administrators.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Tpm(#[from] tpm::Error),
    #[error("{0}")]
    Store(#[from] store::Error),
    #[error("{0}")]
    Keystore(keystore::Error),
    #[error("the issuing key cannot be read: {0}")]
    Key(String),
    #[error("{path}: {reason}; put it back from a backup of this host, or move it away to start with a fresh issuing key", path = path.display())]
    InvalidFile { path: std::path::PathBuf, reason: String },
    #[error("{path}: {reason}; put it back from a backup of this host, or move it away to have a fresh RSA key made", path = path.display())]
    InvalidRsaKeyFile { path: std::path::PathBuf, reason: String },
    #[error("the issuing key's endorsement does not hold: {0}")]
    Endorsement(String),
    #[error("{0}")]
    Enrollment(String),
    #[error("{0}")]
    Schedule(#[from] ScheduleError),
    #[error("the system gives no random numbers")]
    Random,
}

/// The TPM's own state says what is the matter better than any room that met it.
impl From<keystore::Error> for Error {
    fn from(error: keystore::Error) -> Error {
        match error {
            keystore::Error::Tpm(error) => Error::Tpm(error),
            keystore::Error::Store(error) => Error::Store(error),
            other => Error::Keystore(other),
        }
    }
}

impl From<enroll::Error> for Error {
    fn from(error: enroll::Error) -> Error {
        Error::Enrollment(error.to_string())
    }
}
