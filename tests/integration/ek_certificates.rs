//! NV indices of EK certificates in the conditions in which manufacturers, firmwares and hypervisors leave
//! them. The host issues with each of them, evidence goes without the certificate, and the TPM does not count
//! a failed authorization.

use std::fs;
use std::time::Duration;

use crate::common::machine::Machine;
use hostbadge::verify::evidence::Evidence;
use serde_json::{Value, json};

/// "a nonce of 18 bytes"
const NONCE: &str = "YSBub25jZSBvZiAxOCBieXRlcw";
const NONCE_BYTES: &[u8] = b"a nonce of 18 bytes";

pub const P256_INDEX: &str = "0x01C0000A";
pub const RSA_INDEX: &str = "0x01C00002";

/// As the EK Credential Profile recommends.
pub const USUAL: &str = "ppwrite|ppread|ownerread|authread|no_da|platformcreate";

/// An NV index: its attributes, its password, its content if it is written.
pub struct Index<'a> {
    attributes: &'a str,
    password: Option<&'a str>,
    content: Option<Vec<u8>>,
}

pub fn written(attributes: &str, content: impl Into<Vec<u8>>) -> Index<'_> {
    Index { attributes, password: None, content: Some(content.into()) }
}

fn read_certificate(machine: &Machine, index: &str) -> Vec<u8> {
    let file = machine.host.path("certificate.der");
    machine.tool("tpm2_nvread", &["-C", "p", "-o", file.to_str().unwrap(), index]);
    let mut bytes = fs::read(file).unwrap();
    bytes.truncate(4 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]])));
    bytes
}

pub fn define(machine: &Machine, number: &str, index: &Index<'_>) {
    machine.tool("tpm2_nvundefine", &["-C", "p", number]);
    let size = index.content.as_ref().map_or(600, Vec::len).to_string();
    let mut arguments = vec!["-C", "p", "-s", &size, "-a", index.attributes];
    arguments.extend(index.password.map(|password| ["-p", password]).into_iter().flatten());
    machine.tool("tpm2_nvdefine", &[&arguments[..], &[number]].concat());
    if let Some(content) = &index.content {
        let file = machine.host.path("content");
        fs::write(&file, content).unwrap();
        machine.tool("tpm2_nvwrite", &["-C", "p", "-i", file.to_str().unwrap(), number]);
    }
}

#[track_caller]
fn attested(machine: &Machine) -> Value {
    let response = machine.host.post("/v1/attest", json!({ "nonce": NONCE }));
    assert_eq!(response.status, 200, "{}", response.text());
    let document = response.json();
    let checks = Evidence::parse(document.to_string().as_bytes()).unwrap().check(NONCE_BYTES);
    assert!(checks.iter().all(|check| check.is_acceptable()), "{checks:#?}");
    document
}

#[track_caller]
fn assert_nothing_counted(machine: &Machine) {
    let properties = machine.tool("tpm2_getcap", &["properties-variable"]);
    let counter = properties.lines().find_map(|line| line.strip_prefix("TPM2_PT_LOCKOUT_COUNTER: "));
    assert_eq!(counter.map(str::trim), Some("0x0"), "{properties}");
}

/// Starts the daemon with this P-256 index. Returns the certificate in evidence, and the fault in the status.
#[track_caller]
fn attest_with(machine: &mut Machine, index: &Index<'_>) -> (Option<String>, Option<String>) {
    define(machine, P256_INDEX, index);
    machine.start();
    let document = attested(machine);
    attested(machine);
    let status = machine.host.status();
    assert_eq!(status["tpm"]["ek_certificate"], json!(document["ek_certificate"].is_string()), "{status}");
    assert_nothing_counted(machine);
    assert!(machine.host.stop().success());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    (text(&document["ek_certificate"]), text(&status["tpm"]["ek_certificate_fault"]))
}

#[test]
fn an_index_that_does_not_give_a_certificate_stops_nothing() {
    let mut machine = Machine::new();
    // The machine that runs the tests may be busy.
    machine.set_deadline(Duration::from_secs(20));
    let (own, rsa) = (read_certificate(&machine, P256_INDEX), read_certificate(&machine, RSA_INDEX));
    let unwritten = Index { attributes: USUAL, password: None, content: None };
    let counted = "ppwrite|ppread|authread|platformcreate";
    let locked = |attributes| Index { password: Some("secret"), ..written(attributes, own.clone()) };
    let cases = [
        (unwritten, "it was never written"),
        (locked(counted), "TPMA_NV_NO_DA is clear"),
        (locked("ppwrite|ppread|authread|no_da|platformcreate"), "authorization failure"),
        (written(counted, own.clone()), "TPMA_NV_NO_DA is clear"),
        (written("ppwrite|ppread|policyread|platformcreate", own.clone()), "only the platform's firmware"),
        (written(USUAL, [0xFF; 700]), "it holds padding alone"),
        (written(USUAL, [0; 700]), "it holds padding alone"),
        (written(USUAL, *b"Virtual TPM"), "it does not hold a certificate"),
        (written(USUAL, &own[..200]), "is not complete"),
        (written(USUAL, [0x30, 3, 2, 1, 1]), "not a certificate"),
        (written(USUAL, rsa), "is for another key"),
    ];
    for (index, cause) in cases {
        let (certificate, fault) = attest_with(&mut machine, &index);
        let fault = fault.unwrap_or_default();
        assert_eq!(certificate, None, "{cause}");
        assert!(fault.contains("NV index 0x1c0000a") && fault.contains(cause), "{cause}: {fault}");
    }
}

#[test]
fn a_certificate_is_read_by_the_authorization_that_the_index_allows() {
    let mut machine = Machine::new();
    // The machine that runs the tests may be busy.
    machine.set_deadline(Duration::from_secs(20));
    let own = read_certificate(&machine, P256_INDEX);
    let padded = [&own[..], &[0xFF; 900]].concat();
    for (attributes, content) in [
        ("ppwrite|ppread|ownerread|platformcreate", &own),
        ("ppwrite|ppread|ownerread|authread|platformcreate", &own),
        ("ppwrite|ppread|authread|no_da|platformcreate", &own),
        (USUAL, &padded),
    ] {
        let (certificate, fault) = attest_with(&mut machine, &written(attributes, content.clone()));
        let certificate = certificate.map(|text| data_encoding::BASE64.decode(text.as_bytes()).unwrap());
        assert_eq!((certificate.as_ref(), fault), (Some(&own), None), "{attributes}");
    }
    // With a password of its own, the owner's authorization is the other way.
    let index = Index { password: Some("secret"), ..written(USUAL, own.clone()) };
    assert!(attest_with(&mut machine, &index).0.is_some());
}

#[test]
fn each_fault_is_reported_once() {
    let mut machine = Machine::with_journal();
    machine.set_deadline(Duration::from_secs(20));
    let own = read_certificate(&machine, P256_INDEX);
    define(
        &machine,
        P256_INDEX,
        &Index {
            password: Some("secret"),
            ..written("ppwrite|ppread|authread|no_da|platformcreate", own.clone())
        },
    );
    define(&machine, RSA_INDEX, &written(USUAL, own));
    machine.start();
    let attest = || {
        let document = attested(&machine);
        assert_eq!((&document["ek_certificate"], &document["rsa_ek"]), (&Value::Null, &Value::Null));
    };
    attest();
    // Another connection to the same TPM.
    machine.power_cycle();
    machine.until_journaled("the TPM is reset");
    machine.until_healthy();
    attest();
    machine.until_journaled("for the certificate of the RSA EK: the certificate is for another key");
    let entries = machine.journal();
    for ek in ["P-256", "RSA"] {
        assert_eq!(entries.matches(&format!("for the certificate of the {ek} EK")).count(), 1, "{entries}");
    }
    assert_nothing_counted(&machine);
}
