//! Why secrets cannot be opened or kept. The texts are for administrators.

use std::path::PathBuf;

use ring::error::Unspecified;

use crate::error_class::ErrorClass;
use crate::{store, tpm};

/// A failure of the keystore.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The TPM failed, or cannot be used now.
    #[error(transparent)]
    Tpm(#[from] tpm::Error),
    /// A state file cannot be read or replaced.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// `getrandom(2)` failed.
    #[error("the system random number generator failed")]
    Random(Unspecified),
    /// A cryptographic operation failed: the algorithm and what it was used for. ring gives no reason.
    #[error("{0} failed")]
    Crypto(&'static str),
    /// The content of `ledger.json` cannot be written as JSON.
    #[error("cannot encode ledger.json: {0}")]
    Json(#[from] serde_json::Error),
    /// The TPM does not unseal the key-encryption key, because PCRs have other values than when it was
    /// sealed.
    #[error(
        "this host's secrets are sealed to its PCRs, and PCR {} changed since then; if you updated the host, open \
         them with the recovery key: hostbadge posture accept --recovery",
        join_numbers(pcrs)
    )]
    PcrsChanged {
        /// The PCRs whose values differ.
        pcrs: Vec<u8>,
        /// The PCR values at the time of sealing.
        sealed_to: tpm::PcrValues,
    },
    /// The state directory is older than the TPM's counter, or one of its files is not the one written last.
    #[error(
        "the state directory is not the latest of this host: {0}; put the latest copy back, or accept this \
         one: hostbadge key accept"
    )]
    RolledBack(Rollback),
    /// [`Error::RolledBack`], while the recovery key is the only key that opens the state.
    #[error(
        "the state directory is not the latest of this host: {0}; put the latest copy back, or accept this \
         one as well: hostbadge key recover --accept"
    )]
    RolledBackAtRecovery(Rollback),
    /// The rows of `credentials.db` are not the ones written last.
    #[error(
        "{0}; put the latest copy back, or accept the credentials as they are: hostbadge credential accept"
    )]
    CredentialsRolledBack(Rollback),
    /// The rows of `revocations.db` are not the ones written last.
    #[error(
        "{0}: revocations may be missing in it; put the latest copy back, or accept it as it is, which revokes \
         everything that was issued before: hostbadge revoke accept"
    )]
    RevocationsRolledBack(Rollback),
    /// A state file was changed, or belongs to another host.
    #[error("{path}: {reason}; put it back from a backup of this host", path = path.display())]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it: a predicate, without the subject.
        reason: String,
    },
    /// [`Error::InvalidFile`], while the recovery key is the only key that opens the state.
    #[error(
        "{path}: {reason}; put it back from a backup, or accept the state as well: \
         hostbadge key recover --accept",
        path = path.display()
    )]
    InvalidFileAtRecovery {
        /// The file.
        path: PathBuf,
        /// What is wrong with it: a predicate, without the subject.
        reason: String,
    },
    /// The text is not in the form of a recovery key.
    #[error("this is not a recovery key: {0}")]
    MalformedRecoveryKey(RecoveryKeyFault),
    /// The recovery key does not open this host's secrets.
    #[error("this is not the current recovery key of this host; earlier keys are no longer valid")]
    WrongRecoveryKey,
    /// A recovery key that is to be put in force is not the one that was created last.
    #[error(
        "this is not the recovery key that was created last, and the one in force stays valid; create another: \
         hostbadge key recovery"
    )]
    UnexpectedRecoveryKey,
    /// No recovery key was ever made.
    #[error("this host has no recovery key")]
    NoRecoveryKey,
    /// More tenants than can have a key-encryption key.
    #[error(
        "{max} tenants have keys, which is the most; remove those that are not used: hostbadge tenant rm"
    )]
    TooManyTenants {
        /// The largest number.
        max: usize,
    },
    /// More agents than can have a key-encryption key.
    #[error(
        "{max} agents have credentials of their own, which is the most; offboard those that are not needed: \
         hostbadge agent offboard"
    )]
    TooManyAgentKeks {
        /// The largest number.
        max: usize,
    },
    /// Nothing opens the keys of agents any more.
    #[error(
        "the keys of agents' own credentials are lost: {0}. They are in no recovery copy; store these credentials \
         again: hostbadge credential put NAME --agent AGENT"
    )]
    AgentKeksLost(AgentKeksLoss),
    /// The previous key-encryption key is still needed to decrypt files.
    #[error("the keys are being re-encrypted; try again in a moment")]
    RewrapInProgress,
    /// The task that writes a file was cancelled.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

impl Error {
    /// What this failure means for the caller of a request.
    pub fn class(&self) -> ErrorClass {
        match self {
            Error::Tpm(error) => error.class(),
            Error::Store(error) => error.class(),
            Error::MalformedRecoveryKey(_) | Error::WrongRecoveryKey => ErrorClass::BadRequest,
            Error::RolledBack(_)
            | Error::RolledBackAtRecovery(_)
            | Error::CredentialsRolledBack(_)
            | Error::RevocationsRolledBack(_)
            | Error::InvalidFileAtRecovery { .. }
            | Error::UnexpectedRecoveryKey
            | Error::NoRecoveryKey
            | Error::TooManyTenants { .. }
            | Error::TooManyAgentKeks { .. }
            | Error::AgentKeksLost(_)
            | Error::RewrapInProgress => ErrorClass::Conflict,
            Error::PcrsChanged { .. } | Error::ShuttingDown => ErrorClass::Unavailable,
            Error::Random(_) | Error::Crypto(_) | Error::Json(_) | Error::InvalidFile { .. } => {
                ErrorClass::Internal
            }
        }
    }
}

/// Why the key-encryption keys of agents are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentKeksLoss {
    /// The TPM's counter has another value than this copy of `erasure.json` requires, or is gone.
    #[error(
        "this copy of erasure.json is from before an agent was offboarded, or the TPM's erasure counter was deleted"
    )]
    Counter,
    /// The TPM did not make the keys.
    #[error("erasure.json is another TPM's")]
    OtherTpm,
}

/// Why the state directory is not the latest of this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rollback {
    /// There are state files, but `ledger.json` is not there.
    #[error("ledger.json is missing")]
    ManifestMissing,
    /// The generation in `ledger.json` is not the TPM counter's value.
    #[error("it is of generation {generation}, and the TPM has counted to {count}")]
    Generation {
        /// The generation in `ledger.json`.
        generation: u64,
        /// The value of the TPM's counter.
        count: u64,
    },
    /// The TPM has no counter at the NV index in `ledger.json`.
    #[error("its counter is gone from the TPM ({0:#x})")]
    CounterMissing(u32),
    /// A file that `ledger.json` lists does not exist.
    #[error("{0} is missing")]
    FileMissing(&'static str),
    /// A file has another digest than `ledger.json` lists.
    #[error("{0} is not what this host wrote last")]
    FileChanged(&'static str),
}

/// Why a text is not a recovery key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryKeyFault {
    /// More than 256 bytes.
    #[error("it is longer than 256 bytes")]
    TooLong,
    /// Another prefix than `hbr1`.
    #[error("it does not begin with hbr1")]
    Prefix,
    /// Not base32 (RFC 4648), or of another length.
    #[error("after hbr1 it must have 56 characters: letters and the digits 2 to 7")]
    Encoding,
    /// Fewer bytes than the secret has.
    #[error("a part of it is missing")]
    TooShort,
    /// The checksum does not match the secret.
    #[error("a character of it is wrong or missing")]
    Checksum,
}

fn join_numbers(numbers: &[u8]) -> String {
    numbers.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}
