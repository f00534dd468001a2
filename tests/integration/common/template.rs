//! Hosts made once and copied ever after.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

use super::{Host, until_true};

/// The host that most tests run on.
pub fn host() -> PathBuf {
    made("host")
}

/// Another one, with another TPM.
pub fn other_host() -> PathBuf {
    made("other-host")
}

/// Makes a template unless there is one by this very build of the daemon.
fn made(name: &str) -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(home).unwrap();
    let lock =
        File::options().create(true).truncate(false).write(true).open(home.join(format!("{name}.lock")));
    // Several test programs may run at once.
    let _one = Flock::lock(lock.unwrap(), FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap();

    let build = fs::metadata(env!("CARGO_BIN_EXE_hostbadged")).unwrap().modified().unwrap();
    let (template, stamp) = (home.join(name), home.join(format!("{name}.build")));
    let build = format!("{build:?}");
    if fs::read_to_string(&stamp).is_ok_and(|made_by| made_by == build) {
        return template;
    }
    let _ = fs::remove_dir_all(&template);
    fs::create_dir(&template).unwrap();
    let mut host = Host::blank();
    host.start();
    // Soon after it is ready; hosts that are copied from this one have it from the start.
    until_true("its first state is recorded", || host.log().contains("is recorded as a baseline"));
    assert!(host.stop().success());
    for part in ["state", "tpm"] {
        copy(&host.path(part), &template.join(part));
    }
    fs::write(&stamp, build).unwrap();
    template
}

/// Copies a directory with modes and owners.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    let from = from.join(".");
    let status = Command::new("cp").arg("-a").args([&from, to]).status().unwrap();
    assert!(status.success(), "cp -a {} {}", from.display(), to.display());
}
