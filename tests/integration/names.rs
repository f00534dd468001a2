//! Users and groups by name: a slow or failing name service, changes of numbers, many groups, the admin
//! group.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::common::callers::{Credentials, NOBODY, ScriptedClient};
use crate::common::grpc::{Grpc, UNAVAILABLE};
use crate::common::http::{Response, claims};
use crate::common::name_service::NameService;
use crate::common::{API, Host, until_true};

/// A uid without a name.
const STRANGER: u32 = 4242;
/// A uid that systemd would give to a unit with DynamicUser=.
const DYNAMIC: u32 = 61_500;

fn token_as(host: &Host, uid: u32) -> Response {
    Credentials::user(uid).token(host)
}

/// The agent that a token of `answer` is for.
#[track_caller]
fn agent_of(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    claims(answer.json()["access_token"].as_str().unwrap())["client_id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_error(answer: &Response, status: u16, error: &str) {
    assert_eq!((answer.status, answer.error().as_str()), (status, error), "{}", answer.text());
}

fn admin_group_problem(host: &Host) -> String {
    host.status()["admin_group"]["problem"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_name_service_that_hangs_for_one_user_refuses_no_other_agent() {
    let mut host = Host::new();
    let names = NameService::attach_to(&mut host);
    names.user("slow", "hang");
    host.agent("slow", "user = \"slow\"");
    host.agent("quick", "user = \"daemon\"");
    host.agent("nobody", &format!("user = {NOBODY}"));
    host.start();
    assert_eq!(agent_of(&token_as(&host, 1)), "quick");
    assert_eq!(agent_of(&token_as(&host, NOBODY)), "nobody");
    let answer = token_as(&host, STRANGER);
    assert_error(&answer, 503, "temporarily_unavailable");
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert!(answer.text().contains("the number of a user or group in agents.d"), "{}", answer.text());
    assert!(!answer.text().contains("slow"), "a stranger learns no name: {}", answer.text());
    // The daemon compares once a second which lookups have had no answer for 5 s.
    until_true("the lookup counts as failed", || {
        host.status()["name_problems"][0].as_str().unwrap_or_default().contains("no answer within 5 s")
    });
    until_true("the failure is in the log", || host.log().contains("user \"slow\" cannot be looked up"));

    names.user("slow", &STRANGER.to_string());
    until_true("the late answer counts", || token_as(&host, STRANGER).status == 200);
    assert_eq!(agent_of(&token_as(&host, STRANGER)), "slow");
    assert_eq!(host.status()["name_problems"], serde_json::json!([]));
    assert_error(&token_as(&host, STRANGER + 1), 401, "invalid_client");
    assert!(!names.was_asked_by_number(), "no caller causes a lookup");
}

/// A number has one first name; the others are names of the same user too.
#[test]
fn each_name_of_a_number_is_that_user() {
    let mut host = Host::new();
    let names = NameService::attach_to(&mut host);
    for user in ["svc-old", "svc-new"] {
        names.user(user, &STRANGER.to_string());
    }
    for group in ["team-old", "team-new"] {
        names.group(group, "777");
    }
    host.agent("caller", "user = \"svc-old\"\ngroup = \"team-old\"");
    host.start();
    let caller = Credentials::user(STRANGER).group(777);
    for (user, group) in [("svc-old", "team-new"), ("svc-new", "team-old"), ("svc-new", "team-new")] {
        host.agent("caller", &format!("user = \"{user}\"\ngroup = \"{group}\""));
        host.reload();
        assert_eq!(agent_of(&caller.token(&host)), "caller", "{user} {group}");
    }
}

#[test]
fn a_lookup_that_fails_keeps_the_number_known_last() {
    let mut host = Host::new();
    let names = NameService::attach_to(&mut host);
    names.user("service", &STRANGER.to_string());
    names.group("team", "777");
    host.agent("by-user", "user = \"service\"");
    host.agent("by-group", "group = \"team\"");
    host.start();
    assert_eq!(agent_of(&token_as(&host, STRANGER)), "by-user");
    names.user("service", "fail");
    names.group("team", "fail");
    // A reload looks all names up.
    host.reload();
    assert_eq!(agent_of(&token_as(&host, STRANGER)), "by-user");
    assert_eq!(agent_of(&Credentials::user(NOBODY).group(777).token(&host)), "by-group");
    let problems = host.status()["name_problems"].to_string();
    assert!(problems.contains("its last number, 4242, stays in use"), "{problems}");
    assert!(problems.contains("its last number, 777, stays in use"), "{problems}");
    let shown = String::from_utf8(host.hostbadge(&["status"]).stdout).unwrap();
    assert!(shown.contains("user \"service\" cannot be looked up"), "{shown}");

    names.user("service", "missing");
    host.reload();
    assert_error(&token_as(&host, STRANGER), 401, "invalid_client");
}

#[test]
fn a_user_that_was_never_known_is_temporarily_unavailable_and_known_later() {
    let mut host = Host::new();
    let names = NameService::attach_to(&mut host);
    names.user("service", "fail");
    host.agent("service", "user = \"service\"");
    host.agent("other", "user = \"service\"\nunit = \"other.service\"");
    host.agent("root", "user = 0");
    host.start();
    assert_error(&token_as(&host, STRANGER), 503, "temporarily_unavailable");
    host.token();
    names.user("service", &STRANGER.to_string());
    until_true("the lookup is repeated", || token_as(&host, STRANGER).status == 200);
    assert_eq!(agent_of(&token_as(&host, STRANGER)), "service");
}

#[test]
fn a_workload_client_whose_user_is_not_known_is_told_that_it_is_unavailable() {
    let mut host = Host::new();
    let names = NameService::attach_to(&mut host);
    names.user("service", "fail");
    host.agent("service", "user = \"service\"");
    host.start();
    let client = Grpc::connect(&host.workload_socket());
    assert_eq!(client.jwt(&[API], "").unwrap_err().code, UNAVAILABLE);
    names.user("service", "0");
    until_true("the lookup is repeated", || client.jwt(&[API], "").is_ok());
}

#[test]
fn the_user_of_a_unit_that_has_just_started_is_known_at_its_first_request() {
    let mut host = Host::new();
    let names = NameService::attach_to(&mut host);
    names.user("dynamic", "missing");
    host.agent("dynamic", "user = \"dynamic\"");
    host.start();
    assert_error(&token_as(&host, DYNAMIC), 401, "invalid_client");
    assert_error(&token_as(&host, STRANGER), 401, "invalid_client");
    names.user("dynamic", &DYNAMIC.to_string());
    assert_eq!(agent_of(&token_as(&host, DYNAMIC)), "dynamic");
}

#[test]
fn a_change_of_the_local_files_takes_effect_without_a_reload() {
    let mut host = Host::new();
    let passwd = host.path("passwd");
    let system = fs::read_to_string("/etc/passwd").unwrap();
    let write = |uid: u32| {
        fs::write(&passwd, format!("{system}hostbadge-test:x:{uid}:{uid}::/:/bin/false\n")).unwrap();
    };
    write(STRANGER);
    let inside = "mount --bind \"$0\" /etc/passwd && exec \"$@\"";
    let words = ["unshare", "--mount", "sh", "-c", inside, passwd.to_str().unwrap()];
    host.start.wrapper = words.map(str::to_owned).to_vec();
    host.agent("local", "user = \"hostbadge-test\"");
    host.start();
    assert_eq!(agent_of(&token_as(&host, STRANGER)), "local");
    // The user is deleted, and another one gets its name.
    write(STRANGER + 1);
    until_true("the new number counts", || token_as(&host, STRANGER + 1).status == 200);
    assert_error(&token_as(&host, STRANGER), 401, "invalid_client");
}

#[test]
fn a_caller_in_65536_groups_causes_no_lookup_and_is_told_why_it_is_not_matched() {
    let mut host = Host::new();
    let names = NameService::attach_to(&mut host);
    host.agent("mail", "group = \"mail\"");
    host.start();
    let with_groups = |count: u32| {
        let groups = (0..count - 1).map(|n| 100_000 + n).chain([8]);
        groups.fold(Credentials::user(STRANGER), Credentials::group)
    };
    assert_eq!(agent_of(&with_groups(1024).token(&host)), "mail");
    for count in [1025, 65_536] {
        let answer = with_groups(count).token(&host);
        assert_error(&answer, 401, "invalid_client");
        assert!(answer.text().contains("more than 1024 groups"), "{}", answer.text());
    }
    assert!(!names.was_asked_by_number());
    // Its other conditions are compared as for everybody.
    host.agent("stranger", &format!("user = {STRANGER}"));
    host.reload();
    assert_eq!(agent_of(&with_groups(65_536).token(&host)), "stranger");
}

#[test]
fn refused_callers_of_the_same_user_do_not_use_up_the_rate_of_an_agent() {
    let mut host = Host::new();
    host.configure("[limits]\nunknown_rate = 1\nunknown_burst = 1\n");
    host.agent("agent", &format!("user = {NOBODY}\ngroup = 777"));
    host.agent("program", &format!("user = {NOBODY}\nexe_sha256 = \"{}\"", "00".repeat(32)));
    host.start();
    let other = Credentials::user(NOBODY);
    until_true("the rate is used up", || other.token(&host).status == 429);
    for _ in 0..20 {
        assert_eq!(agent_of(&other.clone().group(777).token(&host)), "agent");
    }
}

#[test]
fn an_admin_group_that_cannot_be_looked_up_is_said_and_takes_effect_later() {
    let mut host = Host::new();
    let names = NameService::attach_to(&mut host);
    names.group("operators", "fail");
    host.configure("[admin]\ngroup = \"operators\"\n");
    host.start();
    let socket = || fs::metadata(host.admin_socket()).unwrap();
    assert_eq!(socket().permissions().mode() & 0o777, 0o600);
    assert!(admin_group_problem(&host).contains("cannot be looked up"), "{}", admin_group_problem(&host));
    until_true("it is in the log", || {
        host.log().contains("admin group \"operators\": it cannot be looked up")
    });
    let shown = String::from_utf8(host.hostbadge(&["status"]).stdout).unwrap();
    assert!(shown.contains("operators: it cannot be looked up"), "{shown}");

    names.group("operators", "777");
    until_true("the group is found", || socket().gid() == 777);
    until_true("its members may connect", || socket().permissions().mode() & 0o777 == 0o660);
    let member = Credentials::user(STRANGER).group(777);
    assert_eq!(member.curl_at(&host.admin_socket(), "/v1/status", &[]).status, 200);
    let status = host.status()["admin_group"].clone();
    assert_eq!(status, serde_json::json!({ "name": "operators", "gid": 777, "problem": null }));
}

#[test]
fn a_missing_admin_group_is_said_and_takes_effect_when_it_is_created() {
    let mut host = Host::new();
    let names = NameService::attach_to(&mut host);
    names.group("operators", "missing");
    host.configure("[admin]\ngroup = \"operators\"\n");
    host.start();
    assert!(admin_group_problem(&host).contains("there is no such group"), "{}", admin_group_problem(&host));
    until_true("it is in the log", || {
        host.log().contains("admin group \"operators\": there is no such group")
    });
    fs::set_permissions(host.admin_socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let member = Credentials::user(STRANGER).group(777);
    let ask = || member.curl_at(&host.admin_socket(), "/v1/status", &[]);
    assert_error(&ask(), 403, "access_denied");
    names.group("operators", "777");
    // A reload looks all names up.
    host.reload();
    until_true("its members may administer", || ask().status == 200);
    names.group("operators", "missing");
    host.reload();
    until_true("the socket is closed again", || {
        fs::metadata(host.admin_socket()).unwrap().permissions().mode() & 0o777 == 0o600
    });
}

#[test]
fn an_administrator_is_told_to_try_again_while_the_group_is_not_known() {
    let mut host = Host::new();
    let names = NameService::attach_to(&mut host);
    names.group("operators", "fail");
    host.configure("[admin]\ngroup = \"operators\"\n");
    host.start();
    fs::set_permissions(host.admin_socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let answer = Credentials::user(STRANGER).curl_at(&host.admin_socket(), "/v1/status", &[]);
    assert_error(&answer, 503, "temporarily_unavailable");
}

#[test]
fn an_open_connection_follows_the_number_of_its_user() {
    let mut host = Host::new();
    let names = NameService::attach_to(&mut host);
    names.user("service", &STRANGER.to_string());
    host.agent("service", "user = \"service\"");
    host.start();
    let mut client = ScriptedClient::connect(&host, &Credentials::user(STRANGER));
    assert_eq!(client.whoami().1["agent"], "service");
    names.user("service", "4243");
    host.reload();
    assert_eq!(client.whoami().0, 401);
    client.close();
}
