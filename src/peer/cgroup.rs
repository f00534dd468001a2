//! The system unit, from a process's cgroup.
//!
//! Only systemd's own hierarchy counts: `name=systemd` on version 1 and hybrid hosts, the unified one elsewhere.
//! A user may shape the tree below his own `user@UID.service`, so the first unit from the root is the one that
//! only root can have made.

use std::fs;
use std::path::Path;

/// Where systemd shows the running invocation of each system unit, readable by all.
const INVOCATIONS: &str = "/run/systemd/units";

/// Longest unit name that systemd makes (UNIT_NAME_MAX).
const LONGEST: usize = 255;

/// The system unit in the text of `/proc/PID/cgroup`, proc(5).
pub fn unit(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let mut unified = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if controllers == "name=systemd" {
            return unit_of_path(path);
        }
        if id == "0" && controllers.is_empty() {
            unified = Some(path);
        }
    }
    unit_of_path(unified?)
}

/// The first component after the slices, if it is a unit.
fn unit_of_path(path: &str) -> Option<String> {
    let mut parts = path.strip_prefix('/')?.split('/').skip_while(|part| is_named(part, ".slice"));
    let part = parts.next()?;
    // systemd puts an underscore before a name that would collide with a file of the kernel's.
    let name = part.strip_prefix('_').unwrap_or(part);
    let kinds = [".service", ".scope", ".socket", ".mount", ".swap"];
    kinds.iter().any(|kind| is_named(name, kind)).then(|| name.to_owned())
}

/// systemd.unit(5): letters, digits, `:-_.\@`, then the kind.
fn is_named(name: &str, kind: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    name.len() > kind.len() && name.len() <= LONGEST && name.ends_with(kind) && name.chars().all(fine)
}

/// The unit's invocation, if systemd shows one.
pub fn invocation(unit: &str) -> Option<String> {
    invocation_in(Path::new(INVOCATIONS), unit)
}

fn invocation_in(dir: &Path, unit: &str) -> Option<String> {
    let target = fs::read_link(dir.join(format!("invocation:{unit}"))).ok()?;
    let id = target.to_str()?;
    let fine = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    fine.then(|| id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2() {
        assert_eq!(unit(b"0::/system.slice/researcher.service\n").as_deref(), Some("researcher.service"));
        assert_eq!(
            unit(b"0::/system.slice/agents.slice/a@1.service/worker\n").as_deref(),
            Some("a@1.service")
        );
        assert_eq!(unit(b"0::/init.scope\n").as_deref(), Some("init.scope"));
        assert_eq!(unit(b"0::/\n"), None);
    }

    #[test]
    fn version_1_and_hybrid_follow_systemds_hierarchy() {
        let text = b"8:pids:/system.slice/wrong.service\n1:name=systemd:/system.slice/right.service\n0::/user.slice/x.service\n";
        assert_eq!(unit(text).as_deref(), Some("right.service"));
    }

    #[test]
    fn a_user_cannot_dress_up_as_a_system_unit() {
        let path = b"0::/user.slice/user-1000.slice/user@1000.service/system.slice/researcher.service\n";
        assert_eq!(unit(path).as_deref(), Some("user@1000.service"));
    }

    #[test]
    fn outside_our_namespace_or_shapeless_is_no_unit() {
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
            assert_eq!(unit(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn only_32_hexadecimal_digits_are_an_invocation() {
        let dir = tempfile::tempdir().unwrap();
        let link = |unit: &str, target: &str| {
            std::os::unix::fs::symlink(target, dir.path().join(format!("invocation:{unit}"))).unwrap();
        };
        link("a.service", "0123456789abcdef0123456789ABCDEF");
        link("b.service", "../../etc/passwd");
        assert_eq!(
            invocation_in(dir.path(), "a.service").as_deref(),
            Some("0123456789abcdef0123456789abcdef")
        );
        assert_eq!(invocation_in(dir.path(), "b.service"), None);
        assert_eq!(invocation_in(dir.path(), "c.service"), None);
    }
}
