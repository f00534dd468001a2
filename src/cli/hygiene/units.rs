//! Unit files of systemd, their drop-ins, and the files that they name with `EnvironmentFile=`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::scanner::{FileKind, Scanner};
use crate::peer::UNIT_DIRS;

/// Where the units of all users are (systemd.unit(5)).
const USER_UNIT_DIRS: [&str; 3] =
    ["/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"];
/// Where a user's own units are, below its home directory.
const OWN_UNIT_DIRS: [&str; 2] = [".config/systemd/user", ".local/share/systemd/user"];
/// Entries of one directory.
const MAX_ENTRIES: usize = 100_000;

/// Looks at the units of the system and of all users, and at those of the user with this home directory.
pub(super) fn scan(scanner: &mut Scanner, home: Option<&Path>) {
    let shared = UNIT_DIRS.iter().chain(&USER_UNIT_DIRS).map(PathBuf::from);
    let own = home.into_iter().flat_map(|home| OWN_UNIT_DIRS.map(|dir| home.join(dir)));
    for dir in shared.chain(own) {
        scan_dir(scanner, &dir, true);
    }
    let mut named = HashSet::new();
    for path in std::mem::take(&mut scanner.environment_files) {
        if let Ok(path) = fs::canonicalize(path)
            && named.insert(path.clone())
        {
            scanner.scan_existing(&path, FileKind::Environment);
        }
    }
}

/// Looks at the units of a directory, and at their drop-ins.
fn scan_dir(scanner: &mut Scanner, dir: &Path, has_drop_ins: bool) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.take(MAX_ENTRIES).flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_dir() && has_drop_ins && path.extension().is_some_and(|end| end == "d") {
            scan_dir(scanner, &path, false);
        } else if found.is_symlink() {
            // Administrators link units that are elsewhere (systemctl link). The kernel's files are no units.
            match fs::canonicalize(&path) {
                Ok(target) if !target.starts_with("/dev") && !target.starts_with("/proc") => {
                    scanner.scan_existing(&target, FileKind::Unit);
                }
                _ => {}
            }
        } else if found.is_file() {
            scanner.scan_existing(&path, FileKind::Unit);
        }
    }
}
