//! The sockets: HTTP/1.1 and JSON for agents and for administrators, gRPC for clients of SPIFFE. No rules of its own.
//!
//! A request is read within bounds, its body parsed into what the road takes, and the road's answer written out.

mod admin;
mod agent;
mod body;
mod client_connection;
mod connection_limits;
mod drain;
mod enroll;
pub mod http2;
mod listen;
mod reply;
mod serve;
mod status;
mod workers;
mod workload;
mod write_deadline;

pub use admin::{AdminApi, PostureControl};
pub use agent::AgentApi;
pub use body::BodyBudget;
pub use connection_limits::ConnectionLimits;
pub use listen::{Socket, bind};
pub use serve::{Api, Server};
pub use status::{StatusReporter, TpmDescription};
pub use workers::WorkerPool;
pub use workload::WorkloadApi;
