//! Finds secrets in text by their form, and says where they are and of what kind, never what they are.
//!
//! The forms are those that issuers give their tokens and keys ([`SecretKind`]), and assignments of random text to
//! names such as `API_KEY`. The matcher is written by hand: almost every byte is passed over after one look into a
//! table, nothing is allocated, and no input makes it slow, since each form has a greatest length.

mod assignment;
mod find;
mod forms;
mod kind;
mod private_key;

pub use assignment::{is_secret_name, secret_variable};
pub use find::{Find, find_secrets};
pub use kind::SecretKind;

use crate::digest::sha256;

/// Bytes of a digest that tell two secrets apart.
const FINGERPRINT_LEN: usize = 4;

/// Eight hexadecimal digits by which two secrets can be told apart: the beginning of the SHA-256 digest. Only for
/// kinds whose values cannot be guessed ([`SecretKind::is_random`]).
pub fn fingerprint(value: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&sha256(value)[..FINGERPRINT_LEN])
}
