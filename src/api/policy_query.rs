//! The query of `GET /v1/policies/why`.

use serde::Deserialize;
use serde_json::Value;

use crate::service::{InvalidRequest, PolicyWhyQuery, Timestamp};

/// The query of `GET /v1/policies/why`.
pub fn policy_why_query(query: &str) -> Result<PolicyWhyQuery, InvalidRequest> {
    let mut parsed = PolicyWhyQuery::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let number = || {
            value.parse().map_err(|_| InvalidRequest::new(format!("{name}= in the query must be a number")))
        };
        let text = || Some(value.clone().into_owned());
        match &*name {
            "agent" => parsed.agent = text(),
            "record" => parsed.record = Some(number()?),
            "action" => parsed.action = text(),
            "audience" => parsed.audience = text(),
            "scope" => parsed.scopes.push(value.clone().into_owned()),
            "ttl" => parsed.ttl = Some(number()?),
            "credential" => parsed.credential = text(),
            "kind" => parsed.kind = text(),
            "method" => parsed.method = text(),
            "url" => parsed.url = text(),
            "body_sha256" => parsed.body_sha256 = text(),
            "posture" => parsed.posture = text(),
            "time" => {
                let time = Timestamp::deserialize(Value::from(&*value)).map_err(|_| {
                    InvalidRequest::new("time= must be a time in UTC, such as 2026-11-26T10:00:00Z")
                })?;
                parsed.time = Some(time);
            }
            "uid" => {
                let uid = u32::try_from(number()?);
                parsed.uid = Some(uid.map_err(|_| InvalidRequest::new("uid= is too large"))?);
            }
            "unit" => parsed.unit = text(),
            "exe_sha256" => parsed.exe_sha256 = text(),
            _ => {
                return Err(InvalidRequest::new(
                    "the query may have agent=, record=, action=, audience=, scope=, ttl=, credential=, kind=, \
                     method=, url=, body_sha256=, posture=, time=, uid=, unit= and exe_sha256=",
                ));
            }
        }
    }
    Ok(parsed)
}
