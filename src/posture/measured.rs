//! Which programs the kernel measured before they ran.
//!
//! A digest counts once its entry is in a list that replays to a PCR 10 which the TPM quoted. The list only grows, and is
//! read on from where the last quote proved it. Any user can make it long, so its length is no reason to believe nothing:
//! where there are more digests than are kept, those that are asked for are kept first.

use std::collections::HashSet;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Notify;

use super::ImaList;
use crate::verify::ima::{self, Order};

/// What is read of a list at once.
const CHUNK: u64 = 256 * 1024;
/// Digests that are kept: 32 MiB of them.
const MOST: usize = 1_000_000;
/// Of those that are asked for, so many are kept before all others.
const MOST_WANTED: usize = 1024;
const NOTHING: [u8; 32] = [0; 32];

/// The half of a digest that is kept: another file of the same half is as hard to make as a key is to guess.
type Half = [u8; 16];

/// The digests of a proven list. Cheap to clone; every clone sees what is proven next.
#[derive(Clone, Debug)]
pub struct Measured(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    proven: RwLock<Proven>,
    wanted: Mutex<Wanted>,
    /// Told when a digest is asked for that is not known: it may be in entries that were not read yet.
    missed: Notify,
}

/// Digests that were asked for and not there, while not all could be kept.
#[derive(Debug, Default)]
struct Wanted {
    digests: HashSet<Half>,
    /// Whether one of them was not looked for from the list's beginning.
    new: bool,
}

#[derive(Clone, Debug, Default)]
struct Proven {
    digests: HashSet<Half>,
    /// Whether some were left out.
    full: bool,
    /// PCR 10 after the entries that were read, and how many bytes these are.
    pcr: [u8; 32],
    bytes: u64,
    order: Option<Order>,
    lines: usize,
    /// Files of which the kernel took another digest.
    others: usize,
    /// Why no list is proven.
    fault: Option<String>,
}

impl Default for Measured {
    fn default() -> Measured {
        Measured::keeping(MOST)
    }
}

impl Measured {
    fn keeping(most: usize) -> Measured {
        Measured(Arc::new(Shared {
            most,
            proven: RwLock::default(),
            wanted: Mutex::default(),
            missed: Notify::new(),
        }))
    }

    /// Whether the program of this SHA-256 was measured. The error is for the record and for the caller.
    pub fn has(&self, digest: &[u8; 32]) -> Result<(), String> {
        let proven = self.0.proven.read().unwrap_or_else(PoisonError::into_inner);
        if proven.digests.contains(&half(digest)) {
            return Ok(());
        }
        if proven.full {
            self.want(half(digest));
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

    /// How many entries are proven, or why none are.
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
        let (at, well, full) = {
            let proven = self.0.proven.read().unwrap_or_else(PoisonError::into_inner);
            (proven.pcr, proven.fault.is_none() && proven.bytes > 0, proven.full)
        };
        if *pcr == NOTHING {
            return self.fail("IMA measures nothing: PCR 10 is empty; boot with ima_policy=tcb".into());
        }
        let again = full && std::mem::take(&mut self.wanted().new);
        if well && at == *pcr && !again {
            return;
        }
        // A list that does not go on from there is another boot's, or was never ours: once more from its beginning.
        if well && !again && self.advance(list, false, pcr).is_ok() {
            return;
        }
        if let Err(why) = self.advance(list, true, pcr) {
            self.fail(why);
        }
    }

    /// Nothing changes where this fails.
    fn advance(&self, list: &ImaList, anew: bool, pcr: &[u8; 32]) -> Result<(), String> {
        let mut ahead = match anew {
            true => Proven::default(),
            false => self.0.proven.read().unwrap_or_else(PoisonError::into_inner).without_digests(),
        };
        let wanted = self.wanted().digests.clone();
        let keeps = |kept: usize, digest: &Half| kept < self.0.most || wanted.contains(digest);
        let mut file = list.open_at(ahead.bytes).map_err(|e| list.fault(&e))?;
        let mut buffer = Vec::new();
        while ahead.pcr != *pcr {
            let read = (&mut file).take(CHUNK).read_to_end(&mut buffer).map_err(|e| list.fault(&e))?;
            if read == 0 {
                return Err("the IMA list does not replay to the quoted PCR 10: something else extended it, or the kernel is older than 5.8".to_owned());
            }
            let mut done = 0;
            while ahead.pcr != *pcr {
                let entry = ima::next(&buffer[done..], &mut ahead.order)
                    .map_err(|what| format!("IMA list, entry {}: {what}", ahead.lines + 1))?;
                let Some(entry) = entry else { break };
                done += entry.length();
                ahead.bytes += entry.length() as u64;
                ahead.lines += 1;
                ahead.pcr = entry.extend(&ahead.pcr);
                match entry.sha256().as_ref().map(half) {
                    None => ahead.others += 1,
                    Some(digest) if keeps(ahead.digests.len(), &digest) => {
                        ahead.digests.insert(digest);
                    }
                    Some(digest) => ahead.full |= !ahead.digests.contains(&digest),
                }
            }
            buffer.drain(..done);
        }
        let mut proven = self.0.proven.write().unwrap_or_else(PoisonError::into_inner);
        if !anew {
            let fresh = std::mem::replace(&mut ahead.digests, std::mem::take(&mut proven.digests));
            for digest in fresh {
                match keeps(ahead.digests.len(), &digest) {
                    true => drop(ahead.digests.insert(digest)),
                    false => ahead.full |= !ahead.digests.contains(&digest),
                }
            }
        }
        *proven = ahead;
        Ok(())
    }

    /// Has a digest looked for from the list's beginning, and kept if it is there.
    fn want(&self, digest: Half) {
        let mut wanted = self.wanted();
        if wanted.digests.contains(&digest) {
            return;
        }
        // Whoever is forgotten by this asks again.
        if wanted.digests.len() >= MOST_WANTED {
            wanted.digests.clear();
        }
        wanted.digests.insert(digest);
        wanted.new = true;
    }

    fn fail(&self, why: String) {
        let mut proven = self.0.proven.write().unwrap_or_else(PoisonError::into_inner);
        *proven = Proven { fault: Some(why), ..Proven::default() };
    }

    fn wanted(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proven {
    /// The same, to be read on; its digests stay where they are.
    fn without_digests(&self) -> Proven {
        Proven {
            digests: HashSet::new(),
            full: self.full,
            pcr: self.pcr,
            bytes: self.bytes,
            order: self.order,
            lines: self.lines,
            others: self.others,
            fault: None,
        }
    }
}

fn half(digest: &[u8; 32]) -> Half {
    std::array::from_fn(|at| digest[at])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use data_encoding::HEXLOWER;

    use super::*;
    use crate::verify::ima::tests::{AFTER_ALL, AFTER_TWO, entries};

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
        fs::write(&host.file, entries().concat()).unwrap();
        assert!(measured.has(&dash).unwrap_err().contains("no list"));

        measured.follow(&host.list, &bytes(AFTER_TWO));
        assert_eq!((measured.lines(), measured.has(&dash)), (Ok(2), Ok(())));
        assert!(measured.has(&python).unwrap_err().contains("none of the 2 that IMA measured"));
        // Only the rest is looked at: what was proven before does not have to be there any more.
        let rest = entries()[..2].concat().len();
        let mut scratched = vec![b'x'; rest];
        scratched.extend_from_slice(&entries().concat()[rest..]);
        fs::write(&host.file, scratched).unwrap();
        measured.follow(&host.list, &bytes(AFTER_ALL));
        assert_eq!((measured.lines(), measured.has(&dash), measured.has(&python)), (Ok(5), Ok(()), Ok(())));
        // The same PCR needs no list.
        fs::remove_file(&host.file).unwrap();
        measured.follow(&host.list, &bytes(AFTER_ALL));
        assert_eq!(measured.lines(), Ok(5));

        fs::write(&host.file, entries().concat()).unwrap();
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
        fs::write(&host.file, entries().concat()).unwrap();
        measured.follow(&host.list, &bytes(AFTER_ALL));
        assert_eq!(measured.lines(), Ok(5));
        assert!(said([1; 32]).contains("does not replay"));
        assert!(
            measured.has(&bytes("89c4ec9f6b3f1086b158d8ef03dfe8155e6f79d9e66434b8f9b3432fe8720e50")).is_err()
        );
        fs::write(&host.file, "10 torn\n").unwrap();
        assert!(said(bytes(AFTER_ALL)).contains("IMA list, entry 1"));
    }

    /// More than can be kept, and longer than what is read at once.
    #[test]
    fn a_long_list_stops_nobody_and_what_is_asked_for_is_found_in_it() {
        let (host, measured) = (host(), Measured::keeping(1));
        let dash = bytes("89c4ec9f6b3f1086b158d8ef03dfe8155e6f79d9e66434b8f9b3432fe8720e50");
        let agent = bytes("d4f0bc5a29de06b510f9aa428f1eedba926012b591fef7a518e776a7c9bd1824");
        let mut list = entries().concat();
        let mut pcr = bytes(AFTER_ALL);
        let more = entries()[0].clone();
        while list.len() < 3 * CHUNK as usize {
            list.extend(&more);
            pcr = ima::next(&more, &mut None).unwrap().unwrap().extend(&pcr);
        }
        fs::write(&host.file, &list).unwrap();
        measured.follow(&host.list, &bytes(AFTER_ALL));
        assert_eq!(measured.lines(), Ok(5));
        for digest in [&dash, &agent] {
            assert!(measured.has(digest).is_err());
        }
        measured.follow(&host.list, &bytes(AFTER_ALL));
        assert_eq!((measured.has(&dash), measured.has(&agent)), (Ok(()), Ok(())));
        assert!(measured.has(&[3; 32]).is_err(), "nobody measured it");
        measured.follow(&host.list, &pcr);
        assert_eq!((measured.has(&dash), measured.has(&agent)), (Ok(()), Ok(())));
        assert_eq!(measured.lines(), Ok(5 + (list.len() - entries().concat().len()) / more.len()));
    }
}
