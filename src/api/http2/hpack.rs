//! Header blocks (HPACK, RFC 7541): decoded with the sender's dynamic table, encoded without one.

use std::collections::VecDeque;

use super::huffman;
use super::malformed::Malformed;

/// Largest dynamic table in bytes: the initial SETTINGS_HEADER_TABLE_SIZE (RFC 9113 section 6.5.2).
const MAX_TABLE_SIZE: usize = 4096;
/// Bytes that an entry counts in addition to its name and value (section 4.1).
const ENTRY_OVERHEAD: usize = 32;
/// Largest list of fields in bytes, counted as in section 4.1. gRPC clients send less than 4 KiB.
const MAX_FIELD_LIST_SIZE: usize = 32 * 1024;

/// A header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderField {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

impl HeaderField {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY_OVERHEAD
    }
}

/// Decodes the header blocks of one connection with the dynamic table that the sender builds.
pub struct HpackDecoder {
    /// Latest first.
    table: VecDeque<HeaderField>,
    size: usize,
    max_size: usize,
}

impl Default for HpackDecoder {
    fn default() -> HpackDecoder {
        HpackDecoder { table: VecDeque::new(), size: 0, max_size: MAX_TABLE_SIZE }
    }
}

impl HpackDecoder {
    /// The fields of a complete block, in their order. After an error the dynamic table is unknown, so the connection cannot be
    /// used any more.
    pub fn decode(&mut self, block: &[u8]) -> Result<Vec<HeaderField>, Malformed> {
        let mut reader = HpackReader(block);
        let (mut fields, mut size) = (Vec::new(), 0);
        while let Some(first) = reader.peek() {
            let field = match first {
                0x80.. => self.lookup(reader.integer(7)?)?,
                0x40..=0x7f => {
                    let field = self.literal(&mut reader, 6)?;
                    self.insert(field.clone());
                    field
                }
                0x20..=0x3f => {
                    // A change of the table's size comes before the first field (section 4.2).
                    let limit = reader.integer(5)?;
                    if !fields.is_empty() || limit > MAX_TABLE_SIZE {
                        return Err(Malformed);
                    }
                    self.max_size = limit;
                    self.evict(limit);
                    continue;
                }
                _ => self.literal(&mut reader, 4)?,
            };
            size += field.size();
            if size > MAX_FIELD_LIST_SIZE {
                return Err(Malformed);
            }
            fields.push(field);
        }
        Ok(fields)
    }

    fn literal(&self, reader: &mut HpackReader, prefix: u32) -> Result<HeaderField, Malformed> {
        let name = match reader.integer(prefix)? {
            0 => reader.string()?,
            index => self.lookup(index)?.name,
        };
        Ok(HeaderField { name, value: reader.string()? })
    }

    /// Section 2.3.3: the static table, then the dynamic one.
    fn lookup(&self, index: usize) -> Result<HeaderField, Malformed> {
        let position = index.checked_sub(1).ok_or(Malformed)?;
        match STATIC_TABLE.get(position) {
            Some((name, value)) => {
                Ok(HeaderField { name: name.as_bytes().to_vec(), value: value.as_bytes().to_vec() })
            }
            None => self.table.get(position - STATIC_TABLE.len()).cloned().ok_or(Malformed),
        }
    }

    fn insert(&mut self, field: HeaderField) {
        let size = field.size();
        self.evict(self.max_size.saturating_sub(size));
        // An entry larger than the table empties it and is not added (section 4.4).
        if size <= self.max_size {
            self.size += size;
            self.table.push_front(field);
        }
    }

    fn evict(&mut self, max_size: usize) {
        while self.size > max_size {
            let Some(oldest) = self.table.pop_back() else { return };
            self.size -= oldest.size();
        }
    }
}

/// Writes fields as literals without indexing (section 6.2.2), which need no dynamic table.
pub fn encode(fields: &[HeaderField], out: &mut Vec<u8>) {
    for HeaderField { name, value } in fields {
        out.push(0);
        for text in [name, value] {
            write_length(text.len(), out);
            out.extend_from_slice(text);
        }
    }
}

/// Writes the length of a string (sections 5.1 and 5.2): a prefix of seven bits after the bit for Huffman code, which is 0.
fn write_length(length: usize, out: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(127) else { return out.push(length as u8) };
    out.push(127);
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

struct HpackReader<'a>(&'a [u8]);

impl HpackReader<'_> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    /// Reads an integer (section 5.1) of at most three bytes after the first, which is more than any bound here needs.
    fn integer(&mut self, prefix: u32) -> Result<usize, Malformed> {
        let mask = (1usize << prefix) - 1;
        let mut number = usize::from(self.byte()?) & mask;
        if number < mask {
            return Ok(number);
        }
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    /// Reads a string literal (section 5.2).
    fn string(&mut self) -> Result<Vec<u8>, Malformed> {
        let huffman_coded = self.peek().ok_or(Malformed)? & 0x80 != 0;
        let length = self.integer(7)?;
        if length > self.0.len() {
            return Err(Malformed);
        }
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        if !huffman_coded {
            return Ok(text.to_vec());
        }
        let mut decoded = Vec::new();
        huffman::decode(text, MAX_FIELD_LIST_SIZE, &mut decoded)?;
        Ok(decoded)
    }
}

/// Appendix A.
#[rustfmt::skip]
static STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    fn field(name: &str, value: &str) -> HeaderField {
        HeaderField { name: name.into(), value: value.into() }
    }

    fn decode(decoder: &mut HpackDecoder, hex: &str) -> Result<Vec<HeaderField>, Malformed> {
        decoder.decode(&HEXLOWER.decode(hex.as_bytes()).unwrap())
    }

    fn request(extra: &[HeaderField]) -> Vec<HeaderField> {
        let first = [
            field(":method", "GET"),
            field(":scheme", "http"),
            field(":path", "/"),
            field(":authority", "www.example.com"),
        ];
        [&first, extra].concat()
    }

    /// RFC 7541, appendices C.3 and C.4: three requests on one connection, plain and in Huffman's code.
    #[test]
    fn rfc7541_examples() {
        for blocks in [
            ["828684410f7777772e6578616d706c652e636f6d", "828684be58086e6f2d6361636865"],
            ["828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf"],
        ] {
            let mut decoder = HpackDecoder::default();
            assert_eq!(decode(&mut decoder, blocks[0]).unwrap(), request(&[]));
            assert_eq!(
                decode(&mut decoder, blocks[1]).unwrap(),
                request(&[field("cache-control", "no-cache")])
            );
            assert_eq!(decoder.size, 110);
        }
    }

    /// Appendix C.5: a table that is too small for all, set by the block itself here.
    #[test]
    fn full_table_evicts_oldest_entries() {
        let mut decoder = HpackDecoder::default();
        decoder.decode(&[0x3f, 0xe1, 0x01]).unwrap();
        assert_eq!(decoder.max_size, 256);
        let first = "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54\
                     6e1768747470733a2f2f7777772e6578616d706c652e636f6d";
        assert_eq!(decode(&mut decoder, first).unwrap().len(), 4);
        assert_eq!(decoder.size, 222);
        let second = decode(&mut decoder, "4803333037c1c0bf").unwrap();
        assert_eq!(second[0], field(":status", "307"));
        assert_eq!(second[3], field("location", "https://www.example.com"));
        assert_eq!(decoder.size, 222);
    }

    #[test]
    fn encoding_is_stateless() {
        let fields = [
            request(&[field("x", ""), field("long", &"v".repeat(300))]),
            vec![field("y", &"z".repeat(20_000))],
        ];
        for fields in fields {
            let mut block = Vec::new();
            encode(&fields, &mut block);
            let mut decoder = HpackDecoder::default();
            assert_eq!(decoder.decode(&block).unwrap(), fields);
            assert!(decoder.table.is_empty());
        }
    }

    #[test]
    fn malformed_blocks_are_rejected() {
        for hex in [
            "80",           // index 0
            "be",           // nothing in the dynamic table
            "ffffffffff7f", // a number without end
            "3fe21f",       // a table larger than allowed
            "8220",         // a table size after a field
            "400161",       // no value
            "0005616263",   // a name longer than the block
            "0001618f",     // a value longer than the block
        ] {
            assert_eq!(decode(&mut HpackDecoder::default(), hex), Err(Malformed), "{hex}");
        }
    }

    /// A small block that names a large entry again and again.
    #[test]
    fn hpack_bomb_is_rejected() {
        let mut decoder = HpackDecoder::default();
        let mut block = Vec::new();
        block.push(0x40);
        block.extend_from_slice(&[1, b'a', 127, 0x81, 0x1e]);
        block.extend_from_slice(&vec![b'x'; 127 + 1 + (0x1e << 7)]);
        assert_eq!(decoder.decode(&block).unwrap().len(), 1);
        assert_eq!(decoder.decode(&[0xbe; 4]).unwrap().len(), 4);
        assert_eq!(decoder.decode(&[0xbe; 16_000]), Err(Malformed));
    }
}
