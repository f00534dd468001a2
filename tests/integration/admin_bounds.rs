//! How often administrators may change protected state, and the rotation that is always possible.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::common::callers::{Credentials, NOBODY, ScriptedClient, python};
use crate::common::http::Response;
use crate::common::{self, Host};
use serde_json::{Value, json};

/// A running host whose admin group is `daemon`, and a member of the group.
fn with_group() -> (Host, Credentials) {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[admin]\ngroup = \"daemon\"\n");
    host.start();
    fs::set_permissions(host.admin_socket(), Permissions::from_mode(0o666)).unwrap();
    (host, Credentials::user(NOBODY).group(1))
}

fn post(host: &Host, caller: &Credentials, target: &str, body: &Value) -> Response {
    let arguments = ["-H", "Content-Type: application/json", "-d", &body.to_string()];
    caller.curl_at(&host.admin_socket(), target, &arguments)
}

/// The state manifest's generation: the number of writes to the TPM's counter.
fn generation(host: &Host) -> u64 {
    let manifest: Value = serde_json::from_slice(&fs::read(host.path("state/ledger.json")).unwrap()).unwrap();
    let find = |value: &Value| value["generation"].as_u64();
    find(&manifest).or_else(|| manifest.as_object().unwrap().values().find_map(find)).expect("a generation")
}

#[track_caller]
fn beyond_the_bound(answer: &Response) {
    assert_eq!((answer.status, answer.error().as_str()), (429, "slow_down"), "{}", answer.text());
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&wait), "{wait}");
    assert!(answer.text().contains("at most 6 an hour and 24 a day"), "{}", answer.text());
}

#[test]
fn the_admin_group_cannot_wear_the_tpm_and_root_is_not_held_up_by_it() {
    let (host, member) = with_group();
    let before = generation(&host);
    for round in 0..6 {
        assert_eq!(post(&host, &member, "/v1/keys/rotate", &json!({ "now": true })).status, 200, "{round}");
        assert_eq!(post(&host, &member, "/v1/enroll/request", &json!({})).status, 200, "{round}");
    }
    let worn = generation(&host);
    assert!(worn > before);
    for body in [json!({ "now": true }), json!({})] {
        beyond_the_bound(&post(&host, &member, "/v1/keys/rotate", &body));
    }
    beyond_the_bound(&post(&host, &member, "/v1/enroll/request", &json!({})));
    assert_eq!(generation(&host), worn);

    assert_eq!(host.admin().post("/v1/enroll/request", &json!({})).status, 200);
    let root = Credentials::root();
    for body in [json!({ "now": true }), json!({})] {
        let answer = post(&host, &root, "/v1/keys/rotate", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[test]
fn a_rotation_without_effect_does_not_count() {
    let (host, member) = with_group();
    assert_eq!(post(&host, &member, "/v1/keys/rotate", &json!({})).json()["outcome"], "published");
    for _ in 0..10 {
        let answer = post(&host, &member, "/v1/keys/rotate", &json!({}));
        assert_eq!(answer.json()["outcome"], "already-published", "{}", answer.text());
    }
    for _ in 0..5 {
        assert_eq!(post(&host, &member, "/v1/keys/rotate", &json!({ "now": true })).status, 200);
    }
    beyond_the_bound(&post(&host, &member, "/v1/keys/rotate", &json!({ "now": true })));
}

#[test]
fn root_rotates_at_once_while_100_retired_keys_are_stored() {
    let (host, member) = with_group();
    let mut admin = host.admin();
    let mut rotate = || {
        let answer = admin.post("/v1/keys/rotate", &json!({ "now": true }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let first = rotate();
    for _ in 1..100 {
        assert!(rotate().get("destroyed_early").is_none());
    }
    let token = host.token();
    // A rotation of the group does not take the place of a key whose tokens may be valid.
    let full = post(&host, &member, "/v1/keys/rotate", &json!({ "now": true }));
    assert_eq!((full.status, full.error().as_str()), (503, "temporarily_unavailable"));
    assert!(full.text().contains("have root destroy it now"), "{}", full.text());

    let emergency = rotate();
    let destroyed = emergency["destroyed_early"].as_str().unwrap_or_else(|| panic!("{emergency}")).to_owned();
    assert_eq!(first["retired"], json!(destroyed), "the one that retired first");
    let keys = host.admin().get("/v1/keys").json()["keys"].clone();
    let state_of = |kid: &str| {
        let key = keys.as_array().unwrap().iter().find(|key| key["kid"] == kid);
        key.unwrap_or_else(|| panic!("{kid}"))["state"].clone()
    };
    assert_eq!(state_of(&destroyed), "destroyed");
    assert_eq!(state_of(emergency["kid"].as_str().unwrap()), "active");
    assert_eq!(host.introspect(&token)["active"], true, "its key is retired and verifies");
    assert!(!host.get("/.well-known/jwks.json").text().contains(&destroyed));
    let lines = host.audit();
    let record = common::audit_log::with_event(&lines, "key-destroyed");
    assert_eq!(record.len(), 1);
    assert!(record[0].to_string().contains("is destroyed early, to make room"), "{}", record[0]);
}

/// Commands of a member at once after a pause.
const BURST: usize = 60;

fn refusals(host: &Host) -> Vec<Value> {
    host.audit().into_iter().filter(|line| line["event"] == "request-refused").collect()
}

#[test]
fn a_member_of_the_admin_group_cannot_fill_the_audit_log() {
    let (host, member) = with_group();
    let mut client = ScriptedClient::connect_with(&host.admin_socket(), &member, &python());
    // 3 KB of text that takes 18 KB of JSON.
    client.execute(r#"junk = json.dumps({"version": "\x01" * 3000})"#);
    let before = host.audit().len();
    // Each on a connection of its own, so that no delay of earlier replies hides a missing rate.
    client.execute(
        "def once(): c = socket.socket(socket.AF_UNIX); c.connect(where); \
         return request('POST /v1/enroll/activate', junk, c)['status']",
    );
    let statuses: Vec<u64> = serde_json::from_value(client.evaluate("[once() for _ in range(200)]")).unwrap();
    let accepted = statuses.iter().filter(|status| **status != 429).count();
    assert!((BURST..BURST + 10).contains(&accepted), "{accepted} of {}", statuses.len());
    for _ in 0..3 {
        assert_eq!(client.request("POST /v1/agents/reload", "").0, 429);
    }
    assert_eq!(client.request("GET /v1/status", "").0, 200, "reading is not bounded");
    let records = refusals(&host);
    assert!(host.audit().len() - before < accepted + 40, "one record a second beyond the rate");
    for record in &records {
        assert_eq!(record["peer"]["uid"], NOBODY, "{record}");
        assert_eq!(record["peer"]["pid"], client.pid(), "{record}");
        assert!(record["detail"].to_string().len() <= 514, "{record}");
    }
    // Root is not held up, also beyond that number.
    for _ in 0..BURST + 10 {
        assert_eq!(host.admin().post("/v1/agents/reload", &json!({})).status, 200);
    }
    // The refusals without a record are in the next one.
    std::thread::park_timeout(std::time::Duration::from_millis(1100));
    while client.request("POST /v1/enroll/activate", "junk").0 != 429 {}
    let counted: u64 =
        refusals(&host).iter().map(|record| 1 + record["suppressed"].as_u64().unwrap_or(0)).sum();
    assert!(counted >= 203, "{counted}");
}

/// A request for each command that changes something, which fails.
fn failing(path: &str) -> Value {
    match path {
        "/v1/keys/rotate" => json!({ "now": "no boolean" }),
        "/v1/keys/recover" | "/v1/keys/recovery/confirm" => {
            json!({ "recovery_key": format!("hbr1-{}", "abcdefgh".repeat(7)) })
        }
        "/v1/credentials/put" => json!({ "name": "Not a name", "value": "abcdefgh" }),
        "/v1/credentials/rotate" => json!({ "name": "none", "value": "abcdefgh" }),
        "/v1/credentials/remove" => json!({ "name": "none" }),
        "/v1/revocations/revoke" => json!({ "agent": "none" }),
        "/v1/revocations/lift" => json!({ "agent": "none" }),
        "/v1/revocations/signal" => json!({ "set": "abcdefgh" }),
        "/v1/anomalies/resume" => json!({ "agent": "none" }),
        "/v1/approvals/decide" => json!({ "id": "none", "digest": "00", "decision": "deny" }),
        "/v1/leak" => json!({ "jti": "" }),
        "/v1/freeze" => json!({ "reason": "\n" }),
        "/v1/agents/offboard" => json!({ "name": "none" }),
        "/v1/reviews/sign" => json!({ "sha256": "00", "reviewer": "Ada" }),
        "/v1/tenants/remove" => json!({ "name": "none" }),
        "/v1/agents/approve" | "/v1/posture/accept" => json!({ "digest": "00" }),
        "/v1/enroll/activate" => json!({ "version": "\u{1}junk" }),
        "/v1/enroll/credential" => json!({ "ek": "ecc", "credential": "AAAA" }),
        "/v1/enroll/install" => json!({ "certificate": "junk" }),
        // These have no body. They fail because of a fault in a file, the state, or the bounds.
        "/v1/agents/reload"
        | "/v1/clock/accept"
        | "/v1/credentials/accept"
        | "/v1/keys/recovery"
        | "/v1/revocations/accept"
        | "/v1/thaw"
        | "/v1/keys/accept"
        | "/v1/enroll/request" => {
            json!({})
        }
        other => panic!("add a request of {other} that fails"),
    }
}

#[test]
fn every_command_that_fails_is_recorded_with_its_caller() {
    const GUIDE: &str = include_str!("../../docs/guide/administrators.md");
    let host = Host::started();
    let file = host.agents_file("faulty", "no TOML");
    let pid = std::process::id();
    let mut paths = Vec::new();
    for line in GUIDE.lines() {
        let Some((path, _)) = line.strip_prefix("| `POST ").and_then(|rest| rest.split_once('`')) else {
            continue;
        };
        let body = failing(path);
        let failed = (0..150).find_map(|_| {
            let answer = host.admin().post(path, &body);
            (answer.status != 200).then_some(answer)
        });
        let answer = failed.unwrap_or_else(|| panic!("{path} does not fail"));
        let last = host.audit().pop().unwrap();
        if path == "/v1/agents/reload" {
            assert_eq!(last["event"], "agents-rejected", "{last}");
            assert!(last["detail"].as_str().unwrap().starts_with(&format!("uid 0, pid {pid} ")), "{last}");
            fs::remove_file(&file).unwrap();
        } else {
            assert_eq!(last["event"], "request-refused", "{path}: {} {last}", answer.text());
            assert_eq!((&last["peer"]["uid"], &last["peer"]["pid"]), (&json!(0), &json!(pid)), "{last}");
            assert!(last["detail"].as_str().unwrap().starts_with(&format!("{path}: ")), "{last}");
            assert_eq!(last["reason"], answer.json()["error"], "{last}");
        }
        paths.push(path);
    }
    assert_eq!(paths.len(), 29, "{paths:?}");
    // Neither a body that cannot be read nor a wrong recovery key leaves the text in the log.
    let large = host.admin().post("/v1/keys/recover", &json!({ "recovery_key": "hbr1-x".repeat(50_000) }));
    assert_eq!(large.status, 413);
    let last = host.audit().pop().unwrap();
    assert_eq!(last["detail"], "/v1/keys/recover: the request is malformed, or its body was not received");
    assert!(
        !host
            .audit()
            .iter()
            .any(|line| line.to_string().contains("abcdefgh") || line.to_string().contains("hbr1"))
    );
}
