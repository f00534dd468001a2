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
use crate::issue::{AccessToken, EvidenceResponse, Introspection};
use crate::peer::PeerInfo;
use crate::pki::IssuedX509Svid;
use crate::policy::{ErrorCode, Refusal};
use crate::service::RequestError;

pub type Reply = Response<Full<Bytes>>;

/// RFC 6749 section 5.2, with what the daemon saw of a caller that is nobody.
#[derive(Serialize)]
struct ErrorResponse<'a> {
    error: &'a str,
    error_description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a PeerInfo>,
}

/// RFC 6749 section 5.1.
#[derive(Serialize)]
struct TokenResponse<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    scope: &'a str,
}

/// JSON that nobody may keep.
pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    let text = serde_json::to_vec(value).unwrap_or_else(|_| b"{\"error\":\"server_error\"}".to_vec());
    json_no_store(status, Bytes::from(text))
}

/// Evidence, which is large: it is written by another thread, and keeps its place until the caller has taken it.
pub async fn evidence(evidence: Recorded<EvidenceResponse>) -> Reply {
    match tokio::task::spawn_blocking(move || evidence.into_inner().into_json()).await {
        Ok(Ok(text)) => json_no_store(StatusCode::OK, text),
        _ => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::ServerError.as_str(),
            "the evidence is no JSON",
        ),
    }
}

fn json_no_store(status: StatusCode, text: Bytes) -> Reply {
    let mut reply = json_cacheable(text);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// JSON that anyone may read and keep for a while.
pub fn json_cacheable(text: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(text));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    reply
}

/// An error of the protocol itself, before any decision.
pub fn error(status: StatusCode, code: &str, description: &str) -> Reply {
    json(status, &ErrorResponse { error: code, error_description: description, peer: None })
}

/// The same, and the connection is of no more use.
pub fn error_and_close(status: StatusCode, description: &str) -> Reply {
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

pub fn method_not_allowed(allowed: &'static str) -> Reply {
    let mut reply =
        error(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "this path takes another method");
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

pub fn token(token: &Recorded<AccessToken>) -> Reply {
    let token = token.get();
    let body = TokenResponse {
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
struct CertificateResponse<'a> {
    certificate_chain: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<&'a str>,
    expires_at: Timestamp,
}

pub fn certificate(certificate: &Recorded<IssuedX509Svid>) -> Reply {
    let certificate = certificate.get();
    let chain: Result<String, _> = certificate.chain().iter().map(|der| pem("CERTIFICATE", der)).collect();
    let key = certificate.key().map(|der| pem("PRIVATE KEY", der).map(Zeroizing::new)).transpose();
    let (Ok(chain), Ok(key)) = (chain, key) else {
        let description = "cannot write the certificate as PEM";
        return error(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::ServerError.as_str(), description);
    };
    let body = CertificateResponse {
        certificate_chain: &chain,
        private_key: key.as_ref().map(|key| key.as_str()),
        expires_at: certificate.expires(),
    };
    json(StatusCode::OK, &body)
}

pub fn introspection(introspection: &Recorded<Introspection>) -> Reply {
    json(StatusCode::OK, introspection.get())
}

pub fn from_request_error(request_error: &RequestError) -> Reply {
    match request_error {
        RequestError::Denied(refusal) => from_refusal(refusal.get()),
        RequestError::AuditUnavailable(unavailable) => error(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::TemporarilyUnavailable.as_str(),
            &unavailable.to_string(),
        ),
    }
}

fn from_refusal(refusal: &Refusal) -> Reply {
    let status = match refusal.code {
        ErrorCode::InvalidRequest | ErrorCode::InvalidScope | ErrorCode::InvalidTarget => {
            StatusCode::BAD_REQUEST
        }
        ErrorCode::InvalidClient => StatusCode::UNAUTHORIZED,
        ErrorCode::AccessDenied => StatusCode::FORBIDDEN,
        ErrorCode::SlowDown => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let peer = refusal.peer.as_deref().filter(|_| refusal.code == ErrorCode::InvalidClient);
    let body = ErrorResponse { error: refusal.code.as_str(), error_description: &refusal.description, peer };
    let mut reply = json(status, &body);
    if let Some(retry_after) = refusal.retry_after {
        // Whole seconds, rounded up (RFC 9110 section 10.2.3).
        let seconds = retry_after.as_millis().div_ceil(1000).max(1);
        if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
            reply.headers_mut().insert(RETRY_AFTER, value);
        }
    }
    reply
}
