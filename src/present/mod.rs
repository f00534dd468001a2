//! Proofs of possession for one HTTP action.
//!
//! A builder takes an [`Action`], which is a method, a URL in normal form and the digest of the body, and
//! returns the header fields that prove it. The action is what the policy has decided on. No function here
//! signs bytes or a digest that a caller chose: what is signed has the form of its standard, for one action
//! or one server, and is valid for at most [`PROOF_TTL`]. A signature of SigV4 names no end; AWS accepts it
//! for [`SIGV4_TTL`].
//!
//! | proof | key | standard |
//! |---|---|---|
//! | [`dpop_proof()`] | [`ProofKey`] | RFC 9449 |
//! | [`wpt()`] | [`ProofKey`] | draft-ietf-wimse-wpt |
//! | [`http_signature()`] | [`ProofKey`] | RFC 9421, draft-ietf-wimse-http-signature |
//! | [`client_attestation_pop()`] | [`ProofKey`] | draft-ietf-oauth-attestation-based-client-auth |
//! | [`sigv4()`] | a sealed credential | AWS Signature Version 4 |
//!
//! The builders have no state, no clock, and no input but their parameters and random numbers.

mod access_key;
mod action;
mod client_attestation_pop;
mod digest;
mod dpop;
mod error;
mod http_signature;
mod jws;
mod key;
mod keys;
mod kind;
mod method;
mod pattern;
mod proof;
mod server;
mod sigv4;
mod sigv4_request;
mod values;
mod wpt;

pub use access_key::AccessKey;
pub use action::Action;
pub use client_attestation_pop::client_attestation_pop;
pub use digest::BodyDigest;
pub use dpop::dpop_proof;
pub use error::Error;
pub use http_signature::{SignedFields, http_signature};
pub use key::ProofKey;
pub use keys::ProofKeys;
pub use kind::ProofKind;
pub use method::Method;
pub use pattern::ActionPattern;
pub use proof::{PROOF_TTL, Proof, ProofHeader};
pub use server::ServerIdentifier;
pub use sigv4::{SIGV4_TTL, SigV4Credentials, SigV4Scope, sigv4};
pub use values::{check_content_type, check_nonce, check_token};
pub use wpt::wpt;

pub use crate::verify::proof::{ActionUrl, MAX_URL_LEN, UrlError};
