//! Bodies and queries become wire types: JSON, and forms where OAuth asks for them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::body::RequestBody;
use crate::service::{AuditQuery, Event, InvalidRequest, PageStart, Timestamp};
use crate::wire::agent::{
    AttestRequest, CertificateRequest, EvidenceFormat, IntrospectionRequest, TokenRequest, Ttl,
};
use crate::wire::enroll::{CredentialRequest, InstallRequest};
use crate::wire::keys::{RecoverRequest, RotateRequest};
use crate::wire::posture::PostureAcceptRequest;

/// Default `limit` of `GET /v1/audit`.
const DEFAULT_AUDIT_RECORDS: u64 = 20;

pub fn token_request(body: &RequestBody) -> Result<TokenRequest<'_>, InvalidRequest> {
    if !body.is_form {
        return serde_json::from_slice(&body.bytes)
            .map_err(|e| InvalidRequest::new(format!("the body is not the JSON of a token request: {e}")));
    }
    let names = ["audience", "resource", "scope", "ttl", "agent", "grant_type"];
    let [audience, resource, scope, ttl, agent, grant_type] = form_fields(&body.bytes, names)?;
    Ok(TokenRequest { audience, resource, scope, ttl: ttl.map(Ttl::from_text), agent, grant_type })
}

/// An empty body is a request without members.
pub fn certificate_request(body: &RequestBody) -> Result<CertificateRequest<'_>, InvalidRequest> {
    if body.bytes.trim_ascii().is_empty() {
        return Ok(CertificateRequest::default());
    }
    if body.is_form {
        let [csr, ttl, agent] = form_fields(&body.bytes, ["csr", "ttl", "agent"])?;
        return Ok(CertificateRequest { csr, ttl: ttl.map(Ttl::from_text), agent });
    }
    json_object(&body.bytes)
        .map_err(|e| InvalidRequest::new(format!("the body is not the JSON of a certificate request: {e}")))
}

pub fn introspection_request(body: &RequestBody) -> Result<IntrospectionRequest, InvalidRequest> {
    if !body.is_form {
        // The error names the column only, because the body holds a token.
        return serde_json::from_slice(&body.bytes).map_err(|e| {
            let column = e.column();
            InvalidRequest::new(format!("the body is not the JSON of an introspection, near column {column}"))
        });
    }
    let [token, audience] = form_fields(&body.bytes, ["token", "audience"])?;
    let token = token.ok_or_else(|| InvalidRequest::new("token is missing"))?.into_owned();
    Ok(IntrospectionRequest { token, audience: audience.map(Cow::into_owned), token_type_hint: None })
}

pub fn attest_request(body: &RequestBody) -> Result<AttestRequest, InvalidRequest> {
    if !body.is_form {
        return serde_json::from_slice(&body.bytes).map_err(|e| {
            InvalidRequest::new(format!("the body is not the JSON of an evidence request: {e}"))
        });
    }
    let [nonce, format] = form_fields(&body.bytes, ["nonce", "format"])?;
    let nonce = nonce.ok_or_else(|| InvalidRequest::new("nonce is missing"))?.into_owned();
    let format = match format.as_deref() {
        None | Some("evidence") => EvidenceFormat::Evidence,
        Some("eat") => EvidenceFormat::Eat,
        Some(_) => return Err(InvalidRequest::new("format must be evidence or eat")),
    };
    Ok(AttestRequest { nonce, format })
}

/// An empty body is a request without members.
pub fn rotate_request(body: &RequestBody) -> Result<RotateRequest, InvalidRequest> {
    if body.bytes.trim_ascii().is_empty() {
        return Ok(RotateRequest::default());
    }
    json_object(&body.bytes).map_err(|e| {
        InvalidRequest::new(format!("the body must be {{\"now\": true}} or {{\"now\": false}}: {e}"))
    })
}

/// The error holds nothing of the body, which has a recovery key in it.
pub fn recover_request(body: &RequestBody) -> Result<RecoverRequest, InvalidRequest> {
    json_object(&body.bytes)
        .map_err(|_| InvalidRequest::new("the body must be {\"recovery_key\": \"hbr1-...\"}"))
}

pub fn posture_accept_request(body: &RequestBody) -> Result<PostureAcceptRequest, InvalidRequest> {
    json_object(&body.bytes).map_err(|e| {
        let expected = "the body must be {\"digest\": D}, with the digest of the state that was examined";
        InvalidRequest::new(format!("{expected}: {e}"))
    })
}

pub fn credential_request(body: &RequestBody) -> Result<CredentialRequest, InvalidRequest> {
    json_object(&body.bytes).map_err(|e| {
        InvalidRequest::new(format!(
            "the body must be {{\"ek\": \"ecc\" or \"rsa\", \"credential\": BASE64}}: {e}"
        ))
    })
}

pub fn install_request(body: &RequestBody) -> Result<InstallRequest, InvalidRequest> {
    json_object(&body.bytes)
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
                    "the query may have after= or before=, limit=, agent=, event=, since= and until=",
                ));
            }
        }
    }
    Ok((parsed, limit))
}

/// serde reads an array as the members of a struct in their order, so anything but an object is refused
/// first.
fn json_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> serde_json::Result<T> {
    serde_json::from_slice(if text.trim_ascii_start().starts_with(b"{") { text } else { b"" })
}

/// The values of the named fields of a form (RFC 6749 appendix B). Other fields are ignored (section 3.2),
/// and a field that occurs twice is an error.
fn form_fields<'a, const N: usize>(
    text: &'a [u8],
    names: [&str; N],
) -> Result<[Option<Cow<'a, str>>; N], InvalidRequest> {
    let mut values = [const { None }; N];
    for (name, value) in form_urlencoded::parse(text) {
        let Some(index) = names.iter().position(|expected| *expected == name) else { continue };
        if values[index].replace(value).is_some() {
            return Err(InvalidRequest::new(format!("{} occurs twice in the form", names[index])));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn body(is_form: bool, text: &str) -> RequestBody {
        RequestBody { is_form, bytes: Bytes::copy_from_slice(text.as_bytes()) }
    }

    #[test]
    fn json_and_form_are_equivalent() {
        let json = body(false, r#"{"audience":"https://x","scope":"b a","ttl":60,"agent":"r"}"#);
        let form = body(true, "audience=https%3A%2F%2Fx&scope=b+a&ttl=60&agent=r&client_id=z");
        let request = token_request(&json).unwrap();
        assert_eq!(request, token_request(&form).unwrap());
        assert_eq!(request.ttl, Some(Ttl::Seconds(60)));
    }

    #[test]
    fn malformed_json_is_described() {
        for (text, expected) in [
            ("", "EOF"),
            ("{", "EOF"),
            ("[]", "JSON"),
            (r#"{"audience":1}"#, "invalid type: integer"),
            (r#"{"audience":["a"]}"#, "invalid type: sequence"),
            (r#"{"audience":"a","audience":"a"}"#, "duplicate field `audience`"),
            (r#"{"audience":"a","scpoe":"x"}"#, "unknown field `scpoe`"),
            (r#"{"audience":"a"} x"#, "trailing characters"),
        ] {
            let body = body(false, text);
            let error = token_request(&body).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = format!("{{\"audience\":{}", "[".repeat(60_000));
        assert!(token_request(&body(false, &deep)).is_err());
    }

    #[test]
    fn repeated_form_field_is_an_error() {
        let twice = body(true, "audience=a&audience=b");
        assert!(token_request(&twice).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn audit_queries_name_what_is_wrong() {
        let (query, limit) = audit_query("after=7&limit=3&event=token-issued&agent=a%20b").unwrap();
        assert_eq!((query.start, limit), (PageStart::After(7), 3));
        assert_eq!((query.agent.as_deref(), query.event), (Some("a b"), Some(Event::TokenIssued)));
        let (query, limit) = audit_query("before=7&since=2026-11-26T10:00:00Z").unwrap();
        assert_eq!((query.start, limit), (PageStart::Before(7), DEFAULT_AUDIT_RECORDS));
        assert_eq!(query.since.unwrap().to_string(), "2026-11-26T10:00:00.000000Z");
        for (text, expected) in [
            ("after=x", "after="),
            ("limit=-1", "limit="),
            ("after=1&before=9", "once"),
            ("event=tokens", "\"tokens\""),
            ("until=yesterday", "until="),
            ("lines=3", "may have"),
        ] {
            let error = audit_query(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn arrays_are_not_objects() {
        assert!(rotate_request(&body(false, "[true]")).is_err());
        assert!(rotate_request(&body(false, " {\"now\":true}")).unwrap().now);
        assert!(posture_accept_request(&body(false, "[\"d\"]")).is_err());
        assert!(
            recover_request(&body(false, "[\"hbr1-secret\"]"))
                .is_err_and(|e| !e.to_string().contains("secret"))
        );
    }
}
