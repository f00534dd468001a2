//! Hosts that each run of the tests makes once, and each test copies.
//!
//! A run does not reuse the hosts of an earlier run: their keys and certificates would be so old that tests
//! of rotation and expiry fail.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};

use super::{Host, until_true};

/// The host that most tests run on.
pub fn host() -> &'static Path {
    static HOST: OnceLock<PathBuf> = OnceLock::new();
    HOST.get_or_init(|| make("host"))
}

/// A host with another TPM.
pub fn other_host() -> &'static Path {
    static OTHER_HOST: OnceLock<PathBuf> = OnceLock::new();
    OTHER_HOST.get_or_init(|| make("other-host"))
}

fn make(name: &str) -> PathBuf {
    let template = run_dir().join(name);
    let mut host = Host::never_started();
    host.start();
    // The daemon records it soon after it is ready; copies of this host must have it.
    until_true("the first baseline is recorded", || host.log().contains("is recorded as a baseline"));
    assert!(host.stop().success());
    for part in ["state", "tpm"] {
        copy(&host.path(part), &template.join(part));
    }
    template
}

/// The directory of this process's templates, locked until the process exits. Directories of processes that
/// have exited are removed here, since a test process has no hook at its end.
fn run_dir() -> &'static Path {
    static RUN: OnceLock<(PathBuf, Flock<File>)> = OnceLock::new();
    let (dir, _lock) = RUN.get_or_init(|| {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("templates");
        fs::create_dir_all(&home).unwrap();
        let lock = |path: &Path, how| Flock::lock(File::open(path).unwrap(), how).ok();
        // One process at a time creates its directory and removes others.
        let _home = lock(&home, FlockArg::LockExclusive).expect("a lock");
        for dir in fs::read_dir(&home).unwrap().map(|item| item.unwrap().path()) {
            if lock(&dir, FlockArg::LockExclusiveNonblock).is_some() {
                fs::remove_dir_all(&dir).unwrap();
            }
        }
        let dir = tempfile::tempdir_in(&home).unwrap().keep();
        let held = lock(&dir, FlockArg::LockExclusive).expect("a lock");
        (dir, held)
    });
    dir
}

/// Copies a directory with its modes and owners.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    let from = from.join(".");
    let status = Command::new("cp").arg("-a").args([&from, to]).status().unwrap();
    assert!(status.success(), "cp -a {} {}", from.display(), to.display());
}

/// With older keys, tests of rotation fail some time after the first run of a build.
#[test]
fn template_keys_are_created_by_this_run() {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: u64 = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    let boot = fs::read_to_string("/proc/stat").unwrap();
    let boot: u64 = boot.split_once("btime ").unwrap().1.lines().next().unwrap().parse().unwrap();
    for template in [host(), other_host()] {
        let file = fs::read_to_string(template.join("state/issuing.json")).unwrap();
        let file: serde_json::Value = serde_json::from_str(&file).unwrap();
        let activated = file["active"]["activated"].as_u64().unwrap();
        // Both times are truncated to seconds; a tick is 10 ms.
        assert!(activated + 2 >= boot + ticks / 100, "{activated} is before {boot} + {ticks}/100");
    }
}
