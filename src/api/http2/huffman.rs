//! HPACK's Huffman code (RFC 7541, appendix B).
//!
//! The code is canonical: codes of one length are consecutive in the order of their symbols, and the first code of each
//! length follows the last one of the previous length. So a table of lengths defines the code.

use super::malformed::Malformed;

/// Longest code, in bits.
const MAX_CODE_LEN: usize = 30;
/// The end-of-string symbol. It is never sent; its first bits pad the last byte.
const EOS: u16 = 256;

/// Length in bits of the code of each symbol.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// For each length: the first code, the number of codes, and where their symbols begin in `symbols`.
struct HuffmanCode {
    first: [u32; MAX_CODE_LEN + 1],
    count: [u32; MAX_CODE_LEN + 1],
    start: [u32; MAX_CODE_LEN + 1],
    symbols: [u16; 257],
}

static CODE: HuffmanCode = build_code();

const fn build_code() -> HuffmanCode {
    let mut code = HuffmanCode {
        first: [0; MAX_CODE_LEN + 1],
        count: [0; MAX_CODE_LEN + 1],
        start: [0; MAX_CODE_LEN + 1],
        symbols: [0; 257],
    };
    let (mut next, mut position, mut length) = (0, 0, 1);
    while length <= MAX_CODE_LEN {
        next <<= 1;
        code.first[length] = next;
        code.start[length] = position;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.symbols[position as usize] = symbol as u16;
                position += 1;
                next += 1;
            }
            symbol += 1;
        }
        code.count[length] = position - code.start[length];
        length += 1;
    }
    code
}

/// Decodes a string and appends at most `max_len` bytes to `out`.
pub fn decode(text: &[u8], max_len: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let max_out_len = out.len() + max_len;
    let (mut bits, mut length) = (0u32, 0usize);
    for byte in text {
        for at in (0..8).rev() {
            bits = bits << 1 | u32::from(byte >> at & 1);
            length += 1;
            let offset = bits.wrapping_sub(CODE.first[length]);
            if bits >= CODE.first[length] && offset < CODE.count[length] {
                let symbol = CODE.symbols[(CODE.start[length] + offset) as usize];
                if symbol == EOS || out.len() == max_out_len {
                    return Err(Malformed);
                }
                out.push(symbol as u8);
                (bits, length) = (0, 0);
            } else if length == MAX_CODE_LEN {
                return Err(Malformed);
            }
        }
    }
    // The padding is less than a byte of ones, the beginning of the end-of-string symbol (section 5.2).
    if length < 8 && bits == (1 << length) - 1 { Ok(()) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    fn decoded(hex: &str) -> Result<String, Malformed> {
        let mut out = Vec::new();
        decode(&HEXLOWER.decode(hex.as_bytes()).unwrap(), 1000, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// RFC 7541, appendix C.4 and C.6.
    #[test]
    fn rfc7541_examples() {
        for (hex, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("6402", "302"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("9bd9ab", "gzip"),
            ("", ""),
        ] {
            assert_eq!(decoded(hex).as_deref(), Ok(text));
        }
    }

    #[test]
    fn code_lengths_are_complete() {
        let kraft: u64 =
            LENGTHS.iter().map(|length| 1u64 << (MAX_CODE_LEN as u64 - u64::from(*length))).sum();
        assert_eq!(kraft, 1 << MAX_CODE_LEN);
        assert_eq!(CODE.symbols[256], EOS, "thirty ones");
    }

    #[test]
    fn invalid_padding_and_eos_are_rejected() {
        assert!(decoded("f1e3c2e5f23a6ba0ab90f4fe").is_err(), "padding of other than ones");
        assert!(decoded("a8eb10649cbfff").is_err(), "a whole byte of padding");
        assert!(decoded("ffffffff").is_err(), "the end symbol");
        assert!(decoded("fffffffffffffffffff0").is_err());
        let mut out = Vec::new();
        let text = HEXLOWER.decode(b"f1e3c2e5f23a6ba0ab90f4ff").unwrap();
        assert_eq!(decode(&text, 14, &mut out), Err(Malformed), "more than there is room for");
    }
}
