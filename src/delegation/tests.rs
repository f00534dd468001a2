//! Delegations of real cgroups.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Delegations, Error, NewDelegation, OwnCgroups, PlacementError};
use crate::agents::{AgentName, AgentRegistry, DelegatedRights, Delegation, MatchTag, MayBeEmpty};
use crate::clock::{BootTime, Clock, Timestamp};
use crate::names::Names;
use crate::peer::{Boundary, Cgroup, Invocation, PeerTracker, unified_mount};
use crate::posture::{PostureMode, PostureState};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

/// A cgroup of its own for a test, which is removed with those below it.
struct TestCgroup(PathBuf);

impl TestCgroup {
    fn new(name: &str) -> TestCgroup {
        let mount = unified_mount().unwrap();
        let dir = mount.join(format!("hostbadge-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        TestCgroup(dir)
    }

    fn make(&self, below: &str) -> Cgroup {
        fs::create_dir_all(self.0.join(below)).unwrap();
        self.open(below)
    }

    fn open(&self, below: &str) -> Cgroup {
        Cgroup::open(self.0.join(below).to_str().unwrap()).unwrap()
    }

    fn remove(&self, below: &str) {
        fs::remove_dir(self.0.join(below)).unwrap();
    }

    /// Its path in the hierarchy.
    fn path(&self) -> String {
        format!("/{}", self.0.strip_prefix(unified_mount().unwrap()).unwrap().display())
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        fn remove(dir: &Path) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    remove(&entry.path());
                }
            }
            let _ = fs::remove_dir(dir);
        }
        remove(&self.0);
    }
}

/// A registry with agent `a`, which may have sub-agents two deep, and its delegations.
struct World {
    dir: tempfile::TempDir,
    agents: AgentRegistry,
    delegations: Delegations,
    boot: BootTime,
    /// Of this process, which is `a`.
    root_tag: MatchTag,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let agents_dir = dir.path().join("agents.d");
        fs::create_dir(&agents_dir).unwrap();
        let text =
            "name = \"a\"\n[match]\nuser = 0\n[delegate]\ndepth = 2\n[[grant]]\naudience = \"https://x\"\n";
        fs::write(agents_dir.join("a.toml"), text).unwrap();
        let names = Names::start([]).unwrap();
        let agents = AgentRegistry::open(&agents_dir, 35, names, Clock::manual(NOW));
        let boot = BootTime::now();
        let delegations = Delegations::open(dir.path(), agents.clone(), NOW, boot);
        let root_tag = tag_of_this_process(&agents);
        World { dir, agents, delegations, boot, root_tag }
    }

    fn new_delegation(&self, agent: &str, cgroup: Cgroup) -> NewDelegation {
        let agent = AgentName::parse_any(agent).unwrap();
        let above = agent.lineage().nth(1).and_then(|name| {
            let registrations = self.agents.registrations();
            let parent = registrations.delegations.get(name)?;
            Some([vec![parent.invocation.clone()], parent.parent_invocations.clone()].concat())
        });
        NewDelegation {
            agent,
            cgroup,
            parent_invocations: above.unwrap_or_else(|| ["parent", "root"].map(Invocation::of_test).into()),
            root_tag: self.root_tag,
            run_by: None,
            uid: None,
            rights: DelegatedRights::All,
            ttl: HOUR,
            boundary: Boundary::Kernel,
            max: 3,
        }
    }

    fn delegate(&self, agent: &str, cgroup: Cgroup) -> Result<Arc<Delegation>, Error> {
        self.delegations.create(self.new_delegation(agent, cgroup), NOW, self.boot)
    }

    /// Whether the sub-agent is one now.
    fn is_active(&self, agent: &str) -> bool {
        self.agents.registrations().find(agent).is_some()
    }

    /// What has ended since the last call: names and reasons.
    fn ended(&self) -> Vec<(String, String)> {
        let ended = self.delegations.take_ended();
        ended.into_iter().map(|one| (one.delegation.agent.to_string(), one.reason.to_string())).collect()
    }
}

fn tag_of_this_process(agents: &AgentRegistry) -> MatchTag {
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let peer = PeerTracker::from_socket(&socket).unwrap().current_peer().unwrap();
    let posture = PostureState::new(PostureMode::Off, HOUR);
    let identified = agents.identify(agents.candidates(&peer), posture.ima_digests());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(identified).one(None).unwrap().match_tag()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_delegation_ends_with_its_time_its_cgroup_and_its_parent() {
    if !is_root() {
        return;
    }
    let (world, root) = (World::new(), TestCgroup::new("ends"));
    let later = world.boot.after(HOUR);
    world.delegate("a/sub/time", root.make("time")).unwrap();
    world.delegations.end_due(world.boot.after(HOUR - Duration::from_secs(1)));
    assert!(world.is_active("a/sub/time"));
    world.delegations.end_due(later);
    assert!(!world.is_active("a/sub/time"));
    assert_eq!(world.ended(), [("a/sub/time".into(), "its time is over".into())]);

    // Its processes do not become the parent: the cgroup stays one of a sub-agent that has ended.
    let again = world.delegate("a/sub/time", root.open("time")).unwrap_err();
    assert!(matches!(again, Error::Placement(PlacementError::Ended { .. })), "{again}");
    root.remove("time");
    world.delegate("a/sub/time", root.make("time")).unwrap();

    world.delegate("a/sub/gone", root.make("gone")).unwrap();
    world.delegate("a/sub/gone/sub/below", root.make("gone/below")).unwrap();
    root.remove("gone/below");
    root.remove("gone");
    world.delegations.end_due(world.boot);
    let below = ("a/sub/gone/sub/below".to_owned(), "sub-agent \"a/sub/gone\" has ended".to_owned());
    assert_eq!(world.ended(), [("a/sub/gone".into(), "its cgroup was removed".into()), below]);

    let own = world.delegate("a/sub/own", root.make("own")).unwrap();
    assert_eq!(world.delegations.len(), 2);
    world.delegations.end_invocation(&own.invocation, "no process is left");
    assert_eq!(world.ended(), [("a/sub/own".into(), "no process is left".into())]);
    world.delegations.end_invocation("other", "x");
    assert!(world.ended().is_empty() && world.is_active("a/sub/time"));
    world.delegations.end_invocation("root", "the unit has stopped");
    let reason = "an agent above it has ended: the unit has stopped";
    assert_eq!(world.ended(), [("a/sub/time".into(), reason.into())]);
    assert!(world.delegations.is_empty());
}

#[test]
fn cgroups_that_overlap_and_names_in_use_are_refused() {
    if !is_root() {
        return;
    }
    let (world, root) = (World::new(), TestCgroup::new("overlap"));
    let outer = root.make("outer");
    root.make("outer/inner/deep");
    world.delegate("a/sub/one", root.open("outer/inner")).unwrap();
    for (agent, below, expected) in [
        ("a/sub/two", "outer", "overlaps the cgroup of sub-agent \"a/sub/one\""),
        ("a/sub/two", "outer/inner", "overlaps the cgroup of sub-agent \"a/sub/one\""),
        ("a/sub/two", "outer/inner/deep", "overlaps the cgroup of sub-agent \"a/sub/one\""),
        ("a/sub/one", "other", "give this one another name"),
    ] {
        let cgroup = if below == "other" { root.make(below) } else { root.open(below) };
        let error = world.delegate(agent, cgroup).unwrap_err().to_string();
        assert!(error.contains(expected), "{agent} {below}: {error}");
    }
    // A sub-agent delegates below its own cgroup.
    world.delegate("a/sub/one/sub/deep", root.open("outer/inner/deep")).unwrap();
    // The same again is a renewal.
    let renewed = world.delegate("a/sub/one", root.open("outer/inner")).unwrap();
    assert_eq!((world.delegations.len(), renewed.expires), (2, NOW.after(HOUR)));
    world.delegate("a/sub/three", root.make("three")).unwrap();
    let error = world.delegate("a/sub/four", root.make("four")).unwrap_err().to_string();
    assert!(error.contains("agent \"a\" has 3 sub-agents"), "{error}");
    assert!(!outer.path().is_empty());
}

#[test]
fn a_command_of_a_user_is_replaced_by_that_user_alone_and_ends_when_the_table_changes() {
    if !is_root() {
        return;
    }
    let (world, root) = (World::new(), TestCgroup::new("run"));
    let write = |users: &str| {
        let file = world.dir.path().join("agents.d/a.toml");
        let text = format!("name = \"a\"\n[match]\nuser = 0\n[run]\nusers = {users}\n");
        fs::write(file, text).unwrap();
        world.agents.reload(MayBeEmpty::default()).unwrap();
    };
    write("[\"alice\", \"bob\"]");
    let tag = world.agents.registrations().find("a").unwrap().run.as_ref().unwrap().tag();
    root.make("x");
    let start = |uid| {
        let command = world.new_delegation("a/sub/run-x", root.open("x"));
        let command = NewDelegation { run_by: Some(uid), uid: Some(uid), root_tag: tag, ..command };
        world.delegations.create(command, NOW, world.boot)
    };
    start(1).unwrap();
    let error = start(2).unwrap_err().to_string();
    assert!(error.contains("overlaps the cgroup of sub-agent \"a/sub/run-x\""), "{error}");
    start(1).unwrap();
    write("[\"bob\", \"alice\"]");
    world.delegations.end_due(world.boot);
    assert!(world.is_active("a/sub/run-x") && world.ended().is_empty());
    write("[\"bob\"]");
    assert!(!world.is_active("a/sub/run-x"), "at once");
    world.delegations.end_due(world.boot);
    let reason = "[run] of the agent has other users or groups than when it was started";
    assert_eq!(world.ended(), [("a/sub/run-x".into(), reason.into())]);
}

#[test]
fn a_cgroup_that_was_made_again_is_not_delegated() {
    if !is_root() {
        return;
    }
    let (world, root) = (World::new(), TestCgroup::new("again"));
    let first = world.delegate("a/sub/x", root.make("x")).unwrap();
    root.remove("x");
    let second = world.delegate("a/sub/x", root.make("x")).unwrap();
    assert_ne!(first.invocation, second.invocation);
    assert_eq!(world.ended(), [("a/sub/x".into(), "its cgroup was removed".into())]);
    assert_eq!(world.delegations.active(), [second]);
}

#[test]
fn delegations_outlive_the_daemon_and_a_damaged_file_identifies_nobody() {
    if !is_root() {
        return;
    }
    let (world, root) = (World::new(), TestCgroup::new("file"));
    let kept = world.delegate("a/sub/kept", root.make("kept")).unwrap();
    world.delegate("a/sub/ended", root.make("ended")).unwrap();
    world.delegate("a/sub/removed", root.make("removed")).unwrap();
    world.delegations.end_agents("a/sub/ended", "asked for");
    world.delegations.save().unwrap();
    root.remove("removed");

    let reopen = || Delegations::open(world.dir.path(), world.agents.clone(), NOW, world.boot);
    let reopened = reopen();
    assert_eq!(reopened.active(), [kept]);
    assert!(world.is_active("a/sub/kept") && !world.is_active("a/sub/ended"));
    let again = reopened
        .create(world.new_delegation("a/sub/ended", root.open("ended")), NOW, world.boot)
        .unwrap_err();
    assert!(matches!(again, Error::Placement(PlacementError::Ended { .. })), "{again}");

    let file = world.dir.path().join("delegations.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(crate::peer::boot_id(), "another boot")).unwrap();
    assert!(reopen().is_empty(), "no cgroup of another boot exists");
    for damaged in ["", "{", &text.replace("a/sub/kept", "A"), &text.replace("kernel", "wall")] {
        fs::write(&file, damaged).unwrap();
        let delegations = reopen();
        let error =
            delegations.create(world.new_delegation("a/sub/y", root.make("y")), NOW, world.boot).unwrap_err();
        assert!(matches!(&error, Error::Unknown(reason) if reason.contains("delegations.json")), "{error}");
        assert!(world.agents.registrations().delegations.unknown_reason().is_some());
        delegations.save().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), damaged, "it stays as it is");
    }
}

#[test]
fn an_agent_delegates_below_its_own_cgroup_alone() {
    if !is_root() {
        return;
    }
    let root = TestCgroup::new("place");
    root.make("agents.slice/agents-a.slice/w.service");
    root.make("unit/main");
    root.make("unit/sub/deep");
    let mut caller = crate::peer::PeerInfo::of_test(1000, 1000, None, Default::default(), None);
    let prefix = root.path();
    let mut check = |path: &str, bounding: &str, cgroup: &Cgroup, delegation: Option<&Delegation>| {
        caller.cgroup = Some(crate::peer::PeerCgroup::of_test(path, bounding));
        let own = OwnCgroups { caller: &caller, agent: "a", delegation, slice: None, runner: None };
        own.check(cgroup).map_err(|e| e.to_string())
    };
    let (unit, main) = (format!("{prefix}/unit"), format!("{prefix}/unit/main"));
    let sub = root.open("unit/sub");
    assert_eq!(check(&main, &unit, &sub, None), Ok(()));
    assert_eq!(check(&unit, &unit, &sub, None), Ok(()));
    for (path, cgroup) in [(&main, "unit"), (&main, "unit/main"), (&unit, "unit")] {
        let error = check(path, &unit, &root.open(cgroup), None).unwrap_err();
        assert!(error.contains("contains this process"), "{error}");
    }
    let elsewhere = root.open("agents.slice/agents-a.slice/w.service");
    assert!(check(&main, &unit, &elsewhere, None).unwrap_err().contains("is not below"));
    let error = check(&main, &unit, &root.open("agents.slice"), None).unwrap_err();
    assert!(error.contains("is a slice"), "{error}");
    // A sub-agent has no more than its own cgroup.
    let delegation = Delegation {
        agent: AgentName::parse_any("a/sub/b").unwrap(),
        invocation: crate::peer::Invocation::of_delegated(&sub, "a/sub/b"),
        cgroup: sub.clone(),
        parent_invocations: Vec::new(),
        root_tag: MatchTag::from_bytes([1; 4]).unwrap(),
        run_by: None,
        uid: None,
        rights: DelegatedRights::All,
        expires: NOW,
        boundary: Boundary::Kernel,
    };
    assert_eq!(check(sub.path(), &unit, &root.open("unit/sub/deep"), Some(&delegation)), Ok(()));
    let error =
        check(&format!("{}/x", sub.path()), &unit, &root.open("unit/main"), Some(&delegation)).unwrap_err();
    assert!(error.contains("is not below") && error.contains(sub.path()), "{error}");
}

#[test]
fn a_sub_agent_ends_when_the_conditions_of_its_root_change() {
    if !is_root() {
        return;
    }
    let (world, root) = (World::new(), TestCgroup::new("tag"));
    world.delegate("a/sub/x", root.make("x")).unwrap();
    world.delegate("a/sub/x/sub/y", root.make("x/y")).unwrap();
    assert!(world.is_active("a/sub/x") && world.is_active("a/sub/x/sub/y"));
    let file = world.dir.path().join("agents.d/a.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("user = 0", "user = 1")).unwrap();
    world.agents.reload(MayBeEmpty::default()).unwrap();
    assert!(!world.is_active("a/sub/x") && !world.is_active("a/sub/x/sub/y"));
    fs::write(&file, text).unwrap();
    world.agents.reload(MayBeEmpty::default()).unwrap();
    assert!(world.is_active("a/sub/x") && world.is_active("a/sub/x/sub/y"));
}

#[test]
fn the_end_of_a_delegation_ends_those_below_it_for_good() {
    if !is_root() {
        return;
    }
    let (world, root) = (World::new(), TestCgroup::new("below"));
    world.delegate("a/sub/x", root.make("x")).unwrap();
    let old = world.delegate("a/sub/x/sub/y", root.make("x/y")).unwrap();
    // In the file, a delegation that was repeated stays where it was, also over a restart.
    world.delegate("a/sub/x", root.open("x")).unwrap();
    let reopened = Delegations::open(world.dir.path(), world.agents.clone(), NOW, world.boot);
    reopened.end_agents("a/sub/x", "asked for");
    let ended: Vec<String> =
        reopened.take_ended().iter().map(|one| one.delegation.agent.to_string()).collect();
    assert_eq!(ended, ["a/sub/x", "a/sub/x/sub/y"]);
    // Another one of the same name has none of the old ones below it.
    let new = world.new_delegation("a/sub/x", root.make("x2"));
    reopened.create(new, NOW, world.boot).unwrap();
    assert!(world.is_active("a/sub/x") && !world.is_active("a/sub/x/sub/y"));
    assert!(reopened.active().iter().all(|one| one.invocation != old.invocation));
}

#[test]
fn those_that_have_ended_count_while_their_cgroups_are_there() {
    if !is_root() {
        return;
    }
    let (world, root) = (World::new(), TestCgroup::new("count"));
    for name in ["one", "two", "three"] {
        world.delegate(&format!("a/sub/{name}"), root.make(name)).unwrap();
        world.delegations.end_agents(&format!("a/sub/{name}"), "asked for");
    }
    let error = world.delegate("a/sub/four", root.make("four")).unwrap_err().to_string();
    assert!(error.contains("those that have ended count until their cgroups are removed"), "{error}");
    root.remove("one");
    world.delegate("a/sub/four", root.open("four")).unwrap();
}
