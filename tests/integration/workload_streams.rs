//! X509-SVIDs and WIT-SVIDs over the Workload API: profiles, renewal, revocation, and streams. `point_NN_…`
//! are points of a conformance list for servers.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::callers::NOBODY;
use crate::common::grpc::{
    Call, Empty, Grpc, INVALID_ARGUMENT, MESSAGE_TIMEOUT, PERMISSION_DENIED, QUIET_PERIOD, Status,
    UNAVAILABLE, WitBundles, WitRequest, WitResponse, X509Bundles, X509Response, X509Svid,
};
use crate::common::http::{claims, part};
use crate::common::{API, Host, until_true};
use data_encoding::BASE64URL_NOPAD;
use hostbadge::enroll::pem;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};

/// The shortest certificate lifetime, which is renewed after about half a minute.
const BRIEF: &str = "[certificates]\nttl = \"1m\"\n";
const A_LIFE: Duration = Duration::from_secs(60);

fn client(host: &Host) -> Grpc {
    Grpc::connect(&host.workload_socket())
}

fn denied() -> Status {
    Status { code: PERMISSION_DENIED, message: "no identity issued".into() }
}

/// A host on which root matches three agents: `alpha`, `beta` and `gamma`.
fn three_agents(toml: &str) -> Host {
    let mut host = Host::new();
    host.configure(toml);
    for name in ["gamma", "alpha", "beta"] {
        host.agent(name, "user = 0");
    }
    host.start();
    host
}

fn follow(client: &Grpc) -> (Call, X509Response) {
    let mut call = client.stream("FetchX509SVID", &Empty {}).unwrap();
    let first = client.next(&mut call, Duration::from_secs(10)).expect("the first message").unwrap();
    (call, first)
}

fn hints(message: &X509Response) -> Vec<&str> {
    message.svids.iter().map(|svid| svid.hint.as_str()).collect()
}

/// Splits concatenated DER certificates.
fn split(all: &[u8]) -> Vec<Certificate> {
    let mut reader = SliceReader::new(all).unwrap();
    let mut found = Vec::new();
    while !reader.is_finished() {
        found.push(Certificate::decode(&mut reader).unwrap());
    }
    found
}

fn leaf(svid: &X509Svid) -> Certificate {
    split(&svid.x509_svid).remove(0)
}

fn serial(svid: &X509Svid) -> Vec<u8> {
    leaf(svid).tbs_certificate().serial_number().as_bytes().to_vec()
}

/// Runs `openssl verify` on a leaf with the chain, bundle and CRLs of the same message.
fn verified(svid: &X509Svid, crls: &[Vec<u8>]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let text = |all: &[u8]| -> String {
        split(all).iter().map(|one| pem("CERTIFICATE", &one.to_der().unwrap()).unwrap()).collect()
    };
    let file = |name: &str, text: String| {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let chain = file("chain.pem", text(&svid.x509_svid));
    let mut openssl = Command::new("openssl");
    openssl.args(["verify", "-x509_strict", "-crl_check", "-purpose", "sslserver", "-CAfile"]);
    openssl.arg(file("bundle.pem", text(&svid.bundle))).arg("-untrusted").arg(&chain).arg("-CRLfile");
    let lists: String = crls.iter().map(|list| pem("X509 CRL", list).unwrap()).collect();
    openssl.arg(file("crl.pem", lists)).arg(&chain).output().unwrap()
}

#[track_caller]
fn holds(svid: &X509Svid, crls: &[Vec<u8>]) {
    let output = verified(svid, crls);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn lines(host: &Host, event: &str) -> Vec<Value> {
    host.audit().into_iter().filter(|line| line["event"] == event).collect()
}

// === X509-SVIDs ===

#[test]
fn point_11_to_15_and_26_and_27_the_first_message_has_all_identities() {
    let host = three_agents("");
    let client = client(&host);
    let (_call, first) = follow(&client);
    assert_eq!(hints(&first), ["alpha", "beta", "gamma"]);
    assert_eq!(first.crl.len(), 1);
    for svid in &first.svids {
        assert!(svid.hint.len() <= 1024 && svid.spiffe_id.ends_with(&svid.hint));
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &svid.x509_svid_key,
            &SystemRandom::new(),
        );
        let leaf = leaf(svid);
        let certified =
            leaf.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes().to_vec();
        assert_eq!(key.unwrap().public_key().as_ref(), certified);
        assert!(split(&svid.x509_svid).len() >= 2);
        holds(svid, &first.crl);
    }
    let issued = lines(&host, "certificate-issued");
    assert_eq!(issued.len(), 3);
    assert_eq!(issued[0]["spiffe_id"], first.svids[0].spiffe_id);
    assert_eq!(issued[0]["peer"]["pid"], std::process::id());
    // Another stream has the same order and other keys.
    let (_other, second) = follow(&client);
    assert_eq!(hints(&second), hints(&first));
    assert!(second.svids[0].x509_svid_key != first.svids[0].x509_svid_key);
}

#[test]
fn point_16_to_22_a_leaf_conforms_to_the_specification() {
    let host = Host::started();
    let client = client(&host);
    let (_call, first) = follow(&client);
    let svid = &first.svids[0];
    let leaf = leaf(svid);
    let body = leaf.tbs_certificate();
    let (critical, names) = body.get_extension::<SubjectAltName>().unwrap().unwrap();
    let uris: Vec<&str> = names
        .0
        .iter()
        .map(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => uri.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(uris, [svid.spiffe_id.as_str()]);
    assert!(critical && body.subject().is_empty());
    assert!(svid.spiffe_id.split('/').count() > 4, "{}", svid.spiffe_id);
    let (_, constraints) = body.get_extension::<BasicConstraints>().unwrap().unwrap();
    assert!(!constraints.ca);
    let (critical, usage) = body.get_extension::<KeyUsage>().unwrap().unwrap();
    assert!(critical && usage.digital_signature());
    assert!(!usage.key_cert_sign() && !usage.crl_sign());
    let (_, purposes) = body.get_extension::<ExtendedKeyUsage>().unwrap().unwrap();
    let purposes: Vec<String> = purposes.0.iter().map(ToString::to_string).collect();
    assert_eq!(purposes, ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
    let now = hostbadge::clock::Clock::System.now().as_secs();
    let validity = body.validity();
    assert!(validity.not_before.to_unix_duration().as_secs() <= now);
    let left = validity.not_after.to_unix_duration().as_secs() - now;
    assert!((3500..=3600).contains(&left), "{left}");
    // The issuer is a CA that can issue leaves only.
    let issuing = &split(&svid.x509_svid)[1];
    let (_, constraints) = issuing.tbs_certificate().get_extension::<BasicConstraints>().unwrap().unwrap();
    assert_eq!((constraints.ca, constraints.path_len_constraint), (true, Some(0)));
}

#[test]
fn point_23_a_renewal_is_a_complete_message_while_the_previous_leaf_is_valid() {
    let host = three_agents(BRIEF);
    let client = client(&host);
    let (mut call, first) = follow(&client);
    let mut now = first.clone();
    // Leaves are renewed at different times.
    while first.svids.iter().zip(&now.svids).any(|(old, new)| serial(old) == serial(new)) {
        now = client.next(&mut call, A_LIFE).expect("a rotation before the leaves expire").unwrap();
        assert_eq!(hints(&now), ["alpha", "beta", "gamma"]);
        now.svids.iter().for_each(|svid| holds(svid, &now.crl));
    }
    for (old, new) in first.svids.iter().zip(&now.svids) {
        holds(old, &first.crl);
        assert!(old.x509_svid_key != new.x509_svid_key);
    }
}

#[test]
fn point_24_and_29_bundles_have_all_trust_domains_and_are_pushed() {
    let mut other = Host::other();
    other.configure("trust_domain = \"example.com\"");
    other.agent("root", "user = 0");
    other.start();
    until_true("the other host has a CA", || other.get("/v1/bundle").status == 200);
    let host = Host::started();
    let client = client(&host);
    let (mut svids, first) = follow(&client);
    let mut bundles = client.stream("FetchX509Bundles", &Empty {}).unwrap();
    let told: X509Bundles = client.next(&mut bundles, MESSAGE_TIMEOUT).unwrap().unwrap();
    let own: Vec<&String> = told.bundles.keys().collect();
    assert_eq!((own.len(), &told.bundles[own[0]]), (1, &first.svids[0].bundle));
    assert!(first.svids[0].spiffe_id.starts_with(&format!("{}/", own[0])));
    assert_eq!((&told.crl, first.federated_bundles.len()), (&first.crl, 0));

    fs::create_dir(host.path("etc/federation")).unwrap();
    fs::write(host.path("etc/federation/example.com.json"), other.get("/v1/bundle").text()).unwrap();
    host.reload();
    let told: X509Bundles = client.next(&mut bundles, MESSAGE_TIMEOUT).expect("pushed").unwrap();
    let pushed: X509Response = client.next(&mut svids, MESSAGE_TIMEOUT).expect("pushed").unwrap();
    let foreign = &told.bundles["spiffe://example.com"];
    assert_eq!(split(foreign).len(), 1);
    assert_eq!(pushed.federated_bundles, BTreeMap::from([("spiffe://example.com".into(), foreign.clone())]));
    // The leaf is unchanged.
    assert_eq!(pushed.svids, first.svids);
}

#[test]
fn point_25_a_removed_agent_is_left_out_and_revoked_and_the_last_one_ends_the_stream() {
    let host = three_agents("");
    let client = client(&host);
    let (mut call, first) = follow(&client);
    fs::remove_file(host.path("etc/agents.d/beta.toml")).unwrap();
    host.reload();
    let mut next = || client.next::<X509Response>(&mut call, MESSAGE_TIMEOUT).expect("pushed");
    let mut told = next().unwrap();
    // The CRL arrives in the same message or in a later one.
    while told.crl == first.crl {
        assert_eq!(hints(&told), ["alpha", "gamma"]);
        told = next().unwrap();
    }
    assert_eq!(hints(&told), ["alpha", "gamma"]);
    assert_eq!(serial(&told.svids[0]), serial(&first.svids[0]));
    holds(&told.svids[0], &told.crl);
    let output = verified(&first.svids[1], &told.crl);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("revoked"));
    host.agent("another", "user = 4711");
    for name in ["alpha", "gamma"] {
        fs::remove_file(host.path(&format!("etc/agents.d/{name}.toml"))).unwrap();
    }
    host.reload();
    let end = loop {
        if let Err(end) = next() {
            break end;
        }
    };
    assert_eq!(end, denied());
}

#[test]
fn a_revoked_agent_is_left_out_of_streams_until_that_is_lifted_and_a_freeze_ends_them() {
    let host = three_agents("");
    let client = client(&host);
    let (mut call, first) = follow(&client);
    let mut next = || client.next::<X509Response>(&mut call, MESSAGE_TIMEOUT).expect("pushed");
    let command = |path: &str, body: Value| {
        let answer = host.admin().post(path, &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    command("/v1/revocations/revoke", json!({ "agent": "beta" }));
    let mut told = next().unwrap();
    while told.crl == first.crl {
        assert_eq!(hints(&told), ["alpha", "gamma"]);
        told = next().unwrap();
    }
    assert_eq!(hints(&told), ["alpha", "gamma"]);
    let output = verified(&first.svids[1], &told.crl);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("revoked"));
    command("/v1/revocations/lift", json!({ "agent": "beta" }));
    while told.svids.len() < 3 {
        told = next().unwrap();
    }
    assert_ne!(serial(&told.svids[1]), serial(&first.svids[1]));
    told.svids.iter().for_each(|svid| holds(svid, &told.crl));
    command("/v1/freeze", json!({}));
    let end = loop {
        if let Err(end) = next() {
            break end;
        }
    };
    assert_eq!(end.code, PERMISSION_DENIED, "{end:?}");
    assert!(end.message.contains("frozen"), "{end:?}");
}

#[test]
fn an_agent_that_is_removed_and_added_again_gets_an_unrevoked_leaf() {
    let host = three_agents("");
    let client = client(&host);
    let (mut call, first) = follow(&client);
    let file = host.path("etc/agents.d/beta.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    host.reload();
    until_true("beta is revoked", || !lines(&host, "certificates-revoked").is_empty());
    fs::write(&file, text).unwrap();
    host.reload();
    let mut told = first.clone();
    while told.svids.len() < 3 || serial(&told.svids[1]) == serial(&first.svids[1]) {
        told = client.next(&mut call, MESSAGE_TIMEOUT).expect("pushed").unwrap();
    }
    told.svids.iter().for_each(|svid| holds(svid, &told.crl));
}

#[test]
fn point_28_a_client_that_does_not_read_gets_the_latest_message() {
    let host = three_agents("");
    let (slow, quick) = (client(&host), client(&host));
    let (mut unread, _) = follow(&slow);
    let (mut read, mut told) = follow(&quick);
    for round in 0..3 {
        let name = format!("delta{round}");
        host.agent(&name, "user = 0");
        host.reload();
        while !hints(&told).contains(&name.as_str()) {
            told = quick.next(&mut read, MESSAGE_TIMEOUT).expect("each message").unwrap();
        }
    }
    while let Some(Ok(next)) = slow.next(&mut unread, QUIET_PERIOD) {
        told = next;
    }
    assert_eq!(hints(&told), ["alpha", "beta", "delta0", "delta1", "delta2", "gamma"]);
}

#[test]
fn streams_are_denied_without_an_accepted_baseline_where_posture_is_enforced() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[posture]\nmode = \"enforce\"");
    host.start();
    let client = client(&host);
    for method in ["FetchX509SVID", "FetchWITSVID"] {
        let mut call = client.stream(method, &Empty {}).unwrap();
        let status = client.next::<Empty>(&mut call, MESSAGE_TIMEOUT).unwrap().unwrap_err();
        assert_eq!(status.code, PERMISSION_DENIED, "{status:?}");
        assert!(status.message.contains("posture"), "{status:?}");
    }
    let refused = lines(&host, "request-refused");
    assert_eq!(refused.len(), 2);
    assert!(refused.iter().all(|line| line["agent"] == "root" && line["reason"] == "access_denied"));
}

#[test]
fn streams_are_unavailable_without_a_ca() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    fs::write(host.path("state/ca.json"), "{").unwrap();
    host.start();
    let client = client(&host);
    for method in ["FetchX509SVID", "FetchX509Bundles"] {
        let mut call = client.stream(method, &Empty {}).unwrap();
        let status = client.next::<Empty>(&mut call, MESSAGE_TIMEOUT).unwrap().unwrap_err();
        assert_eq!(status.code, UNAVAILABLE);
        assert!(status.message.contains("ca.json"), "{status:?}");
    }
}

#[test]
fn an_agent_that_restarts_often_gets_a_shared_certificate() {
    let mut host = Host::new();
    host.configure("[limits]\nrate = 1000000\nburst = 1000000\n");
    host.agent("root", "user = 0");
    host.start();
    let mut serials = std::collections::HashSet::new();
    let client = client(&host);
    for _ in 0..1100 {
        let (_, told) = follow(&client);
        serials.insert(serial(&told.svids[0]));
    }
    assert_eq!(serials.len(), 1024);
    // The audit log has the callers that share the certificate.
    let issued = lines(&host, "certificate-issued");
    assert_eq!(issued.len(), 1100);
    let (_, last) = follow(&client);
    assert!(serials.contains(&serial(&last.svids[0])));
    holds(&last.svids[0], &last.crl);
}

// === WIT-SVIDs ===

fn wit(client: &Grpc, spiffe_id: &str) -> (Call, Result<WitResponse, Status>) {
    let mut call = client.stream("FetchWITSVID", &WitRequest { spiffe_id: spiffe_id.into() }).unwrap();
    let first = client.next(&mut call, MESSAGE_TIMEOUT).expect("an answer");
    (call, first)
}

/// Whether a JWK's key verifies a token's signature.
fn signed_by(jwk: &Value, token: &str) -> bool {
    let bytes = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
    let (input, signature) = token.rsplit_once('.').unwrap();
    let point = [vec![4], bytes(jwk["x"].as_str().unwrap()), bytes(jwk["y"].as_str().unwrap())].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    key.verify(input.as_bytes(), &bytes(signature)).is_ok()
}

#[test]
fn point_10_a_wit_svid_is_bound_to_its_key_and_verifies_by_its_bundle() {
    let host = three_agents("");
    let client = client(&host);
    let (_call, told) = wit(&client, "");
    let told = told.unwrap();
    let ids: Vec<&str> = told.svids.iter().map(|svid| svid.hint.as_str()).collect();
    assert_eq!(ids, ["alpha", "beta", "gamma"]);
    let set = host.path("jwks.json");
    assert!(host.hostbadge(&["export", "jwks", "-o", set.to_str().unwrap()]).status.success());
    let mut call = client.stream("FetchWITBundles", &Empty {}).unwrap();
    let bundles: WitBundles = client.next(&mut call, MESSAGE_TIMEOUT).unwrap().unwrap();
    for svid in &told.svids {
        let header = part(&svid.wit_svid, 0);
        assert_eq!(header.as_object().unwrap().keys().collect::<Vec<_>>(), ["alg", "kid", "typ"]);
        assert_eq!((&header["alg"], &header["typ"]), (&json!("ES256"), &json!("wit+jwt")));
        let says = claims(&svid.wit_svid);
        assert_eq!(says["sub"], svid.spiffe_id);
        assert!(says.get("aud").is_none());
        // The certificates' ttl, 1 h by default, less the 10 s before the token's issue.
        assert_eq!(says["exp"].as_u64().unwrap() - says["iat"].as_u64().unwrap(), 3600);
        let words = ["verify", "token", &svid.wit_svid, "--jwks", set.to_str().unwrap(), "--json"];
        let verified: Value = serde_json::from_slice(&host.hostbadge(&words).stdout).unwrap();
        assert_eq!((&verified["valid"], &verified["kind"]), (&json!(true), &json!("wit-svid")), "{verified}");
        let key: Value = serde_json::from_str(&svid.wit_svid_key).unwrap();
        let confirmed = &says["cnf"]["jwk"];
        assert!(confirmed.get("d").is_none() && confirmed["alg"] == "ES256");
        for name in ["kty", "crv", "x", "y"] {
            assert_eq!(confirmed[name], key[name]);
        }
        let domain = svid.spiffe_id.split('/').nth(2).unwrap();
        let set: Value = serde_json::from_str(&bundles.bundles[&format!("spiffe://{domain}")]).unwrap();
        let keys = set["keys"].as_array().unwrap();
        assert!(keys.iter().all(|key| key["use"] == "wit-svid" && key.get("d").is_none()));
        let by = keys.iter().find(|key| key["kid"] == header["kid"]).expect("the key is in the bundle");
        assert!(signed_by(by, &svid.wit_svid));
        // A WIT-SVID is not a bearer token.
        assert_eq!(client.validate(API, &svid.wit_svid).unwrap_err().code, INVALID_ARGUMENT);
        assert_eq!(host.introspect(&svid.wit_svid)["active"], false);
    }
    // The keys are not in the SPIFFE bundle, which federation peers without WIT-SVIDs would refuse.
    let document = host.get("/v1/bundle").json();
    assert!(document["keys"].as_array().unwrap().iter().all(|key| key["use"] != "wit-svid"));
    let kid = &part(&told.svids[0].wit_svid, 0)["kid"];
    assert!(document["keys"].as_array().unwrap().iter().all(|key| key["kid"] != *kid));
    assert_eq!(lines(&host, "wit-svid-issued").len(), 3);
}

#[test]
fn a_spiffe_id_selects_one_wit_svid() {
    let host = three_agents("");
    let client = client(&host);
    let all = wit(&client, "").1.unwrap();
    let beta = &all.svids[1].spiffe_id;
    let only = wit(&client, beta).1.unwrap();
    assert_eq!((only.svids.len(), &only.svids[0].spiffe_id), (1, beta));
    assert_eq!(wit(&client, &beta.replace("/beta", "/delta")).1, Err(denied()));
    for malformed in ["beta", "spiffe://example.org", "https://example.org/a"] {
        assert_eq!(wit(&client, malformed).1.unwrap_err().code, INVALID_ARGUMENT, "{malformed}");
    }
}

#[test]
fn a_wit_svid_is_renewed_with_the_current_key() {
    let mut host = Host::new();
    host.configure(BRIEF);
    host.agent("root", "user = 0");
    host.start();
    let client = client(&host);
    let (mut call, first) = wit(&client, "");
    let first = first.unwrap();
    let second: WitResponse = client.next(&mut call, A_LIFE).expect("a renewal").unwrap();
    assert_ne!(first.svids[0].wit_svid_key, second.svids[0].wit_svid_key);
    let kid = |told: &WitResponse| part(&told.svids[0].wit_svid, 0)["kid"].clone();
    assert_eq!(kid(&first), kid(&second));
    assert_eq!(host.admin().post("/v1/keys/rotate", &json!({ "now": true })).status, 200);
    let mut told = second.clone();
    while kid(&told) == kid(&second) {
        told = client.next(&mut call, A_LIFE).expect("the next key's").unwrap();
    }
}

#[test]
fn a_removed_agent_gets_no_renewed_wit_svids() {
    let mut host = Host::new();
    host.configure(&format!("[limits]\nrate = 1000000\nburst = 1000000\n{BRIEF}"));
    host.agent("root", "user = 0");
    host.start();
    let clients: Vec<Grpc> = (0..20).map(|_| client(&host)).collect();
    let calls: Vec<Call> = clients.iter().flat_map(|client| (0..50).map(|_| wit(client, "").0)).collect();
    let issued = |lines: &[Value]| lines.iter().filter(|line| line["event"] == "wit-svid-issued").count();
    until_true("many are renewed", || issued(&host.audit()) > calls.len() + 200);
    host.agent("another", "user = 4711");
    fs::remove_file(host.path("etc/agents.d/root.toml")).unwrap();
    host.reload();
    let ended = |mut call: Call, client: &Grpc| {
        while let Some(Ok(_)) = client.next::<Empty>(&mut call, MESSAGE_TIMEOUT) {}
    };
    calls.into_iter().enumerate().for_each(|(n, call)| ended(call, &clients[n / 50]));
    let all = host.audit();
    let gone = all.iter().rposition(|line| line["event"] == "agents-reloaded").unwrap();
    // WIT-SVIDs that were being signed during the reload may be recorded after it.
    let late = issued(&all[gone..]);
    assert!(late <= 4, "{late} were issued to a removed agent");
}

#[test]
fn point_08_an_unknown_caller_gets_no_stream() {
    let mut host = Host::new();
    host.agent("nobody", &format!("user = {NOBODY}"));
    host.start();
    let client = client(&host);
    for method in ["FetchX509SVID", "FetchX509Bundles", "FetchWITSVID", "FetchWITBundles"] {
        let mut call = client.stream(method, &WitRequest { spiffe_id: "x".into() }).unwrap();
        assert_eq!(client.next::<Empty>(&mut call, MESSAGE_TIMEOUT), Some(Err(denied())), "{method}");
    }
    assert!(lines(&host, "certificate-issued").is_empty());
}
