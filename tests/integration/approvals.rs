//! Requests that wait for the approval of an administrator.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::common::callers::{Credentials, NOBODY};
use crate::common::http::Response;
use crate::common::{API, Host};
use serde_json::{Value, json};

/// A user of the admin group who is no agent.
const ANNA: u32 = 4711;

/// A host on which each process of uid 0 and of nobody is an agent whose grant has this, and of which the group
/// `daemon` are administrators.
fn host_with(more: &str) -> Host {
    let mut host = Host::new();
    host.configure("[admin]\ngroup = \"daemon\"\n");
    for (name, user) in [("a", 0), ("b", NOBODY)] {
        let grant = format!("[[grant]]\naudience = \"{API}\"\nscopes = [\"read\", \"write\"]\n{more}");
        host.agents_file(name, &format!("name = \"{name}\"\n[match]\nuser = {user}\n{grant}"));
    }
    host.start();
    fs::set_permissions(host.admin_socket(), Permissions::from_mode(0o666)).unwrap();
    host
}

fn ask(host: &Host, scope: &str) -> Response {
    host.post("/v1/token", json!({ "audience": API, "scope": scope }))
}

/// The id of the approval that a request waits for.
#[track_caller]
fn waits(answer: &Response) -> String {
    assert_eq!((answer.status, answer.error().as_str()), (400, "authorization_pending"), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("5"));
    answer.json()["approval"].as_str().unwrap().to_owned()
}

fn listed(host: &Host) -> Vec<Value> {
    host.admin().get("/v1/approvals").json()["approvals"].as_array().unwrap().clone()
}

fn find(host: &Host, id: &str) -> Value {
    let listed = listed(host);
    listed.iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("{id}: {listed:?}")).clone()
}

/// Decides as the test's own process, which is root.
#[track_caller]
fn decide(host: &Host, id: &str, decision: &str) {
    let body =
        json!({ "id": id, "digest": find(host, id)["digest"], "decision": decision, "reason": "as asked" });
    let answer = host.admin().post("/v1/approvals/decide", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn decide_as(host: &Host, caller: &Credentials, id: &str) -> Response {
    let body = json!({ "id": id, "digest": find(host, id)["digest"], "decision": "approve" }).to_string();
    let arguments = ["-H", "Content-Type: application/json", "-d", &body];
    caller.curl_at(&host.admin_socket(), "/v1/approvals/decide", &arguments)
}

fn digest_of(approval: &Value) -> String {
    approval["digest"].as_str().unwrap().to_owned()
}

fn records(host: &Host, event: &str) -> Vec<Value> {
    host.audit().into_iter().filter(|record| record["event"] == event).collect()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn each_request_waits_for_an_approval_that_it_uses_up() {
    let host = host_with("approval = \"each\"\n");
    let id = waits(&ask(&host, "read"));
    assert_eq!(waits(&ask(&host, "read")), id, "the same request waits already");
    let shown = find(&host, &id);
    let request = &shown["request"];
    assert_eq!((&shown["state"], &request["agent"]), (&json!("pending"), &json!("a")), "{shown}");
    assert_eq!(request["request"]["audience"], API);
    assert_eq!((&request["request"]["scope"], &request["request"]["ttl"]), (&json!("read"), &json!(300)));
    assert_eq!(request["exe_sha256"].as_str().unwrap().len(), 64, "{shown}");
    // What is approved is the digest of what is shown, which anybody can make again.
    let digest = ring::digest::digest(&ring::digest::SHA256, request.to_string().as_bytes());
    assert_eq!(digest_of(&shown), data_encoding::HEXLOWER.encode(digest.as_ref()));

    decide(&host, &id, "approve");
    let answer = ask(&host, "read");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_ne!(waits(&ask(&host, "read")), id, "the approval is used up");

    let issued = records(&host, "token-issued");
    assert_eq!(issued.len(), 1);
    let by = format!("uid 0, pid {}", std::process::id());
    assert_eq!((&issued[0]["approval"], &issued[0]["approved_by"]), (&json!(id), &json!(by)));
    let asked = records(&host, "approval-requested");
    assert_eq!(asked.len(), 2, "a repetition has no record of its own: {asked:?}");
    assert_eq!((&asked[0]["approval"], &asked[0]["outcome"]), (&json!(id), &json!("refused")));
    assert_eq!(asked[0]["reason"], "authorization_pending");
    let given = records(&host, "approval-given");
    let detail = given[0]["detail"].as_str().unwrap();
    assert!(detail.starts_with(&format!("{by} approved the request {id}: as asked; {{")), "{detail}");
    assert!(
        detail.contains("\"scope\":\"read\",\"ttl\":300") && detail.contains(&digest_of(&shown)),
        "{detail}"
    );
}

#[test]
fn an_approval_permits_no_other_request() {
    let host = host_with("approval = \"each\"\n");
    let ids = [waits(&ask(&host, "read")), waits(&ask(&host, "read write"))];
    // Two workers of an agent that ask in turn do not disturb each other.
    assert_eq!([waits(&ask(&host, "read")), waits(&ask(&host, "read write"))], ids);
    assert_eq!(records(&host, "approval-requested").len(), 2);
    let body = json!({ "id": ids[1], "digest": "0".repeat(64), "decision": "approve" });
    let other = host.admin().post("/v1/approvals/decide", &body);
    assert_eq!(other.status, 409, "another digest was examined: {}", other.text());
    decide(&host, &ids[1], "approve");
    waits(&ask(&host, "read"));
    waits(&host.post("/v1/token", json!({ "audience": API, "scope": "read write", "ttl": 60 })));
    waits(&Credentials::user(NOBODY).token(&host));
    assert_eq!(ask(&host, "read write").status, 200);
}

#[test]
fn an_approval_that_was_given_by_mistake_is_taken_back_and_a_revocation_ends_it() {
    let host = host_with("approval = \"task\"\n");
    let id = waits(&ask(&host, "read"));
    decide(&host, &id, "approve");
    assert_eq!(ask(&host, "read").status, 200);
    decide(&host, &id, "deny");
    assert_eq!(ask(&host, "read").error(), "access_denied");
    assert_eq!(ask(&host, "read write").error(), "access_denied", "as much and more");

    let id = waits(&ask(&host, "write"));
    decide(&host, &id, "approve");
    assert_eq!(ask(&host, "write").status, 200);
    let agent = json!({ "agent": "a" });
    assert_eq!(host.admin().post("/v1/revocations/revoke", &agent).status, 200);
    assert_eq!(ask(&host, "write").error(), "access_denied");
    assert_eq!(host.admin().post("/v1/revocations/lift", &agent).status, 200);
    assert_ne!(waits(&ask(&host, "write")), id);
}

#[test]
fn an_approval_of_a_task_counts_for_equal_requests() {
    let host = host_with("approval = \"task\"\n");
    let id = waits(&ask(&host, "read"));
    decide(&host, &id, "approve");
    for _ in 0..3 {
        assert_eq!(ask(&host, "read").status, 200);
    }
    waits(&ask(&host, "write"));
    assert!(records(&host, "token-issued").iter().all(|record| record["approval"] == json!(id)));
}

#[test]
fn a_refusal_reaches_the_agent_with_its_reason() {
    let host = host_with("approval = \"each\"\n");
    let id = waits(&ask(&host, "read"));
    decide(&host, &id, "deny");
    let answer = ask(&host, "read");
    assert_eq!((answer.status, answer.error().as_str()), (403, "access_denied"));
    assert!(answer.text().contains(&format!("({id}): as asked")), "{}", answer.text());
    assert_eq!(records(&host, "approval-denied").len(), 1);
}

#[test]
fn an_agent_of_the_admin_group_cannot_approve_its_own_request() {
    let host = host_with("approval = \"each\"\n");
    let agent = Credentials::user(NOBODY).group(1);
    let id = waits(&agent.token(&host));
    let own = decide_as(&host, &agent, &id);
    assert_eq!(own.status, 422, "{}", own.text());
    assert!(own.text().contains("an agent cannot approve its own request"), "{}", own.text());
    let stranger = decide_as(&host, &Credentials::user(ANNA), &id);
    assert_eq!(stranger.status, 403, "{}", stranger.text());
    waits(&agent.token(&host));
    assert_eq!(host.admin().get("/v1/approvals").json()["approvals"][0]["state"], "pending");
}

#[test]
fn what_is_forbidden_does_not_wait_and_policies_see_the_approval() {
    let mut host = host_with("approval = \"each\"\n");
    let policy = format!(
        "forbid (principal, action == Action::\"token\", resource == Audience::\"{API}\") unless {{ context.approved }};"
    );
    fs::create_dir_all(host.path("etc/policies")).unwrap();
    fs::write(host.path("etc/policies/approved.cedar"), &policy).unwrap();
    host.stop();
    host.start();
    let id = waits(&ask(&host, "read"));
    decide(&host, &id, "approve");
    assert_eq!(ask(&host, "read").status, 200);

    fs::write(host.path("etc/policies/approved.cedar"), "forbid (principal, action, resource);").unwrap();
    let reloaded = host.admin().post("/v1/agents/reload", &json!({}));
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    assert_eq!(ask(&host, "read").error(), "access_denied");
    assert!(listed(&host).is_empty(), "nobody is asked to approve what a policy forbids");
}

#[test]
fn a_grant_with_an_approval_gives_no_jwt_svid() {
    let host = host_with("approval = \"task\"\n");
    let caller = Credentials::root();
    let id = waits(&caller.token(&host));
    decide(&host, &id, "approve");
    assert_eq!(caller.jwt_svid(&host, API), None);
    let refused = records(&host, "request-refused");
    let detail = refused.last().unwrap()["detail"].as_str().unwrap();
    assert!(detail.contains("requires an approval"), "{detail}");
}

#[test]
fn a_restart_forgets_requests_and_approvals() {
    let mut host = host_with("approval = \"task\"\n");
    let id = waits(&ask(&host, "read"));
    decide(&host, &id, "approve");
    host.stop();
    host.start();
    assert!(listed(&host).is_empty());
    assert_ne!(waits(&ask(&host, "read")), id);
}

#[test]
fn a_credential_waits_too_and_the_commands_say_what_to_do() {
    let host = host_with("[[credential]]\nname = \"key\"\nuse = \"release\"\napproval = \"each\"\n");
    let put = host.admin().post("/v1/credentials/put", &json!({ "name": "key", "value": "sk-1" }));
    assert_eq!(put.status, 200, "{}", put.text());
    let refused = host.hostbadge(&["credential", "get", "key"]);
    assert_eq!(refused.status.code(), Some(1));
    let id = listed(&host)[0]["id"].as_str().unwrap().to_owned();
    assert!(text(&refused).contains(&format!("hostbadge approve show {id}")), "{}", text(&refused));

    let list = text(&host.hostbadge(&["approve", "list"]));
    assert!(list.contains(&id) && list.contains("credential key"), "{list}");
    let show = text(&host.hostbadge(&["approve", "show", &id]));
    for expected in ["exe_sha256", "invocation", "digest", "key"] {
        assert!(show.contains(expected), "{expected}: {show}");
    }
    let blind = host.hostbadge(&["approve", "yes", &id]);
    assert!(!blind.status.success() && text(&blind).contains("--digest"), "{}", text(&blind));
    let digest = find(&host, &id)["digest"].as_str().unwrap().to_owned();
    let done = host.hostbadge(&["approve", "yes", &id, "--digest", &digest]);
    assert!(done.status.success(), "{}", text(&done));
    let value = host.hostbadge(&["credential", "get", "key"]);
    assert_eq!(value.stdout, b"sk-1", "{}", text(&value));
    let released = records(&host, "credential-released");
    assert_eq!(released[0]["approval"], json!(id));
}

#[test]
fn an_agent_approves_nothing_and_may_be_refused_by_any_administrator() {
    let host = host_with("approval = \"each\"\n");
    // The agent b is nobody; the request is that of the agent a.
    let id = waits(&ask(&host, "read"));
    let agent = decide_as(&host, &Credentials::user(NOBODY).group(1), &id);
    assert_eq!(agent.status, 422, "{}", agent.text());
    assert!(agent.text().contains("this process is the agent \\\"b\\\""), "{}", agent.text());
    let member = decide_as(&host, &Credentials::user(ANNA).group(1), &id);
    // In the tests, all processes are of one invocation.
    assert!(member.text().contains("of the same invocation"), "{}", member.text());
    let body = json!({ "id": id, "digest": digest_of(&find(&host, &id)), "decision": "deny" }).to_string();
    let arguments = ["-H", "Content-Type: application/json", "-d", &body];
    let refused =
        Credentials::user(ANNA).group(1).curl_at(&host.admin_socket(), "/v1/approvals/decide", &arguments);
    assert_eq!(refused.status, 200, "{}", refused.text());
    assert_eq!(ask(&host, "read").error(), "access_denied");
}

#[test]
fn a_flood_of_requests_is_bounded() {
    let host = host_with("approval = \"each\"\n");
    let ask = |ttl: u64| host.post("/v1/token", json!({ "audience": API, "ttl": ttl }));
    (1..=8).for_each(|ttl| drop(waits(&ask(ttl))));
    let further = ask(9);
    assert_eq!((further.status, further.error().as_str()), (429, "slow_down"), "{}", further.text());
    waits(&ask(8));
    assert_eq!(listed(&host).len(), 8);
    let metrics = host.admin().get("/v1/metrics").text();
    assert!(metrics.contains("hostbadge_pending_approvals 8"), "{metrics}");
}
