//! One gRPC call: the service that it is for, its required metadata, and its timeout.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::{HeaderMap, Request, Response, Uri};
use tonic::Status;
use tonic::body::Body;

use super::caller_watcher::{CallGuard, CallerWatcher};
use super::workload_api::WorkloadApi;

/// Metadata that each call of the Workload API must have (SPIFFE Workload Endpoint, section 4). It protects
/// against server-side request forgery.
const SECURITY_HEADER: &str = "workload.spiffe.io";
const WORKLOAD_API_PREFIX: &str = "/SpiffeWorkloadAPI/";
/// The method of the reflection service in both of its versions, whose messages are the same.
const REFLECTION_V1: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECTION_V1ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
/// Longest time until the first message of a response.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Answers one call. The call counts as open until its response body is dropped.
pub async fn handle_call(
    workload: Arc<WorkloadApi>,
    watcher: Arc<CallerWatcher>,
    mut request: Request<Incoming>,
) -> Response<GuardedBody> {
    let path = request.uri().path();
    let is_workload_api = path.starts_with(WORKLOAD_API_PREFIX);
    let call_guard = watcher.begin_call(is_workload_api);
    let route = if is_workload_api {
        if !has_security_header(request.headers()) {
            let description = "a call must have the metadata workload.spiffe.io: true, exactly once";
            return guard(Status::invalid_argument(description).into_http(), call_guard);
        }
        &workload.api
    } else if path.starts_with("/grpc.health.v1.Health/") {
        &workload.health
    } else if path == REFLECTION_V1ALPHA {
        *request.uri_mut() = Uri::from_static(REFLECTION_V1);
        &workload.reflection
    } else if path == REFLECTION_V1 {
        &workload.reflection
    } else {
        return guard(Status::unimplemented("this socket does not have the service").into_http(), call_guard);
    };
    request.extensions_mut().insert(watcher);
    let response = match tokio::time::timeout(CALL_TIMEOUT, route(request)).await {
        Ok(response) => response,
        Err(_) => {
            Status::deadline_exceeded("the request did not arrive completely or took too long").into_http()
        }
    };
    guard(response, call_guard)
}

fn has_security_header(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(SECURITY_HEADER).iter();
    matches!((values.next(), values.next()), (Some(only), None) if only.as_bytes() == b"true")
}

fn guard(response: Response<Body>, call_guard: CallGuard) -> Response<GuardedBody> {
    response.map(|body| GuardedBody { body, _call_guard: call_guard })
}

/// A response body; its call is open until it is dropped.
pub struct GuardedBody {
    body: Body,
    _call_guard: CallGuard,
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

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
