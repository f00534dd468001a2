//! Which programs the kernel measured before they ran.
//!
//! A digest counts once its entry is in a list that replays to a PCR 10 which the TPM quoted. The list only grows, and is
//! read on from where the last quote proved it. Any user can make it long, so its length is no reason to believe nothing:
//! where there are more digests than are kept, those that are asked for are kept first.

use std::collections::HashSet;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Notify;

use super::ImaListFile;
use crate::verify::ima::{self, ByteOrder};

/// What is read of a list at once.
const READ_CHUNK_LEN: u64 = 256 * 1024;
/// Digests that are kept: 32 MiB of them.
const MAX_DIGESTS: usize = 1_000_000;
/// Of those that are asked for, so many are kept before all others.
const MAX_REQUESTED: usize = 1024;
const EMPTY_PCR: [u8; 32] = [0; 32];

/// The half of a digest that is kept: another file of the same half is as hard to make as a key is to guess.
type TruncatedDigest = [u8; 16];

/// The digests of a proven list. Cheap to clone; every clone sees what is proven next.
#[derive(Clone, Debug)]
pub struct ImaDigests(Arc<ImaDigestsInner>);

#[derive(Debug)]
struct ImaDigestsInner {
    capacity: usize,
    verified: RwLock<VerifiedList>,
    requested: Mutex<RequestedDigests>,
    /// Told when a digest is asked for that is not known: it may be in entries that were not read yet.
    cache_miss: Notify,
}

/// Digests that were asked for and not there, while not all could be kept.
#[derive(Debug, Default)]
struct RequestedDigests {
    digests: HashSet<TruncatedDigest>,
    /// Whether one of them was not looked for from the list's beginning.
    rescan_needed: bool,
}

#[derive(Clone, Debug, Default)]
struct VerifiedList {
    digests: HashSet<TruncatedDigest>,
    /// Whether some were left out.
    incomplete: bool,
    /// PCR 10 after the entries that were read, and how many bytes these are.
    pcr: [u8; 32],
    offset: u64,
    byte_order: Option<ByteOrder>,
    entry_count: usize,
    /// Files of which the kernel took another digest.
    non_sha256_count: usize,
    /// Why no list is proven.
    error: Option<String>,
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

    /// Whether the program of this SHA-256 was measured. The error is for the record and for the caller.
    pub fn contains(&self, digest: &[u8; 32]) -> Result<(), String> {
        let verified = self.0.verified.read().unwrap_or_else(PoisonError::into_inner);
        if verified.digests.contains(&truncate(digest)) {
            return Ok(());
        }
        if verified.incomplete {
            self.request(truncate(digest));
        }
        self.0.cache_miss.notify_one();
        if let Some(error) = &verified.error {
            return Err(error.clone());
        }
        Err(match (verified.entry_count, verified.non_sha256_count) {
            (0, _) => "no list of measured files was read yet; try again in a moment".to_owned(),
            (lines, 0) => format!(
                "its executable is none of the {lines} that IMA measured; a program that was just started is there in a moment"
            ),
            (lines, others) => format!(
                "its executable is none of the {lines} that IMA measured, of {others} of which the kernel took no SHA-256: boot with ima_hash=sha256"
            ),
        })
    }

    /// How many entries are proven, or why none are.
    pub fn entry_count(&self) -> Result<usize, String> {
        let verified = self.0.verified.read().unwrap_or_else(PoisonError::into_inner);
        verified.error.clone().map_or(Ok(verified.entry_count), Err)
    }

    /// Returns when somebody asked for what is not known.
    pub async fn wait_for_miss(&self) {
        self.0.cache_miss.notified().await;
    }

    /// Reads the list on, to where it gives the `pcr` 10 that was quoted before. Blocking.
    pub fn update(&self, list: &ImaListFile, pcr: &[u8; 32]) {
        let (verified_pcr, usable, incomplete) = {
            let verified = self.0.verified.read().unwrap_or_else(PoisonError::into_inner);
            (verified.pcr, verified.error.is_none() && verified.offset > 0, verified.incomplete)
        };
        if *pcr == EMPTY_PCR {
            return self.set_error("IMA measures nothing: PCR 10 is empty; boot with ima_policy=tcb".into());
        }
        let rescan = incomplete && std::mem::take(&mut self.requested().rescan_needed);
        if usable && verified_pcr == *pcr && !rescan {
            return;
        }
        // A list that does not go on from there is another boot's, or was never ours: once more from its beginning.
        if usable && !rescan && self.read_list(list, false, pcr).is_ok() {
            return;
        }
        if let Err(why) = self.read_list(list, true, pcr) {
            self.set_error(why);
        }
    }

    /// Nothing changes where this fails.
    fn read_list(&self, list: &ImaListFile, from_start: bool, pcr: &[u8; 32]) -> Result<(), String> {
        let mut updated = match from_start {
            true => VerifiedList::default(),
            false => self.0.verified.read().unwrap_or_else(PoisonError::into_inner).without_digests(),
        };
        let requested = self.requested().digests.clone();
        let should_keep =
            |count: usize, digest: &TruncatedDigest| count < self.0.capacity || requested.contains(digest);
        let mut file = list.open_at(updated.offset).map_err(|e| list.describe_error(&e))?;
        let mut buffer = Vec::new();
        while updated.pcr != *pcr {
            let read = (&mut file)
                .take(READ_CHUNK_LEN)
                .read_to_end(&mut buffer)
                .map_err(|e| list.describe_error(&e))?;
            if read == 0 {
                return Err("the IMA list does not replay to the quoted PCR 10: something else extended it, or the kernel is older than 5.8".to_owned());
            }
            let mut consumed = 0;
            while updated.pcr != *pcr {
                let entry = ima::parse_entry(&buffer[consumed..], &mut updated.byte_order)
                    .map_err(|e| format!("IMA list, entry {}: {e}", updated.entry_count + 1))?;
                let Some(entry) = entry else { break };
                consumed += entry.encoded_len();
                updated.offset += entry.encoded_len() as u64;
                updated.entry_count += 1;
                updated.pcr = entry.extend_pcr(&updated.pcr);
                match entry.sha256().as_ref().map(truncate) {
                    None => updated.non_sha256_count += 1,
                    Some(digest) if should_keep(updated.digests.len(), &digest) => {
                        updated.digests.insert(digest);
                    }
                    Some(digest) => updated.incomplete |= !updated.digests.contains(&digest),
                }
            }
            buffer.drain(..consumed);
        }
        let mut verified = self.0.verified.write().unwrap_or_else(PoisonError::into_inner);
        if !from_start {
            let new_digests = std::mem::replace(&mut updated.digests, std::mem::take(&mut verified.digests));
            for digest in new_digests {
                match should_keep(updated.digests.len(), &digest) {
                    true => drop(updated.digests.insert(digest)),
                    false => updated.incomplete |= !updated.digests.contains(&digest),
                }
            }
        }
        *verified = updated;
        Ok(())
    }

    /// Has a digest looked for from the list's beginning, and kept if it is there.
    fn request(&self, digest: TruncatedDigest) {
        let mut requested = self.requested();
        if requested.digests.contains(&digest) {
            return;
        }
        // Whoever is forgotten by this asks again.
        if requested.digests.len() >= MAX_REQUESTED {
            requested.digests.clear();
        }
        requested.digests.insert(digest);
        requested.rescan_needed = true;
    }

    fn set_error(&self, error: String) {
        let mut verified = self.0.verified.write().unwrap_or_else(PoisonError::into_inner);
        *verified = VerifiedList { error: Some(error), ..VerifiedList::default() };
    }

    fn requested(&self) -> std::sync::MutexGuard<'_, RequestedDigests> {
        self.0.requested.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VerifiedList {
    /// The same, to be read on; its digests stay where they are.
    fn without_digests(&self) -> VerifiedList {
        VerifiedList {
            digests: HashSet::new(),
            incomplete: self.incomplete,
            pcr: self.pcr,
            offset: self.offset,
            byte_order: self.byte_order,
            entry_count: self.entry_count,
            non_sha256_count: self.non_sha256_count,
            error: None,
        }
    }
}

fn truncate(digest: &[u8; 32]) -> TruncatedDigest {
    std::array::from_fn(|at| digest[at])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use data_encoding::HEXLOWER;

    use super::*;
    use crate::verify::ima::tests::{PCR_AFTER_ALL, PCR_AFTER_TWO, sample_entries};

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
        assert!(digests.contains(&dash).unwrap_err().contains("no list"));

        digests.update(&host.list, &bytes(PCR_AFTER_TWO));
        assert_eq!((digests.entry_count(), digests.contains(&dash)), (Ok(2), Ok(())));
        assert!(digests.contains(&python).unwrap_err().contains("none of the 2 that IMA measured"));
        // Only the rest is looked at: what was proven before does not have to be there any more.
        let rest = sample_entries()[..2].concat().len();
        let mut overwritten = vec![b'x'; rest];
        overwritten.extend_from_slice(&sample_entries().concat()[rest..]);
        fs::write(&host.file, overwritten).unwrap();
        digests.update(&host.list, &bytes(PCR_AFTER_ALL));
        assert_eq!(
            (digests.entry_count(), digests.contains(&dash), digests.contains(&python)),
            (Ok(5), Ok(()), Ok(()))
        );
        // The same PCR needs no list.
        fs::remove_file(&host.file).unwrap();
        digests.update(&host.list, &bytes(PCR_AFTER_ALL));
        assert_eq!(digests.entry_count(), Ok(5));

        fs::write(&host.file, sample_entries().concat()).unwrap();
        digests.update(&host.list, &bytes(PCR_AFTER_TWO));
        assert_eq!(digests.entry_count(), Ok(2));
        assert!(digests.contains(&python).is_err(), "what another boot measured is forgotten");
    }

    #[test]
    fn faults_are_named_and_clear_all_digests() {
        let (host, digests) = (host(), ImaDigests::default());
        let error_after = |pcr: [u8; 32]| {
            digests.update(&host.list, &pcr);
            digests.entry_count().unwrap_err()
        };
        assert!(error_after(bytes(PCR_AFTER_TWO)).contains("is not there"));
        assert!(error_after(EMPTY_PCR).contains("PCR 10 is empty"));
        fs::write(&host.file, sample_entries().concat()).unwrap();
        digests.update(&host.list, &bytes(PCR_AFTER_ALL));
        assert_eq!(digests.entry_count(), Ok(5));
        assert!(error_after([1; 32]).contains("does not replay"));
        assert!(
            digests
                .contains(&bytes("89c4ec9f6b3f1086b158d8ef03dfe8155e6f79d9e66434b8f9b3432fe8720e50"))
                .is_err()
        );
        fs::write(&host.file, "10 torn\n").unwrap();
        assert!(error_after(bytes(PCR_AFTER_ALL)).contains("IMA list, entry 1"));
    }

    /// More than can be kept, and longer than what is read at once.
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
            assert!(digests.contains(digest).is_err());
        }
        digests.update(&host.list, &bytes(PCR_AFTER_ALL));
        assert_eq!((digests.contains(&dash), digests.contains(&agent)), (Ok(()), Ok(())));
        assert!(digests.contains(&[3; 32]).is_err(), "nobody measured it");
        digests.update(&host.list, &pcr);
        assert_eq!((digests.contains(&dash), digests.contains(&agent)), (Ok(()), Ok(())));
        assert_eq!(
            digests.entry_count(),
            Ok(5 + (list.len() - sample_entries().concat().len()) / extra.len())
        );
    }
}
