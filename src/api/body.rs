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
use crate::issue::{Challenge, Format, Nonce, Query};
use crate::policy::Ask;
use crate::road::CertificateAsk;
use crate::vault::RecoveryKey;

/// Largest body.
const MOST: usize = 64 * 1024;
/// A body up to this size needs no room of its own.
const SMALL: usize = 4096;
/// Larger ones that may be on their way at once: 16 MiB altogether.
const LARGE_AT_ONCE: usize = 256;
/// Of a larger one this much is thrown away, so that its sender hears the answer.
const DISCARD_MOST: usize = 32 * 1024 * 1024;
/// A sender that takes longer is not honest.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest audience, scope list and agent name; longer ones match nothing.
const WORD_MOST: usize = 4096;

/// A body and how it says it is written.
pub struct Body {
    pub form: bool,
    pub text: Bytes,
}

/// Room for bodies that are large and not yet whole, shared by all connections.
pub struct Room(Semaphore);

impl Default for Room {
    fn default() -> Self {
        Room(Semaphore::new(LARGE_AT_ONCE))
    }
}

impl Room {
    /// Reads a body to its end.
    pub async fn read(&self, request: Request<Incoming>) -> Result<Body, Reply> {
        read(&self.0, request).await
    }
}

async fn read(room: &Semaphore, request: Request<Incoming>) -> Result<Body, Reply> {
    let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes()).unwrap_or_default();
    let kind = kind.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    let json = kind.eq_ignore_ascii_case(b"application/json");
    let form = kind.is_empty() || kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded");
    if !json && !form {
        let what = "the body is to be application/json or application/x-www-form-urlencoded";
        return Err(reply::fatal(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
    }
    let text = match tokio::time::timeout(PATIENCE, collect(room, request.into_body())).await {
        Ok(Ok(text)) => text,
        Ok(Err(Unread::TooLarge)) => {
            return Err(reply::fatal(StatusCode::PAYLOAD_TOO_LARGE, "a body has at most 64 KiB"));
        }
        Ok(Err(Unread::NoRoom)) => {
            let what = "too many large bodies arrive at once; try again soon";
            return Err(reply::error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", what));
        }
        Ok(Err(Unread::Broken)) => {
            return Err(reply::fatal(
                StatusCode::BAD_REQUEST,
                "the body broke off or is not framed as it says",
            ));
        }
        Err(_) => {
            return Err(reply::fatal(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 10 s"));
        }
    };
    // curl -d says "form" whatever it sends; a form of ours never begins with a brace.
    let form = form && text.trim_ascii_start().first() != Some(&b'{');
    Ok(Body { form, text })
}

/// Why there is no whole body.
enum Unread {
    Broken,
    NoRoom,
    TooLarge,
}

async fn collect(room: &Semaphore, mut body: Incoming) -> Result<Bytes, Unread> {
    let mut text = BytesMut::new();
    let mut discarded = 0;
    let mut place = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        if discarded == 0 && text.len() + data.len() <= MOST {
            if place.is_none() && text.len() + data.len() > SMALL {
                place = Some(room.try_acquire().map_err(|_| Unread::NoRoom)?);
            }
            text.extend_from_slice(&data);
            continue;
        }
        discarded += text.len() + data.len();
        text.clear();
        if discarded > DISCARD_MOST {
            break;
        }
    }
    if discarded > 0 { Err(Unread::TooLarge) } else { Ok(text.freeze()) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskBody<'a> {
    #[serde(borrow)]
    audience: Option<Cow<'a, str>>,
    resource: Option<Cow<'a, str>>,
    scope: Option<Cow<'a, str>>,
    ttl: Option<Lifetime<'a>>,
    agent: Option<Cow<'a, str>>,
    grant_type: Option<Cow<'a, str>>,
}

/// Seconds, or a duration like "5m".
#[derive(Deserialize)]
#[serde(untagged, expecting = "ttl is a number of seconds or a duration like \"5m\"")]
enum Lifetime<'a> {
    Seconds(u64),
    Text(#[serde(borrow)] Cow<'a, str>),
}

impl<'a> Lifetime<'a> {
    fn of_form(text: Cow<'a, str>) -> Lifetime<'a> {
        match text.parse() {
            Ok(seconds) => Lifetime::Seconds(seconds),
            Err(_) => Lifetime::Text(text),
        }
    }

    fn read(self) -> Result<Duration, String> {
        let ttl = match self {
            Lifetime::Seconds(seconds) => Duration::from_secs(seconds),
            Lifetime::Text(text) => humantime::parse_duration(&text)
                .map_err(|_| "ttl is a number of seconds or a duration like \"5m\"")?,
        };
        match ttl < Duration::from_secs(1) {
            true => Err("ttl is at least one second".into()),
            false => Ok(ttl),
        }
    }
}

/// What a token request asks for. The error is for the caller.
pub fn ask(body: &Body) -> Result<Ask, String> {
    let written: AskBody<'_> = if body.form {
        let mut fields =
            Form::parse(&body.text, &["audience", "resource", "scope", "ttl", "agent", "grant_type"])?;
        AskBody {
            audience: fields.take(0),
            resource: fields.take(1),
            scope: fields.take(2),
            ttl: fields.take(3).map(Lifetime::of_form),
            agent: fields.take(4),
            grant_type: fields.take(5),
        }
    } else {
        serde_json::from_slice(&body.text)
            .map_err(|e| format!("the body is not the JSON of a token request: {e}"))?
    };
    if written.grant_type.is_some_and(|kind| kind != "client_credentials") {
        return Err("grant_type, where given, is client_credentials".into());
    }
    let audience = match (written.audience, written.resource) {
        (Some(audience), Some(resource)) if audience != resource => {
            return Err("audience and resource are two names of one thing, but differ".into());
        }
        (Some(audience), _) | (None, Some(audience)) => audience,
        (None, None) => return Err("audience is missing: whom is the token for?".into()),
    };
    if audience.is_empty() || audience.len() > WORD_MOST || !audience.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("audience is visible ASCII, as the relying party writes it".into());
    }
    let scopes = match written.scope {
        None => None,
        Some(scope) if scope.len() > WORD_MOST => return Err("scope is longer than 4096 characters".into()),
        Some(scope) => {
            let scopes: Vec<String> =
                scope.split(' ').filter(|word| !word.is_empty()).map(String::from).collect();
            if scopes.iter().any(|word| !crate::agents::is_scope(word)) {
                return Err("scope is words of visible ASCII, separated by spaces".into());
            }
            Some(scopes)
        }
    };
    let ttl = written.ttl.map(Lifetime::read).transpose()?;
    let agent = written.agent.map(Cow::into_owned);
    if agent.as_ref().is_some_and(|name| name.len() > WORD_MOST) {
        return Err("agent is a name as whoami gives it".into());
    }
    Ok(Ask { audience: audience.into_owned(), scopes, ttl, agent })
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CertificateBody<'a> {
    #[serde(borrow)]
    csr: Option<Cow<'a, str>>,
    ttl: Option<Lifetime<'a>>,
    agent: Option<Cow<'a, str>>,
}

/// What a request for a certificate says. An empty body says nothing, which is enough.
pub fn certificate(body: &Body) -> Result<CertificateAsk, String> {
    let written = if body.text.trim_ascii().is_empty() {
        CertificateBody::default()
    } else if body.form {
        let mut fields = Form::parse(&body.text, &["csr", "ttl", "agent"])?;
        let (csr, ttl, agent) = (fields.take(0), fields.take(1), fields.take(2));
        CertificateBody { csr, ttl: ttl.map(Lifetime::of_form), agent }
    } else {
        // serde reads a list as the members in their order.
        let object = if body.text.trim_ascii_start().starts_with(b"{") { &body.text[..] } else { b"" };
        serde_json::from_slice(object)
            .map_err(|e| format!("the body is not the JSON of a request for a certificate: {e}"))?
    };
    let agent = written.agent.map(Cow::into_owned);
    if agent.as_ref().is_some_and(|name| name.len() > WORD_MOST) {
        return Err("agent is a name as whoami gives it".into());
    }
    let ttl = written.ttl.map(Lifetime::read).transpose()?;
    Ok(CertificateAsk { csr: written.csr.map(Cow::into_owned), agent, ttl })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryBody {
    token: String,
    audience: Option<String>,
    /// RFC 7662 section 2.1: a hint, of which we have no need.
    #[serde(rename = "token_type_hint")]
    _hint: Option<String>,
}

/// What an introspection asks about.
pub fn query(body: &Body) -> Result<Query, String> {
    if !body.form {
        let written: QueryBody = serde_json::from_slice(&body.text)
            // The text may hold a token, so its error is not repeated word for word.
            .map_err(|e| {
                format!("the body is not the JSON of an introspection, near column {}", e.column())
            })?;
        return Ok(Query { token: written.token, audience: written.audience });
    }
    let mut fields = Form::parse(&body.text, &["token", "audience"])?;
    let token = fields.take(0).ok_or("token is missing")?.into_owned();
    Ok(Query { token, audience: fields.take(1).map(Cow::into_owned) })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChallengeBody {
    nonce: String,
    #[serde(default)]
    format: Format,
}

/// The challenge that evidence is asked for.
pub fn challenge(body: &Body) -> Result<Challenge, String> {
    if !body.form {
        let written: ChallengeBody = serde_json::from_slice(&body.text)
            .map_err(|e| format!("the body is not the JSON of a request for evidence: {e}"))?;
        return Ok(Challenge { nonce: Nonce::parse(&written.nonce)?, format: written.format });
    }
    let mut fields = Form::parse(&body.text, &["nonce", "format"])?;
    let nonce = Nonce::parse(&fields.take(0).ok_or("nonce is missing")?)?;
    let format = match fields.take(1).as_deref() {
        None | Some("evidence") => Format::Evidence,
        Some("eat") => Format::Eat,
        Some(_) => return Err("format is evidence or eat".into()),
    };
    Ok(Challenge { nonce, format })
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RotationBody {
    now: bool,
}

/// Whether the next issuing key is to sign at once. An empty body says no.
pub fn rotation(body: &Body) -> Result<bool, String> {
    if body.text.trim_ascii().is_empty() {
        return Ok(false);
    }
    // serde reads a list as the members in their order.
    let object = if body.text.trim_ascii_start().starts_with(b"{") { &body.text[..] } else { b"" };
    serde_json::from_slice::<RotationBody>(object)
        .map(|written| written.now)
        .map_err(|e| format!("the body is {{\"now\": true}} or {{\"now\": false}}: {e}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecoveryBody {
    recovery_key: Zeroizing<String>,
    #[serde(default)]
    accept: bool,
}

/// The recovery key that an administrator typed, and whether the state is to be taken as it is as well. Errors never hold
/// any of it.
pub fn recovery_key(body: &Body) -> Result<(RecoveryKey, bool), String> {
    let object = if body.text.trim_ascii_start().starts_with(b"{") { &body.text[..] } else { b"" };
    let written: RecoveryBody = serde_json::from_slice(object)
        .map_err(|_| "the body is {\"recovery_key\": \"hbr1-...\"}".to_owned())?;
    let key = RecoveryKey::parse(&written.recovery_key).map_err(|e| e.to_string())?;
    Ok((key, written.accept))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AcceptanceBody {
    digest: String,
}

/// The digest of the state that is to be accepted. What else is named is unknown: it is not passed over, and not taken for
/// done.
pub fn acceptance(body: &Body) -> Result<String, String> {
    // serde reads a list as the members in their order.
    let object = if body.text.trim_ascii_start().starts_with(b"{") { &body.text[..] } else { b"" };
    serde_json::from_slice::<AcceptanceBody>(object)
        .map(|body| body.digest)
        .map_err(|e| format!("the body is {{\"digest\": D}}, of the state that was looked at: {e}"))
}

/// Fields of a form (RFC 6749 appendix B). Unknown ones are passed over, as its section 3.2 demands.
struct Form<'a>(Vec<Option<Cow<'a, str>>>);

impl<'a> Form<'a> {
    fn parse(text: &'a [u8], names: &[&str]) -> Result<Form<'a>, String> {
        let mut values = vec![None; names.len()];
        for (name, value) in form_urlencoded::parse(text) {
            let Some(at) = names.iter().position(|known| *known == name) else { continue };
            if values[at].replace(value).is_some() {
                return Err(format!("{} stands twice in the form", names[at]));
            }
        }
        Ok(Form(values))
    }

    fn take(&mut self, at: usize) -> Option<Cow<'a, str>> {
        self.0[at].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<Ask, String> {
        ask(&Body { form: false, text: Bytes::copy_from_slice(text.as_bytes()) })
    }

    fn form(text: &str) -> Result<Ask, String> {
        ask(&Body { form: true, text: Bytes::copy_from_slice(text.as_bytes()) })
    }

    #[test]
    fn json_and_form_say_the_same() {
        let one = json(r#"{"audience":"https://x","scope":"b a","ttl":60,"agent":"r"}"#).unwrap();
        assert_eq!(
            one,
            form(
                "audience=https%3A%2F%2Fx&scope=b+a&ttl=60&agent=r&grant_type=client_credentials&client_id=z"
            )
            .unwrap()
        );
        assert_eq!(one.scopes.unwrap(), ["b", "a"]);
        assert_eq!(one.ttl.unwrap().as_secs(), 60);
        assert_eq!(json(r#"{"resource":"https://x","ttl":"5m"}"#).unwrap().ttl.unwrap().as_secs(), 300);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, wanted) in [
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
            let error = json(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert!(form("audience=a&audience=b").unwrap_err().contains("twice"));
        assert!(form("audience=%ff").unwrap_err().contains("visible ASCII"));
        assert!(form("audience=a&grant_type=password").unwrap_err().contains("client_credentials"));
        let deep = format!("{{\"audience\":{}", "[".repeat(60_000));
        assert!(json(&deep).is_err());
    }
}
