//! Hosts that are made once in each run of the tests, and copied by each test.
//!
//! A run makes its own, since keys, certificates and counters have ages: those of an earlier run would fail tests of
//! rotation and expiry, hours later.

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
    // Recorded soon after the daemon is ready; hosts that are copied from this one have it from the start.
    until_true("its first state is recorded", || host.log().contains("is recorded as a baseline"));
    assert!(host.stop().success());
    for part in ["state", "tpm"] {
        copy(&host.path(part), &template.join(part));
    }
    template
}

/// A directory for as long as this process lives. Those of processes that have ended are removed here, since nothing
/// runs at the end of a test process.
fn run_dir() -> &'static Path {
    static RUN: OnceLock<(PathBuf, Flock<File>)> = OnceLock::new();
    let (dir, _lock) = RUN.get_or_init(|| {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("templates");
        fs::create_dir_all(&home).unwrap();
        let lock = |path: &Path, how| Flock::lock(File::open(path).unwrap(), how).ok();
        // One process at a time makes its directory and removes others'.
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

/// Copies a directory with modes and owners.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    let from = from.join(".");
    let status = Command::new("cp").arg("-a").args([&from, to]).status().unwrap();
    assert!(status.success(), "cp -a {} {}", from.display(), to.display());
}

/// Otherwise tests of rotation fail some time after the first run of a build.
#[test]
fn the_keys_of_a_template_are_of_this_run() {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: u64 = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    let boot = fs::read_to_string("/proc/stat").unwrap();
    let boot: u64 = boot.split_once("btime ").unwrap().1.lines().next().unwrap().parse().unwrap();
    for template in [host(), other_host()] {
        let file = fs::read_to_string(template.join("state/issuing.json")).unwrap();
        let file: serde_json::Value = serde_json::from_str(&file).unwrap();
        let activated = file["active"]["activated"].as_u64().unwrap();
        // Both are whole seconds, and ticks are hundredths.
        assert!(activated + 2 >= boot + ticks / 100, "{activated} is before {boot} + {ticks}/100");
    }
}
