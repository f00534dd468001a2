//! The services of the workload socket, and what their health service reports.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tonic_reflection::server::{Builder, Error as ReflectionError};

use super::endpoint::Endpoint;
use super::pb::spiffe_workload_api_server::{SERVICE_NAME, SpiffeWorkloadApiServer};
use crate::service::IdentityService;

/// Description of `proto/workload.proto`, for reflection.
const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload.bin"));
/// How often the health service is updated.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// Largest message of a client in bytes; the largest useful one is a token of 16 KiB with its audience.
const MAX_MESSAGE_SIZE: usize = 64 * 1024;

/// A gRPC service with its type erased.
type GrpcService = Box<dyn Fn(Request<Incoming>) -> ResponseFuture + Send + Sync>;
type ResponseFuture = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers the workload socket.
pub struct WorkloadApi {
    pub(super) service: IdentityService,
    pub(super) api: GrpcService,
    pub(super) health: GrpcService,
    pub(super) reflection: GrpcService,
    pub(super) reflection_alpha: GrpcService,
    health_reporter: HealthReporter,
}

impl WorkloadApi {
    /// The services on this identity service.
    ///
    /// # Errors
    /// Where the description of the services in the binary is malformed, which is a fault of the build.
    pub fn new(service: IdentityService) -> Result<Arc<WorkloadApi>, ReflectionError> {
        let reflection_builder = || {
            Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let health_reporter = HealthReporter::new();
        let health = HealthServer::new(HealthService::from_health_reporter(health_reporter.clone()));
        let api = SpiffeWorkloadApiServer::new(Endpoint(service.clone()))
            .max_decoding_message_size(MAX_MESSAGE_SIZE);
        Ok(Arc::new(WorkloadApi {
            service,
            health_reporter,
            api: erase_type(api),
            health: erase_type(health.max_decoding_message_size(MAX_MESSAGE_SIZE)),
            reflection: erase_type(
                reflection_builder().build_v1()?.max_decoding_message_size(MAX_MESSAGE_SIZE),
            ),
            reflection_alpha: erase_type(
                reflection_builder().build_v1alpha()?.max_decoding_message_size(MAX_MESSAGE_SIZE),
            ),
        }))
    }

    /// Updates the gRPC health service every 500 ms, until the task is dropped: SERVING while SVIDs are
    /// issued, whether or not the TPM is ready (see [`crate::service::ServiceHealth`]).
    pub async fn report_health(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(HEALTH_INTERVAL);
        let mut last_reported = None;
        loop {
            ticks.tick().await;
            let status = if self.service.health().issues_svids() {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            if last_reported != Some(status) {
                // The empty name is the server as a whole (gRPC Health Checking Protocol).
                self.health_reporter.set_service_status("", status).await;
                self.health_reporter.set_service_status(SERVICE_NAME, status).await;
                last_reported = Some(status);
            }
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
