use der::pem::{LineEnding, encode_string};

use super::error::Error;

/// PEM (RFC 7468) of DER bytes, with LF line endings.
///
/// # Errors
///
/// If `label` is not a label of RFC 7468.
pub fn pem(label: &str, der: &[u8]) -> Result<String, Error> {
    Ok(encode_string(label, LineEnding::LF, der)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_64_characters_and_an_end() {
        let line = "Wlpa".repeat(16);
        let text = |body: &str| format!("-----BEGIN X509 CRL-----\n{body}-----END X509 CRL-----\n");
        assert_eq!(pem("X509 CRL", &[0x5A; 97]).unwrap(), text(&format!("{line}\n{line}\nWg==\n")));
        assert_eq!(pem("X509 CRL", &[0x5A; 96]).unwrap(), text(&format!("{line}\n{line}\n")));
    }
}
