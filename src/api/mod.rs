//! The sockets: HTTP/1.1 and JSON for agents and for administrators, gRPC for clients of SPIFFE. No rules of its own.
//!
//! A request is read within bounds, its body parsed into what the road takes, and the road's answer written out.

mod admin;
mod agent;
mod body;
mod crowd;
mod ending;
mod enroll;
mod guest;
pub mod http2;
mod lanes;
mod listen;
mod patient;
mod reply;
mod serve;
mod status;
mod workload;

pub use admin::{Admin, PostureDesk};
pub use agent::AgentApi;
pub use body::Room;
pub use crowd::Crowd;
pub use lanes::Lanes;
pub use listen::{Socket, bind};
pub use serve::{Api, Server};
pub use status::{Status, TpmFacts};
pub use workload::Workload;
