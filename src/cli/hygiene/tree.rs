//! Goes through a directory and everything below it.

use std::fs::File;
use std::path::Path;

use nix::sys::statfs::{self, FsType};

use super::open;
use super::scanner::{FileKind, Scanner};

/// Directories of the kernel, which hold no files of users.
const KERNEL_DIRS: [&str; 3] = ["/dev", "/proc", "/sys"];
/// File systems of the kernel, which can also be mounted elsewhere.
const KERNEL_FILE_SYSTEMS: [FsType; 9] = [
    statfs::PROC_SUPER_MAGIC,
    statfs::SYSFS_MAGIC,
    statfs::CGROUP_SUPER_MAGIC,
    statfs::CGROUP2_SUPER_MAGIC,
    statfs::DEBUGFS_MAGIC,
    statfs::TRACEFS_MAGIC,
    statfs::SECURITYFS_MAGIC,
    statfs::BPF_FS_MAGIC,
    statfs::SELINUX_MAGIC,
];
/// Entries of one directory.
const MAX_ENTRIES: usize = 1_000_000;

/// Looks at a file, or at everything below a directory. `root` is a path without links.
pub(super) fn scan(scanner: &mut Scanner, root: &Path, kind: FileKind) {
    match open::find(None, root.as_os_str()) {
        Ok(found) => scan_found(scanner, &found, root, 0, kind),
        Err(e) => scanner.report.cannot_read(root, &e),
    }
}

fn scan_found(scanner: &mut Scanner, found: &File, path: &Path, depth: u16, kind: FileKind) {
    let metadata = match found.metadata() {
        Ok(metadata) => metadata,
        Err(e) => return scanner.report.cannot_read(path, &e),
    };
    if !metadata.is_dir() {
        return scanner.scan_found(found, path, kind);
    }
    if is_of_kernel(found, path) || !scanner.is_new(&metadata) {
        return;
    }
    if depth > scanner.limits.max_depth {
        return scanner.report.skip(path, "too many directories within each other");
    }
    let names = match open::names(found, MAX_ENTRIES) {
        Ok((names, has_more)) => {
            if has_more {
                scanner.report.skip(path, format!("the entries after {MAX_ENTRIES}"));
            }
            names
        }
        Err(e) => return scanner.report.cannot_read(path, &e),
    };
    for name in names {
        if scanner.is_full() {
            return;
        }
        let below = path.join(&name);
        match open::find(Some(found), &name) {
            Ok(entry) => scan_found(scanner, &entry, &below, depth + 1, kind),
            // It was removed since.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => scanner.report.cannot_read(&below, &e),
        }
    }
}

fn is_of_kernel(dir: &File, path: &Path) -> bool {
    KERNEL_DIRS.iter().any(|kernel| path == Path::new(kernel))
        || statfs::fstatfs(dir).is_ok_and(|found| KERNEL_FILE_SYSTEMS.contains(&found.filesystem_type()))
}
