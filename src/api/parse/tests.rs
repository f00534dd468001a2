use bytes::Bytes;

use super::*;
use crate::wire::admin::EmptyDirectory;
use crate::wire::agent::Ttl;

fn body(is_form: bool, text: &str) -> RequestBody {
    RequestBody { is_form, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

/// The error of a request, by its name.
fn error(request: &str, body: &RequestBody) -> Option<String> {
    let result = match request {
        "token" => token_request(body).map(drop),
        "certificate" => certificate_request(body).map(drop),
        "introspection" => introspection_request(body).map(drop),
        "use nonce" => use_nonce_request(body).map(drop),
        "attest" => attest_request(body).map(drop),
        "rotate" => rotate_request(body).map(drop),
        "recover" => recover_request(body).map(drop),
        "posture accept" => posture_accept_request(body).map(drop),
        "credential" => credential_request(body).map(drop),
        "install" => install_request(body).map(drop),
        "reload" => reload_request(body).map(drop),
        "approve" => approve_request(body).map(drop),
        "confirm" => confirm_recovery_key_request(body).map(drop),
        "prove" => prove_request(body).map(drop),
        "delegate" => delegate_request(body).map(drop),
        "release" => release_request(body).map(drop),
        "put" => put_credential_request(body).map(drop),
        "rotate credential" => rotate_credential_request(body).map(drop),
        "remove" => remove_credential_request(body).map(drop),
        "offboard" => offboard_request(body).map(drop),
        "sign review" => sign_review_request(body).map(drop),
        "remove tenant" => remove_tenant_request(body).map(drop),
        "resume" => resume_request(body).map(drop),
        "revoke own" => revoke_own_request(body).map(drop),
        "revoke" => revoke_request(body).map(drop),
        "freeze" => freeze_request(body).map(drop),
        "leak" => leak_request(body).map(drop),
        "decide" => decide_request(body).map(drop),
        "signal" => signal_request(body).map(drop),
        other => panic!("{other}"),
    };
    result.err().map(|e| e.to_string())
}

/// A valid object and the array of the same values, for each request that the sockets take.
const REQUESTS: [(&str, &str, &str); 29] = [
    ("token", r#"{"audience":"a","resource":"a"}"#, r#"["a","a"]"#),
    ("certificate", r#"{"csr":"c"}"#, r#"["c"]"#),
    ("introspection", r#"{"token":"t","audience":"a"}"#, r#"["t","a"]"#),
    ("use nonce", r#"{"nonce":"n"}"#, r#"["n"]"#),
    ("attest", r#"{"nonce":"AAAAAAAAAAA","format":"eat"}"#, r#"["AAAAAAAAAAA","eat"]"#),
    ("rotate", r#"{"now":true}"#, "[true]"),
    ("recover", r#"{"recovery_key":"hbr1-secret"}"#, r#"["hbr1-secret"]"#),
    ("posture accept", r#"{"digest":"d"}"#, r#"["d"]"#),
    ("credential", r#"{"ek":"ecc","credential":"c"}"#, r#"["ecc","c"]"#),
    ("install", r#"{"certificate":"c"}"#, r#"["c"]"#),
    ("reload", r#"{"allow_empty":["agents"]}"#, r#"[["agents"]]"#),
    ("approve", r#"{"digest":"d"}"#, r#"["d"]"#),
    ("confirm", r#"{"recovery_key":"hbr1-secret"}"#, r#"["hbr1-secret"]"#),
    ("prove", r#"{"kind":"dpop","token":"secret"}"#, r#"["dpop",null,null,null,null,"secret"]"#),
    (
        "delegate",
        r#"{"name":"n","cgroup":"c","grants":[{"audience":"a","scope":"s"},{"credential":"d"}],"ttl":"5m"}"#,
        r#"["n","c",[],"5m"]"#,
    ),
    ("release", r#"{"name":"n","version":2}"#, r#"["n",2]"#),
    ("put", r#"{"name":"n","value":"secret"}"#, r#"["n",null,null,"secret"]"#),
    ("rotate credential", r#"{"name":"n","value":"secret"}"#, r#"["n",null,null,"secret"]"#),
    ("remove", r#"{"name":"n"}"#, r#"["n"]"#),
    ("offboard", r#"{"name":"n"}"#, r#"["n"]"#),
    (
        "sign review",
        concat!(
            r#"{"sha256":"d","reviewer":"r","since":"2026-11-01T00:00:00Z","until":"2026-11-27T00:00:00Z","#,
            r#""host":"h","complete":true,"missing_records":0,"agents":1,"unused_agents":0,"not_seen":0,"#,
            r#""unused_rights":0}"#
        ),
        r#"["d","r",null,"h",true,0,"2026-11-01T00:00:00Z","2026-11-27T00:00:00Z",1,0,0,0]"#,
    ),
    ("remove tenant", r#"{"name":"n"}"#, r#"["n"]"#),
    ("resume", r#"{"agent":"a"}"#, r#"["a"]"#),
    ("revoke own", r#"{"token":"secret"}"#, r#"["secret"]"#),
    ("revoke", r#"{"token":"secret"}"#, r#"["secret"]"#),
    ("freeze", r#"{"reason":"r"}"#, r#"["r"]"#),
    ("leak", r#"{"token":"secret"}"#, r#"["secret"]"#),
    ("decide", r#"{"id":"i","digest":"d","decision":"approve"}"#, r#"["i","d","approve",null]"#),
    ("signal", r#"{"set":"secret"}"#, r#"["secret"]"#),
];

#[test]
fn arrays_are_not_objects_in_any_request() {
    let source = include_str!("../parse.rs");
    let functions = source.split("#[cfg(test)]").next().unwrap().matches("_request(body: ").count();
    assert_eq!(functions, REQUESTS.len(), "a request is missing in this test");
    for (request, object, array) in REQUESTS {
        assert_eq!(error(request, &body(false, object)), None, "{request}");
        assert_eq!(error(request, &body(false, &format!(" \n{object}\n"))), None, "{request}");
        for text in [array, &format!(" {array}"), "[]", "null", "\"a\"", &format!("{object} x")] {
            let error = error(request, &body(false, text));
            assert!(error.as_ref().is_some_and(|e| !e.contains("secret")), "{request}: {text} {error:?}");
        }
    }
}

#[test]
fn unknown_fields_are_refused_in_json_and_in_forms() {
    for (request, object, _) in REQUESTS {
        let text = format!("{},\"colour\":\"x\"}}", object.strip_suffix('}').unwrap());
        let error = error(request, &body(false, &text)).unwrap();
        let is_secret = ["recover", "confirm", "put", "rotate credential"].contains(&request);
        assert!(is_secret || error.contains("unknown field \"colour\""), "{request}: {error}");
    }
    let forms = [
        ("token", "audience=a", "audience=a&scopes=docs.read", "\"scopes\"; did you mean \"scope\"?"),
        ("token", "audience=a&client_id=z&client_secret=s", "aud=a", "\"aud\"; did you mean \"audience\"?"),
        ("token", "resource=a", "audience=a&scpoe=x", "\"scpoe\"; did you mean \"scope\"?"),
        ("certificate", "csr=c&ttl=10", "csr=c&lifetime=10", "\"lifetime\"; the fields are csr, ttl, agent"),
        ("introspection", "token=t&once=true", "token=t&onec=true", "did you mean \"once\"?"),
        ("use nonce", "nonce=n", "nonse=n", "did you mean \"nonce\"?"),
        ("introspection", "token=t&token_type_hint=x", "token=t&aud=x", "did you mean \"audience\"?"),
        ("release", "name=n&version=2&agent=a", "name=n&verison=2", "did you mean \"version\"?"),
        ("attest", "nonce=AAAAAAAAAAA&format=eat", "nonce=A&fromat=eat", "did you mean \"format\"?"),
    ];
    for (request, known, unknown, expected) in forms {
        assert_eq!(error(request, &body(true, known)), None, "{request}");
        let error = error(request, &body(true, unknown)).unwrap();
        assert!(error.contains(expected), "{unknown}: {error}");
    }
    // A token or key in the place of a name is not repeated.
    let error = error("introspection", &body(true, &"eyJhbGciOi".repeat(8))).unwrap();
    assert!(error.contains("a name of 80 bytes") && !error.contains("eyJ"), "{error}");
}

#[test]
fn json_and_form_are_equivalent() {
    let json =
        body(false, r#"{"audience":"https://x","scope":"b a","ttl":"60","agent":"r","client_id":"z"}"#);
    let form = body(true, "audience=https%3A%2F%2Fx&scope=b+a&ttl=60&agent=r&client_id=z");
    let request = token_request(&json).unwrap();
    assert_eq!(request, token_request(&form).unwrap());
    assert_eq!(request.ttl, Some(Ttl::Text("60".into())));
}

#[test]
fn malformed_json_is_described() {
    for (text, expected) in [
        ("", "not a JSON object"),
        ("{", "EOF"),
        ("[]", "not a JSON object"),
        (r#"{"audience":1}"#, "invalid type: integer"),
        (r#"{"audience":["a"]}"#, "invalid type: sequence"),
        (r#"{"audience":"a","audience":"a"}"#, "duplicate field `audience`"),
        (r#"{"audience":"a","scpoe":"x"}"#, "unknown field \"scpoe\"; did you mean \"scope\"?"),
        (r#"{"audience":"a"} x"#, "trailing characters"),
    ] {
        let body = body(false, text);
        let error = token_request(&body).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let deep = format!("{{\"audience\":{}", "[".repeat(60_000));
    assert!(token_request(&body(false, &deep)).is_err());
}

#[test]
fn repeated_form_field_is_an_error() {
    let twice = body(true, "audience=a&audience=b");
    assert!(token_request(&twice).unwrap_err().to_string().contains("duplicate field `audience`"));
    let missing = error("introspection", &body(true, "audience=a")).unwrap();
    assert!(missing.contains("missing field `token`"), "{missing}");
}

#[test]
fn directories_that_may_be_empty_are_named() {
    assert!(reload_request(&body(false, "[[\"agents\"]]")).is_err());
    let allowed = reload_request(&body(false, r#"{"allow_empty":["agents"]}"#)).unwrap();
    assert_eq!(allowed.allow_empty, [EmptyDirectory::Agents]);
    for text in [r#"{"allow_empty":true}"#, r#"{"allow_empty":["state"]}"#, r#"{"allow":[]}"#] {
        assert!(reload_request(&body(false, text)).is_err(), "{text}");
    }
    assert_eq!(reload_request(&body(false, " ")).unwrap(), ReloadRequest::default());
}

#[test]
fn queries_of_agents_and_their_life_cycle_are_checked() {
    let query = |after: Option<&str>, limit| AgentsQuery { after: after.map(str::to_owned), limit };
    assert_eq!(agents_query("").unwrap(), query(None, None));
    assert_eq!(agents_query("after=a&limit=1000").unwrap(), query(Some("a"), Some(1000)));
    for text in ["limit=0", "limit=1001", "limit=", "limit=1&limit=1", "after=a&after=b", "colour=x"] {
        assert!(agents_query(text).is_err(), "{text}");
    }
    assert_eq!(lifecycle_query("").unwrap(), None);
    assert_eq!(lifecycle_query("unseen_for=86400").unwrap(), Some(Duration::from_secs(86_400)));
    for text in ["unseen_for=", "unseen_for=-1", "unseen_for=1&unseen_for=1", "unseen=1"] {
        assert!(lifecycle_query(text).is_err(), "{text}");
    }
}

#[test]
fn queries_of_metrics_are_checked() {
    let query = |format, agents| MetricsQuery { format, agents };
    assert_eq!(metrics_query("").unwrap(), query(TextFormat::OpenMetrics, None));
    let both = metrics_query("format=prometheus&agents=1000").unwrap();
    assert_eq!(both, query(TextFormat::Prometheus, Some(1000)));
    assert_eq!(
        metrics_query("agents=0&format=openmetrics").unwrap(),
        query(TextFormat::OpenMetrics, Some(0))
    );
    for text in ["agents=1001", "agents=-1", "agents=", "agents=1&agents=1", "format=json", "format=", "x=1"]
    {
        assert!(metrics_query(text).is_err(), "{text}");
    }
}

#[test]
fn audit_queries_name_what_is_wrong() {
    let (query, limit) =
        audit_query("after=7&limit=3&event=token-issued&agent=a%20b&tenant=t&jti=j").unwrap();
    assert_eq!((query.start, limit), (PageStart::After(7), 3));
    assert_eq!((query.tenant.as_deref(), query.jti.as_deref()), (Some("t"), Some("j")));
    assert_eq!((query.agent.as_deref(), query.event), (Some("a b"), Some(Event::TokenIssued)));
    let (query, limit) = audit_query("before=7&since=2026-11-26T10:00:00Z").unwrap();
    assert_eq!((query.start, limit), (PageStart::Before(7), DEFAULT_AUDIT_RECORDS));
    assert_eq!(query.since.unwrap().to_string(), "2026-11-26T10:00:00.000000Z");
    for (text, expected) in [
        ("after=x", "after="),
        ("limit=-1", "limit="),
        ("after=1&before=9", "once"),
        ("event=tokens", "\"tokens\""),
        ("until=yesterday", "until="),
        ("lines=3", "may have"),
    ] {
        let error = audit_query(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
