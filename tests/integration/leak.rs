//! `hostbadge leak`: what leaked, whose, where it was used, and its revocation.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use crate::common::callers::{Credentials, NOBODY, Unit};
use crate::common::grpc::{Grpc, WitRequest, WitResponse};
use crate::common::http::{jti, tampered};
use crate::common::{API, Host, until_true};

const INVOCATION: &str = "0123456789abcdef0123456789abcdef";

/// A running host on which root is the agents `r` and `reader`.
fn host() -> Host {
    let mut host = Host::new();
    host.agent("r", "user = 0");
    host.agent("reader", "user = 0");
    host.start();
    host
}

fn token(host: &Host) -> String {
    let answer = host.post("/v1/token", json!({ "audience": API, "agent": "r" }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The answer of the daemon, and the exit status.
#[track_caller]
fn report(host: &Host, words: &[&str], input: &str) -> (Value, Option<i32>) {
    let output = host.hostbadge_with(&[&["leak"], words, &["--json"]].concat(), input);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    (report, output.status.code())
}

fn is_active(host: &Host, token: &str) -> bool {
    host.introspect(token)["active"].as_bool().unwrap()
}

#[test]
fn a_leaked_token_is_followed_through_the_audit_log_and_revoked() {
    let host = host();
    let token = token(&host);
    assert!(is_active(&host, &token));
    let refused =
        host.post("/v1/token", json!({ "audience": "https://elsewhere.example.com", "agent": "r" }));
    assert_eq!(refused.status, 400, "{}", refused.text());
    let log = format!("GET / HTTP/1.1\nAuthorization: Bearer {token}\n\n# and again {token}\n");

    let (report, status) = report(&host, &["--dry-run"], &log);
    assert_eq!(status, Some(0), "{report}");
    assert!(is_active(&host, &token), "--dry-run revokes nothing");
    assert_eq!((&report["what"], &report["agent"]), (&json!("access-token"), &json!("r")));
    assert_eq!((&report["jti"], &report["audiences"]), (&json!(jti(&token)), &json!([API])));
    assert_eq!(report["issued"]["event"], "token-issued");
    assert_eq!(report["issued"]["peer"]["pid"], std::process::id());
    assert!(report["issued"]["peer"]["exe"].as_str().is_some_and(|exe| exe.starts_with('/')), "{report}");
    assert_eq!((&report["later"][0]["event"], &report["later_count"]), (&json!("introspected"), &json!(1)));
    assert_eq!(report["refusals"][0]["reason"], refused.json()["error"], "{report}");
    assert_eq!((&report["searched_all"], &report["revoked"]), (&json!(true), &Value::Null), "{report}");
    assert!(report["next"][0].as_str().unwrap().contains("--dry-run"), "{report}");

    let output = host.hostbadge_with(&["leak", "--reason", "in a log"], &log);
    let printed = text(&output);
    assert_eq!(output.status.code(), Some(0), "{printed}");
    assert!(!is_active(&host, &token));
    let revoked = format!("revoked token {}", jti(&token));
    for part in
        ["access token that this host issued", "introspected", "refused", &revoked, "hostbadge hygiene"]
    {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    assert!(!printed.contains(&token) && !host.audit_text().contains(&token));
    let lines = host.audit();
    assert!(
        lines.iter().any(|line| line["detail"].as_str().is_some_and(|text| text.ends_with(": in a log")))
    );
    // Another token of the agent is not concerned.
    assert!(is_active(&host, &self::token(&host)));

    let (again, status) = self::report(&host, &[], &token);
    assert_eq!((&again["revoked"][0]["outcome"], status), (&json!("already-revoked"), Some(0)), "{again}");
    let is_revocation = |one: &&Value| one["event"] == "token-revoked" && one["jti"] == again["jti"];
    assert_eq!(again["later"].as_array().unwrap().iter().filter(is_revocation).count(), 1, "{again}");
    assert!(again["revoked_before"].as_str().is_some_and(|reason| reason.contains("revoked")), "{again}");
}

#[test]
fn the_agent_and_the_invocation_are_revoked_if_asked() {
    let mut host = Host::new();
    let mut unit = Unit::new("leak");
    unit.set_invocation_id(INVOCATION);
    host.agent("unit", &format!("unit = \"{}\"", unit.name));
    host.agent("reader", "user = 0");
    host.start();
    let caller = Credentials::user(NOBODY).in_unit(&unit);
    // An invocation lasts as long as its unit has a process.
    let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
    unit.add_process(&sleeper.id().to_string());
    let issue = || caller.token(&host).json()["access_token"].as_str().map(str::to_owned);
    let (first, second) = (issue().unwrap(), issue().unwrap());

    let (report, _) = report(&host, &["--invocation"], &first);
    assert_eq!(report["invocation"], INVOCATION, "{report}");
    let kinds: Vec<_> =
        report["revoked"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["token", "invocation"]);
    assert!(!is_active(&host, &first) && !is_active(&host, &second));
    assert_eq!(issue(), None, "nothing is issued in the invocation");

    let (report, _) = self::report(&host, &["--agent"], &second);
    assert_eq!(
        report["revoked"][1],
        json!({ "kind": "agent", "value": "unit", "outcome": "revoked" }),
        "{report}"
    );
    let next = report["next"].to_string();
    assert!(next.contains("hostbadge revoke lift agent unit"), "{next}");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn each_kind_has_an_answer() {
    let host = host();
    let client = Grpc::connect(&host.workload_socket());
    let svid = client.jwt(&[API], "").unwrap().swap_remove(0).svid;
    let mut wit = client.stream("FetchWITSVID", &WitRequest::default()).unwrap();
    let wit: WitResponse = client.next(&mut wit, Duration::from_secs(30)).unwrap().unwrap();
    for (text, what) in [(&svid, "jwt-svid"), (&wit.svids[0].wit_svid, "wit-svid")] {
        let (report, status) = report(&host, &[], text);
        assert_eq!((&report["what"], status), (&json!(what), Some(0)), "{report}");
        assert!(report["issued"]["seq"].is_u64() && report["revoked"][0]["outcome"] == "revoked", "{report}");
        assert!(report["spiffe_id"].as_str().unwrap().starts_with("spiffe://"), "{report}");
    }
    assert!(client.validate(API, &svid).is_err(), "it is revoked");

    let answer = host.post("/v1/certificate", json!({ "agent": "r" })).json();
    let chain = answer["certificate_chain"].as_str().unwrap().to_owned();
    let (report, status) = report(&host, &[], &chain);
    assert_eq!((&report["what"], status), (&json!("certificate"), Some(0)), "{report}");
    assert_eq!((&report["agent"], &report["issued"]["event"]), (&json!("r"), &json!("certificate-issued")));
    assert!(report["next"][0].as_str().unwrap().contains("--agent"), "{report}");

    let answer = host.post("/v1/token", json!({ "audience": API, "agent": "r", "ttl": 1 }));
    let short = answer.json()["access_token"].as_str().unwrap().to_owned();
    until_true("the token expires", || !is_active(&host, &short));
    let (report, status) = self::report(&host, &[], &short);
    assert_eq!((&report["expired"], status), (&json!(true), Some(0)), "{report}");
    assert!(report["revoked"].is_null() && report["explanation"].as_str().unwrap().contains("has expired"));
}

#[test]
fn what_is_not_of_this_host_is_told_apart() {
    let host = host();
    let mut other = Host::other();
    other.agent("root", "user = 0");
    other.start();
    let own = token(&host);
    let encode = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let unknown = format!(
        "{}.{}.{}",
        encode(json!({ "alg": "ES256", "kid": "x", "typ": "JWT" })),
        encode(json!({ "iss": "https://idp.example.com/\u{1b}[31m", "sub": "a" })),
        BASE64URL_NOPAD.encode(&[7; 64])
    );
    for (text, explanation) in [
        (other.token(), "It says that"),
        (tampered(&own), "no published key of this host signed it"),
        (unknown, "It says that \"https://idp.example.com/\\u{1b}[31m\" issued it"),
    ] {
        let (report, status) = report(&host, &["--agent"], &text);
        assert_eq!((&report["what"], status), (&json!("foreign"), Some(1)), "{report}");
        assert!(report["explanation"].as_str().unwrap().contains(explanation), "{report}");
        assert!(report["revoked"].is_null(), "{report}");
    }
    assert!(is_active(&host, &own));
    for garbage in ["", "garbage", "a.b.c", "\u{0}", &"x".repeat(1024 * 1024 + 1)] {
        let output = host.hostbadge_with(&["leak"], garbage);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains("standard input"), "{}", text(&output));
    }
    let answer = host.admin().post("/v1/leak", &json!({ "token": "garbage" }));
    assert_eq!((answer.status, &answer.json()["what"]), (200, &json!("no-token")), "{}", answer.text());
    for body in
        [json!({}), json!({ "token": own, "jti": "x" }), json!({ "jti": "a b" }), json!({ "serial": "" })]
    {
        assert_eq!(host.admin().post("/v1/leak", &body).status, 400, "{body}");
    }
    assert!(is_active(&host, &own));
}

#[test]
fn an_identifier_is_sufficient() {
    let host = host();
    let token = token(&host);
    let (report, status) = report(&host, &["--jti", &jti(&token)], "");
    assert_eq!((&report["what"], &report["agent"], status), (&json!("access-token"), &json!("r"), Some(0)));
    assert!(!is_active(&host, &token));
    let (report, status) = self::report(&host, &["--jti", "none"], "");
    assert_eq!((&report["what"], status), (&json!("unknown"), Some(1)), "{report}");
    assert!(report["explanation"].as_str().unwrap().contains("no record"), "{report}");
    let file = host.path("leaked");
    fs::write(&file, &token).unwrap();
    assert_eq!(host.hostbadge(&["leak", file.to_str().unwrap()]).status.code(), Some(2), "no argument");
}
