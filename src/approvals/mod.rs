//! Approvals of single requests by a person: `approval` in a grant or credential.
//!
//! A request that needs one is refused with `authorization_pending`, and waits here for an administrator. What the
//! administrator approves is a digest of everything that is shown ([`ApprovalRequest`]), so that an approval permits
//! no other request. The agent repeats its request until then, and gets what it asked for once, or for as long as its
//! task runs. All of it is in memory: after a restart of the daemon the agent has to ask again.

mod error;
mod registry;
mod request;

pub use error::{DecisionError, NotApproved};
pub use registry::{ApprovalReport, ApprovalState, Approvals, Decision, Reservation, UsedApproval};
pub use request::{ApprovalAction, ApprovalRequest};
