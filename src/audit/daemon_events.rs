//! Records of what happened in the daemon, without a calling process.

use super::event::Event;
use super::record::Record;
use super::{Audit, AuditUnavailable, Recorded, reload};
use crate::agents::AgentChanges;
use crate::anomaly::Alert;

impl Audit {
    /// Records the changes of a reload of the agents, of many agents the first names and their number.
    /// `requested_by` describes the administrator or signal.
    pub async fn record_reload(
        &self,
        changes: AgentChanges,
        requested_by: &str,
    ) -> Result<Recorded<AgentChanges>, AuditUnavailable> {
        let detail = reload::detail(&changes, requested_by);
        self.write(&Record::for_event(Event::AgentsReloaded, &detail, self.clock.now())).await?;
        Ok(Recorded(changes))
    }

    /// Records an event of the daemon.
    pub async fn record_event(&self, event: Event, detail: &str) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_event(event, detail, self.clock.now())).await
    }

    /// Records an event of the daemon that concerns one tenant; `None` where it concerns none.
    pub async fn record_tenant_event(
        &self,
        event: Event,
        tenant: Option<&str>,
        detail: &str,
    ) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_tenant_event(event, tenant, detail, self.clock.now())).await
    }

    /// Records an event of the daemon that concerns one token.
    pub async fn record_token_event(
        &self,
        event: Event,
        jti: &str,
        detail: &str,
    ) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_token_event(event, jti, detail, self.clock.now())).await
    }

    /// Records what a rule found about an agent, or what follows from it.
    pub async fn record_alert(
        &self,
        event: Event,
        alert: &Alert,
        detail: &str,
    ) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_alert(event, alert, detail, self.clock.now())).await
    }

    /// Records an event of the daemon that concerns one agent.
    pub async fn record_agent_event(
        &self,
        event: Event,
        agent: &str,
        tenant: Option<&str>,
        detail: &str,
    ) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_agent_event(event, agent, tenant, detail, self.clock.now())).await
    }

    /// Records a step in the life of an issuing key, of a tenant or of none.
    pub async fn record_key_event(
        &self,
        event: Event,
        kid: &str,
        tenant: Option<&str>,
        detail: &str,
    ) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_key_event(event, kid, tenant, detail, self.clock.now())).await
    }
}
