//! The error of the HTTP/2 filter.

/// The bytes are not HTTP/2 (RFC 9113), or exceed a bound. The connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed HTTP/2")]
pub struct Malformed;
