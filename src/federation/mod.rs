//! Other trust domains: their SPIFFE bundle documents, which operators put into `federation/`.
//!
//! `federation/DOMAIN.json` is what the trust domain DOMAIN publishes. As with the agents, a set of files is taken as a
//! whole or not at all, and the last good set stays in force.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::config::{Diagnostic, SourceFile, insecure_permissions};
use crate::verify::{JwtAuthorities, is_trust_domain, parse_certificate};

/// Trust domains beside our own.
const MAX_TRUST_DOMAINS: usize = 256;
/// Certificates of one of them.
const MAX_X509_AUTHORITIES: usize = 128;

/// What is known of one other trust domain.
#[derive(Clone, Debug)]
pub struct FederatedBundle {
    /// Those that sign its JWT-SVIDs.
    pub jwt_authorities: JwtAuthorities,
    /// The same as a JWK set, as the Workload API gives it, where there are any.
    pub jwt_jwks: Option<Bytes>,
    /// The like of those that sign its WIT-SVIDs.
    pub wit_jwks: Option<Bytes>,
    /// DER certificates, one after the other, of those that sign its X509-SVIDs.
    pub x509_authorities: Bytes,
    /// `spiffe_sequence`, where the document has one.
    pub sequence: Option<u64>,
}

/// Bundles by the name of the trust domain.
pub type FederatedBundles = BTreeMap<String, FederatedBundle>;

/// The bundles in force. Cheap to clone; every clone sees a reload at once.
#[derive(Clone, Debug)]
pub struct Federation(Arc<FederationShared>);

#[derive(Debug)]
struct FederationShared {
    dir: PathBuf,
    active: ArcSwap<FederatedBundles>,
    /// Of the last reading.
    diagnostics: ArcSwap<Vec<Diagnostic>>,
    reload_lock: Mutex<()>,
}

impl Federation {
    /// Reads the directory. Faults leave no bundles and are told by [`Federation::faults`].
    pub fn open(dir: &Path) -> Federation {
        let federation = Federation(Arc::new(FederationShared {
            dir: dir.to_owned(),
            active: ArcSwap::default(),
            diagnostics: ArcSwap::default(),
            reload_lock: Mutex::new(()),
        }));
        let _ = federation.reload();
        federation
    }

    /// Reads the directory again: all of it comes into force, or nothing. How many there are. Blocking.
    pub fn reload(&self) -> Result<usize, Vec<Diagnostic>> {
        let inner = &*self.0;
        let _guard = inner.reload_lock.lock().unwrap_or_else(PoisonError::into_inner);
        match read_bundles(&inner.dir) {
            Ok(bundles) => {
                let count = bundles.len();
                inner.active.store(Arc::new(bundles));
                inner.diagnostics.store(Arc::default());
                Ok(count)
            }
            Err(faults) => {
                inner.diagnostics.store(Arc::new(faults.clone()));
                Err(faults)
            }
        }
    }

    pub fn bundles(&self) -> Arc<FederatedBundles> {
        self.0.active.load_full()
    }

    pub fn diagnostics(&self) -> Arc<Vec<Diagnostic>> {
        self.0.diagnostics.load_full()
    }
}

/// Reads `*.json` in `dir`. A directory that is not there holds none.
pub fn read_bundles(dir: &Path) -> Result<FederatedBundles, Vec<Diagnostic>> {
    let mut diagnostics = Vec::new();
    let mut bundles = FederatedBundles::new();
    for path in bundle_files(dir).map_err(|fault| vec![fault])? {
        let diagnostic = |message: String| Diagnostic { file: path.clone(), line: None, message };
        let domain = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if !is_trust_domain(&domain) {
            let what = "is to be named as its trust domain, like example.org.json: a-z 0-9 . - _";
            diagnostics.push(diagnostic(what.into()));
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

/// One document (SPIFFE Trust Domain and Bundle, section 4).
fn parse_bundle(text: &str) -> Result<FederatedBundle, String> {
    let invalid =
        |e: String| format!("is no SPIFFE bundle document ({e}); fetch it from its trust domain again");
    let document: Value = serde_json::from_str(text).map_err(|e| invalid(e.to_string()))?;
    let jwt_authorities = JwtAuthorities::parse(text.as_bytes()).map_err(|e| invalid(e.to_string()))?;
    let sequence = match &document["spiffe_sequence"] {
        Value::Null => None,
        number => Some(number.as_u64().ok_or_else(|| invalid("spiffe_sequence is no number".into()))?),
    };
    let keys_array = document["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let keys_with_use = |usage: &'static str| keys_array.iter().filter(move |key| key["use"] == usage);
    let jwk_set = |usage| {
        let keys: Vec<&Value> = keys_with_use(usage).collect();
        (!keys.is_empty()).then(|| json!({ "keys": keys }).to_string().into())
    };
    let mut x509_authorities = Vec::new();
    for (number, key) in keys_with_use("x509-svid").enumerate() {
        let certificate = match key["x5c"].as_array().map(Vec::as_slice) {
            Some([only]) if number < MAX_X509_AUTHORITIES => only.as_str(),
            _ => None,
        };
        let certificate = certificate.and_then(|text| data_encoding::BASE64.decode(text.as_bytes()).ok());
        let rule = "an x509-svid key has exactly one certificate in \"x5c\", in base64";
        let certificate = certificate.ok_or_else(|| invalid(rule.into()))?;
        // Clients take a message as a whole: one that is none would keep every agent from its own certificate.
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

fn bundle_files(dir: &Path) -> Result<Vec<PathBuf>, Diagnostic> {
    let diagnostic = |message: String| Diagnostic { file: dir.to_owned(), line: None, message };
    let unreadable = |e: io::Error| diagnostic(format!("cannot be read ({e}); mend its owner or mode"));
    let meta = match fs::symlink_metadata(dir) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(e)),
    };
    if !meta.is_dir() {
        return Err(diagnostic("is no directory; name the real one in paths.federation".into()));
    }
    if let Some(what) = insecure_permissions(&meta) {
        return Err(diagnostic(what));
    }
    let mut paths = Vec::new();
    for item in fs::read_dir(dir).map_err(unreadable)? {
        let path = item.map_err(unreadable)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        paths.push(path);
        if paths.len() > MAX_TRUST_DOMAINS {
            return Err(diagnostic(format!("holds more than {MAX_TRUST_DOMAINS} trust domains")));
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = r#"{"use":"jwt-svid","kty":"EC","crv":"P-256","kid":"k","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}"#;

    /// Self-signed, with a P-256 key.
    const CERTIFICATE: &str = "MIIBeTCCAR6gAwIBAgIUTcSk/71wqJXZ8229LEEq2a50xCowCgYIKoZIzj0EAwIwADAgFw0yNjExMjUwOTM0NDFaGA8yMTI2MTEwMTA5MzQ0MVowADBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPd63GcJWBXzeD1eCIKLuAUjWx2iB4jddOrlhYOMNvex5HUIeCNqH7nQsLZb7RBXeGSi7ZNpzVTTn4XxLaYpBLCjdDByMB0GA1UdDgQWBBTC0IkgOL7bAdYCEaz4Cxw3zr7YKjAfBgNVHSMEGDAWgBTC0IkgOL7bAdYCEaz4Cxw3zr7YKjAPBgNVHRMBAf8EBTADAQH/MB8GA1UdEQQYMBaGFHNwaWZmZTovL2V4YW1wbGUub3JnMAoGCCqGSM49BAMCA0kAMEYCIQD6bJqDrQCU6H+tGztc+U30PYI7g2SjZZHLQ2ZW8Kj1TQIhAOeDzh2P/vs+/S0cgnJ2qhDEf93nwzrH8CvhxKwTjmgM";

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
            r#"{{"spiffe_sequence":7,"spiffe_refresh_hint":60,"keys":[{KEY},{{"use":"x509-svid","kty":"EC","x5c":["{CERTIFICATE}"]}}]}}"#
        );
        let dir =
            dir_with_files(&[("example.org.json", &text), ("README", "no bundle"), (".x.json", "no bundle")]);
        let bundles = read_bundles(dir.path()).unwrap();
        let bundle = &bundles["example.org"];
        assert_eq!((bundles.len(), bundle.jwt_authorities.len(), bundle.sequence), (1, 1, Some(7)));
        assert_eq!(data_encoding::BASE64.encode(&bundle.x509_authorities), CERTIFICATE);
        let jwt: Value = serde_json::from_slice(bundle.jwt_jwks.as_ref().unwrap()).unwrap();
        assert_eq!(jwt, json!({ "keys": [serde_json::from_str::<Value>(KEY).unwrap()] }));
        assert!(read_bundles(&dir.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn invalid_file_keeps_the_previous_bundles() {
        let dir = dir_with_files(&[("a.json", &format!(r#"{{"keys":[{KEY}]}}"#))]);
        let federation = Federation::open(dir.path());
        for (name, text, expected) in [
            ("b.json", "{", "b.json: is no SPIFFE bundle document"),
            ("b.json", "[]", "b.json: is no SPIFFE bundle document"),
            ("b.json", r#"{"keys":[],"spiffe_sequence":"1"}"#, "spiffe_sequence"),
            ("b.json", r#"{"keys":[{"use":"x509-svid","kty":"EC","x5c":[]}]}"#, "x5c"),
            ("b.json", r#"{"keys":[{"use":"x509-svid","kty":"EC","x5c":["AQID"]}]}"#, "x5c"),
            ("B.json", r#"{"keys":[]}"#, "is to be named as its trust domain"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
            let faults = federation.reload().unwrap_err();
            assert!(faults.len() == 1 && faults[0].to_string().contains(expected), "{faults:?}");
            assert_eq!((federation.bundles().len(), federation.diagnostics().len()), (1, 1));
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        assert_eq!(federation.reload(), Ok(1));
        assert!(federation.diagnostics().is_empty());
    }
}
