//! The lines of an audit log's file, and what the verification needs of each.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read};

use data_encoding::HEXLOWER;
use serde::Deserialize;

use super::files::MAX_SEQ;
use super::merkle::Hash;
use crate::json;

/// Bytes that are read at once.
const BUFFER_LEN: usize = 1 << 20;
/// A longer line is none of the log. Earlier releases wrote lines of up to this length.
const MAX_LINE_LEN: u64 = 2 * 1024 * 1024;
/// The time of a record is one of its first members.
const TIME_SEARCH_LEN: usize = 1024;
/// The event of a record is one of its first members.
const EVENT_SEARCH_LEN: usize = 2048;
/// The length of a time, with microseconds.
const TIME_LEN: usize = "2026-11-26T10:00:00.000000Z".len();

/// Reads a file line by line.
pub(super) struct LineReader {
    reader: BufReader<Box<dyn Read + Send>>,
    line: Vec<u8>,
    /// The number of the line, from 1.
    pub(super) number: u64,
    /// Bytes that were read.
    pub(super) position: u64,
}

/// What is at the current place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A line that ends in a newline.
    Line,
    /// Bytes without a newline, to the end of the file.
    Unterminated,
    /// A line that is too long to be one of the log.
    TooLong,
    /// The end of the file.
    End,
}

impl LineReader {
    pub(super) fn new(source: Box<dyn Read + Send>) -> LineReader {
        let reader = BufReader::with_capacity(BUFFER_LEN, source);
        LineReader { reader, line: Vec::with_capacity(8192), number: 0, position: 0 }
    }

    /// Reads the next line.
    pub(super) fn read(&mut self) -> io::Result<Place> {
        self.line.clear();
        let length = (&mut self.reader).take(MAX_LINE_LEN + 1).read_until(b'\n', &mut self.line)?;
        if length == 0 {
            return Ok(Place::End);
        }
        self.number += 1;
        self.position += length as u64;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            return Ok(Place::Line);
        }
        Ok(if length as u64 > MAX_LINE_LEN { Place::TooLong } else { Place::Unterminated })
    }

    /// The line without its newline.
    pub(super) fn line(&self) -> &[u8] {
        &self.line
    }
}

/// The members by which records are chained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChainMembers {
    pub(super) seq: u64,
    /// The digest of the line before.
    pub(super) prev: Hash,
    pub(super) event: String,
}

#[derive(Deserialize)]
struct RawMembers<'a> {
    v: u32,
    seq: u64,
    #[serde(borrow)]
    prev: Cow<'a, str>,
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
}

/// Whether a line is the next record after one with this number and digest, by its first bytes, which the daemon
/// always writes in one form.
pub(super) fn begins_as_next(line: &[u8], seq: u64, digest: &Hash) -> bool {
    let Some(rest) = line.strip_prefix(b"{\"v\":1,\"seq\":") else { return false };
    let mut digits = [0; 20];
    let Some(rest) = rest.strip_prefix(decimal(seq, &mut digits)) else { return false };
    let Some(rest) = rest.strip_prefix(b",\"prev\":\"") else { return false };
    let mut hex = [0; 64];
    HEXLOWER.encode_mut(digest, &mut hex);
    rest.starts_with(&hex) && rest[64..].starts_with(b"\",")
}

/// The decimal form of a number, written to the end of `digits`.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 || at == 0 {
            return &digits[at..];
        }
    }
}

/// The members of a line in any form of JSON; `None` for what is no record.
pub(super) fn parse(line: &[u8]) -> Option<ChainMembers> {
    let raw: RawMembers<'_> = json::from_object(line).ok()?;
    let prev = HEXLOWER.decode(raw.prev.as_bytes()).ok()?.try_into().ok()?;
    let is_record = raw.v == 1 && (1..=MAX_SEQ).contains(&raw.seq);
    is_record.then(|| ChainMembers { seq: raw.seq, prev, event: raw.event.unwrap_or_default().into_owned() })
}

/// The text of the member `time`, whose texts are ordered as the times are. A quotation mark in a text of JSON is
/// escaped, so what is found is a member. `place` is where it was in the line before, and is set to where it is.
pub(super) fn time<'a>(line: &'a [u8], place: &mut usize) -> Option<&'a TimeText> {
    const NAME: &[u8] = b"\"time\":\"";
    let rest = match line.get(*place..).and_then(|rest| rest.strip_prefix(NAME)) {
        Some(rest) => rest,
        None => {
            let rest = after(line, NAME, TIME_SEARCH_LEN)?;
            *place = line.len() - rest.len() - NAME.len();
            rest
        }
    };
    let text = rest.first_chunk::<TIME_LEN>()?;
    (rest.get(TIME_LEN) == Some(&b'"')).then_some(text)
}

/// Whether a record is of this event.
pub(super) fn is_event(line: &[u8], event: &str) -> bool {
    let rest = after(line, b"\"event\":\"", EVENT_SEARCH_LEN);
    let rest = rest.and_then(|rest| rest.strip_prefix(event.as_bytes()));
    rest.is_some_and(|rest| rest.first() == Some(&b'"'))
}

fn after<'a>(line: &'a [u8], needle: &[u8], within: usize) -> Option<&'a [u8]> {
    let searched = &line[..line.len().min(within)];
    let at = searched.windows(needle.len()).position(|window| window == needle)?;
    Some(&line[at + needle.len()..])
}

/// A time as [`time`] returns it.
pub(super) type TimeText = [u8; TIME_LEN];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_comparison_agrees_with_the_parser() {
        for seq in [0, 8, 9, 99, 1 << 40] {
            let line = format!(
                "{{\"v\":1,\"seq\":{},\"prev\":\"{}\",\"time\":\"2026-11-26T10:00:00.000001Z\",\"event\":\"x\"}}",
                seq + 1,
                "ab".repeat(32)
            );
            let line = line.as_bytes();
            assert!(begins_as_next(line, seq + 1, &[0xab; 32]), "{seq}");
            assert!(!begins_as_next(line, seq, &[0xab; 32]) && !begins_as_next(line, seq + 1, &[0xac; 32]));
            assert!(!begins_as_next(line, (seq + 1) * 10, &[0xab; 32]));
            let parsed = parse(line).unwrap();
            assert_eq!(parsed, ChainMembers { seq: seq + 1, prev: [0xab; 32], event: "x".into() });
            for mut place in [0, 7, 90, usize::MAX] {
                assert_eq!(time(line, &mut place).unwrap(), b"2026-11-26T10:00:00.000001Z");
                assert!(line[place..].starts_with(b"\"time\":"));
            }
            assert!(is_event(line, "x") && !is_event(line, "") && !is_event(line, "xy"));
        }
        for (seq, is_number) in
            [(0, false), (1, true), (MAX_SEQ, true), (MAX_SEQ + 1, false), (u64::MAX, false)]
        {
            let line = format!("{{\"v\":1,\"seq\":{seq},\"prev\":\"{}\"}}", "ab".repeat(32));
            assert_eq!(parse(line.as_bytes()).is_some(), is_number, "{seq}");
        }
        assert!(!begins_as_next(b"{\"v\":1,\"seq\":1,\"prev\":\"", 1, &[0; 32]));
        for line in [&b"[1,1]"[..], b"{}", b"", b"{\"v\":2,\"seq\":1,\"prev\":\"00\"}", b"\xff"] {
            assert_eq!((parse(line), time(line, &mut 0)), (None, None));
        }
    }
}
