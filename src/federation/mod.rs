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

use crate::config::{Fault, Source, writable_by_others};
use crate::verify::{SvidKeys, is_trust_domain, parse_certificate};

/// Trust domains beside our own.
const DOMAINS_MOST: usize = 256;
/// Certificates of one of them.
const AUTHORITIES_MOST: usize = 128;

/// What is known of one other trust domain.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Those that sign its JWT-SVIDs.
    pub keys: SvidKeys,
    /// The same as a JWK set, as the Workload API gives it, where there are any.
    pub jwt: Option<Bytes>,
    /// The like of those that sign its WIT-SVIDs.
    pub wit: Option<Bytes>,
    /// DER certificates, one after the other, of those that sign its X509-SVIDs.
    pub x509: Bytes,
    /// `spiffe_sequence`, where the document has one.
    pub sequence: Option<u64>,
}

/// Bundles by the name of the trust domain.
pub type Bundles = BTreeMap<String, Bundle>;

/// The bundles in force. Cheap to clone; every clone sees a reload at once.
#[derive(Clone, Debug)]
pub struct Federation(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    current: ArcSwap<Bundles>,
    /// Of the last reading.
    faults: ArcSwap<Vec<Fault>>,
    reload: Mutex<()>,
}

impl Federation {
    /// Reads the directory. Faults leave no bundles and are told by [`Federation::faults`].
    pub fn open(dir: &Path) -> Federation {
        let federation = Federation(Arc::new(Inner {
            dir: dir.to_owned(),
            current: ArcSwap::default(),
            faults: ArcSwap::default(),
            reload: Mutex::new(()),
        }));
        let _ = federation.reload();
        federation
    }

    /// Reads the directory again: all of it comes into force, or nothing. How many there are. Blocking.
    pub fn reload(&self) -> Result<usize, Vec<Fault>> {
        let inner = &*self.0;
        let _one = inner.reload.lock().unwrap_or_else(PoisonError::into_inner);
        match read(&inner.dir) {
            Ok(bundles) => {
                let count = bundles.len();
                inner.current.store(Arc::new(bundles));
                inner.faults.store(Arc::default());
                Ok(count)
            }
            Err(faults) => {
                inner.faults.store(Arc::new(faults.clone()));
                Err(faults)
            }
        }
    }

    pub fn bundles(&self) -> Arc<Bundles> {
        self.0.current.load_full()
    }

    pub fn faults(&self) -> Arc<Vec<Fault>> {
        self.0.faults.load_full()
    }
}

/// Reads `*.json` in `dir`. A directory that is not there holds none.
pub fn read(dir: &Path) -> Result<Bundles, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut bundles = Bundles::new();
    for path in files(dir).map_err(|fault| vec![fault])? {
        let whole = |what: String| Fault { file: path.clone(), line: None, what };
        let domain = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if !is_trust_domain(&domain) {
            let what = "is to be named as its trust domain, like example.org.json: a-z 0-9 . - _";
            faults.push(whole(what.into()));
            continue;
        }
        match Source::read(&path).and_then(|source| bundle(source.text()).map_err(whole)) {
            Ok(bundle) => {
                bundles.insert(domain, bundle);
            }
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(bundles) } else { Err(faults) }
}

/// One document (SPIFFE Trust Domain and Bundle, section 4).
fn bundle(text: &str) -> Result<Bundle, String> {
    let no_bundle =
        |e: String| format!("is no SPIFFE bundle document ({e}); fetch it from its trust domain again");
    let document: Value = serde_json::from_str(text).map_err(|e| no_bundle(e.to_string()))?;
    let keys = SvidKeys::parse(text.as_bytes()).map_err(|e| no_bundle(e.to_string()))?;
    let sequence = match &document["spiffe_sequence"] {
        Value::Null => None,
        number => Some(number.as_u64().ok_or_else(|| no_bundle("spiffe_sequence is no number".into()))?),
    };
    let all = document["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_use = |usage: &'static str| all.iter().filter(move |key| key["use"] == usage);
    let set = |usage| {
        let keys: Vec<&Value> = of_use(usage).collect();
        (!keys.is_empty()).then(|| json!({ "keys": keys }).to_string().into())
    };
    let mut x509 = Vec::new();
    for (number, key) in of_use("x509-svid").enumerate() {
        let certificate = match key["x5c"].as_array().map(Vec::as_slice) {
            Some([only]) if number < AUTHORITIES_MOST => only.as_str(),
            _ => None,
        };
        let certificate = certificate.and_then(|text| data_encoding::BASE64.decode(text.as_bytes()).ok());
        let wrong = "an x509-svid key has exactly one certificate in \"x5c\", in base64";
        let certificate = certificate.ok_or_else(|| no_bundle(wrong.into()))?;
        // Clients take a message as a whole: one that is none would keep every agent from its own certificate.
        parse_certificate(&certificate)
            .map_err(|e| no_bundle(format!("\"x5c\" of an x509-svid key: {e}")))?;
        x509.extend(certificate);
    }
    Ok(Bundle { keys, jwt: set("jwt-svid"), wit: set("wit-svid"), x509: x509.into(), sequence })
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, Fault> {
    let whole = |what: String| Fault { file: dir.to_owned(), line: None, what };
    let cannot = |e: io::Error| whole(format!("cannot be read ({e}); mend its owner or mode"));
    let meta = match fs::symlink_metadata(dir) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(cannot(e)),
    };
    if !meta.is_dir() {
        return Err(whole("is no directory; name the real one in paths.federation".into()));
    }
    if let Some(what) = writable_by_others(&meta) {
        return Err(whole(what));
    }
    let mut paths = Vec::new();
    for item in fs::read_dir(dir).map_err(cannot)? {
        let path = item.map_err(cannot)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        paths.push(path);
        if paths.len() > DOMAINS_MOST {
            return Err(whole(format!("holds more than {DOMAINS_MOST} trust domains")));
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

    fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn a_document_is_split_by_use() {
        let text = format!(
            r#"{{"spiffe_sequence":7,"spiffe_refresh_hint":60,"keys":[{KEY},{{"use":"x509-svid","kty":"EC","x5c":["{CERTIFICATE}"]}}]}}"#
        );
        let dir = written(&[("example.org.json", &text), ("README", "no bundle"), (".x.json", "no bundle")]);
        let bundles = read(dir.path()).unwrap();
        let bundle = &bundles["example.org"];
        assert_eq!((bundles.len(), bundle.keys.len(), bundle.sequence), (1, 1, Some(7)));
        assert_eq!(data_encoding::BASE64.encode(&bundle.x509), CERTIFICATE);
        let jwt: Value = serde_json::from_slice(bundle.jwt.as_ref().unwrap()).unwrap();
        assert_eq!(jwt, json!({ "keys": [serde_json::from_str::<Value>(KEY).unwrap()] }));
        assert!(read(&dir.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn one_bad_file_leaves_the_last_good_set_in_force() {
        let dir = written(&[("a.json", &format!(r#"{{"keys":[{KEY}]}}"#))]);
        let federation = Federation::open(dir.path());
        for (name, text, wanted) in [
            ("b.json", "{", "b.json: is no SPIFFE bundle document"),
            ("b.json", "[]", "b.json: is no SPIFFE bundle document"),
            ("b.json", r#"{"keys":[],"spiffe_sequence":"1"}"#, "spiffe_sequence"),
            ("b.json", r#"{"keys":[{"use":"x509-svid","kty":"EC","x5c":[]}]}"#, "x5c"),
            ("b.json", r#"{"keys":[{"use":"x509-svid","kty":"EC","x5c":["AQID"]}]}"#, "x5c"),
            ("B.json", r#"{"keys":[]}"#, "is to be named as its trust domain"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
            let faults = federation.reload().unwrap_err();
            assert!(faults.len() == 1 && faults[0].to_string().contains(wanted), "{faults:?}");
            assert_eq!((federation.bundles().len(), federation.faults().len()), (1, 1));
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        assert_eq!(federation.reload(), Ok(1));
        assert!(federation.faults().is_empty());
    }
}
