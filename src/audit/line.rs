//! The form of an audit line: version, number and predecessor's digest, then the record.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;

use crate::digest::sha256;

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

    /// Returns the number and the digest of a line without its newline, or `None` if it does not have the
    /// log's format.
    pub(super) fn of(line: &[u8]) -> Option<LineId> {
        Some(LineId { seq: parse_seq(line)?, digest: sha256(line) })
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

/// Returns the number of a line, or `None` if it does not have the log's format.
pub(super) fn parse_seq(line: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct ChainMembers<'a> {
        v: u32,
        seq: u64,
        #[serde(borrow)]
        prev: std::borrow::Cow<'a, str>,
    }
    if !line.starts_with(b"{") || !line.ends_with(b"}") {
        return None;
    }
    let members: ChainMembers<'_> = serde_json::from_str(std::str::from_utf8(line).ok()?).ok()?;
    let is_digest = members.prev.len() == 64 && members.prev.bytes().all(|b| b.is_ascii_hexdigit());
    (members.v == FORMAT_VERSION && members.seq > 0 && is_digest).then_some(members.seq)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(LineId::of(&line), Some(id));
        assert_eq!(id.seq, 7);
        let text = String::from_utf8(line.clone()).unwrap();
        let others = [
            text.replace("\"v\":1", "\"v\":9"),
            text.replace("\"seq\":7", "\"seq\":0"),
            text.replace("0000", "000"),
            text.replace("detail", "det\0il"),
            text[..text.len() - 1].to_owned(),
            format!("{text}{text}"),
            format!("\0{text}"),
        ];
        for other in others {
            assert_eq!(LineId::of(other.as_bytes()), None, "{other:?}");
        }
        let at = line.windows(6).position(|window| window == b"detail").unwrap();
        line[at] = 0xff;
        assert_eq!(LineId::of(&line), None, "not UTF-8");
    }
}
