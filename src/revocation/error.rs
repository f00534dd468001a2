//! Why a revocation is not acknowledged. The texts are for administrators and agents.

use std::path::PathBuf;

use crate::error_class::ErrorClass;
use crate::{keystore, store};

/// A failure of the revocation state.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The database is not open. The text is the reason, with the remedy.
    #[error("the revocations of this host are not available: {0}")]
    NotOpen(String),
    /// The revocation is in effect, and not on disk.
    #[error(
        "the revocation is in effect, but not stored: it would not survive a restart. The daemon goes on trying \
         to store it: {0}"
    )]
    NotStored(String),
    /// As many targets or tokens are revoked as can be.
    #[error("{0}")]
    LimitReached(&'static str),
    /// The target is not revoked.
    #[error("{0}")]
    NotRevoked(String),
    /// The target was revoked again since the revocation that is to be lifted.
    #[error(
        "{0} was revoked again meanwhile; look at hostbadge revoke list, and try again if it is to be lifted"
    )]
    RevokedAgain(String),
    /// Certificates of the target are not on the revocation lists yet.
    #[error(
        "the certificates of this target are not on the revocation lists yet; try again in a moment, and see \
         hostbadge status if that does not help"
    )]
    CertificatesPending,
    /// The database is open.
    #[error("revocations.db is the one that this host wrote last; there is nothing to accept")]
    NothingToAccept,
    /// The database is damaged.
    #[error(
        "{path}: damaged ({reason}); put it back from a backup, or start with an empty one, which revokes \
         everything that was issued before: hostbadge revoke accept",
        path = path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The keystore failed.
    #[error("{0}")]
    Keystore(String, ErrorClass),
    /// The database failed.
    #[error("{0}")]
    Store(String, ErrorClass),
}

impl Error {
    /// What this failure means for the caller of a request.
    pub fn class(&self) -> ErrorClass {
        match self {
            Error::NotOpen(_) | Error::NotStored(_) | Error::CertificatesPending => ErrorClass::Unavailable,
            Error::LimitReached(_)
            | Error::NotRevoked(_)
            | Error::RevokedAgain(_)
            | Error::NothingToAccept => ErrorClass::Conflict,
            Error::Damaged { .. } => ErrorClass::Internal,
            Error::Keystore(_, class) | Error::Store(_, class) => *class,
        }
    }
}

impl From<keystore::Error> for Error {
    fn from(error: keystore::Error) -> Error {
        Error::Keystore(error.to_string(), error.class())
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        match error {
            // The error of a state file says what to do about the host's identity, which is not affected.
            store::Error::Corrupt { path, reason } => Error::Damaged { path, reason },
            error => Error::Store(error.to_string(), error.class()),
        }
    }
}
