//! Tokens that are bound to a key or a certificate, and proofs for one HTTP request.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Value, json};

use crate::common::callers::{Credentials, NOBODY};
use crate::common::http::{Response, claims, part};
use crate::common::libraries::{node_with, python_with};
use crate::common::processes::output_with;
use crate::common::{API, Host};

const ITEMS: &str = "https://api.example.com/v1/items";
const LOGIN: &str = "https://login.example.com";

/// A host on which this process is agent `a`, and nobody is agent `b`.
fn host() -> Host {
    let mut host = Host::new();
    for (name, user) in [("a", 0), ("b", NOBODY)] {
        host.agents_file(
            name,
            &format!(
                "name = \"{name}\"\n[match]\nuser = {user}\n\
                 [[grant]]\naudience = \"{API}\"\nscopes = [\"read\"]\nbind = \"dpop\"\n\
                 proofs = [\"dpop\", \"wpt\", \"http-signature\"]\n\
                 actions = [\"GET {ITEMS}\", \"* {ITEMS}/*\", \"POST {LOGIN}/token\"]\n\
                 [[grant]]\naudience = \"https://open.example.com\"\n\
                 [[grant]]\naudience = \"https://mtls.example.com\"\nbind = \"mtls\"\n\
                 [[grant]]\naudience = \"{LOGIN}\"\nproofs = [\"client-assertion\", \"client-attestation\"]\nclient_id = \"client-1\"\n"
            ),
        );
    }
    host.start();
    host
}

#[track_caller]
fn token(host: &Host) -> String {
    let answer = host.post("/v1/token", json!({ "audience": API }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["token_type"], "DPoP");
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn prove(host: &Host, request: Value) -> Response {
    host.post("/v1/prove", request)
}

#[track_caller]
fn header(answer: &Response, name: &str) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    json["headers"][name].as_str().unwrap_or_else(|| panic!("{name}: {json}")).to_owned()
}

/// RFC 7638.
fn thumbprint(jwk: &Value) -> String {
    let members =
        format!("{{\"crv\":{},\"kty\":{},\"x\":{},\"y\":{}}}", jwk["crv"], jwk["kty"], jwk["x"], jwk["y"]);
    BASE64URL_NOPAD.encode(&sha256(members.as_bytes()))
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().to_vec()
}

fn records(host: &Host, event: &str) -> Vec<Value> {
    host.audit().into_iter().filter(|record| record["event"] == event).collect()
}

#[test]
fn a_bound_token_names_the_key_that_makes_its_proofs() {
    let host = host();
    let token = token(&host);
    let jkt = claims(&token)["cnf"]["jkt"].as_str().unwrap().to_owned();
    let url = format!("{ITEMS}?page=2");
    let answer =
        prove(&host, json!({ "kind": "dpop", "method": "GET", "url": url, "token": token, "nonce": "n-1" }));
    let proof = header(&answer, "DPoP");
    let (head, claims_of_proof) = (part(&proof, 0), claims(&proof));
    assert_eq!((&head["typ"], &head["alg"]), (&json!("dpop+jwt"), &json!("ES256")));
    assert_eq!((thumbprint(&head["jwk"]), &answer.json()["jkt"]), (jkt.clone(), &json!(jkt)));
    assert!(head["jwk"].get("d").is_none());
    assert_eq!((&claims_of_proof["htm"], &claims_of_proof["htu"]), (&json!("GET"), &json!(ITEMS)));
    assert_eq!(claims_of_proof["ath"], BASE64URL_NOPAD.encode(&sha256(token.as_bytes())));
    assert_eq!((&claims_of_proof["nonce"], &answer.json()["expires_in"]), (&json!("n-1"), &json!(60)));
    // One key for the invocation, and another identifier each time.
    let again = header(&prove(&host, json!({ "kind": "dpop", "method": "GET", "url": url })), "DPoP");
    assert_eq!(thumbprint(&part(&again, 0)["jwk"]), jkt);
    assert_ne!(claims(&again)["jti"], claims_of_proof["jti"]);
    let recorded = records(&host, "proof-issued");
    assert_eq!(recorded.len(), 2);
    assert_eq!((&recorded[0]["agent"], &recorded[0]["outcome"]), (&json!("a"), &json!("granted")));
    assert_eq!(
        (&recorded[0]["detail"], &recorded[0]["kid"]),
        (&json!(format!("dpop GET {ITEMS}")), &json!(jkt)),
        "without the query"
    );
    let introspected = host.introspect(&token);
    assert_eq!((&introspected["token_type"], &introspected["cnf"]["jkt"]), (&json!("DPoP"), &json!(jkt)));
    // Another agent has another key, and gets no proof for a token of the first.
    let body = json!({ "kind": "dpop", "method": "GET", "url": ITEMS }).to_string();
    let post = |body: &str| {
        Credentials::user(NOBODY).curl_at(
            &host.agent_socket(),
            "/v1/prove",
            &["-H", "Content-Type: application/json", "-d", body],
        )
    };
    assert_ne!(thumbprint(&part(&header(&post(&body), "DPoP"), 0)["jwk"]), jkt);
    let with_token = json!({ "kind": "dpop", "method": "GET", "url": ITEMS, "token": token }).to_string();
    assert_eq!(post(&with_token).error(), "invalid_request");
}

#[test]
fn a_proof_is_for_what_a_grant_names_and_nothing_else() {
    let host = host();
    let error = |request: Value| {
        let answer = prove(&host, request);
        (answer.status, answer.error())
    };
    let dpop = |method: &str, url: &str| json!({ "kind": "dpop", "method": method, "url": url });
    for (method, url) in [
        ("POST", ITEMS),
        ("GET", "https://api.example.com/v1/itemsx"),
        ("GET", "https://api.example.com/v1"),
        ("GET", "http://api.example.com/v1/items"),
        ("GET", "https://api.example.com:8443/v1/items"),
        ("GET", "https://api.example.com.evil.example/v1/items"),
        ("get", ITEMS),
    ] {
        assert_eq!(error(dpop(method, url)), (400, "invalid_target".into()), "{method} {url}");
    }
    for (method, url) in [
        ("GET ", ITEMS),
        ("GET\r\nX: y", ITEMS),
        ("", ITEMS),
        ("GET", "/v1/items"),
        ("GET", "https://user@api.example.com/v1/items"),
        ("GET", "https://api.example.com/v1/items#part"),
        ("GET", "https://api.example.com/v1/items/../../admin"),
        ("GET", "https://api.example.com/v1/items/%2e%2e/admin"),
        ("GET", "https://api.example.com/v1/items/..%2fadmin"),
        ("GET", "https://api.example.com/v1/items\r\nX: y"),
        ("GET", "https://bücher.example/v1/items"),
        ("GET", "ftp://api.example.com/v1/items"),
    ] {
        assert_eq!(error(dpop(method, url)), (400, "invalid_request".into()), "{method:?} {url:?}");
    }
    let bad = (400, "invalid_request".to_owned());
    for more in [
        json!({ "body_sha256": "00" }),
        json!({ "body_sha256": "g".repeat(64) }),
        json!({ "nonce": "a b" }),
        json!({ "token": "a\nb" }),
        json!({ "audience": LOGIN }),
        json!({ "digest": "00" }),
        json!({ "kind": "sign" }),
    ] {
        let mut request = dpop("GET", ITEMS);
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(error(request), bad, "{more}");
    }
    assert_eq!(error(json!({ "kind": "dpop", "url": ITEMS })), bad);
    // One normal form.
    for url in ["HTTPS://API.example.com:443/v1/items", "https://api.example.com/v1/%69tems"] {
        let proof = header(&prove(&host, dpop("GET", url)), "DPoP");
        assert_eq!(claims(&proof)["htu"], ITEMS, "{url}");
    }
    assert_eq!(prove(&host, dpop("DELETE", &format!("{ITEMS}/7"))).status, 200);
    host.hostbadge(&["revoke", "agent", "a"]);
    assert_eq!(error(dpop("GET", ITEMS)), (403, "access_denied".into()));
}

#[test]
fn a_grant_decides_what_its_tokens_are_bound_to() {
    let host = host();
    let ask = |request: Value| host.post("/v1/token", request);
    for bind in ["none", "mtls"] {
        let answer = ask(json!({ "audience": API, "bind": bind }));
        assert_eq!((answer.status, answer.error()), (403, "access_denied".into()), "{bind}");
    }
    let open = "https://open.example.com";
    let unbound = ask(json!({ "audience": open })).json();
    assert_eq!(unbound["token_type"], "Bearer");
    assert!(claims(unbound["access_token"].as_str().unwrap()).get("cnf").is_none());
    let bound = ask(json!({ "audience": open, "bind": "dpop" })).json();
    assert_eq!(bound["token_type"], "DPoP");
    assert!(claims(bound["access_token"].as_str().unwrap())["cnf"]["jkt"].is_string());
    // The token of a certificate is bound to that certificate.
    let mtls = |certificate: &str| {
        ask(json!({ "audience": "https://mtls.example.com", "certificate": certificate }))
    };
    let issued = host.post("/v1/certificate", json!({})).json();
    let chain = issued["certificate_chain"].as_str().unwrap();
    let answer = mtls(chain).json();
    assert_eq!(answer["token_type"], "Bearer");
    let leaf = chain.split("-----").nth(2).unwrap().replace('\n', "");
    let x5t = BASE64URL_NOPAD.encode(&sha256(&BASE64.decode(leaf.as_bytes()).unwrap()));
    assert_eq!(claims(answer["access_token"].as_str().unwrap())["cnf"], json!({ "x5t#S256": x5t }));
    let end = "-----END CERTIFICATE-----\n";
    let alone = chain.split_inclusive(end).next().unwrap();
    assert_eq!(mtls(alone).status, 200, "without its chain");
    let of_ca = chain.split_inclusive(end).nth(1).unwrap();
    for other in ["", "x", of_ca, &chain.repeat(20)] {
        assert_eq!(mtls(other).error(), "invalid_request", "{other}");
    }
    let without = ask(json!({ "audience": "https://mtls.example.com" }));
    assert_eq!(without.error(), "invalid_request");
    let unasked = ask(json!({ "audience": open, "certificate": chain }));
    assert_eq!(unasked.error(), "invalid_request");
}

#[test]
fn introspection_checks_the_proof_that_came_with_a_token() {
    let host = host();
    let token = token(&host);
    let proof = |url: &str| {
        let request = json!({ "kind": "dpop", "method": "GET", "url": url, "token": token });
        header(&prove(&host, request), "DPoP")
    };
    let ask = |more: Value| {
        let mut request = json!({ "token": token, "audience": API });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        host.post("/v1/introspect", request)
    };
    let active = |more: Value| ask(more).json()["active"].clone();
    let first = proof(ITEMS);
    let presented = json!({ "proof": first, "method": "GET", "url": format!("{ITEMS}?page=2") });
    assert_eq!(active(presented.clone()), true);
    assert_eq!(active(presented), false, "a proof counts once");
    for (method, url) in [("POST", ITEMS), ("GET", "https://api.example.com/v1/other")] {
        assert_eq!(
            active(json!({ "proof": proof(ITEMS), "method": method, "url": url })),
            false,
            "{method} {url}"
        );
    }
    assert_eq!(active(json!({})), true, "the service verifies the proof itself");
    let detail =
        records(&host, "introspected").iter().map(|record| record["detail"].clone()).collect::<Vec<_>>();
    assert_eq!(detail[1], "the proof was presented before");
    for bad in [
        json!({ "proof": first }),
        json!({ "method": "GET", "url": ITEMS }),
        json!({ "proof": first, "method": "GET", "url": "/v1/items" }),
        json!({ "certificate": "x" }),
    ] {
        assert_eq!(ask(bad.clone()).error(), "invalid_request", "{bad}");
    }
    // A token of a certificate, and one that is bound to nothing.
    let issued = host.post("/v1/certificate", json!({})).json();
    let chain = issued["certificate_chain"].as_str().unwrap();
    let of =
        |request: Value| host.post("/v1/token", request).json()["access_token"].as_str().unwrap().to_owned();
    let mtls = of(json!({ "audience": "https://mtls.example.com", "certificate": chain }));
    let other = host.post("/v1/certificate", json!({})).json();
    let unbound = of(json!({ "audience": "https://open.example.com" }));
    let with = |token: &str, certificate: &Value| {
        let request = json!({ "token": token, "certificate": certificate });
        host.post("/v1/introspect", request).json()["active"].clone()
    };
    assert_eq!(with(&mtls, &json!(chain)), true);
    assert_eq!(with(&mtls, &other["certificate_chain"]), false);
    assert_eq!(with(&unbound, &json!(chain)), false);
    let request = json!({ "token": unbound, "proof": proof(ITEMS), "method": "GET", "url": ITEMS });
    assert_eq!(host.post("/v1/introspect", request).json()["active"], false);
}

#[test]
fn introspection_checks_the_wpt_that_came_with_a_wit() {
    let host = host();
    let token = token(&host);
    let open = json!({ "audience": "https://open.example.com" });
    let unbound = host.post("/v1/token", open.clone()).json()["access_token"].as_str().unwrap().to_owned();
    let made = |token: Option<&str>| {
        let mut request = json!({ "kind": "wpt", "method": "GET", "url": ITEMS });
        token.into_iter().for_each(|token| request["token"] = json!(token));
        let answer = prove(&host, request);
        (header(&answer, "Workload-Proof-Token"), header(&answer, "Workload-Identity-Token"))
    };
    let active = |request: Value| host.post("/v1/introspect", request).json()["active"].clone();
    // The WIT is the token.
    let (proof, wit) = made(None);
    let request = json!({ "token": wit, "proof": proof, "url": format!("{ITEMS}?page=2") });
    let answer = host.post("/v1/introspect", request.clone()).json();
    assert_eq!((&answer["active"], &answer["sub"]), (&json!(true), &claims(&wit)["sub"]), "{answer}");
    assert!(answer["token_type"].is_null());
    assert_eq!(active(request), false, "a WPT counts once");
    assert_eq!(active(json!({ "token": wit })), false, "a WIT is of no use without its proof");
    let (proof, wit) = made(None);
    for other in [
        json!({ "token": wit, "proof": proof, "url": "https://api.example.com/v1/other" }),
        json!({ "token": made(None).1, "proof": proof, "url": ITEMS }),
        json!({ "token": crate::common::http::tampered(&wit), "proof": proof, "url": ITEMS }),
        json!({ "token": wit, "proof": proof, "url": ITEMS, "audience": API }),
        json!({ "token": unbound, "wit": wit, "proof": proof, "url": ITEMS }),
        json!({ "token": token, "proof": proof, "url": ITEMS }),
    ] {
        assert_eq!(active(other.clone()), false, "{other}");
    }
    assert_eq!(
        active(json!({ "token": wit, "proof": proof, "url": ITEMS })),
        true,
        "none of these used it up"
    );
    // Access tokens beside a WIT: one that is bound to the same key, and one that is bound to none.
    for token in [&token, &unbound] {
        let (proof, wit) = made(Some(token));
        let request = json!({ "token": token, "wit": wit, "proof": proof, "url": ITEMS });
        assert_eq!(active(request), true);
        let other = if *token == unbound { self::token(&host) } else { unbound.clone() };
        let (proof, wit) = made(Some(token));
        assert_eq!(active(json!({ "token": other, "wit": wit, "proof": proof, "url": ITEMS })), false);
    }
    // Those of another agent.
    let nobody = |target: &str, request: Value| {
        let body = request.to_string();
        let arguments = ["-H", "Content-Type: application/json", "-d", &body];
        Credentials::user(NOBODY).curl_at(&host.agent_socket(), target, &arguments)
    };
    let stolen = nobody("/v1/token", open).json()["access_token"].as_str().unwrap().to_owned();
    let (proof, wit) = made(Some(&stolen));
    assert_eq!(active(json!({ "token": stolen, "wit": wit, "proof": proof, "url": ITEMS })), false);
    for bad in [
        json!({ "token": token, "wit": wit }),
        json!({ "token": token, "wit": wit, "proof": proof, "method": "GET", "url": ITEMS }),
        json!({ "token": wit, "proof": proof }),
    ] {
        assert_eq!(host.post("/v1/introspect", bad.clone()).error(), "invalid_request", "{bad}");
    }
    // The command.
    let (proof, wit) = made(None);
    let file = host.path("wpt");
    fs::write(&file, proof).unwrap();
    let words = ["introspect", "--proof", file.to_str().unwrap(), "--url", ITEMS];
    assert!(host.hostbadge_with(&words, &wit).status.success());
    // After the agent is revoked, which another one asks.
    let (proof, wit) = made(None);
    assert!(host.hostbadge(&["revoke", "agent", "a"]).status.success());
    let revoked = json!({ "token": wit, "proof": proof, "url": ITEMS });
    assert_eq!(nobody("/v1/introspect", revoked).json()["active"], false);
}

#[test]
fn a_client_assertion_is_for_one_authorization_server() {
    let host = host();
    let answer = prove(&host, json!({ "kind": "client-assertion", "audience": LOGIN }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let parameters = answer.json()["parameters"].clone();
    let assertion = parameters["client_assertion"].as_str().unwrap();
    assert_eq!(parameters["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    assert_eq!(part(assertion, 0)["typ"], "client-authentication+jwt");
    let given = claims(assertion);
    assert_eq!((&given["iss"], &given["sub"]), (&json!("client-1"), &json!("client-1")));
    assert_eq!(given["aud"], LOGIN);
    assert_eq!(given["exp"].as_u64().unwrap() - given["iat"].as_u64().unwrap(), 60);
    for request in [
        json!({ "kind": "client-assertion", "audience": API }),
        json!({ "kind": "client-assertion", "audience": format!("{LOGIN}/") }),
    ] {
        assert_eq!(prove(&host, request.clone()).error(), "invalid_target", "{request}");
    }
    let with_url = json!({ "kind": "client-assertion", "audience": LOGIN, "method": "GET", "url": LOGIN });
    assert_eq!(prove(&host, with_url).error(), "invalid_request");
}

#[test]
fn a_client_attestation_attests_the_key_that_proves_it() {
    let host = host();
    let answer =
        prove(&host, json!({ "kind": "client-attestation", "audience": LOGIN, "nonce": "challenge-1" }));
    let attestation = header(&answer, "OAuth-Client-Attestation");
    let pop = header(&answer, "OAuth-Client-Attestation-PoP");
    assert_eq!(part(&attestation, 0)["typ"], "oauth-client-attestation+jwt");
    let given = claims(&attestation);
    let jkt = answer.json()["jkt"].clone();
    assert_eq!((&given["sub"], json!(thumbprint(&given["cnf"]["jwk"]))), (&json!("client-1"), jkt));
    assert_eq!(part(&pop, 0)["typ"], "oauth-client-attestation-pop+jwt");
    assert_eq!((&claims(&pop)["aud"], &claims(&pop)["challenge"]), (&json!(LOGIN), &json!("challenge-1")));
    let refused = prove(&host, json!({ "kind": "client-attestation", "audience": API }));
    assert_eq!(refused.error(), "invalid_target");
}

#[test]
fn a_policy_can_refuse_a_proof() {
    let mut host = host();
    host.stop();
    let dir = host.path("etc/policies");
    fs::create_dir_all(&dir).unwrap();
    fs::write(
        dir.join("prove.cedar"),
        "forbid (principal, action == Action::\"prove\", resource) when { context.method == \"DELETE\" };\n\
         forbid (principal, action == Action::\"prove\", resource)\n\
         when { context.path like \"/v1/items/secret*\" && resource.origin == \"https://api.example.com\" };\n\
         forbid (principal, action == Action::\"prove\", resource)\n\
         when { context.kind == \"wpt\" && !(context has body_sha256) };\n",
    )
    .unwrap();
    host.start();
    let status = |kind: &str, method: &str, url: &str, body: Option<&str>| {
        let request = json!({ "kind": kind, "method": method, "url": url });
        let mut request = request.as_object().unwrap().clone();
        request.extend(body.map(|digest| ("body_sha256".to_owned(), json!(digest))));
        prove(&host, Value::Object(request)).status
    };
    let digest = "ab".repeat(32);
    assert_eq!(status("dpop", "GET", ITEMS, None), 200);
    assert_eq!(status("dpop", "DELETE", &format!("{ITEMS}/1"), None), 403);
    assert_eq!(status("dpop", "GET", &format!("{ITEMS}/secret/1"), None), 403);
    assert_eq!(status("wpt", "GET", ITEMS, None), 403);
    assert_eq!(status("wpt", "GET", ITEMS, Some(&digest)), 200);
}

#[test]
fn an_administrator_approves_one_request_with_its_body() {
    let mut host = Host::new();
    let grant = format!("[[grant]]\naudience = \"{API}\"\nbind = \"dpop\"\napproval = \"each\"\n");
    host.agents_file("a", &format!("name = \"a\"\n[match]\nuser = 0\n{grant}"));
    host.start();
    let url = format!("{ITEMS}?all=true");
    let request = |body: &str| {
        let digest = HEXLOWER.encode(&sha256(body.as_bytes()));
        json!({ "kind": "dpop", "method": "POST", "url": url, "body_sha256": digest })
    };
    let waiting = prove(&host, request("one"));
    assert_eq!(
        (waiting.status, waiting.error()),
        (400, "authorization_pending".into()),
        "{}",
        waiting.text()
    );
    let id = waiting.json()["approval"].as_str().unwrap().to_owned();
    let listed = host.admin().get("/v1/approvals").json()["approvals"][0].clone();
    let shown = &listed["request"]["request"];
    assert_eq!((&shown["method"], &shown["url"]), (&json!("POST"), &json!(url)), "{shown}");
    assert_eq!(shown["body_sha256"], HEXLOWER.encode(&sha256(b"one")));
    let digest = listed["digest"].as_str().unwrap();
    let approved = host.hostbadge(&["approve", "yes", &id, "--digest", digest]);
    let said = String::from_utf8_lossy(&approved.stdout).into_owned();
    assert!(said.contains(&format!("a, dpop proof for POST {url}")), "{said}");
    assert_eq!(prove(&host, request("two")).error(), "authorization_pending", "another body");
    assert_eq!(prove(&host, request("one")).status, 200);
    assert_eq!(prove(&host, request("one")).error(), "authorization_pending", "it is used up");
}

#[test]
fn grants_that_could_give_no_proof_are_faults() {
    let host = Host::started();
    let fault = |lines: &str| {
        host.agents_file("a", &format!("name = \"a\"\n[match]\nuser = 1\n[[grant]]\n{lines}\n"));
        let answer = host.admin().post("/v1/agents/reload", &json!({}));
        answer.json()["faults"][0]["what"].as_str().map(str::to_owned)
    };
    for (lines, expected) in [
        ("audience = \"api\"\nbind = \"dpop\"", "the audience is no URL"),
        ("audience = \"api\"\nproofs = [\"wpt\"]", "the audience is no URL"),
        (
            "audience = \"https://x\"\nbind = \"dpop\"\nproofs = [\"wpt\"]",
            "cannot be used without DPoP proofs",
        ),
        ("audience = \"https://x\"\nproofs = [\"dpop\"]\nactions = [\"GET https://x/*/y\"]", "last segment"),
    ] {
        let said = fault(lines).unwrap_or_else(|| panic!("{lines}"));
        assert!(said.contains(expected), "{lines}: {said}");
    }
    let client = "audience = \"https://x\"\nproofs = [\"client-attestation\"]\nclient_id = \"c\"";
    assert_eq!(fault(client), None);
}

#[test]
fn a_key_ends_with_its_invocation_and_with_the_daemon() {
    let mut host = host();
    let key = |host: &Host| {
        let answer = prove(host, json!({ "kind": "dpop", "method": "GET", "url": ITEMS }));
        thumbprint(&part(&header(&answer, "DPoP"), 0)["jwk"])
    };
    let token = token(&host);
    let first = key(&host);
    assert_eq!(key(&host), first);
    let invocation = host.get("/v1/whoami").json()["peer"]["invocation"].as_str().unwrap().to_owned();
    let revoked = host.hostbadge(&["revoke", "invocation", &invocation]);
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    let lifted = host.hostbadge(&["revoke", "lift", "invocation", &invocation]);
    assert!(lifted.status.success(), "{}", String::from_utf8_lossy(&lifted.stderr));
    let second = key(&host);
    assert_ne!(second, first, "the key of a revoked invocation is destroyed");
    let for_old = json!({ "kind": "dpop", "method": "GET", "url": ITEMS, "token": token });
    assert_eq!(prove(&host, for_old).error(), "invalid_request");
    host.stop();
    host.start();
    assert_ne!(key(&host), second);
    // It is in no file.
    for file in walk(&host.path("state")) {
        let content = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        assert!(!content.contains(&second), "{}", file.display());
    }
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn the_command_prints_headers_that_curl_reads() {
    let host = host();
    let file = host.path("token");
    let ran = host.hostbadge(&["token", API, "--output", file.to_str().unwrap()]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let arguments = ["prove", "dpop", "GET", ITEMS, "--token-file", file.to_str().unwrap()];
    let ran = host.hostbadge(&arguments);
    let text = String::from_utf8(ran.stdout).unwrap();
    let proof = text.strip_prefix("DPoP: ").unwrap_or_else(|| panic!("{text}")).trim();
    assert_eq!(claims(proof)["htu"], ITEMS);
    let body = host.path("body");
    fs::write(&body, "{}").unwrap();
    let ran = host.hostbadge(&[
        "prove",
        "http-signature",
        "POST",
        &format!("{ITEMS}/1"),
        "--body",
        body.to_str().unwrap(),
    ]);
    let text = String::from_utf8(ran.stdout).unwrap();
    let digest = format!("Content-Digest: sha-256=:{}:", BASE64.encode(&sha256(b"{}")));
    assert!(text.contains(&digest) && text.contains("\nSignature-Input: "), "{text}");
    let ran = host.hostbadge(&["prove", "client-assertion", "--audience", LOGIN]);
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(text.contains("client_id=client-1") && text.contains("client_assertion=ey"), "{text}");
    let refused = host.hostbadge(&["prove", "dpop", "POST", ITEMS]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(host.hostbadge(&["prove", "dpop"]).status.code(), Some(2));
}

#[test]
fn a_resource_server_with_oauth4webapi_accepts_proofs_and_refuses_forgeries() {
    let host = host();
    let libraries = node_with("oauth4webapi", &["oauth4webapi@3.8.8"]);
    let keys = host.path("jwks.json");
    fs::write(&keys, host.get("/.well-known/jwks.json").text()).unwrap();
    let token = token(&host);
    let issuer = claims(&token)["iss"].as_str().unwrap().to_owned();
    let proof_for = |method: &str, url: &str| {
        let request = json!({ "kind": "dpop", "method": method, "url": url, "token": token });
        header(&prove(&host, request), "DPoP")
    };
    let judge = |method: &str, url: &str, token: &str, proof: &str| {
        let mut node = Command::new("node");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/dpop.mjs");
        node.env("LIBRARIES", &libraries).arg(script).arg(&keys);
        let output = node.args([&issuer, API, method, url, token, proof]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let url = format!("{ITEMS}?page=2");
    let proof = proof_for("GET", &url);
    assert_eq!(judge("GET", &url, &token, &proof), (true, String::new()));
    let of_other_url = proof_for("GET", &format!("{ITEMS}/7"));
    let of_other_token = {
        let other = self::token(&host);
        let request = json!({ "kind": "dpop", "method": "GET", "url": ITEMS, "token": other });
        header(&prove(&host, request), "DPoP")
    };
    let without_token =
        header(&prove(&host, json!({ "kind": "dpop", "method": "GET", "url": ITEMS })), "DPoP");
    for (method, proof) in [
        ("POST", &proof),
        ("GET", &of_other_url),
        ("GET", &of_other_token),
        ("GET", &without_token),
        ("GET", &crate::common::http::tampered(&proof)),
    ] {
        let (accepted, reason) = judge(method, &url, &token, proof);
        assert!(!accepted && reason.starts_with("refused: "), "{method} {proof}: {reason}");
    }
    // The token of another key.
    let answer = Credentials::user(NOBODY).curl_at(
        &host.agent_socket(),
        "/v1/token",
        &["-H", "Content-Type: application/json", "-d", &json!({ "audience": API }).to_string()],
    );
    let stolen = answer.json()["access_token"].as_str().unwrap().to_owned();
    assert!(!judge("GET", &url, &stolen, &proof).0);
}

#[test]
fn http_message_signatures_verifies_a_signature_and_refuses_another_request() {
    let python = python_with("http-signatures", &["http-message-signatures==3.0.0"]);
    verifies_a_signature_and_refuses_another_request(|| {
        let mut command = Command::new(&python);
        command.arg(client("http_signature.py"));
        command
    });
}

#[test]
fn http_message_sig_verifies_a_signature_and_refuses_another_request() {
    let libraries = node_with("http-message-sig", &["http-message-sig@0.3.0"]);
    verifies_a_signature_and_refuses_another_request(|| {
        let mut command = Command::new("node");
        command.env("LIBRARIES", &libraries).arg(client("http_signature.mjs"));
        command
    });
}

fn client(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file)
}

/// `verifier` reads a message on its standard input.
#[track_caller]
fn verifies_a_signature_and_refuses_another_request(verifier: impl Fn() -> Command) {
    let host = host();
    let url = format!("{ITEMS}/7?draft=true");
    let body = "{\"name\":\"seven\"}";
    let request = json!({
        "kind": "http-signature", "method": "PUT", "url": url, "body_sha256": HEXLOWER.encode(&sha256(body.as_bytes())),
    });
    let answer = prove(&host, request);
    let headers = answer.json()["headers"].clone();
    let wit = header(&answer, "Workload-Identity-Token");
    let jwk = claims(&wit)["cnf"]["jwk"].clone();
    assert_eq!(Some(thumbprint(&jwk).as_str()), answer.json()["jkt"].as_str());
    let verify = |message: Value| {
        let output = output_with(&mut verifier(), message.to_string().as_bytes());
        match output.status.success() {
            true => Ok(serde_json::from_slice::<Value>(&output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    };
    let message = json!({ "method": "PUT", "url": url, "headers": headers, "body": body, "jwk": jwk });
    let valid = verify(message.clone()).unwrap();
    let covered = valid["covered"].to_string();
    for component in ["@method", "@request-target", "content-digest", "workload-identity-token"] {
        assert!(covered.contains(component), "{covered}");
    }
    assert_eq!(valid["parameters"]["tag"], "wimse-workload-to-workload");
    let (created, expires) = (&valid["parameters"]["created"], &valid["parameters"]["expires"]);
    assert_eq!(expires.as_u64().unwrap() - created.as_u64().unwrap(), 60);
    for (member, value) in
        [("method", json!("DELETE")), ("url", json!(format!("{ITEMS}/8?draft=true"))), ("body", json!("{}"))]
    {
        let mut other = message.clone();
        other[member] = value;
        let refused = verify(other).unwrap_err();
        assert!(refused.starts_with("invalid: "), "{member}: {refused}");
    }
}

#[test]
fn jose_verifies_a_wpt_and_its_wit_and_refuses_another_request() {
    let host = host();
    let libraries = node_with("jose", &["jose@5.10.0"]);
    let keys = host.path("jwks.json");
    fs::write(&keys, host.get("/.well-known/jwks.json").text()).unwrap();
    let token = token(&host);
    let made = |url: &str| {
        let answer = prove(&host, json!({ "kind": "wpt", "method": "GET", "url": url, "token": token }));
        (header(&answer, "Workload-Identity-Token"), header(&answer, "Workload-Proof-Token"))
    };
    let judge = |url: &str, wit: &str, proof: &str, token: &str| {
        let mut node = Command::new("node");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/wpt.mjs");
        node.env("LIBRARIES", &libraries).arg(script).arg(&keys).args([url, wit, proof, token]);
        let output = node.output().unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_slice::<Value>(&output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    let (wit, proof) = made(ITEMS);
    assert_eq!(judge(ITEMS, &wit, &proof, &token).unwrap()["sub"], claims(&wit)["sub"]);
    let (other_wit, other_proof) = made(&format!("{ITEMS}/7?draft=true"));
    let tampered = |text: &str| crate::common::http::tampered(text);
    for (wit, proof, token) in [
        (&wit, &other_proof, &token),
        (&other_wit, &proof, &token),
        (&wit, &tampered(&proof), &token),
        (&tampered(&wit), &proof, &token),
        (&wit, &proof, &self::token(&host)),
    ] {
        let refused = judge(ITEMS, wit, proof, token).unwrap_err();
        assert!(refused.starts_with("refused: "), "{refused}");
    }
}
