//! What goes between a socket and the HTTP/2 library, so that every gRPC client gets through.
//!
//! C-core's clients (Python, C++, Ruby) send the socket's path, percent-encoded, as `:authority`, and older Java ones
//! send it raw. The library resets such streams, as no URI has that authority. On a Unix socket the authority means
//! nothing, so each header block is decoded, an authority that is none becomes `localhost`, and the block is written
//! again. All else passes through untouched, for the library to judge.

mod authority_filter;
mod hpack;
mod huffman;

pub use authority_filter::{AuthorityFilter, HeaderRewriter};

/// What no client sends that means well: the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed HTTP/2")]
pub struct Malformed;
