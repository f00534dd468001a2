//! Bounds and characters of the texts that become part of a proof. A text without line breaks, quotation
//! marks and backslashes cannot leave its place in what is signed.

use super::error::Error;

/// The longest token that a proof can be for, in bytes, as in [`crate::verify`].
const MAX_TOKEN_LEN: usize = 16 * 1024;
/// The longest nonce or challenge of a server, in bytes.
const MAX_NONCE_LEN: usize = 512;
const MAX_CONTENT_TYPE_LEN: usize = 256;

/// Checks the text of a token: 1 to 16,384 bytes of visible ASCII, as every form of token is.
///
/// # Errors
///
/// [`Error::Value`], with `name` and its article.
pub fn check_token(name: &'static str, token: &str) -> Result<(), Error> {
    check(name, token, MAX_TOKEN_LEN, "visible ASCII characters", |byte| byte.is_ascii_graphic())
}

/// Checks a nonce or challenge: 1 to 512 bytes of visible ASCII without quotation marks and backslashes (RFC 9449
/// section 8.1).
///
/// # Errors
///
/// [`Error::Value`], with `name` and its article.
pub fn check_nonce(name: &'static str, nonce: &str) -> Result<(), Error> {
    let allowed = "visible ASCII characters without quotation marks and backslashes";
    check(name, nonce, MAX_NONCE_LEN, allowed, |byte| {
        byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')
    })
}

/// Checks the value of `Content-Type`: 1 to 256 bytes of visible ASCII, and spaces between them.
///
/// # Errors
///
/// [`Error::Value`].
pub fn check_content_type(value: &str) -> Result<(), Error> {
    check_field("the field Content-Type", value, MAX_CONTENT_TYPE_LEN)
}

/// Checks the value of a header field: visible ASCII and spaces, which are not at its ends (RFC 9110 section
/// 5.5).
pub(super) fn check_field(name: &'static str, value: &str, max: usize) -> Result<(), Error> {
    let allowed = "visible ASCII characters, and spaces between them";
    check(name, value, max, allowed, |byte| byte.is_ascii_graphic() || byte == b' ')?;
    if value.starts_with(' ') || value.ends_with(' ') {
        return Err(Error::Value { name, max, allowed });
    }
    Ok(())
}

/// Checks that a text has 1 to `max` bytes, all of which are allowed.
pub(super) fn check(
    name: &'static str,
    text: &str,
    max: usize,
    allowed: &'static str,
    is_allowed: impl Fn(u8) -> bool,
) -> Result<(), Error> {
    if text.is_empty() || text.len() > max || !text.bytes().all(is_allowed) {
        return Err(Error::Value { name, max, allowed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_leave_their_place() {
        for text in ["", "a b", "a\nb", "a\r", "a\t", "a\0", "\u{e9}", "a\u{7f}"] {
            assert!(check_token("the token", text).is_err(), "{text:?}");
            assert!(check_nonce("the nonce", text).is_err(), "{text:?}");
        }
        for text in ["", " a", "a ", "a\nb", "a\r", "a\tb", "a\0", "\u{e9}"] {
            assert!(check_field("the field", text, 10).is_err(), "{text:?}");
        }
        assert!(check_nonce("the nonce", "a\"b").is_err());
        assert!(check_nonce("the nonce", "a\\b").is_err());
        check_field("the field", "text/html; q=\"1\"", 100).unwrap();
        check_token("the token", &"a".repeat(16 * 1024)).unwrap();
        assert!(check_token("the token", &"a".repeat(16 * 1024 + 1)).is_err());
        assert!(check_nonce("the nonce", &"a".repeat(513)).is_err());
    }

    #[test]
    fn messages_do_not_show_the_value() {
        let error = check_token("the access token", "secret token").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the access token has to be 1 to 16384 bytes of visible ASCII characters"
        );
    }
}
