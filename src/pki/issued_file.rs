//! The certificates that were issued to an identity, in memory and in `leaves.json`.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::invocation_tag::InvocationTag;
use crate::agents::MatchTag;
use crate::clock::Timestamp;
use crate::peer::boot_id;
use crate::store;

/// Bytes of a leaf in the file, by format: serial number, expiry in seconds since the epoch, tag of the issuing
/// CA; from format 2 on the tag of the agent's conditions (zero if it is not known); from format 3 on the tag of the
/// invocation (zero if there is none).
const RECORD_LENS: [usize; VERSION as usize] = [16 + 8 + 4, 16 + 8 + 4 + 4, RECORD_LEN];
const RECORD_LEN: usize = 16 + 8 + 4 + 4 + 8;
pub(super) const FILE_NAME: &str = "leaves.json";
const VERSION: u64 = 3;

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
    /// The conditions that the agent's process met; `None` for a leaf of a release that did not record them.
    pub match_tag: Option<MatchTag>,
    /// The invocation of the agent's process; `None` for a leaf of an earlier release, and for one that processes
    /// of several invocations share.
    pub invocation: Option<InvocationTag>,
}

/// The leaves of one identity.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    /// Those that count.
    pub counted: Vec<LeafRecord>,
    /// Those that expire later than a leaf that is issued now. The clock was ahead when they were issued, or
    /// is behind now. They can be revoked, and do not count: they would keep the identity from getting others
    /// for as long as the clock was ahead.
    pub ahead: Vec<LeafRecord>,
    /// Those that have expired, by a clock that may be ahead. They can be revoked, and do not count.
    pub expired: Vec<LeafRecord>,
}

/// The content of `leaves.json`: for each SPIFFE ID its leaves, in base64 of 40 bytes each.
/// Serial numbers are not secret.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IssuedCertificatesFile {
    leaves: HashMap<Arc<str>, String>,
    /// The boot in which the leaves were issued, from format 3 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
    /// The format in which it was read.
    #[serde(skip)]
    version: u64,
}

impl IssuedCertificatesFile {
    /// Reads `leaves.json`; empty where there is none. Blocking.
    pub fn read(dir: &Path) -> Result<IssuedCertificatesFile, store::Error> {
        let parse = |version, state| {
            let file: IssuedCertificatesFile = serde_json::from_value(state)?;
            Ok(IssuedCertificatesFile { version, ..file })
        };
        Ok(store::read_versions(&dir.join(FILE_NAME), 1..=VERSION, parse)?.unwrap_or_default())
    }

    /// Whether the host was started again since the leaves were issued: the invocations of all have ended.
    pub fn is_of_earlier_boot(&self) -> bool {
        self.boot.as_ref().is_some_and(|boot| boot != boot_id())
    }

    /// The leaves by SPIFFE ID, and whether the entry is damaged: not base64 of whole records. Then only the
    /// records before the damage are returned.
    pub fn into_leaves(self) -> impl Iterator<Item = (Arc<str>, Vec<LeafRecord>, bool)> {
        let record_len =
            RECORD_LENS.get(self.version.saturating_sub(1) as usize).copied().unwrap_or(RECORD_LEN);
        self.leaves.into_iter().map(move |(id, encoded)| {
            let (bytes, is_base64) = match BASE64.decode(encoded.as_bytes()) {
                Ok(bytes) => (bytes, true),
                // Each group of four characters before the error is three bytes.
                Err(e) => {
                    let intact = encoded.as_bytes().get(..e.position / 4 * 4).unwrap_or_default();
                    (BASE64.decode(intact).unwrap_or_default(), false)
                }
            };
            let records = bytes.chunks_exact(record_len);
            let is_damaged = !is_base64 || !records.remainder().is_empty();
            (id, records.filter_map(LeafRecord::from_bytes).collect(), is_damaged)
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
            boot: Some(boot_id().to_owned()),
            version: VERSION,
        }
    }
}

impl LeafRecord {
    fn to_bytes(self) -> Vec<u8> {
        let match_tag = self.match_tag.map_or([0; 4], MatchTag::to_bytes);
        let invocation = self.invocation.map_or([0; 8], InvocationTag::to_bytes);
        let expires = self.expires.as_secs().to_be_bytes();
        [&self.serial[..], &expires, &self.ca_tag, &match_tag, &invocation].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<LeafRecord> {
        let (serial, rest) = bytes.split_first_chunk::<16>()?;
        let (expires, ca_tag) = rest.split_first_chunk::<8>()?;
        let expires = Timestamp::from_secs(u64::from_be_bytes(*expires));
        let (ca_tag, match_tag) = ca_tag.split_first_chunk::<4>()?;
        let (match_tag, invocation) = match_tag.split_at(match_tag.len().min(4));
        let match_tag = match_tag.first_chunk::<4>().and_then(|tag| MatchTag::from_bytes(*tag));
        let invocation = invocation.first_chunk::<8>().and_then(|tag| InvocationTag::from_bytes(*tag));
        Some(LeafRecord { serial: *serial, expires, ca_tag: *ca_tag, match_tag, invocation })
    }

    /// Whether the invocation in which it was issued has ended, so that it is to be revoked.
    pub fn has_ended(&self) -> bool {
        self.invocation == Some(InvocationTag::ENDED)
    }
}

impl Leaves {
    /// All leaves, those that count last.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &LeafRecord> {
        self.ahead.iter().chain(&self.expired).chain(&self.counted)
    }

    /// All leaves, to change them.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut LeafRecord> {
        self.ahead.iter_mut().chain(&mut self.expired).chain(&mut self.counted)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counted.is_empty() && self.ahead.is_empty() && self.expired.is_empty()
    }

    /// Has those leaves count that expire after `now`, at `last` or before. Drops those that expired at
    /// `forget_until` or before.
    pub fn update(&mut self, now: Timestamp, last: Timestamp, forget_until: Timestamp) {
        move_if(&mut self.ahead, &mut self.counted, |leaf| leaf.expires <= last);
        move_if(&mut self.expired, &mut self.counted, |leaf| leaf.expires > now);
        move_if(&mut self.counted, &mut self.ahead, |leaf| leaf.expires > last);
        move_if(&mut self.counted, &mut self.expired, |leaf| leaf.expires <= now);
        self.expired.retain(|leaf| leaf.expires > forget_until);
    }

    /// Drops these leaves.
    pub fn remove(&mut self, removed: &[LeafRecord]) {
        let removed: HashSet<[u8; 16]> = removed.iter().map(|leaf| leaf.serial).collect();
        for list in [&mut self.counted, &mut self.ahead, &mut self.expired] {
            list.retain(|leaf| !removed.contains(&leaf.serial));
        }
    }
}

/// Moves leaves from one list to the end of another.
fn move_if(from: &mut Vec<LeafRecord>, to: &mut Vec<LeafRecord>, moves: impl Fn(&LeafRecord) -> bool) {
    if from.iter().any(&moves) {
        to.extend(from.iter().filter(|leaf| moves(leaf)));
        from.retain(|leaf| !moves(leaf));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn leaves_of_earlier_formats_lack_tags() {
        let dir = tempfile::tempdir().unwrap();
        let expires = Timestamp::from_secs(1000).after(Duration::from_secs(100));
        let match_tag = MatchTag::from_bytes([0, 0, 0, 7]);
        let invocation = InvocationTag::of_id("0123456789abcdef0123456789abcdef");
        let leaf = LeafRecord { serial: [7; 16], expires, ca_tag: *b"ca 1", match_tag, invocation };
        for (version, expected) in [
            (1, LeafRecord { match_tag: None, invocation: None, ..leaf }),
            (2, LeafRecord { invocation: None, ..leaf }),
            (3, leaf),
        ] {
            let bytes = leaf.to_bytes();
            let bytes = &bytes[..RECORD_LENS[version as usize - 1]];
            let leaves = HashMap::from([("a".into(), BASE64.encode(&[bytes, bytes].concat()))]);
            let file = IssuedCertificatesFile { leaves, boot: None, version };
            store::write(&dir.path().join(FILE_NAME), version, &file).unwrap();
            let read = IssuedCertificatesFile::read(dir.path()).unwrap();
            assert!(!read.is_of_earlier_boot());
            let leaves: Vec<_> = read.into_leaves().collect();
            assert_eq!(leaves, [("a".into(), vec![expected; 2], false)], "format {version}");
        }
    }
}
