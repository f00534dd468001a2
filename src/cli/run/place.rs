//! Where the command runs: a cgroup of its own, made by the service manager, or below that of this process.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::cli::error::CliError;
use crate::cli::files::random_suffix;

/// The socket on which the system's service manager serves root. It is there only while systemd runs.
const MANAGER_SOCKET: &str = "/run/systemd/private";
/// How the names of the cgroups and scopes begin that this command makes.
const NAME_PREFIX: &str = "hostbadge-run-";
/// The directories where hierarchies are mounted that the service manager uses: the unified one, and on hybrid hosts its
/// own.
const MOUNTS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/// A way to give the command a cgroup of its own.
#[derive(Debug)]
pub(super) enum Place {
    /// A cgroup below that of this process, whose user can make cgroups there (`Delegate=yes`).
    Below(OwnCgroup),
    /// A scope of the service manager of this user.
    UserScope,
    /// A scope of the system's service manager.
    SystemScope,
}

/// A cgroup that this process makes, in each hierarchy, and removes when this is dropped.
#[derive(Debug)]
pub(super) struct OwnCgroup {
    dirs: Vec<PathBuf>,
    was_made: bool,
}

impl Place {
    /// The way that this process has. A slice needs a service manager.
    ///
    /// # Errors
    /// [`CliError::Local`] with what is missing.
    pub(super) fn find(slice: Option<&str>) -> Result<Place, CliError> {
        let below = OwnCgroup::find()?;
        if let Some(cgroup) = below.filter(|_| slice.is_none()) {
            return Ok(Place::Below(cgroup));
        }
        if geteuid().is_root() && Path::new(MANAGER_SOCKET).exists() {
            return Ok(Place::SystemScope);
        }
        if has_user_manager() {
            return Ok(Place::UserScope);
        }
        Err(CliError::Local(
            "the command needs a cgroup of its own, and this process can make none: its cgroup belongs to another user \
             (a unit needs Delegate=yes), and there is no service manager of this user (loginctl enable-linger, and \
             XDG_RUNTIME_DIR in the environment)"
                .to_owned(),
        ))
    }

    /// What is used, for `--check`.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Place::Below(_) => "a cgroup below that of this process",
            Place::UserScope => "a scope of the user's service manager (systemd-run --user --scope)",
            Place::SystemScope => "a scope of the system's service manager (systemd-run --scope)",
        }
    }

    /// The words before those of the command that is to run there.
    pub(super) fn launcher(&self, slice: Option<&str>) -> Result<Vec<OsString>, CliError> {
        let manager = match self {
            Place::Below(_) => return Ok(Vec::new()),
            Place::UserScope => "--user",
            Place::SystemScope => "--system",
        };
        let unit = format!("--unit={NAME_PREFIX}{}.scope", random_suffix().map_err(CliError::local)?);
        let slice = slice.map(|slice| format!("--slice={slice}"));
        let words = ["systemd-run", manager, "--scope", "--quiet", "--collect", unit.as_str()];
        let words = words.into_iter().map(OsString::from);
        Ok(words.chain(slice.map(OsString::from)).chain([OsString::from("--")]).collect())
    }
}

impl OwnCgroup {
    /// The place below this process's cgroup, or beside it, where the process may make cgroups; nothing is made yet.
    fn find() -> Result<Option<OwnCgroup>, CliError> {
        let text = fs::read_to_string("/proc/self/cgroup").map_err(CliError::local)?;
        let name = format!("{NAME_PREFIX}{}", random_suffix().map_err(CliError::local)?);
        let own: Vec<PathBuf> = hierarchies(&text).collect();
        let is_root = geteuid().is_root();
        // The cgroup of the process has no others below it where controllers are in use; then its neighbours may.
        for levels in 0..2 {
            let above: Option<Vec<&Path>> = own.iter().map(|dir| dir.ancestors().nth(levels)).collect();
            let Some(above) = above.filter(|dirs| !dirs.is_empty()) else { break };
            // In a cgroup of this command's, its neighbours are those of the parent.
            if levels > 0 && own.iter().any(|dir| is_of_run(dir)) {
                break;
            }
            if above.iter().all(|dir| may_make_below(dir, is_root)) {
                let dirs = above.iter().map(|dir| dir.join(&name)).collect();
                return Ok(Some(OwnCgroup { dirs, was_made: false }));
            }
        }
        Ok(None)
    }

    /// Makes it.
    pub(super) fn make(&mut self) -> Result<(), CliError> {
        for dir in &self.dirs {
            fs::create_dir(dir).map_err(|e| CliError::Local(format!("{}: {e}", dir.display())))?;
            self.was_made = true;
        }
        Ok(())
    }

    /// Moves a process into it.
    pub(super) fn add(&self, pid: u32) -> Result<(), CliError> {
        for dir in &self.dirs {
            let file = dir.join("cgroup.procs");
            fs::write(&file, pid.to_string())
                .map_err(|e| CliError::Local(format!("{}: {e}", file.display())))?;
        }
        Ok(())
    }

    /// Removes it, if no process is left in it; how many there are otherwise.
    pub(super) fn remove(&mut self) -> usize {
        self.was_made = false;
        let mut left = 0;
        for dir in &self.dirs {
            // A cgroup is busy for a moment after its last process.
            let is_removed = (0..20).any(|_| {
                let removed = fs::remove_dir(dir).is_ok() || !dir.exists();
                if !removed {
                    std::thread::park_timeout(std::time::Duration::from_millis(5));
                }
                removed
            });
            if !is_removed {
                let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                left = left.max(text.lines().count());
            }
        }
        left
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        if self.was_made {
            self.remove();
        }
    }
}

/// The path of this process's cgroup in the unified hierarchy.
pub(super) fn own_path() -> Result<String, CliError> {
    let text = fs::read_to_string("/proc/self/cgroup").map_err(CliError::local)?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(ToOwned::to_owned).ok_or_else(|| {
        CliError::Local("this host has no unified hierarchy of cgroups (cgroup version 2)".to_owned())
    })
}

/// The directories of a process's cgroup, by the text of `/proc/PID/cgroup`: that in the unified hierarchy, and on hybrid
/// hosts that in systemd's own.
fn hierarchies(text: &str) -> impl Iterator<Item = PathBuf> + '_ {
    let dir = |mount: &str, path: &str| Path::new(mount).join(path.trim_start_matches('/'));
    let unified =
        MOUNTS.into_iter().take(2).find(|mount| Path::new(mount).join("cgroup.controllers").exists());
    let unified = text.lines().find_map(|line| line.strip_prefix("0::")).zip(unified);
    let systemd = text.lines().find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path));
    let systemd = systemd.map(|path| dir(MOUNTS[2], path));
    unified.map(|(path, mount)| dir(mount, path)).into_iter().chain(systemd)
}

/// Whether this process may make a cgroup in this one, and move processes between both. Root may everywhere; it does so
/// only where systemd leaves the cgroups to it, or is not there.
fn may_make_below(dir: &Path, is_root: bool) -> bool {
    if is_root && Path::new(MANAGER_SOCKET).exists() {
        return is_delegated(dir) || is_of_run(dir);
    }
    let is_writable = |path: &Path| nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok();
    is_writable(dir) && is_writable(&dir.join("cgroup.procs"))
}

/// Whether `hostbadge run` made the cgroup, or had a scope made, so that what runs there is what it started.
fn is_of_run(dir: &Path) -> bool {
    dir.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(NAME_PREFIX.as_bytes()))
}

/// Whether systemd has marked the cgroup as one of `Delegate=yes`.
fn is_delegated(dir: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(dir.as_os_str().as_encoded_bytes()) else { return false };
    [c"user.delegate", c"trusted.delegate"].into_iter().any(|name| {
        let mut value = [0u8; 2];
        // SAFETY: both texts end with a zero byte, and the kernel writes at most the length of the buffer.
        let length =
            unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        length == 1 && value[0] == b'1'
    })
}

fn has_user_manager() -> bool {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime.is_some_and(|dir| dir.join("systemd/private").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_are_those_of_the_unified_and_of_systemds_hierarchy() {
        let hybrid = "9:name=systemd:/a.slice/b.service\n8:pids:/x\n0::/a.slice/b.service\n";
        let found: Vec<PathBuf> = hierarchies(hybrid).collect();
        assert_eq!(found.last().unwrap(), Path::new("/sys/fs/cgroup/systemd/a.slice/b.service"));
        assert!(found.iter().all(|dir| dir.ends_with("a.slice/b.service")), "{found:?}");
        assert_eq!(hierarchies("8:pids:/x\n").count(), 0);
    }
}
