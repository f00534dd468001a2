//! Derives the unit, the login session and the container of a process from its cgroup.
//!
//! Only systemd's own hierarchy is evaluated: `name=systemd` on cgroup version 1 and hybrid hosts, the
//! unified hierarchy elsewhere. A user can create any cgroup below `user@UID.service`, and a service any
//! cgroup below its own if systemd delegates it. So the unit is the first one from the root of the hierarchy,
//! which only root can create, and the same holds for the scope of a login session or a container. What is
//! below `user@UID.service` is the word of that user, and is reported with the user.

use std::fs;
use std::path::Path;

/// systemd keeps a link `invocation:UNIT` to the invocation ID of each running system unit here, readable by
/// all.
pub const INVOCATION_LINKS_DIR: &str = "/run/systemd/units";
/// What the name of such a link begins with.
pub const INVOCATION_LINK_PREFIX: &str = "invocation:";

/// Length of the longest unit name that systemd accepts, in bytes (`UNIT_NAME_MAX`).
const MAX_UNIT_NAME_LEN: usize = 255;
/// Length of the longest session ID, in bytes; logind's own have a few.
const MAX_SESSION_ID_LEN: usize = 32;
/// Hexadecimal digits of a container's ID.
const CONTAINER_ID_LEN: usize = 64;

/// What the path of a cgroup says about the processes in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupNames {
    /// The systemd system unit. Only root moves processes into it.
    pub unit: Option<String>,
    /// The unit in a user's own service manager.
    pub user_unit: Option<UserUnit>,
    /// The login session.
    pub session: Option<Session>,
    /// The container.
    pub container: Option<Container>,
}

/// A unit of a user's own service manager (`user@UID.service`). The user can create it, and move each process
/// of its own into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserUnit {
    /// The user whose manager it is.
    pub uid: u32,
    /// Such as `agent.service`.
    pub name: String,
}

/// A login session of systemd-logind. Only root moves processes into it; its user can log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user who logged in.
    pub uid: u32,
    /// The session's ID, which a later session can have too.
    pub id: String,
}

/// A container of Podman or Docker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// 64 lower-case hexadecimal digits.
    pub id: String,
    /// The user in whose service manager it is, who can give any process of its own this ID; `None` where
    /// only root could create it.
    pub owner: Option<u32>,
}

/// Where a process is in the unified hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCgroup {
    /// The path of its cgroup.
    path: Box<str>,
    /// The length of the path of the cgroup that is its unit, user unit or container; 0 if it is in none.
    bounding: usize,
}

impl PeerCgroup {
    /// The cgroup of a process with this text in `/proc/PID/cgroup`, wherever it is in other hierarchies; `None` without the
    /// unified hierarchy. Bytes that are not UTF-8 are replaced: a cgroup above has a name without them.
    pub(super) fn parse(text: &[u8]) -> Option<PeerCgroup> {
        let path = text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
        let path = String::from_utf8_lossy(path);
        Some(PeerCgroup { path: path.as_ref().into(), bounding: bounding_path(text).map_or(0, str::len) })
    }

    /// A process in the cgroup at `path`, whose unit has the cgroup at `bounding`, one of those above.
    #[cfg(test)]
    pub(crate) fn of_test(path: &str, bounding: &str) -> PeerCgroup {
        PeerCgroup { path: path.into(), bounding: bounding.len() }
    }

    /// The path of the process's own cgroup.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path of the cgroup of its unit, user unit or container, or of its own cgroup if it is in none of them;
    /// `None` if it is in no cgroup but slices.
    pub fn bounding(&self) -> Option<&str> {
        self.path.get(..self.bounding).filter(|path| !path.is_empty())
    }
}

/// Returns what the text of `/proc/PID/cgroup` (cgroups(7)) names.
pub fn parse(text: &[u8]) -> CgroupNames {
    systemd_path(text).map(names_of_path).unwrap_or_default()
}

impl CgroupNames {
    /// Whether the process is in a unit or a container of a user's own service manager.
    pub fn is_of_user_manager(&self) -> bool {
        self.user_unit.is_some() || self.container.as_ref().is_some_and(|container| container.owner.is_some())
    }
}

/// The cgroup whose end is the end of what [`parse`] names, as its path in the unified hierarchy: that of the
/// unit, user unit or container, without the cgroups below it; of a process in none of them, its own. `None` for
/// a process that is in no cgroup but slices, or whose cgroup in systemd's hierarchy is not in the unified one, as
/// with cgroup version 1.
pub fn bounding_path(text: &[u8]) -> Option<&str> {
    let paths = CgroupPaths::parse(text)?;
    let path = paths.systemd.or(paths.unified)?;
    if paths.unified != Some(path) || path.split('/').any(|part| part == "..") {
        return None;
    }
    let above = user_manager(path).map_or(0, |(_, rest)| path.len() - rest.len());
    let mut end = above;
    let component = path[above..].strip_prefix('/')?.split('/').find(|part| {
        end += 1 + part.len();
        !is_valid_unit_name(part, ".slice")
    })?;
    if component.is_empty() {
        return None;
    }
    if unit_of_component(component).is_some() {
        return Some(&path[..end]);
    }
    match container_without_systemd(path) {
        Some(_) => path.match_indices('/').nth(2).map_or(Some(path), |(end, _)| Some(&path[..end])),
        None => Some(path),
    }
}

/// The paths of a process's cgroup that matter here.
#[derive(Default)]
struct CgroupPaths<'a> {
    /// In the hierarchy that systemd alone uses, with cgroup version 1 and on hybrid hosts.
    systemd: Option<&'a str>,
    /// In the unified hierarchy.
    unified: Option<&'a str>,
}

impl CgroupPaths<'_> {
    fn parse(text: &[u8]) -> Option<CgroupPaths<'_>> {
        let text = std::str::from_utf8(text).ok()?;
        let mut paths = CgroupPaths::default();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            if controllers == "name=systemd" {
                paths.systemd = Some(path);
            } else if id == "0" && controllers.is_empty() {
                paths.unified = Some(path);
            }
        }
        Some(paths)
    }
}

/// The path of the cgroup in systemd's hierarchy.
fn systemd_path(text: &[u8]) -> Option<&str> {
    let paths = CgroupPaths::parse(text)?;
    paths.systemd.or(paths.unified)
}

fn names_of_path(path: &str) -> CgroupNames {
    let Some(component) = first_after_slices(path) else { return CgroupNames::default() };
    let mut names = CgroupNames { unit: unit_of_component(component), ..CgroupNames::default() };
    if let Some((uid, rest)) = user_manager(path) {
        let component = first_after_slices(rest);
        names.container = component.and_then(container_of_scope).map(|id| Container { id, owner: Some(uid) });
        names.user_unit = component.and_then(unit_of_component).map(|name| UserUnit { uid, name });
        return names;
    }
    names.session = session(path);
    let id = container_of_scope(component).or_else(|| container_without_systemd(path));
    names.container = id.map(|id| Container { id, owner: None });
    names
}

/// Returns the first component after the slices of an absolute path.
fn first_after_slices(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split('/').find(|part| !is_valid_unit_name(part, ".slice"))
}

/// Returns a component as a unit name, if it is one.
fn unit_of_component(component: &str) -> Option<String> {
    // systemd prefixes a unit name that would collide with a cgroup attribute file with an underscore.
    let name = component.strip_prefix('_').unwrap_or(component);
    let unit_suffixes = [".service", ".scope", ".socket", ".mount", ".swap"];
    unit_suffixes.iter().any(|suffix| is_valid_unit_name(name, suffix)).then(|| name.to_owned())
}

/// Returns the user of `/user.slice/user-UID.slice/user@UID.service`, and the path below it.
fn user_manager(path: &str) -> Option<(u32, &str)> {
    let (uid, below) = user_slice(path)?;
    let rest = below.strip_prefix("/user@")?.strip_prefix(&uid.to_string())?.strip_prefix(".service")?;
    rest.starts_with('/').then_some((uid, rest))
}

/// Returns the session of `/user.slice/user-UID.slice/session-ID.scope`.
fn session(path: &str) -> Option<Session> {
    let (uid, below) = user_slice(path)?;
    let scope = below.strip_prefix('/')?.split('/').next()?;
    let id = scope.strip_prefix("session-")?.strip_suffix(".scope")?;
    let is_valid =
        (1..=MAX_SESSION_ID_LEN).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    is_valid.then(|| Session { uid, id: id.to_owned() })
}

/// Returns the user of `/user.slice/user-UID.slice`, and the path below it.
fn user_slice(path: &str) -> Option<(u32, &str)> {
    let rest = path.strip_prefix("/user.slice/user-")?;
    let (number, below) = rest.split_once(".slice")?;
    let uid: u32 = number.parse().ok()?;
    // Only as systemd writes it: without sign and leading zeros.
    (uid.to_string() == number).then_some((uid, below))
}

/// Returns the container of the scope that Podman and Docker create with systemd.
fn container_of_scope(component: &str) -> Option<String> {
    let name = component.strip_prefix("libpod-").or_else(|| component.strip_prefix("docker-"))?;
    container_id(name.strip_suffix(".scope")?)
}

/// Returns the container where Docker or Podman creates cgroups without systemd, below the root.
fn container_without_systemd(path: &str) -> Option<String> {
    let mut parts = path.strip_prefix('/')?.split('/');
    match (parts.next()?, parts.next()?) {
        ("docker", id) => container_id(id),
        ("libpod_parent", name) => container_id(name.strip_prefix("libpod-")?),
        _ => None,
    }
}

fn container_id(text: &str) -> Option<String> {
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == CONTAINER_ID_LEN && text.bytes().all(is_digit)).then(|| text.to_owned())
}

/// Checks a unit name as in systemd.unit(5): letters, digits and `:-_.\@`, then the suffix of its type.
fn is_valid_unit_name(name: &str, suffix: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    name.len() > suffix.len()
        && name.len() <= MAX_UNIT_NAME_LEN
        && name.ends_with(suffix)
        && name.chars().all(is_allowed)
}

/// Returns the unit's invocation ID, 32 lower-case hexadecimal digits, or `None` if systemd does not publish
/// one.
pub fn invocation_id(unit: &str) -> Option<String> {
    read_invocation_id(Path::new(INVOCATION_LINKS_DIR), unit)
}

/// As [`invocation_id`], with the links in `dir`.
pub fn read_invocation_id(dir: &Path, unit: &str) -> Option<String> {
    let target = fs::read_link(dir.join(format!("{INVOCATION_LINK_PREFIX}{unit}"))).ok()?;
    let id = target.to_str()?;
    let is_valid = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_valid.then(|| id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_unit(text: &[u8]) -> Option<String> {
        parse(text).unit
    }

    #[test]
    fn cgroup_v2() {
        assert_eq!(
            parse_unit(b"0::/system.slice/researcher.service\n").as_deref(),
            Some("researcher.service")
        );
        assert_eq!(
            parse_unit(b"0::/system.slice/agents.slice/a@1.service/worker\n").as_deref(),
            Some("a@1.service")
        );
        assert_eq!(parse_unit(b"0::/init.scope\n").as_deref(), Some("init.scope"));
        assert_eq!(parse_unit(b"0::/\n"), None);
    }

    #[test]
    fn cgroup_v1_and_hybrid_use_systemd_hierarchy() {
        let text = b"8:pids:/system.slice/wrong.service\n\
                     1:name=systemd:/system.slice/right.service\n\
                     0::/user.slice/x.service\n";
        assert_eq!(parse_unit(text).as_deref(), Some("right.service"));
    }

    #[test]
    fn user_slice_cannot_imitate_system_unit() {
        let path = b"0::/user.slice/user-1000.slice/user@1000.service/system.slice/researcher.service\n";
        assert_eq!(parse_unit(path).as_deref(), Some("user@1000.service"));
    }

    #[test]
    fn rejects_malformed_and_foreign_paths() {
        for text in [
            &b"0::/../../system.slice/researcher.service\n"[..],
            b"0::/system.slice\n",
            b"0::/docker/0123456789\n",
            b"0::/.service\n",
            b"0::/sys tem/a.service\n",
            b"0::",
            b"",
            b"\xff\xfe",
            b"0::/system.slice/a b.service\n",
        ] {
            assert_eq!(parse_unit(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn what_ends_with_a_cgroup_is_the_unit_and_not_the_cgroups_below() {
        let container = "c".repeat(64);
        let docker = format!("/docker/{container}");
        let below = format!("{docker}/init/x");
        for (path, expected) in [
            ("/system.slice/a.service/worker", Some("/system.slice/a.service")),
            ("/user.slice/user-7.slice/session-3.scope", Some("/user.slice/user-7.slice/session-3.scope")),
            (
                "/user.slice/user-7.slice/user@7.service/app.slice/a.service/b",
                Some("/user.slice/user-7.slice/user@7.service/app.slice/a.service"),
            ),
            (
                "/user.slice/user-7.slice/user@7.service/init.scope",
                Some("/user.slice/user-7.slice/user@7.service/init.scope"),
            ),
            ("/user.slice/user-7.slice/user@7.service", Some("/user.slice/user-7.slice/user@7.service")),
            (docker.as_str(), Some(docker.as_str())),
            (below.as_str(), Some(docker.as_str())),
            ("/batch/job-1", Some("/batch/job-1")),
            ("/", None),
            ("/user.slice", None),
            ("/../a.service", None),
        ] {
            let text = format!("0::{path}\n");
            assert_eq!(bounding_path(text.as_bytes()), expected, "{path}");
            let hybrid = format!("1:name=systemd:{path}\n0::{path}\n");
            assert_eq!(bounding_path(hybrid.as_bytes()), expected, "{path}");
            assert_eq!(bounding_path(format!("1:name=systemd:{path}\n0::/x\n").as_bytes()), None);
            assert_eq!(bounding_path(format!("1:name=systemd:{path}\n").as_bytes()), None);
        }
    }

    #[test]
    fn invocation_id_must_be_32_hex_digits() {
        let dir = tempfile::tempdir().unwrap();
        let link = |unit: &str, target: &str| {
            std::os::unix::fs::symlink(target, dir.path().join(format!("invocation:{unit}"))).unwrap();
        };
        link("a.service", "0123456789abcdef0123456789ABCDEF");
        link("b.service", "../../etc/passwd");
        assert_eq!(
            read_invocation_id(dir.path(), "a.service").as_deref(),
            Some("0123456789abcdef0123456789abcdef")
        );
        assert_eq!(read_invocation_id(dir.path(), "b.service"), None);
        assert_eq!(read_invocation_id(dir.path(), "c.service"), None);
    }
}
