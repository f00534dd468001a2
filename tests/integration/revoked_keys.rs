//! Issuing keys that are revoked: they neither sign nor verify any more, are destroyed without a grace, and another
//! key signs.

use std::time::Duration;

use crate::common::grpc::{Bundles, Empty, Grpc};
use crate::common::http::part;
use crate::common::{self, API, Host, until, until_true};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

/// Longest wait for a message of a stream.
const WAIT: Duration = Duration::from_secs(30);

fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

#[track_caller]
fn revoke(host: &Host, kid: &str) -> Value {
    let answer = host.admin().post("/v1/revocations/revoke", &json!({ "key": kid, "reason": "it leaked" }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn keys(host: &Host) -> Vec<Value> {
    host.admin().get("/v1/keys").json()["keys"].as_array().unwrap().clone()
}

fn state(host: &Host, kid: &str) -> String {
    let keys = keys(host);
    let key = keys.iter().find(|key| key["kid"] == kid && key["kind"] == "issuing");
    key.unwrap_or_else(|| panic!("{kid}"))["state"].as_str().unwrap().to_owned()
}

/// The public documents in which the key can be.
fn documents(host: &Host) -> Vec<String> {
    let bundles = Grpc::connect(&host.workload_socket()).bundles().unwrap();
    let targets = ["/.well-known/jwks.json", "/v1/bundle"];
    let mut documents: Vec<String> = targets.iter().map(|target| host.get(target).text()).collect();
    documents.extend(bundles.bundles.values().map(|jwks| String::from_utf8_lossy(jwks).into_owned()));
    documents
}

#[track_caller]
fn assert_in_no_document(host: &Host, kid: &str) {
    for document in documents(host) {
        assert!(!document.contains(kid), "{document}");
    }
}

/// Whether one of the bundles has the key.
fn names(bundles: &Bundles, kid: &str) -> bool {
    bundles.bundles.values().any(|jwks| String::from_utf8_lossy(jwks).contains(kid))
}

fn sequence(host: &Host) -> u64 {
    host.get("/v1/bundle").json()["spiffe_sequence"].as_u64().unwrap()
}

/// A host with one agent of its own and one of a tenant, both root.
fn with_tenant() -> Host {
    let mut host = Host::new();
    host.agent("own", "user = 0");
    host.agents_file(
        "theirs",
        &format!(
            "name = \"theirs\"\ntenant = \"acme\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\n\
             scopes = [\"docs.read\"]\nttl = \"5m\"\n"
        ),
    );
    host.start();
    host
}

fn token_of(host: &Host, agent: &str) -> String {
    until("a token", || {
        let answer = host.post("/v1/token", json!({ "audience": API, "agent": agent }));
        (answer.status == 200).then(|| answer.json()["access_token"].as_str().unwrap().to_owned())
    })
}

#[test]
fn a_revoked_active_key_is_destroyed_and_another_signs() {
    let mut host = Host::started();
    let token = host.token();
    let revoked = kid(&token);
    assert!(documents(&host).iter().all(|document| document.contains(&revoked)));
    let before = sequence(&host);
    let client = Grpc::connect(&host.workload_socket());
    let mut stream = client.stream("FetchJWTBundles", &Empty {}).unwrap();
    let mut next_bundles = || -> Bundles { client.next(&mut stream, WAIT).expect("a message").unwrap() };
    assert!(names(&next_bundles(), &revoked));

    let answer = revoke(&host, &revoked);
    assert_eq!((&answer["kind"], &answer["outcome"]), (&json!("key"), &json!("revoked")));
    // At once, before another key is made.
    assert_eq!(host.introspect(&token)["active"], false);
    assert_in_no_document(&host, &revoked);
    assert!(sequence(&host) > before);
    while names(&next_bundles(), &revoked) {}

    until_true("it is destroyed", || state(&host, &revoked) == "destroyed");
    let next = token_of(&host, "root");
    assert_ne!(kid(&next), revoked);
    assert_eq!(host.introspect(&next)["active"], true);
    assert!(keys(&host).iter().all(|key| key["state"] != "retired"), "it is not retired");
    let file = std::fs::read_to_string(host.path("state/issuing.json")).unwrap();
    assert_eq!(file.matches(&revoked).count(), 1, "its name among the destroyed ones: {file}");
    let line = until("its destruction is recorded", || {
        host.audit().into_iter().find(|line| line["event"] == "key-destroyed" && line["kid"] == revoked)
    });
    assert!(line["detail"].as_str().unwrap().contains("was revoked and is destroyed"), "{line}");

    // Again, and after a restart, it is what it was.
    assert_eq!(revoke(&host, &revoked)["outcome"], "already-revoked");
    let last = sequence(&host);
    host.crash();
    host.start();
    assert!(sequence(&host) >= last);
    assert_eq!(
        (state(&host, &revoked).as_str(), host.introspect(&token)["active"].clone()),
        ("destroyed", json!(false))
    );
    assert_eq!(host.introspect(&next)["active"], true);
    let lifted = host.admin().post("/v1/revocations/lift", &json!({ "key": revoked }));
    assert_eq!(lifted.status, 400, "{}", lifted.text());
}

#[test]
fn published_and_retired_keys_of_a_tenant_can_be_revoked_too() {
    let host = with_tenant();
    let first = token_of(&host, "theirs");
    let own = token_of(&host, "own");
    let rotate = |now: bool| {
        let body = json!({ "tenant": "acme", "now": now });
        let answer = host.admin().post("/v1/keys/rotate", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["kid"].as_str().unwrap().to_owned()
    };
    let active = rotate(true);
    let published = rotate(false);
    assert_eq!(
        (state(&host, &kid(&first)).as_str(), state(&host, &published).as_str()),
        ("retired", "published")
    );
    let mut last = sequence(&host);
    for revoked in [kid(&first), published.clone(), active.clone()] {
        revoke(&host, &revoked);
        assert!(!host.get("/v1/bundle").text().contains(&revoked));
        assert!(sequence(&host) > last);
        until_true("it is destroyed", || state(&host, &revoked) == "destroyed");
        last = sequence(&host);
    }
    let next = token_of(&host, "theirs");
    assert!(![kid(&first), published, active].contains(&kid(&next)));
    assert_eq!(kid(&token_of(&host, "own")), kid(&own), "the host's own key is not affected");
}

#[test]
fn a_published_successor_signs_in_place_of_a_revoked_key() {
    let host = Host::started();
    let revoked = kid(&host.token());
    let answer = host.admin().post("/v1/keys/rotate", &json!({}));
    let published = answer.json()["kid"].as_str().unwrap().to_owned();
    revoke(&host, &format!("wit-{revoked}"));
    until_true("it is destroyed", || state(&host, &revoked) == "destroyed");
    assert_eq!(kid(&host.token()), published);
}

/// The key is revoked, and another cannot be made.
#[test]
fn a_revoked_key_does_not_sign_while_the_tpm_is_stalled() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[tpm]\ndeadline = \"1s\"\n");
    host.start();
    let token = host.token();
    let revoked = kid(&token);
    let tpm = host.swtpm();
    kill(tpm, Signal::SIGSTOP).unwrap();
    let socket = host.admin_socket();
    let body = json!({ "key": revoked });
    // The TPM counts the change, so that the answer comes later than the effect.
    let answer = std::thread::spawn(move || {
        common::http::Connection::open(&socket).post("/v1/revocations/revoke", &body).status
    });
    let refused = until("nothing is signed", || {
        let answer = host.post("/v1/token", json!({ "audience": API }));
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((refused.status, refused.error().as_str()), (503, "temporarily_unavailable"));
    assert!(refused.text().contains(&format!("issuing key {revoked} is revoked")), "{}", refused.text());
    assert_eq!(host.introspect(&token)["active"], false);
    assert!(!host.get("/.well-known/jwks.json").text().contains(&revoked));
    assert_eq!(state(&host, &revoked), "revoked");
    assert_eq!(answer.join().unwrap(), 200);
    until_true("the log says so", || {
        host.log().contains(&format!("nothing is signed in place of {revoked}"))
    });

    // Nor after a restart that the TPM delays.
    kill(tpm, Signal::SIGCONT).unwrap();
    until_true("it is destroyed", || state(&host, &revoked) == "destroyed");
    assert_ne!(kid(&token_of(&host, "root")), revoked);
}

/// Whichever moment the daemon ends in after the revocation is on disk, the key is destroyed.
#[test]
fn a_crash_after_the_revocation_keeps_no_revoked_key() {
    let mut host = Host::started();
    for round in 0..4 {
        let revoked = kid(&token_of(&host, "root"));
        revoke(&host, &revoked);
        std::thread::park_timeout(Duration::from_millis(10 * round));
        kill(host.pid(), Signal::SIGKILL).unwrap();
        host.crash();
        host.start();
        assert!(!host.get("/.well-known/jwks.json").text().contains(&revoked), "from the first request on");
        until_true("it is destroyed", || state(&host, &revoked) == "destroyed");
        assert_ne!(kid(&token_of(&host, "root")), revoked);
    }
}

#[test]
fn keys_in_the_tpm_and_unknown_ones_are_refused_with_what_to_do() {
    let host = Host::started();
    let listed = keys(&host);
    let host_key =
        listed.iter().find(|key| key["kind"] == "host").unwrap()["kid"].as_str().unwrap().to_owned();
    for (kid, expected) in [
        (host_key.as_str(), "is the host key, which never leaves the TPM"),
        ("unknown", "no key of this host has this kid; hostbadge key list shows them"),
        ("", "key must have 1 to"),
    ] {
        let answer = host.admin().post("/v1/revocations/revoke", &json!({ "key": kid }));
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"), "{kid}");
        assert!(answer.text().contains(expected), "{kid}: {}", answer.text());
    }
}
