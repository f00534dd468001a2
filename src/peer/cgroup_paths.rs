//! What paths of cgroups say, where users, services and containers have chosen parts of them.

use super::cgroup::{CgroupNames, UserUnit, parse};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What the unified hierarchy says at this path.
fn at(path: &str) -> CgroupNames {
    parse(format!("0::{path}\n").as_bytes())
}

fn user_unit(path: &str) -> Option<(u32, String)> {
    at(path).user_unit.map(|unit| (unit.uid, unit.name))
}

#[test]
fn units_of_a_users_manager_are_those_below_it() {
    let manager = "/user.slice/user-1000.slice/user@1000.service";
    for (below, expected) in [
        ("/app.slice/agent.service", "agent.service"),
        ("/app.slice/app-agents.slice/agent@1.service/worker/deeper", "agent@1.service"),
        ("/init.scope", "init.scope"),
        ("/session.slice/_cpu.service", "cpu.service"),
    ] {
        let path = format!("{manager}{below}");
        assert_eq!(user_unit(&path), Some((1000, expected.into())), "{path}");
        assert_eq!(at(&path).unit.as_deref(), Some("user@1000.service"), "{path}");
        assert_eq!(at(&path).session, None, "{path}");
    }
    for path in [
        manager.to_owned(),
        format!("{manager}/"),
        format!("{manager}/app.slice"),
        format!("{manager}/app.slice/a b.service"),
        format!("{manager}/app.slice/agent.service (deleted)"),
        format!("{manager}x/app.slice/agent.service"),
        // Another user's slice, a manager elsewhere, and numbers that systemd does not write.
        "/user.slice/user-1000.slice/user@1001.service/app.slice/agent.service".into(),
        "/system.slice/user@1000.service/app.slice/agent.service".into(),
        "/user.slice/user@1000.service/app.slice/agent.service".into(),
        "/user.slice/user-01000.slice/user@01000.service/agent.service".into(),
        "/user.slice/user-+1000.slice/user@+1000.service/agent.service".into(),
        "/user.slice/user-4294967296.slice/user@4294967296.service/agent.service".into(),
        "/user.slice/user-.slice/user@.service/agent.service".into(),
        format!("/a.slice{manager}/app.slice/agent.service"),
        format!("/system.slice/x.service{manager}/agent.service"),
    ] {
        assert_eq!(user_unit(&path), None, "{path}");
    }
}

#[test]
fn sessions_are_scopes_of_a_users_slice() {
    let id = |path: &str| at(path).session.map(|session| (session.uid, session.id));
    let slice = "/user.slice/user-1000.slice";
    assert_eq!(id(&format!("{slice}/session-4.scope")), Some((1000, "4".into())));
    assert_eq!(id(&format!("{slice}/session-c12.scope/a/b")), Some((1000, "c12".into())));
    assert_eq!(at(&format!("{slice}/session-4.scope")).unit.as_deref(), Some("session-4.scope"));
    for path in [
        format!("{slice}/session-.scope"),
        format!("{slice}/session-4.service"),
        format!("{slice}/session-4.scope (deleted)"),
        format!("{slice}/session-{}.scope", "1".repeat(33)),
        format!("{slice}/session-a-b.scope"),
        format!("{slice}/user@1000.service/session-4.scope"),
        format!("{slice}/user@1000.service{slice}/session-4.scope"),
        format!("{slice}/x.slice/session-4.scope"),
        "/user.slice/session-4.scope".into(),
        "/system.slice/session-4.scope".into(),
        format!("/system.slice/x.service{slice}/session-4.scope"),
    ] {
        assert_eq!(id(&path), None, "{path}");
    }
}

#[test]
fn containers_are_those_that_root_created_or_those_of_a_users_manager() {
    let found = |path: &str| at(path).container.map(|container| (container.id, container.owner));
    let (podman, docker) = (format!("libpod-{ID}.scope"), format!("docker-{ID}.scope"));
    let by_root = Some((ID.to_owned(), None));
    for path in [
        format!("/machine.slice/{podman}/container"),
        format!("/system.slice/{docker}"),
        format!("/a.slice/a-b.slice/{docker}/nested/docker-{}.scope", "f".repeat(64)),
        format!("/docker/{ID}"),
        format!("/docker/{ID}/system.slice/x.service"),
        format!("/libpod_parent/libpod-{ID}"),
    ] {
        assert_eq!(found(&path), by_root, "{path}");
    }
    assert_eq!(at(&format!("/machine.slice/{podman}/container")).unit, Some(podman.clone()));
    let manager = "/user.slice/user-1000.slice/user@1000.service";
    for scope in [&podman, &docker] {
        let path = format!("{manager}/user.slice/{scope}/container");
        assert_eq!(found(&path), Some((ID.to_owned(), Some(1000))), "{path}");
    }
    for path in [
        // The user of a delegated cgroup can give it this name.
        format!("/system.slice/x.service/{docker}"),
        format!("/system.slice/x.service/docker/{ID}"),
        format!("/user.slice/user-1000.slice/session-4.scope/{podman}"),
        format!("{manager}/app.slice/x.service/{podman}"),
        format!("{manager}/docker/{ID}"),
        format!("/x/docker/{ID}"),
        // Names that resemble those of containers.
        format!("/machine.slice/libpod-conmon-{ID}.scope"),
        format!("/machine.slice/libpod-{}.scope", &ID[1..]),
        format!("/machine.slice/libpod-{ID}0.scope"),
        format!("/machine.slice/libpod-{}.scope", ID.to_uppercase()),
        format!("/machine.slice/libpod-{ID}"),
        format!("/machine.slice/{podman} (deleted)"),
        format!("/machine.slice/_{podman}"),
        format!("/docker/{}", &ID[..12]),
        format!("/docker-{ID}"),
    ] {
        assert_eq!(found(&path), None, "{path}");
    }
}

#[test]
fn version_1_names_users_units_too() {
    let text = format!(
        "9:cpu:/docker/{ID}\n1:name=systemd:/user.slice/user-7.slice/user@7.service/a.service\n\
         0::/user.slice/user-8.slice/session-1.scope\n"
    );
    let names = parse(text.as_bytes());
    let unit = UserUnit { uid: 7, name: "a.service".into() };
    assert_eq!((names.user_unit, names.session, names.container), (Some(unit), None, None));
}

/// Paths from pieces that matter, in every order of three: nothing panics, and each result is where only
/// root, or the user's manager, could have put it.
#[test]
fn pieces_in_any_order_give_names_only_where_they_belong() {
    let (podman, docker) = (format!("libpod-{ID}.scope"), format!("docker-{ID}.scope"));
    let pieces = [
        "",
        "/",
        ".",
        "..",
        "\u{0}",
        "é",
        "user.slice",
        "user-1000.slice",
        "user-1000.slicex",
        "user-.slice",
        "user@1000.service",
        "session-1.scope",
        "docker",
        ID,
        "app.slice",
        "a.service",
        &podman,
        &docker,
        "libpod_parent",
        ".slice",
        "_",
        "_.service",
    ];
    let mut found = [0; 3];
    for one in pieces {
        for two in pieces {
            for three in pieces {
                for four in ["", "/a.service", "/session-1.scope", &format!("/{podman}")] {
                    let path = format!("/{one}/{two}/{three}{four}");
                    let names = at(&path);
                    if let Some(unit) = names.user_unit {
                        assert!(path.starts_with("/user.slice/user-1000.slice/user@1000.service/"), "{path}");
                        assert_eq!(unit.uid, 1000);
                        found[0] += 1;
                    }
                    if names.session.is_some() {
                        assert!(path.starts_with("/user.slice/user-1000.slice/session-1.scope"), "{path}");
                        found[1] += 1;
                    }
                    if names.container.is_some_and(|container| container.owner.is_none()) {
                        let start = path.find(&ID[..8]).unwrap();
                        let before = path[..start].trim_end_matches("docker-").trim_end_matches("libpod-");
                        let is_root = |part: &str| {
                            part.is_empty()
                                || part.ends_with(".slice")
                                || part == "docker"
                                || part == "libpod_parent"
                        };
                        assert!(before.split('/').all(is_root), "{path}");
                        found[2] += 1;
                    }
                }
            }
        }
    }
    assert!(found.iter().all(|count| *count > 0), "{found:?}");
}
