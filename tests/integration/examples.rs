//! The files of `examples/`, each on a real daemon.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::callers::{Credentials, Unit};
use crate::common::processes::Running;
use crate::common::{API, Host, program, require_root, until_true};

#[path = "../../examples/rust/hostbadge.rs"]
mod rust_client;

/// A host on which this process is an agent whose tokens are bound to its proof key.
fn host() -> Host {
    let mut host = Host::new();
    host.agents_file(
        "a",
        &format!(
            "name = \"a\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\nbind = \"dpop\"\n\
             [[grant]]\naudience = \"https://open.example.com\"\nscopes = [\"read\", \"write\"]\n"
        ),
    );
    host.start();
    host
}

fn directory(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(language)
}

/// Runs a program that imports an example, and returns what it prints.
#[track_caller]
fn run(host: &Host, command: &mut Command) -> String {
    let output = command.env("HOSTBADGE_SOCKET", host.agent_socket()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn python(host: &Host, script: &str) -> String {
    run(host, Command::new("python3").env("PYTHONPATH", directory("python")).args(["-B", "-c", script]))
}

fn node(host: &Host, script: &str) -> String {
    let mut node = Command::new("node");
    run(host, node.current_dir(directory("node")).args(["--input-type=module", "-e", script]))
}

const CLIENT_OF_PYTHON: &str = r#"
import hostbadge
client = hostbadge.Client()
print(client.whoami()["agent"])
first = client.token("https://open.example.com", scope="read")
print(first["scope"], client.token("https://open.example.com", scope="read") is first)
headers = client.headers("https://api.example.com", "GET", "https://api.example.com/v1/items")
print(headers["Authorization"].split(" ")[0], sorted(headers))
try:
    client.token("https://other.example.com")
except hostbadge.Refused as refused:
    print(refused.status, refused.code)
"#;

const CLIENT_OF_NODE: &str = r#"
import { Client } from "./hostbadge.mjs";
const client = new Client();
console.log((await client.whoami()).agent);
const first = await client.token("https://open.example.com", { scope: "read" });
console.log(first.scope, (await client.token("https://open.example.com", { scope: "read" })) === first);
const headers = await client.headers("https://api.example.com", "GET", "https://api.example.com/v1/items");
console.log(headers.Authorization.split(" ")[0], Object.keys(headers).sort());
await client.token("https://other.example.com").catch((refused) => console.log(refused.status, refused.code));
"#;

#[test]
fn clients_get_tokens_and_proofs() {
    let host = host();
    assert_eq!(
        python(&host, CLIENT_OF_PYTHON),
        "a\nread True\nDPoP ['Authorization', 'DPoP']\n400 invalid_target\n"
    );
    assert_eq!(
        node(&host, CLIENT_OF_NODE),
        "a\nread true\nDPoP [ 'Authorization', 'DPoP' ]\n400 invalid_target\n"
    );
}

const MIDDLEWARE_OF_PYTHON: &str = r#"
import asyncio
import hostbadge
from asgi_middleware import Protected

AUDIENCE = ORIGIN = "https://api.example.com"
client = hostbadge.Client()

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["hostbadge"]["client_id"].encode()})

def status(path, headers):
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": fields}
    sent = []
    async def send(message):
        sent.append(message)
    asyncio.run(Protected(app, AUDIENCE, ORIGIN)(scope, None, send))
    return sent[0]["status"]

def headers():
    return client.headers(AUDIENCE, "GET", ORIGIN + "/items")

first = headers()
print(status("/items", first), status("/items", first), status("/other", headers()))
stolen = {"Authorization": headers()["Authorization"]}
print(status("/items", stolen), status("/items", {}))
print(status("/items", {"Authorization": stolen["Authorization"].replace("DPoP", "Bearer")}))
"#;

const MIDDLEWARE_OF_NODE: &str = r#"
import http from "node:http";
import { Client } from "./hostbadge.mjs";
import { protectedBy } from "./middleware.mjs";

const origin = "https://api.example.com";
const client = new Client();
const protect = protectedBy({ audience: origin, origin });
const server = http.createServer((request, response) =>
  protect(request, response, () => response.end(request.hostbadge.client_id)));
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const status = async (path, headers) =>
  (await fetch(`http://127.0.0.1:${server.address().port}${path}`, { headers })).status;
const headers = () => client.headers(origin, "GET", `${origin}/items`);
const first = await headers();
console.log(await status("/items", first), await status("/items", first), await status("/other", await headers()));
const { Authorization } = await headers();
console.log(await status("/items", { Authorization }), await status("/items", {}));
console.log(await status("/items", { Authorization: Authorization.replace("DPoP", "Bearer") }));
server.close();
"#;

#[test]
fn middlewares_admit_a_token_with_its_proof_once() {
    let host = host();
    let expected = "200 401 401\n401 401\n401\n";
    assert_eq!(python(&host, MIDDLEWARE_OF_PYTHON), expected);
    assert_eq!(node(&host, MIDDLEWARE_OF_NODE), expected);
}

#[test]
fn the_client_of_rust_gets_tokens_and_proofs() {
    let host = host();
    let client = rust_client::Client::new(Some(host.agent_socket()), Some("a".to_owned()));
    assert_eq!(client.whoami().unwrap()["agent"], "a");
    let open = "https://open.example.com";
    let first = client.token(open, Some("read")).unwrap();
    assert_eq!((first.scope.as_str(), first.token_type.as_str()), ("read", "Bearer"));
    assert_eq!(client.token(open, Some("read")).unwrap().access_token, first.access_token);
    assert_ne!(client.token(open, None).unwrap().access_token, first.access_token);
    let headers = client.headers(API, None, "GET", &format!("{API}/v1/items")).unwrap();
    assert_eq!(headers.keys().map(String::as_str).collect::<Vec<_>>(), ["Authorization", "DPoP"]);
    match client.token("https://other.example.com", None).map(|token| token.scope) {
        Err(rust_client::Error::Refused { status: 400, code, .. }) => assert_eq!(code, "invalid_target"),
        other => panic!("{other:?}"),
    }
}

const CLIENT_AND_MIDDLEWARE_OF_GO: &str = r#"package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"hostbadge.example/hostbadge"
)

const origin = "https://api.example.com"

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	client := hostbadge.New("", "")
	fmt.Println(must(client.Whoami())["agent"])
	first := must(client.Token("https://open.example.com", "read"))
	fmt.Println(first.Scope, must(client.Token("https://open.example.com", "read")) == first)
	var refused *hostbadge.Refused
	_, err := client.Token("https://other.example.com", "")
	fmt.Println(errors.As(err, &refused), refused.Status, refused.Code)

	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, hostbadge.Claims(r)["client_id"])
	})
	handler := hostbadge.Protected(client, origin, origin, next)
	status := func(path string, headers map[string]string) int {
		request := httptest.NewRequest("GET", path, nil)
		for name, value := range headers {
			request.Header.Set(name, value)
		}
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		return recorder.Code
	}
	headers := func() map[string]string { return must(client.Headers(origin, "", "GET", origin+"/items")) }
	once := headers()
	fmt.Println(status("/items", once), status("/items", once), status("/other", headers()))
	stolen := map[string]string{"Authorization": headers()["Authorization"]}
	fmt.Println(status("/items", stolen), status("/items", nil))
	stolen["Authorization"] = strings.Replace(stolen["Authorization"], "DPoP", "Bearer", 1)
	fmt.Println(status("/items", stolen))
}
"#;

#[test]
#[ignore = "run by make test-clients: it needs Go"]
fn the_client_and_the_middleware_of_go_work() {
    let host = host();
    let dir = host.path("go");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("main.go"), CLIENT_AND_MIDDLEWARE_OF_GO).unwrap();
    let module = format!(
        "module test\n\ngo 1.21\n\nrequire hostbadge.example/hostbadge v0.0.0\n\n\
         replace hostbadge.example/hostbadge => {}\n",
        directory("go").display()
    );
    fs::write(dir.join("go.mod"), module).unwrap();
    let printed = run(&host, Command::new("go").current_dir(&dir).args(["run", "."]));
    assert_eq!(printed, "a\nread true\ntrue 400 invalid_target\n200 401 401\n401 401\n401\n");
}

/// The units of a data pipeline: two steps with one dataset each, and the server of both.
struct Pipeline {
    /// They end before their units.
    running: Vec<Running>,
    units: Vec<(&'static str, Unit)>,
    host: Host,
    port: String,
}

const DATASETS: &str = "https://datasets.example.com";

impl Pipeline {
    fn start() -> Pipeline {
        require_root();
        let mut host = Host::new();
        let units: Vec<_> = ["datasets", "orders", "customers"].map(|name| (name, Unit::new(name))).into();
        for (name, unit) in &units {
            let grant = format!("[[grant]]\naudience = \"{DATASETS}/{name}\"\nbind = \"mtls\"\n");
            let grant = if *name == "datasets" { "" } else { &grant };
            host.agents_file(name, &format!("name = \"{name}\"\n[match]\nunit = {:?}\n{grant}", unit.name));
        }
        host.start();
        let mut pipeline = Pipeline { host, units, running: Vec::new(), port: String::new() };
        for name in ["datasets", "orders", "customers"] {
            let mut watch = pipeline.command(name, &program("hostbadge"));
            watch.args(["certificate", "--watch"]).arg(pipeline.svid(name)).stdout(Stdio::null());
            pipeline.running.push(Running::start(watch));
            until_true("the certificate is there", || pipeline.svid(name).join("cert.pem").exists());
        }
        let mut server = pipeline.script("datasets", "dataset_server.py");
        server.arg(pipeline.svid("datasets")).args(["0", DATASETS, "orders=of 2026", "customers=of 2025"]);
        let mut server = Running::start({
            server.stdout(Stdio::piped());
            server
        });
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        pipeline.port = line.trim().rsplit_once(' ').unwrap().1.to_owned();
        pipeline.running.push(server);
        pipeline
    }

    /// A program in the unit of an agent.
    fn command(&self, agent: &str, program: &str) -> Command {
        let mut command = Command::new(program);
        let unit = &self.units.iter().find(|(name, _)| *name == agent).unwrap().1;
        Credentials::root().in_unit(unit).apply_to(&mut command);
        command.env("HOSTBADGE_SOCKET", self.host.agent_socket());
        command
    }

    fn script(&self, agent: &str, file: &str) -> Command {
        let mut command = self.command(agent, "python3");
        command.env("PYTHONPATH", directory("python")).arg("-B").arg(directory("pipeline").join(file));
        command
    }

    fn svid(&self, agent: &str) -> PathBuf {
        self.host.path(&format!("{agent}-svid"))
    }

    fn url(&self, dataset: &str) -> String {
        format!("https://127.0.0.1:{}/{dataset}", self.port)
    }

    fn fetch(&self, agent: &str, dataset: &str) -> (bool, String) {
        let mut fetch = self.script(agent, "fetch_dataset.py");
        fetch.arg(self.svid(agent)).args([self.url(dataset), format!("{DATASETS}/{dataset}")]);
        let server =
            self.command("datasets", &program("hostbadge")).arg("whoami").arg("--json").output().unwrap();
        let server: serde_json::Value = serde_json::from_slice(&server.stdout).unwrap();
        said(&fetch.arg(server["spiffe_id"].as_str().unwrap()).output().unwrap())
    }

    /// A request with a token, on a connection with the certificate of an agent.
    fn present(&self, token: &str, agent: &str, dataset: &str) -> (bool, String) {
        let mut curl = Command::new("curl");
        // The server is not what is tested here, and has a SPIFFE ID and not the name of a host.
        curl.args(["--silent", "--insecure", "--write-out", "%{http_code}", "--cert"]);
        curl.arg(self.svid(agent).join("combined.pem"))
            .args(["--header", &format!("Authorization: Bearer {token}")]);
        said(&curl.arg(self.url(dataset)).output().unwrap())
    }

    fn token(&self, agent: &str) -> String {
        let mut token = self.command(agent, &program("hostbadge"));
        token.args(["token", &format!("{DATASETS}/{agent}"), "--bind", "mtls", "--certificate"]);
        said(&token.arg(self.svid(agent).join("cert.pem")).output().unwrap()).1
    }
}

fn said(output: &Output) -> (bool, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

#[test]
fn a_step_of_a_data_pipeline_gets_its_dataset_until_it_is_decommissioned() {
    let pipeline = Pipeline::start();
    assert_eq!(pipeline.fetch("orders", "orders"), (true, "of 2026".to_owned()));
    assert_eq!(pipeline.fetch("customers", "customers"), (true, "of 2025".to_owned()));
    let (_, refused) = pipeline.fetch("orders", "customers");
    assert!(refused.contains("no token: invalid_target"), "{refused}");

    // A token is of use for its dataset alone, on a connection with the certificate to which it is bound.
    let token = pipeline.token("orders");
    assert_eq!(pipeline.present(&token, "orders", "orders").1, "of 2026200");
    for (agent, dataset) in [("customers", "orders"), ("orders", "customers")] {
        let (_, refused) = pipeline.present(&token, agent, dataset);
        assert!(refused.ends_with("on this connection\n403"), "{agent} {dataset}: {refused}");
    }

    let offboarded = pipeline.host.hostbadge(&["agent", "offboard", "orders"]);
    assert!(offboarded.status.success(), "{}", String::from_utf8_lossy(&offboarded.stderr));
    assert!(pipeline.present(&token, "orders", "orders").1.ends_with("403"));
    let (_, refused) = pipeline.fetch("orders", "orders");
    assert!(refused.contains("no token: access_denied"), "{refused}");
    assert_eq!(pipeline.fetch("customers", "customers"), (true, "of 2025".to_owned()));
}
