//! Programs on file systems that do not answer: nobody but their own user waits for them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::common::callers::{Credentials, NOBODY, ScriptedClient, python};
use crate::common::grpc::Grpc;
use crate::common::http::claims;
use crate::common::{API, Host, until};

/// A user who runs the usual interpreter.
const OTHER: u32 = 1;

/// A directory in which the script mounts its file systems, in a mount namespace of its own.
struct ServedDir(PathBuf);

impl ServedDir {
    fn new(host: &Host, name: &str) -> ServedDir {
        let path = host.path(name);
        fs::create_dir(&path).unwrap();
        // The server belongs to another user, and the host's directory to root.
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        let mut parent = path.parent();
        while let Some(dir) = parent.filter(|dir| *dir != Path::new("/tmp") && dir.parent().is_some()) {
            let mode = fs::metadata(dir).unwrap().permissions().mode();
            fs::set_permissions(dir, Permissions::from_mode(mode | 0o011)).unwrap();
            parent = dir.parent();
        }
        ServedDir(path)
    }

    /// A client whose interpreter is on a file system that `NOBODY` mounted in a user namespace of its own.
    fn client_in_own_namespace(&self, host: &Host, tree: &str) -> ScriptedClient {
        let command = self.command(&["--user", "--map-root-user"], 0, tree);
        ScriptedClient::connect_by(command, &host.agent_socket(), &Credentials::user(NOBODY))
    }

    /// A client of `uid` whose interpreter is on a file system that root mounted.
    fn client_of_root(&self, host: &Host, uid: u32, tree: &str) -> ScriptedClient {
        let command = self.command(&[], uid, tree);
        ScriptedClient::connect_by(command, &host.agent_socket(), &Credentials::root())
    }

    fn command(&self, options: &[&str], uid: u32, tree: &str) -> Command {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/common/fuse_server.py");
        let mut command = Command::new("unshare");
        command.arg("--mount").args(options).arg("/usr/bin/python3").arg("-c");
        command.arg(fs::read_to_string(script).unwrap());
        command.arg(&self.0).arg(uid.to_string()).arg(tree).arg(python());
        command
    }

    /// From now on nobody who opens the interpreter gets an answer.
    fn stop_answering(&self) {
        fs::write(self.0.join("armed"), "").unwrap();
    }

    /// From now on nothing on the file system gets an answer, as on a network file system whose server is
    /// gone.
    fn hang(&self) {
        fs::write(self.0.join("armed"), "all").unwrap();
    }

    /// Requests since then.
    fn requests(&self) -> String {
        fs::read_to_string(self.0.join("requests")).unwrap_or_default()
    }
}

fn python_digest() -> String {
    HEXLOWER.encode(digest(&SHA256, &fs::read(python()).unwrap()).as_ref())
}

fn token(client: &mut ScriptedClient) -> (u64, Value) {
    client.request("POST /v1/token", &format!("audience={API}"))
}

fn private_claims(body: &Value) -> Value {
    claims(body["access_token"].as_str().unwrap())["hostbadge"].clone()
}

#[test]
fn a_program_that_its_user_serves_is_not_opened_and_delays_no_other_caller() {
    let mut host = Host::new();
    let served = ServedDir::new(&host, "served");
    host.agent("root", "user = 0");
    host.start();
    let mut clients: Vec<_> = (0..4).map(|_| served.client_in_own_namespace(&host, "merged")).collect();
    served.stop_answering();
    for client in &mut clients {
        let (status, body) = client.whoami();
        assert_eq!((status, body["error"].as_str()), (401, Some("invalid_client")), "{body}");
    }

    // A condition needs the digest: the file system is found without asking it, and refused.
    host.agent("served", &format!("user = {NOBODY}\nexe_sha256 = \"{}\"", python_digest()));
    host.reload();
    for client in &mut clients {
        let (status, body) = client.whoami();
        assert_eq!((status, body["error"].as_str()), (401, Some("invalid_client")), "{body}");
        let reason = body["error_description"].as_str().unwrap();
        assert!(
            reason.contains("is on a file system (overlay) that was mounted in another user namespace"),
            "{reason}"
        );
    }
    assert_eq!(host.post("/v1/token", serde_json::json!({ "audience": API })).status, 200);
    assert_eq!(host.status()["status"], "ok");
    let requests = served.requests();
    assert!(!requests.lines().any(|request| ["OPEN", "3"].contains(&request)), "{requests}");
    assert!(host.stop().success());
}

#[test]
fn a_program_on_fuse_has_no_digest() {
    let mut host = Host::new();
    let served = ServedDir::new(&host, "served");
    host.agent("served", &format!("user = 0\nexe_sha256 = \"{}\"", python_digest()));
    host.agent("plain", "user = 0");
    host.start();
    let mut client = served.client_of_root(&host, 0, "low");
    served.stop_answering();
    let (status, body) = client.request("POST /v1/token", &format!("audience={API}&agent=served"));
    assert_eq!((status, body["error"].as_str()), (401, Some("invalid_client")), "{body}");
    let reason = body["error_description"].as_str().unwrap();
    assert!(reason.contains("is on a file system (fuse)"), "{reason}");
    // As another agent, which has no such condition, it is served.
    let (status, body) = token(&mut client);
    assert_eq!(status, 200, "{body}");
    assert_eq!(private_claims(&body)["exe_sha256"], Value::Null);
    assert!(!served.requests().contains("OPEN"));
}

#[test]
fn a_reader_that_hangs_delays_only_the_agent_whose_condition_needs_it() {
    let mut host = Host::new();
    let served = ServedDir::new(&host, "served");
    let condition = format!("exe_sha256 = \"{}\"", python_digest());
    host.agent("hung", &format!("user = {NOBODY}\n{condition}"));
    host.agent("quick", &format!("user = {OTHER}\n{condition}"));
    host.agent("plain", "user = 2");
    host.start();
    // Root mounted this overlay in the daemon's user namespace, so it is read, by a reader.
    let mut hung = served.client_of_root(&host, NOBODY, "merged");
    let also_served = ServedDir::new(&host, "also-served");
    let mut plain = also_served.client_of_root(&host, 2, "merged");
    served.stop_answering();
    also_served.stop_answering();
    let first = std::thread::spawn(move || {
        let answer = token(&mut hung);
        (hung, answer)
    });
    until("a reader asks for the file", || served.requests().contains("OPEN").then_some(()));

    // Another user's program is read meanwhile.
    let mut quick = ScriptedClient::connect(&host, &Credentials::user(OTHER));
    let (status, body) = token(&mut quick);
    assert_eq!(status, 200, "{body}");
    assert_eq!(private_claims(&body)["exe_sha256"], python_digest());
    // A digest that only decorates a token is not waited for.
    let (status, body) = token(&mut plain);
    assert_eq!(status, 200, "{body}");
    assert_eq!(private_claims(&body)["exe_sha256"], Value::Null);
    assert_eq!(host.status()["status"], "ok");
    assert!(!first.is_finished(), "the first agent still waits");

    let (mut hung, (status, body)) = first.join().unwrap();
    assert_eq!((status, body["error"].as_str()), (503, Some("temporarily_unavailable")), "{body}");
    // After the reader was abandoned, its user gets none for a while.
    until("the user is refused at once", || {
        let (status, body) = token(&mut hung);
        assert_eq!(status, 503, "{body}");
        body["error_description"].as_str().unwrap().contains("the next one is read in").then_some(())
    });
    let (status, body) = token(&mut quick);
    assert_eq!(status, 200, "{body}");
    // The reader waits for the file system and cannot be killed; the daemon ends.
    assert!(host.stop().success());
}

/// Number 34: a request looks at `/proc/PID/exe` of its caller, which leads to a file system that the caller
/// chose. The kernel holds neither names nor attributes of it, and its server answers nothing.
#[test]
fn a_hung_file_system_below_a_callers_program_and_directory_delays_no_socket() {
    let mut host = Host::new();
    let served = ServedDir::new(&host, "served");
    host.agent("hung", &format!("user = {NOBODY}"));
    host.agent("other", &format!("user = {OTHER}"));
    host.agent("root", "user = 0");
    host.start();
    let mut clients: Vec<_> = (0..4).map(|_| served.client_of_root(&host, NOBODY, "uncached")).collect();
    for client in &mut clients {
        let (status, body) = client.whoami();
        assert_eq!((status, body["agent"].as_str()), (200, Some("hung")), "{body}");
        assert!(body["peer"]["exe"].as_str().unwrap().starts_with(served.0.to_str().unwrap()), "{body}");
    }
    served.hang();
    // Whatever asks the file system waits for ever.
    let mut stat = Command::new("nsenter");
    stat.args(["--mount", "--target", &clients[0].pid().to_string(), "stat"]).arg(served.0.join("low/none"));
    let mut waiting = stat.stderr(Stdio::null()).spawn().unwrap();
    until("the file system is asked", || served.requests().contains('\n').then_some(()));

    let before = served.requests().lines().count();
    for client in &mut clients {
        let (status, body) = token(client);
        assert_eq!(status, 200, "the caller itself is served too: {body}");
    }
    let pid = clients[0].pid().to_string();
    for words in [&["agent", "why", &pid][..], &["status"], &["agent", "reload"]] {
        let output = host.hostbadge(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut other = ScriptedClient::connect(&host, &Credentials::user(OTHER));
    assert_eq!(token(&mut other).0, 200);
    let svids = Grpc::connect(&host.workload_socket()).jwt(&[API], "").unwrap();
    assert_eq!(svids.len(), 1);
    assert_eq!(host.status()["status"], "ok");
    assert_eq!(served.requests().lines().count(), before, "{}", served.requests());
    assert!(waiting.try_wait().unwrap().is_none(), "it still waits");
    // No signal ends it; the end of the server does, which follows that of its client.
    drop(clients);
    waiting.wait().unwrap();
    assert!(host.stop().success());
}

#[test]
fn a_digest_that_no_condition_needs_is_in_later_tokens() {
    let mut host = Host::new();
    host.agent("plain", &format!("user = {NOBODY}"));
    host.start();
    let mut client = ScriptedClient::connect(&host, &Credentials::user(NOBODY));
    until("the digest is known", || {
        let (status, body) = token(&mut client);
        let is_known = || private_claims(&body)["exe_sha256"] == python_digest().as_str();
        // The test may ask more often than an agent may.
        (status != 429 && is_known()).then_some(())
    });
    assert_eq!(client.whoami().1["peer"]["exe_sha256"], python_digest());
}
