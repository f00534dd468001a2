//! What others can change of a script agent, by what the file system of this host shows.
//!
//! For the command, which runs as the administrator.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::peer::check_root_file;

use super::lint_name::Lint;

/// Directories above a file in which an environment is looked for.
const MAX_LEVELS: usize = 3;
/// Where the libraries of a script are, beside it or above it.
const ENVIRONMENTS: [&str; 4] = [".venv", "venv", "env", "node_modules"];

/// Why files do not count, and which libraries of the interpreter others than root can change: a process that
/// loads one of those runs what they say, whatever the digests of the files are.
pub fn script_warnings<'a>(
    files: impl Iterator<Item = &'a Path> + Clone,
    exec_start: Option<&Path>,
) -> Vec<String> {
    let unusable = files.clone().filter_map(|file| {
        let error = check_root_file(file).err()?;
        let text = format_args!("files: {} {error}; no process is this agent until then", file.display());
        Some(Lint::UnusableFile.about(text))
    });
    let writable = environments(files, exec_start).into_iter().filter_map(|environment| {
        let (path, reason) = parts(&environment).into_iter().find_map(|part| Some((part.clone(), writable_by(&part)?)))?;
        Some(Lint::WritableLibraries.about(format_args!(
            "the libraries in {} can be changed by others: {} {reason}; a process that loads them runs what these \
             users write, whatever the digests of its files are. Give them to root",
            environment.display(),
            path.display()
        )))
    });
    unusable.chain(writable).collect()
}

/// The virtual environments and library directories beside the files and above them, and that of the
/// interpreter.
fn environments<'a>(files: impl Iterator<Item = &'a Path>, exec_start: Option<&Path>) -> BTreeSet<PathBuf> {
    let beside = files
        .flat_map(|file| file.ancestors().skip(1).take(MAX_LEVELS))
        .flat_map(|dir| ENVIRONMENTS.map(|name| dir.join(name)))
        .filter(|dir| dir.is_dir() && (dir.ends_with("node_modules") || is_virtual(dir)));
    let own = exec_start.into_iter().flat_map(|exe| exe.ancestors().skip(1).take(MAX_LEVELS));
    beside.chain(own.filter(|dir| is_virtual(dir)).map(Path::to_owned)).collect()
}

fn is_virtual(dir: &Path) -> bool {
    dir.join("pyvenv.cfg").is_file()
}

/// The directories of an environment that decide which code is loaded.
fn parts(environment: &Path) -> Vec<PathBuf> {
    let mut parts = vec![environment.to_owned(), environment.join("pyvenv.cfg"), environment.join("bin")];
    for entry in fs::read_dir(environment.join("lib")).into_iter().flatten().flatten() {
        parts.push(entry.path());
        parts.push(entry.path().join("site-packages"));
    }
    parts
}

/// Who beside root may write, if the path exists.
fn writable_by(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    let meta = fs::metadata(path).ok()?;
    if meta.uid() != 0 {
        return Some(format!("is owned by uid {}", meta.uid()));
    }
    if meta.mode() & 0o002 != 0 {
        return Some("is writable by all users".into());
    }
    (meta.mode() & 0o020 != 0 && meta.gid() != 0).then(|| format!("is writable by group {}", meta.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::chown;

    #[test]
    fn libraries_that_others_can_change_are_named() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir_in("/var/lib").unwrap();
        let app = dir.path().join("app");
        let packages = app.join(".venv/lib/python3.13/site-packages");
        fs::create_dir_all(&packages).unwrap();
        fs::create_dir(app.join("src")).unwrap();
        let file = app.join("src/main.py");
        fs::write(&file, "").unwrap();
        let warnings = |exec_start: Option<&Path>| script_warnings([file.as_path()].into_iter(), exec_start);
        chown(&packages, Some(4711), None).unwrap();
        assert_eq!(warnings(None), [""; 0], "no environment without pyvenv.cfg");
        fs::write(app.join(".venv/pyvenv.cfg"), "").unwrap();
        let found = warnings(None);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("site-packages is owned by uid 4711"), "{found:?}");
        assert_eq!(warnings(Some(&app.join(".venv/bin/python"))).len(), 1, "the same environment");
        chown(&packages, Some(0), None).unwrap();
        assert_eq!(warnings(None), [""; 0]);
        fs::create_dir(app.join("node_modules")).unwrap();
        chown(app.join("node_modules"), Some(4711), None).unwrap();
        assert!(warnings(None)[0].contains("node_modules is owned by uid 4711"));
        chown(&file, Some(4711), None).unwrap();
        let found = warnings(None);
        assert!(found[0].contains("main.py can be changed by others") && found.len() == 2, "{found:?}");
    }
}
