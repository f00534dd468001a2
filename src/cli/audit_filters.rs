//! The filters of records that the subcommands of `hostbadge audit` share.

use std::fmt::Write as _;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::error::CliError;
use crate::audit::{AuditQuery, Event};
use crate::clock::{Clock, Timestamp};
use crate::config::escape_unprintable;

/// Which records are asked for.
#[derive(Args, Debug)]
pub(super) struct FilterArgs {
    /// Only records about this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,

    /// Only records of processes with this unit, invocation, pid, or SHA-256 digest of the executable
    #[arg(long, value_name = "ID")]
    instance: Option<String>,

    /// Only records about agents that this owner answered for
    #[arg(long, value_name = "OWNER")]
    owner: Option<String>,

    /// Only records about this tenant: its agents, credentials and keys
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,

    /// Only records of this event, such as token-issued or request-refused
    #[arg(long, value_name = "EVENT")]
    event: Option<String>,

    /// Only records with this audience, alone or among others
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,

    /// Only refusals with this error code, such as invalid_target or slow_down
    #[arg(long, value_name = "CODE")]
    reason: Option<String>,

    /// Only records about the token with this identifier
    #[arg(long, value_name = "JTI", visible_alias = "token-id", allow_hyphen_values = true)]
    jti: Option<String>,

    /// Only records about the certificate with this serial number
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,

    /// Only records with this correlation id: the trace id of a traceparent or traceresponse header
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,

    /// Only records from this time on: a time in UTC, such as 2026-11-26T10:00:00Z, or an age, such as 2h
    ///
    /// The search ends at the first record that is more than an hour older, so records that were made with a
    /// clock that was wrong by more are not found.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,

    /// Only records up to this time, as in --since
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
}

impl FilterArgs {
    /// Whether there is a first time.
    pub(super) fn has_since(&self) -> bool {
        self.since.is_some()
    }

    /// The target of a request to the daemon with these filters. `start` has the other parameters.
    pub(super) fn path(&self, start: &str) -> String {
        let mut path = format!("/v1/audit?{start}");
        let (since, until) = (self.since.map(|t| t.to_string()), self.until.map(|t| t.to_string()));
        let filters = [
            ("agent", &self.agent),
            ("instance", &self.instance),
            ("owner", &self.owner),
            ("tenant", &self.tenant),
            ("event", &self.event),
            ("audience", &self.audience),
            ("reason", &self.reason),
            ("jti", &self.jti),
            ("serial", &self.serial),
            ("correlation", &self.correlation),
            ("since", &since),
            ("until", &until),
        ];
        for (name, value) in filters {
            if let Some(value) = value {
                // Writing to a String cannot fail.
                let _ = write!(path, "&{name}={}", percent_encode(value));
            }
        }
        path
    }

    /// The query for reading the log's files.
    ///
    /// # Errors
    /// No event has the name.
    pub(super) fn query(&self) -> Result<AuditQuery, CliError> {
        let event = match self.event.as_deref() {
            None => None,
            Some(name) => Some(Event::from_name(name).ok_or_else(|| {
                let name = escape_unprintable(name).into_owned();
                CliError::Local(format!("no event of the audit log is named \"{name}\""))
            })?),
        };
        Ok(AuditQuery {
            event,
            agent: self.agent.clone(),
            instance: self.instance.clone(),
            owner: self.owner.clone(),
            tenant: self.tenant.clone(),
            audience: self.audience.clone(),
            reason: self.reason.clone(),
            jti: self.jti.clone(),
            serial: self.serial.clone(),
            correlation_id: self.correlation.clone(),
            since: self.since,
            until: self.until,
            ..AuditQuery::default()
        })
    }
}

/// Encodes all but unreserved characters (RFC 3986 section 2.3).
fn percent_encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A time of RFC 3339 in UTC, or an age.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(age) = humantime::parse_duration(text) {
        return Ok(Timestamp::from_secs(Clock::System.now().as_secs().saturating_sub(age.as_secs())));
    }
    Timestamp::deserialize(Value::from(text))
        .map_err(|_| "give a time in UTC, such as 2026-11-26T10:00:00Z, or an age, such as 2h".to_owned())
}
