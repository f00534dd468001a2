//! Harnesses of agents with the files of `examples/harnesses/`: what each starts is a sub-agent. A stub answers as the
//! model, so nothing is sent to a network.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::audit_log::with_event;
use crate::common::libraries::{node_with, python_with};
use crate::common::processes::Running;
use crate::common::{API, Host, program, require_root};

const MCP: &str = "mcp==2.3.0";
const OPENAI_AGENTS: &str = "openai-agents==0.24.0";
const LANGGRAPH: &str = "langgraph==1.2.24";
const LANGCHAIN: &str = "langchain-core==1.8.3";
const CREWAI: &str = "crewai==1.15.30";
const CLAUDE_CODE: &str = "@anthropic-ai/claude-code@2.1.197";
const CODEX: &str = "@openai/codex@0.171.0";
/// A secret in the environment of the harness, which no sub-agent gets.
const KEY: &str = "stub-0123456789abcdef";

/// A host on which root is the agent `harness`, with sub-agents.
fn host() -> Host {
    require_root();
    let mut host = Host::new();
    let text = format!(
        "name = \"harness\"\n[match]\nuser = 0\n[delegate]\nmax = 64\n[[grant]]\naudience = \"{API}\"\n\
         scopes = [\"docs.read\", \"docs.write\"]\n"
    );
    host.agents_file("harness", &text);
    host.start();
    host
}

/// A copy of the examples: Python writes files beside them.
fn examples(host: &Host) -> PathBuf {
    let to = host.path("examples");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let status = Command::new("cp").arg("-r").arg(from).arg(&to).status().unwrap();
    assert!(status.success());
    to.join("harnesses")
}

fn client(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/harnesses").join(name)
}

/// A command with a directory of its own as home, and `hostbadge` and `programs` in its path.
fn harness(host: &Host, words: &[&Path], programs: &Path) -> Command {
    let home = host.path("home");
    fs::create_dir_all(&home).unwrap();
    let own = PathBuf::from(program("hostbadge")).parent().unwrap().to_owned();
    let before = std::env::var_os("PATH").unwrap();
    let path = [programs.to_owned(), own].into_iter().chain(std::env::split_paths(&before));
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(&home).env_clear().stdin(Stdio::null());
    command.env("PATH", std::env::join_paths(path).unwrap()).env("HOME", &home);
    command.env("HOSTBADGE_SOCKET", host.agent_socket()).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    out
}

/// Runs a program of `tests/clients/harnesses` with the examples, and returns the sub-agents that its tools were. Each
/// line is: the agent, the agent of its token, the token's scope, and the keys in its environment.
#[track_caller]
fn sub_agents(host: &Host, python: &Path, script: &str) -> Vec<String> {
    let mut command = harness(host, &[python, &client(script), &examples(host)], python.parent().unwrap());
    let out = printed(command.env("OPENAI_API_KEY", KEY));
    let agent = |line: &str| {
        let parts: Vec<&str> = line.splitn(3, ' ').collect();
        let [agent, token_of, rest] = parts[..] else { panic!("{out}") };
        assert_eq!((agent, rest), (token_of, "docs.read []"), "{out}");
        agent.to_owned()
    };
    out.lines().map(agent).collect()
}

#[test]
fn an_mcp_server_is_a_sub_agent() {
    let host = host();
    let python = python_with("mcp", &[MCP]);
    assert_eq!(sub_agents(&host, &python, "mcp_client.py"), ["harness/sub/docs"]);
}

#[test]
#[ignore = "run by make test-harnesses: it installs 120 MB"]
fn tools_and_mcp_servers_of_the_openai_agents_sdk_are_sub_agents() {
    let host = host();
    let python = python_with("openai-agents", &[OPENAI_AGENTS, MCP]);
    let agents = sub_agents(&host, &python, "openai_agents.py");
    let [fetch, docs] = &agents[..] else { panic!("{agents:?}") };
    assert!(fetch.starts_with("harness/sub/fetch-") && docs == "harness/sub/docs", "{agents:?}");
}

#[test]
#[ignore = "run by make test-harnesses: it installs 100 MB"]
fn tools_of_langgraph_at_the_same_time_are_different_sub_agents() {
    let host = host();
    let python = python_with("langgraph", &[LANGGRAPH, LANGCHAIN]);
    let agents = sub_agents(&host, &python, "langgraph_stub.py");
    let [one, two] = &agents[..] else { panic!("{agents:?}") };
    assert!(agents.iter().all(|agent| agent.starts_with("harness/sub/fetch-")) && one != two, "{agents:?}");
}

#[test]
#[ignore = "run by make test-harnesses: it installs 1 GB"]
fn tools_of_two_agents_of_crewai_are_sub_agents_with_the_names_of_both() {
    let host = host();
    let python = python_with("crewai", &[CREWAI]);
    let agents = sub_agents(&host, &python, "crewai_stub.py");
    let [fetcher, reviewer] = &agents[..] else { panic!("{agents:?}") };
    assert!(fetcher.starts_with("harness/sub/fetcher-"), "{agents:?}");
    assert!(reviewer.starts_with("harness/sub/reviewer-"), "{agents:?}");
}

/// The stub of a model with the calls that it makes: `(stub, its port)`.
fn stub_model(calls: &Value) -> (Running, String) {
    let mut command = Command::new("python3");
    command.arg("-B").arg(client("stub_model.py")).arg(calls.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut stub = Running::start(command);
    let mut port = String::new();
    BufReader::new(stub.stdout.take().unwrap()).read_line(&mut port).unwrap();
    (stub, port.trim().to_owned())
}

/// That the MCP server, the shell and the shell of the harness's sub-agent were three sub-agents.
#[track_caller]
fn assert_three_sub_agents(host: &Host, said: &str) {
    assert!(said.contains("\"agent\": \"harness/sub/docs\"") && said.contains("\"api_keys\": []"), "{said}");
    for name in ["main", "fetcher"] {
        assert!(said.contains(&format!("agent    harness/sub/{name}-")), "{name}: {said}");
    }
    let lines = host.audit();
    let delegated = with_event(&lines, "sub-agent-delegated");
    assert!(delegated.len() >= 3, "{delegated:?}");
}

#[test]
#[ignore = "run by make test-harnesses: it installs 235 MB"]
fn mcp_servers_and_shells_of_claude_code_are_sub_agents() {
    let host = host();
    let python = python_with("mcp", &[MCP]);
    let claude = node_with("claude-code", &[CLAUDE_CODE]).join("node_modules/.bin/claude");
    let who = "hostbadge whoami; test -z \"$ANTHROPIC_API_KEY\" && echo no key";
    let (_stub, port) = stub_model(&json!({
        "You are the fetcher": [["Bash", { "command": who, "description": "whoami" }]],
        "": [
            ["WaitForMcpServers", {}],
            ["mcp__docs__whoami", {}],
            ["Bash", { "command": who, "description": "whoami" }],
            ["Agent", { "subagent_type": "fetcher", "description": "fetch", "prompt": "Fetch." }],
        ],
    }));
    let mut command = harness(&host, &[&claude], python.parent().unwrap());
    command.current_dir(examples(&host).join("claude-code"));
    command.args(["-p", "hello", "--mcp-config", ".mcp.json", "--strict-mcp-config", "--allowedTools"]);
    command.args(["mcp__docs__whoami", "Bash(hostbadge run *)", "Agent"]);
    command.env("ANTHROPIC_BASE_URL", format!("http://127.0.0.1:{port}")).env("ANTHROPIC_API_KEY", KEY);
    command.env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1").env("DISABLE_AUTOUPDATER", "1");
    let said = printed(&mut command);
    assert_three_sub_agents(&host, &said);
    assert_eq!(said.matches("no key").count(), 2, "{said}");
}

#[test]
#[ignore = "run by make test-harnesses: it installs 424 MB"]
fn mcp_servers_and_shells_of_codex_are_sub_agents() {
    let host = host();
    let python = python_with("mcp", &[MCP]);
    let codex = node_with("codex", &[CODEX]).join("node_modules/.bin/codex");
    let files = examples(&host);
    let home = host.path("home");
    fs::create_dir_all(home.join(".codex")).unwrap();
    for name in ["config.toml", "fetcher.toml"] {
        let text = fs::read_to_string(files.join("codex").join(name)).unwrap();
        let text = text.replace("/opt/harnesses", files.to_str().unwrap());
        fs::write(home.join(".codex").join(name), text).unwrap();
    }
    // Codex starts login shells, whose path is that of the profile.
    let own = PathBuf::from(program("hostbadge")).parent().unwrap().display().to_string();
    fs::write(home.join(".profile"), format!("PATH={own}:$PATH\n")).unwrap();
    let seen = home.join("seen").display().to_string();
    let see = format!("hostbadge whoami > {seen}.new; mv {seen}.new {seen}");
    let wait = format!("hostbadge whoami; until test -e {seen}; do sleep 0.1; done; cat {seen}");
    let (_stub, port) = stub_model(&json!({
        "You are the fetcher": [["exec_command", { "cmd": see }]],
        "": [
            ["mcp__docs/whoami", {}],
            ["multi_agent_v1/spawn_agent", { "agent_type": "fetcher", "message": "Fetch." }],
            ["exec_command", { "cmd": wait, "yield_time_ms": 30000 }],
        ],
    }));
    let mut command = harness(&host, &[&codex], python.parent().unwrap());
    command.args(["exec", "--skip-git-repo-check", "--sandbox", "danger-full-access"]);
    command.args(["--dangerously-bypass-hook-trust", "--config", "mcp_servers.docs.required=true"]);
    command.args(["--config", "model=stub", "--config", "model_provider=stub", "--config"]);
    command.arg(format!(
        "model_providers.stub={{name=\"stub\",base_url=\"http://127.0.0.1:{port}/v1\",env_key=\"STUB_API_KEY\",\
         wire_api=\"responses\"}}"
    ));
    let said = printed(command.arg("hello").env("STUB_API_KEY", KEY));
    assert_three_sub_agents(&host, &said);
}
