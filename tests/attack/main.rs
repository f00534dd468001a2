//! What one hostile uid costs the daemon and its other callers. Each attack runs for some seconds against the
//! real daemon while an agent asks for tokens.
//!
//! `make attack` runs them on release binaries, compares the agent's latency with that beside the same
//! clients on a server that only answers, and prints a table. `make attack SHORT=1` runs each once, for a
//! second, and holds memory alone.

#[path = "../integration/common/mod.rs"]
#[allow(dead_code, reason = "the integration tests use more of it")]
mod common;

mod attacks;
mod grpc_bytes;
mod load;
mod measure;
mod sink;
