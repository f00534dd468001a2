//! Replies: made from what has been recorded, or from documents that anyone may read.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, PRAGMA, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::audit::Recorded;
use crate::clock::Timestamp;
use crate::enroll::pem;
use crate::issue::{Introspection, Proof, Token};
use crate::peer::Facts;
use crate::pki::Certificate;
use crate::policy::{Reason, Refusal};
use crate::road::Refused;

pub type Reply = Response<Full<Bytes>>;

/// RFC 6749 section 5.2, with what the daemon saw of a caller that is nobody.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    error_description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a Facts>,
}

/// RFC 6749 section 5.1.
#[derive(Serialize)]
struct TokenBody<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    scope: &'a str,
}

/// JSON that nobody may keep.
pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    let text = serde_json::to_vec(value).unwrap_or_else(|_| b"{\"error\":\"server_error\"}".to_vec());
    unkept(status, Bytes::from(text))
}

/// Evidence, which is large: it is written by another thread, and keeps its place until the caller has taken it.
pub async fn proof(proof: Recorded<Proof>) -> Reply {
    match tokio::task::spawn_blocking(move || proof.into_inner().into_answer()).await {
        Ok(Ok(text)) => unkept(StatusCode::OK, text),
        _ => {
            error(StatusCode::INTERNAL_SERVER_ERROR, Reason::ServerError.as_str(), "the evidence is no JSON")
        }
    }
}

fn unkept(status: StatusCode, text: Bytes) -> Reply {
    let mut reply = document(text);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// JSON that anyone may read and keep for a while.
pub fn document(text: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(text));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    reply
}

/// An error of the protocol itself, before any decision.
pub fn error(status: StatusCode, code: &str, description: &str) -> Reply {
    json(status, &ErrorBody { error: code, error_description: description, peer: None })
}

/// The same, and the connection is of no more use.
pub fn fatal(status: StatusCode, description: &str) -> Reply {
    let mut reply = error(status, "invalid_request", description);
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

pub fn not_found() -> Reply {
    error(
        StatusCode::NOT_FOUND,
        "invalid_request",
        "there is nothing at this path; see the API's description",
    )
}

pub fn wrong_method(allowed: &'static str) -> Reply {
    let mut reply =
        error(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "this path takes another method");
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

pub fn token(token: &Recorded<Token>) -> Reply {
    let token = token.get();
    let body = TokenBody {
        access_token: token.text(),
        token_type: "Bearer",
        expires_in: token.permit().ttl().as_secs(),
        scope: token.permit().scope(),
    };
    let mut reply = json(StatusCode::OK, &body);
    reply.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
    reply
}

#[derive(Serialize)]
struct CertificateBody<'a> {
    certificate_chain: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<&'a str>,
    expires_at: Timestamp,
}

pub fn certificate(certificate: &Recorded<Certificate>) -> Reply {
    let certificate = certificate.get();
    let chain: String = certificate.chain().iter().map(|der| pem("CERTIFICATE", der)).collect();
    let key = certificate.key().map(|der| Zeroizing::new(pem("PRIVATE KEY", der)));
    let body = CertificateBody {
        certificate_chain: &chain,
        private_key: key.as_ref().map(|key| key.as_str()),
        expires_at: certificate.expires(),
    };
    json(StatusCode::OK, &body)
}

pub fn introspection(answer: &Recorded<Introspection>) -> Reply {
    json(StatusCode::OK, answer.get())
}

pub fn refused(refused: &Refused) -> Reply {
    match refused {
        Refused::Recorded(refusal) => refusal_body(refusal.get()),
        Refused::Unrecorded(why) => {
            error(StatusCode::SERVICE_UNAVAILABLE, Reason::TemporarilyUnavailable.as_str(), &why.to_string())
        }
    }
}

fn refusal_body(refusal: &Refusal) -> Reply {
    let status = match refusal.reason {
        Reason::InvalidRequest | Reason::InvalidScope | Reason::InvalidTarget => StatusCode::BAD_REQUEST,
        Reason::InvalidClient => StatusCode::UNAUTHORIZED,
        Reason::AccessDenied => StatusCode::FORBIDDEN,
        Reason::SlowDown => StatusCode::TOO_MANY_REQUESTS,
        Reason::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Reason::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let seen = refusal.peer.as_deref().filter(|_| refusal.reason == Reason::InvalidClient);
    let body =
        ErrorBody { error: refusal.reason.as_str(), error_description: &refusal.description, peer: seen };
    let mut reply = json(status, &body);
    if let Some(wait) = refusal.retry_after {
        // Whole seconds, rounded up (RFC 9110 section 10.2.3).
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
            reply.headers_mut().insert(RETRY_AFTER, value);
        }
    }
    reply
}
