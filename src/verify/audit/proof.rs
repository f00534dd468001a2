//! Proofs from the files of an audit log: that one record is in it, and that it continues an earlier checkpoint.
//!
//! A leaf of the tree is the SHA-256 digest of a record's line, without its newline.

use std::io;
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};

use super::super::error::Error;
use super::checkpoint::Checkpoint;
use super::entries::{CheckpointLine, Entry, TreeState};
use super::files::{Segment, checkpoints_file, open, open_records, segments};
use super::lines::{LineReader, Place, parse};
use super::merkle::{Hash, ProofBuilder, is_consistent, is_included, leaf_hash};
use super::note::unverified_text;
use super::scan::{Head, Scan};
use crate::digest::sha256;

/// A proof that one record is in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordProof {
    /// The line of the record, without its newline.
    pub record: String,
    /// The place of the record among the tree's leaves, from 0.
    pub index: u64,
    /// The inclusion proof (RFC 6962 section 2.1.1).
    pub hashes: Vec<Hash>,
    /// The first checkpoint that covers the record.
    pub checkpoint: CheckpointLine,
}

/// A proof that a log continues an earlier checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// The number of leaves of the earlier checkpoint.
    pub old_size: u64,
    /// The consistency proof (RFC 6962 section 2.1.2).
    pub hashes: Vec<Hash>,
    /// The later checkpoint.
    pub checkpoint: CheckpointLine,
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// A file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A checkpoint is not valid.
    #[error(transparent)]
    Audit(#[from] Error),
    /// The log has no such record, no such checkpoint, or is damaged.
    #[error("{0}")]
    NotFound(String),
}

impl RecordProof {
    /// The proof in the form of c2sp.org/tlog-proof, with the record as its extra data.
    pub fn to_tlog_proof(&self) -> String {
        let mut text = format!(
            "c2sp.org/tlog-proof@v1\nextra {}\nindex {}\n",
            BASE64.encode(self.record.as_bytes()),
            self.index
        );
        for hash in &self.hashes {
            text += &BASE64.encode(hash);
            text.push('\n');
        }
        text.push('\n');
        text + &self.checkpoint.note
    }
}

/// Proves that record `seq` is in the log in `dir`, by the first checkpoint that covers it.
///
/// # Errors
/// [`ProofError::NotFound`] for a record that the log does not have, or that no checkpoint covers yet.
pub fn prove_record(dir: &Path, seq: u64) -> Result<RecordProof, ProofError> {
    let not_found = |text: String| ProofError::NotFound(text);
    let log = Log::read(dir)?;
    let start = log.state_before(seq)?.ok_or_else(|| {
        not_found(format!(
            "record {seq} is from before the tree, or the log does not have the state before it"
        ))
    })?;
    let covering = log.checkpoint(&start, |checkpoint| checkpoint.seq >= seq)?;
    let (line, target) = covering
        .ok_or_else(|| not_found(format!("no checkpoint covers record {seq} yet; try again later")))?;
    let mut found: Option<(String, u64)> = None;
    let mut builder = None;
    let mut frontier = start.state.frontier.clone();
    log.records_after(&start, |record, number| {
        let leaf = leaf_hash(&sha256(record));
        if number == seq {
            let index = frontier.size();
            found = Some((String::from_utf8_lossy(record).into_owned(), index));
            builder = ProofBuilder::inclusion(frontier.clone(), index, target.size);
        }
        match &mut builder {
            Some(builder) => builder.push(leaf),
            None => frontier.push(leaf),
        }
        number < target.seq
    })?;
    let missing = || {
        not_found(format!(
            "the log does not have record {seq}, or is damaged before it: hostbadge verify audit says where"
        ))
    };
    let (record, index) = found.ok_or_else(missing)?;
    let hashes = builder.and_then(ProofBuilder::finish);
    let leaf = leaf_hash(&sha256(record.as_bytes()));
    match hashes.filter(|hashes| is_included(&leaf, index, target.size, hashes, &target.root)) {
        Some(hashes) => Ok(RecordProof { record, index, hashes, checkpoint: line }),
        None => Err(damaged()),
    }
}

/// Proves that the latest checkpoint of the log in `dir` continues the one of an earlier note.
///
/// # Errors
/// [`ProofError::NotFound`] where the log does not continue it.
pub fn prove_consistency(dir: &Path, old_note: &str) -> Result<ConsistencyProof, ProofError> {
    let text = unverified_text(old_note).map(|(text, _)| text).unwrap_or_default();
    let old = Checkpoint::parse(text)?;
    let log = Log::read(dir)?;
    let missing =
        || ProofError::NotFound(format!("the log does not have the state before record {}", old.seq + 1));
    let start = log.state_before(old.seq + 1)?.ok_or_else(missing)?;
    if !old.origin.ends_with(&format!("/{}", HEXLOWER.encode(&start.state.log_id))) {
        return Err(ProofError::NotFound("the checkpoint is one of another log".to_owned()));
    }
    let mut latest = None;
    log.checkpoint(&start, |checkpoint| {
        latest = latest.max(Some(checkpoint.seq));
        false
    })?;
    let latest = latest.filter(|latest| *latest >= old.seq);
    let (line, target) = match latest {
        Some(latest) => log.checkpoint(&start, |checkpoint| checkpoint.seq == latest)?.ok_or_else(damaged)?,
        None => return Err(ProofError::NotFound("the log has no later checkpoint".to_owned())),
    };
    let frontier = start.state.frontier.clone();
    let mut builder = ProofBuilder::consistency(frontier, old.size, target.size).ok_or_else(damaged)?;
    log.records_after(&start, |record, number| {
        builder.push(leaf_hash(&sha256(record)));
        number < target.seq
    })?;
    let hashes = builder.finish();
    let proven =
        hashes.filter(|hashes| is_consistent((old.size, &old.root), (target.size, &target.root), hashes));
    match proven {
        Some(hashes) => Ok(ConsistencyProof { old_size: old.size, hashes, checkpoint: line }),
        None => Err(ProofError::NotFound("the log does not continue this checkpoint".to_owned())),
    }
}

fn damaged() -> ProofError {
    ProofError::NotFound(
        "the records do not fit the checkpoint: hostbadge verify audit says where".to_owned(),
    )
}

/// The files of a log.
struct Log(Vec<Segment>);

/// A state of the tree, and the place of its file.
struct Start {
    segment: usize,
    state: TreeState,
}

impl Log {
    fn read(dir: &Path) -> Result<Log, ProofError> {
        Ok(Log(segments(dir)?.0))
    }

    /// The latest state of the tree before record `seq`.
    fn state_before(&self, seq: u64) -> Result<Option<Start>, ProofError> {
        for (at, segment) in self.0.iter().enumerate().rev() {
            let mut latest = None;
            for_entries(segment, |entry| {
                if let Entry::Tree(state) = entry
                    && state.seq < seq
                {
                    latest = Some(state);
                }
            })?;
            if let Some(state) = latest {
                return Ok(Some(Start { segment: at, state }));
            }
        }
        Ok(None)
    }

    /// The first checkpoint of the same log after `start` for which `is_wanted`.
    fn checkpoint(
        &self,
        start: &Start,
        mut is_wanted: impl FnMut(&Checkpoint) -> bool,
    ) -> Result<Option<(CheckpointLine, Checkpoint)>, ProofError> {
        let log_id = format!("/{}", HEXLOWER.encode(&start.state.log_id));
        let mut found = None;
        for segment in &self.0[start.segment..] {
            for_entries(segment, |entry| {
                let Entry::Checkpoint(line) = entry else { return };
                if let Ok(checkpoint) = line.unverified()
                    && found.is_none()
                    && checkpoint.origin.ends_with(&log_id)
                    && is_wanted(&checkpoint)
                {
                    found = Some((*line, checkpoint));
                }
            })?;
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// Calls `each` with the records after the state, and their numbers, until it returns false.
    fn records_after(
        &self,
        start: &Start,
        mut each: impl FnMut(&[u8], u64) -> bool,
    ) -> Result<(), ProofError> {
        let state = &start.state;
        let mut scan = Scan::after(Head { seq: state.seq, digest: state.head });
        for segment in &self.0[start.segment..] {
            let mut lines = LineReader::new(open_records(&segment.path)?);
            while lines.read()? == Place::Line {
                let line = lines.line();
                if scan.records == 0 && parse(line).is_some_and(|members| members.seq <= state.seq) {
                    continue;
                }
                // What does not continue the chain was left by a crash, or was changed, which the root shows.
                let Ok(seq) = scan.check(line) else { break };
                scan.push(line, seq, ("", 0));
                if !each(line, seq) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Calls `each` with the valid entries beside a file of the log.
fn for_entries(segment: &Segment, mut each: impl FnMut(Entry)) -> Result<(), ProofError> {
    let mut lines = match open(&checkpoints_file(&segment.path)) {
        Ok(file) => LineReader::new(Box::new(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    while lines.read()? == Place::Line {
        if let Ok(entry) = Entry::parse(lines.line()) {
            each(entry);
        }
    }
    Ok(())
}
