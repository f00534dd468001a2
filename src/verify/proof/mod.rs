//! Verification of proofs of possession for one HTTP request: DPoP proofs (RFC 9449) and Workload Proof
//! Tokens (draft-ietf-wimse-wpt).
//!
//! A proof shows that whoever sends the request holds the key to which its token is bound. It is valid for
//! one URL and a short time. Both functions return the `jti`, and until when the caller has to remember it to
//! refuse the same proof a second time. The URL in a proof and that of the request are compared in the normal
//! form of [`ActionUrl`].

mod dpop;
mod error;
mod jws;
mod public_jwk;
#[cfg(test)]
mod sample;
mod url;
mod url_encoding;
mod url_error;
mod url_host;
mod wpt;

pub use dpop::{DpopBinding, DpopExpectation, VerifiedDpop, verify_dpop_proof};
pub use error::{Error, MAX_PROOF_LEN};
pub(crate) use jws::token_hash;
pub use public_jwk::{JwkFault, p256_key_from_jwk};
pub use url::ActionUrl;
pub(crate) use url_encoding::{is_unreserved, percent_decoded, push_percent_encoded};
pub use url_error::{MAX_URL_LEN, UrlError};
pub use wpt::{VerifiedWpt, WptExpectation, verify_wpt};
