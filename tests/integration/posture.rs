//! Host posture: PCRs of a software TPM against a baseline, IMA measurement lists, and EATs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::audit_log::with_event;
use crate::common::http::{Response, claims};
use crate::common::libraries::python_with;
use crate::common::shared_tpm::SharedTpm;
use crate::common::{self, API, Host, append, until, until_true};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use hostbadge::verify::eat::Eat;
use hostbadge::verify::evidence::{CheckOutcome, CheckResult};
use nix::sys::signal::{Signal, kill};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

const OTHER: &str = "https://other.example.com";
/// Posture is enforced, and evaluated every 200 ms.
const ENFORCE: &str = "[posture]\nmode = \"enforce\"\nmax_age = \"3s\"\nevery = \"200ms\"\n";

/// A stopped host with an installed daemon, and a TPM that the test can extend.
fn host(configuration: &str) -> (Host, SharedTpm) {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    let tpm = SharedTpm::start(&mut host, configuration);
    (host, tpm)
}

fn started(configuration: &str) -> (Host, SharedTpm) {
    let (mut host, tpm) = host(configuration);
    start(&mut host);
    (host, tpm)
}

/// Starts the daemon and waits until its issuer is ready.
fn start(host: &mut Host) {
    host.launch();
    until_true("the issuer is ready", || host.get("/.well-known/jwks.json").status == 200);
}

fn ask(host: &Host, audience: &str) -> Response {
    host.post("/v1/token", json!({ "audience": audience }))
}

fn posture(host: &Host) -> String {
    host.health()["posture"].as_str().unwrap().to_owned()
}

fn show(host: &Host) -> Value {
    host.admin().get("/v1/posture").json()
}

#[track_caller]
fn accept(host: &Host) -> Value {
    // Fails when the PCRs change between showing and accepting.
    until("the baseline is accepted", || {
        let digest = show(host)["reading"]["digest"].clone();
        let answer = host.admin().post("/v1/posture/accept", &json!({ "digest": digest }));
        assert!(answer.status == 200 || answer.status == 409, "{}", answer.text());
        (answer.status == 200).then(|| answer.json())
    })
}

#[track_caller]
fn refused_for(host: &Host, posture: &str) -> String {
    let answer = ask(host, API);
    assert_eq!((answer.status, answer.error().as_str()), (403, "access_denied"), "{}", answer.text());
    let said = answer.json()["error_description"].as_str().unwrap().to_owned();
    assert!(said.contains(&format!("the host's posture is {posture}")), "{said}");
    said
}

#[test]
fn tokens_are_issued_only_in_the_accepted_state_where_posture_is_enforced() {
    let (mut host, tpm) = started(ENFORCE);
    let said = refused_for(&host, "unaccepted");
    assert!(said.contains("hostbadge posture accept"), "{said}");
    assert_eq!(host.health()["status"], "degraded");

    let accepted = accept(&host);
    assert_eq!(accepted["posture"], "accepted");
    assert!(accepted["baseline"]["accepted"]["by"].as_str().unwrap().starts_with("uid 0, pid "));
    assert_eq!(claims(&host.token())["hostbadge"]["posture"], "accepted");
    assert_eq!(host.get("/v1/whoami").json()["host"]["posture"], "accepted");
    assert_eq!(host.health()["status"], "ok");

    // PCR 11 is not compared, PCR 4 is.
    tpm.extend(11, &[1; 32]);
    let read = show(&host)["reading"]["pcrs"]["11"].clone();
    until_true("the PCRs are read again", || show(&host)["reading"]["pcrs"]["11"] != json!("00".repeat(32)));
    assert_eq!(posture(&host), "accepted", "{read}");
    tpm.extend(4, &[4; 32]);
    until_true("the change is detected", || posture(&host) == "changed");
    let said = refused_for(&host, "changed");
    assert!(said.contains("PCR 4 changed") && said.contains("hostbadge posture diff"), "{said}");
    let diff = host.admin().get("/v1/posture/diff").json();
    assert_eq!(diff["changed"], json!([4]));
    assert!(diff["changes"][0].as_str().unwrap().starts_with("PCR 4 (boot loader"), "{diff}");
    assert!(host.status()["posture_reason"].as_str().unwrap().contains("PCR 4 changed"));

    // Both states survive a restart.
    assert!(host.stop().success());
    start(&mut host);
    refused_for(&host, "changed");
    accept(&host);
    host.token();
    assert!(host.stop().success());
    start(&mut host);
    until_true("the baseline is loaded", || posture(&host) == "accepted");
    host.token();

    let audit = host.audit();
    let told: Vec<&str> =
        with_event(&audit, "posture-changed").iter().map(|line| line["detail"].as_str().unwrap()).collect();
    let begin = |what: &str| {
        told.iter().filter(|line| line.starts_with(&format!("the host's posture is {what}"))).count()
    };
    assert_eq!((begin("unaccepted"), begin("changed")), (1, 2), "once each, and at each start: {told:#?}");
    let accepted = with_event(&audit, "posture-accepted");
    assert_eq!(accepted.len(), 2);
    assert!(accepted[1]["detail"].as_str().unwrap().contains("PCR 4 (boot loader"), "{:?}", accepted[1]);
}

#[test]
fn mode_warn_issues_and_a_grant_can_override_the_mode() {
    let (mut host, tpm) = host("[posture]\nmode = \"warn\"\nmax_age = \"3s\"\nevery = \"200ms\"\n");
    let grant =
        |audience: &str, mode: &str| format!("[[grant]]\naudience = \"{audience}\"\nposture = \"{mode}\"\n");
    host.agents_file(
        "root",
        &format!(
            "name = \"root\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\n{}{}",
            grant(OTHER, "enforce"),
            grant("https://free.example.com", "off")
        ),
    );
    start(&mut host);
    assert_eq!(claims(&host.token())["hostbadge"]["posture"], "unaccepted");
    assert_eq!(host.health()["status"], "ok");
    assert_eq!(ask(&host, OTHER).status, 403);
    accept(&host);
    assert_eq!(ask(&host, OTHER).status, 200);
    tpm.extend(7, &[7; 32]);
    until_true("the change is detected", || posture(&host) == "changed");
    for _ in 0..5 {
        assert_eq!(claims(&host.token())["hostbadge"]["posture"], "changed");
    }
    assert_eq!(ask(&host, OTHER).error(), "access_denied");
    let free = ask(&host, "https://free.example.com");
    assert_eq!(claims(free.json()["access_token"].as_str().unwrap())["hostbadge"]["posture"], "off");
    until_true("the change is in the audit log", || {
        host.audit().iter().any(|line| {
            line["event"] == "posture-changed"
                && line["detail"].as_str().unwrap().contains("PCR 7 (Secure Boot)")
        })
    });
    let audit = host.audit();
    assert_eq!(with_event(&audit, "token-issued").last().unwrap()["posture"], "off");
    // The reading between the acceptance and the change, which may not take place, finds the third.
    let mut changes: Vec<_> =
        with_event(&audit, "posture-changed").iter().map(|line| line["detail"].to_string()).collect();
    let recorded = changes.len();
    changes.sort();
    changes.dedup();
    assert!(recorded == changes.len() && recorded <= 3, "not for each token: {audit:#?}");
    drop(tpm);
}

/// Posture is not configured, but one grant requires it.
#[test]
fn posture_is_evaluated_only_where_it_is_used() {
    let (mut host, _tpm) = host("");
    start(&mut host);
    assert_eq!(posture(&host), "off");
    assert_eq!(claims(&host.token())["hostbadge"]["posture"], "off");
    // A request of an administrator reads the PCRs and changes nothing for callers.
    let report = show(&host);
    assert_eq!((&report["posture"], &report["mode"]), (&json!("off"), &json!("off")));
    assert!(
        report["baseline"]["accepted"].is_null() && report["reading"]["pcrs"]["7"].is_string(),
        "{report}"
    );
    assert_eq!(posture(&host), "off");
    assert!(with_event(&host.audit(), "posture-changed").is_empty());

    host.agents_file(
        "other",
        &format!(
            "name = \"other\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{OTHER}\"\nposture = \"enforce\"\n"
        ),
    );
    host.reload();
    let said = host.post("/v1/token", json!({ "audience": OTHER, "agent": "other" }));
    assert_eq!(said.error(), "access_denied");
    until_true("posture is evaluated", || posture(&host) == "unaccepted");
    accept(&host);
    until_true("the baseline is accepted", || {
        host.post("/v1/token", json!({ "audience": OTHER, "agent": "other" })).status == 200
    });
    assert!(host.stop().success());
}

#[test]
fn posture_becomes_stale_while_the_tpm_is_stalled() {
    let (host, tpm) = started(ENFORCE);
    accept(&host);
    host.token();
    kill(tpm.pid(), Signal::SIGSTOP).unwrap();
    until_true("posture is stale", || posture(&host) == "stale");
    let said = refused_for(&host, "stale");
    assert!(said.contains("the PCRs were last read"), "{said}");
    let looked_at = json!({ "digest": show(&host)["reading"]["digest"] });
    let answer = host.admin().post("/v1/posture/accept", &looked_at);
    assert_eq!((answer.status, answer.error().as_str()), (503, "temporarily_unavailable"));
    assert!(show(&host)["baseline"]["accepted"]["by"].is_string());
    kill(tpm.pid(), Signal::SIGCONT).unwrap();
    until_true("posture is current again", || posture(&host) == "accepted");
    host.token();
    let told = host.audit();
    let told = with_event(&told, "posture-changed");
    assert!(told.iter().any(|line| line["detail"].as_str().unwrap().contains("is stale")), "{told:?}");
}

#[test]
fn a_corrupt_foreign_or_older_baseline_is_refused_and_reported() {
    let (mut host, _tpm) = started(ENFORCE);
    let file = host.path("state/baseline.json");
    let unaccepted = fs::read_to_string(&file).unwrap();
    accept(&host);
    assert!(host.stop().success());
    let whole = fs::read_to_string(&file).unwrap();
    let id = serde_json::from_str::<Value>(&whole).unwrap()["host"].as_str().unwrap().to_owned();
    let stands_not = |host: &mut Host| {
        host.launch();
        until_true("the problem is reported", || {
            let blocked_reason = host.status()["issuer_blocked_reason"].to_string();
            blocked_reason.contains("baseline.json is not what this host wrote last")
        });
    };
    // None is the latest of this host: nothing is issued before an administrator accepts the file.
    for (text, named) in [
        (whole[..whole.len() / 2].to_owned(), "cannot be read as a baseline"),
        (
            whole.replace(&id, "aaaaaaaaaaaaaaaaaaaaaaaaaa"),
            "is the baseline of host aaaaaaaaaaaaaaaaaaaaaaaaaa",
        ),
        (whole.replace("\"version\": 1", "\"version\": 9"), "written in format 9"),
        (unaccepted, "has not been accepted"),
    ] {
        fs::write(&file, text).unwrap();
        stands_not(&mut host);
        let taken = host.admin().post("/v1/keys/accept", &json!({}));
        assert_eq!(taken.status, 200, "{}", taken.text());
        until_true("the issuer is ready", || host.get("/.well-known/jwks.json").status == 200);
        until_true(named, || refused_or_stale(&host).contains(named));
        assert_eq!(accept(&host)["posture"], "accepted");
        host.token();
        assert!(host.stop().success());
    }
    // The latest file again.
    let latest = fs::read_to_string(&file).unwrap();
    fs::write(&file, &whole).unwrap();
    stands_not(&mut host);
    fs::write(&file, latest).unwrap();
    until_true("the baseline is accepted again", || posture(&host) == "accepted");
    until_true("tokens are issued", || ask(&host, API).status == 200);
}

/// The error description of a token request that is denied because of the host's posture, or of one that comes before
/// the revocations of the accepted state are open.
fn refused_or_stale(host: &Host) -> String {
    let answer = ask(host, API);
    if answer.status != 503 {
        assert_eq!((answer.status, answer.error().as_str()), (403, "access_denied"), "{}", answer.text());
    }
    answer.json()["error_description"].as_str().unwrap().to_owned()
}

#[test]
fn the_posture_commands_show_accept_and_compare() {
    let (host, tpm) = started(ENFORCE);
    for body in ["", "{}", "[]", "[\"00\"]", "{\"digest\": \"00\", \"recovery\": true}", "1"] {
        let answer = host.admin().form("/v1/posture/accept", body);
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"), "{body}");
    }
    assert_eq!(posture(&host), "unaccepted");
    let hostbadge = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostbadge"));
        let output = command.args(words).env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = hostbadge(&["posture", "show"]);
    assert!(code == 0 && said.contains("not accepted yet"), "{said}");
    let (code, said) = hostbadge(&["posture", "accept"]);
    assert!(code == 0 && said.contains("by uid 0, pid"), "{said}");
    let (code, said) = hostbadge(&["posture", "diff"]);
    assert_eq!((code, said.trim()), (0, "Nothing changed from the baseline."));
    tpm.extend(0, &[9; 32]);
    until_true("the change is detected", || posture(&host) == "changed");
    let (code, said) = hostbadge(&["posture", "diff"]);
    assert!(code == 0 && said.starts_with("PCR 0 (firmware"), "{said}");
    // Another state than the one that was shown.
    let digest = |answer: &Value| answer["digest"].as_str().unwrap().to_owned();
    let looked_at = digest(&host.admin().get("/v1/posture/diff").json());
    assert!(said.ends_with(&format!("accept --digest {looked_at}\n")), "{said}");
    tpm.extend(0, &[10; 32]);
    assert_eq!(hostbadge(&["posture", "accept", "--digest", &looked_at]).0, 1);
    let answer = host.admin().post("/v1/posture/accept", &json!({ "digest": looked_at }));
    assert!(
        answer.status == 409 && answer.text().contains("not the one that was looked at"),
        "{}",
        answer.text()
    );
    assert_eq!(posture(&host), "changed");
    let now = digest(&host.admin().get("/v1/posture/diff").json());
    assert_ne!(now, looked_at);
    let (code, said) = hostbadge(&["posture", "accept", "--digest", &now]);
    assert!(code == 0 && said.contains("accepted"), "{said}");
    tpm.extend(0, &[9; 32]);
    until_true("the change is detected", || posture(&host) == "changed");
    let (_, said) = hostbadge(&["posture", "show"]);
    assert!(said.lines().any(|line| line.starts_with("0 ") && line.ends_with("changed")), "{said}");
    let (_, said) = hostbadge(&["posture", "show", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["changed"], json!([0]));
    kill(tpm.pid(), Signal::SIGSTOP).unwrap();
    let (code, _) = hostbadge(&["posture", "accept"]);
    assert_eq!(code, 4);
    kill(tpm.pid(), Signal::SIGCONT).unwrap();
}

// === IMA ===

/// An entry of the IMA list in binary form, and the digest that the kernel extends PCR 10 of the SHA-256 bank
/// with.
fn line(algorithm: &str, file_digest: &[u8], path: &str) -> (Vec<u8>, [u8; 32]) {
    let mut data = Vec::new();
    for field in [[algorithm.as_bytes(), b":\0", file_digest].concat(), [path.as_bytes(), b"\0"].concat()] {
        data.extend((field.len() as u32).to_ne_bytes());
        data.extend(field);
    }
    let mut entry = 10_u32.to_ne_bytes().to_vec();
    entry.extend(digest(&SHA1_FOR_LEGACY_USE_ONLY, &data).as_ref());
    for part in [b"ima-ng", &data[..]] {
        entry.extend((part.len() as u32).to_ne_bytes());
        entry.extend(part);
    }
    (entry, sha256(&data))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().unwrap()
}

/// Measures a file as the kernel does: appends to the list, then extends the PCR.
fn measure(host: &Host, tpm: &SharedTpm, algorithm: &str, file_digest: &[u8], path: &str) {
    let (text, extended) = line(algorithm, file_digest, path);
    let list = host.path("run/ima-list");
    if !list.exists() {
        fs::write(&list, "").unwrap();
    }
    append(&list, &text);
    tpm.extend(10, &extended);
}

/// Records a violation as the kernel does for a file that changes during its measurement.
fn violate(host: &Host, tpm: &SharedTpm, path: &str) {
    let (mut entry, _) = line("sha256", &[0; 32], path);
    entry[4..24].fill(0);
    append(&host.path("run/ima-list"), &entry);
    tpm.extend(10, &[0xff; 32]);
}

/// The digest of the test program, which is the caller.
fn own_digest() -> [u8; 32] {
    sha256(&fs::read(std::env::current_exe().unwrap()).unwrap())
}

#[test]
fn a_measured_agent_matches_only_while_its_program_is_in_the_proven_list() {
    let patient = "[limits]\nunknown_rate = 10000\nunknown_burst = 10000\n";
    let (mut host, tpm) = host(patient);
    fs::create_dir_all(host.path("run")).unwrap();
    let own = std::env::current_exe().unwrap();
    host.agent("root", &format!("user = 0\nexe = {own:?}\nmeasured = true"));
    start(&mut host);
    assert_eq!(posture(&host), "off", "posture is not used");
    let refused = |why: &str| {
        until_true(why, || {
            let answer = ask(&host, API);
            assert_eq!(
                (answer.status, answer.error().as_str()),
                (401, "invalid_client"),
                "{}",
                answer.text()
            );
            let said = answer.json()["error_description"].as_str().unwrap().to_owned();
            assert!(said.starts_with("this process would be agent \"root\", but "), "{said}");
            said.contains(why)
        });
    };
    refused("PCR 10 is empty");
    measure(&host, &tpm, "sha256", &sha256(&[0; 320]), "boot_aggregate");
    measure(&host, &tpm, "sha1", &[1; 20], "/usr/bin/old");
    refused("is none of the 2 that IMA measured, of 1 of which the kernel took no SHA-256");
    // An entry that is not in PCR 10 proves nothing.
    let (text, extended) = line("sha256", &own_digest(), "/opt/agent");
    let list = host.path("run/ima-list");
    append(&list, &text);
    tpm.extend(10, &[5; 32]);
    refused("does not replay to the quoted PCR 10");
    assert!(show(&host)["measured"]["error"].as_str().unwrap().contains("does not replay"));
    let record = host.audit();
    let refusals = with_event(&record, "request-refused");
    assert!(refusals.iter().any(|line| line["detail"].as_str().unwrap().contains("PCR 10 is empty")));

    // The TPM restarts, as at each boot.
    assert!(host.stop().success());
    drop(tpm);
    fs::remove_file(&list).unwrap();
    let tpm = SharedTpm::start(&mut host, patient);
    start(&mut host);
    measure(&host, &tpm, "sha256", &sha256(&[0; 320]), "boot_aggregate");
    refused_until_read(&host);
    // Any user can cause a violation for any file name; it does not affect other agents.
    violate(&host, &tpm, &format!("/tmp/{}", "\n10 0 ".repeat(20)));
    append(&list, &text);
    tpm.extend(10, &extended);
    until_true("the program is measured", || ask(&host, API).status == 200);
    assert_eq!(host.get("/v1/whoami").json()["agent"], "root");
    // A later measurement does not affect the agent.
    measure(&host, &tpm, "sha256", &[3; 32], "/usr/bin/later");
    until_true("the new entry is read", || show(&host)["measured"]["lines"].as_u64() == Some(4));
    assert_eq!(ask(&host, API).status, 200);
}

fn refused_until_read(host: &Host) {
    until_true("the first line is read", || show(host)["measured"]["lines"].as_u64() == Some(1));
    assert_eq!(ask(host, API).status, 401);
}

/// "a nonce of 18 bytes"
const NONCE: &str = "YSBub25jZSBvZiAxOCBieXRlcw";
const NONCE_BYTES: &[u8] = b"a nonce of 18 bytes";

fn judged(host: &Host, document: &Path, nonce: &str) -> (Option<i32>, Value) {
    let ak = host.status()["tpm"]["ak_name"].as_str().unwrap().to_owned();
    let output = Command::new(env!("CARGO_BIN_EXE_hostbadge"))
        .args(["verify", "evidence", "--json", "--nonce", nonce, "--ak", &ak])
        .arg(document)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|_| json!(String::from_utf8_lossy(&output.stderr))))
}

fn finding<'a>(report: &'a Value, what: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("{report}"));
    findings.iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("{what}: {report:#}"))
}

#[test]
fn evidence_has_the_measured_files_and_they_are_checked() {
    let (mut host, tpm) = host("");
    fs::create_dir_all(host.path("run")).unwrap();
    start(&mut host);
    let file = host.path("evidence.json");
    let verdict = |document: &Value| {
        fs::write(&file, document.to_string()).unwrap();
        judged(&host, &file, NONCE)
    };
    let attest = || host.post("/v1/attest", json!({ "nonce": NONCE })).json();
    let without = attest();
    assert!(without.get("ima_log").is_none());
    let (code, report) = verdict(&without);
    assert_eq!(code, Some(0), "{report:#}");
    assert!(finding(&report, "TPM clock")["detail"].as_str().unwrap().contains("reset count"));

    measure(&host, &tpm, "sha256", &sha256(&[0; 320]), "boot_aggregate");
    measure(&host, &tpm, "sha256", &[7; 32], "/usr/bin/agent");
    // The entry is in the list but not yet in the PCR.
    append(&host.path("run/ima-list"), &line("sha256", &[8; 32], "/usr/bin/later").0);
    let with = attest();
    assert_eq!(with["version"], 2);
    let (code, report) = verdict(&with);
    assert_eq!(code, Some(0), "{report:#}");
    let detail = finding(&report, "IMA list")["detail"].as_str().unwrap();
    assert_eq!(detail, "2 entries give PCR 10 as quoted; 1 later ones are not proven");
    assert_eq!(finding(&report, "IMA boot aggregate")["holds"], true);

    let mut lied = with.clone();
    lied["version"] = json!(1);
    assert_eq!(verdict(&lied).0, Some(1), "format 1 has no IMA list");
    let list = BASE64.decode(with["ima_log"].as_str().unwrap().as_bytes()).unwrap();
    let second = line("sha256", &[7; 32], "/usr/bin/agent").0;
    let at = list.windows(second.len()).position(|window| window == second).unwrap();
    let mut other = list.clone();
    other[at + second.len() - 2] ^= 1;
    for changed in [other, list[at..].to_vec()] {
        let mut document = with.clone();
        document["ima_log"] = json!(BASE64.encode(&changed));
        let (code, report) = verdict(&document);
        assert_eq!((code, &finding(&report, "IMA list")["holds"]), (Some(1), &json!(false)), "{report:#}");
    }
    // A list that is too long is left out, and evidence says so.
    let whole = fs::read(host.path("run/ima-list")).unwrap();
    fs::write(host.path("run/ima-list"), vec![0; (16 << 20) + 1]).unwrap();
    let (code, report) = verdict(&attest());
    let said = finding(&report, "IMA list");
    assert_eq!((code, &said["checked"]), (Some(0), &json!(false)), "{report:#}");
    assert!(said["detail"].as_str().unwrap().contains("longer than 16 MiB"), "{said}");
    fs::write(host.path("run/ima-list"), whole).unwrap();
    // The boot aggregate does not match the quoted PCRs.
    tpm.extend(4, &[4; 32]);
    let (code, report) = verdict(&attest());
    assert_eq!((code, &finding(&report, "IMA boot aggregate")["holds"]), (Some(1), &json!(false)));
    assert_eq!(finding(&report, "IMA list")["holds"], true);
}

// === EAT ===

#[test]
fn evidence_is_available_as_an_eat_signed_by_the_host_key() {
    let (host, _tpm) = started("");
    let hostbadge = Command::new(env!("CARGO_BIN_EXE_hostbadge"))
        .args(["attest", "--format", "eat", "--nonce", NONCE])
        .env("HOSTBADGE_SOCKET", host.agent_socket())
        .output()
        .unwrap();
    assert!(hostbadge.status.success(), "{hostbadge:?}");
    let text = String::from_utf8(hostbadge.stdout).unwrap();
    let token = text.trim();
    let eat = Eat::parse(token).unwrap();
    let findings: Vec<CheckResult> = eat.check(NONCE_BYTES);
    assert!(findings.iter().all(|finding| finding.is_acceptable()), "{findings:#?}");
    assert!(eat.evidence().check(NONCE_BYTES).iter().all(|finding| finding.is_acceptable()));
    assert!(eat.check(b"another nonce").iter().any(|finding| finding.outcome == CheckOutcome::Fail));
    let said = claims(token);
    let ueid = BASE64URL_NOPAD.decode(said["ueid"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!((ueid.len(), ueid[0]), (33, 1));
    let id = data_encoding::BASE32_NOPAD.encode(&ueid[1..17]).to_lowercase();
    assert_eq!(host.status()["host"]["id"], json!(id));
    assert_eq!(said["eat_nonce"], json!(NONCE));

    let file = host.path("evidence.eat");
    fs::write(&file, token).unwrap();
    let (code, report) = judged(&host, &file, NONCE);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(finding(&report, "EAT's signature")["holds"], true);
    assert_eq!(judged(&host, &file, "AAAAAAAAAAAA").0, Some(1));
    fs::write(&file, common::http::tampered(token)).unwrap();
    let (code, report) = judged(&host, &file, NONCE);
    assert_eq!((code, &finding(&report, "EAT's signature")["holds"]), (Some(1), &json!(false)));

    // Each claim is signed, and claims that repeat evidence are compared with it.
    let (header, rest) = token.split_once('.').unwrap();
    let signature = rest.split_once('.').unwrap().1;
    let with = |name: &str, value: Value| {
        let mut changed = said.clone();
        changed[name] = value;
        format!("{header}.{}.{signature}", BASE64URL_NOPAD.encode(changed.to_string().as_bytes()))
    };
    let broken = |text: &str| -> Vec<&'static str> {
        let eat = Eat::parse(text).unwrap();
        eat.check(NONCE_BYTES)
            .iter()
            .filter(|finding| finding.outcome == CheckOutcome::Fail)
            .map(|finding| finding.name)
            .collect()
    };
    assert_eq!(broken(&with("iat", json!(0))), ["EAT's signature"]);
    assert_eq!(broken(&with("eat_nonce", json!("AAAA"))), ["EAT's signature", "EAT's nonce"]);
    assert_eq!(broken(&with("ueid", json!("AQ"))), ["EAT's signature", "EAT's UEID"]);
    assert!(
        Eat::parse(&with("eat_profile", json!("urn:example"))).unwrap_err().to_string().contains("profile")
    );
    assert!(Eat::parse(&with("hostbadge_evidence", json!({ "version": 1 }))).is_err());
    assert!(Eat::parse(&host.token()).unwrap_err().to_string().contains("is not eat+jwt"));
    let bad = host.post("/v1/attest", json!({ "nonce": NONCE, "format": "cwt" }));
    assert_eq!((bad.status, bad.error().as_str()), (400, "invalid_request"));
}

#[test]
fn pyjwt_verifies_the_eat() {
    let (host, _tpm) = started("");
    let form = host.connect().form("/v1/attest", &format!("nonce={NONCE}&format=eat"));
    let token = form.json()["eat"].as_str().unwrap().to_owned();
    // The host key in evidence: a TPM2B_PUBLIC ends in x and y, each after its size.
    let key =
        BASE64.decode(claims(&token)["hostbadge_evidence"]["host_key"].as_str().unwrap().as_bytes()).unwrap();
    let (x, y) = (&key[key.len() - 66..key.len() - 34], &key[key.len() - 32..]);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": BASE64URL_NOPAD.encode(x), "y": BASE64URL_NOPAD.encode(y) });
    let python = python_with("pyjwt", &["pyjwt[crypto]==2.10.1"]);
    let program = "import json, jwt, sys\n\
        key = jwt.PyJWK(json.loads(sys.argv[1]), algorithm='ES256').key\n\
        assert jwt.get_unverified_header(sys.argv[2])['typ'] == 'eat+jwt'\n\
        print(jwt.decode(sys.argv[2], key, algorithms=['ES256'])['eat_nonce'])";
    let judge = |token: &str| {
        let output = Command::new(&python).args(["-c", program, &jwk.to_string(), token]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    assert_eq!(judge(&token), (true, NONCE.to_owned()));
    assert!(!judge(&common::http::tampered(&token)).0);
}
