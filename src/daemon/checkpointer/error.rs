//! Why a checkpoint cannot be made.

use std::io;

use crate::audit::WriteError;
use crate::{store, tpm, verify};

/// Why a checkpoint cannot be made now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The TPM was not opened yet.
    #[error("the TPM is starting")]
    TpmStarting,
    /// The TPM cannot be used.
    #[error("the TPM is {0}")]
    TpmUnavailable(tpm::TpmState),
    /// A TPM request failed.
    #[error(transparent)]
    Tpm(#[from] tpm::Error),
    /// The log's lines are not on the disk, so that a crash could take what the TPM certified.
    #[error("the last records are not on the disk: {0}")]
    NotSynced(#[source] WriteError),
    /// A file of checkpoints or keys cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file of keys beside the log is damaged, so that the NV index that the log uses is not known.
    #[error("checkpoint.keys: {0}; restore the file from a copy, or move it elsewhere to use a new NV index")]
    Keys(#[source] verify::Error),
    /// `checkpoint.json` cannot be read or written.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// What the TPM returned does not verify.
    #[error("the TPM's signatures do not verify: {0}")]
    Verify(#[from] verify::Error),
    /// A blocking task did not end.
    #[error(transparent)]
    Task(#[from] tokio::task::JoinError),
}
