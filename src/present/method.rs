//! The method of an action.

use std::fmt;

use super::error::Error;
use super::values::check;

const MAX_METHOD_LEN: usize = 32;

/// A method of HTTP (RFC 9110 section 9.1). Upper and lower case differ, as they do for servers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(String);

impl Method {
    /// Parses a method of 1 to 32 bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Method`] if it is not a token (RFC 9110 section 5.6.2); [`Error::Connect`].
    pub fn parse(text: &str) -> Result<Method, Error> {
        let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        check("the method", text, MAX_METHOD_LEN, "a token", is_tchar).map_err(|_| Error::Method)?;
        if text == "CONNECT" {
            return Err(Error::Connect);
        }
        Ok(Method(text.to_owned()))
    }

    /// The method as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_tokens() {
        for text in ["GET", "get", "PATCH", "M-SEARCH", "VERSION-CONTROL", "!#$%&'*+-.^_`|~"] {
            assert_eq!(Method::parse(text).unwrap().as_str(), text);
        }
        for text in
            ["", " ", "GET ", " GET", "GET\r\n", "GE\nT", "G\0", "G/T", "G:T", "G\u{c9}T", "(GET)", "\"GET\""]
        {
            assert!(matches!(Method::parse(text), Err(Error::Method)), "{text:?}");
        }
        assert!(Method::parse(&"A".repeat(32)).is_ok());
        assert!(matches!(Method::parse(&"A".repeat(33)), Err(Error::Method)));
        assert!(matches!(Method::parse("CONNECT"), Err(Error::Connect)));
    }
}
