//! Reads an audit log record by record: follows the chain, and hashes the tree.

use super::checkpoint::Checkpoint;
use super::entries::TreeState;
use super::files::MAX_SEQ;
use super::finding::{FindingKind, Severity};
use super::lines::{ChainMembers, TimeText, begins_as_next, is_event, parse, time};
use super::merkle::{Hash, leaf_hash};
use crate::clock::{Timestamp, parse_rfc3339};
use crate::digest::sha256;

/// Records wait at most so long between their time and their place in the log.
const TIME_LEEWAY: std::time::Duration = std::time::Duration::from_secs(10);
/// A clock that was set back is recorded within so many records.
const CLOCK_RECORDS: u64 = 10_000;

/// The end of the chain so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) digest: Hash,
}

/// A record whose time is before that of an earlier one.
#[derive(Clone, Debug)]
pub(super) struct ClockJump {
    pub(super) file: String,
    pub(super) line: u64,
    pub(super) seq: u64,
    earlier: String,
    later: String,
}

impl ClockJump {
    /// The text of the finding.
    pub(super) fn message(&self, is_recorded: bool) -> String {
        let ClockJump { earlier, later, .. } = self;
        let recorded =
            if is_recorded { "a later record says that the clock was set" } else { "no record says why" };
        format!("the time of this record is {earlier}, and an earlier record has {later}: {recorded}")
    }
}

/// What the records so far have shown.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// `None` before the first record, while the number and digest before it are not known.
    pub(super) head: Option<Head>,
    pub(super) records: u64,
    pub(super) first_seq: Option<u64>,
    /// The tree; its `seq` and `head` are those of the state that it began with.
    pub(super) tree: Option<TreeState>,
    /// Where the time was in the last line.
    time_place: usize,
    /// The latest time of a record.
    latest_time: Option<TimeText>,
    jump: Option<ClockJump>,
    jumps: Vec<(Severity, ClockJump)>,
    /// The time of the first record after the last checkpoint.
    pub(super) first_uncovered: Option<TimeText>,
    /// The text that a record of a removal of the log's beginning has.
    removal: Option<Vec<u8>>,
    /// The number of that record.
    pub(super) removal_seq: Option<u64>,
}

/// Why a line does not continue the chain.
#[derive(Debug)]
pub(super) enum Break {
    /// The line is no record.
    NotARecord,
    /// The number is not the next one.
    Order(ChainMembers),
    /// The digest of the line before is another one.
    Digest(ChainMembers),
}

impl Scan {
    /// A scan of the records after one.
    pub(super) fn after(head: Head) -> Scan {
        Scan { head: Some(head), ..Scan::default() }
    }

    /// Expects a record of the removal of everything before record `first`, whose `prev` is this digest.
    pub(super) fn expect_removal(&mut self, first: u64, prev: &Hash) {
        let prev = data_encoding::HEXLOWER.encode(prev);
        self.removal = Some(format!("begins with record {first} now, whose prev is {prev}").into_bytes());
    }

    /// Whether a line continues the chain; takes nothing of it.
    pub(super) fn check(&self, line: &[u8]) -> Result<u64, Break> {
        let Some(head) = self.head else {
            return parse(line).map(|members| members.seq).ok_or(Break::NotARecord);
        };
        if head.seq < MAX_SEQ && begins_as_next(line, head.seq + 1, &head.digest) {
            return Ok(head.seq + 1);
        }
        let members = parse(line).ok_or(Break::NotARecord)?;
        let skips = members.event == "audit-torn" && members.seq > head.seq;
        if members.seq != head.seq + 1 && !skips {
            return Err(Break::Order(members));
        }
        if members.prev != head.digest {
            return Err(Break::Digest(members));
        }
        Ok(members.seq)
    }

    /// Takes a line that continues the chain as record `seq`.
    pub(super) fn push(&mut self, line: &[u8], seq: u64, (file, number): (&str, u64)) {
        let digest = sha256(line);
        if let Some(tree) = &mut self.tree {
            tree.frontier.push(leaf_hash(&digest));
        }
        self.head = Some(Head { seq, digest });
        self.records += 1;
        self.first_seq.get_or_insert(seq);
        self.note_time(line, seq, (file, number));
        if let Some(removal) = self.removal.as_deref().filter(|_| is_event(line, "audit-files-removed"))
            && line.windows(removal.len()).any(|window| window == removal)
        {
            self.removal_seq = Some(seq);
            self.removal = None;
        }
    }

    /// The clock jumps that are decided, in order. `at_end` decides the last one.
    pub(super) fn take_jumps(&mut self, at_end: bool) -> Vec<(Severity, ClockJump)> {
        if at_end {
            self.jumps.extend(self.jump.take().map(|jump| (Severity::Bad, jump)));
        }
        std::mem::take(&mut self.jumps)
    }

    /// What differs between a checkpoint and the records so far, of which this is the tree.
    pub(super) fn compare(&self, tree: &TreeState, checkpoint: &Checkpoint) -> Option<String> {
        let seq = checkpoint.seq;
        if self.head != Some(Head { seq, digest: checkpoint.head }) {
            return Some(format!("record {seq} is not the one that the TPM certified"));
        }
        if checkpoint.begins_after != tree.begins_after || checkpoint.size != tree.frontier.size() {
            return Some(format!("the records up to {seq} are not as many as the TPM certified"));
        }
        (checkpoint.root != tree.frontier.root())
            .then(|| format!("a record up to {seq} is not the one that the TPM certified"))
    }

    fn note_time(&mut self, line: &[u8], seq: u64, (file, number): (&str, u64)) {
        let Some(now) = time(line, &mut self.time_place) else { return };
        self.first_uncovered.get_or_insert(*now);
        if let Some(jump) = &self.jump {
            if is_event(line, "clock-changed") || is_event(line, "clock-accepted") {
                self.jumps.extend(self.jump.take().map(|jump| (Severity::Warning, jump)));
            } else if seq - jump.seq > CLOCK_RECORDS {
                self.jumps.extend(self.jump.take().map(|jump| (Severity::Bad, jump)));
            }
        }
        let Some(latest) = self.latest_time else {
            self.latest_time = Some(*now);
            return;
        };
        if *now >= latest {
            self.latest_time = Some(*now);
            return;
        }
        if as_time(now).zip(as_time(&latest)).is_none_or(|(now, latest)| latest.since(now) <= TIME_LEEWAY) {
            return;
        }
        let text = |time: &TimeText| String::from_utf8_lossy(time).into_owned();
        let (earlier, later) = (text(now), text(&latest));
        // Those after the jump continue from the new time.
        self.latest_time = Some(*now);
        let jump = ClockJump { file: file.to_owned(), line: number, seq, earlier, later };
        let was_set = is_event(line, "clock-changed") || is_event(line, "clock-accepted");
        self.jumps.extend(self.jump.take().map(|jump| (Severity::Bad, jump)));
        match was_set {
            true => self.jumps.push((Severity::Warning, jump)),
            false => self.jump = Some(jump),
        }
    }
}

impl Break {
    /// The kind and the text of the finding for the line itself.
    pub(super) fn describe(&self, head: Option<Head>) -> (FindingKind, String) {
        let last = head.map(|head| head.seq).unwrap_or_default();
        match self {
            Break::NotARecord => {
                (FindingKind::Format, format!("this line, after record {last}, is no record"))
            }
            Break::Order(members) if members.seq > last => (
                FindingKind::RecordOrder,
                format!(
                    "records {} to {} are missing: this is record {}",
                    last + 1,
                    members.seq - 1,
                    members.seq
                ),
            ),
            Break::Order(members) => (
                FindingKind::RecordOrder,
                format!("this is record {}, and stands after record {last}", members.seq),
            ),
            Break::Digest(members) => (
                FindingKind::RecordChanged,
                format!("record {} does not continue record {last}: one of both was changed", members.seq),
            ),
        }
    }
}

/// The moment of a time's text.
pub(super) fn as_time(text: &TimeText) -> Option<Timestamp> {
    parse_rfc3339(std::str::from_utf8(text).ok()?)
}
