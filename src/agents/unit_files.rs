//! What the files of an agent's systemd unit show: that there are none, or secrets that others can read.
//!
//! For the command, which runs as the administrator. No value is kept or printed.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::peer::{UNIT_DIRS, UnitFilesError, unit_files};
use crate::secrets::secret_variable;

use super::lint_name::Lint;

/// Largest unit or environment file that is read, in bytes.
const MAX_FILE_SIZE: u64 = 256 * 1024;

/// A secret in the file of a unit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnitSecret {
    /// The line of the setting, from 1.
    pub(crate) line: usize,
    /// The variable; `None` for `SetCredential=`.
    pub(crate) variable: Option<String>,
}

impl UnitSecret {
    /// The setting that has it, as it begins in the file: `Environment=NAME` or `SetCredential=`.
    pub(super) fn setting(&self) -> String {
        match &self.variable {
            Some(name) => format!("Environment={name}"),
            None => "SetCredential=".to_owned(),
        }
    }
}

/// What the files of a unit show, with what to do.
pub(super) fn unit_lints(unit: &str) -> Vec<String> {
    lints_in(unit, &UNIT_DIRS.map(Path::new))
}

fn lints_in(unit: &str, dirs: &[&Path]) -> Vec<String> {
    let files = match unit_files(dirs, unit) {
        Ok(files) => files,
        // A scope has no file: a program makes it while it runs.
        Err(UnitFilesError::Missing) if !unit.ends_with(".scope") => {
            return vec![Lint::UnknownUnit.about(format_args!(
                "this host has no file of a unit {unit}, so no process is this agent, unless a program starts the \
                 unit without a file, as systemd-run does; see systemctl list-unit-files"
            ))];
        }
        // What this user may not read is not known.
        Err(_) => return Vec::new(),
    };
    let mut found = Vec::new();
    for file in &files {
        // What this user may not read is not known.
        let Some(text) = read(file) else { continue };
        for secret in unit_secrets(&text) {
            found.push(secret_in_unit(&format!("{}:{}", file.display(), secret.line), &secret.setting()));
        }
        found.extend(environment_files(&text).iter().filter_map(|path| readable_secret(path, unit)));
    }
    found
}

/// The secrets in the text of a unit's file or drop-in: in `Environment=` and `SetCredential=`.
pub(crate) fn unit_secrets(text: &str) -> Vec<UnitSecret> {
    let mut found = Vec::new();
    for Assignment { line, key, value } in assignments(text) {
        match key {
            "Environment" => {
                let words = words(&value);
                let names = words.iter().filter_map(|word| secret_variable(word));
                found.extend(names.map(|name| UnitSecret { line, variable: Some(name.to_owned()) }));
            }
            "SetCredential" if value.contains(':') => found.push(UnitSecret { line, variable: None }),
            _ => {}
        }
    }
    found
}

/// The files of `EnvironmentFile=` in the text of a unit's file or drop-in, without patterns and specifiers, which
/// stand for other files.
pub(crate) fn environment_files(text: &str) -> Vec<PathBuf> {
    let values =
        assignments(text).into_iter().filter(|one| one.key == "EnvironmentFile").map(|one| one.value);
    let is_file = |value: &String| !value.contains(['*', '?', '[', '%']);
    let paths = values.filter(is_file).map(|value| PathBuf::from(value.trim_start_matches('-')));
    paths.filter(|path| path.is_absolute()).collect()
}

/// The secrets in the text of a file of `EnvironmentFile=`: the line from 1, and the name.
pub(crate) fn environment_secrets(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().map(|line| line.trim().strip_prefix("export ").unwrap_or(line.trim()));
    let settings = lines.enumerate().filter(|(_, line)| !line.starts_with(['#', ';']));
    settings.filter_map(|(index, line)| Some((index + 1, secret_variable(line)?)))
}

/// A regular file's text; `None` if there is none that this user can read.
pub(super) fn read(path: &Path) -> Option<String> {
    FoundFile::find(path)?.text()
}

/// A regular file that was found and not opened.
struct FoundFile {
    file: File,
    metadata: Metadata,
}

impl FoundFile {
    /// Follows links, as the service manager does, and opens nothing: in a home directory, a link or an
    /// `EnvironmentFile=` may lead to a device, whose opening has effects, or to a FIFO, whose opening waits.
    fn find(path: &Path) -> Option<FoundFile> {
        let file = File::options().read(true).custom_flags(nix::libc::O_PATH).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        metadata.is_file().then_some(FoundFile { file, metadata })
    }

    /// The text. That of most files that the kernel makes, such as those of /proc, is empty, as their size is:
    /// reading one may wait, or take what another program waits for.
    fn text(&self) -> Option<String> {
        let own_path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
        let file = File::options().read(true).custom_flags(flags).open(own_path).ok()?;
        let mut bytes = Vec::new();
        file.take(self.metadata.len().min(MAX_FILE_SIZE)).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// One `KEY=VALUE` of a unit file, with its continuation lines.
struct Assignment<'a> {
    line: usize,
    key: &'a str,
    value: String,
}

fn assignments(text: &str) -> Vec<Assignment<'_>> {
    let mut assignments: Vec<Assignment<'_>> = Vec::new();
    let mut continues = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let (part, is_continued) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match assignments.last_mut().filter(|_| continues) {
            Some(last) => last.value += &format!(" {part}"),
            None => {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                assignments.push(Assignment {
                    line: index + 1,
                    key: key.trim(),
                    value: value.trim().to_owned(),
                });
            }
        }
        continues = is_continued;
    }
    assignments
}

/// The words of a value, without their quotes (systemd.syntax(7)).
fn words(value: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', _) => word.extend(characters.next()),
            (c, Some(end)) if c == end => quote = None,
            ('"' | '\'', None) => quote = Some(character),
            (c, None) if c.is_whitespace() => {
                words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty()))
            }
            (c, _) => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

fn secret_in_unit(place: &str, what: &str) -> String {
    Lint::SecretInUnit.about(format_args!(
        "{place} has a secret in {what}, which every user can read with systemctl show; have its issuer make a new \
         one, store that with hostbadge credential put, give it to the unit by LoadCredential=, and remove it here"
    ))
}

/// Looks at the file of `EnvironmentFile=`.
pub(super) fn readable_secret(path: &Path, unit: &str) -> Option<String> {
    let found = FoundFile::find(path)?;
    if found.metadata.mode() & 0o004 == 0 {
        return None;
    }
    let text = found.text()?;
    let (_, name) = environment_secrets(&text).next()?;
    let path = path.display();
    Some(Lint::ReadableSecret.about(format_args!(
        "every user can read {path}, the EnvironmentFile= of {unit}, which has a secret in {name}: chmod 600 {path}, \
         or hostbadge credential import --env-file {path} --remove"
    )))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn found(unit: &str, dirs: &[&Path]) -> Vec<String> {
        let texts = lints_in(unit, dirs);
        let name = |text: &String| text.rsplit_once(" [").unwrap().1.trim_end_matches(']').to_owned();
        assert!(texts.iter().all(|text| !text.contains("hunter2")), "{texts:?}");
        texts.iter().map(name).collect()
    }

    #[test]
    fn units_without_a_file_are_found() {
        let (etc, lib) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [etc.path(), lib.path()];
        fs::write(lib.path().join("a.service"), "[Service]\nExecStart=/bin/a\n").unwrap();
        fs::write(lib.path().join("worker@.service"), "").unwrap();
        assert_eq!(found("a.service", &dirs), [""; 0]);
        assert_eq!(found("worker@7.service", &dirs), [""; 0]);
        assert_eq!(found("session-1.scope", &dirs), [""; 0]);
        assert_eq!(found("b.service", &dirs), ["unknown-unit"]);
        assert_eq!(found("other@7.service", &dirs), ["unknown-unit"]);
    }

    #[test]
    fn secrets_in_units_and_drop_ins_are_found_by_name_and_form() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.service");
        let drop_in = dir.path().join("a.service.d");
        fs::create_dir(&drop_in).unwrap();
        let secrets = [
            "Environment=OPENAI_API_KEY=hunter2hunter2",
            "Environment=A=1 \"DB_PASSWORD=hunter2 hunter2\"",
            "Environment=A=1 \\\n  # comment\n  GITHUB_TOKEN='hunter2hunter2'",
            "Environment=X=sk-hunter2hunter2",
            "SetCredential=key:hunter2hunter2",
        ];
        for secret in secrets {
            fs::write(&file, format!("[Service]\n{secret}\n")).unwrap();
            assert_eq!(found("a.service", &[dir.path()]), ["secret-in-unit"], "{secret}");
        }
        for harmless in [
            "Environment=API_KEY_FILE=/run/credentials/key",
            "Environment=TOKEN_URL=https://example.com/token",
            "Environment=AWS_ACCESS_KEY_ID=hunter2hunter2",
            "Environment=API_KEY=%d/key",
            "Environment=API_KEY=",
            "#Environment=API_KEY=hunter2hunter2",
            "LoadCredential=key:/etc/key",
            "Environment=LANG=C.UTF-8",
        ] {
            fs::write(&file, format!("[Service]\n{harmless}\n")).unwrap();
            assert_eq!(found("a.service", &[dir.path()]), [""; 0], "{harmless}");
        }
        fs::write(drop_in.join("env.conf"), format!("[Service]\n{}\n", secrets[0])).unwrap();
        let text = lints_in("a.service", &[dir.path()]).pop().unwrap();
        assert!(text.contains("env.conf:2 has a secret in Environment=OPENAI_API_KEY, which"), "{text}");
    }

    #[test]
    fn environment_files_with_secrets_that_others_can_read_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let (unit, env) = (dir.path().join("a.service"), dir.path().join("env"));
        fs::write(&env, "# settings\nLEVEL=debug\nexport API_KEY=\"hunter2hunter2\"\n").unwrap();
        fs::write(&unit, format!("[Service]\nEnvironmentFile=-{}\n", env.display())).unwrap();
        for (mode, expected) in [(0o644, &["readable-secret"][..]), (0o640, &[]), (0o600, &[])] {
            fs::set_permissions(&env, Permissions::from_mode(mode)).unwrap();
            assert_eq!(found("a.service", &[dir.path()]), expected, "{mode:o}");
        }
        fs::set_permissions(&env, Permissions::from_mode(0o644)).unwrap();
        fs::write(&env, "LEVEL=debug\n").unwrap();
        assert_eq!(found("a.service", &[dir.path()]), [""; 0]);
    }

    #[test]
    fn links_are_followed_and_nothing_but_a_regular_file_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "A=1\n").unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
        for target in ["file", "fifo", "none", "."] {
            symlink(at(target), at(&format!("to-{target}"))).unwrap();
        }
        symlink("/dev/ptmx", at("device")).unwrap();
        symlink("/proc/self/status", at("of-the-kernel")).unwrap();
        for path in ["fifo", "to-fifo", "to-none", "to-.", "device"].map(at) {
            assert!(FoundFile::find(&path).is_none() && read(&path).is_none(), "{path:?}");
            assert_eq!(readable_secret(&path, "a.service"), None, "{path:?}");
        }
        assert_eq!(read(&at("of-the-kernel")), Some(String::new()));
        for path in ["file", "to-file"].map(at) {
            assert_eq!(read(&path).as_deref(), Some("A=1\n"), "{path:?}");
        }
    }
}
