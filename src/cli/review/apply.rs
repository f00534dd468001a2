//! Replaces agents' files by the narrowed ones.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::super::error::CliError;
use super::super::files::{TempFile, file_error, sync_parent};
use crate::clock::Timestamp;
use crate::config::escape_unprintable;
use crate::review::NarrowedFile;

/// Replaces each file, and keeps its text in a file beside it that the daemon does not read. Returns what was done
/// and what to do, a sentence for each line.
///
/// # Errors
/// A file cannot be replaced, or has changed since it was reviewed. Those before it are replaced.
pub(super) fn apply(files: &[NarrowedFile], now: Timestamp) -> Result<Vec<String>, CliError> {
    let mut said = Vec::new();
    for file in files {
        let kept = replace(file, now).map_err(|e| {
            let done = match said.len() {
                0 => String::new(),
                n => format!("; {n} of {} files are narrowed", files.len()),
            };
            CliError::File(format!("{}{done}", file_error(&file.path, &e)))
        })?;
        let (path, kept) = (file.path.to_string_lossy(), kept.to_string_lossy());
        said.push(format!(
            "narrowed {}; its earlier text is in {}",
            escape_unprintable(&path),
            escape_unprintable(&kept)
        ));
    }
    match said.is_empty() {
        true => said.push("no file was narrowed".to_owned()),
        false => said.push(
            "nothing is in effect yet; check the files with \"hostbadge agent check\", then run: hostbadge agent reload"
                .to_owned(),
        ),
    }
    Ok(said)
}

/// Returns the path of the earlier text.
fn replace(file: &NarrowedFile, now: Timestamp) -> io::Result<PathBuf> {
    let before = fs::symlink_metadata(&file.path)?;
    if !before.is_file() {
        return Err(io::Error::other("it is not a regular file; narrow the file that it names"));
    }
    let kept = path_of_earlier(&file.path, now);
    let earlier = copy_like(&kept, &file.before, &before)?;
    let narrowed = copy_like(&file.path, &file.after, &before)?;
    if fs::read(&file.path)? != file.before.as_bytes() {
        return Err(io::Error::other("it has changed since it was reviewed; review again"));
    }
    earlier.rename_new(&kept)?;
    narrowed.rename(&file.path)?;
    sync_parent(&file.path)?;
    Ok(kept)
}

/// `researcher.toml.before-20261127T105906Z`. The daemon reads files that end in `.toml`.
fn path_of_earlier(path: &Path, now: Timestamp) -> PathBuf {
    let time: String = now.to_rfc3339_seconds().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".before-{time}"));
    path.with_file_name(name)
}

/// A new file beside `path`, with the owner and the permissions of another one.
fn copy_like(path: &Path, text: &str, other: &Metadata) -> io::Result<TempFile> {
    let file = TempFile::create(path, text.as_bytes(), other.permissions().mode() & 0o777)?;
    let opened: &File = file.file();
    let own = opened.metadata()?;
    if (own.uid(), own.gid()) != (other.uid(), other.gid()) {
        fchown(opened, Some(other.uid()), Some(other.gid()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(2_000_000_000);

    fn narrowed(dir: &Path) -> NarrowedFile {
        NarrowedFile {
            agent: "a".to_owned(),
            path: dir.join("a.toml"),
            before: "before".to_owned(),
            after: "after".to_owned(),
        }
    }

    #[test]
    fn the_file_is_replaced_and_its_earlier_text_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = narrowed(dir.path());
        fs::write(&file.path, "before").unwrap();
        fs::set_permissions(&file.path, fs::Permissions::from_mode(0o640)).unwrap();
        let said = apply(std::slice::from_ref(&file), NOW).unwrap();
        assert!(said[0].ends_with("a.toml.before-20330518T033320Z"), "{said:?}");
        assert!(said[1].ends_with("run: hostbadge agent reload"), "{said:?}");
        let kept = dir.path().join("a.toml.before-20330518T033320Z");
        assert_eq!(
            (fs::read_to_string(&file.path).unwrap(), fs::read_to_string(&kept).unwrap()),
            ("after".into(), "before".into())
        );
        for path in [&file.path, &kept] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o640);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
        assert_eq!(apply(&[], NOW).unwrap(), ["no file was narrowed"]);
    }

    #[test]
    fn a_file_that_changed_since_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = narrowed(dir.path());
        fs::write(&file.path, "edited").unwrap();
        let error = apply(std::slice::from_ref(&file), NOW).unwrap_err().to_string();
        assert!(error.contains("has changed since it was reviewed"), "{error}");
        fs::rename(&file.path, dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", &file.path).unwrap();
        let error = apply(std::slice::from_ref(&file), NOW).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("real")).unwrap(), "edited");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
