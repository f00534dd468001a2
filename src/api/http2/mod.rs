//! Rewrites the `:authority` header of incoming HTTP/2 requests that the HTTP/2 library would otherwise reset.
//!
//! On a Unix socket `:authority` names nothing. gRPC C-core clients (Python, C++, Ruby) send the socket's path in it,
//! percent-encoded, and older Java clients send the path as it is. The crate `h2` resets such streams, because neither is
//! the authority of a URI (RFC 3986 section 3.2). This filter decodes each header block, replaces an `:authority` that is
//! not one by `localhost`, and encodes the block again. It passes all other bytes on unchanged.
//!
//! The change that makes this module unnecessary is hyperium/h2 pull request 487, open on 25 November 2026. When a release
//! of `h2` contains it and `tests/` pass with [`AuthorityFilter`] removed from `workload/connection.rs`, delete this module.

mod authority_filter;
mod hpack;
mod huffman;
mod malformed;

pub use authority_filter::{AuthorityFilter, HeaderRewriter};
pub use malformed::Malformed;
