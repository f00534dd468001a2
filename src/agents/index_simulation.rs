//! Compares what the index finds with a comparison of every agent, over generated agents and processes.
//!
//! `mod.rs` compiles this file for tests alone: an `unwrap` here fails the test.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use super::agent_set::AgentSet;
use super::compared_agents::{ComparedAgents, Failure};
use super::registrations::Registrations;
use super::selectors::NumberMatch;
use crate::names::{Name, NameTable};
use crate::peer::{CgroupNames, Container, Peer, PeerInfo, Session, UserUnit};

const AGENTS: u64 = 2000;
const PEERS: u64 = 500;

/// A generator of numbers that are the same in every run (Knuth's MMIX multiplier).
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// User names u0 to u39 and group names g0 to g39: a third have a number, a third are missing, and a third
/// are not known. The numbers are those that agents and processes have too, and some are of `DynamicUser=`.
fn names() -> NameTable {
    let numbers = (0..40).filter(|n| n % 3 != 2).flat_map(|n| {
        let number = (n % 3 == 0).then_some(if n % 2 == 0 { n } else { 61_184 + n });
        [(Name::User(format!("u{n}")), number), (Name::Group(format!("g{n}")), number)]
    });
    NameTable::of_test(numbers)
}

fn number(random: &mut Random) -> u32 {
    let low = random.below(40) as u32;
    if random.one_in(4) { 61_184 + low } else { low }
}

/// Each condition of `[match]`, in all combinations, and with values that other agents have too.
fn conditions(random: &mut Random) -> String {
    let mut text = String::new();
    let with = 1 + random.below(7);
    let id_or_name = |random: &mut Random, letter: char| match random.one_in(2) {
        true => number(random).to_string(),
        false => format!("\"{letter}{}\"", random.below(40)),
    };
    if with & 1 != 0 {
        writeln!(text, "user = {}", id_or_name(random, 'u')).unwrap();
    }
    if with & 2 != 0 {
        writeln!(text, "group = {}", id_or_name(random, 'g')).unwrap();
    }
    if with & 4 != 0 {
        writeln!(text, "unit = \"s{}.service\"", random.below(30)).unwrap();
    }
    if with & 1 != 0 && random.one_in(4) {
        writeln!(text, "user_unit = \"s{}.service\"", random.below(5)).unwrap();
    }
    if with & 1 != 0 && random.one_in(4) {
        writeln!(text, "session = true").unwrap();
    }
    if random.one_in(8) {
        writeln!(text, "container = \"{:064x}\"", random.below(5)).unwrap();
    }
    if random.one_in(3) {
        writeln!(text, "exe = \"/bin/e{}\"", random.below(10)).unwrap();
    }
    text
}

fn agents(random: &mut Random) -> AgentSet {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..AGENTS {
        let text = format!("name = \"a{n}\"\n[match]\n{}", conditions(random));
        std::fs::write(dir.path().join(format!("{n}.toml")), text).unwrap();
    }
    AgentSet::read(dir.path(), 35).unwrap()
}

fn peer(random: &mut Random) -> PeerInfo {
    let groups = (!random.one_in(6)).then(|| (0..random.below(60)).map(|_| number(random)).collect());
    let (uid, gid) = (number(random), number(random));
    let owner = |random: &mut Random| if random.one_in(5) { number(random) } else { uid };
    let id = format!("{:064x}", random.below(5));
    let user_unit = random
        .one_in(2)
        .then(|| UserUnit { uid: owner(random), name: format!("s{}.service", random.below(5)) });
    let cgroup = CgroupNames {
        unit: (!random.one_in(4)).then(|| format!("s{}.service", random.below(32))),
        user_unit,
        session: random.one_in(2).then(|| Session { uid: owner(random), id: "1".into() }),
        container: (!random.one_in(3))
            .then(|| Container { id, owner: random.one_in(2).then(|| owner(random)) }),
    };
    let exe = (!random.one_in(5)).then(|| PathBuf::from(format!("/bin/e{}", random.below(12))));
    PeerInfo::of_test(uid, gid, groups, cgroup, exe)
}

/// What a process is to each agent that it may be, by the agents' names.
type Found = BTreeMap<String, String>;

fn by_scan(peer: &PeerInfo, registrations: &Registrations) -> Found {
    let has_dynamic_id = [peer.uid, peer.gid].iter().any(|id| (61_184..=65_519).contains(id));
    let compare = |entry: &Arc<super::AgentEntry>| {
        let text = match entry.selectors.match_numbers(peer, registrations.names()) {
            NumberMatch::Holds(tag) => tag.to_string(),
            NumberMatch::Missing if has_dynamic_id => "missing".to_owned(),
            NumberMatch::Unknown => "unknown".to_owned(),
            NumberMatch::TooManyGroups => "too many groups".to_owned(),
            NumberMatch::Missing | NumberMatch::Fails => return None,
        };
        Some((entry.name.to_string(), text))
    };
    registrations.agents.iter().filter_map(compare).collect()
}

fn by_index(peer: &Peer, registrations: &Arc<Registrations>) -> Found {
    let compared = ComparedAgents::of(peer, registrations);
    let possible =
        compared.possible.iter().map(|one| (one.entry.name.to_string(), one.match_tag.to_string()));
    let mut found: Vec<(String, String)> = possible.collect();
    assert!(found.is_sorted(), "the first agent by name is the default identity");
    let mut add = |list: &[Arc<super::AgentEntry>], text: &str| {
        found.extend(list.iter().map(|entry| (entry.name.to_string(), text.to_owned())));
    };
    for (list, failure) in &compared.failures {
        match failure {
            Failure::Unresolved => add(list, "unknown"),
            Failure::TooManyGroups => add(list, "too many groups"),
            other => panic!("{other:?} is not known without waiting"),
        }
    }
    compared.missing.iter().for_each(|list| add(list, "missing"));
    let count = found.len();
    let found: Found = found.into_iter().collect();
    assert_eq!(found.len(), count, "each agent once");
    found
}

#[test]
fn the_index_finds_what_a_comparison_of_every_agent_finds() {
    let mut random = Random(1);
    let registrations = Arc::new(Registrations::of_test(Arc::new(agents(&mut random)), Arc::new(names())));
    let mut kinds = BTreeMap::<String, usize>::new();
    for n in 0..PEERS {
        let peer = Peer::of_test(peer(&mut random));
        let scanned = by_scan(&peer, &registrations);
        assert_eq!(by_index(&peer, &registrations), scanned, "process {n}: {peer:?}");
        for text in scanned.values() {
            let kind = if text.len() == 8 { "holds" } else { text };
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
    }
    // Each case occurred often.
    for kind in ["holds", "missing", "unknown", "too many groups"] {
        assert!(kinds.get(kind).is_some_and(|count| *count > 500), "{kind}: {kinds:?}");
    }
}

#[test]
fn a_process_is_compared_with_few_of_many_agents() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..1000 {
        // All have the same group; half have a user too, and the others the unit of all and an executable.
        let conditions = match n % 2 {
            0 => format!("user = {n}\ngroup = 100"),
            _ => format!("group = 100\nunit = \"all.service\"\nexe = \"/bin/e{n}\""),
        };
        let text = format!("name = \"a{n}\"\n[match]\n{conditions}\n");
        std::fs::write(dir.path().join(format!("{n}.toml")), text).unwrap();
    }
    let agents = Arc::new(AgentSet::read(dir.path(), 35).unwrap());
    let registrations = Registrations::of_test(agents, Arc::new(NameTable::default()));
    for (uid, groups, exe) in
        [(2, Some(vec![100]), "/bin/e3"), (2, None, "/bin/e3"), (1, Some(vec![100]), "/bin/x")]
    {
        let cgroup = CgroupNames { unit: Some("all.service".into()), ..CgroupNames::default() };
        let peer = PeerInfo::of_test(uid, 100, groups, cgroup, Some(exe.into()));
        let found = registrations.index().find(&peer, registrations.names());
        assert!(found.agents.len() <= 2, "{}", found.agents.len());
    }
}
