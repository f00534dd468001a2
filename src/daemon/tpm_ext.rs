//! Ends the TPM thread.

use tokio::task::JoinError;

use crate::tpm::Tpm;

/// Ends the TPM thread, which flushes its objects and sessions. Waits at most for the TPM's deadline.
///
/// # Errors
/// Where the thread that waits has panicked.
pub(super) async fn shut_down_tpm(tpm: Tpm) -> Result<(), JoinError> {
    tokio::task::spawn_blocking(move || tpm.shutdown()).await.map(drop)
}
