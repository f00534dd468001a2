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
/// Bytes of all trust domains' roots, or keys of one kind, in a message of the Workload API. A client
/// receives them in one message together with its own SVIDs, and gRPC clients refuse a message above 4 MiB
/// unless they are configured otherwise, so that the client would lose its own SVIDs. 2 MiB are left for
/// these and for the host's revocation lists, which have at most 1.3 MB.
const MAX_MESSAGE_PART: usize = 2 * 1024 * 1024;
/// Bytes that a message has for each trust domain beside its SPIFFE ID and its bundle.
const MAP_ENTRY_LEN: usize = 24;
/// Trust domains that a fault of their sum names.
const MAX_NAMED: usize = 3;
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
    diagnostics.extend(sum_faults(&bundles).into_iter().map(|message| Diagnostic {
        file: dir.to_owned(),
        line: None,
        message,
    }));
    if diagnostics.is_empty() { Ok(bundles) } else { Err(diagnostics) }
}

/// What is too large for one message to a client.
fn sum_faults(bundles: &FederatedBundles) -> Vec<String> {
    let kinds: [(&str, PartLen); 3] = [
        ("x509-svid", |bundle| bundle.x509_authorities.len()),
        ("jwt-svid", |bundle| bundle.jwt_jwks.as_ref().map_or(0, Bytes::len)),
        ("wit-svid", |bundle| bundle.wit_jwks.as_ref().map_or(0, Bytes::len)),
    ];
    kinds.iter().filter_map(|(usage, part_len)| sum_fault(bundles, usage, *part_len)).collect()
}

/// The length of what a bundle contributes to a message.
type PartLen = fn(&FederatedBundle) -> usize;

fn sum_fault(bundles: &FederatedBundles, usage: &str, part_len: PartLen) -> Option<String> {
    let entry_len = |domain: &str, part: usize| "spiffe://".len() + domain.len() + part + MAP_ENTRY_LEN;
    let mut parts: Vec<(usize, &str)> = bundles
        .iter()
        .map(|(domain, bundle)| (part_len(bundle), domain.as_str()))
        .filter(|(part, _)| *part > 0)
        .collect();
    let sum: usize = parts.iter().map(|(part, domain)| entry_len(domain, *part)).sum();
    if sum <= MAX_MESSAGE_PART {
        return None;
    }
    parts.sort_unstable_by(|a, b| b.cmp(a));
    let largest: Vec<String> = parts
        .iter()
        .take(MAX_NAMED)
        .map(|(part, domain)| format!("{domain}.json ({} KiB)", part.div_ceil(1024)))
        .collect();
    Some(format!(
        "the {usage} keys of all {} trust domains are {} KiB, and one message to a client has at most {} KiB \
         of them; remove trust domains or expired keys. The largest: {}",
        parts.len(),
        sum.div_ceil(1024),
        MAX_MESSAGE_PART / 1024,
        largest.join(", ")
    ))
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

    /// A bundle document with `count` roots.
    pub(crate) fn bundle_of_roots(count: usize) -> String {
        let root = format!(r#"{{"use":"x509-svid","kty":"EC","x5c":["{CERTIFICATE}"]}}"#);
        format!(r#"{{"keys":[{}]}}"#, vec![root; count].join(","))
    }

    #[test]
    fn keys_that_do_not_fit_one_message_to_a_client_are_refused_by_kind() {
        let root_len = BASE64.decode(CERTIFICATE.as_bytes()).unwrap().len();
        let text = bundle_of_roots(120);
        // The most domains of this size that fit; each domain's name has 16 bytes.
        let most = MAX_MESSAGE_PART / (120 * root_len + 9 + 16 + MAP_ENTRY_LEN);
        let dir = dir_with_files(&[]);
        let write = |n: usize, text: &str| {
            fs::write(dir.path().join(format!("domain-{n:03}.test0.json")), text).unwrap();
        };
        (0..most).for_each(|n| write(n, &text));
        assert_eq!(read_bundles(dir.path()).unwrap().len(), most);
        write(most, &text);
        let faults = read_bundles(dir.path()).unwrap_err();
        assert_eq!((faults.len(), &*faults[0].file), (1, dir.path()));
        let message = &faults[0].message;
        assert!(message.contains("the x509-svid keys") && message.contains("at most 2048 KiB"), "{message}");
        assert!(message.contains(&format!("all {} trust domains", most + 1)), "{message}");
        assert!(message.contains("domain-"), "{message}");

        fs::remove_file(dir.path().join(format!("domain-{most:03}.test0.json"))).unwrap();
        let padding = "x".repeat(240 * 1024);
        let wit = format!(r#"{{"keys":[{{"use":"wit-svid","kty":"EC","padding":"{padding}"}}]}}"#);
        (500..509).for_each(|n| write(n, &wit));
        let faults = read_bundles(dir.path()).unwrap_err();
        assert!(faults.len() == 1 && faults[0].message.contains("the wit-svid keys of all 9"), "{faults:?}");
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
