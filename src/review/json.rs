//! The JSON of a review, and its digest.

use data_encoding::HEXLOWER;

use super::types::Review;
use crate::config::escape_unprintable_json;
use crate::digest::sha256;

/// The review as one line of JSON, without the end of the line. Texts in it that control a terminal are escaped.
///
/// # Errors
/// The path of a file is not UTF-8.
pub fn to_json(review: &Review) -> serde_json::Result<String> {
    Ok(escape_unprintable_json(&serde_json::to_string(review)?).into_owned())
}

/// SHA-256 of the JSON and the end of its line, 64 hexadecimal digits.
pub(super) fn digest_of_json(json: &str) -> String {
    HEXLOWER.encode(&sha256(format!("{json}\n").as_bytes()))
}
