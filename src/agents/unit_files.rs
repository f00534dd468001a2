//! What the files of an agent's systemd unit show: that there are none, or secrets that others can read.
//!
//! For the command, which runs as the administrator. No value is kept or printed.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::peer::{UNIT_DIRS, UnitFilesError, unit_files};

use super::lint_name::Lint;

/// Largest unit or environment file that is read, in bytes.
const MAX_FILE_SIZE: u64 = 256 * 1024;

/// Parts of the names of variables that have secrets.
const SECRET_PARTS: &[&str] = &[
    "ACCESS_KEY",
    "API_KEY",
    "APIKEY",
    "AUTH_KEY",
    "CREDENTIAL",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PRIVATE_KEY",
    "SECRET",
    "TOKEN",
];
/// Ends of the names of variables that only say where a secret is, or how it is called.
const HARMLESS_ENDS: &[&str] = &[
    "_DIR",
    "_ENDPOINT",
    "_FILE",
    "_ID",
    "_LIFETIME",
    "_NAME",
    "_PATH",
    "_SOCKET",
    "_TTL",
    "_TYPE",
    "_URI",
    "_URL",
];
/// Starts of tokens that issuers give a fixed form.
const SECRET_STARTS: &[&str] =
    &["AKIA", "AIza", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "hf_", "sk-", "xoxb-", "xoxp-"];

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
        for assignment in assignments(&text) {
            let Assignment { line, key, value } = assignment;
            let place = format!("{}:{line}", file.display());
            match key {
                "Environment" => found.extend(
                    words(&value)
                        .iter()
                        .filter_map(|word| secret_variable(word))
                        .map(|name| secret_in_unit(&place, &format!("Environment={name}"))),
                ),
                "SetCredential" if value.contains(':') => {
                    found.push(secret_in_unit(&place, "SetCredential="));
                }
                "EnvironmentFile" => found.extend(readable_secret(&value, unit)),
                _ => {}
            }
        }
    }
    found
}

/// A regular file's text; `None` if there is none that this user can read.
fn read(path: &Path) -> Option<String> {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
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

/// The name of a variable, if its assignment `NAME=VALUE` looks like a secret.
fn secret_variable(assignment: &str) -> Option<&str> {
    let (name, value) = assignment.split_once('=')?;
    let (name, value) = (name.trim(), value.trim().trim_matches(['"', '\'']));
    let upper = name.to_ascii_uppercase();
    let is_named_so = (SECRET_PARTS.iter().any(|part| upper.contains(part)) || upper.ends_with("_KEY"))
        && !HARMLESS_ENDS.iter().any(|end| upper.ends_with(end));
    // A path, a specifier or another variable only leads to a secret.
    let is_value = value.len() >= 8 && !value.starts_with(['/', '%', '$']);
    (is_value && (is_named_so || SECRET_STARTS.iter().any(|start| value.starts_with(start)))).then_some(name)
}

fn secret_in_unit(place: &str, what: &str) -> String {
    Lint::SecretInUnit.about(format_args!(
        "{place} has a secret in {what}, which every user can read with systemctl show; have its issuer make a new \
         one, store that with hostbadge credential put, give it to the unit by LoadCredential=, and remove it here"
    ))
}

/// Looks at the file of `EnvironmentFile=`.
fn readable_secret(value: &str, unit: &str) -> Option<String> {
    let path = Path::new(value.trim_start_matches('-'));
    // A pattern or specifier stands for other files.
    if value.contains(['*', '?', '[', '%']) || !path.is_absolute() {
        return None;
    }
    let mode = fs::metadata(path).ok()?.mode();
    if mode & 0o004 == 0 {
        return None;
    }
    let text = read(path)?;
    let name = text
        .lines()
        .map(|line| line.trim().strip_prefix("export ").unwrap_or(line.trim()))
        .filter(|line| !line.starts_with(['#', ';']))
        .find_map(secret_variable)?;
    let path = path.display();
    Some(Lint::ReadableSecret.about(format_args!(
        "every user can read {path}, the EnvironmentFile= of {unit}, which has a secret in {name}: chmod 600 {path}, \
         or hostbadge credential import --env-file {path} --remove"
    )))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

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
}
