//! Requests and responses of the two HTTP sockets, each defined once for the server, the command and the
//! tests.
//!
//! All bodies are JSON (RFC 8259). Requests reject unknown members; responses may gain members, so a client
//! ignores those that it does not know. `docs/openapi.yaml` describes the same shapes. The types hold text
//! and numbers only: this module knows nothing of the daemon's other modules except [`crate::clock`], so that
//! a client can use it by itself.
//!
//! Documents with a specification of their own are defined elsewhere: evidence in
//! [`crate::verify::evidence`], enrollment files in [`crate::enroll`], and key sets and bundles by RFC 7517
//! and SPIFFE.

pub mod admin;
pub mod agent;
pub mod anomaly;
pub mod approvals;
pub mod boundary;
pub mod change;
pub mod clock;
pub mod comparison;
pub mod credentials;
pub mod delegate;
pub mod enroll;
pub mod error;
pub mod host;
pub mod keys;
pub mod leak;
pub mod lifecycle;
pub mod manager_address;
pub mod metrics;
pub mod offboarding;
pub mod policy;
pub mod posture;
pub mod review;
pub mod revocation;
pub mod signal;
pub mod status;
pub mod tenants;

#[cfg(test)]
pub(crate) mod openapi;
