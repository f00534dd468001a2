//! Issues tokens, and owns the keys that sign them.
//!
//! - Tokens: access tokens (RFC 9068), JWT-SVIDs and WIT-SVIDs, from the permits of [`crate::policy`];
//!   introspection and validation.
//! - Keys: the issuing keys, which sign in memory, with their schedule and endorsements; the RSA keys, which
//!   sign in the TPM; recovery.
//! - Documents for relying parties, evidence for verifiers, and the host's side of enrollment.

mod access_token;
mod attested_claims;
mod certificate_file;
mod commands;
mod delegated_ca;
mod documents;
mod encrypted_key;
mod endorsement;
mod enrollment;
mod enrollment_file;
mod error;
mod evidence;
mod evidence_slots;
mod fair_queue;
mod host_identity;
mod host_keys;
mod hostbadge_claim;
mod installation;
mod introspect;
mod issuer;
mod issuer_handle;
mod jws;
mod jwt_svid;
mod key;
mod key_event;
mod key_loader;
mod key_schedule;
#[cfg(test)]
mod key_schedule_simulation;
mod keys;
mod own_token;
mod proof;
mod receipt;
mod recover;
mod report;
mod retention;
mod rotation;
mod rsa;
mod rsa_file;
mod rsa_keys;
mod rsa_report;
mod rsa_schedule;
mod schedule_loader;
mod status_list;
mod storage;
mod successor_timer;
mod tenant_issuers;
mod tenant_schedules;
mod token_period;
mod tpm_keys;
mod tpm_signer;
mod validate;
mod validity;
mod wit_svid;

pub use access_token::AccessToken;
pub use certificate_file::CertificateReport;
pub(crate) use commands::{KeyAction, KeyCommand, ReplySender};
pub use commands::{
    KeyAdmin, KeyCommandError, KeyCommandReceiver, RotationOutcome, RotationResult, RotationUrgency,
    RsaRotation, key_command_channel,
};
pub use delegated_ca::DelegatedCa;
pub use documents::{BundleDocuments, IssuerDocuments};
pub use enrollment::{Enrollment, OpenedChallenge};
pub use enrollment_file::AdminClass;
pub use error::{CertificateFileError, EnrollmentError, Error, ScheduleError};
pub use evidence::{
    AttestRequest, EvidenceDocument, EvidenceFormat, EvidenceResponse, MeasurementLogs, Nonce, Requester,
};
pub use evidence_slots::{EvidenceSlot, EvidenceSlots};
pub use fair_queue::{FairQueue, QueueFull, SigningSlot};
pub use host_identity::{HostIdentity, IssuerConfig};
pub(crate) use host_keys::HostKeys;
pub use installation::VerifiedBundle;
pub use introspect::{Introspection, IntrospectionRequest};
pub use issuer::{IssuerKeys, IssuerState};
pub use issuer_handle::Issuer;
pub use jwt_svid::JwtSvid;
pub use key::IssuingKey;
pub(crate) use key_event::{KeyChange, KeyEvent};
pub(crate) use key_loader::{LoadedKeys, load_or_create_keys};
pub use own_token::OwnToken;
pub use proof::{IssuedProof, ProofDetails, ProofSigner};
pub(crate) use receipt::sign_receipt;
pub(crate) use recover::{check_recovery_key, recover};
pub use report::{KeyKind, KeyReport, KeyState, NextStep, kek_reports};
pub use rotation::RotationPolicy;
pub use rsa::RsaSigningKey;
pub(crate) use rsa_keys::RsaKeys;
pub(crate) use storage::read_host_key_blobs;
pub use tpm_signer::{RSA_KEY_PENDING, TpmSigner};
pub use validate::ValidationRequest;
pub use validity::{Undecided, ValidNow};
pub use wit_svid::WitSvid;
