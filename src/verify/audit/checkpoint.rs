//! What a checkpoint of an audit log says: the text of its signed note (c2sp.org/tlog-checkpoint), and what the TPM
//! certifies of it.
//!
//! ```text
//! <host id>.internal/audit/<log id>      the origin, which is the name of the signing key too
//! 1200                                   the number of leaves of the tree
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2…=     the root of the tree
//! begins-after 0                         the number of the record before the tree's first leaf
//! seq 1200                               the number of the last record
//! head 3f7c…                             the SHA-256 digest of the last record's line
//! time 2026-11-26T10:00:00.000Z          when the checkpoint was made
//! reason time                            why: start, records, time, rotation, removal, stop
//! interval 100000 3600                   records and seconds after which the next one is due
//! ```
//!
//! The digest of this text extends an NV index of the TPM. The AK certifies the value of the index before and after.

use std::fmt::Write as _;
use std::str::{FromStr, Lines};

use data_encoding::{BASE64, HEXLOWER};

use super::super::error::Error;
use super::files::MAX_SEQ;
use super::merkle::Hash;
use crate::clock::{Timestamp, parse_rfc3339};
use crate::digest::sha256;

/// Why a checkpoint was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointReason {
    /// The daemon has started.
    Start,
    /// So many records were written since the last one.
    Records,
    /// So much time has passed since the last one.
    Time,
    /// The log's file has changed.
    Rotation,
    /// The oldest files of the log were removed.
    Removal,
    /// The daemon stops.
    Stop,
}

impl CheckpointReason {
    const ALL: [CheckpointReason; 6] = [
        CheckpointReason::Start,
        CheckpointReason::Records,
        CheckpointReason::Time,
        CheckpointReason::Rotation,
        CheckpointReason::Removal,
        CheckpointReason::Stop,
    ];

    /// The name in a checkpoint.
    pub fn as_str(self) -> &'static str {
        match self {
            CheckpointReason::Start => "start",
            CheckpointReason::Records => "records",
            CheckpointReason::Time => "time",
            CheckpointReason::Rotation => "rotation",
            CheckpointReason::Removal => "removal",
            CheckpointReason::Stop => "stop",
        }
    }
}

/// The content of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The name of the log: host and log id.
    pub origin: String,
    /// The number of leaves of the tree.
    pub size: u64,
    /// The root of the tree.
    pub root: Hash,
    /// The number of the record before the tree's first leaf.
    pub begins_after: u64,
    /// The number of the last record.
    pub seq: u64,
    /// The digest of the last record's line.
    pub head: Hash,
    /// When the checkpoint was made, by the host's clock.
    pub time: Timestamp,
    /// Why it was made.
    pub reason: CheckpointReason,
    /// The number of records after which the next one is due.
    pub every_records: u64,
    /// The time in seconds after which the next one is due, if there are further records.
    pub every_seconds: u64,
}

/// The origin of the checkpoints of a log.
pub fn origin(host: &str, log_id: &[u8; 16]) -> String {
    format!("{host}.internal/audit/{}", HEXLOWER.encode(log_id))
}

impl Checkpoint {
    /// The text that is signed, and whose digest extends the NV index.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root));
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "begins-after {}\nseq {}\nhead {}\ntime {}\nreason {}\ninterval {} {}\n",
            self.begins_after,
            self.seq,
            HEXLOWER.encode(&self.head),
            self.time,
            self.reason.as_str(),
            self.every_records,
            self.every_seconds
        );
        text
    }

    /// Reads a text, which must have exactly the form of [`Checkpoint::to_text`].
    ///
    /// # Errors
    /// [`Error::Audit`].
    pub fn parse(text: &str) -> Result<Checkpoint, Error> {
        let checkpoint = read(text).filter(|checkpoint| checkpoint.to_text() == text);
        checkpoint
            .ok_or_else(|| Error::Audit("the text is not that of a checkpoint of an audit log".to_owned()))
    }

    /// What extends the NV index.
    pub fn digest(&self) -> Hash {
        sha256(self.to_text().as_bytes())
    }
}

fn read(text: &str) -> Option<Checkpoint> {
    let mut lines = text.lines();
    let origin = lines.next().filter(|origin| is_origin(origin))?.to_owned();
    let size = record_number(lines.next()?)?;
    let root = BASE64.decode(lines.next()?.as_bytes()).ok()?.try_into().ok()?;
    let begins_after = record_number(value(&mut lines, "begins-after")?)?;
    let seq = record_number(value(&mut lines, "seq")?)?;
    let head = HEXLOWER.decode(value(&mut lines, "head")?.as_bytes()).ok()?.try_into().ok()?;
    let time = parse_rfc3339(value(&mut lines, "time")?)?;
    let name = value(&mut lines, "reason")?;
    let reason = CheckpointReason::ALL.into_iter().find(|reason| reason.as_str() == name)?;
    let (records, seconds) = value(&mut lines, "interval")?.split_once(' ')?;
    Some(Checkpoint {
        origin,
        size,
        root,
        begins_after,
        seq,
        head,
        time,
        reason,
        every_records: number(records)?,
        every_seconds: number(seconds)?,
    })
}

fn value<'a>(lines: &mut Lines<'a>, name: &str) -> Option<&'a str> {
    lines.next()?.strip_prefix(name)?.strip_prefix(' ')
}

fn record_number(text: &str) -> Option<u64> {
    number(text).filter(|number| *number <= MAX_SEQ)
}

fn number(text: &str) -> Option<u64> {
    u64::from_str(text).ok()
}

fn is_origin(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'+')
}

/// The qualifying data of the certification before the NV index is extended.
pub fn before_binding(digest: &Hash) -> [u8; 32] {
    sha256(&[b"hostbadge audit checkpoint before\0".as_slice(), digest].concat())
}

/// The qualifying data of the certification after the NV index was extended.
pub fn after_binding(digest: &Hash) -> [u8; 32] {
    sha256(&[b"hostbadge audit checkpoint after\0".as_slice(), digest].concat())
}

/// The value of an NV index of type extend after `value` was extended with `data` (TPM 2.0 Part 3, section 31.9).
pub fn extended(value: &Hash, data: &Hash) -> Hash {
    sha256(&[value.as_slice(), data].concat())
}

/// What a new NV index is extended with, which makes it readable.
pub fn first_extension() -> Hash {
    sha256(b"hostbadge audit index")
}

/// The value of an NV index that was defined and has no checkpoint yet.
pub fn first_value() -> Hash {
    extended(&[0; 32], &first_extension())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_only_in_its_own_form() {
        let checkpoint = Checkpoint {
            origin: origin("abcdefghijklmnopqrstuvwxyz", &[7; 16]),
            size: 1200,
            root: [1; 32],
            begins_after: 3,
            seq: 1203,
            head: [2; 32],
            time: Timestamp::from_secs(1_800_000_000),
            reason: CheckpointReason::Rotation,
            every_records: 100_000,
            every_seconds: 3600,
        };
        let text = checkpoint.to_text();
        assert_eq!(Checkpoint::parse(&text).unwrap(), checkpoint);
        assert_eq!(checkpoint.digest(), sha256(text.as_bytes()));
        let others = [
            text.replace("1200\n", "01200\n"),
            text.replace("1200\n", "+1200\n"),
            text.replace("1200\n", &format!("{}\n", MAX_SEQ + 1)),
            text.replace("seq 1203", &format!("seq {}", u64::MAX)),
            text.replace("begins-after 3", &format!("begins-after {}", u64::MAX)),
            text.replace("seq 1203", "seq  1203"),
            text.replace("rotation", "Rotation"),
            text.replace("0202", "AA02"),
            text.replace("abcde", "ab+de"),
            text.replace('\n', "\r\n"),
            format!("{text}more\n"),
            text[..text.len() - 1].to_owned(),
            text.lines().take(8).map(|line| format!("{line}\n")).collect(),
            String::new(),
        ];
        for other in others {
            assert!(Checkpoint::parse(&other).is_err(), "{other:?}");
        }
        assert_ne!(before_binding(&[1; 32]), after_binding(&[1; 32]));
    }
}
