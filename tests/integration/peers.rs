//! Identification of callers by credentials, unit, group and executable, from the kernel only.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::callers::{Credentials, NOBODY, ScriptedClient, Unit, python};
use crate::common::http::claims;
use crate::common::{API, Host, copy_program, program, require_root, until_true};
use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

/// A copy of the Python interpreter that is one byte longer and has another digest.
fn other_python(host: &Host, name: &str) -> PathBuf {
    let path = host.path(name);
    copy_program(python(), &path, "\n");
    path
}

fn sha256(path: &Path) -> String {
    HEXLOWER.encode(digest(&SHA256, &fs::read(path).unwrap()).as_ref())
}

/// The agent that gets a token as `who`.
fn agent_of(host: &Host, who: &Credentials) -> String {
    let answer = who.token(host);
    assert_eq!(answer.status, 200, "{}", answer.text());
    claims(answer.json()["access_token"].as_str().unwrap())["client_id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_unknown_caller(host: &Host, who: &Credentials) {
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
    let nobody = Credentials::user(NOBODY);
    assert_eq!(agent_of(&host, &nobody.clone().in_unit(&one)), "one");
    assert_eq!(agent_of(&host, &nobody.clone().in_unit(&two)), "two");
    assert_unknown_caller(&host, &nobody);
    assert_unknown_caller(&host, &nobody.clone().in_unit(&third));
    assert_unknown_caller(&host, &Credentials::root().in_unit(&one));
}

#[test]
fn a_token_names_unit_and_invocation() {
    let mut unit = Unit::new("researcher");
    let mut host = Host::new();
    host.agent("researcher", &format!("unit = \"{}\"", unit.name));
    host.start();
    let who = Credentials::user(NOBODY).in_unit(&unit);
    let private = |host: &Host| {
        let answer = who.token(host).json();
        claims(answer["access_token"].as_str().unwrap())["hostbadge"].clone()
    };
    let before = private(&host);
    assert_eq!(before["unit"], unit.name.as_str());
    // Without systemd's link, it is the cgroup or the session, whose IDs are UUIDs of version 8.
    assert_eq!(before["invocation"].as_str().unwrap().as_bytes()[12], b'8', "{before}");
    unit.set_invocation_id("0123456789abcdef0123456789abcdef");
    assert_eq!(private(&host)["invocation"], "0123456789abcdef0123456789abcdef");
}

#[test]
fn a_process_that_moves_to_another_unit_is_identified_again() {
    let (one, two) = (Unit::new("before"), Unit::new("after"));
    let mut host = Host::new();
    host.agent("before", &format!("unit = \"{}\"", one.name));
    host.agent("after", &format!("unit = \"{}\"", two.name));
    host.start();
    let mut client = ScriptedClient::connect(&host, &Credentials::root().in_unit(&one));
    assert_eq!(client.whoami().1["agent"], "before");
    let pid = client.pid().to_string();
    two.add_process(&pid);
    assert_eq!(client.whoami().1["agent"], "after");
    client.close();
}

#[test]
fn another_user_is_refused() {
    let mut host = Host::new();
    host.agent("nobodys", &format!("user = {NOBODY}"));
    host.agent("daemons", "user = \"daemon\"");
    host.start();
    assert_eq!(agent_of(&host, &Credentials::user(NOBODY)), "nobodys");
    assert_eq!(agent_of(&host, &Credentials::user(1)), "daemons");
    assert_unknown_caller(&host, &Credentials::user(2));
    assert_unknown_caller(&host, &Credentials::root());
}

#[test]
fn any_group_of_the_caller_counts() {
    let mut host = Host::new();
    host.agent("agents", "group = 4242");
    host.agent("mail", "group = \"mail\"");
    host.start();
    assert_eq!(agent_of(&host, &Credentials::user(NOBODY).group(100).group(4242)), "agents");
    assert_eq!(agent_of(&host, &Credentials::user(4242)), "agents");
    assert_eq!(agent_of(&host, &Credentials::user(NOBODY).group(8)), "mail");
    assert_unknown_caller(&host, &Credentials::user(NOBODY).group(100));
    assert_unknown_caller(&host, &Credentials::user(NOBODY));
}

#[test]
fn all_selectors_must_match() {
    let unit = Unit::new("strict");
    let mut host = Host::new();
    host.agent("strict", &format!("user = {NOBODY}\ngroup = 4242\nunit = \"{}\"", unit.name));
    host.start();
    let all = Credentials::user(NOBODY).group(4242).in_unit(&unit);
    assert_eq!(agent_of(&host, &all), "strict");
    assert_unknown_caller(&host, &Credentials::user(NOBODY).group(4242));
    assert_unknown_caller(&host, &Credentials::user(NOBODY).in_unit(&unit));
    assert_unknown_caller(&host, &Credentials::user(2).group(4242).in_unit(&unit));
}

#[test]
fn a_replaced_executable_does_not_match() {
    let mut host = Host::new();
    let program = other_python(&host, "program");
    let digest = sha256(&program);
    host.agent("program", &format!("user = 65534\nexe_sha256 = \"{digest}\""));
    host.start();
    let socket = host.agent_socket();
    let mut old = ScriptedClient::connect_with(&socket, &Credentials::user(NOBODY), &program);
    let (status, body) = old.request("POST /v1/token", &format!("audience={API}"));
    assert_eq!(status, 200, "{body}");
    let token = claims(body["access_token"].as_str().unwrap());
    assert_eq!(token["hostbadge"]["exe_sha256"], digest.as_str());

    // The replacement has the same size and times.
    let before = fs::metadata(&program).unwrap();
    let fresh = host.path("fresh");
    let mut bytes = fs::read(&program).unwrap();
    *bytes.last_mut().unwrap() = b' ';
    fs::write(&fresh, bytes).unwrap();
    fs::set_permissions(&fresh, before.permissions()).unwrap();
    fs::File::options().write(true).open(&fresh).unwrap().set_modified(before.modified().unwrap()).unwrap();
    fs::rename(&fresh, &program).unwrap();

    let mut new = ScriptedClient::connect_with(&socket, &Credentials::user(NOBODY), &program);
    assert_eq!(new.whoami().0, 401);
    // The process still runs the old executable.
    assert_eq!(old.whoami().0, 200);
    old.close();
    new.close();
}

#[test]
fn an_executable_is_matched_by_its_path() {
    let mut host = Host::new();
    let program = other_python(&host, "program");
    host.agent("by-path", &format!("user = 0\nexe = {program:?}"));
    host.start();
    let mut client = ScriptedClient::connect_with(&host.agent_socket(), &Credentials::root(), &program);
    assert_eq!(client.whoami().1["agent"], "by-path");
    assert_eq!(
        client.evaluate("request('GET /v1/whoami')")["body"]["peer"]["exe"],
        program.to_str().unwrap()
    );
    let mut other = ScriptedClient::connect(&host, &Credentials::root());
    assert_eq!(other.whoami().0, 401);
    client.close();
    other.close();
}

#[test]
fn a_process_that_executes_another_program_is_identified_again() {
    let mut host = Host::new();
    let other = other_python(&host, "other");
    host.agent("first", &format!("user = 0\nexe = {:?}", python()));
    host.agent("second", &format!("user = 0\nexe_sha256 = \"{}\"", sha256(&other)));
    host.start();
    let mut client = ScriptedClient::connect(&host, &Credentials::root());
    let (_, before) = client.whoami();
    assert_eq!(before["agent"], "first");
    client.exec(&other);
    let (_, after) = client.whoami();
    assert_eq!(after["agent"], "second", "{after}");
    assert_eq!(after["peer"]["pid"], before["peer"]["pid"]);
    client.close();
}

#[test]
fn a_connection_inherited_from_a_process_that_exited_is_refused() {
    let host = Host::started();
    let mut client = ScriptedClient::connect(&host, &Credentials::root());
    assert_eq!(client.whoami().0, 200);
    // A child keeps the connection and the pipes; the parent, which connected, exits. All in one line, since
    // the child could read a second one in place of the parent.
    client.execute("mother, child = os.getpid(), os.fork(); child and os._exit(0)");
    let gone = client.pid();
    until_true("the process has exited", || {
        fs::read_to_string(format!("/proc/{gone}/stat")).is_ok_and(|stat| stat.contains(") Z"))
    });
    assert_eq!(client.evaluate("os.getppid() != mother"), true, "the child answers");
    let (status, body) = client.request("POST /v1/token", &format!("audience={API}"));
    assert_eq!((status, body["error"].as_str()), (401, Some("invalid_client")), "{body}");
    assert!(body["error_description"].as_str().unwrap().contains("has exited"), "{body}");
}

#[test]
fn a_connection_used_by_a_child_is_identified_as_its_opener() {
    let mut host = Host::new();
    host.agent("opener", &format!("user = 65534\nexe = {:?}", python()));
    host.start();
    let mut client = ScriptedClient::connect(&host, &Credentials::user(NOBODY));
    // A shell sends a request on the connection that the Python process opened.
    client.execute("import subprocess");
    let shell = "subprocess.run(['sh', '-c', 'printf \"GET /v1/whoami HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n\" >&%d' % s.fileno()], pass_fds=[s.fileno()]).returncode";
    assert_eq!(client.evaluate(shell), 0);
    let answer = client.evaluate("s.recv(65536).decode()");
    assert!(answer.as_str().unwrap().contains("\"agent\":\"opener\""), "{answer}");
    client.close();
}

#[test]
fn a_process_that_changes_its_user_has_to_connect_again() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.agent("nobody", &format!("user = {NOBODY}"));
    host.start();
    let mut client = ScriptedClient::connect(&host, &Credentials::root());
    assert_eq!(client.whoami().1["agent"], "root");
    client.execute(&format!("os.setresuid({NOBODY}, {NOBODY}, {NOBODY})"));
    let (status, body) = client.whoami();
    assert_eq!((status, body["error"].as_str()), (401, Some("invalid_client")), "{body}");
    assert!(body["error_description"].as_str().unwrap().contains("reconnect"), "{body}");
    client.execute(&format!("s = socket.socket(socket.AF_UNIX); s.connect({:?})", host.agent_socket()));
    assert_eq!(client.evaluate("request('GET /v1/whoami', s=s)")["body"]["agent"], "nobody");
    client.close();
}

#[test]
fn a_uid_change_before_the_first_request_is_noticed() {
    let host = Host::started();
    let mut client = ScriptedClient::connect(&host, &Credentials::root());
    client.execute(&format!("os.setresuid({NOBODY}, {NOBODY}, {NOBODY})"));
    assert_eq!(client.whoami().0, 401);
    client.close();
}

#[test]
fn where_proc_is_mounted_with_hidepid_refusals_and_status_say_so() {
    require_root();
    for hidepid in [1, 2] {
        let mut host = Host::new();
        host.agent("nobody", &format!("user = {NOBODY}"));
        // The daemon runs as a user of its own, as an installed one does.
        let changed = std::process::Command::new("chown").args(["-R", "4242"]).arg(host.path("")).status();
        assert!(changed.unwrap().success());
        let mount = format!("mount -t proc -o hidepid={hidepid} proc /proc");
        let script = format!("{mount} && exec setpriv --reuid 4242 --regid 4242 --clear-groups \"$@\"");
        let words = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
        host.start.wrapper = words.map(String::from).to_vec();
        host.start();
        let answer = Credentials::user(NOBODY).token(&host);
        assert_eq!((answer.status, answer.error().as_str()), (503, "temporarily_unavailable"));
        assert!(answer.text().contains("hidepid"), "{}", answer.text());
        // The daemon does not see processes of root either.
        let own = Credentials::user(4242);
        let status = own.curl_at(&host.admin_socket(), "/v1/status", &[]).json();
        let problem = status["hidden_processes"].as_str();
        assert!(problem.is_some_and(|problem| problem.contains("hidepid")), "{status}");
        let mut command = std::process::Command::new(program("hostbadge"));
        command.arg("status").env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket());
        own.apply_to(&mut command);
        let shown = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(shown.contains("processes") && shown.contains("hidepid"), "{shown}");
        assert!(host.log().contains("hidepid"));
        host.stop();
    }
}
