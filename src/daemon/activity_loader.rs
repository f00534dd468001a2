//! Reads once, after the start, what earlier processes of the daemon recorded of agents.
//!
//! It waits until the revocations are known, reads a few milliseconds at a time and rests in between, so that neither
//! the start nor requests wait for it.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::component::ComponentTask;
use crate::agents::AgentRegistry;
use crate::audit::{ActivityReader, Audit};
use crate::revocation::Revocations;

/// Pause after the start, and between two pages.
const START_DELAY: Duration = Duration::from_millis(500);
const PAGE_DELAY: Duration = Duration::from_millis(5);

/// What the activity loader is built from.
pub(super) struct ActivityDeps {
    /// The log.
    pub audit: Audit,
    /// Its directory.
    pub audit_dir: PathBuf,
    /// The registered agents.
    pub agents: AgentRegistry,
    /// What has been revoked.
    pub revocations: Revocations,
}

/// The running activity loader.
pub(super) struct ActivityHandle(ComponentTask);

/// Starts the activity loader on the current runtime.
pub(super) fn spawn(deps: ActivityDeps) -> ActivityHandle {
    deps.audit.activity().count_tokens(deps.revocations.clone());
    ActivityHandle(ComponentTask::spawn(|stop| run(deps, stop)))
}

impl ActivityHandle {
    /// Stops the activity loader.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

async fn run(deps: ActivityDeps, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = load(deps) => {}
    }
}

async fn load(deps: ActivityDeps) {
    let ActivityDeps { audit, audit_dir, agents, revocations } = deps;
    let mut blocked = revocations.blocked_reason().subscribe();
    // Never an error: `revocations` has the sender.
    let _ = blocked.wait_for(Option::is_none).await;
    tokio::time::sleep(START_DELAY).await;
    let mut reader = audit.activity_reader(&audit_dir, agents.current(), revocations);
    loop {
        let Ok((read, result)) = tokio::task::spawn_blocking(move || read_page(reader)).await else { return };
        reader = read;
        match result {
            Ok(true) => tokio::time::sleep(PAGE_DELAY).await,
            Ok(false) => break,
            Err(e) => {
                tracing::warn!("when agents were seen last is not known: the audit log cannot be read: {e}");
                break;
            }
        }
    }
    reader.finish();
}

fn read_page(mut reader: ActivityReader) -> (ActivityReader, std::io::Result<bool>) {
    let result = reader.read_page();
    (reader, result)
}
