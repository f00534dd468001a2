//! What widens, and what does not.

use super::*;
use crate::agents::rights_changes::MAX_KEPT;
use crate::agents::role_set;

fn read(agents: &[(&str, &str)], roles: &[(&str, &str)]) -> AgentSet {
    role_set::tests::read(agents, roles).unwrap()
}

fn between(previous: &AgentSet, current: &AgentSet) -> RightsDiff {
    RightsDiff::between(previous, current, EvaluatedAttributes::default())
}

/// The changes of agent `a` with these files, and how many of them widen.
fn diff(old: &str, new: &str) -> (Vec<String>, usize) {
    let diff = between(&read(&[("a", old)], &[]), &read(&[("a", new)], &[]));
    let texts = diff.changes.iter().map(|one| one.description.replace("agent a: ", ""));
    assert_eq!(diff.count, diff.changes.len());
    (texts.collect(), diff.widening)
}

/// The changes of a grant with these lines, in both directions.
#[track_caller]
fn assert_widens(narrow: &str, wide: &str, text: &str) {
    let file = |lines: &str| format!("[match]\nuser = 0\n[[grant]]\naudience = \"https://x\"\n{lines}\n");
    let (found, widening) = diff(&file(narrow), &file(wide));
    assert_eq!((found[0].as_str(), found.len(), widening), (text, 1, 1), "{narrow} to {wide}");
    assert_eq!(diff(&file(wide), &file(narrow)).1, 0, "{wide} to {narrow}");
}

#[test]
fn wider_grants_are_flagged_and_narrower_ones_are_not() {
    assert_widens("scopes = [\"r\"]", "scopes = [\"r\", \"w\"]", "grant for https://x: scopes +w");
    assert_widens("ttl = \"1m\"", "ttl = \"1h\"", "grant for https://x: ttl 60 s to 3600 s");
    assert_widens("assurance = \"tpm\"", "", "grant for https://x: assurance");
    assert_widens("", "typ = \"JWT\"", "grant for https://x: typ");
    assert_widens("posture = \"enforce\"", "posture = \"warn\"", "grant for https://x: posture");
    assert_widens("posture = \"warn\"", "posture = \"off\"", "grant for https://x: posture");
    assert_widens("status_list = true", "", "grant for https://x: status_list");
    assert_widens("", "status_list = false", "grant for https://x: status_list");
    assert_widens("expires = 2027-01-01", "expires = 2027-01-02", "grant for https://x: expires");
    assert_widens("expires = 2027-01-01", "", "grant for https://x: expires");
    assert_widens(
        "hours = \"Mon 08:00-09:00 UTC\"",
        "hours = \"Mon 08:00-10:00 UTC\"",
        "grant for https://x: hours",
    );
    assert_widens("hours = \"Mon 08:00-09:00 UTC\"", "", "grant for https://x: hours");
    assert_widens("", "[[grant]]\naudience = \"https://y\"", "new grant for https://y");
    assert_widens("", "[[credential]]\nname = \"c\"", "new credential c");
    assert_widens(
        "[[credential]]\nname = \"c\"",
        "[[credential]]\nname = \"c\"\nuse = \"release\"",
        "credential c: use",
    );
}

#[test]
fn weaker_conditions_are_flagged() {
    let file = |conditions: &str| format!("[match]\n{conditions}\n");
    let both = file("user = 0\nunit = \"a.service\"");
    assert_eq!(diff(&both, &file("user = 0")), (vec!["weaker or other conditions in [match]".into()], 1));
    assert_eq!(diff(&file("user = 0"), &both), (vec!["further conditions in [match]".into()], 0));
    assert_eq!(diff(&file("user = 0"), &file("user = 1")).1, 1);
    assert_eq!(diff(&file("user = 0"), &format!("drain = true\n{}", file("user = 0"))).1, 0);
    assert_eq!(diff(&format!("drain = true\n{}", file("user = 0")), &file("user = 0")).1, 1);
    assert_eq!(diff(&file("user = 0"), &format!("tenant = \"t\"\n{}", file("user = 0"))).1, 1);
    assert_eq!(diff(&file("user = 0"), &format!("owner = \"o\"\n{}", file("user = 0"))).1, 0);
    let anomaly = |action: &str| format!("{}[anomaly]\ncanary = \"{action}\"\n", file("user = 0"));
    let weaker = diff(&anomaly("suspend"), &anomaly("alert"));
    assert_eq!(weaker, (vec!["canary in [anomaly]".into()], 1));
    assert_eq!(diff(&anomaly("alert"), &anomaly("suspend")).1, 0);
}

#[test]
fn changes_of_roles_are_listed_once_and_what_an_own_grant_hid_is_found() {
    let agent = "roles = [\"r\"]\n[match]\nuser = 0\n";
    let role = |ttl: &str| format!("[[grant]]\naudience = \"https://x\"\nttl = \"{ttl}\"\n");
    let (short, long) = (role("1m"), role("1h"));
    let set = |role: &str, agent: &str| read(&[("a", agent), ("b", agent)], &[("r", role)]);
    let diff = between(&set(&short, agent), &set(&long, agent));
    assert_eq!((diff.count, diff.widening), (1, 1), "{diff:?}");
    assert_eq!(diff.changes[0].description, "role r: grant for https://x: ttl 60 s to 3600 s");
    // The own grant had replaced that of the role.
    let own = format!("{agent}{short}");
    let diff = between(&set(&long, &own), &set(&long, agent));
    assert_eq!((diff.count, diff.widening), (2, 2), "{diff:?}");
    let without = between(&set(&long, agent), &set(&long, "[match]\nuser = 0\n"));
    assert_eq!(without.widening, 0, "{without:?}");
    assert_eq!(between(&set(&long, agent), &set(&long, agent)), RightsDiff::default());
}

#[test]
fn what_policies_evaluate_widens_when_it_changes() {
    let with = "roles = [\"r\"]\nowner = \"o\"\n[match]\nuser = 0\n";
    let role = [("r", "[[grant]]\naudience = \"https://x\"\n")];
    let before = read(&[("a", with)], &role);
    let after = read(&[("a", "owner = \"p\"\n[match]\nuser = 0\n")], &role);
    for (roles, owner) in [(false, false), (true, false), (false, true), (true, true)] {
        let evaluates = EvaluatedAttributes { roles, owner, ..EvaluatedAttributes::default() };
        let diff = RightsDiff::between(&before, &after, evaluates);
        let expected = usize::from(roles) + usize::from(owner);
        assert_eq!((diff.count, diff.widening), (3, expected), "{diff:?}");
    }
    let file = |condition: &str, grant: &str| {
        format!("[match]\nuser = 0\n{condition}\n[[grant]]\naudience = \"https://x\"\n{grant}\n")
    };
    let digest = format!("exe_sha256 = \"{}\"", "00".repeat(32));
    let before = read(&[("a", &file("", ""))], &[]);
    let after = read(&[("a", &file(&digest, "posture = \"enforce\"\nassurance = \"tpm\""))], &[]);
    let none = EvaluatedAttributes::default();
    for (evaluates, widening) in [
        (none, 0),
        (EvaluatedAttributes { posture: true, ..none }, 1),
        (EvaluatedAttributes { assurance: true, ..none }, 1),
        (EvaluatedAttributes { exe_sha256: true, ..none }, 1),
        (EvaluatedAttributes { exe_sha256: true, posture: true, ..none }, 2),
    ] {
        let diff = RightsDiff::between(&before, &after, evaluates);
        assert_eq!((diff.count, diff.widening), (2, widening), "{evaluates:?}: {diff:?}");
    }
}

#[test]
fn fewer_scopes_and_shorter_lifetimes_widen_where_policies_evaluate_them() {
    let file = |lines: &str| format!("[match]\nuser = 0\n[[grant]]\naudience = \"https://x\"\n{lines}\n");
    let none = EvaluatedAttributes::default();
    let (scopes, ttl) =
        (EvaluatedAttributes { scopes: true, ..none }, EvaluatedAttributes { ttl: true, ..none });
    for (wide, narrow, evaluated, other) in [
        ("scopes = [\"r\", \"admin\"]", "scopes = [\"r\"]", scopes, ttl),
        ("ttl = \"1h\"", "ttl = \"1m\"", ttl, scopes),
        ("expires = 2027-01-02", "expires = 2027-01-01", ttl, scopes),
        ("", "expires = 2027-01-01", ttl, scopes),
    ] {
        let (before, after) = (read(&[("a", &file(wide))], &[]), read(&[("a", &file(narrow))], &[]));
        let widening = [none, other, evaluated]
            .map(|evaluates| RightsDiff::between(&before, &after, evaluates).widening);
        assert_eq!(widening, [0, 0, 1], "{wide} to {narrow}");
    }
    let credential = |lines: &str| format!("[match]\nuser = 0\n[[credential]]\nname = \"c\"\n{lines}\n");
    let before = read(&[("a", &credential(""))], &[]);
    let after = read(&[("a", &credential("expires = 2027-01-01"))], &[]);
    assert_eq!(RightsDiff::between(&before, &after, ttl).widening, 0);
}

#[test]
fn many_changes_are_counted_and_the_first_are_kept() {
    let names: Vec<String> = (0..300).map(|n| format!("a{n:03}")).collect();
    let agents: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "[match]\nuser = 0\n")).collect();
    let diff = between(&AgentSet::default(), &read(&agents, &[]));
    assert_eq!((diff.changes.len(), diff.count, diff.widening), (MAX_KEPT, 300, 300));
    let removed = between(&read(&agents, &[]), &AgentSet::default());
    assert_eq!((removed.count, removed.widening), (300, 0));
}
