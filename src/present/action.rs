//! One HTTP request, which a proof is for.

use super::digest::BodyDigest;
use super::error::Error;
use super::method::Method;
use crate::verify::proof::ActionUrl;

/// One HTTP request, as the policy decides on it: its method, its URL in normal form and the digest of its
/// body. `Debug` does not show the query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    /// The method.
    pub method: Method,
    /// The URL.
    pub url: ActionUrl,
    /// The digest of the content; `None` for a request without content.
    pub body: Option<BodyDigest>,
}

impl Action {
    /// Parses the parts of an action. The digest may be in hexadecimal or base64.
    ///
    /// # Errors
    ///
    /// [`Error::Method`], [`Error::Connect`], [`Error::Url`], [`Error::BodyDigestLength`] or
    /// [`Error::BodyDigestEncoding`].
    pub fn parse(method: &str, url: &str, body_digest: Option<&str>) -> Result<Action, Error> {
        Ok(Action {
            method: Method::parse(method)?,
            url: ActionUrl::parse(url)?,
            body: body_digest.map(BodyDigest::parse).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn action_has_the_normal_form_of_its_url() {
        let action = Action::parse("POST", "HTTPS://A/%7e?key=secret", Some(&"0".repeat(64))).unwrap();
        assert_eq!(action.url.as_str(), "https://a/~?key=secret");
        assert_eq!(action.body, Some(BodyDigest::from_bytes([0; 32])));
        assert!(!format!("{action:?}").contains("secret"));
        assert!(matches!(Action::parse("PO ST", "https://a/", None), Err(Error::Method)));
        assert!(matches!(Action::parse("GET", "https://a/..", None), Err(Error::Url(_))));
        assert!(matches!(
            Action::parse("GET", "https://a/", Some("")),
            Err(Error::BodyDigestLength { len: 0 })
        ));
    }
}
