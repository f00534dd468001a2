//! The SPIFFE Workload API: endpoint, JWT-SVIDs and streams. `point_NN_…` are points of a conformance list
//! for servers.

use std::fs;

use crate::common::callers::{Credentials, NOBODY, ScriptedClient};
use crate::common::grpc::{
    Empty, Grpc, HEADER, INVALID_ARGUMENT, MESSAGE_TIMEOUT, METHODS, PERMISSION_DENIED, QUIET_PERIOD, Status,
    UNAVAILABLE, UNIMPLEMENTED,
};
use crate::common::http::{claims, part, tampered};
use crate::common::{self, API, Host, until};
use serde_json::{Value, json};

const OTHER: &str = "https://other.example.com";

fn client(host: &Host) -> Grpc {
    Grpc::connect(&host.workload_socket())
}

fn denied() -> Status {
    Status { code: PERMISSION_DENIED, message: "no identity issued".into() }
}

#[track_caller]
fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> u32 {
    answer.unwrap_err().code
}

/// A host on which root matches two agents: one has two audiences, the other has one of them.
fn two_agents() -> Host {
    let mut host = Host::new();
    let grant = |audience: &str| format!("[[grant]]\naudience = \"{audience}\"\nttl = \"2m\"\n");
    let agent = |name: &str, grants: String| format!("name = \"{name}\"\n[match]\nuser = 0\n{grants}");
    host.agents_file("b", &agent("alpha", grant(API) + &grant(OTHER)));
    host.agents_file("a", &agent("beta", grant(API)));
    host.start();
    host
}

// === the endpoint ===

#[test]
fn point_01_and_02_plaintext_http2_on_a_unix_socket_without_client_credentials() {
    let host = Host::started();
    let client = client(&host);
    // All calls on one connection, without TLS and without credentials.
    assert_eq!(client.jwt(&[API], "").unwrap().len(), 1);
    client.bundles().unwrap();
    let issued: Vec<Value> = host.audit().into_iter().filter(|line| line["event"] == "svid-issued").collect();
    assert_eq!(issued[0]["peer"]["pid"], std::process::id());
    // A TLS client is disconnected.
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["s_client", "-alpn", "h2", "-unix"]).arg(host.workload_socket());
    let output = openssl.stdin(std::process::Stdio::null()).output().unwrap();
    assert!(!output.status.success());
}

#[test]
fn point_03_and_05_a_call_without_the_header_is_an_invalid_argument() {
    let host = Host::started();
    let client = client(&host);
    for method in METHODS {
        let mut call = client.start(&format!("/SpiffeWorkloadAPI/{method}"), &[], &Empty {}).unwrap();
        let end = client.next::<Empty>(&mut call, MESSAGE_TIMEOUT).unwrap();
        assert_eq!(code(end), INVALID_ARGUMENT, "{method}");
    }
}

#[test]
fn point_04_the_header_is_true_exactly_once() {
    let host = Host::started();
    let client = client(&host);
    let name = HEADER.0;
    for headers in
        [&[(name, "True")][..], &[(name, "")], &[(name, "false")], &[HEADER, HEADER], &[HEADER, (name, "x")]]
    {
        let mut call = client.start("/SpiffeWorkloadAPI/FetchJWTBundles", headers, &Empty {}).unwrap();
        let end = client.next::<Empty>(&mut call, MESSAGE_TIMEOUT).unwrap();
        assert_eq!(code(end), INVALID_ARGUMENT, "{headers:?}");
    }
}

#[test]
fn point_06_health_needs_no_header_and_reports_the_issuer() {
    let mut host = Host::new();
    fs::write(host.path("state/issuing.json"), "{").unwrap();
    host.agent("root", "user = 0");
    host.start();
    let health = |host: &Host| {
        let client = client(host);
        let mut call = client.start("/grpc.health.v1.Health/Check", &[], &Empty {}).unwrap();
        // ServingStatus: 1 is SERVING, 2 is NOT_SERVING.
        client.next::<Health>(&mut call, MESSAGE_TIMEOUT).unwrap().unwrap().status
    };
    until("health is NOT_SERVING", || (health(&host) == 2).then_some(()));
    assert_eq!(host.stop().code(), Some(0));
    let mut host = Host::started();
    until("health is SERVING", || (health(&host) == 1).then_some(()));
    assert_eq!(host.stop().code(), Some(0));
}

#[derive(Clone, PartialEq, prost::Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[test]
fn unknown_methods_are_unimplemented() {
    let host = Host::started();
    let client = client(&host);
    for path in ["/SpiffeWorkloadAPI/FetchAll", "/spire.api.Agent/X", "/", "/v1/token"] {
        let mut call = client.start(path, &[HEADER], &Empty {}).unwrap();
        assert_eq!(code(client.next::<Empty>(&mut call, MESSAGE_TIMEOUT).unwrap()), UNIMPLEMENTED, "{path}");
    }
}

#[test]
fn point_08_an_unknown_caller_is_denied_and_audited() {
    let mut host = Host::new();
    host.agent("nobody", &format!("user = {NOBODY}"));
    host.start();
    let client = client(&host);
    assert_eq!(client.jwt(&[API], ""), Err(denied()));
    assert_eq!(client.bundles(), Err(denied()));
    assert_eq!(client.validate(API, "a.b.c"), Err(denied()));
    let mut call = client.stream("FetchX509SVID", &Empty {}).unwrap();
    assert_eq!(client.next::<Empty>(&mut call, MESSAGE_TIMEOUT), Some(Err(denied())));
    let refused = |line: &&Value| line["event"] == "request-refused" && line["reason"] == "invalid_client";
    assert_eq!(host.audit().iter().filter(refused).count(), 4);
}

#[test]
fn point_09_an_unavailable_issuer_is_reported_at_once() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    fs::write(host.path("state/issuing.json"), "{").unwrap();
    host.start();
    let client = client(&host);
    for answer in
        [client.jwt(&[API], "").map(drop), client.bundles().map(drop), client.validate(API, "a").map(drop)]
    {
        let status = answer.unwrap_err();
        assert_eq!(status.code, UNAVAILABLE);
        assert!(status.message.contains("issuing.json"), "{status:?}");
    }
}

#[test]
fn rate_limited_calls_are_refused() {
    let mut host = Host::new();
    host.configure("[limits]\nrate = 1\nburst = 3\n");
    host.agent("root", "user = 0");
    host.start();
    let client = client(&host);
    let codes: Vec<u32> =
        (0..5).map(|_| client.jwt(&[API], "").map_or_else(|status| status.code, |_| 0)).collect();
    assert_eq!(codes, [0, 0, 0, UNAVAILABLE, UNAVAILABLE]);
}

// === JWT-SVIDs ===

#[test]
fn point_32_and_34_malformed_requests_are_invalid_arguments() {
    let host = Host::started();
    let client = client(&host);
    let many: Vec<String> = (0..1000).map(|number| format!("https://{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "a".repeat(2048);
    let long_id = format!("spiffe://{long}/a");
    for (audiences, spiffe_id) in [
        (&[][..], ""),
        (&[""], ""),
        (&[API, ""], ""),
        (&[long.as_str()], ""),
        (&many, ""),
        (&[API], "root"),
        (&[API], "spiffe://example.org"),
        (&[API], "https://example.org/a"),
        (&[API], long_id.as_str()),
    ] {
        assert_eq!(code(client.jwt(audiences, spiffe_id)), INVALID_ARGUMENT, "{spiffe_id}");
    }
}

#[test]
fn point_33_and_35_every_identity_with_a_grant_for_all_audiences() {
    let host = two_agents();
    let client = client(&host);
    let names = |audiences: &[&str]| -> Vec<(String, Value)> {
        let svids = client.jwt(audiences, "").unwrap();
        svids.iter().map(|svid| (svid.hint.clone(), claims(&svid.svid)["aud"].clone())).collect()
    };
    let named = |name: &str, aud: Value| (name.to_owned(), aud);
    assert_eq!(names(&[API]), [named("alpha", json!([API])), named("beta", json!([API]))]);
    assert_eq!(names(&[OTHER, API, OTHER]), [named("alpha", json!([OTHER, API]))]);
    let status = client.jwt(&["https://bank.example.com"], "").unwrap_err();
    assert_eq!(status.code, PERMISSION_DENIED);
    assert!(status.message.contains("no grant for this audience"), "{status:?}");
    let issued: Vec<Value> = host.audit().into_iter().filter(|line| line["event"] == "svid-issued").collect();
    assert_eq!(issued.len(), 3);
    assert_eq!(issued[2]["audience"], format!("{OTHER} {API}"));
    assert!(issued.iter().all(|line| line["jti"].is_string() && line["peer"]["pid"] == std::process::id()));
}

#[test]
fn a_grant_with_tpm_assurance_gets_no_jwt_svid() {
    let mut host = Host::new();
    let grant = format!("[[grant]]\naudience = \"{API}\"\nassurance = \"tpm\"\n");
    host.agents_file("root", &format!("name = \"root\"\n[match]\nuser = 0\n{grant}"));
    host.start();
    let status = client(&host).jwt(&[API], "").unwrap_err();
    assert_eq!(status.code, PERMISSION_DENIED);
    assert!(status.message.contains("requires a TPM signature"), "{status:?}");
}

#[test]
fn point_34_a_spiffe_id_selects_one_identity() {
    let host = two_agents();
    let client = client(&host);
    let all = client.jwt(&[API], "").unwrap();
    let beta = &all[1].spiffe_id;
    let only = client.jwt(&[API], beta).unwrap();
    assert_eq!((only.len(), &only[0].spiffe_id), (1, beta));
    assert_eq!(client.jwt(&[API], &beta.replace("/beta", "/gamma")), Err(denied()));
}

#[test]
fn point_36_to_38_a_jwt_svid_conforms_to_the_specification() {
    let host = two_agents();
    let client = client(&host);
    let svid = &client.jwt(&[API], "").unwrap()[0];
    let header = part(&svid.svid, 0);
    assert_eq!(header.as_object().unwrap().keys().collect::<Vec<_>>(), ["alg", "kid", "typ"]);
    assert_eq!((&header["alg"], &header["typ"]), (&json!("ES256"), &json!("JWT")));
    let token = claims(&svid.svid);
    assert_eq!((token["sub"].as_str(), &token["aud"]), (Some(svid.spiffe_id.as_str()), &json!([API])));
    assert_eq!(token["exp"].as_u64().unwrap() - token["iat"].as_u64().unwrap(), 120 + 10);
    assert_eq!(token["nbf"], token["iat"]);
    // The command verifies it by the host's key set; introspection is for access tokens.
    let set = host.path("jwks.json");
    let set = set.to_str().unwrap();
    assert!(host.hostbadge(&["export", "jwks", "-o", set]).status.success());
    let verify = |audience| {
        host.hostbadge(&["verify", "token", &svid.svid, "--jwks", set, "--json", "--audience", audience])
    };
    let verified: Value = serde_json::from_slice(&verify(API).stdout).unwrap();
    assert_eq!((&verified["valid"], &verified["kind"]), (&json!(true), &json!("jwt-svid")), "{verified}");
    assert_eq!(verify("https://elsewhere").status.code(), Some(1));
    assert_eq!(host.introspect(&svid.svid), json!({ "active": false }));
    let bundles = client.bundles().unwrap().bundles;
    let domain = svid.spiffe_id.split('/').nth(2).unwrap();
    let keys: Value = serde_json::from_slice(&bundles[&format!("spiffe://{domain}")]).unwrap();
    assert_eq!(keys["keys"][0]["kid"], header["kid"]);
    let svid_keys = hostbadge::verify::JwtAuthorities::parse(keys.to_string().as_bytes()).unwrap();
    let now = hostbadge::clock::Clock::System.now();
    hostbadge::verify::validate_jwt_svid(&svid.svid, API, now, |_| Some(&svid_keys)).unwrap();
    // Each call signs a new token.
    assert_ne!(client.jwt(&[API], "").unwrap()[0].svid, svid.svid);
    // A JWT-SVID is not an access token of the agent socket.
    assert_eq!(host.post("/v1/introspect", json!({ "token": svid.svid })).json()["active"], false);
}

#[test]
fn point_39_validation_accepts_our_tokens_for_their_audience_only() {
    let host = two_agents();
    let client = client(&host);
    let svid = &client.jwt(&[API, OTHER], "").unwrap()[0];
    let answer = client.validate(OTHER, &svid.svid).unwrap();
    assert_eq!(answer.spiffe_id, svid.spiffe_id);
    let fields = answer.claims.unwrap().fields;
    let audiences = match fields["aud"].kind.as_ref().unwrap() {
        prost_types::value::Kind::ListValue(list) => list.values.len(),
        other => panic!("{other:?}"),
    };
    assert!(audiences == 2 && fields.contains_key("hostbadge"));
    let access_token =
        host.post("/v1/token", json!({ "audience": API, "agent": "alpha" })).json()["access_token"]
            .as_str()
            .unwrap()
            .to_owned();
    let json_form = json!({ "payload": "", "signatures": [] }).to_string();
    for (audience, token) in [
        ("https://bank.example.com", svid.svid.as_str()),
        (API, &tampered(&svid.svid)),
        (API, &access_token),
        (API, &json_form),
        (API, "a.b.c"),
        ("", &svid.svid),
        (API, ""),
    ] {
        assert_eq!(code(client.validate(audience, token)), INVALID_ARGUMENT, "{audience} {token}");
    }
    // A token of a removed agent.
    fs::remove_file(host.path("etc/agents.d/b.toml")).unwrap();
    host.reload();
    let status = client.validate(OTHER, &svid.svid).unwrap_err();
    assert!(status.message.contains("not registered any more"), "{status:?}");
}

#[test]
fn point_40_tokens_of_another_trust_domain_are_validated_with_its_bundle() {
    let mut other = Host::other();
    other.configure("trust_domain = \"example.com\"");
    other.agent("root", "user = 0");
    other.start();
    let svid = client(&other).jwt(&[API], "").unwrap().swap_remove(0);
    let host = Host::started();
    let client = client(&host);
    let status = client.validate(API, &svid.svid).unwrap_err();
    assert!(status.message.contains("no bundle of trust domain \"example.com\""), "{status:?}");

    let bundle = other.get("/v1/bundle");
    assert_eq!(bundle.status, 200);
    assert!(bundle.json()["spiffe_sequence"].as_u64().unwrap() > 1_700_000_000);
    assert!(bundle.json()["spiffe_refresh_hint"].is_u64());
    let mut stream = client.stream("FetchJWTBundles", &Empty {}).unwrap();
    let first = client.next::<common::grpc::Bundles>(&mut stream, MESSAGE_TIMEOUT).unwrap().unwrap();
    assert_eq!(first.bundles.len(), 1);
    fs::create_dir(host.path("etc/federation")).unwrap();
    fs::write(host.path("etc/federation/example.com.json"), bundle.text()).unwrap();
    host.reload();
    let pushed = client.next::<common::grpc::Bundles>(&mut stream, MESSAGE_TIMEOUT).unwrap().unwrap();
    assert!(pushed.bundles.len() == 2 && pushed.bundles.contains_key("spiffe://example.com"));
    let answer = client.validate(API, &svid.svid).unwrap();
    assert_eq!(answer.spiffe_id, svid.spiffe_id);
    assert_eq!(answer.claims.unwrap().fields.keys().collect::<Vec<_>>(), ["aud", "exp", "sub"]);

    // An invalid bundle file leaves the previous bundle active, and is reported with its name.
    fs::write(host.path("etc/federation/example.net.json"), "{").unwrap();
    let reload = host.admin().post("/v1/agents/reload", &json!({}));
    assert_eq!(reload.status, 422);
    assert!(reload.text().contains("example.net.json"), "{}", reload.text());
    let record = host.audit();
    assert_eq!(record.last().unwrap()["event"], "federation-rejected");
    assert!(common::audit_log::with_event(&record, "agents-rejected").is_empty());
    let federation = host.status()["federation"].clone();
    assert_eq!(federation["trust_domains"], json!(["example.com"]));
    assert_eq!(federation["faults"].as_array().unwrap().len(), 1, "{federation}");
    let shown = String::from_utf8(host.hostbadge(&["status"]).stdout).unwrap();
    assert!(shown.contains("example.com") && shown.contains("example.net.json"), "{shown}");
    client.validate(API, &svid.svid).unwrap();
}

// === streams ===

#[test]
fn point_24_and_29_to_31_bundles_are_pushed_only_when_they_change() {
    let host = Host::started();
    let client = client(&host);
    let mut stream = client.stream("FetchJWTBundles", &Empty {}).unwrap();
    let mut next = |within| client.next::<common::grpc::Bundles>(&mut stream, within);
    let first = next(MESSAGE_TIMEOUT).unwrap().unwrap();
    let keys: Value = serde_json::from_slice(first.bundles.values().next().unwrap()).unwrap();
    let keys = keys["keys"].as_array().unwrap();
    assert!(first.bundles.keys().all(|domain| domain.starts_with("spiffe://")));
    assert!(
        keys.iter().all(|key| key["use"] == "jwt-svid" && key["kid"].is_string() && key.get("d").is_none())
    );
    // A reload without a change of bundles sends no message.
    host.agent("other", &format!("user = {NOBODY}"));
    host.reload();
    assert_eq!(next(QUIET_PERIOD), None);
    assert_eq!(host.admin().post("/v1/keys/rotate", &json!({ "now": true })).status, 200);
    let second = next(MESSAGE_TIMEOUT).unwrap().unwrap();
    assert_ne!(first, second);
}

#[test]
fn point_25_a_stream_ends_when_its_agent_is_removed() {
    let host = Host::started();
    let client = client(&host);
    let mut stream = client.stream("FetchJWTBundles", &Empty {}).unwrap();
    client.next::<common::grpc::Bundles>(&mut stream, MESSAGE_TIMEOUT).unwrap().unwrap();
    host.agent("another", "user = 4711");
    fs::remove_file(host.path("etc/agents.d/root.toml")).unwrap();
    host.reload();
    let end = client.next::<common::grpc::Bundles>(&mut stream, MESSAGE_TIMEOUT);
    assert_eq!(end, Some(Err(denied())));
    // The connection serves the caller again once it is an agent.
    host.agent("root", "user = 0");
    host.reload();
    client.bundles().unwrap();
}

/// Python functions that call FetchJWTBundles and read the response frame by frame.
const FOLLOW: &str = r"
def exactly(n):
    data = b''
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more: raise EOFError()
        data += more
    return data
def frames():
    while True:
        head = exactly(9)
        yield head[3], head[4], exactly(int.from_bytes(head[:3], 'big'))
def field(name, value): return bytes([0, len(name)]) + name + bytes([len(value)]) + value
def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, 'big') + bytes([kind, flags]) + stream.to_bytes(4, 'big') + payload
def call():
    block = field(b':method', b'POST') + field(b':scheme', b'http') + field(b':path', b'/SpiffeWorkloadAPI/FetchJWTBundles') + field(b':authority', b'x') + field(b'content-type', b'application/grpc') + field(b'te', b'trailers') + field(b'workload.spiffe.io', b'true')
    s.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0, b'') + frame(1, 4, 1, block) + frame(0, 1, 1, bytes(5)))
def received(kind, flag): return next(True for k, f, _ in frames() if k == kind and f & flag == flag)
";

/// A process that runs `python` and has an open stream of bundles on its own connection.
fn follower(host: &Host, python: &std::path::Path) -> ScriptedClient {
    let mut process = ScriptedClient::connect_with(&host.workload_socket(), &Credentials::root(), python);
    process.execute(&format!("exec({FOLLOW:?})"));
    process.execute("call()");
    assert_eq!(process.evaluate("received(0, 0)"), true, "the first message");
    process
}

#[test]
fn a_stream_ends_when_its_process_becomes_another_program() {
    let mut host = Host::new();
    let (first, second) = (host.path("first"), host.path("second"));
    for copy in [&first, &second] {
        common::copy_program(common::callers::python(), copy, "");
    }
    host.agent("first", &format!("user = 0\nexe = {first:?}"));
    host.start();
    let mut process = follower(&host, &first);
    process.exec(&second);
    process.execute(&format!("exec({FOLLOW:?})"));
    // HEADERS with END_STREAM are the trailers.
    assert_eq!(process.evaluate("received(1, 1)"), true);
    process.close();
}

#[test]
fn a_connection_is_closed_when_its_process_exits_even_if_another_holds_it() {
    let host = Host::started();
    let mut process = follower(&host, &common::callers::python());
    let connections = || host.status()["connections"].as_u64().unwrap();
    assert_eq!(connections(), 1);
    process
        .execute("import subprocess; heir = subprocess.Popen(['cat'], stdin=s, stdout=subprocess.DEVNULL)");
    assert_eq!(process.evaluate("heir.poll()"), Value::Null);
    process.execute("os._exit(0)");
    until("the connection is closed", || (connections() == 0).then_some(()));
    process.close();
}

#[test]
fn point_28_and_41_a_hundred_unread_streams_do_not_block_others() {
    let host = Host::started();
    let silent = client(&host);
    let _unread: Vec<_> = (0..100).map(|_| silent.stream("FetchJWTBundles", &Empty {}).unwrap()).collect();
    let other = client(&host);
    let mut read = other.stream("FetchJWTBundles", &Empty {}).unwrap();
    other.next::<common::grpc::Bundles>(&mut read, MESSAGE_TIMEOUT).unwrap().unwrap();
    assert_eq!(host.admin().post("/v1/keys/rotate", &json!({ "now": true })).status, 200);
    other.next::<common::grpc::Bundles>(&mut read, MESSAGE_TIMEOUT).unwrap().unwrap();
    other.jwt(&[API], "").unwrap();
    drop(silent);
}

#[test]
fn streams_end_with_unavailable_when_the_daemon_stops() {
    let mut host = Host::started();
    let client = client(&host);
    let mut stream = client.stream("FetchJWTBundles", &Empty {}).unwrap();
    client.next::<common::grpc::Bundles>(&mut stream, MESSAGE_TIMEOUT).unwrap().unwrap();
    assert_eq!(host.stop().code(), Some(0));
    let end = client.next::<common::grpc::Bundles>(&mut stream, MESSAGE_TIMEOUT).unwrap();
    assert_eq!(code(end), UNAVAILABLE);
}

#[test]
fn the_socket_is_open_to_every_user() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::started();
    let mode = fs::metadata(host.workload_socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
    // An HTTP/1 client is disconnected, and others are served.
    let mut command = std::process::Command::new("curl");
    command
        .args(["--silent", "--max-time", "10", "--unix-socket"])
        .arg(host.workload_socket())
        .arg("http://localhost/");
    Credentials::user(NOBODY).apply_to(&mut command);
    assert!(!command.status().unwrap().success());
    client(&host).jwt(&[API], "").unwrap();
}
