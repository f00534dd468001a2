//! Where the command writes, and what it says of sockets: failing standard output, devices, wrong sockets.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::callers::{Credentials, NOBODY};
use crate::common::{API, Host, copy_program, program, until_true};
use serde_json::Value;

fn hostbadge(host: &Host, words: &[&str]) -> Command {
    let mut command = Command::new(program("hostbadge"));
    command
        .args(words)
        .env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket())
        .env("HOSTBADGE_SOCKET", host.agent_socket());
    command
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_full_standard_output_is_an_error_of_every_subcommand() {
    let host = Host::started();
    let dir = host.path("etc/agents.d");
    let commands: [&[&str]; 17] = [
        &["whoami"],
        &["token", API],
        &["token", API, "--json"],
        &["certificate"],
        &["attest", "--nonce", "AAAAAAAAAAAAAAAAAAAAAA"],
        &["status"],
        &["status", "--json"],
        &["agent", "list"],
        &["agent", "show", "root"],
        &["agent", "check", dir.to_str().unwrap()],
        &["agent", "reload"],
        &["key", "list"],
        &["posture", "show"],
        &["export", "jwks"],
        &["audit", "tail"],
        &["enroll", "request"],
        &["--help"],
    ];
    for words in commands {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let output = hostbadge(&host, words).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", message(&output));
        assert!(
            message(&output).contains("standard output: No space left"),
            "{words:?}: {}",
            message(&output)
        );
        // Where standard error fails too, the exit status is left.
        let silent = hostbadge(&host, words).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(silent.code(), Some(1), "{words:?}");
    }
}

/// Runs the command with descriptors 0 to 2 as the redirections of a shell say.
fn redirected(host: &Host, words: &[&str], redirections: &str) -> Command {
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(format!("exec \"$@\" {redirections}"))
        .arg("sh")
        .arg(program("hostbadge"))
        .args(words);
    shell.env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket()).env("HOSTBADGE_SOCKET", host.agent_socket());
    shell
}

#[test]
fn a_closed_standard_output_is_an_error_before_the_request() {
    let host = Host::started();
    let path = |name: &str| host.path(name).to_str().unwrap().to_owned();
    let before = host.audit_text().lines().count();
    let commands: [&[&str]; 17] = [
        &["whoami"],
        &["token", API],
        &["token", API, "--output", "-"],
        &["token", API, "--json"],
        &["certificate"],
        &["attest", "--nonce", "AAAAAAAAAAAAAAAAAAAAAA"],
        &["status"],
        &["agent", "list"],
        &["agent", "reload"],
        &["key", "rotate"],
        &["key", "recovery"],
        &["credential", "get", "github"],
        &["credential", "list"],
        &["export", "jwks"],
        &["audit", "tail"],
        &["enroll", "request"],
        &["verify", "token", "x", "--jwks", "/dev/null"],
    ];
    for words in commands {
        let output = redirected(&host, words, ">&-").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        let message = message(&output);
        assert!(
            message.starts_with("hostbadge: standard output: it is closed, so the result would be lost"),
            "{words:?}: {message}"
        );
    }
    assert_eq!(host.audit_text().lines().count(), before, "nothing was requested");
    assert_eq!(redirected(&host, &["--version"], ">&- 2>&-").status().unwrap().code(), Some(1));
    // What goes to a file needs no standard output, and who names /dev/null wants it.
    for (words, file) in [
        (&["token", API, "--output", &path("token")][..], "token"),
        (&["certificate", "--output", &path("svid")], "svid/cert.pem"),
        (&["export", "jwks", "--output", &path("jwks.json")], "jwks.json"),
        (&["key", "recovery", "--output", &path("recovery-key")], "recovery-key"),
    ] {
        let output = redirected(&host, words, "<&- >&-").output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", message(&output));
        assert!(fs::metadata(host.path(file)).unwrap().len() > 10, "{words:?}");
    }
    assert!(redirected(&host, &["token", API], ">/dev/null").status().unwrap().success());
}

/// Otherwise a message would be written into a socket or a file that has the number of a standard stream.
#[test]
fn closed_standard_streams_are_never_other_files() {
    let mut host = Host::started();
    let file = host.path("token");
    let words = ["token", API, "--watch", file.to_str().unwrap()];
    let mut watch = redirected(&host, &words, "<&- >&- 2>&-").spawn().unwrap();
    until_true("the token is written", || file.exists());
    assert_eq!(standard_streams(watch.id()), [Path::new("/dev/null"); 3]);
    watch.kill().unwrap();
    watch.wait().unwrap();
    host.stop();

    let daemon = host.command();
    let words: Vec<_> = daemon.get_args().collect();
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" <&- >&- 2>&-", "sh"]).arg(daemon.get_program()).args(words);
    let mut daemon = shell.spawn().unwrap();
    until_true("the daemon issues", || {
        let words = ["token", API, "--output", file.to_str().unwrap()];
        host.hostbadge(&words).status.success()
    });
    assert_eq!(standard_streams(daemon.id()), [Path::new("/dev/null"); 3]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon.id() as i32), nix::sys::signal::SIGTERM)
        .unwrap();
    assert!(daemon.wait().unwrap().success());
}

fn standard_streams(pid: u32) -> [std::path::PathBuf; 3] {
    [0, 1, 2].map(|fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap())
}

/// Scripts of earlier releases keep working.
#[test]
fn options_have_one_name_and_earlier_names_are_accepted() {
    let host = Host::started();
    let svid = host.path("svid");
    assert!(host.hostbadge(&["certificate", "--out", svid.to_str().unwrap()]).status.success());
    assert!(svid.join("cert.pem").exists());
    for (words, option, earlier) in [
        (&["certificate"][..], "--output", "--out "),
        (&["enroll", "certify"], "--csr-only", "--csr "),
        (&["verify", "evidence"], "--ca-cert", "--ca "),
    ] {
        let help = host.hostbadge(&[words, &["--help"]].concat()).stdout;
        let help = String::from_utf8(help).unwrap();
        assert!(help.contains(option) && !help.contains(earlier), "{help}");
    }
    for words in [&["enroll", "certify", "--csr"][..], &["verify", "evidence", "--ca", "/nonexistent"]] {
        let said = message(&host.hostbadge(words));
        assert!(!said.contains("unexpected argument"), "{said}");
    }
}

#[test]
fn a_reader_that_has_gone_ends_the_command_without_a_message() {
    let host = Host::started();
    for words in [&["token", API][..], &["status"], &["audit", "tail", "-f"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = hostbadge(&host, words).stdout(writer).output().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&output.status),
            Some(libc::SIGPIPE),
            "{words:?}"
        );
        assert_eq!(message(&output), "", "{words:?}");
    }
}

#[test]
fn outputs_replace_regular_files_only() {
    let host = Host::started();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let export = |file: &Path| hostbadge(&host, &["export", "jwks", "-o"]).arg(file).output().unwrap();
    let jwks = host.hostbadge(&["export", "jwks"]).stdout;

    let null = Command::new("mknod").arg(path("null")).args(["c", "1", "3"]).status().unwrap();
    assert!(null.success());
    symlink("null", path("link to null")).unwrap();
    for name in ["null", "link to null"] {
        assert!(export(&path(name)).status.success());
    }
    assert!(fs::metadata(path("null")).unwrap().file_type().is_char_device());
    assert!(path("link to null").is_symlink());

    for standard_output in ["-", "/dev/stdout", "/dev/fd/1"] {
        assert_eq!(export(Path::new(standard_output)).stdout, jwks, "{standard_output}");
    }
    let redirected = File::create(path("redirected")).unwrap();
    let to_file =
        hostbadge(&host, &["export", "jwks", "-o", "/dev/stdout"]).stdout(redirected).status().unwrap();
    assert_eq!((to_file.success(), fs::read(path("redirected")).unwrap()), (true, jwks.clone()));

    let fifo = path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let received = Command::new("cat").arg(&fifo).stdout(Stdio::piped()).spawn().unwrap();
    assert!(export(&fifo).status.success());
    assert_eq!(received.wait_with_output().unwrap().stdout, jwks);
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());

    fs::write(path("real"), "mine").unwrap();
    symlink("real", path("link")).unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    for (name, reason) in [
        ("link", "is a symbolic link; name the file itself"),
        ("dangling", "is a symbolic link; name the file itself"),
        (".", "is a directory; name a file"),
    ] {
        let refused = export(&path(name));
        assert_eq!(refused.status.code(), Some(1));
        assert!(message(&refused).contains(reason), "{}", message(&refused));
    }
    assert_eq!(fs::read_to_string(path("real")).unwrap(), "mine");
    assert!(!path("nowhere").exists());
    assert!(export(&path("real")).status.success());
    assert_eq!(fs::read(path("real")).unwrap(), jwks);
}

#[test]
fn wrong_sockets_are_named() {
    let host = Host::started();
    let socket = |name: &str| host.path(&format!("run/{name}.sock")).to_str().unwrap().to_owned();
    for name in ["agent", "workload", "admin"] {
        assert!(host.log().contains(&socket(name)), "a development host names its sockets: {}", host.log());
    }
    let agents = format!("{}/*.toml, then hostbadge agent reload", host.path("etc/agents.d").display());
    assert!(host.log().contains(&agents), "and where its agents are: {}", host.log());
    let file = host.path("file");
    fs::write(&file, "").unwrap();
    let long = format!("/tmp/{}", "a".repeat(110));
    let cases: [(&str, &str, &str, i32, &str); 8] = [
        ("--socket", &format!("unix://{}", socket("agent")), "whoami", 0, ""),
        ("--socket", &format!("unix:{}", socket("agent")), "whoami", 0, ""),
        (
            "--socket",
            &socket("admin"),
            "whoami",
            1,
            "name the agent socket with --socket or HOSTBADGE_SOCKET",
        ),
        ("--admin-socket", &socket("agent"), "status", 1, "name the admin socket with --admin-socket"),
        ("--socket", &socket("workload"), "whoami", 3, "it serves gRPC to SPIFFE clients"),
        ("--socket", file.to_str().unwrap(), "whoami", 3, "this is not a socket"),
        ("--socket", &long, "whoami", 3, "may have 107 bytes"),
        ("--socket", &socket("none"), "whoami", 3, "there is no socket here"),
    ];
    for (option, path, subcommand, status, reason) in cases {
        let output = hostbadge(&host, &[option, path, subcommand]).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{path}: {}", message(&output));
        assert!(message(&output).contains(reason), "{path}: {}", message(&output));
        if status == 0 {
            continue;
        }
        let output = hostbadge(&host, &[option, path, subcommand, "--json"]).output().unwrap();
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected = if status == 3 { "no_daemon" } else { "invalid_request" };
        assert_eq!((output.status.code(), &error["error"]), (Some(status), &expected.into()), "{path}");
        assert!(error["error_description"].as_str().unwrap().contains(reason), "{error}");
    }
    // Other users may not be able to read the build directory.
    copy_program(program("hostbadge"), &host.path("hostbadge"), "");
    let mut other_user = Command::new(host.path("hostbadge"));
    other_user.arg("status").env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket());
    Credentials::user(NOBODY).apply_to(&mut other_user);
    let output = other_user.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(message(&output).contains("this user may not connect"), "{}", message(&output));
    // A variable can be a URI, too, and is not listed by usage errors.
    let uri = format!("unix://{}", socket("agent"));
    let output = hostbadge(&host, &["whoami"]).env("HOSTBADGE_SOCKET", uri).output().unwrap();
    assert!(output.status.success(), "{}", message(&output));
    for words in [&["token"][..], &["attest"], &["tokne"]] {
        let output = hostbadge(&host, words).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(!message(&output).contains("socket"), "{}", message(&output));
    }
}

/// The completion of agents' names in bash, which the packages append to the generated script.
#[test]
fn names_of_agents_are_completed() {
    let host = Host::started();
    host.agent("researcher", "user = 0");
    host.agent("reader", "user = 1");
    host.reload();
    let script = format!("{}/packaging/completions/agents.bash", env!("CARGO_MANIFEST_DIR"));
    let shell = "_hostbadge() { COMPREPLY=(generated); }; . \"$SCRIPT\"; COMP_WORDS=(\"$@\"); \
                 COMP_CWORD=$(($# - 1)); _hostbadge_with_agents hostbadge; echo \"${COMPREPLY[*]}\"";
    let directory = Path::new(&program("hostbadge")).parent().unwrap().to_owned();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
    let completed = |words: &[&str], admin_socket: &Path| {
        let mut bash = Command::new("bash");
        bash.args(["-c", shell, "bash"]).args(words).env("SCRIPT", &script).env("PATH", &path);
        bash.env("HOSTBADGE_ADMIN_SOCKET", admin_socket).env("HOSTBADGE_SOCKET", host.agent_socket());
        String::from_utf8(bash.output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let admin = host.admin_socket();
    assert_eq!(completed(&["hostbadge", "agent", "show", "r"], &admin), "reader researcher root");
    assert_eq!(completed(&["hostbadge", "agent", "show", "res"], &admin), "researcher");
    assert_eq!(completed(&["hostbadge", "token", API, "--agent", ""], Path::new("none")), "researcher root");
    assert_eq!(completed(&["hostbadge", "agent", ""], &admin), "generated");
}
