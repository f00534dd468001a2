//! `hostbadge certificate --watch` and `hostbadge token --watch`: what they write, renew, refuse and remove.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};

use crate::common::callers::{Credentials, NOBODY};
use crate::common::http::part;
use crate::common::processes::Running;
use crate::common::{API, Host, copy_program, program, until, until_true};
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

fn command(host: &Host, words: &[&str], path: &Path) -> Command {
    let mut command = Command::new(program("hostbadge"));
    command.env("HOSTBADGE_SOCKET", host.agent_socket()).args(words).arg(path);
    command
}

fn start(host: &Host, words: &[&str], path: &Path) -> Running {
    let mut command = command(host, words, path);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Running::start(command)
}

fn terminate(mut watch: Running) -> ExitStatus {
    kill(watch.pid(), Signal::SIGTERM).unwrap();
    until("the command exits", || watch.exited())
}

fn message(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// A directory with files of another program.
fn foreign_files() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["cert.pem", "key.pem", "bundle.pem"] {
        fs::write(dir.path().join(name), format!("mine, {name}")).unwrap();
    }
    dir
}

#[track_caller]
fn assert_foreign_files_stay(dir: &Path) {
    for name in ["cert.pem", "key.pem", "bundle.pem"] {
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), format!("mine, {name}"));
    }
    assert_eq!(entries(dir), 3);
}

#[test]
fn certificates_are_renewed_across_a_restart_and_removed_at_the_end() {
    let mut host = Host::started();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("svid");
    let watch = start(&host, &["certificate", "--ttl", "4s", "--watch"], &out);
    let read = |name: &str| fs::read_to_string(out.join(name)).ok();
    let first = until("the first certificate is written", || read("cert.pem"));
    assert!(read("key.pem").unwrap().contains("PRIVATE KEY") && read("bundle.pem").is_some());
    assert_eq!(fs::metadata(out.join("key.pem")).unwrap().permissions().mode() & 0o7777, 0o600);
    let second = until("the certificate is renewed", || read("cert.pem").filter(|text| *text != first));
    host.stop();
    host.start();
    until_true("the certificate is renewed after the restart", || {
        read("cert.pem").is_some_and(|text| text != second && text != first)
    });
    assert_eq!(terminate(watch).code(), Some(0));
    assert!(!out.exists(), "the command made the directory, and removed it with the files");

    // A denial that no retry can change ends the command.
    host.agent("another", "user = 4711");
    fs::remove_file(host.path("etc/agents.d/root.toml")).unwrap();
    host.reload();
    let refused = command(&host, &["certificate", "--watch"], &out).output().unwrap();
    assert!(message(&refused).contains("The caller is hostbadge itself"), "{}", message(&refused));
    assert!(!out.exists());
}

/// A program that opens the directory once finds files of one generation, at any time.
#[test]
fn key_and_certificate_always_belong_together() {
    let host = Host::started();
    let dir = tempfile::tempdir().unwrap();
    let watch = start(&host, &["certificate", "--ttl", "2s", "--watch"], dir.path());
    until_true("the first certificate is written", || dir.path().join("cert.pem").exists());
    let mut seen = Vec::new();
    until_true("it is renewed five times", || {
        // What `open("..data")` and `openat` do. After two renewals the files are gone.
        let generation = fs::canonicalize(dir.path().join("..data")).unwrap();
        let read = |name: &str| fs::read_to_string(generation.join(name)).ok();
        let (Some(certificate), Some(key), Some(all)) =
            (read("cert.pem"), read("key.pem"), read("combined.pem"))
        else {
            return false;
        };
        assert_eq!(all, format!("{certificate}{key}"));
        let combined = fs::read_to_string(dir.path().join("combined.pem")).unwrap();
        let (leaf, key) = combined.split_at(combined.find("-----BEGIN PRIVATE").unwrap());
        assert_eq!(public_key("x509", leaf), public_key("pkey", key));
        if seen.last() != Some(&certificate) {
            seen.push(certificate);
        }
        seen.len() > 5
    });
    assert_eq!(terminate(watch).code(), Some(0));
    assert_eq!(entries(dir.path()), 0);
}

/// The public key of a certificate or of a private key, by openssl.
fn public_key(what: &str, pem: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), pem).unwrap();
    let options: &[&str] = if what == "x509" { &["-noout", "-pubkey"] } else { &["-pubout"] };
    let output =
        Command::new("openssl").arg(what).args(options).arg("-in").arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn files_of_another_program_stay() {
    let host = Host::started();
    let dir = foreign_files();
    for words in [&["certificate", "--watch"][..], &["certificate", "--ttl", "10parsec", "--watch"]] {
        let said = message(&command(&host, words, dir.path()).output().unwrap());
        assert!(said.contains("is not of hostbadge certificate --watch, and stays"), "{said}");
        assert_foreign_files_stay(dir.path());
    }
    let file = dir.path().join("cert.pem");
    let said = message(&command(&host, &["token", API, "--watch"], &file).output().unwrap());
    assert!(said.contains("is not of hostbadge token --watch, and stays"), "{said}");
    assert_foreign_files_stay(dir.path());

    // Refused by the daemon, and without a daemon: nothing that was there before goes.
    let own = tempfile::tempdir().unwrap();
    fs::write(own.path().join("key.txt"), "mine").unwrap();
    let owned_by = |uid: u32| nix::unistd::chown(own.path(), Some(uid.into()), None).unwrap();
    owned_by(NOBODY);
    // Other users may not be able to read the build directory.
    copy_program(program("hostbadge"), &host.path("hostbadge"), "");
    let mut refused = Command::new(host.path("hostbadge"));
    refused.env("HOSTBADGE_SOCKET", host.agent_socket()).args(["certificate", "--watch"]).arg(own.path());
    Credentials::user(NOBODY).apply_to(&mut refused);
    assert!(message(&refused.output().unwrap()).contains("invalid_client"));
    owned_by(0);
    let (absent, errors) = (host.path("none"), host.path("errors"));
    let mut watch = command(&host, &["certificate", "--watch"], own.path());
    watch.arg("--socket").arg(absent).stdout(Stdio::null()).stderr(File::create(&errors).unwrap());
    let watch = Running::start(watch);
    until_true("the daemon is found missing", || {
        fs::read_to_string(&errors).unwrap().contains("there is no socket here")
    });
    assert_eq!(terminate(watch).code(), Some(0));
    assert_eq!(entries(own.path()), 1);

    let typo = own.path().join("typo/svid");
    let said = message(&command(&host, &["certificate", "--watch"], &typo).output().unwrap());
    assert!(said.contains("the directory above it does not exist"), "{said}");
    message(&command(&host, &["token", API, "--watch"], &typo).output().unwrap());
    assert!(!own.path().join("typo").exists());
}

#[test]
fn a_key_beside_a_signing_request_stays() {
    let host = Host::started();
    let dir = tempfile::tempdir().unwrap();
    let (key, request) = (dir.path().join("key.pem"), dir.path().join("request.pem"));
    let made = Command::new("openssl")
        .args(["req", "-new", "-nodes", "-subj", "/CN=x", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:P-256", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&request)
        .output()
        .unwrap();
    assert!(made.status.success());
    let before = fs::read(&key).unwrap();
    let words = ["certificate", "--csr", request.to_str().unwrap(), "--watch"];
    let watch = start(&host, &words, dir.path());
    until_true("the certificate is written", || dir.path().join("cert.pem").exists());
    let certificate = fs::read_to_string(dir.path().join("cert.pem")).unwrap();
    let key_text = String::from_utf8(before.clone()).unwrap();
    assert_eq!(public_key("x509", &certificate), public_key("pkey", &key_text));
    terminate(watch);
    assert_eq!(fs::read(&key).unwrap(), before);
    assert_eq!(entries(dir.path()), 2);
}

#[test]
fn one_process_renews_a_directory_or_a_file() {
    let host = Host::started();
    let dir = tempfile::tempdir().unwrap();
    let (out, file) = (dir.path().join("svid"), dir.path().join("token"));
    let certificates = start(&host, &["certificate", "--watch"], &out);
    let tokens = start(&host, &["token", API, "--watch"], &file);
    until_true("both are written", || out.join("cert.pem").exists() && file.exists());
    let said = message(&command(&host, &["certificate", "--watch"], &out).output().unwrap());
    assert!(said.contains("another process renews the files here"), "{said}");
    let said = message(&command(&host, &["token", API, "--watch"], &file).output().unwrap());
    assert!(said.contains("another process renews this file"), "{said}");
    assert!(out.join("cert.pem").exists() && file.exists());
    // Killed, they leave their files to the next.
    for watch in [&certificates, &tokens] {
        kill(watch.pid(), Signal::SIGKILL).unwrap();
    }
    drop((certificates, tokens));
    let (old_certificate, old_token) =
        (fs::read(out.join("cert.pem")).unwrap(), fs::read_to_string(&file).unwrap());
    let certificates = start(&host, &["certificate", "--watch"], &out);
    let tokens = start(&host, &["token", API, "--watch"], &file);
    until_true("both are replaced", || {
        fs::read(out.join("cert.pem")).is_ok_and(|text| text != old_certificate)
            && fs::read_to_string(&file).is_ok_and(|text| text != old_token)
    });
    terminate(certificates);
    terminate(tokens);
    assert_eq!((entries(&out), entries(dir.path())), (0, 1));
}

#[test]
fn tokens_are_renewed_in_their_file_and_removed_at_the_end() {
    let host = Host::started();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let once = command(&host, &["token", API, "--file"], &file).output().unwrap();
    assert!(once.status.success() && once.stdout.is_empty());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    let read = || fs::read_to_string(&file).unwrap();
    let first = read();
    let watch = start(&host, &["token", API, "--ttl", "2s", "--watch"], &file);
    let second = until("the token is replaced", || Some(read()).filter(|token| *token != first));
    until_true("the token is renewed", || read() != second);
    assert_eq!(part(read().trim(), 1)["aud"], API);
    assert_eq!(terminate(watch).code(), Some(0));
    assert_eq!(entries(dir.path()), 0);
}
