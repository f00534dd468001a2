//! What was issued to processes that no longer match: tokens, JWT-SVIDs and certificates after a change of
//! `[match]`, of a grant, or of the number of a name.

use std::fs;
use std::time::Duration;

use crate::common::callers::NOBODY;
use crate::common::grpc::{Empty, Grpc, UNAVAILABLE, WitRequest, WitResponse, X509Bundles, X509Response};
use crate::common::name_service::NameService;
use crate::common::{API, Host, until_true};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;

const OTHER: &str = "https://other.example.com";

/// What the agent `subject` holds.
struct Held {
    token: String,
    svid: String,
}

impl Held {
    /// A token, a JWT-SVID and a certificate of the agent `subject`, which is root.
    #[track_caller]
    fn request(host: &Host) -> Held {
        let ask = |target: &str, body: Value| {
            let answer = host.post(target, body);
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.json()
        };
        let token = ask("/v1/token", json!({ "audience": API, "agent": "subject" }));
        ask("/v1/certificate", json!({ "agent": "subject" }));
        let svids = Grpc::connect(&host.workload_socket()).jwt(&[API], "").unwrap();
        let svid = svids.into_iter().find(|svid| svid.spiffe_id.ends_with("/subject")).unwrap();
        Held { token: token["access_token"].as_str().unwrap().to_owned(), svid: svid.svid }
    }

    /// Whether token and JWT-SVID are valid.
    fn is_valid(&self, host: &Host) -> (bool, bool) {
        let token = host.introspect(&self.token)["active"].as_bool().unwrap();
        (token, Grpc::connect(&host.workload_socket()).validate(API, &self.svid).is_ok())
    }

    /// Asserts that the tokens are invalid, and waits until the certificate is revoked.
    #[track_caller]
    fn assert_ended(&self, host: &Host) {
        assert_eq!(self.is_valid(host), (false, false));
        until_true("the certificate is revoked", || revoked(host) == 1);
    }
}

/// A host on which root is the agents `subject` and `reader`.
fn host() -> Host {
    let host = Host::new();
    host.agent("reader", "user = 0");
    host.agent("subject", "user = 0");
    host
}

/// How many certificates of `subject` are revoked.
fn revoked(host: &Host) -> usize {
    let text = fs::read_to_string(host.path("state/ca.json")).unwrap();
    let ca: Value = serde_json::from_str(&text).unwrap();
    let cas = ca["issuing"].as_array().unwrap();
    cas.iter().map(|ca| ca["revoked"].as_array().unwrap().len()).sum()
}

/// What the audit log says about revocations.
fn revocations(host: &Host) -> Vec<String> {
    let lines = host.audit();
    let lines = crate::common::audit_log::with_event(&lines, "certificates-revoked");
    lines.iter().map(|line| line["detail"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_changed_match_ends_what_was_issued_before() {
    let mut host = host();
    host.start();
    let held = Held::request(&host);
    assert_eq!(held.is_valid(&host), (true, true));

    host.agent("subject", &format!("user = {NOBODY}"));
    host.reload();
    held.assert_ended(&host);
    until_true("the revocation is recorded", || revocations(&host).len() == 1);
    assert!(revocations(&host)[0].contains("matched by other conditions now"), "{:?}", revocations(&host));
    let lines = host.audit();
    let last = crate::common::audit_log::with_event(&lines, "introspected").pop().unwrap().to_string();
    assert!(last.contains("matched by other conditions"), "{last}");

    // What is issued from now on is valid, and the certificate of the other agent always was.
    host.agent("subject", "user = 0\ngroup = 0");
    host.reload();
    let later = Held::request(&host);
    assert_eq!((later.is_valid(&host), held.is_valid(&host)), ((true, true), (false, false)));
    assert_eq!(revoked(&host), 1);
}

/// Also those that no list revokes, and while the TPM, which counts the changes of the lists, is unavailable.
#[test]
fn streams_replace_svids_of_other_conditions() {
    const WAIT: Duration = Duration::from_secs(10);
    let mut host = Host::new();
    host.agent("subject", "user = 0");
    host.start();
    let client = Grpc::connect(&host.workload_socket());
    let mut x509 = client.stream("FetchX509SVID", &Empty {}).unwrap();
    let mut wit = client.stream("FetchWITSVID", &WitRequest::default()).unwrap();
    let certificate: X509Response = client.next(&mut x509, WAIT).unwrap().unwrap();
    let token: WitResponse = client.next(&mut wit, WAIT).unwrap().unwrap();

    let swtpm = host.swtpm();
    kill(swtpm, Signal::SIGSTOP).unwrap();
    host.agent("subject", "user = 0\ngroup = 0");
    host.reload();
    loop {
        let next: X509Response = client.next(&mut x509, WAIT).expect("another certificate").unwrap();
        if next.svids[0].x509_svid_key != certificate.svids[0].x509_svid_key {
            break;
        }
    }
    let next: WitResponse = client.next(&mut wit, WAIT).expect("another WIT-SVID").unwrap();
    assert_ne!(next.svids[0].wit_svid_key, token.svids[0].wit_svid_key);
    kill(swtpm, Signal::SIGCONT).unwrap();
    until_true("the certificate is revoked", || revoked(&host) == 1);
}

/// Callers get the new lists although the TPM cannot count the change of `ca.json`.
#[test]
fn a_revocation_takes_effect_while_the_tpm_is_unavailable() {
    let mut host = host();
    host.start();
    Held::request(&host);
    let client = Grpc::connect(&host.workload_socket());
    let mut call = client.stream("FetchX509Bundles", &Empty {}).unwrap();
    let mut listed = || {
        let next = client.next::<X509Bundles>(&mut call, Duration::from_secs(10)).expect("other lists");
        let entries = |crl: &Vec<u8>| {
            let list: CertificateList = CertificateList::from_der(crl).unwrap();
            list.tbs_cert_list.revoked_certificates.map_or(0, |all| all.len())
        };
        next.unwrap().crl.iter().map(entries).sum::<usize>()
    };
    assert_eq!(listed(), 0);
    let swtpm = host.swtpm();
    kill(swtpm, Signal::SIGSTOP).unwrap();
    host.agent("subject", &format!("user = {NOBODY}"));
    host.reload();
    assert_eq!(listed(), 1);
    kill(swtpm, Signal::SIGCONT).unwrap();
    until_true("the revocation is written", || revoked(&host) == 1);
    until_true("the revocation is recorded", || revocations(&host).len() == 1);
}

#[test]
fn a_change_of_the_match_while_the_daemon_is_stopped_counts() {
    let mut host = host();
    host.start();
    let held = Held::request(&host);
    host.stop();
    host.agent("subject", "user = 0\nunit = \"other.service\"");
    host.start();
    held.assert_ended(&host);
}

#[test]
fn a_start_on_invalid_files_ends_nothing_and_a_removal_meanwhile_counts() {
    let mut host = host();
    host.agent("removed", "user = 0");
    host.start();
    let held = Held::request(&host);
    assert_eq!(host.post("/v1/certificate", json!({ "agent": "removed" })).status, 200);
    host.stop();
    fs::remove_file(host.path("etc/agents.d/removed.toml")).unwrap();
    host.agents_file("reader", "name = \"reader\"\n[match]\nuesr = 0\n");
    host.start();
    let answer = host.post("/v1/introspect", json!({ "token": held.token }));
    assert_eq!((answer.status, answer.error().as_str()), (503, "temporarily_unavailable"));
    let status = Grpc::connect(&host.workload_socket()).validate(API, &held.svid).unwrap_err();
    assert_eq!(status.code, UNAVAILABLE, "{status:?}");

    host.agent("reader", "user = 0");
    host.reload();
    until_true("the certificate of the removed agent is revoked", || revocations(&host).len() == 1);
    assert!(revocations(&host)[0].contains("is not a registered agent"), "{:?}", revocations(&host));
    assert_eq!((revoked(&host), held.is_valid(&host)), (1, (true, true)));
}

#[test]
fn a_change_that_is_no_condition_ends_nothing() {
    let mut host = host();
    host.start();
    let held = Held::request(&host);
    let file = host.path("etc/agents.d/subject.toml");
    let text = fs::read_to_string(&file).unwrap();
    let owner = "owner = \"team@example.com\"\n[match]";
    // A name with the same number is the same condition.
    let text = text.replace("[match]", owner).replace("5m", "1m").replace("= 0", "= \"root\"");
    fs::write(&file, text).unwrap();
    host.reload();
    assert_eq!(host.admin().get("/v1/agents/subject").json()["match"]["user"], "root");
    assert_eq!(held.is_valid(&host), (true, true));
    host.stop();
    host.start();
    assert_eq!(held.is_valid(&host), (true, true));
    assert_eq!((revoked(&host), revocations(&host).len()), (0, 0));
}

#[test]
fn a_grant_that_is_removed_ends_access_tokens_and_jwt_svids() {
    let mut host = host();
    host.start();
    let held = Held::request(&host);
    let file = host.path("etc/agents.d/subject.toml");
    let text = fs::read_to_string(&file).unwrap().replace(API, OTHER);
    fs::write(&file, text).unwrap();
    host.reload();
    assert_eq!(held.is_valid(&host), (false, false));
    let status = Grpc::connect(&host.workload_socket()).validate(API, &held.svid).unwrap_err();
    assert!(status.message.contains("no grant for its audience any more"), "{status:?}");
    assert_eq!(revoked(&host), 0, "a certificate needs no grant");
}

#[test]
fn another_user_of_the_same_name_ends_what_was_issued_before() {
    let mut host = host();
    let names = NameService::attach_to(&mut host);
    names.user("service", "0");
    host.agent("subject", "user = \"service\"");
    host.start();
    let held = Held::request(&host);
    // The user is deleted: a unit with DynamicUser= looks the same while it is stopped.
    names.user("service", "missing");
    host.reload();
    assert_eq!(held.is_valid(&host), (true, true));
    names.user("service", "4242");
    host.reload();
    held.assert_ended(&host);
}

#[test]
fn a_user_that_is_missing_at_the_start_ends_nothing() {
    let mut host = host();
    let names = NameService::attach_to(&mut host);
    names.user("service", "0");
    host.agent("subject", "user = \"service\"");
    host.agent("removed", "user = 0");
    host.start();
    let held = Held::request(&host);
    assert_eq!(host.post("/v1/certificate", json!({ "agent": "removed" })).status, 200);
    host.stop();
    names.user("service", "missing");
    fs::remove_file(host.path("etc/agents.d/removed.toml")).unwrap();
    host.start();
    until_true("the certificate of the removed agent is revoked", || revocations(&host).len() == 1);
    assert_eq!(host.post("/v1/introspect", json!({ "token": held.token })).status, 503);
    names.user("service", "0");
    host.reload();
    assert_eq!((revoked(&host), held.is_valid(&host)), (1, (true, true)));
}

#[test]
fn a_token_whose_agent_cannot_be_looked_up_is_neither_valid_nor_invalid() {
    let mut host = host();
    let names = NameService::attach_to(&mut host);
    names.user("service", "0");
    host.agent("subject", "user = \"service\"");
    host.start();
    let held = Held::request(&host);
    host.stop();
    names.user("service", "fail");
    host.start();
    let answer = host.post("/v1/introspect", json!({ "token": held.token }));
    assert_eq!((answer.status, answer.error().as_str()), (503, "temporarily_unavailable"));
    assert_eq!(revoked(&host), 0);
    names.user("service", "0");
    until_true("the lookup is repeated", || {
        host.post("/v1/introspect", json!({ "token": held.token })).status == 200
    });
    assert_eq!(held.is_valid(&host), (true, true));
}
