//! Which process is which agent: the kernel tells, and nothing that a process says.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::callers::{NOBODY, Puppet, Unit, Who, python};
use common::http::claims;
use common::{API, Host, append, until_true};
use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

/// The Python interpreter as another executable: one byte longer, hence of another digest.
fn other_python(host: &Host, name: &str) -> PathBuf {
    let path = host.path(name);
    fs::copy(python(), &path).unwrap();
    append(&path, b"\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn sha256(path: &Path) -> String {
    HEXLOWER.encode(digest(&SHA256, &fs::read(path).unwrap()).as_ref())
}

/// The agent that gets a token as `who`.
fn agent_of(host: &Host, who: &Who) -> String {
    let answer = who.token(host);
    assert_eq!(answer.status, 200, "{}", answer.text());
    claims(answer.json()["access_token"].as_str().unwrap())["client_id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_stranger(host: &Host, who: &Who) {
    let answer = who.token(host);
    assert_eq!((answer.status, answer.error().as_str()), (401, "invalid_client"));
}

#[test]
fn two_units_of_one_user_are_two_agents() {
    let (one, two, third) = (Unit::new("one"), Unit::new("two"), Unit::new("third"));
    let mut host = Host::new();
    host.agent("one", &format!("user = {NOBODY}\nunit = \"{}\"", one.name));
    host.agent("two", &format!("user = {NOBODY}\nunit = \"{}\"", two.name));
    host.start();
    let nobody = Who::user(NOBODY);
    assert_eq!(agent_of(&host, &nobody.clone().in_unit(&one)), "one");
    assert_eq!(agent_of(&host, &nobody.clone().in_unit(&two)), "two");
    assert_stranger(&host, &nobody);
    assert_stranger(&host, &nobody.clone().in_unit(&third));
    assert_stranger(&host, &Who::root().in_unit(&one));
}

#[test]
fn a_token_names_unit_and_invocation() {
    let mut unit = Unit::new("researcher");
    let mut host = Host::new();
    host.agent("researcher", &format!("unit = \"{}\"", unit.name));
    host.start();
    let who = Who::user(NOBODY).in_unit(&unit);
    let private = |host: &Host| {
        let answer = who.token(host).json();
        claims(answer["access_token"].as_str().unwrap())["hostbadge"].clone()
    };
    let before = private(&host);
    assert_eq!(before["unit"], unit.name.as_str());
    assert!(before.get("invocation").is_none(), "{before}");
    unit.invoked_as("0123456789abcdef0123456789abcdef");
    assert_eq!(private(&host)["invocation"], "0123456789abcdef0123456789abcdef");
}

#[test]
fn a_process_that_moves_to_another_unit_is_looked_at_anew() {
    let (one, two) = (Unit::new("before"), Unit::new("after"));
    let mut host = Host::new();
    host.agent("before", &format!("unit = \"{}\"", one.name));
    host.agent("after", &format!("unit = \"{}\"", two.name));
    host.start();
    let mut puppet = Puppet::of(&host, &Who::root().in_unit(&one));
    assert_eq!(puppet.whoami().1["agent"], "before");
    let pid = puppet.pid().to_string();
    two.take_in(&pid);
    assert_eq!(puppet.whoami().1["agent"], "after");
    puppet.end();
}

#[test]
fn another_user_is_refused() {
    let mut host = Host::new();
    host.agent("nobodys", &format!("user = {NOBODY}"));
    host.agent("daemons", "user = \"daemon\"");
    host.start();
    assert_eq!(agent_of(&host, &Who::user(NOBODY)), "nobodys");
    assert_eq!(agent_of(&host, &Who::user(1)), "daemons");
    assert_stranger(&host, &Who::user(2));
    assert_stranger(&host, &Who::root());
}

#[test]
fn any_group_of_the_caller_counts() {
    let mut host = Host::new();
    host.agent("agents", "group = 4242");
    host.agent("mail", "group = \"mail\"");
    host.start();
    assert_eq!(agent_of(&host, &Who::user(NOBODY).group(100).group(4242)), "agents");
    assert_eq!(agent_of(&host, &Who::user(4242)), "agents");
    assert_eq!(agent_of(&host, &Who::user(NOBODY).group(8)), "mail");
    assert_stranger(&host, &Who::user(NOBODY).group(100));
    assert_stranger(&host, &Who::user(NOBODY));
}

#[test]
fn every_condition_given_must_hold() {
    let unit = Unit::new("strict");
    let mut host = Host::new();
    host.agent("strict", &format!("user = {NOBODY}\ngroup = 4242\nunit = \"{}\"", unit.name));
    host.start();
    let all = Who::user(NOBODY).group(4242).in_unit(&unit);
    assert_eq!(agent_of(&host, &all), "strict");
    assert_stranger(&host, &Who::user(NOBODY).group(4242));
    assert_stranger(&host, &Who::user(NOBODY).in_unit(&unit));
    assert_stranger(&host, &Who::user(2).group(4242).in_unit(&unit));
}

#[test]
fn a_replaced_executable_is_no_agent_any_more() {
    let mut host = Host::new();
    let program = other_python(&host, "program");
    let digest = sha256(&program);
    host.agent("program", &format!("user = 65534\nexe_sha256 = \"{digest}\""));
    host.start();
    let socket = host.agent_socket();
    let mut old = Puppet::at(&socket, &Who::user(NOBODY), &program);
    let (status, body) = old.ask("POST /v1/token", &format!("audience={API}"));
    assert_eq!(status, 200, "{body}");
    let token = claims(body["access_token"].as_str().unwrap());
    assert_eq!(token["hostbadge"]["exe_sha256"], digest.as_str());

    // The same size, the same times: only the bytes differ.
    let before = fs::metadata(&program).unwrap();
    let fresh = host.path("fresh");
    let mut bytes = fs::read(&program).unwrap();
    *bytes.last_mut().unwrap() = b' ';
    fs::write(&fresh, bytes).unwrap();
    fs::set_permissions(&fresh, before.permissions()).unwrap();
    fs::File::options().write(true).open(&fresh).unwrap().set_modified(before.modified().unwrap()).unwrap();
    fs::rename(&fresh, &program).unwrap();

    let mut new = Puppet::at(&socket, &Who::user(NOBODY), &program);
    assert_eq!(new.whoami().0, 401);
    // The old one still runs what it ran.
    assert_eq!(old.whoami().0, 200);
    old.end();
    new.end();
}

#[test]
fn an_executable_is_matched_by_its_path() {
    let mut host = Host::new();
    let program = other_python(&host, "program");
    host.agent("by-path", &format!("user = 0\nexe = {program:?}"));
    host.start();
    let mut puppet = Puppet::at(&host.agent_socket(), &Who::root(), &program);
    assert_eq!(puppet.whoami().1["agent"], "by-path");
    assert_eq!(puppet.value("ask('GET /v1/whoami')")["body"]["peer"]["exe"], program.to_str().unwrap());
    let mut other = Puppet::of(&host, &Who::root());
    assert_eq!(other.whoami().0, 401);
    puppet.end();
    other.end();
}

#[test]
fn a_process_that_becomes_another_program_on_an_open_connection_is_identified_anew() {
    let mut host = Host::new();
    let other = other_python(&host, "other");
    host.agent("first", &format!("user = 0\nexe = {:?}", python()));
    host.agent("second", &format!("user = 0\nexe_sha256 = \"{}\"", sha256(&other)));
    host.start();
    let mut puppet = Puppet::of(&host, &Who::root());
    let (_, before) = puppet.whoami();
    assert_eq!(before["agent"], "first");
    puppet.exec(&other);
    let (_, after) = puppet.whoami();
    assert_eq!(after["agent"], "second", "{after}");
    assert_eq!(after["peer"]["pid"], before["peer"]["pid"]);
    puppet.end();
}

#[test]
fn a_connection_handed_on_by_a_process_that_died_is_refused() {
    let host = Host::started();
    let mut puppet = Puppet::of(&host, &Who::root());
    assert_eq!(puppet.whoami().0, 200);
    // A child keeps the connection and the pipes; its parent, who connected, dies.
    puppet.order("mother, child = os.getpid(), os.fork()");
    puppet.order("");
    puppet.order("os._exit(0) if child else None");
    let gone = puppet.pid();
    until_true("the process has died", || {
        fs::read_to_string(format!("/proc/{gone}/stat")).is_ok_and(|stat| stat.contains(") Z"))
    });
    assert_eq!(puppet.value("os.getppid() != mother"), true, "the child answers");
    let (status, body) = puppet.ask("POST /v1/token", &format!("audience={API}"));
    assert_eq!((status, body["error"].as_str()), (401, Some("invalid_client")), "{body}");
    assert!(body["error_description"].as_str().unwrap().contains("has exited"), "{body}");
}

#[test]
fn a_connection_handed_on_while_its_opener_lives_is_its_openers() {
    let mut host = Host::new();
    host.agent("opener", &format!("user = 65534\nexe = {:?}", python()));
    host.start();
    let mut puppet = Puppet::of(&host, &Who::user(NOBODY));
    // The shell speaks on the connection of the Python process that opened it.
    puppet.order("import subprocess");
    let shell = "subprocess.run(['sh', '-c', 'printf \"GET /v1/whoami HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n\" >&%d' % s.fileno()], pass_fds=[s.fileno()]).returncode";
    assert_eq!(puppet.value(shell), 0);
    let answer = puppet.value("s.recv(65536).decode()");
    assert!(answer.as_str().unwrap().contains("\"agent\":\"opener\""), "{answer}");
    puppet.end();
}

#[test]
fn a_process_that_changes_its_user_has_to_connect_again() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.agent("nobody", &format!("user = {NOBODY}"));
    host.start();
    let mut puppet = Puppet::of(&host, &Who::root());
    assert_eq!(puppet.whoami().1["agent"], "root");
    puppet.order(&format!("os.setresuid({NOBODY}, {NOBODY}, {NOBODY})"));
    let (status, body) = puppet.whoami();
    assert_eq!((status, body["error"].as_str()), (401, Some("invalid_client")), "{body}");
    assert!(body["error_description"].as_str().unwrap().contains("reconnect"), "{body}");
    puppet.order(&format!("s = socket.socket(socket.AF_UNIX); s.connect({:?})", host.agent_socket()));
    assert_eq!(puppet.value("ask('GET /v1/whoami', s=s)")["body"]["agent"], "nobody");
    puppet.end();
}

#[test]
fn a_user_changed_before_the_first_request_is_noticed_too() {
    let host = Host::started();
    let mut puppet = Puppet::of(&host, &Who::root());
    puppet.order(&format!("os.setresuid({NOBODY}, {NOBODY}, {NOBODY})"));
    assert_eq!(puppet.whoami().0, 401);
    puppet.end();
}
