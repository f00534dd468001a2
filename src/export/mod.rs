//! Audit records in the formats of collectors: events of the Open Cybersecurity Schema Framework (OCSF) and logs of the
//! OpenTelemetry protocol (OTLP).
//!
//! A line of the audit log is converted alone and completely: the result has the line itself, so that whoever has the
//! events of a part of the log can verify its chain.

mod kind;
mod ocsf;
mod otlp;

pub use ocsf::{OCSF_VERSION, ocsf_event};
pub use otlp::otlp_request;

/// The host whose log is exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportedHost {
    /// Its name; `None` where it is not known, as for a copy of a log.
    pub name: Option<String>,
}

/// A line of the log that is no record.
#[derive(Debug, thiserror::Error)]
#[error("line {seq} of the audit log has no event and no time")]
pub struct NotARecord {
    /// Its number, 0 if it has none.
    pub seq: u64,
}
