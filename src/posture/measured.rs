//! Which programs the kernel measured before they ran.
//!
//! A digest counts once its line is in a list that replays to a PCR 10 which the TPM quoted. The list only grows, and is
//! read on from where the last quote proved it.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

use super::ImaList;
use crate::verify::ima::List;

/// What is read of a list at once.
const LONGEST: u64 = 32 * 1024 * 1024;
/// Digests that are kept: 6 MiB of them.
const MOST: usize = 200_000;
const NOTHING: [u8; 32] = [0; 32];

/// The digests of a proven list. Cheap to clone; every clone sees what is proven next.
#[derive(Clone, Debug, Default)]
pub struct Measured(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    proven: RwLock<Proven>,
    /// Told when a digest is asked for that is not known: it may be in lines that were not read yet.
    missed: Notify,
}

#[derive(Debug, Default)]
struct Proven {
    digests: HashSet<[u8; 32]>,
    /// PCR 10 after the lines that were read, and how many bytes these are.
    pcr: [u8; 32],
    bytes: u64,
    lines: usize,
    /// Files of which the kernel took another digest.
    others: usize,
    /// Why no list is proven.
    fault: Option<String>,
}

impl Measured {
    /// Whether the program of this SHA-256 was measured. The error is for the record and for the caller.
    pub fn has(&self, digest: &[u8; 32]) -> Result<(), String> {
        let proven = self.0.proven.read().unwrap_or_else(PoisonError::into_inner);
        if proven.digests.contains(digest) {
            return Ok(());
        }
        self.0.missed.notify_one();
        if let Some(fault) = &proven.fault {
            return Err(fault.clone());
        }
        Err(match (proven.lines, proven.others) {
            (0, _) => "no list of measured files was read yet; try again in a moment".to_owned(),
            (lines, 0) => format!(
                "its executable is none of the {lines} that IMA measured; a program that was just started is there in a moment"
            ),
            (lines, others) => format!(
                "its executable is none of the {lines} that IMA measured, of {others} of which the kernel took no SHA-256: boot with ima_hash=sha256"
            ),
        })
    }

    /// How many lines are proven, or why none are.
    pub fn lines(&self) -> Result<usize, String> {
        let proven = self.0.proven.read().unwrap_or_else(PoisonError::into_inner);
        proven.fault.clone().map_or(Ok(proven.lines), Err)
    }

    /// Returns when somebody asked for what is not known.
    pub async fn missed(&self) {
        self.0.missed.notified().await;
    }

    /// Reads the list on, to where it gives the `pcr` 10 that was quoted before. Blocking.
    pub fn follow(&self, list: &ImaList, pcr: &[u8; 32]) {
        let (at, bytes, well) = {
            let proven = self.0.proven.read().unwrap_or_else(PoisonError::into_inner);
            (proven.pcr, proven.bytes, proven.fault.is_none())
        };
        if *pcr == NOTHING {
            return self.fail("IMA measures nothing: PCR 10 is empty; boot with ima_policy=tcb".into());
        }
        if well && at == *pcr {
            return;
        }
        // A list that does not go on from there is another boot's, or was never ours: once more from its beginning.
        let went_on = bytes > 0 && well && self.advance(list, bytes, &at, pcr).is_ok();
        if went_on {
            return;
        }
        *self.write() = Proven::default();
        if let Err(why) = self.advance(list, 0, &NOTHING, pcr) {
            self.fail(why);
        }
    }

    fn advance(&self, list: &ImaList, from: u64, before: &[u8; 32], pcr: &[u8; 32]) -> Result<(), String> {
        let bytes = list.read_from(from, LONGEST)?;
        let parsed = List::parse(&bytes).map_err(|e| e.to_string())?;
        let lines = parsed.proven_after(before, pcr).ok_or(
            "the IMA list does not replay to the quoted PCR 10: something else extended it, or the kernel is older than 5.8",
        )?;
        let mut proven = self.write();
        for entry in lines.entries() {
            match entry.sha256() {
                Some(digest) => drop(proven.digests.insert(digest)),
                None => proven.others += 1,
            }
        }
        if proven.digests.len() > MOST {
            return Err(format!("more than {MOST} files are measured; measure less by an IMA policy"));
        }
        proven.pcr = *pcr;
        proven.bytes += lines.bytes() as u64;
        proven.lines += lines.entries().len();
        Ok(())
    }

    fn fail(&self, why: String) {
        *self.write() = Proven { fault: Some(why), ..Proven::default() };
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Proven> {
        self.0.proven.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use data_encoding::HEXLOWER;

    use super::*;
    use crate::verify::ima::tests::{AFTER_ALL, AFTER_TWO, LINES};

    fn bytes(hex: &str) -> [u8; 32] {
        HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    struct Host {
        _dir: tempfile::TempDir,
        file: PathBuf,
        list: ImaList,
    }

    fn host() -> Host {
        let dir = tempfile::tempdir().unwrap();
        Host { file: dir.path().join("ima-list"), list: ImaList::in_dir(dir.path()), _dir: dir }
    }

    #[test]
    fn a_list_is_read_on_as_far_as_it_is_proven_and_from_its_beginning_when_it_is_another() {
        let (host, measured) = (host(), Measured::default());
        let dash = bytes("89c4ec9f6b3f1086b158d8ef03dfe8155e6f79d9e66434b8f9b3432fe8720e50");
        let python = bytes("6e491c02882ac36e3bcaaac4d151d4b2793135d4482adf227b1b730cdd90b46d");
        fs::write(&host.file, LINES).unwrap();
        assert!(measured.has(&dash).unwrap_err().contains("no list"));

        measured.follow(&host.list, &bytes(AFTER_TWO));
        assert_eq!((measured.lines(), measured.has(&dash)), (Ok(2), Ok(())));
        assert!(measured.has(&python).unwrap_err().contains("none of the 2 that IMA measured"));
        // Only the rest is looked at: what was proven before does not have to be there any more.
        let rest = LINES.match_indices('\n').nth(1).unwrap().0 + 1;
        let mut scratched = vec![b'x'; rest];
        scratched.extend_from_slice(&LINES.as_bytes()[rest..]);
        fs::write(&host.file, scratched).unwrap();
        measured.follow(&host.list, &bytes(AFTER_ALL));
        assert_eq!((measured.lines(), measured.has(&dash), measured.has(&python)), (Ok(5), Ok(()), Ok(())));
        // The same PCR needs no list.
        fs::remove_file(&host.file).unwrap();
        measured.follow(&host.list, &bytes(AFTER_ALL));
        assert_eq!(measured.lines(), Ok(5));

        fs::write(&host.file, LINES).unwrap();
        measured.follow(&host.list, &bytes(AFTER_TWO));
        assert_eq!(measured.lines(), Ok(2));
        assert!(measured.has(&python).is_err(), "what another boot measured is forgotten");
    }

    #[test]
    fn what_stands_in_the_way_is_named_and_nothing_counts_meanwhile() {
        let (host, measured) = (host(), Measured::default());
        let said = |pcr: [u8; 32]| {
            measured.follow(&host.list, &pcr);
            measured.lines().unwrap_err()
        };
        assert!(said(bytes(AFTER_TWO)).contains("is not there"));
        assert!(said(NOTHING).contains("PCR 10 is empty"));
        fs::write(&host.file, LINES).unwrap();
        measured.follow(&host.list, &bytes(AFTER_ALL));
        assert_eq!(measured.lines(), Ok(5));
        assert!(said([1; 32]).contains("does not replay"));
        assert!(
            measured.has(&bytes("89c4ec9f6b3f1086b158d8ef03dfe8155e6f79d9e66434b8f9b3432fe8720e50")).is_err()
        );
        fs::write(&host.file, "10 torn\n").unwrap();
        assert!(said(bytes(AFTER_ALL)).contains("IMA list, line 1"));
    }
}
