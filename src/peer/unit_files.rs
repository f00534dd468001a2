//! The file and the drop-ins of a system unit, as systemd would find them, and the digest over them.
//!
//! The daemon asks no service manager. It reads the directories of systemd.unit(5), which only root writes,
//! so the digest is that of what the next start of the unit would use, not of what systemd has loaded. Every
//! drop-in of the unit's names counts, also one that a file of the same name in another directory hides.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Sha256Digest;

/// Where systemd looks for the files of system units, in its order of precedence (systemd.unit(5)).
pub const UNIT_DIRS: [&str; 14] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
    "/usr/local/lib/systemd/system.attached",
];
/// Files of units that are listed.
const MAX_UNIT_NAMES: usize = 65_536;
/// Drop-ins of one unit.
const MAX_DROP_INS: usize = 128;
/// Size of one file, in bytes.
const MAX_FILE_SIZE: u64 = 256 * 1024;

/// Why the digest of a unit is not known. The text follows the unit's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitFilesError {
    /// No directory has it.
    #[error("has no file in the directories of system units")]
    Missing,
    /// The directories were not read in time.
    #[error("cannot be compared now, because the disk does not answer; retry")]
    Slow,
    /// It has more than 128 drop-ins.
    #[error("has more than {MAX_DROP_INS} drop-ins")]
    TooMany,
    /// A file has more than 256 KiB.
    #[error("has a file of more than 256 KiB, {}", .0.display())]
    TooLarge(PathBuf),
    /// A file cannot be read.
    #[error("has a file that cannot be read, {}: {error}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error's text.
        error: String,
    },
}

/// The names of all files of system units.
#[derive(Clone, Debug, Default)]
pub struct UnitNames(HashSet<String>);

impl UnitNames {
    /// Lists the directories of systemd.unit(5). Blocking, for the time of a few local reads.
    pub fn read() -> UnitNames {
        UnitNames::read_from(&UNIT_DIRS.map(Path::new))
    }

    fn read_from(dirs: &[&Path]) -> UnitNames {
        // A directory that does not exist has no units.
        let entries = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        UnitNames(names.take(MAX_UNIT_NAMES).collect())
    }

    /// Whether the unit, or its template, has a file. `None` for a scope, which a program makes while it runs.
    pub fn has(&self, unit: &str) -> Option<bool> {
        if unit.ends_with(".scope") {
            return None;
        }
        Some(names(unit).iter().any(|name| self.0.contains(name)))
    }
}

/// Returns the digest over the unit's file and drop-ins. Blocking, for the time of a few local reads.
///
/// # Errors
/// A [`UnitFilesError`] if the unit has no file, or one of its files cannot be read.
pub fn unit_digest(unit: &str) -> Result<Sha256Digest, UnitFilesError> {
    unit_digest_in(&UNIT_DIRS.map(Path::new), unit)
}

fn unit_digest_in(dirs: &[&Path], unit: &str) -> Result<Sha256Digest, UnitFilesError> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(b"hostbadge unit 1\n");
    for path in unit_files(dirs, unit)? {
        let content = read(&path)?;
        // With the lengths, no content can look like another file.
        context.update(format!("{} {}\n", path.as_os_str().len(), content.len()).as_bytes());
        context.update(path.as_os_str().as_encoded_bytes());
        context.update(&content);
    }
    let mut digest = Sha256Digest([0; 32]);
    digest.0.copy_from_slice(context.finish().as_ref());
    Ok(digest)
}

/// Returns the unit's file, then its drop-ins in the order in which systemd applies them. `dirs` are the
/// directories of units, such as [`UNIT_DIRS`]. Blocking.
///
/// # Errors
/// [`UnitFilesError::Missing`] if no directory has the unit, and a directory that cannot be read.
pub fn unit_files(dirs: &[&Path], unit: &str) -> Result<Vec<PathBuf>, UnitFilesError> {
    let candidates = names(unit);
    let fragment = candidates.iter().find_map(|name| find(dirs, name)).ok_or(UnitFilesError::Missing)?;
    let mut drop_ins = Vec::new();
    for name in drop_in_names(unit) {
        for dir in dirs {
            let Ok(entries) = fs::read_dir(dir.join(&name)) else { continue };
            for entry in entries.take(MAX_DROP_INS + 1) {
                let path = entry.map_err(|e| unreadable(&dir.join(&name), &e))?.path();
                if path.extension().is_some_and(|extension| extension == "conf") {
                    drop_ins.push(path);
                }
            }
        }
    }
    if drop_ins.len() > MAX_DROP_INS {
        return Err(UnitFilesError::TooMany);
    }
    // By file name, which is the order in which systemd applies them.
    drop_ins.sort_by(|one, other| (one.file_name(), one).cmp(&(other.file_name(), other)));
    drop_ins.insert(0, fragment);
    Ok(drop_ins)
}

/// The names under which the unit's file may be: its own, and that of its template.
fn names(unit: &str) -> Vec<String> {
    [Some(unit.to_owned()), template(unit)].into_iter().flatten().collect()
}

/// The template of an instance: `a@.service` of `a@b.service`.
fn template(unit: &str) -> Option<String> {
    let (stem, suffix) = unit.rsplit_once('.')?;
    let (template, _) = stem.split_once('@')?;
    Some(format!("{template}@.{suffix}"))
}

/// The directories of drop-ins: of the unit, of its template, of each prefix that ends with a dash, and of
/// the type.
fn drop_in_names(unit: &str) -> Vec<String> {
    let mut names: Vec<String> = names(unit).iter().map(|name| format!("{name}.d")).collect();
    if let Some((stem, suffix)) = unit.rsplit_once('.') {
        let stem = stem.split_once('@').map_or(stem, |(template, _)| template);
        let prefixes = stem.match_indices('-').map(|(at, _)| format!("{}.{suffix}.d", &stem[..=at]));
        names.extend(prefixes);
        names.push(format!("{suffix}.d"));
    }
    names.dedup();
    names
}

fn find(dirs: &[&Path], name: &str) -> Option<PathBuf> {
    dirs.iter().map(|dir| dir.join(name)).find(|path| path.symlink_metadata().is_ok())
}

fn read(path: &Path) -> Result<Vec<u8>, UnitFilesError> {
    let unreadable = |e: io::Error| unreadable(path, &e);
    // A link to /dev/null masks a file, and a link to another unit is an alias.
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Ok(Vec::new());
    }
    let mut content = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut content).map_err(unreadable)?;
    match content.len() as u64 > MAX_FILE_SIZE {
        true => Err(UnitFilesError::TooLarge(path.to_owned())),
        false => Ok(content),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> UnitFilesError {
    UnitFilesError::Unreadable { path: path.to_owned(), error: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn units_and_instances_of_templates_have_files() {
        let (etc, lib) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(etc.path().join("a.service"), "").unwrap();
        fs::write(lib.path().join("worker@.service"), "").unwrap();
        symlink("/dev/null", lib.path().join("masked.service")).unwrap();
        let units = UnitNames::read_from(&[etc.path(), lib.path(), Path::new("/nonexistent")]);
        for (unit, expected) in [
            ("a.service", Some(true)),
            ("worker@7.service", Some(true)),
            ("masked.service", Some(true)),
            ("b.service", Some(false)),
            ("other@7.service", Some(false)),
            ("session-1.scope", None),
        ] {
            assert_eq!(units.has(unit), expected, "{unit}");
        }
    }

    #[test]
    fn each_file_that_systemd_reads_changes_the_digest() {
        let dir = tempfile::tempdir().unwrap();
        let (etc, lib) = (dir.path().join("etc"), dir.path().join("lib"));
        let digest = |unit: &str| unit_digest_in(&[&etc, &lib], unit);
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let unit = "my-agent@1.service";
        assert_eq!(digest(unit), Err(UnitFilesError::Missing));
        write(lib.join("my-agent@.service"), "[Service]\n");
        let mut seen = vec![digest(unit).unwrap()];
        let mut expect_change = |what: &str| {
            let now = digest(unit).unwrap();
            assert!(!seen.contains(&now), "{what}");
            seen.push(now);
        };
        write(lib.join("my-agent@.service"), "[Service]\nUser=x\n");
        expect_change("the template");
        for (at, drop_in) in [
            "my-agent@1.service.d/a.conf",
            "my-agent@.service.d/a.conf",
            "my-.service.d/b.conf",
            "service.d/z.conf",
        ]
        .iter()
        .enumerate()
        {
            write(etc.join(drop_in), "");
            expect_change(drop_in);
            write(etc.join(drop_in), &at.to_string());
            expect_change(drop_in);
        }
        write(etc.join(unit), "[Service]\n");
        expect_change("a file of the instance");
        fs::remove_file(etc.join(unit)).unwrap();
        symlink("/dev/null", etc.join(unit)).unwrap();
        expect_change("a mask");
        let last = *seen.last().unwrap();
        write(etc.join("my-agent@2.service.d/a.conf"), "x");
        write(etc.join("my-agent@1.service.d/note.txt"), "x");
        write(etc.join("other.service"), "x");
        assert_eq!(digest(unit), Ok(last), "files of other units");
    }

    #[test]
    fn what_is_read_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::write(path.join("a.service"), vec![b'#'; 256 * 1024]).unwrap();
        assert!(unit_digest_in(&[path], "a.service").is_ok());
        fs::write(path.join("a.service"), vec![b'#'; 256 * 1024 + 1]).unwrap();
        assert!(matches!(unit_digest_in(&[path], "a.service"), Err(UnitFilesError::TooLarge(_))));
        fs::write(path.join("a.service"), "").unwrap();
        fs::create_dir(path.join("a.service.d")).unwrap();
        for n in 0..MAX_DROP_INS {
            fs::write(path.join(format!("a.service.d/{n}.conf")), "").unwrap();
        }
        assert!(unit_digest_in(&[path], "a.service").is_ok());
        fs::write(path.join("a.service.d/more.conf"), "").unwrap();
        assert_eq!(unit_digest_in(&[path], "a.service"), Err(UnitFilesError::TooMany));
    }
}
