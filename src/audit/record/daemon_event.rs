//! Records of what happened in the daemon, without a calling process.

use super::super::event::{Event, Outcome};
use super::{Record, described, name};
use crate::anomaly::Alert;
use crate::clock::Timestamp;

impl<'a> Record<'a> {
    /// An event without a caller.
    pub(in crate::audit) fn for_event(event: Event, detail: &'a str, time: Timestamp) -> Record<'a> {
        Record { detail: Some(described(detail)), ..Record::new(event, time) }
    }

    /// An event without a caller that concerns one tenant; `None` where it concerns none.
    pub(in crate::audit) fn for_tenant_event(
        event: Event,
        tenant: Option<&'a str>,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        Record { tenant: tenant.map(name), ..Record::for_event(event, detail, time) }
    }

    /// An event without a caller that concerns one agent.
    pub(in crate::audit) fn for_agent_event(
        event: Event,
        agent: &'a str,
        tenant: Option<&'a str>,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        Record { agent: Some(name(agent)), ..Record::for_tenant_event(event, tenant, detail, time) }
    }

    /// What a rule found, or what follows from it.
    pub(in crate::audit) fn for_alert(
        event: Event,
        alert: &'a Alert,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        let (rule, tenant) = (Some(alert.rule.name()), alert.tenant.as_deref());
        Record { rule, ..Record::for_agent_event(event, &alert.agent, tenant, detail, time) }
    }

    /// An event without a caller that concerns one token.
    pub(in crate::audit) fn for_token_event(
        event: Event,
        jti: &'a str,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        // What an administrator or a signal has done, and not the answer to a process.
        Record { jti: Some(name(jti)), outcome: Outcome::Done, ..Record::for_event(event, detail, time) }
    }

    /// An event of an issuing key, of a tenant or of none.
    pub(in crate::audit) fn for_key_event(
        event: Event,
        kid: &'a str,
        tenant: Option<&'a str>,
        detail: &'a str,
        time: Timestamp,
    ) -> Record<'a> {
        Record { kid: Some(name(kid)), ..Record::for_tenant_event(event, tenant, detail, time) }
    }
}
