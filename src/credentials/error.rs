//! Why a credential cannot be stored or released. The texts are for administrators and agents.

use std::path::PathBuf;

use crate::clock::Timestamp;
use crate::error_class::ErrorClass;
use crate::{keystore, store};

/// A failure of the credential store. No text contains a value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is not open. The text is the reason, with the remedy.
    #[error("the credentials of this host are not available: {0}")]
    NotOpen(String),
    /// There is no credential of this name in the tenant.
    #[error("this host has no credential of this name")]
    UnknownCredential,
    /// The credential does not have this version, or no longer.
    #[error("this credential has no version {0}")]
    UnknownVersion(u64),
    /// The credential was to be created, and exists.
    #[error("this credential exists; hostbadge credential rotate stores a new version of it")]
    AlreadyExists,
    /// The database is open.
    #[error("credentials.db is the one that this host wrote last; there is nothing to accept")]
    NothingToAccept,
    /// All versions that may be released have expired.
    #[error("this credential expired at {0}")]
    Expired(Timestamp),
    /// The credential would expire before it could be used.
    #[error("the credential would have expired already")]
    ExpiresInThePast,
    /// More credentials, versions or bytes than a host may have.
    #[error("{0}")]
    LimitReached(&'static str),
    /// The tenant has as many credentials as it may have.
    #[error("this tenant has {0} credentials, which is its quota ([tenant.NAME] credentials)")]
    QuotaReached(u32),
    /// The database is damaged.
    #[error(
        "{path}: damaged ({reason}); put it back from a backup, or move it away and accept that there are no \
         credentials: hostbadge credential accept",
        path = path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A ciphertext that none of this host's keys decrypts.
    #[error("a key or value in credentials.db cannot be decrypted; put credentials.db back from a backup")]
    Undecryptable,
    /// The key of an agent's own credentials is gone: the agent was offboarded and this is an older copy of the
    /// database, or the host was moved to another TPM.
    #[error(
        "the key of this agent's own credentials is destroyed, or stayed in another TPM; it is in no recovery copy. \
         Remove the credential (hostbadge credential rm NAME --agent AGENT) and store it again"
    )]
    AgentKeyLost,
    /// The keystore failed.
    #[error(transparent)]
    Keystore(#[from] keystore::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A blocking task ended without a result.
    #[error("the operation was not completed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// What this failure means for the caller of a request.
    pub fn class(&self) -> ErrorClass {
        match self {
            Error::UnknownCredential | Error::UnknownVersion(_) | Error::ExpiresInThePast => {
                ErrorClass::BadRequest
            }
            Error::AlreadyExists
            | Error::NothingToAccept
            | Error::AgentKeyLost
            | Error::Expired(_)
            | Error::LimitReached(_)
            | Error::QuotaReached(_) => ErrorClass::Conflict,
            Error::NotOpen(_) => ErrorClass::Unavailable,
            Error::Keystore(error) => error.class(),
            Error::Store(error) => error.class(),
            Error::Damaged { .. } | Error::Undecryptable | Error::Task(_) => ErrorClass::Internal,
        }
    }
}
