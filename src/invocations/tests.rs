//! Invocations on real directories, cgroups and processes.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use crate::agents::AgentName;
use crate::clock::Timestamp;
use crate::peer::{InvocationEnd, unified_mount};

/// Longest wait for an end; a busy machine needs a part of it.
const TIMEOUT: Duration = Duration::from_secs(20);
const UNTIL: Timestamp = Timestamp::from_secs(1_700_000_000);

struct Fixture {
    dir: tempfile::TempDir,
    invocations: Invocations,
    watcher: InvocationWatcher,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let units = dir.path().join("units");
        fs::create_dir(&units).unwrap();
        let invocations = Invocations::new(HostFiles { units, cgroups: unified_mount().map(Path::to_owned) });
        let watcher = InvocationWatcher::new(invocations.clone());
        Fixture { dir, invocations, watcher }
    }

    fn link(&self, unit: &str) -> PathBuf {
        self.dir.path().join("units").join(format!("invocation:{unit}"))
    }

    /// Has systemd start a unit, as it replaces the link.
    fn start(&self, unit: &str, id: &str) {
        let new = self.dir.path().join("units").join(".#new");
        symlink(id, &new).unwrap();
        fs::rename(new, self.link(unit)).unwrap();
    }

    fn issued_in_unit(&self, unit: &str, id: &str) {
        self.invocations.add(id, &InvocationEnd::Unit(unit.to_owned()), &[agent("a")], UNTIL);
    }

    async fn ended(&mut self) -> EndedInvocation {
        tokio::time::timeout(TIMEOUT, self.watcher.next()).await.expect("the end is noticed")
    }

    /// Has the watcher work; fails where an invocation has ended.
    async fn assert_none_ends_within(&mut self, time: Duration) {
        if let Ok(ended) = tokio::time::timeout(time, self.watcher.next()).await {
            panic!("{ended:?}");
        }
    }
}

fn agent(name: &str) -> AgentName {
    AgentName::parse(name).unwrap()
}

fn id(n: u32) -> String {
    format!("{n:012x}4{:019x}", 7)
}

#[tokio::test]
async fn a_unit_that_stops_or_starts_again_ends_its_invocation() {
    let mut host = Fixture::new();
    for unit in ["a.service", "b.service", "c.service"] {
        host.start(unit, &id(unit.as_bytes()[0].into()));
        host.issued_in_unit(unit, &id(unit.as_bytes()[0].into()));
    }
    host.assert_none_ends_within(Duration::from_millis(50)).await;
    // Other units and other files there do not matter.
    host.start("other.service", &id(9));
    fs::remove_file(host.link("a.service")).unwrap();
    let ended = host.ended().await;
    assert_eq!((&*ended.id, &ended.agents[..], ended.until), (id(97).as_str(), &[agent("a")][..], UNTIL));
    assert!(ended.reason.contains("a.service"), "{}", ended.reason);
    host.start("b.service", &id(1));
    assert_eq!(&*host.ended().await.id, id(98));
    // The directory itself is removed.
    fs::remove_dir_all(host.dir.path().join("units")).unwrap();
    assert_eq!(&*host.ended().await.id, id(99));
    assert_eq!(host.invocations.len(), 0);
    // It is made again, as after a start of the first unit.
    fs::create_dir(host.dir.path().join("units")).unwrap();
    host.start("a.service", &id(5));
    host.issued_in_unit("a.service", &id(5));
    host.assert_none_ends_within(Duration::from_millis(50)).await;
    fs::remove_file(host.link("a.service")).unwrap();
    assert_eq!(&*host.ended().await.id, id(5));
}

#[tokio::test]
async fn a_unit_that_ended_before_it_was_watched_is_noticed() {
    let mut host = Fixture::new();
    host.issued_in_unit("a.service", &id(1));
    assert_eq!(&*host.ended().await.id, id(1));
    host.start("a.service", &id(3));
    host.issued_in_unit("a.service", &id(2));
    assert_eq!(&*host.ended().await.id, id(2));
    assert_eq!(host.invocations.fault(), None);
}

#[tokio::test]
async fn a_unit_that_restarts_a_hundred_times_leaves_nothing_behind() {
    let mut host = Fixture::new();
    let mut seen = HashSet::new();
    for n in 0..100 {
        host.start("a.service", &id(n));
        host.issued_in_unit("a.service", &id(n));
        if n > 0 {
            seen.insert(host.ended().await.id);
        }
        assert!(host.invocations.len() <= 2);
    }
    assert_eq!(seen.len(), 99);
    assert!(!seen.contains(id(99).as_str()), "the last one goes on");
    // All at once: the watcher does not run meanwhile.
    for n in 100..200 {
        host.start("a.service", &id(n));
        host.issued_in_unit("a.service", &id(n));
    }
    for _ in 0..100 {
        seen.insert(host.ended().await.id);
    }
    assert_eq!((seen.len(), host.invocations.len()), (199, 1));
}

#[tokio::test]
async fn a_token_of_an_invocation_that_is_not_watched_is_looked_up() {
    let mut host = Fixture::new();
    host.start("a.service", &id(1));
    let agent = agent("a");
    let derived = format!("{:012x}8{:019x}", 1, 7);
    let (first, second) = (id(1), id(2));
    let token = |id| TokenInvocation { id, unit: Some("a.service"), agent: &agent, expires: UNTIL };
    assert!(!host.invocations.has_ended(&token(&first)));
    assert!(host.invocations.has_ended(&token(&second)));
    // Both are watched from now on, so that what else was issued in the second one ends too.
    let ended = host.ended().await;
    assert_eq!((&*ended.id, ended.until), (id(2).as_str(), UNTIL));
    assert_eq!(host.invocations.len(), 1);
    // Whether another one goes on cannot be looked up by its ID.
    assert!(!host.invocations.has_ended(&token(&derived)));
}

/// A process of a session of its own.
fn session() -> (Child, InvocationEnd) {
    let child = Command::new("setsid").args(["sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
    let leader = child.id() as i32;
    // setsid(1) executes the program itself, because it is no leader of a process group.
    let stat = fs::read_to_string(format!("/proc/{leader}/stat")).unwrap();
    let start_time = stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().parse().unwrap();
    (child, InvocationEnd::Session { leader, start_time })
}

#[tokio::test]
async fn a_session_ends_with_its_leader() {
    let mut host = Fixture::new();
    let (mut child, end) = session();
    let InvocationEnd::Session { leader, start_time } = end.clone() else { unreachable!() };
    host.invocations.add("1", &end, &[agent("a")], UNTIL);
    let reused = InvocationEnd::Session { leader, start_time: start_time + 1 };
    host.invocations.add("2", &reused, &[agent("a")], UNTIL);
    assert_eq!(&*host.ended().await.id, "2", "another process with the same pid");
    host.assert_none_ends_within(Duration::from_millis(50)).await;
    // Nobody has waited for it: it is a zombie.
    child.kill().unwrap();
    let ended = host.ended().await;
    assert!(&*ended.id == "1" && ended.reason.contains(&leader.to_string()), "{ended:?}");
    child.wait().unwrap();
    host.invocations.add("3", &end, &[agent("a")], UNTIL);
    assert_eq!(&*host.ended().await.id, "3", "gone before it was watched");
}

struct Cgroup(PathBuf);

impl Cgroup {
    /// `None` where this process may make none.
    fn new(name: &str) -> Option<(Cgroup, InvocationEnd)> {
        let name = format!("hostbadge-test-{name}-{}", std::process::id());
        let dir = unified_mount()?.join(&name);
        fs::create_dir(&dir).ok()?;
        let id = fs::metadata(&dir).unwrap().ino();
        Some((Cgroup(dir), InvocationEnd::Cgroup { path: format!("/{name}"), id }))
    }

    fn process(&self) -> Child {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(self.0.join("cgroup.procs"), child.id().to_string()).unwrap();
        child
    }

    fn remove(&self) {
        for _ in 0..500 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        panic!("{} is busy", self.0.display());
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_cgroup_ends_when_it_is_empty_for_a_second_or_removed() {
    let mut host = Fixture::new();
    let Some((cgroup, end)) = Cgroup::new("empty") else { return };
    let first = cgroup.process();
    host.invocations.add("1", &end, &[agent("a")], UNTIL);
    host.assert_none_ends_within(Duration::from_millis(1500)).await;
    // Empty for a moment, as between two commands of a unit.
    kill(first);
    host.assert_none_ends_within(Duration::from_millis(100)).await;
    let second = cgroup.process();
    host.assert_none_ends_within(Duration::from_millis(1500)).await;
    kill(second);
    assert!(host.ended().await.reason.contains("hostbadge-test-empty"));

    // Another process appears later, and the cgroup is removed after it at once.
    let third = cgroup.process();
    host.invocations.add("1", &end, &[agent("a")], UNTIL);
    host.assert_none_ends_within(Duration::from_millis(50)).await;
    kill(third);
    cgroup.remove();
    assert_eq!(&*host.ended().await.id, "1");

    // Removed before it is watched, and made again: the id is another.
    let Some((again, _)) = Cgroup::new("empty") else { panic!("it was made before") };
    let fourth = again.process();
    host.invocations.add("1", &end, &[agent("a")], UNTIL);
    assert_eq!(&*host.ended().await.id, "1");
    kill(fourth);
    again.remove();
}

#[tokio::test]
async fn two_invocations_end_with_one_cgroup() {
    let mut host = Fixture::new();
    let Some((cgroup, end)) = Cgroup::new("shared") else { return };
    let process = cgroup.process();
    host.invocations.add("agent", &end, &[agent("a")], UNTIL);
    host.invocations.add("sub-agent", &end, &[agent("a")], UNTIL);
    host.assert_none_ends_within(Duration::from_millis(1500)).await;
    kill(process);
    let mut ended = [host.ended().await.id, host.ended().await.id];
    ended.sort();
    assert_eq!(ended.map(|id| id.to_string()), ["agent", "sub-agent"]);
    cgroup.remove();
}

#[tokio::test]
async fn many_cgroups_are_watched_by_one_descriptor() {
    let mut host = Fixture::new();
    let mut cgroups = Vec::new();
    for n in 0..50 {
        let Some((cgroup, end)) = Cgroup::new(&format!("many-{n}")) else { return };
        let child = cgroup.process();
        host.invocations.add(&n.to_string(), &end, &[agent("a")], UNTIL);
        cgroups.push((cgroup, child));
    }
    host.assert_none_ends_within(Duration::from_millis(1500)).await;
    for (cgroup, child) in cgroups {
        kill(child);
        cgroup.remove();
    }
    let mut ended = HashSet::new();
    while ended.len() < 50 {
        ended.insert(host.ended().await.id);
    }
    assert_eq!(host.invocations.len(), 0);
}

#[tokio::test]
async fn after_a_restart_the_file_tells_what_has_ended_meanwhile() {
    let host = Fixture::new();
    host.start("a.service", &id(1));
    host.start("b.service", &id(2));
    host.issued_in_unit("a.service", &id(1));
    host.issued_in_unit("b.service", &id(2));
    host.invocations.add("boot", &InvocationEnd::Boot, &[agent("b"), agent("a")], UNTIL);
    assert!(host.invocations.to_file().is_none(), "what is there would be lost");
    host.invocations.restore(None, UNTIL);
    host.invocations.to_file().unwrap().write(host.dir.path()).unwrap();

    host.start("b.service", &id(3));
    let file = InvocationsFile::read(host.dir.path()).unwrap().unwrap();
    assert!(!file.is_of_earlier_boot());
    let invocations = Invocations::new(HostFiles { units: host.dir.path().join("units"), cgroups: None });
    let later = UNTIL.after(Duration::from_secs(9));
    invocations.restore(Some(file), later);
    let mut watcher = InvocationWatcher::new(invocations.clone());
    let ended = tokio::time::timeout(TIMEOUT, watcher.next()).await.unwrap();
    assert_eq!((&*ended.id, ended.agents, ended.until), (id(2).as_str(), vec![agent("a")], later));
    assert_eq!(invocations.len(), 2);
    let path = host.dir.path().join("invocations.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(crate::peer::boot_id(), "another")).unwrap();
    assert!(InvocationsFile::read(host.dir.path()).unwrap().unwrap().is_of_earlier_boot());
}

#[tokio::test]
async fn too_many_sessions_end_the_oldest_of_the_agent_with_the_most() {
    let mut host = Fixture::new();
    let (child, InvocationEnd::Session { leader, start_time }) = session() else { unreachable!() };
    // All are of one process, which does not matter here.
    let end = InvocationEnd::Session { leader, start_time };
    host.invocations.add("quiet", &end, &[agent("quiet")], UNTIL);
    for n in 0..MAX_SESSIONS + 1 {
        host.invocations.add(&n.to_string(), &end, &[agent("loud")], UNTIL);
    }
    for expected in ["0", "1"] {
        let ended = host.ended().await;
        assert_eq!(&*ended.id, expected);
        assert!(ended.reason.contains("more than 1024 sessions"), "{}", ended.reason);
    }
    assert_eq!(host.invocations.len(), MAX_SESSIONS);
    kill(child);
}
