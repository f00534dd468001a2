//! Issuing keys: states, manual and scheduled rotation, restarts and crashes.

use std::fs;
use std::os::unix::net::UnixStream;

use crate::common::http::part;
use crate::common::{self, API, Host, until, until_true};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

const FILE: &str = "state/issuing.json";
const DAY: u64 = 24 * 3600;

/// The JSON output of a command.
#[track_caller]
fn run_json(host: &Host, words: &[&str]) -> Value {
    let output = host.hostbadge(&[words, &["--json"]].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The key IDs of the issuing keys in the key set, in order. The host key is the last key of the set.
#[track_caller]
fn jwks(host: &Host) -> Vec<String> {
    let set = host.get("/.well-known/jwks.json").json();
    let name = |key: &Value| key["kid"].as_str().unwrap().to_owned();
    let mut names: Vec<String> = set["keys"].as_array().unwrap().iter().map(name).collect();
    let listed = host.admin().get("/v1/keys").json();
    let host_key = listed["keys"].as_array().unwrap().iter().find(|key| key["kind"] == "host").map(name);
    assert_eq!(names.pop(), host_key);
    names
}

/// Key ID and state of each issuing key on the admin socket.
fn states(host: &Host) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let keys = host.admin().get("/v1/keys").json();
    let keys = keys["keys"].as_array().unwrap().iter();
    keys.filter(|key| key["kind"] == "issuing").map(|key| (text(&key["kid"]), text(&key["state"]))).collect()
}

fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(kid, state)| (kid.to_string(), state.to_string())).collect()
}

fn file(host: &Host) -> Value {
    serde_json::from_slice(&fs::read(host.path(FILE)).unwrap()).unwrap()
}

/// Changes the key file of a stopped daemon.
fn edit(host: &Host, change: impl FnOnce(&mut Value)) {
    let mut file = file(host);
    change(&mut file);
    fs::write(host.path(FILE), file.to_string()).unwrap();
}

/// Starts a host whose key file was changed, and accepts the file with `hostbadge key accept`.
fn start_as_it_is(host: &mut Host) {
    host.start();
    let blocked_reason =
        |host: &Host| host.status()["issuer_blocked_reason"].as_str().unwrap_or_default().to_owned();
    assert!(blocked_reason(host).contains("hostbadge key accept"), "{}", blocked_reason(host));
    run_json(host, &["key", "accept"]);
    until_true("the file is accepted", || !blocked_reason(host).contains("hostbadge key accept"));
    // The revocations are opened with the keys.
    until_true("the revocations are open", || {
        let answer = host.post("/v1/token", json!({ "audience": API }));
        !blocked_reason(host).is_empty() || !answer.text().contains("the revocations of this host")
    });
}

/// Moves a time in the file into the past, by seconds.
fn earlier(moment: &mut Value, by: u64) {
    *moment = json!(moment.as_u64().unwrap() - by);
}

/// The one audit record of an event of a key.
fn line(host: &Host, event: &str, kid: &str) -> Value {
    let about = |line: &&Value| line["event"] == event && line["kid"] == kid;
    // The record may be written after the event.
    let text = || common::audit_log::text(&host.path("audit"));
    until_true(&format!("{event} of {kid} is recorded"), || {
        let text = text();
        text.lines().any(|line| serde_json::from_str(line).is_ok_and(|line: Value| about(&&line)))
    });
    let lines = host.audit();
    let mut lines = lines.iter().filter(about);
    let line = lines.next().unwrap();
    assert!(lines.next().is_none(), "{event} once");
    line.clone()
}

fn rotated_once() -> (Host, String, String) {
    let host = Host::started();
    let before = host.token();
    run_json(&host, &["key", "rotate", "--now"]);
    (host, kid(&before), before)
}

#[test]
fn the_next_key_is_published_before_it_signs() {
    let mut host = Host::started();
    let first = kid(&host.token());
    assert_eq!(jwks(&host), [first.as_str()]);
    let published = run_json(&host, &["key", "rotate"]);
    let second = published["kid"].as_str().unwrap();
    assert_eq!(published["outcome"], "published");
    assert_eq!(jwks(&host), [first.as_str(), second], "the key that signs comes first");
    assert_eq!(kid(&host.token()), first);
    assert_eq!(states(&host), pairs(&[(&first, "active"), (second, "published")]));

    let again = run_json(&host, &["key", "rotate"]);
    assert_eq!((&again["outcome"], &again["kid"]), (&json!("already-published"), &published["kid"]));
    assert_eq!(again["active_from"], published["active_from"]);

    // It waits for its activation time across a crash and a restart.
    host.crash();
    host.start();
    assert_eq!(jwks(&host), [first.as_str(), second]);
    assert!(host.stop().success());
    edit(&host, |file| earlier(&mut file["next"]["published"], DAY - 60));
    start_as_it_is(&mut host);
    assert_eq!(kid(&host.token()), first);
    assert!(host.stop().success());
    edit(&host, |file| earlier(&mut file["next"]["published"], 60));
    start_as_it_is(&mut host);
    until_true("the next key signs", || kid(&host.token()) == second);
    assert_eq!(jwks(&host), [second, first.as_str()]);

    line(&host, "key-activated", second);
    line(&host, "key-retired", &first);
    let published = line(&host, "key-published", second);
    let by = published["detail"].as_str().unwrap();
    assert!(by.contains("requested by uid 0, pid"), "{by}");
    until_true("the log has it", || host.log().contains(&format!("issuing key {second} signs from now on")));
}

#[test]
fn a_retired_key_verifies_until_its_last_token_has_expired_and_is_then_destroyed() {
    let (mut host, first, token) = rotated_once();
    let second = kid(&host.token());
    assert_ne!(first, second);
    assert_eq!(jwks(&host), [second.as_str(), &first]);
    assert_eq!(host.introspect(&token)["active"], true);
    let listed = host.admin().get("/v1/keys").json();
    assert_eq!(listed["keys"][1]["next"]["step"], "destroyed");

    assert!(host.stop().success());
    edit(&host, |file| earlier(&mut file["retired"][0]["retired"], 3600));
    start_as_it_is(&mut host);
    assert_eq!(host.introspect(&token)["active"], true, "within the leeway");
    assert!(host.stop().success());
    let sealed = file(&host)["retired"][0]["sealed"]["key"].as_str().unwrap().to_owned();
    edit(&host, |file| earlier(&mut file["retired"][0]["retired"], 60));
    start_as_it_is(&mut host);
    until_true("the key is destroyed", || states(&host).contains(&(first.clone(), "destroyed".into())));
    assert_eq!(jwks(&host), [second]);
    assert_eq!(host.introspect(&token)["active"], false);
    assert!(!fs::read_to_string(host.path(FILE)).unwrap().contains(&sealed), "the secret is gone");
    assert_eq!(file(&host)["destroyed"][0]["kid"], first.as_str());
    line(&host, "key-destroyed", &first);
    assert_eq!(
        host.status()["keys"].as_array().unwrap().len(),
        2,
        "status lists existing keys, the host key last"
    );
}

#[test]
fn rotate_now_activates_the_published_or_a_new_key_at_once() {
    let host = Host::started();
    let first = kid(&host.token());
    let published = run_json(&host, &["key", "rotate"])["kid"].clone();
    let activated = run_json(&host, &["key", "rotate", "--now"]);
    assert_eq!((&activated["outcome"], &activated["kid"]), (&json!("activated"), &published));
    assert_eq!(activated["retired"], first);
    let second = published.as_str().unwrap();
    assert_eq!(kid(&host.token()), second);

    let people = host.hostbadge(&["key", "rotate", "--now"]);
    let said = String::from_utf8_lossy(&people.stdout).into_owned();
    let third = kid(&host.token());
    assert!(said.contains(&third) && said.contains(second), "{said}");
    assert!(said.contains("refuse the tokens") && said.contains("hostbadge export jwks"), "{said}");
    assert_eq!(jwks(&host), [third.as_str(), second, first.as_str()], "the latest retired key first");
    assert_eq!(states(&host), pairs(&[(&third, "active"), (second, "retired"), (&first, "retired")]),);
    let list = host.hostbadge(&["key", "list"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["KID", "KIND", "ALG", "STATE", "SINCE", "CREATED", "RISK", "EVERY", "NEXT", "AT"]);
    assert_eq!(lines[1][..4], [third.as_str(), "issuing", "ES256", "active"]);
    assert_eq!(lines[1][6..10], ["moderate", "30d", "successor", "published"], "{list}");
    assert!(lines[3].len() == 10 && lines[3][8] == "destroyed", "{list}");

    // A relying party verifies tokens of each key with the set.
    let set = host.path("jwks.json");
    assert!(host.hostbadge(&["export", "jwks", "-o", set.to_str().unwrap()]).status.success());
    let verify = ["verify", "token", &host.token(), "--jwks", set.to_str().unwrap(), "--audience", API];
    assert!(host.hostbadge(&verify).status.success());
}

#[test]
fn a_rotation_survives_kill_9_at_any_moment() {
    let mut host = Host::started();
    let mut tokens = vec![host.token()];
    for round in 0..6 {
        let pid = host.pid();
        let (admin, body) = (host.admin_socket(), json!({ "now": round % 3 != 0 }));
        let order = std::thread::spawn(move || {
            // The daemon may have exited already.
            let mut connection = common::http::Connection::new(UnixStream::connect(admin).ok()?);
            let text = body.to_string();
            let ask =
                common::http::request("POST", "/v1/keys/rotate", Some("application/json"), text.as_bytes());
            let _ = connection.send(&ask);
            connection.read_response().map(|answer| answer.status)
        });
        // From before the TPM command until after the file is replaced.
        std::thread::park_timeout(std::time::Duration::from_millis(15 * round));
        kill(pid, Signal::SIGKILL).unwrap();
        let answered = order.join().unwrap();
        host.crash();
        for left_over in ["state/issuing.json.tmp", "state/issuing.json.3.tmp"] {
            fs::write(host.path(left_over), "{\"version\": 2, \"act").unwrap();
        }
        host.start();
        assert!(
            !host.path("state/issuing.json.tmp").exists() && !host.path("state/issuing.json.3.tmp").exists()
        );
        assert!(matches!(answered, None | Some(200)), "{answered:?}");
        tokens.push(host.token());
        let states = states(&host);
        assert_eq!(states.iter().filter(|(_, state)| state == "active").count(), 1, "{states:?}");
        assert!(states.iter().filter(|(_, state)| state == "published").count() <= 1, "{states:?}");
        for token in &tokens {
            assert_eq!(host.introspect(token)["active"], true, "{states:?}");
        }
    }
}

#[test]
fn a_file_of_format_1_is_read_and_written_as_format_3_by_the_next_change() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    let mut old = file(&host)["active"]["sealed"].clone();
    old["version"] = json!(1);
    fs::write(host.path(FILE), old.to_string()).unwrap();
    start_as_it_is(&mut host);
    let token = host.token();
    assert_eq!(kid(&token), old["kid"].as_str().unwrap());
    assert_eq!(file(&host), old, "the file is not rewritten without a change");
    run_json(&host, &["key", "rotate", "--now"]);
    assert_eq!(file(&host)["version"], 3);
    assert_eq!(file(&host)["retired"][0]["sealed"]["kid"], old["kid"]);
    assert!(host.stop().success());
    host.start();
    assert_eq!(host.introspect(&token)["active"], true);
}

#[test]
fn the_schedule_publishes_a_successor_in_time_and_waits_for_the_tpm() {
    // The age of its key must be known: a key of the template is as old as the test run.
    let mut host = Host::never_started();
    host.agent("root", "user = 0");
    host.configure("[keys]\nrotate_every = \"1h\"\npublish_before = \"2s\"\n[tpm]\ndeadline = \"1s\"\n");
    host.start();
    let first = kid(&host.token());
    assert_eq!(jwks(&host).len(), 1);
    assert!(host.stop().success());
    // The rotation interval has passed.
    edit(&host, |file| {
        earlier(&mut file["active"]["activated"], 3600);
    });
    start_as_it_is(&mut host);
    until_true("another key signs", || kid(&host.token()) != first);
    let second = kid(&host.token());
    assert_eq!(states(&host), pairs(&[(&second, "active"), (&first, "retired")]));
    // The records have the times at which they were written.
    let number = |event: &str| line(&host, event, &second)["seq"].as_u64().unwrap();
    assert!(number("key-published") < number("key-activated"));
    let active = &file(&host)["active"];
    let [published, activated] = ["published", "activated"].map(|key| active[key].as_u64().unwrap());
    assert!(activated >= published + 2, "{active}");

    // While the TPM is stalled, a rotation is refused and tokens are issued; a later rotation succeeds.
    let tpm = host.swtpm();
    kill(tpm, Signal::SIGSTOP).unwrap();
    let refused = host.hostbadge(&["key", "rotate"]);
    assert_eq!(refused.status.code(), Some(4), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("TPM"));
    assert_eq!(kid(&host.token()), second);
    kill(tpm, Signal::SIGCONT).unwrap();
    let done = until("a rotation succeeds", || {
        let done = host.admin().post("/v1/keys/rotate", &json!({ "now": true }));
        (done.status == 200).then(|| done.json())
    });
    assert_eq!(kid(&host.token()), done["kid"].as_str().unwrap());
}

#[test]
fn a_key_that_is_due_while_the_tpm_is_stalled_is_published_when_it_responds() {
    // The age of its key must be known: a key of the template is as old as the test run.
    let mut host = Host::never_started();
    host.agent("root", "user = 0");
    host.configure("[keys]\nrotate_every = \"1h\"\npublish_before = \"30m\"\n[tpm]\ndeadline = \"1s\"\n");
    host.start();
    let listed = host.admin().get("/v1/keys").json();
    let due = humantime::parse_rfc3339(listed["keys"][0]["next"]["at"].as_str().unwrap()).unwrap();
    let since = humantime::parse_rfc3339(listed["keys"][0]["since"].as_str().unwrap()).unwrap();
    let lead = due.duration_since(since).unwrap().as_secs();
    assert!(host.stop().success());
    let whole = fs::read(host.path(FILE)).unwrap();
    // The TPM must be stopped before the key is due, which takes some seconds on a busy machine.
    let tpm = [5, 15, 30].into_iter().find_map(|seconds| {
        let now = clock(&host);
        edit(&host, |file| file["active"]["activated"] = json!(now + seconds - lead));
        start_as_it_is(&mut host);
        let tpm = host.swtpm();
        kill(tpm, Signal::SIGSTOP).unwrap();
        if jwks(&host).len() == 1 {
            return Some(tpm);
        }
        kill(tpm, Signal::SIGCONT).unwrap();
        assert!(host.stop().success());
        fs::write(host.path(FILE), &whole).unwrap();
        None
    });
    let tpm = tpm.expect("a machine that starts a daemon within 30 s");
    until_true("the rotation waits", || host.admin().get("/v1/keys").json()["blocked_reason"].is_string());
    let list = host.hostbadge(&["key", "list"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("A step that is due is delayed"));
    let active = kid(&host.token());
    until_true("the log has it", || host.log().contains(&format!("{active} keeps signing")));
    kill(tpm, Signal::SIGCONT).unwrap();
    until_true("the key is published", || jwks(&host).len() == 2);
    // Updated shortly after the key is published.
    until_true("the rotation waits no more", || {
        host.admin().get("/v1/keys").json()["blocked_reason"].is_null()
    });
}

/// The daemon's clock in Unix seconds, from its last audit record.
fn clock(host: &Host) -> u64 {
    let lines = host.audit();
    let time = humantime::parse_rfc3339(lines.last().unwrap()["time"].as_str().unwrap()).unwrap();
    time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn malformed_rotations_and_other_sockets_are_refused() {
    let host = Host::started();
    let before = file(&host);
    for body in [json!({ "now": "yes" }), json!({ "at_once": true }), json!([])] {
        let answer = host.admin().post("/v1/keys/rotate", &body);
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"), "{body}");
    }
    assert_eq!(host.admin().get("/v1/keys/rotate").status, 405);
    assert_eq!(host.admin().post("/v1/keys", &json!({})).status, 405);
    assert_eq!(host.get("/v1/keys").status, 404, "not on the agent socket");
    assert_eq!(host.post("/v1/keys/rotate", json!({ "now": true })).status, 404);
    assert_eq!(file(&host), before);
}

#[test]
fn a_tampered_key_file_is_not_used() {
    let (mut host, first, _) = rotated_once();
    assert!(host.stop().success());
    let whole = file(&host);
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 4] = [
        ("contains the same key twice", |file| {
            file["retired"][0]["sealed"] = file["active"]["sealed"].clone()
        }),
        ("does not open", |file| {
            file["active"]["sealed"]["key"] = file["retired"][0]["sealed"]["key"].clone()
        }),
        ("endorsement of the issuing key is not valid", |file| {
            file["active"]["sealed"]["endorsement"] = file["retired"][0]["sealed"]["endorsement"].clone();
        }),
        ("names another key than its endorsement", |file| file["retired"][0]["sealed"]["kid"] = json!("x")),
    ];
    for (wanted, change) in changes {
        edit(&host, change);
        start_as_it_is(&mut host);
        let blocked_reason = host.status()["issuer_blocked_reason"].as_str().unwrap_or_default().to_owned();
        assert!(blocked_reason.contains(wanted), "{wanted}: {blocked_reason}");
        let refused = host.hostbadge(&["key", "rotate", "--now"]);
        assert_eq!(refused.status.code(), Some(4));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(wanted));
        assert!(host.stop().success());
        fs::write(host.path(FILE), whole.to_string()).unwrap();
    }
    start_as_it_is(&mut host);
    assert!(jwks(&host).contains(&first));
}

/// The entry of the list of keys for the one key of this kind and state.
#[track_caller]
fn listed(host: &Host, kind: &str, state: &str) -> Value {
    let keys = host.admin().get("/v1/keys").json();
    let keys = keys["keys"].as_array().unwrap();
    let mut found = keys.iter().filter(|key| key["kind"] == kind && key["state"] == state);
    let key = found.next().unwrap_or_else(|| panic!("{kind}: {keys:?}")).clone();
    assert!(found.next().is_none(), "{kind}: {keys:?}");
    key
}

#[test]
fn every_key_is_listed_with_its_state_risk_class_and_interval() {
    let mut host = Host::new();
    host.agents_file(
        "theirs",
        &format!(
            "name = \"theirs\"\ntenant = \"acme\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\n"
        ),
    );
    host.start();
    until_true("the CA is there", || host.admin().get("/v1/keys").text().contains("issuing-ca"));
    until_true("the tenant has keys", || {
        host.admin().get("/v1/keys").text().contains("tenant-key-encryption")
    });
    let keys = host.admin().get("/v1/keys").json();
    for key in keys["keys"].as_array().unwrap() {
        assert!(["high", "moderate", "low"].contains(&key["risk"].as_str().unwrap()), "{key}");
        // Each rotates by itself, or says what an administrator does.
        let [interval, note] = ["rotate_every", "note"].map(|name| &key[name]);
        assert!(interval.is_u64() != note.is_string(), "{key}");
        assert!(!interval.is_u64() || key["next"]["at"].is_string(), "{key}");
    }
    let host_key = listed(&host, "host", "active");
    let root = listed(&host, "host-ca-root", "active");
    assert_eq!((&root["kid"], &root["next"]["step"]), (&host_key["kid"], &json!("renewed")));
    assert_eq!(listed(&host, "issuing-ca", "active")["rotate_every"], 12 * 3600);
    let kek = listed(&host, "key-encryption", "active");
    assert_eq!((&kek["rotate_every"], &kek["alg"]), (&json!(31_557_600), &json!("A256GCM")));
    assert_eq!(listed(&host, "tenant-key-encryption", "active")["tenant"], "acme");

    // The next issuing CA; the previous one signs its list until it expires.
    let rotated = run_json(&host, &["key", "rotate", "--ca"]);
    assert_eq!(
        (&rotated["outcome"], &rotated["retired"]),
        (&json!("activated"), &listed(&host, "issuing-ca", "retired")["kid"])
    );
    assert_eq!(rotated["kid"], listed(&host, "issuing-ca", "active")["kid"]);
    let refused = host.admin().post("/v1/keys/rotate", &json!({ "ca": true, "tenant": "acme" }));
    assert_eq!(refused.status, 400, "{}", refused.text());
    let list = host.hostbadge(&["key", "list"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        list.contains("host: does not rotate") && list.contains("host-ca-root: does not rotate"),
        "{list}"
    );
}

/// The key-encryption key of a host that has never had another is as old as `tpm.json`.
#[test]
fn the_key_encryption_key_rotates_by_its_age() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[keys]\nrotate_encryption_every = \"30d\"\n");
    host.start();
    let token = host.token();
    let first = listed(&host, "key-encryption", "active");
    assert!(!host.path("state/seal.json").exists());
    assert!(host.stop().success());

    let file = fs::File::options().write(true).open(host.path("state/tpm.json")).unwrap();
    let made = file.metadata().unwrap().modified().unwrap();
    file.set_modified(made - std::time::Duration::from_secs(31 * DAY)).unwrap();
    host.start();
    until_true("another key encrypts", || listed(&host, "key-encryption", "active")["kid"] != first["kid"]);
    until_true("everything is encrypted under it", || {
        !host.admin().get("/v1/keys").text().contains(first["kid"].as_str().unwrap())
    });
    let second = listed(&host, "key-encryption", "active");
    let record = line(&host, "key-encryption-key-created", second["kid"].as_str().unwrap());
    assert!(record["detail"].as_str().unwrap().contains("was in use for its interval"), "{record}");

    // Once only, and the keys open after a restart.
    assert!(host.stop().success());
    host.start();
    assert_eq!(listed(&host, "key-encryption", "active")["kid"], second["kid"]);
    assert_eq!(host.introspect(&token)["active"], true);
    assert_eq!(kid(&host.token()), kid(&token));
}
