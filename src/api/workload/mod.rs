//! The workload socket: SPIFFE's Workload API, gRPC over HTTP/2.
//!
//! Beside it, as the SPIFFE Workload Endpoint recommends, health and reflection, which anybody may ask.

// A Status is what tonic's traits have every method fail with.
#![allow(clippy::result_large_err)]

mod call;
mod codec;
mod connection;
mod endpoint;
mod presence;
mod status;
mod tokens;
mod updates;
mod values;
mod wallet;
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

pub(super) use connection::{FULL, serve};

use crate::road::Road;
use endpoint::Endpoint;
use pb::spiffe_workload_api_server::{SERVICE_NAME, SpiffeWorkloadApiServer};

/// Messages and services of proto/workload.proto.
mod pb {
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}

/// The same, for reflection.
const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload.bin"));
/// How often health is looked at, for those who follow it.
const HEALTH_EVERY: Duration = Duration::from_millis(500);
/// Largest message of a client: a token of 16 KiB and what is around it.
const MESSAGE_MOST: usize = 64 * 1024;

/// A service whatever its type.
type Route = Box<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers the workload socket.
pub struct Workload {
    road: Road,
    reporter: HealthReporter,
    api: Route,
    health: Route,
    reflection: Route,
    reflection_alpha: Route,
}

impl Workload {
    /// # Errors
    /// Where the description of the services is none, which is a fault of the build.
    pub fn new(road: Road) -> Result<Arc<Workload>, ReflectionError> {
        let description = || {
            Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTION)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let reporter = HealthReporter::new();
        let health = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
        let api =
            SpiffeWorkloadApiServer::new(Endpoint(road.clone())).max_decoding_message_size(MESSAGE_MOST);
        Ok(Arc::new(Workload {
            road,
            reporter,
            api: route(api),
            health: route(health.max_decoding_message_size(MESSAGE_MOST)),
            reflection: route(description().build_v1()?.max_decoding_message_size(MESSAGE_MOST)),
            reflection_alpha: route(description().build_v1alpha()?.max_decoding_message_size(MESSAGE_MOST)),
        }))
    }

    /// Tells those who ask for it how the service is, as long as the daemon runs.
    pub async fn tell_health(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(HEALTH_EVERY);
        let mut told = None;
        loop {
            ticks.tick().await;
            let status = match self.road.standing() {
                Ok(_) => ServingStatus::Serving,
                Err(_) => ServingStatus::NotServing,
            };
            if told != Some(status) {
                // The empty name stands for the server as a whole.
                self.reporter.set_service_status("", status).await;
                self.reporter.set_service_status(SERVICE_NAME, status).await;
                told = Some(status);
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
        let answer = service.clone().call(request);
        Box::pin(async move { answer.await.unwrap_or_else(|never| match never {}) })
    })
}
