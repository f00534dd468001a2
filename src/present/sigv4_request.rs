//! The canonical form of a request in AWS Signature Version 4.

use data_encoding::HEXLOWER;

use super::action::Action;
use super::digest::BodyDigest;
use super::error::Error;
use crate::digest::sha256;
use crate::verify::proof::{is_unreserved, percent_decoded, push_percent_encoded};

/// The canonical form of a request, and the headers that it covers.
pub(super) struct CanonicalRequest {
    /// The names of the covered headers, with semicolons between them.
    pub(super) signed_headers: String,
    text: String,
}

impl CanonicalRequest {
    /// `headers` are those that are signed: their names in lower case and in alphabetical order, and their
    /// values without spaces at the ends. S3 has a form of the path of its own.
    ///
    /// # Errors
    ///
    /// [`Error::PlusInQuery`].
    pub(super) fn new(
        action: &Action,
        headers: &[(&str, &str)],
        is_s3: bool,
    ) -> Result<CanonicalRequest, Error> {
        let path = action.url.path();
        let path = if is_s3 { s3_path(path) } else { merged_path(path) };
        let query = canonical_query(action.url.query().unwrap_or_default())?;
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", merge_spaces(value))).collect();
        let signed_headers = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let payload = payload_digest(action).to_hex();
        let method = action.method.as_str();
        let text = format!("{method}\n{path}\n{query}\n{lines}\n{signed_headers}\n{payload}");
        Ok(CanonicalRequest { signed_headers, text })
    }

    /// What is signed: the time, the scope and the digest of the request.
    pub(super) fn string_to_sign(&self, time: &str, scope: &str) -> String {
        format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", HEXLOWER.encode(&sha256(self.text.as_bytes())))
    }
}

/// The digest of the body; that of nothing for a request without one.
pub(super) fn payload_digest(action: &Action) -> BodyDigest {
    action.body.unwrap_or_else(|| BodyDigest::of(b""))
}

/// The path for services other than S3: several slashes are one, and the path is encoded again as it is sent.
fn merged_path(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    encode(format!("/{}{end}", segments.join("/")).as_bytes(), true)
}

/// The path for S3, whose keys may have empty segments: every character is encoded once.
fn s3_path(path: &str) -> String {
    encode(&percent_decoded(path), true)
}

/// The parameters, encoded once and sorted by name and value.
fn canonical_query(query: &str) -> Result<String, Error> {
    if query.contains('+') {
        return Err(Error::PlusInQuery);
    }
    let mut parameters: Vec<(String, String)> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (encode(&percent_decoded(name), false), encode(&percent_decoded(value), false))
        })
        .collect();
    parameters.sort();
    let parameters: Vec<String> =
        parameters.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(parameters.join("&"))
}

/// Percent-encodes all but unreserved characters (RFC 3986 section 2.3), and in a path but slashes.
fn encode(bytes: &[u8], is_path: bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if is_unreserved(byte) || (is_path && byte == b'/') {
            text.push(char::from(byte));
        } else {
            push_percent_encoded(byte, &mut text);
        }
    }
    text
}

/// A value with single spaces between its words.
fn merge_spaces(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn request_has_the_published_form() {
        let action =
            Action::parse("GET", "https://example.amazonaws.com/?Param2=value2&Param1=value1", None).unwrap();
        let headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
        let request = CanonicalRequest::new(&action, &headers, false).unwrap();
        assert_eq!(request.signed_headers, "host;x-amz-date");
        assert_eq!(
            request.text,
            format!(
                "GET\n/\nParam1=value1&Param2=value2\nhost:example.amazonaws.com\n\
                 x-amz-date:20150830T123600Z\n\nhost;x-amz-date\n{EMPTY}"
            )
        );
        // The digest that the test suite publishes for this request.
        assert_eq!(
            request.string_to_sign("20150830T123600Z", "20150830/us-east-1/service/aws4_request"),
            "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/service/aws4_request\n\
             816cd5b414d056048ba4f7c5386d6e0533120fb1fcfa93762cf0fc39e2cf19e0"
        );
    }

    #[test]
    fn paths_are_encoded_once_for_s3_and_twice_for_others() {
        for (path, other, s3) in [
            ("/", "/", "/"),
            ("/a/b", "/a/b", "/a/b"),
            ("//a//b/", "/a/b/", "//a//b/"),
            ("//", "/", "//"),
            ("/a:b", "/a%3Ab", "/a%3Ab"),
            ("/a%3Ab", "/a%253Ab", "/a%3Ab"),
            ("/%E1%88%B4", "/%25E1%2588%25B4", "/%E1%88%B4"),
            ("/a$(b)", "/a%24%28b%29", "/a%24%28b%29"),
        ] {
            assert_eq!(merged_path(path), other, "{path}");
            assert_eq!(s3_path(path), s3, "{path}");
        }
    }

    #[test]
    fn queries_are_sorted_and_encoded() {
        for (query, canonical) in [
            ("", ""),
            ("lifecycle", "lifecycle="),
            ("b=2&a=1&a=0&A=3", "A=3&a=0&a=1&b=2"),
            ("a=b:c/d?e&f=%2F%20", "a=b%3Ac%2Fd%3Fe&f=%2F%20"),
            ("a=b=c", "a=b%3Dc"),
            ("&a&&b=&", "a=&b="),
            ("%E1%88%B4=bar", "%E1%88%B4=bar"),
        ] {
            assert_eq!(canonical_query(query).unwrap(), canonical);
        }
        assert!(matches!(canonical_query("a=b+c"), Err(Error::PlusInQuery)));
    }

    #[test]
    fn values_have_single_spaces() {
        assert_eq!(merge_spaces("a  b   c"), "a b c");
    }
}
