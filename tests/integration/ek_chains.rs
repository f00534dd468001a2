//! Chains of EK certificates as TPM manufacturers make them, made by OpenSSL for the EK of a software TPM,
//! with variants that must be refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::Host;
use crate::common::machine::Machine;
use crate::ek_certificates::{P256_INDEX, RSA_INDEX, USUAL, define, written};
use data_encoding::BASE64_MIME;
use hostbadge::clock::{Clock, Timestamp};
use hostbadge::verify::evidence::{CheckOutcome, Evidence};
use hostbadge::verify::{Ek, EkKey, ManufacturerRoots};
use serde_json::json;

/// "a nonce of 18 bytes"
const NONCE: &str = "YSBub25jZSBvZiAxOCBieXRlcw";

const ROOT: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
                    subjectKeyIdentifier=hash\n";
/// Without policies: each case adds its own.
const CA: &str = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
                  subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";
const ANY_POLICY: &str = "certificatePolicies=critical,2.5.29.32.0\n";
/// Without purpose and key identifier.
const BARE_EK: &str = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,keyAgreement\n\
                       subjectAltName=critical,dirName:tpm\n";
const PURPOSE: &str = "extendedKeyUsage=2.23.133.8.1\n";

/// Sections that the extensions refer to.
const SECTIONS: &str = "[req]\ndistinguished_name=dn\n[dn]\n\
    [tpm]\na1.2.23.133.2.1=id:00000000\na2.2.23.133.2.2=Example\na3.2.23.133.2.3=id:00010002\n\
    [tpm_base]\na1.2.23.133.2.1=ID:00000000\n[other_base]\na1.2.23.133.2.1=id:00000001\n\
    [policies]\np=SEQUENCE:policy\n[policy]\nid=OID:1.2.3.4\nqualifiers=SEQUENCE:qualifiers\n\
    [qualifiers]\nq=SEQUENCE:qualifier\n[qualifier]\nid=OID:1.2.3.4.5\nvalue=IA5:text\n";

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const RSA_2048: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const RSA_3072: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"];

/// A root, an intermediate CA below it, and the certificate of an EK: keys, digests, extensions.
#[derive(Clone)]
struct Chain {
    root: (&'static [&'static str], &'static str, String),
    ca: (&'static [&'static str], &'static str, String),
    ek: (&'static str, String),
    serial: &'static str,
}

fn usual() -> Chain {
    Chain {
        root: (P256, "-sha256", ROOT.into()),
        ca: (P256, "-sha256", CA.to_owned() + ANY_POLICY),
        ek: ("-sha256", BARE_EK.to_owned() + PURPOSE + "authorityKeyIdentifier=keyid\n"),
        serial: "9",
    }
}

fn with_root(extensions: impl Into<String>) -> Chain {
    Chain { root: (P256, "-sha256", extensions.into()), ..usual() }
}

fn with_ca(extensions: impl Into<String>) -> Chain {
    Chain { ca: (P256, "-sha256", extensions.into()), ..usual() }
}

fn with_ek(extensions: impl Into<String>) -> Chain {
    Chain { ek: ("-sha256", extensions.into()), ..usual() }
}

#[track_caller]
fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A manufacturer's files, for the EK of one TPM.
struct Manufacturer {
    dir: tempfile::TempDir,
    ek: Ek,
}

impl Manufacturer {
    fn of(evidence: &Evidence) -> Manufacturer {
        let manufacturer = Manufacturer {
            dir: tempfile::tempdir().unwrap(),
            ek: evidence.endorsement_keys().unwrap().p256.0,
        };
        let EkKey::P256(point) = &manufacturer.ek.key else { panic!("not a P-256 EK") };
        /// SubjectPublicKeyInfo of P-256, up to the point.
        const SPKI: &[u8] =
            b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\
            \x03\x01\x07\x03\x42\x00";
        let body = BASE64_MIME.encode(&[SPKI, point].concat());
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", body.trim_end());
        fs::write(manufacturer.path("ek.pub"), pem).unwrap();
        manufacturer
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Makes a chain. Returns the directory with root and intermediate, and the EK's certificate (DER).
    fn make(&self, name: &str, chain: &Chain) -> (PathBuf, Vec<u8>) {
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        let file = |file: &str| dir.join(file).to_str().unwrap().to_owned();
        let config = |extensions: &str| {
            fs::write(file("config"), format!("[x]\n{extensions}{SECTIONS}")).unwrap();
            file("config")
        };
        let key = |algorithm: &[&str], to: &str| openssl(&[&["genpkey"], algorithm, &["-out", to]].concat());
        let (root_key, ca_key, csr) = (file("root.key"), file("ca.key"), file("csr"));
        let (root, ca, ek) = (file("root.pem"), file("ca.pem"), file("ek"));
        key(chain.root.0, &root_key);
        key(chain.ca.0, &ca_key);
        let extensions = config(&chain.root.2);
        let names = ["-subj", "/O=Maker/CN=Root", "-days", "7000", "-out", &root];
        let how = ["req", "-x509", "-new", "-key", &root_key, chain.root.1, "-config", &extensions];
        openssl(&[&how[..], &names, &["-extensions", "x"]].concat());
        let issue = |(subject, key): (&str, &str),
                     issuer: (&str, &str),
                     digest,
                     extensions: &str,
                     more: &[&str]| {
            let extensions = config(extensions);
            openssl(&["req", "-new", "-key", key, "-subj", subject, "-config", &extensions, "-out", &csr]);
            let how = ["x509", "-req", "-in", &csr, "-CA", issuer.0, "-CAkey", issuer.1, digest];
            let what = ["-days", "5000", "-extfile", &extensions, "-extensions", "x"];
            openssl(&[&how[..], &what, more].concat());
        };
        let (by_root, by_ca) = ((root.as_str(), root_key.as_str()), (ca.as_str(), ca_key.as_str()));
        let more = ["-set_serial", "7", "-out", &ca];
        issue(("/O=Maker/CN=CA", &ca_key), by_root, chain.ca.1, &chain.ca.2, &more);
        let ek_key = self.path("ek.pub");
        let more = ["-set_serial", chain.serial, "-force_pubkey", &ek_key, "-outform", "DER", "-out", &ek];
        issue(("/", &ca_key), by_ca, chain.ek.0, &chain.ek.1, &more);
        let certificate = fs::read(ek).unwrap();
        (dir, certificate)
    }

    /// Verifies a chain at a time, the present if `None`.
    fn verify(&self, name: &str, chain: &Chain, at: Option<Timestamp>) -> Result<String, String> {
        let (dir, certificate) = self.make(name, chain);
        let roots = ManufacturerRoots::read_dir(&dir).unwrap();
        assert!(roots.passed_over().is_empty(), "{name}: {:?}", roots.passed_over());
        let now = at.unwrap_or_else(|| Clock::System.now());
        roots.verify_ek(&self.ek, &certificate, &[], now).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn accepts(&self, name: &str, chain: &Chain) {
        let verified = self.verify(name, chain, None);
        assert_eq!(verified, Ok("CN=CA,O=Maker".into()), "{name}");
    }

    #[track_caller]
    fn refuses(&self, name: &str, chain: &Chain, reason: &str) {
        let error = self.verify(name, chain, None).expect_err(name);
        assert!(error.contains(reason), "{name}: {error}");
    }
}

fn evidence(host: &Host) -> Evidence {
    let response = host.post("/v1/attest", json!({ "nonce": NONCE }));
    assert_eq!(response.status, 200, "{}", response.text());
    Evidence::parse(response.body.as_slice()).unwrap()
}

#[test]
fn chains_as_manufacturers_make_them_are_accepted() {
    let manufacturer = Manufacturer::of(&evidence(&Host::started()));
    let with_policy = |policy: &str| usual().ek.1 + &format!("certificatePolicies=critical,{policy}\n");
    let explicit = "policyConstraints=critical,requireExplicitPolicy:0\n";
    let policy_ca = CA.to_owned() + explicit;
    for (name, chain) in [
        ("critical-policies", usual()),
        ("no-policies", with_ca(CA)),
        ("purpose-of-ca", with_ca(CA.to_owned() + ANY_POLICY + "extendedKeyUsage=critical,2.23.133.8.1\n")),
        (
            "p384",
            Chain { root: (P384, "-sha384", ROOT.into()), ca: (P384, "-sha384", usual().ca.2), ..usual() },
        ),
        ("p384-root-over-p256", Chain { root: (P384, "-sha384", ROOT.into()), ..usual() }),
        (
            "rsa-3072",
            Chain {
                root: (RSA_3072, "-sha256", ROOT.into()),
                ca: (RSA_2048, "-sha512", usual().ca.2),
                ..usual()
            },
        ),
        ("no-purpose-no-key-id", with_ek(BARE_EK)),
        ("root-by-sha1", Chain { root: (RSA_2048, "-sha1", ROOT.into()), ..usual() }),
        (
            "root-without-extensions",
            Chain {
                root: (P256, "-sha256", String::new()),
                ..with_ca(CA.replace("authorityKeyIdentifier=keyid\n", "") + ANY_POLICY)
            },
        ),
        ("negative-serial", Chain { serial: "-1234567", ..usual() }),
        ("long-serial", Chain { serial: "0x0102030405060708090a0b0c0d0e0f10111213141516171819", ..usual() }),
        ("policy-in-ek", with_ek(with_policy("1.2.3.4"))),
        (
            "explicit-any",
            Chain {
                ca: (P256, "-sha256", policy_ca.clone() + ANY_POLICY),
                ..with_ek(with_policy("1.2.3.4"))
            },
        ),
        (
            "explicit-same",
            Chain {
                ca: (P256, "-sha256", policy_ca + "certificatePolicies=critical,1.2.3.4,1.2.3.5\n"),
                ..with_ek(with_policy("1.2.3.4"))
            },
        ),
        ("inhibit-any-alone", with_ca(CA.to_owned() + ANY_POLICY + "inhibitAnyPolicy=critical,0\n")),
        ("permitted-name", with_ca(CA.to_owned() + "nameConstraints=critical,permitted;dirName:tpm_base\n")),
        (
            "excluded-other-name",
            with_ca(CA.to_owned() + "nameConstraints=critical,excluded;dirName:other_base\n"),
        ),
        (
            "other-kind-of-name",
            with_ca(CA.to_owned() + "nameConstraints=critical,permitted;DNS:example.org\n"),
        ),
    ] {
        manufacturer.accepts(name, &chain);
    }
}

#[test]
fn chains_that_break_a_rule_are_refused() {
    let manufacturer = Manufacturer::of(&evidence(&Host::started()));
    let critical = "1.2.3.4=critical,ASN1:NULL\n";
    let policy_ca = CA.to_owned() + "policyConstraints=critical,requireExplicitPolicy:0\n";
    let with_policy = |policy: &str| usual().ek.1 + &format!("certificatePolicies={policy}\n");
    let under = |ca: String, ek: String| Chain { ca: (P256, "-sha256", ca), ..with_ek(ek) };
    let ca_without = |what: &str| {
        usual()
            .ca
            .2
            .lines()
            .filter(|line| !line.contains(what))
            .fold(String::new(), |text, line| text + line + "\n")
    };
    let unknown = "it has a critical extension that is unknown here";
    let names = "the name constraints of a CA above it do not permit its name";
    let policy = "a CA above it requires a policy that it does not have";
    for (name, chain, reason) in [
        ("unknown-in-root", with_root(ROOT.to_owned() + critical), unknown),
        ("unknown-in-ca", with_ca(CA.to_owned() + critical), unknown),
        ("unknown-in-ek", with_ek(usual().ek.1 + critical), unknown),
        (
            "root-no-ca",
            with_root("basicConstraints=critical,CA:FALSE\n"),
            "\"CN=Root,O=Maker\": it is not a CA's",
        ),
        (
            "root-path-length",
            with_root(ROOT.replace("CA:TRUE", "CA:TRUE,pathlen:0")),
            "its path length allows fewer",
        ),
        ("ca-no-ca", with_ca("basicConstraints=critical,CA:FALSE\n"), "\"CN=CA,O=Maker\": it is not a CA's"),
        ("ca-no-constraints", with_ca(ca_without("basicConstraints")), "it is not a CA's"),
        ("ca-usage", with_ca(CA.replace("keyCertSign,", "")), "its key usage does not allow"),
        (
            "ca-purpose",
            with_ca(CA.to_owned() + "extendedKeyUsage=serverAuth\n"),
            "is not for EK certificates",
        ),
        (
            "ek-purpose",
            with_ek(BARE_EK.to_owned() + "extendedKeyUsage=serverAuth\n"),
            "is not for EK certificates",
        ),
        (
            "ek-usage",
            with_ek(BARE_EK.replace("keyAgreement", "digitalSignature")),
            "its key usage is not that of an EK",
        ),
        ("ek-ca", with_ek(BARE_EK.replace("CA:FALSE", "CA:TRUE")), "it is a CA's, and not an EK's"),
        (
            "ca-by-sha1",
            Chain { root: (RSA_2048, "-sha256", ROOT.into()), ca: (P256, "-sha1", usual().ca.2), ..usual() },
            "\"CN=CA,O=Maker\": its signature is made with SHA-1",
        ),
        ("ek-by-sha1", Chain { ek: ("-sha1", usual().ek.1), ..usual() }, "its signature is made with SHA-1"),
        ("explicit-none", under(policy_ca.clone() + ANY_POLICY, usual().ek.1), policy),
        (
            "explicit-other",
            under(policy_ca.clone() + "certificatePolicies=1.2.3.5\n", with_policy("1.2.3.4")),
            policy,
        ),
        (
            "explicit-any-inhibited",
            under(
                policy_ca.clone() + "inhibitAnyPolicy=critical,0\ncertificatePolicies=1.2.3.4\n",
                with_policy("2.5.29.32.0"),
            ),
            policy,
        ),
        (
            "explicit-and-mapped",
            under(
                policy_ca + ANY_POLICY + "policyMappings=critical,1.2.3.4:1.2.3.5\n",
                with_policy("1.2.3.5"),
            ),
            "maps policies, which is not supported",
        ),
        (
            "unknown-qualifier",
            with_ca(CA.to_owned() + "2.5.29.32=critical,ASN1:SEQUENCE:policies\n"),
            "have a qualifier that is unknown here",
        ),
        ("excluded-name", with_ca(CA.to_owned() + "nameConstraints=excluded;dirName:tpm_base\n"), names),
        (
            "root-excludes",
            with_root(ROOT.to_owned() + "nameConstraints=critical,excluded;dirName:tpm_base\n"),
            names,
        ),
        (
            "not-permitted",
            with_ca(CA.to_owned() + "nameConstraints=critical,permitted;dirName:other_base\n"),
            names,
        ),
        (
            "other-kind",
            under(
                CA.to_owned() + "nameConstraints=critical,permitted;DNS:example.org\n",
                BARE_EK.replace("dirName:tpm", "dirName:tpm,DNS:example.org"),
            ),
            "constrains names of a kind that is not evaluated",
        ),
    ] {
        manufacturer.refuses(name, &chain, reason);
    }
}

#[test]
fn a_chain_is_bound_to_its_keys_and_its_time() {
    let host = Host::started();
    let evidence = evidence(&host);
    let manufacturer = Manufacturer::of(&evidence);
    let year = |year: u64| Timestamp::from_secs((year - 1970) * 31_556_952);
    let error = manufacturer.verify("early", &usual(), Some(year(2001))).unwrap_err();
    assert!(error.contains("it is not valid yet"), "{error}");
    let error = manufacturer.verify("late", &usual(), Some(year(2099))).unwrap_err();
    assert!(error.contains("it has expired"), "{error}");

    let (one, certificate) = manufacturer.make("one", &usual());
    let (other, _) = manufacturer.make("other", &usual());
    let now = Clock::System.now();
    let verify = |dir: &Path, chain: &[Vec<u8>]| {
        let roots = ManufacturerRoots::read_dir(dir).unwrap();
        roots.verify_ek(&manufacturer.ek, &certificate, chain, now).map_err(|error| error.to_string())
    };
    // The same names with other keys.
    let error = verify(&other, &[]).unwrap_err();
    assert!(error.contains("there is no certificate of \"CN=CA,O=Maker\""), "{error}");
    fs::remove_file(other.join("root.pem")).unwrap();
    fs::copy(one.join("root.pem"), other.join("root.pem")).unwrap();
    verify(&other, &[]).unwrap_err();
    // The intermediate comes from the TPM, among others that do not help.
    let ca = one.join("ca.der");
    openssl(&[
        "x509",
        "-in",
        one.join("ca.pem").to_str().unwrap(),
        "-outform",
        "DER",
        "-out",
        ca.to_str().unwrap(),
    ]);
    verify(&other, &[b"rubbish".to_vec(), fs::read(&ca).unwrap()]).unwrap();
    // A signed part that was changed, and another EK.
    let roots = ManufacturerRoots::read_dir(&one).unwrap();
    let mut changed = certificate.clone();
    let at = changed.windows(7).position(|some| some == b"Example").unwrap();
    changed[at] ^= 1;
    roots.verify_ek(&manufacturer.ek, &changed, &[], now).unwrap_err();
    let (rsa, _) = evidence.endorsement_keys().unwrap().rsa.unwrap();
    let error = roots.verify_ek(&rsa, &certificate, &[], now).unwrap_err().to_string();
    assert!(error.contains("the certificate is for another key"), "{error}");
}

#[test]
fn each_ek_certificate_gives_its_own_reason() {
    let evidence = evidence(&Host::started());
    let manufacturer = Manufacturer::of(&evidence);
    let (dir, _) = manufacturer.make("foreign", &usual());
    let roots = ManufacturerRoots::read_dir(&dir).unwrap();
    let check = evidence.check_ek_certificate_trust(Some(&roots), false, Clock::System.now());
    assert_eq!(check.outcome, CheckOutcome::Fail);
    for ek in ["P-256", "RSA"] {
        let reason = format!("the {ek} EK's certificate: it does not lead to a trusted root: there is no");
        assert!(check.detail.contains(&reason), "{}", check.detail);
    }
}

#[test]
fn the_commands_of_the_operator_accept_a_chain_with_critical_policies() {
    let mut machine = Machine::new();
    machine.set_deadline(Duration::from_secs(20));
    machine.start();
    let manufacturer = Manufacturer::of(&evidence(&machine.host));
    let (dir, certificate) = manufacturer.make("maker", &usual());
    fs::write(dir.join("empty.pem"), "").unwrap();
    assert!(machine.host.stop().success());
    define(&machine, P256_INDEX, &written(USUAL, certificate));
    machine.tool("tpm2_nvundefine", &["-C", "p", RSA_INDEX]);
    machine.start();

    let path = |name: &str| manufacturer.path(name);
    let run = |arguments: &[&str]| {
        let output: Output = machine.host.hostbadge(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {stdout}{stderr}");
        (stdout, stderr)
    };
    let roots = dir.to_str().unwrap();
    let status = machine.host.status();
    let (file, ak) = (path("evidence"), status["tpm"]["ak_name"].as_str().unwrap());
    run(&["attest", "--nonce", NONCE, "--output", &file]);
    let (stdout, stderr) =
        run(&["verify", "evidence", &file, "--nonce", NONCE, "--ak", ak, "--roots", roots]);
    assert!(stdout.contains("the P-256 EK is certified by CN=CA,O=Maker"), "{stdout}");
    assert!(stderr.contains("passed over") && stderr.contains("empty.pem: is empty"), "{stderr}");

    let (request, secret, challenge) = (path("request"), path("secret"), path("challenge"));
    run(&["enroll", "request", "--output", &request]);
    let files = ["--secret", &secret, "--output", &challenge];
    let how = ["enroll", "challenge", &request, "--any-trust-domain", "--roots", roots];
    let (stdout, _) = run(&[&how[..], &files].concat());
    assert!(stdout.contains("CN=CA,O=Maker"), "{stdout}");
}

/// One odd file does not keep the others from being used, and is named.
#[test]
fn odd_files_among_the_roots_are_named_and_passed_over() {
    let manufacturer = Manufacturer::of(&evidence(&Host::started()));
    let (dir, certificate) = manufacturer.make("odd", &usual());
    let file = |name: &str| dir.join(name);
    let text = |name: &str| file(name).to_str().unwrap().to_owned();
    let pem = fs::read(file("root.pem")).unwrap();
    let der = |name: &str| fs::read(file(name)).unwrap();
    for name in ["root", "ca"] {
        let (from, to) = (text(&format!("{name}.pem")), text(&format!("{name}.bin")));
        openssl(&["x509", "-in", &from, "-outform", "DER", "-out", &to]);
    }
    let (root, ca) = (der("root.bin"), der("ca.bin"));
    // These are used: with a byte order mark, with line ends of another system, with text before, padded.
    fs::write(file("root.pem"), [b"\xEF\xBB\xBF", &pem[..]].concat()).unwrap();
    let lines = String::from_utf8(pem.clone()).unwrap();
    fs::write(file("crlf.pem"), format!("subject=Maker\n{}", lines.replace('\n', "\r\n"))).unwrap();
    fs::write(file("padded.der"), [&root[..], &[0, 0]].concat()).unwrap();
    fs::write(file("two.cer"), [&root[..], &ca].concat()).unwrap();
    // These are not.
    fs::write(file("empty.pem"), "").unwrap();
    fs::write(file("words.crt"), "no certificate").unwrap();
    fs::write(file("cut.der"), &root[..100]).unwrap();
    fs::write(file("utf16.pem"), [0xFF, 0xFE, b'-', 0]).unwrap();
    fs::create_dir(file("directory.pem")).unwrap();
    std::os::unix::fs::symlink("nowhere", file("dangling.pem")).unwrap();
    nix::unistd::mkfifo(&file("fifo.pem"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let broken = lines.replacen("MII", "M!!", 1);
    assert_ne!(broken, lines);
    fs::write(file("broken.pem"), format!("{broken}{lines}")).unwrap();
    openssl(&["x509", "-in", &text("root.pem"), "-trustout", "-out", &text("trusted.pem")]);
    openssl(&["crl2pkcs7", "-nocrl", "-certfile", &text("ca.pem"), "-out", &text("bundle.pem")]);
    let bundle = ["-outform", "DER", "-out", &text("bundle.der")].map(str::to_owned);
    let bundle = bundle.each_ref().map(String::as_str);
    openssl(&[&["crl2pkcs7", "-nocrl", "-certfile", &text("ca.pem")], &bundle[..]].concat());

    let roots = ManufacturerRoots::read_dir(&dir).unwrap();
    roots.verify_ek(&manufacturer.ek, &certificate, &[], Clock::System.now()).unwrap();
    let named: Vec<String> = roots
        .passed_over()
        .iter()
        .map(|one| format!("{}: {}", one.file.file_name().unwrap().to_str().unwrap(), one.reason))
        .collect();
    let expected = [
        "broken.pem: certificate 1: ",
        "bundle.der: is PKCS#7",
        "bundle.pem: is PKCS#7",
        "cut.der: certificate 1: not a certificate: it is not complete",
        "dangling.pem: No such file",
        "directory.pem: is a directory",
        "empty.pem: is empty",
        "fifo.pem: is not a regular file",
        "trusted.pem: has OpenSSL's TRUSTED CERTIFICATE",
        "utf16.pem: is a text in UTF-16",
        "words.crt: has no certificate in it",
    ];
    assert_eq!(named.len(), expected.len(), "{named:#?}");
    for (named, expected) in named.iter().zip(expected) {
        assert!(named.starts_with(expected), "{named:?} {expected:?}");
    }
}
