//! Replaces agents' files by the narrowed ones.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::super::error::CliError;
use super::super::files::{TempFile, file_error, sync_parent};
use crate::clock::Timestamp;
use crate::config::escape_unprintable;
use crate::plural::counted;
use crate::review::{AppliedFile, NarrowedFile};

/// What was done.
pub(super) struct Applied {
    /// The files that are narrowed.
    pub done: Vec<AppliedFile>,
    /// Why the others are not.
    pub failed: Option<CliError>,
}

/// Replaces each file, and keeps its text in a file beside it that the daemon does not read. Nothing is replaced unless
/// all files are as they were reviewed.
pub(super) fn apply(files: &[NarrowedFile], now: Timestamp) -> Applied {
    let mut done: Vec<AppliedFile> = Vec::new();
    let fault = |file: &NarrowedFile, error: &io::Error, done: usize| {
        let error = file_error(&file.path, error);
        Some(CliError::File(format!(
            "{error}; {done} of {} are narrowed",
            counted(files.len() as u64, "file")
        )))
    };
    for file in files {
        if let Err(e) = check(file) {
            return Applied { done, failed: fault(file, &e, 0) };
        }
    }
    for file in files {
        match replace(file, now) {
            Ok(earlier) => {
                done.push(AppliedFile { agent: file.agent.clone(), file: file.path.clone(), earlier })
            }
            Err(e) => {
                let failed = fault(file, &e, done.len());
                return Applied { done, failed };
            }
        }
    }
    Applied { done, failed: None }
}

/// What was done and what to do, a sentence for each line. `needs_two` says whether wider rights need a second
/// administrator.
pub(super) fn sentences(done: &[AppliedFile], needs_two: bool) -> Vec<String> {
    if done.is_empty() {
        return vec!["no file was narrowed".to_owned()];
    }
    let narrowed = |one: &AppliedFile| {
        let (file, earlier) = (one.file.to_string_lossy(), one.earlier.to_string_lossy());
        format!(
            "narrowed {}; its earlier text is in {}, until you remove that",
            escape_unprintable(&file),
            escape_unprintable(&earlier)
        )
    };
    let mut said: Vec<String> = done.iter().map(narrowed).collect();
    said.push(
        "nothing is in effect yet; check the files with \"hostbadge agent check\", then run: hostbadge agent reload"
            .to_owned(),
    );
    if needs_two {
        said.push(
            "the configuration has [change] require = \"two\": if anything else has changed that makes a right wider, \
             also a policy, the reload waits for a second administrator"
                .to_owned(),
        );
    }
    said
}

/// Whether a file is as it was reviewed, and one that can be replaced.
fn check(file: &NarrowedFile) -> io::Result<Metadata> {
    let metadata = fs::symlink_metadata(&file.path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file; narrow the file that it names"));
    }
    has_reviewed_text(&file.path, file)?;
    Ok(metadata)
}

fn has_reviewed_text(path: &Path, file: &NarrowedFile) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_file() && fs::read(path)? == file.before.as_bytes() {
        true => Ok(()),
        false => Err(io::Error::other("it has changed since it was reviewed; review again")),
    }
}

/// Returns the path of the earlier text. The file and the narrowed one are exchanged and what came out is compared, so
/// that what another process writes at the same time is not lost.
fn replace(file: &NarrowedFile, now: Timestamp) -> io::Result<PathBuf> {
    let before = check(file)?;
    let kept = path_of_earlier(&file.path, now);
    if fs::symlink_metadata(&kept).is_ok() {
        return Err(io::Error::other(format!("{} exists; review again", kept.display())));
    }
    let narrowed = copy_like(&file.path, &file.after, &before)?;
    match narrowed.exchange(&file.path) {
        Ok(()) => {}
        Err(e) if cannot_exchange(&e) => {
            return replace_without_exchange(file, narrowed, &kept, &before);
        }
        Err(e) => return Err(e),
    }
    // The temporary file is now the one that was there.
    let moved = has_reviewed_text(narrowed.path(), file).and_then(|()| move_new(narrowed.path(), &kept));
    match moved {
        Ok(()) => {
            narrowed.keep();
            sync_parent(&file.path)?;
            Ok(kept)
        }
        Err(e) => Err(put_back(file, narrowed, e)),
    }
}

/// Exchanges the files again. Returns the error, with where the text is that another process has put in place since.
fn put_back(file: &NarrowedFile, exchanged: TempFile, error: io::Error) -> io::Error {
    let is_back = exchanged.exchange(&file.path).is_ok()
        && fs::read(exchanged.path()).is_ok_and(|text| text == file.after.as_bytes());
    if is_back {
        return error;
    }
    let left = exchanged.keep();
    io::Error::other(format!("{error}; a text of the file is in {}, which is left there", left.display()))
}

/// For file systems that cannot exchange files.
fn replace_without_exchange(
    file: &NarrowedFile,
    narrowed: TempFile,
    kept: &Path,
    before: &Metadata,
) -> io::Result<PathBuf> {
    let earlier = copy_like(kept, &file.before, before)?;
    move_new(earlier.path(), kept)?;
    earlier.keep();
    if let Err(e) = has_reviewed_text(&file.path, file) {
        let _ = fs::remove_file(kept);
        return Err(e);
    }
    narrowed.rename(&file.path)?;
    sync_parent(&file.path)?;
    Ok(kept.to_owned())
}

/// Renames a file; fails if a file has the new name, as far as the file system can tell at once.
fn move_new(from: &Path, to: &Path) -> io::Result<()> {
    let moved =
        renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE).map_err(io::Error::from);
    match moved {
        Err(e) if cannot_exchange(&e) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        },
        moved => moved,
    }
}

/// Whether an error says that renameat2 or its flag does not exist here.
fn cannot_exchange(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP))
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
        let applied = apply(std::slice::from_ref(&file), NOW);
        assert!(applied.failed.is_none(), "{:?}", applied.failed);
        let said = sentences(&applied.done, false);
        assert!(said[0].contains("a.toml.before-20330518T033320Z, until you remove"), "{said:?}");
        assert!(said[1].ends_with("run: hostbadge agent reload") && said.len() == 2, "{said:?}");
        assert!(sentences(&applied.done, true)[2].contains("second administrator"));
        let kept = dir.path().join("a.toml.before-20330518T033320Z");
        assert_eq!(
            (fs::read_to_string(&file.path).unwrap(), fs::read_to_string(&kept).unwrap()),
            ("after".into(), "before".into())
        );
        for path in [&file.path, &kept] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o640);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
        assert_eq!(sentences(&apply(&[], NOW).done, true), ["no file was narrowed"]);
    }

    #[test]
    fn a_file_that_changed_since_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = narrowed(dir.path());
        fs::write(&file.path, "edited").unwrap();
        let error = || apply(std::slice::from_ref(&file), NOW).failed.unwrap().to_string();
        assert!(error().contains("has changed since it was reviewed"), "{}", error());
        fs::rename(&file.path, dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", &file.path).unwrap();
        assert!(error().contains("not a regular file"), "{}", error());
        assert_eq!(fs::read_to_string(dir.path().join("real")).unwrap(), "edited");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn nothing_is_replaced_unless_all_files_are_as_they_were_reviewed() {
        let dir = tempfile::tempdir().unwrap();
        let first = narrowed(dir.path());
        let second = NarrowedFile { path: dir.path().join("b.toml"), ..first.clone() };
        fs::write(&first.path, "before").unwrap();
        fs::write(&second.path, "edited").unwrap();
        let applied = apply(&[first.clone(), second.clone()], NOW);
        let error = applied.failed.unwrap().to_string();
        assert!(error.contains("b.toml: ") && error.ends_with("; 0 of 2 files are narrowed"), "{error}");
        assert!(applied.done.is_empty() && fs::read_to_string(&first.path).unwrap() == "before");
        // The second one cannot be replaced although it is as it was: what was done is said.
        fs::write(&second.path, "before").unwrap();
        fs::write(path_of_earlier(&second.path, NOW), "of an earlier review").unwrap();
        let applied = apply(&[first.clone(), second.clone()], NOW);
        let error = applied.failed.unwrap().to_string();
        assert!(error.ends_with("; 1 of 2 files are narrowed"), "{error}");
        assert_eq!(applied.done.len(), 1);
        assert_eq!(applied.done[0].file, first.path);
        assert_eq!(fs::read_to_string(&second.path).unwrap(), "before");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "no temporary file stays");
    }

    #[test]
    fn a_text_that_came_out_and_is_another_one_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = narrowed(dir.path());
        fs::write(&file.path, "before").unwrap();
        let exchanged = copy_like(&file.path, &file.after, &fs::metadata(&file.path).unwrap()).unwrap();
        // As if an editor had written between the check and the exchange.
        fs::write(&file.path, "edited").unwrap();
        exchanged.exchange(&file.path).unwrap();
        let error = has_reviewed_text(exchanged.path(), &file).unwrap_err();
        assert!(put_back(&file, exchanged, error).to_string().contains("has changed since"));
        assert_eq!(fs::read_to_string(&file.path).unwrap(), "edited");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // And as if it had written again before the files were exchanged back.
        let exchanged = copy_like(&file.path, &file.after, &fs::metadata(&file.path).unwrap()).unwrap();
        exchanged.exchange(&file.path).unwrap();
        fs::write(&file.path, "edited again").unwrap();
        let error = put_back(&file, exchanged, io::Error::other("x")).to_string();
        assert!(error.contains("which is left there"), "{error}");
        let texts: std::collections::BTreeSet<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect();
        assert_eq!(texts, ["edited".to_owned(), "edited again".to_owned()].into());
    }

    #[test]
    fn a_file_system_that_cannot_exchange_files_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let file = narrowed(dir.path());
        fs::write(&file.path, "before").unwrap();
        let before = check(&file).unwrap();
        let kept = path_of_earlier(&file.path, NOW);
        let replaced = || {
            let narrowed = copy_like(&file.path, &file.after, &before).unwrap();
            replace_without_exchange(&file, narrowed, &kept, &before)
        };
        assert_eq!(replaced().unwrap(), kept);
        assert_eq!(fs::read_to_string(&file.path).unwrap(), "after");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "before");
        assert!(replaced().is_err(), "the name is taken");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
