//! Reads a compressed file of the audit log: gzip (RFC 1952) with one member.
//!
//! A reader takes no more from it than a file of the log can have, so that a small file that inflates without end fills
//! neither memory nor a disk.

use std::io::{self, Read};

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};

/// Bytes that are read at once.
const INPUT_LEN: usize = 64 * 1024;
/// The longest name or comment in a header.
const MAX_HEADER_TEXT: usize = 4096;

const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const HEADER_CRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Header,
    Content,
    Trailer,
    End,
}

/// Reads the content of a gzip file.
pub struct GzReader<R> {
    source: R,
    input: Vec<u8>,
    /// Bytes of `input` that were used.
    used: usize,
    state: Box<InflateState>,
    part: Part,
    sum: Crc32,
    length: u64,
    limit: u64,
}

impl<R: Read> GzReader<R> {
    /// A reader that fails with [`io::ErrorKind::InvalidData`] where the content has more than `limit` bytes, or the
    /// file is no gzip file, is damaged, or ends early.
    pub fn new(source: R, limit: u64) -> GzReader<R> {
        GzReader {
            source,
            input: Vec::new(),
            used: 0,
            state: InflateState::new_boxed(DataFormat::Raw),
            part: Part::Header,
            sum: Crc32::default(),
            length: 0,
            limit,
        }
    }

    /// Reads more where everything was used. Nothing is there afterwards only at the end of the file.
    fn fill(&mut self) -> io::Result<()> {
        if self.used < self.input.len() {
            return Ok(());
        }
        self.input.resize(INPUT_LEN, 0);
        self.used = 0;
        let read = loop {
            match self.source.read(&mut self.input) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.input.truncate(*read.as_ref().unwrap_or(&0));
        read.map(drop)
    }

    fn next_byte(&mut self) -> io::Result<u8> {
        self.fill()?;
        let byte = self.input.get(self.used).copied().ok_or_else(ends_early)?;
        self.used += 1;
        Ok(byte)
    }

    fn next_bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.next_byte()?;
        }
        Ok(bytes)
    }

    /// RFC 1952 section 2.3.
    fn read_header(&mut self) -> io::Result<()> {
        if self.next_bytes::<3>()? != MAGIC {
            return Err(invalid("it is no gzip file"));
        }
        let [flags, ..] = self.next_bytes::<7>()?;
        if flags & RESERVED != 0 {
            return Err(invalid("the header of the gzip file is of an unknown kind"));
        }
        if flags & EXTRA != 0 {
            for _ in 0..u16::from_le_bytes(self.next_bytes()?) {
                self.next_byte()?;
            }
        }
        for text in [NAME, COMMENT] {
            if flags & text != 0 {
                self.skip_text()?;
            }
        }
        if flags & HEADER_CRC != 0 {
            self.next_bytes::<2>()?;
        }
        Ok(())
    }

    fn skip_text(&mut self) -> io::Result<()> {
        for _ in 0..MAX_HEADER_TEXT {
            if self.next_byte()? == 0 {
                return Ok(());
            }
        }
        Err(invalid("a text in the header of the gzip file is too long"))
    }

    fn read_trailer(&mut self) -> io::Result<()> {
        let (sum, length) = (u32::from_le_bytes(self.next_bytes()?), u32::from_le_bytes(self.next_bytes()?));
        if sum != self.sum.value() || u64::from(length) != self.length & u64::from(u32::MAX) {
            return Err(invalid("the content of the gzip file does not have the sum in it: it is damaged"));
        }
        self.fill()?;
        match self.used == self.input.len() {
            true => Ok(()),
            false => Err(invalid("something follows the end of the gzip file")),
        }
    }

    fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.fill()?;
            let input = &self.input[self.used..];
            let is_at_end = input.is_empty();
            let result = inflate(&mut self.state, input, buffer, MZFlush::None);
            self.used += result.bytes_consumed;
            let written = result.bytes_written;
            self.sum.add(&buffer[..written]);
            self.length += written as u64;
            if self.length > self.limit {
                return Err(invalid(&format!(
                    "the gzip file has more than {} bytes, which no file of the log has",
                    self.limit
                )));
            }
            match result.status {
                Ok(MZStatus::StreamEnd) => self.part = Part::Trailer,
                Ok(_) | Err(MZError::Buf) if written > 0 || result.bytes_consumed > 0 => {}
                Ok(_) | Err(MZError::Buf) if is_at_end => return Err(ends_early()),
                _ => return Err(invalid("the content of the gzip file is damaged")),
            }
            if written > 0 || self.part == Part::Trailer {
                return Ok(written);
            }
        }
    }
}

impl<R: Read> Read for GzReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.part == Part::Header {
            self.read_header()?;
            self.part = Part::Content;
        }
        if self.part == Part::Content {
            let length = self.read_content(buffer)?;
            if length > 0 {
                return Ok(length);
            }
        }
        // What was read is returned before the sum is checked, so that a reader of lines sees them.
        if self.part == Part::Trailer {
            self.read_trailer()?;
            self.part = Part::End;
        }
        Ok(0)
    }
}

/// The sum of a gzip file (RFC 1952 section 8). It protects against accidents alone.
#[derive(Clone, Copy, Debug)]
pub struct Crc32(u32);

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut value = at as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        table[at] = value;
        at += 1;
    }
    table
};

impl Default for Crc32 {
    /// The sum of no bytes.
    fn default() -> Crc32 {
        Crc32(u32::MAX)
    }
}

impl Crc32 {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = TABLE[usize::from(self.0 as u8 ^ byte)] ^ (self.0 >> 8);
        }
    }

    /// The sum of all bytes.
    pub fn value(self) -> u32 {
        !self.0
    }
}

fn ends_early() -> io::Error {
    invalid("the gzip file ends early")
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::super::sample::gzip;
    use super::*;

    fn read(bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        GzReader::new(bytes, limit).read_to_end(&mut content).map(|_| content)
    }

    fn text() -> Vec<u8> {
        (0..20_000_u32)
            .flat_map(|n| format!("line {n} {}\n", n.wrapping_mul(2_654_435_761)).into_bytes())
            .collect()
    }

    /// The check value of CRC-32/ISO-HDLC.
    #[test]
    fn the_sum_is_that_of_the_standard() {
        let mut sum = Crc32::default();
        sum.add(b"12345");
        sum.add(b"6789");
        assert_eq!(sum.value(), 0xcbf4_3926);
    }

    #[test]
    fn content_is_read_in_any_pieces_up_to_the_limit() {
        let text = text();
        let packed = gzip(&text);
        assert_eq!(read(&packed, text.len() as u64).unwrap(), text);
        let error = read(&packed, text.len() as u64 - 1).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
        assert_eq!(read(&gzip(b""), 0).unwrap(), b"");
        for size in [1, 7, 4096] {
            let mut reader = GzReader::new(packed.as_slice(), u64::MAX);
            let (mut content, mut buffer) = (Vec::<u8>::new(), vec![0; size]);
            loop {
                let length = reader.read(&mut buffer).unwrap();
                if length == 0 {
                    break;
                }
                content.extend(&buffer[..length]);
            }
            assert!(content == text, "{size}");
        }
        // A program that keeps the name of the file, as gzip does.
        let mut named = packed.clone();
        named[3] = NAME | EXTRA;
        named.splice(10..10, b"\x02\x00xxname\0".iter().copied());
        assert_eq!(read(&named, u64::MAX).unwrap(), text);
    }

    /// 64 MiB of zeros in 64 KiB.
    #[test]
    fn a_bomb_is_read_no_further_than_the_limit() {
        let packed = gzip(&vec![0; 64 << 20]);
        assert!(packed.len() < 100_000);
        let mut reader = GzReader::new(packed.as_slice(), 1 << 20);
        let mut taken = 0;
        let mut buffer = vec![0; 64 * 1024];
        let error = loop {
            match reader.read(&mut buffer) {
                Ok(length) => taken += length,
                Err(e) => break e,
            }
        };
        assert!(taken <= 1 << 20, "{taken}");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_is_cut_damaged_or_longer_is_refused() {
        let text = text();
        let packed = gzip(&text);
        for length in (0..packed.len()).step_by(997).chain(packed.len() - 9..packed.len()) {
            assert!(read(&packed[..length], u64::MAX).is_err(), "{length}");
        }
        for at in (10..packed.len()).step_by(991).chain(packed.len() - 8..packed.len()) {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged, u64::MAX).is_err(), "{at}");
        }
        assert!(read(&[packed.as_slice(), b"x"].concat(), u64::MAX).is_err());
        assert!(read(&[packed.as_slice(), packed.as_slice()].concat(), u64::MAX).is_err());
        assert!(read(b"{\"v\":1}\n", u64::MAX).is_err());
    }
}
