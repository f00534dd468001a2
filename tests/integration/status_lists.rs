//! Status lists (Token Status List): the claim `status`, what the lists say after each end of a token, and what a
//! restart, a crash and a rotation leave of them.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::grpc::Grpc;
use crate::common::http::{claims, part};
use crate::common::status_list::{keys, list_path, reference, served, status};
use crate::common::{API, Host, until, until_true};
use hostbadge::clock::Clock;
use hostbadge::verify::{Status, StatusList, StatusReference};
use serde_json::{Value, json};

const OTHER: &str = "https://other.example.com";
const DATABASE: &str = "state/status-lists.db";

/// A host that gives all tokens a status.
fn host() -> Host {
    let host = Host::new();
    host.configure("[tokens]\nstatus_list = true\n");
    host.agent("reader", "user = 0");
    host.agent("writer", "user = 0");
    host
}

fn token_of(host: &Host, agent: &str) -> String {
    let answer = host.post("/v1/token", json!({ "audience": API, "agent": agent }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

/// Revokes something by the admin socket.
#[track_caller]
fn revoke(host: &Host, what: Value) {
    let answer = host.admin().post("/v1/revocations/revoke", &what);
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
}

#[test]
fn the_list_of_a_token_is_a_jwt_of_the_issuer_with_one_bit_for_each_index() {
    let mut host = host();
    host.start();
    let (first, second) = (token_of(&host, "reader"), token_of(&host, "reader"));
    let (own, other) = (reference(&first), reference(&second));
    assert_eq!(own.uri, other.uri);
    assert_ne!(own.idx, other.idx);
    let issuer = claims(&first)["iss"].as_str().unwrap().to_owned();
    assert!(own.uri.starts_with(&format!("{issuer}/v1/status-list/")), "{}", own.uri);

    let text = served(&host, &first);
    let (header, list) = (part(&text, 0), claims(&text));
    assert_eq!((&header["typ"], &header["alg"]), (&json!("statuslist+jwt"), &json!("ES256")));
    assert_eq!(header["kid"], part(&first, 0)["kid"]);
    assert_eq!(
        (&list["sub"], &list["ttl"], &list["status_list"]["bits"]),
        (&json!(own.uri), &json!(300), &json!(1))
    );
    assert_eq!(list["exp"].as_u64().unwrap() - list["iat"].as_u64().unwrap(), 1210);
    assert!(text.len() < 1000, "an empty list is small: {} bytes", text.len());
    assert_eq!(host.get(&list_path(&first)).header("cache-control"), Some("max-age=30"));
    assert_eq!(served(&host, &first), text, "nothing has changed");

    let lists = host.get("/v1/status-lists").json();
    assert_eq!(lists, json!({ "status_lists": [own.uri] }));
    let discovery = host.get("/.well-known/openid-configuration").json();
    assert_eq!(discovery["status_list_aggregation_endpoint"], json!(format!("{issuer}/v1/status-lists")));
    for path in ["/v1/status-list/1", "/v1/status-list/x", "/v1/status-list/", "/v1/status-list/+1"] {
        assert_eq!(host.get(path).status, 404, "{path}");
    }
    assert_eq!(host.get(&list_path(&first).replace("list/", "list/0")).status, 404);
    assert_eq!(host.get(&format!("/tenant/acme{}", list_path(&first))).status, 404);
    assert_eq!(host.post(&list_path(&first), json!({})).status, 405);
    let report = host.status()["status_lists"].clone();
    let expected = json!({ "by_default": true, "ttl": 300, "lists": 1, "tokens": 2, "problem": null });
    assert_eq!(report, expected);
    assert!(host.introspect(&first)["status"]["status_list"]["uri"] == json!(own.uri));
}

#[test]
fn grants_say_whether_their_tokens_have_a_status() {
    let mut host = Host::new();
    let grant = |audience: &str, lines: &str| format!("[[grant]]\naudience = \"{audience}\"\n{lines}\n");
    let agent = |host: &Host, lines: &str| {
        let grants = grant(API, lines) + &grant(OTHER, "assurance = \"tpm\"\nstatus_list = true");
        host.agents_file("r", &format!("name = \"r\"\n[match]\nuser = 0\n{grants}"));
    };
    agent(&host, "");
    host.start();
    let token = |host: &Host, audience: &str| {
        let answer = host.post("/v1/token", json!({ "audience": audience }));
        answer.json()["access_token"].as_str().unwrap().to_owned()
    };
    assert!(claims(&token(&host, API)).get("status").is_none());
    assert_eq!(host.get("/v1/status-lists").json(), json!({ "status_lists": [] }));
    agent(&host, "status_list = true");
    host.reload();
    assert_eq!(status(&host, &token(&host, API)), Status::Valid);
    // The TPM signs the token, and the issuing key its list.
    let by_tpm = token(&host, OTHER);
    assert_ne!(part(&served(&host, &by_tpm), 0)["kid"], part(&by_tpm, 0)["kid"]);
    assert_eq!(status(&host, &by_tpm), Status::Valid);
    let svids = Grpc::connect(&host.workload_socket()).jwt(&[API], "").unwrap();
    assert_eq!(status(&host, &svids[0].svid), Status::Valid);
    let shown = host.hostbadge(&["agent", "show", "r"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("with a status"), "{shown:?}");

    host.stop();
    host.configure("[tokens]\nstatus_list = true\nstatus_list_ttl = \"1m\"\n");
    agent(&host, "status_list = false");
    host.start();
    assert!(claims(&token(&host, API)).get("status").is_none());
    agent(&host, "");
    host.reload();
    let with_status = token(&host, API);
    assert_eq!(claims(&served(&host, &with_status))["ttl"], 60);
}

/// Each way to end a token is in its list within a second, and the tokens of others stay valid.
#[test]
fn the_list_follows_introspection() {
    let mut host = host();
    host.start();
    let (single, second) = (token_of(&host, "reader"), token_of(&host, "reader"));
    assert_eq!((status(&host, &single), status(&host, &second)), (Status::Valid, Status::Valid));
    revoke(&host, json!({ "token": single }));
    let revoked_at = Instant::now();
    until_true("the token is revoked in its list", || status(&host, &single) == Status::Invalid);
    // The machine may be busy; alone it takes less than a second.
    assert!(revoked_at.elapsed() < Duration::from_secs(10), "{:?}", revoked_at.elapsed());
    assert_eq!(status(&host, &second), Status::Valid);

    let other = token_of(&host, "writer");
    let svid = Grpc::connect(&host.workload_socket()).jwt(&[API], "").unwrap();
    let svid = svid.into_iter().find(|svid| svid.spiffe_id.ends_with("/reader")).unwrap().svid;
    revoke(&host, json!({ "agent": "reader" }));
    assert_eq!(status(&host, &second), Status::Invalid);
    assert_eq!(status(&host, &svid), Status::Invalid);
    assert_eq!(status(&host, &other), Status::Valid);

    // An agent that is not registered any more is inactive, too.
    fs::remove_file(host.path("etc/agents.d/writer.toml")).unwrap();
    host.reload();
    assert_eq!(status(&host, &other), Status::Invalid);
    host.agent("writer", "user = 0");
    host.reload();
    let later = token_of(&host, "writer");
    assert_eq!((status(&host, &later), status(&host, &single)), (Status::Valid, Status::Invalid));
    let answer = host.admin().post("/v1/freeze", &json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(status(&host, &later), Status::Invalid);
}

#[test]
fn a_restart_knows_all_tokens_and_a_crash_trusts_no_index_that_it_does_not_know() {
    let mut host = host();
    host.start();
    let (revoked, valid) = (token_of(&host, "reader"), token_of(&host, "writer"));
    revoke(&host, json!({ "token": revoked }));
    assert_eq!((status(&host, &revoked), status(&host, &valid)), (Status::Invalid, Status::Valid));
    host.stop();
    host.start();
    assert_eq!((status(&host, &revoked), status(&host, &valid)), (Status::Invalid, Status::Valid));
    assert_eq!(reference(&token_of(&host, "reader")).uri, reference(&valid).uri, "the list goes on");
    let unused = |host: &Host| {
        let list =
            StatusList::verify(&served(host, &valid), &keys(host, &valid), Clock::System.now()).unwrap();
        let (uri, own) = (reference(&valid).uri, [reference(&valid).idx, reference(&revoked).idx]);
        let others = (0..100).filter(|idx| !own.contains(idx));
        let of = |idx| list.status_of(&StatusReference { idx, uri: uri.clone() }).unwrap();
        others.filter(|idx| of(*idx) == Status::Invalid).count()
    };
    assert_eq!(unused(&host), 0);

    // Stored every 10 s; the token that follows is not.
    let written = || fs::metadata(host.path(DATABASE)).and_then(|file| file.modified()).unwrap();
    let before = written();
    token_of(&host, "reader");
    until_true("the indices are stored", || written() > before);
    let unknown = token_of(&host, "writer");
    host.crash();
    host.start();
    assert_eq!((status(&host, &valid), status(&host, &unknown)), (Status::Valid, Status::Invalid));
    assert!(unused(&host) >= 98, "{}", unused(&host));
    let next = token_of(&host, "writer");
    assert_ne!(reference(&next).uri, reference(&valid).uri, "further tokens are in another list");
    assert_eq!(status(&host, &next), Status::Valid);
    let problem = host.status()["status_lists"]["problem"].as_str().unwrap_or_default().to_owned();
    assert!(problem.contains("ended unexpectedly"), "{problem}");
    assert_eq!(host.get("/v1/status-lists").json()["status_lists"].as_array().unwrap().len(), 2);
}

#[test]
fn a_list_is_signed_by_the_key_that_signs_tokens() {
    let mut host = host();
    host.start();
    let token = token_of(&host, "reader");
    let before = part(&served(&host, &token), 0)["kid"].clone();
    assert!(host.hostbadge(&["key", "rotate", "--now"]).status.success());
    let next = token_of(&host, "reader");
    assert_ne!(part(&next, 0)["kid"], before);
    assert_eq!(part(&served(&host, &token), 0)["kid"], part(&next, 0)["kid"]);
    assert_eq!((status(&host, &token), status(&host, &next)), (Status::Valid, Status::Valid));
    revoke(&host, json!({ "key": before }));
    assert_eq!((status(&host, &token), status(&host, &next)), (Status::Invalid, Status::Valid));
}

#[test]
fn tenants_have_lists_of_their_own() {
    let mut host = host();
    let tenant = |name: &str, tenant: &str| {
        let grant = format!("[[grant]]\naudience = \"{API}\"\n");
        let text = format!("name = \"{name}\"\ntenant = \"{tenant}\"\n[match]\nuser = 0\n{grant}");
        host.agents_file(name, &text);
    };
    tenant("alpha", "acme");
    tenant("beta", "globex");
    host.start();
    let ready = |agent: &str| {
        let ask = || host.post("/v1/token", json!({ "audience": API, "agent": agent }));
        until("the keys of the tenant are made", || ask().json()["access_token"].as_str().map(str::to_owned))
    };
    let (alpha, beta, own) = (ready("alpha"), ready("beta"), token_of(&host, "reader"));
    let all = [&alpha, &beta, &own];
    for token in all {
        let issuer = claims(token)["iss"].as_str().unwrap().to_owned();
        assert!(reference(token).uri.starts_with(&format!("{issuer}/v1/status-list/")), "{issuer}");
        assert_eq!(status(&host, token), Status::Valid);
        assert_eq!(part(&served(&host, token), 0)["kid"], part(token, 0)["kid"]);
    }
    let number = |token: &str| reference(token).uri.rsplit('/').next().unwrap().to_owned();
    assert_eq!(host.get(&format!("/v1/status-list/{}", number(&alpha))).status, 404);
    assert_eq!(host.get(&format!("/tenant/globex/v1/status-list/{}", number(&alpha))).status, 404);
    let lists = |path: &str| host.get(path).json()["status_lists"].clone();
    assert_eq!(lists("/tenant/acme/v1/status-lists"), json!([reference(&alpha).uri]));
    assert_eq!(lists("/v1/status-lists"), json!([reference(&own).uri]));
    assert_eq!(host.get("/tenant/nobody/v1/status-lists").status, 404);

    revoke(&host, json!({ "tenant": "acme" }));
    assert_eq!(all.map(|token| status(&host, token)), [Status::Invalid, Status::Valid, Status::Valid]);
}

/// The lists as a host publishes them that cannot be reached, and a relying party reads them.
#[test]
fn lists_are_exported_and_tokens_verified_with_them() {
    let mut host = host();
    let empty = host.hostbadge(&["export", "status-list"]);
    assert!(!empty.status.success());
    host.start();
    let none = host.hostbadge(&["export", "status-list"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is no status list"), "{none:?}");
    let (revoked, valid) = (token_of(&host, "reader"), token_of(&host, "reader"));
    let path = |name: &str| host.path(name).display().to_string();
    let number = reference(&valid).uri.rsplit('/').next().unwrap().to_owned();
    let verify = |token: &str, list: &str| {
        let output =
            host.hostbadge(&["verify", "token", token, "--jwks", &path("jwks"), "--status-list", list]);
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let export = |words: &[&str]| {
        let output = host.hostbadge(&[&["export"], words].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    export(&["jwks", "--output", &path("jwks")]);
    export(&["status-list", "--output", &path("before")]);
    revoke(&host, json!({ "token": revoked }));
    let listed = export(&["status-list", &path("lists")]);
    assert_eq!(listed, format!("{}/{number}\n", path("lists")));
    let list = fs::read_to_string(host.path("lists").join(&number)).unwrap();
    assert_eq!(export(&["status-list", &number]).trim(), list);

    assert!(verify(&revoked, &path("before")).0, "before the revocation");
    let file = format!("{}/{number}", path("lists"));
    let (is_valid, text) = verify(&valid, &file);
    assert!(is_valid && text.contains("index"), "{text}");
    let (is_valid, text) = verify(&revoked, &file);
    assert!(!is_valid && text.contains("revoked by index"), "{text}");
    fs::write(host.path("forged"), crate::common::http::tampered(&list)).unwrap();
    assert!(!verify(&valid, &path("forged")).0);
    fs::write(host.path("token"), &valid).unwrap();
    assert!(!verify(&valid, &path("token")).0, "a token is no status list");
    let several = host.hostbadge(&["export", "status-list", "1"]);
    assert!(!several.status.success());
    let discovery = export(&["discovery"]);
    assert!(!discovery.contains("status_list_aggregation_endpoint"), "{discovery}");
}
