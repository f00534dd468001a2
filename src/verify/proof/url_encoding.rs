//! Path and query of a URL: allowed characters and percent-encodings (RFC 3986 sections 2, 3.3 and 3.4).

use super::url_error::UrlError;

const HEX_DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// Appends the normal form of a path, which is empty or begins with a slash.
///
/// # Errors
///
/// Those of [`UrlError`] about characters, encodings and segments.
pub(super) fn push_path(path: &str, normal: &mut String) -> Result<(), UrlError> {
    let start = normal.len();
    if path.is_empty() {
        normal.push('/');
    }
    push_normal(path, |byte| byte == b'/' || is_pchar(byte), is_separator, normal)?;
    check_path(&normal[start..])
}

/// Appends the normal form of a query, without the question mark before it. It may have encoded slashes,
/// which separate nothing there.
///
/// # Errors
///
/// Those of [`UrlError`] about characters and encodings.
pub(super) fn push_query(query: &str, normal: &mut String) -> Result<(), UrlError> {
    push_normal(query, |byte| matches!(byte, b'/' | b'?') || is_pchar(byte), |_| false, normal)
}

/// The bytes that a path or a query in normal form stands for. A percent sign without two hexadecimal digits,
/// which no normal form has, stays as it is.
pub(crate) fn percent_decoded(normal: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(normal.len());
    let mut rest = normal.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, after) = match (first, decode_pair(tail)) {
            (b'%', Some((byte, after))) => (byte, after),
            _ => (first, tail),
        };
        decoded.push(byte);
        rest = after;
    }
    decoded
}

/// Copies allowed characters, decodes the encodings of unreserved ones and writes the others in upper case
/// (RFC 3986 sections 6.2.2.1 and 6.2.2.2).
fn push_normal(
    part: &str,
    is_allowed: impl Fn(u8) -> bool,
    is_separator: impl Fn(u8) -> bool,
    normal: &mut String,
) -> Result<(), UrlError> {
    let mut rest = part.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            if !is_allowed(first) {
                return Err(UrlError::Character { character: char::from(first) });
            }
            normal.push(char::from(first));
            rest = tail;
            continue;
        }
        let (byte, after) = decode_pair(tail).ok_or(UrlError::PercentEncoding)?;
        if byte.is_ascii_control() {
            return Err(UrlError::EncodedControl);
        }
        if is_separator(byte) {
            return Err(UrlError::EncodedSeparator);
        }
        if is_unreserved(byte) {
            normal.push(char::from(byte));
        } else {
            push_percent_encoded(byte, normal);
        }
        rest = after;
    }
    Ok(())
}

/// Checks a path in normal form. The order matters: an encoding that is made of encodings (`%25%34%31`) is
/// visible only here.
fn check_path(path: &str) -> Result<(), UrlError> {
    if path.split("%25").skip(1).any(|after| decode_pair(after.as_bytes()).is_some()) {
        return Err(UrlError::EncodedTwice);
    }
    let decoded = percent_decoded(path);
    let decoded = std::str::from_utf8(&decoded).map_err(|_| UrlError::NotUtf8)?;
    // Some servers remove the parameters of a segment, after a semicolon, before they resolve dot segments.
    let is_dot = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if decoded.split('/').any(is_dot) {
        return Err(UrlError::DotSegment);
    }
    Ok(())
}

/// Appends `%XX`.
pub(crate) fn push_percent_encoded(byte: u8, text: &mut String) {
    text.push('%');
    for digit in [byte >> 4, byte & 15] {
        text.push(char::from(HEX_DIGITS[usize::from(digit)]));
    }
}

/// The byte of two hexadecimal digits, and what follows them.
fn decode_pair(text: &[u8]) -> Option<(u8, &[u8])> {
    let (&[high, low], after) = text.split_first_chunk::<2>()?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(high)? * 16 + digit(low)?, after))
}

/// RFC 3986 section 2.3.
pub(crate) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` of RFC 3986 section 3.3, without percent-encodings.
fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

/// What separates segments, on some servers.
fn is_separator(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Result<String, UrlError> {
        let mut normal = String::new();
        push_path(text, &mut normal)?;
        Ok(normal)
    }

    fn query(text: &str) -> Result<String, UrlError> {
        let mut normal = String::new();
        push_query(text, &mut normal)?;
        Ok(normal)
    }

    #[test]
    fn encodings_have_one_form() {
        assert_eq!(path("").unwrap(), "/");
        assert_eq!(path("/%7euser/%41%2d%c3%a9%3a").unwrap(), "/~user/A-%C3%A9%3A");
        assert_eq!(path("/a:b@c!$&'()*+,;=~").unwrap(), "/a:b@c!$&'()*+,;=~");
        assert_eq!(path("//a//").unwrap(), "//a//");
        assert_eq!(query("u=https%3a%2f%2fx&%41=/?").unwrap(), "u=https%3A%2F%2Fx&A=/?");
    }

    #[test]
    fn dot_segments_are_refused_in_every_form() {
        for text in [
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/%2e%2e/b",
            "/.%2E",
            "/a/%2e",
            "/..;/b",
            "/..;x=1/b",
            "/..%3Bx/b",
            "/.;",
        ] {
            assert_eq!(path(text), Err(UrlError::DotSegment), "{text}");
        }
        for text in ["/...", "/.well-known", "/a..b", "/a/..b", "/;..", "/a.;"] {
            assert_eq!(path(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn hidden_separators_are_refused() {
        for text in ["/a%2Fb", "/a%2fb", "/a%5Cb", "/a%5cb"] {
            assert_eq!(path(text), Err(UrlError::EncodedSeparator), "{text}");
        }
        for text in ["/%252e%252e/a", "/a%252Fb", "/%25%32%65", "/%2541", "/%25%34%31"] {
            assert_eq!(path(text), Err(UrlError::EncodedTwice), "{text}");
        }
        assert_eq!(path("/100%25").unwrap(), "/100%25");
        for text in ["/%C0%AF", "/%C0%AE%C0%AE/", "/%E9", "/%FF"] {
            assert_eq!(path(text), Err(UrlError::NotUtf8), "{text}");
        }
    }

    #[test]
    fn control_characters_and_wrong_encodings_are_refused() {
        for text in ["/%00", "/%0d%0aX:1", "/%1F", "/%7f", "/a%09"] {
            assert_eq!(path(text), Err(UrlError::EncodedControl), "{text}");
            assert_eq!(query(text), Err(UrlError::EncodedControl), "{text}");
        }
        for text in ["/%", "/%4", "/%zz", "/%+1", "/%u0041"] {
            assert_eq!(path(text), Err(UrlError::PercentEncoding), "{text}");
            assert_eq!(query(text), Err(UrlError::PercentEncoding), "{text}");
        }
        for character in "\\\"<>[]^`{|} ".chars() {
            let text = format!("/a{character}b");
            assert_eq!(path(&text), Err(UrlError::Character { character }));
            assert_eq!(query(&text), Err(UrlError::Character { character }));
        }
    }

    #[test]
    fn a_normal_form_is_decoded() {
        assert_eq!(percent_decoded("/a%C3%A9%25"), "/aé%".as_bytes());
        assert_eq!(percent_decoded("%"), b"%");
    }
}
