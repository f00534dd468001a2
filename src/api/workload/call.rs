//! One gRPC call: its permit among the open calls of its uid, the service that it is for, its required
//! metadata, and its timeout.
//!
//! The body of a call of the Workload API is read once the caller is known to be an agent, so other local
//! processes can have nothing buffered. That of a refused call is discarded as it arrives, if it is short: a stream
//! that is answered before its request has ended is reset (RFC 9113 section 8.1), which curl 7.88 reports as an
//! error in place of the status.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request, Response, Uri};
use tonic::Status;
use tonic::body::Body;

use super::caller_watcher::{CallGuard, CallerWatcher};
use super::grpc_status::too_many_calls;
use super::workload_api::WorkloadApi;
use crate::api::connection_limits::{CallClass, CallPermit};
use crate::api::pace::Cost;
use crate::correlation::{self, Correlation, RequestContext, TRACEPARENT, TRACERESPONSE};

/// Metadata that each call of the Workload API must have (SPIFFE Workload Endpoint, section 4). It protects
/// against server-side request forgery.
const SECURITY_HEADER: &str = "workload.spiffe.io";
const WORKLOAD_API_PREFIX: &str = "/SpiffeWorkloadAPI/";
const HEALTH_PREFIX: &str = "/grpc.health.v1.Health/";
/// The methods of the Workload API, as records name them.
const METHODS: [&str; 7] = [
    "FetchX509SVID",
    "FetchX509Bundles",
    "FetchJWTSVID",
    "FetchJWTBundles",
    "ValidateJWTSVID",
    "FetchWITSVID",
    "FetchWITBundles",
];
/// The method of the reflection service in both of its versions, whose messages are the same.
const REFLECTION_V1: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECTION_V1ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
/// The only metadata that is read after the call was accepted.
const GRPC_ENCODING: &str = "grpc-encoding";
/// Longest body of a refused call that is read to its end, in bytes.
const MAX_DISCARDED: usize = 4096;
/// How long the end of such a body is waited for.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(250);
/// Longest time until the first message of a response.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Answers one call. The call counts as open until its response body is dropped.
pub async fn handle_call(
    workload: Arc<WorkloadApi>,
    watcher: Arc<CallerWatcher>,
    request: Request<Incoming>,
) -> Response<GuardedBody> {
    let context = context(&request);
    let mut response = correlation::scope(context, admit_call(workload, watcher, request)).await;
    if let Ok(value) = HeaderValue::try_from(context.correlation.traceresponse()) {
        response.headers_mut().insert(TRACERESPONSE, value);
    }
    response
}

/// Answers a call that has a permit, and refuses others.
async fn admit_call(
    workload: Arc<WorkloadApi>,
    watcher: Arc<CallerWatcher>,
    request: Request<Incoming>,
) -> Response<GuardedBody> {
    let is_workload_api = request.uri().path().starts_with(WORKLOAD_API_PREFIX);
    let guard = ResponseGuard { call: watcher.begin_call(is_workload_api), permit: None };
    if let Err(status) = check(&request) {
        return guard.refuse_request(&watcher, Some(request.into_body()), status).await;
    }
    let Some(permit) = watcher.acquire_call(is_workload_api).map(Arc::new) else {
        drop(request);
        return guard.refuse_request(&watcher, None, too_many_calls()).await;
    };
    // Boxed, because an agent can have a hundred refused calls on each connection, which wait without the room for
    // it.
    Box::pin(answer_call(workload, watcher, request, guard, permit)).await
}

/// What records say of a call: its ids, and its method.
fn context(request: &Request<Incoming>) -> RequestContext {
    let traceparents = request.headers().get_all(TRACEPARENT).iter().map(HeaderValue::as_bytes);
    let method = request.uri().path().strip_prefix(WORKLOAD_API_PREFIX);
    let known = METHODS.iter().find(|known| method == Some(**known)).copied();
    RequestContext {
        verb: "gRPC",
        path: known.unwrap_or("other"),
        correlation: Correlation::of_request(traceparents),
    }
}

/// Whether the request is one for a service of this socket.
///
/// # Errors
/// The status of a request without the required metadata, or for another service.
fn check(request: &Request<Incoming>) -> Result<(), Status> {
    let path = request.uri().path();
    if path.starts_with(WORKLOAD_API_PREFIX) {
        return match has_security_header(request.headers()) {
            true => Ok(()),
            false => Err(Status::invalid_argument(
                "a call must have the metadata workload.spiffe.io: true, exactly once",
            )),
        };
    }
    if path.starts_with(HEALTH_PREFIX) || matches!(path, REFLECTION_V1 | REFLECTION_V1ALPHA) {
        return Ok(());
    }
    Err(Status::unimplemented("this socket does not have the service"))
}

/// Answers a call with its permit, which was [checked](check).
async fn answer_call(
    workload: Arc<WorkloadApi>,
    watcher: Arc<CallerWatcher>,
    mut request: Request<Incoming>,
    mut guard: ResponseGuard,
    permit: Arc<CallPermit>,
) -> Response<GuardedBody> {
    guard.permit = Some(permit.clone());
    let path = request.uri().path();
    let is_workload_api = path.starts_with(WORKLOAD_API_PREFIX);
    let route = if is_workload_api {
        &workload.api
    } else if path.starts_with(HEALTH_PREFIX) {
        &workload.health
    } else {
        *request.uri_mut() = Uri::from_static(REFLECTION_V1);
        &workload.reflection
    };
    drop_metadata(&mut request);
    if !is_workload_api {
        watcher.client().throttle(Cost::Unit).await;
    }
    let answer = async {
        if is_workload_api && !watcher.is_agent() {
            if let Err(error) = watcher.admit().await {
                // A refusal can be delayed, which keeps no other caller from being identified.
                permit.move_to(CallClass::Public)?;
                discard(request.into_body()).await;
                return Some(watcher.reject(&error).await.into_http());
            }
            permit.move_to(CallClass::Receiving)?;
        }
        if is_workload_api {
            request.extensions_mut().insert(permit.clone());
        }
        request.extensions_mut().insert(watcher.clone());
        Some(route(request).await)
    };
    let response = match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(Some(response)) => response,
        Ok(None) => {
            // Its permit would keep other callers from being identified during the delay.
            guard.permit = None;
            drop(permit);
            return guard.refuse(&watcher, too_many_calls()).await;
        }
        Err(_) => {
            Status::deadline_exceeded("the request did not arrive completely or took too long").into_http()
        }
    };
    guard.response(response)
}

/// Reads the rest of a refused request, if it is short and arrives soon, and keeps nothing of it.
async fn discard(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    let read = async {
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > MAX_DISCARDED {
                return;
            }
        }
    };
    // Where it does not end, the stream is reset.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, read).await;
}

/// Drops the request's metadata, which is up to 16 KiB that an open call would hold.
fn drop_metadata(request: &mut Request<Incoming>) {
    let encoding = request.headers().get(GRPC_ENCODING).map(HeaderValue::as_bytes);
    // A copy, because the value may be a part of a larger buffer.
    let encoding = encoding.and_then(|encoding| HeaderValue::from_bytes(encoding).ok());
    *request.headers_mut() = HeaderMap::new();
    if let Some(encoding) = encoding {
        request.headers_mut().insert(GRPC_ENCODING, encoding);
    }
}

fn has_security_header(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(SECURITY_HEADER).iter();
    matches!((values.next(), values.next()), (Some(only), None) if only.as_bytes() == b"true")
}

/// What is held while a response is being sent.
struct ResponseGuard {
    call: CallGuard,
    permit: Option<Arc<CallPermit>>,
}

impl ResponseGuard {
    /// Refuses a request, after its body where that is to be read.
    async fn refuse_request(
        self,
        watcher: &CallerWatcher,
        body: Option<Incoming>,
        status: Status,
    ) -> Response<GuardedBody> {
        if let Some(body) = body {
            discard(body).await;
        }
        self.refuse(watcher, status).await
    }

    /// Refuses a call that has no permit. Without the delay of [`Pace`](crate::api::Pace), a client that
    /// repeats refused calls would use up the processor.
    async fn refuse(self, watcher: &CallerWatcher, status: Status) -> Response<GuardedBody> {
        watcher.client().throttle(Cost::Error).await;
        self.response(status.into_http())
    }

    fn response(self, response: Response<Body>) -> Response<GuardedBody> {
        response.map(|body| GuardedBody { body, _call: self.call, permit: self.permit })
    }
}

/// A response body; its call is open until it is dropped.
pub struct GuardedBody {
    body: Body,
    _call: CallGuard,
    permit: Option<Arc<CallPermit>>,
}

/// A part of a response. The call holds its permit until its client has room for the last part, or has gone.
pub struct GuardedBytes {
    bytes: Bytes,
    _permit: Option<Arc<CallPermit>>,
}

impl HttpBody for GuardedBody {
    type Data = GuardedBytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<GuardedBytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let guarded = |bytes| GuardedBytes { bytes, _permit: self.permit.clone() };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(guarded))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Buf for GuardedBytes {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_header_must_be_exactly_one_true() {
        for (values, expected) in [
            (vec!["true"], true),
            (vec![], false),
            (vec![""], false),
            (vec!["True"], false),
            (vec!["true "], false),
            (vec!["true", "true"], false),
            (vec!["true", "false"], false),
            (vec!["true,true"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(SECURITY_HEADER, HeaderValue::from_static(value));
            }
            assert_eq!(has_security_header(&headers), expected, "{values:?}");
        }
    }
}
