//! `hostbadge hygiene`: finds what was left in files, environments, histories and units, and prints no value.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::callers::{Credentials, NOBODY};
use crate::common::{Host, program};

/// Values that no output may have.
const GITHUB: &str = "ghp_aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xYz12";
const PASSWORD: &str = "9f8Kq2LmZ0pX7w-hostbadge-test";

/// A directory, which other users can enter.
fn dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("hostbadge-hygiene-").tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn command(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program("hostbadge"));
    command.arg("hygiene").args(words).env("HOME", home).stdin(Stdio::null());
    command
}

/// The result of a search of `dir` alone.
#[track_caller]
fn search(dir: &Path, words: &[&str]) -> (Value, Output) {
    let base = [dir.to_str().unwrap(), "--no-environ", "--no-units", "--no-histories", "--json"];
    let output = command(dir, &[&base, words].concat()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains(GITHUB) && !text.contains(PASSWORD), "{text}");
    (serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")), output)
}

/// The findings, as `NAME:LINE KIND`.
fn findings(result: &Value) -> Vec<String> {
    let name = |one: &Value| {
        let name = Path::new(one["path"].as_str().unwrap()).file_name().unwrap().to_str().unwrap();
        let place =
            if one["line"].is_null() { format!("at {}", one["offset"]) } else { one["line"].to_string() };
        format!("{name}:{place} {}", one["kind"].as_str().unwrap())
    };
    result["findings"].as_array().unwrap().iter().map(name).collect()
}

#[test]
fn secrets_are_found_by_place_and_kind_and_their_value_is_not_printed() {
    let host = Host::started();
    let (dir, token) = (dir(), host.token());
    fs::write(dir.path().join("a.log"), format!("one\ntwo\nAuthorization: Bearer {token}\n")).unwrap();
    fs::write(dir.path().join("b.env"), format!("LEVEL=debug\nDB_PASSWORD={PASSWORD}\nGH={GITHUB}\n"))
        .unwrap();
    fs::write(dir.path().join("c.bin"), format!("\0\0{GITHUB}\0")).unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/d.txt"), GITHUB).unwrap();
    let key = Command::new("openssl").args(["genpkey", "-algorithm", "ed25519"]).output().unwrap().stdout;
    fs::write(dir.path().join("sub/key.pem"), [b"# a key\n", &key[..]].concat()).unwrap();
    fs::write(dir.path().join("harmless"), "password: changeme\nhttps://example.com/token\n").unwrap();

    let (result, output) = search(dir.path(), &[]);
    let found = findings(&result);
    let expected = [
        "a.log:3 hostbadge-token",
        "b.env:2 assignment",
        "b.env:3 github-token",
        "c.bin:at 2 github-token",
        "d.txt:1 github-token",
        "key.pem:2 private-key",
    ];
    assert_eq!(found, expected);
    assert_eq!((output.status.code(), &result["found"], &result["files"]), (Some(1), &6.into(), &6.into()));
    assert_eq!(result["findings"][0]["expired"], false);
    // The same token has the same digits, and what a person chose has none.
    let digest = |at: usize| result["findings"][at]["digest"].clone();
    assert_eq!((digest(2), digest(1)), (digest(3), Value::Null));
    assert_eq!(digest(2).as_str().unwrap().len(), 8);

    let words = [dir.path().to_str().unwrap(), "--no-environ", "--no-units", "--no-histories"];
    let output = command(dir.path(), &words).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(&format!("{}:3: hostbadge-token of https://", dir.path().join("a.log").display())),
        "{text}"
    );
    assert!(text.ends_with("6 findings in 6 files\n"), "{text}");
    assert!(!text.contains(&token) && !text.contains(GITHUB) && !text.contains(PASSWORD), "{text}");

    let empty = self::dir();
    let (result, output) = search(empty.path(), &[]);
    assert_eq!((output.status.code(), &result["found"]), (Some(0), &0.into()));
}

#[test]
fn links_special_files_and_large_files_are_left_out() {
    let (dir, outside) = (dir(), dir());
    fs::write(outside.path().join("secret"), GITHUB).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("link")).unwrap();
    symlink(outside.path(), dir.path().join("dirlink")).unwrap();
    symlink(dir.path(), dir.path().join("loop")).unwrap();
    nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let large = File::create(dir.path().join("large")).unwrap();
    large.set_len(2 * 1024 * 1024).unwrap();
    let mut deep = dir.path().to_owned();
    for level in 0..6 {
        deep.push(format!("level{level}"));
        fs::create_dir(&deep).unwrap();
    }
    fs::write(deep.join("deep"), GITHUB).unwrap();

    let (result, output) = search(dir.path(), &["--max-size", "1", "--max-depth", "4"]);
    assert_eq!((output.status.code(), findings(&result)), (Some(0), vec![]));
    let skipped: Vec<&str> =
        result["skipped"].as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap()).collect();
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    assert!(skipped.iter().any(|path| path.ends_with("/large")), "{skipped:?}");
    let (result, _) = search(dir.path(), &[]);
    assert_eq!(findings(&result), ["deep:1 github-token"]);
    let (result, _) = search(dir.path(), &["--max-files", "1"]);
    assert_eq!(result["ended_early"], true, "{result}");
    // A link that is named is followed, and so is a directory.
    let (result, _) = search(&dir.path().join("link"), &[]);
    assert_eq!(findings(&result), ["secret:1 github-token"]);
    // The kernel's directories are left out.
    let (result, _) = search(Path::new("/proc"), &[]);
    assert_eq!((&result["files"], &result["found"]), (&0.into(), &0.into()));
}

#[test]
fn what_cannot_be_read_is_named_and_counted() {
    let dir = dir();
    fs::write(dir.path().join("mine"), GITHUB).unwrap();
    fs::set_permissions(dir.path().join("mine"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(dir.path().join("closed")).unwrap();
    fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let words = [dir.path().to_str().unwrap(), "--no-units", "--json"];
    let mut command = command(dir.path(), &words);
    Credentials::user(NOBODY).apply_to(&mut command);
    let output = command.output().unwrap();
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &result["unreadable_count"]), (Some(0), &2.into()), "{result}");
    assert!(result["hidden_processes"].as_u64().unwrap() > 0, "{result}");
}

#[test]
fn a_path_that_does_not_exist_ends_no_search_of_the_others() {
    let dir = dir();
    let missing = "/no/such/path";
    let (result, output) = search(dir.path(), &[missing]);
    assert_eq!((output.status.code(), &result["unreadable_count"]), (Some(0), &1.into()), "{result}");
    assert_eq!(result["unreadable"][0]["path"], missing);
    fs::write(dir.path().join("after"), GITHUB).unwrap();
    let alone = ["--no-environ", "--no-units", "--no-histories"];
    let words = [&[missing, dir.path().to_str().unwrap()][..], &alone[..]].concat();
    let output = command(dir.path(), &words).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("after:1: github-token"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("unreadable: /no/such/path: "), "{}", text(&output.stderr));
    // Without any path that exists, nothing was looked for.
    let output = command(dir.path(), &[&[missing][..], &alone[..]].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
}

/// A process with a variable, which is ended on drop.
struct Sleeper(Child);

impl Sleeper {
    fn with(name: &str, value: &str) -> Sleeper {
        Sleeper(Command::new("sleep").arg("600").env(name, value).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn environments_of_processes_are_searched() {
    let home = dir();
    let first = Sleeper::with("HYGIENE_TEST_VALUE", GITHUB);
    let _second = Sleeper::with("HYGIENE_TEST_VALUE", GITHUB);
    let _named = Sleeper::with("HYGIENE_TEST_PASSWORD", PASSWORD);
    let _harmless = Sleeper::with("HYGIENE_TEST_PASSWORD_FILE", "/run/credentials/password");
    let output = command(home.path(), &["--no-units", "--no-histories", "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(GITHUB) && !text.contains(PASSWORD), "{text}");
    let result: Value = serde_json::from_str(&text).unwrap();
    let of_test: Vec<&Value> = result["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["variable"].as_str().is_some_and(|name| name.starts_with("HYGIENE_TEST")))
        .collect();
    assert_eq!(of_test.len(), 2, "{of_test:?}");
    assert_eq!(
        (&of_test[0]["kind"], &of_test[0]["more"]),
        (&"github-token".into(), &1.into()),
        "{of_test:?}"
    );
    assert_eq!((&of_test[0]["pid"], &of_test[0]["command"]), (&first.0.id().into(), &"sleep".into()));
    assert_eq!(
        (&of_test[1]["kind"], &of_test[1]["variable"]),
        (&"assignment".into(), &"HYGIENE_TEST_PASSWORD".into())
    );
    assert_eq!(output.status.code(), Some(1));
}

/// A unit file of this machine, removed on drop.
struct UnitFile(PathBuf);

impl Drop for UnitFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn histories_and_units_are_searched() {
    let home = dir();
    fs::write(home.path().join(".bash_history"), format!("ls\nexport GITHUB_TOKEN={GITHUB}\n")).unwrap();
    let environment = home.path().join("agent.env");
    fs::write(&environment, "# settings\nexport API_KEY=\"hunter2hunter2\"\n").unwrap();
    let units = Path::new("/etc/systemd/system");
    fs::create_dir_all(units).unwrap();
    let unit = UnitFile(units.join(format!("hostbadge-hygiene-{}.service", std::process::id())));
    let settings = format!(
        "[Service]\nExecStart=/bin/true\nEnvironment=A=1 \"DB_PASSWORD=hunter2 hunter2\"\nEnvironmentFile=-{}\n",
        environment.display()
    );
    fs::write(&unit.0, settings).unwrap();
    let output = command(home.path(), &["--no-environ", "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("hunter2") && !text.contains(GITHUB), "{text}");
    let result: Value = serde_json::from_str(&text).unwrap();
    let place = |path: &Path| {
        let all = result["findings"].as_array().unwrap();
        let one = all.iter().find(|one| one["path"] == path.to_str().unwrap());
        let one = one.unwrap_or_else(|| panic!("{}: {result}", path.display()));
        (one["line"].as_u64().unwrap(), one["kind"].as_str().unwrap().to_owned())
    };
    assert_eq!(place(&home.path().join(".bash_history")), (2, "github-token".into()));
    assert_eq!(place(&unit.0), (3, "assignment".into()));
    assert_eq!(place(&fs::canonicalize(&environment).unwrap()), (2, "assignment".into()));
}
