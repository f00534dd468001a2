//! The form of an audit line: version, number and predecessor's digest, then the record.

use std::borrow::Cow;
use std::fmt::Write as _;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::verify::audit::MAX_SEQ;

use super::event::Event;

/// Version of the line format, the member `v`.
const FORMAT_VERSION: u32 = 1;
/// Upper bound of a new line's length in bytes, with its newline. Lines of earlier versions can be longer.
const MAX_LINE_LEN: usize = 8 * 1024;
/// Upper bound of the members `v`, `seq` and `prev` with the opening brace, and of the newline.
const MAX_CHAIN_MEMBERS_LEN: usize = 128;
/// Upper bound of a record's JSON members in bytes, with the closing brace.
pub(super) const MAX_BODY_LEN: usize = MAX_LINE_LEN - MAX_CHAIN_MEMBERS_LEN;
/// A whole line is longer than this, whatever its record: `v`, `seq` and `prev` alone are.
pub(super) const MIN_LINE_LEN: u64 = 80;
/// The number and the digest of a line, on which the next line depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineId {
    /// The line's number; 0 before the first line.
    pub(super) seq: u64,
    /// SHA-256 of the line without its newline.
    pub(super) digest: [u8; 32],
}

impl LineId {
    /// The predecessor of a line whose real predecessor does not exist or is lost; `seq` is its number.
    pub(super) fn without_digest(seq: u64) -> LineId {
        LineId { seq, digest: [0; 32] }
    }
}

/// A line and how it is chained to others.
#[derive(Debug)]
pub(super) struct WholeLine {
    pub(super) id: LineId,
    /// The digest of the line before.
    prev: [u8; 32],
    /// Whether the line may skip numbers: its record says that they are missing.
    skips_numbers: bool,
    /// What the record says about gaps, if it reports any.
    pub(super) gap_detail: Option<Box<str>>,
}

impl WholeLine {
    /// Returns the parts of a line without its newline, or `None` if it does not have the log's format.
    pub(super) fn from_bytes(line: &[u8]) -> Option<WholeLine> {
        let members = parse(line)?;
        let is_event = |event: Event| members.event.as_deref() == Some(event.name());
        let gap_detail =
            is_event(Event::AuditGap).then(|| members.detail.as_deref().unwrap_or_default().into());
        let mut prev = [0; 32];
        HEXLOWER_PERMISSIVE.decode_mut(members.prev.as_bytes(), &mut prev).ok()?;
        Some(WholeLine {
            id: LineId { seq: members.seq, digest: sha256(line) },
            prev,
            skips_numbers: is_event(Event::AuditTorn),
            gap_detail,
        })
    }

    /// Whether this line was written after `previous`.
    pub(super) fn follows(&self, previous: LineId) -> bool {
        let has_next_seq =
            self.id.seq == previous.seq + 1 || self.skips_numbers && self.id.seq > previous.seq;
        has_next_seq && self.prev == previous.digest
    }

    /// The digest of the line before.
    pub(super) fn prev(&self) -> &[u8; 32] {
        &self.prev
    }
}

/// Appends the line after `previous` to `buffer`, and returns its number and digest.
pub(super) fn append_line(buffer: &mut Vec<u8>, previous: LineId, body: &[u8]) -> LineId {
    let seq = previous.seq + 1;
    let start = buffer.len();
    let mut prefix = String::with_capacity(MAX_CHAIN_MEMBERS_LEN);
    // Writing to a String cannot fail.
    let _ = write!(
        prefix,
        "{{\"v\":{FORMAT_VERSION},\"seq\":{seq},\"prev\":\"{}\",",
        HEXLOWER.encode_display(&previous.digest)
    );
    buffer.extend_from_slice(prefix.as_bytes());
    buffer.extend_from_slice(body);
    let digest = sha256(&buffer[start..]);
    buffer.push(b'\n');
    LineId { seq, digest }
}

/// The members of a line that the chain and queries need.
#[derive(Deserialize)]
pub(super) struct LineMembers<'a> {
    v: u32,
    pub(super) seq: u64,
    #[serde(borrow)]
    prev: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) event: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) agent: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) tenant: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) jti: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) serial: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    detail: Option<Cow<'a, str>>,
}

impl LineMembers<'_> {
    /// When the record was made; `None` if the line does not have it.
    pub(super) fn time(&self) -> Option<Timestamp> {
        let text: StrDeserializer<'_, ValueError> = self.time.as_deref()?.into_deserializer();
        Timestamp::deserialize(text).ok()
    }
}

/// Returns the members of a line without its newline, or `None` if it does not have the log's format.
pub(super) fn parse(line: &[u8]) -> Option<LineMembers<'_>> {
    if !line.starts_with(b"{") || !line.ends_with(b"}") {
        return None;
    }
    let members: LineMembers<'_> = serde_json::from_str(std::str::from_utf8(line).ok()?).ok()?;
    let is_digest = members.prev.len() == 64 && members.prev.bytes().all(|b| b.is_ascii_hexdigit());
    let is_numbered = (1..=MAX_SEQ).contains(&members.seq);
    (members.v == FORMAT_VERSION && is_numbered && is_digest).then_some(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(line: &[u8]) -> Option<LineId> {
        WholeLine::from_bytes(line).map(|line| line.id)
    }

    #[test]
    fn chain_members_fit_their_bounds() {
        let mut buffer = Vec::new();
        append_line(&mut buffer, LineId::without_digest(u64::MAX - 1), b"");
        assert!(buffer.len() <= MAX_CHAIN_MEMBERS_LEN, "{}", buffer.len());
        buffer.clear();
        append_line(&mut buffer, LineId::without_digest(0), b"");
        assert!(buffer.len() as u64 > MIN_LINE_LEN, "{}", buffer.len());
    }

    #[test]
    fn only_lines_of_the_format_have_a_number() {
        let mut line = Vec::new();
        let id = append_line(&mut line, LineId::without_digest(6), b"\"detail\":\"x\"}");
        line.pop();
        assert_eq!(id_of(&line), Some(id));
        assert_eq!(id.seq, 7);
        let text = String::from_utf8(line.clone()).unwrap();
        let others = [
            text.replace("\"v\":1", "\"v\":9"),
            text.replace("\"seq\":7", "\"seq\":0"),
            text.replace("\"seq\":7", &format!("\"seq\":{}", u64::MAX)),
            text.replace("\"seq\":7", &format!("\"seq\":{}", MAX_SEQ + 1)),
            text.replace("0000", "000"),
            text.replace("detail", "det\0il"),
            text[..text.len() - 1].to_owned(),
            format!("{text}{text}"),
            format!("\0{text}"),
        ];
        for other in others {
            assert_eq!(id_of(other.as_bytes()), None, "{other:?}");
        }
        let at = line.windows(6).position(|window| window == b"detail").unwrap();
        line[at] = 0xff;
        assert_eq!(id_of(&line), None, "not UTF-8");
    }
}
