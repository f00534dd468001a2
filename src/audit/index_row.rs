//! One row of an index: where a record is, and marks of what it is about.

use super::line::parse;
use super::searched_members::SearchedMembers;

/// Bytes of a row in the file.
pub(super) const ROW_LEN: usize = 48;
/// The hash of a record that has two identifiers: it is read for each.
pub(super) const ANY_ID: u32 = u32::MAX;
/// The time of a record that has none.
const NO_TIME: u64 = u64::MAX;
/// Bits that a text sets among the 128 marks. With 15 texts, 1 record in 40 has the marks of another text by chance.
const BITS: u32 = 3;

/// What a text of a record is, so that equal texts of different members have different marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Term {
    Agent = 1,
    Owner,
    Tenant,
    Event,
    Audience,
    Reason,
    /// The identifier of a token, or the serial number of a certificate.
    Id,
    Correlation,
    /// Unit, invocation, pid, or digest of the executable.
    Instance,
}

/// Where a record is in its file, and marks of what it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) offset: u32,
    /// Without the newline.
    pub(super) length: u32,
    pub(super) seq: u64,
    /// In microseconds since the epoch.
    time: u64,
    /// Hashes of the agent and of the identifier; 0 where there is none.
    pub(super) agent: u32,
    pub(super) id: u32,
    /// The marks of all texts.
    pub(super) marks: u128,
}

impl Row {
    /// The row of a line without its place; `None` if the line does not have the log's format.
    pub(super) fn of(line: &[u8]) -> Option<Row> {
        let first = parse(line)?;
        // Members of another form than this version writes have no marks, so such a line is always read.
        let further = serde_json::from_slice::<SearchedMembers<'_>>(line).ok();
        let time = first.time().map_or(NO_TIME, |time| time.as_micros());
        let id = match (first.jti.as_deref(), first.serial.as_deref()) {
            (Some(_), Some(_)) => ANY_ID,
            (jti, serial) => jti.or(serial).map_or(0, |id| short_hash(Term::Id, id)),
        };
        let mut row = Row {
            seq: first.seq,
            time,
            agent: first.agent.as_deref().map_or(0, |agent| short_hash(Term::Agent, agent)),
            id,
            marks: 0,
            ..Row::default()
        };
        let Some(further) = further else { return Some(Row { marks: u128::MAX, ..row }) };
        let texts = [
            (Term::Owner, further.owner.as_deref()),
            (Term::Tenant, first.tenant.as_deref()),
            (Term::Event, first.event.as_deref()),
            (Term::Audience, further.audience.as_deref()),
            (Term::Reason, further.reason.as_deref()),
            (Term::Correlation, further.correlation_id.as_deref()),
        ];
        let add = |row: &mut Row, term, text: &str| row.marks |= marks(term, text);
        for (term, text) in texts {
            text.into_iter().for_each(|text| add(&mut row, term, text));
        }
        let audience = further.audience.as_deref().unwrap_or_default();
        if audience.contains(' ') {
            audience.split(' ').for_each(|audience| add(&mut row, Term::Audience, audience));
        }
        if let Some(peer) = further.peer {
            peer.ids().for_each(|id| add(&mut row, Term::Instance, &id));
        }
        Some(row)
    }

    /// Where the next line begins.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.length) + 1
    }

    /// The time of the record in microseconds since the epoch.
    pub(super) fn time(&self) -> Option<u64> {
        (self.time != NO_TIME).then_some(self.time)
    }

    pub(super) fn to_bytes(self) -> [u8; ROW_LEN] {
        let mut bytes = [0; ROW_LEN];
        bytes[..4].copy_from_slice(&self.offset.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.seq.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.time.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.agent.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.id.to_le_bytes());
        bytes[32..].copy_from_slice(&self.marks.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Row> {
        let bytes: &[u8; ROW_LEN] = bytes.try_into().ok()?;
        let short = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let long = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        Some(Row {
            offset: short(0)?,
            length: short(4)?,
            seq: long(8)?,
            time: long(16)?,
            agent: short(24)?,
            id: short(28)?,
            marks: u128::from_le_bytes(bytes[32..].try_into().ok()?),
        })
    }
}

/// The marks of a text.
pub(super) fn marks(term: Term, text: &str) -> u128 {
    let hash = hash(term, text);
    (0..BITS).fold(0, |marks, n| marks | 1 << ((hash >> (7 * n)) & 127))
}

/// A hash of a text that is not 0.
pub(super) fn short_hash(term: Term, text: &str) -> u32 {
    ((hash(term, text) >> 32) as u32).max(1)
}

/// FNV-1a with a final mix. Whoever makes two texts with equal hashes makes searches for one read the other too.
fn hash(term: Term, text: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ term as u64;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_round_trip() {
        let row = Row { offset: 1, length: 2, seq: u64::MAX, time: 4, agent: 5, id: 6, marks: 1 << 127 };
        assert_eq!(Row::from_bytes(&row.to_bytes()), Some(row));
        assert_eq!(Row::from_bytes(&[0; ROW_LEN - 1]), None);
    }

    #[test]
    fn few_texts_have_the_marks_of_others() {
        let names: Vec<String> = (0..15).map(|n| format!("name-{n}")).collect();
        let all = names.iter().fold(0, |marks_of_all, name| marks_of_all | marks(Term::Owner, name));
        let by_chance = (0..10_000)
            .filter(|n| {
                let wanted = marks(Term::Owner, &format!("other-{n}"));
                wanted & all == wanted
            })
            .count();
        assert!(by_chance < 600, "{by_chance} of 10000");
        assert_ne!(marks(Term::Owner, "a"), marks(Term::Tenant, "a"));
    }
}
