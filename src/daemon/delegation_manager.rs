//! Ends delegations when they are due, records their ends, and stores them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::audit_ext::record_completed;
use super::component::ComponentTask;
use crate::audit::{Audit, Event};
use crate::clock::Clock;
use crate::delegation::{Delegations, EndedDelegation};
use crate::present::ProofKeys;

/// Delay before a failed write is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// What the delegation manager is built from.
#[derive(Clone)]
pub(super) struct DelegationDeps {
    /// The delegations.
    pub delegations: Delegations,
    /// The proof keys of sub-agents, which end with them.
    pub proof_keys: ProofKeys,
    /// Audit log, for each end.
    pub audit: Audit,
    /// Time source.
    pub clock: Clock,
}

/// The running delegation manager.
pub(super) struct DelegationHandle {
    deps: DelegationDeps,
    task: ComponentTask,
}

/// Starts the delegation manager on the current runtime.
pub(super) fn spawn(deps: DelegationDeps) -> DelegationHandle {
    let task = ComponentTask::spawn(|stop| run(deps.clone(), stop));
    DelegationHandle { deps, task }
}

impl DelegationHandle {
    /// Stops the delegation manager, and stores what is not stored yet. Call it after the last request has been served.
    pub async fn stop(self) {
        self.task.stop().await;
        self.deps.delegations.store().await;
    }
}

async fn run(deps: DelegationDeps, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = end_delegations(&deps) => {}
    }
}

async fn end_delegations(deps: &DelegationDeps) {
    loop {
        deps.delegations.due(deps.clock.boot_time()).await;
        deps.delegations.end_due(deps.clock.boot_time());
        let ended = deps.delegations.take_ended();
        // First, since a record can wait for the disk of the log.
        let is_saved = deps.delegations.store().await;
        for EndedDelegation { delegation, reason } in ended {
            deps.proof_keys.end_invocation(&delegation.invocation);
            let message = format!(
                "sub-agent {} in {} has ended ({reason}): what was issued to it is not valid any more",
                delegation.agent,
                delegation.cgroup.path()
            );
            record_completed(&deps.audit, Event::SubAgentEnded, &message).await;
        }
        if !is_saved {
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}
