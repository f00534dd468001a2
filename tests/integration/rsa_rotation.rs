//! RSA keys: states, rotation by age and on command, revocation, crashes, and older copies of their file.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use crate::common::audit_log::with_event;
use crate::common::http::part;
use crate::common::{self, API, Host, template, until, until_true};
use crate::disk_failures::{mount, succeed};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

const RSA: &str = "https://rsa.example.com";
const FILE: &str = "state/rsa.json";
const DAY: u64 = 24 * 3600;

/// The agent `root`, with a grant for RS256.
fn register(host: &Host) {
    let grants =
        format!("[[grant]]\naudience = \"{API}\"\n[[grant]]\naudience = \"{RSA}\"\nalg = \"RS256\"\n");
    host.agents_file("root", &format!("name = \"root\"\n[match]\nuser = 0\n{grants}"));
}

fn host_with(config: &str) -> Host {
    let mut host = Host::new();
    host.configure(&format!(
        "[limits]\ntpm_rate = 1000\ntpm_burst = 1000\n[tpm]\ndeadline = \"30s\"\n{config}"
    ));
    register(&host);
    host.start();
    host
}

/// An RS256 token, as soon as there is a key for it.
#[track_caller]
fn rsa_token(host: &Host) -> String {
    until("an RS256 token is issued", || {
        let answer = host.post("/v1/token", json!({ "audience": RSA }));
        let is_pending = answer.status == 503;
        assert!(answer.status == 200 || is_pending, "{}", answer.text());
        (answer.status == 200).then(|| answer.json()["access_token"].as_str().unwrap().to_owned())
    })
}

fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

/// The RSA keys of the key set, in order.
fn jwks(host: &Host) -> Vec<String> {
    let set = host.get("/.well-known/jwks.json").json();
    let keys = set["keys"].as_array().unwrap().iter().filter(|key| key["kty"] == "RSA");
    keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn listed(host: &Host) -> Vec<Value> {
    let keys = host.admin().get("/v1/keys").json()["keys"].as_array().unwrap().clone();
    keys.into_iter().filter(|key| key["kind"] == "rsa").collect()
}

/// `kid` and state of each RSA key on the admin socket.
fn states(host: &Host) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    listed(host).iter().map(|key| (text(&key["kid"]), text(&key["state"]))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(kid, state)| (kid.to_string(), state.to_string())).collect()
}

#[track_caller]
fn rotate(host: &Host, body: Value) -> Value {
    let answer = host.admin().post("/v1/keys/rotate", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Rotates, and waits for the key if the TPM was slow.
#[track_caller]
fn rotate_now(host: &Host) -> String {
    let before = jwks(host);
    rotate(host, json!({ "rsa": true, "now": true }));
    until("another key signs", || {
        states(host).into_iter().find(|(kid, state)| state == "active" && !before.contains(kid))
    })
    .0
}

fn file(host: &Host) -> Value {
    serde_json::from_slice(&fs::read(host.path(FILE)).unwrap()).unwrap()
}

/// Changes the file of a stopped daemon, and starts the daemon with it as the latest state.
fn start_with(host: &mut Host, change: impl FnOnce(&mut Value)) {
    let mut file = file(host);
    change(&mut file);
    fs::write(host.path(FILE), file.to_string()).unwrap();
    accept_state(host);
}

/// Starts the daemon, and accepts the state directory as it is: the manifest lists the files that are there.
fn accept_state(host: &mut Host) {
    fs::remove_file(host.path("state/ledger.json")).unwrap();
    host.start();
    let reason = |host: &Host| host.status()["issuer_blocked_reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason(host).contains("hostbadge key accept"), "{}", reason(host));
    assert!(host.hostbadge(&["key", "accept"]).status.success());
    until_true("the state is accepted", || host.post("/v1/token", json!({ "audience": API })).status == 200);
}

fn earlier(moment: &mut Value, by: u64) {
    *moment = json!(moment.as_u64().unwrap() - by);
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// The audit record of an event of an RSA key.
#[track_caller]
fn detail(host: &Host, event: &str, kid: &str) -> String {
    until(&format!("{event} of {kid} is recorded"), || {
        let lines = host.audit();
        let line = with_event(&lines, event).into_iter().find(|line| line["kid"] == kid)?;
        Some(line["detail"].as_str().unwrap().to_owned())
    })
}

#[test]
fn the_next_rsa_key_is_published_before_it_signs() {
    let mut host = host_with("");
    let before = rsa_token(&host);
    let first = kid(&before);
    assert_eq!(states(&host), pairs(&[(&first, "active")]));

    rotate(&host, json!({ "rsa": true }));
    let second = until("the next key is published", || jwks(&host).get(1).cloned());
    assert_eq!(states(&host), pairs(&[(&first, "active"), (&second, "published")]));
    assert_eq!(kid(&rsa_token(&host)), first);
    let again = rotate(&host, json!({ "rsa": true }));
    assert_eq!((&again["outcome"], &again["kid"]), (&json!("already-published"), &json!(second)));

    // It waits for its activation time across a crash.
    host.crash();
    host.start();
    assert_eq!((jwks(&host), kid(&rsa_token(&host))), (vec![first.clone(), second.clone()], first.clone()));
    let private = file(&host)["active"]["key"]["private"].as_str().unwrap().to_owned();
    let rotated = host.hostbadge(&["key", "rotate", "--rsa", "--now"]);
    assert!(rotated.status.success() && said(&rotated).contains(&second), "{}", said(&rotated));
    let after = rsa_token(&host);
    assert_eq!(kid(&after), second);
    assert_eq!(jwks(&host), [second.as_str(), &first]);
    assert_eq!(states(&host), pairs(&[(&second, "active"), (&first, "retired")]));
    assert!(!fs::read_to_string(host.path(FILE)).unwrap().contains(&private), "its private half is gone");

    // Relying parties and introspection accept tokens of both, also after a restart.
    assert!(host.stop().success());
    host.start();
    let set = host.path("jwks.json");
    assert!(host.hostbadge(&["export", "jwks", "-o", set.to_str().unwrap()]).status.success());
    for token in [&before, &after] {
        assert_eq!(host.introspect(token)["active"], true);
        let verified =
            host.hostbadge(&["verify", "token", token, "--jwks", set.to_str().unwrap(), "--audience", RSA]);
        assert!(verified.status.success(), "{}", said(&verified));
    }
    let created = detail(&host, "rsa-key-created", &second);
    assert!(created.contains("RSA key") && created.contains("requested by uid 0"), "{created}");
    let published = detail(&host, "key-published", &second);
    assert!(published.contains("RSA key") && published.contains("requested by uid 0"), "{published}");
    for (event, kid) in [("key-activated", &second), ("key-retired", &first), ("key-activated", &first)] {
        assert!(detail(&host, event, kid).starts_with("RSA key "));
    }
}

#[test]
fn the_list_shows_when_each_key_was_made() {
    let host = host_with("");
    rsa_token(&host);
    let output = host.hostbadge(&["key", "list"]);
    let text = said(&output);
    let columns: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns[..6], ["KID", "KIND", "ALG", "STATE", "SINCE", "CREATED"]);
    let keys = host.admin().get("/v1/keys").json()["keys"].as_array().unwrap().clone();
    for kind in ["issuing", "host", "rsa", "host-ca-root", "issuing-ca", "key-encryption"] {
        let key = keys.iter().find(|key| key["kind"] == kind).unwrap_or_else(|| panic!("{kind}: {keys:?}"));
        for time in ["created", "since"] {
            let at = key[time].as_str().unwrap_or_else(|| panic!("{kind} has no {time}"));
            assert!(text.contains(at), "{kind}: {at}\nnot in\n{text}");
        }
    }
    let rsa = keys.iter().find(|key| key["kind"] == "rsa").unwrap();
    assert_eq!((&rsa["risk"], &rsa["rotate_every"]), (&json!("low"), &json!(31_557_600)));
    assert_eq!(rsa["next"]["step"], "successor published");
}

#[test]
fn the_schedule_makes_a_successor_in_time() {
    let mut host = host_with("[keys]\nrotate_rsa_every = \"2d\"\npublish_before = \"2s\"\n");
    let before = rsa_token(&host);
    let first = kid(&before);
    // The interval has passed.
    assert!(host.stop().success());
    start_with(&mut host, |file| earlier(&mut file["active"]["activated"], 2 * DAY));
    let second = until("another key signs", || {
        let token = rsa_token(&host);
        (kid(&token) != first).then(|| kid(&token))
    });
    assert_eq!(states(&host), pairs(&[(&second, "active"), (&first, "retired")]));
    let active = &file(&host)["active"];
    let [published, activated] = ["published", "activated"].map(|key| active[key].as_u64().unwrap());
    assert!(activated >= published + 2, "{active}");
    assert_eq!(host.introspect(&before)["active"], true);
    for event in ["rsa-key-created", "key-published", "key-activated"] {
        let text = detail(&host, event, &second);
        assert!(!text.contains("requested by"), "{text}");
    }

    // Its last token has expired.
    assert!(host.stop().success());
    start_with(&mut host, |file| earlier(&mut file["retired"][0]["retired"], 3660));
    until_true("the first key is destroyed", || {
        states(&host) == pairs(&[(&second, "active"), (&first, "destroyed")])
    });
    assert_eq!(jwks(&host), [second.as_str()]);
    assert_eq!(host.introspect(&before)["active"], false);
    detail(&host, "key-destroyed", &first);
}

/// A key is generated up to an hour before it is published.
#[test]
fn a_generated_key_is_in_no_key_set_and_survives_kill_9() {
    let mut host = host_with("[keys]\nrotate_rsa_every = \"2d\"\n");
    let first = kid(&rsa_token(&host));
    let time = |text: &Value| humantime::parse_rfc3339(text.as_str().unwrap()).unwrap();
    let active = listed(&host)[0].clone();
    let lead = time(&active["next"]["at"]).duration_since(time(&active["since"])).unwrap().as_secs();
    assert!(host.stop().success());
    start_with(&mut host, |file| earlier(&mut file["active"]["activated"], lead - 1800));
    let generated = until("a key is generated", || {
        states(&host).into_iter().find(|(_, state)| state == "generated").map(|(kid, _)| kid)
    });
    let states_now = pairs(&[(&first, "active"), (&generated, "generated")]);
    assert_eq!((states(&host), jwks(&host)), (states_now.clone(), vec![first.clone()]));
    assert_eq!(listed(&host)[1]["next"]["step"], "published");
    let text = said(&host.hostbadge(&["key", "list"]));
    let row = text.lines().find(|line| line.contains(&generated)).unwrap_or_else(|| panic!("{text}"));
    assert!(row.contains("generated"), "{row}");

    kill(host.pid(), Signal::SIGKILL).unwrap();
    host.crash();
    host.start();
    assert_eq!((states(&host), kid(&rsa_token(&host))), (states_now, first.clone()));
    // On command it is published at once, without another key.
    let published = rotate(&host, json!({ "rsa": true }));
    assert_eq!((&published["outcome"], &published["kid"]), (&json!("published"), &json!(generated)));
    assert_eq!(jwks(&host), [first, generated]);
}

#[test]
fn a_rotation_survives_kill_9_at_any_moment() {
    let mut host = host_with("");
    let mut tokens = vec![rsa_token(&host)];
    for round in 0..6 {
        let (pid, admin) = (host.pid(), host.admin_socket());
        let body = json!({ "rsa": true, "now": round % 3 != 0 }).to_string();
        let order = std::thread::spawn(move || {
            // The daemon may have exited already.
            let mut connection = common::http::Connection::new(UnixStream::connect(admin).ok()?);
            let kind = Some("application/json");
            let _ = connection.send(&common::http::request("POST", "/v1/keys/rotate", kind, body.as_bytes()));
            connection.read_response().map(|answer| answer.status)
        });
        // From before the TPM command until after the file is replaced.
        std::thread::park_timeout(Duration::from_millis(60 * round));
        kill(pid, Signal::SIGKILL).unwrap();
        let answered = order.join().unwrap();
        assert!(matches!(answered, None | Some(200)), "{answered:?}");
        host.crash();
        host.start();
        let states = states(&host);
        let count = |state: &str| states.iter().filter(|(_, one)| one == state).count();
        assert_eq!(count("active"), 1, "{states:?}");
        assert!(count("published") + count("generated") <= 1, "{states:?}");
        tokens.push(rsa_token(&host));
        for token in &tokens {
            assert_eq!(host.introspect(token)["active"], true, "{states:?}");
        }
        assert_eq!(host.status()["rsa_blocked_reason"], Value::Null);
    }
}

#[test]
fn revoked_rsa_keys_neither_sign_nor_verify() {
    let mut host = host_with("");
    let first = rsa_token(&host);
    rotate_now(&host);
    let second = rsa_token(&host);
    rotate(&host, json!({ "rsa": true }));
    let published = until("the next key is published", || {
        states(&host).into_iter().find(|(_, state)| state == "published").map(|(kid, _)| kid)
    });
    let es256 = host.token();
    let revoke = |host: &Host, kid: &str| {
        let revoked = host.hostbadge(&["revoke", "key", kid]);
        assert!(revoked.status.success(), "{}", said(&revoked));
    };
    // A retired one.
    revoke(&host, &kid(&first));
    assert_eq!(host.introspect(&first)["active"], false);
    assert_eq!(host.introspect(&second)["active"], true);
    assert_eq!(jwks(&host), [kid(&second), published.clone()]);
    until_true("it is destroyed", || states(&host).contains(&(kid(&first), "destroyed".into())));
    // The active one: the published one signs at once.
    revoke(&host, &kid(&second));
    assert_eq!(host.introspect(&second)["active"], false);
    assert!(!jwks(&host).contains(&kid(&second)), "at once");
    let third = rsa_token(&host);
    assert_eq!(kid(&third), published);
    // Without a successor, the TPM makes another key.
    let old = fs::read(host.path(FILE)).unwrap();
    revoke(&host, &published);
    assert!(!jwks(&host).contains(&published), "at once");
    assert_eq!(host.introspect(&third)["active"], false);
    let fourth = rsa_token(&host);
    assert!(![kid(&first), kid(&second), published.clone()].contains(&kid(&fourth)));
    assert_eq!(host.introspect(&fourth)["active"], true);
    assert_eq!(states(&host).iter().filter(|(_, state)| state == "destroyed").count(), 3);
    let text = detail(&host, "key-destroyed", &published);
    assert!(text.contains("was revoked and is destroyed"), "{text}");
    assert_eq!(host.introspect(&es256)["active"], true);

    // Nor after a restart, whichever copy of the file is there.
    assert!(host.stop().success());
    let latest = fs::read(host.path(FILE)).unwrap();
    fs::write(host.path(FILE), old).unwrap();
    host.start();
    let refused = host.post("/v1/token", json!({ "audience": RSA }));
    assert_eq!((refused.status, jwks(&host).len()), (503, 0));
    assert!(refused.text().contains("rsa.json is not what this host wrote last"), "{}", refused.text());
    host.token();
    fs::write(host.path(FILE), latest).unwrap();
    assert_eq!(kid(&rsa_token(&host)), kid(&fourth));
    assert_eq!(host.introspect(&third)["active"], false);
}

#[test]
fn a_file_of_format_1_is_read_once_and_an_older_copy_is_not_used() {
    let mut host = host_with("");
    let token = rsa_token(&host);
    assert!(host.stop().success());
    let active = file(&host)["active"].clone();
    let mut old = json!({ "version": 1 });
    for member in ["created", "key", "endorsement"] {
        old[member] = active[member].clone();
    }
    // A manifest of a release that did not list the file.
    host.agent("root", "user = 0");
    fs::remove_file(host.path(FILE)).unwrap();
    accept_state(&mut host);
    assert!(host.stop().success());
    register(&host);
    fs::write(host.path(FILE), old.to_string()).unwrap();
    host.start();
    let first = kid(&token);
    assert_eq!(
        (kid(&rsa_token(&host)), host.introspect(&token)["active"].clone()),
        (first.clone(), json!(true))
    );
    assert_eq!(file(&host), old, "the file is not rewritten without a change");
    assert_eq!(states(&host), pairs(&[(&first, "active")]));

    let second = rotate_now(&host);
    assert_eq!((&file(&host)["version"], &file(&host)["retired"][0]["kid"]), (&json!(2), &json!(first)));
    assert_eq!(host.introspect(&token)["active"], true);
    host.crash();
    let latest = fs::read(host.path(FILE)).unwrap();
    // The first key would sign again.
    fs::write(host.path(FILE), old.to_string()).unwrap();
    host.start();
    let refused = host.post("/v1/token", json!({ "audience": RSA }));
    assert!(refused.text().contains("is not the latest"), "{}", refused.text());
    fs::write(host.path(FILE), &latest).unwrap();
    assert_eq!(kid(&rsa_token(&host)), second);

    // Without the file another key is made, and no copy of the old one is accepted any more.
    assert!(host.stop().success());
    fs::remove_file(host.path(FILE)).unwrap();
    host.start();
    let third = kid(&rsa_token(&host));
    assert!(![first, second].contains(&third));
    assert!(host.stop().success());
    fs::write(host.path(FILE), latest).unwrap();
    host.start();
    assert_eq!(host.post("/v1/token", json!({ "audience": RSA })).status, 503);
    host.token();
}

/// The TPM makes the key for longer than the command waits.
#[test]
fn a_rotation_waits_for_the_tpm_in_the_background() {
    let host = host_with("");
    let first = kid(&rsa_token(&host));
    let tpm = host.swtpm();
    kill(tpm, Signal::SIGSTOP).unwrap();
    let rotated = host.hostbadge(&["key", "rotate", "--rsa", "--now"]);
    let text = said(&rotated);
    assert!(rotated.status.success() && text.contains("The TPM makes the key"), "{text}");
    assert_eq!(jwks(&host), [first.as_str()]);
    host.token();
    kill(tpm, Signal::SIGCONT).unwrap();
    until_true("the rotation goes on by itself", || {
        states(&host).contains(&(first.clone(), "retired".into())) && kid(&rsa_token(&host)) != first
    });
}

#[test]
fn requests_for_keys_that_are_not_there_are_refused() {
    let host = Host::started();
    let none = host.hostbadge(&["key", "rotate", "--rsa"]);
    assert!(!none.status.success() && said(&none).contains("this host has no RSA key"), "{}", said(&none));
    let answer = host.admin().post("/v1/keys/rotate", &json!({ "rsa": true }));
    assert_eq!((answer.status, answer.error().as_str()), (409, "invalid_request"), "{}", answer.text());
    for body in [json!({ "rsa": true, "tenant": "acme" }), json!({ "rsa": true, "ca": true })] {
        let answer = host.admin().post("/v1/keys/rotate", &body);
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"), "{}", answer.text());
    }
    for words in [["--tenant", "acme"].as_slice(), &["--ca"]] {
        let refused = host.hostbadge(&[&["key", "rotate", "--rsa"], words].concat());
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    }
}

/// The key that the TPM has made is stored once there is room.
#[test]
fn a_full_state_disk_delays_the_first_key_and_nothing_else() {
    let mut host = Host::new();
    host.configure("[limits]\nrate = 1000\nburst = 1000\ntpm_rate = 1000\ntpm_burst = 1000\n");
    host.agent("root", "user = 0");
    let (state, saved) = (host.path("state"), host.path("saved"));
    succeed(Command::new("cp").arg("-a").arg(&state).arg(&saved));
    let disk = mount(&state, &["-t", "tmpfs", "-o", "size=768k,mode=700", "tmpfs"]);
    succeed(Command::new("cp").arg("-a").arg(saved.join(".")).arg(&state));
    host.start();
    let ballast = disk.path().join("ballast");
    // Ends with a partial write and ENOSPC.
    assert!(fs::write(&ballast, vec![0; 1 << 20]).is_err(), "the disk is full");
    register(&host);
    host.reload();
    let blocked = until("the key is not stored", || {
        let reason = host.status()["rsa_blocked_reason"].as_str()?.to_owned();
        reason.contains("No space left").then_some(reason)
    });
    assert!(blocked.contains("state/"), "{blocked}");
    assert_eq!(host.post("/v1/token", json!({ "audience": RSA })).status, 503);
    host.token();
    assert!(!host.path(FILE).exists());
    fs::remove_file(&ballast).unwrap();
    let token = rsa_token(&host);
    assert_eq!(host.introspect(&token)["active"], true);
    assert_eq!(states(&host), pairs(&[(&kid(&token), "active")]));
    until_true("nothing is blocked", || host.status()["rsa_blocked_reason"] == Value::Null);
    assert_eq!(with_event(&host.audit(), "rsa-key-created").len(), 1);
    host.stop();
}

/// RSA keys never leave the TPM, so that the recovery key does not bring them along.
#[test]
fn another_tpm_makes_another_rsa_key() {
    let mut host = host_with("");
    let first = kid(&rsa_token(&host));
    let post = |host: &Host, target: &str, body: &Value| {
        let answer = host.admin().post(target, body);
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        answer.json()
    };
    let key = json!({ "recovery_key": post(&host, "/v1/keys/recovery", &json!({}))["recovery_key"] });
    post(&host, "/v1/keys/recovery/confirm", &key);
    assert!(host.stop().success());
    fs::remove_dir_all(host.path("tpm")).unwrap();
    template::copy(&Host::other().path("tpm"), &host.path("tpm"));
    host.start();
    post(&host, "/v1/keys/recover", &key);
    until_true("it issues again", || host.post("/v1/token", json!({ "audience": API })).status == 200);
    let second = kid(&rsa_token(&host));
    assert_ne!(second, first);
    assert!(host.path("state/rsa.json.replaced").exists());
    host.crash();
    host.start();
    assert_eq!((kid(&rsa_token(&host)), jwks(&host)), (second.clone(), vec![second]));
}
