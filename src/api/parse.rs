//! Bodies and queries become wire types, with an error text for each request.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::body::RequestBody;
use super::decode::{DecodeError, decode, decode_json};
use crate::service::{
    AgentsQuery, AuditQuery, Event, InvalidRequest, MetricsQuery, PageStart, TextFormat, Timestamp,
};
use crate::wire::admin::ReloadRequest;
use crate::wire::agent::{
    AttestRequest, CertificateRequest, IntrospectionRequest, ProveRequest, TokenRequest, UseNonceRequest,
};
use crate::wire::anomaly::ResumeRequest;
use crate::wire::approvals::DecideRequest;
use crate::wire::change::ApproveRequest;
use crate::wire::credentials::{
    PutCredentialRequest, ReleaseRequest, RemoveCredentialRequest, RotateCredentialRequest,
};
use crate::wire::delegate::DelegateRequest;
use crate::wire::enroll::{CredentialRequest, InstallRequest};
use crate::wire::keys::{ConfirmRecoveryKeyRequest, RecoverRequest, RotateRequest};
use crate::wire::leak::LeakRequest;
use crate::wire::lifecycle::MAX_LISTED_AGENTS;
use crate::wire::metrics::MAX_AGENT_SERIES;
use crate::wire::offboarding::OffboardRequest;
use crate::wire::posture::PostureAcceptRequest;
use crate::wire::review::SignReviewRequest;
use crate::wire::revocation::{FreezeRequest, RevokeOwnRequest, RevokeRequest};
use crate::wire::signal::SignalRequest;
use crate::wire::tenants::RemoveTenantRequest;

/// Default `limit` of `GET /v1/audit`.
const DEFAULT_AUDIT_RECORDS: u64 = 20;
/// What a body with a recovery key must be.
const RECOVERY_KEY_BODY: &str = "the body must be {\"recovery_key\": \"hbr1-...\"}";

pub fn token_request(body: &RequestBody) -> Result<TokenRequest<'_>, InvalidRequest> {
    decode(body).map_err(|e| not_a(body, "a token request", &e))
}

/// An empty body is a request without members.
pub fn certificate_request(body: &RequestBody) -> Result<CertificateRequest<'_>, InvalidRequest> {
    if body.bytes.trim_ascii().is_empty() {
        return Ok(CertificateRequest::default());
    }
    decode(body).map_err(|e| not_a(body, "a certificate request", &e))
}

pub fn introspection_request(body: &RequestBody) -> Result<IntrospectionRequest, InvalidRequest> {
    decode(body).map_err(|error| match &error {
        // The error names the column only, because the body holds a token.
        DecodeError::Json(e) => {
            let column = e.column();
            InvalidRequest::new(format!("the body is not the JSON of an introspection, near column {column}"))
        }
        _ => not_a(body, "an introspection", &error),
    })
}

/// The error names the column only, because the body may hold a token.
pub fn prove_request(body: &RequestBody) -> Result<ProveRequest<'_>, InvalidRequest> {
    decode(body).map_err(|error| match &error {
        DecodeError::Json(e) if e.is_data() => {
            let expected = "{\"kind\": K, \"method\": M, \"url\": U}, and may have body_sha256, nonce, content_type, \
                            credential, token, audience and \
                            agent; K is dpop, wpt, http-signature, client-assertion, client-attestation or sigv4";
            InvalidRequest::new(format!("the body must be {expected}"))
        }
        DecodeError::Json(e) => {
            let column = e.column();
            InvalidRequest::new(format!("the body is not the JSON of a proof request, near column {column}"))
        }
        _ => not_a(body, "a proof request", &error),
    })
}

pub fn delegate_request(body: &RequestBody) -> Result<DelegateRequest<'_>, InvalidRequest> {
    decode_json(&body.bytes).map_err(|e| {
        let expected = "the body must be {\"name\": N, \"cgroup\": PATH}, and may have grants, ttl and agent";
        InvalidRequest::new(format!("{expected}: {e}"))
    })
}

pub fn use_nonce_request(body: &RequestBody) -> Result<UseNonceRequest, InvalidRequest> {
    decode(body).map_err(|e| not_a(body, "the use of a nonce", &e))
}

pub fn attest_request(body: &RequestBody) -> Result<AttestRequest, InvalidRequest> {
    decode(body).map_err(|e| not_a(body, "an evidence request", &e))
}

/// An empty body is a request without members.
pub fn reload_request(body: &RequestBody) -> Result<ReloadRequest, InvalidRequest> {
    if body.bytes.trim_ascii().is_empty() {
        return Ok(ReloadRequest::default());
    }
    decode_json(&body.bytes).map_err(|e| {
        let expected = r#"{"allow_empty": []}, with "agents", "roles" or "federation" in the list"#;
        InvalidRequest::new(format!("the body must be empty or {expected}: {e}"))
    })
}

pub fn approve_request(body: &RequestBody) -> Result<ApproveRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|e| {
        let expected = "the body must be {\"digest\": D}, with the digest of the change that was examined";
        InvalidRequest::new(format!("{expected}: {e}"))
    })
}

pub fn release_request(body: &RequestBody) -> Result<ReleaseRequest<'_>, InvalidRequest> {
    decode(body).map_err(|e| not_a(body, "a credential request", &e))
}

/// The error holds nothing of the body, which has a value in it.
pub fn put_credential_request(body: &RequestBody) -> Result<PutCredentialRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|_| {
        InvalidRequest::new(
            "the body must be {\"name\": N, \"value\": V}, and may have tenant and expires_at (RFC 3339)",
        )
    })
}

/// As [`put_credential_request`].
pub fn rotate_credential_request(body: &RequestBody) -> Result<RotateCredentialRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|_| {
        InvalidRequest::new(
            "the body must be {\"name\": N, \"value\": V}, and may have tenant, expires_at (RFC 3339) and \
             overlap (seconds)",
        )
    })
}

pub fn remove_credential_request(body: &RequestBody) -> Result<RemoveCredentialRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|e| {
        InvalidRequest::new(format!("the body must be {{\"name\": N}}, and may have tenant and version: {e}"))
    })
}

/// The error names the column only, because the body holds a token.
pub fn revoke_own_request(body: &RequestBody) -> Result<RevokeOwnRequest, InvalidRequest> {
    decode(body).map_err(|error| match &error {
        DecodeError::Json(e) => {
            let column = e.column();
            InvalidRequest::new(format!("the body is not the JSON of a revocation, near column {column}"))
        }
        _ => not_a(body, "a revocation", &error),
    })
}

/// The error holds nothing of the body, which may have a token in it.
pub fn revoke_request(body: &RequestBody) -> Result<RevokeRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|error| match error {
        unknown @ DecodeError::UnknownField { .. } => InvalidRequest::new(unknown.to_string()),
        _ => InvalidRequest::new(
            "the body must be an object with one of token, jti, agent, invocation, owner, tenant and key, and may \
             have reason and unregistered",
        ),
    })
}

/// As [`revoke_request`].
pub fn leak_request(body: &RequestBody) -> Result<LeakRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|error| match error {
        unknown @ DecodeError::UnknownField { .. } => InvalidRequest::new(unknown.to_string()),
        _ => InvalidRequest::new(
            "the body must be an object with one of token, jti and serial, and may have agent, invocation, dry_run \
             and reason",
        ),
    })
}

pub fn signal_request(body: &RequestBody) -> Result<SignalRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|error| match error {
        unknown @ DecodeError::UnknownField { .. } => InvalidRequest::new(unknown.to_string()),
        _ => InvalidRequest::new("the body must be {\"set\": S}, with a security event token"),
    })
}

/// An empty body is a request without a reason.
pub fn freeze_request(body: &RequestBody) -> Result<FreezeRequest, InvalidRequest> {
    if body.bytes.trim_ascii().is_empty() {
        return Ok(FreezeRequest::default());
    }
    decode_json(&body.bytes)
        .map_err(|e| InvalidRequest::new(format!("the body must be empty or {{\"reason\": R}}: {e}")))
}

pub fn offboard_request(body: &RequestBody) -> Result<OffboardRequest, InvalidRequest> {
    decode_json(&body.bytes)
        .map_err(|e| InvalidRequest::new(format!("the body must be {{\"name\": N}}: {e}")))
}

pub fn sign_review_request(body: &RequestBody) -> Result<SignReviewRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|e| {
        InvalidRequest::new(format!(
            "the body must be {{\"sha256\": D, \"reviewer\": NAME, \"since\": T, ...}}: {e}"
        ))
    })
}

pub fn remove_tenant_request(body: &RequestBody) -> Result<RemoveTenantRequest, InvalidRequest> {
    decode_json(&body.bytes)
        .map_err(|e| InvalidRequest::new(format!("the body must be {{\"name\": N}}: {e}")))
}

pub fn resume_request(body: &RequestBody) -> Result<ResumeRequest, InvalidRequest> {
    decode_json(&body.bytes)
        .map_err(|e| InvalidRequest::new(format!("the body must be {{\"agent\": NAME}}: {e}")))
}

pub fn decide_request(body: &RequestBody) -> Result<DecideRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|e| {
        InvalidRequest::new(format!(
            "the body must be {{\"id\": ID, \"digest\": D, \"decision\": \"approve\" or \"deny\"}}, and may have \
             reason: {e}"
        ))
    })
}

/// An empty body is a request without members.
pub fn rotate_request(body: &RequestBody) -> Result<RotateRequest, InvalidRequest> {
    if body.bytes.trim_ascii().is_empty() {
        return Ok(RotateRequest::default());
    }
    decode_json(&body.bytes).map_err(|e| {
        InvalidRequest::new(format!(
            "the body must be {{\"now\": true}} or {{\"now\": false}}, and may have tenant: {e}"
        ))
    })
}

/// The error holds nothing of the body, which has a recovery key in it.
pub fn confirm_recovery_key_request(body: &RequestBody) -> Result<ConfirmRecoveryKeyRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|_| InvalidRequest::new(RECOVERY_KEY_BODY))
}

/// As [`confirm_recovery_key_request`].
pub fn recover_request(body: &RequestBody) -> Result<RecoverRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|_| InvalidRequest::new(RECOVERY_KEY_BODY))
}

pub fn posture_accept_request(body: &RequestBody) -> Result<PostureAcceptRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|e| {
        let expected = "the body must be {\"digest\": D}, with the digest of the state that was examined";
        InvalidRequest::new(format!("{expected}: {e}"))
    })
}

pub fn credential_request(body: &RequestBody) -> Result<CredentialRequest, InvalidRequest> {
    decode_json(&body.bytes).map_err(|e| {
        InvalidRequest::new(format!(
            "the body must be {{\"ek\": \"ecc\" or \"rsa\", \"credential\": BASE64}}: {e}"
        ))
    })
}

pub fn install_request(body: &RequestBody) -> Result<InstallRequest, InvalidRequest> {
    decode_json(&body.bytes)
        .map_err(|e| InvalidRequest::new(format!("the body must be {{\"certificate\": PEM}}: {e}")))
}

/// The query of `GET /v1/audit`, and its `limit`.
pub fn audit_query(query: &str) -> Result<(AuditQuery, u64), InvalidRequest> {
    let (mut parsed, mut limit) = (AuditQuery::default(), DEFAULT_AUDIT_RECORDS);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let number = || {
            value.parse().map_err(|_| InvalidRequest::new(format!("{name}= in the query must be a number")))
        };
        let time = || {
            Timestamp::deserialize(Value::from(&*value)).map_err(|_| {
                InvalidRequest::new(format!("{name}= must be a time in UTC, such as 2026-11-26T10:00:00Z"))
            })
        };
        match &*name {
            "limit" => limit = number()?,
            "after" | "before" if parsed.start != PageStart::End => {
                return Err(InvalidRequest::new("the query may have after= or before= once"));
            }
            "after" => parsed.start = PageStart::After(number()?),
            "before" => parsed.start = PageStart::Before(number()?),
            "agent" => parsed.agent = Some(value.into_owned()),
            "owner" => parsed.owner = Some(value.into_owned()),
            "tenant" => parsed.tenant = Some(value.into_owned()),
            "instance" => parsed.instance = Some(value.into_owned()),
            "audience" => parsed.audience = Some(value.into_owned()),
            "reason" => parsed.reason = Some(value.into_owned()),
            "jti" => parsed.jti = Some(value.into_owned()),
            "serial" => parsed.serial = Some(value.into_owned()),
            "correlation" => parsed.correlation_id = Some(value.into_owned()),
            "event" => {
                let unknown = || {
                    let name = value.escape_debug();
                    InvalidRequest::new(format!("no event of the audit log is named \"{name}\""))
                };
                parsed.event = Some(Event::from_name(&value).ok_or_else(unknown)?);
            }
            "since" => parsed.since = Some(time()?),
            "until" => parsed.until = Some(time()?),
            _ => {
                return Err(InvalidRequest::new(
                    "the query may have after= or before=, limit=, agent=, owner=, tenant=, instance=, event=, \
                     audience=, reason=, jti=, serial=, correlation=, since= and until=",
                ));
            }
        }
    }
    Ok((parsed, limit))
}

/// The query of `GET /v1/agents`.
pub fn agents_query(query: &str) -> Result<AgentsQuery, InvalidRequest> {
    let mut parsed = AgentsQuery::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let limit = || value.parse().ok().filter(|limit| (1..=MAX_LISTED_AGENTS).contains(limit));
        match &*name {
            "after" if parsed.after.is_none() => parsed.after = Some(value.into_owned()),
            "limit" if parsed.limit.is_none() => {
                let limit = limit().ok_or_else(|| {
                    InvalidRequest::new(format!("limit= must be a number from 1 to {MAX_LISTED_AGENTS}"))
                })?;
                parsed.limit = Some(limit as usize);
            }
            _ => return Err(InvalidRequest::new("the query may have after= and limit=, each once")),
        }
    }
    Ok(parsed)
}

/// The query of `GET /v1/metrics`.
pub fn metrics_query(query: &str) -> Result<MetricsQuery, InvalidRequest> {
    let (mut format, mut agents) = (None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "format" if format.is_none() => {
                format = Some(match &*value {
                    "openmetrics" => TextFormat::OpenMetrics,
                    "prometheus" => TextFormat::Prometheus,
                    _ => return Err(InvalidRequest::new("format= must be openmetrics or prometheus")),
                });
            }
            "agents" if agents.is_none() => {
                let number = value.parse().ok().filter(|number| *number <= MAX_AGENT_SERIES);
                let invalid = || format!("agents= must be a number from 0 to {MAX_AGENT_SERIES}");
                agents = Some(number.ok_or_else(|| InvalidRequest::new(invalid()))?);
            }
            _ => return Err(InvalidRequest::new("the query may have format= and agents=, each once")),
        }
    }
    Ok(MetricsQuery { format: format.unwrap_or_default(), agents })
}

/// `unseen_for` of `GET /v1/lifecycle`.
pub fn lifecycle_query(query: &str) -> Result<Option<Duration>, InvalidRequest> {
    let mut unseen_for = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "unseen_for" || unseen_for.is_some() {
            return Err(InvalidRequest::new("the query may have unseen_for=, once"));
        }
        let seconds =
            value.parse().map_err(|_| InvalidRequest::new("unseen_for= must be a number of seconds"))?;
        unseen_for = Some(Duration::from_secs(seconds));
    }
    Ok(unseen_for)
}

/// `agent` of `GET /v1/processes/{pid}` and `GET /v1/policies`.
pub fn agent_query(query: &str) -> Result<Option<Cow<'_, str>>, InvalidRequest> {
    let mut agent = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "agent" || agent.replace(value).is_some() {
            return Err(InvalidRequest::new("the query may have agent=, once"));
        }
    }
    Ok(agent)
}

fn not_a(body: &RequestBody, what: &str, error: &DecodeError) -> InvalidRequest {
    match error {
        DecodeError::UnknownField { .. } => InvalidRequest::new(error.to_string()),
        _ => {
            let encoding = if body.is_form { "form" } else { "JSON" };
            InvalidRequest::new(format!("the body is not the {encoding} of {what}: {error}"))
        }
    }
}

#[cfg(test)]
mod tests;
