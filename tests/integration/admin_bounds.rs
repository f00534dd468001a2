//! How often administrators may change protected state, and the rotation that is always possible.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::common::callers::{Credentials, NOBODY};
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
