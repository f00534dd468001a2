//! `hostbadge run`: a command as a sub-agent, in a cgroup of its own.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::audit_log::with_event;
use crate::common::callers::{Credentials, NOBODY, Unit};
use crate::common::http::claims;
use crate::common::{API, Host, copy_program, pause, program, require_root, until, until_true};
use serde_json::{Value, json};

/// A host on which root is the agent `runner`, with sub-agents.
fn host(grant: &str) -> Host {
    require_root();
    let mut host = Host::new();
    let text = format!(
        "name = \"runner\"\n[match]\nuser = 0\n[delegate]\nmax = 64\n[[grant]]\naudience = \"{API}\"\n\
         scopes = [\"docs.read\", \"docs.write\"]\n{grant}\n"
    );
    host.agents_file("runner", &text);
    host.start();
    host
}

/// `hostbadge run` with these words, not started yet. A shell's background job, as these tests may be, ignores some
/// signals, and so would the command.
fn command(host: &Host, words: &[&str]) -> Command {
    let mut command = Command::new("env");
    command
        .arg("--default-signal=INT,QUIT")
        .arg(program("hostbadge"))
        .arg("run")
        .args(words)
        .env("HOSTBADGE_SOCKET", host.agent_socket());
    command.env_remove("XDG_RUNTIME_DIR").stdin(Stdio::null());
    command
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// Removes the cgroup that was delegated to a sub-agent, once it is empty.
fn remove_cgroup(host: &Host, agent: &str) {
    let lines = host.audit();
    let delegated = with_event(&lines, "sub-agent-delegated");
    let details = delegated.iter().map(|line| line["detail"].as_str().unwrap());
    let path = details
        .filter_map(|detail| detail.strip_prefix(&format!("{agent} in "))?.split(',').next())
        .next_back();
    let path = path.expect("the sub-agent was delegated").to_owned();
    for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"] {
        let dir = PathBuf::from(format!("{mount}{path}"));
        until_true("the cgroup is removed", || !dir.exists() || fs::remove_dir(&dir).is_ok());
    }
}

fn jwt(text: &str) -> Value {
    claims(text.trim())
}

#[test]
fn a_command_is_a_sub_agent_with_tokens_and_without_secrets() {
    let host = host("ttl = \"5m\"");
    let script = "cat \"$HOSTBADGE_RUN_DIR/token\"; stat -c %a \"$HOSTBADGE_RUN_DIR\" \"$HOSTBADGE_RUN_DIR/token\"; \
                  echo \"$API_TOKEN\"; echo \"${OPENAI_API_KEY-removed} ${GIT_PASSWORD-removed}\"; \
                  echo \"$HOSTBADGE_RUN_DIR\"; exit 7";
    let file = format!("token={API}");
    let variable = format!("API_TOKEN={API}");
    let grant = format!("{API} docs.read");
    let words = [
        "--as",
        "job",
        "--grant",
        &grant,
        "--file",
        &file,
        "--env",
        &variable,
        "--keep",
        "GIT_PASSWORD",
        "--",
        "sh",
        "-c",
        script,
    ];
    let mut run = command(&host, &words);
    run.env("OPENAI_API_KEY", "sk-0123456789abcdef0123456789").env("GIT_PASSWORD", "correct horse");
    let output = run.output().unwrap();
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(7), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    let [in_file, dir_mode, file_mode, in_variable, variables, dir] = lines[..] else {
        panic!("{out}\n{err}")
    };
    for token in [in_file, in_variable] {
        let said = jwt(token);
        assert_eq!((&said["client_id"], &said["scope"]), (&json!("runner/sub/job"), &json!("docs.read")));
        assert!(said["act"]["sub"].as_str().unwrap().ends_with("/agent/runner/sub/job"), "{said}");
    }
    assert_eq!((dir_mode, file_mode, variables), ("700", "600", "removed correct horse"));
    assert!(err.contains("removed from the environment: OPENAI_API_KEY (--keep NAME keeps one)"), "{err}");
    assert!(err.contains("API_TOKEN is valid for one lifetime"), "{err}");
    assert!(!Path::new(dir).exists());
    until_true("its tokens have ended", || host.introspect(in_file)["active"] == false);
    let lines = host.audit();
    assert_eq!(with_event(&lines, "sub-agent-delegated").len(), 1);
    let quiet = command(&host, &["--quiet", "--as", "job2", "--", "true"])
        .env("X_TOKEN", "0123456789")
        .output()
        .unwrap();
    assert_eq!((quiet.status.code(), texts(&quiet).1.as_str()), (Some(0), ""));
}

#[test]
fn signals_and_their_statuses_are_passed_on() {
    let host = host("");
    for (signal, script) in [
        (Signal::SIGTERM, "echo ready; exec sleep 60"),
        (Signal::SIGINT, "echo ready; exec sleep 60"),
        (Signal::SIGUSR1, "trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done"),
        (
            Signal::SIGTERM,
            "trap 'echo ignored' TERM; echo ready; i=0; while [ $i -lt 10 ]; do sleep 0.1; i=$((i+1)); done; exit 3",
        ),
    ] {
        let name = format!("job{}", script.len() + signal as usize);
        let mut run = command(&host, &["--as", &name, "--", "sh", "-c", script]);
        let mut child = run.stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
        assert_eq!(line, "ready\n");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = child.wait().unwrap();
        match script {
            _ if script.contains("exit 9") => assert_eq!(status.code(), Some(9)),
            _ if script.contains("exit 3") => assert_eq!(status.code(), Some(3)),
            _ => assert_eq!(status.signal(), Some(signal as i32), "{status}"),
        }
    }
    let killed = command(&host, &["--as", "killed", "--", "sh", "-c", "kill -9 $$"]).output().unwrap();
    assert_eq!(killed.status.signal(), Some(9), "{:?}", texts(&killed));
}

#[test]
fn the_command_ends_when_the_process_that_runs_it_is_killed() {
    let host = host("");
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let place = dir.path().join("place");
    let script = format!(
        "trap 'echo ended > {0}; exit' TERM; echo $HOSTBADGE_RUN_DIR > {1}; echo started > {0}; \
         while :; do sleep 0.1; done",
        mark.display(),
        place.display()
    );
    let mut child = command(&host, &["--as", "orphan", "--", "sh", "-c", &script]).spawn().unwrap();
    let read = || fs::read_to_string(&mark).unwrap_or_default();
    until_true("the command runs", || read() == "started\n");
    child.kill().unwrap();
    child.wait().unwrap();
    until_true("the command has ended", || read() == "ended\n");
    let dir = PathBuf::from(fs::read_to_string(&place).unwrap().trim());
    until_true("its directory is removed", || !dir.exists());
    remove_cgroup(&host, "runner/sub/orphan");
}

#[test]
fn a_token_in_a_file_is_renewed() {
    let host = host("ttl = \"4s\"");
    let file = format!("token={API}");
    let script = "cd \"$HOSTBADGE_RUN_DIR\"; first=$(cat token); i=0; \
                  while [ \"$(cat token)\" = \"$first\" ] && [ $i -lt 200 ]; do sleep 0.1; i=$((i+1)); done; \
                  echo \"$first\"; cat token; ls";
    let output =
        command(&host, &["--as", "job", "--file", &file, "--", "sh", "-c", script]).output().unwrap();
    let (out, err) = texts(&output);
    let lines: Vec<&str> = out.lines().collect();
    let [first, second, "token"] = lines[..] else { panic!("{out}\n{err}") };
    assert_ne!(jwt(first)["jti"], jwt(second)["jti"]);
    assert!(jwt(second)["exp"].as_u64() > jwt(first)["exp"].as_u64());
}

#[test]
fn a_command_that_outlives_its_delegation_is_delegated_again() {
    let host = host("");
    let script = "sleep 5; hostbadge whoami";
    let mut run = command(&host, &["--as", "long", "--ttl", "2s", "--", "sh", "-c", script]);
    let dir = Path::new(&program("hostbadge")).parent().unwrap().display().to_string();
    let path = format!("{dir}:{}", std::env::var("PATH").unwrap());
    let output = run.env("PATH", path).output().unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success() && out.contains("runner/sub/long"), "{out} {err}");
    let lines = host.audit();
    assert!(with_event(&lines, "sub-agent-delegated").len() > 2);
}

#[test]
fn an_agent_in_a_delegated_unit_runs_commands_without_root() {
    require_root();
    let unit = Unit::new("runner").in_unified_hierarchy();
    let mut host = Host::new();
    host.agent("reader", "user = 0");
    let text = format!(
        "name = \"runner\"\n[match]\nuser = {NOBODY}\nunit = {:?}\n[delegate]\n[[grant]]\naudience = \"{API}\"\n",
        unit.name
    );
    host.agents_file("runner", &text);
    host.start();
    let who = Credentials::user(NOBODY).in_unit(&unit);
    let run = |words: &[&str]| {
        let mut run = command(&host, words);
        who.apply_to(&mut run);
        run.current_dir("/").output().unwrap()
    };
    // The unit's cgroup is root's, and there is no service manager here.
    let output = run(&["--as", "job", "--", "true"]);
    let said = texts(&output).1;
    assert!(output.status.code() == Some(1) && said.contains("Delegate=yes"), "{said}");
    for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"] {
        let dir = PathBuf::from(format!("{mount}/system.slice/{}", unit.name));
        if dir.join("cgroup.procs").exists() {
            chown(&dir, Some(NOBODY), None).unwrap();
            chown(dir.join("cgroup.procs"), Some(NOBODY), None).unwrap();
        }
    }
    let file = format!("token={API}");
    let output = run(&["--as", "job", "--file", &file, "--", "sh", "-c", "cat $HOSTBADGE_RUN_DIR/token"]);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    let said = jwt(&out);
    assert_eq!(
        (&said["client_id"], &said["hostbadge"]["boundary"]),
        (&json!("runner/sub/job"), &json!("cooperative"))
    );

    // A program with the setuid bit runs, and is of another user than the sub-agent.
    let dir = tempfile::Builder::new().prefix("hostbadge-suid").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let suid = dir.path().join("hostbadge");
    copy_program(program("hostbadge"), &suid, "");
    fs::set_permissions(&suid, fs::Permissions::from_mode(0o4755)).unwrap();
    let suid = suid.display().to_string();
    let output = run(&["--as", "suid", "--", &suid, "whoami"]);
    let err = texts(&output).1;
    assert!(output.status.code() == Some(1) && err.contains("has processes of uid 65534 alone"), "{err}");
}

#[test]
fn a_command_that_goes_on_in_the_background_is_left_and_said() {
    let host = host("");
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let script = format!("sleep 60 >/dev/null 2>&1 & echo $! > {}", pid_file.display());
    let output = command(&host, &["--as", "daemon", "--", "sh", "-c", &script]).output().unwrap();
    let said = texts(&output).1;
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("processes that it started run on"), "{said}");
    let pid: i32 = until("the pid", || fs::read_to_string(&pid_file).ok()?.trim().parse().ok());
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    remove_cgroup(&host, "runner/sub/daemon");
}

#[test]
fn nothing_of_a_run_is_left_where_others_of_the_user_can_read_it() {
    let host = host("");
    let file = format!("/dev/shm/hostbadge-test-{}", std::process::id());
    let token = format!("{file}={API}");
    // The processes that run the command do not have what was removed, or do not show it.
    let script = format!(
        "cat {file}; for pid in $PPID $(ps -o ppid= -p $PPID); do tr '\\0' '\\n' </proc/$pid/environ; done 2>/dev/null; ulimit -c"
    );
    let mut run = command(
        &host,
        &[
            "--as",
            "a",
            "--file",
            &token,
            "--",
            "setpriv",
            "--reuid=65534",
            "--clear-groups",
            "sh",
            "-c",
            &script,
        ],
    );
    let output = run.env("MY_API_KEY", "0123456789abcdef").output().unwrap();
    let (out, err) = texts(&output);
    assert!(!out.contains("MY_API_KEY"), "{out} {err}");
    assert!(!Path::new(&file).exists());
    // Neither after a failure, nor after the end of the process in the cgroup.
    for (name, words) in [("b", &["/nonexistent/program"][..]), ("c", &["sh", "-c", "kill -9 $PPID"])] {
        let words = [&["--as", name, "--file", &token, "--"], words].concat();
        assert!(!command(&host, &words).output().unwrap().status.success());
        assert!(!Path::new(&file).exists(), "{words:?}");
    }
    fs::write(&file, "mine").unwrap();
    let output = command(&host, &["--as", "d", "--file", &token, "--", "true"]).output().unwrap();
    assert!(texts(&output).1.contains("exists already"), "{:?}", texts(&output));
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    fs::remove_file(&file).unwrap();
}

#[test]
fn a_run_that_waits_for_the_daemon_ends_at_a_signal() {
    let host = host("");
    host.signal(Signal::SIGSTOP);
    let mut child = command(&host, &["--as", "x", "--", "true"]).spawn().unwrap();
    // The process in the cgroup waits for its word.
    pause(std::time::Duration::from_millis(500));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let status = until("it ends", || child.try_wait().unwrap());
    host.signal(Signal::SIGCONT);
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32), "{status}");
}

#[test]
fn what_is_refused_runs_nothing() {
    let host = host("");
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let touch = format!("touch {}", mark.display());
    let unknown = "token=https://unknown.example.com";
    for (words, code, expected) in [
        (&["--as", "Bad Name"][..], 1, "is not a valid agent name"),
        (&["--as", "x", "--grant", "https://unknown.example.com"], 1, "has no grant for the audience"),
        (&["--as", "x", "--file", unknown], 1, "has no grant for this audience"),
        (&["--as", "x2", "--env", "T=https://unknown.example.com"], 1, "has no grant for this audience"),
        (&["--as", "x3", "--file", "../t=https://api.example.com"], 1, "name a file without a directory"),
        (&["--as", "x4", "--file", "/var/tmp/t=https://api.example.com"], 1, "not in memory"),
        (&["--file", "t"], 2, "write NAME=AUDIENCE"),
        (&["--slice", "a.slice"], 1, "needs a cgroup of its own"),
    ] {
        let words = [words, &["--", "sh", "-c", &touch]].concat();
        let output = command(&host, &words).output().unwrap();
        let said = texts(&output).1;
        assert!(
            output.status.code() == Some(code) && said.contains(expected),
            "{words:?}: {} {said}",
            output.status
        );
        assert!(!mark.exists(), "{words:?}");
    }
    let missing = command(&host, &["--as", "y", "--", "/nonexistent/program"]).output().unwrap();
    assert!(
        missing.status.code() == Some(1) && texts(&missing).1.contains("/nonexistent/program: No such file")
    );
    let mut without_daemon = command(&host, &["--as", "z", "--", "sh", "-c", &touch]);
    let output = without_daemon.env("HOSTBADGE_SOCKET", "/nonexistent/agent.sock").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{:?}", texts(&output));
    assert!(!mark.exists());
}

#[test]
fn a_check_says_what_the_command_would_get() {
    let host = host("");
    let file = format!("token={API}");
    let mut check = command(
        &host,
        &["--check", "--json", "--as", "job", "--file", &file, "--", "rm", "-rf", "/nonexistent"],
    );
    let output = check.env("X_API_KEY", "0123456789abcdef").output().unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["command"], json!(["rm", "-rf", "/nonexistent"]));
    assert_eq!((&plan["as"], &plan["rights"]), (&json!("job"), &json!(["all rights of its parent"])));
    assert_eq!(plan["place"], "a cgroup below that of this process");
    assert!(plan["removed_variables"].as_array().unwrap().contains(&json!("X_API_KEY")), "{plan}");
    assert_eq!(plan["token_files"], json!([file]));
    let output = command(&host, &["--check", "--as", "job", "--no-grants", "--", "true"]).output().unwrap();
    assert!(
        texts(&output).0.contains("sub-agent job of this process's agent, with no rights but its identity")
    );
    let lines = host.audit();
    assert!(with_event(&lines, "sub-agent-delegated").is_empty());
}

#[test]
fn whoami_says_who_delegated_the_cgroup_and_until_when() {
    let host = host("ttl = \"5m\"");
    for words in [&["whoami"][..], &["whoami", "--why"]] {
        let hostbadge = program("hostbadge");
        let mut run = command(&host, &["--as", "named", "--", hostbadge.as_ref()]);
        let (out, err) = texts(&run.args(words).output().unwrap());
        let line =
            out.lines().find(|line| line.starts_with("delegated ")).unwrap_or_else(|| panic!("{out}{err}"));
        let (said, until) = line.rsplit_once(", until ").unwrap();
        assert!(said.contains(" by runner, /") && said.contains(", boundary "), "{line}");
        assert!(until.ends_with('Z'), "{line}");
        remove_cgroup(&host, "runner/sub/named");
    }
}

#[test]
fn the_status_of_the_command_is_known_where_the_caller_ignores_its_children() {
    let host = host("");
    let hostbadge = program("hostbadge");
    for words in ["--", "--as child --"] {
        let script = format!("trap '' CHLD; exec timeout 60 {} run {words} sh -c 'exit 3'", hostbadge);
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).env("HOSTBADGE_SOCKET", host.agent_socket());
        let output = shell.env_remove("XDG_RUNTIME_DIR").stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{words}: {}", texts(&output).1);
    }
    remove_cgroup(&host, "runner/sub/child");
}

/// A host with an agent for which nobody may start commands, and the unit of a user whose cgroup is the user's. What is
/// in `more` is added to the agent's file.
fn host_of_another_agent(more: &str) -> (Host, Unit) {
    require_root();
    let unit = Unit::new("shell").in_unified_hierarchy();
    for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"] {
        let dir = PathBuf::from(format!("{mount}/system.slice/{}", unit.name));
        if dir.join("cgroup.procs").exists() {
            chown(&dir, Some(NOBODY), None).unwrap();
            chown(dir.join("cgroup.procs"), Some(NOBODY), None).unwrap();
        }
    }
    let mut host = Host::new();
    host.agents_file("researcher", &researcher(more));
    host.start();
    (host, unit)
}

fn researcher(more: &str) -> String {
    format!(
        "name = \"researcher\"\n[match]\nunit = \"researcher.service\"\n{more}\n[[grant]]\naudience = \"{API}\"\n\
         scopes = [\"docs.read\", \"docs.write\"]\n"
    )
}

/// What `hostbadge run` prints for a user in a unit.
fn run_as_nobody(host: &Host, unit: &Unit, words: &[&str]) -> (Option<i32>, String, String) {
    let mut run = command(host, words);
    Credentials::user(NOBODY).in_unit(unit).apply_to(&mut run);
    let output = run.current_dir("/").output().unwrap();
    let (out, err) = texts(&output);
    (output.status.code(), out, err)
}

#[test]
fn a_user_whom_the_file_of_an_agent_names_starts_commands_for_it() {
    let (host, unit) = host_of_another_agent("[run]\nusers = [\"nobody\"]\nttl = \"10m\"");
    let file = format!("token={API}");
    let grant = format!("{API} docs.read");
    let job = ["--as", "researcher/sub/run-job", "--file", &file, "--grant", &grant];
    let script = "cat $HOSTBADGE_RUN_DIR/token; $0 whoami --json";
    let program = program("hostbadge");
    let words = [&job[..], &["--", "sh", "-c", script, &program]].concat();
    let (status, out, err) = run_as_nobody(&host, &unit, &words);
    assert_eq!(status, Some(0), "{err}");
    let (token, whoami) = out.split_once('\n').unwrap();
    let said = jwt(token);
    assert_eq!(said["client_id"], json!("researcher/sub/run-job"));
    assert_eq!(
        (&said["scope"], &said["hostbadge"]["boundary"]),
        (&json!("docs.read"), &json!("cooperative"))
    );
    assert!(said["sub"].as_str().unwrap().ends_with("/agent/researcher"), "{said}");
    assert!(said["act"]["sub"].as_str().unwrap().ends_with("/agent/researcher/sub/run-job"), "{said}");
    let whoami: Value = serde_json::from_str(whoami).unwrap();
    assert_eq!(whoami["agent"], json!("researcher/sub/run-job"), "{whoami}");
    let lines = host.audit();
    let delegated = with_event(&lines, "sub-agent-delegated");
    assert_eq!(
        (&delegated[0]["agent"], &delegated[0]["peer"]["uid"]),
        (&json!("researcher"), &json!(NOBODY))
    );
    assert!(
        delegated[0]["detail"].as_str().unwrap().contains("started by uid 65534 by [run]"),
        "{delegated:?}"
    );

    // The user is not the agent, in that cgroup or any other, and a command starts none for its user.
    let who = Credentials::user(NOBODY).in_unit(&unit);
    assert_eq!(who.token(&host).status, 401);
    let nested = ["--as", "researcher/sub/run-other", "--", "sh", "-c", "true"];
    let words = [&["--as", "researcher/sub/run-outer", "--", program.as_str(), "run"], &nested[..]].concat();
    let (status, _, err) = run_as_nobody(&host, &unit, &words);
    assert!(status == Some(1) && err.contains("is not agent \"researcher\""), "{status:?} {err}");
    let unprefixed = ["--as", "researcher/sub/other", "--", "true"];
    let (status, _, err) = run_as_nobody(&host, &unit, &unprefixed);
    assert!(status == Some(1) && err.contains("begins with run-, as run-other"), "{status:?} {err}");
    // A sub-agent of a command needs [delegate].
    let inner = ["--as", "researcher/sub/run-outer2", "--", &program, "run", "--as", "inner", "--", "true"];
    let (status, _, err) = run_as_nobody(&host, &unit, &inner);
    assert!(status == Some(1) && err.contains("has no [delegate]"), "{status:?} {err}");
}

#[test]
fn who_is_not_named_starts_nothing_for_an_agent() {
    let (mut host, unit) = host_of_another_agent("[run]\nusers = [\"daemon\"]\ngroups = [\"daemon\"]");
    let words = ["--as", "researcher/sub/run-job", "--", "true"];
    let refused = |host: &Host, words: &[&str]| {
        let (status, _, err) = run_as_nobody(host, &unit, words);
        assert!(
            status == Some(1)
                && err.contains("no registered agent matches this process, and no [run] permits uid 65534"),
            "{status:?} {err}"
        );
        err.lines().next().unwrap().replace("nobodys", "researcher")
    };
    let text = refused(&host, &words);
    // Whether there is such an agent is not told.
    assert_eq!(text, refused(&host, &["--as", "nobodys/sub/run-job", "--", "true"]));
    // Root may not either: [run] says who may.
    let output = command(&host, &words).output().unwrap();
    assert!(texts(&output).1.contains("no registered agent matches"), "{output:?}");

    // A group of the user is enough; what was started ends when the file names others.
    host.agents_file("researcher", &researcher("[run]\ngroups = [\"nogroup\"]"));
    assert_eq!(host.admin().post("/v1/agents/reload", &json!({})).status, 200);
    let script = "echo started; read line; exec $0 whoami";
    let program = program("hostbadge");
    let words = ["--as", "researcher/sub/run-job", "--", "sh", "-c", script, &program];
    let mut waiting = command(&host, &words);
    Credentials::user(NOBODY).group(NOBODY).in_unit(&unit).apply_to(&mut waiting);
    let pipes = waiting.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut waiting = pipes.current_dir("/").spawn().unwrap();
    read_started(&mut waiting);
    host.crash();
    host.start();
    host.agents_file("researcher", &researcher("[run]\nusers = [\"daemon\"]"));
    assert_eq!(host.admin().post("/v1/agents/reload", &json!({})).status, 200);
    waiting.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = waiting.wait_with_output().unwrap();
    let err = texts(&output).1;
    assert!(output.status.code() == Some(1) && err.contains("its parent may not have it any more"), "{err}");
}

#[test]
fn what_a_user_does_is_not_what_the_agent_does() {
    let more = "[run]\nusers = [\"nobody\"]\n[anomaly]\nrefusals = \"suspend\"\n[delegate]";
    let (host, unit) = host_of_another_agent(more);
    let who = Credentials::user(NOBODY).in_unit(&unit);
    let delegate = |cgroup: &str| {
        let body = json!({ "agent": "researcher", "name": "run-x", "cgroup": cgroup }).to_string();
        who.curl(&host, "/v1/delegate", &["-H", "Content-Type: application/json", "-d", &body])
    };
    for _ in 0..25 {
        assert_eq!(delegate("missing").status, 400);
    }
    // A cgroup below the user's own that another user has made.
    let name = format!("/system.slice/{}/of-root", unit.name);
    let dir =
        ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|mount| PathBuf::from(format!("{mount}{name}")));
    let dir = dir.iter().find(|dir| fs::create_dir(dir).is_ok()).expect("a cgroup");
    let answer = delegate(&name);
    assert!(answer.text().contains("is not a cgroup of this user"), "{}", answer.text());
    chown(dir, Some(NOBODY), None).unwrap();
    let answer = delegate(&name);
    assert_eq!(
        (answer.status, &answer.json()["boundary"]),
        (200, &json!("cooperative")),
        "{}",
        answer.text()
    );
    let refused =
        host.audit().into_iter().filter(|line| line["event"] == "request-refused").collect::<Vec<_>>();
    assert!(!refused.is_empty() && refused.iter().all(|line| line["agent"].is_null()), "{refused:?}");
    assert_eq!(host.admin().get("/v1/anomalies").json()["alerts"], json!([]));
    fs::remove_dir(dir).unwrap();
}

#[test]
fn no_more_commands_run_for_an_agent_than_its_file_says() {
    let (mut host, unit) = host_of_another_agent("[run]\nusers = [\"nobody\"]\nmax = 1\n[delegate]\nmax = 1");
    let words = ["--as", "researcher/sub/run-one", "--", "sh", "-c", "echo started; exec sleep 60"];
    let mut first = command(&host, &words);
    Credentials::user(NOBODY).in_unit(&unit).apply_to(&mut first);
    let mut first = first.current_dir("/").stdout(Stdio::piped()).spawn().unwrap();
    read_started(&mut first);
    let (status, _, err) = run_as_nobody(&host, &unit, &["--as", "researcher/sub/run-two", "--", "true"]);
    assert!(status == Some(1) && err.contains("which is its limit ([run] max)"), "{status:?} {err}");
    kill(Pid::from_raw(first.id().cast_signed()), Signal::SIGTERM).unwrap();
    first.wait().unwrap();

    // What a command has below it takes a place of a command, and not of what the agent delegates itself.
    let program = program("hostbadge");
    let inner = [program.as_str(), "run", "--as", "inner", "--", "true"];
    let nested = [&["--as", "researcher/sub/run-two", "--"][..], &inner].concat();
    host.agents_file(
        "researcher",
        &researcher("[run]\nusers = [\"nobody\"]\nmax = 1\n[delegate]\ndepth = 2"),
    );
    host.reload();
    let (status, _, err) = run_as_nobody(&host, &unit, &nested);
    assert!(
        status == Some(1) && err.contains("has 1 sub-agents, which is its limit ([run] max)"),
        "{status:?} {err}"
    );
    host.agents_file(
        "researcher",
        &researcher("[run]\nusers = [\"nobody\"]\nmax = 2\n[delegate]\ndepth = 2\nmax = 1"),
    );
    host.reload();
    let (status, _, err) = run_as_nobody(&host, &unit, &nested);
    assert_eq!(status, Some(0), "{err}");

    // Policies see the process of the user.
    let policies = host.path("etc/policies");
    fs::create_dir_all(&policies).unwrap();
    let policy = "forbid (principal == Agent::\"researcher\", action == Action::\"delegate\", resource) when { \
                  context.peer.uid == 65534 };\n";
    fs::write(policies.join("a.cedar"), policy).unwrap();
    host.reload();
    let three = ["--as", "researcher/sub/run-three", "--", "true"];
    let (status, _, err) = run_as_nobody(&host, &unit, &three);
    assert!(status == Some(1) && err.contains("forbidden by policy"), "{status:?} {err}");
    fs::remove_file(policies.join("a.cedar")).unwrap();
    // A process could be a sub-agent that is not known.
    host.stop();
    fs::write(host.path("state/delegations.json"), "torn").unwrap();
    host.start();
    let (status, _, err) = run_as_nobody(&host, &unit, &three);
    assert!(status == Some(4) && err.contains("is not known yet"), "{status:?} {err}");
}

/// Waits until a command has printed that it has started.
fn read_started(child: &mut Child) {
    let mut line = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"started\n");
}
