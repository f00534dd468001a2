//! The workload socket: the SPIFFE Workload API, gRPC over HTTP/2.
//!
//! The same socket has the gRPC health and reflection services, as the SPIFFE Workload Endpoint recommends.
//! Every local process may call them.

// The traits of tonic have every method fail with a Status.
#![allow(clippy::result_large_err)]

mod call;
mod caller_watcher;
mod codec;
mod connection;
mod endpoint;
mod grpc_status;
mod health;
mod paced_stream;
mod pb;
mod protobuf_struct;
mod reflection;
mod shared_updates;
mod step_stream;
mod svid_cache;
mod tokens;
mod update_stream;
mod workload_api;
mod x509;

pub(super) use connection::{OVERLOADED_GOAWAY, serve_grpc};
pub use workload_api::WorkloadApi;
