//! Handles what rules find: suspends the agent at once where the configuration says so, and records both.
//!
//! A suspension is in effect before the next alert is looked at, and waits for nothing. Tasks wait for the disk.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agents::{AgentEntry, AgentRegistry};
use crate::anomaly::{Alert, Anomalies, StoredAlert};
use crate::audit::{Audit, Event};
use crate::config::{AnomalyAction, AnomalyActions, AnomalyRule};
use crate::delegation::Delegations;
use crate::revocation::{
    self, InEffect, NewRevocation, Outcome, Revocations, Target, TargetKind, revoked_by_rule,
};

/// Alerts that are recorded at the same time. Further ones are counted, unless they suspend, which an agent is once.
const MAX_RECORDED: usize = 256;
/// Suspensions that failed and are tried again.
const MAX_FAILED: usize = 1024;
/// How often they are tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How long the last alerts may take when the daemon stops. A component has 2 s for its last step.
const FINISH_TIMEOUT: Duration = Duration::from_millis(1500);

/// Where alerts take effect, and where they go.
#[derive(Clone)]
pub(super) struct AlertTargets {
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
    /// To the administrator's program.
    pub to_socket: mpsc::Sender<StoredAlert>,
}

/// The alerts that are being recorded, and the suspensions that failed.
pub(super) struct AlertHandler {
    targets: AlertTargets,
    tasks: JoinSet<()>,
    /// By the agent.
    failed: HashMap<String, Alert>,
}

impl AlertHandler {
    /// A handler without alerts.
    pub fn new(targets: AlertTargets) -> AlertHandler {
        AlertHandler { targets, tasks: JoinSet::new(), failed: HashMap::new() }
    }

    /// Handles alerts until the daemon stops, and then those that are still there.
    pub async fn run(mut self, mut alerts: mpsc::Receiver<Alert>, stop: CancellationToken) {
        let mut retry = tokio::time::interval(RETRY_INTERVAL);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(alert) = alerts.recv() => self.begin(alert),
                Some(_) = self.tasks.join_next() => {}
                _ = retry.tick() => self.retry_failed(),
            }
        }
        while let Ok(alert) = alerts.try_recv() {
            self.begin(alert);
        }
        self.retry_failed();
        self.finish().await;
    }

    /// Suspends the agent, if that is to follow, and has the alert recorded.
    fn begin(&mut self, alert: Alert) {
        let action = self.targets.action(&alert);
        if action == AnomalyAction::Off {
            return;
        }
        let suspension = match action {
            AnomalyAction::Suspend => self.suspend(&alert),
            _ => None,
        };
        if suspension.is_none() && self.tasks.len() >= MAX_RECORDED {
            self.targets.anomalies.note_dropped();
            return;
        }
        let targets = self.targets.clone();
        self.tasks.spawn(async move { targets.record(alert, suspension).await });
    }

    /// Revokes all of the agent. Returns what is in effect; `None` if the agent is revoked already, or cannot be.
    fn suspend(&mut self, alert: &Alert) -> Option<InEffect> {
        match self.targets.suspend(alert) {
            Ok(in_effect) => {
                self.failed.remove(&alert.agent);
                Some(in_effect).filter(|in_effect| in_effect.outcome == Outcome::Revoked)
            }
            Err(error) => {
                let agent = &alert.agent;
                let next = match self.failed.len() < MAX_FAILED || self.failed.contains_key(agent) {
                    true => {
                        self.failed.entry(agent.clone()).or_insert_with(|| alert.clone());
                        "the daemon tries it again every 5 s"
                    }
                    false => "too many suspensions have failed for the daemon to try it again",
                };
                tracing::error!("agent {agent} is not suspended, and {next}: {error}");
                None
            }
        }
    }

    /// Suspends the agents whose suspension failed, unless it is not to follow any more.
    fn retry_failed(&mut self) {
        for (agent, alert) in std::mem::take(&mut self.failed) {
            if self.targets.action(&alert) != AnomalyAction::Suspend {
                continue;
            }
            match self.targets.suspend(&alert) {
                Ok(in_effect) if in_effect.outcome == Outcome::Revoked => {
                    let targets = self.targets.clone();
                    self.tasks.spawn(async move { targets.record_suspension(&alert, in_effect).await });
                }
                Ok(_) => {}
                Err(_) => drop(self.failed.insert(agent, alert)),
            }
        }
    }

    async fn finish(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let is_late = tokio::time::timeout(FINISH_TIMEOUT, all).await.is_err();
        if is_late {
            let left = self.tasks.len();
            tracing::error!("the daemon stops before {left} alerts of rules for anomalies are recorded");
        }
        for alert in self.failed.values() {
            tracing::error!("the daemon stops, and agent {} is not suspended: {}", alert.agent, alert.detail);
        }
    }
}

impl AlertTargets {
    /// Of the agent's file, else of the configuration, else the default.
    fn action(&self, alert: &Alert) -> AnomalyAction {
        let agents = self.agents.current();
        action_of(agents.get(&alert.agent).map(|entry| &**entry), &self.actions, alert.rule)
    }

    /// Revokes all of the agent, in effect when this returns.
    fn suspend(&self, alert: &Alert) -> Result<InEffect, revocation::Error> {
        let mut reason = alert.detail.clone();
        while reason.len() > revocation::MAX_REASON {
            reason.pop();
        }
        let in_effect = self.revocations.put_into_effect(NewRevocation {
            target: Target::new(TargetKind::Agent, &alert.agent),
            is_blocking: true,
            revoked_by: revoked_by_rule(alert.rule.name()),
            reason,
        })?;
        self.delegations.end_agents(&alert.agent, "it or an agent above it was suspended");
        Ok(in_effect)
    }

    async fn record(&self, alert: Alert, suspension: Option<InEffect>) {
        let (agent, detail, rule) = (&alert.agent, &alert.detail, alert.rule.name());
        let repeats = match alert.repeats {
            0 => String::new(),
            n => format!("; and {n} times more since the alert before"),
        };
        let message = format!("agent {agent}: {detail}{repeats} (rule {rule})");
        self.write(Event::AnomalyDetected, &alert, &message).await;
        if let Some(in_effect) = suspension {
            self.record_suspension(&alert, in_effect).await;
        }
        let stored = StoredAlert {
            time: alert.time,
            rule: rule.to_owned(),
            agent: alert.agent,
            detail: alert.detail,
            suspended: suspension.is_some(),
            repeats: alert.repeats,
        };
        self.anomalies.keep(alert.rule, stored.clone());
        // A program that is too slow misses alerts; the records have them all.
        let _ = self.to_socket.try_send(stored);
    }

    /// Records a suspension, once it is on disk.
    async fn record_suspension(&self, alert: &Alert, in_effect: InEffect) {
        let (agent, detail, rule) = (&alert.agent, &alert.detail, alert.rule.name());
        if let Err(error) = self.revocations.stored(in_effect).await {
            tracing::error!("the suspension of agent {agent} is in effect: {error}");
        }
        let message = format!(
            "the rule {rule} suspended agent {agent}: {detail}. All that it has is revoked, and nothing more is \
             issued until \"hostbadge anomaly resume {agent}\""
        );
        self.write(Event::AgentSuspended, alert, &message).await;
    }

    /// What was found stays found: a failing audit log only adds an error with the same message to the journal.
    async fn write(&self, event: Event, alert: &Alert, message: &str) {
        if let Err(audit_error) = self.audit.record_alert(event, alert, message).await {
            tracing::error!("{message}; {audit_error}");
        }
    }
}

/// What follows from a finding of the rule: of the agent's file, else of the configuration, else the default.
pub(super) fn action_of(
    entry: Option<&AgentEntry>,
    actions: &AnomalyActions,
    rule: AnomalyRule,
) -> AnomalyAction {
    let own = entry.and_then(|entry| entry.anomaly.actions.get(rule));
    own.or_else(|| actions.get(rule)).unwrap_or_else(|| rule.default_action())
}

#[cfg(test)]
mod tests;
