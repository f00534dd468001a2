//! Sub-agents: cgroups below that of an agent, each an identity of its own with a part of the agent's rights.
//!
//! The cgroups are made here, as systemd makes those of units: by root, so that no agent can move its processes.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;

use crate::common::audit_log::with_event;
use crate::common::callers::{Credentials, NOBODY, ScriptedClient, Unit};
use crate::common::grpc::Grpc;
use crate::common::http::{Response, claims};
use crate::common::processes::output_with;
use crate::common::{API, Host, require_root, until_true};
use serde_json::{Value, json};

const OTHER_API: &str = "https://other.example.com";
const RIGHTS: &str = "
[[grant]]
audience = \"https://api.example.com\"
scopes = [\"docs.read\", \"docs.write\"]
ttl = \"10m\"
[[grant]]
audience = \"https://other.example.com\"
[[credential]]
name = \"key\"
use = \"release\"
";

/// A host with the agent `researcher`, which is a unit of nobody and may have sub-agents, and `reader`, which is root.
struct World {
    /// Cgroups below that of the unit, in the order in which they are removed.
    below: Vec<Unit>,
    host: Host,
    unit: Unit,
}

impl World {
    fn new(delegate: &str) -> World {
        World::with(delegate, RIGHTS)
    }

    fn with(delegate: &str, rights: &str) -> World {
        require_root();
        let mut host = Host::new();
        let mut unit = Unit::new("researcher").in_unified_hierarchy();
        unit.set_invocation_id("0123456789abcdef0123456789abcdef");
        host.agent("reader", "user = 0");
        let text = format!(
            "name = \"researcher\"\nowner = \"team@example.com\"\n[match]\nuser = {NOBODY}\nunit = {:?}\n{delegate}\n\
             {rights}",
            unit.name
        );
        host.agents_file("researcher", &text);
        host.start();
        World { below: Vec::new(), host, unit }
    }

    /// A cgroup below that of the unit.
    fn make(&mut self, name: &str) -> Credentials {
        let (above, name) =
            name.rsplit_once('/').map_or((String::new(), name), |(above, name)| (format!("/{above}"), name));
        let parent = format!("system.slice/{}{above}", self.unit.name);
        let cgroup = Unit::at(&parent, name.to_owned()).in_unified_hierarchy();
        let who = Credentials::user(NOBODY).in_unit(&cgroup);
        self.below.insert(0, cgroup);
        who
    }

    /// Removes the cgroup that was made last.
    fn remove_last(&mut self) {
        self.below.remove(0);
    }

    fn parent(&self) -> Credentials {
        Credentials::user(NOBODY).in_unit(&self.unit)
    }

    fn delegate(&self, who: &Credentials, request: &Value) -> Response {
        let body = request.to_string();
        who.curl(&self.host, "/v1/delegate", &["-H", "content-type: application/json", "-d", &body])
    }

    /// A sub-agent of the unit's process, and its answer.
    #[track_caller]
    fn sub_agent(&mut self, name: &str, more: &Value) -> (Credentials, Value) {
        let who = self.make(name);
        let mut request = json!({ "name": name, "cgroup": name });
        request.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let answer = self.delegate(&self.parent(), &request);
        assert_eq!(answer.status, 200, "{}", answer.text());
        (who, answer.json())
    }

    fn token(&self, who: &Credentials, audience: &str) -> Response {
        who.curl(&self.host, "/v1/token", &["-d", &format!("audience={audience}")])
    }

    fn is_active(&self, token: &str) -> bool {
        self.host.introspect(token)["active"].as_bool().unwrap()
    }

    /// The directories of `cgroup.procs` of a cgroup below the unit's.
    fn dirs(&self, name: &str) -> Vec<PathBuf> {
        let found = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"]
            .map(|mount| PathBuf::from(format!("{mount}/system.slice/{}/{name}", self.unit.name)));
        found.into_iter().filter(|dir| dir.join("cgroup.procs").exists()).collect()
    }

    fn events(&self, event: &str) -> Vec<String> {
        let lines = self.host.audit();
        with_event(&lines, event).iter().map(|line| line["detail"].as_str().unwrap().to_owned()).collect()
    }
}

fn access_token(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

/// The name of the agent that the daemon sees, or the error.
fn agent_of(world: &World, who: &Credentials) -> String {
    let answer = who.curl(&world.host, "/v1/whoami", &[]);
    match answer.status {
        200 => answer.json()["agent"].as_str().unwrap().to_owned(),
        _ => answer.json()["error_description"].as_str().unwrap().to_owned(),
    }
}

#[test]
fn two_sub_agents_of_one_user_have_two_identities() {
    let mut world = World::new("[delegate]");
    let (fetch, answer) = world.sub_agent("fetch", &json!({}));
    let (write, _) = world.sub_agent("write", &json!({ "ttl": "5m" }));
    let id = answer["spiffe_id"].as_str().unwrap();
    let parent_id = id.strip_suffix("/sub/fetch").unwrap();
    assert!(parent_id.ends_with("/agent/researcher"), "{id}");
    assert_eq!((&answer["agent"], &answer["boundary"]), (&json!("researcher/sub/fetch"), &json!("kernel")));
    assert_eq!(answer["cgroup"], json!(format!("/system.slice/{}/fetch", world.unit.name)));
    assert_eq!(agent_of(&world, &world.parent()), "researcher");
    assert_eq!(agent_of(&world, &fetch), "researcher/sub/fetch");
    assert_eq!(agent_of(&world, &write), "researcher/sub/write");

    // The token is the parent's, and says who acts.
    let token = access_token(&world.token(&fetch, API));
    let said = claims(&token);
    assert_eq!((&said["sub"], &said["act"]), (&json!(parent_id), &json!({ "sub": id })));
    assert_eq!(said["client_id"], "researcher/sub/fetch");
    assert_eq!(said["hostbadge"]["boundary"], "kernel");
    let parents = claims(&access_token(&world.token(&world.parent(), API)));
    assert_eq!((&parents["sub"], parents.get("act")), (&json!(parent_id), None));
    assert_ne!(said["hostbadge"]["invocation"], parents["hostbadge"]["invocation"]);
    let introspected = world.host.introspect(&token);
    assert_eq!((&introspected["active"], &introspected["act"]["sub"]), (&json!(true), &json!(id)));
    // Its own documents have its own ID.
    let svid = fetch.jwt_svid(&world.host, API).unwrap();
    assert_eq!(claims(&svid)["sub"], json!(id));
    assert!(Grpc::connect(&world.host.workload_socket()).validate(API, &svid).is_ok());
    let chain = fetch.curl(&world.host, "/v1/certificate", &["-d", ""]).json();
    let chain = chain["certificate_chain"].as_str().unwrap().to_owned();
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-ext", "subjectAltName"]);
    let text = output_with(&mut openssl, chain.as_bytes());
    assert!(String::from_utf8_lossy(&text.stdout).contains(&format!("URI:{id}\n")), "{text:?}");
    let whoami = fetch.curl(&world.host, "/v1/whoami", &[]).json();
    assert_eq!(whoami["spiffe_id"], json!(id));
    assert_eq!(
        (&whoami["delegation"]["parent"], &whoami["delegation"]["boundary"]),
        (&json!("researcher"), &json!("kernel"))
    );
    assert_eq!(whoami["peer"]["invocation"], said["hostbadge"]["invocation"]);
    let why = fetch.curl(&world.host, "/v1/whoami/why", &[]).json();
    assert_eq!(
        (&why["agents"], &why["delegation"]),
        (&json!(["researcher/sub/fetch"]), &whoami["delegation"])
    );
    let why = world.parent().curl(&world.host, "/v1/whoami/why", &[]).json();
    assert_eq!((&why["agents"], why.get("delegation")), (&json!(["researcher"]), None));

    // The record names both.
    let lines = world.host.audit();
    let issued = with_event(&lines, "token-issued");
    let of_sub = issued.iter().find(|line| line["agent"] == "researcher/sub/fetch").unwrap();
    assert_eq!(
        (&of_sub["delegated_subject"], &of_sub["owner"]),
        (&json!("researcher"), &json!("team@example.com"))
    );
    let delegated = world.events("sub-agent-delegated");
    assert!(delegated[0].starts_with("researcher/sub/fetch in /system.slice/"), "{delegated:?}");
}

#[test]
fn no_process_becomes_the_parent_or_a_sibling() {
    let mut world = World::new("[delegate]");
    let (fetch, _) = world.sub_agent("fetch", &json!({}));
    world.sub_agent("write", &json!({}));
    world.make("free");
    let mut client = ScriptedClient::connect(&world.host, &fetch);
    assert_eq!(client.whoami().1["agent"], "researcher/sub/fetch");
    // Each way out of its cgroup is a file of root.
    for name in ["write", "free", "."] {
        for dir in world.dirs(name) {
            let file = dir.join("cgroup.procs").display().to_string();
            client.execute(&format!(
                "import subprocess; r = subprocess.run(['sh', '-c', 'echo $PPID > {file}']).returncode"
            ));
            assert_ne!(client.evaluate("r"), json!(0), "{file}");
        }
    }
    assert_eq!(client.whoami().1["agent"], "researcher/sub/fetch");
    client.close();
    // A connection of the parent that moves is the sub-agent from the next request on.
    let mut client = ScriptedClient::connect(&world.host, &world.parent());
    assert_eq!(client.whoami().1["agent"], "researcher");
    world.below.iter().find(|one| one.name == "fetch").unwrap().add_process(&client.pid().to_string());
    assert_eq!(client.whoami().1["agent"], "researcher/sub/fetch");
    client.close();
}

#[test]
fn a_sub_agent_has_the_rights_that_it_was_given() {
    let mut world = World::new("[delegate]\nttl = \"2m\"");
    let grants = json!({ "grants": [{ "audience": API, "scope": "docs.read", "ttl": 60, "bind": "dpop" }] });
    let (fetch, _) = world.sub_agent("fetch", &grants);
    let (none, _) = world.sub_agent("none", &json!({ "grants": [] }));
    let (all, _) = world.sub_agent("all", &json!({}));
    let answer = world.token(&fetch, API).json();
    assert_eq!((&answer["scope"], &answer["token_type"]), (&json!("docs.read"), &json!("DPoP")));
    assert!(answer["expires_in"].as_u64().unwrap() <= 60, "{answer}");
    for (who, audience, error) in [
        (&fetch, OTHER_API, "invalid_target"),
        (&none, API, "invalid_target"),
        (&none, OTHER_API, "invalid_target"),
    ] {
        assert_eq!(world.token(who, audience).error(), error);
    }
    let wider = fetch.curl(&world.host, "/v1/token", &["-d", &format!("audience={API}&scope=docs.write")]);
    assert_eq!(wider.error(), "invalid_scope");
    let credential = |who: &Credentials| who.curl(&world.host, "/v1/credential", &["-d", "name=key"]).error();
    assert_eq!((credential(&fetch), credential(&none)), ("invalid_target".into(), "invalid_target".into()));
    // No token outlasts the delegation.
    let answer = world.token(&all, API).json();
    let lifetime = answer["expires_in"].as_u64().unwrap();
    assert!((100..=120).contains(&lifetime), "{answer}");
    assert_eq!(answer["scope"], "docs.read docs.write");
    // An identity needs no grant, and lives no longer either.
    let chain = none.curl(&world.host, "/v1/certificate", &["-d", ""]).json();
    assert!(chain["expires_at"].is_string(), "{chain}");

    for (grant, expected) in [
        (json!({ "audience": "https://unknown" }), "has no grant for the audience https://unknown"),
        (json!({ "audience": API, "scope": "admin" }), "has no scope \"admin\""),
        (json!({ "audience": API, "ttl": "11m" }), "live 600 s at most"),
        (json!({ "credential": "other" }), "has no credential \"other\""),
        (json!({ "audience": API, "credential": "key" }), "each of grants must have an audience"),
        (json!({}), "each of grants must have an audience"),
    ] {
        let answer =
            world.delegate(&world.parent(), &json!({ "name": "x", "cgroup": "none", "grants": [grant] }));
        let said = answer.json()["error_description"].as_str().unwrap().to_owned();
        assert!(answer.status == 400 && said.contains(expected), "{said}");
    }
    // A parent that loses a right takes it from its sub-agents.
    let file = world.host.path("etc/agents.d/researcher.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"docs.write\"", "\"docs.none\"")).unwrap();
    world.host.reload();
    assert_eq!(world.token(&all, API).json()["scope"], "docs.none docs.read");
    fs::write(&file, text.replace("[delegate]\nttl = \"2m\"", "")).unwrap();
    world.host.reload();
    assert!(agent_of(&world, &all).contains("its parent may not have it any more"));
}

#[test]
fn a_sub_agent_gets_the_credential_that_its_parent_gets() {
    let mut world = World::new("[delegate]");
    let put = |body: &Value| {
        let answer = world.host.admin().post("/v1/credentials/put", body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    put(&json!({ "name": "key", "value": "shared-secret" }));
    put(&json!({ "name": "key", "value": "own-secret", "agent": "researcher" }));
    let (fetch, _) = world.sub_agent("fetch", &json!({}));
    for who in [world.parent(), fetch] {
        let answer = who.curl(&world.host, "/v1/credential", &["-d", "name=key"]);
        assert_eq!(answer.json()["value"], "own-secret", "{}", answer.text());
    }
}

#[test]
fn only_cgroups_below_ones_own_are_delegated() {
    let mut world = World::new("[delegate]\nmax = 2");
    let inner = world.make("main");
    world.make("work");
    world.make("parts.slice");
    let work = format!("/system.slice/{}/work", world.unit.name);
    let mut elsewhere = Unit::new("elsewhere").in_unified_hierarchy();
    elsewhere.set_invocation_id("0123456789abcdef0123456789abcde0");
    let (own, other) =
        (format!("/system.slice/{}", world.unit.name), format!("/system.slice/{}", elsewhere.name));
    for (who, cgroup, status, expected) in [
        (world.parent(), own.as_str(), 400, "contains this process"),
        (inner.clone(), own.as_str(), 400, "contains this process"),
        (inner.clone(), "main", 400, "contains this process"),
        (inner.clone(), "/system.slice", 400, "contains this process"),
        (world.parent(), other.as_str(), 403, "is not below"),
        (world.parent(), "parts.slice", 400, "is a slice"),
        (world.parent(), "gone", 400, "there is no cgroup"),
        (world.parent(), "cgroup.procs", 400, "there is no cgroup"),
        (world.parent(), "../other", 400, "must be the path of a cgroup"),
        (world.parent(), "/", 400, "must be the path of a cgroup"),
        (world.parent(), "", 400, "must be the path of a cgroup"),
        (world.parent(), "/below/", 400, "must be the path of a cgroup"),
    ] {
        let answer = world.delegate(&who, &json!({ "name": "x", "cgroup": cgroup }));
        let said = answer.json()["error_description"].as_str().unwrap().to_owned();
        assert!(answer.status == status && said.contains(expected), "{cgroup}: {} {said}", answer.status);
    }
    for name in ["", "X", "a/sub/b", "a b", "..", &"a".repeat(64)] {
        let answer = world.delegate(&world.parent(), &json!({ "name": name, "cgroup": "work" }));
        assert_eq!(answer.error(), "invalid_request", "{name}");
    }
    // 127 characters are left for the SPIFFE ID.
    let answer = world.delegate(&world.parent(), &json!({ "name": "a".repeat(63), "cgroup": "work" }));
    assert!(answer.text().contains("the SPIFFE ID would have"), "{}", answer.text());
    // The name with the directory where the hierarchy is mounted is the same cgroup.
    let mounted = world.dirs("work").into_iter().find(|dir| dir.join("cgroup.events").exists()).unwrap();
    let answer = world.delegate(&inner, &json!({ "name": "x", "cgroup": mounted }));
    assert_eq!((answer.status, &answer.json()["cgroup"]), (200, &json!(work)), "{}", answer.text());
    let answer = world.delegate(&inner, &json!({ "name": "y", "cgroup": "work" }));
    assert!(answer.text().contains("overlaps the cgroup of sub-agent"), "{}", answer.text());
    world.sub_agent("second", &json!({}));
    world.make("third");
    let answer = world.delegate(&inner, &json!({ "name": "third", "cgroup": "third" }));
    assert_eq!((answer.status, answer.error().as_str()), (429, "slow_down"), "{}", answer.text());
}

#[test]
fn a_cgroup_with_processes_of_others_is_not_delegated() {
    let mut world = World::new("[delegate]");
    world.host.agent("other", &format!("user = {NOBODY}\nexe = \"/usr/bin/sleep\""));
    world.host.reload();
    let taken = world.make("taken");
    let foreign = world.make("foreign");
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    taken.apply_to(&mut sleep);
    let mut sleeping = sleep.spawn().unwrap();
    let client = ScriptedClient::connect(&world.host, &world.parent());
    world.below.iter().find(|one| one.name == "foreign").unwrap().add_process(&client.pid().to_string());
    drop(foreign);
    let of_root = Credentials::root().in_unit(&world.below[0]);
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    of_root.apply_to(&mut sleep);
    let mut sleeping_root = sleep.spawn().unwrap();
    let refused = |cgroup: &str| {
        let answer = world.delegate(&world.parent(), &json!({ "name": "x", "cgroup": cgroup }));
        assert_eq!(answer.status, 403, "{}", answer.text());
        answer.json()["error_description"].as_str().unwrap().to_owned()
    };
    // The sleeping process is agent `other` too, and the parent's as well: it stays the parent's to delegate.
    until_true("the processes run", || {
        !fs::read_to_string(world.dirs("taken")[0].join("cgroup.procs")).unwrap().is_empty()
    });
    let said = refused("foreign");
    assert!(said.contains("is one of uid 0, and not of uid 65534"), "{said}");
    let answer = world.delegate(&world.parent(), &json!({ "name": "taken", "cgroup": "taken" }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    // A process of another user that comes later is nobody.
    let of_root = Credentials::root().in_unit(world.below.iter().find(|one| one.name == "taken").unwrap());
    let said = of_root.curl(&world.host, "/v1/whoami", &[]).text();
    assert!(said.contains("the sub-agent has processes of uid 65534 alone"), "{said}");
    for child in [&mut sleeping, &mut sleeping_root] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    client.close();
}

#[test]
fn sub_agents_have_sub_agents_as_deep_as_the_file_says() {
    let mut world = World::new("[delegate]\ndepth = 2");
    let (first, _) =
        world.sub_agent("first", &json!({ "grants": [{ "audience": API, "scope": "docs.read" }] }));
    let second = world.make("first/second");
    let answer = world.delegate(&first, &json!({ "name": "second", "cgroup": "second" }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["agent"], "researcher/sub/first/sub/second");
    let token = access_token(&world.token(&second, API));
    let said = claims(&token);
    let id = |name: &str| format!("{}{name}", said["sub"].as_str().unwrap());
    let act = json!({ "sub": id("/sub/first/sub/second"), "act": { "sub": id("/sub/first") } });
    assert_eq!((&said["act"], &said["scope"]), (&act, &json!("docs.read")));
    assert!(said["sub"].as_str().unwrap().ends_with("/agent/researcher"));
    assert_eq!(world.token(&second, OTHER_API).error(), "invalid_target");
    world.make("first/second/third");
    let answer = world.delegate(&second, &json!({ "name": "third", "cgroup": "third" }));
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("may be 2 deep"), "{}", answer.text());
    // It has no say elsewhere, and its parent none in its cgroup.
    world.make("beside");
    let path = format!("/system.slice/{}/beside", world.unit.name);
    assert!(world.delegate(&first, &json!({ "name": "x", "cgroup": path })).text().contains("is not below"));
    world.make("first/more");
    let answer = world.delegate(&world.parent(), &json!({ "name": "x", "cgroup": "first/more" }));
    assert!(answer.text().contains("overlaps the cgroup of sub-agent"), "{}", answer.text());
    // Both end with the first.
    let answer =
        world.host.admin().post("/v1/revocations/revoke", &json!({ "agent": "researcher/sub/first" }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!world.is_active(&token));
    assert!(world.token(&second, API).text().contains("researcher/sub/first\\\" has ended"));
    assert_eq!(world.token(&world.parent(), API).status, 200, "and not its parent");
}

#[test]
fn what_a_sub_agent_got_ends_with_it() {
    let mut world = World::new("[delegate]");
    let (fetch, _) = world.sub_agent("fetch", &json!({}));
    let (short, _) = world.sub_agent("short", &json!({ "ttl": 3 }));
    let parents = access_token(&world.token(&world.parent(), API));
    let token = access_token(&world.token(&fetch, API));
    let svid = fetch.jwt_svid(&world.host, API).unwrap();
    let client = Grpc::connect(&world.host.workload_socket());
    assert!(world.is_active(&token) && client.validate(API, &svid).is_ok());
    // No process is left in the cgroup since curl has ended.
    until_true("its token has ended", || !world.is_active(&token));
    assert!(client.validate(API, &svid).is_err());
    until_true("its end is recorded", || {
        world.events("sub-agent-ended").iter().any(|end| end.contains("sub/fetch"))
    });
    assert!(world.is_active(&parents));
    assert!(
        agent_of(&world, &fetch).contains("\"researcher/sub/fetch\" and is not it: the sub-agent has ended")
    );
    let answer = world.delegate(&world.parent(), &json!({ "name": "fetch", "cgroup": "fetch" }));
    assert!(answer.text().contains("remove it, and make it again"), "{}", answer.text());

    until_true("its time is over", || agent_of(&world, &short).contains("its time is over"));
    assert_eq!(world.token(&short, API).error(), "invalid_client");
    // The cgroup is removed and made again: another sub-agent, under the same name.
    world.remove_last();
    let (short, _) = world.sub_agent("short", &json!({}));
    let mut kept = ScriptedClient::connect(&world.host, &short);
    let again = access_token(&world.token(&short, API));
    assert!(world.is_active(&again));
    // Its parent's end is its own.
    let mut unit = std::mem::replace(&mut world.unit, Unit::new("unused"));
    unit.stop();
    until_true("the parent's end has ended it", || !world.is_active(&again));
    assert_eq!(kept.whoami().0, 401);
    kept.close();
    world.below.clear();
    drop(unit);
}

#[test]
fn a_restart_of_the_daemon_makes_no_sub_agent_its_parent() {
    let mut world = World::new("[delegate]");
    let (fetch, _) = world.sub_agent("fetch", &json!({}));
    let kept = ScriptedClient::connect(&world.host, &fetch);
    let token = access_token(&world.token(&fetch, API));
    world.host.crash();
    world.host.start();
    assert_eq!(agent_of(&world, &fetch), "researcher/sub/fetch");
    assert!(world.is_active(&token));
    // What it depends on is known although `invocations.json` is written later.
    let (write, _) = world.sub_agent("write", &json!({}));
    world.host.crash();
    let _ = fs::remove_file(world.host.path("state/invocations.json"));
    world.host.start();
    assert_eq!(agent_of(&world, &write), "researcher/sub/write");
    world.unit.set_invocation_id("0123456789abcdef0123456789abcde1");
    until_true("the parent's end has ended it", || {
        agent_of(&world, &write).contains("an agent above it has ended")
    });
    world.host.stop();
    let file = world.host.path("state/delegations.json");
    fs::write(&file, "torn").unwrap();
    world.host.start();
    let answer = world.token(&fetch, API);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("is not known"), "{}", answer.text());
    assert_eq!(world.token(&world.parent(), API).status, 503);
    assert_eq!(world.host.get("/v1/whoami").json()["agent"], "reader");
    kept.close();
}

#[test]
fn a_boundary_that_the_agent_can_cross_is_named_and_policies_refuse_it() {
    let mut world = World::new("[delegate]");
    let (kernel, _) = world.sub_agent("kernel", &json!({}));
    let who = world.make("own");
    for dir in world.dirs("own") {
        chown(dir.join("cgroup.procs"), Some(NOBODY), None).unwrap();
    }
    let answer = world.delegate(&world.parent(), &json!({ "name": "own", "cgroup": "own" }));
    assert_eq!(answer.json()["boundary"], "cooperative", "{}", answer.text());
    let token = access_token(&world.token(&who, API));
    assert_eq!(claims(&token)["hostbadge"]["boundary"], "cooperative");
    let policies = world.host.path("etc/policies");
    fs::create_dir_all(&policies).unwrap();
    let policy = "forbid (principal, action == Action::\"token\", resource) when { context.peer has boundary && \
                  context.peer.boundary == \"cooperative\" };\n\
                  forbid (principal, action == Action::\"delegate\", resource) when { context.ttl > 60 || \
                  resource.depth > 1 };\n\
                  forbid (principal == Agent::\"researcher\", action == Action::\"token\", resource == \
                  Audience::\"https://other.example.com\");\n";
    fs::write(policies.join("a.cedar"), policy).unwrap();
    world.host.reload();
    let answer = world.token(&who, API);
    assert_eq!((answer.status, answer.error().as_str()), (403, "access_denied"), "{}", answer.text());
    assert_eq!(world.token(&kernel, API).status, 200);
    // What is forbidden to an agent is forbidden to its sub-agents.
    assert_eq!(world.token(&kernel, OTHER_API).error(), "access_denied");
    world.make("more");
    let refused = world.delegate(&world.parent(), &json!({ "name": "more", "cgroup": "more" }));
    assert!(refused.text().contains("forbidden by policy"), "{}", refused.text());
    let answer = world.delegate(&world.parent(), &json!({ "name": "more", "cgroup": "more", "ttl": 60 }));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_policy_on_the_depth_of_new_sub_agents_is_asked_for_each() {
    let mut world = World::new("[delegate]\ndepth = 2");
    let config = world.host.path("etc/hostbadged.toml");
    let text = fs::read_to_string(&config).unwrap_or_default();
    fs::write(&config, format!("{text}\n[policy]\nrequire_permit = true\n")).unwrap();
    let policies = world.host.path("etc/policies");
    fs::create_dir_all(&policies).unwrap();
    let policy =
        "permit (principal, action == Action::\"delegate\", resource) when { resource.depth <= 1 };\n";
    fs::write(policies.join("a.cedar"), policy).unwrap();
    world.host.stop();
    world.host.start();
    let (first, _) = world.sub_agent("first", &json!({}));
    world.make("first/second");
    let answer = world.delegate(&first, &json!({ "name": "second", "cgroup": "second" }));
    assert_eq!(answer.error(), "access_denied", "{}", answer.text());
}

#[test]
fn a_revoked_or_drained_agent_has_no_sub_agents() {
    let mut world = World::new("[delegate]");
    let (fetch, _) = world.sub_agent("fetch", &json!({}));
    let kept = ScriptedClient::connect(&world.host, &fetch);
    let token = access_token(&world.token(&fetch, API));
    world.make("next");
    let next = json!({ "name": "next", "cgroup": "next" });
    let file = world.host.path("etc/agents.d/researcher.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("[match]", "drain = true\n[match]")).unwrap();
    world.host.reload();
    assert!(world.delegate(&world.parent(), &next).text().contains("is being drained"));
    assert!(world.token(&fetch, API).text().contains("is being drained"));
    assert!(world.is_active(&token), "what it has lives out");
    fs::write(&file, text).unwrap();
    world.host.reload();
    let invocation = "0123456789abcdef0123456789abcdef";
    let answer = world.host.admin().post("/v1/revocations/revoke", &json!({ "invocation": invocation }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!world.is_active(&token));
    assert!(
        world.token(&fetch, API).text().contains("an agent above it has ended: its invocation was revoked")
    );
    assert_eq!(world.delegate(&world.parent(), &next).error(), "access_denied");
    kept.close();
}

#[test]
fn an_agent_without_the_table_has_no_sub_agents() {
    let mut world = World::with("", RIGHTS);
    world.make("x");
    let answer = world.delegate(&world.parent(), &json!({ "name": "x", "cgroup": "x" }));
    assert_eq!((answer.status, answer.error().as_str()), (403, "access_denied"), "{}", answer.text());
    assert!(answer.text().contains("has no [delegate]"), "{}", answer.text());
    let stranger = Credentials::user(65533).curl(&world.host, "/v1/delegate", &["-d", "{}"]);
    assert_eq!(stranger.error(), "invalid_client");
    for body in ["", "[]", "{}", "{\"name\": \"x\"}", "{\"name\": \"x\", \"cgroup\": 7}"] {
        let answer = world.parent().curl(
            &world.host,
            "/v1/delegate",
            &["-H", "content-type: application/json", "-d", body],
        );
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"), "{body}");
    }
}

/// Each way to revoke what the agent has, with the request that lifts it; `None` where it ends its sub-agents for good.
#[test]
fn each_way_to_revoke_an_agent_holds_for_its_sub_agents() {
    let invocation = "0123456789abcdef0123456789abcdef";
    let revoke = "/v1/revocations/revoke";
    for (path, request, lifted_by) in [
        (revoke, json!({ "agent": "researcher" }), None),
        (revoke, json!({ "owner": "team@example.com" }), Some("/v1/revocations/lift")),
        (revoke, json!({ "invocation": invocation }), None),
        ("/v1/freeze", json!({ "reason": "a test" }), Some("/v1/thaw")),
    ] {
        let mut world = World::new("[delegate]\ndepth = 2");
        let body = json!({ "name": "key", "value": "v" });
        assert_eq!(world.host.admin().post("/v1/credentials/put", &body).status, 200);
        let (fetch, _) = world.sub_agent("fetch", &json!({}));
        // The cgroup has a process, and is not at its end.
        let kept = ScriptedClient::connect(&world.host, &fetch);
        world.make("next");
        world.make("fetch/below");
        let (token, svid) =
            (access_token(&world.token(&fetch, API)), fetch.jwt_svid(&world.host, API).unwrap());
        let introspects = Grpc::connect(&world.host.workload_socket());
        assert!(world.is_active(&token) && introspects.validate(API, &svid).is_ok(), "{request}");

        let answer = world.host.admin().post(path, &request);
        assert_eq!(answer.status, 200, "{request}: {}", answer.text());
        for (target, body) in [
            ("/v1/token", format!("audience={API}")),
            ("/v1/certificate", String::new()),
            ("/v1/credential", "name=key".to_owned()),
            ("/v1/attest", "nonce=AAAAAAAAAAA".to_owned()),
            ("/v1/delegate", json!({ "name": "below", "cgroup": "below" }).to_string()),
        ] {
            let form = if body.starts_with('{') { "--json" } else { "-d" };
            let answer = fetch.curl(&world.host, target, &[form, &body]);
            let is_refused = ["invalid_client", "access_denied"].contains(&answer.error().as_str());
            assert!(is_refused && !answer.text().contains("deep"), "{request} {target}: {}", answer.text());
        }
        assert_eq!(fetch.jwt_svid(&world.host, API), None, "{request}");
        let of_parent = world.delegate(&world.parent(), &json!({ "name": "next", "cgroup": "next" }));
        assert_eq!(of_parent.error(), "access_denied", "{request}: {}", of_parent.text());
        assert!(!world.is_active(&token), "{request}");
        assert!(introspects.validate(API, &svid).is_err(), "{request}");

        if let Some(path) = lifted_by {
            let request = if path == "/v1/thaw" { json!({}) } else { request };
            assert_eq!(world.host.admin().post(path, &request).status, 200, "{request}");
            assert!(!world.is_active(&token), "{request}: what it had stays revoked");
            access_token(&world.token(&fetch, API));
        }
        kept.close();
    }
}

#[test]
fn a_thousand_requests_to_delegate_make_no_more_sub_agents_than_the_file_says() {
    let mut world = World::new("[delegate]");
    world.host.stop();
    world.host.configure("[limits]\nrate = 100000\nburst = 100000\n");
    world.host.start();
    let cgroups: Vec<Credentials> = (0..20).map(|n| world.make(&format!("n{n}"))).collect();
    let mut client = ScriptedClient::connect(&world.host, &world.parent());
    client.execute(
        "def delegate(name, cgroup): return str(request('POST /v1/delegate HTTP/1.1\\r\\nContent-Type: \
         application/json\\r\\nX: x', json.dumps({'name': name, 'cgroup': cgroup}))['status'])\n",
    );
    client.execute("from collections import Counter");
    // As many as are permitted by default, and then neither other cgroups nor those of others.
    let answered = client.evaluate("Counter(delegate(f'name{i}', f'n{i % 20}') for i in range(1000))");
    let count = |status: &str| answered.get(status).and_then(Value::as_u64).unwrap_or(0);
    assert_eq!((count("200"), count("403") + count("429")), (16, 984), "{answered}");
    // The same again is no other one.
    let answered = client.evaluate("Counter(delegate('name3', 'n3') for _ in range(100))");
    assert_eq!(answered, json!({ "200": 100 }));
    assert_eq!(agent_of(&world, &cgroups[3]), "researcher/sub/name3");
    assert_eq!(agent_of(&world, &cgroups[17]), "researcher");
    let stored = fs::metadata(world.host.path("state/delegations.json")).unwrap().len();
    assert!(stored < 64 * 1024, "{stored} bytes");
}

#[test]
fn a_suspension_ends_sub_agents_for_good() {
    let mut world = World::new("[delegate]");
    let put = world.host.hostbadge_with(&["credential", "put", "key", "--canary"], "sk-nobody-uses-this");
    assert!(put.status.success(), "{put:?}");
    let (fetch, _) = world.sub_agent("fetch", &json!({}));
    let kept = ScriptedClient::connect(&world.host, &fetch);
    let token = access_token(&world.token(&fetch, API));
    assert_eq!(fetch.curl(&world.host, "/v1/credential", &["-d", "name=key"]).status, 200);
    until_true("the agent is suspended", || world.token(&world.parent(), API).status == 403);
    assert!(!world.is_active(&token));
    let resumed = world.host.hostbadge(&["anomaly", "resume", "researcher"]);
    assert!(resumed.status.success(), "{resumed:?}");
    access_token(&world.token(&world.parent(), API));
    let said = agent_of(&world, &fetch);
    assert!(said.contains("the sub-agent has ended: it or an agent above it was suspended"), "{said}");
    kept.close();
}

#[test]
fn the_kernel_keeps_no_sub_agent_apart_from_an_agent_that_is_every_process_of_a_user() {
    let mut world = World::new("[delegate]");
    let (_, answer) = world.sub_agent("first", &json!({}));
    assert_eq!(answer["boundary"], "kernel");
    let file = world.host.path("etc/agents.d/researcher.toml");
    let text = fs::read_to_string(&file).unwrap();
    let without_unit: Vec<&str> = text.lines().filter(|line| !line.starts_with("unit = ")).collect();
    fs::write(&file, without_unit.join("\n")).unwrap();
    world.host.reload();
    let (_, answer) = world.sub_agent("second", &json!({}));
    assert_eq!(answer["boundary"], "cooperative");
}
