//! Bodies: read within bounds, parsed into what the road takes.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::reply::{self, Reply};
use crate::issue::{AttestRequest, EvidenceFormat, IntrospectionRequest, Nonce};
use crate::keystore::RecoveryKey;
use crate::policy::TokenRequest;
use crate::service::CertificateRequest;

/// Largest body.
const MAX_BODY_SIZE: usize = 64 * 1024;
/// A body up to this size needs no room of its own.
const SMALL_BODY_SIZE: usize = 4096;
/// Larger ones that may be on their way at once: 16 MiB altogether.
const MAX_LARGE_BODIES: usize = 256;
/// Of a larger one this much is thrown away, so that its sender hears the answer.
const MAX_DISCARDED_BYTES: usize = 32 * 1024 * 1024;
/// A sender that takes longer is not honest.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest audience, scope list and agent name; longer ones match nothing.
const MAX_FIELD_LEN: usize = 4096;

/// A body and how it says it is written.
pub struct RequestBody {
    pub is_form: bool,
    pub bytes: Bytes,
}

/// Room for bodies that are large and not yet whole, shared by all connections.
pub struct BodyBudget(Semaphore);

impl Default for BodyBudget {
    fn default() -> Self {
        BodyBudget(Semaphore::new(MAX_LARGE_BODIES))
    }
}

impl BodyBudget {
    /// Reads a body to its end.
    pub async fn read(&self, request: Request<Incoming>) -> Result<RequestBody, Reply> {
        read(&self.0, request).await
    }
}

async fn read(large_bodies: &Semaphore, request: Request<Incoming>) -> Result<RequestBody, Reply> {
    let content_type = request.headers().get(CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    let content_type = content_type.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    let is_json = content_type.eq_ignore_ascii_case(b"application/json");
    let is_form =
        content_type.is_empty() || content_type.eq_ignore_ascii_case(b"application/x-www-form-urlencoded");
    if !is_json && !is_form {
        let description = "the body is to be application/json or application/x-www-form-urlencoded";
        return Err(reply::error_and_close(StatusCode::UNSUPPORTED_MEDIA_TYPE, description));
    }
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, collect(large_bodies, request.into_body())).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(BodyError::TooLarge)) => {
            return Err(reply::error_and_close(StatusCode::PAYLOAD_TOO_LARGE, "a body has at most 64 KiB"));
        }
        Ok(Err(BodyError::Busy)) => {
            let description = "too many large bodies arrive at once; try again soon";
            return Err(reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                description,
            ));
        }
        Ok(Err(BodyError::Malformed)) => {
            return Err(reply::error_and_close(
                StatusCode::BAD_REQUEST,
                "the body broke off or is not framed as it says",
            ));
        }
        Err(_) => {
            return Err(reply::error_and_close(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not arrive within 10 s",
            ));
        }
    };
    // curl -d says "form" whatever it sends; a form of ours never begins with a brace.
    let is_form = is_form && bytes.trim_ascii_start().first() != Some(&b'{');
    Ok(RequestBody { is_form, bytes })
}

/// Why there is no whole body.
enum BodyError {
    Malformed,
    Busy,
    TooLarge,
}

async fn collect(large_bodies: &Semaphore, mut body: Incoming) -> Result<Bytes, BodyError> {
    let mut bytes = BytesMut::new();
    let mut discarded = 0;
    let mut permit = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Malformed)?.into_data() else { continue };
        if discarded == 0 && bytes.len() + data.len() <= MAX_BODY_SIZE {
            if permit.is_none() && bytes.len() + data.len() > SMALL_BODY_SIZE {
                permit = Some(large_bodies.try_acquire().map_err(|_| BodyError::Busy)?);
            }
            bytes.extend_from_slice(&data);
            continue;
        }
        discarded += bytes.len() + data.len();
        bytes.clear();
        if discarded > MAX_DISCARDED_BYTES {
            break;
        }
    }
    if discarded > 0 { Err(BodyError::TooLarge) } else { Ok(bytes.freeze()) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRequestBody<'a> {
    #[serde(borrow)]
    audience: Option<Cow<'a, str>>,
    resource: Option<Cow<'a, str>>,
    scope: Option<Cow<'a, str>>,
    ttl: Option<Ttl<'a>>,
    agent: Option<Cow<'a, str>>,
    grant_type: Option<Cow<'a, str>>,
}

/// Seconds, or a duration like "5m".
#[derive(Deserialize)]
#[serde(untagged, expecting = "ttl is a number of seconds or a duration like \"5m\"")]
enum Ttl<'a> {
    Seconds(u64),
    Text(#[serde(borrow)] Cow<'a, str>),
}

impl<'a> Ttl<'a> {
    fn from_form(text: Cow<'a, str>) -> Ttl<'a> {
        match text.parse() {
            Ok(seconds) => Ttl::Seconds(seconds),
            Err(_) => Ttl::Text(text),
        }
    }

    fn into_duration(self) -> Result<Duration, String> {
        let ttl = match self {
            Ttl::Seconds(seconds) => Duration::from_secs(seconds),
            Ttl::Text(text) => humantime::parse_duration(&text)
                .map_err(|_| "ttl is a number of seconds or a duration like \"5m\"")?,
        };
        match ttl < Duration::from_secs(1) {
            true => Err("ttl is at least one second".into()),
            false => Ok(ttl),
        }
    }
}

/// What a token request asks for. The error is for the caller.
pub fn parse_token_request(body: &RequestBody) -> Result<TokenRequest, String> {
    let raw: TokenRequestBody<'_> = if body.is_form {
        let mut fields =
            FormFields::parse(&body.bytes, &["audience", "resource", "scope", "ttl", "agent", "grant_type"])?;
        TokenRequestBody {
            audience: fields.take(0),
            resource: fields.take(1),
            scope: fields.take(2),
            ttl: fields.take(3).map(Ttl::from_form),
            agent: fields.take(4),
            grant_type: fields.take(5),
        }
    } else {
        serde_json::from_slice(&body.bytes)
            .map_err(|e| format!("the body is not the JSON of a token request: {e}"))?
    };
    if raw.grant_type.is_some_and(|kind| kind != "client_credentials") {
        return Err("grant_type, where given, is client_credentials".into());
    }
    let audience = match (raw.audience, raw.resource) {
        (Some(audience), Some(resource)) if audience != resource => {
            return Err("audience and resource are two names of one thing, but differ".into());
        }
        (Some(audience), _) | (None, Some(audience)) => audience,
        (None, None) => return Err("audience is missing: whom is the token for?".into()),
    };
    if audience.is_empty()
        || audience.len() > MAX_FIELD_LEN
        || !audience.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err("audience is visible ASCII, as the relying party writes it".into());
    }
    let scopes = match raw.scope {
        None => None,
        Some(scope) if scope.len() > MAX_FIELD_LEN => {
            return Err("scope is longer than 4096 characters".into());
        }
        Some(scope) => {
            let scopes: Vec<String> =
                scope.split(' ').filter(|scope| !scope.is_empty()).map(String::from).collect();
            if scopes.iter().any(|scope| !crate::agents::is_scope(scope)) {
                return Err("scope is words of visible ASCII, separated by spaces".into());
            }
            Some(scopes)
        }
    };
    let ttl = raw.ttl.map(Ttl::into_duration).transpose()?;
    let agent = raw.agent.map(Cow::into_owned);
    if agent.as_ref().is_some_and(|name| name.len() > MAX_FIELD_LEN) {
        return Err("agent is a name as whoami gives it".into());
    }
    Ok(TokenRequest { audience: audience.into_owned(), scopes, ttl, agent })
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CertificateRequestBody<'a> {
    #[serde(borrow)]
    csr: Option<Cow<'a, str>>,
    ttl: Option<Ttl<'a>>,
    agent: Option<Cow<'a, str>>,
}

/// What a request for a certificate says. An empty body says nothing, which is enough.
pub fn parse_certificate_request(body: &RequestBody) -> Result<CertificateRequest, String> {
    let raw = if body.bytes.trim_ascii().is_empty() {
        CertificateRequestBody::default()
    } else if body.is_form {
        let mut fields = FormFields::parse(&body.bytes, &["csr", "ttl", "agent"])?;
        let (csr, ttl, agent) = (fields.take(0), fields.take(1), fields.take(2));
        CertificateRequestBody { csr, ttl: ttl.map(Ttl::from_form), agent }
    } else {
        // serde reads a list as the members in their order.
        let object = if body.bytes.trim_ascii_start().starts_with(b"{") { &body.bytes[..] } else { b"" };
        serde_json::from_slice(object)
            .map_err(|e| format!("the body is not the JSON of a request for a certificate: {e}"))?
    };
    let agent = raw.agent.map(Cow::into_owned);
    if agent.as_ref().is_some_and(|name| name.len() > MAX_FIELD_LEN) {
        return Err("agent is a name as whoami gives it".into());
    }
    let ttl = raw.ttl.map(Ttl::into_duration).transpose()?;
    Ok(CertificateRequest { csr: raw.csr.map(Cow::into_owned), agent, ttl })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IntrospectionRequestBody {
    token: String,
    audience: Option<String>,
    /// RFC 7662 section 2.1: a hint, of which we have no need.
    #[serde(rename = "token_type_hint")]
    _hint: Option<String>,
}

/// What an introspection asks about.
pub fn parse_introspection_request(body: &RequestBody) -> Result<IntrospectionRequest, String> {
    if !body.is_form {
        let raw: IntrospectionRequestBody = serde_json::from_slice(&body.bytes)
            // The text may hold a token, so its error is not repeated word for word.
            .map_err(|e| {
                format!("the body is not the JSON of an introspection, near column {}", e.column())
            })?;
        return Ok(IntrospectionRequest { token: raw.token, audience: raw.audience });
    }
    let mut fields = FormFields::parse(&body.bytes, &["token", "audience"])?;
    let token = fields.take(0).ok_or("token is missing")?.into_owned();
    Ok(IntrospectionRequest { token, audience: fields.take(1).map(Cow::into_owned) })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttestRequestBody {
    nonce: String,
    #[serde(default)]
    format: EvidenceFormat,
}

/// The challenge that evidence is asked for.
pub fn parse_attest_request(body: &RequestBody) -> Result<AttestRequest, String> {
    if !body.is_form {
        let raw: AttestRequestBody = serde_json::from_slice(&body.bytes)
            .map_err(|e| format!("the body is not the JSON of a request for evidence: {e}"))?;
        return Ok(AttestRequest { nonce: Nonce::parse(&raw.nonce)?, format: raw.format });
    }
    let mut fields = FormFields::parse(&body.bytes, &["nonce", "format"])?;
    let nonce = Nonce::parse(&fields.take(0).ok_or("nonce is missing")?)?;
    let format = match fields.take(1).as_deref() {
        None | Some("evidence") => EvidenceFormat::Evidence,
        Some("eat") => EvidenceFormat::Eat,
        Some(_) => return Err("format is evidence or eat".into()),
    };
    Ok(AttestRequest { nonce, format })
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RotateRequestBody {
    now: bool,
}

/// Whether the next issuing key is to sign at once. An empty body says no.
pub fn parse_rotate_request(body: &RequestBody) -> Result<bool, String> {
    if body.bytes.trim_ascii().is_empty() {
        return Ok(false);
    }
    // serde reads a list as the members in their order.
    let object = if body.bytes.trim_ascii_start().starts_with(b"{") { &body.bytes[..] } else { b"" };
    serde_json::from_slice::<RotateRequestBody>(object)
        .map(|raw| raw.now)
        .map_err(|e| format!("the body is {{\"now\": true}} or {{\"now\": false}}: {e}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecoverRequestBody {
    recovery_key: Zeroizing<String>,
    #[serde(default)]
    accept: bool,
}

/// The recovery key that an administrator typed, and whether the state is to be taken as it is as well. Errors never hold
/// any of it.
pub fn parse_recover_request(body: &RequestBody) -> Result<(RecoveryKey, bool), String> {
    let object = if body.bytes.trim_ascii_start().starts_with(b"{") { &body.bytes[..] } else { b"" };
    let raw: RecoverRequestBody = serde_json::from_slice(object)
        .map_err(|_| "the body is {\"recovery_key\": \"hbr1-...\"}".to_owned())?;
    let key = RecoveryKey::parse(&raw.recovery_key).map_err(|e| e.to_string())?;
    Ok((key, raw.accept))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostureAcceptRequestBody {
    digest: String,
}

/// The digest of the state that is to be accepted. What else is named is unknown: it is not passed over, and not taken for
/// done.
pub fn parse_posture_accept_request(body: &RequestBody) -> Result<String, String> {
    // serde reads a list as the members in their order.
    let object = if body.bytes.trim_ascii_start().starts_with(b"{") { &body.bytes[..] } else { b"" };
    serde_json::from_slice::<PostureAcceptRequestBody>(object)
        .map(|body| body.digest)
        .map_err(|e| format!("the body is {{\"digest\": D}}, of the state that was looked at: {e}"))
}

/// Fields of a form (RFC 6749 appendix B). Unknown ones are passed over, as its section 3.2 demands.
struct FormFields<'a>(Vec<Option<Cow<'a, str>>>);

impl<'a> FormFields<'a> {
    fn parse(text: &'a [u8], names: &[&str]) -> Result<FormFields<'a>, String> {
        let mut values = vec![None; names.len()];
        for (name, value) in form_urlencoded::parse(text) {
            let Some(index) = names.iter().position(|expected| *expected == name) else { continue };
            if values[index].replace(value).is_some() {
                return Err(format!("{} stands twice in the form", names[index]));
            }
        }
        Ok(FormFields(values))
    }

    fn take(&mut self, index: usize) -> Option<Cow<'a, str>> {
        self.0[index].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_json(text: &str) -> Result<TokenRequest, String> {
        parse_token_request(&RequestBody { is_form: false, bytes: Bytes::copy_from_slice(text.as_bytes()) })
    }

    fn parse_form(text: &str) -> Result<TokenRequest, String> {
        parse_token_request(&RequestBody { is_form: true, bytes: Bytes::copy_from_slice(text.as_bytes()) })
    }

    #[test]
    fn json_and_form_are_equivalent() {
        let from_json = parse_json(r#"{"audience":"https://x","scope":"b a","ttl":60,"agent":"r"}"#).unwrap();
        assert_eq!(
            from_json,
            parse_form(
                "audience=https%3A%2F%2Fx&scope=b+a&ttl=60&agent=r&grant_type=client_credentials&client_id=z"
            )
            .unwrap()
        );
        assert_eq!(from_json.scopes.unwrap(), ["b", "a"]);
        assert_eq!(from_json.ttl.unwrap().as_secs(), 60);
        assert_eq!(parse_json(r#"{"resource":"https://x","ttl":"5m"}"#).unwrap().ttl.unwrap().as_secs(), 300);
    }

    #[test]
    fn errors_describe_the_fault() {
        for (text, expected) in [
            ("", "EOF"),
            ("{", "EOF"),
            ("[]", "JSON"),
            ("{}", "audience is missing"),
            (r#"{"audience":1}"#, "invalid type: integer"),
            (r#"{"audience":["a"]}"#, "invalid type: sequence"),
            (r#"{"audience":"a","audience":"a"}"#, "duplicate field `audience`"),
            (r#"{"audience":"a","scpoe":"x"}"#, "unknown field `scpoe`"),
            (r#"{"audience":"a"} x"#, "trailing characters"),
            (r#"{"audience":"a b"}"#, "visible ASCII"),
            (r#"{"audience":"a\u0000"}"#, "visible ASCII"),
            (r#"{"audience":""}"#, "visible ASCII"),
            (r#"{"audience":"a","resource":"b"}"#, "differ"),
            (r#"{"audience":"a","ttl":-1}"#, "ttl is a number"),
            (r#"{"audience":"a","ttl":0}"#, "at least one second"),
            (r#"{"audience":"a","ttl":"soon"}"#, "ttl is a number"),
            (r#"{"audience":"a","scope":"x\ny"}"#, "scope is words"),
        ] {
            let error = parse_json(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(parse_form("audience=a&audience=b").unwrap_err().contains("twice"));
        assert!(parse_form("audience=%ff").unwrap_err().contains("visible ASCII"));
        assert!(parse_form("audience=a&grant_type=password").unwrap_err().contains("client_credentials"));
        let deep = format!("{{\"audience\":{}", "[".repeat(60_000));
        assert!(parse_json(&deep).is_err());
    }
}
