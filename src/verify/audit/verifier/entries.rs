//! Verifies the states of the tree and the checkpoints beside a file of the log, in step with its records.

use std::io;

use super::super::entries::{CheckpointLine, Entry, TreeState};
use super::super::entry_reader::EntryReader;
use super::super::files::Segment;
use super::super::finding::{FindingKind, Severity};
use super::super::keys::LogKeys;
use super::super::scan::{Head, as_time};
use super::super::tpm_chain::NextCheckpoint;
use super::Verifier;

impl Verifier<'_> {
    /// Checks the entries that are of the records so far.
    pub(super) fn take_entries(&mut self, entries: &mut EntryReader) -> io::Result<()> {
        let Some(head) = self.scan.head else { return Ok(()) };
        while let Some(next) = entries.next_if_at_most(head.seq)? {
            let (file, line) = (entries.name.clone(), entries.number());
            match next {
                Err(reason) => self.add(Severity::Bad, FindingKind::Checkpoint, (&file, line), None, reason),
                Ok(Entry::Tree(state)) => self.check_tree(state, head, (&file, line)),
                Ok(Entry::Checkpoint(checkpoint)) => self.check_checkpoint(&checkpoint, (&file, line)),
            }
        }
        Ok(())
    }

    fn check_tree(&mut self, state: TreeState, head: Head, place: (&str, u64)) {
        let mismatch = |text: &str| (Severity::Bad, FindingKind::CheckpointMismatch, text.to_owned());
        let found = match &self.scan.tree {
            _ if (state.seq, state.head) != (head.seq, head.digest) => {
                Some(mismatch("the state of the tree is not of the record at which it stands"))
            }
            Some(tree) if tree.log_id == state.log_id => {
                let is_same = tree.begins_after == state.begins_after && tree.frontier == state.frontier;
                (!is_same).then(|| mismatch("the state of the tree is not that of the records before it"))
            }
            _ if state.frontier.size() == 0 && state.begins_after != state.seq => {
                Some(mismatch("an empty tree says that it has records"))
            }
            Some(_) if state.frontier.size() > 0 => {
                Some(mismatch("another log continues this one, and says that it has its records"))
            }
            Some(_) => Some((
                Severity::Warning,
                FindingKind::LogRestarted,
                format!(
                    "the tree begins again after record {}, with another log id: it could not be continued, as after \
                     damage or a move of the log",
                    head.seq
                ),
            )),
            None => None,
        };
        if let Some((severity, kind, text)) = found {
            let is_bad = severity == Severity::Bad;
            self.add(severity, kind, place, Some(head.seq), text);
            if is_bad {
                return;
            }
        }
        let is_same_log = self.scan.tree.as_ref().is_some_and(|tree| tree.log_id == state.log_id);
        if !is_same_log {
            self.scan.tree = Some(state);
        }
    }

    fn check_checkpoint(&mut self, line: &CheckpointLine, place: (&str, u64)) {
        if self.options.chain_only {
            return;
        }
        let is_of_line = |keys: &&LogKeys| keys.ak_name() == line.ak && keys.nv_index() == line.nv_index;
        let verified = match (self.options.keys.iter().find(is_of_line), &self.scan.tree) {
            (None, _) => Err(format!(
                "it is by an AK and an NV index that are not trusted: {}, {:#x}",
                line.ak.escape_debug(),
                line.nv_index
            )),
            (_, None) => Err("the state of the tree is missing before this checkpoint".to_owned()),
            (Some(keys), Some(tree)) => line
                .verify(keys, &tree.log_id)
                .map(|verified| (self.scan.compare(tree, &verified.checkpoint), verified))
                .map_err(|e| e.to_string()),
        };
        let seq = line.unverified().ok().map(|checkpoint| checkpoint.seq);
        let verified = match verified {
            Ok((None, verified)) => verified,
            Ok((Some(text), _)) => {
                return self.add(Severity::Bad, FindingKind::CheckpointMismatch, place, seq, text);
            }
            Err(reason) => return self.add(Severity::Bad, FindingKind::Checkpoint, place, seq, reason),
        };
        let first_uncovered = self.scan.first_uncovered.take();
        let found = self.tpm.push(&NextCheckpoint {
            ak: &line.ak,
            nv_index: line.nv_index,
            verified: &verified,
            has_beginning: self.has_beginning && !self.options.partial,
            first_uncovered: first_uncovered.as_ref().and_then(as_time),
        });
        for (severity, kind, text) in found {
            self.add(severity, kind, place, seq, text);
        }
        let checkpoint = verified.checkpoint;
        self.report.checkpoints += 1;
        self.report.covered_to = Some(checkpoint.seq);
        if self.scan.removal_seq.is_some_and(|seq| seq <= checkpoint.seq) {
            self.report.removal_certified_by.get_or_insert(checkpoint.seq);
        }
        self.report.tree_from = Some(checkpoint.begins_after + 1);
        self.report.checkpointed_at = Some(checkpoint.time.to_string());
        self.report.note = Some(line.note.clone());
        self.interval = Some((checkpoint.every_records, checkpoint.every_seconds));
    }

    /// Entries of records that the file does not have. A file that was begun and has no record yet may have the state
    /// of the tree alone.
    pub(super) fn check_no_entries_left(
        &mut self,
        entries: &mut EntryReader,
        next: Option<&Segment>,
    ) -> io::Result<bool> {
        let Some(entry) = entries.next_if_at_most(u64::MAX)? else { return Ok(true) };
        let (file, line) = (entries.name.clone(), entries.number());
        let last = self.scan.head.map(|head| head.seq).unwrap_or_default();
        let seq = match &entry {
            Ok(Entry::Checkpoint(line)) => line.unverified().ok().map(|checkpoint| checkpoint.seq),
            Ok(Entry::Tree(state)) => Some(state.seq),
            Err(_) => None,
        };
        let text = match (seq, next) {
            (Some(seq), None) => format!("the log ends with record {last}, and this is of record {seq}"),
            (Some(seq), Some(_)) => format!("the file ends with record {last}, and this is of record {seq}"),
            (None, _) => entry
                .err()
                .unwrap_or_else(|| "the text is not that of a checkpoint of an audit log".to_owned()),
        };
        let kind = if seq.is_some() { FindingKind::Truncated } else { FindingKind::Checkpoint };
        self.add(Severity::Bad, kind, (&file, line), seq, text);
        Ok(next.is_some())
    }
}
