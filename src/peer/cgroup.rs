//! Derives the systemd system unit of a process from its cgroup.
//!
//! Only systemd's own hierarchy is evaluated: `name=systemd` on cgroup version 1 and hybrid hosts, the
//! unified hierarchy elsewhere. A user can create any cgroup below `user@UID.service`, so the unit is the
//! first one from the root of the hierarchy, which only root can create.

use std::fs;
use std::path::Path;

/// systemd keeps a link `invocation:UNIT` to the invocation ID of each running system unit here, readable by
/// all.
const INVOCATION_LINKS_DIR: &str = "/run/systemd/units";

/// Length of the longest unit name that systemd accepts, in bytes (`UNIT_NAME_MAX`).
const MAX_UNIT_NAME_LEN: usize = 255;

/// Returns the system unit that the text of `/proc/PID/cgroup` (cgroups(7)) names, or `None` if it names
/// no unit.
pub fn parse_unit(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let mut unified = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if controllers == "name=systemd" {
            return unit_from_path(path);
        }
        if id == "0" && controllers.is_empty() {
            unified = Some(path);
        }
    }
    unit_from_path(unified?)
}

/// Returns the first component after the slices, if it is a unit name.
fn unit_from_path(path: &str) -> Option<String> {
    let mut parts = path.strip_prefix('/')?.split('/').skip_while(|part| is_valid_unit_name(part, ".slice"));
    let component = parts.next()?;
    // systemd prefixes a unit name that would collide with a cgroup attribute file with an underscore.
    let name = component.strip_prefix('_').unwrap_or(component);
    let unit_suffixes = [".service", ".scope", ".socket", ".mount", ".swap"];
    unit_suffixes.iter().any(|suffix| is_valid_unit_name(name, suffix)).then(|| name.to_owned())
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

fn read_invocation_id(dir: &Path, unit: &str) -> Option<String> {
    let target = fs::read_link(dir.join(format!("invocation:{unit}"))).ok()?;
    let id = target.to_str()?;
    let is_valid = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_valid.then(|| id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

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
