//! Conditions that no process of this host meets, by what its file system shows.
//!
//! For the command, which runs as the administrator: the daemon's own view lacks home directories, and a
//! network file system that does not answer must not delay it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::peer::UNIT_DIRS;

use super::lint_name::Lint;

/// Why no process meets the conditions `exe` and `unit` of an agent now, with what to write instead.
pub fn host_warnings(exe: Option<&Path>, unit: Option<&str>) -> Vec<String> {
    let unit_dirs = UNIT_DIRS.map(Path::new);
    let alias = unit.and_then(|unit| alias_warning(unit, &unit_dirs));
    exe.and_then(executable_warning).into_iter().chain(alias).collect()
}

/// The kernel reports the path of the file that it executes, after all links.
fn executable_warning(exe: &Path) -> Option<String> {
    let shown = exe.display();
    let real = match fs::canonicalize(exe) {
        Ok(real) => real,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Some(Lint::MissingExecutable.about(format_args!(
                "exe: {shown} does not exist, unless it is in a container or mount namespace"
            )));
        }
        // What this user may not see is not known.
        Err(_) => return None,
    };
    if real != exe {
        let real = real.display();
        return Some(Lint::OtherExecutable.about(format_args!(
            "exe: {shown} leads over a link to {real}, which the kernel reports; write that path"
        )));
    }
    let is_file = fs::metadata(exe).is_ok_and(|meta| meta.is_file());
    if !is_file {
        let text = format_args!("exe: {shown} is not a file that can be executed");
        return Some(Lint::OtherExecutable.about(text));
    }
    let mut start = [0; 2];
    let is_script =
        File::open(exe).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"#!";
    is_script.then(|| {
        Lint::OtherExecutable.about(format_args!(
            "exe: {shown} is a script; the kernel reports its interpreter; match it by user or unit"
        ))
    })
}

/// The cgroup of a unit has the unit's own name, whatever alias started it.
fn alias_warning(unit: &str, dirs: &[&Path]) -> Option<String> {
    let file = dirs.iter().map(|dir| dir.join(unit)).find(|file| fs::symlink_metadata(file).is_ok())?;
    let target = fs::read_link(&file).ok()?;
    let name = target.file_name()?.to_str()?;
    // A unit that is linked from elsewhere keeps its name; one that is masked leads to /dev/null.
    let is_alias = name != unit && name.contains('.') && !name.contains("@.");
    is_alias.then(|| {
        Lint::UnitAlias.about(format_args!(
            "unit: {unit} is an alias of {name}, which the kernel reports; write that name"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn executables_that_no_process_runs_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        let [program, script, link] = ["program", "script", "link"].map(|name| dir.join(name));
        fs::write(&program, "\x7fELF").unwrap();
        fs::write(&script, "#!/bin/sh\n").unwrap();
        symlink(&program, &link).unwrap();
        let warning = |path: &Path| host_warnings(Some(path), None).pop().unwrap_or_default();
        assert_eq!(warning(&program), "");
        assert!(warning(&script).contains("is a script"), "{}", warning(&script));
        assert!(warning(&link).contains(&format!("to {}", program.display())), "{}", warning(&link));
        assert!(warning(&dir).contains("is not a file"), "{}", warning(&dir));
        assert!(warning(&dir.join("none")).contains("does not exist"), "{}", warning(&dir.join("none")));
    }

    #[test]
    fn aliases_of_units_are_named() {
        let (etc, lib) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [etc.path(), lib.path()];
        fs::write(lib.path().join("ssh.service"), "").unwrap();
        symlink("/lib/systemd/system/ssh.service", etc.path().join("sshd.service")).unwrap();
        symlink("/dev/null", etc.path().join("masked.service")).unwrap();
        symlink("/opt/agent.service", etc.path().join("agent.service")).unwrap();
        symlink("/lib/systemd/system/getty@.service", etc.path().join("getty@tty1.service")).unwrap();
        let warning = alias_warning("sshd.service", &dirs).unwrap();
        assert!(warning.contains("is an alias of ssh.service"), "{warning}");
        for unit in ["ssh.service", "masked.service", "agent.service", "getty@tty1.service", "none.service"] {
            assert_eq!(alias_warning(unit, &dirs), None, "{unit}");
        }
    }
}
