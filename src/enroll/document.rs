//! What the files of enrollment have in common: JSON, bounded, with a version and no unknown members.

use serde::de::DeserializeOwned;

use super::error::{DocumentError, Error};
use crate::json;

/// The version of each of the four files.
pub const ENROLLMENT_VERSION: u64 = 1;
/// Bytes of an answer, challenge or secret: 32 KiB. Requests hold boot logs and have a bound of their own.
pub const MAX_SMALL_FILE_SIZE: usize = 32 * 1024;

/// Parses one of the files: at most `max_len` bytes.
pub(super) fn parse_document<T: DeserializeOwned>(
    document: &'static str,
    text: &[u8],
    max_len: usize,
) -> Result<T, Error> {
    parse_versioned(text, max_len).map_err(|error| Error::File { document, error })
}

fn parse_versioned<T: DeserializeOwned>(text: &[u8], max_len: usize) -> Result<T, DocumentError> {
    #[derive(serde::Deserialize)]
    struct DocumentVersion {
        version: u64,
    }
    if text.len() > max_len {
        return Err(DocumentError::TooLarge(max_len));
    }
    // The version first: a later format may have other members.
    let DocumentVersion { version: found } = json::from_object(text)?;
    if found != ENROLLMENT_VERSION {
        return Err(DocumentError::UnknownVersion { found, supported: ENROLLMENT_VERSION });
    }
    Ok(json::from_object(text)?)
}
