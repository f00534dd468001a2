//! What rules found about agents, for administrators.

use std::time::Duration;

use super::admin::{Admin, RootAdmin};
use super::command_budget::StateCommand;
use super::error::{AdminError, InvalidRequest};
use super::identity_service::IdentityService;
use crate::agents::{AgentEntry, is_tenant_name};
use crate::anomaly::{ProfileReport, StoredAlert};
use crate::audit::Event;
use crate::config::{AnomalyAction, AnomalyRule};
use crate::revocation::{Revocation, Target, TargetKind};
use crate::wire::anomaly::{
    AgentAnomalies, AgentProfile, AnomaliesResponse, AnomalyAlert, AnomalyRuleState, ResumeRequest,
    ResumeResponse, SuspendedAgent,
};
use crate::wire::status::AnomaliesStatus;

/// Alerts that are not older are counted in the status.
const RECENT: Duration = Duration::from_secs(24 * 3600);
/// Suspended agents that a warning of the status names.
const MAX_NAMED_AGENTS: usize = 5;

impl IdentityService {
    /// The latest alerts, the rules and the suspended agents.
    pub fn anomalies(&self, _: &Admin) -> AnomaliesResponse {
        let anomalies = &self.deps.anomalies;
        let state = |rule: &AnomalyRule| AnomalyRuleState {
            name: rule.name().to_owned(),
            action: self.anomaly_action(*rule, None).name().to_owned(),
            alerts: Some(anomalies.count(*rule)),
        };
        AnomaliesResponse {
            known_since: anomalies.since(),
            alerts: anomalies.alerts().into_iter().map(AnomalyAlert::from).collect(),
            rules: AnomalyRule::ALL.iter().map(state).collect(),
            suspended: self.suspended_agents(),
            dropped: anomalies.dropped(),
        }
    }

    /// What is known of one agent.
    ///
    /// # Errors
    /// [`AdminError::UnknownAgent`].
    pub fn anomalies_of(&self, _: &Admin, name: &str) -> Result<AgentAnomalies, AdminError> {
        let agents = self.deps.agents.current();
        let entry = agents.get(name).ok_or(AdminError::UnknownAgent)?;
        let anomalies = &self.deps.anomalies;
        let state = |rule: &AnomalyRule| AnomalyRuleState {
            name: rule.name().to_owned(),
            action: self.anomaly_action(*rule, Some(entry)).name().to_owned(),
            alerts: None,
        };
        let alerts = anomalies.alerts().into_iter().filter(|alert| alert.agent == name);
        Ok(AgentAnomalies {
            agent: name.to_owned(),
            rules: AnomalyRule::ALL.iter().map(state).collect(),
            stated_hours: entry.anomaly.stated_hours.as_ref().map(|hours| hours.to_string()),
            profile: anomalies.report(name).map(AgentProfile::from),
            suspended: self.suspended_agents().into_iter().find(|one| one.agent == name),
            alerts: alerts.map(AnomalyAlert::from).collect(),
        })
    }

    /// Ends the suspension of an agent by a rule: what was issued before stays revoked.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`] for an agent that no rule has suspended; [`AdminError::Revocation`],
    /// [`AdminError::AuditUnavailable`], [`AdminError::BudgetExceeded`].
    pub async fn resume_agent(
        &self,
        admin: &RootAdmin,
        request: ResumeRequest,
    ) -> Result<ResumeResponse, AdminError> {
        let agent = request.agent;
        if !is_tenant_name(&agent) {
            return Err(InvalidRequest::new("agent must be an agent's name").into());
        }
        let target = Target::new(TargetKind::Agent, &agent);
        let set = self.deps.revocations.current();
        let Some(revocation) = set.get(&target).filter(|one| one.is_blocking) else {
            return Err(InvalidRequest::new("this agent is not suspended").into());
        };
        let rule = revocation.rule().map(str::to_owned).ok_or_else(|| {
            let by = &revocation.revoked_by;
            InvalidRequest::new(format!(
                "{by} revoked this agent, and no rule: hostbadge revoke lift agent NAME"
            ))
        })?;
        let resumed = async {
            self.audit.ensure_writable()?;
            // A person may revoke the agent meanwhile, which stays.
            self.deps.revocations.lift_epoch(&target, revocation.epoch).await?;
            self.deps.anomalies.resume(&agent);
            let tenant = self.deps.agents.current().get(&agent).and_then(|entry| entry.tenant.clone());
            let done = format!(
                "{} resumed agent {agent}, which the rule {rule} had suspended; what was issued before stays revoked",
                admin.id()
            );
            self.audit.record_agent_event(Event::AgentResumed, &agent, tenant.as_deref(), &done).await?;
            Ok(ResumeResponse { agent: agent.clone(), rule: rule.clone() })
        };
        self.within_budget(admin, StateCommand::Revoke, resumed).await
    }

    /// How many alerts and suspended agents there are.
    pub(in crate::service) fn anomalies_status(&self) -> AnomaliesStatus {
        let since = self.deps.clock.now().before(RECENT);
        let alerts = self.deps.anomalies.alerts();
        AnomaliesStatus {
            alerts: alerts.iter().filter(|alert| alert.time >= since).count(),
            suspended: self.suspended_agents().len(),
        }
    }

    /// The suspended agents, for the status.
    pub(super) fn suspension_warning(&self) -> Option<String> {
        let suspended = self.suspended_agents();
        let named: Vec<String> = suspended
            .iter()
            .take(MAX_NAMED_AGENTS)
            .map(|one| {
                format!("{} by the rule {} since {}", one.agent, one.rule, one.since.to_rfc3339_seconds())
            })
            .collect();
        let more = match suspended.len() - named.len() {
            0 if named.is_empty() => return None,
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        Some(format!(
            "suspended: {}{more}. Look at hostbadge anomaly list; hostbadge anomaly resume AGENT ends it",
            named.join(", ")
        ))
    }

    /// What a rule does for an agent, or where no file of an agent says it.
    fn anomaly_action(&self, rule: AnomalyRule, entry: Option<&AgentEntry>) -> AnomalyAction {
        let own = entry.and_then(|entry| entry.anomaly.actions.get(rule));
        own.or_else(|| self.deps.anomaly_actions.get(rule)).unwrap_or_else(|| rule.default_action())
    }

    /// Agents that a rule has suspended, in alphabetical order.
    fn suspended_agents(&self) -> Vec<SuspendedAgent> {
        let set = self.deps.revocations.current();
        let suspended = |revocation: &Revocation| {
            let is_agent = revocation.target.kind() == TargetKind::Agent && revocation.is_blocking;
            let rule = revocation.rule().filter(|_| is_agent)?.to_owned();
            let (agent, detail) = (revocation.target.value().to_owned(), revocation.reason.clone());
            Some(SuspendedAgent { agent, rule, since: revocation.revoked_at, detail })
        };
        let mut agents: Vec<SuspendedAgent> = set.iter().filter_map(suspended).collect();
        agents.sort_by(|one, other| one.agent.cmp(&other.agent));
        agents
    }
}

impl From<StoredAlert> for AnomalyAlert {
    fn from(alert: StoredAlert) -> AnomalyAlert {
        let StoredAlert { time, rule, agent, detail, suspended, repeats } = alert;
        AnomalyAlert { time, rule, agent, detail, suspended, repeats }
    }
}

impl From<ProfileReport> for AgentProfile {
    fn from(report: ProfileReport) -> AgentProfile {
        AgentProfile {
            last_seen: report.last_seen,
            learning_left: report.learning_left.map(|left| left.as_secs().max(1)),
            hourly_mean: report.hourly_mean,
            hourly_threshold: report.hourly_threshold,
            refusals_threshold: report.refusals_threshold,
            working_hours: report.working_hours,
            weekend_hours: report.weekend_hours,
            known_names: report.known_names,
            longest_share: report.longest_share,
        }
    }
}
