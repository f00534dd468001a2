//! The end of an invocation: what was issued to a unit, a session or a unit of a user ends with it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::audit_log::with_event;
use crate::common::callers::{Credentials, NOBODY, ScriptedClient, Unit, python};
use crate::common::grpc::{Empty, Grpc, X509Bundles};
use crate::common::http::claims;
use crate::common::{API, Host, until_true};
use serde_json::{Value, json};
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;

/// An invocation ID as systemd makes them.
fn id(n: usize) -> String {
    format!("{n:012x}4{:03x}a{:015x}", 1, 7)
}

/// A host with the agents `subject`, which is nobody, and `reader`, which is root.
fn host(conditions: &str) -> Host {
    let mut host = Host::new();
    host.agent("reader", "user = 0");
    host.agent("subject", &format!("user = {NOBODY}\n{conditions}"));
    host.start();
    host
}

#[track_caller]
fn token(host: &Host, who: &Credentials) -> String {
    let answer = who.token(host);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn invocation(token: &str) -> String {
    claims(token)["hostbadge"]["invocation"].as_str().unwrap().to_owned()
}

fn is_active(host: &Host, token: &str) -> bool {
    host.introspect(token)["active"].as_bool().unwrap()
}

/// Asserts for longer than an end takes that something goes on.
#[track_caller]
fn assert_stays(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert!(holds(), "{what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// How many certificates are on the revocation lists that callers get.
fn listed(host: &Host) -> usize {
    let client = Grpc::connect(&host.workload_socket());
    let mut call = client.stream("FetchX509Bundles", &Empty {}).unwrap();
    let bundles = client.next::<X509Bundles>(&mut call, Duration::from_secs(20)).unwrap().unwrap();
    let entries = |crl: &Vec<u8>| {
        let list: CertificateList = CertificateList::from_der(crl).unwrap();
        list.tbs_cert_list.revoked_certificates.map_or(0, |all| all.len())
    };
    bundles.crl.iter().map(entries).sum()
}

/// What the audit log says about ended invocations.
fn ends(host: &Host) -> Vec<String> {
    let lines = host.audit();
    let text = |line: &&Value| line["detail"].as_str().unwrap().to_owned();
    with_event(&lines, "invocation-ended").iter().map(text).collect()
}

/// What a process of a unit has.
struct Held {
    token: String,
    svid: String,
}

impl Held {
    fn request(host: &Host, who: &Credentials) -> Held {
        let certificate = who.curl(host, "/v1/certificate", &["-d", ""]);
        assert_eq!(certificate.status, 200, "{}", certificate.text());
        Held { token: token(host, who), svid: who.jwt_svid(host, API).unwrap() }
    }

    /// Whether token and JWT-SVID are valid.
    fn is_valid(&self, host: &Host) -> (bool, bool) {
        let svid = Grpc::connect(&host.workload_socket()).validate(API, &self.svid);
        (is_active(host, &self.token), svid.is_ok())
    }
}

#[test]
fn what_a_unit_got_ends_when_it_stops_or_is_started_again() {
    let mut unit = Unit::new("subject");
    unit.set_invocation_id(&id(1));
    let host = host(&format!("unit = {:?}", unit.name));
    let who = Credentials::user(NOBODY).in_unit(&unit);
    let first = Held::request(&host, &who);
    assert_eq!((invocation(&first.token), first.is_valid(&host)), (id(1), (true, true)));
    assert_eq!(listed(&host), 0);

    unit.set_invocation_id(&id(2));
    until_true("the first invocation has ended", || first.is_valid(&host) == (false, false));
    until_true("its certificate is revoked", || listed(&host) == 1);
    let second = Held::request(&host, &who);
    assert_eq!((invocation(&second.token), second.is_valid(&host)), (id(2), (true, true)));
    until_true("the end is recorded", || ends(&host).len() == 1);
    let said = &ends(&host)[0];
    assert!(said.contains(&id(1)) && said.contains(&unit.name) && said.contains("subject"), "{said}");

    unit.stop();
    until_true("the second invocation has ended", || second.is_valid(&host) == (false, false));
    until_true("its certificate is revoked", || listed(&host) == 2);
    let lines = host.audit();
    let revoked = with_event(&lines, "certificates-revoked");
    assert!(revoked.iter().all(|line| line.to_string().contains("has ended")), "{revoked:?}");
}

#[test]
fn a_unit_that_restarts_a_hundred_times_leaves_no_valid_token() {
    let mut unit = Unit::new("subject");
    unit.set_invocation_id(&id(0));
    let host = host(&format!("unit = {:?}", unit.name));
    let who = Credentials::user(NOBODY).in_unit(&unit);
    let mut tokens = Vec::new();
    for n in 1..=100 {
        unit.set_invocation_id(&id(n));
        tokens.push(token(&host, &who));
    }
    let last = tokens.pop().unwrap();
    until_true("all earlier tokens are inactive", || !tokens.iter().any(|token| is_active(&host, token)));
    assert!(is_active(&host, &last));
    until_true("all ends are recorded", || ends(&host).len() == 99);
    // The file is written within 2 s after a change.
    until_true("only the last invocation is remembered", || {
        let stored = stored(&host);
        stored.len() == 1 && stored[0]["id"] == id(100)
    });
}

/// The invocations in `invocations.json`.
fn stored(host: &Host) -> Vec<Value> {
    let Ok(text) = fs::read_to_string(host.path("state/invocations.json")) else { return Vec::new() };
    let file: Value = serde_json::from_str(&text).unwrap();
    file["invocations"].as_array().unwrap().clone()
}

#[test]
fn a_restart_of_the_daemon_misses_no_end() {
    let (mut ended, mut going_on) = (Unit::new("ended"), Unit::new("going-on"));
    ended.set_invocation_id(&id(1));
    going_on.set_invocation_id(&id(2));
    let mut host = host("");
    let (of_ended, of_other) =
        (Credentials::user(NOBODY).in_unit(&ended), Credentials::user(NOBODY).in_unit(&going_on));
    let (first, other) = (Held::request(&host, &of_ended), Held::request(&host, &of_other));
    host.stop();
    ended.set_invocation_id(&id(3));
    host.start();
    until_true("the first invocation has ended", || first.is_valid(&host) == (false, false));
    until_true("its certificate is revoked", || listed(&host) == 1);
    assert_eq!(other.is_valid(&host), (true, true));

    // The daemon is killed before it has written that there is another invocation.
    let third = token(&host, &of_ended);
    host.crash();
    ended.stop();
    host.start();
    assert!(!is_active(&host, &third));
    assert_eq!(other.is_valid(&host), (true, true));
    going_on.stop();
    until_true("the other invocation has ended", || other.is_valid(&host) == (false, false));
    until_true("its certificate is revoked", || listed(&host) == 2);
}

#[test]
fn nothing_outlives_a_start_of_the_host() {
    let mut unit = Unit::new("subject");
    unit.set_invocation_id(&id(1));
    let mut host = host("");
    let who = Credentials::user(NOBODY).in_unit(&unit);
    let before = Held::request(&host, &who);
    let of_session = host.token();
    let body = json!({ "invocation": id(9), "reason": "a test" });
    assert_eq!(host.admin().post("/v1/revocations/revoke", &body).status, 200);
    host.stop();
    for name in ["invocations.json", "leaves.json"] {
        let path = host.path("state").join(name);
        let mut file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        file["boot"] = json!("another boot");
        fs::write(&path, file.to_string()).unwrap();
    }
    host.start();
    assert_eq!((before.is_valid(&host), is_active(&host, &of_session)), ((false, false), false));
    until_true("the certificate is revoked", || listed(&host) == 1);
    let after = Held::request(&host, &who);
    assert_eq!(after.is_valid(&host), (true, true));
    assert!(ends(&host)[0].contains("started again"), "{:?}", ends(&host));
    // Revocations of invocations of the earlier boot block nothing any more.
    let lifted = host.admin().post("/v1/revocations/lift", &json!({ "invocation": id(9) }));
    assert_eq!(lifted.status, 409, "{}", lifted.text());

    // Another start of the daemon ends nothing.
    host.stop();
    host.start();
    assert_eq!((after.is_valid(&host), before.is_valid(&host)), ((true, true), (false, false)));
}

/// A process without a unit that leads a session of its own.
fn session(host: &Host) -> ScriptedClient {
    let mut command = Command::new("setsid");
    command.arg(python());
    ScriptedClient::connect_by(command, &host.agent_socket(), &Credentials::user(NOBODY))
}

#[track_caller]
fn token_of(client: &mut ScriptedClient) -> String {
    let (status, body) = client.request("POST /v1/token", &format!("audience={API}"));
    assert_eq!(status, 200, "{body}");
    body["access_token"].as_str().unwrap().to_owned()
}

#[test]
fn without_a_unit_the_session_is_the_invocation_and_ends_with_its_leader() {
    let host = host("");
    let (mut one, mut other) = (session(&host), session(&host));
    let (first, second) = (token_of(&mut one), token_of(&mut other));
    assert_ne!(invocation(&first), invocation(&second));
    let (_, whoami) = one.whoami();
    assert_eq!(whoami["peer"]["invocation"], invocation(&first));
    // A short-lived process of the same session, such as the command in a script.
    one.execute("import subprocess");
    let curl = format!(
        "subprocess.run(['curl', '-s', '--unix-socket', {:?}, '-d', 'audience={API}', \
         'http://localhost/v1/token'], stdout=subprocess.PIPE).stdout.decode()",
        host.agent_socket()
    );
    let answer = one.evaluate(&curl);
    let answer: Value = serde_json::from_str(answer.as_str().unwrap()).unwrap();
    let of_command = answer["access_token"].as_str().unwrap();
    assert_eq!(invocation(of_command), invocation(&first));
    assert_stays("both tokens are active", || is_active(&host, of_command) && is_active(&host, &first));

    one.close();
    until_true("the session has ended", || !is_active(&host, &first) && !is_active(&host, of_command));
    assert!(is_active(&host, &second), "another session");
    other.close();
    until_true("the other session has ended", || !is_active(&host, &second));
    assert!(ends(&host)[0].contains("leader of the session"), "{:?}", ends(&host));
}

#[test]
fn a_session_without_a_leader_lasts_until_the_host_is_started_again() {
    let host = host("");
    // The leader exits, and its child, which has the pipes, connects after that. All in one line, since the child could
    // read a second one in place of the leader.
    let mut leader = session(&host);
    leader.execute("mother, child = os.getpid(), os.fork(); child and os._exit(0)");
    let gone = leader.pid();
    until_true("the leader has exited", || {
        fs::read_to_string(format!("/proc/{gone}/stat")).is_ok_and(|stat| stat.contains(") Z"))
    });
    leader.execute(&format!("s = socket.socket(socket.AF_UNIX); s.connect({:?})", host.agent_socket()));
    let body = format!("audience={API}");
    let ask = format!("request('POST /v1/token', {body:?}, s=s)['body']");
    let answers = [leader.evaluate(&ask), leader.evaluate(&ask)];
    let tokens = answers.map(|answer| answer["access_token"].as_str().unwrap().to_owned());
    assert_eq!(invocation(&tokens[0]), invocation(&tokens[1]));
    assert_stays("both tokens are active", || tokens.iter().all(|token| is_active(&host, token)));
    until_true("it is stored", || stored(&host).iter().any(|one| one["id"] == invocation(&tokens[0])));
    let stored = stored(&host);
    let entry = stored.iter().find(|one| one["id"] == invocation(&tokens[0])).unwrap();
    assert_eq!(entry["ends_with"], "boot");
    leader.close();
}

#[test]
fn a_unit_of_a_user_ends_when_its_cgroup_is_empty() {
    let uid = 741_101;
    let parent = format!("user.slice/user-{uid}.slice/user@{uid}.service/app.slice");
    let unit = Unit::at(&parent, "agent.service".to_owned()).in_unified_hierarchy();
    let another = Unit::at(&parent, "another.service".to_owned()).in_unified_hierarchy();
    let mut host = Host::new();
    host.agent("reader", "user = 0");
    host.agent("subject", &format!("user = {uid}"));
    host.start();
    let who = |unit: &Unit| Credentials::user(uid).in_unit(unit);
    let mut client = ScriptedClient::connect(&host, &who(&unit));
    let mut other = ScriptedClient::connect(&host, &who(&another));
    let (first, second) = (token_of(&mut client), token_of(&mut other));
    assert_ne!(invocation(&first), invocation(&second), "two units of one user");
    // A second process of the unit, which is not there for longer than it needs.
    assert_eq!(invocation(&token(&host, &who(&unit))), invocation(&first));
    assert_stays("both tokens are active", || is_active(&host, &first) && is_active(&host, &second));
    client.close();
    until_true("the unit has ended", || !is_active(&host, &first));
    assert!(is_active(&host, &second));
    assert!(ends(&host)[0].contains("no process is left"), "{:?}", ends(&host));

    // The cgroup is not removed: a process that appears in it later gets a token that is valid.
    let mut later = ScriptedClient::connect(&host, &who(&unit));
    until_true("new tokens are active", || {
        let token = token_of(&mut later);
        assert_eq!(invocation(&token), invocation(&first));
        is_active(&host, &token)
    });
    assert!(!is_active(&host, &first));
    later.close();
    other.close();
}

#[test]
fn a_revoked_invocation_is_not_blocked_any_more_once_it_has_ended() {
    let mut unit = Unit::new("subject");
    unit.set_invocation_id(&id(1));
    let host = host("");
    let who = Credentials::user(NOBODY).in_unit(&unit);
    let held = Held::request(&host, &who);
    let body = json!({ "invocation": id(1), "reason": "a leak" });
    assert_eq!(host.admin().post("/v1/revocations/revoke", &body).status, 200);
    assert_eq!(held.is_valid(&host), (false, false));
    assert_eq!(who.token(&host).status, 403);
    until_true("its certificate is revoked", || listed(&host) == 1);
    unit.set_invocation_id(&id(2));
    assert!(is_active(&host, &token(&host, &who)));
    // Lifting it says that nothing is blocked.
    until_true("the revocation has ended", || {
        host.admin().post("/v1/revocations/lift", &json!({ "invocation": id(1) })).status == 409
    });
    assert_eq!(held.is_valid(&host), (false, false));
}
