//! Records what rules find about agents, suspends agents where the configuration says so, compares the files of their
//! units, and stores what is learnt.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::alert_sender::AlertSender;
use super::component::ComponentTask;
use crate::agents::{AgentEntry, AgentRegistry};
use crate::anomaly::{Alert, Anomalies, AnomalyFile, StoredAlert};
use crate::audit::{Audit, Event};
use crate::config::{AnomalyAction, AnomalyActions, AnomalyRule};
use crate::issue::Issuer;
use crate::peer::unit_digest;
use crate::revocation::{self, NewRevocation, Outcome, Revocations, Target, TargetKind, revoked_by_rule};

/// How often the files of units are compared.
const UNITS_INTERVAL: Duration = Duration::from_secs(60);
/// Units that are compared in one go.
const MAX_UNITS: usize = 4096;
/// How often what is learnt is stored.
const SAVE_INTERVAL: Duration = Duration::from_secs(300);
/// Alerts that are recorded, or whose suspension is stored, at the same time.
const MAX_HANDLED: usize = 64;

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
    /// Signs nothing that is revoked.
    pub issuer: Issuer,
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
    /// Stops the anomaly monitor, and stores what was learnt. Call it after the last request has been served.
    pub async fn stop(self) {
        self.task.stop().await;
        save(&self.deps).await;
    }
}

async fn run(deps: AnomalyDeps, stop: CancellationToken) {
    // Taken once, by the one component of this kind.
    let Some(alerts) = deps.anomalies.take_receiver() else { return };
    let (sender, to_socket) = AlertSender::new(deps.socket.clone());
    tokio::select! {
        () = stop.cancelled() => {}
        () = handle_alerts(&deps, alerts, to_socket) => {}
        () = sender.run() => {}
        () = restore_and_save(&deps) => {}
        () = compare_units(&deps) => {}
    }
}

/// A suspension is in effect before the next alert is looked at; what follows from it waits for the disk elsewhere.
async fn handle_alerts(
    deps: &AnomalyDeps,
    mut alerts: mpsc::Receiver<Alert>,
    to_socket: mpsc::Sender<StoredAlert>,
) {
    let handled = Arc::new(Semaphore::new(MAX_HANDLED));
    while let Some(alert) = alerts.recv().await {
        // Fails only if the semaphore is closed, which nothing does.
        let Ok(permit) = handled.clone().acquire_owned().await else { return };
        let (deps, to_socket) = (deps.clone(), to_socket.clone());
        tokio::spawn(async move {
            handle(&deps, alert, &to_socket).await;
            drop(permit);
        });
    }
}

async fn handle(deps: &AnomalyDeps, alert: Alert, to_socket: &mpsc::Sender<StoredAlert>) {
    let action = action(deps, &alert);
    let target = Target::new(TargetKind::Agent, &alert.agent);
    let revocations = deps.revocations.current();
    let is_blocked = revocations.get(&target).is_some_and(|one| one.is_blocking);
    // All requests of a revoked agent, and on a frozen host, are refused, which is no finding.
    let agents = deps.agents.current();
    let is_refused =
        agents.get(&alert.agent).is_some_and(|entry| revocations.blocking_entry(entry).is_some());
    if action == AnomalyAction::Off || is_refused && alert.rule == AnomalyRule::Refusals {
        return;
    }
    let rule = alert.rule.name();
    let is_suspended = match action {
        AnomalyAction::Suspend if !is_blocked => suspend(deps, &alert, target).await,
        _ => false,
    };
    let repeats = match alert.repeats {
        0 => String::new(),
        n => format!("; and {n} times more since the alert before"),
    };
    let (agent, detail) = (&alert.agent, &alert.detail);
    let message = format!("agent {agent}: {detail}{repeats} (rule {rule})");
    record(&deps.audit, Event::AnomalyDetected, &alert, &message).await;
    if is_suspended {
        let message = format!(
            "the rule {rule} suspended agent {agent}: {detail}. All that it has is revoked, and nothing more is \
             issued until \"hostbadge anomaly resume {agent}\""
        );
        record(&deps.audit, Event::AgentSuspended, &alert, &message).await;
    }
    let stored = StoredAlert {
        time: alert.time,
        rule: rule.to_owned(),
        agent: alert.agent,
        detail: alert.detail,
        suspended: is_suspended,
        repeats: alert.repeats,
    };
    deps.anomalies.keep(alert.rule, stored.clone());
    // A program that is too slow misses alerts; the records have them all.
    let _ = to_socket.try_send(stored);
}

/// Of the agent's file, else of the configuration, else the default.
fn action(deps: &AnomalyDeps, alert: &Alert) -> AnomalyAction {
    let agents = deps.agents.current();
    let own = agents.get(&alert.agent).and_then(|entry| entry.anomaly.actions.get(alert.rule));
    own.or_else(|| deps.actions.get(alert.rule)).unwrap_or_else(|| alert.rule.default_action())
}

/// Revokes all of the agent. It is in effect before this waits for the disk.
async fn suspend(deps: &AnomalyDeps, alert: &Alert, target: Target) -> bool {
    let mut reason = alert.detail.clone();
    while reason.len() > revocation::MAX_REASON {
        reason.pop();
    }
    let new =
        NewRevocation { target, is_blocking: true, revoked_by: revoked_by_rule(alert.rule.name()), reason };
    let revoked = deps.revocations.revoke(new).await;
    deps.issuer.apply_revocations(&deps.revocations.current());
    match revoked {
        Ok(outcome) => outcome == Outcome::Revoked,
        Err(error @ revocation::Error::NotStored(_)) => {
            tracing::error!("the suspension of agent {} is in effect: {error}", alert.agent);
            true
        }
        Err(error) => {
            tracing::error!("agent {} is not suspended: {error}", alert.agent);
            false
        }
    }
}

/// What was found stays found: a failing audit log only adds an error with the same message to the journal.
async fn record(audit: &Audit, event: Event, alert: &Alert, message: &str) {
    if let Err(audit_error) = audit.record_alert(event, alert, message).await {
        tracing::error!("{message}; {audit_error}");
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
