//! Why the daemon cannot start, or did not stop cleanly.

use std::io;
use std::path::PathBuf;

use crate::{store, tpm};

/// An error that ends the daemon. The text goes to the administrator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed; the text names the file or program.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A state directory cannot be created, or another daemon uses it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The audit log cannot be opened.
    #[error("{path}: {source}", path = path.display())]
    AuditLog {
        /// Directory of the audit log.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// `tpm.tcti` is not a TCTI that the daemon supports.
    #[error(transparent)]
    Tcti(#[from] tpm::TctiError),
    /// The gRPC descriptors that the build embedded are invalid.
    #[error(transparent)]
    Descriptors(#[from] prost::DecodeError),
    /// A blocking task panicked.
    #[error(transparent)]
    Task(#[from] tokio::task::JoinError),
}
