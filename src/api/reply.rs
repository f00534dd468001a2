//! Replies of the HTTP sockets: made from recorded results, from errors, and from public documents.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, PRAGMA, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::Notify;

use crate::correlation::{Correlation, TRACERESPONSE};
use crate::service::{
    AdminError, ErrorClass, ErrorCode, EvidenceResponse, InspectError, MetricsText, Recorded, RequestError,
    StatusListDocument,
};
use crate::wire::agent::TokenResponse;
use crate::wire::error::{ErrorResponse, NO_SUCH_PATH};

/// Bytes of most replies without a token.
const SMALL_REPLY: usize = 256;

/// A complete response.
pub type Reply = Response<Full<Bytes>>;

/// Status 200 with a body that must not be stored.
pub fn ok(value: &impl Serialize) -> Reply {
    json(StatusCode::OK, value, SMALL_REPLY)
}

/// A token (RFC 6749 section 5.1, which asks for `Pragma` too).
pub fn token(token: &TokenResponse<'_>) -> Reply {
    let mut reply = json(StatusCode::OK, token, token.access_token.len() + token.scope.len() + SMALL_REPLY);
    reply.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
    reply
}

/// Evidence. It is serialized on a blocking thread, because it can have tens of megabytes, and its memory
/// slot is released when the caller has received it, or after `recall` was notified.
pub async fn evidence(evidence: Recorded<EvidenceResponse>, recall: Arc<Notify>) -> Reply {
    match tokio::task::spawn_blocking(move || evidence.into_inner().into_json(recall)).await {
        Ok(Ok(text)) => json_no_store(StatusCode::OK, text),
        _ => server_error("the evidence could not be serialized"),
    }
}

/// Status 200 with a public document that may be cached for 300 s.
pub fn json_cacheable(text: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(text));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    reply
}

/// Status 200 with a public document that may be cached for 300 s.
pub fn cacheable(value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(text) => json_cacheable(text.into()),
        Err(error) => server_error(&error.to_string()),
    }
}

/// Status 200 with a status list (Token Status List, section 8.2).
pub fn status_list(list: StatusListDocument) -> Reply {
    let mut reply = json_cacheable(list.text);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/statuslist+jwt"));
    if let Ok(value) = HeaderValue::from_str(&format!("max-age={}", list.max_age.as_secs())) {
        headers.insert(CACHE_CONTROL, value);
    }
    reply
}

/// Status 200 with metrics, in the media type of their format.
pub fn metrics(metrics: MetricsText) -> Reply {
    let mut reply = json_no_store(StatusCode::OK, metrics.text.into());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics.content_type));
    reply
}

/// Status 500.
pub fn server_error(description: &str) -> Reply {
    error(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::ServerError, description)
}

/// Status 429, after which the connection is closed: the uid's replies cost more than its budget.
pub fn too_many_answers(retry_after: Duration) -> Reply {
    let description =
        "this uid asks for more public documents, or gets more errors, than it may; ask again later";
    let mut reply = error(StatusCode::TOO_MANY_REQUESTS, ErrorCode::SlowDown, description);
    set_retry_after(&mut reply, retry_after);
    and_close(reply)
}

/// Status 503.
pub fn unavailable(description: &str) -> Reply {
    error(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TemporarilyUnavailable, description)
}

/// Status 503, after which the connection cannot be used for another request.
pub fn unavailable_and_close(description: &str) -> Reply {
    and_close(unavailable(description))
}

/// An `invalid_request` after which the connection cannot be used for another request.
pub fn error_and_close(status: StatusCode, description: &str) -> Reply {
    and_close(error(status, ErrorCode::InvalidRequest, description))
}

/// The reply to a request, with its ids, by which the caller can name it (W3C Trace Context, section 3.4).
pub fn with_correlation(mut reply: Reply, correlation: &Correlation) -> Reply {
    if let Ok(value) = HeaderValue::try_from(correlation.traceresponse()) {
        reply.headers_mut().insert(TRACERESPONSE, value);
    }
    reply
}

fn and_close(mut reply: Reply) -> Reply {
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// Status 404.
pub fn not_found() -> Reply {
    error(StatusCode::NOT_FOUND, ErrorCode::InvalidRequest, NO_SUCH_PATH)
}

/// Status 405.
pub fn method_not_allowed(allow: &'static str) -> Reply {
    let description = "this path has other methods; see the header Allow";
    let mut reply = error(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::InvalidRequest, description);
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    reply
}

/// The reply to a request that was refused or could not be recorded.
pub fn request_error(request_error: &RequestError) -> Reply {
    let status = match request_error.code() {
        ErrorCode::InvalidRequest
        | ErrorCode::InvalidScope
        | ErrorCode::InvalidTarget
        | ErrorCode::AuthorizationPending => StatusCode::BAD_REQUEST,
        ErrorCode::InvalidClient => StatusCode::UNAUTHORIZED,
        ErrorCode::AccessDenied => StatusCode::FORBIDDEN,
        ErrorCode::SlowDown => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
    };
    with_retry_after(
        json(status, &ErrorResponse::from(request_error), SMALL_REPLY),
        request_error.retry_after(),
    )
}

fn with_retry_after(mut reply: Reply, retry_after: Option<Duration>) -> Reply {
    if let Some(retry_after) = retry_after {
        set_retry_after(&mut reply, retry_after);
    }
    reply
}

/// The reply to an administrator's failed request.
pub fn admin_error(error: &AdminError) -> Reply {
    let code = error.code().as_str();
    let response = ErrorResponse { faults: error.faults(), ..ErrorResponse::new(code, error.to_string()) };
    with_retry_after(json(status_of(error), &response, SMALL_REPLY), error.retry_after())
}

/// The status by the cause of a failure, whatever the route.
fn status_of(error: &AdminError) -> StatusCode {
    match error {
        AdminError::InvalidRequest(_) => StatusCode::BAD_REQUEST,
        AdminError::UnknownAgent | AdminError::Inspect(InspectError::NoProcess(_)) => StatusCode::NOT_FOUND,
        AdminError::BudgetExceeded(_) => StatusCode::TOO_MANY_REQUESTS,
        _ => match error.class() {
            ErrorClass::BadRequest => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorClass::Conflict => StatusCode::CONFLICT,
            ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorClass::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        },
    }
}

/// Whole seconds, rounded up (RFC 9110 section 10.2.3).
fn set_retry_after(reply: &mut Reply, retry_after: Duration) {
    let seconds = retry_after.as_millis().div_ceil(1000).max(1);
    if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
        reply.headers_mut().insert(RETRY_AFTER, value);
    }
}

fn error(status: StatusCode, code: ErrorCode, description: &str) -> Reply {
    json(status, &ErrorResponse::new(code.as_str(), description), SMALL_REPLY)
}

/// `capacity` is the expected number of bytes: a buffer that grows is copied and overwritten.
fn json(status: StatusCode, value: &impl Serialize, capacity: usize) -> Reply {
    let mut text = Vec::with_capacity(capacity);
    if serde_json::to_writer(&mut text, value).is_err() {
        text = b"{\"error\":\"server_error\"}".to_vec();
    }
    json_no_store(status, Bytes::from(text))
}

fn json_no_store(status: StatusCode, text: Bytes) -> Reply {
    let mut reply = json_cacheable(text);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}
