//! Access tokens: requests, claims, scopes, lifetimes, introspection, and public documents.

use std::collections::HashSet;

use crate::common::http::{Response, claims, part, request, tampered};
use crate::common::{self, API, Host, until, until_true};
use hostbadge::clock::Clock;
use serde_json::{Value, json};

/// How long before its issue a token is valid, in seconds.
const BACKDATE: u64 = 10;

/// The names of an object's members, sorted.
fn members(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn ask(host: &Host, body: Value) -> Response {
    host.post("/v1/token", body)
}

#[test]
fn a_token_response_conforms_to_rfc_6749() {
    let host = Host::started();
    let answer = ask(&host, json!({ "audience": API }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("pragma"), Some("no-cache"));
    let body = answer.json();
    assert_eq!(members(&body), ["access_token", "expires_in", "scope", "token_type"]);
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 300);
    assert_eq!(body["scope"], "docs.read docs.write");
}

#[test]
fn a_token_has_the_documented_claims_and_no_others() {
    let host = Host::new();
    let grant = format!("[[grant]]\naudience = \"{API}\"\nscopes = [\"b\", \"a\"]\nttl = \"2m\"\n");
    host.agents_file(
        "r",
        &format!("name = \"r\"\nowner = \"o@x\"\ntenant = \"acme\"\n[match]\nuser = 0\n{grant}"),
    );
    let mut host = host;
    host.start();
    // The first token does not wait for the digest.
    let token = until("a token has the digest of the executable", || {
        let answer = host.post("/v1/token", json!({ "audience": API }));
        let token = answer.json()["access_token"].as_str()?.to_owned();
        claims(&token)["hostbadge"].get("exe_sha256").is_some().then_some(token)
    });

    let status = host.status();
    let header = part(&token, 0);
    let keys = status["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["tenant"] == "acme").unwrap();
    assert_eq!(header, json!({ "alg": "ES256", "kid": key["kid"], "typ": "at+jwt" }));

    let claims = claims(&token);
    let names = ["aud", "client_id", "exp", "hostbadge", "iat", "iss", "jti", "nbf", "scope", "sub"];
    assert_eq!(members(&claims), names);
    let id = status["host"]["id"].as_str().unwrap();
    assert_eq!(id.len(), 26);
    assert_eq!(claims["iss"], format!("https://{id}.internal/tenant/acme"));
    assert_eq!(claims["sub"], format!("spiffe://{id}.internal/host/{id}/tenant/acme/agent/r"));
    assert_eq!(claims["client_id"], "r");
    assert_eq!(claims["aud"], API);
    assert_eq!(claims["scope"], "a b");
    assert_eq!(claims["nbf"], claims["iat"]);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 120 + BACKDATE);
    // 128 bits as base64url.
    assert_eq!(claims["jti"].as_str().unwrap().len(), 22);

    let private = &claims["hostbadge"];
    let names = [
        "clock",
        "epoch",
        "exe_sha256",
        "host",
        "invocation",
        "key",
        "match",
        "peer",
        "posture",
        "tenant",
        "tpm",
    ];
    assert_eq!(members(private), names, "the test process is not in a unit");
    assert_eq!(private["host"], id);
    assert_eq!(private["tenant"], "acme");
    assert_eq!(private["tpm"], "software");
    assert_eq!(private["key"], "sealed");
    assert_eq!(private["posture"], "off");
    assert!(["pinned", "unpinned"].contains(&private["peer"].as_str().unwrap()));
    assert_eq!(private["exe_sha256"].as_str().unwrap().len(), 64);
}

#[test]
fn configured_names_are_in_the_token() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("trust_domain = \"example.org\"\nissuer = \"https://id.example.org/host\"");
    host.start();
    let claims = claims(&host.token());
    assert_eq!(claims["iss"], "https://id.example.org/host");
    assert!(claims["sub"].as_str().unwrap().starts_with("spiffe://example.org/host/"), "{claims}");
    let discovery = host.get("/.well-known/openid-configuration").json();
    assert_eq!(discovery["issuer"], "https://id.example.org/host");
    assert_eq!(discovery["jwks_uri"], "https://id.example.org/host/.well-known/jwks.json");
}

#[test]
fn an_agent_can_request_fewer_scopes_but_no_others() {
    let host = Host::started();
    let answer = ask(&host, json!({ "audience": API, "scope": "docs.read" }));
    assert_eq!(answer.json()["scope"], "docs.read");
    assert_eq!(claims(answer.json()["access_token"].as_str().unwrap())["scope"], "docs.read");
    for scope in ["docs.delete", "docs.read docs.delete", "DOCS.READ"] {
        let answer = ask(&host, json!({ "audience": API, "scope": scope }));
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_scope"), "{scope}");
    }
}

#[test]
fn a_request_can_shorten_but_not_lengthen_the_lifetime() {
    let host = Host::started();
    for (wanted, given) in [(json!(60), 60), (json!("90s"), 90), (json!("1h"), 300), (json!(u64::MAX), 300)] {
        let answer = ask(&host, json!({ "audience": API, "ttl": wanted }));
        assert_eq!(answer.json()["expires_in"], given, "{wanted}: {}", answer.text());
        let claims = claims(answer.json()["access_token"].as_str().unwrap());
        let period = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
        assert_eq!(period, given + BACKDATE, "{wanted}");
    }
}

#[test]
fn a_token_is_valid_10_s_before_its_issue_and_spans_at_most_an_hour() {
    let mut host = Host::new();
    let grant = format!("[[grant]]\naudience = \"{API}\"\nttl = \"1h\"\n");
    host.agents_file("r", &format!("name = \"r\"\n[match]\nuser = 0\n{grant}"));
    host.start();
    for (wanted, given) in [("1h", 3590), ("59m50s", 3590), ("1s", 1)] {
        let before = Clock::System.now().as_secs();
        let answer = ask(&host, json!({ "audience": API, "ttl": wanted })).json();
        let after = Clock::System.now().as_secs();
        let claims = claims(answer["access_token"].as_str().unwrap());
        let (iat, exp) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
        assert_eq!(claims["nbf"], claims["iat"]);
        assert!((before - BACKDATE..=after - BACKDATE).contains(&iat), "{before} {iat} {after}");
        // `expires_in` counts from the response, not from `iat`.
        assert_eq!((&answer["expires_in"], exp - iat), (&json!(given), given + BACKDATE), "{wanted}");
        assert!(exp - iat <= 3600, "{wanted}");
    }
}

#[test]
fn an_audience_that_is_not_granted_is_an_invalid_target() {
    let host = Host::started();
    for audience in ["https://other.example.com", "https://api.example.com/", "HTTPS://API.EXAMPLE.COM"] {
        let answer = ask(&host, json!({ "audience": audience }));
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_target"), "{audience}");
    }
}

#[test]
fn form_bodies_and_the_resource_parameter_are_accepted() {
    let host = Host::started();
    let mut connection = host.connect();
    for form in [
        format!("audience={API}&scope=docs.read"),
        "resource=https%3A%2F%2Fapi.example.com&scope=docs.read".to_owned(),
        format!("grant_type=client_credentials&client_id=x&audience={API}&scope=docs.read"),
        format!("audience={API}&resource={API}&scope=docs.read"),
    ] {
        let answer = connection.form("/v1/token", &form);
        assert_eq!(answer.status, 200, "{form}: {}", answer.text());
        assert_eq!(answer.json()["scope"], "docs.read");
    }
    assert_eq!(connection.post("/v1/token", &json!({ "resource": API })).status, 200);
    let answer = connection.form("/v1/token", &format!("audience={API}&resource=https://b"));
    assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"));
}

#[test]
fn an_unknown_field_is_refused_in_forms_and_in_json() {
    let host = Host::started();
    let mut connection = host.connect();
    let form = connection.form("/v1/token", &format!("audience={API}&scopes=docs.read"));
    let json = connection.post("/v1/token", &json!({ "audience": API, "scopes": "docs.read" }));
    for answer in [form, json] {
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"));
        let text = answer.json()["error_description"].as_str().unwrap().to_owned();
        assert_eq!(text, "unknown field \"scopes\"; did you mean \"scope\"?");
    }
    // A whole token in the place of a field's name is in no message and no record.
    let answer = connection.form("/v1/introspect", &host.token());
    assert_eq!(answer.status, 400);
    assert!(!answer.text().contains("eyJ") && !host.audit_text().contains("eyJ"), "{}", answer.text());
}

#[test]
fn a_ttl_of_10_means_10_seconds_everywhere() {
    let mut host = Host::new();
    for (name, ttl) in [("number", "10"), ("text", "\"10\""), ("unit", "\"10s\"")] {
        let grant = format!("[[grant]]\naudience = \"{API}\"\nttl = {ttl}\n");
        host.agents_file(name, &format!("name = \"{name}\"\n[match]\nuser = 0\n{grant}"));
    }
    host.agent("root", "user = 0");
    host.start();
    let given = |answer: Response| answer.json()["expires_in"].clone();
    for name in ["number", "text", "unit"] {
        assert_eq!(given(ask(&host, json!({ "audience": API, "agent": name }))), 10, "{name}");
    }
    for ttl in [json!(10), json!("10"), json!("10s")] {
        assert_eq!(given(ask(&host, json!({ "audience": API, "agent": "root", "ttl": ttl }))), 10, "{ttl}");
    }
    for ttl in ["10", "10s"] {
        let mut connection = host.connect();
        let form = format!("audience={API}&agent=root&ttl={ttl}");
        assert_eq!(given(connection.form("/v1/token", &form)), 10, "{ttl}");
        let words = ["token", API, "--agent", "root", "--ttl", ttl, "--json"];
        let printed: Value = serde_json::from_slice(&host.hostbadge(&words).stdout).unwrap();
        assert_eq!(printed["expires_in"], 10, "{ttl}");
    }
}

#[test]
fn a_grant_chooses_the_type_of_its_tokens() {
    const TYPED: &str = "https://typed.example.com";
    const TPM: &str = "https://tpm.example.com";
    let mut host = Host::new();
    let grant = |audience: &str, more: &str| format!("[[grant]]\naudience = \"{audience}\"\n{more}\n");
    let grants = grant(API, "typ = \"at+jwt\"")
        + &grant(TYPED, "typ = \"JWT\"")
        + &grant(TPM, "typ = \"JWT\"\nassurance = \"tpm\"");
    host.agents_file("r", &format!("name = \"r\"\n[match]\nuser = 0\n{grants}"));
    host.start();
    let keys = host.path("jwks.json");
    assert!(host.hostbadge(&["export", "jwks", "-o", keys.to_str().unwrap()]).status.success());
    for (audience, typ) in [(API, "at+jwt"), (TYPED, "JWT"), (TPM, "JWT")] {
        let answer = ask(&host, json!({ "audience": audience }));
        let token = answer.json()["access_token"].as_str().unwrap().to_owned();
        let header = part(&token, 0);
        assert_eq!(header["typ"], typ, "{audience}");
        assert_eq!(members(&header), ["alg", "kid", "typ"], "{audience}");
        assert_eq!(host.introspect(&token)["active"], true, "{audience}");
        let words = ["verify", "token", &token, "--jwks", keys.to_str().unwrap(), "--json"];
        let verified: Value = serde_json::from_slice(&host.hostbadge(&words).stdout).unwrap();
        assert_eq!((&verified["valid"], &verified["kind"]), (&json!(true), &json!("access-token")));
    }
    let shown = host.admin().get("/v1/agents/r").json();
    let types: Vec<&Value> = shown["grants"].as_array().unwrap().iter().map(|grant| &grant["typ"]).collect();
    assert_eq!(types, ["at+jwt", "JWT", "JWT"]);
}

#[test]
fn each_token_has_a_unique_jti() {
    let host = Host::started();
    let mut connection = host.connect();
    let mut seen = HashSet::new();
    for _ in 0..100 {
        let body = connection.post("/v1/token", &json!({ "audience": API })).json();
        assert!(seen.insert(common::http::jti(body["access_token"].as_str().unwrap())));
    }
}

#[test]
fn the_key_set_and_the_discovery_document_are_public() {
    let host = Host::started();
    let answer = host.get("/.well-known/jwks.json");
    assert_eq!(answer.status, 200);
    let jwks = answer.json();
    let key = &jwks["keys"][0];
    assert_eq!(members(key), ["alg", "crv", "kid", "kty", "use", "x", "y"], "public members only");
    assert_eq!(
        (&key["kty"], &key["crv"], &key["alg"], &key["use"]),
        (&json!("EC"), &json!("P-256"), &json!("ES256"), &json!("sig"))
    );
    assert_eq!(part(&host.token(), 0)["kid"], key["kid"]);

    let discovery = host.get("/.well-known/openid-configuration").json();
    let issuer = discovery["issuer"].as_str().unwrap();
    assert_eq!(discovery["jwks_uri"], format!("{issuer}/.well-known/jwks.json"));
    assert_eq!(claims(&host.token())["iss"], issuer);
    assert_eq!(discovery["id_token_signing_alg_values_supported"][0], "ES256");
    for required in ["response_types_supported", "subject_types_supported"] {
        assert!(discovery[required].is_array(), "OpenID Connect Discovery wants {required}");
    }
    if common::callers::Credentials::user(common::callers::NOBODY)
        .curl(&host, "/.well-known/jwks.json", &[])
        .json()
        != jwks
    {
        panic!("another user reads another key set");
    }
}

#[test]
fn introspection_reports_only_a_valid_token_as_active() {
    let host = Host::started();
    let token = host.token();
    let good = host.introspect(&token);
    assert_eq!(good["active"], true, "{good}");
    assert_eq!(good["token_type"], "Bearer");
    for claim in ["iss", "sub", "client_id", "aud", "exp", "jti", "scope"] {
        assert_eq!(good[claim], claims(&token)[claim], "{claim}");
    }

    let inactive = json!({ "active": false });
    let no_signature = format!("{}.", token.rsplit_once('.').unwrap().0);
    for bad in [
        tampered(&token).as_str(),
        &no_signature,
        "",
        "a.b.c",
        "x",
        &format!("{token}A"),
        &format!(" {token}"),
    ] {
        assert_eq!(host.introspect(bad), inactive, "{bad}");
    }
    let mut connection = host.connect();
    let for_audience = |audience: &str| json!({ "token": token, "audience": audience });
    assert_eq!(connection.post("/v1/introspect", &for_audience("https://other")).json(), inactive);
    assert_eq!(connection.post("/v1/introspect", &for_audience(API)).json()["active"], true);
    let form = connection.form("/v1/introspect", &format!("token={token}&token_type_hint=access_token"));
    assert_eq!(
        (form.json()["active"].clone(), form.header("cache-control")),
        (json!(true), Some("no-store"))
    );
}

#[test]
fn a_token_expires() {
    let host = Host::started();
    let answer = ask(&host, json!({ "audience": API, "ttl": 1 })).json();
    assert_eq!(answer["expires_in"], 1);
    let token = answer["access_token"].as_str().unwrap();
    until_true("the token has expired", || host.introspect(token) == json!({ "active": false }));
}

#[test]
fn a_token_of_a_removed_agent_is_inactive() {
    let host = Host::started();
    host.agent("other", "user = 0");
    host.reload();
    let ask = json!({ "audience": API, "agent": "other" });
    let token = host.post("/v1/token", ask).json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(host.introspect(&token)["active"], true);
    std::fs::remove_file(host.path("etc/agents.d/other.toml")).unwrap();
    host.reload();
    assert_eq!(host.introspect(&token), json!({ "active": false }));
}

#[test]
fn a_process_that_matches_several_agents_must_name_one() {
    let host = Host::started();
    host.agent("second", "user = 0");
    host.reload();
    let answer = ask(&host, json!({ "audience": API }));
    assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"));
    let text = answer.text();
    assert!(text.contains("root") && text.contains("second"), "{text}");
    for name in ["root", "second"] {
        let answer = ask(&host, json!({ "audience": API, "agent": name })).json();
        assert_eq!(claims(answer["access_token"].as_str().unwrap())["client_id"], name);
    }
    assert_eq!(ask(&host, json!({ "audience": API, "agent": "third" })).error(), "invalid_client");
    let who = host.get("/v1/whoami").json();
    assert_eq!((&who["agents"], &who["agent"]), (&json!(["root", "second"]), &Value::Null));
}

#[test]
fn whoami_shows_what_the_daemon_sees() {
    let host = Host::started();
    let answer = host.get("/v1/whoami");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let who = answer.json();
    assert_eq!(members(&who), ["agent", "agents", "host", "peer", "spiffe_id"]);
    assert_eq!(who["agent"], "root");
    assert_eq!(who["spiffe_id"], claims(&host.token())["sub"]);
    let names = ["exe", "exe_sha256", "gid", "invocation", "pid", "pinned", "uid", "unit"];
    assert_eq!(members(&who["peer"]), names);
    assert_eq!(who["peer"]["pid"], std::process::id());
    assert_eq!(who["peer"]["exe"], std::env::current_exe().unwrap().to_str().unwrap());
    assert_eq!(members(&who["host"]), ["id", "posture", "tpm"]);
    assert_eq!(who["host"]["tpm"], "software");
}

#[test]
fn health_is_public() {
    let host = Host::started();
    assert_eq!(host.health(), json!({ "status": "ok", "tpm": "ready", "posture": "off" }));
    let nobody = common::callers::Credentials::user(common::callers::NOBODY);
    assert_eq!(nobody.curl(&host, "/v1/health", &[]).status, 200);
}

#[test]
fn a_denied_unknown_caller_gets_its_own_peer_information() {
    let host = Host::started();
    let nobody = common::callers::Credentials::user(common::callers::NOBODY);
    for (target, arguments) in [("/v1/token", &["-d", "audience=a"][..]), ("/v1/whoami", &[])] {
        let answer = nobody.curl(&host, target, arguments);
        assert_eq!((answer.status, answer.error().as_str()), (401, "invalid_client"), "{target}");
        assert_eq!(answer.json()["peer"]["uid"], common::callers::NOBODY, "{target}");
        assert!(answer.json()["peer"]["pid"].as_i64().unwrap() > 0);
    }
}

#[test]
fn unknown_paths_get_404_and_other_methods_405() {
    let host = Host::started();
    let mut connection = host.connect();
    for (method, target, allowed) in [
        ("GET", "/v1/token", "POST"),
        ("DELETE", "/v1/token", "POST"),
        ("GET", "/v1/introspect", "POST"),
        ("POST", "/v1/whoami", "GET, HEAD"),
        ("PUT", "/v1/health", "GET, HEAD"),
        ("POST", "/.well-known/jwks.json", "GET, HEAD"),
    ] {
        let answer = connection.exchange(&request(method, target, None, b""));
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{method} {target}");
    }
    for target in
        ["/", "/v1", "/v1/token/", "/v1/TOKEN", "/v2/token", "/v1/status", "/v1/%74oken", "/v1/agents/reload"]
    {
        assert_eq!(connection.get(target).status, 404, "{target}");
    }
    connection.send(&request("HEAD", "/v1/health", None, b"")).unwrap();
    assert_eq!(connection.read_head_response().unwrap().status, 200);
    assert_eq!(connection.get("/v1/health?x=1").status, 200);
}
