//! Ends what was issued in invocations that have ended, and stores which invocations there are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::audit_ext::record_completed;
use super::component::ComponentTask;
use crate::agents::MAX_TOKEN_TTL;
use crate::audit::{Audit, Event};
use crate::clock::Clock;
use crate::delegation::Delegations;
use crate::invocations::{EndedInvocation, InvocationWatcher, Invocations, InvocationsFile, MAX_AGENTS};
use crate::present::ProofKeys;
use crate::revocation::{self, Revocations};

/// `invocations.json` is written this long after a change, so that many changes are one write.
const SAVE_DELAY: Duration = Duration::from_secs(2);
/// Ends that wait for their record. Further ones are in the journal only.
const MAX_UNRECORDED: usize = 1024;

/// What the invocation watcher is built from.
#[derive(Clone)]
pub(super) struct InvocationDeps {
    /// The invocations in which something was issued.
    pub invocations: Invocations,
    /// The delegations, which end with them.
    pub delegations: Delegations,
    /// The proof keys, which end with them.
    pub proof_keys: ProofKeys,
    /// Where their ends take effect.
    pub revocations: Revocations,
    /// Audit log, for each end.
    pub audit: Audit,
    /// Time source.
    pub clock: Clock,
    /// State directory: `invocations.json`.
    pub state_dir: PathBuf,
}

/// The running invocation watcher.
pub(super) struct InvocationHandle {
    deps: InvocationDeps,
    task: ComponentTask,
}

/// Starts the invocation watcher on the current runtime.
pub(super) fn spawn(deps: InvocationDeps) -> InvocationHandle {
    let task = ComponentTask::spawn(|stop| run(deps.clone(), stop));
    InvocationHandle { deps, task }
}

impl InvocationHandle {
    /// Stops the invocation watcher, and stores the invocations. Call it after the last request has been served, and
    /// before the revocations are stored.
    pub async fn stop(self) {
        self.task.stop().await;
        save(&self.deps).await;
    }
}

/// Reads which invocations there were when the daemon ended; those that have ended are noticed from now on. After a
/// start of the host, all have ended. The revocation manager calls this before anything is issued.
pub(super) async fn resume(deps: &InvocationDeps) {
    let dir = deps.state_dir.clone();
    let file = match tokio::task::spawn_blocking(move || InvocationsFile::read(&dir)).await {
        Ok(Ok(file)) => file,
        Ok(Err(error)) => {
            tracing::warn!(
                "{error}. It is replaced; what was issued to units that stopped while hostbadged was not running is \
                 found to have ended when it is introspected"
            );
            None
        }
        Err(_) => return,
    };
    let file = match file {
        Some(file) if file.is_of_earlier_boot() => {
            if let Err(error) = deps.revocations.end_earlier_boot().await {
                // The file stays as it is, so the next start tries it again.
                tracing::error!("what was issued before the host was started again: {error}");
                return;
            }
            let message = "the host was started again: everything that was issued before is revoked";
            record_completed(&deps.audit, Event::InvocationEnded, message).await;
            None
        }
        file => file,
    };
    deps.invocations.restore(file, deps.clock.now().after(MAX_TOKEN_TTL));
    // The file above is written later than a delegation, so it may lack the invocations that this depends on.
    for delegation in deps.delegations.active() {
        for invocation in &delegation.parent_invocations {
            deps.invocations.watch(invocation, &delegation.agent, delegation.expires);
        }
    }
}

async fn run(deps: InvocationDeps, stop: CancellationToken) {
    let (sender, receiver) = mpsc::channel(MAX_UNRECORDED);
    tokio::select! {
        () = stop.cancelled() => {}
        () = end_invocations(&deps, sender) => {}
        () = record_ends(&deps.audit, receiver) => {}
        () = save_changes(&deps) => {}
    }
}

/// A slow audit log does not delay an end.
async fn end_invocations(deps: &InvocationDeps, unrecorded: mpsc::Sender<EndedInvocation>) {
    let mut blocked_reason = deps.revocations.blocked_reason().subscribe();
    let mut watcher = InvocationWatcher::new(deps.invocations.clone());
    loop {
        // Fails only if the revocations are gone, which this component holds.
        if blocked_reason.wait_for(Option::is_none).await.is_err() {
            return;
        }
        let ended = watcher.next().await;
        let EndedInvocation { id, agents, until, reason } = &ended;
        deps.proof_keys.end_invocation(id);
        deps.delegations.end_invocation(id, reason);
        // If there may be others, their revocation cannot stand for that of the invocation.
        let agents = if agents.len() < MAX_AGENTS { agents.as_slice() } else { &[] };
        deps.revocations.end_invocation(&revocation::EndedInvocation { id, agents, until: *until, reason });
        if let Err(error) = unrecorded.try_send(ended) {
            let ended = error.into_inner();
            tracing::warn!("{}; the audit log is too slow to record it", message(&ended));
        }
    }
}

async fn record_ends(audit: &Audit, mut unrecorded: mpsc::Receiver<EndedInvocation>) {
    while let Some(ended) = unrecorded.recv().await {
        record_completed(audit, Event::InvocationEnded, &message(&ended)).await;
    }
}

fn message(ended: &EndedInvocation) -> String {
    let agents: Vec<&str> = ended.agents.iter().map(|agent| agent.as_str()).collect();
    format!(
        "invocation {} has ended ({}): what was issued in it to {} is revoked",
        ended.id,
        ended.reason,
        agents.join(", ")
    )
}

async fn save_changes(deps: &InvocationDeps) {
    loop {
        deps.invocations.changed().await;
        tokio::time::sleep(SAVE_DELAY).await;
        save(deps).await;
    }
}

/// A failed write is repeated with the next change.
async fn save(deps: &InvocationDeps) {
    let Some(file) = deps.invocations.to_file() else { return };
    let dir: PathBuf = Path::to_owned(&deps.state_dir);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || file.write(&dir)).await {
        tracing::warn!("cannot write invocations.json: {error}");
    }
}
