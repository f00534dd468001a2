//! Full and stalled disks: nothing is issued without an audit record, and responses, status and log say why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::grpc::{Empty, Grpc, MESSAGE_TIMEOUT, UNAVAILABLE};
use crate::common::http::Connection;
use crate::common::processes::Running;
use crate::common::{API, Host, append, audit_log, until_true};
use crate::enrollment::Operator;
use data_encoding::BASE64;
use hostbadge::enroll::{EnrollmentChallenge, EnrollmentRequest, OperatorReview};
use serde_json::{Value, json};

const TOKEN: &str = "/v1/token";

/// A file system mounted at a directory, unmounted on drop.
pub struct Disk(PathBuf);

impl Disk {
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A tmpfs of 64 KiB.
    fn small(at: &Path) -> Disk {
        mount(at, &["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"])
    }

    /// An ext4 file system in an image file, which can be frozen.
    fn ext4(at: &Path) -> Disk {
        let image = at.with_extension("image");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        succeed(Command::new("mkfs.ext4").arg("-q").arg(&image));
        mount(at, &["-o", "loop", image.to_str().unwrap()])
    }

    /// Blocks writes for `time`, as a snapshot or a lost path to a disk does. The process that thaws the file
    /// system outlives a failed test, since not even SIGKILL ends a process that waits for a frozen disk.
    fn freeze(&self, time: Duration) -> Running {
        let done = self.0.with_extension("frozen");
        let script = "fsfreeze -f \"$0\" && : > \"$1\" && sleep \"$2\"; fsfreeze -u \"$0\"";
        let mut command = Command::new("setsid");
        command
            .args(["--fork", "--wait", "sh", "-c", script])
            .arg(&self.0)
            .arg(&done)
            .arg(time.as_secs().to_string());
        command.stdin(Stdio::null());
        let running = Running::start(command);
        until_true("the disk is frozen", || done.exists());
        running
    }
}

pub fn mount(at: &Path, arguments: &[&str]) -> Disk {
    fs::create_dir_all(at).unwrap();
    succeed(Command::new("mount").args(arguments).arg(at));
    Disk(at.to_owned())
}

pub fn succeed(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).stderr(Stdio::null()).status();
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A host without rate limits.
fn unbounded() -> Host {
    let host = Host::new();
    host.configure("[limits]\nrate = 1000000\nburst = 1000000\n");
    host.agent("r", "user = 0");
    host
}

#[test]
fn a_full_audit_disk_denies_with_the_reason_until_there_is_space() {
    let mut host = unbounded();
    let disk = Disk::small(&host.path("audit"));
    host.start();
    fs::write(disk.0.join("ballast"), vec![0; 32 * 1024]).unwrap();
    let refused = (0..500).find_map(|_| {
        let answer = host.post(TOKEN, json!({ "audience": API }));
        (answer.status != 200).then_some(answer)
    });
    let refused = refused.expect("the disk fills up");
    assert_eq!((refused.status, refused.error().as_str()), (503, "temporarily_unavailable"));
    let said = refused.json()["error_description"].as_str().unwrap().to_owned();
    assert!(said.contains("audit log cannot be written") && said.contains("No space left"), "{said}");
    assert!(host.status()["audit"]["problem"].as_str().unwrap().contains("No space left"));
    fs::remove_file(disk.0.join("ballast")).unwrap();
    assert!(!host.token().is_empty());
    assert_eq!(host.health()["status"], "ok");
    // Reading checks the chain: there is no incomplete line.
    assert!(!host.audit().is_empty());
    host.stop();
}

#[test]
fn a_daemon_starts_on_a_full_audit_disk_that_a_crash_left_with_part_of_a_line() {
    let mut host = unbounded();
    let disk = Disk::small(&host.path("audit"));
    host.start();
    host.token();
    host.crash();
    let last = host.audit().len();
    let file = audit_log::files(&disk.0).pop().unwrap();
    append(&file, b"{\"v\":1,\"se");
    let before = fs::read(&file).unwrap();
    // Ends with a partial write and ENOSPC.
    assert!(fs::write(disk.0.join("ballast"), vec![0; 1 << 20]).is_err(), "the disk is full");
    host.launch();
    until_true("the problem is reported", || {
        host.status()["audit"]["problem"].as_str().is_some_and(|text| text.contains("No space left"))
    });
    assert_eq!(host.post(TOKEN, json!({ "audience": API })).status, 503);
    fs::remove_file(disk.0.join("ballast")).unwrap();
    until_true("tokens are issued", || host.post(TOKEN, json!({ "audience": API })).status == 200);
    assert_eq!(fs::read(&file).unwrap(), before, "what cannot be moved stays");
    let next = fs::read_to_string(audit_log::files(&disk.0).pop().unwrap()).unwrap();
    let next: Value = serde_json::from_str(next.lines().next().unwrap()).unwrap();
    assert_eq!((&next["seq"], &next["event"]), (&json!(last + 1), &json!("audit-torn")));
    assert!(next["detail"].as_str().unwrap().contains("jsonl stay there: No space left"), "{next}");
    host.stop();
}

#[test]
fn refusals_that_a_full_audit_disk_drops_are_counted_in_the_next_record() {
    let mut host = unbounded();
    let disk = Disk::small(&host.path("audit"));
    host.start();
    fs::write(disk.0.join("ballast"), vec![0; 32 * 1024]).unwrap();
    let refuse = || host.post(TOKEN, json!({ "audience": "https://not.granted" })).status;
    let mut dropped = 0;
    for _ in 0..500 {
        dropped += u64::from(refuse() == 503);
        if dropped == 5 {
            break;
        }
    }
    assert_eq!(dropped, 5, "the disk fills up");
    fs::remove_file(disk.0.join("ballast")).unwrap();
    assert_eq!([refuse(), refuse()], [400, 400]);
    let lines = host.audit();
    let refused: Vec<&Value> = lines.iter().filter(|line| line["event"] == "request-refused").collect();
    let suppressed = |line: &Value| line["suppressed"].as_u64().unwrap_or(0);
    assert_eq!(refused.iter().map(|line| suppressed(line)).sum::<u64>(), dropped);
    assert_eq!(suppressed(refused.last().unwrap()), 0, "counted once");
    host.stop();
}

#[test]
fn a_full_audit_disk_uses_up_no_enrollment_challenge() {
    let mut host = unbounded();
    let disk = Disk::small(&host.path("audit"));
    host.start();
    let request = host.admin().post("/v1/enroll/request", &json!({}));
    let request = EnrollmentRequest::parse(request.text().as_bytes()).unwrap().check().unwrap();
    let (challenge, _) =
        EnrollmentChallenge::generate(&request, OperatorReview::new(&request, None).unwrap()).unwrap();
    let challenge = serde_json::to_value(&challenge).unwrap();
    fs::write(disk.0.join("ballast"), vec![0; 32 * 1024]).unwrap();
    let full = (0..1000).any(|_| host.admin().post("/v1/agents/reload", &json!({})).status == 503);
    assert!(full, "the disk fills up");
    let answer = host.admin().post("/v1/enroll/activate", &challenge);
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (503, "temporarily_unavailable"),
        "{}",
        answer.text()
    );
    fs::remove_file(disk.0.join("ballast")).unwrap();
    let answer = host.admin().post("/v1/enroll/activate", &challenge);
    assert_eq!(answer.status, 200, "{}", answer.text());
    host.stop();
}

/// A root of trust that is in use without a record would be one that nobody notices.
#[test]
fn a_full_audit_disk_changes_no_host_certificate() {
    let mut host = unbounded();
    let disk = Disk::small(&host.path("audit"));
    host.start();
    let operator = Operator::with_answer(&host);
    let certified = operator.certify(&host, "ca");
    assert!(certified.status.success(), "{certified:?}");
    let issued = fs::read_to_string(operator.path("host.pem")).unwrap();
    let install = || host.admin().post("/v1/enroll/install", &json!({ "certificate": issued }));
    let ballast = disk.0.join("ballast");
    let rest = (0..).take_while(|_| {
        let mut file = fs::File::options().append(true).create(true).open(&ballast).unwrap();
        std::io::Write::write_all(&mut file, &[0; 4096]).is_ok()
    });
    assert!(rest.count() > 2, "the disk was empty");
    // The log's last page has room for some lines.
    while host.admin().post("/v1/agents/reload", &json!({})).status == 200 {}
    let answer = install();
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (503, "temporarily_unavailable"),
        "{}",
        answer.text()
    );
    assert!(host.status().get("certificate").is_none_or(Value::is_null), "{}", host.status());
    fs::remove_file(&ballast).unwrap();
    let answer = install();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(host.status()["certificate"].is_object());
    host.stop();
}

#[test]
fn certificates_without_an_audit_record_are_not_kept() {
    let mut host = unbounded();
    let disk = Disk::small(&host.path("audit"));
    host.start();
    let ask = || host.post("/v1/certificate", json!({})).status;
    until_true("the host has a CA", || ask() == 200);
    fs::write(disk.0.join("ballast"), vec![0; 32 * 1024]).unwrap();
    assert!((0..500).any(|_| ask() == 503), "the disk fills up");
    let client = Grpc::connect(&host.workload_socket());
    for _ in 0..20 {
        assert_eq!(ask(), 503);
        let mut call = client.stream("FetchX509SVID", &Empty {}).unwrap();
        let answer = client.next::<Empty>(&mut call, MESSAGE_TIMEOUT).unwrap();
        assert_eq!(answer.unwrap_err().code, UNAVAILABLE);
    }
    fs::remove_file(disk.0.join("ballast")).unwrap();
    host.reload();
    let issued = host.audit().iter().filter(|line| line["event"] == "certificate-issued").count();
    until_true("leaves.json has the issued certificates", || leaves(&host) == issued);
    host.stop();
}

/// The number of certificates in leaves.json, which the daemon writes some time after it has issued them.
fn leaves(host: &Host) -> usize {
    let Ok(text) = fs::read(host.path("state/leaves.json")) else { return 0 };
    let file: Value = serde_json::from_slice(&text).unwrap();
    let all = file["leaves"].as_object().unwrap().values();
    all.map(|text| BASE64.decode(text.as_str().unwrap().as_bytes()).unwrap().len() / 40).sum()
}

#[test]
fn a_stalled_disk_is_reported_and_blocks_neither_administrators_nor_new_callers() {
    let mut host = unbounded();
    let disk = Disk::ext4(&host.path("audit"));
    host.start();
    host.token();
    let mut frozen = disk.freeze(Duration::from_secs(8));
    let socket = host.agent_socket();
    let held = std::thread::spawn(move || Connection::open(&socket).post(TOKEN, &json!({ "audience": API })));

    let problem = |host: &Host| host.status()["audit"]["problem"].as_str().map(str::to_owned);
    until_true("status has the problem", || problem(&host).is_some());
    assert!(problem(&host).unwrap().contains("the disk has not responded"), "{:?}", problem(&host));
    until_true("the log has the problem", || host.log().contains("nothing is issued until it responds"));
    // The stalled worker is detected by now and gets no new connections.
    std::thread::park_timeout(Duration::from_millis(1500));
    for _ in 0..4 {
        assert_eq!(host.health()["status"], "degraded");
        let refused = host.post(TOKEN, json!({ "audience": API }));
        assert_eq!((refused.status, refused.error().as_str()), (503, "temporarily_unavailable"));
        assert!(refused.text().contains("the disk has not responded"), "{}", refused.text());
    }
    assert!(frozen.exited().is_none(), "the disk was frozen all the time");

    until_true("the disk is thawed", || frozen.exited().is_some());
    // The record was written after the thaw, or the caller got 503.
    assert!([200, 503].contains(&held.join().unwrap().status));
    until_true("tokens are issued", || host.post(TOKEN, json!({ "audience": API })).status == 200);
    until_true("the host is healthy", || host.health()["status"] == "ok");
    assert!(host.audit().len() > 2);
    host.stop();
}

/// Whatever a full disk leaves of room: a change is not acknowledged unless it is on the disk completely.
#[test]
fn a_credential_is_stored_completely_or_not_at_all_on_a_full_state_disk() {
    let mut host = Host::new();
    let tables =
        "[[credential]]\nname = \"c\"\nuse = \"release\"\n[[credential]]\nname = \"d\"\nuse = \"release\"\n";
    host.agents_file("root", &format!("name = \"root\"\n[match]\nuser = 0\n{tables}"));
    let (state, saved) = (host.path("state"), host.path("saved"));
    succeed(Command::new("cp").arg("-a").arg(&state).arg(&saved));
    let disk = mount(&state, &["-t", "tmpfs", "-o", "size=768k,mode=700", "tmpfs"]);
    succeed(Command::new("cp").arg("-a").arg(saved.join(".")).arg(&state));
    host.start();
    let change = |host: &Host, path: &str, name: &str, value: &str| {
        host.admin().post(path, &json!({ "name": name, "value": value }))
    };
    let value_of = |host: &Host, name: &str| {
        let released = host.post("/v1/credential", json!({ "name": name }));
        (released.status == 200).then(|| released.json()["value"].as_str().unwrap().to_owned())
    };
    assert_eq!(change(&host, "/v1/credentials/put", "c", "first").status, 200);
    let (large, mut current, mut failures) = ("x".repeat(60_000), "first".to_owned(), 0);
    for room in [0, 4, 8, 16, 32, 64, 96, 128] {
        let ballast = disk.0.join("ballast");
        // Ends with a partial write and ENOSPC.
        assert!(fs::write(&ballast, vec![0; 1 << 20]).is_err(), "the disk is full");
        let filled = fs::metadata(&ballast).unwrap().len();
        fs::File::options().write(true).open(&ballast).unwrap().set_len(filled - room * 1024).unwrap();
        let value = format!("{room} {large}");
        let rotated = change(&host, "/v1/credentials/rotate", "c", &value);
        let put = change(&host, "/v1/credentials/put", "d", &large);
        for response in [&rotated, &put].into_iter().filter(|response| response.status != 200) {
            failures += 1;
            let said = response.json()["error_description"].as_str().unwrap().to_owned();
            assert!(response.status >= 500, "{room} KiB: {} {said}", response.status);
        }
        if rotated.status == 200 {
            current = value;
        }
        let check = |host: &Host| {
            assert!(value_of(host, "c").as_ref() == Some(&current), "{room} KiB");
            assert_eq!(value_of(host, "d").is_some(), put.status == 200, "{room} KiB");
        };
        check(&host);
        host.crash();
        host.start();
        check(&host);
        fs::remove_file(&ballast).unwrap();
        if put.status == 200 {
            let removed = host.admin().post("/v1/credentials/remove", &json!({ "name": "d" }));
            assert_eq!(removed.status, 200, "{}", removed.text());
        }
    }
    assert!(failures >= 2, "{failures}");
    assert_eq!(change(&host, "/v1/credentials/put", "d", "after").status, 200);
    host.stop();
    host.start();
    assert_eq!(value_of(&host, "d").as_deref(), Some("after"));
    host.stop();
}
