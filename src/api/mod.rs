//! The sockets: HTTP/1.1 and JSON for agents and for administrators, gRPC for SPIFFE clients, and values of
//! credentials for service managers.
//!
//! Each request is read within bounds, parsed into [`crate::wire`] types, passed to [`crate::service`], and
//! its result written. This module decides nothing and calls no other module. The routes of the two HTTP
//! sockets are the tables in `agent.rs` and `admin.rs`.

mod admin;
mod agent;
mod body;
mod client_connection;
mod client_stream;
mod closer;
mod connection_limits;
mod decode;
mod drain;
mod head_deadline;
pub mod http2;
mod listen;
mod load_credential;
mod pace;
mod parse;
mod policy_query;
mod receiving_stream;
mod reply;
mod routes;
mod serve;
mod uid_quota;
mod workers;
mod workload;
mod write_deadline;

pub use admin::AdminApi;
pub use agent::AgentApi;
pub use closer::Closer;
pub use connection_limits::ConnectionLimits;
pub use listen::{Socket, bind};
pub use pace::Pace;
pub use serve::{Api, Server};
pub use workers::WorkerPool;
pub use workload::WorkloadApi;
