//! The digests of the programs that the kernel measured before they ran.
//!
//! A digest is known once its entry is in a list that replays to a PCR 10 which the TPM quoted. The list only
//! grows, and each update continues where the last quote proved it. Any user can make the list long, so that
//! its length must not disable it: where it has more digests than are stored, those that agents asked for are
//! stored first.

use std::collections::HashSet;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

use super::ima_error::ImaError;
use super::ima_list::ImaListFile;
use super::verified_list::{TruncatedDigest, VerifiedList, truncate};
use crate::mutex::lock;

/// How much of a list is read at once, in bytes.
const READ_CHUNK_LEN: u64 = 256 * 1024;
/// The most digests that are stored, in 32 MiB of memory.
const MAX_DIGESTS: usize = 1_000_000;
/// The most requested digests that are stored in addition.
const MAX_REQUESTED: usize = 1024;
const EMPTY_PCR: [u8; 32] = [0; 32];

/// The digests of a proven list. Clones share it; a clone is cheap.
#[derive(Clone, Debug)]
pub struct ImaDigests(Arc<ImaDigestsInner>);

#[derive(Debug)]
struct ImaDigestsInner {
    capacity: usize,
    verified: RwLock<VerifiedList>,
    requested: Mutex<RequestedDigests>,
    /// Notified when an unknown digest is asked for: it can be in entries that were not read yet.
    cache_miss: Notify,
}

/// Digests that agents asked for and that were unknown while the stored list was incomplete.
#[derive(Debug, Default)]
struct RequestedDigests {
    digests: HashSet<TruncatedDigest>,
    /// Whether the list was not searched from its start for one of them.
    rescan_needed: bool,
}

impl Default for ImaDigests {
    fn default() -> ImaDigests {
        ImaDigests::with_capacity(MAX_DIGESTS)
    }
}

impl ImaDigests {
    fn with_capacity(capacity: usize) -> ImaDigests {
        ImaDigests(Arc::new(ImaDigestsInner {
            capacity,
            verified: RwLock::default(),
            requested: Mutex::default(),
            cache_miss: Notify::new(),
        }))
    }

    /// Checks that the program with this SHA-256 was measured. If it was not, the list is updated soon: see
    /// [`ImaDigests::wait_for_miss`].
    ///
    /// # Errors
    ///
    /// The reason why the program is not known to be measured.
    pub fn check_measured(&self, digest: &[u8; 32]) -> Result<(), ImaError> {
        let verified = self.read_verified();
        if verified.digests.contains(&truncate(digest)) {
            return Ok(());
        }
        if verified.incomplete {
            self.request(truncate(digest));
        }
        self.0.cache_miss.notify_one();
        match (&verified.error, verified.entry_count) {
            (Some(error), _) => Err(error.clone()),
            (None, 0) => Err(ImaError::NotRead),
            (None, entries) => Err(ImaError::NotMeasured { entries, non_sha256: verified.non_sha256_count }),
        }
    }

    /// Whether a file with this SHA-256 is in the proven list, without a search for it if it is not.
    pub fn contains(&self, digest: &[u8; 32]) -> bool {
        self.read_verified().digests.contains(&truncate(digest))
    }

    /// The number of proven entries.
    ///
    /// # Errors
    ///
    /// The reason why none is proven.
    pub fn entry_count(&self) -> Result<usize, ImaError> {
        let verified = self.read_verified();
        verified.error.clone().map_or(Ok(verified.entry_count), Err)
    }

    /// Returns after an unknown digest was asked for.
    pub async fn wait_for_miss(&self) {
        self.0.cache_miss.notified().await;
    }

    /// Continues to read the list, up to where it replays to `pcr`, a quoted PCR 10. Blocking.
    ///
    /// An error is stored, and returned by the other methods.
    pub fn update(&self, list: &ImaListFile, pcr: &[u8; 32]) {
        let (verified_pcr, usable, incomplete) = {
            let verified = self.read_verified();
            (verified.pcr, verified.error.is_none() && verified.offset > 0, verified.incomplete)
        };
        if *pcr == EMPTY_PCR {
            return self.set_error(ImaError::Inactive);
        }
        let rescan = incomplete && std::mem::take(&mut self.requested().rescan_needed);
        if usable && verified_pcr == *pcr && !rescan {
            return;
        }
        // If the list does not continue from there, it may be that of another boot: it is read again from its
        // start.
        if usable && !rescan && self.read_list(list, false, pcr).is_ok() {
            return;
        }
        if let Err(error) = self.read_list(list, true, pcr) {
            self.set_error(error);
        }
    }

    /// Reads the list from its start, or from where it is verified, and stores the result. Stores nothing on
    /// failure.
    fn read_list(&self, list: &ImaListFile, from_start: bool, pcr: &[u8; 32]) -> Result<(), ImaError> {
        let mut updated =
            if from_start { VerifiedList::default() } else { self.read_verified().without_digests() };
        let requested = self.requested().digests.clone();
        let should_keep =
            |count: usize, digest: &TruncatedDigest| count < self.0.capacity || requested.contains(digest);
        let mut file = list.open_at(updated.offset)?;
        let mut buffer = Vec::new();
        while updated.pcr != *pcr {
            let read = (&mut file).take(READ_CHUNK_LEN).read_to_end(&mut buffer);
            if read.map_err(|e| list.io_error(&e))? == 0 {
                return Err(ImaError::NotReplayed);
            }
            let consumed = updated.add_entries(&buffer, pcr, should_keep)?;
            buffer.drain(..consumed);
        }
        let mut verified = self.write_verified();
        if !from_start {
            let new_digests = std::mem::replace(&mut updated.digests, std::mem::take(&mut verified.digests));
            for digest in new_digests {
                updated.add_digest(digest, should_keep);
            }
        }
        *verified = updated;
        Ok(())
    }

    /// Requests that the next update searches the list from its start for a digest, and stores it if it is
    /// there.
    fn request(&self, digest: TruncatedDigest) {
        let mut requested = self.requested();
        if requested.digests.contains(&digest) {
            return;
        }
        // An agent whose digest is dropped by this asks again.
        if requested.digests.len() >= MAX_REQUESTED {
            requested.digests.clear();
        }
        requested.digests.insert(digest);
        requested.rescan_needed = true;
    }

    fn set_error(&self, error: ImaError) {
        *self.write_verified() = VerifiedList { error: Some(error), ..VerifiedList::default() };
    }

    fn read_verified(&self) -> RwLockReadGuard<'_, VerifiedList> {
        self.0.verified.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_verified(&self) -> RwLockWriteGuard<'_, VerifiedList> {
        self.0.verified.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn requested(&self) -> MutexGuard<'_, RequestedDigests> {
        lock(&self.0.requested)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use data_encoding::HEXLOWER;

    use super::*;
    use crate::verify::ima;
    use crate::verify::ima::sample_list::{PCR_AFTER_ALL, PCR_AFTER_TWO, sample_entries};

    fn bytes(hex: &str) -> [u8; 32] {
        HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    struct TestHost {
        _dir: tempfile::TempDir,
        file: PathBuf,
        list: ImaListFile,
    }

    fn host() -> TestHost {
        let dir = tempfile::tempdir().unwrap();
        TestHost { file: dir.path().join("ima-list"), list: ImaListFile::in_dir(dir.path()), _dir: dir }
    }

    #[test]
    fn list_is_read_incrementally_and_reread_when_replaced() {
        let (host, digests) = (host(), ImaDigests::default());
        let dash = bytes("89c4ec9f6b3f1086b158d8ef03dfe8155e6f79d9e66434b8f9b3432fe8720e50");
        let python = bytes("6e491c02882ac36e3bcaaac4d151d4b2793135d4482adf227b1b730cdd90b46d");
        fs::write(&host.file, sample_entries().concat()).unwrap();
        assert!(digests.check_measured(&dash).unwrap_err().to_string().contains("no list"));

        digests.update(&host.list, &bytes(PCR_AFTER_TWO));
        assert_eq!((digests.entry_count(), digests.check_measured(&dash)), (Ok(2), Ok(())));
        assert!(
            digests
                .check_measured(&python)
                .unwrap_err()
                .to_string()
                .contains("none of the 2 that IMA measured")
        );
        // Only the rest is read: the entries that were proven before are no longer needed.
        let rest = sample_entries()[..2].concat().len();
        let mut overwritten = vec![b'x'; rest];
        overwritten.extend_from_slice(&sample_entries().concat()[rest..]);
        fs::write(&host.file, overwritten).unwrap();
        digests.update(&host.list, &bytes(PCR_AFTER_ALL));
        assert_eq!(
            (digests.entry_count(), digests.check_measured(&dash), digests.check_measured(&python)),
            (Ok(5), Ok(()), Ok(()))
        );
        // For the same PCR the list is not read.
        fs::remove_file(&host.file).unwrap();
        digests.update(&host.list, &bytes(PCR_AFTER_ALL));
        assert_eq!(digests.entry_count(), Ok(5));

        fs::write(&host.file, sample_entries().concat()).unwrap();
        digests.update(&host.list, &bytes(PCR_AFTER_TWO));
        assert_eq!(digests.entry_count(), Ok(2));
        assert!(digests.check_measured(&python).is_err(), "digests of another boot are dropped");
    }

    #[test]
    fn faults_are_named_and_clear_all_digests() {
        let (host, digests) = (host(), ImaDigests::default());
        let error_after = |pcr: [u8; 32]| {
            digests.update(&host.list, &pcr);
            digests.entry_count().unwrap_err().to_string()
        };
        assert!(error_after(bytes(PCR_AFTER_TWO)).contains("does not exist"));
        assert!(error_after(EMPTY_PCR).contains("PCR 10 is empty"));
        fs::write(&host.file, sample_entries().concat()).unwrap();
        digests.update(&host.list, &bytes(PCR_AFTER_ALL));
        assert_eq!(digests.entry_count(), Ok(5));
        assert!(error_after([1; 32]).contains("does not replay"));
        assert!(
            digests
                .check_measured(&bytes("89c4ec9f6b3f1086b158d8ef03dfe8155e6f79d9e66434b8f9b3432fe8720e50"))
                .is_err()
        );
        fs::write(&host.file, "10 corrupt\n").unwrap();
        assert!(error_after(bytes(PCR_AFTER_ALL)).contains("IMA list, entry 1"));
    }

    /// The list has more digests than the capacity, and is longer than a chunk.
    #[test]
    fn requested_digests_are_found_in_an_oversized_list() {
        let (host, digests) = (host(), ImaDigests::with_capacity(1));
        let dash = bytes("89c4ec9f6b3f1086b158d8ef03dfe8155e6f79d9e66434b8f9b3432fe8720e50");
        let agent = bytes("d4f0bc5a29de06b510f9aa428f1eedba926012b591fef7a518e776a7c9bd1824");
        let mut list = sample_entries().concat();
        let mut pcr = bytes(PCR_AFTER_ALL);
        let extra = sample_entries()[0].clone();
        while list.len() < 3 * READ_CHUNK_LEN as usize {
            list.extend(&extra);
            pcr = ima::parse_entry(&extra, &mut None).unwrap().unwrap().extend_pcr(&pcr);
        }
        fs::write(&host.file, &list).unwrap();
        digests.update(&host.list, &bytes(PCR_AFTER_ALL));
        assert_eq!(digests.entry_count(), Ok(5));
        for digest in [&dash, &agent] {
            assert!(digests.check_measured(digest).is_err());
        }
        digests.update(&host.list, &bytes(PCR_AFTER_ALL));
        assert_eq!((digests.check_measured(&dash), digests.check_measured(&agent)), (Ok(()), Ok(())));
        assert!(digests.check_measured(&[3; 32]).is_err(), "it is not in the list");
        digests.update(&host.list, &pcr);
        assert_eq!((digests.check_measured(&dash), digests.check_measured(&agent)), (Ok(()), Ok(())));
        assert_eq!(
            digests.entry_count(),
            Ok(5 + (list.len() - sample_entries().concat().len()) / extra.len())
        );
    }
}
