//! The files of `examples/`, each on a real daemon.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{API, Host};

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
