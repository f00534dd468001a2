//! Private keys in PEM (RFC 7468, RFC 4716, RFC 4880).

const BEGIN: &[u8] = b"-----BEGIN ";
const DASHES: &[u8] = b"-----";
/// The longest label, such as `OPENSSH PRIVATE KEY`.
const MAX_LABEL_LEN: usize = 64;
/// The longest text between the first line and the key: line ends, indentation, quotes, headers.
const MAX_GAP: usize = 512;
/// The shortest base64 after the first line. Programs and documents have the first line alone.
const MIN_BASE64_LEN: usize = 30;
/// The longest key that is passed over at once, in bytes.
const MAX_KEY_LEN: usize = 32 * 1024;

/// The end of a private key that begins at `start`.
pub(super) fn private_key_at(text: &[u8], start: usize) -> Option<usize> {
    let label = text[start..].strip_prefix(BEGIN)?;
    let label_len = label.iter().take(MAX_LABEL_LEN).position(|byte| *byte == b'-')?;
    let is_private =
        [&b"PRIVATE KEY"[..], b"PRIVATE KEY BLOCK"].iter().any(|end| label[..label_len].ends_with(end));
    let body = label[label_len..].strip_prefix(DASHES).filter(|_| is_private)?;
    let begin = text.len() - body.len();
    let gap = gap_len(body)?;
    let base64_len = body[gap..].iter().take(MAX_KEY_LEN).take_while(|byte| is_base64(**byte)).count();
    if base64_len < MIN_BASE64_LEN {
        return None;
    }
    let key = &body[gap..];
    let end = key.windows(DASHES.len()).take(MAX_KEY_LEN).position(|window| window == DASHES);
    Some(begin + gap + end.unwrap_or(base64_len))
}

/// The length of what stands between the first line and the base64. Line ends can be written as `\n`, and old keys
/// have headers such as `Proc-Type: 4,ENCRYPTED`.
fn gap_len(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < MAX_GAP.min(body.len()) {
        let rest = &body[at..];
        if rest.starts_with(b"\\n") || rest.starts_with(b"\\r") {
            at += 2;
        } else if matches!(rest[0], b' ' | b'\t' | b'\r' | b'\n' | b'"' | b'\'' | b'+' | b'\\' | b',') {
            at += 1;
        } else if let Some(header_len) = header_len(rest) {
            at += header_len;
        } else {
            return Some(at);
        }
    }
    None
}

/// The length of a line `Name: value`.
fn header_len(text: &[u8]) -> Option<usize> {
    let line_len = text.iter().take(MAX_GAP).position(|byte| *byte == b'\n' || *byte == b'\\')?;
    text[..line_len].windows(2).any(|pair| pair == b": ").then_some(line_len)
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}
