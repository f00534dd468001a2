//! `checkpoint.json`: the NV index, its value after the last checkpoint, and what was begun: a new index, a checkpoint.
//!
//! The file says which value the index should have. It is not protected: who changes it causes an event at most.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::store;
use crate::verify::evidence::SignedAttestation;

const FILE_NAME: &str = "checkpoint.json";
const VERSION: u64 = 1;

/// The content of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointFile {
    /// The AK's Name in hexadecimal.
    pub ak: String,
    /// The NV index.
    pub nv_index: u32,
    /// The value of the index after the last checkpoint, in hexadecimal.
    pub value: String,
    /// The id of the log of the last checkpoint, in hexadecimal; empty before the first.
    pub log: String,
    /// The number of the last record of the last checkpoint; 0 before the first.
    pub seq: u64,
    /// When the last checkpoint was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Why the index is being created; absent once it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation: Option<IndexCreation>,
    /// A checkpoint that extends the index now, or has done so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingCheckpoint>,
}

/// Why an index is created, for the record of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IndexCreation {
    /// Whether the log had none before.
    pub is_first: bool,
    /// The text of the record, without the index.
    pub message: String,
}

impl IndexCreation {
    /// The first index of a log.
    pub fn first(ak: &str) -> IndexCreation {
        IndexCreation { is_first: true, message: format!("checkpoints of the audit log begin, by AK {ak}") }
    }

    /// An index in place of another one; `message` says what became of that.
    pub fn again(message: String) -> IndexCreation {
        IndexCreation { is_first: false, message }
    }
}

/// A checkpoint that was begun.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PendingCheckpoint {
    /// The signed note.
    pub note: String,
    /// The digest of its text, in hexadecimal.
    pub digest: String,
    /// The AK's certification before the extension.
    pub before: SignedAttestation,
    /// The name of the log's file beside which the checkpoint is written.
    pub file: String,
    /// The id of the log, in hexadecimal.
    pub log: String,
    /// The number of its last record.
    pub seq: u64,
    /// When it was made.
    pub at: Timestamp,
}

impl CheckpointFile {
    /// Reads the file; `None` if there is none. Blocking.
    pub fn read(state_dir: &Path) -> Result<Option<CheckpointFile>, store::Error> {
        store::read(&state_dir.join(FILE_NAME), VERSION)
    }

    /// Writes the file. On disk when this returns. Blocking.
    pub fn write(&self, state_dir: &Path) -> Result<(), store::Error> {
        store::write(&state_dir.join(FILE_NAME), VERSION, self)
    }
}
