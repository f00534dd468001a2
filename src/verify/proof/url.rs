//! The URL of one HTTP request, in the one form in which URLs are compared and signed.

use std::fmt;

use super::url_encoding::{push_path, push_query};
use super::url_error::{MAX_URL_LEN, UrlError};
use super::url_host::Authority;

const HTTPS: &str = "https://";
const HTTP: &str = "http://";

/// An absolute URL of the scheme `https` or `http` (RFC 3986 and RFC 9110 section 4.2), in normal form.
///
/// The rule has two parts. What has one meaning is brought into one form: scheme and host are in lower case,
/// the scheme's own port is removed, an empty path is `/`, percent-encodings are in upper case, and those of
/// unreserved characters are decoded, in the path and in the query. What servers, proxies and libraries read
/// in different ways is refused, with a variant of [`UrlError`] for each case. The path is never rewritten
/// beyond that: two slashes stay two, and a query stays in its order.
///
/// Both schemes are accepted. A policy decides where `http` may be used. `Debug` does not show the query,
/// which may have a secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionUrl {
    text: String,
    /// Where the host begins in `text`.
    host_start: usize,
    /// Where the host ends and the port, with its colon, or the path begins.
    host_end: usize,
    /// Where the path begins.
    path_start: usize,
    /// Where the path ends, and the question mark of the query stands if there is one.
    path_end: usize,
}

impl ActionUrl {
    /// Parses a URL of at most 2048 bytes and brings it into its normal form.
    ///
    /// # Errors
    ///
    /// [`UrlError`], which says what is not accepted.
    pub fn parse(text: &str) -> Result<ActionUrl, UrlError> {
        check_characters(text)?;
        let (scheme, default_port, rest) = split_scheme(text)?;
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));

        let authority = Authority::parse(authority, default_port)?;
        let mut normal = String::with_capacity(text.len() + 1);
        normal.push_str(scheme);
        let host_start = normal.len();
        normal.push_str(&authority.host);
        let host_end = normal.len();
        if let Some(port) = authority.port {
            normal.push_str(&format!(":{port}"));
        }
        let path_start = normal.len();
        push_path(path, &mut normal)?;
        let path_end = normal.len();
        if let Some(query) = query {
            normal.push('?');
            push_query(query, &mut normal)?;
        }
        // An empty path has become a slash.
        if normal.len() > MAX_URL_LEN {
            return Err(UrlError::TooLong);
        }
        Ok(ActionUrl { text: normal, host_start, host_end, path_start, path_end })
    }

    /// The whole URL.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the scheme is `https`.
    pub fn is_https(&self) -> bool {
        self.text.starts_with(HTTPS)
    }

    /// Scheme, host and port, without the scheme's own port: `https://api.example.com:8443`.
    pub fn origin(&self) -> &str {
        &self.text[..self.path_start]
    }

    /// Host and port, as in the header `Host`: `api.example.com:8443`.
    pub fn authority(&self) -> &str {
        &self.text[self.host_start..self.path_start]
    }

    /// The host: a name, an IPv4 address, or an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.text[self.host_start..self.host_end]
    }

    /// The path, which begins with a slash.
    pub fn path(&self) -> &str {
        &self.text[self.path_start..self.path_end]
    }

    /// The query without its question mark. That of `https://a/?` is empty, which is not the same as none.
    pub fn query(&self) -> Option<&str> {
        self.text[self.path_end..].strip_prefix('?')
    }

    /// The URL without its query, as in the claims `htu` (RFC 9449 section 4.2) and `aud` of a proof.
    pub fn without_query(&self) -> &str {
        &self.text[..self.path_end]
    }

    /// Path and query, as in the request line (RFC 9112 section 3.2.1).
    pub fn request_target(&self) -> &str {
        &self.text[self.path_start..]
    }
}

impl fmt::Debug for ActionUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let query = if self.query().is_some() { "?(query)" } else { "" };
        write!(f, "ActionUrl({}{query})", self.without_query())
    }
}

/// CR, LF and spaces would end a line of a request or of a signed text.
fn check_characters(text: &str) -> Result<(), UrlError> {
    if text.len() > MAX_URL_LEN {
        return Err(UrlError::TooLong);
    }
    match text.bytes().position(|byte| !byte.is_ascii_graphic()) {
        Some(at) => Err(UrlError::NotVisibleAscii { at }),
        None => Ok(()),
    }
}

/// The scheme with its slashes, its own port, and what follows.
fn split_scheme(text: &str) -> Result<(&'static str, u16, &str), UrlError> {
    for (scheme, port) in [(HTTPS, 443), (HTTP, 80)] {
        // All bytes are ASCII, so each offset is one of a character.
        if let Some((start, rest)) = text.split_at_checked(scheme.len())
            && start.eq_ignore_ascii_case(scheme)
        {
            return Ok((scheme, port, rest));
        }
    }
    Err(UrlError::Scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_the_normal_form() {
        let url = ActionUrl::parse("HTTPS://API.Example.COM:443/v1/%7ea%2D?q=%2f&r=%6a").unwrap();
        assert_eq!(url.as_str(), "https://api.example.com/v1/~a-?q=%2F&r=j");
        assert_eq!(url.origin(), "https://api.example.com");
        assert_eq!((url.authority(), url.host()), ("api.example.com", "api.example.com"));
        assert_eq!((url.path(), url.query()), ("/v1/~a-", Some("q=%2F&r=j")));
        assert_eq!(url.without_query(), "https://api.example.com/v1/~a-");
        assert_eq!(url.request_target(), "/v1/~a-?q=%2F&r=j");
        assert!(url.is_https());

        let url = ActionUrl::parse("http://[::1]:8080").unwrap();
        assert_eq!((url.as_str(), url.origin()), ("http://[::1]:8080/", "http://[::1]:8080"));
        assert_eq!((url.authority(), url.host()), ("[::1]:8080", "[::1]"));
        assert_eq!((url.path(), url.query(), url.request_target()), ("/", None, "/"));
        assert!(!url.is_https());
    }

    #[test]
    fn equal_urls_have_one_form() {
        for (text, normal) in [
            ("https://a", "https://a/"),
            ("https://a?", "https://a/?"),
            ("https://a?b", "https://a/?b"),
            ("http://a:80/", "http://a/"),
            ("http://a:443/", "http://a:443/"),
            ("https://a:80/", "https://a:80/"),
            ("https://a//b", "https://a//b"),
            ("https://a/?b?c/d", "https://a/?b?c/d"),
            ("https://a/@b:c", "https://a/@b:c"),
        ] {
            assert_eq!(ActionUrl::parse(text).unwrap().as_str(), normal);
        }
        assert_ne!(ActionUrl::parse("https://a/").unwrap(), ActionUrl::parse("https://a/?").unwrap());
    }

    #[test]
    fn hostile_urls_are_refused() {
        use UrlError::*;
        for (text, error) in [
            ("", Scheme),
            ("//a/", Scheme),
            ("a/b", Scheme),
            ("ftp://a/", Scheme),
            ("https:/a", Scheme),
            ("https:a", Scheme),
            ("https:\\\\a", Scheme),
            ("javascript:alert(1)", Scheme),
            ("https://", EmptyHost),
            ("https:///a", EmptyHost),
            ("https://?a", EmptyHost),
            ("https://user@a/", UserInfo),
            ("https://user:secret@a/", UserInfo),
            ("https://good.example@evil.example/", UserInfo),
            ("https://good.example\\@evil.example/", UserInfo),
            ("https://a/#b", Fragment),
            ("https://a#@b/", Fragment),
            ("https://a\\b/", Host),
            ("https://a.example./", Host),
            ("https://a%2eexample/", Host),
            ("https://127.1/", Ipv4),
            ("https://[::ffff:169.254.169.254]/", Ipv6),
            ("https://a:0/", Port),
            ("https://a:/", Port),
            ("https://a:65536/", Port),
            ("https://a/b\\c", Character { character: '\\' }),
            ("https://a/../b", DotSegment),
            ("https://a/%2e%2e/b", DotSegment),
            ("https://a/..;/b", DotSegment),
            ("https://a/b%2f..%2fc", EncodedSeparator),
            ("https://a/%252e%252e/b", EncodedTwice),
            ("https://a/%00", EncodedControl),
            ("https://a/?b=%0d%0aX:1", EncodedControl),
            ("https://a/%C0%AE%C0%AE/", NotUtf8),
            ("https://a/%", PercentEncoding),
            ("https://a/?%g0", PercentEncoding),
            ("https://a/ b", NotVisibleAscii { at: 10 }),
            (" https://a/", NotVisibleAscii { at: 0 }),
            ("https://a/\r\nX: 1", NotVisibleAscii { at: 10 }),
            ("https://a/\t", NotVisibleAscii { at: 10 }),
            ("https://a/\0", NotVisibleAscii { at: 10 }),
            ("https://a/\u{7f}", NotVisibleAscii { at: 10 }),
            ("https://b\u{fc}cher.example/", NotVisibleAscii { at: 9 }),
            ("https://a\u{3002}b/", NotVisibleAscii { at: 9 }),
            ("https\u{ff1a}//a/", NotVisibleAscii { at: 5 }),
        ] {
            assert_eq!(ActionUrl::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn length_is_bounded() {
        let longest = format!("https://a/{}", "b".repeat(MAX_URL_LEN - 10));
        assert_eq!(ActionUrl::parse(&longest).unwrap().as_str().len(), MAX_URL_LEN);
        assert_eq!(ActionUrl::parse(&(longest + "b")), Err(UrlError::TooLong));
        let without_path = format!("https://a?{}", "b".repeat(MAX_URL_LEN - 10));
        assert_eq!(ActionUrl::parse(&without_path), Err(UrlError::TooLong), "its normal form is longer");
    }

    #[test]
    fn debug_does_not_show_the_query() {
        let url = ActionUrl::parse("https://a/b?key=secret").unwrap();
        assert_eq!(format!("{url:?}"), "ActionUrl(https://a/b?(query))");
    }

    /// A generator of 64 bits (xorshift), so that the URLs are the same in each run.
    struct Generator(u64);

    impl Generator {
        fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            from[usize::try_from(self.0 % from.len() as u64).unwrap()]
        }

        fn url(&mut self) -> String {
            let mut text = String::new();
            text += self.pick(&["https://", "http://", "HTTPS://", "hTTp://"]);
            text += self.pick(&[
                "a",
                "Api.Example.com",
                "xn--bcher-kva.example",
                "127.0.0.1",
                "[2001:DB8::1]",
                "A9",
            ]);
            text += self.pick(&["", ":80", ":443", ":8443"]);
            for _ in 0..self.0 % 5 {
                text += "/";
                for _ in 0..self.0 % 4 {
                    text += self.pick(&[
                        "a",
                        "Z",
                        "%41",
                        "%7e",
                        "%2d",
                        "%c3%A9",
                        "%25",
                        "%34",
                        "%31",
                        "%2e",
                        ".",
                        ";",
                        ":",
                        "@",
                        "%3b",
                        "%20",
                        "$",
                        "%5f",
                        "~",
                        "%E2%82%aC",
                    ]);
                }
            }
            text += self.pick(&["", "", "?", "?a=%2f&%41=b", "?x=%25%34%31", "?%c0%ff/?", "?a+b=%2B"]);
            text
        }
    }

    #[test]
    fn normal_form_of_500_generated_urls_is_idempotent() {
        let mut generator = Generator(0x9e37_79b9_7f4a_7c15);
        let (mut accepted, mut refused) = (0, 0);
        while accepted < 500 {
            let text = generator.url();
            let Ok(url) = ActionUrl::parse(&text) else {
                refused += 1;
                continue;
            };
            accepted += 1;
            assert_eq!(ActionUrl::parse(url.as_str()).as_ref(), Ok(&url), "{text}");
            let parts =
                [url.origin(), url.path(), &url.query().map_or(String::new(), |query| format!("?{query}"))];
            assert_eq!(parts.concat(), url.as_str());
            assert_eq!([url.origin(), url.request_target()].concat(), url.as_str());
        }
        assert!(refused > 10, "{refused} refused");
    }
}
