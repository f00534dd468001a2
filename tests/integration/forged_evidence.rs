//! Evidence of a TPM in software that this test controls: every signature in it is right, and the verifier
//! knows its AK. What `verify evidence` accepts then depends on what was quoted and sent alone.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use data_encoding::{BASE32_NOPAD, BASE64, BASE64URL_NOPAD, HEXLOWER};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

const NONCE: &[u8] = b"a nonce of 18 bytes";
const ATTEST_CERTIFY: u16 = 0x8017;
const ATTEST_QUOTE: u16 = 0x8018;
const OWNER: [u8; 4] = 0x4000_0001_u32.to_be_bytes();
/// PolicyA of the TCG's EK Credential Profile, section B.6.2.
const POLICY_A: &str = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn name(area: &[u8]) -> Vec<u8> {
    [&[0, 0x0B][..], &sha256(area)].concat()
}

/// A P-256 key in software, with the public area that a TPM would show.
struct Key {
    pair: EcdsaKeyPair,
    area: Vec<u8>,
}

impl Key {
    fn new(attributes: u32, is_ek: bool) -> Key {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let numbers = |all: &[u16]| all.iter().flat_map(|it| it.to_be_bytes()).collect::<Vec<u8>>();
        let policy = if is_ek { HEXLOWER.decode(POLICY_A.as_bytes()).unwrap() } else { Vec::new() };
        let parameters = match is_ek {
            true => numbers(&[6, 128, 0x43, 0x10, 3, 0x10]),
            false => numbers(&[0x10, 0x18, 0x0B, 3, 0x10]),
        };
        let point = pair.public_key().as_ref();
        let area = [
            numbers(&[0x23, 0x0B]),
            attributes.to_be_bytes().to_vec(),
            sized(&policy),
            parameters,
            sized(&point[1..33]),
            sized(&point[33..]),
        ]
        .concat();
        Key { pair, area }
    }

    fn public(&self) -> String {
        BASE64.encode(&sized(&self.area))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    /// An attestation with its TPMT_SIGNATURE.
    fn attested(&self, attest: &[u8]) -> Value {
        let signature = self.sign(attest);
        let parts = [&[0, 0x18, 0, 0x0B][..], &sized(&signature[..32]), &sized(&signature[32..])].concat();
        json!({ "attest": BASE64.encode(attest), "signature": BASE64.encode(&parts) })
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|part| BASE64URL_NOPAD.encode(part));
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = BASE64URL_NOPAD.encode(&sha256(members.as_bytes()));
        json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "use": "sig", "alg": "ES256" })
    }
}

struct ForgedTpm {
    ek: Key,
    ak: Key,
    host_key: Key,
    issuing_key: Key,
    srk: Vec<u8>,
    dir: TempDir,
}

impl ForgedTpm {
    fn new() -> ForgedTpm {
        ForgedTpm {
            ek: Key::new(0x0003_00B2, true),
            ak: Key::new(0x0005_0072, false),
            host_key: Key::new(0x0004_0072, false),
            issuing_key: Key::new(0, false),
            srk: name(b"the SRK"),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn qualified_name(&self, key: &Key) -> Vec<u8> {
        let below = |parent: &[u8], child: &[u8]| name(&[parent, child].concat());
        below(&below(&OWNER, &self.srk), &name(&key.area))
    }

    fn attest(&self, kind: u16, extra_data: &[u8], attested: &[u8]) -> Vec<u8> {
        [
            &0xFF54_4347_u32.to_be_bytes()[..],
            &kind.to_be_bytes(),
            &sized(&self.qualified_name(&self.ak)),
            &sized(extra_data),
            // The clock, the counters of resets and restarts, and whether the clock is safe.
            &1000_u64.to_be_bytes(),
            &1_u32.to_be_bytes(),
            &1_u32.to_be_bytes(),
            &[1],
            &1_u64.to_be_bytes(),
            attested,
        ]
        .concat()
    }

    /// Evidence with a quote of these PCRs, whose value is their number in each byte.
    fn evidence(&self, pcrs: &[u8]) -> Value {
        let mut selection = [0; 3];
        pcrs.iter().for_each(|number| selection[usize::from(number / 8)] |= 1 << (number % 8));
        let values: Vec<[u8; 32]> = pcrs.iter().map(|number| [*number; 32]).collect();
        let quoted =
            [&1_u32.to_be_bytes()[..], &[0, 0x0B, 3], &selection, &sized(&sha256(&values.concat()))].concat();
        let certified =
            [sized(&name(&self.host_key.area)), sized(&self.qualified_name(&self.host_key))].concat();
        let host = BASE32_NOPAD.encode(&sha256(&name(&self.ek.area))[..16]).to_lowercase();
        let values: serde_json::Map<String, Value> =
            pcrs.iter().map(|number| (number.to_string(), json!(HEXLOWER.encode(&[*number; 32])))).collect();
        json!({
            "version": 2,
            "host": host,
            "nonce": BASE64URL_NOPAD.encode(NONCE),
            "ek": self.ek.public(),
            "ek_certificate": null,
            "srk": HEXLOWER.encode(&self.srk),
            "ak": self.ak.public(),
            "quote": self.ak.attested(&self.attest(ATTEST_QUOTE, NONCE, &quoted)),
            "pcrs": values,
            "event_log": null,
            "host_key": self.host_key.public(),
            "certification": self.ak.attested(&self.attest(ATTEST_CERTIFY, b"", &certified)),
            "endorsements": [self.endorsement(&host)],
        })
    }

    fn endorsement(&self, host: &str) -> String {
        let (signer, key) = (self.host_key.jwk(), self.issuing_key.jwk());
        let header = json!({ "alg": "ES256", "kid": signer["kid"], "typ": "hostbadge-endorsement+jwt" });
        let claims = json!({ "iss": host, "sub": key["kid"], "iat": 1, "cnf": { "jwk": key } });
        let [header, claims] = [header, claims].map(|it| BASE64URL_NOPAD.encode(it.to_string().as_bytes()));
        let signature = self.host_key.sign(format!("{header}.{claims}").as_bytes());
        format!("{header}.{claims}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Exit status and report of `hostbadge verify evidence`, which knows the AK's Name.
    fn verify(&self, evidence: &str, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = Command::new(env!("CARGO_BIN_EXE_hostbadge"))
            .args(["--json", "verify", "evidence", "--nonce", &BASE64URL_NOPAD.encode(NONCE)])
            .args(["--ak", &HEXLOWER.encode(&name(&self.ak.area))])
            .args(arguments)
            .arg(self.file("evidence.json", evidence))
            .output()
            .unwrap();
        let report = serde_json::from_slice(&output.stdout);
        let report = report.unwrap_or_else(|_| json!(String::from_utf8_lossy(&output.stderr)));
        assert_eq!(report["valid"].as_bool().unwrap_or(false), output.status.success(), "{report:#}");
        (output.status.code(), report)
    }
}

/// The result of one check: its outcome and detail.
#[track_caller]
fn result<'a>(report: &'a Value, name: &str) -> (&'a str, &'a str) {
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("{report}"));
    let check = findings.iter().find(|check| check["what"] == name).unwrap_or_else(|| panic!("{report:#}"));
    (check["outcome"].as_str().unwrap(), check["detail"].as_str().unwrap())
}

const ALL: [u8; 15] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];

#[test]
fn a_quote_must_cover_pcrs_0_to_14_unless_the_policy_says_otherwise() {
    let tpm = ForgedTpm::new();
    let verify = |pcrs: &[u8], arguments: &[&str]| tpm.verify(&tpm.evidence(pcrs).to_string(), arguments);
    let (code, report) = verify(&ALL, &[]);
    assert_eq!((code, result(&report, "quoted PCRs").0), (Some(0), "pass"), "{report:#}");
    let (code, report) = verify(&[], &[]);
    assert_eq!((code, result(&report, "PCR values").0), (Some(1), "pass"), "an empty list was quoted");
    let missing = format!("PCRs {ALL:?} are not in the quote");
    assert_eq!(result(&report, "quoted PCRs"), ("fail", missing.as_str()));
    let (code, report) = verify(&[16], &[]);
    assert_eq!((code, result(&report, "quoted PCRs")), (Some(1), ("fail", missing.as_str())));
    let (code, report) = verify(&ALL[..14], &[]);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(result(&report, "quoted PCRs"), ("fail", "PCRs [14] are not in the quote"));

    let seven = format!("[sha256]\n7 = \"{}\"\n", "07".repeat(32));
    let strict = tpm.file("strict.toml", &format!("version = 1\n{seven}"));
    let narrow = tpm.file("narrow.toml", &format!("version = 1\nquoted = [7]\n{seven}"));
    let (strict, narrow) = (strict.to_str().unwrap(), narrow.to_str().unwrap());
    assert_eq!(verify(&[7], &["--pcrs", strict]).0, Some(1), "values alone do not narrow the quote");
    let (code, report) = verify(&[7], &["--pcrs", narrow]);
    assert_eq!((code, result(&report, "quoted PCRs")), (Some(0), ("pass", "[7]")), "{report:#}");
    assert_eq!(verify(&[], &["--pcrs", narrow]).0, Some(1));
    assert_eq!(verify(&ALL, &["--pcrs", narrow]).0, Some(0), "a quote may cover more");
}

#[test]
fn a_check_that_was_skipped_does_not_hold_and_can_be_required() {
    let tpm = ForgedTpm::new();
    let evidence = tpm.evidence(&ALL).to_string();
    let (code, report) = tpm.verify(&evidence, &[]);
    assert_eq!((code, result(&report, "boot event log")), (Some(0), ("skipped", "the host sent none")));
    for check in report["findings"].as_array().unwrap() {
        let skipped = ["boot event log", "IMA list", "IMA boot aggregate", "EK's certificate"]
            .contains(&check["what"].as_str().unwrap());
        assert_eq!((&check["holds"], &check["required"]), (&json!(!skipped), &json!(!skipped)), "{check}");
    }
    for name in ["boot-event-log", "ima", "ek-certificate"] {
        assert_eq!(tpm.verify(&evidence, &["--require", name]).0, Some(1), "{name}");
    }
    // What depends on a check that failed is skipped and not left out.
    let mut changed = tpm.evidence(&ALL);
    changed["quote"]["signature"] = changed["certification"]["signature"].clone();
    let (code, report) = tpm.verify(&changed.to_string(), &[]);
    assert_eq!((code, result(&report, "quote's signature").0), (Some(1), "fail"));
    for name in ["SRK", "nonce", "TPM clock", "quoted PCRs", "PCR values", "boot event log"] {
        assert_eq!(result(&report, name), ("skipped", "the quote is not valid"), "{name}");
    }
}

#[test]
fn the_quote_proves_srk_and_nonce_and_each_pcr_has_one_value() {
    let tpm = ForgedTpm::new();
    let evidence = tpm.evidence(&ALL);
    assert_eq!(result(&tpm.verify(&evidence.to_string(), &[]).1, "SRK").0, "pass");
    let mut other = evidence.clone();
    other["srk"] = json!(HEXLOWER.encode(&name(b"another SRK")));
    let (code, report) = tpm.verify(&other.to_string(), &[]);
    assert_eq!((code, result(&report, "SRK").0), (Some(1), "fail"));
    assert_eq!(result(&report, "host key's certification").0, "fail");
    let mut other = evidence.clone();
    other["nonce"] = json!(BASE64URL_NOPAD.encode(b"another nonce"));
    let (code, report) = tpm.verify(&other.to_string(), &[]);
    assert_eq!((code, result(&report, "nonce").0), (Some(1), "fail"));
    let twice =
        evidence.to_string().replace(r#""pcrs":{"#, &format!(r#""pcrs":{{"0":"{}","#, "11".repeat(32)));
    let (code, report) = tpm.verify(&twice, &[]);
    assert_eq!(code, Some(1));
    assert!(report.to_string().contains("PCR 0 appears twice"), "{report}");
}
