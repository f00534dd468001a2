//! Why a text is not accepted as the URL of an action.

/// The longest URL that is accepted, in bytes.
pub const MAX_URL_LEN: usize = 2048;

/// Why a text is not accepted as the URL of an action. The messages do not show the URL: its query may have a
/// secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// The text exceeds [`MAX_URL_LEN`].
    #[error("the URL is longer than {MAX_URL_LEN} bytes")]
    TooLong,
    /// A space, a control character or a character outside of ASCII.
    #[error(
        "byte {at} of the URL is not a visible ASCII character: percent-encode it, or write the host's \
         A-label"
    )]
    NotVisibleAscii {
        /// Offset of the byte, from 0.
        at: usize,
    },
    /// The scheme is another one, or there is none.
    #[error("the URL does not begin with \"https://\" or \"http://\"")]
    Scheme,
    /// There is a user name or a password before the host.
    #[error("the URL has user information before its host; remove it with its \"@\"")]
    UserInfo,
    /// There is a fragment, which is never sent.
    #[error("the URL has a fragment; remove it with its \"#\"")]
    Fragment,
    /// There is no host.
    #[error("the URL has no host")]
    EmptyHost,
    /// The host is not of a form that has one meaning.
    #[error(
        "the host of the URL is not a DNS name without a final dot, an IPv4 address or an IPv6 address in \
         brackets"
    )]
    Host,
    /// The host ends in a number, and is not an IPv4 address as it is usually written.
    #[error(
        "the host of the URL ends in a number; an IPv4 address has four decimal numbers without leading zeros"
    )]
    Ipv4,
    /// The host is in brackets, and is not an IPv6 address in its canonical form.
    #[error(
        "the host of the URL is not an IPv6 address in the form of RFC 5952, or it is an IPv4 address in one"
    )]
    Ipv6,
    /// There is a colon after the host, without a usable port.
    #[error("the port of the URL is not a number from 1 to 65535 without leading zeros")]
    Port,
    /// RFC 3986 does not allow the character where it is.
    #[error(
        "the URL has the character {character:?}, which has to be percent-encoded in a path and in a query"
    )]
    Character {
        /// The character.
        character: char,
    },
    /// A percent sign does not begin a percent-encoding.
    #[error("the URL has a \"%\" without two hexadecimal digits after it")]
    PercentEncoding,
    /// The path has `%2F` or `%5C`, which some servers decode to separators and others do not.
    #[error("the path of the URL has an encoded slash or backslash, which servers read in different ways")]
    EncodedSeparator,
    /// The path or the query has an encoding of a byte from 0 to 31, or of 127.
    #[error("the URL has an encoded control character")]
    EncodedControl,
    /// The path has a percent sign, encoded, before two hexadecimal digits: a server that decodes twice would
    /// see another path.
    #[error("the path of the URL is percent-encoded twice")]
    EncodedTwice,
    /// The bytes of the path are not UTF-8; they may be an overlong form of a slash or a dot.
    #[error("the path of the URL is not UTF-8")]
    NotUtf8,
    /// A segment of the path is `.` or `..`, encoded or not, with or without parameters after a semicolon.
    #[error("the path of the URL has a segment \".\" or \"..\"; write the path that is meant")]
    DotSegment,
}
