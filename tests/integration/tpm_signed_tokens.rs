//! Tokens that the TPM signs: ES256 by the host key, and RS256 by an RSA key that is created for the first
//! grant.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::audit_log::with_event;
use crate::common::callers::{Credentials, NOBODY, ScriptedClient};
use crate::common::http::{Connection, claims, part, request};
use crate::common::libraries::{node_with, python_with};
use crate::common::{self, API, Host, until_true};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

const HARD: &str = "https://hard.example.com";
const RSA: &str = "https://rsa.example.com";
const FILE: &str = "state/rsa.json";

/// The agent `root`, with a grant for each key.
fn register(host: &Host) {
    let grant = |audience: &str, more: &str| format!("[[grant]]\naudience = \"{audience}\"\n{more}\n");
    host.agents_file(
        "root",
        &[
            "name = \"root\"\n[match]\nuser = 0\n".to_owned(),
            grant(API, ""),
            grant(HARD, "assurance = \"tpm\""),
            grant(RSA, "alg = \"RS256\""),
        ]
        .concat(),
    );
}

fn started() -> Host {
    let mut host = Host::new();
    host.configure("[limits]\ntpm_rate = 1000\ntpm_burst = 1000\n");
    register(&host);
    host.start();
    host
}

#[track_caller]
fn token(host: &Host, audience: &str) -> String {
    let answer = host.post("/v1/token", json!({ "audience": audience }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

/// An RS256 token, after waiting for the RSA key.
#[track_caller]
fn rsa_token(host: &Host) -> String {
    until_true("there is an RSA key", || keys(host).iter().any(|key| key["kty"] == "RSA"));
    token(host, RSA)
}

fn keys(host: &Host) -> Vec<Value> {
    host.get("/.well-known/jwks.json").json()["keys"].as_array().unwrap().clone()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// The path of the exported key set.
fn uploaded(host: &Host) -> String {
    let file = host.path("jwks.json");
    fs::write(&file, host.get("/.well-known/jwks.json").text()).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn the_tpm_signs_where_a_grant_requires_it_and_relying_parties_verify() {
    let host = started();
    let rsa = rsa_token(&host);
    let (sealed, hard) = (token(&host, API), token(&host, HARD));
    let keys = keys(&host);
    let kinds: Vec<(&str, &str)> =
        keys.iter().map(|key| (key["kty"].as_str().unwrap(), key["alg"].as_str().unwrap())).collect();
    assert_eq!(kinds, [("EC", "ES256"), ("EC", "ES256"), ("RSA", "RS256")]);
    let mut signers = Vec::new();
    for (token, key, guard) in
        [(&sealed, &keys[0], "sealed"), (&hard, &keys[1], "tpm"), (&rsa, &keys[2], "tpm")]
    {
        assert_eq!(
            part(token, 0),
            json!({ "alg": key["alg"], "kid": key["kid"], "typ": "at+jwt" }),
            "{guard}"
        );
        assert_eq!(claims(token)["hostbadge"]["key"], guard);
        assert_eq!(host.introspect(token)["active"], true);
        signers.push(key["kid"].clone());
    }
    // The key is the host key of the evidence.
    let discovery = host.get("/.well-known/openid-configuration").json();
    assert_eq!(discovery["id_token_signing_alg_values_supported"], json!(["ES256", "RS256"]));

    let set = uploaded(&host);
    let verify = |token: &str, audience: &str| {
        host.hostbadge(&["verify", "token", token, "--jwks", &set, "--audience", audience])
    };
    for (token, audience) in [(&hard, HARD), (&rsa, RSA)] {
        assert!(verify(token, audience).status.success(), "{}", said(&verify(token, audience)));
        let forged = common::http::tampered(token);
        assert_eq!(verify(&forged, audience).status.code(), Some(1));
        assert_eq!(host.introspect(&forged)["active"], false);
    }
    // The audit log names the signing key.
    let lines = host.audit();
    let issued = with_event(&lines, "token-issued");
    for kid in &signers {
        assert!(issued.iter().any(|line| line["kid"] == *kid), "{kid} signed");
    }
    let made = with_event(&lines, "rsa-key-created");
    assert_eq!((made.len(), &made[0]["kid"]), (1, &signers[2]));
}

#[test]
fn third_party_libraries_verify_tokens_signed_by_the_tpm() {
    let host = started();
    let tokens = [(rsa_token(&host), RSA), (token(&host, HARD), HARD)];
    let set = uploaded(&host);
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let python = python_with("pyjwt", &["pyjwt[crypto]==2.10.1"]);
    let jose = node_with("jose", &["jose@5.10.0"]);
    for (token, audience) in &tokens {
        let mut pyjwt = Command::new(&python);
        pyjwt.arg(clients.join("verify.py"));
        let mut node = Command::new("node");
        node.env("JOSE", &jose).arg(clients.join("verify.mjs"));
        for mut command in [pyjwt, node] {
            let output = command.args([&set, token, *audience]).output().unwrap();
            assert!(output.status.success(), "{}", said(&output));
            assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), claims(token));
        }
    }
}

#[test]
fn the_rsa_key_is_created_for_the_first_grant_and_kept() {
    let mut host = Host::started();
    assert_eq!(keys(&host).len(), 2, "no grant has RS256");
    assert!(!host.path(FILE).exists());
    let discovery = host.get("/.well-known/openid-configuration").json();
    assert_eq!(discovery["id_token_signing_alg_values_supported"], json!(["ES256"]));

    register(&host);
    host.reload();
    // The key exists already, or the denial says that it is being created.
    let early = host.post("/v1/token", json!({ "audience": RSA }));
    assert!(early.status == 200 || early.text().contains("the RSA key is being created"), "{}", early.text());
    let first = rsa_token(&host);
    let set = keys(&host);
    let listed = said(&host.hostbadge(&["key", "list"]));
    for (at, alg, kind) in [(1, "ES256", "host"), (2, "RS256", "rsa")] {
        let kid = set[at]["kid"].as_str().unwrap();
        let row = listed.lines().find(|line| line.contains(kid)).unwrap_or_else(|| panic!("{listed}"));
        assert!(row.contains(alg) && row.contains(kind), "{row}");
    }
    let listed = host.hostbadge(&["key", "list", "--json"]).stdout;
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    assert_eq!(listed["rsa_blocked_reason"], Value::Null);
    assert_eq!(
        listed["keys"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|key| ["host", "rsa"].contains(&key["kind"].as_str().unwrap()))
            .count(),
        2
    );
    let status = said(&host.hostbadge(&["status"]));
    assert!(status.contains("RS256"), "{status}");

    // Evidence has an endorsement of the key.
    let evidence = host.post("/v1/attest", json!({ "nonce": "YSBub25jZSBvZiAxOCBieXRlcw" })).json();
    let document = hostbadge::verify::evidence::Evidence::parse(evidence.to_string().as_bytes()).unwrap();
    let findings = document.check(b"a nonce of 18 bytes");
    assert!(findings.iter().all(|finding| finding.is_acceptable()), "{findings:#?}");
    let issuing = findings.iter().find(|finding| finding.name == "issuing keys").unwrap();
    assert!(issuing.detail.contains(set[2]["kid"].as_str().unwrap()), "{issuing:?}");

    // After a restart the first request is served.
    assert!(host.stop().success());
    host.start();
    assert_eq!(keys(&host), set);
    assert_eq!(host.introspect(&first)["active"], true);
    assert_eq!(part(&token(&host, RSA), 0)["kid"], set[2]["kid"]);

    // Without the grant there is no such token; with the grant again, the key is the same.
    host.agent("root", "user = 0");
    host.reload();
    assert_eq!(host.post("/v1/token", json!({ "audience": RSA })).error(), "invalid_target");
    assert_eq!(keys(&host), set, "the key is kept");
    assert!(host.stop().success());
    host.start();
    assert_eq!(keys(&host), set, "also after a restart");
    register(&host);
    host.reload();
    assert_eq!(part(&token(&host, RSA), 0)["kid"], set[2]["kid"]);
}

#[test]
fn a_corrupt_or_foreign_rsa_key_is_reported_and_does_not_affect_es256() {
    let mut host = started();
    rsa_token(&host);
    let set = keys(&host);
    assert!(host.stop().success());
    let good = fs::read_to_string(host.path(FILE)).unwrap();
    let mut other = Host::other();
    register(&other);
    other.start();
    rsa_token(&other);
    assert!(other.stop().success());
    let theirs = fs::read_to_string(other.path(FILE)).unwrap();
    let edited = |key: &[&str], value: Value| {
        let mut file: Value = serde_json::from_str(&good).unwrap();
        *key.iter().fold(&mut file, |at, key| &mut at[*key]) = value;
        file.to_string()
    };
    let foreign: Value = serde_json::from_str(&theirs).unwrap();
    let cases = [
        (good[..good.len() / 2].to_owned(), "corrupt"),
        (theirs.clone(), "the AK's signature over the RSA key is wrong"),
        (
            edited(&["active", "key", "private"], foreign["active"]["key"]["private"].clone()),
            "the TPM does not accept the RSA key",
        ),
        (
            edited(&["active", "key", "public"], foreign["active"]["key"]["public"].clone()),
            "names another key than it holds",
        ),
        (
            edited(&["active", "endorsement"], foreign["active"]["endorsement"].clone()),
            "not endorsed by this host's key",
        ),
        (edited(&["active", "activated"], json!(1)), "is not the latest"),
        (edited(&["version"], json!(3)), "written in format 3"),
    ];
    for (text, wanted) in cases {
        fs::write(host.path(FILE), &text).unwrap();
        host.start();
        token(&host, API);
        token(&host, HARD);
        let refused = host.post("/v1/token", json!({ "audience": RSA }));
        assert_eq!((refused.status, refused.error().as_str()), (503, "temporarily_unavailable"), "{wanted}");
        for said in [refused.text(), said(&host.hostbadge(&["status"]))] {
            assert!(said.contains("rsa.json") && said.contains(wanted), "{wanted}\nnot in\n{said}");
        }
        assert_eq!(keys(&host).len(), 2, "{wanted}");
        assert_eq!(fs::read_to_string(host.path(FILE)).unwrap(), text, "{wanted}: not replaced");
        assert!(host.stop().success());
    }
    // The file is repaired while the daemon runs.
    fs::write(host.path(FILE), theirs).unwrap();
    host.start();
    assert_eq!(host.post("/v1/token", json!({ "audience": RSA })).status, 503);
    fs::write(host.path(FILE), good).unwrap();
    rsa_token(&host);
    assert_eq!(keys(&host), set);
}

#[test]
fn a_stalled_tpm_stops_only_tokens_that_it_signs() {
    let mut host = Host::new();
    host.configure("[limits]\ntpm_rate = 1000\ntpm_burst = 1000\n[tpm]\ndeadline = \"1s\"\n");
    register(&host);
    host.start();
    // On a busy machine, a signature may take longer than the deadline.
    until_true("the TPM signs with both keys", || {
        [HARD, RSA]
            .iter()
            .all(|audience| host.post("/v1/token", json!({ "audience": audience })).status == 200)
    });
    let swtpm = host.swtpm();
    kill(swtpm, Signal::SIGSTOP).unwrap();
    for audience in [HARD, RSA, HARD] {
        let refused = host.post("/v1/token", json!({ "audience": audience }));
        assert_eq!((refused.status, refused.error().as_str()), (503, "temporarily_unavailable"));
        assert!(refused.text().contains("the TPM is busy"), "{}", refused.text());
        token(&host, API);
    }
    assert_eq!(host.health()["tpm"], "busy");
    kill(swtpm, Signal::SIGCONT).unwrap();
    until_true("the TPM signs again", || {
        host.post("/v1/token", json!({ "audience": HARD })).status == 200
            && host.post("/v1/token", json!({ "audience": RSA })).status == 200
    });
}

#[test]
fn tokens_signed_by_the_tpm_have_a_rate_limit_per_agent() {
    let mut host = Host::new();
    host.configure("[limits]\ntpm_rate = 1\ntpm_burst = 3\n");
    register(&host);
    host.start();
    let mut asked = Connection::open(&host.agent_socket());
    let mut answers = Vec::new();
    for _ in 0..30 {
        answers.push(asked.post("/v1/token", &json!({ "audience": HARD })));
    }
    let slow = answers.iter().find(|answer| answer.status != 200).expect("one too many");
    assert_eq!((slow.status, slow.error().as_str()), (429, "slow_down"));
    assert_eq!(slow.header("retry-after"), Some("1"));
    assert!(answers[..3].iter().all(|answer| answer.status == 200));
    // Other tokens and evidence have limits of their own.
    token(&host, API);
    assert_eq!(host.post("/v1/attest", json!({ "nonce": "YSBub25jZSBvZiAxOCBieXRlcw" })).status, 200);
}

/// A host with the agents `many` (root) and `few` (nobody), whose tokens the TPM signs.
fn two_agents() -> Host {
    common::require_root();
    let mut host = Host::new();
    host.configure("[limits]\ntpm_rate = 1000\ntpm_burst = 1000\n[tpm]\ndeadline = \"30s\"\n");
    let grant = format!("[[grant]]\naudience = \"{HARD}\"\nassurance = \"tpm\"\n");
    host.agents_file("many", &format!("name = \"many\"\n[match]\nuser = 0\n{grant}"));
    host.agents_file("few", &format!("name = \"few\"\n[match]\nuser = {NOBODY}\n{grant}"));
    host.start();
    host
}

/// Connections of the agent `many`, each with one pending request, while the TPM is stopped.
fn pending_requests(host: &Host, size: usize) -> Vec<Connection> {
    let body = json!({ "audience": HARD }).to_string();
    let text = request("POST", "/v1/token", Some("application/json"), body.as_bytes());
    let mut crowd: Vec<Connection> = (0..size).map(|_| Connection::open(&host.agent_socket())).collect();
    for one in &mut crowd {
        one.send(&text).unwrap();
    }
    crowd
}

fn waiting(host: &Host) -> u64 {
    host.status()["tpm"]["waiting_to_sign"].as_u64().unwrap()
}

/// The agents in the order of their tokens in the audit log.
fn served(host: &Host) -> Vec<String> {
    let lines = host.audit();
    let issued = with_event(&lines, "token-issued");
    issued.iter().map(|line| line["agent"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_agent_with_many_requests_does_not_starve_another() {
    let host = two_agents();
    let mut few = ScriptedClient::connect(&host, &Credentials::user(NOBODY));
    let swtpm = host.swtpm();
    kill(swtpm, Signal::SIGSTOP).unwrap();
    let mut many = pending_requests(&host, 50);
    until_true("one signs and the others wait", || waiting(&host) == 49);
    let body = json!({ "audience": HARD }).to_string();
    few.execute(&format!("reply(request('POST /v1/token', {body:?}))"));
    until_true("the other agent waits as well", || waiting(&host) == 50);
    kill(swtpm, Signal::SIGCONT).unwrap();
    assert_eq!(few.read_value()["status"], 200);
    // Further requests are served while the others wait.
    for _ in 0..5 {
        assert_eq!(few.request("POST /v1/token", &body).0, 200);
    }
    for one in &mut many {
        let answer = one.read_response().expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    few.close();
    let order = served(&host);
    assert_eq!((order.len(), order.iter().filter(|agent| *agent == "few").count()), (56, 6));
    assert_eq!(order[..3], ["many", "few", "many"], "after the request that was being signed");
    assert_eq!(order[55], "many", "the few were served while the many waited: {order:?}");
    assert_eq!(waiting(&host), 0);
}

#[test]
fn an_agent_that_is_removed_while_it_waits_for_the_tpm_gets_nothing() {
    let host = two_agents();
    let mut few = ScriptedClient::connect(&host, &Credentials::user(NOBODY));
    let swtpm = host.swtpm();
    kill(swtpm, Signal::SIGSTOP).unwrap();
    let mut many = pending_requests(&host, 3);
    until_true("one signs and the others wait", || waiting(&host) == 2);
    let body = json!({ "audience": HARD }).to_string();
    few.execute(&format!("reply(request('POST /v1/token', {body:?}))"));
    until_true("the other agent waits as well", || waiting(&host) == 3);
    fs::remove_file(host.path("etc/agents.d/many.toml")).unwrap();
    host.reload();
    kill(swtpm, Signal::SIGCONT).unwrap();
    for one in &mut many {
        let answer = one.read_response().expect("an answer");
        assert_eq!((answer.status, answer.error().as_str()), (503, "temporarily_unavailable"));
        assert!(answer.text().contains("the agent configuration has changed"), "{}", answer.text());
    }
    assert_eq!(few.read_value()["status"], 200);
    few.close();
    assert_eq!(served(&host), ["few"]);
    let lines = host.audit();
    let refused = with_event(&lines, "request-refused");
    assert!(refused.iter().all(|line| line["agent"] == "many" && line["audience"] == HARD), "{refused:?}");
    assert_eq!(refused.len(), 3);
}

#[test]
fn a_full_queue_gets_429_for_its_agent_only() {
    let host = two_agents();
    let mut few = ScriptedClient::connect(&host, &Credentials::user(NOBODY));
    let swtpm = host.swtpm();
    kill(swtpm, Signal::SIGSTOP).unwrap();
    let mut many = pending_requests(&host, 65);
    until_true("the queue is full", || waiting(&host) == 64);
    let refused = host.post("/v1/token", json!({ "audience": HARD }));
    assert_eq!((refused.status, refused.error().as_str()), (429, "slow_down"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let body = json!({ "audience": HARD }).to_string();
    few.execute(&format!("reply(request('POST /v1/token', {body:?}))"));
    until_true("another agent may wait", || waiting(&host) == 65);
    let nonce = json!({ "nonce": "YSBub25jZSBvZiAxOCBieXRlcw" }).to_string();
    let mut verifier = host.connect();
    verifier.send(&request("POST", "/v1/attest", Some("application/json"), nonce.as_bytes())).unwrap();
    kill(swtpm, Signal::SIGCONT).unwrap();
    assert_eq!(few.read_value()["status"], 200);
    for one in &mut many {
        assert_eq!(one.read_response().expect("an answer").status, 200);
    }
    few.close();
    assert_eq!(verifier.read_response().expect("evidence").status, 200);
    let lines = host.audit();
    let position = |event: &str| lines.iter().rposition(|line| line["event"] == event);
    assert!(position("attested") < position("token-issued"), "evidence does not wait for the queue");
    assert_eq!(waiting(&host), 0);
    token(&host, HARD);
}
