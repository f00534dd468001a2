//! Classes of failures, from which a front end derives the status that it reports.
//!
//! The error types of the lower modules have a method `class`. This module knows nothing of them.

/// What a failed request means for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request is wrong: the same request fails again. Examples: a wrong recovery key, a certificate for
    /// another host.
    BadRequest,
    /// The request does not fit the current state: another operation is in progress, or there is nothing to
    /// do.
    Conflict,
    /// The operation is not possible now: the TPM, the disk or the audit log is not available, or the host is
    /// not ready.
    Unavailable,
    /// A fault of this host or of this program that the caller cannot remedy with another request.
    Internal,
}
