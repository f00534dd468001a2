//! One cgroup of the unified hierarchy: its identity, its processes, and who may move processes out of it and into it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where the unified hierarchy is mounted, on hosts with cgroup version 2 and on hybrid ones.
const UNIFIED_MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Longest path of a cgroup in bytes.
const MAX_PATH_LEN: usize = 1024;
/// Cgroups below one that are looked into.
const MAX_BELOW: usize = 64;
/// Permission bits of those who are neither the owner nor root.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A cgroup of the unified hierarchy. One that is removed and made again under its name is another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cgroup {
    path: Box<str>,
    id: u64,
}

/// Who keeps the processes of a cgroup in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// The kernel: only root can write the files by which processes are moved.
    Kernel,
    /// The processes themselves: their user can write these files, or they are root's.
    Cooperative,
}

/// Why a cgroup cannot be used. The caller receives the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CgroupError {
    /// The text is no path of a cgroup.
    #[error(
        "cgroup must be the path of a cgroup in the unified hierarchy, as \"/system.slice/researcher.service/fetch\": \
         1 to 1024 visible characters, without empty parts, \".\" and \"..\""
    )]
    NoPath,
    /// There is no such cgroup.
    #[error("there is no cgroup {0}")]
    Missing(String),
    /// The host has no unified hierarchy.
    #[error("this host has no unified hierarchy of cgroups (cgroup version 2)")]
    NoHierarchy,
    /// There are too many cgroups or processes in it.
    #[error(
        "the cgroup has more than {0} processes, or more than 64 cgroups below it; name it before it is filled"
    )]
    TooFull(usize),
    /// The kernel does not let the daemon read it.
    #[error("the cgroup cannot be read ({0})")]
    Unreadable(String),
}

impl Boundary {
    /// The name in tokens, answers and policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Boundary::Kernel => "kernel",
            Boundary::Cooperative => "cooperative",
        }
    }

    /// The boundary of this name.
    pub fn from_name(name: &str) -> Option<Boundary> {
        [Boundary::Kernel, Boundary::Cooperative].into_iter().find(|boundary| boundary.as_str() == name)
    }
}

impl Cgroup {
    /// The cgroup at this path of the hierarchy, which may begin with the directory where the hierarchy is mounted.
    ///
    /// # Errors
    /// A [`CgroupError`]: no path, or no cgroup there.
    pub fn open(path: &str) -> Result<Cgroup, CgroupError> {
        let mount = unified_mount().ok_or(CgroupError::NoHierarchy)?;
        let below =
            mount.to_str().and_then(|mount| path.strip_prefix(mount)).filter(|rest| rest.starts_with('/'));
        let path = below.unwrap_or(path);
        if !is_path(path) {
            return Err(CgroupError::NoPath);
        }
        let metadata = fs::symlink_metadata(dir_of(mount, path)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => CgroupError::Missing(path.to_owned()),
            _ => CgroupError::Unreadable(e.to_string()),
        })?;
        if !metadata.is_dir() {
            return Err(CgroupError::Missing(path.to_owned()));
        }
        Ok(Cgroup { path: path.into(), id: metadata.ino() })
    }

    /// The cgroup that had this path and ID when it was looked at.
    pub fn known(path: &str, id: u64) -> Cgroup {
        Cgroup { path: path.into(), id }
    }

    /// Its path in the hierarchy, which begins with a slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its ID, which is never used again until the host is started again.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is still there. The hierarchy is in memory, so this does not block.
    pub fn is_present(&self) -> bool {
        let metadata = unified_mount().and_then(|mount| fs::symlink_metadata(dir_of(mount, &self.path)).ok());
        metadata.is_some_and(|metadata| metadata.ino() == self.id)
    }

    /// Whether `path` is the path of this cgroup, or of one below it.
    pub fn contains(&self, path: &str) -> bool {
        is_at_or_below(path, &self.path)
    }

    /// The user to whom its directory belongs; `None` if it was removed.
    pub fn owner(&self) -> Option<u32> {
        let metadata = fs::symlink_metadata(dir_of(unified_mount()?, &self.path)).ok()?;
        (metadata.ino() == self.id).then(|| metadata.uid())
    }

    /// The processes in it and in the cgroups below it.
    ///
    /// # Errors
    /// [`CgroupError::TooFull`] beyond `limit`; it was removed, or cannot be read.
    pub fn processes(&self, limit: usize) -> Result<Vec<i32>, CgroupError> {
        let mount = unified_mount().ok_or(CgroupError::NoHierarchy)?;
        let (mut found, mut dirs, mut looked) = (Vec::new(), vec![dir_of(mount, &self.path)], 0);
        while let Some(dir) = dirs.pop() {
            looked += 1;
            let text = fs::read_to_string(dir.join("cgroup.procs")).map_err(|e| self.read_error(&e))?;
            // A process of another pid namespace is shown as 0.
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            let entries = fs::read_dir(&dir).map_err(|e| self.read_error(&e))?;
            let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            dirs.extend(below.map(|entry| entry.path()).take(MAX_BELOW + 1));
            if found.len() > limit || looked + dirs.len() > MAX_BELOW + 1 {
                return Err(CgroupError::TooFull(limit));
            }
        }
        Ok(found)
    }

    /// Who keeps the processes of user `uid` in this cgroup and others out of it: who can write `cgroup.procs` of the
    /// cgroup and of each above it, since the kernel asks for that of the nearest cgroup that contains both the old
    /// and the new place of a process (cgroups(7), "Cgroups delegation").
    pub fn boundary(&self, uid: u32) -> Boundary {
        let Some(mount) = unified_mount() else { return Boundary::Cooperative };
        let dir = dir_of(mount, &self.path);
        let is_of_root = |dir: &Path| {
            let metadata = fs::symlink_metadata(dir.join("cgroup.procs"));
            metadata.is_ok_and(|file| file.uid() == 0 && file.mode() & WRITABLE_BY_OTHERS == 0)
        };
        let mut above = dir.ancestors().take_while(|dir| *dir != mount);
        match uid != 0 && above.all(is_of_root) {
            true => Boundary::Kernel,
            false => Boundary::Cooperative,
        }
    }

    fn read_error(&self, error: &io::Error) -> CgroupError {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV) => CgroupError::Missing(self.path.to_string()),
            _ => CgroupError::Unreadable(error.to_string()),
        }
    }
}

/// Where the unified hierarchy is mounted; `None` on hosts without it.
pub fn unified_mount() -> Option<&'static Path> {
    static MOUNT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let is_unified = |mount: &PathBuf| mount.join("cgroup.controllers").exists();
    MOUNT.get_or_init(|| UNIFIED_MOUNTS.into_iter().map(PathBuf::from).find(is_unified)).as_deref()
}

/// Whether `path` is `above`, or below it.
pub fn is_at_or_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path of a slice, which systemd has below those that its name begins with (systemd.slice(5)); `None` if the text
/// is no name of a slice.
pub fn slice_path(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".slice")?;
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    if stem.is_empty() || name.len() > 255 || !stem.bytes().all(is_allowed) {
        return None;
    }
    let mut path = String::new();
    for (at, _) in stem.match_indices('-') {
        path += &format!("/{}.slice", &stem[..at]);
    }
    let has_empty_part = stem.split('-').any(str::is_empty);
    (!has_empty_part).then(|| format!("{path}/{name}"))
}

fn dir_of(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

fn is_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..") && part.chars().all(|c| !c.is_control() && !c.is_whitespace())
    };
    path.len() <= MAX_PATH_LEN && rest.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_form() {
        for good in ["/a", "/system.slice/a.service/b", "/a/b c".replace(' ', "_").as_str(), "/x/a...b"] {
            assert!(is_path(good), "{good}");
        }
        let long = format!("/{}", "a".repeat(MAX_PATH_LEN));
        for bad in
            ["", "/", "a", "a/b", "//a", "/a/", "/a//b", "/a/.", "/../a", "/a/../b", "/a\n/b", "/a b", &long]
        {
            assert!(!is_path(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_below_a_cgroup_is_told_by_whole_names() {
        let cgroup = Cgroup::known("/system.slice/a.service/sub", 1);
        assert!(
            cgroup.contains("/system.slice/a.service/sub")
                && cgroup.contains("/system.slice/a.service/sub/x")
        );
        assert!(
            !cgroup.contains("/system.slice/a.service/sub2") && !cgroup.contains("/system.slice/a.service")
        );
    }

    #[test]
    fn slices_are_below_those_of_their_names() {
        for (name, path) in [
            ("agents.slice", Some("/agents.slice")),
            ("agents-researcher.slice", Some("/agents.slice/agents-researcher.slice")),
            ("a-b-c.slice", Some("/a.slice/a-b.slice/a-b-c.slice")),
            (".slice", None),
            ("-.slice", None),
            ("a--b.slice", None),
            ("-a.slice", None),
            ("a/b.slice", None),
            ("agents.service", None),
        ] {
            assert_eq!(slice_path(name).as_deref(), path, "{name}");
        }
    }

    #[test]
    fn a_cgroup_that_is_made_again_is_another_one() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let mount = unified_mount().unwrap();
        let name = format!("/hostbadge-test-{}", std::process::id());
        let dir = dir_of(mount, &name);
        assert_eq!(Cgroup::open(&name), Err(CgroupError::Missing(name.clone())));
        fs::create_dir(&dir).unwrap();
        let first = Cgroup::open(&name).unwrap();
        assert_eq!(Cgroup::open(dir.to_str().unwrap()), Ok(first.clone()), "with the mount's directory");
        assert!(first.is_present());
        assert_eq!(first.processes(0), Ok(Vec::new()));
        assert_eq!((first.boundary(1000), first.boundary(0)), (Boundary::Kernel, Boundary::Cooperative));
        std::os::unix::fs::chown(dir.join("cgroup.procs"), Some(1000), None).unwrap();
        assert_eq!(first.boundary(1001), Boundary::Cooperative);
        fs::create_dir(dir.join("below")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(dir.join("below/cgroup.procs"), child.id().to_string()).unwrap();
        assert_eq!(first.processes(1), Ok(vec![child.id() as i32]));
        assert_eq!(first.processes(0), Err(CgroupError::TooFull(0)));
        child.kill().unwrap();
        child.wait().unwrap();
        // A cgroup is busy until the kernel has released its process.
        let below = dir.join("below");
        for _ in 0..500 {
            if fs::remove_dir(&below).is_ok() {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
        fs::remove_dir(&dir).unwrap();
        assert!(!first.is_present());
        fs::create_dir(&dir).unwrap();
        assert!(!first.is_present());
        assert_ne!(Cgroup::open(&name).unwrap(), first);
        fs::remove_dir(&dir).unwrap();
    }
}
