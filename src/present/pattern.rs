//! The actions that a grant permits.

use std::fmt;

use serde::{Serialize, Serializer};

use super::action::Action;
use super::error::Error;
use super::method::Method;
use crate::verify::proof::{ActionUrl, MAX_URL_LEN};

/// The longest pattern, in bytes: a method, a space and a URL.
const MAX_PATTERN_LEN: usize = 32 + 1 + MAX_URL_LEN + 1;

/// The actions that a grant permits, as it writes them: `POST https://api.example.com/v1/*`.
///
/// The method is exact, or `*` for every one. A URL without a final `*` is that of one path, with or without
/// a query. A final segment `*` stands for everything below the path before it: `/v1/*` is `/v1/` and
/// `/v1/a/b`, and neither `/v1` nor `/v10`. URLs are compared in their normal form ([`ActionUrl`]), so
/// another writing of the same URL is compared as the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionPattern {
    /// `None` for every method.
    method: Option<Method>,
    /// Ends with a slash if `is_below`.
    url: ActionUrl,
    /// Whether the pattern is for everything below `url`.
    is_below: bool,
}

impl ActionPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    ///
    /// [`Error::PatternForm`], [`Error::PatternWildcard`], [`Error::PatternQuery`], [`Error::Method`],
    /// [`Error::Connect`] or [`Error::Url`].
    pub fn parse(text: &str) -> Result<ActionPattern, Error> {
        let (method, url) = text.split_once(' ').ok_or(Error::PatternForm)?;
        if text.len() > MAX_PATTERN_LEN || url.is_empty() || url.starts_with(' ') {
            return Err(Error::PatternForm);
        }
        let method = if method == "*" { None } else { Some(Method::parse(method)?) };
        let (url, is_below) = match url.strip_suffix("/*") {
            Some(parent) => (format!("{parent}/"), true),
            None => (url.to_owned(), false),
        };
        if url.contains('*') {
            return Err(Error::PatternWildcard);
        }
        let url = ActionUrl::parse(&url)?;
        if url.query().is_some() {
            return Err(Error::PatternQuery);
        }
        Ok(ActionPattern { method, url, is_below })
    }

    /// Whether the pattern permits the action. The body of an action is not compared.
    pub fn matches(&self, action: &Action) -> bool {
        let is_method = self.method.as_ref().is_none_or(|method| *method == action.method);
        is_method && self.url.origin() == action.url.origin() && self.matches_path(action.url.path())
    }

    fn matches_path(&self, path: &str) -> bool {
        if self.is_below { path.starts_with(self.url.path()) } else { path == self.url.path() }
    }
}

/// The pattern with its URL in normal form.
impl fmt::Display for ActionPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = self.method.as_ref().map_or("*", Method::as_str);
        let wildcard = if self.is_below { "*" } else { "" };
        write!(f, "{method} {}{wildcard}", self.url.as_str())
    }
}

/// As [`ActionPattern`] displays it.
impl Serialize for ActionPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::proof::UrlError;

    fn matches(pattern: &str, method: &str, url: &str) -> bool {
        ActionPattern::parse(pattern).unwrap().matches(&Action::parse(method, url, None).unwrap())
    }

    #[test]
    fn pattern_without_wildcard_is_one_path() {
        let pattern = "POST https://api.example.com/v1/a";
        for url in [
            "https://api.example.com/v1/a",
            "https://API.example.com:443/v1/%61",
            "https://api.example.com/v1/a?b=c",
            "https://api.example.com/v1/a?",
        ] {
            assert!(matches(pattern, "POST", url), "{url}");
        }
        for url in [
            "https://api.example.com/v1/a/",
            "https://api.example.com/v1/a/b",
            "https://api.example.com/v1/ab",
            "https://api.example.com/v1/A",
            "https://api.example.com//v1/a",
            "https://api.example.com/v1/a;b",
            "http://api.example.com/v1/a",
            "https://api.example.com:8443/v1/a",
            "https://api.example.com.evil.example/v1/a",
        ] {
            assert!(!matches(pattern, "POST", url), "{url}");
        }
        assert!(!matches(pattern, "GET", "https://api.example.com/v1/a"));
        assert!(!matches(pattern, "post", "https://api.example.com/v1/a"));
    }

    #[test]
    fn wildcard_is_everything_below_a_path() {
        let pattern = "* https://api.example.com/v1/*";
        for url in ["/v1/", "/v1/a", "/v1/a/b?c", "/v1//a", "/v1/*"] {
            assert!(matches(pattern, "DELETE", &format!("https://api.example.com{url}")), "{url}");
        }
        for url in ["/v1", "/v10", "/v10/a", "/", "/V1/a", "//v1/a", "/v2/v1/a"] {
            assert!(!matches(pattern, "DELETE", &format!("https://api.example.com{url}")), "{url}");
        }
        assert!(matches("GET https://a/*", "GET", "https://a"));
        assert!(matches("GET https://a/*", "GET", "https://a/b"));
        assert!(!matches("GET https://a/*", "GET", "https://a.example/b"));
        assert!(matches("* https://a", "GET", "https://a/"));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in ["", "GET", "GET ", " https://a/", "GET  https://a/", "https://a/", "GET\thttps://a/"] {
            let error = ActionPattern::parse(text).unwrap_err();
            assert!(matches!(error, Error::PatternForm | Error::Method), "{text}: {error}");
        }
        for url in [
            "https://a/v1*",
            "https://a/*/b",
            "https://*.a/",
            "https://a*",
            "https://a/**",
            "https://a/*/*",
            "*",
        ] {
            assert!(
                matches!(ActionPattern::parse(&format!("GET {url}")), Err(Error::PatternWildcard)),
                "{url}"
            );
        }
        for url in ["https://a/?b", "https://a/?b/*", "https://a?"] {
            assert!(matches!(ActionPattern::parse(&format!("GET {url}")), Err(Error::PatternQuery)), "{url}");
        }
        for (url, error) in [
            ("https://a/../*", UrlError::DotSegment),
            ("https://u@a/*", UrlError::UserInfo),
            ("https://a/#/*", UrlError::Fragment),
            ("/*", UrlError::Scheme),
            ("https:///*", UrlError::EmptyHost),
            ("https://*", UrlError::EmptyHost),
        ] {
            let refused = ActionPattern::parse(&format!("GET {url}"));
            assert!(matches!(refused, Err(Error::Url(actual)) if actual == error), "{url}");
        }
        assert!(matches!(ActionPattern::parse("G@T https://a/"), Err(Error::Method)));
        let long = format!("GET https://a/{}", "b".repeat(MAX_URL_LEN));
        assert!(matches!(ActionPattern::parse(&long), Err(Error::Url(UrlError::TooLong))));
        assert!(matches!(ActionPattern::parse(&format!("{long}{long}")), Err(Error::PatternForm)));
    }

    #[test]
    fn display_is_the_normal_form() {
        for (text, normal) in [
            ("* HTTPS://A:443/%7e/*", "* https://a/~/*"),
            ("GET https://a", "GET https://a/"),
            ("M-SEARCH http://a:8080/b", "M-SEARCH http://a:8080/b"),
        ] {
            let pattern = ActionPattern::parse(text).unwrap();
            assert_eq!(pattern.to_string(), normal);
            assert_eq!(ActionPattern::parse(normal).unwrap(), pattern);
        }
    }
}
