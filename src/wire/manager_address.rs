//! The address by which a service manager says what it connects for.
//!
//! systemd.exec(5), `LoadCredential=`: where the source is a Unix socket, the service manager binds its end to
//! the abstract address `@RANDOM/unit/UNIT/CREDENTIAL`, connects, sends nothing, and reads the value until
//! the end of the stream. Any process can bind such an address.

/// Most hexadecimal digits of the random number: it has 64 bits.
const MAX_RANDOM_LEN: usize = 16;
/// Length of the longest unit name that systemd accepts, in bytes (`UNIT_NAME_MAX`).
const MAX_UNIT_LEN: usize = 255;

/// For which unit a service manager loads which credential, as the address of its socket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerAddress {
    /// The unit. In a user's service manager it is a unit of that manager.
    pub unit: String,
    /// The credential: the part before the colon of `LoadCredential=`.
    pub credential: String,
}

/// Why an address is not that of a service manager. The text goes to the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// The socket has no address, or a path.
    #[error(
        "the connection has no abstract address of the form @RANDOM/unit/UNIT/CREDENTIAL; this socket is for \
         LoadCredential= in units, and programs use \"hostbadge credential get\""
    )]
    NotAbstract,
    /// The address has another form.
    #[error("the address of the connection is not @RANDOM/unit/UNIT/CREDENTIAL")]
    Malformed,
}

impl ManagerAddress {
    /// Parses an abstract address (unix(7)) without its leading NUL; `None` where the socket has another
    /// address or none.
    ///
    /// # Errors
    /// [`InvalidAddress`].
    pub fn parse(address: Option<&[u8]>) -> Result<ManagerAddress, InvalidAddress> {
        let address = address.ok_or(InvalidAddress::NotAbstract)?;
        let text = std::str::from_utf8(address).map_err(|_| InvalidAddress::Malformed)?;
        split(text).ok_or(InvalidAddress::Malformed)
    }
}

fn split(text: &str) -> Option<ManagerAddress> {
    let mut parts = text.split('/');
    let (random, word, unit, credential) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_random =
        (1..=MAX_RANDOM_LEN).contains(&random.len()) && random.bytes().all(|b| b.is_ascii_hexdigit());
    let is_name = |name: &str, longest: usize| {
        (1..=longest).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
    };
    let is_address = is_random
        && word == "unit"
        && is_name(unit, MAX_UNIT_LEN)
        && is_name(credential, MAX_UNIT_LEN)
        && parts.next().is_none();
    is_address.then(|| ManagerAddress { unit: unit.to_owned(), credential: credential.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_systemd_names_the_unit_and_the_credential() {
        for random in ["0", "1f", "0123456789abcdef"] {
            let address = format!("{random}/unit/researcher@a\\x2db.service/github-bot");
            let parsed = ManagerAddress::parse(Some(address.as_bytes())).unwrap();
            assert_eq!(parsed.unit, "researcher@a\\x2db.service");
            assert_eq!(parsed.credential, "github-bot");
        }
    }

    #[test]
    fn other_addresses_are_refused() {
        assert_eq!(ManagerAddress::parse(None), Err(InvalidAddress::NotAbstract));
        let long = format!("1/unit/{}/c", "u".repeat(256));
        for address in [
            &b""[..],
            b"1",
            b"1/unit",
            b"1/unit/a.service",
            b"1/unit/a.service/",
            b"1/unit//c",
            b"/unit/a.service/c",
            b"x/unit/a.service/c",
            b"0123456789abcdef0/unit/a.service/c",
            b"1/user/a.service/c",
            b"1/unit/a.service/c/d",
            b"1/unit/a.service/../c",
            b"1/unit/a.service/c\0",
            b"1/unit/a.service\0/c",
            b"1/unit/a service/c",
            b"1/unit/a.service/\xff",
            b"\x001/unit/a.service/c",
            "1/unit/\u{e4}.service/c".as_bytes(),
            long.as_bytes(),
        ] {
            let parsed = ManagerAddress::parse(Some(address));
            assert_eq!(parsed, Err(InvalidAddress::Malformed), "{}", String::from_utf8_lossy(address));
        }
    }
}
