//! The gRPC health service. Every local process may call it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Response, Status, async_trait};

use super::pb::health::health_check_response::ServingStatus;
use super::pb::health::health_server::Health;
use super::pb::health::{HealthCheckRequest, HealthCheckResponse};
use super::pb::spiffe_workload_api_server::SERVICE_NAME;
use super::step_stream::{Step, StepResult, StepStream};

/// Longest time that a Watch is open; its client opens another. A forgotten one does not hold a permit of
/// its user for ever.
const WATCH_LIFETIME: Duration = Duration::from_secs(600);

/// Answers from the status that was reported last.
pub struct HealthService {
    status: watch::Receiver<ServingStatus>,
}

impl HealthService {
    /// A service, and where its status is reported. The status is NOT_SERVING until then.
    pub fn new() -> (HealthService, watch::Sender<ServingStatus>) {
        let (reporter, status) = watch::channel(ServingStatus::NotServing);
        (HealthService { status }, reporter)
    }

    /// The status of the service that a request names. The empty name is the server as a whole.
    fn status_of(&self, request: &HealthCheckRequest) -> Result<&watch::Receiver<ServingStatus>, Status> {
        if matches!(request.service.as_str(), "" | SERVICE_NAME) {
            return Ok(&self.status);
        }
        Err(Status::not_found("the health of this service is not reported"))
    }
}

#[async_trait]
impl Health for HealthService {
    type WatchStream = WatchStream;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = *self.status_of(request.get_ref())?.borrow();
        Ok(Response::new(response(status)))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<WatchStream>, Status> {
        let status = self.status_of(request.get_ref())?.clone();
        let state = WatchState { status, last_sent: None, deadline: Instant::now() + WATCH_LIFETIME };
        Ok(Response::new(StepStream::new(state)))
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// The response of one Watch.
type WatchStream = StepStream<WatchState>;

/// A Watch between two messages.
pub struct WatchState {
    status: watch::Receiver<ServingStatus>,
    last_sent: Option<ServingStatus>,
    deadline: Instant,
}

impl Step for WatchState {
    type Message = HealthCheckResponse;

    async fn next(mut self) -> StepResult<WatchState> {
        loop {
            let status = *self.status.borrow_and_update();
            if self.last_sent.replace(status) != Some(status) {
                return (Some(self), Some(Ok(response(status))));
            }
            let end = tokio::select! {
                changed = self.status.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => "hostbadged is shutting down; call again",
                },
                () = sleep_until(self.deadline) => "a Watch is open for 10 minutes at most; call again",
            };
            return (None, Some(Err(Status::unavailable(end))));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;

    use tonic::codegen::tokio_stream::Stream;

    use super::*;

    async fn next(stream: &mut WatchStream) -> Option<Result<i32, String>> {
        let item = poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await?;
        Some(item.map(|message| message.status).map_err(|status| status.message().to_owned()))
    }

    fn watch(service: &HealthService, lifetime: Duration) -> WatchStream {
        let status = service.status.clone();
        let state = WatchState { status, last_sent: None, deadline: Instant::now() + lifetime };
        StepStream::new(state)
    }

    #[tokio::test]
    async fn watch_sends_the_status_and_its_changes() {
        let (service, reporter) = HealthService::new();
        let mut stream = watch(&service, WATCH_LIFETIME);
        assert_eq!(next(&mut stream).await, Some(Ok(2)));
        reporter.send_replace(ServingStatus::Serving);
        assert_eq!(next(&mut stream).await, Some(Ok(1)));
        drop(reporter);
        assert!(next(&mut stream).await.unwrap().is_err());
        assert_eq!(next(&mut stream).await, None);
    }

    #[tokio::test]
    async fn watch_ends_after_its_lifetime() {
        let (service, _reporter) = HealthService::new();
        let mut stream = watch(&service, Duration::ZERO);
        assert_eq!(next(&mut stream).await, Some(Ok(2)));
        let end = next(&mut stream).await.unwrap().unwrap_err();
        assert!(end.contains("10 minutes"), "{end}");
        assert_eq!(next(&mut stream).await, None);
    }
}
