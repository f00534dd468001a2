//! The services of the workload socket, and what their health service reports.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::Service;

use super::endpoint::Endpoint;
use super::health::HealthService;
use super::pb::health::health_check_response::ServingStatus;
use super::pb::health::health_server::HealthServer;
use super::pb::reflection::server_reflection_server::ServerReflectionServer;
use super::pb::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use super::reflection::ReflectionService;
use super::shared_updates::BundleSource;
use crate::api::connection_limits::ConnectionLimits;
use crate::service::IdentityService;

/// Connections of one uid whose callers have not been identified as agents; a further one evicts the oldest.
const MAX_UNIDENTIFIED_CONNECTIONS: usize = 32;
/// How often the health service is updated.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// Largest message of a client in bytes; the largest useful one is a token of 16 KiB with its audience.
const MAX_MESSAGE_SIZE: usize = 20 * 1024;
/// Largest message in bytes to the health and reflection services: a name.
const MAX_PUBLIC_MESSAGE_SIZE: usize = 1024;

/// A gRPC service with its type erased.
type GrpcService = Box<dyn Fn(Request<Incoming>) -> ResponseFuture + Send + Sync>;
type ResponseFuture = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers the workload socket.
pub struct WorkloadApi {
    pub(super) service: IdentityService,
    /// Connections whose callers have not been identified as agents, for each uid.
    pub(super) unidentified: Arc<ConnectionLimits>,
    pub(super) api: GrpcService,
    pub(super) health: GrpcService,
    pub(super) reflection: GrpcService,
    health_reporter: watch::Sender<ServingStatus>,
}

impl WorkloadApi {
    /// The services on this identity service.
    ///
    /// # Errors
    /// Where the description of the services in the binary is malformed, which is a fault of the build.
    pub fn new(service: IdentityService) -> Result<Arc<WorkloadApi>, prost::DecodeError> {
        let (health, health_reporter) = HealthService::new();
        let api = SpiffeWorkloadApiServer::new(Endpoint(BundleSource {
            service: service.clone(),
            updates: Arc::default(),
        }));
        let health = HealthServer::new(health);
        let reflection = ServerReflectionServer::new(ReflectionService::new()?);
        Ok(Arc::new(WorkloadApi {
            service,
            unidentified: ConnectionLimits::for_unidentified(MAX_UNIDENTIFIED_CONNECTIONS),
            health_reporter,
            api: erase_type(api.max_decoding_message_size(MAX_MESSAGE_SIZE)),
            health: erase_type(health.max_decoding_message_size(MAX_PUBLIC_MESSAGE_SIZE)),
            reflection: erase_type(reflection.max_decoding_message_size(MAX_PUBLIC_MESSAGE_SIZE)),
        }))
    }

    /// Updates the gRPC health service every 500 ms, until the task is dropped: SERVING while SVIDs are
    /// issued, whether or not the TPM is ready (see [`crate::service::ServiceHealth`]).
    pub async fn report_health(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(HEALTH_INTERVAL);
        loop {
            ticks.tick().await;
            let status = if self.service.health().issues_svids() {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            self.health_reporter.send_if_modified(|current| std::mem::replace(current, status) != status);
        }
    }
}

fn erase_type<S>(service: S) -> GrpcService
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    Box::new(move |request| {
        let response = service.clone().call(request);
        Box::pin(async move { response.await.unwrap_or_else(|never| match never {}) })
    })
}
