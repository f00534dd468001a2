//! Verification of an audit log: the chain of its records, the Merkle tree over them, and the checkpoints that the
//! TPM certified.

mod checkpoint;
mod entries;
mod entry_reader;
mod files;
mod finding;
mod gzip;
mod keys;
mod known;
mod lines;
pub mod merkle;
mod note;
mod proof;
#[cfg(test)]
mod sample;
mod scan;
mod tpm_chain;
mod verifier;

pub use checkpoint::{
    Checkpoint, CheckpointReason, after_binding, before_binding, extended, first_extension, first_value,
    origin,
};
pub use entries::{CheckpointLine, Entry, TreeState, VerifiedCheckpoint};
pub use files::{
    CHECKPOINTS_EXTENSION, LOG_EXTENSION, MAX_SEQ, MAX_UNPACKED_LEN, beside, checkpoints_file,
    compressed_file, first_seq, has_log_files, is_compressed, is_log_name, log_file_name,
};
pub use finding::{AuditReport, Finding, FindingKind, Severity};
pub use gzip::{Crc32, GzReader};
pub use keys::{
    AUDIT_INDEX_SIZE, AUDIT_INDICES, KEYS_FILE, KeysLine, LogKeys, MAX_KEYS_SIZE, audit_index_name,
};
pub use note::{MAX_NOTE_SIZE, NoteKey};
pub use proof::{ConsistencyProof, ProofError, RecordProof, prove_consistency, prove_record};
pub use verifier::{AuditOptions, verify_audit};

#[cfg(test)]
mod tests;
