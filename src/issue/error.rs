//! Errors of issuing, and of operations on keys and certificates. The texts are for administrators.

use std::path::PathBuf;

use data_encoding::DecodeError;
use ring::error::{KeyRejected, Unspecified};

use crate::clock::Timestamp;
use crate::error_class::ErrorClass;
use crate::policy::ErrorCode;
use crate::revocation::status::AssignError;
use crate::{enroll, keystore, present, store, tpm, verify};

/// A failure of this module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The TPM failed, or cannot be used now.
    #[error(transparent)]
    Tpm(#[from] tpm::Error),
    /// The thread of another TPM connection could not be started.
    #[error("cannot open the TPM: {0}")]
    OpenTpm(#[source] std::io::Error),
    /// A state file cannot be read or replaced.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The key-encryption key cannot be used, or the state is not the latest.
    #[error(transparent)]
    Keystore(keystore::Error),
    /// The key schedule does not allow the step.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A step of enrollment failed.
    #[error(transparent)]
    Enrollment(#[from] EnrollmentError),
    /// `tpm.json` or `issuing.json` was changed, or belongs to another host.
    #[error(
        "{path}: {reason}; put it back from a backup of this host, or move it away to start with a new issuing \
         key",
        path = path.display()
    )]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it: a predicate, without the subject.
        reason: String,
    },
    /// `rsa.json` was changed, or belongs to another host.
    #[error(
        "{path}: {reason}; put it back from a backup of this host, or move it away to have a new RSA key \
         made",
        path = path.display()
    )]
    InvalidRsaKeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it: a predicate, without the subject.
        reason: String,
    },
    /// The host key did not endorse an issuing key.
    #[error("the endorsement of the issuing key is not valid: {0}")]
    Endorsement(#[source] verify::Error),
    /// A PKCS#8 document does not contain a usable P-256 key.
    #[error("the issuing key cannot be read: {0}")]
    InvalidKey(KeyRejected),
    /// A generated key is not a P-256 key.
    #[error("the generated key is not a P-256 key")]
    NotP256,
    /// The key-encryption keys in use do not decrypt an issuing key that they decrypted before.
    #[error("issuing key {0} can no longer be decrypted")]
    Decrypt(String),
    /// The TPM has no RSA key, which RS256 needs.
    #[error("there is no RSA key")]
    NoRsaKey,
    /// The keys of a tenant that agents name have not been made yet, or cannot be.
    #[error(
        "the issuing key of tenant \"{0}\" is being made; try again in a moment (administrators see in hostbadge \
         key list what keeps it from being made)"
    )]
    NoTenantKey(String),
    /// The active key is revoked, and no other has taken its place yet.
    #[error(
        "issuing key {0} is revoked, and the key that signs next is not made yet; try again in a moment \
         (administrators see in hostbadge key list what keeps it from being made)"
    )]
    KeyRevoked(String),
    /// No tenant of this name has keys.
    #[error("tenant \"{0}\" has no keys on this host: no agent of agents.d names it")]
    UnknownTenant(String),
    /// More tenants than can have issuing keys.
    #[error("{max} tenants have issuing keys, which is the most; the agents of {unserved} get no tokens")]
    TooManyTenants {
        /// The largest number.
        max: usize,
        /// Some of the tenants that have none.
        unserved: String,
    },
    /// A token that has to be bound has no key or certificate to be bound to.
    #[error("the token is to be bound, and there is nothing to bind it to")]
    Unbound,
    /// A proof cannot be made, or a detail of it does not fit its kind.
    #[error(transparent)]
    Proof(#[from] present::Error),
    /// A token gets no index in a status list, which its grant demands.
    #[error(transparent)]
    NoStatus(AssignError),
    /// A public key of this host is not usable as a JWK.
    #[error("a public key of this host is not valid: {0}")]
    InvalidJwk(#[source] verify::Error),
    /// The evidence that this host made cannot be read back.
    #[error("the evidence of this host is not valid: {0}")]
    Evidence(#[source] verify::Error),
    /// A document cannot be written as JSON.
    #[error("cannot encode JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// ring could not make a P-256 key.
    #[error("generating a P-256 key failed")]
    KeyGeneration(Unspecified),
    /// ring could not sign.
    #[error("signing with the issuing key failed")]
    Signing(Unspecified),
    /// `getrandom(2)` failed.
    #[error("the system random number generator failed")]
    Random(Unspecified),
    /// A blocking task was cancelled because the daemon is shutting down.
    #[error("the daemon is shutting down: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// There is no `tpm.json`, without which a recovery key opens nothing.
    #[error(
        "tpm.json is missing from the state directory, and a recovery key opens nothing without it; put the \
         state directory back from a backup of this host"
    )]
    NothingToRecover,
}

impl Error {
    /// The code of the refusal, if this keeps a token from being issued.
    pub(super) fn refusal_code(&self) -> ErrorCode {
        match self {
            Error::NoTenantKey(_) | Error::NoStatus(_) | Error::KeyRevoked(_) => {
                ErrorCode::TemporarilyUnavailable
            }
            Error::Proof(
                present::Error::Value { .. }
                | present::Error::Url(_)
                | present::Error::ServerQuery
                | present::Error::PlusInQuery,
            ) => ErrorCode::InvalidRequest,
            _ => ErrorCode::ServerError,
        }
    }

    /// What this failure means for the caller of a request.
    pub fn class(&self) -> ErrorClass {
        match self {
            Error::Tpm(error) => error.class(),
            Error::Store(error) => error.class(),
            Error::Keystore(error) => error.class(),
            Error::Schedule(error) => error.class(),
            Error::Enrollment(error) => error.class(),
            Error::NothingToRecover => ErrorClass::Conflict,
            Error::UnknownTenant(_) => ErrorClass::BadRequest,
            Error::OpenTpm(_)
            | Error::NoRsaKey
            | Error::Unbound
            | Error::Proof(_)
            | Error::NoTenantKey(_)
            | Error::NoStatus(_)
            | Error::KeyRevoked(_)
            | Error::TooManyTenants { .. }
            | Error::Task(_) => ErrorClass::Unavailable,
            Error::InvalidFile { .. }
            | Error::InvalidRsaKeyFile { .. }
            | Error::Endorsement(_)
            | Error::InvalidKey(_)
            | Error::NotP256
            | Error::Decrypt(_)
            | Error::InvalidJwk(_)
            | Error::Evidence(_)
            | Error::Json(_)
            | Error::KeyGeneration(_)
            | Error::Signing(_)
            | Error::Random(_) => ErrorClass::Internal,
        }
    }
}

/// A TPM or file error inside a keystore error becomes that error: callers match on the TPM's state.
impl From<keystore::Error> for Error {
    fn from(error: keystore::Error) -> Error {
        match error {
            keystore::Error::Tpm(error) => Error::Tpm(error),
            keystore::Error::Store(error) => Error::Store(error),
            other => Error::Keystore(other),
        }
    }
}

impl From<KeyRejected> for Error {
    fn from(error: KeyRejected) -> Error {
        Error::InvalidKey(error)
    }
}

impl From<enroll::Error> for Error {
    fn from(error: enroll::Error) -> Error {
        Error::Enrollment(EnrollmentError::Document(error))
    }
}

/// Why a step of the key schedule cannot be taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// One key at most is published and not yet active.
    #[error("the next key is published already")]
    AlreadyPublished,
    /// There is no published key to activate.
    #[error("no key is published")]
    NothingPublished,
    /// There is no generated key to publish.
    #[error("no key is generated")]
    NothingGenerated,
    /// No further key can be retired before the oldest is destroyed.
    #[error(
        "{max} retired keys are still needed to verify tokens; retry after {until}, when the oldest is \
         destroyed, or have root destroy it now: hostbadge key rotate --now (--rsa for the RSA key)"
    )]
    TooManyRetired {
        /// How many retired keys a schedule holds at most.
        max: usize,
        /// When the oldest retired key is destroyed.
        until: Timestamp,
    },
}

impl ScheduleError {
    /// What this failure means for the caller of a request.
    pub fn class(&self) -> ErrorClass {
        match self {
            ScheduleError::AlreadyPublished
            | ScheduleError::NothingPublished
            | ScheduleError::NothingGenerated => ErrorClass::Conflict,
            ScheduleError::TooManyRetired { .. } => ErrorClass::Unavailable,
        }
    }
}

/// Why a step of enrollment fails on the host's side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrollmentError {
    /// The challenge or credential file is not valid.
    #[error(transparent)]
    Document(#[from] enroll::Error),
    /// The administrator's request is not in the expected form.
    #[error("the request is not valid: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The request that this host made does not pass its own checks.
    #[error("cannot make an enrollment request: {0}")]
    Request(#[source] enroll::Error),
    /// The TPM cannot open the credential: it was made for another TPM or another AK.
    #[error(transparent)]
    Credential(tpm::Error),
    /// The challenge was answered before.
    #[error("this challenge was answered at {0}; a challenge is answered once")]
    ChallengeAnswered(Timestamp),
    /// Another challenge for the same request was answered before.
    #[error("another challenge for the same request was answered at {0}; make a new request")]
    RequestAnswered(Timestamp),
    /// The challenge names another host.
    #[error("the challenge is for host {challenge}, and this is {host}")]
    OtherHost {
        /// The host id in the challenge.
        challenge: String,
        /// The id of this host.
        host: String,
    },
    /// The challenge names another attestation key.
    #[error("the challenge is for another attestation key than this host's")]
    OtherAk,
    /// No pending request has the digest in the challenge.
    #[error("the challenge is for a request that is not pending on this host; make a new request")]
    UnknownRequest,
    /// The credential's secret belongs to a hostbadge challenge.
    #[error(
        "this credential is part of a hostbadge challenge, which is answered and not revealed: \
         hostbadge enroll activate CHALLENGE"
    )]
    ChallengeSecret,
    /// The TPM has no host key or AK yet.
    #[error("this host has no keys in its TPM yet")]
    NoHostKey,
    /// The file to install is not a chain of certificates.
    #[error(transparent)]
    Certificate(verify::Error),
    /// The certificate to install has another public key.
    #[error("the certificate is for another key than this host's host key")]
    OtherKey,
    /// The certificate to install has expired.
    #[error("the certificate has expired at {0}")]
    Expired(Timestamp),
    /// The CA certificate to install cannot be used.
    #[error(transparent)]
    DelegatedCa(enroll::SigningChainFault),
    /// The request does not name the root that the host would trust from now on.
    #[error(
        "the certificate lets this host sign below a root with SHA-256 digest {found}; compare it with the \
         organization's and name it: root_sha256, or hostbadge enroll install --root-sha256"
    )]
    RootNotNamed {
        /// SHA-256 of the root in the file, in hexadecimal.
        found: String,
    },
    /// The request names another root than the file has.
    #[error("the root in the file has another SHA-256 digest: {found}")]
    OtherRoot {
        /// SHA-256 of the root in the file, in hexadecimal.
        found: String,
    },
    /// `certificate.json` or `signing.json` cannot be read.
    #[error("{path}: {source}", path = path.display())]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CertificateFileError,
    },
}

impl EnrollmentError {
    /// [`EnrollmentError::Body`] with the cause.
    pub fn body(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> EnrollmentError {
        EnrollmentError::Body(error.into())
    }

    /// What this failure means for the caller of a request.
    pub fn class(&self) -> ErrorClass {
        match self {
            EnrollmentError::ChallengeAnswered(_) | EnrollmentError::RequestAnswered(_) => {
                ErrorClass::Conflict
            }
            EnrollmentError::NoHostKey => ErrorClass::Unavailable,
            EnrollmentError::Request(_) | EnrollmentError::InvalidFile { .. } => ErrorClass::Internal,
            EnrollmentError::Document(_)
            | EnrollmentError::Body(_)
            | EnrollmentError::Credential(_)
            | EnrollmentError::OtherHost { .. }
            | EnrollmentError::OtherAk
            | EnrollmentError::UnknownRequest
            | EnrollmentError::ChallengeSecret
            | EnrollmentError::Certificate(_)
            | EnrollmentError::OtherKey
            | EnrollmentError::Expired(_)
            | EnrollmentError::DelegatedCa(_)
            | EnrollmentError::RootNotNamed { .. }
            | EnrollmentError::OtherRoot { .. } => ErrorClass::BadRequest,
        }
    }
}

/// Why a state file with certificates cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFileError {
    /// A certificate is not base64.
    #[error(transparent)]
    Base64(#[from] DecodeError),
    /// A certificate is not valid DER.
    #[error(transparent)]
    Certificate(#[from] verify::Error),
}
