//! Checkpoints that were seen earlier, which the log has to contain.

use data_encoding::HEXLOWER;

use super::super::error::Error;
use super::checkpoint::Checkpoint;
use super::entries::TreeState;
use super::finding::FindingKind;
use super::keys::LogKeys;
use super::note::unverified_text;
use super::scan::Head;

/// The checkpoints, and which of them were found.
#[derive(Debug, Default)]
pub(super) struct KnownCheckpoints(Vec<Known>);

#[derive(Debug)]
struct Known {
    checkpoint: Checkpoint,
    is_found: bool,
}

impl KnownCheckpoints {
    /// Reads signed notes. The second value says what is wrong with those that none of the host keys signed.
    pub(super) fn read(notes: &[String], keys: &[LogKeys]) -> (KnownCheckpoints, Vec<String>) {
        let (mut known, mut faults) = (Vec::new(), Vec::new());
        for note in notes {
            match verified(note, keys) {
                Ok(checkpoint) => known.push(Known { checkpoint, is_found: false }),
                Err(e) => faults.push(format!("the checkpoint that was seen earlier: {e}")),
            }
        }
        (KnownCheckpoints(known), faults)
    }

    /// Compares those whose tree has as many leaves as this one with it. Returns what differs.
    pub(super) fn compare(&mut self, tree: &TreeState, head: Head) -> Vec<String> {
        let mut differences = Vec::new();
        for Known { checkpoint, is_found } in self.0.iter_mut().filter(|known| !known.is_found) {
            let is_of_log = || checkpoint.origin.ends_with(&format!("/{}", HEXLOWER.encode(&tree.log_id)));
            if checkpoint.size != tree.frontier.size() || !is_of_log() {
                continue;
            }
            *is_found = true;
            if checkpoint.root != tree.frontier.root() || checkpoint.seq != head.seq {
                differences.push(format!(
                    "the first {} records are not those of a checkpoint that was seen earlier",
                    checkpoint.size
                ));
            }
        }
        differences
    }

    /// Says of each that was not found what that means for a log that has the records from `first` to `last`.
    pub(super) fn not_found(&self, first: u64, last: u64) -> Vec<(FindingKind, String)> {
        let lost = self.0.iter().filter(|known| !known.is_found);
        lost.map(|Known { checkpoint, .. }| {
            let seq = checkpoint.seq;
            if seq < first {
                let text = format!(
                    "a checkpoint of record {seq} was seen earlier, and the files with the records up to that are \
                     not in the directory, which begins with record {first}: it cannot be compared. Name a later \
                     note, or add the older files"
                );
                return (FindingKind::KnownExpired, text);
            }
            let text = match seq <= last {
                true => format!(
                    "a checkpoint of record {seq} was seen earlier, and this log has another history there: it is \
                     another log"
                ),
                false => format!(
                    "a checkpoint of record {seq} was seen earlier, which this log does not reach: it is an older \
                     copy, or another log"
                ),
            };
            (FindingKind::RolledBack, text)
        })
        .collect()
    }
}

fn verified(note: &str, keys: &[LogKeys]) -> Result<Checkpoint, Error> {
    let text = unverified_text(note).map(|(text, _)| text).unwrap_or_default();
    let checkpoint = Checkpoint::parse(text)?;
    let is_signed = keys.iter().any(|keys| keys.note_key(&checkpoint.origin).open(note).is_ok());
    match is_signed {
        true => Ok(checkpoint),
        false => Err(Error::Audit("none of the given host keys signed it".to_owned())),
    }
}
