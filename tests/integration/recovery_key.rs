//! A recovery key replaces the previous one only after it was delivered.

use std::fs::{self, File};
use std::process::{Command, Output, Stdio};

use crate::common::{API, Host, program, template, until_true};
use serde_json::{Value, json};

fn hostbadge(host: &Host, words: &[&str]) -> Command {
    let mut command = Command::new(program("hostbadge"));
    command.args(words).env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket());
    command
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn create(host: &Host) -> String {
    let output = hostbadge(host, &["key", "recovery"]).output().unwrap();
    assert!(output.status.success(), "{}", message(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn seal_file(host: &Host) -> Option<Vec<u8>> {
    fs::read(host.path("state/seal.json")).ok()
}

fn created_events(host: &Host) -> usize {
    host.audit().iter().filter(|line| line["event"] == "recovery-key-created").count()
}

/// Lets the host find another TPM, which is what the recovery key is for.
fn replace_tpm(host: &mut Host) {
    assert!(host.stop().success());
    fs::remove_dir_all(host.path("tpm")).unwrap();
    template::copy(&Host::other().path("tpm"), &host.path("tpm"));
    host.start();
}

#[test]
fn a_key_that_was_not_delivered_does_not_replace_the_previous_one() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.start();
    let delivered = create(&host);
    until_true("the keys are encrypted again", || {
        let seal: Value = serde_json::from_slice(&seal_file(&host).unwrap()).unwrap();
        seal["previous"].is_null()
    });
    let in_force = seal_file(&host);

    let full = || File::options().write(true).open("/dev/full").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let outputs: [(&str, Stdio, i32); 4] = [
        ("a full disk", full().into(), 1),
        ("a pipe without a reader", writer.into(), 128 + libc::SIGPIPE),
        ("/dev/null", Stdio::null(), 1),
        ("JSON to a full disk", full().into(), 1),
    ];
    for (what, stdout, status) in outputs {
        let words: &[&str] = match what.contains("JSON") {
            true => &["key", "recovery", "--json"],
            false => &["key", "recovery"],
        };
        // In a shell, as the status of a signal.
        let command = hostbadge(&host, words);
        let mut shell = Command::new("sh");
        shell.env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket()).args(["-c", "\"$@\"; exit $?", "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        let output = shell.stdout(stdout).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{what}: {}", message(&output));
        assert!(!message(&output).contains("panicked"), "{what}: {}", message(&output));
        if what != "/dev/null" {
            assert!(
                message(&output).contains("the new recovery key is not in force"),
                "{}",
                message(&output)
            );
        }
        assert_eq!(seal_file(&host), in_force, "{what}");
    }
    let file = host.path("no directory/key.txt");
    let output = hostbadge(&host, &["key", "recovery", "-o", file.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(seal_file(&host), in_force);
    assert_eq!(created_events(&host), 1);

    replace_tpm(&mut host);
    let file = host.path("typed");
    fs::write(&file, &delivered).unwrap();
    let recovered = hostbadge(&host, &["key", "recover"]).stdin(File::open(file).unwrap()).output().unwrap();
    assert!(recovered.status.success(), "{}", message(&recovered));
    until_true("it issues", || host.post("/v1/token", json!({ "audience": API })).status == 200);
}

#[test]
fn a_key_is_in_force_only_after_its_confirmation() {
    let mut host = Host::started();
    let confirm = |host: &Host, key: &Value| {
        host.admin().post("/v1/keys/recovery/confirm", &json!({ "recovery_key": key }))
    };
    let make = |host: &Host| {
        let answer = host.admin().post("/v1/keys/recovery", &json!({}));
        assert_eq!((answer.status, &answer.json()["in_force"]), (200, &json!(false)), "{}", answer.text());
        answer.json()["recovery_key"].clone()
    };
    let before = seal_file(&host);
    let (first, second) = (make(&host), make(&host));
    assert_eq!((seal_file(&host), &host.status()["seal"]["recovery"]), (before.clone(), &Value::Null));
    let refused = confirm(&host, &first);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("the one in force stays valid"), "{}", refused.text());
    assert_eq!(confirm(&host, &json!("hbr1-x")).status, 400);
    assert_eq!(created_events(&host), 0);

    // A crash between the two steps discards the key.
    host.crash();
    host.start();
    assert_eq!(confirm(&host, &second).status, 409);
    assert_eq!(seal_file(&host), before);

    let third = make(&host);
    assert_eq!(confirm(&host, &third).status, 200);
    assert!(host.status()["seal"]["recovery"].is_string());
    let in_force = seal_file(&host);
    assert_ne!(in_force, before);
    // The reply may have been lost.
    assert_eq!(confirm(&host, &third).status, 200);
    assert_eq!(created_events(&host), 1);
}

#[test]
fn a_key_goes_to_a_file_that_only_its_owner_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::started();
    let file = host.path("key.txt");
    let output = hostbadge(&host, &["key", "recovery", "-o", file.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{}", message(&output));
    assert!(fs::read_to_string(&file).unwrap().starts_with("hbr1-"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(host.status()["seal"]["recovery"].is_string());
}

/// On a terminal, a person has to type the first group. `script` makes the terminal.
#[test]
fn a_person_types_the_first_group() {
    let host = Host::started();
    for (typed, status) in [("wrong\\nwrong\\nwrong\\n", 1), ("", 0)] {
        // The first group is read from the terminal's own output.
        let answer = match typed {
            "" => {
                "until grep -q hbr1- \"$OUT\"; do sleep 0.1; done; grep -o 'hbr1-[a-z2-7]*' \"$OUT\" | cut -d- -f2"
            }
            typed => &format!("printf '{typed}'"),
        };
        let shell = format!(
            "{{ {answer}; }} | script -qefc \"$HB key recovery\" \"$OUT\" >/dev/null; exit ${{PIPESTATUS[1]}}"
        );
        let out = host.path(&format!("typescript-{status}"));
        let run = Command::new("bash")
            .args(["-c", &shell])
            .env("HB", program("hostbadge"))
            .env("OUT", &out)
            .env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket())
            .output()
            .unwrap();
        let shown = fs::read_to_string(&out).unwrap();
        assert_eq!(run.status.code(), Some(status), "{shown}");
        assert_eq!(shown.contains("is not in force"), status == 1, "{shown}");
        assert_eq!(host.status()["seal"]["recovery"].is_string(), status == 0, "{shown}");
    }
}
