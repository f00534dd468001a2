//! The workload socket: SPIFFE's Workload API, gRPC over HTTP/2.
//!
//! Beside it, as the SPIFFE Workload Endpoint recommends, health and reflection, which anybody may ask.

// A Status is what tonic's traits have every method fail with.
#![allow(clippy::result_large_err)]

mod call;
mod caller_watcher;
mod codec;
mod connection;
mod endpoint;
mod grpc_status;
mod protobuf_struct;
mod svid_cache;
mod tokens;
mod update_stream;
mod x509;

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

pub(super) use connection::{OVERLOADED_GOAWAY, serve_grpc};

use crate::service::IdentityService;
use endpoint::Endpoint;
use pb::spiffe_workload_api_server::{SERVICE_NAME, SpiffeWorkloadApiServer};

/// Messages and services of proto/workload.proto.
mod pb {
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}

/// The same, for reflection.
const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload.bin"));
/// How often health is looked at, for those who follow it.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// Largest message of a client: a token of 16 KiB and what is around it.
const MAX_MESSAGE_SIZE: usize = 64 * 1024;

/// A service whatever its type.
type Route = Box<dyn Fn(Request<Incoming>) -> ResponseFuture + Send + Sync>;
type ResponseFuture = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers the workload socket.
pub struct WorkloadApi {
    service: IdentityService,
    health_reporter: HealthReporter,
    api: Route,
    health: Route,
    reflection: Route,
    reflection_alpha: Route,
}

impl WorkloadApi {
    /// # Errors
    /// Where the description of the services is none, which is a fault of the build.
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
            api: route(api),
            health: route(health.max_decoding_message_size(MAX_MESSAGE_SIZE)),
            reflection: route(reflection_builder().build_v1()?.max_decoding_message_size(MAX_MESSAGE_SIZE)),
            reflection_alpha: route(
                reflection_builder().build_v1alpha()?.max_decoding_message_size(MAX_MESSAGE_SIZE),
            ),
        }))
    }

    /// Tells those who ask for it how the service is, as long as the daemon runs.
    pub async fn report_health(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(HEALTH_INTERVAL);
        let mut last_reported = None;
        loop {
            ticks.tick().await;
            let status = match self.service.health().issues_svids() {
                true => ServingStatus::Serving,
                false => ServingStatus::NotServing,
            };
            if last_reported != Some(status) {
                // The empty name stands for the server as a whole.
                self.health_reporter.set_service_status("", status).await;
                self.health_reporter.set_service_status(SERVICE_NAME, status).await;
                last_reported = Some(status);
            }
        }
    }
}

fn route<S>(service: S) -> Route
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
