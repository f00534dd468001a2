//! Has what rules find about agents handled, compares the files of agents' units, and stores what is learnt.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::alert_handler::{AlertHandler, AlertTargets, action_of};
use super::alert_sender::AlertSender;
use super::component::ComponentTask;
use crate::agents::{AgentEntry, AgentRegistry};
use crate::anomaly::{Anomalies, AnomalyFile};
use crate::audit::Audit;
use crate::config::{AnomalyActions, AnomalyRule};
use crate::delegation::Delegations;
use crate::peer::unit_digest;
use crate::revocation::Revocations;

/// How often the files of units are compared.
const UNITS_INTERVAL: Duration = Duration::from_secs(60);
/// Units that are compared in one go.
const MAX_UNITS: usize = 4096;
/// How often what is learnt is stored.
const SAVE_INTERVAL: Duration = Duration::from_secs(300);

/// What the anomaly monitor is built from.
#[derive(Clone)]
pub(super) struct AnomalyDeps {
    /// The profiles and the alerts.
    pub anomalies: Anomalies,
    /// What rules do, where an agent's file does not say it.
    pub actions: AnomalyActions,
    /// The registered agents.
    pub agents: AgentRegistry,
    /// Where a suspension takes effect.
    pub revocations: Revocations,
    /// The sub-agents, which end with it.
    pub delegations: Delegations,
    /// Audit log, for each alert.
    pub audit: Audit,
    /// State directory: `anomaly.json`.
    pub state_dir: PathBuf,
    /// Where each alert is sent.
    pub socket: PathBuf,
}

/// The running anomaly monitor.
pub(super) struct AnomalyHandle {
    deps: AnomalyDeps,
    task: ComponentTask,
}

/// Starts the anomaly monitor on the current runtime.
pub(super) fn spawn(deps: AnomalyDeps) -> AnomalyHandle {
    let task = ComponentTask::spawn(|stop| run(deps.clone(), stop));
    AnomalyHandle { deps, task }
}

impl AnomalyHandle {
    /// Stops the anomaly monitor once the last alerts are handled, and stores what was learnt. Call it after the last
    /// request has been served.
    pub async fn stop(self) {
        self.task.stop().await;
        save(&self.deps).await;
    }
}

async fn run(deps: AnomalyDeps, stop: CancellationToken) {
    // Taken once, by the one component of this kind.
    let Some(alerts) = deps.anomalies.take_receiver() else { return };
    let (sender, to_socket) = AlertSender::new(deps.socket.clone());
    let targets = AlertTargets {
        anomalies: deps.anomalies.clone(),
        actions: deps.actions.clone(),
        agents: deps.agents.clone(),
        revocations: deps.revocations.clone(),
        delegations: deps.delegations.clone(),
        audit: deps.audit.clone(),
        to_socket,
    };
    tokio::select! {
        // Goes on after `stop` until the last alerts are handled.
        () = AlertHandler::new(targets).run(alerts, stop) => {}
        () = sender.run() => {}
        () = restore_and_save(&deps) => {}
        () = compare_units(&deps) => {}
        () = follow_actions(&deps) => {}
    }
}

/// A rule from which more follows than before has an alert at its next finding, also within the hour after an alert
/// from which less followed.
async fn follow_actions(deps: &AnomalyDeps) {
    let mut changes = deps.agents.subscribe();
    let mut previous = deps.agents.current();
    // The registry outlives this: `deps` has it.
    while changes.changed().await.is_ok() {
        let current = deps.agents.current();
        for entry in current.iter() {
            let old = previous.get(entry.name.as_str()).filter(|old| !Arc::ptr_eq(old, entry));
            let Some(old) = old else { continue };
            for rule in AnomalyRule::ALL {
                let action = |entry: &AgentEntry| action_of(Some(entry), &deps.actions, *rule);
                if action(entry) > action(old) {
                    deps.anomalies.rearm(entry.name.as_str(), *rule);
                }
            }
        }
        previous = current;
    }
}

/// Compares the files of the units that agents' conditions name.
async fn compare_units(deps: &AnomalyDeps) {
    loop {
        tokio::time::sleep(UNITS_INTERVAL).await;
        let agents = deps.agents.current();
        let named = |entry: &Arc<AgentEntry>| Some((entry.clone(), entry.selectors.unit.clone()?));
        let units: Vec<(Arc<AgentEntry>, String)> = agents.iter().filter_map(named).take(MAX_UNITS).collect();
        let read = move || -> Vec<(Arc<AgentEntry>, String, [u8; 8])> {
            let digest = |(entry, unit): (Arc<AgentEntry>, String)| {
                // A unit without files, or whose files cannot be read now, is compared once they can.
                let digest = unit_digest(&unit).ok()?;
                Some((entry, unit, std::array::from_fn(|at| digest.0[at])))
            };
            units.into_iter().filter_map(digest).collect()
        };
        let Ok(read) = tokio::task::spawn_blocking(read).await else { return };
        for (entry, unit, digest) in read {
            deps.anomalies.observe_unit(entry.name.as_str(), entry.tenant.as_deref(), &unit, digest);
        }
    }
}

async fn restore_and_save(deps: &AnomalyDeps) {
    let dir = deps.state_dir.clone();
    let file = match tokio::task::spawn_blocking(move || AnomalyFile::read(&dir)).await {
        Ok(Ok(file)) => file,
        Ok(Err(error)) => {
            tracing::warn!(
                "{error}. It is replaced: all agents are observed from now on as if they were new, and compared with \
                 themselves once the learning time has passed"
            );
            None
        }
        Err(_) => return,
    };
    deps.anomalies.restore(file);
    loop {
        tokio::time::sleep(SAVE_INTERVAL).await;
        save(deps).await;
    }
}

/// A failed write is repeated after the interval.
async fn save(deps: &AnomalyDeps) {
    let (dir, anomalies) = (deps.state_dir.clone(), deps.anomalies.clone());
    let write = move || anomalies.to_file().map_or(Ok(()), |file| file.write(&dir));
    if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
        tracing::warn!("cannot write anomaly.json: {error}");
    }
}
