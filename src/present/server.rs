//! Names of servers, which are the audience of assertions.

use super::error::Error;
use crate::verify::proof::ActionUrl;

/// The issuer identifier of an authorization server (RFC 8414 section 2), or the resource identifier of a
/// resource server (RFC 9728 section 1.2).
///
/// Servers compare it as a text, so it is kept as it was given, and only checked to be a URL without a query
/// and a fragment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerIdentifier(String);

impl ServerIdentifier {
    /// Parses an identifier of at most 2048 bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Url`] or [`Error::ServerQuery`].
    pub fn parse(text: &str) -> Result<ServerIdentifier, Error> {
        if ActionUrl::parse(text)?.query().is_some() {
            return Err(Error::ServerQuery);
        }
        Ok(ServerIdentifier(text.to_owned()))
    }

    /// The identifier as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifier_stays_as_it_was_given() {
        for text in ["https://as.example.com", "https://as.example.com/", "https://AS.example.com:443/a"] {
            assert_eq!(ServerIdentifier::parse(text).unwrap().as_str(), text);
        }
        assert!(matches!(ServerIdentifier::parse("https://a/?b"), Err(Error::ServerQuery)));
        assert!(matches!(ServerIdentifier::parse("https://a/#b"), Err(Error::Url(_))));
        assert!(matches!(ServerIdentifier::parse("as.example.com"), Err(Error::Url(_))));
    }
}
