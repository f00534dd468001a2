//! Verifies the directory of an audit log.

use std::io;
use std::path::Path;

use super::entries::{CheckpointLine, Entry, TreeState};
use super::entry_reader::EntryReader;
use super::files::{CHECKPOINTS_EXTENSION, Segment, file_name, named, open, segments, with_path};
use super::finding::{AuditReport, Finding, FindingKind, Severity};
use super::keys::LogKeys;
use super::known::KnownCheckpoints;
use super::lines::{LineReader, Place, parse};
use super::scan::{Break, Head, Scan, as_time};
use super::tpm_chain::{NextCheckpoint, TpmChain};
use crate::digest::sha256;

/// Bytes after which progress is reported.
const PROGRESS_STEP: u64 = 4 << 20;

/// What is required of the log.
#[derive(Clone, Debug, Default)]
pub struct AuditOptions {
    /// The keys that are trusted.
    pub keys: Vec<LogKeys>,
    /// Whether checkpoints are not verified, for a log that has none.
    pub chain_only: bool,
    /// Whether the beginning of the log may be missing.
    pub partial: bool,
    /// Signed notes of checkpoints that were seen earlier.
    pub known: Vec<String>,
}

/// Verifies all files of a directory. `progress` is called with the bytes that were read and those of all files.
///
/// # Errors
/// The kernel's, where a file cannot be read. What is wrong with the log is in the report.
pub fn verify_audit(
    dir: &Path,
    options: &AuditOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<AuditReport> {
    let (segments, irregular) = segments(dir)?;
    let total = segments.iter().map(|segment| segment.length).sum();
    let mut verifier = Verifier {
        options,
        scan: Scan::default(),
        tpm: TpmChain::default(),
        known: KnownCheckpoints::default(),
        report: AuditReport { files: segments.len(), bytes: total, ..AuditReport::default() },
        has_beginning: false,
        covered_time: None,
        progress,
        done: 0,
        total,
    };
    for name in irregular {
        verifier.add(
            Severity::Bad,
            FindingKind::Format,
            (&name, 0),
            None,
            "it is not a regular file".to_owned(),
        );
    }
    verifier.read_known();
    verifier.check_beginning(&segments)?;
    verifier.check_orphans(dir, &segments)?;
    for (at, segment) in segments.iter().enumerate() {
        if !verifier.check_segment(segment, segments.get(at + 1))? {
            break;
        }
    }
    Ok(verifier.finish(segments.last()))
}

struct Verifier<'a> {
    options: &'a AuditOptions,
    scan: Scan,
    tpm: TpmChain,
    known: KnownCheckpoints,
    report: AuditReport,
    has_beginning: bool,
    /// When the next checkpoint is due at the latest, as the last one says: records and seconds.
    covered_time: Option<(u64, u64)>,
    progress: &'a mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
}

impl Verifier<'_> {
    fn add(
        &mut self,
        severity: Severity,
        kind: FindingKind,
        (file, line): (&str, u64),
        record: Option<u64>,
        message: String,
    ) {
        self.report.add(Finding { severity, kind, file: file.to_owned(), line, record, message });
    }

    /// Reads the checkpoints that were seen earlier. One that the host did not sign is a finding.
    fn read_known(&mut self) {
        let (known, faults) = KnownCheckpoints::read(&self.options.known, &self.options.keys);
        self.known = known;
        for fault in faults {
            self.add(Severity::Bad, FindingKind::Checkpoint, ("", 0), None, fault);
        }
    }

    /// Whether the log begins with record 1, or with one before which files were removed by a rule.
    fn check_beginning(&mut self, segments: &[Segment]) -> io::Result<()> {
        let Some(first) = segments.first() else {
            self.add(
                Severity::Bad,
                FindingKind::Format,
                ("", 0),
                None,
                "there is no file of an audit log".to_owned(),
            );
            return Ok(());
        };
        if first.first_seq == 1 {
            self.has_beginning = true;
            self.scan.head = Some(Head { seq: 0, digest: [0; 32] });
            return Ok(());
        }
        // What the first record says of its predecessor is all that is known of that.
        let mut lines = LineReader::new(open(&first.path)?);
        let members = match lines.read().map_err(|e| with_path(&first.path, &e))? {
            Place::Line => parse(lines.line()),
            _ => None,
        };
        if let Some(members) = members {
            self.scan.head = Some(Head { seq: first.first_seq - 1, digest: members.prev });
            self.scan.expect_removal(first.first_seq, &members.prev);
        }
        Ok(())
    }

    /// Checkpoints without the records that they are of.
    fn check_orphans(&mut self, dir: &Path, segments: &[Segment]) -> io::Result<()> {
        for path in named(dir, CHECKPOINTS_EXTENSION)? {
            let has_segment = segments.iter().any(|segment| segment.path.file_stem() == path.file_stem());
            if has_segment {
                continue;
            }
            // The state of the tree is written before the first record of a new file.
            let mut lines = LineReader::new(open(&path)?);
            while lines.read().map_err(|e| with_path(&path, &e))? == Place::Line {
                if let Ok(Entry::Checkpoint(line)) = Entry::parse(lines.line())
                    && let Ok(checkpoint) = line.unverified()
                {
                    let (name, number) = (file_name(&path), lines.number);
                    let text =
                        format!("the file with record {} of this checkpoint is missing", checkpoint.seq);
                    let seq = Some(checkpoint.seq);
                    self.add(Severity::Bad, FindingKind::Truncated, (&name, number), seq, text);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Returns false where the log cannot be followed any further.
    fn check_segment(&mut self, segment: &Segment, next: Option<&Segment>) -> io::Result<bool> {
        let name = segment.name();
        let mut entries = EntryReader::open(segment)?;
        let mut lines = LineReader::new(open(&segment.path)?);
        let mut reported = 0;
        loop {
            self.take_entries(&mut entries)?;
            if self.scan.records == 0 {
                // The state with which the directory begins can be that of a checkpoint before it.
                self.check_known();
            }
            let place = lines.read().map_err(|e| with_path(&segment.path, &e))?;
            let number = lines.number;
            match place {
                Place::End => break,
                Place::Unterminated if next.is_none() && !is_whole_record(lines.line()) => {
                    let text = format!(
                        "the last {} bytes are no record: one is being written, or a crash left them",
                        lines.line().len()
                    );
                    self.add(Severity::Warning, FindingKind::Format, (&name, number), None, text);
                    break;
                }
                Place::Line | Place::Unterminated | Place::TooLong => {}
            }
            let checked = match place {
                Place::Line => self.scan.check(lines.line()),
                _ => Err(Break::NotARecord),
            };
            let is_misnamed = number == 1 && checked.as_ref().is_ok_and(|seq| *seq != segment.first_seq);
            match checked {
                Ok(seq) if is_misnamed => {
                    let text = format!("the file begins with record {seq}, and its name says another number");
                    self.add(Severity::Bad, FindingKind::RecordOrder, (&name, number), Some(seq), text);
                    return Ok(false);
                }
                Ok(seq) => self.scan.push(lines.line(), seq, (&name, number)),
                Err(_) if self.is_declared_remainder(next)? => {
                    let text =
                        format!("the bytes from line {number} on are what a crash left, as the log says");
                    self.add(Severity::Warning, FindingKind::Format, (&name, number), None, text);
                    break;
                }
                Err(fault) => {
                    self.add_break(&fault, &mut lines, (&name, number))?;
                    return Ok(false);
                }
            }
            self.check_known();
            self.add_jumps(false);
            if lines.position - reported >= PROGRESS_STEP {
                reported = lines.position;
                (self.progress)(self.done + reported, self.total);
            }
        }
        self.take_entries(&mut entries)?;
        self.done += segment.length;
        (self.progress)(self.done, self.total);
        self.check_no_entries_left(&mut entries, next)
    }

    /// What follows the last record in this file is no part of the log, if the next file continues that record and
    /// says that bytes were lost.
    fn is_declared_remainder(&self, next: Option<&Segment>) -> io::Result<bool> {
        let Some(next) = next else { return Ok(false) };
        let mut lines = LineReader::new(open(&next.path)?);
        if lines.read().map_err(|e| with_path(&next.path, &e))? != Place::Line {
            return Ok(false);
        }
        let is_declared = parse(lines.line()).is_some_and(|members| members.event == "audit-torn");
        Ok(is_declared && self.scan.check(lines.line()).is_ok())
    }

    /// Adds the finding for a line at which the chain breaks. If the record after it continues it, it was not changed
    /// itself, and the record before it was.
    fn add_break(
        &mut self,
        fault: &Break,
        lines: &mut LineReader,
        (file, number): (&str, u64),
    ) -> io::Result<()> {
        let (kind, text) = fault.describe(self.scan.head);
        let Break::Digest(members) = fault else {
            let record = match fault {
                Break::Order(members) => Some(members.seq),
                _ => None,
            };
            self.add(Severity::Bad, kind, (file, number), record, text);
            return Ok(());
        };
        let digest = sha256(lines.line());
        let is_continued = lines.read()? == Place::Line
            && parse(lines.line()).is_some_and(|next| next.prev == digest && next.seq == members.seq + 1);
        if is_continued && number > 1 {
            let seq = members.seq - 1;
            let text = format!("record {seq} was changed: record {} has another digest of it", members.seq);
            self.add(Severity::Bad, kind, (file, number - 1), Some(seq), text);
        } else {
            self.add(Severity::Bad, kind, (file, number), Some(members.seq), text);
        }
        Ok(())
    }

    /// Checks the entries that are of the records so far.
    fn take_entries(&mut self, entries: &mut EntryReader) -> io::Result<()> {
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
        let log_id = self.scan.tree.as_ref().map(|tree| tree.log_id);
        let keys = self
            .options
            .keys
            .iter()
            .find(|keys| keys.ak_name() == line.ak && keys.nv_index() == line.nv_index);
        let verified = match (keys, log_id) {
            (None, _) => Err(format!(
                "it is by an AK and an NV index that are not trusted: {}, {:#x}",
                line.ak.escape_debug(),
                line.nv_index
            )),
            (_, None) => Err("the state of the tree is missing before this checkpoint".to_owned()),
            (Some(keys), Some(log_id)) => line.verify(keys, &log_id).map_err(|e| e.to_string()),
        };
        let seq = line.unverified().ok().map(|checkpoint| checkpoint.seq);
        let verified = match verified {
            Ok(verified) => verified,
            Err(reason) => return self.add(Severity::Bad, FindingKind::Checkpoint, place, seq, reason),
        };
        if let Some(text) = self.scan.compare(&verified.checkpoint) {
            return self.add(Severity::Bad, FindingKind::CheckpointMismatch, place, seq, text);
        }
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
        self.report.tree_from = Some(checkpoint.begins_after + 1);
        self.report.checkpointed_at = Some(checkpoint.time.to_string());
        self.report.note = Some(line.note.clone());
        self.covered_time = Some((checkpoint.every_records, checkpoint.every_seconds));
    }

    /// Entries of records that the file does not have. A file that was begun and has no record yet may have the state
    /// of the tree alone.
    fn check_no_entries_left(
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
            (None, _) => entry.err().unwrap_or_default(),
        };
        let kind = if seq.is_some() { FindingKind::Truncated } else { FindingKind::Checkpoint };
        self.add(Severity::Bad, kind, (&file, line), seq, text);
        Ok(next.is_some())
    }

    fn check_known(&mut self) {
        let (Some(tree), Some(head)) = (&self.scan.tree, self.scan.head) else { return };
        for text in self.known.compare(tree, head) {
            self.add(Severity::Bad, FindingKind::RolledBack, ("", 0), Some(head.seq), text);
        }
    }

    fn add_jumps(&mut self, at_end: bool) {
        for (severity, jump) in self.scan.take_jumps(at_end) {
            let text = jump.message(severity == Severity::Warning);
            self.add(severity, FindingKind::ClockBackwards, (&jump.file, jump.line), Some(jump.seq), text);
        }
    }

    fn finish(mut self, last: Option<&Segment>) -> AuditReport {
        self.add_jumps(true);
        let head = self.scan.head.filter(|_| self.scan.records > 0);
        self.report.records = self.scan.records;
        self.report.first_record = self.scan.first_seq;
        self.report.last_record = head.map(|head| head.seq);
        let name = last.map(Segment::name).unwrap_or_default();
        if self.report.is_valid() {
            let first = self.scan.first_seq.unwrap_or_default();
            let last = self.report.last_record.unwrap_or_default();
            // Who asks for the comparison must not be told that the log is valid without it.
            for (kind, text) in self.known.not_found(first, last) {
                self.add(Severity::Bad, kind, (&name, 0), None, text);
            }
        }
        self.check_missing_beginning();
        self.check_not_covered(&name);
        self.report
    }

    fn check_missing_beginning(&mut self) {
        let Some(first) = self.scan.first_seq.filter(|_| !self.has_beginning) else { return };
        let (severity, text) = match (self.scan.is_removal_recorded, self.options.partial) {
            (true, _) => (Severity::Warning, "they were removed by [audit] keep, as a record says"),
            (false, true) => (Severity::Warning, "nothing is known of them"),
            (false, false) => (Severity::Bad, "no record says that they were removed"),
        };
        let text = format!("records 1 to {} are not in the directory: {text}", first - 1);
        self.add(severity, FindingKind::BeginningMissing, ("", 0), None, text);
    }

    fn check_not_covered(&mut self, name: &str) {
        let count = self.report.not_covered();
        if count == 0 || self.options.chain_only {
            return;
        }
        let (Some(covered), Some((records, seconds))) = (self.report.covered_to, self.covered_time) else {
            let text = "no checkpoint covers these records: the log is from before checkpoints, or they were removed";
            self.add(Severity::Bad, FindingKind::NotCovered, (name, 0), None, text.to_owned());
            return;
        };
        let text = format!(
            "{count} records after record {covered} are covered by the chain alone: who can write to the directory can \
             change them"
        );
        let is_late = count > records.saturating_mul(2);
        let late = if is_late {
            format!("; a checkpoint was due after {records} records or {seconds} s")
        } else {
            String::new()
        };
        self.add(Severity::Warning, FindingKind::NotCovered, (name, 0), Some(covered + 1), text + &late);
    }
}

/// Whether bytes without a newline are a record whose newline is missing, which no crash leaves: a record and its
/// newline are written at once.
fn is_whole_record(line: &[u8]) -> bool {
    parse(line).is_some()
}
