//! Why the number of a name is not known.

use std::io;
use std::time::Duration;

use nix::errno::Errno;

/// Why a lookup failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    /// The name service gave no answer.
    #[error(transparent)]
    Service(#[from] Errno),
    /// The lookup has no thread.
    #[error("no thread could be started: {0}")]
    Thread(#[source] io::Error),
    /// The lookup takes longer than this.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
}
