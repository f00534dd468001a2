//! What the files of an agent's unit in the user's own service manager show: that there are none, or secrets that
//! other users can read.
//!
//! For the command, which runs as the administrator. No value is kept or printed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use crate::peer::{UnitFilesError, unit_files};

use super::lint_name::Lint;
use super::selectors::IdOrName;
use super::unit_files::{environment_files, read, readable_secret, unit_secrets};

/// Where the service managers of all users look for units (systemd.unit(5)).
const SHARED_DIRS: [&str; 5] = [
    "/etc/systemd/user",
    "/run/systemd/user",
    "/usr/local/lib/systemd/user",
    "/usr/lib/systemd/user",
    "/usr/share/systemd/user",
];
/// The same below the home directory of a user.
const HOME_DIRS: [&str; 2] = [".config/systemd/user", ".local/share/systemd/user"];
/// The same below `/run/user/UID/systemd`.
const RUNTIME_DIRS: [&str; 3] = ["user", "transient", "generator"];

/// What the files of a unit show, with what to do. `user` is the agent's. Blocking: looks the user up.
pub(super) fn user_unit_lints(unit: &str, user: Option<&IdOrName>) -> Vec<String> {
    // A user that does not exist has a lint of its own.
    let Some(user) = user.and_then(find) else { return Vec::new() };
    let runtime = Path::new("/run/user").join(user.uid.to_string()).join("systemd");
    let own = HOME_DIRS.map(|dir| user.dir.join(dir)).into_iter();
    let own: Vec<PathBuf> = own.chain(RUNTIME_DIRS.map(|dir| runtime.join(dir))).collect();
    lints_in(unit, &own, &SHARED_DIRS.map(Path::new))
}

fn find(user: &IdOrName) -> Option<User> {
    let found = match user {
        IdOrName::Id(uid) => User::from_uid(Uid::from_raw(*uid)),
        IdOrName::Name(name) => User::from_name(name),
    };
    found.ok().flatten()
}

fn lints_in(unit: &str, own: &[PathBuf], shared: &[&Path]) -> Vec<String> {
    let dirs: Vec<&Path> = own.iter().map(PathBuf::as_path).chain(shared.iter().copied()).collect();
    let files = match unit_files(&dirs, unit) {
        Ok(files) => files,
        // A scope has no file. What this user may not read is not known.
        Err(UnitFilesError::Missing) if !unit.ends_with(".scope") && own.iter().all(|dir| is_known(dir)) => {
            return vec![Lint::UnknownUnit.about(format_args!(
                "there is no file of a user unit {unit} of this agent's user, so no process is this agent, unless a \
                 program starts the unit without a file, as systemd-run --user does"
            ))];
        }
        Err(_) => return Vec::new(),
    };
    let mut found = Vec::new();
    for file in &files {
        let Some(text) = read(file) else { continue };
        let secret = unit_secrets(&text).into_iter().next().filter(|_| is_open(file));
        found.extend(secret.map(|secret| {
            Lint::SecretInUnit.about(format_args!(
                "{}:{} has a secret in {}, and every user can read the file: have its issuer make a new one, store \
                 that with hostbadge credential put, and remove it here",
                file.display(),
                secret.line,
                secret.setting()
            ))
        }));
        let others = environment_files(&text).into_iter().filter(|path| is_open(path));
        found.extend(others.filter_map(|path| readable_secret(&path, unit)));
    }
    found
}

/// Whether a directory can be listed, or certainly does not exist.
fn is_known(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(_) => true,
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether every user can read the file, as far as modes say.
fn is_open(file: &Path) -> bool {
    let has = |path: &Path, bit: u32| fs::metadata(path).is_ok_and(|meta| meta.mode() & bit != 0);
    has(file, 0o004) && file.ancestors().skip(1).all(|dir| has(dir, 0o001))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn found(unit: &str, own: &Path, shared: &Path) -> Vec<String> {
        let texts = lints_in(unit, &[own.to_owned()], &[shared]);
        assert!(texts.iter().all(|text| !text.contains("hunter2")), "{texts:?}");
        texts.iter().map(|text| text.rsplit_once(" [").unwrap().1.trim_end_matches(']').to_owned()).collect()
    }

    #[test]
    fn missing_units_and_secrets_that_others_can_read_are_found() {
        let (home, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [home.path(), shared.path()] {
            fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
        }
        let find = |unit: &str| found(unit, home.path(), shared.path());
        assert_eq!(find("a.service"), ["unknown-unit"]);
        assert_eq!(find("run-1.scope"), [""; 0]);
        assert_eq!(found("a.service", &home.path().join("none"), shared.path()), ["unknown-unit"]);
        fs::write(shared.path().join("a.service"), "[Service]\n").unwrap();
        assert_eq!(find("a.service"), [""; 0]);
        let (unit, env) = (home.path().join("a.service"), home.path().join("env"));
        fs::write(&env, "API_KEY=hunter2hunter2\n").unwrap();
        let text =
            format!("[Service]\nEnvironment=DB_PASSWORD=hunter2hunter2\nEnvironmentFile={}\n", env.display());
        fs::write(&unit, text).unwrap();
        assert_eq!(find("a.service"), ["secret-in-unit", "readable-secret"]);
        fs::set_permissions(&unit, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(find("a.service"), ["readable-secret"]);
        fs::set_permissions(home.path(), Permissions::from_mode(0o700)).unwrap();
        assert_eq!(find("a.service"), [""; 0]);
        assert!(find_user_of_this_process().is_some());
    }

    fn find_user_of_this_process() -> Option<User> {
        super::find(&IdOrName::Id(nix::unistd::geteuid().as_raw()))
    }
}
