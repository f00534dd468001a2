//! Header blocks (HPACK, RFC 7541): decoded with the state that their sender keeps, written without any.

use std::collections::VecDeque;

use super::{Malformed, huffman};

/// The largest dynamic table, which is what a client may use without being told otherwise (RFC 9113, section 6.5.2).
const TABLE_MOST: usize = 4096;
/// What an entry costs beside its own bytes (section 4.1).
const OVERHEAD: usize = 32;
/// The largest list of fields, counted as section 4.1 counts: some KiB is what clients send.
const LIST_MOST: usize = 32 * 1024;

/// A header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

impl Field {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + OVERHEAD
    }
}

/// What the sender's encoder has put into its dynamic table.
pub struct Decoder {
    /// Latest first.
    table: VecDeque<Field>,
    size: usize,
    limit: usize,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { table: VecDeque::new(), size: 0, limit: TABLE_MOST }
    }
}

impl Decoder {
    /// The fields of a whole block, in their order. After an error the connection is of no more use.
    pub fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, Malformed> {
        let mut reader = Reader(block);
        let (mut fields, mut size) = (Vec::new(), 0);
        while let Some(first) = reader.peek() {
            let field = match first {
                0x80.. => self.entry(reader.integer(7)?)?,
                0x40..=0x7f => {
                    let field = self.literal(&mut reader, 6)?;
                    self.insert(field.clone());
                    field
                }
                0x20..=0x3f => {
                    // Section 4.2: only where a block begins.
                    let limit = reader.integer(5)?;
                    if !fields.is_empty() || limit > TABLE_MOST {
                        return Err(Malformed);
                    }
                    self.limit = limit;
                    self.evict(limit);
                    continue;
                }
                _ => self.literal(&mut reader, 4)?,
            };
            size += field.size();
            if size > LIST_MOST {
                return Err(Malformed);
            }
            fields.push(field);
        }
        Ok(fields)
    }

    fn literal(&self, reader: &mut Reader, prefix: u32) -> Result<Field, Malformed> {
        let name = match reader.integer(prefix)? {
            0 => reader.string()?,
            index => self.entry(index)?.name,
        };
        Ok(Field { name, value: reader.string()? })
    }

    /// Section 2.3.3: the static table, then the dynamic one.
    fn entry(&self, index: usize) -> Result<Field, Malformed> {
        let at = index.checked_sub(1).ok_or(Malformed)?;
        match STATIC.get(at) {
            Some((name, value)) => {
                Ok(Field { name: name.as_bytes().to_vec(), value: value.as_bytes().to_vec() })
            }
            None => self.table.get(at - STATIC.len()).cloned().ok_or(Malformed),
        }
    }

    fn insert(&mut self, field: Field) {
        let size = field.size();
        self.evict(self.limit.saturating_sub(size));
        // One that is larger than the table empties it and is not in it (section 4.4).
        if size <= self.limit {
            self.size += size;
            self.table.push_front(field);
        }
    }

    fn evict(&mut self, most: usize) {
        while self.size > most {
            let Some(oldest) = self.table.pop_back() else { return };
            self.size -= oldest.size();
        }
    }
}

/// Writes fields so that no state is needed to read them: literals without indexing (section 6.2.2).
pub fn encode(fields: &[Field], out: &mut Vec<u8>) {
    for Field { name, value } in fields {
        out.push(0);
        for text in [name, value] {
            write_length(text.len(), out);
            out.extend_from_slice(text);
        }
    }
}

/// Section 5.1, with a prefix of seven bits, the eighth saying that there is no Huffman code.
fn write_length(length: usize, out: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(127) else { return out.push(length as u8) };
    out.push(127);
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    /// Section 5.1. No number of ours needs more than three bytes after the first.
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

    /// Section 5.2.
    fn string(&mut self) -> Result<Vec<u8>, Malformed> {
        let coded = self.peek().ok_or(Malformed)? & 0x80 != 0;
        let length = self.integer(7)?;
        if length > self.0.len() {
            return Err(Malformed);
        }
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        if !coded {
            return Ok(text.to_vec());
        }
        let mut plain = Vec::new();
        huffman::decode(text, LIST_MOST, &mut plain)?;
        Ok(plain)
    }
}

/// Appendix A.
#[rustfmt::skip]
static STATIC: [(&str, &str); 61] = [
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

    fn field(name: &str, value: &str) -> Field {
        Field { name: name.into(), value: value.into() }
    }

    fn decode(decoder: &mut Decoder, hex: &str) -> Result<Vec<Field>, Malformed> {
        decoder.decode(&HEXLOWER.decode(hex.as_bytes()).unwrap())
    }

    fn request(extra: &[Field]) -> Vec<Field> {
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
    fn the_examples_of_the_specification() {
        for blocks in [
            ["828684410f7777772e6578616d706c652e636f6d", "828684be58086e6f2d6361636865"],
            ["828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf"],
        ] {
            let mut decoder = Decoder::default();
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
    fn what_does_not_fit_is_forgotten() {
        let mut decoder = Decoder::default();
        decoder.decode(&[0x3f, 0xe1, 0x01]).unwrap();
        assert_eq!(decoder.limit, 256);
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
    fn what_is_written_is_read_by_a_decoder_with_no_past() {
        let fields = [
            request(&[field("x", ""), field("long", &"v".repeat(300))]),
            vec![field("y", &"z".repeat(20_000))],
        ];
        for fields in fields {
            let mut block = Vec::new();
            encode(&fields, &mut block);
            let mut decoder = Decoder::default();
            assert_eq!(decoder.decode(&block).unwrap(), fields);
            assert!(decoder.table.is_empty());
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
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
            assert_eq!(decode(&mut Decoder::default(), hex), Err(Malformed), "{hex}");
        }
    }

    /// A small block that names a large entry again and again.
    #[test]
    fn a_bomb_is_refused() {
        let mut decoder = Decoder::default();
        let mut block = Vec::new();
        block.push(0x40);
        block.extend_from_slice(&[1, b'a', 127, 0x81, 0x1e]);
        block.extend_from_slice(&vec![b'x'; 127 + 1 + (0x1e << 7)]);
        assert_eq!(decoder.decode(&block).unwrap().len(), 1);
        assert_eq!(decoder.decode(&[0xbe; 4]).unwrap().len(), 4);
        assert_eq!(decoder.decode(&[0xbe; 16_000]), Err(Malformed));
    }
}
