//! Published SPIFFE clients, unchanged: each gets a token, validates it, is denied an audience without a
//! grant, and receives new keys and certificates through a rotation.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::http::claims;
use crate::common::libraries::{cargo_program, go_program, go_tool, java_with, node_with, python_with};
use crate::common::processes::Running;
use crate::common::{self, API, Host};
use data_encoding::BASE64;
use serde_json::{Value, json};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

const GRPC_JS: &[&str] = &["@grpc/grpc-js@1.13.4", "@grpc/proto-loader@0.7.15"];
const REFLECTION: &[&str] = &["grpcio-reflection==1.74.0"];

fn client(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file)
}

#[test]
fn point_07_py_spiffe_is_served_as_it_is() {
    let python = python_with("spiffe", &["spiffe==0.3.2"]);
    let mut command = Command::new(python);
    command.arg(client("workload.py"));
    is_served(command);
}

#[test]
#[ignore = "run by make test-clients: it needs newer tools than Debian 12 has"]
fn point_07_go_spiffe_is_served_as_it_is() {
    is_served(Command::new(go_program("go-spiffe", &client("go"))));
}

#[test]
#[ignore = "run by make test-clients: it needs newer tools than Debian 12 has"]
fn point_07_the_rust_crate_is_served_as_it_is() {
    is_served(Command::new(cargo_program("rust-spiffe", &client("rust"))));
}

#[test]
#[ignore = "run by make test-clients: it needs newer tools than Debian 12 has"]
fn point_07_java_spiffe_is_served_as_it_is() {
    let jars = java_with("java-spiffe", &client("java"));
    let mut command = Command::new("java");
    command.arg("-cp").arg(jars.join("*")).arg(client("java/Workload.java"));
    is_served(command);
}

#[test]
fn point_07_grpc_js_is_served_as_it_is() {
    let host = host_with_short_certificates();
    let mut command = Command::new("node");
    command
        .env("GRPC", node_with("grpc-js", GRPC_JS))
        .arg(client("workload.mjs"))
        .arg(host.workload_socket());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/workload.proto"));
    is_served_by(&host, command);
}

#[test]
#[ignore = "run by make test-clients: it needs newer tools than Debian 12 has"]
fn point_06_grpcurl_lists_and_calls_methods() {
    let host = Host::started();
    let grpcurl = go_tool("github.com/fullstorydev/grpcurl/cmd/grpcurl", "v1.9.3");
    let run = |arguments: &[&str], words: &[&str]| {
        let mut command = Command::new(&grpcurl);
        let address = format!("unix://{}", host.workload_socket().display());
        command.arg("-plaintext").args(arguments).arg(address).args(words);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&[], &["list"]).contains("SpiffeWorkloadAPI"));
    assert!(run(&[], &["describe", "SpiffeWorkloadAPI"]).contains("rpc FetchX509SVID"));
    let ask = json!({ "audience": [API] }).to_string();
    let told = run(&["-H", "workload.spiffe.io: true", "-d", &ask], &["SpiffeWorkloadAPI/FetchJWTSVID"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(claims(told["svids"][0]["svid"].as_str().unwrap())["aud"], json!([API]));
    assert!(run(&[], &["grpc.health.v1.Health/Check"]).contains("SERVING"));
}

#[test]
fn point_07_any_authority_is_accepted() {
    let host = Host::started();
    let mut command = Command::new("node");
    command.arg(client("authority.mjs")).arg(host.workload_socket());
    let forms = [
        "localhost",
        "%2Frun%2Fhostbadge%2Fworkload.sock",
        "/run/hostbadge/workload.sock",
        "unix:/x",
        "-",
        "",
    ];
    let output = command.args(forms).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), forms.len());
    assert!(answers.iter().all(|answer| answer["answered"] == true), "{text}");
}

#[test]
fn point_06_reflection_of_both_versions_lists_the_workload_api() {
    let host = Host::started();
    let python = python_with("grpc-reflection", REFLECTION);
    for version in ["v1", "v1alpha"] {
        let mut command = Command::new(&python);
        command.arg(client("reflection.py")).arg(host.workload_socket()).arg(version);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let services = told["services"].as_array().unwrap();
        assert!(services.contains(&json!("SpiffeWorkloadAPI")), "{told}");
        assert!(services.contains(&json!("grpc.health.v1.Health")), "{told}");
        assert_eq!(told["methods"], json!(common::grpc::METHODS));
    }
}

/// A host with the shortest certificate lifetime: certificates are renewed after half a minute.
fn host_with_short_certificates() -> Host {
    let mut host = Host::new();
    host.configure("[certificates]\nttl = \"1m\"\n");
    host.agent("root", "user = 0");
    host.start();
    host
}

#[track_caller]
fn is_served(command: Command) {
    is_served_by(&host_with_short_certificates(), command);
}

/// `command` takes an audience as its last argument, and has the socket from its environment or arguments.
#[track_caller]
fn is_served_by(host: &Host, mut command: Command) {
    command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", host.workload_socket().display()));
    command.arg(API).stdout(Stdio::piped());
    let mut client = Running::start(command);
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut hear = || -> Value {
        let line = lines.next().expect("the client goes on").unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    };
    let told = hear();
    let token = claims(told["token"].as_str().unwrap());
    assert_eq!((&token["sub"], &token["aud"]), (&told["spiffe_id"], &json!([API])));
    assert_eq!(hear()["valid"], told["spiffe_id"]);
    assert_eq!(hear()["denied"], true);
    let before = hear()["kids"].as_array().unwrap().len();
    assert_eq!(host.admin().post("/v1/keys/rotate", &json!({ "now": true })).status, 200);
    assert!(hear()["kids"].as_array().unwrap().len() > before);
    let domain = token["sub"].as_str().unwrap().split('/').nth(2).unwrap();
    assert_eq!(hear()["domains"], json!([domain]));
    let mut shown = || {
        let told = hear();
        assert_eq!((&told["x509"], &told["holds"]), (&token["sub"], &json!(true)));
        let leaf = BASE64.decode(told["leaf"].as_str().unwrap().as_bytes()).unwrap();
        let leaf = Certificate::from_der(&leaf).unwrap();
        let (_, names) = leaf.tbs_certificate().get_extension::<SubjectAltName>().unwrap().unwrap();
        assert!(
            matches!(&names.0[..], [GeneralName::UniformResourceIdentifier(id)] if token["sub"] == id.as_str())
        );
        leaf
    };
    let (first, second) = (shown(), shown());
    let (first, second) = (first.tbs_certificate(), second.tbs_certificate());
    assert_ne!(first.serial_number(), second.serial_number());
    // The first certificate is still valid when the second arrives.
    assert!(
        first.validity().not_after.to_unix_duration().as_secs()
            > hostbadge::clock::Clock::System.now().as_secs()
    );
    assert!(client.wait().unwrap().success());
}
