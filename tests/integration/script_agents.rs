//! Script agents: files of the host, the files of a unit, and the claims that say which of them held.
//!
//! systemd does not run here, so a unit is a cgroup and the files from which systemd would start it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::common::callers::{Credentials, NOBODY, Unit};
use crate::common::http::claims;
use crate::common::{Host, require_root};
use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

/// A directory that only root can change; not below `/tmp`, into which everyone writes.
fn directory() -> tempfile::TempDir {
    require_root();
    let dir = tempfile::tempdir_in("/var/lib").unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

fn sha256(text: &str) -> String {
    HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref())
}

fn files(files: &[(&Path, &str)]) -> String {
    let entries: Vec<String> =
        files.iter().map(|(path, text)| format!("\"{}\" = \"{}\"", path.display(), sha256(text))).collect();
    format!("files = {{ {} }}", entries.join(", "))
}

fn token(host: &Host, who: &Credentials) -> Value {
    let answer = who.token(host);
    assert_eq!(answer.status, 200, "{}", answer.text());
    claims(answer.json()["access_token"].as_str().unwrap())
}

#[track_caller]
fn assert_refused(host: &Host, who: &Credentials, reason: &str) {
    let answer = who.token(host);
    assert_eq!((answer.status, answer.error().as_str()), (401, "invalid_client"), "{}", answer.text());
    assert!(answer.text().contains(reason), "{reason}\nnot in\n{}", answer.text());
}

#[test]
fn an_agent_is_one_only_while_each_of_its_files_is_the_named_one() {
    let dir = directory();
    let (main, library) = (dir.path().join("main.py"), dir.path().join("lib/tools.py"));
    fs::create_dir(dir.path().join("lib")).unwrap();
    fs::write(&main, "import tools").unwrap();
    fs::write(&library, "x = 1").unwrap();
    let mut host = Host::new();
    let named = files(&[(&main, "import tools"), (&library, "x = 1")]);
    host.agent("script", &format!("user = {NOBODY}\n{named}"));
    host.agent("other", "user = 4711");
    host.start();
    let who = Credentials::user(NOBODY);
    let first = token(&host, &who);
    assert_eq!(first["client_id"], "script");
    assert_eq!(first["attest_methods"], json!(["files-sha256"]));
    assert_eq!(first["binary_id"]["files_sha256"].as_str().unwrap().len(), 64);
    assert!(token(&host, &Credentials::user(4711)).get("attest_methods").is_none());

    // The size and the time of the last change may be the same.
    let modified = fs::metadata(&library).unwrap().modified().unwrap();
    fs::write(&library, "x = 2").unwrap();
    fs::File::options().write(true).open(&library).unwrap().set_modified(modified).unwrap();
    assert_refused(&host, &who, &format!("but {} has changed", library.display()));
    fs::write(&library, "x = 1").unwrap();
    assert_eq!(token(&host, &who)["binary_id"], first["binary_id"]);

    let replace = |path: &Path, text: &str| {
        let new = dir.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, path).unwrap();
    };
    replace(&main, "import os");
    assert_refused(&host, &who, &format!("but {} has changed", main.display()));
    fs::remove_file(&main).unwrap();
    assert_refused(&host, &who, &format!("but {} does not exist", main.display()));
    std::os::unix::fs::symlink(&library, &main).unwrap();
    assert_refused(&host, &who, "leads through the symbolic link");
    fs::remove_file(&main).unwrap();
    replace(&main, "import tools");
    token(&host, &who);
}

#[test]
fn files_that_others_can_change_make_no_agent() {
    let dir = directory();
    let below = dir.path().join("app");
    let main = below.join("main.py");
    fs::create_dir(&below).unwrap();
    fs::write(&main, "1").unwrap();
    let in_tmp = tempfile::NamedTempFile::new().unwrap();
    fs::set_permissions(in_tmp.path(), Permissions::from_mode(0o644)).unwrap();
    let mut host = Host::new();
    host.agent("script", &format!("user = {NOBODY}\n{}", files(&[(&main, "1")])));
    host.agent("temporary", &format!("user = 4711\n{}", files(&[(in_tmp.path(), "")])));
    host.start();
    let who = Credentials::user(NOBODY);
    token(&host, &who);
    assert_refused(&host, &Credentials::user(4711), "/tmp is writable by all users");
    for path in [&main, &below] {
        chown(path, Some(NOBODY), None).unwrap();
        assert_refused(&host, &who, &format!("{} is owned by uid {NOBODY}", path.display()));
        chown(path, Some(0), None).unwrap();
        let before = fs::metadata(path).unwrap().permissions();
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
        assert_refused(&host, &who, &format!("{} is writable by all users", path.display()));
        fs::set_permissions(path, before).unwrap();
    }
    token(&host, &who);
    fs::File::create(&main).unwrap().set_len(64 * 1024 * 1024 + 1).unwrap();
    assert_refused(&host, &who, "is larger than 64 MiB");
}

/// The file of a unit where systemd looks for it.
struct UnitFile(Vec<PathBuf>);

impl UnitFile {
    fn write(&mut self, name: &str, text: &str) {
        let path = Path::new("/run/systemd/system").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        self.0.push(path);
    }
}

impl Drop for UnitFile {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
            let _ = fs::remove_dir(path.parent().unwrap());
        }
    }
}

#[test]
fn a_change_of_the_units_files_ends_the_agent() {
    let unit = Unit::new("script");
    let mut unit_file = UnitFile(Vec::new());
    unit_file.write(&unit.name, "[Service]\nExecStart=/usr/bin/python3 /opt/agent/main.py\n");
    let mut host = Host::new();
    let with_digest = |digest: &str| format!("unit = \"{}\"\nunit_sha256 = \"{digest}\"", unit.name);
    host.agent("script", &with_digest(&"00".repeat(32)));
    host.start();
    let who = Credentials::user(NOBODY).in_unit(&unit);
    assert_refused(&host, &who, &format!("the files of unit {} have changed: their digest is ", unit.name));
    // The administrator copies the digest from there.
    let text = who.token(&host).text().to_owned();
    let found = text.split("their digest is ").nth(1).unwrap()[..64].to_owned();
    host.agent("script", &with_digest(&found));
    host.reload();
    let first = token(&host, &who);
    assert_eq!(first["attest_methods"], json!(["unit-sha256"]));
    assert_eq!(first["binary_id"]["unit_sha256"], json!(found));
    unit_file.write(&format!("{}.d/override.conf", unit.name), "[Service]\nEnvironment=PYTHONPATH=/tmp\n");
    crate::common::until_true("the drop-in is noticed", || who.token(&host).status == 401);
    assert_refused(&host, &who, "have changed");
    fs::remove_file(unit_file.0.pop().unwrap()).unwrap();
    crate::common::until_true("the drop-in is gone", || who.token(&host).status == 200);
    fs::remove_file(unit_file.0.pop().unwrap()).unwrap();
    crate::common::until_true("the unit is gone", || who.token(&host).status == 401);
    assert_refused(&host, &who, "has no file in the directories of system units");
}

#[test]
fn an_administrator_sees_which_file_differs() {
    let dir = directory();
    let main = dir.path().join("main.py");
    fs::write(&main, "1").unwrap();
    let mut host = Host::new();
    host.agent("script", &format!("user = {NOBODY}\n{}", files(&[(&main, "2")])));
    host.start();
    let mut sleep = std::process::Command::new("sleep");
    sleep.arg("600");
    Credentials::user(NOBODY).apply_to(&mut sleep);
    let mut sleep = sleep.spawn().unwrap();
    let why = host.admin().get(&format!("/v1/processes/{}", sleep.id())).json();
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    let conditions = why["compared"][0]["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|one| one["condition"] == "files").unwrap();
    assert_eq!(condition["outcome"], "fails", "{why}");
    assert_eq!(condition["expected"], format!("{} {}", main.display(), sha256("2")));
    assert_eq!(condition["seen"], format!("{} has changed: its digest is {}", main.display(), sha256("1")));
    let listed = host.admin().get("/v1/agents").json();
    assert_eq!(listed[0]["match"]["files"][main.to_str().unwrap()], json!(sha256("2")));
}

#[test]
fn checks_warn_of_what_the_agents_user_could_change() {
    let dir = directory();
    let main = dir.path().join("main.py");
    let packages = dir.path().join("venv/lib/python3.13/site-packages");
    fs::write(&main, "1").unwrap();
    fs::create_dir_all(&packages).unwrap();
    fs::write(dir.path().join("venv/pyvenv.cfg"), "").unwrap();
    chown(&packages, Some(NOBODY), None).unwrap();
    let host = Host::started();
    host.agent("script", &format!("user = {NOBODY}\n{}", files(&[(&main, "1")])));
    let check = || {
        let output = host.hostbadge(&["agent", "check", host.path("etc/agents.d").to_str().unwrap()]);
        String::from_utf8(output.stderr).unwrap()
    };
    let said = check();
    let expected = format!("the libraries in {} can be changed by others", dir.path().join("venv").display());
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("add the unit that starts this one"), "{said}");
    chown(&packages, Some(0), None).unwrap();
    assert!(!check().contains(&expected));
    chown(&main, Some(NOBODY), None).unwrap();
    let said = check();
    assert!(said.contains(&format!("files: {} can be changed by others", main.display())), "{said}");
}

#[test]
fn files_and_digests_that_cannot_be_meant_are_faults() {
    let host = Host::started();
    let many: Vec<String> = (0..33).map(|n| format!("\"/a{n}\" = \"{}\"", "00".repeat(32))).collect();
    for (conditions, expected) in [
        ("user = 1\nfiles = { \"main.py\" = \"00\" }".to_owned(), "a file is an absolute path without .."),
        (
            "user = 1\nfiles = { \"/a/../b\" = \"00\" }".to_owned(),
            "a SHA-256 digest is 64 hexadecimal digits",
        ),
        ("user = 1\nfiles = { \"/a\" = 3 }".to_owned(), "files must be a table of texts"),
        ("user = 1\nfiles = [\"/a\"]".to_owned(), "files must be a table of texts"),
        (format!("user = 1\nfiles = {{ {} }}", many.join(", ")), "more than 32 files"),
        (format!("user = 1\nunit_sha256 = \"{}\"", "00".repeat(32)), "add unit"),
        (format!("files = {{ \"/a\" = \"{}\" }}", "00".repeat(32)), "no user, group or unit"),
    ] {
        host.agent("one", &conditions);
        let answer = host.admin().post("/v1/agents/reload", &json!({}));
        assert_eq!(answer.status, 422, "{conditions}");
        assert!(answer.text().contains(expected), "{expected}\nnot in\n{}", answer.text());
    }
}
