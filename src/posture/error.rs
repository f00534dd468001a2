//! The error of reading the baseline.

use std::path::PathBuf;

use crate::store;

/// Why the baseline cannot be used. The messages are for administrators.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not a baseline. The advice of [`store::Error`] about lost state does not apply: a baseline
    /// is not secret, and an acceptance replaces it.
    #[error(
        "{path}: it cannot be read as a baseline ({reason}); compare the host with what you know of it, then \
         run hostbadge posture accept",
        path = path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is the baseline of another host: the state was moved to another TPM.
    #[error(
        "{path}: it is the baseline of host {baseline_host}, and this is {this_host}; \
         hostbadge posture accept replaces it with this host's state",
        path = path.display()
    )]
    WrongHost {
        /// The file.
        path: PathBuf,
        /// The id of the host in the file.
        baseline_host: String,
        /// The id of this host.
        this_host: String,
    },
    /// The file cannot be read, or has an unsupported format.
    #[error(transparent)]
    Store(#[from] store::Error),
}
