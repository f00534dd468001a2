//! X509-SVIDs of agents: profile and chain, issuance, renewal, revocation, and mutual TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::common::callers::{Credentials, NOBODY};
use crate::common::machine::Machine;
use crate::common::{Host, connect_when_listening, until, until_true};
use data_encoding::{BASE64, HEXLOWER};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use x509_cert::Certificate;
use x509_cert::der::asn1::{Any, AnyRef, BitString, ObjectIdentifier, SetOfVec, UintRef};
use x509_cert::der::oid::db::rfc5912;
use x509_cert::der::{Decode, Encode, Tag};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, Version};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

const FILE: &str = "state/ca.json";

// === helpers ===

/// An issued certificate with its key, chain and bundle in PEM files.
struct CertificateFiles {
    dir: TempDir,
    chain: Vec<Vec<u8>>,
    answer: Value,
}

impl CertificateFiles {
    #[track_caller]
    fn request(host: &Host, ask: Value) -> CertificateFiles {
        let answer = host.post("/v1/certificate", ask);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let answer = answer.json();
        let dir = tempfile::tempdir().unwrap();
        let text = |name: &str| answer[name].as_str().unwrap_or_default();
        fs::write(dir.path().join("cert.pem"), text("certificate_chain")).unwrap();
        fs::write(dir.path().join("key.pem"), text("private_key")).unwrap();
        fs::write(dir.path().join("bundle.pem"), bundle(host)).unwrap();
        let chain = CertificateDer::pem_slice_iter(text("certificate_chain").as_bytes());
        let chain = chain.map(|one| one.unwrap().to_vec()).collect();
        CertificateFiles { dir, chain, answer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn leaf(&self) -> Certificate {
        Certificate::from_der(&self.chain[0]).unwrap()
    }

    fn serial(&self) -> String {
        let mut serial = self.leaf().tbs_certificate().serial_number().as_bytes().to_vec();
        serial.drain(..serial.len().saturating_sub(16));
        HEXLOWER.encode(&[vec![0; 16 - serial.len()], serial].concat())
    }

    fn key(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from_pem_file(self.path("key.pem")).unwrap()
    }

    fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().cloned().map(CertificateDer::from).collect()
    }

    /// Runs `openssl verify` in strict mode with the roots of `bundle`.
    fn verified(&self, bundle: &Path) -> Output {
        let cert = self.path("cert.pem");
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-x509_strict", "-purpose", "sslclient"]);
        openssl.arg("-CAfile").arg(bundle).arg("-untrusted").arg(&cert).arg(&cert);
        openssl.output().unwrap()
    }
}

/// The roots of the host's bundle document as PEM.
#[track_caller]
fn bundle(host: &Host) -> String {
    let answer = host.get("/v1/bundle");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    let roots = keys.iter().filter_map(|key| key["x5c"][0].as_str().map(str::to_owned));
    roots
        .map(|root| hostbadge::enroll::pem("CERTIFICATE", &BASE64.decode(root.as_bytes()).unwrap()).unwrap())
        .collect()
}

fn uris(certificate: &Certificate) -> (bool, Vec<String>) {
    let (critical, names) =
        certificate.tbs_certificate().get_extension::<SubjectAltName>().unwrap().expect("names");
    let uri = |name: &GeneralName| match name {
        GeneralName::UniformResourceIdentifier(uri) => uri.as_str().to_owned(),
        other => panic!("{other:?}"),
    };
    (critical, names.0.iter().map(uri).collect())
}

fn spiffe_id(host: &Host) -> String {
    host.get("/v1/whoami").json()["spiffe_id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn refused(host: &Host, csr: &str) -> String {
    let answer = host.post("/v1/certificate", json!({ "csr": csr }));
    assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"), "{}", answer.text());
    answer.json()["error_description"].as_str().unwrap().to_owned()
}

/// A PEM request by openssl for a new key.
pub fn csr(dir: &Path, key: &[&str], more: &[&str]) -> String {
    let (file, request) = (dir.join("own.pem"), dir.join("csr.pem"));
    run(Command::new("openssl").arg("genpkey").args(key).arg("-out").arg(&file));
    let mut req = Command::new("openssl");
    req.args(["req", "-new", "-subj", "/CN=root/O=elsewhere"]).args(more).arg("-key").arg(&file);
    run(req.arg("-out").arg(&request));
    fs::read_to_string(request).unwrap()
}

pub const P256: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stored(host: &Host) -> Value {
    serde_json::from_slice(&fs::read(host.path(FILE)).unwrap()).unwrap()
}

fn hostbadge(host: &Host) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostbadge"));
    command.env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket()).env("HOSTBADGE_SOCKET", host.agent_socket());
    command
}

fn lines(host: &Host, event: &str) -> Vec<Value> {
    host.audit().into_iter().filter(|line| line["event"] == event).collect()
}

// === profile ===

#[test]
fn a_leaf_is_an_x509_svid_with_a_valid_chain() {
    let host = Host::started();
    let held = CertificateFiles::request(&host, json!({}));
    let leaf = held.leaf();
    let body = leaf.tbs_certificate();
    let id = spiffe_id(&host);

    assert_eq!(uris(&leaf), (true, vec![id.clone()]), "one URI, critical since there is no subject");
    assert!(body.subject().to_der().unwrap() == [0x30, 0]);
    let (critical, constraints) = body.get_extension::<BasicConstraints>().unwrap().expect("cA is said");
    assert!(critical && !constraints.ca && constraints.path_len_constraint.is_none());
    let (critical, usage) = body.get_extension::<KeyUsage>().unwrap().unwrap();
    assert!(critical && usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let (_, purposes) = body.get_extension::<ExtendedKeyUsage>().unwrap().unwrap();
    let purposes: Vec<String> = purposes.0.iter().map(ToString::to_string).collect();
    assert_eq!(purposes, ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
    let lives = body.validity().not_after.to_unix_duration() - body.validity().not_before.to_unix_duration();
    assert_eq!(lives.as_secs(), 3600 + 10);
    let until = humantime::parse_rfc3339(held.answer["expires_at"].as_str().unwrap()).unwrap();
    assert_eq!(until, std::time::UNIX_EPOCH + body.validity().not_after.to_unix_duration());
    assert_ne!(held.serial(), CertificateFiles::request(&host, json!({})).serial());

    assert_eq!(held.chain.len(), 2, "leaf and issuing CA; the root is the bundle's");
    let issuing = Certificate::from_der(&held.chain[1]).unwrap();
    let (critical, constraints) =
        issuing.tbs_certificate().get_extension::<BasicConstraints>().unwrap().unwrap();
    assert!(critical && constraints.ca && constraints.path_len_constraint == Some(0));
    let domain = format!("spiffe://{}", id.split('/').nth(2).unwrap());
    assert_eq!(uris(&issuing), (false, vec![domain.clone()]));
    let root = fs::read(held.path("bundle.pem")).unwrap();
    let root = CertificateDer::from_pem_slice(&root).unwrap();
    let root = Certificate::from_der(&root).unwrap();
    assert_eq!(uris(&root), (false, vec![domain]));

    let verified = held.verified(&held.path("bundle.pem"));
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let same = |what: &[&str], file: &str| run(Command::new("openssl").args(what).arg(held.path(file)));
    let of_key = same(&["pkey", "-pubout", "-in"], "key.pem");
    assert_eq!(same(&["x509", "-noout", "-pubkey", "-in"], "cert.pem"), of_key);

    let line = &lines(&host, "certificate-issued")[0];
    assert_eq!(line["serial"], held.serial());
    assert_eq!((&line["agent"], &line["spiffe_id"]), (&json!("root"), &json!(id)));
    assert_eq!(line["exp"], body.validity().not_after.to_unix_duration().as_secs());
    let whole = serde_json::to_string(&host.audit()).unwrap();
    assert!(!whole.contains("PRIVATE") && !whole.contains("BEGIN"));
}

#[test]
fn a_request_can_shorten_but_not_lengthen_the_lifetime() {
    let host = Host::started();
    let lives = |ttl: Value| {
        let held = CertificateFiles::request(&host, json!({ "ttl": ttl }));
        let validity = *held.leaf().tbs_certificate().validity();
        (validity.not_after.to_unix_duration() - validity.not_before.to_unix_duration()).as_secs() - 10
    };
    assert_eq!((lives(json!("5m")), lives(json!(60)), lives(json!("30d"))), (300, 60, 3600));
    let answer = host.post("/v1/certificate", json!({ "ttl": 0 }));
    assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"));
}

#[test]
fn an_unknown_caller_and_an_ambiguous_agent_get_no_certificate() {
    let host = Host::started();
    let unknown = Credentials::user(NOBODY).curl(&host, "/v1/certificate", &["-X", "POST"]);
    assert_eq!((unknown.status, unknown.error().as_str()), (401, "invalid_client"));
    host.agent("other", "user = 0");
    host.reload();
    let answer = host.post("/v1/certificate", json!({}));
    assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"));
    let held = CertificateFiles::request(&host, json!({ "agent": "other" }));
    assert!(uris(&held.leaf()).1[0].ends_with("/agent/other"));
    assert_eq!(host.get("/v1/certificate").status, 405);
}

#[test]
fn no_certificates_without_an_accepted_baseline_where_posture_is_enforced() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[posture]\nmode = \"enforce\"");
    host.start();
    let answer = host.post("/v1/certificate", json!({}));
    assert_eq!((answer.status, answer.error().as_str()), (403, "access_denied"), "{}", answer.text());
    assert!(answer.text().contains("posture"), "{}", answer.text());
}

#[test]
fn the_bundle_document_conforms_to_spiffe() {
    let host = Host::started();
    let output = hostbadge(&host).args(["export", "bundle"]).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["spiffe_sequence"].as_u64().unwrap() > 1_700_000_000, "{document}");
    assert_eq!(document["spiffe_refresh_hint"], 300);
    let keys = document["keys"].as_array().unwrap();
    let (roots, others): (Vec<&Value>, Vec<&Value>) = keys.iter().partition(|key| key["use"] == "x509-svid");
    assert_eq!((roots.len(), roots[0]["x5c"].as_array().unwrap().len()), (1, 1));
    assert!(roots[0]["kid"].is_null() && roots[0]["d"].is_null());
    assert!(others.iter().all(|key| key["use"] == "jwt-svid" && key["kid"].is_string()), "{document}");
    let listed = host.get("/.well-known/jwks.json").json();
    let listed: Vec<&Value> = listed["keys"].as_array().unwrap().iter().map(|key| &key["kid"]).collect();
    assert!(!others.is_empty() && others.iter().all(|key| listed.contains(&&key["kid"])), "{document}");
}

// === requests ===

#[test]
fn from_a_csr_only_the_public_key_is_used() {
    let host = Host::started();
    let dir = tempfile::tempdir().unwrap();
    let wishes = [
        "-addext",
        "subjectAltName=URI:spiffe://elsewhere/admin,DNS:example.org",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-addext",
        "keyUsage=keyCertSign",
    ];
    let kinds: [&[&str]; 5] = [
        &P256,
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"],
        &["-algorithm", "ED25519"],
    ];
    for kind in kinds {
        let pem = csr(dir.path(), kind, &wishes);
        let held = CertificateFiles::request(&host, json!({ "csr": pem }));
        assert!(held.answer.get("private_key").is_none(), "{kind:?}");
        assert_eq!(uris(&held.leaf()).1, [spiffe_id(&host)]);
        let (_, constraints) =
            held.leaf().tbs_certificate().get_extension::<BasicConstraints>().unwrap().unwrap();
        assert!(!constraints.ca);
        let verified = held.verified(&held.path("bundle.pem"));
        assert!(verified.status.success(), "{kind:?}: {}", String::from_utf8_lossy(&verified.stderr));
        let own =
            run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(dir.path().join("own.pem")));
        let cert = held.path("cert.pem");
        assert_eq!(run(Command::new("openssl").args(["x509", "-noout", "-pubkey", "-in"]).arg(cert)), own);
        // The same request as base64 DER, and with the older PEM label.
        let bare: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        assert_eq!(CertificateFiles::request(&host, json!({ "csr": bare })).chain.len(), 2);
        let of_old = pem.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST");
        assert_eq!(CertificateFiles::request(&host, json!({ "csr": of_old })).chain.len(), 2);
    }
}

#[test]
fn malformed_csrs_are_refused_with_a_reason_at_low_cost() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[limits]\nrate = 1000000\nburst = 1000000");
    host.start();
    let dir = tempfile::tempdir().unwrap();
    let good = csr(dir.path(), &P256, &[]);
    let bare: String = good.lines().filter(|line| !line.starts_with('-')).collect();
    let good = BASE64.decode(bare.as_bytes()).unwrap();

    assert!(refused(&host, "").contains("PKCS#10"));
    assert!(refused(&host, "garbage!").contains("neither PEM nor DER"));
    assert!(refused(&host, "-----BEGIN CERTIFICATE REQUEST-----\nAAAA").contains("PEM"));
    assert!(refused(&host, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").contains("PEM"));
    for length in 0..good.len() {
        refused(&host, &BASE64.encode(&good[..length]));
    }
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        refused(&host, &BASE64.encode(&changed));
    }
    let longer = [&good[..], &[0]].concat();
    assert!(refused(&host, &BASE64.encode(&longer)).contains("PKCS#10"));
    let mut last = good.clone();
    *last.last_mut().unwrap() ^= 1;
    assert!(refused(&host, &BASE64.encode(&last)).contains("not signed by the key"));

    // RSA keys of 16,384 and 1,024 bits, and an unsupported curve.
    let rsa = |bits: usize| {
        let mut modulus = vec![0xC5; bits / 8];
        *modulus.last_mut().unwrap() = 1;
        let numbers = [UintRef::new(&modulus).unwrap(), UintRef::new(&[1, 0, 1]).unwrap()];
        let key = numbers.to_vec().to_der().unwrap();
        let public_key = SubjectPublicKeyInfoOwned {
            algorithm: rsa_algorithm(rfc5912::RSA_ENCRYPTION),
            subject_public_key: BitString::from_bytes(&key).unwrap(),
        };
        request(public_key, bits / 8)
    };
    assert!(refused(&host, &BASE64.encode(&rsa(16_384))).contains("2048 to 4096"));
    assert!(refused(&host, &BASE64.encode(&rsa(1024))).contains("RSA of 2048 to 4096 bits"));
    let k1 = csr(dir.path(), &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"], &[]);
    assert!(refused(&host, &k1).contains("P-256, P-384"));

    let large = refused(&host, &"A".repeat(60_000));
    assert!(large.contains("larger than 16384"), "{large}");
    assert_eq!(host.post("/v1/certificate", json!({ "csr": "A".repeat(70_000) })).status, 413);
    let deep = BASE64.encode(&[0x30, 0x80].repeat(4000));
    refused(&host, &deep);
    let nested = (0..3000)
        .fold(Vec::new(), |inner: Vec<u8>, _| AnyRef::new(Tag::Sequence, &inner).unwrap().to_der().unwrap());
    refused(&host, &BASE64.encode(&nested));
    for body in [json!([]), json!({ "csr": 1 }), json!({ "crs": "x" }), json!({ "csr": ["x"] })] {
        assert_eq!(host.post("/v1/certificate", body.clone()).status, 400, "{body}");
    }
    assert_eq!(CertificateFiles::request(&host, json!({})).chain.len(), 2);
}

/// A request for a key, with a signature of this many bytes that does not verify.
fn request(public_key: SubjectPublicKeyInfoOwned, signature_len: usize) -> Vec<u8> {
    let request = CertReq {
        info: CertReqInfo {
            version: Version::V1,
            subject: Name::default(),
            public_key,
            attributes: SetOfVec::default(),
        },
        algorithm: rsa_algorithm(rfc5912::SHA_256_WITH_RSA_ENCRYPTION),
        signature: BitString::from_bytes(&vec![7; signature_len]).unwrap(),
    };
    request.to_der().unwrap()
}

fn rsa_algorithm(oid: ObjectIdentifier) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid, parameters: Some(Any::null()) }
}

// === CA lifecycle ===

#[test]
fn cas_survive_a_restart_and_are_replaced_at_half_their_lifetime() {
    let mut host = Host::started();
    let old = CertificateFiles::request(&host, json!({}));
    host.stop();
    host.start();
    let same = CertificateFiles::request(&host, json!({}));
    assert_eq!(same.chain[1], old.chain[1]);
    host.crash();

    let mut file = stored(&host);
    let made = file["issuing"][0]["made"].as_u64().unwrap();
    file["issuing"][0]["made"] = json!(made - 24 * 3600);
    fs::write(host.path(FILE), file.to_string()).unwrap();
    host.start();
    let blocked_reason =
        |host: &Host| host.status()["issuer_blocked_reason"].as_str().unwrap_or_default().to_owned();
    assert!(blocked_reason(&host).contains("ca.json"), "{}", blocked_reason(&host));
    run(hostbadge(&host).args(["key", "accept"]));
    let new = until("there is a new issuing CA", || {
        let answer = host.post("/v1/certificate", json!({}));
        if answer.status != 200 {
            return None;
        }
        let held = CertificateFiles::request(&host, json!({}));
        (held.chain[1] != old.chain[1]).then_some(held)
    });
    // The root is the same, so relying parties need no update.
    assert_eq!(fs::read(new.path("bundle.pem")).unwrap(), fs::read(old.path("bundle.pem")).unwrap());
    for held in [&old, &new] {
        let verified = held.verified(&new.path("bundle.pem"));
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    }
    assert_eq!(stored(&host)["issuing"].as_array().unwrap().len(), 2);
    until_true("it is recorded", || {
        let made = lines(&host, "ca-certified");
        made.iter().any(|line| line["detail"].as_str().unwrap().contains("signed issuing CA"))
    });
    assert!(!fs::read_to_string(host.path(FILE)).unwrap().contains("PRIVATE"));
}

#[test]
fn certificates_are_issued_while_the_tpm_is_stalled() {
    let mut machine = Machine::new();
    machine.start();
    let before = CertificateFiles::request(&machine.host, json!({}));
    let ca = machine.host.status()["ca"].clone();
    assert!(ca["issues_until"].is_string() && ca["blocked_reason"].is_null(), "{ca}");
    machine.pause_tpm();
    machine.until_tpm_state("busy");
    let held = CertificateFiles::request(&machine.host, json!({}));
    assert_eq!(held.chain[1], before.chain[1]);
    machine.resume_tpm();
    machine.until_healthy();
}

/// The key-encryption key is replaced, and everything is encrypted with the new one.
#[test]
fn the_issuing_ca_survives_a_new_key_encryption_key() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[seal]\npcrs = [7]");
    host.start();
    let before = CertificateFiles::request(&host, json!({}));
    let sealed = |host: &Host| stored(host)["issuing"][0]["key"].as_str().unwrap().to_owned();
    let first = sealed(&host);
    run(hostbadge(&host).args(["key", "recovery"]));
    until_true("the issuing CA's key is sealed again", || sealed(&host) != first);
    host.crash();
    host.start();
    assert_eq!(CertificateFiles::request(&host, json!({})).chain[1], before.chain[1]);
    until_true("the key-encryption key is sealed to PCRs", || host.status()["seal"]["pcrs"] == json!([7]));
}

/// The daemon is killed at any moment after a new recovery key: everything encrypted with the previous key
/// must open.
#[test]
fn a_crash_while_keys_are_resealed_loses_no_issuing_ca() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.agent("leaver", "user = 0");
    host.start();
    let before = CertificateFiles::request(&host, json!({ "agent": "root" }));
    CertificateFiles::request(&host, json!({ "agent": "leaver" }));
    fs::remove_file(host.path("etc/agents.d/leaver.toml")).unwrap();
    host.reload();
    until_true("it is revoked", || stored(&host)["issuing"][0]["revoked"].as_array().unwrap().len() == 1);
    for _ in 0..5 {
        // Other files may still be written when the command returns.
        run(hostbadge(&host).args(["key", "recovery"]));
        host.crash();
        host.start();
        assert_eq!(CertificateFiles::request(&host, json!({})).chain[1], before.chain[1]);
        assert_eq!(stored(&host)["issuing"][0]["revoked"].as_array().unwrap().len(), 1);
        until_true("the previous key is removed", || {
            let text = fs::read_to_string(host.path("state/seal.json")).unwrap();
            !text.contains("previous")
        });
    }
}

#[test]
fn certificates_of_a_removed_agent_stay_on_the_crl() {
    let mut host = Host::started();
    host.agent("leaver", "user = 0");
    host.reload();
    let gone = CertificateFiles::request(&host, json!({ "agent": "leaver" }));
    let before_restart = CertificateFiles::request(&host, json!({ "agent": "leaver" }));
    let stays = CertificateFiles::request(&host, json!({ "agent": "root" }));
    let revoked = |host: &Host| {
        let file = stored(host);
        let lists = file["issuing"].as_array().unwrap().iter();
        let all: Vec<String> = lists
            .flat_map(|ca| ca["revoked"].as_array().unwrap().clone())
            .map(|one| one.as_str().unwrap().split(':').next().unwrap().to_owned())
            .collect();
        all
    };
    assert!(revoked(&host).is_empty());
    // Issued certificates are known after a restart.
    host.stop();
    host.start();
    assert!(revoked(&host).is_empty());
    fs::remove_file(host.path("etc/agents.d/leaver.toml")).unwrap();
    host.reload();
    until_true("both are revoked", || revoked(&host).len() == 2);
    let mut wanted = [gone.serial(), before_restart.serial()];
    let mut found = revoked(&host);
    wanted.sort();
    found.sort();
    assert_eq!(found, wanted);
    assert!(!found.contains(&stays.serial()));
    until_true("the revocation is in the audit log", || lines(&host, "certificates-revoked").len() == 1);
    let line = &lines(&host, "certificates-revoked")[0];
    assert!(line["detail"].as_str().unwrap().contains("2 certificates of spiffe://"), "{line}");

    // The agent is added again: old certificates stay revoked, new ones are valid.
    host.agent("leaver", "user = 0");
    host.reload();
    host.crash();
    host.start();
    let new = CertificateFiles::request(&host, json!({ "agent": "leaver" }));
    let mut found = revoked(&host);
    found.sort();
    assert_eq!(found, wanted);
    assert!(!found.contains(&new.serial()));
}

// === the command ===

/// A process that is killed on drop.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_certificate_command_prints_or_writes_files() {
    let host = Host::started();
    let text = run(hostbadge(&host).arg("certificate"));
    assert_eq!(
        (text.matches("BEGIN CERTIFICATE").count(), text.matches("BEGIN PRIVATE KEY").count()),
        (2, 1)
    );
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("svid");
    run(hostbadge(&host).args(["certificate", "--output"]).arg(&out));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&out), 0o700);
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    for name in ["cert.pem", "key.pem", "combined.pem", "bundle.pem"] {
        assert_eq!(mode(&out.join(name)), 0o600, "{name}");
    }
    assert_eq!(read("combined.pem"), read("cert.pem") + &read("key.pem"));
    let typo = hostbadge(&host)
        .args(["certificate", "--output"])
        .arg(dir.path().join("typo/svid"))
        .output()
        .unwrap();
    assert_eq!((typo.status.code(), dir.path().join("typo").exists()), (Some(1), false));
    let request = csr(dir.path(), &P256, &[]);
    fs::write(dir.path().join("a.csr"), request).unwrap();
    let text = run(hostbadge(&host).args(["certificate", "--csr"]).arg(dir.path().join("a.csr")));
    assert!(text.contains("BEGIN CERTIFICATE") && !text.contains("PRIVATE"));
    let both = hostbadge(&host).args(["certificate", "--output", "a", "--watch", "b"]).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

// === mutual TLS ===

/// An openssl TLS program with an agent's certificate and key, and trusted roots.
fn openssl(program: &str, mine: &CertificateFiles, roots: &CertificateFiles, socket: &Path) -> Command {
    let mut command = Command::new("openssl");
    command.arg(program).arg("-unix").arg(socket);
    command.arg("-cert").arg(mine.path("cert.pem")).arg("-key").arg(mine.path("key.pem"));
    command.arg("-cert_chain").arg(mine.path("cert.pem")).arg("-CAfile").arg(roots.path("bundle.pem"));
    command.args(["-verify_return_error", "-no_ssl3", "-no_tls1", "-no_tls1_1"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A server that sends each line back reversed.
fn server(mine: &CertificateFiles, roots: &CertificateFiles, socket: &Path) -> Started {
    let mut command = openssl("s_server", mine, roots, socket);
    command.args(["-Verify", "3", "-rev"]).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Started(command.spawn().unwrap());
    connect_when_listening(socket);
    server
}

/// The reply to "hello" by an openssl client; `None` if the handshake fails.
fn hello(mine: &CertificateFiles, roots: &CertificateFiles, socket: &Path) -> Option<String> {
    use std::io::{BufRead, BufReader, Write};
    let mut command = openssl("s_client", mine, roots, socket);
    command.args(["-verify", "3", "-quiet"]).stderr(Stdio::null());
    let mut client = Started(command.spawn().unwrap());
    let mut say = client.0.stdin.take().unwrap();
    let _ = say.write_all(b"hello\n");
    let mut reply = String::new();
    let _ = BufReader::new(client.0.stdout.take().unwrap()).read_line(&mut reply);
    (!reply.is_empty()).then(|| reply.trim_end().to_owned())
}

mod tls {
    //! The same with rustls, whose verifier compares the server's SPIFFE ID instead of a DNS name.

    use std::io::{self, BufRead, BufReader, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::server::WebPkiClientVerifier;
    use rustls::server::danger::ClientCertVerifier;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    use super::CertificateFiles;

    fn roots(of: &CertificateFiles) -> Arc<dyn ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(of.path("bundle.pem")).unwrap() {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap()
    }

    /// Accepts a server with a chain to the roots, whatever its name.
    #[derive(Debug)]
    struct AnyOfDomain(Arc<dyn ClientCertVerifier>);

    impl ServerCertVerifier for AnyOfDomain {
        fn verify_server_cert(
            &self,
            leaf: &CertificateDer<'_>,
            between: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            now: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            self.0.verify_client_cert(leaf, between, now).map(|_| ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.0.verify_tls12_signature(message, leaf, signature)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.0.verify_tls13_signature(message, leaf, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.supported_verify_schemes()
        }
    }

    /// Sends "hello" over TLS and returns the reply.
    pub fn hello(
        mine: &CertificateFiles,
        believed: &CertificateFiles,
        mut stream: UnixStream,
    ) -> io::Result<String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyOfDomain(roots(believed))))
            .with_client_auth_cert(mine.certificates(), mine.key().into())
            .unwrap();
        let name = ServerName::try_from("agent.internal").unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut tls = rustls::Stream::new(&mut connection, &mut stream);
        tls.write_all(b"hello\n")?;
        let mut reply = String::new();
        BufReader::new(tls).read_line(&mut reply)?;
        Ok(reply.trim_end().to_owned())
    }

    /// Serves one connection: sends its line back reversed.
    pub fn serve_one(
        mine: &CertificateFiles,
        believed: &CertificateFiles,
        listener: &UnixListener,
    ) -> io::Result<()> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(roots(believed))
            .with_single_cert(mine.certificates(), mine.key().into())
            .unwrap();
        let (mut stream, _) = listener.accept()?;
        let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
        let mut tls = rustls::Stream::new(&mut connection, &mut stream);
        let mut said = String::new();
        BufReader::new(&mut tls).read_line(&mut said)?;
        let back: String = said.trim_end().chars().rev().collect();
        tls.write_all(format!("{back}\n").as_bytes())?;
        tls.conn.send_close_notify();
        // The client may have closed the connection after its reply.
        let _ = tls.flush();
        Ok(())
    }
}

#[test]
fn mutual_tls_works_within_a_trust_domain_and_fails_across() {
    let host = Host::started();
    host.agent("server", "user = 0");
    host.reload();
    let client = CertificateFiles::request(&host, json!({ "agent": "root" }));
    let serving = CertificateFiles::request(&host, json!({ "agent": "server" }));
    let mut elsewhere = Host::other();
    elsewhere.agent("root", "user = 0");
    elsewhere.start();
    let foreign = CertificateFiles::request(&elsewhere, json!({}));
    let domain = |held: &CertificateFiles| uris(&held.leaf()).1[0].split('/').nth(2).unwrap().to_owned();
    assert_ne!(domain(&client), domain(&foreign));
    assert!(!foreign.verified(&client.path("bundle.pem")).status.success());
    assert!(foreign.verified(&foreign.path("bundle.pem")).status.success());
    let dir = tempfile::tempdir().unwrap();

    // An openssl server.
    let socket = dir.path().join("openssl");
    let _server = server(&serving, &serving, &socket);
    let connect = || std::os::unix::net::UnixStream::connect(&socket).unwrap();
    assert_eq!(hello(&client, &client, &socket).as_deref(), Some("olleh"));
    assert_eq!(tls::hello(&client, &client, connect()).unwrap(), "olleh");
    // The server refuses a client of another trust domain, and such a client refuses the server.
    assert_eq!(hello(&foreign, &client, &socket), None);
    assert_ne!(tls::hello(&foreign, &client, connect()).unwrap_or_default(), "olleh");
    assert_eq!(hello(&client, &foreign, &socket), None);
    assert!(tls::hello(&client, &foreign, connect()).is_err());

    // A rustls server.
    let socket = dir.path().join("rustls");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let connect = || std::os::unix::net::UnixStream::connect(&socket).unwrap();
    std::thread::scope(|scope| {
        let served: Vec<bool> = {
            let serve = scope.spawn(|| {
                (0..4).map(|_| tls::serve_one(&serving, &serving, &listener).is_ok()).collect::<Vec<_>>()
            });
            assert_eq!(hello(&client, &client, &socket).as_deref(), Some("olleh"));
            assert_eq!(tls::hello(&client, &client, connect()).unwrap(), "olleh");
            assert_eq!(hello(&foreign, &client, &socket), None);
            assert_ne!(tls::hello(&foreign, &client, connect()).unwrap_or_default(), "olleh");
            serve.join().unwrap()
        };
        assert_eq!(served, [true, true, false, false]);
    });
}
