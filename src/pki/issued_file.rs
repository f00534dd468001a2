//! `leaves.json`: the certificates that were issued, in the form in which they are stored.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::store;

/// Bytes of a leaf in the file: serial number, expiry in seconds since the epoch, tag of the issuing CA.
const RECORD_LEN: usize = 16 + 8 + 4;
const FILE_NAME: &str = "leaves.json";
const VERSION: u64 = 1;

/// Names an issuing CA: the first bytes of its key identifier.
pub type CaTag = [u8; 4];

/// What revocation needs of an issued certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafRecord {
    /// The serial number, big-endian.
    pub serial: [u8; 16],
    /// When the certificate expires.
    pub expires: Timestamp,
    /// The issuing CA.
    pub ca_tag: CaTag,
}

/// The content of `leaves.json`: for each SPIFFE ID its leaves, in base64 of 28 bytes each.
/// Serial numbers are not secret.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IssuedCertificatesFile {
    leaves: HashMap<Arc<str>, String>,
}

impl IssuedCertificatesFile {
    /// Reads `leaves.json`; empty where there is none. Blocking.
    pub fn read(dir: &Path) -> Result<IssuedCertificatesFile, store::Error> {
        Ok(store::read(&dir.join(FILE_NAME), VERSION)?.unwrap_or_default())
    }

    /// The leaves by SPIFFE ID. What is not base64 of whole records is left out.
    pub fn into_leaves(self) -> impl Iterator<Item = (Arc<str>, Vec<LeafRecord>)> {
        self.leaves.into_iter().map(|(id, encoded)| {
            let bytes = BASE64.decode(encoded.as_bytes()).unwrap_or_default();
            (id, bytes.chunks_exact(RECORD_LEN).filter_map(LeafRecord::from_bytes).collect())
        })
    }

    /// Writes `leaves.json`, which is on disk when this returns. Blocking.
    pub fn write(&self, dir: &Path) -> Result<(), store::Error> {
        store::write(&dir.join(FILE_NAME), VERSION, self)
    }
}

impl<L: Iterator<Item = LeafRecord>> FromIterator<(Arc<str>, L)> for IssuedCertificatesFile {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, L)>>(by_identity: I) -> IssuedCertificatesFile {
        let encode = |leaves: L| BASE64.encode(&leaves.flat_map(LeafRecord::to_bytes).collect::<Vec<u8>>());
        IssuedCertificatesFile {
            leaves: by_identity.into_iter().map(|(id, leaves)| (id, encode(leaves))).collect(),
        }
    }
}

impl LeafRecord {
    fn to_bytes(self) -> Vec<u8> {
        [&self.serial[..], &self.expires.as_secs().to_be_bytes(), &self.ca_tag].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<LeafRecord> {
        let (serial, rest) = bytes.split_first_chunk::<16>()?;
        let (expires, ca_tag) = rest.split_first_chunk::<8>()?;
        let expires = Timestamp::from_secs(u64::from_be_bytes(*expires));
        Some(LeafRecord { serial: *serial, expires, ca_tag: ca_tag.try_into().ok()? })
    }
}
