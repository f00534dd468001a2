//! Roles of a directory, and what agents get of them.

use std::fs;

use super::*;
use crate::agents::AgentSet;

const GRANT: &str = "[[grant]]\naudience = \"https://x\"\n";

/// Reads agents and roles with these names and texts; faults without their directory.
pub(in crate::agents) fn read(
    agents: &[(&str, &str)],
    roles: &[(&str, &str)],
) -> Result<AgentSet, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    for (kind, files) in [("agents.d", agents), ("roles.d", roles)] {
        fs::create_dir(dir.path().join(kind)).unwrap();
        for (name, text) in files {
            let text = format!("name = \"{name}\"\n{text}");
            fs::write(dir.path().join(format!("{kind}/{name}.toml")), text).unwrap();
        }
    }
    let shorten = |fault: &Diagnostic| fault.to_string().replace(dir.path().to_str().unwrap(), "");
    AgentSet::read(&dir.path().join("agents.d"), 35).map_err(|faults| faults.iter().map(shorten).collect())
}

/// Audiences with the roles that they come from, of agent `a`.
fn grants(agents: &AgentSet) -> Vec<(&str, u64, Option<&str>)> {
    let grants = agents.get("a").unwrap().grants();
    grants.map(|grant| (grant.item.audience.as_str(), grant.ttl.as_secs(), grant.role)).collect()
}

#[test]
fn an_agent_has_its_own_grants_and_those_of_its_roles() {
    let own = format!("roles = [\"r\", \"s\"]\n[match]\nuser = 0\n{GRANT}ttl = \"1m\"\n");
    let role = format!(
        "roles = [\"base\"]\n{GRANT}[[grant]]\naudience = \"https://y\"\n[[credential]]\nname = \"c\"\n"
    );
    let base = "[[grant]]\naudience = \"https://z\"\n[[grant]]\naudience = \"https://y\"\nttl = \"1h\"\n";
    let other = "roles = [\"base\"]\n[[grant]]\naudience = \"https://y\"\n";
    let agents = read(&[("a", &own)], &[("r", &role), ("base", base), ("s", other)]).unwrap();
    let expected = [("https://x", 60, None), ("https://y", 300, Some("r")), ("https://z", 300, Some("base"))];
    assert_eq!(grants(&agents), expected, "the nearest file counts, and each audience once");
    let agent = agents.get("a").unwrap();
    for (audience, _, role) in expected {
        assert_eq!(agent.grant(audience).unwrap().role, role);
    }
    assert!(agent.grant("https://w").is_none());
    assert_eq!(agent.credential("c").unwrap().role, Some("r"));
    assert_eq!((agent.credentials().count(), agents.roles().len()), (1, 3));
}

#[test]
fn agents_share_the_grants_of_a_role() {
    let text = "roles = [\"r\"]\n[match]\nuser = 0\n";
    let names: Vec<String> = (0..100).map(|n| format!("a{n}")).collect();
    let agents: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), text)).collect();
    let agents = read(&agents, &[("r", GRANT)]).unwrap();
    let addresses: std::collections::BTreeSet<*const super::super::grant::Grant> =
        agents.iter().map(|agent| std::ptr::from_ref(agent.grant("https://x").unwrap().item)).collect();
    assert_eq!((agents.len(), addresses.len()), (100, 1));
}

#[test]
fn faults_of_references_name_file_line_and_roles() {
    let agent = |roles: &str| format!("roles = [{roles}]\n[match]\nuser = 0\n");
    let assert_faults = |agents: &[(&str, &str)], roles: &[(&str, &str)], expected: &[&str]| {
        assert_eq!(read(agents, roles).unwrap_err(), expected);
    };
    assert_faults(
        &[("a", &agent("\"raeder\""))],
        &[("reader", "")],
        &["/agents.d/a.toml:2: there is no role \"raeder\"; did you mean \"reader\"?"],
    );
    assert_faults(
        &[("a", &agent("\"one\",\n\"other\", \"one\", \"No\""))],
        &[("one", "")],
        &[
            "/agents.d/a.toml:3: role \"one\" a second time; remove one",
            "/agents.d/a.toml:3: the name of a role must have the form of an agent name: a-z 0-9 . _ -, \
             at most 63 characters",
            "/agents.d/a.toml:3: there is no role \"other\": /roles.d has no such file; add the role's \
             file, or remove the name",
        ],
    );
    assert_faults(
        &[("a", &agent("\"a\""))],
        &[("a", "roles = [\n\"b\"]\n"), ("b", "roles = [\"c\"]"), ("c", "roles = [\"b\", \"none\"]")],
        &[
            "/roles.d/c.toml:2: roles refer to each other in a circle: b -> c -> b; remove one reference",
            "/roles.d/c.toml:2: there is no role \"none\": no file of this directory has that name; add \
             the role's file, or remove the name",
        ],
    );
    assert_faults(
        &[],
        &[("a", "roles = [\"a\"]")],
        &["/roles.d/a.toml:2: roles refer to each other in a circle: a -> a; remove one reference"],
    );
}

#[test]
fn different_grants_of_two_roles_are_a_fault_unless_the_own_file_has_one() {
    let both = "roles = [\"r\", \"s\"]\n";
    let agent = format!("{both}[match]\nuser = 0\n");
    let (short, long) = (GRANT, format!("{GRANT}ttl = \"1h\"\n"));
    let expected = "roles \"r\" and \"s\" have different grants for audience \"https://x\"; make them equal, \
                    remove one, or write it in this file, which then counts";
    let roles = [("r", short), ("s", &long)];
    assert_eq!(read(&[("a", &agent)], &roles).unwrap_err(), [format!("/agents.d/a.toml:2: {expected}")]);
    let with_own = format!("{agent}{GRANT}ttl = \"2m\"\n");
    assert_eq!(grants(&read(&[("a", &with_own)], &roles).unwrap()), [("https://x", 120, None)]);
    assert!(read(&[("a", &agent)], &[("r", short), ("s", short)]).is_ok());
    let third = [roles[0], roles[1], ("t", both)];
    assert_eq!(read(&[], &third).unwrap_err(), [format!("/roles.d/t.toml:1: {expected}")]);
    let credentials =
        ["", "use = \"release\"\n"].map(|usage| format!("[[credential]]\nname = \"c\"\n{usage}"));
    let faults = read(&[("a", &agent)], &[("r", &credentials[0]), ("s", &credentials[1])]).unwrap_err();
    assert!(faults[0].contains("different tables for credential \"c\""), "{faults:?}");
}

#[test]
fn a_role_with_a_fault_gives_no_further_ones_for_its_agents() {
    let agent = "roles = [\"r\"]\n[match]\nuser = 0\n";
    let faults = read(&[("a", agent)], &[("r", "[[grant]]\naudeince = \"x\"\n")]).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("/roles.d/r.toml:3: unknown key `audeince`"), "{faults:?}");
    let twice = [("r", "")].repeat(2);
    assert!(read(&[("a", agent)], &twice).is_ok(), "the same file");
}

#[test]
fn a_host_without_roles_needs_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let agents = dir.path().join("agents.d");
    fs::create_dir(&agents).unwrap();
    let write = |text: &str| fs::write(agents.join("a.toml"), format!("name = \"a\"\n{text}")).unwrap();
    write("[match]\nuser = 0\n");
    assert!(AgentSet::read(&agents, 35).unwrap().roles().is_empty());
    write("roles = [\"r\"]\n[match]\nuser = 0\n");
    let faults = AgentSet::read(&agents, 35).unwrap_err();
    assert!(faults[0].message.contains("roles.d does not exist"), "{faults:?}");
}

#[test]
fn a_long_chain_of_references_is_resolved() {
    let names: Vec<String> = (0..MAX_ROLE_FILES).map(|n| format!("r{n}")).collect();
    let texts: Vec<String> = (1..=MAX_ROLE_FILES)
        .map(|n| if n < MAX_ROLE_FILES { format!("roles = [\"r{n}\"]\n") } else { GRANT.to_owned() })
        .collect();
    let roles: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
    let agents = read(&[("a", "roles = [\"r0\"]\n[match]\nuser = 0\n")], &roles).unwrap();
    assert_eq!(grants(&agents), [("https://x", 300, Some("r999"))]);
}

#[test]
fn what_roles_add_up_to_is_bounded() {
    let grants = |role: usize| -> String {
        (0..128).map(|n| format!("[[grant]]\naudience = \"https://{role}-{n}\"\n")).collect()
    };
    let text = |n: usize| match n {
        8 => "roles = []\n".to_owned() + &grants(n),
        _ => format!("roles = [\"r{}\"]\n{}", n + 1, grants(n)),
    };
    let (names, texts): (Vec<_>, Vec<_>) = (0..9).map(|n| (format!("r{n}"), text(n))).unzip();
    let roles: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
    assert!(read(&[], &roles[1..]).is_ok(), "8 times 128");
    let faults = read(&[], &roles).unwrap_err();
    let expected = "/roles.d/r0.toml:1: with the roles that it refers to, the role has more than 1024 grants or \
                    credentials; split it";
    assert_eq!(faults, [expected]);
}

#[test]
fn a_long_circle_is_named_by_its_ends() {
    let names: Vec<String> = (0..20).map(|n| format!("r{n}")).collect();
    let path: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(named_circle(&path[..2], "r0"), "r0 -> r1 -> r0");
    assert_eq!(named_circle(&path[..8], "r0"), "r0 -> r1 -> r2 -> r3 -> r4 -> r5 -> r6 -> r7 -> r0");
    let long = "r0 -> r1 -> r2 -> r3 -> (12 more) -> r16 -> r17 -> r18 -> r19 -> r0";
    assert_eq!(named_circle(&path, "r0"), long);
}
