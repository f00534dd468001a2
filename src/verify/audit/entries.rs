//! The file `N.checkpoints` beside a file of the audit log: JSON lines with the state of the tree when the file was
//! begun, and with checkpoints.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::super::error::Error;
use super::super::evidence::SignedAttestation;
use super::super::tpm_structures::{AttestedInfo, ClockInfo};
use super::checkpoint::{Checkpoint, after_binding, before_binding, extended, origin};
use super::files::MAX_SEQ;
use super::keys::{AUDIT_INDEX_SIZE, LogKeys};
use super::merkle::{Frontier, Hash};
use super::note::{MAX_NOTE_SIZE, unverified_text};
use crate::json;

/// The longest line that is read, in bytes.
pub const MAX_ENTRY_LEN: usize = MAX_NOTE_SIZE + 16 * 1024;

const VERSION: u32 = 1;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The state of the tree.
    Tree(TreeState),
    /// A checkpoint.
    Checkpoint(Box<CheckpointLine>),
}

/// The state of a log's tree after one of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeState {
    /// The random id of the log. A log whose tree could not be continued has another one from then on.
    pub log_id: [u8; 16],
    /// The number of the record before the tree's first leaf.
    pub begins_after: u64,
    /// The number of the last record; 0 before the first.
    pub seq: u64,
    /// The digest of the last record's line; zeros before the first.
    pub head: Hash,
    /// The tree.
    pub frontier: Frontier,
}

/// A checkpoint as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointLine {
    v: u32,
    kind: Kind,
    /// The signed note.
    pub note: String,
    /// The AK's Name in lower-case hexadecimal.
    pub ak: String,
    /// The NV index.
    pub nv_index: u32,
    /// The AK's certification of the NV index before it was extended.
    pub before: SignedAttestation,
    /// The AK's certification of the NV index afterwards.
    pub after: SignedAttestation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Tree,
    Checkpoint,
}

/// The members by which the kind of a line is told.
#[derive(Deserialize)]
struct KindOnly {
    v: u32,
    kind: Kind,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTree {
    v: u32,
    kind: Kind,
    log: String,
    begins_after: u64,
    seq: u64,
    head: String,
    size: u64,
    frontier: Vec<String>,
}

impl Entry {
    /// Reads a line without its newline.
    ///
    /// # Errors
    /// [`Error::Audit`] for a line of another form, also where it differs from what is written in nothing but its
    /// spelling.
    pub fn parse(line: &[u8]) -> Result<Entry, Error> {
        let invalid = |e: serde_json::Error| Error::Audit(format!("not a line of a checkpoint file: {e}"));
        let entry = match json::from_object::<KindOnly>(line).map_err(invalid)? {
            KindOnly { v, .. } if v != VERSION => {
                return Err(Error::Audit(format!(
                    "this release does not know format {v} of checkpoint files"
                )));
            }
            KindOnly { kind: Kind::Tree, .. } => {
                let raw: RawTree = json::from_object(line).map_err(invalid)?;
                let state = TreeState::from_raw(&raw);
                Entry::Tree(state.ok_or_else(|| Error::Audit("not the state of a tree".to_owned()))?)
            }
            KindOnly { kind: Kind::Checkpoint, .. } => {
                Entry::Checkpoint(Box::new(json::from_object(line).map_err(invalid)?))
            }
        };
        if entry.to_line().as_bytes() != line {
            return Err(Error::Audit("the line is not as the daemon writes it".to_owned()));
        }
        Ok(entry)
    }

    /// The line without its newline.
    pub fn to_line(&self) -> String {
        let text = match self {
            Entry::Tree(state) => serde_json::to_string(&state.to_raw()),
            Entry::Checkpoint(line) => serde_json::to_string(line),
        };
        // Both are plain members, which serialization never refuses.
        text.unwrap_or_default()
    }
}

impl TreeState {
    fn to_raw(&self) -> RawTree {
        RawTree {
            v: VERSION,
            kind: Kind::Tree,
            log: HEXLOWER.encode(&self.log_id),
            begins_after: self.begins_after,
            seq: self.seq,
            head: HEXLOWER.encode(&self.head),
            size: self.frontier.size(),
            frontier: self.frontier.nodes().iter().map(|node| HEXLOWER.encode(node)).collect(),
        }
    }

    fn from_raw(raw: &RawTree) -> Option<TreeState> {
        let are_numbers = [raw.begins_after, raw.seq, raw.size].iter().all(|number| *number <= MAX_SEQ);
        if !are_numbers {
            return None;
        }
        let nodes: Option<Vec<Hash>> = raw.frontier.iter().map(|node| decode_hash(node)).collect();
        Some(TreeState {
            log_id: HEXLOWER.decode(raw.log.as_bytes()).ok()?.try_into().ok()?,
            begins_after: raw.begins_after,
            seq: raw.seq,
            head: decode_hash(&raw.head)?,
            frontier: Frontier::from_parts(raw.size, nodes?)?,
        })
    }
}

fn decode_hash(text: &str) -> Option<Hash> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// What a verified checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCheckpoint {
    /// The content of the note.
    pub checkpoint: Checkpoint,
    /// The value of the NV index before.
    pub before: Hash,
    /// The value of the NV index afterwards.
    pub after: Hash,
    /// The TPM's clock before.
    pub clock_before: ClockInfo,
    /// The TPM's clock afterwards.
    pub clock_after: ClockInfo,
}

impl CheckpointLine {
    /// A line of these parts.
    pub fn new(
        note: String,
        ak: String,
        nv_index: u32,
        before: SignedAttestation,
        after: SignedAttestation,
    ) -> CheckpointLine {
        CheckpointLine { v: VERSION, kind: Kind::Checkpoint, note, ak, nv_index, before, after }
    }

    /// The content of the note. Nothing is verified.
    ///
    /// # Errors
    /// [`Error::Audit`].
    pub fn unverified(&self) -> Result<Checkpoint, Error> {
        let text = unverified_text(&self.note).map(|(text, _)| text).unwrap_or_default();
        Checkpoint::parse(text)
    }

    /// Verifies the checkpoint by itself: the note's signature by the host key, both certifications by the AK with
    /// their own qualifying data, of the NV index with the pinned Name, and that the digest of the note's text
    /// extended it.
    ///
    /// # Errors
    /// [`Error::Audit`], and [`Error::Evidence`] for a structure that cannot be read.
    pub fn verify(&self, keys: &LogKeys, log_id: &[u8; 16]) -> Result<VerifiedCheckpoint, Error> {
        let invalid = |reason: &str| Err(Error::Audit(reason.to_owned()));
        let origin = origin(keys.host(), log_id);
        let checkpoint = Checkpoint::parse(keys.note_key(&origin).open(&self.note)?)?;
        if checkpoint.origin != origin {
            return invalid("the checkpoint is one of another log");
        }
        let digest = checkpoint.digest();
        let certified = |attestation: &SignedAttestation, binding: Hash, which: &str| {
            let attest = keys
                .verify(attestation)
                .map_err(|e| Error::Audit(format!("the certification {which} the extension: {e}")))?;
            if attest.extra_data != binding {
                let reason =
                    format!("the certification {which} the extension was made for another checkpoint");
                return Err(Error::Audit(reason));
            }
            let AttestedInfo::Nv { name, content } = attest.attested else {
                return Err(Error::Audit("the AK certifies no NV index".to_owned()));
            };
            if name != keys.nv_name() {
                return Err(Error::Audit(
                    "the AK certifies another NV index: its Name is not the pinned one".to_owned(),
                ));
            }
            match Hash::try_from(content) {
                Ok(value) => Ok((value, attest.clock)),
                Err(_) => Err(Error::Audit(format!("the AK certifies other than {AUDIT_INDEX_SIZE} bytes"))),
            }
        };
        let (before, clock_before) = certified(&self.before, before_binding(&digest), "before")?;
        let (after, clock_after) = certified(&self.after, after_binding(&digest), "after")?;
        if after != extended(&before, &digest) {
            return invalid(
                "the NV index was not extended with the digest of the checkpoint, and nothing else",
            );
        }
        Ok(VerifiedCheckpoint { checkpoint, before, after, clock_before, clock_after })
    }
}
