//! Requests that the daemon signs with a sealed access key.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use crate::common::http::Response;
use crate::common::libraries::python_with;
use crate::common::processes::{Running, output_with};
use crate::common::{Host, until};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const SESSION: &str = "FwoGZXIvYXdzEXAMPLE//token==";
const MODEL: &str = "https://bedrock-runtime.eu-west-1.amazonaws.com/model/anthropic.claude/invoke";
const BUCKET: &str = "https://examplebucket.s3.eu-central-1.amazonaws.com";

/// A host on which root is an agent whose requests two access keys sign.
fn host() -> Host {
    let mut host = Host::new();
    agent(&host, "");
    host.start();
    stored(&host, "bedrock", &json!({ "AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": SECRET }).to_string());
    let temporary = json!({
        "Version": 1, "AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": SECRET, "SessionToken": SESSION,
        "Expiration": "2030-01-01T00:00:00Z",
    });
    stored(&host, "bucket", &temporary.to_string());
    host
}

fn agent(host: &Host, keys: &str) {
    host.agents_file(
        "root",
        &format!(
            "name = \"root\"\n[match]\nuser = 0\n\
             [[credential]]\nname = \"bedrock\"\nuse = \"sign\"\nregion = \"eu-west-1\"\nservice = \"bedrock\"\n\
             actions = [\"POST https://bedrock-runtime.eu-west-1.amazonaws.com/model/*\"]\n{keys}\
             [[credential]]\nname = \"bucket\"\nuse = \"sign\"\nregion = \"eu-central-1\"\nservice = \"s3\"\n\
             actions = [\"* {BUCKET}/*\"]\n"
        ),
    );
}

#[track_caller]
fn stored(host: &Host, name: &str, value: &str) {
    let output = host.hostbadge_with(&["credential", "put", name], value);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn sign(host: &Host, method: &str, url: &str, body: &str) -> Response {
    let request =
        json!({ "kind": "sigv4", "method": method, "url": url, "body_sha256": sha256(body.as_bytes()) });
    host.post("/v1/prove", request)
}

fn records(host: &Host, event: &str) -> Vec<Value> {
    host.audit().into_iter().filter(|record| record["event"] == event).collect()
}

#[test]
fn a_signature_is_the_one_of_botocore() {
    let host = host();
    let python = python_with("botocore", &["botocore==1.44.8"]);
    let botocore =
        |access_key: &str, session: Option<&str>, (region, service): (&str, &str), request: Value| {
            let mut given = json!({
                "access_key": access_key, "secret_key": SECRET, "session_token": session, "region": region,
                "service": service,
            });
            given.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
            let mut command = Command::new(&python);
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/sigv4.py"));
            let output = output_with(&mut command, given.to_string().as_bytes());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
    let bedrock = ("AKIDEXAMPLE", None, ("eu-west-1", "bedrock"));
    let bucket = ("ASIAEXAMPLE", Some(SESSION), ("eu-central-1", "s3"));
    for ((access_key, session, scope), method, url, body, content_type) in [
        (bedrock, "POST", MODEL.to_owned(), "{\"prompt\": \"x\"}", Some("application/json")),
        (bedrock, "POST", format!("{MODEL}?b=2&a=1&a=%20&c"), "", None),
        (bedrock, "POST", MODEL.replace("anthropic.claude", "a%3Ab/c~d"), "x", None),
        (bucket, "GET", format!("{BUCKET}/folder/file%20name.txt"), "", None),
        (
            bucket,
            "PUT",
            format!("{BUCKET}/a%2Bb?x-id=PutObject"),
            "content",
            Some("text/plain; charset=utf-8"),
        ),
        (bucket, "DELETE", format!("{BUCKET}/?list-type=2&prefix=a%2Fb"), "", None),
    ] {
        let mut request = json!({
            "kind": "sigv4", "method": method, "url": url, "body_sha256": sha256(body.as_bytes()),
        });
        if let Some(content_type) = content_type {
            request["content_type"] = json!(content_type);
        }
        let answer = host.post("/v1/prove", request);
        assert_eq!(answer.status, 200, "{method} {url}: {}", answer.text());
        let headers = answer.json()["headers"].clone();
        assert_eq!(headers["X-Amz-Security-Token"].as_str(), session);
        let mut sent = headers.clone();
        sent.as_object_mut().unwrap().remove("Authorization");
        if let Some(content_type) = content_type {
            sent["Content-Type"] = json!(content_type);
        }
        let expected = botocore(
            access_key,
            session,
            scope,
            json!({ "method": method, "url": url, "headers": sent, "body": body }),
        );
        assert_eq!(headers["Authorization"], expected, "{method} {url}");
    }
}

#[test]
fn an_access_key_signs_what_its_table_names_and_is_not_released() {
    let host = host();
    let answer = sign(&host, "POST", MODEL, "{}");
    assert_eq!((answer.status, &answer.json()["expires_in"]), (200, &json!(300)), "{}", answer.text());
    assert!(answer.json()["jkt"].is_null());
    for (method, url) in [
        ("GET", MODEL),
        ("POST", "https://bedrock-runtime.us-east-1.amazonaws.com/model/x/invoke"),
        ("POST", "https://bedrock-runtime.eu-west-1.amazonaws.com/modelx"),
        ("GET", "https://other.s3.eu-central-1.amazonaws.com/x"),
    ] {
        let refused = sign(&host, method, url, "");
        assert_eq!((refused.status, refused.error()), (400, "invalid_target".into()), "{method} {url}");
    }
    let other = json!({ "kind": "sigv4", "method": "POST", "url": MODEL, "credential": "bucket" });
    assert_eq!(host.post("/v1/prove", other).error(), "invalid_target", "that of another table");
    let refused = records(&host, "request-refused").pop().unwrap();
    assert_eq!(refused["credential"], "bucket", "{refused}");
    for (member, value) in [
        ("token", json!("x")),
        ("nonce", json!("x")),
        ("audience", json!("x")),
        ("credential", json!("../x")),
        ("content_type", json!("text/plain\r\nX-Amz-Acl: public-read")),
        ("body_sha256", json!("abcd")),
    ] {
        let mut request = json!({ "kind": "sigv4", "method": "POST", "url": MODEL });
        request[member] = value;
        let refused = host.post("/v1/prove", request);
        assert_eq!((refused.status, refused.error()), (400, "invalid_request".into()), "{member}");
    }
    let plus = sign(&host, "POST", &format!("{MODEL}?a=b+c"), "");
    assert_eq!((plus.status, plus.error()), (400, "invalid_request".into()));
    let value = host.post("/v1/credential", json!({ "name": "bedrock" }));
    assert_eq!((value.status, value.error()), (403, "access_denied".into()), "{}", value.text());

    let record = records(&host, "proof-issued").remove(0);
    assert_eq!((&record["credential"], &record["credential_version"]), (&json!("bedrock"), &json!(1)));
    assert_eq!(
        (&record["kid"], &record["detail"]),
        (&json!("AKIDEXAMPLE"), &json!(format!("sigv4 POST {MODEL}")))
    );
    assert!(record["audience"].is_null() && record["fingerprint"].is_string(), "{record}");
    let log = host.audit().iter().map(Value::to_string).collect::<String>() + &host.log();
    assert!(!log.contains(SECRET) && !log.contains(SESSION));
}

#[test]
fn policies_and_revocations_end_signatures() {
    let mut host = host();
    host.stop();
    fs::create_dir_all(host.path("etc/policies")).unwrap();
    let policies = "forbid (principal, action == Action::\"credential\", resource == Credential::\"bucket\")\n\
                    when { context.usage == \"sign\" && context has method && context.method == \"DELETE\" };\n\
                    forbid (principal, action == Action::\"prove\", resource)\n\
                    when { context.kind == \"sigv4\" && context.path like \"/private/*\" };\n";
    fs::write(host.path("etc/policies/sign.cedar"), policies).unwrap();
    host.start();
    let status = |method: &str, path: &str| sign(&host, method, &format!("{BUCKET}{path}"), "").status;
    assert_eq!(status("GET", "/a"), 200);
    assert_eq!(status("DELETE", "/a"), 403);
    assert_eq!(status("GET", "/private/a"), 403);
    let why = |method: &str, url: &str| {
        let words = ["--json", "policy", "why", "root", "--prove", "sigv4", "--method", method, "--url", url];
        let output = host.hostbadge_with(&words, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let refused = why("DELETE", &format!("{BUCKET}/a"));
    assert_eq!((&refused["allowed"], &refused["action"]), (&json!(false), &json!("prove")));
    assert!(refused["layers"][2]["rules"][0]["rule"].as_str().unwrap().contains("sign.cedar:1"), "{refused}");
    let refused = why("GET", &format!("{BUCKET}/private/a"));
    assert!(refused["layers"][2]["rules"][0]["rule"].as_str().unwrap().contains("sign.cedar:3"), "{refused}");
    assert_eq!(why("GET", &format!("{BUCKET}/a"))["allowed"], true);
    let outside = why("GET", "https://example.com/");
    assert_eq!(outside["layers"][1]["verdict"], "refuses", "{outside}");
    let record = records(&host, "proof-issued").remove(0)["seq"].to_string();
    let output = host.hostbadge_with(&["--json", "policy", "why", "--record", &record], "");
    let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(explained["resource"], format!("sigv4 GET {BUCKET}/a"), "{explained}");

    assert!(host.hostbadge_with(&["revoke", "agent", "root"], "").status.success());
    assert_eq!(status("GET", "/a"), 403);
}

#[test]
fn a_credential_that_is_no_access_key_signs_nothing_and_is_not_shown() {
    let host = host();
    let output = host.hostbadge_with(&["credential", "rotate", "bedrock"], "hunter2-is-no-access-key");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let refused = sign(&host, "POST", MODEL, "");
    assert_eq!((refused.status, refused.error()), (500, "server_error".into()));
    assert!(
        refused.text().contains("AccessKeyId") && !refused.text().contains("hunter2"),
        "{}",
        refused.text()
    );
    assert!(!host.log().contains("hunter2"));
    assert!(host.hostbadge_with(&["credential", "rm", "bedrock"], "").status.success());
    assert_eq!(sign(&host, "POST", MODEL, "").error(), "invalid_target");
}

#[test]
fn an_administrator_approves_one_signature() {
    let mut host = Host::new();
    agent(&host, "approval = \"each\"\n");
    host.start();
    assert_eq!(
        sign(&host, "POST", MODEL, "one").error(),
        "invalid_target",
        "it is not stored, so no approval is requested"
    );
    stored(&host, "bedrock", &json!({ "AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": SECRET }).to_string());
    let waiting = sign(&host, "POST", MODEL, "one");
    assert_eq!(waiting.error(), "authorization_pending", "{}", waiting.text());
    let id = waiting.json()["approval"].as_str().unwrap().to_owned();
    let listed = host.admin().get("/v1/approvals").json()["approvals"][0].clone();
    assert_eq!(listed["request"]["request"]["credential"], "bedrock", "{listed}");
    let approved =
        host.hostbadge_with(&["approve", "yes", &id, "--digest", listed["digest"].as_str().unwrap()], "");
    let said = String::from_utf8_lossy(&approved.stdout).into_owned();
    assert!(said.contains(&format!("root, sigv4 proof by credential bedrock for POST {MODEL}")), "{said}");
    assert_eq!(sign(&host, "POST", MODEL, "two").error(), "authorization_pending");
    assert_eq!(sign(&host, "POST", MODEL, "one").status, 200);
}

#[test]
fn the_command_prints_the_headers_of_the_request() {
    let host = host();
    let words = ["prove", "sigv4", "POST", MODEL, "--body", "-", "--content-type", "application/json"];
    let output = host.hostbadge_with(&words, "{}");
    let text = String::from_utf8(output.stdout).unwrap();
    let signed = "SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date, Signature=";
    assert!(
        text.starts_with("Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") && text.contains(signed),
        "{text}"
    );
    assert!(text.contains(&format!("\nX-Amz-Content-Sha256: {}\n", sha256(b"{}"))), "{text}");
    assert_eq!(
        host.hostbadge_with(&["prove", "dpop", "GET", MODEL, "--credential", "x"], "").status.code(),
        Some(1)
    );
}

#[test]
fn tables_that_could_sign_nothing_are_faults() {
    let host = Host::started();
    let fault = |lines: &str| {
        let file = format!("name = \"a\"\n[match]\nuser = 1\n[[credential]]\nname = \"x\"\n{lines}\n");
        host.agents_file("a", &file);
        let answer = host.admin().post("/v1/agents/reload", &json!({}));
        answer.json()["faults"][0]["what"].as_str().map(str::to_owned)
    };
    let scope = "region = \"eu-west-1\"\nservice = \"s3\"";
    let action = "actions = [\"GET https://x.s3.amazonaws.com/*\"]";
    for (lines, expected) in [
        ("use = \"sign\"".to_owned(), "needs region, service and actions"),
        (format!("use = \"sign\"\n{scope}"), "needs region, service and actions"),
        (format!("use = \"sign\"\n{scope}\nactions = []"), "signs nothing"),
        (format!("use = \"sign\"\nregion = \"EU/1\"\nservice = \"s3\"\n{action}"), "the region"),
        (format!("use = \"sign\"\nregion = \"eu-west-1\"\nservice = \"\"\n{action}"), "the service"),
        (format!("use = \"sign\"\n{scope}\nactions = [\"GET https://x/*/y\"]"), "last segment"),
        (format!("use = \"release\"\n{action}"), "are for use = \"sign\""),
        ("use = \"inject\"\nregion = \"eu-west-1\"".to_owned(), "are for use = \"sign\""),
    ] {
        let said = fault(&lines).unwrap_or_else(|| panic!("{lines}"));
        assert!(said.contains(expected), "{lines}: {said}");
    }
    assert_eq!(fault(&format!("use = \"sign\"\n{scope}\n{action}")), None);
}

/// moto compares each signature with the one that botocore makes of the request that arrived.
#[test]
#[ignore = "run by make test-clients: it fetches 60 MB"]
fn a_server_of_aws_apis_accepts_signed_requests_and_refuses_changed_ones() {
    let python = python_with("moto", &["moto[server]==5.2.5"]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!("http://127.0.0.1:{port}");
    let mut moto = Command::new(python.with_file_name("moto_server"));
    moto.args(["-H", "127.0.0.1", "-p", &port.to_string()]).env("INITIAL_NO_AUTH_ACTION_COUNT", "4");
    moto.stdout(Stdio::null()).stderr(Stdio::null());
    let _moto = Running::start(moto);
    until("moto answers", || TcpStream::connect(("127.0.0.1", port)).ok());
    let mut user = Command::new(&python);
    let user =
        user.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/moto_user.py")).arg(&server);
    let user = user.output().unwrap();
    assert!(user.status.success(), "{}", String::from_utf8_lossy(&user.stderr));

    let mut host = Host::new();
    let table = |name: &str, service: &str, action: &str| {
        format!(
            "[[credential]]\nname = \"{name}\"\nuse = \"sign\"\nregion = \"eu-west-1\"\nservice = \"{service}\"\n\
             actions = [\"{action}\"]\n"
        )
    };
    let tables =
        table("sts", "sts", &format!("POST {server}/")) + &table("s3", "s3", &format!("* {server}/agents/*"));
    host.agents_file("root", &format!("name = \"root\"\n[match]\nuser = 0\n{tables}"));
    host.start();
    for name in ["sts", "s3"] {
        stored(&host, name, std::str::from_utf8(&user.stdout).unwrap());
    }
    let (form, text) = ("application/x-www-form-urlencoded", "text/plain");
    // What is signed, and what is sent.
    let call = |method: &str, (signed, sent): (&str, &str), types: (&str, &str), body: &str| {
        let url = format!("{server}{signed}");
        let words = ["prove", "sigv4", method, &url, "--body", "-", "--content-type", types.0];
        let headers = host.hostbadge_with(&words, body);
        assert!(headers.status.success(), "{}", String::from_utf8_lossy(&headers.stderr));
        let file = host.path("headers");
        fs::write(&file, headers.stdout).unwrap();
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--request", method, "--write-out", "\n%{http_code}", "--data-binary", body]);
        curl.arg("--header").arg(format!("@{}", file.display()));
        curl.arg("--header").arg(format!("Content-Type: {}", types.1));
        let output = curl.arg(format!("{server}{sent}")).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let identity = "Action=GetCallerIdentity&Version=2011-06-15";
    let answer = call("POST", ("/", "/"), (form, form), identity);
    assert!(answer.contains(":user/researcher</Arn>") && answer.ends_with("\n200"), "{answer}");
    let (day, other_day) = ("/agents/notes/day%201.txt", "/agents/notes/day%202.txt");
    assert!(call("PUT", (day, day), (text, text), "content").ends_with("\n200"));
    assert_eq!(call("GET", (day, day), (text, text), ""), "content\n200");
    // That X-Amz-Content-Sha256 is the digest of the body is what moto does not compare.
    for (paths, types) in [((day, other_day), (text, text)), ((day, day), (text, "text/html"))] {
        let refused = call("PUT", paths, types, "content");
        assert!(refused.contains("SignatureDoesNotMatch") && refused.ends_with("\n403"), "{refused}");
    }
}
