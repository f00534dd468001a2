//! Enrollment by four files on software TPMs, with certificates of an OpenSSL CA, and with tpm2-tools as the
//! operator.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::callers::{Credentials, NOBODY};
use crate::common::{self, Host, copy_program, until_true};
use data_encoding::{BASE64, HEXLOWER};
use hostbadge::enroll::{ChallengeAnswer, ChallengeSecret, EnrollmentChallenge, EnrollmentRequest};
use hostbadge::tpm::SoftwareTpm;
use hostbadge::verify::HostCertificate;
use serde_json::{Value, json};

/// "a nonce of 18 bytes"
const NONCE: &str = "YSBub25jZSBvZiAxOCBieXRlcw";

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The command exits with status 1 and prints `why`.
#[track_caller]
fn refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(why), "{said}");
}

fn run(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// An operator's directory, with files by name and OpenSSL CAs.
pub struct Operator {
    dir: tempfile::TempDir,
}

impl Operator {
    fn new() -> Operator {
        let operator = Operator { dir: tempfile::tempdir().unwrap() };
        operator.ca("ca", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        operator
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn ca(&self, name: &str, key: &[&str]) {
        let (certificate, secret) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        let subject = format!("/O=Example/CN={name}");
        let rest =
            ["-x509", "-nodes", "-days", "30", "-subj", &subject, "-keyout", &secret, "-out", &certificate];
        let extension = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"];
        done(&run("openssl", &[&["req"], key, &rest[..], &extension].concat()));
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn save(&self, name: &str, document: &Value) {
        fs::write(self.path(name), document.to_string()).unwrap();
    }

    fn request(&self, host: &Host) {
        done(&host.hostbadge(&["enroll", "request", "--output", &self.path("request")]));
    }

    fn challenge(&self, host: &Host, name: &str) -> Output {
        let (request, roots) = (self.path("request"), manufacturer_roots(host));
        let (challenge, secret) = (self.path(name), self.path(&format!("{name}.secret")));
        let files = ["--secret", &secret, "--output", &challenge];
        host.hostbadge(
            &[
                &["enroll", "challenge", &request, "--any-trust-domain", "--roots", roots.to_str().unwrap()],
                &files[..],
            ]
            .concat(),
        )
    }

    fn activate(&self, host: &Host, name: &str) -> Output {
        host.hostbadge(&["enroll", "activate", &self.path(name), "--output", &self.path("answer")])
    }

    pub fn certify(&self, host: &Host, ca: &str) -> Output {
        self.certify_with(host, ca, &[])
    }

    fn certify_with(&self, host: &Host, ca: &str, more: &[&str]) -> Output {
        let [request, secret, answer] = ["request", "challenge.secret", "answer"].map(|name| self.path(name));
        let (certificate, key) = (self.path(&format!("{ca}.pem")), self.path(&format!("{ca}.key")));
        let host_certificate = self.path("host.pem");
        let files = ["--request", &request, "--secret", &secret, "--answer", &answer];
        let ca = ["--ca-cert", &certificate, "--ca-key", &key, "--output", &host_certificate];
        host.hostbadge(&[&["enroll", "certify"], &files[..], &ca, more].concat())
    }

    /// An operator with all files up to the answer.
    pub fn with_answer(host: &Host) -> Operator {
        let operator = Operator::new();
        operator.request(host);
        done(&operator.challenge(host, "challenge"));
        done(&operator.activate(host, "challenge"));
        operator
    }
}

/// A directory with the CA certificates of a software TPM's manufacturer.
fn manufacturer_roots(host: &Host) -> PathBuf {
    let roots = host.path("makers");
    fs::create_dir_all(&roots).unwrap();
    let mut found = 0;
    for item in fs::read_dir(host.path("tpm/tpm/ca")).unwrap() {
        let path = item.unwrap().path();
        if path.to_str().unwrap().ends_with("cert.pem") {
            fs::copy(&path, roots.join(path.file_name().unwrap())).unwrap();
            found += 1;
        }
    }
    assert_eq!(found, 2, "a root and an issuing CA");
    roots
}

fn other() -> Host {
    let mut other = Host::other();
    other.agent("root", "user = 0");
    other.start();
    other
}

fn verified(host: &Host, evidence: &str, words: &[&str]) -> (Option<i32>, String) {
    let output = host.hostbadge(&[&["verify", "evidence", evidence, "--nonce", NONCE], words].concat());
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn four_files_enroll_a_host() {
    let mut host = Host::started();
    let operator = Operator::new();
    operator.request(&host);
    let id = host.status()["host"]["id"].as_str().unwrap().to_owned();
    let told = done(&operator.challenge(&host, "challenge"));
    assert!(told.contains(&id) && told.contains("swtpm-localca"), "{told}");
    let secret = fs::metadata(operator.path("challenge.secret")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&secret.permissions()) & 0o777, 0o600);
    assert!(operator.json("challenge")["rsa"].is_object(), "each certified EK has its part");
    done(&operator.activate(&host, "challenge"));
    let told = done(&operator.certify(&host, "ca"));
    assert!(told.contains(&id) && told.contains("trust domain") && told.contains("swtpm-localca"), "{told}");
    assert!(!told.contains("left out"), "{told}");
    let evidence = operator.path("evidence");
    done(&host.hostbadge(&["attest", "--nonce", NONCE, "--output", &evidence]));
    let ca = operator.path("ca.pem");
    let (code, table) = verified(&host, &evidence, &["--ca-cert", &ca]);
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("no host certificate is in the evidence"), "{table}");
    let installed = done(&host.hostbadge(&["enroll", "install", &operator.path("host.pem")]));
    assert!(installed.contains("O=Example"), "{installed}");

    // OpenSSL verifies the certificate and shows its names.
    done(&run("openssl", &["verify", "-x509_strict", "-CAfile", &ca, &operator.path("host.pem")]));
    let text = done(&run("openssl", &["x509", "-noout", "-text", "-in", &operator.path("host.pem")]));
    assert!(text.contains(&format!("/host/{id}")) && text.contains("Digital Signature"), "{text}");
    assert!(text.contains("1.3.6.1.5.5.7.8.4") || text.contains("Hardware Module Name"), "{text}");

    // The certificate survives a restart and is in evidence, where it replaces the AK's Name.
    host.stop();
    host.start();
    assert!(host.status()["certificate"]["issuer"].as_str().unwrap().contains("O=Example"));
    done(&host.hostbadge(&["attest", "--nonce", NONCE, "--output", &evidence]));
    let roots = manufacturer_roots(&host);
    let roots = roots.to_str().unwrap();
    let (code, table) = verified(&host, &evidence, &["--ca-cert", &ca, "--roots", roots]);
    assert_eq!(code, Some(0), "{table}");
    let (_, table) = verified(&host, &evidence, &["--ca-cert", &ca]);
    assert!(table.contains("skipped"), "{table}");
    operator.ca("other_ca", &["-newkey", "rsa:2048"]);
    let (code, table) =
        verified(&host, &evidence, &["--ca-cert", &operator.path("other_ca.pem"), "--roots", roots]);
    assert_eq!((code, table.matches("FAILED").count()), (Some(1), 1), "{table}");

    let lines = host.audit();
    for event in ["enrollment-requested", "enrollment-answered", "certificate-installed"] {
        assert_eq!(common::audit_log::with_event(&lines, event).len(), 1, "{event}");
    }
}

/// Virtual machines and some chips have a certificate for one EK only.
#[test]
fn an_rsa_ek_certificate_alone_is_enough_with_a_host_certificate() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    let software = SoftwareTpm::start(&host.path("tpm")).unwrap();
    let undefined = Command::new("tpm2_nvundefine")
        .args(["-C", "p", "0x01C0000A"])
        .env("TPM2TOOLS_TCTI", software.tcti().to_string())
        .output()
        .unwrap();
    done(&undefined);
    software.stop().unwrap();
    host.start();
    let operator = Operator::with_answer(&host);
    assert_eq!(operator.json("request")["evidence"]["ek_certificate"], Value::Null);
    done(&operator.certify(&host, "ca"));
    done(&host.hostbadge(&["enroll", "install", &operator.path("host.pem")]));
    done(&host.hostbadge(&["attest", "--nonce", NONCE, "--output", &operator.path("evidence")]));
    let (evidence, ca, roots) =
        (operator.path("evidence"), operator.path("ca.pem"), manufacturer_roots(&host));
    let roots = roots.to_str().unwrap();
    let (code, table) = verified(&host, &evidence, &["--ca-cert", &ca, "--roots", roots]);
    assert_eq!(code, Some(0), "{table}");
    let ak = host.status()["tpm"]["ak_name"].as_str().unwrap().to_owned();
    let (code, table) = verified(&host, &evidence, &["--ak", &ak, "--roots", roots]);
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("only the RSA EK is certified"), "{table}");
}

#[test]
fn an_ak_that_certifies_another_host_key_is_refused() {
    let (host, other) = (Host::started(), other());
    let operator = Operator::with_answer(&host);
    done(&operator.certify(&host, "ca"));
    done(&host.hostbadge(&["enroll", "install", &operator.path("host.pem")]));
    let ours = host.post("/v1/attest", json!({ "nonce": NONCE })).json();
    let mut theirs = other.post("/v1/attest", json!({ "nonce": NONCE })).json();
    theirs["host_certificate"] = ours["host_certificate"].clone();
    operator.save("evidence", &theirs);
    let (code, table) = verified(&host, &operator.path("evidence"), &["--ca-cert", &operator.path("ca.pem")]);
    assert!(code == Some(1) && table.contains("for another key than the host key"), "{table}");
    // Only the AK is of another host.
    let mut mixed = ours.clone();
    for part in ["ak", "quote", "srk"] {
        mixed[part] = theirs[part].clone();
    }
    operator.save("evidence", &mixed);
    let (code, table) = verified(&host, &operator.path("evidence"), &["--ca-cert", &operator.path("ca.pem")]);
    assert!(code == Some(1) && table.contains("does not name this AK"), "{table}");
}

#[test]
fn a_challenge_is_answered_once_and_by_its_host_only() {
    let (mut host, other) = (Host::started(), other());
    let operator = Operator::new();
    operator.request(&host);
    done(&operator.challenge(&host, "challenge"));
    done(&operator.challenge(&host, "second"));
    refused(&operator.challenge(&host, "second"), "already exists, possibly for another challenge");
    refused(&operator.activate(&other, "challenge"), "the challenge is for host");

    // The AK of another TPM: its Name is in the credential.
    let mut forged = operator.json("challenge");
    forged["host"] = other.status()["host"]["id"].clone();
    operator.save("forged", &forged);
    refused(&operator.activate(&other, "forged"), "for another attestation key");
    forged["ak"] = other.status()["tpm"]["ak_name"].clone();
    operator.save("forged", &forged);
    refused(&operator.activate(&other, "forged"), "not pending on this host");
    let theirs = Operator::new();
    theirs.request(&other);
    done(&theirs.challenge(&other, "challenge"));
    forged["request"] = theirs.json("challenge")["request"].clone();
    operator.save("forged", &forged);
    refused(&operator.activate(&other, "forged"), "for another TPM or another attestation key");
    // Credential blobs swapped between hosts and between EKs.
    let mut swapped = operator.json("challenge");
    swapped["rsa"] = theirs.json("challenge")["rsa"].clone();
    operator.save("swapped", &swapped);
    refused(&operator.activate(&host, "swapped"), "for another TPM or another attestation key");
    swapped["rsa"] = swapped["p256"].clone();
    operator.save("swapped", &swapped);
    refused(&operator.activate(&host, "swapped"), "for another TPM or another attestation key");

    done(&operator.activate(&host, "challenge"));
    refused(&operator.activate(&host, "challenge"), "a challenge is answered once");
    refused(&operator.activate(&host, "second"), "another challenge for the same request was answered");
    done(&operator.certify(&host, "ca"));
    refused(&operator.certify(&host, "ca"), "answered and certified already");
    // With an older copy of its file a host would answer again; such a copy is refused.
    let file = host.path("state/enrollment.json");
    let later = fs::read(&file).unwrap();
    host.stop();
    let mut stored: Value = serde_json::from_slice(&later).unwrap();
    stored["answered"] = json!([]);
    stored["pending"] = json!([operator.json("challenge")["request"]]);
    fs::write(&file, stored.to_string()).unwrap();
    host.launch();
    until_true("the older copy is reported", || {
        host.log().contains("enrollment.json is not what this host wrote last")
    });
    host.stop();
    fs::write(&file, later).unwrap();
    host.start();
    refused(&operator.activate(&host, "challenge"), "a challenge is answered once");
    let lines = host.audit();
    let refused = common::audit_log::with_event(&lines, "request-refused");
    let steps = refused.iter().filter(|line| line.to_string().contains("/v1/enroll/activate: "));
    assert_eq!(steps.count(), 5, "{refused:#?}");
}

#[test]
fn a_credential_that_the_tpm_rejects_counts_for_the_admin_group() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[admin]\ngroup = \"daemon\"\n");
    host.start();
    fs::set_permissions(host.admin_socket(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let member = Credentials::user(NOBODY).group(1);
    let operator = Operator::new();
    operator.request(&host);
    done(&operator.challenge(&host, "challenge"));
    let mut junk = operator.json("challenge");
    junk["rsa"] = junk["p256"].clone();
    let junk = junk.to_string();
    let arguments = ["-H", "Content-Type: application/json", "-d", &junk];
    let activate = || member.curl_at(&host.admin_socket(), "/v1/enroll/activate", &arguments);
    for _ in 0..6 {
        let answer = activate();
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(answer.text().contains("for another TPM or another attestation key"), "{}", answer.text());
    }
    let answer = activate();
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.text().contains("at most 6 an hour and 24 a day"), "{}", answer.text());
    done(&operator.activate(&host, "challenge"));
}

#[test]
fn the_host_certificate_is_verified_up_to_the_last_one_given() {
    let host = Host::started();
    let operator = Operator::with_answer(&host);
    done(&operator.certify_with(&host, "ca", &["--signing"]));
    let file = operator.path("host.pem");
    let pem = fs::read_to_string(&file).unwrap();
    let chain = HostCertificate::from_pem(pem.as_bytes()).unwrap().chain().to_vec();
    let [own, ca, root] = &chain[..] else { panic!("{} certificates", chain.len()) };
    let install = |certificates: &[&[u8]]| {
        let text: String =
            certificates.iter().map(|der| hostbadge::enroll::pem("CERTIFICATE", der).unwrap()).collect();
        fs::write(&file, text).unwrap();
        host.hostbadge(&["enroll", "install", &file, "--yes"])
    };
    done(&install(&[own, ca, root]));
    let installed = host.status()["certificate"].clone();
    let mut flipped = own.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let other = fs::read(Operator::new().path("ca.pem")).unwrap();
    let other = HostCertificate::from_pem(&other).unwrap().chain()[0].clone();
    operator.ca("stranger", &["-newkey", "rsa:2048"]);
    let stranger = fs::read(operator.path("stranger.pem")).unwrap();
    let stranger = HostCertificate::from_pem(&stranger).unwrap().chain()[0].clone();
    let mut bad_root = root.clone();
    *bad_root.last_mut().unwrap() ^= 1;
    let unsigned = "its signature is not by the next certificate's key";
    refused(&install(&[&flipped, root]), unsigned);
    refused(&install(&[&flipped, ca, root]), unsigned);
    refused(&install(&[own, &other]), unsigned);
    refused(&install(&[own, &bad_root]), unsigned);
    refused(&install(&[own, &stranger]), "its issuer is not the next certificate");
    refused(&install(&[own, root, &stranger]), "its issuer is not the next certificate");
    // It would withdraw the permission to sign.
    refused(&install(&[ca]), "it is a CA's, and not the host's own");
    refused(&install(&[ca, root]), "it is a CA's, and not the host's own");
    assert_eq!(host.status()["certificate"], installed);
    done(&install(&[own, root]));
    done(&install(&[own]));
}

#[test]
fn a_root_whose_name_constraints_exclude_the_trust_domain_is_refused() {
    let host = Host::started();
    let operator = Operator::with_answer(&host);
    let own = roots_of_bundle(&host);
    let config = operator.path("constrained.conf");
    fs::write(
        &config,
        "[req]\ndistinguished_name = name\nx509_extensions = ext\nprompt = no\n[name]\nCN = constrained\n\
         [ext]\nbasicConstraints = critical,CA:TRUE\nsubjectKeyIdentifier = hash\n\
         nameConstraints = critical,permitted;URI:elsewhere.example\n",
    )
    .unwrap();
    operator.ca("constrained", &["-newkey", "rsa:2048", "-config", &config]);
    done(&operator.certify_with(&host, "constrained", &["--signing"]));
    let installed = host.hostbadge(&["enroll", "install", &operator.path("host.pem"), "--yes"]);
    refused(&installed, "its name constraints do not permit URIs of this host's trust domain");
    assert_eq!(roots_of_bundle(&host), own);
}

#[test]
fn an_answer_is_valid_for_its_request_and_challenge_only() {
    let (host, other) = (Host::started(), other());
    let (ours, theirs) = (Operator::with_answer(&host), Operator::with_answer(&other));
    let swap = |name: &str| {
        let kept = fs::read(ours.path(name)).unwrap();
        fs::copy(theirs.path(name), ours.path(name)).unwrap();
        kept
    };
    for (name, why) in [
        ("request", "the secret is another request's"),
        ("answer", "it answers another challenge"),
        ("challenge.secret", "the secret is another request's"),
    ] {
        let kept = swap(name);
        refused(&ours.certify(&host, "ca"), why);
        fs::write(ours.path(name), kept).unwrap();
    }
    let mut answer = ours.json("answer");
    answer["proof"] = theirs.json("answer")["proof"].clone();
    let kept = fs::read(ours.path("answer")).unwrap();
    ours.save("answer", &answer);
    refused(&ours.certify(&host, "ca"), "its proof is not what the host's TPM would have found");
    fs::write(ours.path("answer"), kept).unwrap();

    // A certificate that is not a CA, and a key of another CA, are refused and use up nothing.
    ours.ca("another", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"]);
    let kept = fs::read(ours.path("ca.key")).unwrap();
    fs::copy(ours.path("another.key"), ours.path("ca.key")).unwrap();
    refused(&ours.certify(&host, "ca"), "not the one that the CA's certificate is for");
    fs::write(ours.path("ca.key"), kept).unwrap();
    done(&ours.certify(&host, "ca"));
    // A certificate for another key is not installed.
    refused(&other.hostbadge(&["enroll", "install", &ours.path("host.pem")]), "for another key");
    refused(&host.hostbadge(&["enroll", "install", &ours.path("ca.pem")]), "for another key");
    refused(&host.hostbadge(&["enroll", "install", &ours.path("answer")]), "no certificate in it");
}

#[test]
fn a_tpm_needs_an_ek_certificate_of_a_trusted_manufacturer() {
    let (host, other) = (Host::started(), other());
    let operator = Operator::new();
    operator.request(&host);
    let (request, secret) = (operator.path("request"), operator.path("secret"));
    let challenge = |words: &[&str]| {
        let all = [&["enroll", "challenge", &request, "--secret", &secret], words].concat();
        host.hostbadge(&all)
    };
    assert_eq!(challenge(&[]).status.code(), Some(2), "--roots or --no-roots is required");
    assert_eq!(
        challenge(&["--no-roots"]).status.code(),
        Some(2),
        "--trust-domain or --any-trust-domain is required"
    );
    let challenge = |words: &[&str]| {
        let any = if words.contains(&"--trust-domain") { &[][..] } else { &["--any-trust-domain"] };
        challenge(&[words, any].concat())
    };
    let foreign = manufacturer_roots(&other);
    refused(
        &challenge(&["--roots", foreign.to_str().unwrap()]),
        "no TPM manufacturer certifies an EK of this host",
    );
    let empty = operator.path("empty");
    fs::create_dir(&empty).unwrap();
    refused(&challenge(&["--roots", &empty]), "there is no root certificate");
    fs::write(Path::new(&empty).join("x.pem"), "nothing").unwrap();
    refused(&challenge(&["--roots", &empty]), "x.pem: has no certificate in it");
    assert!(!Path::new(&secret).exists());
    refused(&challenge(&["--no-roots", "--host", "somebody"]), "the request is for another host");
    refused(
        &challenge(&["--no-roots", "--trust-domain", "example.org"]),
        "the request is for another trust domain",
    );
    assert!(!Path::new(&secret).exists());
    done(&challenge(&[
        "--no-roots",
        "--host",
        operator.json("request")["evidence"]["host"].as_str().unwrap(),
    ]));
}

#[test]
fn cas_of_each_key_type_sign_and_an_external_ca_gets_a_csr() {
    let host = Host::started();
    let operator = Operator::with_answer(&host);
    let kept = fs::read(operator.path("challenge.secret")).unwrap();
    operator.ca("p384", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"]);
    operator.ca("rsa", &["-newkey", "rsa:3072"]);
    operator.ca("sec1", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    operator.ca("pkcs1", &["-newkey", "rsa:2048"]);
    for (name, kind) in [("sec1", "ec"), ("pkcs1", "rsa")] {
        let (from, to) = (operator.path(&format!("{name}.key")), operator.path("converted"));
        let traditional = ["-traditional"];
        let more: &[&str] = if kind == "rsa" { &traditional } else { &[] };
        done(&run("openssl", &[&[kind, "-in", &from, "-out", &to], more].concat()));
        assert!(!fs::read_to_string(&to).unwrap().contains("BEGIN PRIVATE KEY"));
        fs::rename(to, from).unwrap();
    }
    for ca in ["p384", "rsa", "sec1", "pkcs1"] {
        fs::write(operator.path("challenge.secret"), &kept).unwrap();
        done(&operator.certify(&host, ca));
        let (root, certificate) = (operator.path(&format!("{ca}.pem")), operator.path("host.pem"));
        done(&run("openssl", &["verify", "-x509_strict", "-CAfile", &root, &certificate]));
        done(&host.hostbadge(&["enroll", "install", &certificate]));
    }
    fs::write(operator.path("challenge.secret"), &kept).unwrap();
    let [request, secret, answer, csr] =
        ["request", "challenge.secret", "answer", "csr.pem"].map(|f| operator.path(f));
    let files =
        ["--request", &request, "--secret", &secret, "--answer", &answer, "--csr-only", "--output", &csr];
    done(&host.hostbadge(&[&["enroll", "certify"], &files[..]].concat()));
    let text = done(&run("openssl", &["req", "-noout", "-verify", "-text", "-in", &csr]));
    assert!(text.contains("/host/"), "{text}");
    let (ca, key, signed) = (operator.path("rsa.pem"), operator.path("rsa.key"), operator.path("signed.pem"));
    let how = ["-CA", &ca, "-CAkey", &key, "-copy_extensions", "copy", "-days", "3", "-out", &signed];
    done(&run("openssl", &[&["x509", "-req", "-in", &csr], &how[..]].concat()));
    done(&host.hostbadge(&["enroll", "install", &signed]));
    let evidence = operator.path("evidence");
    done(&host.hostbadge(&["attest", "--nonce", NONCE, "--output", &evidence]));
    let (code, table) = verified(&host, &evidence, &["--ca-cert", &ca]);
    assert_eq!(code, Some(0), "{table}");
}

#[test]
fn tpm2_makecredential_can_create_the_credential() {
    let (host, other) = (Host::started(), other());
    let operator = Operator::new();
    operator.request(&host);
    let evidence = operator.json("request")["evidence"].clone();
    let ak = host.status()["tpm"]["ak_name"].as_str().unwrap().to_owned();
    fs::write(operator.path("secret"), b"what only the TPM gives out").unwrap();
    for (member, kind, wrong) in [("ek", "ecc", "rsa"), ("rsa_ek", "rsa", "ecc")] {
        let public = BASE64.decode(evidence[member].as_str().unwrap().as_bytes()).unwrap();
        fs::write(operator.path("ek.pub"), public).unwrap();
        let (ek, secret, credential) =
            (operator.path("ek.pub"), operator.path("secret"), operator.path("credential"));
        let tool = ["--tcti", "none", "-u", &ek, "-s", &secret, "-n", &ak, "-o", &credential];
        done(&run("tpm2_makecredential", &tool));
        let open = |host: &Host, kind: &str| {
            host.hostbadge(&["enroll", "activate", "--credential", &credential, "--ek", kind])
        };
        assert_eq!(done(&open(&host, kind)), "what only the TPM gives out");
        refused(&open(&host, wrong), "the credential is for another TPM");
        refused(&open(&other, kind), "the credential is for another TPM");
        let whole = fs::read(&credential).unwrap();
        for at in [0, 7, 9, 20, whole.len() - 1] {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            fs::write(&credential, bad).unwrap();
            assert_eq!(open(&host, kind).status.code(), Some(1), "byte {at}");
        }
    }
}

/// Otherwise a caller that has credentials opened could answer challenges in the host's place.
#[test]
fn a_challenge_is_not_opened_as_a_plain_credential() {
    let host = Host::started();
    let operator = Operator::new();
    operator.request(&host);
    done(&operator.challenge(&host, "challenge"));
    for round in ["pending", "answered"] {
        for (part, kind) in [("p256", "ecc"), ("rsa", "rsa")] {
            let mut file = [0xBADC_C0DE_u32.to_be_bytes(), 1_u32.to_be_bytes()].concat();
            for member in ["id_object", "seed"] {
                let sealed = operator.json("challenge")[part][member].as_str().unwrap().to_owned();
                let bytes = BASE64.decode(sealed.as_bytes()).unwrap();
                file.extend((bytes.len() as u16).to_be_bytes());
                file.extend(bytes);
            }
            let credential = operator.path("credential");
            fs::write(&credential, file).unwrap();
            let opened = host.hostbadge(&["enroll", "activate", "--credential", &credential, "--ek", kind]);
            refused(&opened, "part of a hostbadge challenge");
            assert!(opened.stdout.is_empty(), "{round}");
        }
        if round == "pending" {
            done(&operator.activate(&host, "challenge"));
        }
    }
}

/// A certificate by an untrusted CA beside the manufacturer's: any CA can certify a public key.
#[test]
fn an_untrusted_ek_certificate_is_left_out_of_the_host_certificate() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    let operator = Operator::new();
    operator.ca("other_ca", &["-newkey", "rsa:2048"]);
    let software = SoftwareTpm::start(&host.path("tpm")).unwrap();
    let tpm2 = |words: &[&str]| {
        let output = Command::new(words[0])
            .args(&words[1..])
            .env("TPM2TOOLS_TCTI", software.tcti().to_string())
            .output();
        done(&output.unwrap())
    };
    let [made, key, forged] = ["made.der", "ek.pem", "forged.der"].map(|name| operator.path(name));
    tpm2(&["tpm2_nvread", "-C", "o", "0x01C00002", "-o", &made]);
    fs::write(&key, done(&run("openssl", &["x509", "-inform", "DER", "-in", &made, "-noout", "-pubkey"])))
        .unwrap();
    let (ca, ca_key) = (operator.path("other_ca.pem"), operator.path("other_ca.key"));
    let who = ["x509", "-new", "-force_pubkey", &key, "-subj", "/CN=forged", "-days", "30"];
    let by = ["-CA", &ca, "-CAkey", &ca_key, "-outform", "DER", "-out", &forged];
    done(&run("openssl", &[&who[..], &by].concat()));
    tpm2(&["tpm2_nvundefine", "-C", "p", "0x01C00002"]);
    let size = fs::metadata(&forged).unwrap().len().to_string();
    let how = "ppwrite|ppread|ownerread|authread|no_da|platformcreate";
    tpm2(&["tpm2_nvdefine", "-C", "p", "-s", &size, "-a", how, "0x01C00002"]);
    tpm2(&["tpm2_nvwrite", "-C", "p", "-i", &forged, "0x01C00002"]);
    software.stop().unwrap();
    host.start();
    let names = |operator: &Operator| {
        let pem = fs::read(operator.path("host.pem")).unwrap();
        let certificate = HostCertificate::from_pem(&pem).unwrap();
        [("forged", &forged), ("P-256", &operator.path("p256.der"))]
            .map(|(_, file)| certificate.san_contains_ek_certificate(&fs::read(file).unwrap()))
    };
    operator.request(&host);
    let p256 = operator.json("request")["evidence"]["ek_certificate"].as_str().unwrap().to_owned();
    fs::write(operator.path("p256.der"), BASE64.decode(p256.as_bytes()).unwrap()).unwrap();
    let told = done(&operator.challenge(&host, "challenge"));
    assert!(told.contains("1 without a chain to a root"), "{told}");
    done(&operator.activate(&host, "challenge"));
    let told = done(&operator.certify(&host, "ca"));
    assert!(told.contains("1 without a chain to a root"), "{told}");
    assert_eq!(names(&operator), [false, true]);
}

/// Operators run the command on machines without libtss2.
#[test]
fn the_operator_needs_no_tpm_library() {
    common::require_root();
    let host = Host::started();
    let operator = Operator::new();
    operator.request(&host);
    let root = operator.dir.path().join("root");
    let program = env!("CARGO_BIN_EXE_hostbadge");
    let libraries = done(&run("ldd", &[program]));
    assert!(!libraries.contains("tss2"), "{libraries}");
    let inside = |from: &str| {
        let to = root.join(from.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        copy_program(from, &to, "");
    };
    libraries.split_whitespace().filter(|word| word.starts_with('/')).for_each(inside);
    copy_program(program, &root.join("hostbadge"), "");
    fs::create_dir_all(root.join("makers")).unwrap();
    for item in fs::read_dir(manufacturer_roots(&host)).unwrap() {
        let path = item.unwrap().path();
        fs::copy(&path, root.join("makers").join(path.file_name().unwrap())).unwrap();
    }
    let into = |name: &str| {
        fs::copy(operator.path(name), root.join(name)).unwrap();
    };
    let run_without_tpm = |words: &[&str]| {
        let all = [&[root.to_str().unwrap(), "/hostbadge"], words].concat();
        Command::new("chroot").args(all).output().unwrap()
    };
    into("request");
    let files = ["--secret", "/secret", "--output", "/challenge"];
    let how = ["enroll", "challenge", "/request", "--any-trust-domain", "--roots", "/makers"];
    done(&run_without_tpm(&[&how, &files[..]].concat()));
    fs::copy(root.join("challenge"), operator.path("challenge")).unwrap();
    done(&operator.activate(&host, "challenge"));
    ["answer", "ca.pem", "ca.key"].iter().for_each(|name| into(name));
    let files = ["--request", "/request", "--secret", "/secret", "--answer", "/answer"];
    let ca = ["--ca-cert", "/ca.pem", "--ca-key", "/ca.key", "--output", "/host.pem"];
    done(&run_without_tpm(&[&["enroll", "certify"], &files[..], &ca].concat()));
    fs::copy(root.join("host.pem"), operator.path("host.pem")).unwrap();
    done(&host.hostbadge(&["enroll", "install", &operator.path("host.pem")]));
    done(&host.hostbadge(&["attest", "--nonce", NONCE, "--output", &operator.path("evidence")]));
    into("evidence");
    let judge = ["--nonce", NONCE, "--ca-cert", "/ca.pem", "--roots", "/makers"];
    done(&run_without_tpm(&[&["verify", "evidence", "/evidence"], &judge[..]].concat()));
}

/// A changed file differs from the original or is refused, a truncated one is refused. The files are parsed
/// in this process, since there are thousands.
#[test]
fn a_changed_byte_in_any_of_the_four_files_is_noticed() {
    let host = Host::started();
    let operator = Operator::with_answer(&host);
    let [request, challenge, secret, answer] = ["request", "challenge", "challenge.secret", "answer"]
        .map(|name| fs::read(operator.path(name)).unwrap());
    let whole = EnrollmentRequest::parse(&request).unwrap().check().unwrap();
    let judged = |secret: &[u8], answer: &[u8]| {
        let answer = ChallengeAnswer::parse(answer).map_err(|e| e.to_string())?;
        ChallengeSecret::parse(secret)
            .and_then(|secret| secret.verify_answer(&whole, &answer))
            .map_err(|e| e.to_string())
    };
    judged(&secret, &answer).unwrap();
    let flips = |text: &[u8], step: usize, holds: &dyn Fn(&[u8]) -> bool| {
        let end = text.trim_ascii_end().len();
        for at in (0..end).step_by(step) {
            let mut changed = text.to_vec();
            changed[at] ^= 1;
            assert!(
                !holds(&changed),
                "byte {at}: {}",
                String::from_utf8_lossy(&text[at.saturating_sub(20)..at])
            );
            assert!(!holds(&text[..at]), "cut at {at}");
        }
    };
    flips(&secret, 1, &|text| judged(text, &answer).is_ok());
    flips(&answer, 1, &|text| judged(&secret, text).is_ok());
    flips(&request, 17, &|text| EnrollmentRequest::parse(text).and_then(|request| request.check()).is_ok());
    // Only the TPM can check a challenge; here a changed one must not be read as the original.
    let read = EnrollmentChallenge::parse(&challenge).unwrap();
    flips(&challenge, 1, &|text| EnrollmentChallenge::parse(text).is_ok_and(|other| other == read));

    // The TPM checks each part of a credential, at some bytes of each.
    operator.request(&host);
    fs::remove_file(operator.path("challenge.secret")).unwrap();
    done(&operator.challenge(&host, "challenge"));
    let good = operator.json("challenge");
    for (key, part) in [("p256", "id_object"), ("p256", "seed"), ("rsa", "id_object"), ("rsa", "seed")] {
        let bytes = BASE64.decode(good[key][part].as_str().unwrap().as_bytes()).unwrap();
        for at in (0..bytes.len()).step_by(23).chain([bytes.len() - 1]) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            let mut bad = good.clone();
            bad[key][part] = json!(BASE64.encode(&bytes));
            let answer = host.admin().post("/v1/enroll/activate", &bad);
            assert_eq!(answer.status, 422, "byte {at} of {key} {part}: {}", answer.text());
        }
    }
    let mut bad = good.clone();
    bad["id"] = json!(HEXLOWER.encode(&[7; 16]));
    operator.save("challenge", &bad);
    done(&operator.activate(&host, "challenge"));
    refused(&operator.certify(&host, "ca"), "it answers another challenge");
}

/// The chain length of an agent's certificate, and whether it verifies up to the CA.
fn issued(host: &Host, operator: &Operator, ca: &str) -> (usize, bool) {
    let answer = host.post("/v1/certificate", json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let chain = answer.json()["certificate_chain"].as_str().unwrap().to_owned();
    let file = operator.path("agent.pem");
    fs::write(&file, &chain).unwrap();
    let root = operator.path(ca);
    let verified = run("openssl", &["verify", "-x509_strict", "-CAfile", &root, "-untrusted", &file, &file]);
    (chain.matches("BEGIN CERTIFICATE").count(), verified.status.success())
}

fn roots_of_bundle(host: &Host) -> Vec<String> {
    let document = host.get("/v1/bundle").json();
    let keys = document["keys"].as_array().unwrap().iter();
    keys.filter_map(|key| key["x5c"][0].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_host_with_ca_permission_issues_below_the_organization_root() {
    let mut host = Host::started();
    let operator = Operator::with_answer(&host);
    let own = roots_of_bundle(&host);
    assert_eq!((issued(&host, &operator, "ca.pem"), own.len()), ((2, false), 1));
    let config = operator.path("narrow.conf");
    fs::write(
        &config,
        "[req]\ndistinguished_name = name\nx509_extensions = ext\nprompt = no\n[name]\nCN = narrow\n[ext]\n\
         basicConstraints = critical,CA:TRUE,pathlen:1\nsubjectKeyIdentifier = hash\n",
    )
    .unwrap();
    operator.ca("narrow", &["-newkey", "rsa:2048", "-config", &config]);
    refused(&operator.certify_with(&host, "narrow", &["--signing"]), "allows 1 CAs below it");

    done(&operator.certify_with(&host, "ca", &["--signing"]));
    done(&host.hostbadge(&["enroll", "install", &operator.path("host.pem"), "--yes"]));
    common::until_true("it issues below the organization's root", || {
        issued(&host, &operator, "ca.pem") == (3, true)
    });
    // Certificates issued before still verify with the host's own root.
    let roots = roots_of_bundle(&host);
    assert_eq!((roots.len(), &roots[1]), (2, &own[0]));
    let ca = done(&run("openssl", &["x509", "-outform", "PEM", "-in", &operator.path("ca.pem")]));
    let ca: String = ca.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(roots[0], ca);
    host.stop();
    host.start();
    assert_eq!(issued(&host, &operator, "ca.pem"), (3, true));
    // The host certificate is otherwise the same.
    assert!(host.status()["certificate"]["issuer"].as_str().unwrap().contains("O=Example"));
    let evidence = operator.path("evidence");
    done(&host.hostbadge(&["attest", "--nonce", NONCE, "--output", &evidence]));
    let roots = manufacturer_roots(&host);
    let words = ["--ca-cert", &operator.path("ca.pem"), "--roots", roots.to_str().unwrap()];
    assert_eq!(verified(&host, &evidence, &words).0, Some(0));

    // A host certificate without the permission ends it.
    let operator = Operator::with_answer(&host);
    done(&operator.certify(&host, "ca"));
    done(&host.hostbadge(&["enroll", "install", &operator.path("host.pem")]));
    common::until_true("it issues below its own root", || issued(&host, &operator, "ca.pem") == (2, false));
    assert_eq!(roots_of_bundle(&host), own);

    // A delegation for another trust domain is refused.
    let operator = Operator::with_answer(&host);
    done(&operator.certify_with(&host, "ca", &["--signing"]));
    host.stop();
    host.configure("trust_domain = \"elsewhere.example\"");
    host.start();
    let installed = host.hostbadge(&["enroll", "install", &operator.path("host.pem"), "--yes"]);
    refused(&installed, "not for the trust domain of this host, spiffe://elsewhere.example");
    assert_ne!(roots_of_bundle(&host), own, "another trust domain has another root");
}

/// Whoever decides which root the bundle has can mint SVIDs for every agent of the trust domain.
#[test]
fn the_admin_group_cannot_change_the_roots_of_the_trust_bundle() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[admin]\ngroup = \"daemon\"\n");
    host.start();
    fs::set_permissions(host.admin_socket(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let operator = Operator::with_answer(&host);
    let own = roots_of_bundle(&host);
    let member = Credentials::user(NOBODY).group(1);
    let install = |request: &Value| {
        operator.save("body", request);
        let body = format!("@{}", operator.path("body"));
        fs::set_permissions(operator.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let arguments = ["-H", "Content-Type: application/json", "-d", &body];
        member.curl_at(&host.admin_socket(), "/v1/enroll/install", &arguments)
    };
    done(&operator.certify_with(&host, "ca", &["--signing"]));
    let signing = fs::read_to_string(operator.path("host.pem")).unwrap();
    let digest = fingerprint(&operator.path("ca.pem"));
    let answer = install(&json!({ "certificate": signing, "root_sha256": digest }));
    assert_eq!((answer.status, answer.error().as_str()), (403, "access_denied"));
    assert_eq!(roots_of_bundle(&host), own);

    done(&host.hostbadge(&["enroll", "install", &operator.path("host.pem"), "--root-sha256", &digest]));
    until_true("the root is in the bundle", || roots_of_bundle(&host).len() == 2);
    assert_eq!(host.status()["certificate"]["signing_root_sha256"], json!(digest));
    // Nor withdraw a root.
    let operator = Operator::with_answer(&host);
    done(&operator.certify(&host, "ca"));
    let plain = fs::read_to_string(operator.path("host.pem")).unwrap();
    let answer = install(&json!({ "certificate": plain }));
    assert_eq!((answer.status, answer.error().as_str()), (403, "access_denied"));
    assert_eq!(roots_of_bundle(&host).len(), 2);
    let lines = host.audit();
    let installed = common::audit_log::with_event(&lines, "certificate-installed");
    assert_eq!(installed.len(), 1);
    assert!(installed[0].to_string().contains(&digest), "{}", installed[0]);
}

#[test]
fn a_chain_that_signs_is_verified_and_its_root_is_named() {
    let host = Host::started();
    let operator = Operator::with_answer(&host);
    let own = roots_of_bundle(&host);
    done(&operator.certify_with(&host, "ca", &["--signing"]));
    let (file, digest) = (operator.path("host.pem"), fingerprint(&operator.path("ca.pem")));
    let good = fs::read_to_string(&file).unwrap();

    // Nobody can answer the question.
    let asked = host.hostbadge(&["enroll", "install", &file]);
    refused(&asked, "give its digest with --root-sha256, or --yes");
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(said.contains("CN=ca") && said.contains(&digest), "{said}");
    let asked = host.hostbadge(&["--json", "enroll", "install", &file]);
    let error: Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!((asked.status.code(), &error["error"]), (Some(1), &json!("command_failed")));
    let why = error["error_description"].as_str().unwrap();
    assert!(why.contains("give its digest with --root-sha256, or --yes"), "{error}");
    let other = "00".repeat(32);
    refused(
        &host.hostbadge(&["enroll", "install", &file, "--root-sha256", &other]),
        "another SHA-256 digest",
    );
    // The daemon asks for the digest too.
    let answer = host.admin().post("/v1/enroll/install", &json!({ "certificate": good }));
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains(&digest), "{}", answer.text());
    let answer =
        host.admin().post("/v1/enroll/install", &json!({ "certificate": good, "root_sha256": other }));
    assert_eq!(answer.status, 422);

    // A root of the same name and another key: the names of the chain match, its signatures do not.
    let forger = Operator::new();
    let end = "-----END CERTIFICATE-----\n";
    let (chain, _) = good.trim_end_matches(end).rsplit_once(end).unwrap();
    let with_root = |root: &str| {
        fs::write(&file, format!("{chain}{end}{root}")).unwrap();
        host.hostbadge(&["enroll", "install", &file, "--yes"])
    };
    let forged = fs::read_to_string(forger.path("ca.pem")).unwrap();
    refused(&with_root(&forged), "its signature is not by the next certificate's key");
    // A root whose own signature is not valid.
    let root = fs::read_to_string(operator.path("ca.pem")).unwrap();
    let mut der = HostCertificate::from_pem(root.as_bytes()).unwrap().chain()[0].clone();
    *der.last_mut().unwrap() ^= 1;
    let bad_root = hostbadge::enroll::pem("CERTIFICATE", &der).unwrap();
    refused(&with_root(&bad_root), "its signature is not by the next certificate's key");
    // A root that is no CA, with the key of the one that signed.
    let (key, config, leaf) =
        (operator.path("ca.key"), operator.path("leaf.conf"), operator.path("leaf.pem"));
    for (extensions, why) in [
        ("basicConstraints = critical,CA:FALSE", "it is not a CA's"),
        ("basicConstraints = critical,CA:TRUE,pathlen:1", "its path length allows fewer CAs below it"),
        ("basicConstraints = critical,CA:TRUE\nkeyUsage = critical,cRLSign", "does not allow to sign"),
        ("basicConstraints = critical,CA:TRUE\n1.2.3.4 = critical,DER:0500", "critical extension"),
    ] {
        let text = "[req]\ndistinguished_name = name\nx509_extensions = ext\nprompt = no\n[name]\nO = Example\n\
                    CN = ca\n[ext]\n";
        fs::write(&config, format!("{text}{extensions}\n")).unwrap();
        let what = ["req", "-x509", "-key", &key, "-config", &config, "-days", "30", "-out", &leaf];
        done(&run("openssl", &what));
        refused(&with_root(&fs::read_to_string(&leaf).unwrap()), why);
    }
    assert_eq!(roots_of_bundle(&host), own);

    fs::write(&file, good).unwrap();
    let colons = done(&run(
        "openssl",
        &["x509", "-noout", "-fingerprint", "-sha256", "-in", &operator.path("ca.pem")],
    ));
    let colons = colons.trim().split_once('=').unwrap().1;
    let installed = done(&host.hostbadge(&["--json", "enroll", "install", &file, "--root-sha256", colons]));
    let installed: Value = serde_json::from_str(&installed).unwrap();
    assert_eq!(installed["signing_root_sha256"], json!(digest));
    until_true("the root is in the bundle", || roots_of_bundle(&host).len() == 2);
}

/// SHA-256 of a certificate by OpenSSL, in lower-case hexadecimal.
fn fingerprint(file: &str) -> String {
    let said = done(&run("openssl", &["x509", "-noout", "-fingerprint", "-sha256", "-in", file]));
    said.trim().split_once('=').unwrap().1.replace(':', "").to_lowercase()
}
