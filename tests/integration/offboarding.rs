//! Offboarding: an agent's own credentials end with it, in backups too, and a receipt says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::processes::output_with;
use crate::common::{Host, until_true};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use hostbadge::tpm::{SoftwareTpm, Tcti};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

/// A host on which every process of uid 0 is the agents `a` and `b`, which may have `github` and `stripe`.
fn host() -> Host {
    let mut host = Host::new();
    for name in ["a", "b"] {
        let table = |credential| format!("[[credential]]\nname = \"{credential}\"\nuse = \"release\"\n");
        let text = format!("name = \"{name}\"\n[match]\nuser = 0\n{}{}", table("github"), table("stripe"));
        host.agents_file(name, &text);
    }
    host.start();
    host
}

#[track_caller]
fn put(host: &Host, name: &str, agent: Option<&str>, value: &str) {
    let request = json!({ "name": name, "value": value, "agent": agent });
    let answer = host.admin().post("/v1/credentials/put", &without_null(request));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn without_null(mut value: Value) -> Value {
    value.as_object_mut().unwrap().retain(|_, member| !member.is_null());
    value
}

/// The value that an agent gets, or the error.
fn released(host: &Host, agent: &str, name: &str) -> String {
    let answer = host.post("/v1/credential", json!({ "name": name, "agent": agent }));
    match answer.status {
        200 => answer.json()["value"].as_str().unwrap().to_owned(),
        _ => format!("{}: {}", answer.error(), answer.json()["error_description"].as_str().unwrap()),
    }
}

/// The receipt of an offboarding, and what the command said beside it.
#[track_caller]
fn offboard(host: &Host, agent: &str) -> (String, String) {
    let output = host.hostbadge(&["agent", "offboard", agent, "--reason", "left"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    (String::from_utf8(output.stdout).unwrap(), said)
}

fn claims(receipt: &str) -> Value {
    let payload = receipt.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap()
}

/// `hostbadge verify receipt` as on another machine: with files alone.
fn verify(receipt: &str, options: &[&str]) -> Output {
    let mut command = Command::new(crate::common::program("hostbadge"));
    output_with(command.args(["verify", "receipt"]).args(options).env_clear(), receipt.as_bytes())
}

#[track_caller]
fn verified(receipt: &str, options: &[&str]) -> String {
    let output = verify(receipt, options);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[track_caller]
fn not_verified(receipt: &str, options: &[&str], why: &str) {
    let output = verify(receipt, options);
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(why), "{said}");
}

fn copy_dir(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// tpm2-tools beside the stopped daemon, on its software TPM.
struct Tools<'h> {
    host: &'h Host,
    software: SoftwareTpm,
}

impl Tools<'_> {
    fn new(host: &Host) -> Tools<'_> {
        Tools { host, software: SoftwareTpm::start(&host.path("tpm")).unwrap() }
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let Tcti::Swtpm { host, port } = self.software.tcti() else { unreachable!() };
        let mut command = Command::new(program);
        command.current_dir(self.host.path("tools")).args(arguments);
        command.args(["-T", &format!("swtpm:host={host},port={port}")]).output().unwrap()
    }

    #[track_caller]
    fn done(&self, program: &str, arguments: &[&str]) -> Vec<u8> {
        let output = self.run(program, arguments);
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Unseals the current erasure key of `erasure.json` in a state directory, by a policy for this value of the
    /// counter: what tpm2_policynv and tpm2_unseal say.
    fn unseal(&self, state: &Path, value: u64) -> Result<Vec<u8>, String> {
        let dir = self.host.path("tools");
        fs::create_dir_all(&dir).unwrap();
        let file = erasure_file(state);
        for part in ["public", "private"] {
            let text = file["current"][part].as_str().unwrap();
            fs::write(dir.join(part), BASE64.decode(text.as_bytes()).unwrap()).unwrap();
        }
        fs::write(dir.join("value"), value.to_be_bytes()).unwrap();
        // The SRK's template: a point of two numbers of 32 zeros, as the tool reads them.
        let number = [&32_u16.to_le_bytes()[..], &[0; 128]].concat();
        fs::write(dir.join("unique"), [&number[..], &number[..]].concat()).unwrap();
        let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
        let srk = ["-C", "o", "-g", "sha256", "-G", "ecc256:aes128cfb", "-a", attributes, "-u", "unique"];
        self.done("tpm2_createprimary", &[&srk[..], &["-c", "srk"]].concat());
        self.done("tpm2_flushcontext", &["-t"]);
        self.done("tpm2_load", &["-C", "srk", "-u", "public", "-r", "private", "-c", "sealed"]);
        self.done("tpm2_flushcontext", &["-t"]);
        self.done("tpm2_startauthsession", &["--policy-session", "-S", "session"]);
        let index = format!("{:#x}", file["counter"].as_u64().unwrap());
        let policy = self.run("tpm2_policynv", &["-S", "session", "-C", "o", "-i", "value", &index, "eq"]);
        let unsealed = self.run("tpm2_unseal", &["-c", "sealed", "-p", "session:session"]);
        self.done("tpm2_flushcontext", &["session"]);
        self.done("tpm2_flushcontext", &["-t"]);
        match policy.status.success() && unsealed.status.success() {
            true => Ok(unsealed.stdout),
            false => {
                assert!(!unsealed.status.success());
                Err([policy.stderr, unsealed.stderr]
                    .map(|t| String::from_utf8_lossy(&t).into_owned())
                    .concat())
            }
        }
    }
}

fn erasure_file(state: &Path) -> Value {
    serde_json::from_slice(&fs::read(state.join("erasure.json")).unwrap()).unwrap()
}

#[test]
fn an_own_credential_ends_with_its_agent_and_the_tpm_refuses_a_backup() {
    let mut host = host();
    assert!(!host.path("state/erasure.json").exists());
    put(&host, "github", None, "shared");
    assert_eq!(released(&host, "a", "github"), "shared");
    assert!(!host.path("state/erasure.json").exists());
    put(&host, "github", Some("a"), "of a");
    put(&host, "github", Some("b"), "of b");
    put(&host, "stripe", None, "payments");
    assert_eq!(["a", "b"].map(|agent| released(&host, agent, "github")), ["of a", "of b"]);
    let rotate = json!({ "name": "github", "agent": "a", "value": "of a, 2", "overlap": 3600 });
    assert_eq!(host.admin().post("/v1/credentials/rotate", &rotate).json()["version"], 2);
    host.stop();
    let backup = host.path("backup");
    copy_dir(&host.path("state"), &backup);
    // What the test asks of tpm2-tools opens the key before the erasure.
    let before = erasure_file(&backup)["current"]["count"].as_u64().unwrap();
    let tools = Tools::new(&host);
    assert_eq!(tools.unseal(&backup, before).unwrap().len(), 32);
    assert!(tools.unseal(&backup, before + 1).is_err());
    drop(tools);

    host.start();
    assert_eq!(released(&host, "a", "github"), "of a, 2");
    let (receipt, said) = offboard(&host, "a");
    assert!(said.contains("destroyed: credential github, version 1, 2"), "{said}");
    assert!(said.contains("not destroyed: credential stripe, which is shared"), "{said}");
    assert!(said.contains("to do: remove agent a from agents.d"), "{said}");
    let stated = claims(&receipt);
    assert_eq!(
        stated["destroyed"],
        json!({ "credentials": [{ "name": "github", "versions": [1, 2] }], "keys": ["key-encryption-key"] })
    );
    assert_eq!(stated["shared_credentials"], json!([{ "name": "github" }, { "name": "stripe" }]));
    assert_eq!(
        (&stated["erasure"]["before"], &stated["erasure"]["after"]),
        (&json!(before), &json!(before + 1))
    );
    assert_eq!((&stated["agent"], &stated["reason"]), (&json!("a"), &json!("left")));
    assert_eq!(stated["iss"], host.status()["host"]["id"]);
    assert!(stated["sub"].as_str().unwrap().ends_with("/agent/a"), "{stated}");
    assert!(released(&host, "a", "github").contains("is revoked"));
    assert_eq!(released(&host, "b", "github"), "of b");
    let listed = host.admin().get("/v1/credentials").json();
    let own: Vec<&Value> = listed.as_array().unwrap().iter().filter_map(|one| one.get("agent")).collect();
    assert_eq!(own, [&json!("b")]);
    let audit = host.audit();
    let event = audit.iter().find(|line| line["event"] == "agent-offboarded").unwrap();
    let detail = event["detail"].as_str().unwrap();
    assert!(
        detail.contains("offboarded agent a: destroyed 1 credential of its own with their key"),
        "{detail}"
    );
    assert!(detail.ends_with("Destroyed: github"), "{detail}");
    assert!(!host.audit_text().contains("of a, 2"));

    // Nothing is left the second time, and the first erasure is named.
    let again = claims(&offboard(&host, "a").0);
    assert_eq!(again["destroyed"], json!({ "credentials": [], "keys": [] }));
    assert_eq!((&again["earlier_erasures"], again.get("erasure")), (&json!([stated["erasure"]]), None));

    // The TPM itself refuses what the backup has, by either value, and opens what there is now.
    host.stop();
    let tools = Tools::new(&host);
    for value in [before, before + 1] {
        let refused = tools.unseal(&backup, value).unwrap_err();
        assert!(
            refused.contains("0x126") || refused.contains("0x99D") || refused.contains("policy"),
            "{refused}"
        );
    }
    assert_eq!(tools.unseal(&host.path("state"), before + 1).unwrap().len(), 32);
    drop(tools);

    // The daemon opens nothing of the backup either, whatever the administrator accepts.
    let latest = host.path("latest");
    fs::rename(host.path("state"), &latest).unwrap();
    copy_dir(&backup, &host.path("state"));
    host.launch();
    until_true("the older state is detected", || {
        host.status()["issuer_blocked_reason"].as_str().is_some_and(|why| why.contains("not the latest"))
    });
    let accepted = host.admin().post("/v1/keys/accept", &json!({}));
    assert_eq!(accepted.status, 200, "{}", accepted.text());
    until_true("the shared credentials are released", || released(&host, "a", "stripe") == "payments");
    let warnings = host.status()["warnings"].to_string();
    assert!(warnings.contains("the own credentials of a, b cannot be opened"), "{warnings}");
    for agent in ["a", "b"] {
        let refused = released(&host, agent, "github");
        assert!(refused.starts_with("access_denied: the key of this agent's own credentials"), "{refused}");
    }
    // They can be removed and stored again.
    let remove = json!({ "name": "github", "agent": "b" });
    assert_eq!(host.admin().post("/v1/credentials/remove", &remove).status, 200);
    put(&host, "github", Some("b"), "again");
    assert_eq!(released(&host, "b", "github"), "again");
    host.stop();
    host.start();
    assert_eq!(released(&host, "b", "github"), "again");
    host.stop();
}

#[test]
fn a_receipt_is_verified_elsewhere_and_no_changed_one_is() {
    let host = host();
    put(&host, "github", Some("a"), "of a");
    // Any earlier evidence of the host serves: it has the same keys.
    let evidence = host.post("/v1/attest", json!({ "nonce": "YSBub25jZSBvZiAxOCBieXRlcw" })).json();
    let (receipt, _) = offboard(&host, "a");
    let file = |name: &str, content: &[u8]| -> PathBuf {
        let path = host.path(name);
        fs::write(&path, content).unwrap();
        path
    };
    let jwks = file("jwks.json", host.hostbadge(&["export", "jwks"]).stdout.as_slice());
    let evidence_file = file("evidence.json", evidence.to_string().as_bytes());
    let (jwks, evidence_file) = (jwks.to_str().unwrap(), evidence_file.to_str().unwrap());
    let id = host.status()["host"]["id"].as_str().unwrap().to_owned();

    let said = verified(&receipt, &["--jwks", jwks]);
    assert!(said.contains("not compared: the host (--host), the agent (--agent)"), "{said}");
    assert!(said.contains("credential github, version 1") && said.contains("0x1804872"), "{said}");
    let said = verified(&receipt, &["--evidence", evidence_file, "--agent", "a"]);
    let after = claims(&receipt)["erasure"]["after"].as_u64().unwrap();
    assert!(said.contains(&format!("has the value {after}, by the TPM's AK")), "{said}");
    // Evidence of another host, and one whose AK is another.
    let mut other_ak = evidence.clone();
    other_ak["ak"] = other_ak["host_key"].clone();
    let other_ak = file("other-ak.json", other_ak.to_string().as_bytes());
    not_verified(&receipt, &["--evidence", other_ak.to_str().unwrap()], "did not sign this");
    let mut other_host = evidence.clone();
    other_host["host"] = json!("abcdefghijklmnopqrstuvwxyz");
    let other_host = file("other-host.json", other_host.to_string().as_bytes());
    not_verified(&receipt, &["--evidence", other_host.to_str().unwrap()], "about the host");
    let said = verified(&receipt, &["--jwks", jwks, "--host", &id, "--agent", "a", "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["valid"], &said["claims"]), (&json!(true), &claims(&receipt)));

    not_verified(&receipt, &["--jwks", jwks, "--agent", "b"], "about the agent \"a\"");
    not_verified(&receipt, &["--jwks", jwks, "--host", "abc"], "about the host");
    let other = file("other.json", b"{\"keys\":[]}");
    not_verified(&receipt, &["--jwks", other.to_str().unwrap()], "no key");
    let token_like = receipt.replacen(receipt.split('.').next().unwrap(), "eyJhbGciOiJub25lIn0", 1);
    not_verified(&token_like, &["--jwks", jwks], "not a compact JWS");
    not_verified("garbage", &["--jwks", jwks], "not a compact JWS");
    // Each claim, and each member of it.
    let parts: Vec<&str> = receipt.trim().split('.').collect();
    let mut pointers = Vec::new();
    collect_pointers("", &claims(&receipt), &mut pointers);
    assert!(pointers.len() > 15, "{pointers:?}");
    for pointer in pointers {
        let mut changed = claims(&receipt);
        let value = changed.pointer_mut(&pointer).unwrap();
        *value = match &*value {
            Value::String(text) => json!(format!("{text}0")),
            Value::Number(number) => json!(number.as_u64().unwrap() + 1),
            Value::Array(_) => json!([]),
            _ => json!({}),
        };
        if changed == claims(&receipt) {
            continue;
        }
        let payload = BASE64URL_NOPAD.encode(changed.to_string().as_bytes());
        let forged = format!("{}.{payload}.{}", parts[0], parts[2]);
        not_verified(&forged, &["--jwks", jwks], "signature is not valid");
    }
}

fn collect_pointers(at: &str, value: &Value, pointers: &mut Vec<String>) {
    if !at.is_empty() {
        pointers.push(at.to_owned());
    }
    match value {
        Value::Object(members) => {
            members
                .iter()
                .for_each(|(name, value)| collect_pointers(&format!("{at}/{name}"), value, pointers));
        }
        Value::Array(items) => {
            let place = |(index, item)| collect_pointers(&format!("{at}/{index}"), item, pointers);
            items.iter().enumerate().for_each(place);
        }
        _ => {}
    }
}

#[test]
fn agents_without_credentials_and_unknown_ones() {
    let mut host = host();
    let unknown = host.hostbadge(&["agent", "offboard", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no agent of this name"));
    let stated = claims(&offboard(&host, "a").0);
    assert_eq!(stated["destroyed"], json!({ "credentials": [], "keys": [] }));
    assert_eq!(stated.get("erasure"), None);
    assert!(!host.path("state/erasure.json").exists());
    assert!(released(&host, "a", "github").contains("is revoked"));
    // Nothing is stored for an agent that is revoked, or that is not registered.
    let put = |agent: &str| {
        let request = json!({ "name": "github", "value": "x", "agent": agent });
        let answer = host.admin().post("/v1/credentials/put", &request);
        (answer.status, answer.json()["error_description"].as_str().unwrap().to_owned())
    };
    assert!(put("a").1.contains("revoked"), "{:?}", put("a"));
    assert_eq!(put("nobody").0, 404);
    let both = json!({ "name": "github", "value": "x", "agent": "b", "tenant": "t" });
    assert_eq!(host.admin().post("/v1/credentials/put", &both).status, 400);
    // It stays known without its file, and offboarded after a restart.
    fs::remove_file(host.path("etc/agents.d/a.toml")).unwrap();
    host.stop();
    host.start();
    let stated = claims(&offboard(&host, "a").0);
    assert_eq!(stated.get("sub"), None);
    // What is remembered of the use of another agent goes with it, if asked.
    released(&host, "b", "github");
    let seen = || host.admin().get("/v1/agents/b").json()["activity"]["last_seen"].is_string();
    assert!(seen());
    let request = json!({ "name": "b", "remove_usage": true });
    let answer = host.admin().post("/v1/agents/offboard", &request);
    assert_eq!(claims(answer.json()["receipt"].as_str().unwrap())["destroyed"]["usage"], true);
    assert!(!seen());
}

#[test]
fn a_tpm_that_does_not_respond_delays_the_erasure_and_not_the_revocation() {
    let host = host();
    put(&host, "github", Some("a"), "of a");
    put(&host, "github", Some("b"), "of b");
    let swtpm = host.swtpm();
    kill(swtpm, Signal::SIGSTOP).unwrap();
    let output = host.hostbadge(&["agent", "offboard", "a"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
    assert!(said.contains("the agent is revoked") && said.contains("not destroyed yet"), "{said}");
    assert!(released(&host, "a", "github").contains("is revoked"));
    assert_eq!(released(&host, "b", "github"), "of b");
    kill(swtpm, Signal::SIGCONT).unwrap();
    until_true("the TPM responds", || host.status()["tpm"]["state"] == "ready");
    let stated = claims(&offboard(&host, "a").0);
    assert_eq!(stated["destroyed"]["credentials"][0]["name"], "github", "{stated}");
    assert_eq!(stated["destroyed"]["keys"], json!(["key-encryption-key"]));
    assert_eq!(released(&host, "b", "github"), "of b");
}

/// Wherever a crash comes, a repetition completes the offboarding, and the credentials of other agents stay.
#[test]
fn an_offboarding_that_a_crash_interrupts_is_completed() {
    let mut host = host();
    put(&host, "github", Some("b"), "of b");
    for round in 0..12 {
        put(&host, "github", Some("a"), "of a");
        let request = std::thread::scope(|scope| {
            let offboarding = scope.spawn(|| {
                let output = host.hostbadge(&["agent", "offboard", "a"]);
                output.status.success()
            });
            std::thread::park_timeout(std::time::Duration::from_millis(10 + 12 * round));
            host.signal(Signal::SIGKILL);
            offboarding.join().unwrap()
        });
        host.wait_for_exit();
        host.start();
        let stated = claims(&offboard(&host, "a").0);
        assert!(request || !stated["destroyed"].is_null(), "{stated}");
        assert_eq!(released(&host, "b", "github"), "of b", "round {round}");
        let listed = host.admin().get("/v1/credentials").json().to_string();
        assert!(!listed.contains("\"agent\":\"a\""), "{listed}");
        let lifted = host.admin().post("/v1/revocations/lift", &json!({ "agent": "a" }));
        assert_eq!(lifted.status, 200, "{}", lifted.text());
        assert!(released(&host, "a", "github").starts_with("invalid_target"), "round {round}");
    }
    host.stop();
}
