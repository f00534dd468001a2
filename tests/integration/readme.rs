//! The agent and the resource server in Python that the README shows.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::common::Host;
use crate::common::libraries::python_with;

const README: &str = include_str!("../../README.md");

/// The program of the README that begins with a comment with this name.
fn program(name: &str) -> &'static str {
    let mut blocks = README.split("```python\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let (text, _) = blocks.find(|(text, _)| text.starts_with(&format!("# {name}"))).expect(name);
    assert!(text.lines().count() <= 25, "{name} is to be short");
    text
}

/// The server, ended on drop.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the server on a free port, which it prints.
fn serve(python: &Path, dir: &Path, issuer: &str) -> (Server, String) {
    let mut command = Command::new(python);
    command.arg("server.py").current_dir(dir).env("ISSUER", issuer).env("PORT", "0");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().strip_prefix("port ").expect("the server prints its port").to_owned();
    (Server(child), format!("http://127.0.0.1:{port}/"))
}

fn call(python: &Path, host: &Host, url: &str) -> Output {
    Command::new(python)
        .arg("agent.py")
        .current_dir(host.path(""))
        .env("HOSTBADGE_SOCKET", host.agent_socket())
        .env("API_URL", url)
        .output()
        .unwrap()
}

#[test]
fn the_python_agent_is_served_by_the_python_server() {
    let host = Host::started();
    let python = python_with("pyjwt", &["pyjwt[crypto]==2.10.1"]);
    for name in ["agent.py", "server.py"] {
        fs::write(host.path(name), program(name)).unwrap();
    }
    let exported = host.hostbadge(&["export", "jwks", "-o", host.path("jwks.json").to_str().unwrap()]);
    assert!(exported.status.success());
    let issuer = host.status()["host"]["issuer"].as_str().unwrap().to_owned();
    let (_server, url) = serve(&python, &host.path(""), &issuer);
    let served = call(&python, &host, &url);
    assert!(served.status.success(), "{}", String::from_utf8_lossy(&served.stderr));
    assert_eq!(String::from_utf8_lossy(&served.stdout).trim(), "hello root");
    // What the daemon refuses is said as the daemon says it.
    let agent = program("agent.py").replace("https://api.example.com", "https://other.example.com");
    fs::write(host.path("agent.py"), agent).unwrap();
    let unserved = call(&python, &host, &url);
    let said = String::from_utf8_lossy(&unserved.stderr).into_owned();
    assert_eq!(unserved.status.code(), Some(1));
    assert_eq!(said, "hostbadge: invalid_target: agent \"root\" has no grant for this audience\n");
    fs::write(host.path("agent.py"), program("agent.py")).unwrap();

    let (_elsewhere, url) = serve(&python, &host.path(""), "https://other.example.com");
    let refused = call(&python, &host, &url);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("HTTP Error 401"));
}

/// Terms are found by their name.
#[test]
fn the_glossary_is_in_alphabetical_order() {
    let glossary = include_str!("../../docs/glossary.md");
    let rows = glossary.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let terms: Vec<String> =
        rows.map(|row| row.split(" | ").next().unwrap().trim_start_matches("| ").to_lowercase()).collect();
    assert!(terms.len() > 40 && terms.is_sorted(), "{terms:#?}");
}
