//! Which certificates of each identity have been issued and have not expired, so that they can be revoked.
//!
//! The number is bounded, for one identity and altogether: beyond it, an identity waits until a certificate
//! has expired.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::agents::MatchTag;
use crate::clock::Timestamp;
use crate::store;

/// Unexpired leaves of one identity.
const MAX_PER_IDENTITY: usize = 4096;
/// Unexpired leaves of all identities.
const MAX_TOTAL: usize = 32_768;
/// Bytes of a leaf in the file: serial number, expiry in seconds since the epoch, tag of the issuing CA, tag
/// of the agent's conditions (zero if it is not known).
const RECORD_LEN: usize = 16 + 8 + 4 + 4;
/// As in format 1, which has no tags of conditions.
const RECORD_LEN_1: usize = RECORD_LEN - 4;
const FILE_NAME: &str = "leaves.json";
const VERSION: u64 = 2;

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
}

/// No further leaf can be recorded now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QuotaExceeded {
    /// Whether the bound of one identity is reached, rather than that of all.
    pub per_identity: bool,
    /// Until the first leaf that counts expires.
    pub retry_after: Duration,
}

/// The unexpired leaves, by SPIFFE ID.
#[derive(Debug, Default)]
pub(super) struct IssuedCertificates {
    by_identity: HashMap<Arc<str>, Vec<LeafRecord>>,
    total: usize,
    /// Whether the content differs from the file's.
    dirty: bool,
}

/// The content of `leaves.json`: for each SPIFFE ID its leaves, in base64 of [`RECORD_LEN`] bytes each.
/// Serial numbers are not secret.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IssuedCertificatesFile {
    leaves: HashMap<Arc<str>, String>,
}

impl IssuedCertificates {
    /// Reads `leaves.json`; empty where there is none.
    pub fn read(dir: &Path) -> Result<IssuedCertificates, store::Error> {
        let path = dir.join(FILE_NAME);
        let parse = |version, state| Ok((version, serde_json::from_value::<IssuedCertificatesFile>(state)?));
        let (version, file) = store::read_versions(&path, 1..=VERSION, parse)?.unwrap_or_default();
        let record_len = if version == 1 { RECORD_LEN_1 } else { RECORD_LEN };
        let mut issued = IssuedCertificates::default();
        for (id, encoded) in file.leaves {
            let bytes = BASE64.decode(encoded.as_bytes()).unwrap_or_default();
            let leaves: Vec<LeafRecord> =
                bytes.chunks_exact(record_len).filter_map(LeafRecord::from_bytes).collect();
            issued.total += leaves.len();
            issued.by_identity.insert(id, leaves);
        }
        Ok(issued)
    }

    /// The file to write, if the content changed since the last call. Counts it as written: see
    /// [`IssuedCertificates::mark_dirty`].
    pub fn take_changes(&mut self, now: Timestamp) -> Option<IssuedCertificatesFile> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        self.prune(now);
        let encode = |leaves: &Vec<LeafRecord>| {
            let bytes: Vec<u8> = leaves.iter().copied().flat_map(LeafRecord::to_bytes).collect();
            BASE64.encode(&bytes)
        };
        Some(IssuedCertificatesFile {
            leaves: self.by_identity.iter().map(|(id, leaves)| (id.clone(), encode(leaves))).collect(),
        })
    }

    /// A write of the changes failed: the next [`IssuedCertificates::take_changes`] returns them again.
    pub fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    /// Records a leaf of this SPIFFE ID.
    pub fn add(&mut self, id: &str, leaf: LeafRecord, now: Timestamp) -> Result<(), QuotaExceeded> {
        let count = self.by_identity.get(id).map_or(0, Vec::len);
        if count >= MAX_PER_IDENTITY || self.total >= MAX_TOTAL {
            self.ensure_capacity(id, now)?;
        }
        match self.by_identity.get_mut(id) {
            Some(leaves) => leaves.push(leaf),
            None => drop(self.by_identity.insert(id.into(), vec![leaf])),
        }
        self.total += 1;
        self.dirty = true;
        Ok(())
    }

    /// The number of recorded leaves of an identity. Some of them may have expired.
    pub fn count_for(&self, id: &str) -> usize {
        self.by_identity.get(id).map_or(0, Vec::len)
    }

    /// Whether a leaf is recorded, by its serial number in hexadecimal.
    pub fn contains(&self, id: &str, serial: &str) -> bool {
        let Ok(serial) = HEXLOWER.decode(serial.as_bytes()) else { return false };
        // The latest are at the end, and most lookups are for them.
        self.by_identity
            .get(id)
            .is_some_and(|leaves| leaves.iter().rev().any(|leaf| leaf.serial[..] == serial))
    }

    fn ensure_capacity(&mut self, id: &str, now: Timestamp) -> Result<(), QuotaExceeded> {
        self.prune(now);
        let per_identity = self.by_identity.get(id).map_or(0, Vec::len) >= MAX_PER_IDENTITY;
        if !per_identity && self.total < MAX_TOTAL {
            return Ok(());
        }
        let candidates = self
            .by_identity
            .iter()
            .filter(|(owner, _)| !per_identity || ***owner == *id)
            .flat_map(|(_, leaves)| leaves);
        let earliest_expiry = candidates.map(|leaf| leaf.expires).min().unwrap_or(now);
        Err(QuotaExceeded { per_identity, retry_after: earliest_expiry.since(now) })
    }

    /// Drops expired leaves.
    fn prune(&mut self, now: Timestamp) {
        self.by_identity.retain(|_, leaves| {
            leaves.retain(|leaf| leaf.expires > now);
            !leaves.is_empty()
        });
        self.total = self.by_identity.values().map(Vec::len).sum();
    }

    /// The leaves of each SPIFFE ID for which `is_orphan` holds.
    pub fn orphaned(
        &self,
        is_orphan: impl Fn(&str, &LeafRecord) -> bool,
    ) -> Vec<(Arc<str>, Vec<LeafRecord>)> {
        let orphans = self.by_identity.iter().map(|(id, leaves)| {
            let orphans = leaves.iter().filter(|leaf| is_orphan(id, leaf)).copied();
            (id.clone(), orphans.collect::<Vec<_>>())
        });
        orphans.filter(|(_, leaves)| !leaves.is_empty()).collect()
    }

    /// Drops these leaves. Those of the same identity that were added meanwhile stay.
    pub fn remove(&mut self, id: &str, removed: &[LeafRecord]) {
        let Some(leaves) = self.by_identity.get_mut(id) else { return };
        let before = leaves.len();
        leaves.retain(|leaf| !removed.contains(leaf));
        self.total -= before - leaves.len();
        self.dirty = true;
        if leaves.is_empty() {
            self.by_identity.remove(id);
        }
    }
}

impl IssuedCertificatesFile {
    /// Writes `leaves.json`, which is on disk when this returns. Blocking.
    pub fn write(&self, dir: &Path) -> Result<(), store::Error> {
        store::write(&dir.join(FILE_NAME), VERSION, self)
    }
}

impl LeafRecord {
    fn to_bytes(self) -> Vec<u8> {
        let match_tag = self.match_tag.map_or([0; 4], MatchTag::to_bytes);
        [&self.serial[..], &self.expires.as_secs().to_be_bytes(), &self.ca_tag, &match_tag].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<LeafRecord> {
        let (serial, rest) = bytes.split_first_chunk::<16>()?;
        let (expires, ca_tag) = rest.split_first_chunk::<8>()?;
        let expires = Timestamp::from_secs(u64::from_be_bytes(*expires));
        let (ca_tag, match_tag) = ca_tag.split_first_chunk::<4>()?;
        let match_tag = match_tag.first_chunk::<4>().and_then(|tag| MatchTag::from_bytes(*tag));
        Some(LeafRecord { serial: *serial, expires, ca_tag: *ca_tag, match_tag })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn leaf(n: usize, lifetime: u64) -> LeafRecord {
        let mut serial = [0; 16];
        serial[..8].copy_from_slice(&n.to_be_bytes());
        let match_tag = MatchTag::from_bytes([0, 0, 0, n as u8]);
        let expires = NOW.after(Duration::from_secs(lifetime));
        LeafRecord { serial, expires, ca_tag: *b"ca 1", match_tag }
    }

    #[test]
    fn identity_over_quota_waits_for_its_first_expiry_without_affecting_others() {
        let mut issued = IssuedCertificates::default();
        for n in 0..MAX_PER_IDENTITY {
            issued.add("a", leaf(n, 100 + n as u64), NOW).unwrap();
        }
        let exceeded = issued.add("a", leaf(0, 9), NOW).unwrap_err();
        assert_eq!(exceeded, QuotaExceeded { per_identity: true, retry_after: Duration::from_secs(100) });
        issued.add("b", leaf(0, 9), NOW).unwrap();
        issued.add("a", leaf(0, 9), NOW.after(Duration::from_secs(101))).unwrap();
    }

    #[test]
    fn total_is_bounded() {
        let mut issued = IssuedCertificates::default();
        for n in 0..MAX_TOTAL {
            issued.add(&(n % 100).to_string(), leaf(n, 100), NOW).unwrap();
        }
        assert!(!issued.add("new", leaf(0, 9), NOW).unwrap_err().per_identity);
        issued.add("new", leaf(0, 300), NOW.after(Duration::from_secs(200))).unwrap();
        assert_eq!(issued.total, 1);
    }

    #[test]
    fn full_file_round_trips_and_fits_the_state_file_limit() {
        let dir = tempfile::tempdir().unwrap();
        let mut issued = IssuedCertificates::default();
        for n in 0..MAX_TOTAL {
            let id = format!("spiffe://{}/{}", "d".repeat(100), n % 10_000);
            issued.add(&id, leaf(n, 100), NOW).unwrap();
        }
        issued.take_changes(NOW).unwrap().write(dir.path()).unwrap();
        assert!(issued.take_changes(NOW).is_none());
        let read = IssuedCertificates::read(dir.path()).unwrap();
        assert_eq!((read.total, &read.by_identity), (MAX_TOTAL, &issued.by_identity));
        assert_eq!(IssuedCertificates::read(&dir.path().join("none")).unwrap().total, 0);
    }

    #[test]
    fn leaves_of_format_1_have_no_tag_of_conditions() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = &leaf(7, 100).to_bytes()[..RECORD_LEN_1];
        let leaves = HashMap::from([("a".into(), BASE64.encode(&[bytes, bytes].concat()))]);
        store::write(&dir.path().join(FILE_NAME), 1, &IssuedCertificatesFile { leaves }).unwrap();
        let read = IssuedCertificates::read(dir.path()).unwrap();
        assert_eq!(read.by_identity["a"], [LeafRecord { match_tag: None, ..leaf(7, 100) }; 2]);
    }

    #[test]
    fn leaves_of_one_identity_are_orphaned_one_by_one() {
        let mut issued = IssuedCertificates::default();
        issued.add("a", leaf(1, 100), NOW).unwrap();
        issued.add("a", leaf(2, 100), NOW).unwrap();
        let orphans = issued.orphaned(|_, leaf| leaf.match_tag == MatchTag::from_bytes([0, 0, 0, 1]));
        assert_eq!(orphans, [("a".into(), vec![leaf(1, 100)])]);
    }

    #[test]
    fn remove_keeps_records_added_meanwhile() {
        let mut issued = IssuedCertificates::default();
        issued.add("a", leaf(1, 100), NOW).unwrap();
        issued.add("b", leaf(2, 100), NOW).unwrap();
        let orphans = issued.orphaned(|id, _| id != "b");
        assert_eq!(orphans, [("a".into(), vec![leaf(1, 100)])]);
        issued.add("a", leaf(3, 100), NOW).unwrap();
        issued.remove("a", &orphans[0].1);
        assert_eq!(issued.orphaned(|_, _| true).len(), 2);
        assert_eq!(issued.by_identity["a"], [leaf(3, 100)]);
    }
}
