//! Verifies the directory of an audit log.

mod entries;

use std::io;
use std::path::Path;

use super::entries::Entry;
use super::entry_reader::EntryReader;
use super::files::{
    CHECKPOINTS_EXTENSION, Segment, file_name, first_seq, is_compressed, named, open, open_records, segments,
    with_path,
};
use super::finding::{AuditReport, Finding, FindingKind, Severity};
use super::keys::LogKeys;
use super::known::KnownCheckpoints;
use super::lines::{LineReader, Place, parse};
use super::scan::{Break, Head, Scan};
use super::tpm_chain::TpmChain;
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
        interval: None,
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
    interval: Option<(u64, u64)>,
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
        let mut lines = LineReader::new(open_records(&first.path)?);
        let members = match read_line(&mut lines, first)? {
            Ok(Place::Line) => parse(lines.line()),
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
            let has_segment = segments.iter().any(|segment| Some(segment.first_seq) == first_seq(&path));
            if has_segment {
                continue;
            }
            // The state of the tree is written before the first record of a new file.
            let mut lines = LineReader::new(Box::new(open(&path)?));
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
        let mut lines = LineReader::new(open_records(&segment.path)?);
        let mut reported = 0;
        loop {
            self.take_entries(&mut entries)?;
            if self.scan.records == 0 {
                // The state with which the directory begins can be that of a checkpoint before it.
                self.check_known();
            }
            let place = match read_line(&mut lines, segment)? {
                Ok(place) => place,
                Err(damage) => {
                    let text = format!("from this line on, the file cannot be decompressed: {damage}");
                    let place = (&*name, lines.number + 1);
                    self.add(Severity::Bad, FindingKind::Format, place, None, text);
                    return Ok(false);
                }
            };
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
                (self.progress)(self.done + reported.min(segment.length), self.total);
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
        let mut lines = LineReader::new(open_records(&next.path)?);
        if read_line(&mut lines, next)? != Ok(Place::Line) {
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
        let is_continued = lines.read().is_ok_and(|place| place == Place::Line)
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
        let removal = self.scan.removal_seq;
        self.report.removal_record = removal;
        let (severity, text) = match (removal, self.options.partial) {
            (Some(removal), _) => {
                let certified = match self.report.removal_certified_by {
                    Some(seq) => format!(", and the checkpoint of record {seq} certifies that record"),
                    None => String::new(),
                };
                let text = format!("they were removed by [audit] keep, as record {removal} says{certified}");
                (Severity::Warning, text)
            }
            (None, true) => (Severity::Warning, "nothing is known of them".to_owned()),
            (None, false) => (Severity::Bad, "no record says that they were removed".to_owned()),
        };
        let text = format!("records 1 to {} are not in the directory: {text}", first - 1);
        self.add(severity, FindingKind::BeginningMissing, ("", 0), removal, text);
        self.check_removal_certified();
    }

    /// Who can write to the directory can remove the beginning and write a record of that after the last checkpoint.
    fn check_removal_certified(&mut self) {
        let Some(removal) = self.scan.removal_seq.filter(|_| !self.options.chain_only) else { return };
        if self.report.removal_certified_by.is_some() {
            return;
        }
        let text = format!(
            "no checkpoint covers record {removal}, which says that the beginning of the log was removed: who can \
             write to the directory can have removed it and written that record. The daemon makes a checkpoint after \
             a removal, at most 10 minutes later: verify a later copy, or use --partial"
        );
        let severity = if self.options.partial { Severity::Warning } else { Severity::Bad };
        self.add(severity, FindingKind::RemovalNotCertified, ("", 0), Some(removal), text);
    }

    fn check_not_covered(&mut self, name: &str) {
        let count = self.report.not_covered();
        if count == 0 || self.options.chain_only {
            return;
        }
        let (Some(covered), Some((records, seconds))) = (self.report.covered_to, self.interval) else {
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

/// Reads a line. The inner error says how a compressed file is damaged.
fn read_line(lines: &mut LineReader, segment: &Segment) -> io::Result<Result<Place, String>> {
    match lines.read() {
        Ok(place) => Ok(Ok(place)),
        Err(e) if is_compressed(&segment.path) && e.kind() == io::ErrorKind::InvalidData => {
            Ok(Err(e.to_string()))
        }
        Err(e) => Err(with_path(&segment.path, &e)),
    }
}

/// Whether bytes without a newline are a record whose newline is missing, which no crash leaves: a record and its
/// newline are written at once.
fn is_whole_record(line: &[u8]) -> bool {
    parse(line).is_some()
}
