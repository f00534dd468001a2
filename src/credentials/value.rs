//! The value of a credential.

use std::fmt;

use zeroize::Zeroizing;

/// Longest value in bytes.
pub const MAX_VALUE_LEN: usize = 64 * 1024;

/// The value of a credential: 1 byte to 64 KiB of UTF-8 without NUL. It is wiped when it is dropped, and has
/// no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<String>);

/// Why a text is not a value. The text is not part of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// No byte.
    #[error("the value is empty")]
    Empty,
    /// More than [`MAX_VALUE_LEN`] bytes.
    #[error("the value has {0} bytes, and may have {MAX_VALUE_LEN} at most")]
    TooLong(usize),
    /// A NUL, which neither a header nor an environment variable can contain.
    #[error("the value contains a NUL; encode binary values, for example in base64")]
    Nul,
    /// Not UTF-8.
    #[error("the value is not UTF-8; encode binary values, for example in base64")]
    NotUtf8,
}

impl SecretValue {
    /// Checks a value.
    ///
    /// # Errors
    /// [`InvalidValue`].
    pub fn new(text: Zeroizing<String>) -> Result<SecretValue, InvalidValue> {
        match text.len() {
            0 => Err(InvalidValue::Empty),
            1..=MAX_VALUE_LEN if text.contains('\0') => Err(InvalidValue::Nul),
            1..=MAX_VALUE_LEN => Ok(SecretValue(text)),
            length => Err(InvalidValue::TooLong(length)),
        }
    }

    /// As [`SecretValue::new`], for bytes.
    ///
    /// # Errors
    /// [`InvalidValue`].
    pub fn from_bytes(mut bytes: Zeroizing<Vec<u8>>) -> Result<SecretValue, InvalidValue> {
        match String::from_utf8(std::mem::take(&mut *bytes)) {
            Ok(text) => SecretValue::new(Zeroizing::new(text)),
            Err(error) => {
                drop(Zeroizing::new(error.into_bytes()));
                Err(InvalidValue::NotUtf8)
            }
        }
    }

    /// The value itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretValue({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<SecretValue, InvalidValue> {
        SecretValue::new(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn values_have_1_to_65536_bytes_of_utf8_without_nul() {
        assert!(value("x").is_ok() && value(&"x".repeat(65_536)).is_ok() && value("ключ\n").is_ok());
        assert_eq!(value(""), Err(InvalidValue::Empty));
        assert_eq!(value(&"x".repeat(65_537)), Err(InvalidValue::TooLong(65_537)));
        assert_eq!(value("a\0b"), Err(InvalidValue::Nul));
        assert_eq!(SecretValue::from_bytes(Zeroizing::new(vec![0xff])), Err(InvalidValue::NotUtf8));
    }

    #[test]
    fn debug_does_not_show_the_value() {
        assert_eq!(format!("{:?}", value("secret").unwrap()), "SecretValue(6 bytes)");
    }
}
