//! Supervises the software TPM of a development instance: restarts it when it has died.

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::component::ComponentTask;
use crate::tpm::SoftwareTpm;

/// How often the process is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The running supervisor.
pub(super) struct SwtpmHandle(ComponentTask<Option<SoftwareTpm>>);

/// Starts the supervisor on the current runtime.
pub(super) fn spawn(swtpm: SoftwareTpm) -> SwtpmHandle {
    SwtpmHandle(ComponentTask::spawn(|stop| run(swtpm, stop)))
}

impl SwtpmHandle {
    /// Stops the supervisor, then swtpm. Call it after [`crate::tpm::Tpm::shutdown`].
    ///
    /// # Errors
    /// The process cannot be signalled or waited for.
    pub async fn stop(self) -> io::Result<()> {
        match self.0.stop().await.flatten() {
            Some(swtpm) => tokio::task::spawn_blocking(move || swtpm.stop()).await?,
            // The check in progress was abandoned; it stops swtpm when it ends.
            None => Ok(()),
        }
    }
}

/// Returns swtpm when the daemon stops.
async fn run(mut swtpm: SoftwareTpm, stop: CancellationToken) -> Option<SoftwareTpm> {
    let mut ticks = tokio::time::interval(CHECK_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Some(swtpm),
            _ = ticks.tick() => {}
        }
        // Restarting waits for swtpm to listen, and so blocks.
        let check = tokio::task::spawn_blocking(move || {
            let outcome = swtpm.ensure_running();
            (swtpm, outcome)
        });
        let (checked, outcome) = check.await.ok()?;
        if let Err(e) = outcome {
            tracing::error!("cannot restart the software TPM: {e}");
        }
        swtpm = checked;
    }
}
