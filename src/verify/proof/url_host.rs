//! The host and the port of a URL (RFC 3986 sections 3.2.2 and 3.2.3), in the forms that have one meaning.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::url_error::UrlError;

/// The longest DNS name in text, in bytes (RFC 1035 section 2.3.4).
const MAX_DNS_NAME_LEN: usize = 253;
const MAX_DNS_LABEL_LEN: usize = 63;

/// The authority of a URL, in normal form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Authority {
    /// The host in lower case; an IPv6 address has its brackets.
    pub(super) host: String,
    /// The port, if it is not the scheme's own.
    pub(super) port: Option<u16>,
}

impl Authority {
    /// Parses what stands between the two slashes after the scheme and the path.
    ///
    /// # Errors
    ///
    /// [`UrlError::UserInfo`], [`UrlError::EmptyHost`], [`UrlError::Host`], [`UrlError::Ipv4`],
    /// [`UrlError::Ipv6`] or [`UrlError::Port`].
    pub(super) fn parse(text: &str, default_port: u16) -> Result<Authority, UrlError> {
        if text.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (host, port) = split_port(text)?;
        let host = host.to_ascii_lowercase();
        check_host(&host)?;
        let port = port.map(parse_port).transpose()?.filter(|port| *port != default_port);
        Ok(Authority { host, port })
    }
}

/// Splits at the colon of the port; one inside the brackets of an IPv6 address is another.
fn split_port(text: &str) -> Result<(&str, Option<&str>), UrlError> {
    if !text.starts_with('[') {
        return Ok(text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))));
    }
    let end = text.find(']').ok_or(UrlError::Ipv6)? + 1;
    let (host, rest) = text.split_at(end);
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(UrlError::Host),
    }
}

fn check_host(host: &str) -> Result<(), UrlError> {
    if host.is_empty() {
        return Err(UrlError::EmptyHost);
    }
    if let Some(address) = host.strip_prefix('[') {
        return check_ipv6(address.strip_suffix(']').ok_or(UrlError::Ipv6)?);
    }
    if ends_in_number(host) {
        return host.parse::<Ipv4Addr>().map(drop).map_err(|_| UrlError::Ipv4);
    }
    if is_dns_name(host) { Ok(()) } else { Err(UrlError::Host) }
}

/// The text has to be what RFC 5952 prescribes for the address. An IPv4-mapped address is an IPv4 address in
/// another form.
fn check_ipv6(text: &str) -> Result<(), UrlError> {
    let address: Ipv6Addr = text.parse().map_err(|_| UrlError::Ipv6)?;
    if address.to_ipv4_mapped().is_some() || address.to_string() != text {
        return Err(UrlError::Ipv6);
    }
    Ok(())
}

/// Whether clients may read the host as an IPv4 address: its last label is a decimal or hexadecimal number.
fn ends_in_number(host: &str) -> bool {
    let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
    let is_hexadecimal =
        last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    is_hexadecimal || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A name of LDH labels (RFC 5890 section 2.3.1) in lower case, without the final dot. A-labels are among
/// them.
fn is_dns_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_DNS_LABEL_LEN).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= MAX_DNS_NAME_LEN && host.split('.').all(is_label)
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if !is_decimal {
        return Err(UrlError::Port);
    }
    text.parse().map_err(|_| UrlError::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Result<String, UrlError> {
        Authority::parse(text, 443).map(|authority| authority.host)
    }

    #[test]
    fn hosts_with_one_meaning_are_accepted() {
        for text in [
            "a",
            "localhost",
            "api.example.com",
            "xn--bcher-kva.example",
            "a-b.c9",
            "9a.example",
            "127.0.0.1",
            "255.255.255.255",
            "[::1]",
            "[2001:db8::1]",
            "[fe80::1:2]",
            "0x.example",
        ] {
            assert_eq!(host(text).as_deref(), Ok(text));
            assert_eq!(host(&text.to_ascii_uppercase()).as_deref(), Ok(text));
        }
        assert!(host(&format!("{}.a", "b".repeat(63))).is_ok());
    }

    #[test]
    fn other_hosts_are_refused() {
        for text in
            ["a.", "a..b", ".a", "a_b", "-a.b", "a-.b", "a%41", "b\u{fc}cher.example", "a*", "*.a.example"]
        {
            assert_eq!(host(text), Err(UrlError::Host), "{text}");
        }
        assert_eq!(host(&format!("{}.a", "b".repeat(64))), Err(UrlError::Host));
        assert_eq!(host(&"a.".repeat(127)), Err(UrlError::Host));
        assert_eq!(host(""), Err(UrlError::EmptyHost));
        assert_eq!(host(":80"), Err(UrlError::EmptyHost));
        for text in ["a@b", "@a", "a:b@c", "a@", "a\\@b"] {
            assert_eq!(host(text), Err(UrlError::UserInfo), "{text}");
        }
    }

    #[test]
    fn other_forms_of_addresses_are_refused() {
        for text in [
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.0x1",
            "0177.0.0.1",
            "127.0.0.01",
            "1.2.3.4.5",
            "256.1.1.1",
            "127.0.0.1.",
            "a.1",
            "0x",
            "1.2.3.0x",
        ] {
            assert_eq!(host(text), Err(UrlError::Ipv4), "{text}");
        }
        for text in [
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:0:0:1]",
            "[::0001]",
            "[::127.0.0.1]",
            "[fe80::1%25eth0]",
            "[::1",
            "[]",
            "[v1.a]",
            "[127.0.0.1]",
            "[2001:db8:0:0:1::1]",
        ] {
            assert_eq!(host(text), Err(UrlError::Ipv6), "{text}");
        }
        assert_eq!(host("[::1]a"), Err(UrlError::Host));
        assert_eq!(host("::1"), Err(UrlError::EmptyHost));
    }

    #[test]
    fn ports_are_numbers_and_the_default_is_removed() {
        for (text, port) in [("a", None), ("a:443", None), ("a:80", Some(80)), ("[::1]:65535", Some(65535))] {
            assert_eq!(Authority::parse(text, 443).unwrap().port, port, "{text}");
        }
        for text in
            ["a:", "a:0", "a:65536", "a:080", "a:+80", "a:-1", "a:8 0", "a:80:80", "[::1]:", "a:99999999999"]
        {
            assert_eq!(Authority::parse(text, 443), Err(UrlError::Port), "{text}");
        }
    }
}
