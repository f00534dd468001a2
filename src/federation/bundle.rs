//! Reads and parses SPIFFE bundle documents (SPIFFE Trust Domain and Bundle, section 4).

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::config::{Diagnostic, SourceFile, list_files};
use crate::json;
use crate::verify::{JwtAuthorities, is_trust_domain, parse_certificate};

/// Trust domains beside the host's own.
const MAX_TRUST_DOMAINS: usize = 256;
/// X.509 roots of one trust domain.
const MAX_X509_AUTHORITIES: usize = 128;

/// The bundle of one other trust domain.
#[derive(Clone, Debug)]
pub struct FederatedBundle {
    /// The keys that verify its JWT-SVIDs.
    pub jwt_authorities: JwtAuthorities,
    /// The same as a JWK set (JSON), for the Workload API; `None` if there are no such keys.
    pub jwt_jwks: Option<Bytes>,
    /// The JWK set (JSON) of the keys that verify its WIT-SVIDs; `None` if there are no such keys.
    pub wit_jwks: Option<Bytes>,
    /// The root certificates of its X509-SVIDs: concatenated DER.
    pub x509_authorities: Bytes,
    /// `spiffe_sequence`, if the document has one.
    pub sequence: Option<u64>,
}

/// Bundles by the name of the trust domain.
pub type FederatedBundles = BTreeMap<String, FederatedBundle>;

/// Reads `DOMAIN.json` for each trust domain in `dir`. A missing directory is empty. Blocking.
///
/// # Errors
///
/// The faults of all files, if there is any.
pub fn read_bundles(dir: &Path) -> Result<FederatedBundles, Vec<Diagnostic>> {
    let mut diagnostics = Vec::new();
    let mut bundles = FederatedBundles::new();
    let paths =
        list_files(dir, "json", MAX_TRUST_DOMAINS, "paths.federation").map_err(|fault| vec![fault])?;
    for path in paths.unwrap_or_default() {
        let diagnostic = |message: String| Diagnostic { file: path.clone(), line: None, message };
        let domain = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if !is_trust_domain(&domain) {
            let message = "must be named after its trust domain, like example.org.json: a-z 0-9 . - _";
            diagnostics.push(diagnostic(message.into()));
            continue;
        }
        match SourceFile::read(&path).and_then(|source| parse_bundle(source.text()).map_err(diagnostic)) {
            Ok(bundle) => {
                bundles.insert(domain, bundle);
            }
            Err(fault) => diagnostics.push(fault),
        }
    }
    if diagnostics.is_empty() { Ok(bundles) } else { Err(diagnostics) }
}

/// Parses one document. The error is the message for administrators.
fn parse_bundle(text: &str) -> Result<FederatedBundle, String> {
    let invalid =
        |e: String| format!("is not a SPIFFE bundle document ({e}); fetch it from its trust domain again");
    let document: Value = json::from_object(text.as_bytes()).map_err(|e| invalid(e.to_string()))?;
    let jwt_authorities = JwtAuthorities::parse(text.as_bytes()).map_err(|e| invalid(e.to_string()))?;
    let sequence = match &document["spiffe_sequence"] {
        Value::Null => None,
        number => Some(number.as_u64().ok_or_else(|| invalid("spiffe_sequence is not a number".into()))?),
    };
    let keys_array = document["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let keys_with_use = |usage: &'static str| keys_array.iter().filter(move |key| key["use"] == usage);
    let jwk_set = |usage| {
        let keys: Vec<&Value> = keys_with_use(usage).collect();
        (!keys.is_empty()).then(|| json!({ "keys": keys }).to_string().into())
    };
    let mut x509_authorities = Vec::new();
    for (number, key) in keys_with_use("x509-svid").enumerate() {
        if number >= MAX_X509_AUTHORITIES {
            return Err(invalid(format!("it has more than {MAX_X509_AUTHORITIES} x509-svid keys")));
        }
        let certificate = match key["x5c"].as_array().map(Vec::as_slice) {
            Some([only]) => only.as_str().and_then(|text| BASE64.decode(text.as_bytes()).ok()),
            _ => None,
        };
        let rule = "an x509-svid key has exactly one certificate in \"x5c\", in base64";
        let certificate = certificate.ok_or_else(|| invalid(rule.into()))?;
        // Clients parse a Workload API message as a whole: a malformed root would cost every agent its own
        // certificate.
        parse_certificate(&certificate).map_err(|e| invalid(format!("\"x5c\" of an x509-svid key: {e}")))?;
        x509_authorities.extend(certificate);
    }
    Ok(FederatedBundle {
        jwt_authorities,
        jwt_jwks: jwk_set("jwt-svid"),
        wit_jwks: jwk_set("wit-svid"),
        x509_authorities: x509_authorities.into(),
        sequence,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;

    pub(crate) const KEY: &str = r#"{"use":"jwt-svid","kty":"EC","crv":"P-256","kid":"k",
        "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}"#;

    /// Self-signed, with a P-256 key.
    const CERTIFICATE: &str = "\
        MIIBeTCCAR6gAwIBAgIUTcSk/71wqJXZ8229LEEq2a50xCowCgYIKoZIzj0EAwIwADAgFw0yNjExMjUwOTM0NDFaGA8yMTI2\
        MTEwMTA5MzQ0MVowADBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPd63GcJWBXzeD1eCIKLuAUjWx2iB4jddOrlhYOMNvex\
        5HUIeCNqH7nQsLZb7RBXeGSi7ZNpzVTTn4XxLaYpBLCjdDByMB0GA1UdDgQWBBTC0IkgOL7bAdYCEaz4Cxw3zr7YKjAfBgNV\
        HSMEGDAWgBTC0IkgOL7bAdYCEaz4Cxw3zr7YKjAPBgNVHRMBAf8EBTADAQH/MB8GA1UdEQQYMBaGFHNwaWZmZTovL2V4YW1w\
        bGUub3JnMAoGCCqGSM49BAMCA0kAMEYCIQD6bJqDrQCU6H+tGztc+U30PYI7g2SjZZHLQ2ZW8Kj1TQIhAOeDzh2P/vs+/S0c\
        gnJ2qhDEf93nwzrH8CvhxKwTjmgM";

    fn dir_with_files(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn keys_are_split_by_use() {
        let text = format!(
            r#"{{"spiffe_sequence":7,"spiffe_refresh_hint":60,
                "keys":[{KEY},{{"use":"x509-svid","kty":"EC","x5c":["{CERTIFICATE}"]}}]}}"#
        );
        let dir =
            dir_with_files(&[("example.org.json", &text), ("README", "no bundle"), (".x.json", "no bundle")]);
        let bundles = read_bundles(dir.path()).unwrap();
        let bundle = &bundles["example.org"];
        assert_eq!((bundles.len(), bundle.jwt_authorities.len(), bundle.sequence), (1, 1, Some(7)));
        assert_eq!(BASE64.encode(&bundle.x509_authorities), CERTIFICATE);
        let jwt: Value = serde_json::from_slice(bundle.jwt_jwks.as_ref().unwrap()).unwrap();
        assert_eq!(jwt, json!({ "keys": [serde_json::from_str::<Value>(KEY).unwrap()] }));
        assert!(read_bundles(&dir.path().join("none")).unwrap().is_empty());
    }
}
