//! The invocation of a process: one run of what it belongs to, between a start and an end that the kernel or
//! systemd reports. What is issued to a process ends with its invocation.
//!
//! | process | invocation | ends when |
//! |---|---|---|
//! | in a system unit, also a login session and a container that root runs under systemd | systemd's invocation ID | systemd removes its link of it: the unit is inactive, failed or started again |
//! | in a unit of a user's service manager, a container of a user, or another cgroup that is no slice | the cgroup in the unified hierarchy | the cgroup is empty or removed |
//! | any other | the session (setsid(2)) | the leader of the session has exited |
//! | any other, whose session has no leader any more | all such processes of the session | the host is started again |
//!
//! The process itself is not the invocation, because `hostbadge token` in a script or a terminal is a process
//! that ends when it has printed the token.
//!
//! systemd's IDs are UUIDs of version 4; those that are derived here have version 8 (RFC 9562, section 5.8).

use std::fs;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use data_encoding::HEXLOWER;
use nix::errno::Errno;

use super::cgroup::{self, CgroupNames};
use super::cgroup_dir::{Cgroup, unified_mount};
use super::process_stat::ProcessStat;
use super::sys;
use crate::digest::sha256;

const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";
/// Where the version of a UUID is among its 32 hexadecimal digits.
const VERSION_DIGIT: usize = 12;

/// The invocation of a process: an ID of 32 lower-case hexadecimal digits, to which it dereferences, and what
/// ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    id: Box<str>,
    end: InvocationEnd,
}

/// What ends an invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvocationEnd {
    /// The link of this system unit is removed, or names another invocation.
    Unit(String),
    /// This cgroup is empty or removed.
    Cgroup {
        /// Its path in the unified hierarchy.
        path: String,
        /// Its ID, which is never used again.
        id: u64,
    },
    /// This process has exited: the leader of the session.
    Session {
        /// Its pid.
        leader: i32,
        /// Its start time in clock ticks since boot.
        start_time: u64,
    },
    /// The host is started again.
    Boot,
}

impl Invocation {
    /// The invocation of a process: `cgroup` is the text of its `/proc/PID/cgroup`, and `names` what it names. `stat` is
    /// called only where its session matters.
    pub(super) fn of_process<E>(
        stat: impl FnOnce() -> Result<ProcessStat, E>,
        cgroup: &[u8],
        names: &CgroupNames,
    ) -> Result<Invocation, E> {
        let of_unit = || {
            let unit = names.unit.as_ref().filter(|_| !names.is_of_user_manager())?;
            let id = cgroup::invocation_id(unit)?;
            Some(Invocation { id: id.into(), end: InvocationEnd::Unit(unit.clone()) })
        };
        match of_unit().or_else(|| of_cgroup(unified_mount()?, cgroup)) {
            Some(invocation) => Ok(invocation),
            None => Ok(of_session(&stat()?)),
        }
    }

    /// The invocation of the processes in a cgroup that was delegated to the agent of this name. It ends with the cgroup,
    /// and is another one than that of processes in the cgroup before.
    pub fn of_delegated(cgroup: &Cgroup, agent: &str) -> Invocation {
        Invocation {
            id: derive_id("delegation", &[&cgroup.id().to_string(), agent]),
            end: InvocationEnd::Cgroup { path: cgroup.path().to_owned(), id: cgroup.id() },
        }
    }

    /// An invocation that was stored: its ID, and what ends it.
    pub fn stored(id: &str, end: InvocationEnd) -> Invocation {
        Invocation { id: id.into(), end }
    }

    /// One that ends with the host.
    #[cfg(test)]
    pub(crate) fn of_test(id: &str) -> Invocation {
        Invocation::stored(id, InvocationEnd::Boot)
    }

    /// What ends it.
    pub fn end(&self) -> &InvocationEnd {
        &self.end
    }
}

impl Deref for Invocation {
    type Target = str;

    fn deref(&self) -> &str {
        &self.id
    }
}

/// A pidfd of the leader of a session, which becomes readable when it exits; `None` if it has exited.
///
/// # Errors
/// The kernel gives no pidfd.
pub fn leader_pidfd(leader: i32, start_time: u64) -> Result<Option<OwnedFd>, Errno> {
    let pidfd = match sys::pidfd_open(leader) {
        Ok(pidfd) => pidfd,
        Err(Errno::ESRCH | Errno::EINVAL | Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    Ok(is_leader_running(leader, start_time).then_some(pidfd))
}

/// Whether the leader of a session has not exited.
pub fn is_leader_running(leader: i32, start_time: u64) -> bool {
    ProcessStat::of_pid(leader).is_some_and(|stat| stat.is_running && stat.start_time == start_time)
}

/// Whether an invocation ID is systemd's, of a system unit.
pub fn is_invocation_of_unit(id: &str) -> bool {
    id.len() == 32 && id.as_bytes()[VERSION_DIGIT] != b'8'
}

/// The ID of the present boot, a UUID; empty where the kernel does not report it.
pub fn boot_id() -> &'static str {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    BOOT_ID.get_or_init(|| fs::read_to_string(BOOT_ID_FILE).unwrap_or_default().trim_end().to_owned())
}

fn of_cgroup(mount: &Path, cgroup: &[u8]) -> Option<Invocation> {
    let path = cgroup::bounding_path(cgroup)?;
    let id = fs::metadata(mount.join(path.trim_start_matches('/'))).ok()?.ino();
    let end = InvocationEnd::Cgroup { path: path.to_owned(), id };
    Some(Invocation { id: derive_id("cgroup", &[&id.to_string()]), end })
}

fn of_session(stat: &ProcessStat) -> Invocation {
    let session = stat.session;
    let leader = match session == stat.pid {
        true => Some(*stat),
        // Numbers are not used again while a session has them, so a process with this one is its leader.
        false => ProcessStat::of_pid(session).filter(|leader| leader.session == session),
    };
    match leader.filter(|leader| session > 0 && leader.is_running) {
        Some(leader) => Invocation {
            id: derive_id("session", &[&session.to_string(), &leader.start_time.to_string()]),
            end: InvocationEnd::Session { leader: session, start_time: leader.start_time },
        },
        None => Invocation { id: derive_id("session", &[&session.to_string()]), end: InvocationEnd::Boot },
    }
}

/// The first 128 bits of a SHA-256 digest over what distinguishes the invocation from all others, with the version
/// and the variant of a UUID.
fn derive_id(kind: &str, parts: &[&str]) -> Box<str> {
    let text = format!("hostbadge invocation\n{kind}\n{}\n{}", boot_id(), parts.join("\n"));
    let mut id = [0; 16];
    id.copy_from_slice(&sha256(text.as_bytes())[..16]);
    id[6] = 0x80 | (id[6] & 0x0f);
    id[8] = 0x80 | (id[8] & 0x3f);
    HEXLOWER.encode(&id).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn of_pid(pid: u32, cgroup: &[u8]) -> Invocation {
        let stat = || ProcessStat::of_pid(pid as i32).ok_or("it has exited");
        Invocation::of_process(stat, cgroup, &cgroup::parse(cgroup)).unwrap()
    }

    #[test]
    fn derived_ids_differ_from_those_of_systemd() {
        let id = derive_id("session", &["1", "2"]);
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        assert!(!is_invocation_of_unit(&id));
        assert!(is_invocation_of_unit("0123456789ab4def8123456789abcdef"));
        assert!(!is_invocation_of_unit(""));
        assert_ne!(id, derive_id("session", &["1"]));
        assert_ne!(id, derive_id("cgroup", &["1", "2"]));
        assert_eq!(boot_id().len(), 36, "{}", boot_id());
    }

    #[test]
    fn processes_of_a_session_are_one_invocation_until_its_leader_exits() {
        // A leader with a child that outlives it.
        let script = "import os,sys,time\nos.setsid()\nif os.fork():\n sys.stdin.read()\nelse:\n \
                      print(os.getpid(),flush=True);time.sleep(60)";
        let mut leader = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = String::new();
        std::io::BufRead::read_line(
            &mut std::io::BufReader::new(leader.stdout.as_mut().unwrap()),
            &mut child,
        )
        .unwrap();
        let child: u32 = child.trim().parse().unwrap();
        let root = b"0::/\n";
        let (of_leader, of_child) = (of_pid(leader.id(), root), of_pid(child, root));
        assert_eq!(of_leader, of_child);
        assert!(
            matches!(of_child.end(), InvocationEnd::Session { leader: pid, .. } if *pid == leader.id() as i32)
        );
        assert_ne!(of_child, of_pid(std::process::id(), root), "another session");
        drop(leader.stdin.take());
        leader.wait().unwrap();
        let without_leader = of_pid(child, root);
        assert_eq!(without_leader.end(), &InvocationEnd::Boot);
        assert_ne!(&*without_leader, &*of_child);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child as i32), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
    }

    #[test]
    fn a_cgroup_that_is_made_again_is_another_invocation() {
        let dir = tempfile::tempdir().unwrap();
        let text = b"0::/user.slice/user-7.slice/user@7.service/app.slice/a.service/below\n";
        let path = dir.path().join("user.slice/user-7.slice/user@7.service/app.slice/a.service");
        assert_eq!(of_cgroup(dir.path(), text), None);
        fs::create_dir_all(path.join("below")).unwrap();
        let first = of_cgroup(dir.path(), text).unwrap();
        let InvocationEnd::Cgroup { path: ended, id } = first.end() else { panic!("{first:?}") };
        assert_eq!(ended, "/user.slice/user-7.slice/user@7.service/app.slice/a.service");
        assert_eq!(*id, fs::metadata(&path).unwrap().ino());
        assert_eq!(of_cgroup(dir.path(), text), Some(first));
    }
}
