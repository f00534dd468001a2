//! One call: where it goes, and what it must carry.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::{HeaderMap, Request, Response};
use tonic::Status;
use tonic::body::Body;

use super::Workload;
use super::presence::{Open, Presence};

/// SPIFFE Workload Endpoint, section 4: what no browser that was lured here would send.
const SECURITY_HEADER: &str = "workload.spiffe.io";
const API: &str = "/SpiffeWorkloadAPI/";
/// A call has begun to be answered by then, or is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers one call. What it gives is held open until its last word is written.
pub async fn answer(
    workload: Arc<Workload>,
    presence: Arc<Presence>,
    mut request: Request<Incoming>,
) -> Response<Held> {
    let path = request.uri().path();
    let api = path.starts_with(API);
    let open = presence.open(api);
    let route = if api {
        if !has_security_header(request.headers()) {
            let what = "a call carries the metadata workload.spiffe.io: true, exactly once";
            return held(Status::invalid_argument(what).into_http(), open);
        }
        &workload.api
    } else if path.starts_with("/grpc.health.v1.Health/") {
        &workload.health
    } else if path.starts_with("/grpc.reflection.v1.ServerReflection/") {
        &workload.reflection
    } else if path.starts_with("/grpc.reflection.v1alpha.ServerReflection/") {
        &workload.reflection_alpha
    } else {
        return held(Status::unimplemented("there is no such service here").into_http(), open);
    };
    request.extensions_mut().insert(presence);
    let answer = match tokio::time::timeout(PATIENCE, route(request)).await {
        Ok(answer) => answer,
        Err(_) => Status::deadline_exceeded("the call did not arrive whole, or took too long").into_http(),
    };
    held(answer, open)
}

fn has_security_header(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(SECURITY_HEADER).iter();
    matches!((values.next(), values.next()), (Some(only), None) if only.as_bytes() == b"true")
}

fn held(answer: Response<Body>, open: Open) -> Response<Held> {
    answer.map(|body| Held { body, _open: open })
}

/// An answer's body; the call is open as long as this lives.
pub struct Held {
    body: Body,
    _open: Open,
}

impl HttpBody for Held {
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
    fn the_security_header_is_exactly_one_true() {
        for (values, wanted) in [
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
            assert_eq!(has_security_header(&headers), wanted, "{values:?}");
        }
    }
}
